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

insert into city.measure (kind, measure, over_time, over_places, unit, meaning) values
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
on conflict do nothing;

-- === aggregates from values ===

-- Of each device, in the minutes of the targets.
create or replace function city.aggregate_devices(of_kind text) returns void
language plpgsql as $$
begin
  insert into work_again select distinct 'device', device, city.floor_minute(observed_at) from work_order where is_target;
  insert into work_fresh
  select 'device', device, window_start, measure,
    case over_time
      when 'sum' then sum(value)
      when 'max' then max(value)
      when 'mean' then sum(value * weight) / nullif(sum(weight), 0)
      when 'harmonic' then sum(weight) / sum(weight / nullif(value, 0))
      when 'direction' then city.degrees_of(sum(weight * sind(value)), sum(weight * cosd(value)))
    end,
    count(*), 1,
    case over_time when 'direction' then sqrt(sum(weight * sind(value)) ^ 2 + sum(weight * cosd(value)) ^ 2) else sum(weight) end
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
language plpgsql as $$
declare
  earliest timestamptz := city.floor_quarter((select min(window_start) from work_changed));
begin
  analyze work_changed;
  insert into work_again
  select distinct 'device', id, city.floor_quarter(window_start) from work_changed where width = '1m' and scope = 'device';
  insert into work_fresh
  select 'device', id, quarter, measure,
    case over_time
      when 'sum' then sum(value)
      when 'max' then max(value)
      when 'mean' then sum(value * weight) / nullif(sum(weight), 0)
      when 'harmonic' then sum(weight) / sum(weight / nullif(value, 0))
      when 'direction' then city.degrees_of(sum(weight * sind(value)), sum(weight * cosd(value)))
    end,
    sum(readings), 1,
    case over_time when 'direction' then sqrt(sum(weight * sind(value)) ^ 2 + sum(weight * cosd(value)) ^ 2) else sum(weight) end
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
      and a.value is not null and a.window_start >= earliest and a.window_start < from_at
    join city.measure m on m.kind = of_kind and m.measure = a.measure
    order by 1, 2, 3, 4, 8) o
  group by id, quarter, measure, over_time;
end $$;

-- What of work_fresh differs from what the table has; and what it has of work_again that is no more. `from_at`: from
-- there on windows are computed for the first time.
create or replace function city.merge_1m(of_kind text, from_at timestamptz) returns void
language plpgsql as $$
declare
  earliest timestamptz := (select min(window_start) from work_again);
begin
  -- Or each row of the one is compared with all of the other.
  analyze work_fresh, work_again;
  with merged as (
    insert into city.aggregate_1m as a (scope, id, kind, window_start, measure, value, readings, devices, weight)
    select scope, id, of_kind, window_start, measure, value, readings, devices, weight from work_fresh
    on conflict (window_start, scope, kind, id, measure) do update
      set value = excluded.value, readings = excluded.readings, devices = excluded.devices, weight = excluded.weight, revision = a.revision + 1
      where (a.value, a.readings, a.devices, a.weight) is distinct from (excluded.value, excluded.readings, excluded.devices, excluded.weight)
    returning a.scope, a.id, a.window_start
  ), vanished as (
    update city.aggregate_1m a set value = null, readings = 0, devices = 0, weight = 0, revision = a.revision + 1
    from (select distinct * from work_again where window_start < from_at) again
    where a.kind = of_kind and a.scope = again.scope and a.id = again.id and a.window_start = again.window_start and a.value is not null
      and a.window_start >= earliest and a.window_start < from_at
      and not exists (select from work_fresh f where f.scope = a.scope and f.id = a.id and f.window_start = a.window_start and f.measure = a.measure)
    returning a.scope, a.id, a.window_start
  )
  insert into work_changed
  select distinct '1m', scope, id, window_start from (select * from merged union all select * from vanished) c;
  truncate work_fresh, work_again;
end $$;

create or replace function city.merge_15m(of_kind text, from_at timestamptz) returns void
language plpgsql as $$
declare
  earliest timestamptz := (select min(window_start) from work_again);
begin
  -- Or each row of the one is compared with all of the other.
  analyze work_fresh, work_again;
  with merged as (
    insert into city.aggregate_15m as a (scope, id, kind, window_start, measure, value, readings, devices, weight)
    select scope, id, of_kind, window_start, measure, value, readings, devices, weight from work_fresh
    on conflict (window_start, scope, kind, id, measure) do update
      set value = excluded.value, readings = excluded.readings, devices = excluded.devices, weight = excluded.weight, revision = a.revision + 1
      where (a.value, a.readings, a.devices, a.weight) is distinct from (excluded.value, excluded.readings, excluded.devices, excluded.weight)
    returning a.scope, a.id, a.window_start
  ), vanished as (
    update city.aggregate_15m a set value = null, readings = 0, devices = 0, weight = 0, revision = a.revision + 1
    from (select distinct * from work_again where window_start < from_at) again
    where a.kind = of_kind and a.scope = again.scope and a.id = again.id and a.window_start = again.window_start and a.value is not null
      and a.window_start >= earliest and a.window_start < from_at
      and not exists (select from work_fresh f where f.scope = a.scope and f.id = a.id and f.window_start = a.window_start and f.measure = a.measure)
    returning a.scope, a.id, a.window_start
  )
  insert into work_changed
  select distinct '15m', scope, id, window_start from (select * from merged union all select * from vanished) c;
  truncate work_fresh, work_again;
end $$;

-- Of each place one of whose devices changed, from all its devices: of windows that are computed for the first time all of them,
-- of earlier ones those of the affected places. What is joined is copied first: the planner has seen no minute that is new.
create or replace function city.aggregate_places(of_kind text, of_width text, from_at timestamptz, to_at timestamptz) returns void
language plpgsql as $$
declare
  earliest timestamptz := (select min(window_start) from work_changed where width = of_width);
begin
  truncate work_device, work_affected, work_needed;
  insert into work_affected
  select distinct p.scope, p.id, c.window_start from work_changed c join city.place p on p.device = c.id
  where c.width = of_width and c.scope = 'device' and c.window_start < from_at;
  analyze work_affected;
  insert into work_again select * from work_affected;
  insert into work_needed
  select distinct p.device, f.window_start from work_affected f join city.place p on p.scope = f.scope and p.id = f.id;
  analyze work_needed;

  if of_width = '1m' then
    insert into work_device
    select a.id, a.window_start, a.measure, a.value, a.readings, a.weight from city.aggregate_1m a
    where a.scope = 'device' and a.kind = of_kind and a.window_start >= from_at and a.window_start < to_at and a.value is not null
    union all
    select a.id, a.window_start, a.measure, a.value, a.readings, a.weight from work_needed n join city.aggregate_1m a
      on a.window_start = n.window_start and a.scope = 'device' and a.kind = of_kind and a.id = n.device and a.value is not null
    where a.window_start >= earliest and a.window_start < from_at;
  else
    insert into work_device
    select a.id, a.window_start, a.measure, a.value, a.readings, a.weight from city.aggregate_15m a
    where a.scope = 'device' and a.kind = of_kind and a.window_start >= from_at and a.window_start < to_at and a.value is not null
    union all
    select a.id, a.window_start, a.measure, a.value, a.readings, a.weight from work_needed n join city.aggregate_15m a
      on a.window_start = n.window_start and a.scope = 'device' and a.kind = of_kind and a.id = n.device and a.value is not null
    where a.window_start >= earliest and a.window_start < from_at;
  end if;
  analyze work_device;

  insert into work_fresh
  select scope, id, window_start, measure,
    case over_places
      when 'sum' then sum(value)
      when 'max' then max(value)
      when 'mean_of_devices' then avg(value)
      when 'harmonic' then sum(weight) / sum(weight / nullif(value, 0))
      when 'direction_of_devices' then city.degrees_of(sum(weight / readings * sind(value)), sum(weight / readings * cosd(value)))
    end,
    sum(readings), count(*), sum(weight)
  from (
    select p.scope, p.id, d.window_start, d.measure, m.over_places, d.value, d.readings, d.weight
    from work_device d join city.place p on p.device = d.device join city.measure m on m.kind = of_kind and m.measure = d.measure
    where d.window_start >= from_at or (p.scope, p.id, d.window_start) in (select scope, id, window_start from work_affected)
    order by p.scope, p.id, d.window_start, d.measure, m.over_places, d.device) o
  group by scope, id, window_start, measure, over_places;
end $$;

-- One message for each window of a device or place: all its measures, and how often they have been computed.
create or replace function city.publish_aggregates(of_kind text) returns void
language plpgsql as $$
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

