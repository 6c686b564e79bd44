-- Which windows are closed, computed, and computed again.
--
-- A minute is closed by city.close_windows() and computed by city.compute_windows(); a reading that arrives after makes its minute,
-- and whatever depends on it, be computed again.

-- Closes the minutes that ended `close_after` before what is stored, or before now, if a gateway's clock is ahead. In a transaction
-- of its own: whoever stores a reading after it sees that its minute is closed.
create or replace function city.close_windows() returns void
language sql as $$
  insert into city.window_progress as p (kind, closed_until, computed_until)
  select s.kind, city.floor_minute(least(min(received_at), now()) - city.seconds_of('close_after')), min(c.computed_until)
  from city.stored s left join city.computed c on c.kind = s.kind
  -- Of another kind nothing is computed: its readings would be noted as due for ever.
  where s.kind in (select m.kind from city.measure m) group by s.kind order by s.kind
  on conflict (kind) do update set closed_until = greatest(p.closed_until, excluded.closed_until), computed_until = excluded.computed_until
    where (p.closed_until is null or excluded.closed_until > p.closed_until) or p.computed_until is distinct from excluded.computed_until
$$;

-- Where a kind begins: at the minute of its first reading. (Of that kind only: a city may have no table of another.)
create or replace function city.first_minute(of_kind text) returns timestamptz
language plpgsql as $$
declare
  first timestamptz;
begin
  execute format('select min(observed_at) from city.%I where not is_late', of_kind) into first;
  return city.floor_minute(first);
end $$;

-- The minute of the first reading of a kind between two times, or the later of them. In steps, as there is no index by time alone.
create or replace function city.next_minute(of_kind text, from_at timestamptz, until timestamptz) returns timestamptz
language plpgsql set enable_seqscan to off as $$
declare
  step interval := interval '15 minutes';
  first timestamptz;
begin
  while from_at < until loop
    execute format('select min(observed_at) from city.%I where observed_at >= $1 and observed_at < $2 and not is_late', of_kind)
      into first using from_at, least(from_at + step, until);
    exit when first is not null;
    from_at := from_at + step;
    step := least(2 * step, interval '6 hours');
  end loop;
  return least(city.floor_minute(first), until);
end $$;

-- Where computing goes on that found nothing up to from_at: at the next reading, however far that is, as in between there is nothing to compute
-- (devices that are silent are so from their last reading on, and conditions end when later windows are known). But no more than a chunk ahead of
-- the readings of other kinds that catch up: those would be taken for kinds that stand still, and be judged as if nothing had come.
create or replace function city.skip_empty(of_kind text, from_at timestamptz, closed timestamptz) returns timestamptz
language plpgsql as $$
declare
  found_at timestamptz := city.next_minute(of_kind, from_at, closed);
  other record;
begin
  for other in
    select c.kind, c.computed_until, p.closed_until from city.computed c join city.window_progress p using (kind)
    where c.kind <> of_kind and c.computed_until < p.closed_until and c.computed_until >= city.computed_until() and to_regclass('city.' || quote_ident(c.kind)) is not null
  loop
    found_at := least(found_at, city.next_minute(other.kind, other.computed_until, other.closed_until) + city.seconds_of('compute.chunk'));
  end loop;
  return greatest(found_at, from_at);
end $$;

-- Computes what of a kind was closed since, and what is to be computed again; false if that was nothing.
create or replace function city.compute_kind(of_kind text) returns boolean
language plpgsql set timezone to 'UTC' as $$
declare
  closed timestamptz;
  from_at timestamptz;
  to_at timestamptz;
  until timestamptz;
  is_empty boolean;
  chunk interval := city.seconds_of('compute.chunk');
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
  to_at := least(closed, from_at + chunk);

  perform city.begin_work();
  -- In pieces too: after an outage it may be days of all devices.
  with taken as (
    delete from city.window_due
    where kind = of_kind and window_start < (select city.floor_quarter(min(window_start)) + chunk from city.window_due where kind = of_kind)
    returning device, window_start)
  insert into taken_due select distinct * from taken
  -- Of older minutes the others of their quarter are deleted.
  where window_start >= closed - make_interval(days => city.threshold_of('keep.aggregate_1m')::integer);
  perform city.make_aggregate_partitions(least(from_at, (select min(window_start) from taken_due)), to_at);

  perform city.load_readings(of_kind, from_at, to_at);
  until := to_at;
  execute format('select not exists (select from %I where is_target and observed_at >= $1)', 'work_' || of_kind) into is_empty using from_at;
  if is_empty and to_at < closed then
    until := city.skip_empty(of_kind, to_at, closed);
    -- The quarter that had begun is over, if it is.
    to_at := least(until, greatest(to_at, city.floor_quarter(from_at) + interval '15 minutes'));
  end if;
  perform city.fill(of_kind);
  perform city.find_doubtful(of_kind);
  if exists (select from work_doubtful) then
    perform city.load_doubtful(of_kind, from_at, to_at);
    delete from work_order o using work_doubtful d where o.device = d.device;
    delete from work_value v using work_doubtful d where v.device = d.device;
    delete from work_register r using work_doubtful d where r.device = d.device;
    perform city.fill(of_kind);
  end if;

  perform city.aggregate_devices(of_kind, from_at);
  perform city.merge_fresh(of_kind, '1m', from_at);
  perform city.aggregate_quarters(of_kind, city.floor_quarter(from_at), city.floor_quarter(to_at));
  perform city.merge_fresh(of_kind, '15m', city.floor_quarter(from_at));
  analyze work_changed;
  perform city.aggregate_places(of_kind, '1m', from_at, to_at);
  perform city.merge_fresh(of_kind, '1m', from_at);
  perform city.aggregate_places(of_kind, '15m', city.floor_quarter(from_at), city.floor_quarter(to_at));
  perform city.merge_fresh(of_kind, '15m', city.floor_quarter(from_at));
  perform city.publish_aggregates(of_kind);

  perform city.find_anomalies(of_kind, from_at, to_at, until);
  perform city.note_changes(of_kind);
  insert into city.computed values (of_kind, until) on conflict (kind) do update set computed_until = excluded.computed_until;
  return true;
end $$;

-- All kinds in turn, so that none waits for all of another, until everything that is closed is computed, or for some 20 s: what is
-- left waits for the next run. So does a kind that fails, whose failure is noted; the others go on.
create or replace function city.compute_windows() returns void
language plpgsql as $$
declare
  of_kind text;
  until timestamptz := clock_timestamp() + interval '20 seconds';
  more boolean := true;
  failed text[] := '{}';
  message text;
  context text;
begin
  while more and clock_timestamp() < until loop
    more := false;
    foreach of_kind in array array['traffic', 'weather', 'energy'] loop
      if to_regclass('city.' || of_kind) is not null and of_kind <> all (failed) then
        begin
          if city.compute_kind(of_kind) then
            more := true;
          end if;
          delete from city.failure where (job, part) = ('compute_windows', of_kind);
        exception when others then
          get stacked diagnostics message = message_text, context = pg_exception_context;
          perform city.note_failure('compute_windows', of_kind, message, context);
          failed := failed || of_kind;
        end;
      end if;
    end loop;
  end loop;
end $$;
