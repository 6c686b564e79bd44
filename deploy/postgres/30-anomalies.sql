-- Readings and devices that look wrong, each with its reason and the readings that show it.
--
-- A rule looks at one reading, the nine before it and the one after, so that a reading that arrives after its time changes a
-- known few. Jumps and stuck values are looked for in the devices that city.find_doubtful() names. What it finds are points, one reading each; points that follow one another are one anomaly.
--   sentinel            the device sent a code for "no reading", or a value that cannot be: the gateway noted it in `quality`
--   jump                one reading far from the five before, and the next is back: no road, sky or home does that
--   stuck               ten readings in a row that are equal in all that lives, while the clock goes on
--   register_backwards  a register is lower than before, and not because all its digits were used
--   silent              three of its intervals without a reading
--   profile             a quarter of an hour far from the device's own median at that hour of workdays, or of weekends
-- The score is how far beyond the rule's limit it is: 1 is just there.

create or replace function city.median(of double precision[]) returns double precision
language sql immutable as $$ select percentile_cont(0.5) within group (order by v) from unnest(of) v $$;

-- What the gateway noted. Notes of the device itself are its own affair; those on a lane count for the lane's field.
create or replace function city.find_sentinels(of_kind text) returns void
language plpgsql as $$
begin
  insert into work_point
  select device, of_kind, 'sentinel', note ->> 'field', observed_at, observed_at, null, null, 1,
    format('%s is null: the device sent %s', coalesce(nullif(note ->> 'field', ''), 'a value'),
      case min(note ->> 'flag') when 'sentinel' then 'its code for no reading' else 'a value out of range' end),
    kafka_partition, kafka_offset
  from work_order cross join lateral jsonb_array_elements(quality) note
  where is_target and jsonb_typeof(quality) = 'array' and note ->> 'source' = 'gateway' and note ->> 'flag' in ('sentinel', 'out_of_range')
  group by device, note ->> 'field', observed_at, kafka_partition, kafka_offset;
end $$;

-- Of a lane that has neither flow nor speed nothing is to be believed. And where all detectors measure speeds, one that counts
-- without is broken.
create or replace function city.find_counters_wrong() returns void
language plpgsql as $$
begin
  insert into work_point
  select device, 'traffic', 'sentinel', lane, observed_at, observed_at, null, null, 1, format('%s has neither a flow nor a speed', lane), kafka_partition, kafka_offset
  from work_order
  cross join lateral (
    select substring(note ->> 'field' from '^lanes\[\d+\]') as lane, count(distinct note ->> 'field') as fields
    from jsonb_array_elements(quality) note
    where note ->> 'source' = 'gateway' and note ->> 'field' ~ '^lanes\[\d+\]\.(flow_veh_h|speed_kmh)$'
    group by 1) l
  where is_target and jsonb_typeof(quality) = 'array' and fields = 2;

  if city.threshold_of('missing.speed') = 1 then
    insert into work_point
    select o.device, 'traffic', 'sentinel', '', o.observed_at, o.observed_at, f.value, null, 1, format('%s veh/h were counted, but no speed', f.value), o.kafka_partition, o.kafka_offset
    from work_order o join work_value f on f.device = o.device and f.observed_at = o.observed_at and f.measure = 'flow_veh_h' and f.value > 0
    where o.is_target and not exists (select from work_value s where s.device = o.device and s.observed_at = o.observed_at and s.measure = 'speed_kmh');
  end if;
end $$;

-- A reading is judged when the next one is known: `previous_at` of a target. And only between readings that follow one another: in
-- what two missing ones leave open, a queue may have come and gone. One that is there for a single reading is no fault either: vehicles
-- that are slow cover the detector for longer, and a value that is wrong is wrong alone.
create or replace function city.find_jumps(of_kind text) returns void
language plpgsql as $$
declare
  intervals double precision := city.threshold_of('jump.intervals');
  lane_flow double precision := city.threshold_of('jump.lane_flow_veh_h');
begin
  insert into work_point
  with limits as (
    select substr(name, length('jump.' || of_kind) + 2) as measure, value as jump from city.threshold where name like 'jump.' || of_kind || '.%'
  ), neighbours as (
    select v.device, v.measure, case v.measure when 'flow_veh_h' then greatest(l.jump, lane_flow * d.lane_count) else l.jump end as jump, v.is_target, o.number, v.value as next, v.observed_at as next_at, lag(v.observed_at, 2) over w as before_at,
      lag(v.value) over w as value, lag(v.observed_at) over w as at, lag(o.number) over w as at_number,
      lag(o.number, 6) over w as oldest_number,
      array[lag(v.value, 2) over w, lag(v.value, 3) over w, lag(v.value, 4) over w, lag(v.value, 5) over w, lag(v.value, 6) over w] as before
    from work_doubtful join work_value v using (device) join limits l using (measure) join work_order o using (device, observed_at)
    left join city.device d on d.device = v.device and d.kind = of_kind
    window w as (partition by v.device, v.measure order by v.observed_at)
  ), isolated as (
    -- The median is asked only of the few that leap from the reading before, and back.
    select n.*, city.median(before) as usual
    from neighbours n
    where is_target and number - at_number = 1 and number - oldest_number <= 9
      and abs(value - next) > jump and abs(value - before[1]) > jump * 0.5
  )
  select i.device, of_kind, 'jump', measure, at, at, value, usual, abs(value - usual) / jump,
    format('%s is %s; the five readings before have the median %s, the next is %s: a jump of over %s', measure,
      round(value::numeric, 3), round(usual::numeric, 3), round(next::numeric, 3), jump),
    o.kafka_partition, o.kafka_offset
  from isolated i join work_order o on o.device = i.device and o.observed_at = i.at
  left join city.device d on d.device = i.device and d.kind = of_kind
  where greatest(next_at - at, at - before_at) <= make_interval(secs => intervals * d.interval_s) is not false
    and abs(value - usual) > jump and abs(next - usual) < jump and sign(value - usual) = sign(value - next)
    -- The last reading of a queue is far from what is usual as well, but not from the one before.
    and abs(value - before[1]) > 0.5 * abs(value - usual)
    and not exists (select from work_value other join work_value earlier using (device, measure) join limits l using (measure)
      where (i.measure, other.measure) in (('speed_kmh', 'occupancy_percent'), ('occupancy_percent', 'speed_kmh'))
        and other.device = i.device and other.observed_at = i.at and earlier.observed_at = o.previous_at
        and sign(other.value - earlier.value) = -sign(i.value - usual) and abs(other.value - earlier.value) > l.jump / 3);
end $$;

-- Equal fingerprints in a row. Of a meter the register must have stood still where the power would have moved it. On a motorway a
-- counter that counts nothing by day is stuck, too.
create or replace function city.find_stuck(of_kind text) returns void
language plpgsql as $$
declare
  wanted integer := least(10, city.threshold_of('stuck.readings'));
  wanted_empty integer := least(10, city.threshold_of('stuck.empty_readings'));
  least_kwh double precision := city.threshold_of('stuck.energy');
  reach interval := city.seconds_of('predecessor_within');
  zone text := (select value from city.setting where name = 'time_zone');
begin
  insert into work_point
  with runs as (
    select device, observed_at, is_target, fingerprint, kafka_partition, kafka_offset, lag(fingerprint, wanted - 1) over w as first,
      lag(observed_at, wanted - 1) over w as since, array_agg(fingerprint) over (w rows between 9 preceding and current row) as fingerprints
    from work_order join work_doubtful using (device) window w as (partition by device order by observed_at)
  ), equal as (
    select * from runs
    where is_target and fingerprint = first and observed_at - since <= reach
      and (select count(distinct f) = 1 and count(f) = wanted from unnest(fingerprints[cardinality(fingerprints) - wanted + 1:]) f)
  )
  select e.device, of_kind, 'stuck', '', e.observed_at, since, null, null, 1,
    format('%s readings in a row are equal in every value, since %s', wanted, to_char(since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
    e.kafka_partition, e.kafka_offset
  from equal e
  left join work_value p on of_kind = 'energy' and p.device = e.device and p.observed_at = e.observed_at and p.measure = 'power_w'
  where of_kind <> 'energy' or abs(p.value) / 3.6e6 * extract(epoch from e.observed_at - since) >= least_kwh;

  if of_kind <> 'traffic' or wanted_empty < 1 then
    return;
  end if;
  insert into work_point
  with runs as (
    select o.device, o.observed_at, o.is_target, o.kafka_partition, o.kafka_offset, lag(o.observed_at, wanted_empty - 1) over w as since,
      array_agg(coalesce(v.value, -1)) over (w rows between 9 preceding and current row) as flows
    from work_doubtful join work_order o using (device)
    left join work_value v on v.device = o.device and v.observed_at = o.observed_at and v.measure = 'flow_veh_h'
    window w as (partition by o.device order by o.observed_at)
  )
  select device, of_kind, 'stuck', '', observed_at, since, 0, null, 1,
    format('%s readings in a row without a vehicle, by day, since %s', wanted_empty, to_char(since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
    kafka_partition, kafka_offset
  from runs
  where is_target and observed_at - since <= reach and extract(hour from observed_at at time zone zone) between 7 and 18
    and (select bool_and(f = 0) from unnest(flows[cardinality(flows) - wanted_empty + 1:]) f);
end $$;

create or replace function city.find_registers_wrong() returns void
language plpgsql as $$
begin
  insert into work_point
  select r.device, 'energy', case when verdict = 'implausible' then 'jump' else 'register_backwards' end, field, r.observed_at, r.observed_at,
    register, previous, abs(register - previous) / greatest(step_max, 1e-9),
    case verdict
      when 'implausible' then format('%s rose from %s to %s; no more than %s can have flowed', field, previous, register, round(step_max::numeric, 3))
      when 'reset' then format('%s began again at %s after %s: another meter, or one that was reset', field, register, previous)
      else format('%s fell from %s to %s, and not as all digits were used', field, previous, register)
    end,
    o.kafka_partition, o.kafka_offset
  from work_register r join work_order o on o.device = r.device and o.observed_at = r.observed_at
  where verdict in ('implausible', 'reset', 'backwards');
end $$;

-- Silences that ended with one of the targets.
create or replace function city.find_silences(of_kind text) returns void
language plpgsql as $$
declare
  -- Half an interval is what devices are early or late by.
  intervals double precision := city.threshold_of('silent.intervals') + 0.5;
  least_s double precision := city.threshold_of('silent.least');
begin
  -- A silence may be longer than what other rules look back.
  execute format('update work_order o set previous_at = (select max(r.observed_at) from city.%I r where r.device = o.device and r.observed_at < o.observed_at)
    where o.is_target and o.previous_at is null', of_kind || '_reading');
  insert into work_point
  select o.device, of_kind, 'silent', '', observed_at, since, seconds, interval_s, seconds / greatest(intervals * interval_s, least_s),
    format('no reading for %s s, one every %s s is expected', round(seconds), interval_s), o.kafka_partition, o.kafka_offset
  from work_order o join city.device d on d.device = o.device and d.kind = of_kind
  -- A device that comes back was not silent before it was there again.
  cross join lateral (select case when d.valid_from > previous_at and d.valid_from <= observed_at then d.valid_from else previous_at end) s(since)
  cross join lateral (select extract(epoch from observed_at - since)) t(seconds)
  where is_target and seconds > greatest(intervals * interval_s, least_s);

  insert into city.device_last as l (device, kind, observed_at, kafka_partition, kafka_offset)
  select distinct on (device) device, of_kind, observed_at, kafka_partition, kafka_offset from work_order where is_target order by device, observed_at desc
  on conflict (kind, device) do update
    set observed_at = excluded.observed_at, kafka_partition = excluded.kafka_partition, kafka_offset = excluded.kafka_offset
    where (excluded.observed_at, excluded.kafka_partition, excluded.kafka_offset) is distinct from (l.observed_at, l.kafka_partition, l.kafka_offset)
      and excluded.observed_at >= l.observed_at;
end $$;

-- Silences that last: points at 'infinity', of the devices whose last reading is too long before `now_at`, where computing stands.
create or replace function city.find_silent_now(of_kind text, now_at timestamptz) returns void
language plpgsql as $$
declare
  -- Half an interval is what devices are early or late by.
  intervals double precision := city.threshold_of('silent.intervals') + 0.5;
  least_s double precision := city.threshold_of('silent.least');
begin
  with silent as (
    -- Not since before it was there: its last reading may be from another time.
    select d.device, greatest(l.observed_at, d.valid_from) as since, d.interval_s, l.kafka_partition, l.kafka_offset
    from city.device d left join city.device_last l on l.kind = of_kind and l.device = d.device
    where d.kind = of_kind and d.interval_s is not null
      and greatest(l.observed_at, d.valid_from) + make_interval(secs => greatest(intervals * d.interval_s, least_s)) < now_at
  ), over as (
    delete from city.anomaly_point p
    where kind = of_kind and anomaly = 'silent' and observed_at = 'infinity'
      and not exists (select from silent s where s.device = p.device and s.since = p.since)
    returning device
  ), begun as (
    insert into city.anomaly_point
    select device, of_kind, 'silent', '', 'infinity', since, null, interval_s, 1,
      format('no reading since %s, one every %s s is expected', to_char(since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), interval_s),
      kafka_partition, kafka_offset
    from silent
    on conflict (device, kind, anomaly, field, observed_at) do update
      set since = excluded.since, reason = excluded.reason, kafka_partition = excluded.kafka_partition, kafka_offset = excluded.kafka_offset
      where (city.anomaly_point.since, city.anomaly_point.kafka_offset) is distinct from (excluded.since, excluded.kafka_offset)
    returning device
  )
  insert into work_subject select device, 'silent', '' from over union select device, 'silent', '' from begun;
end $$;

-- The quarters of an hour of the same hour of so many days before, of the same sort of day.
create or replace function city.quarters_before(day date, hour integer, days integer, zone text) returns table (of_day date, window_start timestamptz)
language sql stable as $$
  select before.day, (before.day + make_interval(hours => hour, mins => minutes)) at time zone zone
  from generate_series(1, days) back cross join lateral (select quarters_before.day - back) before(day) cross join unnest(array[0, 15, 30, 45]) minutes
  where (extract(isodow from before.day) >= 6) = (extract(isodow from quarters_before.day) >= 6)
$$;

-- The profiles that the quarters from from_at to to_at are compared with: of the same hour of earlier days of the same sort, as
-- far as they are not made yet. What they are made of was closed the day before, so that they are made once.
create or replace function city.make_profiles(of_kind text, from_at timestamptz, to_at timestamptz) returns void
language plpgsql as $$
declare
  zone text := (select value from city.setting where name = 'time_zone');
  days_before integer := city.threshold_of('profile.days');
  days_least integer := city.threshold_of('profile.days_least');
begin
  insert into city.profile (device, kind, measure, day, hour, median, spread, days)
  with wanted as (
    select distinct local::date as day, extract(hour from local)::integer as hour
    from generate_series(from_at, to_at - interval '15 minutes', interval '15 minutes') q, lateral (select q at time zone zone) l(local)
    where not exists (select from city.profile p
      where p.day = local::date and p.hour = extract(hour from local)::integer and p.kind = of_kind and not p.of_one)
  ), quarters as (
    select * from wanted w cross join lateral city.quarters_before(w.day, w.hour, days_before, zone)
  ), history as (
    select q.day, q.hour, q.of_day, a.id, a.measure, a.value
    from quarters q join city.aggregate_15m a on a.window_start = q.window_start and a.scope = 'device' and a.kind = of_kind
    join city.threshold t on t.name = 'profile.' || of_kind || '.' || a.measure
    where a.value is not null and a.window_start >= from_at - make_interval(days => days_before + 1) and a.window_start < to_at
  ), kept as (
    select day, hour, id, measure, array_agg(value) as of, count(distinct of_day) as days
    from history group by day, hour, id, measure having count(distinct of_day) >= days_least
  )
  select id, of_kind, measure, day, hour, median, 1.4826 * city.median((select array_agg(abs(v - median)) from unnest(of) v)), days
  from kept cross join lateral (select city.median(of)) m(median)
  on conflict do nothing;
end $$;

-- The same of a device that a reading came from for a quarter of an hour that computing had passed by without any.
create or replace function city.make_late_profiles(of_kind text, from_at timestamptz) returns void
language plpgsql as $$
declare
  zone text := (select value from city.setting where name = 'time_zone');
  days_before integer := city.threshold_of('profile.days');
  days_least integer := city.threshold_of('profile.days_least');
  earliest timestamptz;
  latest timestamptz;
begin
  select min(window_start) - make_interval(days => days_before + 1), max(window_start) into earliest, latest
  from work_changed where width = '15m' and scope = 'device' and window_start < from_at;
  if earliest is null then
    return;
  end if;
  insert into city.profile (device, kind, measure, day, hour, median, spread, days, of_one)
  with wanted as (
    select distinct id as device, local::date as day, extract(hour from local)::integer as hour
    from work_changed, lateral (select window_start at time zone zone) l(local)
    where width = '15m' and scope = 'device' and window_start < from_at and not exists (select from city.profile p
      where p.day = local::date and p.hour = extract(hour from local)::integer and p.kind = of_kind and p.device = id)
  ), history as (
    select w.device, w.day, w.hour, q.of_day, a.measure, a.value
    from wanted w cross join lateral city.quarters_before(w.day, w.hour, days_before, zone) q
    join city.aggregate_15m a on a.window_start = q.window_start and a.scope = 'device' and a.kind = of_kind and a.id = w.device
    join city.threshold t on t.name = 'profile.' || of_kind || '.' || a.measure
    where a.value is not null and a.window_start >= earliest and a.window_start < latest
  ), kept as (
    select device, day, hour, measure, array_agg(value) as of, count(distinct of_day) as days
    from history group by device, day, hour, measure having count(distinct of_day) >= days_least
  )
  select device, of_kind, measure, day, hour, median, 1.4826 * city.median((select array_agg(abs(v - median)) from unnest(of) v)), days, true
  from kept cross join lateral (select city.median(of)) m(median)
  on conflict do nothing;
end $$;

-- Quarters of an hour that were computed in this run, against the profile. Their points are at the end of the quarter.
create or replace function city.find_unusual(of_kind text, from_at timestamptz, to_at timestamptz) returns void
language plpgsql set enable_seqscan to off set jit to off as $$
declare
  zone text := (select value from city.setting where name = 'time_zone');
  score_least double precision := city.threshold_of('profile.score');
  share double precision := city.threshold_of('profile.relative');
  earliest timestamptz := (select min(window_start) from work_changed where width = '15m');
  latest timestamptz := (select max(window_start) from work_changed where width = '15m');
begin
  if to_at > from_at then
    perform city.make_profiles(of_kind, from_at, to_at);
  end if;
  perform city.make_late_profiles(of_kind, from_at);
  insert into work_point
  select a.id, of_kind, 'profile', a.measure, a.window_start + interval '15 minutes', a.window_start, a.value, p.median,
    abs(a.value - p.median) / greatest(p.spread, t.value, share * abs(p.median), 1e-9) / greatest(score_least, 1e-9),
    format('%s is %s in the quarter of an hour from %s; usual at this hour of a %s: %s, by the median of %s days', a.measure,
      round(a.value::numeric, 2), to_char(a.window_start at time zone zone, 'HH24:MI'),
      case when extract(isodow from p.day) >= 6 then 'weekend' else 'workday' end, round(p.median::numeric, 2), p.days),
    null, null
  from (select distinct id, window_start from work_changed where width = '15m' and scope = 'device') c
  -- By their keys; `offset 0`: not the other way round.
  cross join lateral (
    select * from city.aggregate_15m f where f.window_start = c.window_start and f.scope = 'device' and f.kind = of_kind and f.id = c.id
      and f.window_start between earliest and latest offset 0) a
  join city.threshold t on t.name = 'profile.' || of_kind || '.' || a.measure
  join city.profile p on p.day = (a.window_start at time zone zone)::date and p.hour = extract(hour from a.window_start at time zone zone)
    and p.kind = of_kind and p.device = a.id and p.measure = a.measure
  where abs(a.value - p.median) > score_least * greatest(p.spread, t.value, share * abs(p.median));
end $$;

-- The points of the targets as they are now, in place of those that were.
create or replace function city.replace_points(of_kind text) returns void
language plpgsql as $$
begin
  with judged as (
    -- Registers are judged at the reading itself, jumps of other values when the next one is known.
    select device, observed_at, true as itself from work_order where is_target
    union select device, previous_at, false from work_order where is_target and previous_at is not null
  ), gone as (
    delete from city.anomaly_point p
    using judged j
    where p.kind = of_kind and p.device = j.device and p.observed_at = j.observed_at and p.anomaly <> 'profile'
      and j.itself = (p.anomaly <> 'jump' or p.field in ('energy_import_kwh', 'energy_export_kwh'))
      and not exists (select from work_point w where (w.device, w.anomaly, w.field, w.observed_at) = (p.device, p.anomaly, p.field, p.observed_at))
    returning p.device, p.anomaly, p.field, p.observed_at
  ), usual as (
    delete from city.anomaly_point p
    using (select distinct id, window_start + interval '15 minutes' as observed_at from work_changed where width = '15m' and scope = 'device') c
    where p.kind = of_kind and p.device = c.id and p.observed_at = c.observed_at and p.anomaly = 'profile'
      and not exists (select from work_point w where (w.device, w.anomaly, w.field, w.observed_at) = (p.device, p.anomaly, p.field, p.observed_at))
    returning p.device, p.anomaly, p.field, p.observed_at
  ), found as (
    insert into city.anomaly_point as p select * from work_point
    on conflict (device, kind, anomaly, field, observed_at) do update
      set since = excluded.since, value = excluded.value, expected = excluded.expected, score = excluded.score, reason = excluded.reason,
        kafka_partition = excluded.kafka_partition, kafka_offset = excluded.kafka_offset
      where (p.since, p.value, p.expected, p.score, p.reason, p.kafka_partition, p.kafka_offset) is distinct from
        (excluded.since, excluded.value, excluded.expected, excluded.score, excluded.reason, excluded.kafka_partition, excluded.kafka_offset)
    returning p.device, p.anomaly, p.field, p.observed_at
  ), differs as (
    select * from gone union select * from usual union select * from found
  ), noted as (
    -- Alerts on feeders leave jumps out.
    insert into city.changed
    select of_kind, '15m', place.scope, place.id, city.floor_quarter(observed_at) from differs join city.place using (device)
    where of_kind = 'energy' and anomaly = 'jump' and place.scope = 'feeder' on conflict do nothing
  )
  insert into work_subject select distinct device, anomaly, field from differs;
end $$;

-- Points that follow one another are one anomaly: those of the devices and fields of which a point changed, made anew.
create or replace function city.replace_anomalies(of_kind text) returns void
language plpgsql as $$
declare
  gap interval := city.seconds_of('episode_gap');
begin
  with points as (
    select p.*,
      p.since > max(p.observed_at) over (partition by p.device, p.anomaly, p.field order by p.observed_at, p.since
        rows between unbounded preceding and 1 preceding) + gap is not false as begins
    from city.anomaly_point p join (select distinct * from work_subject) s using (device, anomaly, field)
    where p.kind = of_kind
  ), numbered as (
    select *, count(*) filter (where begins) over (partition by device, anomaly, field order by observed_at, since) as episode from points
  ), fresh as (
    select device, anomaly, field, min(since) as observed_from, nullif(max(observed_at), 'infinity') as observed_to, count(*) as points,
      (array_agg(value order by score desc, observed_at))[1] as value, (array_agg(expected order by score desc, observed_at))[1] as expected,
      max(score) as score, (array_agg(reason order by score desc, observed_at))[1] as reason,
      jsonb_agg(jsonb_build_object('observed_at', coalesce(nullif(observed_at, 'infinity'), since), 'kafka_partition', kafka_partition,
        'kafka_offset', kafka_offset) order by observed_at) as readings
    from numbered group by device, anomaly, field, episode
  ), named as (
    select of_kind || '|' || device || '|' || anomaly || '|' || field || '|' || to_char(observed_from at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as id,
      device, anomaly, field, observed_from, observed_to, value, expected, score, points, reason,
      jsonb_path_query_array(readings, '$[0 to 19]') as readings
    from fresh
  ), written as (
    insert into city.anomaly as a (id, device, kind, anomaly, field, observed_from, observed_to, value, expected, score, points, reason, readings)
    select id, device, of_kind, anomaly, field, observed_from, observed_to, value, expected, score, points, reason, readings from named
    on conflict (id) do update
      set observed_to = excluded.observed_to, value = excluded.value, expected = excluded.expected, score = excluded.score,
        points = excluded.points, reason = excluded.reason, readings = excluded.readings, withdrawn = false, revision = a.revision + 1
      where (a.observed_to, a.value, a.expected, a.score, a.points, a.reason, a.readings, a.withdrawn) is distinct from
        (excluded.observed_to, excluded.value, excluded.expected, excluded.score, excluded.points, excluded.reason, excluded.readings, false)
    returning a.*
  ), gone as (
    update city.anomaly a set withdrawn = true, revision = a.revision + 1
    from (select distinct * from work_subject) s
    where a.kind = of_kind and (a.device, a.anomaly, a.field) = (s.device, s.anomaly, s.field) and not a.withdrawn
      and not exists (select from named n where n.id = a.id)
    returning a.*
  ), differs as (
    select * from written union all select * from gone
  ), noted as (
    -- For alerts, which look at silences from there on.
    insert into city.changed select distinct of_kind, 'silent', 'device', device, observed_from from differs where anomaly = 'silent' on conflict do nothing
  )
  insert into city.outbox (topic, key, value)
  select 'city.anomalies', id, to_jsonb(c) from (select * from differs order by observed_from, id) c;
end $$;

-- `until`: where computing goes on; from to_at up to there are no readings.
drop function if exists city.find_anomalies(text, timestamptz, timestamptz);
create or replace function city.find_anomalies(of_kind text, from_at timestamptz, to_at timestamptz, until timestamptz) returns void
language plpgsql as $$
begin
  perform city.find_sentinels(of_kind);
  perform city.find_jumps(of_kind);
  perform city.find_stuck(of_kind);
  case of_kind
    when 'energy' then perform city.find_registers_wrong();
    when 'traffic' then perform city.find_counters_wrong();
    else null;
  end case;
  perform city.find_silences(of_kind);
  perform city.find_silent_now(of_kind, until);
  perform city.find_unusual(of_kind, city.floor_quarter(from_at), city.floor_quarter(to_at));
  perform city.replace_points(of_kind);
  perform city.replace_anomalies(of_kind);
end $$;
