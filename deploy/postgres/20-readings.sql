-- Readings, as far as they are computed with: views of them, and which of them a run of the computation needs.
--
-- A rule looks at a reading and at most nine before it. Two are loaded for every device; the rest only of devices that are
-- doubtful: whose readings repeat, leap, or lack a register. So what is computed for a city of well devices costs a third.

create or replace function city.floor_minute(at timestamptz) returns timestamptz
language sql immutable as $$ select date_bin('1 minute', at, timestamptz '2000-01-01 00:00:00+00') $$;

create or replace function city.floor_quarter(at timestamptz) returns timestamptz
language sql immutable as $$ select date_bin('15 minutes', at, timestamptz '2000-01-01 00:00:00+00') $$;

-- === readings, as far as they are computed with ===

create or replace function city.number_in(value jsonb, field text) returns double precision
language sql immutable as $$ select case when jsonb_typeof(value -> field) = 'number' then city.usable((value ->> field)::double precision) end $$;

-- A value of the lanes, added: null unless every lane has it, as a part would look like the whole.
create or replace function city.sum_of_lanes(lanes jsonb, field text) returns double precision
language sql immutable as $$
  select case when bool_and(city.number_in(lane, field) is not null) then sum(city.number_in(lane, field) order by at) end
  from jsonb_array_elements(case when jsonb_typeof(lanes) = 'array' then lanes end) with ordinality l(lane, at)
$$;

-- The lanes' speeds: harmonic, weighted with their vehicles or else their flow.
create or replace function city.speed_of_lanes(lanes jsonb) returns double precision
language sql immutable as $$
  select case when sum(vehicles order by at) > 0 then sum(vehicles order by at) / sum(vehicles / speed order by at) end
  from jsonb_array_elements(case when jsonb_typeof(lanes) = 'array' then lanes end) with ordinality l(lane, at)
  cross join lateral (select city.number_in(lane, 'speed_kmh'), coalesce(city.number_in(lane, 'vehicle_count'), city.number_in(lane, 'flow_veh_h') / 60)) v(speed, vehicles)
  where speed >= 0.001 and vehicles > 0
$$;

-- Fields that are computed with, and that a schema of this city does not have, or not as a number (a list): null in what is computed.
create table if not exists city.missing_field (
  kind text not null,
  field text not null,
  primary key (kind, field)
);
delete from city.missing_field;

-- How a view has a field of a kind, as what city.usable() leaves of a number, or as JSON.
create or replace function city.field_of(of_kind text, field text, of_type text) returns text
language plpgsql as $$
declare
  has text := (select case when atttypid = 'jsonb'::regtype then 'jsonb' when atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'float4'::regtype,
      'float8'::regtype, 'numeric'::regtype) then 'double precision' end
    from pg_attribute where attrelid = to_regclass('city.' || quote_ident(of_kind)) and attname = field and attnum > 0 and not attisdropped);
begin
  if has is distinct from of_type then
    raise warning 'the schema of % has no % that is %: what is computed from it is not computed', of_kind, field,
      case of_type when 'jsonb' then 'a list' else 'a number' end;
    insert into city.missing_field values (of_kind, field) on conflict do nothing;
    return 'null::' || of_type;
  end if;
  return format(case of_type when 'jsonb' then '%I' else 'city.usable(%I::double precision)' end, field);
end $$;

-- Minutes are found by time, devices by the unique index (device, observed_at, reading_id). A kind that this city does not have
-- has no table, and gets no view.
do $$
declare
  of_kind text;
  fields text;
begin
  foreach of_kind in array array['traffic', 'weather', 'energy'] loop
    if to_regclass('city.' || of_kind) is null then
      continue;
    end if;
    execute format('create index if not exists %I on city.%I using brin (observed_at timestamptz_minmax_multi_ops) with (pages_per_range = 16)',
      of_kind || '_observed_at', of_kind);
    case of_kind
      when 'traffic' then
        -- An interval without a length is none.
        fields := format($fields$case when %1$s >= 0.001 then %1$s end as seconds, coalesce(%2$s, city.sum_of_lanes(%6$s, 'vehicle_count')) as vehicles,
            coalesce(%3$s, city.sum_of_lanes(%6$s, 'flow_veh_h')) as flow, coalesce(%4$s, city.speed_of_lanes(%6$s)) as speed, %5$s as occupancy$fields$,
          city.field_of('traffic', 'interval_s', 'double precision'), city.field_of('traffic', 'vehicle_count', 'double precision'),
          city.field_of('traffic', 'flow_veh_h', 'double precision'), city.field_of('traffic', 'speed_kmh', 'double precision'),
          city.field_of('traffic', 'occupancy_percent', 'double precision'), city.field_of('traffic', 'lanes', 'jsonb'));
      when 'weather' then
        fields := (select string_agg(format('%s as %I', city.field_of('weather', field, 'double precision'), field), ', ' order by at)
          from unnest(array['temperature_c', 'relative_humidity_percent', 'pressure_hpa', 'wind_speed_m_s', 'wind_gust_m_s', 'wind_direction_deg', 'rain_mm',
            'irradiance_w_m2']) with ordinality f(field, at));
      when 'energy' then
        fields := (select string_agg(format('%s as %I', city.field_of('energy', field, of_type), field), ', ' order by at)
          from unnest(array['power_w', 'energy_import_kwh', 'energy_export_kwh', 'frequency_hz', 'phases'],
            array['double precision', 'double precision', 'double precision', 'double precision', 'jsonb']) with ordinality f(field, of_type, at));
    end case;
    execute format('create or replace view city.%I as
      select device, observed_at, received_at, reading_id, kafka_partition, kafka_offset, %s as quality, %s from city.%I where not is_late',
      of_kind || '_reading', city.field_of(of_kind, 'quality', 'jsonb'), fields, of_kind);
  end loop;
end $$;

-- === the work of one run ===

-- Tables that live as long as the connection, emptied for each piece of work.
create or replace function city.begin_work() returns void
language plpgsql set client_min_messages to warning as $$
begin
  create temp table if not exists taken_due (device text, window_start timestamptz) on commit delete rows;
  -- What is to be computed again, of single devices.
  create temp table if not exists work_span (device text, from_at timestamptz, to_at timestamptz) on commit delete rows;
  -- Where the targets of a device begin, and the devices of which more than two readings before that are needed.
  create temp table if not exists work_first (device text, at timestamptz) on commit delete rows;
  create temp table if not exists work_doubtful (device text primary key) on commit delete rows;
  -- All readings that are needed: the targets, and those before each of them.
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
    previous double precision, step double precision, step_max double precision, verdict text, has_both boolean) on commit delete rows;
  -- New values of aggregates, and those that differ from what was.
  create temp table if not exists work_fresh (scope text, id text, window_start timestamptz, measure text, value double precision,
    readings bigint, devices integer, weight double precision) on commit delete rows;
  create temp table if not exists work_device (device text, window_start timestamptz, measure text, value double precision,
    readings bigint, weight double precision) on commit delete rows;
  -- Of work_fresh what is computed again.
  create temp table if not exists work_kept (window_start timestamptz, scope text, id text, measure text,
    primary key (window_start, scope, id, measure)) on commit delete rows;
  -- Windows that were computed before and are computed again: what they have no value of any more is withdrawn.
  create temp table if not exists work_again (window_start timestamptz, scope text, id text,
    primary key (window_start, scope, id)) on commit delete rows;
  create temp table if not exists work_needed (window_start timestamptz, device text, primary key (window_start, device)) on commit delete rows;
  create temp table if not exists work_changed (width text, scope text, id text, window_start timestamptz) on commit delete rows;
  create temp table if not exists work_point (like city.anomaly_point) on commit delete rows;
  create temp table if not exists work_subject (device text, anomaly text, field text) on commit delete rows;
  truncate taken_due, work_span, work_first, work_doubtful, work_traffic, work_weather, work_energy, work_order, work_value, work_register,
    work_fresh, work_kept, work_again, work_changed, work_point, work_subject;
end $$;

-- === which readings ===

-- The targets: readings of the minutes that were closed since, and of those in which something arrived after; with these minutes
-- go the nine readings that follow, for each of which one of the nine before has changed. Then the two before the first target
-- of each device: of most devices no more is needed.
create or replace function city.load_readings(of_kind text, from_at timestamptz, to_at timestamptz) returns void
language plpgsql as $$
declare
  -- Said again where a join says it, so that partitions are left out when it is planned: there may be hundreds of days.
  earliest timestamptz := least(from_at, (select min(window_start) from taken_due));
begin
  execute format($sql$
    insert into work_span
    select device, window_start, greatest(window_start + interval '1 minute', least($1, (
      select city.floor_minute(max(observed_at)) + interval '1 minute' from (
        select distinct observed_at from city.%1$I r
        where r.device = due.device and r.observed_at >= due.window_start + interval '1 minute' and r.observed_at < $1 and r.observed_at >= $2
        order by observed_at limit 9) next)))
    from taken_due due where window_start < $1 $sql$, of_kind || '_reading') using from_at, earliest;

  execute format('insert into %I select r.*, true from city.%I r where r.observed_at >= $1 and r.observed_at < $2',
    'work_' || of_kind, of_kind || '_reading') using from_at, to_at;
  execute format($sql$
    insert into %I
    select r.*, true from work_span s join city.%I r on r.device = s.device and r.observed_at >= s.from_at and r.observed_at < s.to_at
    where r.observed_at >= $2 and r.observed_at < $1
    on conflict do nothing $sql$, 'work_' || of_kind, of_kind || '_reading') using from_at, earliest;

  execute format('insert into work_first select distinct device, $1 from %I where observed_at >= $1 union select device, from_at from work_span',
    'work_' || of_kind) using from_at;
  analyze work_first;
  execute format($sql$
    insert into %I
    select r.*, false from work_first f cross join lateral (
      select * from city.%I r
      where r.device = f.device and r.observed_at < f.at and r.observed_at >= f.at - $3 and r.observed_at >= $2 - $3 and r.observed_at < $1
      order by r.observed_at desc, r.received_at desc, r.reading_id desc limit 2) r
    on conflict do nothing $sql$, 'work_' || of_kind, of_kind || '_reading')
    using from_at, earliest, city.seconds_of('predecessor_within');
  perform city.keep_last_received(of_kind);
end $$;

-- Of the doubtful devices everything once more, with the nine readings before.
create or replace function city.load_doubtful(of_kind text, from_at timestamptz, to_at timestamptz) returns void
language plpgsql as $$
declare
  earliest timestamptz := least(from_at, (select min(window_start) from taken_due));
begin
  delete from work_first f where not exists (select from work_doubtful d where d.device = f.device);
  delete from work_span s where not exists (select from work_doubtful d where d.device = s.device);
  analyze work_first;
  execute format('delete from %I w where not exists (select from work_doubtful d where d.device = w.device)', 'work_' || of_kind);
  execute format($sql$
    insert into %1$I
    select r.*, false
    from work_first f
    cross join lateral (select min(observed_at) as at from (
      select distinct observed_at from city.%2$I r
      where r.device = f.device and r.observed_at < f.at and r.observed_at >= f.at - $3 and r.observed_at >= $2 - $3 and r.observed_at < $1
      order by observed_at desc limit 9) before) ninth
    join city.%2$I r on r.device = f.device and r.observed_at >= ninth.at and r.observed_at < f.at
    where r.observed_at >= $2 - $3 and r.observed_at < $1
    on conflict do nothing $sql$, 'work_' || of_kind, of_kind || '_reading')
    using from_at, earliest, city.seconds_of('predecessor_within');
  perform city.keep_last_received(of_kind);
end $$;

-- Of several readings for one instant the one received last. Their devices are doubtful: of these two there may be a third.
create or replace function city.keep_last_received(of_kind text) returns void
language plpgsql as $$
begin
  execute format('analyze %I', 'work_' || of_kind);
  execute format($sql$
    with again as (select device, observed_at from %1$I group by 1, 2 having count(*) > 1), gone as (
      delete from %1$I w
      using again where w.device = again.device and w.observed_at = again.observed_at and exists (select from %1$I later
        where later.device = w.device and later.observed_at = w.observed_at and (later.received_at, later.reading_id) > (w.received_at, w.reading_id))
    )
    insert into work_doubtful select distinct device from again on conflict do nothing $sql$, 'work_' || of_kind);
end $$;
