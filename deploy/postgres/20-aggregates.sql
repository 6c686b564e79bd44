-- Aggregates of one minute and of fifteen, per device, segment, district, feeder and cell.
--
-- A reading belongs to the minute in which it was observed: [start, start + 1 minute). Late ones belong to none. Of several
-- readings of one device with one observed_at the one received last counts. A minute is closed by city.close_windows() and
-- computed by city.compute_windows(); a reading that arrives after makes its minute, and whatever depends on it, be computed again.
--
-- One formula serves all kinds. A kind's readings become rows (device, observed_at, measure, value, weight) in the views
-- city.<kind>_values; how rows become one, over time and over places, is in city.measure.

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

create or replace function city.floor_minute(at timestamptz) returns timestamptz
language sql immutable as $$ select date_bin('1 minute', at, timestamptz '2000-01-01 00:00:00+00') $$;

create or replace function city.floor_quarter(at timestamptz) returns timestamptz
language sql immutable as $$ select date_bin('15 minutes', at, timestamptz '2000-01-01 00:00:00+00') $$;

-- === readings, as far as they are computed with ===

-- A value of the lanes, added: null unless every lane has it, as a part would look like the whole.
create or replace function city.sum_of_lanes(lanes jsonb, field text) returns double precision
language sql immutable as $$
  select case when bool_and(jsonb_typeof(lane -> field) = 'number') then sum((lane ->> field)::double precision order by at) end
  from jsonb_array_elements(lanes) with ordinality l(lane, at)
$$;

-- The lanes' speeds: harmonic, weighted with their vehicles or else their flow.
create or replace function city.speed_of_lanes(lanes jsonb) returns double precision
language sql immutable as $$
  select case when sum(vehicles order by at) > 0 then sum(vehicles order by at) / sum(vehicles / speed order by at) end
  from jsonb_array_elements(lanes) with ordinality l(lane, at)
  cross join lateral (select (lane ->> 'speed_kmh')::double precision,
    coalesce((lane ->> 'vehicle_count')::double precision, (lane ->> 'flow_veh_h')::double precision / 60)) v(speed, vehicles)
  where speed > 0 and vehicles > 0
$$;

-- Minutes are found by time, devices by the unique index (device, observed_at, reading_id). A kind that this city does not have
-- has no table, and gets no view.
do $$ begin
if to_regclass('city.traffic') is not null then
  create index if not exists traffic_observed_at on city.traffic using brin (observed_at timestamptz_minmax_multi_ops) with (pages_per_range = 16);
  create or replace view city.traffic_reading as
  select device, observed_at, received_at, reading_id, kafka_partition, kafka_offset, quality,
    interval_s as seconds,
    coalesce(vehicle_count::double precision, city.sum_of_lanes(lanes, 'vehicle_count')) as vehicles,
    coalesce(flow_veh_h, city.sum_of_lanes(lanes, 'flow_veh_h')) as flow,
    coalesce(speed_kmh, city.speed_of_lanes(lanes)) as speed,
    occupancy_percent as occupancy
  from city.traffic where not is_late;
end if;
if to_regclass('city.weather') is not null then
  create index if not exists weather_observed_at on city.weather using brin (observed_at timestamptz_minmax_multi_ops) with (pages_per_range = 16);
  create or replace view city.weather_reading as
  select device, observed_at, received_at, reading_id, kafka_partition, kafka_offset, quality,
    temperature_c, relative_humidity_percent, pressure_hpa, wind_speed_m_s, wind_gust_m_s, wind_direction_deg, rain_mm, irradiance_w_m2
  from city.weather where not is_late;
end if;
if to_regclass('city.energy') is not null then
  create index if not exists energy_observed_at on city.energy using brin (observed_at timestamptz_minmax_multi_ops) with (pages_per_range = 16);
  create or replace view city.energy_reading as
  select device, observed_at, received_at, reading_id, kafka_partition, kafka_offset, quality,
    power_w, energy_import_kwh, energy_export_kwh, frequency_hz, phases
  from city.energy where not is_late;
end if;
end $$;

-- === the work of one run ===

-- Tables that live as long as the connection, emptied for each piece of work.
create or replace function city.begin_work() returns void
language plpgsql set client_min_messages to warning as $$
begin
  create temp table if not exists taken_due (device text, window_start timestamptz) on commit delete rows;
  -- What is to be computed again, of single devices.
  create temp table if not exists work_span (device text, from_at timestamptz, to_at timestamptz) on commit delete rows;
  -- All readings that are needed: the targets, and the nine before each of them.
  create temp table if not exists work_traffic (device text, observed_at timestamptz, received_at timestamptz, reading_id bigint,
    kafka_partition integer, kafka_offset bigint, quality jsonb, seconds double precision, vehicles double precision,
    flow double precision, speed double precision, occupancy double precision, is_target boolean,
    unique (device, observed_at, reading_id)) on commit delete rows;
  create temp table if not exists work_weather (device text, observed_at timestamptz, received_at timestamptz, reading_id bigint,
    kafka_partition integer, kafka_offset bigint, quality jsonb, temperature_c double precision,
    relative_humidity_percent double precision, pressure_hpa double precision, wind_speed_m_s double precision,
    wind_gust_m_s double precision, wind_direction_deg double precision, rain_mm double precision,
    irradiance_w_m2 double precision, is_target boolean, unique (device, observed_at, reading_id)) on commit delete rows;
  create temp table if not exists work_energy (device text, observed_at timestamptz, received_at timestamptz, reading_id bigint,
    kafka_partition integer, kafka_offset bigint, quality jsonb, power_w double precision, energy_import_kwh double precision,
    energy_export_kwh double precision, frequency_hz double precision, phases jsonb, is_target boolean,
    unique (device, observed_at, reading_id)) on commit delete rows;
  -- One row per device and instant, numbered: what a rule calls "the reading before" is not more than nine before.
  create temp table if not exists work_order (device text, observed_at timestamptz, number bigint, previous_at timestamptz,
    quality jsonb, fingerprint bigint, kafka_partition integer, kafka_offset bigint, is_target boolean) on commit delete rows;
  create temp table if not exists work_value (device text, observed_at timestamptz, measure text, value double precision,
    weight double precision, is_target boolean) on commit delete rows;
  -- Registers, and what moved them.
  create temp table if not exists work_register (device text, observed_at timestamptz, field text, register double precision,
    previous double precision, step double precision, step_max double precision, verdict text, is_target boolean) on commit delete rows;
  -- New values of aggregates, and those that differ from what was.
  create temp table if not exists work_fresh (scope text, id text, window_start timestamptz, measure text, value double precision,
    readings bigint, devices integer, weight double precision) on commit delete rows;
  create temp table if not exists work_device (device text, window_start timestamptz, measure text, value double precision,
    readings bigint, weight double precision) on commit delete rows;
  create temp table if not exists work_affected (scope text, id text, window_start timestamptz) on commit delete rows;
  create temp table if not exists work_needed (device text, window_start timestamptz) on commit delete rows;
  create temp table if not exists work_changed (width text, scope text, id text, window_start timestamptz) on commit delete rows;
  create temp table if not exists work_point (like city.anomaly_point) on commit delete rows;
  create temp table if not exists work_subject (device text, anomaly text, field text) on commit delete rows;
  truncate taken_due, work_span, work_traffic, work_weather, work_energy, work_order, work_value, work_register, work_fresh, work_changed,
    work_point, work_subject;
end $$;

-- What of the readings is to be computed again, as readings arrived in closed minutes: these minutes, and those of the nine
-- readings that follow, for each of which one of the nine before has changed. Then the readings: of the minutes that were
-- closed since, of those to be computed again, and the nine before each; of several for one instant the one received last.
create or replace function city.load_traffic(from_at timestamptz, to_at timestamptz) returns void
language plpgsql as $$
declare
  reach interval := city.seconds_of('predecessor_within');
  -- Said again where a join says it, so that partitions are left out when it is planned: there may be hundreds of days.
  earliest timestamptz := least(from_at, (select min(window_start) from taken_due));
begin
  insert into work_span
  select device, window_start, greatest(window_start + interval '1 minute', least(from_at, (
    select city.floor_minute(max(observed_at)) + interval '1 minute' from (
      select distinct observed_at from city.traffic_reading r
      where r.device = due.device and r.observed_at >= due.window_start + interval '1 minute' and r.observed_at < from_at and r.observed_at >= earliest
      order by observed_at limit 9) next)))
  from taken_due due where window_start < from_at;

  insert into work_traffic
  select r.*, true from city.traffic_reading r where r.observed_at >= from_at and r.observed_at < to_at;
  insert into work_traffic
  select r.*, true from work_span s join city.traffic_reading r on r.device = s.device and r.observed_at >= s.from_at and r.observed_at < s.to_at
  where r.observed_at >= earliest and r.observed_at < load_traffic.from_at
  on conflict do nothing;

  insert into work_traffic
  select r.*, false
  from (select distinct device, from_at as at from work_traffic where observed_at >= from_at union select device, s.from_at from work_span s) first
  cross join lateral (select min(observed_at) as at from (
    select distinct observed_at from city.traffic_reading r
    where r.device = first.device and r.observed_at < first.at and r.observed_at >= first.at - reach
      and r.observed_at >= earliest - reach and r.observed_at < from_at
    order by observed_at desc limit 9) before) ninth
  join city.traffic_reading r on r.device = first.device and r.observed_at >= ninth.at and r.observed_at < first.at
  where r.observed_at >= earliest - reach and r.observed_at < from_at
  on conflict do nothing;

  analyze work_traffic;
  delete from work_traffic w
  using (select device, observed_at from work_traffic group by 1, 2 having count(*) > 1) again
  where w.device = again.device and w.observed_at = again.observed_at and exists (select from work_traffic later
    where later.device = w.device and later.observed_at = w.observed_at and (later.received_at, later.reading_id) > (w.received_at, w.reading_id));
end $$;

create or replace function city.load_weather(from_at timestamptz, to_at timestamptz) returns void
language plpgsql as $$
declare
  reach interval := city.seconds_of('predecessor_within');
  -- Said again where a join says it, so that partitions are left out when it is planned: there may be hundreds of days.
  earliest timestamptz := least(from_at, (select min(window_start) from taken_due));
begin
  insert into work_span
  select device, window_start, greatest(window_start + interval '1 minute', least(from_at, (
    select city.floor_minute(max(observed_at)) + interval '1 minute' from (
      select distinct observed_at from city.weather_reading r
      where r.device = due.device and r.observed_at >= due.window_start + interval '1 minute' and r.observed_at < from_at and r.observed_at >= earliest
      order by observed_at limit 9) next)))
  from taken_due due where window_start < from_at;

  insert into work_weather
  select r.*, true from city.weather_reading r where r.observed_at >= from_at and r.observed_at < to_at;
  insert into work_weather
  select r.*, true from work_span s join city.weather_reading r on r.device = s.device and r.observed_at >= s.from_at and r.observed_at < s.to_at
  where r.observed_at >= earliest and r.observed_at < load_weather.from_at
  on conflict do nothing;

  insert into work_weather
  select r.*, false
  from (select distinct device, from_at as at from work_weather where observed_at >= from_at union select device, s.from_at from work_span s) first
  cross join lateral (select min(observed_at) as at from (
    select distinct observed_at from city.weather_reading r
    where r.device = first.device and r.observed_at < first.at and r.observed_at >= first.at - reach
      and r.observed_at >= earliest - reach and r.observed_at < from_at
    order by observed_at desc limit 9) before) ninth
  join city.weather_reading r on r.device = first.device and r.observed_at >= ninth.at and r.observed_at < first.at
  where r.observed_at >= earliest - reach and r.observed_at < from_at
  on conflict do nothing;

  analyze work_weather;
  delete from work_weather w
  using (select device, observed_at from work_weather group by 1, 2 having count(*) > 1) again
  where w.device = again.device and w.observed_at = again.observed_at and exists (select from work_weather later
    where later.device = w.device and later.observed_at = w.observed_at and (later.received_at, later.reading_id) > (w.received_at, w.reading_id));
end $$;

create or replace function city.load_energy(from_at timestamptz, to_at timestamptz) returns void
language plpgsql as $$
declare
  reach interval := city.seconds_of('predecessor_within');
  -- Said again where a join says it, so that partitions are left out when it is planned: there may be hundreds of days.
  earliest timestamptz := least(from_at, (select min(window_start) from taken_due));
begin
  insert into work_span
  select device, window_start, greatest(window_start + interval '1 minute', least(from_at, (
    select city.floor_minute(max(observed_at)) + interval '1 minute' from (
      select distinct observed_at from city.energy_reading r
      where r.device = due.device and r.observed_at >= due.window_start + interval '1 minute' and r.observed_at < from_at and r.observed_at >= earliest
      order by observed_at limit 9) next)))
  from taken_due due where window_start < from_at;

  insert into work_energy
  select r.*, true from city.energy_reading r where r.observed_at >= from_at and r.observed_at < to_at;
  insert into work_energy
  select r.*, true from work_span s join city.energy_reading r on r.device = s.device and r.observed_at >= s.from_at and r.observed_at < s.to_at
  where r.observed_at >= earliest and r.observed_at < load_energy.from_at
  on conflict do nothing;

  insert into work_energy
  select r.*, false
  from (select distinct device, from_at as at from work_energy where observed_at >= from_at union select device, s.from_at from work_span s) first
  cross join lateral (select min(observed_at) as at from (
    select distinct observed_at from city.energy_reading r
    where r.device = first.device and r.observed_at < first.at and r.observed_at >= first.at - reach
      and r.observed_at >= earliest - reach and r.observed_at < from_at
    order by observed_at desc limit 9) before) ninth
  join city.energy_reading r on r.device = first.device and r.observed_at >= ninth.at and r.observed_at < first.at
  where r.observed_at >= earliest - reach and r.observed_at < from_at
  on conflict do nothing;

  analyze work_energy;
  delete from work_energy w
  using (select device, observed_at from work_energy group by 1, 2 having count(*) > 1) again
  where w.device = again.device and w.observed_at = again.observed_at and exists (select from work_energy later
    where later.device = w.device and later.observed_at = w.observed_at and (later.received_at, later.reading_id) > (w.received_at, w.reading_id));
end $$;

-- === readings as values ===

-- What all kinds have: the order of the readings, and what of each is compared to find a device that is stuck.
create or replace function city.fill_traffic() returns void
language plpgsql as $$
begin
  -- A counter is stuck if all of this stays the same while vehicles pass; an empty road always looks the same.
  insert into work_order
  select device, observed_at, row_number() over w, lag(observed_at) over w, quality,
    case when coalesce(vehicles, 0) > 0 or coalesce(flow, 0) > 0 then hashtextextended(concat_ws('|', vehicles, flow, speed, occupancy), 0) end,
    kafka_partition, kafka_offset, is_target
  from work_traffic r
  window w as (partition by device order by observed_at);

  -- Speeds count as vehicles do: those counted, else those of the flow, else one. Nothing passes at no speed at all.
  insert into work_value
  select r.device, r.observed_at, v.measure, v.value, v.weight, r.is_target
  from work_traffic r
  cross join lateral (values
    ('vehicle_count', vehicles, 1::double precision),
    ('flow_veh_h', coalesce(flow, vehicles * 3600 / nullif(seconds, 0)), coalesce(seconds, 60)),
    ('speed_kmh', case when speed > 0 then speed end, coalesce(vehicles, flow * coalesce(seconds, 60) / 3600, 1)),
    ('occupancy_percent', occupancy, coalesce(seconds, 60))) v(measure, value, weight)
  where v.value is not null and v.weight > 0;
end $$;

create or replace function city.fill_weather() returns void
language plpgsql as $$
begin
  insert into work_order
  select device, observed_at, row_number() over w, lag(observed_at) over w, quality,
    case when num_nonnulls(temperature_c, relative_humidity_percent, pressure_hpa, wind_speed_m_s, wind_direction_deg, irradiance_w_m2) >= 3
      then hashtextextended(concat_ws('|', temperature_c, relative_humidity_percent, pressure_hpa, wind_speed_m_s, wind_direction_deg, irradiance_w_m2), 0) end,
    kafka_partition, kafka_offset, is_target
  from work_weather r
  window w as (partition by device order by observed_at);

  -- Gauges that weigh read a little below nothing: their sum is right, so each is added as it is.
  insert into work_value
  select r.device, r.observed_at, v.measure, v.value, v.weight, r.is_target
  from work_weather r
  cross join lateral (values
    ('temperature_c', temperature_c, 1::double precision),
    ('relative_humidity_percent', relative_humidity_percent, 1),
    ('pressure_hpa', pressure_hpa, 1),
    ('wind_speed_m_s', wind_speed_m_s, 1),
    ('wind_gust_m_s', wind_gust_m_s, 1),
    ('wind_direction_deg', wind_direction_deg, coalesce(wind_speed_m_s, 1)),
    ('rain_mm', rain_mm, 1),
    ('irradiance_w_m2', irradiance_w_m2, 1)) v(measure, value, weight)
  where v.value is not null and v.weight > 0;
end $$;

create or replace function city.fill_energy() returns void
language plpgsql as $$
begin
  insert into work_order
  select device, observed_at, row_number() over w, lag(observed_at) over w, quality,
    case when power_w <> 0 then hashtextextended(concat_ws('|', power_w, energy_import_kwh, energy_export_kwh, frequency_hz, phases), 0) end,
    kafka_partition, kafka_offset, is_target
  from work_energy r
  window w as (partition by device order by observed_at);

  analyze work_order;

  insert into work_value
  select r.device, r.observed_at, v.measure, v.value, 1, r.is_target
  from work_energy r
  cross join lateral (values
    ('power_w', power_w),
    ('demand_w', greatest(power_w, 0)),
    ('supply_w', greatest(-power_w, 0)),
    ('frequency_hz', frequency_hz)) v(measure, value)
  where v.value is not null and (r.is_target or v.measure in ('power_w', 'frequency_hz'));

  insert into work_register
  select device, observed_at, field, register, previous,
    case verdict
      when 'counts' then register - previous
      when 'recovers' then register - before_previous
      when 'rollover' then capacity - previous + register
      when 'reset' then register
    end, step_max, verdict, is_target
  from city.register_steps();
  analyze work_register;
  insert into work_value select device, observed_at, field, step, 1, is_target from work_register where step is not null;
end $$;

-- What each register reading says, against the one or two before it:
--   counts    it went on, by no more than the connection can carry
--   recovers  the reading before was wrong, this one goes on from the one before that
--   rollover  all its digits were used: 999999.8 is followed by 0.3. How many digits it has is seen from the number before
--   reset     it began again near nothing: another meter, or one that forgot
--   backwards, implausible   neither: no energy is counted
--   first     there is none to compare with
create or replace function city.register_steps() returns table (device text, observed_at timestamptz, field text, register double precision,
  previous double precision, before_previous double precision, capacity double precision, step_max double precision, verdict text, is_target boolean)
language plpgsql as $$
declare
  gap interval := city.seconds_of('register.gap');
  least_kwh double precision := city.threshold_of('register.least');
  watts double precision := city.threshold_of('register.power_max');
  margin double precision := city.threshold_of('register.power_margin');
begin
  return query
  with registers as (
    select r.device, r.observed_at, v.field, v.register, o.number, r.is_target
    from work_energy r
    join work_order o on o.device = r.device and o.observed_at = r.observed_at
    cross join lateral (values ('energy_import_kwh', r.energy_import_kwh), ('energy_export_kwh', r.energy_export_kwh)) v(field, register)
    where v.register is not null
  ), neighbours as (
    select r.*, lag(r.register) over w as one, lag(r.observed_at) over w as one_at, lag(r.number) over w as one_number,
      lag(r.register, 2) over w as two, lag(r.observed_at, 2) over w as two_at, lag(r.number, 2) over w as two_number
    from registers r window w as (partition by r.device, r.field order by r.observed_at)
  ), limited as (
    select n.*,
      case when n.number - n.one_number <= 9 and n.observed_at - n.one_at <= gap then n.one end as before,
      case when n.number - n.two_number <= 9 and n.observed_at - n.two_at <= gap then n.two end as before_that,
      greatest(least_kwh, margin * coalesce(d.capacity_w, watts) / 3.6e6 * extract(epoch from n.observed_at - n.one_at)) as step_max,
      greatest(least_kwh, margin * coalesce(d.capacity_w, watts) / 3.6e6 * extract(epoch from n.observed_at - n.two_at)) as two_steps_max,
      case when n.one >= 1 then 10 ^ (floor(log(n.one)) + 1) end as capacity
    from neighbours n left join city.device d on d.device = n.device
  )
  select l.device, l.observed_at, l.field, l.register, l.before, l.before_that, l.capacity, l.step_max,
    case
      when l.before is null then 'first'
      -- The one before had fallen or leapt, and this one goes on from the one before that: the one before was wrong.
      when l.register between l.before_that and l.before_that + l.two_steps_max
        and (l.before < l.before_that or l.before > l.before_that + l.two_steps_max) then 'recovers'
      when l.register between l.before and l.before + l.step_max then 'counts'
      when l.register > l.before then 'implausible'
      when l.capacity - l.before + l.register <= l.step_max then 'rollover'
      when l.register <= l.step_max then 'reset'
      else 'backwards'
    end,
    l.is_target
  from limited l;
end $$;

-- === aggregates from values ===

-- Of each device, in the minutes of the targets.
create or replace function city.aggregate_devices(of_kind text) returns void
language plpgsql as $$
begin
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
    join city.aggregate_1m a on a.scope = 'device' and a.kind = of_kind and a.id = c.id
      and a.window_start >= c.quarter and a.window_start < c.quarter + interval '15 minutes' and a.value is not null
      and a.window_start >= earliest and a.window_start < from_at
    join city.measure m on m.kind = of_kind and m.measure = a.measure
    order by 1, 2, 3, 4, 8) o
  group by id, quarter, measure, over_time;
end $$;

-- What of work_fresh differs from what the table has; and what it has of windows computed again that is no more. `from_at`: from
-- there on windows are computed for the first time.
create or replace function city.merge_1m(of_kind text, from_at timestamptz) returns void
language plpgsql as $$
declare
  earliest timestamptz := (select min(window_start) from work_fresh);
begin
  with merged as (
    insert into city.aggregate_1m as a (scope, id, kind, window_start, measure, value, readings, devices, weight)
    select scope, id, of_kind, window_start, measure, value, readings, devices, weight from work_fresh
    on conflict (window_start, scope, kind, id, measure) do update
      set value = excluded.value, readings = excluded.readings, devices = excluded.devices, weight = excluded.weight, revision = a.revision + 1
      where (a.value, a.readings, a.devices, a.weight) is distinct from (excluded.value, excluded.readings, excluded.devices, excluded.weight)
    returning a.scope, a.id, a.window_start
  ), vanished as (
    update city.aggregate_1m a set value = null, readings = 0, devices = 0, weight = 0, revision = a.revision + 1
    from (select distinct scope, id, window_start from work_fresh where window_start < from_at) again
    where a.kind = of_kind and a.scope = again.scope and a.id = again.id and a.window_start = again.window_start and a.value is not null
      and a.window_start >= earliest and a.window_start < from_at
      and not exists (select from work_fresh f where f.scope = a.scope and f.id = a.id and f.window_start = a.window_start and f.measure = a.measure)
    returning a.scope, a.id, a.window_start
  )
  insert into work_changed
  select distinct '1m', scope, id, window_start from (select * from merged union all select * from vanished) c;
  truncate work_fresh;
end $$;

create or replace function city.merge_15m(of_kind text, from_at timestamptz) returns void
language plpgsql as $$
declare
  earliest timestamptz := (select min(window_start) from work_fresh);
begin
  with merged as (
    insert into city.aggregate_15m as a (scope, id, kind, window_start, measure, value, readings, devices, weight)
    select scope, id, of_kind, window_start, measure, value, readings, devices, weight from work_fresh
    on conflict (window_start, scope, kind, id, measure) do update
      set value = excluded.value, readings = excluded.readings, devices = excluded.devices, weight = excluded.weight, revision = a.revision + 1
      where (a.value, a.readings, a.devices, a.weight) is distinct from (excluded.value, excluded.readings, excluded.devices, excluded.weight)
    returning a.scope, a.id, a.window_start
  ), vanished as (
    update city.aggregate_15m a set value = null, readings = 0, devices = 0, weight = 0, revision = a.revision + 1
    from (select distinct scope, id, window_start from work_fresh where window_start < from_at) again
    where a.kind = of_kind and a.scope = again.scope and a.id = again.id and a.window_start = again.window_start and a.value is not null
      and a.window_start >= earliest and a.window_start < from_at
      and not exists (select from work_fresh f where f.scope = a.scope and f.id = a.id and f.window_start = a.window_start and f.measure = a.measure)
    returning a.scope, a.id, a.window_start
  )
  insert into work_changed
  select distinct '15m', scope, id, window_start from (select * from merged union all select * from vanished) c;
  truncate work_fresh;
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

-- === closing and computing ===

-- Closes the minutes that ended `close_after` before what is stored. In a transaction of its own: whoever stores a reading
-- after it sees that its minute is closed.
create or replace function city.close_windows() returns void
language sql as $$
  insert into city.window_progress as p (kind, closed_until, computed_until)
  select s.kind, city.floor_minute(min(received_at) - city.seconds_of('close_after')), min(c.computed_until)
  from city.stored s left join city.computed c on c.kind = s.kind
  -- Of another kind nothing is computed: its readings would be noted as due for ever.
  where s.kind in (select m.kind from city.measure m) group by s.kind order by s.kind
  on conflict (kind) do update set closed_until = greatest(p.closed_until, excluded.closed_until), computed_until = excluded.computed_until
    where (p.closed_until is null or excluded.closed_until > p.closed_until) or p.computed_until is distinct from excluded.computed_until
$$;

-- Where a kind begins: at the minute of its first reading.
create or replace function city.first_minute(of_kind text) returns timestamptz
language plpgsql as $$
begin
  return city.floor_minute(case of_kind
    when 'traffic' then (select min(observed_at) from city.traffic where not is_late)
    when 'weather' then (select min(observed_at) from city.weather where not is_late)
    when 'energy' then (select min(observed_at) from city.energy where not is_late)
  end);
end $$;

-- Computes what of a kind was closed since, and what is to be computed again; false if that was nothing.
create or replace function city.compute_kind(of_kind text) returns boolean
language plpgsql set timezone to 'UTC' as $$
declare
  closed timestamptz;
  from_at timestamptz;
  to_at timestamptz;
begin
  select closed_until into closed from city.window_progress where kind = of_kind;
  select computed_until into from_at from city.computed where kind = of_kind;
  if from_at is null then
    from_at := city.first_minute(of_kind);
  end if;
  if closed is null or from_at is null or (from_at >= closed and not exists (select from city.window_due where kind = of_kind)) then
    return false;
  end if;
  from_at := least(from_at, closed);
  to_at := least(closed, from_at + city.seconds_of('compute.chunk'));

  perform city.begin_work();
  with taken as (delete from city.window_due where kind = of_kind returning device, window_start)
  insert into taken_due select distinct * from taken;
  perform city.make_aggregate_partitions(least(from_at, (select min(window_start) from taken_due)), to_at);

  case of_kind
    when 'traffic' then perform city.load_traffic(from_at, to_at); perform city.fill_traffic();
    when 'weather' then perform city.load_weather(from_at, to_at); perform city.fill_weather();
    when 'energy' then perform city.load_energy(from_at, to_at); perform city.fill_energy();
  end case;
  analyze work_value, work_order;

  perform city.aggregate_devices(of_kind);
  perform city.merge_1m(of_kind, from_at);
  perform city.aggregate_quarters(of_kind, city.floor_quarter(from_at), city.floor_quarter(to_at));
  perform city.merge_15m(of_kind, city.floor_quarter(from_at));
  analyze work_changed;
  perform city.aggregate_places(of_kind, '1m', from_at, to_at);
  perform city.merge_1m(of_kind, from_at);
  perform city.aggregate_places(of_kind, '15m', city.floor_quarter(from_at), city.floor_quarter(to_at));
  perform city.merge_15m(of_kind, city.floor_quarter(from_at));
  perform city.publish_aggregates(of_kind);

  perform city.find_anomalies(of_kind, from_at, to_at);
  perform city.note_changes(of_kind);
  insert into city.computed values (of_kind, to_at) on conflict (kind) do update set computed_until = excluded.computed_until;
  return true;
end $$;

-- All kinds, until everything that is closed is computed, or for some 20 s: what is left waits for the next run.
create or replace function city.compute_windows() returns void
language plpgsql as $$
declare
  of_kind text;
  until timestamptz := clock_timestamp() + interval '20 seconds';
begin
  foreach of_kind in array array['traffic', 'weather', 'energy'] loop
    while to_regclass('city.' || of_kind) is not null and clock_timestamp() < until and city.compute_kind(of_kind) loop
    end loop;
  end loop;
end $$;
