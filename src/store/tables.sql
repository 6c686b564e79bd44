-- The tables that `citygate store` itself needs; those of the kinds it makes from their schemas. Each statement may be run again.
-- A column that a table did not have from the beginning is added below it once more, for databases that exist.

create schema if not exists city;

-- How far each partition of a topic is stored. Written in the transaction that stores the rows: both are there, or neither.
create table if not exists city.kafka_offset (
  topic text not null,
  partition integer not null,
  next_offset bigint not null,
  written_ms bigint,                         -- when the record before next_offset was written, milliseconds since 1970: by it a topic made anew
  written_next bigint,                       -- is known. Of the next_offset that it was noted with: whoever sets another one need not know it
  primary key (topic, partition)
);
alter table city.kafka_offset add column if not exists written_ms bigint, add column if not exists written_next bigint;

-- Records that are no reading that a table can hold, as they are in Kafka.
create table if not exists city.undecodable (
  topic text not null,
  partition integer not null,
  "offset" bigint not null,
  reason text not null,
  detail text not null,
  key bytea,
  value bytea,
  stored_at timestamptz not null default now(),
  primary key (topic, partition, "offset")
);

-- How far the readings of a kind are stored, by partition: when the last one was received, or when it was seen that there is none after it.
create table if not exists city.stored (
  kind text not null,
  partition integer not null,
  received_at timestamptz not null,
  primary key (kind, partition)
);

-- Windows before closed_until are closed, those before computed_until computed. Whoever stores a reading reads closed_until
-- `for share`, so that no window is closed between its look and its commit.
create table if not exists city.window_progress (
  kind text primary key,
  closed_until timestamptz,
  computed_until timestamptz
);

-- Windows of one minute that got a reading after they were closed. One may be here several times, and no constraint forbids it:
-- a transaction that left its row out because there is one would lose it to a job that deletes that one without seeing its reading.
create table if not exists city.window_due (
  kind text not null,
  device text not null,
  window_start timestamptz not null
);
create index if not exists window_due_start on city.window_due (kind, window_start);
drop index if exists city.window_due_kind; -- of earlier versions: without the time

-- Results on their way to topics: published in the order of id, then deleted.
create table if not exists city.outbox (
  id bigserial primary key,
  topic text not null,
  key text,
  value jsonb,
  created_at timestamptz not null default now()
);
create index if not exists outbox_topic on city.outbox (topic, id);

-- Where devices are, and what they belong to: the last record of each in the topic of devices.
create table if not exists city.device (
  device text primary key,
  kind text,
  latitude double precision,
  longitude double precision,
  segment text,
  position_m double precision,
  upstream text[],
  downstream text[],
  lane_count integer,
  district text,
  feeder text,
  cell text,
  operator text,
  interval_s double precision,
  cabinet text,
  capacity_w double precision,
  valid_from timestamptz,
  kafka_partition integer,                   -- of that record, and when it was written
  written_at timestamptz
);
alter table city.device add column if not exists kafka_partition integer, add column if not exists written_at timestamptz;

-- Devices that were withdrawn, by the record without a value.
create table if not exists city.device_gone (
  device text primary key,
  kafka_partition integer not null,
  written_at timestamptz not null
);

-- Every schema that readings were written with, by the header of Avro's single-object encoding: the folder has only the present ones.
create table if not exists city.avro_schema (
  header bytea primary key,
  kind text not null,
  schema text not null,
  since timestamptz not null default now()
);
