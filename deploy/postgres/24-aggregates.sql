-- Aggregates of one minute and of fifteen, per device, segment, district, feeder and cell.
--
-- A reading belongs to the minute in which it was observed: [start, start + 1 minute). Late ones belong to none. Of several
-- readings of one device with one observed_at the one received last counts. One formula serves all kinds: how values become one,
-- over time and over places, is in city.measure.

-- === how rows become one ===

-- sum: Σ value.  max: the largest.  mean: Σ value·weight / Σ weight.  harmonic: Σ weight / Σ (weight / value).
-- direction: of the sum of vectors (value degrees, length weight); the weight of the result is the length of that sum.
-- mean_of_devices, direction_of_devices: every device counts once, however often it reports.
create table if not exists city.measure (
  kind text not null,
  measure text not null,
  over_time text not null,
  over_places text not null,
  unit text not null,
  meaning text not null,
  primary key (kind, measure)
);

insert into city.measure as m (kind, measure, over_time, over_places, unit, meaning) values
  ('traffic', 'vehicle_count', 'sum', 'sum', 'vehicles', 'Counted by the detectors: one that passes two of them counts twice.'),
  ('traffic', 'flow_veh_h', 'mean', 'mean_of_devices', 'veh/h', 'Weight: seconds of the interval. Of a place: of its mean detector.'),
  ('traffic', 'speed_kmh', 'harmonic', 'harmonic', 'km/h', 'Space-mean speed. Weight: vehicles.'),
  ('traffic', 'occupancy_percent', 'mean', 'mean_of_devices', '%', 'Weight: seconds of the interval.'),
  ('weather', 'temperature_c', 'mean', 'mean_of_devices', 'degC', ''),
  ('weather', 'relative_humidity_percent', 'mean', 'mean_of_devices', '%', ''),
  ('weather', 'pressure_hpa', 'mean', 'mean_of_devices', 'hPa', 'At the stations themselves.'),
  ('weather', 'wind_speed_m_s', 'mean', 'mean_of_devices', 'm/s', ''),
  ('weather', 'wind_gust_m_s', 'max', 'max', 'm/s', ''),
  ('weather', 'wind_direction_deg', 'direction', 'direction_of_devices', 'deg', 'Where it comes from. Weight: the speed, so that calm has no direction.'),
  ('weather', 'rain_mm', 'sum', 'mean_of_devices', 'mm', 'Of a place: of its mean gauge.'),
  ('weather', 'irradiance_w_m2', 'mean', 'mean_of_devices', 'W/m2', ''),
  ('energy', 'power_w', 'mean', 'sum', 'W', 'Of a place: the sum of the means of its meters.'),
  ('energy', 'demand_w', 'mean', 'sum', 'W', 'What is drawn: power_w where it is above 0.'),
  ('energy', 'supply_w', 'mean', 'sum', 'W', 'What is fed in: -power_w where it is below 0.'),
  ('energy', 'energy_import_kwh', 'sum', 'sum', 'kWh', 'Differences of the register, in the minute of the later reading.'),
  ('energy', 'energy_export_kwh', 'sum', 'sum', 'kWh', 'As above.')
-- No setting, but what this version computes.
on conflict (kind, measure) do update
  set over_time = excluded.over_time, over_places = excluded.over_places, unit = excluded.unit, meaning = excluded.meaning
  where (m.over_time, m.over_places, m.unit, m.meaning) is distinct from (excluded.over_time, excluded.over_places, excluded.unit, excluded.meaning);

-- === aggregates from values ===
--
-- A partition that grows still looks empty to the planner, which would compare each of its rows with all rows of another table. So
-- enable_seqscan is off where one is read, and what it is joined with has keys; jit is off because the planner's penalty for scans would start it.
--
-- A `case` does not keep an aggregate within it from being computed: all of a statement are, of each group. A `filter` does.

-- Of each device, in the minutes of the targets.
create or replace function city.aggregate_devices(of_kind text, from_at timestamptz) returns void
language plpgsql as $$
begin
  insert into work_again select distinct city.floor_minute(observed_at), 'device', device from work_order where is_target and observed_at < from_at;
  insert into work_fresh
  select 'device', device, window_start, measure,
    case over_time
      when 'sum' then sum(value)
      when 'max' then max(value)
      when 'mean' then sum(value * weight) filter (where over_time = 'mean') / nullif(sum(weight), 0)
      when 'harmonic' then sum(weight) / sum(weight / nullif(value, 0)) filter (where over_time = 'harmonic')
      when 'direction' then city.degrees_of(sum(weight * sind(value)) filter (where over_time = 'direction'),
        sum(weight * cosd(value)) filter (where over_time = 'direction'))
    end,
    count(*), 1,
    case over_time when 'direction' then sqrt((sum(weight * sind(value)) filter (where over_time = 'direction')) ^ 2
      + (sum(weight * cosd(value)) filter (where over_time = 'direction')) ^ 2) else sum(weight) end
  from (
    -- In one order, so that the last digit of a sum does not depend on the order in which readings arrived.
    select v.device, city.floor_minute(v.observed_at) as window_start, v.measure, m.over_time, v.value, v.weight
    from work_value v join city.measure m on m.kind = of_kind and m.measure = v.measure
    where v.is_target
    order by v.device, city.floor_minute(v.observed_at), v.measure, m.over_time, v.observed_at) o
  group by device, window_start, measure, over_time;
end $$;

-- Where a vector points, from 0 up to 360 degrees; nowhere if it has no length.
create or replace function city.degrees_of(east double precision, north double precision) returns double precision
language sql immutable as $$
  select case when east ^ 2 + north ^ 2 > 1e-18 then
    case when atan2d(east, north) < 0 then atan2d(east, north) + 360 else atan2d(east, north) end end
$$;

-- Of each device, in the quarters of an hour that are complete: from the minutes.
create or replace function city.aggregate_quarters(of_kind text, from_at timestamptz, to_at timestamptz) returns void
language plpgsql set enable_seqscan to off set jit to off as $$
declare
  earliest timestamptz := city.floor_quarter((select min(window_start) from work_changed));
  latest timestamptz := (select max(window_start) + interval '15 minutes' from work_changed where window_start < from_at);
begin
  analyze work_changed;
  insert into work_again
  select distinct city.floor_quarter(window_start), 'device', id from work_changed
  where width = '1m' and scope = 'device' and city.floor_quarter(window_start) < from_at;
  insert into work_fresh
  select 'device', id, quarter, measure,
    case over_time
      when 'sum' then sum(value)
      when 'max' then max(value)
      when 'mean' then sum(value * weight) filter (where over_time = 'mean') / nullif(sum(weight), 0)
      when 'harmonic' then sum(weight) / sum(weight / nullif(value, 0)) filter (where over_time = 'harmonic')
      when 'direction' then city.degrees_of(sum(weight * sind(value)) filter (where over_time = 'direction'),
        sum(weight * cosd(value)) filter (where over_time = 'direction'))
    end,
    sum(readings), 1,
    case over_time when 'direction' then sqrt((sum(weight * sind(value)) filter (where over_time = 'direction')) ^ 2
      + (sum(weight * cosd(value)) filter (where over_time = 'direction')) ^ 2) else sum(weight) end
  from (
    select a.id, city.floor_quarter(a.window_start) as quarter, a.measure, m.over_time, a.value, a.weight, a.readings, a.window_start
    from city.aggregate_1m a join city.measure m on m.kind = of_kind and m.measure = a.measure
    where a.scope = 'device' and a.kind = of_kind and a.value is not null and a.window_start >= from_at and a.window_start < to_at
    union all
    select a.id, c.quarter, a.measure, m.over_time, a.value, a.weight, a.readings, a.window_start
    from (select distinct id, city.floor_quarter(window_start) as quarter from work_changed
      where width = '1m' and scope = 'device' and city.floor_quarter(window_start) < from_at) c
    -- Minute by minute, as they are found by: a range would be read with the minutes of all others.
    cross join generate_series(0, 14) minute
    join city.aggregate_1m a on a.window_start = c.quarter + make_interval(mins => minute) and a.scope = 'device' and a.kind = of_kind and a.id = c.id
      and a.value is not null and a.window_start >= earliest and a.window_start < least(from_at, latest)
    join city.measure m on m.kind = of_kind and m.measure = a.measure
    order by 1, 2, 3, 4, 8) o
  group by id, quarter, measure, over_time;
end $$;

-- What of work_fresh differs from what the table has; and what it has of work_again that is no more. `of_width`: 1m or 15m. `from_at`: from
-- there on windows are computed for the first time. (Planned each time, with the times: other days are not looked at.)
create or replace function city.merge_fresh(of_kind text, of_width text, from_at timestamptz) returns void
language plpgsql set enable_seqscan to off set jit to off as $$
declare
  earliest timestamptz;
  latest timestamptz;
begin
  select min(window_start), max(window_start) into earliest, latest from work_again;
  insert into work_kept select window_start, scope, id, measure from work_fresh where window_start < from_at;
  analyze work_fresh, work_again, work_kept;
  execute format($sql$
    with merged as (
      insert into city.%1$I as a (scope, id, kind, window_start, measure, value, readings, devices, weight)
      select scope, id, $1, window_start, measure, value, readings, devices, weight from work_fresh
      on conflict (window_start, scope, kind, id, measure) do update
        set value = excluded.value, readings = excluded.readings, devices = excluded.devices, weight = excluded.weight, revision = a.revision + 1
        where (a.value, a.readings, a.devices, a.weight) is distinct from (excluded.value, excluded.readings, excluded.devices, excluded.weight)
      returning a.scope, a.id, a.window_start
    ), vanished as (
      update city.%1$I a set value = null, readings = 0, devices = 0, weight = 0, revision = a.revision + 1
      from work_again again
      where a.kind = $1 and a.scope = again.scope and a.id = again.id and a.window_start = again.window_start and a.value is not null
        and a.window_start between $2 and $3
        and not exists (select from work_kept k where k.window_start = a.window_start and k.scope = a.scope and k.id = a.id and k.measure = a.measure)
      returning a.scope, a.id, a.window_start
    )
    insert into work_changed
    select distinct $4, scope, id, window_start from (select * from merged union all select * from vanished) c $sql$, 'aggregate_' || of_width)
    using of_kind, earliest, latest, of_width;
  truncate work_fresh, work_again, work_kept;
end $$;

-- Which places are affected, and the values of all their devices: in windows that are computed for the first time of all places, in
-- earlier ones of those one of whose devices changed.
create or replace function city.find_affected(of_width text, from_at timestamptz) returns void
language plpgsql as $$
begin
  truncate work_needed;
  insert into work_again
  select distinct c.window_start, p.scope, p.id from work_changed c join city.place p on p.device = c.id
  where c.width = of_width and c.scope = 'device' and c.window_start < from_at;
  analyze work_again;
  insert into work_needed
  select distinct a.window_start, p.device from work_again a join city.place p on p.scope = a.scope and p.id = a.id;
  analyze work_needed;
end $$;

create or replace function city.load_devices(of_kind text, of_width text, from_at timestamptz, to_at timestamptz) returns void
language plpgsql set enable_seqscan to off set jit to off as $$
declare
  earliest timestamptz;
  latest timestamptz;
begin
  select min(window_start), max(window_start) into earliest, latest from work_again;
  truncate work_device;
  execute format($sql$
    insert into work_device
    select a.id, a.window_start, a.measure, a.value, a.readings, a.weight from city.%1$I a
    where a.scope = 'device' and a.kind = $1 and a.window_start >= $2 and a.window_start < $3 and a.value is not null
    union all
    select a.id, a.window_start, a.measure, a.value, a.readings, a.weight from work_needed n join city.%1$I a
      on a.window_start = n.window_start and a.scope = 'device' and a.kind = $1 and a.id = n.device and a.value is not null
    where a.window_start between $4 and $5 $sql$, 'aggregate_' || of_width)
    using of_kind, from_at, to_at, earliest, latest;
  analyze work_device;
end $$;

create or replace function city.aggregate_places(of_kind text, of_width text, from_at timestamptz, to_at timestamptz) returns void
language plpgsql as $$
begin
  perform city.find_affected(of_width, from_at);
  perform city.load_devices(of_kind, of_width, from_at, to_at);
  insert into work_fresh
  select scope, id, window_start, measure,
    case over_places
      when 'sum' then sum(value)
      when 'max' then max(value)
      when 'mean_of_devices' then avg(value)
      when 'harmonic' then sum(weight) / sum(weight / nullif(value, 0)) filter (where over_places = 'harmonic')
      when 'direction_of_devices' then city.degrees_of(sum(weight / readings * sind(value)) filter (where over_places = 'direction_of_devices'),
        sum(weight / readings * cosd(value)) filter (where over_places = 'direction_of_devices'))
    end,
    sum(readings), count(*), sum(weight)
  from (
    select p.scope, p.id, d.window_start, d.measure, m.over_places, d.value, d.readings, d.weight
    from work_device d join city.place p on p.device = d.device join city.measure m on m.kind = of_kind and m.measure = d.measure
    where d.window_start >= from_at or (p.scope, p.id, d.window_start) in (select scope, id, window_start from work_again)
    order by p.scope, p.id, d.window_start, d.measure, m.over_places, d.device) o
  group by scope, id, window_start, measure, over_places;
end $$;

-- One message for each window of a device or place: all its measures, and how often they have been computed.
create or replace function city.publish_aggregates(of_kind text) returns void
language plpgsql set enable_seqscan to off set jit to off as $$
begin
  insert into city.outbox (topic, key, value)
  select 'city.aggregates', c.scope || '/' || c.id || '/' || of_kind, jsonb_build_object('scope', c.scope, 'id', c.id, 'kind', of_kind,
    'window_start', c.window_start, 'window_s', 60, 'revision', m.revision, 'devices', m.devices, 'measures', m.measures)
  from (select distinct scope, id, window_start from work_changed where width = '1m'
    and (scope <> 'device' or city.threshold_of('publish.1m.device') = 1)) c
  cross join lateral (
    select 1 + sum(revision - 1) as revision, max(devices) as devices,
      jsonb_object_agg(measure, jsonb_build_object('value', value, 'readings', readings, 'weight', weight)) as measures
    from city.aggregate_1m a where a.window_start = c.window_start and a.scope = c.scope and a.kind = of_kind and a.id = c.id) m
  order by c.window_start, c.scope, c.id;

  insert into city.outbox (topic, key, value)
  select 'city.aggregates', c.scope || '/' || c.id || '/' || of_kind, jsonb_build_object('scope', c.scope, 'id', c.id, 'kind', of_kind,
    'window_start', c.window_start, 'window_s', 900, 'revision', m.revision, 'devices', m.devices, 'measures', m.measures)
  from (select distinct scope, id, window_start from work_changed where width = '15m') c
  cross join lateral (
    select 1 + sum(revision - 1) as revision, max(devices) as devices,
      jsonb_object_agg(measure, jsonb_build_object('value', value, 'readings', readings, 'weight', weight)) as measures
    from city.aggregate_15m a where a.window_start = c.window_start and a.scope = c.scope and a.kind = of_kind and a.id = c.id) m
  order by c.window_start, c.scope, c.id;
end $$;

-- For insights and alerts, which look at places, and at the detectors of a road.
create or replace function city.note_changes(of_kind text) returns void
language plpgsql as $$
begin
  insert into city.changed (kind, width, scope, id, window_start)
  select distinct of_kind, width, scope, id, window_start from work_changed where scope <> 'device' or (of_kind = 'traffic' and width = '1m')
  on conflict do nothing;
end $$;

