-- Tables of everything that is computed from the readings, and the numbers by which it is judged.
--
-- `citygate store` runs the files of this folder in the order of their names, at start; each may be run any number of times.
-- It has made its own tables before: those of the readings, city.<kind>, from the Avro schemas; city.device, where each device is
-- and what it belongs to; city.stored, city.window_progress, city.window_due and city.outbox.
--
-- Every result is a function of the readings that were not late, of city.device and of the numbers below: not of the order in
-- which readings arrived, nor of when or how often something was computed. Only `revision` counts how often a result changed.

-- A number, as far as it is computed with. PostgreSQL refuses a product, quotient or square that no double precision can hold, and with it all
-- that is computed in the same statement: of 1e-310 km/h, which a device may send, or of 1e300. Nothing in a city is as much as 1e15 of its unit:
-- that, or what is no number, is none. And less than 1e-9 is nothing. What is computed of such numbers (products of three, squares) can be held.
create or replace function city.usable(value double precision) returns double precision
language sql immutable as $$ select case when abs(value) <= 1e15 then case when abs(value) >= 1e-9 then value else 0 end end $$;

create index if not exists device_cabinet on city.device (cabinet) where cabinet is not null;

-- The same of what is known of devices; an interval is one of up to a year, as times are added to it.
create or replace function city.keep_usable() returns trigger
language plpgsql as $$
begin
  new.latitude := case when abs(new.latitude) <= 90 then city.usable(new.latitude) end;
  new.longitude := case when abs(new.longitude) <= 180 then city.usable(new.longitude) end;
  new.position_m := city.usable(new.position_m);
  new.capacity_w := city.usable(new.capacity_w);
  new.interval_s := case when new.interval_s between 0.001 and 31622400 then new.interval_s end;
  new.valid_from := case when new.valid_from between '1900-01-01 00:00:00+00' and '2200-01-01 00:00:00+00' then new.valid_from end;
  return new;
end $$;
create or replace trigger keep_usable before insert or update on city.device for each row execute function city.keep_usable();
-- Those that were there before.
update city.device set device = device
where (latitude, longitude, position_m, capacity_w) is distinct from
    (city.usable(latitude), city.usable(longitude), city.usable(position_m), city.usable(capacity_w))
  or (abs(latitude) <= 90) is false or (abs(longitude) <= 180) is false or (interval_s between 0.001 and 31622400) is false
  or (valid_from between '1900-01-01 00:00:00+00' and '2200-01-01 00:00:00+00') is false;

-- The same by place: which device belongs to which segment, district, feeder and cell. Kept by a trigger.
create table if not exists city.place (
  device text not null,
  scope text not null,
  id text not null,
  primary key (device, scope)
);
create index if not exists place_id on city.place (scope, id);

create or replace function city.keep_places() returns trigger
language plpgsql as $$
begin
  if tg_op <> 'INSERT' then
    delete from city.place where device = old.device;
  end if;
  if tg_op <> 'DELETE' then
    insert into city.place
    select new.device, scope, id
    from (values ('segment', new.segment), ('district', new.district), ('feeder', new.feeder), ('cell', new.cell)) p(scope, id) where id is not null
    on conflict (device, scope) do update set id = excluded.id;
  end if;
  -- Outages of the groups that it left or joined are judged again, from here on.
  insert into city.changed_group
  select d.kind, g.scope, g.id, coalesce((select computed_until from city.computed c where c.kind = d.kind), 'infinity')
  from (select old.* where tg_op <> 'INSERT' union select new.* where tg_op <> 'DELETE') d
  cross join lateral (values ('cabinet', d.cabinet), ('district', d.district)) g(scope, id)
  where g.id is not null and d.kind is not null
    and (tg_op <> 'UPDATE' or (old.kind, old.cabinet, old.district, old.interval_s) is distinct from (new.kind, new.cabinet, new.district, new.interval_s));
  return null;
end $$;
create or replace trigger keep_places after insert or update or delete on city.device for each row execute function city.keep_places();
insert into city.place
select device, scope, id from city.device, lateral (values ('segment', segment), ('district', district), ('feeder', feeder), ('cell', cell)) p(scope, id)
where id is not null on conflict do nothing;

-- Up to where windows are computed. Apart from city.window_progress, whose row those who store readings wait for: close_windows()
-- copies it there.
create table if not exists city.computed (
  kind text primary key,
  computed_until timestamptz not null
);

-- What could not be computed, and why: of compute_windows() a kind of readings, of judge_city() conditions or outages. Each is computed in a
-- block of its own, so that what fails keeps nothing else from being computed, and is tried again each time. raise_failures() makes the job fail.
create table if not exists city.failure (
  job text not null,
  part text not null,
  reason text not null,
  since timestamptz not null default now(),
  primary key (job, part)
);

create or replace function city.note_failure(of_job text, of_part text, message text, context text) returns void
language sql as $$
  insert into city.failure as f (job, part, reason) values (of_job, of_part, concat_ws(', in ', message, substring(context from 'function (city\.\w+)')))
  on conflict (job, part) do update set reason = excluded.reason where f.reason <> excluded.reason
$$;

-- After that was committed which could be computed: see jobs.toml.
create or replace function city.raise_failures(of_job text) returns void
language plpgsql as $$
declare
  reasons text := (select string_agg(format('%s: %s', part, reason), '; ' order by part) from city.failure where job = of_job);
begin
  if reasons is not null then
    raise exception '%', reasons;
  end if;
end $$;

-- === results ===

-- Aggregates. `measure` is the name of the field, with its unit. What `weight` means depends on the measure: see city.measure.
-- A value that was withdrawn is null, so that its revision is remembered.
create table if not exists city.aggregate_1m (
  scope text not null,                       -- device, segment, district, feeder or cell
  id text not null,
  kind text not null,
  window_start timestamptz not null,
  measure text not null,
  value double precision,
  readings bigint not null,                  -- from so many
  devices integer not null,                  -- of so many devices
  weight double precision not null,
  revision integer not null default 1,
  primary key (window_start, scope, kind, id, measure)
) partition by range (window_start);
create index if not exists aggregate_1m_place on city.aggregate_1m (scope, id, window_start) where scope <> 'device';

create table if not exists city.aggregate_15m (
  like city.aggregate_1m including defaults,
  primary key (window_start, scope, kind, id, measure)
) partition by range (window_start);
create index if not exists aggregate_15m_place on city.aggregate_15m (scope, id, window_start) where scope <> 'device';

-- Readings that look wrong, one by one; episodes of them are in city.anomaly.
create table if not exists city.anomaly_point (
  device text not null,
  kind text not null,
  anomaly text not null,                     -- profile, stuck, jump, sentinel, silent, register_backwards
  field text not null,                       -- '': of the reading as a whole
  observed_at timestamptz not null,          -- 'infinity': of a device that is silent still
  since timestamptz not null,                -- the first reading that shows it
  value double precision,
  expected double precision,
  score double precision,                    -- how far beyond what is usual: of the rule's own limit, 1 and more
  reason text not null,
  kafka_partition integer,
  kafka_offset bigint,
  primary key (device, kind, anomaly, field, observed_at)
);

create index if not exists anomaly_point_time on city.anomaly_point (kind, anomaly, observed_at);

create table if not exists city.anomaly (
  id text primary key,                       -- kind|device|anomaly|field|observed_from
  device text not null,
  kind text not null,
  anomaly text not null,
  field text not null,
  observed_from timestamptz not null,
  observed_to timestamptz,                   -- null: it lasts
  value double precision,
  expected double precision,
  score double precision,                    -- of the worst reading
  points bigint not null,
  reason text not null,
  readings jsonb not null,                   -- the first 20: observed_at, kafka_partition, kafka_offset
  withdrawn boolean not null default false,  -- readings that came later say otherwise
  revision integer not null default 1
);
create index if not exists anomaly_device on city.anomaly (device, observed_from);
create index if not exists anomaly_time on city.anomaly (observed_from);
create index if not exists anomaly_rule on city.anomaly (anomaly, observed_from);
create index if not exists anomaly_lasting on city.anomaly (anomaly) where observed_to is null and not withdrawn;
create index if not exists anomaly_silent_until on city.anomaly (observed_to) where anomaly = 'silent' and not withdrawn;

-- A device's own profile, of the days before `day`: of one hour, on workdays or on weekends.
create table if not exists city.profile (
  device text not null,
  kind text not null,
  measure text not null,
  day date not null,                         -- local
  hour integer not null,                     -- local
  median double precision not null,
  spread double precision not null,          -- 1.4826 × median absolute deviation: the standard deviation, were it a normal one
  days integer not null,
  primary key (day, hour, kind, device, measure)
);
-- Made for the device alone, when a reading came late: that of others may not be made yet.
alter table city.profile add column if not exists of_one boolean not null default false;

-- Last reading of each device that was not late, of those that are computed.
create table if not exists city.device_last (
  device text not null,
  kind text not null,
  observed_at timestamptz not null,
  kafka_partition integer,
  kafka_offset bigint,
  primary key (kind, device)
);

-- Windows that changed, for what is computed from aggregates: insights and alerts.
create table if not exists city.changed (
  kind text not null,
  width text not null,                       -- 1m or 15m; silent: a silence of the device, from window_start on
  scope text not null,
  id text not null,
  window_start timestamptz not null,
  primary key (kind, width, scope, id, window_start)
);

-- Cabinets and districts that a device joined or left. Without a constraint, so that who stores a device neither waits for a job nor
-- leaves its row out because of one that the job is deleting.
create table if not exists city.changed_group (
  kind text not null,
  scope text not null,
  id text not null,
  from_at timestamptz not null
);

-- === thresholds ===

-- Numbers that a city may change; a value that is here already stays. Names are path-like: rule, kind, measure. `default_value` is that of
-- this version: where it is another, a city changed it, or an earlier version had another one (see city.v_threshold).
create table if not exists city.threshold (
  name text primary key,
  value double precision not null,
  unit text not null,
  meaning text not null
);
alter table city.threshold add column if not exists default_value double precision;

-- Of more than six windows in a row find_events() sees none: such an alert would never be raised, and nobody would say so.
create or replace function city.keep_threshold() returns trigger
language plpgsql as $$
begin
  if new.value is distinct from city.usable(new.value) then
    raise exception 'city.threshold: % is %: it must be 0, or a number between 1e-9 and 1e15', new.name, new.value using errcode = 'check_violation';
  end if;
  if new.name ~ '\.windows_(on|off)$' and new.value not in (1, 2, 3, 4, 5, 6) then
    raise exception 'city.threshold: % is %: it must be a whole number from 1 to 6', new.name, new.value using errcode = 'check_violation';
  end if;
  if new.name = 'compute.chunk' and new.value < 60 then
    raise exception 'city.threshold: % is %: it must be at least 60, or nothing is computed', new.name, new.value using errcode = 'check_violation';
  end if;
  if tg_op = 'INSERT' then
    new.default_value := new.value;
  end if;
  return new;
end $$;
create or replace trigger keep_threshold before insert or update of name, value on city.threshold for each row execute function city.keep_threshold();

create table if not exists city.setting (
  name text primary key,
  value text not null,
  meaning text not null
);

insert into city.setting (name, value, meaning) values
  ('time_zone', 'UTC', 'Of the city: its hours and weekends decide which profile a reading is compared with.')
on conflict do nothing;

insert into city.threshold as t (name, value, unit, meaning) values
  ('close_after', 30, 's', 'A minute is closed so long after its end, measured by the receipt of the readings stored last.'),
  ('predecessor_within', 604800, 's', 'A reading is compared with earlier ones only if they are not older than this.'),
  ('episode_gap', 900, 's', 'Anomalous readings that follow one another within this are one anomaly.'),
  ('compute.chunk', 900, 's', 'So much is computed at a time when much is to be computed.'),
  ('stands_still', 3600, 's', 'A kind that is computed so much less far than another (and by two chunks) is not waited for.'),
  ('keep.aggregate_1m', 30, 'days', 'Aggregates of one minute older than this are deleted, as partitions.'),
  ('keep.aggregate_15m', 400, 'days', 'And of fifteen. Profiles need profile.days of them.'),
  ('keep.results', 400, 'days', 'Anomalies, insights and alerts that ended before are deleted.'),
  ('keep.undecodable', 90, 'days', 'Records that could not be stored, with their reasons.'),
  ('publish.1m.device', 0, '0 or 1', 'Whether aggregates of one minute per device go to the topic: as many messages as readings.'),

  ('register.gap', 21600, 's', 'Energy between two register readings further apart belongs to no window.'),
  ('register.power_max', 100000, 'W', 'No more than this flows through a meter whose connection (device.capacity_w) is unknown.'),
  ('register.power_margin', 1.5, '', 'Registers may move so many times faster than device.capacity_w allows, before it is an error.'),
  ('register.least', 0.5, 'kWh', 'So much is always plausible between two readings: registers are rounded and read at odd times.'),

  ('stuck.readings', 10, 'readings', 'So many equal readings in a row are a stuck device; at most 10 are compared.'),
  ('stuck.empty_readings', 0, 'readings', 'So many readings in a row without a vehicle, by day, are a stuck counter; at most 10; 0: never. For motorways.'),
  ('missing.speed', 0, '0 or 1', 'Whether a counter that counts vehicles without a speed is wrong: 1 where all detectors measure it.'),
  ('stuck.energy', 0.002, 'kWh', 'A register that stands still is stuck only if the power would have moved it by this.'),

  ('jump.intervals', 2.5, 'intervals', 'Only readings are compared that are no further apart, where the interval is known.'),
  ('jump.traffic.speed_kmh', 40, 'km/h', 'One reading so far from the five before and from the next: no road does that within an interval.'),
  ('jump.traffic.occupancy_percent', 30, '%', 'As above.'),
  ('jump.traffic.flow_veh_h', 3000, 'veh/h', 'As above.'),
  ('jump.lane_flow_veh_h', 2000, 'veh/h', 'But of flow for each lane this, if it is more: when an accident is cleared, every lane is full for a while.'),
  ('jump.weather.temperature_c', 6, 'degC', 'As above.'),
  ('jump.weather.relative_humidity_percent', 20, '%', 'As above.'),
  ('jump.weather.pressure_hpa', 8, 'hPa', 'As above.'),
  ('jump.weather.wind_speed_m_s', 14, 'm/s', 'As above.'),
  ('jump.weather.rain_mm', 8, 'mm', 'As above.'),
  ('jump.energy.power_w', 15000, 'W', 'As above.'),
  ('jump.energy.frequency_hz', 3, 'Hz', 'As above.'),

  ('profile.days_least', 3, 'days', 'Warm-up: a profile of fewer days of the same sort judges nothing.'),
  ('profile.days', 14, 'days', 'A profile is of so many days before the present one.'),
  ('profile.score', 6, 'spreads', 'So many spreads from the median of the same hour on workdays, or on weekends, is an anomaly.'),
  ('profile.relative', 0.05, 'share', 'The spread is at least this share of the median.'),
  ('profile.traffic.flow_veh_h', 30, 'veh/h', 'The spread is at least this.'),
  ('profile.traffic.speed_kmh', 4, 'km/h', 'The spread is at least this.'),
  ('profile.weather.temperature_c', 3, 'degC', 'The spread is at least this.'),
  ('profile.weather.pressure_hpa', 10, 'hPa', 'The spread is at least this.'),
  ('profile.energy.power_w', 50, 'W', 'The spread is at least this.'),

  ('silent.intervals', 3, 'intervals', 'A device that missed so many of its intervals is silent.'),
  ('silent.least', 180, 's', 'But none is silent for less than this.')
on conflict (name) do update set default_value = excluded.default_value, unit = excluded.unit, meaning = excluded.meaning
  where (t.default_value, t.unit, t.meaning) is distinct from (excluded.default_value, excluded.unit, excluded.meaning);

create or replace function city.threshold_of(wanted text) returns double precision
language sql stable as $$ select value from city.threshold where name = wanted $$;

create or replace function city.seconds_of(wanted text) returns interval
language sql stable as $$ select make_interval(secs => value) from city.threshold where name = wanted $$;

-- Up to where the city is computed: all of its kinds but those that stand still. A kind does where it is read no more (its schema was removed, or
-- its topic), where its readings are stored no more, or where its computing fails: one such must not keep outages from being found, and what is
-- old from being deleted, for ever. It is seen from what is computed, not from what is stored, as that is right whatever the reason is. Kinds that catch up after an
-- outage do so in turn, a chunk each, so that they are not taken for ones that stand still; and what is found without one is found
-- again with it, when its silences and windows become known.
create or replace function city.computed_until() returns timestamptz
language sql stable as $$
  select min(computed_until) from city.computed
  where computed_until >= (select max(computed_until) from city.computed) - greatest(city.seconds_of('stands_still'), 2 * city.seconds_of('compute.chunk'))
$$;

-- Up to where it is known of each kind what happened; of one that stands still, that nothing did.
create or replace view city.v_known_until as
select kind, greatest(computed_until, (select city.computed_until())) as known_until from city.computed;

-- The partition of each day between two times, made where it is missing: attached, so that nobody who reads waits for it. (Names of
-- tables cannot be parameters.)
create or replace function city.make_aggregate_partitions(from_at timestamptz, to_at timestamptz) returns void
language plpgsql set timezone to 'UTC' as $$
declare
  day timestamptz;
  parent text;
  partition text;
begin
  for day in select generate_series(date_trunc('day', from_at, 'UTC'), to_at, interval '1 day') loop
    foreach parent in array array['aggregate_1m', 'aggregate_15m'] loop
      partition := parent || to_char(day at time zone 'UTC', '_YYYYMMDD');
      if to_regclass('city.' || partition) is null then
        execute format('create table city.%I (like city.%I including defaults including constraints including indexes)', partition, parent);
        execute format('alter table city.%I attach partition city.%I for values from (%L) to (%L)', parent, partition, day, day + interval '1 day');
      end if;
    end loop;
  end loop;
end $$;
