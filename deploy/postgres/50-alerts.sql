-- Alerts on the city: what somebody should do something about, once for each cause.
--
--   congestion       a segment is slow            storm, heavy_rain   a district, by its stations
--   feeder_overload  a feeder, by its meters      and outages, in 55-outages.sql
-- A value over `on` in so many windows in a row raises an alert; only one beyond `off` in so many windows clears it, so that it does
-- not come and go at the border. `critical` makes it severe. After five hours without a window nothing is known: an alert is over
-- then. What is raised when follows from the windows, not from when one looks.

insert into city.threshold as t (name, value, unit, meaning) values
  ('congestion.on', 30, 'km/h', 'A segment slower than this is congested.'),
  ('congestion.critical', 15, 'km/h', 'And severely, if slower than this.'),
  ('congestion.off', 45, 'km/h', 'It flows again from this.'),
  ('congestion.vehicles_least', 3, 'vehicles', 'Speeds of fewer vehicles in a minute say nothing.'),
  ('congestion.windows_on', 3, 'minutes', 'In a row, 1 to 6.'),
  ('congestion.windows_off', 5, 'minutes', 'In a row, 1 to 6.'),
  ('storm.on', 20.8, 'm/s', 'Gusts of Beaufort 9.'),
  ('storm.critical', 28.5, 'm/s', 'Gusts of Beaufort 11.'),
  ('storm.off', 13.9, 'm/s', 'Gusts below Beaufort 7.'),
  ('storm.windows_on', 1, 'windows of 15 minutes', 'In a row, 1 to 6.'),
  ('storm.windows_off', 2, 'windows of 15 minutes', 'In a row, 1 to 6.'),
  ('heavy_rain.on', 5, 'mm', 'In 15 minutes.'),
  ('heavy_rain.critical', 10, 'mm', 'In 15 minutes.'),
  ('heavy_rain.off', 2, 'mm', 'In 15 minutes.'),
  ('heavy_rain.windows_on', 1, 'windows of 15 minutes', 'In a row, 1 to 6.'),
  ('heavy_rain.windows_off', 2, 'windows of 15 minutes', 'In a row, 1 to 6.'),
  ('feeder_overload.coincidence', 0.35, 'share', 'A feeder carries this share of what its connections do together.'),
  ('feeder_overload.on', 1, 'share', 'Of that.'),
  ('feeder_overload.critical', 1.2, 'share', 'Of that.'),
  ('feeder_overload.off', 0.9, 'share', 'Of that.'),
  ('feeder_overload.windows_on', 2, 'windows of 15 minutes', 'In a row, 1 to 6.'),
  ('feeder_overload.windows_off', 2, 'windows of 15 minutes', 'In a row, 1 to 6.')
on conflict (name) do update set default_value = excluded.default_value, unit = excluded.unit, meaning = excluded.meaning
  where (t.default_value, t.unit, t.meaning) is distinct from (excluded.default_value, excluded.unit, excluded.meaning);

-- Which windows each condition is looked for in.
create or replace view city.condition_input (alert, kind, width, scope) as
values ('congestion', 'traffic', '1m', 'segment'), ('slow_detector', 'traffic', '1m', 'device'), ('storm', 'weather', '15m', 'district'),
  ('heavy_rain', 'weather', '15m', 'district'), ('feeder_overload', 'energy', '15m', 'feeder');

-- Moments at which a condition began to hold (is_on), or began not to; without a value: as nothing was measured.
create table if not exists city.alert_event (
  alert text not null,
  scope text not null,
  id text not null,
  window_start timestamptz not null,
  is_on boolean not null,
  value double precision,
  primary key (alert, scope, id, window_start)
);
create index if not exists alert_event_time on city.alert_event (alert, window_start);

create table if not exists city.alert (
  id text primary key,                       -- alert|subject|raised_at
  alert text not null,
  scope text not null,                       -- segment, district, feeder, cabinet or city
  subject text not null,
  district text,
  severity text not null,                    -- warning or critical: the worst so far
  raised_at timestamptz not null,
  cleared_at timestamptz,                    -- null: it lasts
  value double precision,                    -- the worst
  reason text not null,
  readings jsonb not null,                   -- windows or devices that it came from
  caused_by text,                            -- the alert that it is a part of: then it is not published, or said to be over
  published boolean not null,
  withdrawn boolean not null default false,
  revision integer not null default 1
);
create index if not exists alert_open on city.alert (alert, subject, raised_at);
-- For what tells Alertmanager, every five seconds: what lasts, or ended lately.
create index if not exists alert_lasting on city.alert (cleared_at) where not withdrawn and caused_by is null;

-- What jumps of meters add to the power of their feeder in a quarter of an hour: no overload, but a wrong reading.
create or replace function city.jumps_w(feeder text, quarter timestamptz) returns double precision
language sql stable as $$
  select sum(a.value - p.expected order by p.device)
  from (select device, avg(expected) as expected from city.anomaly_point
    where kind = 'energy' and anomaly = 'jump' and field = 'power_w' and observed_at >= quarter and observed_at < quarter + interval '15 minutes' group by device) p
  join city.place on place.device = p.device and place.scope = 'feeder' and place.id = feeder
  join city.aggregate_15m a on a.window_start = quarter and a.scope = 'device' and a.kind = 'energy' and a.id = p.device and a.measure = 'power_w'
$$;

-- What is looked at: level 2 is critical, 1 is on, 0 is between, -1 is off.
create or replace view city.condition as
with limits as (
  select split_part(name, '.', 1) as alert,
    max(value) filter (where name like '%.on') as high, max(value) filter (where name like '%.critical') as critical,
    max(value) filter (where name like '%.off') as off
  from city.threshold group by 1
)
select case a.scope when 'device' then 'slow_detector' else 'congestion' end as alert, a.kind, '1m' as width, a.scope, a.id, a.window_start, a.value,
  case when a.value < l.critical then 2 when a.value < l.high then 1 when a.value >= l.off then -1 else 0 end as level
from city.aggregate_1m a join limits l on l.alert = 'congestion'
where a.scope in ('segment', 'device') and a.kind = 'traffic' and a.measure = 'speed_kmh' and a.weight >= (select value from city.threshold where name = 'congestion.vehicles_least')
union all
select l.alert, a.kind, '15m', a.scope, a.id, a.window_start, a.value,
  case when a.value >= l.critical then 2 when a.value >= l.high then 1 when a.value < l.off then -1 else 0 end
from city.aggregate_15m a join limits l on (l.alert, a.measure) in (('storm', 'wind_gust_m_s'), ('heavy_rain', 'rain_mm'))
where a.scope = 'district' and a.kind = 'weather' and a.value is not null
union all
select l.alert, a.kind, '15m', a.scope, a.id, a.window_start, load.share,
  case when load.share >= l.critical then 2 when load.share >= l.high then 1 when load.share < l.off then -1 else 0 end
from city.aggregate_15m a join limits l on l.alert = 'feeder_overload'
join (select feeder, (select value from city.threshold where name = 'feeder_overload.coincidence') * sum(capacity_w) as capacity_w
  from city.device where capacity_w > 0 and feeder is not null group by feeder) c on c.feeder = a.id
cross join lateral (select (a.value - coalesce(city.jumps_w(a.id, a.window_start), 0)) / nullif(c.capacity_w, 0) as share) load
where a.scope = 'feeder' and a.kind = 'energy' and a.measure = 'power_w' and a.value is not null;

-- Whether the last `wanted` of these levels are all on (or off), within five hours.
create or replace function city.all_of(levels integer[], times timestamptz[], wanted integer, is_on boolean) returns boolean
language sql immutable as $$
  select cardinality(levels) >= wanted and times[cardinality(times)] - times[cardinality(times) - wanted + 1] <= interval '5 hours'
    and (select bool_and(case when is_on then level >= 1 else level = -1 end) from unnest(levels[cardinality(levels) - wanted + 1:]) level)
$$;

-- The windows that changed; and the last ones of alerts that last, when there is none for five hours since: time alone ends those.
create or replace function city.find_touched() returns void
language plpgsql as $$
begin
  insert into work_touched
  select alert, scope, id, width, min(window_start), max(window_start)
  from (
    select alert, c.scope, c.id, c.width, c.window_start
    from taken_changed c join city.condition_input using (kind, width, scope)
    where c.scope <> 'device' or exists (select from city.device d where d.device = c.id and (cardinality(d.upstream) > 0 or cardinality(d.downstream) > 0))
    union all
    select a.alert, a.scope, a.subject, i.width, (select max(window_start) from city.condition c
      where c.alert = a.alert and c.scope = a.scope and c.id = a.subject and c.window_start >= a.raised_at)
    from city.alert a join city.condition_input i using (alert, scope) join city.v_known_until k using (kind)
    where a.cleared_at is null and not a.withdrawn and a.raised_at < k.known_until - interval '5 hours 15 minutes'
      and not exists (select from city.condition c where c.alert = a.alert and c.scope = a.scope and c.id = a.subject
        and c.window_start >= k.known_until - interval '5 hours 15 minutes')
  ) t where window_start is not null
  group by 1, 2, 3, 4;

  -- Where none is within the five hours before, and what held then has not ended: from the window before.
  update work_touched t set from_at = b.window_start
  from (
    select alert, scope, id, (select max(window_start) from city.condition c
      where c.alert = t.alert and c.scope = t.scope and c.id = t.id and c.window_start >= e.window_start and c.window_start < t.from_at) as window_start
    from work_touched t cross join lateral (
      select is_on, window_start from city.alert_event e
      where (e.alert, e.scope, e.id) = (t.alert, t.scope, t.id) and e.window_start < t.from_at order by window_start desc limit 1) e
    where t.alert <> 'slow_detector' and e.is_on
      and not exists (select from city.condition c where c.alert = t.alert and c.scope = t.scope and c.id = t.id
        and c.window_start >= t.from_at - interval '5 hours' and c.window_start < t.from_at)
  ) b
  where (b.alert, b.scope, b.id) = (t.alert, t.scope, t.id) and b.window_start is not null;
end $$;

-- Events of the windows touched, and of those whose last six windows have one of them.
create or replace function city.find_events() returns void
language plpgsql as $$
begin
  insert into work_event
  with series as (
    select t.alert, t.scope, t.id, c.window_start, c.value, t.from_at, t.to_at,
      array_agg(c.level) over w as levels, array_agg(c.window_start) over w as times,
      lead(c.window_start) over (partition by t.alert, t.scope, t.id order by c.window_start) as next_at
    from work_touched t join city.condition c on c.alert = t.alert and c.scope = t.scope and c.id = t.id
      and c.window_start >= t.from_at - interval '11 hours' and c.window_start <= t.to_at + interval '11 hours'
    window w as (partition by t.alert, t.scope, t.id order by c.window_start rows between 5 preceding and current row)
  ), judged as (
    select s.*, cardinality(levels) as last, greatest(1, least(6, o.value))::integer as windows_on, greatest(1, least(6, f.value))::integer as windows_off
    from series s
    join city.threshold o on o.name = replace(alert, 'slow_detector', 'congestion') || '.windows_on'
    join city.threshold f on f.name = replace(alert, 'slow_detector', 'congestion') || '.windows_off'
    where s.window_start >= from_at
  )
  -- An event is where a row of windows has just become long enough: the row that ends one window earlier is none, or too long ago.
  select alert, scope, id, window_start, true, value from judged
  where levels[last] >= 1 and (last = windows_on or levels[last - windows_on] < 1 or times[last - 1] - times[last - windows_on] > interval '5 hours'
      or times[last] - times[last - 1] > interval '5 hours')
    and city.all_of(levels, times, windows_on, true)
  union all
  select alert, scope, id, window_start, false, value from judged
  where levels[last] = -1 and (last = windows_off or levels[last - windows_off] <> -1 or times[last - 1] - times[last - windows_off] > interval '5 hours'
      or times[last] - times[last - 1] > interval '5 hours')
    and city.all_of(levels, times, windows_off, false)
  union all
  -- (A window that begins five hours later is computed a quarter of an hour after that.)
  select alert, scope, id, s.window_start + interval '5 hours', false, null
  from series s join city.condition_input i using (alert, scope) join city.v_known_until k using (kind)
  where alert <> 'slow_detector' and s.window_start + interval '5 hours' between from_at and to_at + interval '11 hours'
    and coalesce(next_at, k.known_until - interval '15 minutes') > s.window_start + interval '5 hours';

  with gone as (
    delete from city.alert_event e using work_touched t
    where e.alert = t.alert and e.scope = t.scope and e.id = t.id and e.window_start >= t.from_at and e.window_start <= t.to_at + interval '11 hours'
      and not exists (select from work_event w where (w.alert, w.scope, w.id, w.window_start, w.is_on) = (e.alert, e.scope, e.id, e.window_start, e.is_on))
    returning e.alert, e.scope, e.id, e.window_start
  ), found as (
    insert into city.alert_event as e select * from work_event
    on conflict (alert, scope, id, window_start) do update set is_on = excluded.is_on, value = excluded.value
      where (e.is_on, e.value) is distinct from (excluded.is_on, excluded.value)
    returning e.alert, e.scope, e.id, e.window_start
  )
  insert into work_event_changed select * from gone union select * from found;
end $$;

-- Alerts of the subjects touched, from the last event before that said off.
create or replace function city.find_condition_alerts() returns void
language plpgsql as $$
begin
  insert into work_alert
  with subject as (
    select t.alert, t.scope, t.id, coalesce((select max(window_start) from city.alert_event e
      where (e.alert, e.scope, e.id) = (t.alert, t.scope, t.id) and not e.is_on and e.window_start < t.from_at), '-infinity') as base
    from work_touched t where t.alert <> 'slow_detector'
  ), events as (
    select s.base, e.*, lag(e.is_on) over (partition by e.alert, e.scope, e.id order by e.window_start) as before
    from subject s join city.alert_event e on (e.alert, e.scope, e.id) = (s.alert, s.scope, s.id) and e.window_start >= s.base
  ), turns as (
    select *, lead(window_start) over w as until, lead(window_start) over w is not null and lead(value) over w is null as is_unknown
    from events where is_on is distinct from before
    window w as (partition by alert, scope, id order by window_start)
  ), raised as (
    select t.alert, t.scope, t.id, t.window_start as raised_at, t.until as cleared_at, t.is_unknown, w.*
    from turns t cross join lateral (
      select (array_agg(c.value order by c.level desc, case when t.alert = 'congestion' then c.value else -c.value end, c.window_start))[1] as worst,
        max(c.level) as level, jsonb_agg(c.window_start order by c.window_start) as windows
      from city.condition c
      where c.alert = t.alert and c.scope = t.scope and c.id = t.id and c.window_start >= t.window_start and c.window_start < coalesce(t.until, 'infinity')) w
    where t.is_on
  )
  select alert, scope, id, case scope when 'district' then id else (select min(district) from city.device d where case r.scope when 'segment' then d.segment else d.feeder end = r.id) end,
    case when level = 2 then 'critical' else 'warning' end, raised_at, cleared_at, worst,
    case alert
      when 'congestion' then format('segment %s: %s km/h at worst', id, round(worst::numeric, 1))
      when 'storm' then format('district %s: gusts of %s m/s', id, round(worst::numeric, 1))
      when 'heavy_rain' then format('district %s: %s mm of rain in 15 minutes', id, round(worst::numeric, 1))
      else format('feeder %s: %s %% of what it carries', id, round(100 * worst::numeric))
    end || case when is_unknown then '; nothing was measured for five hours' else '' end,
    jsonb_build_object('windows', jsonb_path_query_array(windows, '$[0 to 19]')), null
  from raised r;

  insert into work_alert_gone
  select a.id from city.alert a join work_touched t on (a.alert, a.scope, a.subject) = (t.alert, t.scope, t.id)
  where a.raised_at >= coalesce((select max(window_start) from city.alert_event e
    where (e.alert, e.scope, e.id) = (t.alert, t.scope, t.id) and not e.is_on and e.window_start < t.from_at), '-infinity');
end $$;

-- What of the alerts is new or different, and what is no more; one message for each. A part of another alert says that it is over.
create or replace function city.merge_alerts() returns void
language plpgsql as $$
begin
  with named as (
    select alert || '|' || subject || '|' || to_char(raised_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as id, * from work_alert
  ), written as (
    insert into city.alert as a (id, alert, scope, subject, district, severity, raised_at, cleared_at, value, reason, readings, caused_by, published)
    select id, alert, scope, subject, district, severity, raised_at, cleared_at, value, reason, readings, caused_by, caused_by is null from named
    on conflict (id) do update
      set severity = excluded.severity, cleared_at = excluded.cleared_at, value = excluded.value, reason = excluded.reason, readings = excluded.readings,
        caused_by = excluded.caused_by, published = a.published or excluded.published, withdrawn = false, revision = a.revision + 1
      where (a.severity, a.cleared_at, a.value, a.reason, a.readings, a.caused_by, a.withdrawn) is distinct from
        (excluded.severity, excluded.cleared_at, excluded.value, excluded.reason, excluded.readings, excluded.caused_by, false)
    returning a.*
  ), gone as (
    update city.alert a set withdrawn = true, revision = a.revision + 1
    from (select distinct * from work_alert_gone) g
    where a.id = g.id and not a.withdrawn and not exists (select from named n where n.id = a.id)
    returning a.*
  )
  insert into city.outbox (topic, key, value)
  select 'city.alerts', id, to_jsonb(c) - 'published'
    || jsonb_build_object('state', case when withdrawn or caused_by is not null or cleared_at is not null then 'resolved' else 'firing' end)
  from (select * from written where published union all select * from gone where published order by raised_at, id) c;
end $$;

create or replace function city.judge_conditions() returns void
language plpgsql as $$
begin
  perform city.find_touched();
  if exists (select from work_touched) then
    perform city.find_events();
    perform city.find_condition_alerts();
  end if;
  if exists (select from taken_changed where width <> 'silent') then
    perform city.find_rain_speed();
    perform city.find_demand_supply();
    perform city.find_queues();
    perform city.find_demand_temperature();
    perform city.merge_insights();
  end if;
end $$;

-- Takes what changed, and makes insights and alerts of it; of conditions and of outages each for itself: what fails is judged again.
create or replace function city.judge_city() returns void
language plpgsql set timezone to 'UTC' as $$
declare
  message text;
  context text;
begin
  set local client_min_messages to warning;
  create temp table if not exists taken_changed (kind text, width text, scope text, id text, window_start timestamptz) on commit delete rows;
  create temp table if not exists work_touched (alert text, scope text, id text, width text, from_at timestamptz, to_at timestamptz) on commit delete rows;
  create temp table if not exists work_event (like city.alert_event) on commit delete rows;
  create temp table if not exists work_event_changed (alert text, scope text, id text, window_start timestamptz) on commit delete rows;
  create temp table if not exists work_alert (alert text, scope text, subject text, district text, severity text, raised_at timestamptz, cleared_at timestamptz,
    value double precision, reason text, readings jsonb, caused_by text) on commit delete rows;
  create temp table if not exists work_alert_gone (id text) on commit delete rows;
  create temp table if not exists work_group (alert text, scope text, id text, hold interval, base timestamptz) on commit delete rows;
  create temp table if not exists work_outage (alert text, scope text, id text, hold interval, district text, from_at timestamptz, to_at timestamptz, devices bigint,
    kinds text) on commit delete rows;
  create temp table if not exists work_insight (insight text, subject text, from_at timestamptz, to_at timestamptz, value double precision, unit text, reason text,
    details jsonb) on commit delete rows;
  create temp table if not exists work_insight_gone (insight text, subject text, from_at timestamptz) on commit delete rows;

  with taken as (delete from city.changed returning *) insert into taken_changed select * from taken;
  with taken as (delete from city.changed_group returning *) insert into taken_changed select distinct kind, 'silent', scope, id, from_at from taken;
  analyze taken_changed;
  begin
    perform city.judge_conditions();
    delete from city.failure where (job, part) = ('judge_city', 'conditions');
  exception when others then
    get stacked diagnostics message = message_text, context = pg_exception_context;
    perform city.note_failure('judge_city', 'conditions', message, context);
    insert into city.changed select * from taken_changed where width <> 'silent' on conflict do nothing;
  end;
  begin
    if exists (select from taken_changed where width = 'silent') then
      perform city.find_outages(city.computed_until());
    end if;
    delete from city.failure where (job, part) = ('judge_city', 'outages');
  exception when others then
    get stacked diagnostics message = message_text, context = pg_exception_context;
    perform city.note_failure('judge_city', 'outages', message, context);
    insert into city.changed select * from taken_changed where width = 'silent' and scope = 'device' on conflict do nothing;
    insert into city.changed_group select kind, scope, id, window_start from taken_changed where width = 'silent' and scope <> 'device';
  end;
  perform city.merge_alerts();
end $$;
