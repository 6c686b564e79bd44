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

-- Computes what of a kind was closed since, and what is to be computed again; false if that was nothing.
create or replace function city.compute_kind(of_kind text) returns boolean
language plpgsql set timezone to 'UTC' as $$
declare
  closed timestamptz;
  from_at timestamptz;
  to_at timestamptz;
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

  perform city.find_anomalies(of_kind, from_at, to_at);
  perform city.note_changes(of_kind);
  insert into city.computed values (of_kind, to_at) on conflict (kind) do update set computed_until = excluded.computed_until;
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
