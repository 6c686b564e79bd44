-- Outages: many devices that are silent at once, as one alert for one cause.
--
--   cabinet_dead     all devices of a cabinet are silent
--   district_silent  most detectors, stations or meters of a district are
--   city_silent      most of a kind are, of districts in general: a gateway, a network or a broker rather than devices
-- A cabinet that dies with its district, and a district that is silent with the city, are part of that alert (`caused_by`).
-- Only what changed is judged: groups with a silence that is new, longer or withdrawn, from the moment at which it began.

insert into city.threshold as t (name, value, unit, meaning) values
  ('cabinet_dead.devices_least', 2, 'devices', 'A cabinet of one device is a device.'),
  ('cabinet_dead.hold', 180, 's', 'It must last so long: the devices of a dead district fall silent one after another.'),
  ('cabinet_dead.on', 1, 'share', 'So many of its devices are silent.'),
  ('cabinet_dead.off', 0.5, 'share', 'Until no more than this share of its devices is silent.'),
  ('district_silent.devices_least', 3, 'devices', 'Of a kind, in a district.'),
  ('district_silent.hold', 120, 's', 'It must last so long: the districts of a dead gateway fall silent one after another.'),
  ('district_silent.on', 0.8, 'share', 'So many of them are silent.'),
  ('district_silent.off', 0.5, 'share', 'Until no more than this share is.'),
  ('district_silent.lead', 900, 's', 'A cabinet in the district that died so long before it belongs to it.'),
  ('city_silent.districts_least', 3, 'districts', 'A city of fewer districts has alerts on districts only.'),
  ('city_silent.devices_least', 10, 'devices', 'Of a kind, in the city.'),
  ('city_silent.hold', 0, 's', 'It must last so long.'),
  ('city_silent.on', 0.8, 'share', 'So many of them are silent.'),
  ('city_silent.off', 0.5, 'share', 'Until no more than this share is.'),
  ('city_silent.lead', 1800, 's', 'A district or cabinet that fell silent so long before it belongs to it.')
on conflict (name) do update set default_value = excluded.default_value, unit = excluded.unit, meaning = excluded.meaning
  where (t.default_value, t.unit, t.meaning) is distinct from (excluded.default_value, excluded.unit, excluded.meaning);

-- The groups of the devices whose silences changed, or to which devices came and went, and from when on each is judged: `base`. Then it was no outage, as the alerts
-- say; of silences that last beyond it all is looked at.
create or replace function city.find_groups() returns void
language plpgsql as $$
begin
  insert into work_group
  with touched as (
    select d.cabinet, d.district, min(c.window_start) as from_at
    from taken_changed c join city.device d on d.device = c.id where c.width = 'silent' and c.scope = 'device' group by 1, 2
    union all
    select case scope when 'cabinet' then id end, case scope when 'district' then id end, window_start
    from taken_changed where width = 'silent' and scope <> 'device'
  ), groups as (
    select 'cabinet_dead' as alert, 'cabinet' as scope, cabinet as id, min(from_at) as from_at from touched where cabinet is not null group by cabinet
    union all select 'district_silent', 'district', district, min(from_at) from touched where district is not null group by district
    union all select 'city_silent', 'city', 'city', min(from_at) from touched having count(*) > 0
  )
  select g.alert, g.scope, g.id, h.hold, least(g.from_at - h.hold, (select min(a.raised_at) - h.hold from city.alert a
    where (a.alert, a.subject) = (g.alert, g.id) and not a.withdrawn and a.raised_at - h.hold <= g.from_at and coalesce(a.cleared_at, 'infinity') >= g.from_at - h.hold))
  from groups g cross join lateral (select city.seconds_of(g.alert || '.hold') as hold) h;
end $$;

-- When so many devices of a group, of one kind in a district or in the city, are silent at once. A silence counts from when it
-- was found: three intervals after the last reading.
create or replace function city.find_outage_spans() returns void
language plpgsql as $$
declare
  -- Half an interval is what devices are early or late by.
  intervals double precision := city.threshold_of('silent.intervals') + 0.5;
  least_s double precision := city.threshold_of('silent.least');
begin
  insert into work_outage
  with known as (
    -- Of others nobody can say that they are silent.
    select * from city.device where interval_s is not null and kind in (select m.kind from city.measure m)
  ), members as (
    select g.alert, g.id, '' as part, d.* from work_group g join known d on g.scope = 'cabinet' and d.cabinet = g.id
    union all
    select g.alert, g.id, d.kind, d.* from work_group g join known d on g.scope = 'district' and d.district = g.id
    union all
    select g.alert, g.id, d.kind, d.* from work_group g join known d on g.scope = 'city'
  ), groups as (
    select alert, id, part, min(district) as district, count(*) as devices, count(*) * city.threshold_of(alert || '.on') as need,
      count(*) * city.threshold_of(alert || '.off') as rest
    from members group by alert, id, part
    having count(*) >= city.threshold_of(alert || '.devices_least')
      and (alert <> 'city_silent' or count(distinct district) >= city.threshold_of('city_silent.districts_least'))
  ), steps as (
    select m.alert, m.id, m.part, at, sum(step) as step
    from city.anomaly a join members m on m.device = a.device and m.kind = a.kind join work_group g on g.alert = m.alert and g.id = m.id
    cross join lateral (values (a.observed_from + make_interval(secs => greatest(intervals * m.interval_s, least_s)), 1), (a.observed_to, -1)) s(at, step)
    where a.anomaly = 'silent' and not a.withdrawn and at is not null
      and (a.observed_to is null or a.observed_to > g.base) and (a.observed_to is null or a.observed_to > (select min(base) from work_group))
    group by m.alert, m.id, m.part, at
  ), counted as (
    select *, sum(step) over (partition by alert, id, part order by at) as silent from steps
  ), crossed as (
    select c.*, g.district, g.devices, case when silent >= need then true when silent <= rest then false end as is_on from counted c join groups g using (alert, id, part)
  ), decided as (
    select *, lag(is_on) over (partition by alert, id, part order by at) as before from crossed where is_on is not null
  ), turned as (
    select *, coalesce(lead(at) over (partition by alert, id, part order by at), 'infinity') as until from decided where is_on is distinct from before
  ), merged as (
    -- Detectors, stations and meters of one place that are silent at once are one outage.
    select *, count(*) filter (where begins) over (partition by alert, id order by at, part) as island
    from (select *, (at > max(until) over (partition by alert, id order by at, part rows between unbounded preceding and 1 preceding)) is not false as begins
      from turned where is_on) s
  )
  select alert, g.scope, id, g.hold, case when g.scope <> 'city' then min(district) end, min(at), nullif(max(until), 'infinity'), sum(devices), string_agg(distinct nullif(part, ''), ', ' order by nullif(part, ''))
  from merged join work_group g using (alert, id) group by alert, g.scope, id, g.hold, island;
end $$;

-- `now_at`: up to where the city is computed.
create or replace function city.find_outages(now_at timestamptz) returns void
language plpgsql as $$
begin
  perform city.find_groups();
  perform city.find_outage_spans();

  -- What does not last long enough yet is looked at again.
  insert into city.changed
  select d.kind, 'silent', 'device', d.device, o.from_at
  from work_outage o cross join lateral (
    select device, kind from city.device where case o.scope when 'cabinet' then cabinet = o.id when 'district' then district = o.id else true end
      and kind in (select m.kind from city.measure m) order by device limit 1) d
  where o.to_at is null and now_at <= o.from_at + o.hold and o.hold > interval '0' on conflict do nothing;
  delete from work_outage where coalesce(to_at, now_at) <= from_at + hold and hold > interval '0';

  -- Alerts on other groups may be part of these.
  insert into work_alert
  with lasting as (
    select alert, scope, id, district, from_at, from_at + hold as raised_at, to_at, devices::double precision as value,
      case alert
        when 'cabinet_dead' then format('cabinet %s: all its %s devices are silent', id, devices)
        when 'district_silent' then format('district %s: its %s devices of %s are silent, or nearly all', id, devices, kinds)
        else format('the city: its %s devices of %s are silent, or nearly all: look at gateways and networks first', devices, kinds)
      end as reason,
      jsonb_build_object('devices', (select jsonb_agg(device order by device) from (select device from city.device d
        where case o.scope when 'cabinet' then d.cabinet = o.id when 'district' then d.district = o.id else true end order by device limit 50) of_it)) as readings
    from work_outage o
  ), others as (
    select a.alert, a.scope, a.subject as id, a.district, a.raised_at - city.seconds_of(a.alert || '.hold') as from_at, a.raised_at, a.cleared_at as to_at, a.value, a.reason, a.readings
    from city.alert a left join work_group g on (g.alert, g.id) = (a.alert, a.subject)
    where a.alert in ('cabinet_dead', 'district_silent', 'city_silent') and not a.withdrawn and (g.id is null or a.raised_at - g.hold < g.base)
      and (a.cleared_at is null or a.cleared_at >= (select min(base) from work_group) - interval '1 hour')
  ), causes as (
    select alert, id, from_at, raised_at, to_at from lasting where alert <> 'cabinet_dead'
    union all
    select a.alert, a.subject, a.raised_at - city.seconds_of(a.alert || '.hold'), a.raised_at, a.cleared_at
    from city.alert a left join work_group g on (g.alert, g.id) = (a.alert, a.subject)
    where a.alert in ('district_silent', 'city_silent') and not a.withdrawn and (g.id is null or a.raised_at - g.hold < g.base)
  )
  select l.alert, l.scope, l.id, l.district, 'critical', l.raised_at, l.to_at, l.value, l.reason, l.readings,
    (select p.alert || '|' || p.id || '|' || to_char(p.raised_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') from causes p
      where (p.alert = 'city_silent' and l.alert <> 'city_silent' or p.alert = 'district_silent' and l.alert = 'cabinet_dead' and p.id = l.district)
        and l.from_at >= p.from_at - city.seconds_of(p.alert || '.lead') and l.from_at < coalesce(p.to_at, 'infinity')
      order by p.alert = 'district_silent' desc, p.raised_at limit 1)
  from (select * from lasting union all select * from others) l;

  insert into work_alert_gone
  select a.id from city.alert a join work_group g on (g.alert, g.id) = (a.alert, a.subject) where a.raised_at - g.hold >= g.base;
end $$;
