-- What only a city has: findings that need several kinds of readings, or several devices, at once.
--
--   rain_speed           how much slower a district drives in rain than dry, at the same hour of workdays or weekends
--   demand_temperature   how much more a district draws per degree that it is colder, its daily rhythm taken out
--   demand_supply        of each cell, what is drawn less what is fed in, as a share of what its connections carry
--   queue_upstream       a queue that reaches one detector after another against the traffic, and how fast
-- Each has a reason, and the windows or events that it came from. They are computed again when one of those changes.

create table if not exists city.insight (
  id text primary key,                       -- insight|subject|from_at
  insight text not null,
  subject text not null,                     -- of a district, a cell, or the detector where a queue began
  from_at timestamptz not null,
  to_at timestamptz not null,
  value double precision,
  unit text not null,
  reason text not null,
  details jsonb not null,
  withdrawn boolean not null default false,
  revision integer not null default 1
);
create index if not exists insight_time on city.insight (insight, from_at);

insert into city.threshold as t (name, value, unit, meaning) values
  ('rain.wet', 0.2, 'mm', 'Rain of a quarter of an hour in which a district is called wet.'),
  ('rain.dry', 0.05, 'mm', 'And up to which it is dry.'),
  ('rain.windows_least', 4, 'windows', 'So many dry quarters of an hour are needed to compare with.'),
  ('demand.days', 14, 'days', 'Demand and temperature of so many days before are compared.'),
  ('demand.days_least', 3, 'days', 'And of so many at least.'),
  ('queue.hop_max', 1200, 's', 'A queue that needs longer from a detector to the next is another queue.'),
  ('queue.detectors_least', 3, 'detectors', 'It must reach so many.')
on conflict (name) do update set default_value = excluded.default_value, unit = excluded.unit, meaning = excluded.meaning
  where (t.default_value, t.unit, t.meaning) is distinct from (excluded.default_value, excluded.unit, excluded.meaning);

-- New findings in place of those of the same subjects and times; `work_insight` has them, `work_insight_gone` what they replace.
create or replace function city.merge_insights() returns void
language plpgsql as $$
begin
  insert into city.insight as i (id, insight, subject, from_at, to_at, value, unit, reason, details)
  select insight || '|' || subject || '|' || to_char(from_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), insight, subject, from_at, to_at, value, unit, reason, details
  from work_insight
  on conflict (id) do update
    set to_at = excluded.to_at, value = excluded.value, reason = excluded.reason, details = excluded.details, withdrawn = false, revision = i.revision + 1
    where (i.to_at, i.value, i.reason, i.details, i.withdrawn) is distinct from (excluded.to_at, excluded.value, excluded.reason, excluded.details, false);
  update city.insight i set withdrawn = true, revision = i.revision + 1
  from (select distinct * from work_insight_gone) g
  where i.insight = g.insight and i.subject = g.subject and i.from_at = g.from_at and not i.withdrawn
    and not exists (select from work_insight w where (w.insight, w.subject, w.from_at) = (i.insight, i.subject, i.from_at));
  truncate work_insight, work_insight_gone;
end $$;

-- A quarter of an hour of rain against the dry ones of the same hour of the days before, by their median.
create or replace function city.find_rain_speed() returns void
language plpgsql as $$
declare
  zone text := (select value from city.setting where name = 'time_zone');
  wet double precision := city.threshold_of('rain.wet');
  dry double precision := city.threshold_of('rain.dry');
  windows_least integer := city.threshold_of('rain.windows_least');
  days_before integer := city.threshold_of('profile.days');
begin
  insert into work_insight_gone
  select distinct 'rain_speed', id, window_start from taken_changed where width = '15m' and scope = 'district' and kind in ('traffic', 'weather');

  insert into work_insight
  with wet_windows as (
    select g.subject as district, g.from_at as window_start, r.value as rain, s.value as speed, s.readings
    from (select distinct subject, from_at from work_insight_gone where insight = 'rain_speed') g
    join city.aggregate_15m r on (r.window_start, r.scope, r.kind, r.id, r.measure) = (g.from_at, 'district', 'weather', g.subject, 'rain_mm')
    join city.aggregate_15m s on (s.window_start, s.scope, s.kind, s.id, s.measure) = (g.from_at, 'district', 'traffic', g.subject, 'speed_kmh')
    where r.value >= wet and s.value is not null
  ), compared as (
    select w.*, d.dry_speed, d.windows
    from wet_windows w cross join lateral (
      select city.median(array_agg(s.value)) as dry_speed, count(*) as windows
      from generate_series(1, days_before) back
      cross join unnest(array[0, 15, 30, 45]) minutes
      cross join lateral (select date_trunc('hour', w.window_start at time zone zone) - make_interval(days => back) + make_interval(mins => minutes)) l(local)
      join city.aggregate_15m s on s.window_start = l.local at time zone zone and s.scope = 'district' and s.kind = 'traffic' and s.id = w.district and s.measure = 'speed_kmh'
      join city.aggregate_15m r on r.window_start = s.window_start and r.scope = 'district' and r.kind = 'weather' and r.id = w.district and r.measure = 'rain_mm'
      where r.value <= dry and s.value is not null
        and (extract(isodow from l.local) >= 6) = (extract(isodow from w.window_start at time zone zone) >= 6)) d
    where d.windows >= windows_least
  )
  select 'rain_speed', district, window_start, window_start + interval '15 minutes', 100 * (dry_speed - speed) / dry_speed, '%',
    format('%s mm of rain in 15 minutes: %s km/h instead of %s, the median of %s dry quarters of an hour at this hour', round(rain::numeric, 2),
      round(speed::numeric, 1), round(dry_speed::numeric, 1), windows),
    jsonb_build_object('rain_mm', rain, 'speed_kmh', speed, 'dry_speed_kmh', dry_speed, 'dry_windows', windows, 'readings', readings)
  from compared;
end $$;

-- Of each cell. Connections are not all used at once, so that a cell can be short long before this is 1.
create or replace function city.find_demand_supply() returns void
language plpgsql as $$
begin
  insert into work_insight_gone
  select distinct 'demand_supply', id, window_start from taken_changed where width = '15m' and scope = 'cell' and kind = 'energy';

  insert into work_insight
  select 'demand_supply', g.subject, g.from_at, g.from_at + interval '15 minutes', (d.value - s.value) / c.capacity_w, 'share of the connections',
    format('%s W drawn, %s W fed in by %s meters, of connections of %s W', round(d.value), round(s.value), d.devices, c.capacity_w),
    jsonb_build_object('demand_w', d.value, 'supply_w', s.value, 'capacity_w', c.capacity_w, 'meters', d.devices, 'readings', d.readings)
  from (select distinct subject, from_at from work_insight_gone where insight = 'demand_supply') g
  join city.aggregate_15m d on (d.window_start, d.scope, d.kind, d.id, d.measure) = (g.from_at, 'cell', 'energy', g.subject, 'demand_w')
  join city.aggregate_15m s on (s.window_start, s.scope, s.kind, s.id, s.measure) = (g.from_at, 'cell', 'energy', g.subject, 'supply_w')
  join (select cell, sum(capacity_w) as capacity_w from city.device where kind = 'energy' and capacity_w > 0 group by cell) c on c.cell = g.subject
  where d.value is not null and s.value is not null;
end $$;

-- Once a day, of the days before, when the readings of the last of them can no longer change: two hours after midnight.
create or replace function city.find_demand_temperature() returns void
language plpgsql as $$
declare
  zone text := (select value from city.setting where name = 'time_zone');
  days_before integer := city.threshold_of('demand.days');
  days_least integer := city.threshold_of('demand.days_least');
  until timestamptz := (select case when count(*) = 2 then min(computed_until) else '-infinity' end from city.computed where kind in ('energy', 'weather'));
  last_day date := (select max(from_at at time zone zone)::date from city.insight where insight = 'demand_temperature_day');
  first_day date := coalesce(last_day + 1, (select min(window_start at time zone zone)::date from city.aggregate_15m
    where scope = 'district' and kind = 'energy' and measure = 'demand_w') + days_least);
begin
  if first_day is null or until = '-infinity' then
    return;
  end if;
  insert into work_insight
  with days as (
    select day::date from generate_series(first_day::timestamp, (until - interval '2 hours') at time zone zone, interval '1 day') day
  ), windows as (
    select d.day, e.id as district, e.window_start, e.value as demand, t.value as temperature, extract(hour from e.window_start at time zone zone) as hour
    from days d
    join city.aggregate_15m e on e.window_start >= (d.day - days_before)::timestamp at time zone zone and e.window_start < d.day::timestamp at time zone zone
      and e.scope = 'district' and e.kind = 'energy' and e.measure = 'demand_w' and e.value is not null
    join city.aggregate_15m t on t.window_start = e.window_start and t.scope = 'district' and t.kind = 'weather' and t.id = e.id and t.measure = 'temperature_c'
      and t.value is not null
  ), centred as (
    select day, district, window_start, demand - avg(demand) over rhythm as demand, temperature - avg(temperature) over rhythm as temperature
    from windows
    -- In an order, so that the last digit of a mean does not depend on a plan.
    window rhythm as (partition by day, district, hour order by window_start rows between unbounded preceding and unbounded following)
  ), fitted as (
    select day, district, regr_slope(demand, temperature order by window_start) as slope, regr_r2(demand, temperature order by window_start) as r2, count(*) as windows,
      min(window_start) as from_at
    from centred group by day, district
    having count(distinct (window_start at time zone zone)::date) >= days_least
  )
  select 'demand_temperature', district, day::timestamp at time zone zone, (day + 1)::timestamp at time zone zone, -slope, 'W per degC colder',
    format('%s W more for each degree colder; temperature explains %s %% of what the hour of the day does not, in %s quarters of an hour since %s',
      round((-slope)::numeric, 1), round(100 * r2::numeric), windows, to_char(from_at at time zone zone, 'YYYY-MM-DD')),
    jsonb_build_object('slope_w_per_degc', slope, 'r2', r2, 'windows', windows)
  from fitted where slope is not null
  union all
  select 'demand_temperature_day', '', day::timestamp at time zone zone, (day + 1)::timestamp at time zone zone, null, '', 'Demand and temperature were compared.', '{}' from days;
end $$;

-- How far two detectors are apart: along their segment, else as the crow flies.
create or replace function city.metres_between(one city.device, other city.device) returns double precision
language sql immutable as $$
  select case when one.segment = other.segment and one.position_m is not null and other.position_m is not null then abs(one.position_m - other.position_m)
    else 2 * 6371000 * asin(least(1, sqrt(sind((other.latitude - one.latitude) / 2) ^ 2
      + cosd(one.latitude) * cosd(other.latitude) * sind((other.longitude - one.longitude) / 2) ^ 2))) end
$$;

-- From the moments at which detectors became slow (city.alert_event, see 50-alerts.sql): those of neighbours, each upstream of the
-- one before and later by a queue's time, are one queue. All of the queues that a changed moment may belong to are found again.
create or replace function city.find_queues() returns void
language plpgsql as $$
declare
  hop_max interval := city.seconds_of('queue.hop_max');
  detectors_least integer := city.threshold_of('queue.detectors_least');
  from_time timestamptz := (select min(window_start) from work_event_changed where alert = 'slow_detector') - 20 * hop_max;
  to_time timestamptz := (select max(window_start) from work_event_changed where alert = 'slow_detector') + 20 * hop_max;
begin
  if from_time is null then
    return;
  end if;
  insert into work_insight_gone
  select insight, subject, from_at from city.insight where insight = 'queue_upstream' and from_at between from_time and to_time;

  insert into work_insight
  with recursive slow as (
    select d.device, e.window_start as since, d.upstream, d as at
    from city.alert_event e join city.device d on d.device = e.id
    where e.alert = 'slow_detector' and e.is_on and e.window_start between from_time - 20 * hop_max and to_time + 20 * hop_max
  ), hop as (
    select down.device, down.since, up.device as next, up.since as next_since, city.metres_between(down.at, up.at) as metres
    from slow down join slow up on up.device = any(down.upstream) and up.since > down.since and up.since <= down.since + hop_max
  ), queue as (
    select s.device as origin, s.since as began, s.device as tail, s.since as tail_since, array[s.device] as detectors, array[s.since] as times, 0::double precision as metres
    from slow s where not exists (select from hop h where h.next = s.device and h.next_since = s.since)
    union all
    select q.origin, q.began, h.next, h.next_since, q.detectors || h.next, q.times || h.next_since, q.metres + h.metres
    from queue q join hop h on h.device = q.tail and h.since = q.tail_since
    where cardinality(q.detectors) < 20
  ), longest as (
    select distinct on (origin, began) * from queue order by origin, began, cardinality(detectors) desc, metres desc, detectors
  )
  select 'queue_upstream', origin, began, tail_since, metres / nullif(extract(epoch from tail_since - began), 0) * 3.6, 'km/h',
    format('the queue at %s reached %s, %s m upstream over %s detectors, within %s s', origin, tail, round(metres), cardinality(detectors),
      extract(epoch from tail_since - began)::integer),
    jsonb_build_object('detectors', detectors, 'slow_since', times, 'length_m', metres)
  from longest where cardinality(detectors) >= detectors_least and began between from_time and to_time;
end $$;
