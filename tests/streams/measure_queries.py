"""Every query of the dashboards, on many readings and a month of aggregates; see measure.sh."""

import contextlib
import datetime
import sys
import threading
import time

import psycopg

from processes import Meter
from surroundings import ROOT

DAYS = 30


def queries(city, given):
    """Tables as the store makes them (tables.py), readings and aggregates made in SQL: only their number and shape matter here."""
    import database

    count = int(given.numbers[0]) if given.numbers else 10_000_000
    seconds = int(given.numbers[1]) if len(given.numbers) > 1 else 900
    devices, today = max(50, count // (DAYS * 24 * 60)), datetime.datetime.now(datetime.UTC).date()
    days = [today - datetime.timedelta(days=back) for back in range(-1, DAYS + 2)]
    database.Database(given.database, days)
    places(city, [f"loop-{number:05}" for number in range(devices)])
    fill_aggregates(city, days, seconds / 2)
    now = city.one("select date_trunc('minute', now())")
    parallel(city, [readings_of_a_day(now - datetime.timedelta(days=back)) for back in range(DAYS)], seconds / 2)
    rows, with_rows = city.sql("select count(*), count(distinct date(observed_at)) from city.traffic").fetchone()
    print(f"{rows} readings on {with_rows} days, {size_of(city, 'traffic')}; {city.one('select count(*) from city.aggregate_15m')} rows of city.aggregate_15m, {size_of(city, 'aggregate_15m')}", flush=True)
    jobs(city, now)
    city.sql("analyze")
    for table in ("traffic", "aggregate_1m", "aggregate_15m", "anomaly", "alert", "device"):
        print(f"  city.{table}: {city.one(f'select count(*) from city.{table}')} rows", flush=True)
    explain(city, now)


def size_of(city, table):
    return city.one("select pg_size_pretty(sum(pg_total_relation_size(relid))) from pg_partition_tree(%s)", f"city.{table}")


def parallel(city, statements, seconds):
    """On six connections; what has not begun after `seconds` is left out."""
    waiting, until = list(statements), time.monotonic() + seconds

    def work():
        with psycopg.connect(city.given.database, autocommit=True) as connection:
            while waiting and time.monotonic() < until:
                with contextlib.suppress(IndexError):
                    connection.execute(waiting.pop(0))

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if waiting:
        print(f"  {len(waiting)} of {len(statements)} days left out: no time", flush=True)


def readings_of_a_day(until):
    """A reading a minute of each device, with two lanes."""
    return f"""insert into city.traffic (device, observed_at, received_at, is_late, reading_id, kafka_partition, kafka_offset, interval_s,
        vehicle_count, flow_veh_h, speed_kmh, occupancy_percent, lanes, classes, class_speed_kmh, class_length_m, quality)
      select device, at, at + interval '200 ms', false, (random() * 1e18)::bigint, 0, 0, 60, vehicles, vehicles * 60, speed, vehicles / 2.0,
        jsonb_build_array(jsonb_build_object('lane', 1, 'vehicle_count', vehicles / 2, 'speed_kmh', speed, 'flow_veh_h', vehicles * 30, 'occupancy_percent', vehicles / 2.0),
          jsonb_build_object('lane', 2, 'vehicle_count', vehicles - vehicles / 2, 'speed_kmh', speed + 10, 'flow_veh_h', vehicles * 30, 'occupancy_percent', vehicles / 3.0)),
        jsonb_build_object('car', vehicles), '{{}}', '{{}}', '[]'
      from (select device, at, (40 * random())::int as vehicles, round((60 + 40 * random())::numeric, 1)::float8 as speed
        from city.device cross join generate_series(timestamptz '{until - datetime.timedelta(days=1)}', '{until - datetime.timedelta(minutes=1)}', '1 min') at order by device, at) r"""


def places(city, devices):
    city.sql("""insert into city.device (device, kind, district, segment, cell, interval_s, lane_count)
      select device, 'traffic', 'district-' || mod(n, 9), 'road-' || n / 9, 'cell-' || mod(n, 20), 60, 2 from unnest(%s::text[]) with ordinality d(device, n)""", devices)


def fill_aggregates(city, days, seconds):
    """Of all days, devices and districts, as many rows as the jobs write, with any values."""
    for parent in ("aggregate_1m", "aggregate_15m"):
        for day in days:
            if city.one("select to_regclass(%s) is null", f"city.{parent}_{day:%Y%m%d}"):
                city.sql(f"create table city.{parent}_{day:%Y%m%d} partition of city.{parent} for values from ('{day} 00:00+00') to ('{day + datetime.timedelta(days=1)} 00:00+00')")
    parallel(city, [f"""insert into city.aggregate_15m (scope, id, kind, window_start, measure, value, readings, devices, weight)
      select scope, id, 'traffic', at, measure, 100 * random(), 15, 1, 15
      from generate_series(timestamptz '{day} 00:00+00', timestamptz '{day} 23:45+00', '15 min') at
      cross join (select 'device', device from city.device union all select distinct 'district', district from city.device) s(scope, id)
      cross join unnest(array['speed_kmh', 'flow_veh_h', 'vehicle_count', 'occupancy_percent']) measure
      where at < now() - interval '2 hours' order by at, scope, id, measure""" for day in days], seconds)
    city.sql("insert into city.device_last (device, kind, observed_at) select device, 'traffic', now() from city.device on conflict do nothing")


def jobs(city, now):
    """The jobs themselves on the last two hours, for two minutes at most."""
    began, ended = now - datetime.timedelta(hours=2), now - datetime.timedelta(minutes=1)
    city.sql("delete from city.window_progress")
    city.sql("insert into city.computed values ('traffic', %s) on conflict (kind) do update set computed_until = excluded.computed_until", began)
    city.sql("insert into city.window_progress values ('traffic', %s, %s)", ended, began)
    until, meter = time.monotonic() + 120, Meter(postgres=city.postgres_pid)
    while time.monotonic() < until and city.one("select computed_until from city.computed") < ended:
        city.sql("select city.compute_windows()")
        city.sql("select city.judge_city()")
    done = city.one("select computed_until from city.computed")
    meter.say(f"jobs, {done - began} of readings", max(1, city.one("select count(*) from city.traffic where observed_at >= %s and observed_at < %s", began, done)))


def explain(city, now):
    sys.path.insert(0, str(ROOT / "deploy/grafana"))
    import city as dashboards

    for span in (1, DAYS):
        print(f"queries over {span} days:\npanel | ms | planned ms | rows | partitions scanned, in the plan | buffers", flush=True)
        for path, board in dashboards.boards():
            for one in board["panels"]:
                for target in one.get("targets", []):
                    if "rawSql" in target:
                        explain_one(city, path.stem, one["title"], target["rawSql"], now - datetime.timedelta(days=span), now)


def explain_one(city, board, title, text, from_at, to_at):
    filled = ""
    while "$__timeFilter(" in text:
        before, _, rest = text.partition("$__timeFilter(")
        column, _, text = rest.partition(")")
        filled += f"{before}{column} between '{from_at}' and '{to_at}'"
    times = []
    for _ in range(2):
        plan = city.one(f"explain (analyze, buffers, format json) {filled}{text}")[0]
        times.append(plan["Execution Time"])
    scanned, all_of_them = set(), set()

    def walk(node):
        if "Relation Name" in node:
            all_of_them.add(node["Relation Name"])
            if node["Actual Loops"]:
                scanned.add(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(plan["Plan"])
    days = [sum(name[-8:].isdigit() for name in names) for names in (scanned, all_of_them)]
    print(f"{board}: {title} | {times[0]:.1f}, {times[1]:.1f} | {plan['Planning Time']:.1f} | {plan['Plan']['Actual Rows']} | {days[0]}, {days[1]} | "
          f"{plan['Plan']['Shared Hit Blocks'] + plan['Plan']['Shared Read Blocks']}", flush=True)
