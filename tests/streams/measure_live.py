"""Gateway, store and jobs under a fixed load; see measure.sh."""

import atexit
import json
import os
import pathlib
import subprocess
import time

from processes import Meter, end, load, memory
from surroundings import KINDS

SHARE = {kind: 1 / 3 for kind in KINDS}  # the fleet takes them in turn


def live(city, given):
    rate, seconds = float(given.numbers[0]), int(given.numbers[1])
    devices = int(given.numbers[2]) if len(given.numbers) > 2 else max(300, int(3 * rate))
    config = city.config("live", given.sql)
    city.citygate("topics", "apply", "--config", str(config))
    publish_places(city, config, devices, devices / rate)
    gateway, process = city.start("run", config), city.start("store", config)
    city.await_answer(gateway, city.http)
    city.await_answer(process, city.store_port)
    warm = {topic: topic_bytes(topic) for topic in os.listdir(pathlib.Path(os.environ["KAFKA_DATA"]) / "records")}
    report = open(city.work / "report.json", "w+")
    fleet = subprocess.Popen(city.fleet(rate, seconds, devices), stdout=report, stderr=open(city.work / "fleet.log", "w"))
    atexit.register(end, fleet)
    meter = Meter(fleet=fleet.pid, gateway=gateway.pid, kafka=city.kafka_pid, store=process.pid, postgres=city.postgres_pid)
    began, peak = time.monotonic(), dict.fromkeys(meter.pids, 0.0)
    while fleet.poll() is None:
        time.sleep(15)
        for name, pid in meter.pids.items():
            peak[name] = max(peak[name], memory(pid))
        meter.read()
        say_progress(city, began)
    wall = time.monotonic() - began
    stored = city.one("select sum(next_offset)::bigint from city.kafka_offset where topic in ('city.traffic', 'city.weather', 'city.energy')")
    used = meter.say(f"live at {rate:.0f}/s for {seconds} s", stored)
    report.seek(0)
    said = report.read()
    (city.work / "report.json").write_text(said)
    print("part | share of a core | MiB at most\n" + "\n".join(f"{name} | {used[name] / wall:.2f} | {peak[name]:.0f}" for name in used), flush=True)
    print("fleet:", " ".join(said.split())[:1500], flush=True)
    settle(city, began)
    latencies(city)
    against_plan(city, given, devices, devices / rate, warm)
    end(process)
    end(gateway)


def publish_places(city, config, devices, interval_s):
    listed = subprocess.run([city.given.simulators, "run", "--list-devices", "--devices", str(devices), "--interval-ms", str(int(1000 * interval_s)), "--http", "127.0.0.1:1"],
                            check=True, capture_output=True, text=True).stdout
    (city.work / "places.ndjson").write_text(listed)
    city.citygate("devices", "publish", "--config", str(config), "--from", str(city.work / "places.ndjson"))


def say_progress(city, began):
    found = city.metrics()
    behind = city.sql("select kind, extract(epoch from now() - computed_until)::int from city.computed order by 1").fetchall()
    print(f"  {time.monotonic() - began:.0f} s: stored {found.get('citygate_store_rows_total', 0):.0f}, lag {found.get('citygate_store_lag_records', 0):.0f}, "
          f"computed until so many s ago: {dict(behind)}, outbox {city.one('select count(*) from city.outbox')}, job failures {found.get('citygate_store_job_failures_total', 0):.0f} (load {load():.0f})", flush=True)


def settle(city, began):
    """Until what was sent is stored and computed, for a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(15)
        say_progress(city, began)


def latencies(city):
    """From a reading's observed_at, when it was sent, and from the end of a minute, to the commit that shows it."""
    def say(what, text):
        row = city.sql(f"select count(*), min(s), percentile_cont(0.5) within group (order by s), percentile_cont(0.99) within group (order by s), max(s) from ({text}) x").fetchone()
        print(f"{what} | {row[0]} | " + " | ".join(f"{1000 * float(value):.0f}" for value in row[1:] if value is not None), flush=True)

    print("latency, ms | of | least | p50 | p99 | most")
    rows = " union all ".join(f"select observed_at, received_at, pg_xact_commit_timestamp(xmin) as at from city.{kind}" for kind in KINDS)
    say("sent to received", f"select extract(epoch from received_at - observed_at)::float8 as s from ({rows}) r")
    say("received to row", f"select extract(epoch from at - received_at)::float8 as s from ({rows}) r")
    say("sent to row", f"select extract(epoch from at - observed_at)::float8 as s from ({rows}) r")
    for scope in ("device", "district"):
        say(f"end of the minute to its aggregate of a {scope}", f"""select extract(epoch from pg_xact_commit_timestamp(xmin) - window_start - interval '1 minute')::float8 as s
          from city.aggregate_1m where scope = '{scope}' and revision = 1""")


def topic_bytes(topic):
    folder = pathlib.Path(os.environ["KAFKA_DATA"]) / "records" / topic
    return sum(file.stat().st_size for file in folder.glob("*.log"))


def planned(given, devices, interval_s, kinds):
    plan = subprocess.run([given.citygate, "topics", "plan", "--json", "--devices", str(devices), "--interval", f"{int(1000 * interval_s)}ms", "--kinds", kinds,
                           "--gateways", "1"],
                          check=True, capture_output=True, text=True)
    found = json.loads(plan.stdout)
    return found[0] if isinstance(found, list) else found


def against_plan(city, given, devices, interval_s, warm):
    plan = planned(given, devices, interval_s, ",".join(f"{kind}={share}" for kind, share in SHARE.items()))
    print("kind | records | bytes of each in Kafka's log | plan | records in a batch | plan | bytes of a row | plan | of it table, indexes")
    for topic in plan["topics"]:
        kind = topic["kind"]
        records = city.one("select sum(next_offset)::bigint from city.kafka_offset where topic = %s", f"city.{kind}")
        size = sum(topic_bytes(f"city.{kind}-{partition}") - warm.get(f"city.{kind}-{partition}", 0) for partition in range(3))
        in_batch = records / max(1, sum(1 for _ in batches(kind)))
        rows, row, heap, index = city.sql(f"""select (select count(*) from city.{kind}), sum(pg_total_relation_size(relid))::bigint, sum(pg_relation_size(relid))::bigint,
          sum(pg_indexes_size(relid))::bigint from pg_partition_tree('city.{kind}') where isleaf""").fetchone()
        row_planned = planned(given, devices, interval_s, f"{kind}=1")["storage"]["bytes_per_row"]
        print(f"{kind} | {records} | {size / records:.0f} | {topic['bytes_per_record']:.0f} | {in_batch:.2f} | {topic['records_per_batch']:.2f} | {row / rows:.0f} | {row_planned:.0f} | "
              f"{heap / rows:.0f}, {index / rows:.0f}", flush=True)
    total = city.one("select sum(pg_total_relation_size(c.oid))::bigint from pg_class c join pg_namespace n on n.oid = relnamespace where nspname = 'city' and relkind in ('r', 'm')")
    print(f"all tables of city: {total / 1e6:.0f} MB; plan: {json.dumps(plan['storage'])}", flush=True)


def batches(kind):
    """The batches of a topic's log: each begins with its offset (8 bytes) and length (4)."""
    for partition in range(3):
        for file in sorted((pathlib.Path(os.environ["KAFKA_DATA"]) / "records" / f"city.{kind}-{partition}").glob("*.log")):
            with file.open("rb") as log:
                while len(head := log.read(12)) == 12 and (length := int.from_bytes(head[8:], "big")):
                    yield length + 12
                    log.seek(length, 1)
