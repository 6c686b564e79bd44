-- What is old is deleted: aggregates as partitions of a day, the rest as rows. How old, is measured from where computing stands, not of a kind that stands still.

create or replace function city.drop_old() returns void
language plpgsql set timezone to 'UTC' as $$
declare
  now_at timestamptz := city.computed_until();
  results_from timestamptz := now_at - make_interval(days => city.threshold_of('keep.results')::integer);
  old record;
begin
  if now_at is null then
    return;
  end if;
  -- Names of tables cannot be parameters. A partition is named after its day: aggregate_1m_20261128.
  for old in
    select p.relname as partition
    from (values ('aggregate_1m'), ('aggregate_15m')) a(name)
    join pg_inherits i on i.inhparent = ('city.' || a.name)::regclass join pg_class p on p.oid = i.inhrelid
    where right(p.relname, 8) < to_char(now_at - make_interval(days => city.threshold_of('keep.' || a.name)::integer), 'YYYYMMDD')
  loop
    execute format('drop table city.%I', old.partition);
  end loop;
  delete from city.anomaly where observed_to < results_from;
  delete from city.anomaly_point where observed_at < results_from;
  delete from city.insight where to_at < results_from;
  delete from city.alert where cleared_at < results_from;
  delete from city.alert_event where window_start < results_from;
  delete from city.undecodable where stored_at < now() - make_interval(days => city.threshold_of('keep.undecodable')::integer);
  delete from city.profile where day < (now_at - interval '2 days')::date;
end $$;
