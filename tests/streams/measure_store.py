"""`citygate store` beside COPY and beside Debezium's JDBC sink, on the same records; see measure.sh.

They are what a gateway wrote of the simulators' traffic counters, with other devices and times.
"""

import atexit
import contextlib
import os
import subprocess
import sys
import time

import confluent_kafka
import confluent_kafka.admin

from processes import Meter, end, memory

NESTED = "location,lanes,classes,class_speed_kmh,class_length_m,quality"  # what a JDBC sink has no column for


def zigzag(number):
    """A long as Avro writes it."""
    number, made = number << 1, bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def behind_long(value, at):
    while value[at] & 0x80:
        at += 1
    return at + 1


def templates(city, count=20_000):
    """What a gateway wrote of traffic counters, behind device, observed_at and received_at; and what stands before them."""
    config = city.config("templates", city.work / "nothing")
    city.citygate("topics", "apply", "--config", str(config))
    gateway = city.start("run", config)
    city.await_answer(gateway, city.http)
    with open(city.work / "fleet.log", "w") as log:
        subprocess.run(city.fleet(2000, count / 2000, 300), stdout=log, stderr=log)
    end(gateway)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": city.given.kafka, "group.id": "templates", "auto.offset.reset": "earliest", "enable.partition.eof": True})
    consumer.assign([confluent_kafka.TopicPartition("city.traffic", partition, 0) for partition in range(3)])
    found, ended = [], 0
    while ended < 3:
        for message in consumer.consume(1000, 5):
            if message.error():
                ended += 1
                continue
            value = message.value()
            device = behind_long(value, 5)
            found.append((value[:5], value[behind_long(value, behind_long(value, device + len(message.key()))):]))
    consumer.close()
    if len(found) < 1000:
        sys.exit(f"FAILED only {len(found)} readings to fill topics with")
    head = found[0][0]
    size = sum(len(tail) for _, tail in found) / len(found)
    print(f"{len(found)} readings of traffic counters as templates, {size:.0f} bytes of Avro behind their times", flush=True)
    return head, [tail for _, tail in found]


def fill(city, topic, count, devices, interval_ms, end_ms, made):
    """`count` readings in the order of time, of `devices` devices each `interval_ms`; the last is observed at `end_ms`."""
    head, tails = made
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": city.given.kafka})
    names = [f"loop-{number:05}".encode() for number in range(devices)]
    starts = [head + zigzag(len(name)) + name for name in names]
    with contextlib.suppress(confluent_kafka.KafkaException):
        admin.create_topics([confluent_kafka.admin.NewTopic(topic, 3, 1)])[topic].result()
    producer = confluent_kafka.Producer({"bootstrap.servers": city.given.kafka, "linger.ms": 20, "compression.type": "lz4", "partitioner": "murmur2_random",
                                         "queue.buffering.max.messages": 200_000})
    rounds, began = -(-count // devices), time.monotonic()
    step = max(1, interval_ms // devices)
    for number in range(count):
        turn, device = divmod(number, devices)
        at = end_ms - (rounds - 1 - turn) * interval_ms - (devices - 1 - device) * step
        value = starts[device] + zigzag(at) + zigzag(at + 40 + number % 500) + tails[number % len(tails)]
        while True:
            try:
                producer.produce(topic, value, names[device])
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush()
    print(f"{count} records of {devices} devices in {topic}, {time.monotonic() - began:.0f} s", flush=True)


def empty(city, *schemas):
    for schema in schemas:
        city.sql(f"drop schema if exists {schema} cascade")


def store(city, given):
    made = templates(city)
    count = int(given.numbers[0]) if given.numbers else 1_000_000
    recreate(city, "city.traffic")
    fill(city, "city.traffic", count, 2_000, 30_000, int(time.time() * 1000), made)
    for turn in (1, 2):
        empty(city, "city")
        store_once(city, count, f"store {turn}")
        if turn == 1:
            columns = export(city)
        for floor in ("same layout", "no index"):
            floor_once(city, columns, count, floor, turn)


def store_once(city, count, what):
    process = city.start("store", city.config("measured", city.work / "nothing", ["traffic"]))
    meter = Meter(store=process.pid, postgres=city.postgres_pid, kafka=city.kafka_pid)
    rows = city.until_stored(count // 10, 300)
    rest = Meter(**meter.pids)
    stored = city.until_stored(count, 900)
    rest.say(f"{what}, behind the first tenth", stored - rows)
    meter.say(f"{what}, with its start", stored)
    found = city.metrics()
    print(f"  resident {memory(process.pid):.0f} MiB; {found.get('citygate_store_batch_seconds_count', 0):.0f} parts of batches in {found.get('citygate_store_batch_seconds_sum', 0):.1f} s, duplicates {found.get('citygate_store_duplicates_total', 0):.0f}, "
          f"undecodable {found.get('citygate_store_undecodable_total', 0):.0f}", flush=True)
    end(process)


def export(city):
    columns = city.one("select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute where attrelid = 'city.traffic'::regclass and attnum > 0 and not attisdropped")
    with open(city.work / "rows.bin", "wb") as file, city.database.cursor() as cursor:
        with cursor.copy(f"copy (select {columns} from city.traffic order by received_at) to stdout (format binary)") as copy:
            for block in copy:
                file.write(block)
    size = city.one("select sum(pg_total_relation_size(relid))::bigint from pg_partition_tree('city.traffic')")
    rows = city.one("select count(*) from city.traffic")
    print(f"  {rows} rows, {size / rows:.0f} bytes each with indexes", flush=True)
    return columns


def floor_once(city, columns, count, layout, turn):
    empty(city, "floor")
    city.sql("create schema floor")
    if layout == "no index":
        city.sql("create table floor.traffic (like city.traffic)")
    else:
        city.sql("create table floor.traffic (like city.traffic including all) partition by range (observed_at)")
        for (day,) in city.sql("select distinct (observed_at at time zone 'UTC')::date::text from city.traffic").fetchall():
            city.sql(f"create table floor.\"traffic_{day}\" partition of floor.traffic for values from ('{day} 00:00+00') to (timestamptz '{day} 00:00+00' + interval '1 day')")
    city.sql("vacuum city.traffic")
    meter = Meter(postgres=city.postgres_pid, client=os.getpid())
    with city.database.cursor() as cursor, open(city.work / "rows.bin", "rb") as file:
        with cursor.copy(f"copy floor.traffic ({columns}) from stdin (format binary)") as copy:
            while block := file.read(1 << 20):
                copy.write(block)
    meter.say(f"COPY {turn}, {layout}", count)


def recreate(city, topic):
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": city.given.kafka})
    with contextlib.suppress(confluent_kafka.KafkaException):
        admin.delete_topics([topic], operation_timeout=30)[topic].result()
    time.sleep(2)


def sink(city, given):
    made = templates(city)
    count = int(given.numbers[0]) if given.numbers else 100_000
    recreate(city, "city.traffic")
    fill(city, "city.traffic", count, 2_000, 30_000, int(time.time() * 1000), made)
    store_once(city, count, "store")
    (city.work / "worker.properties").write_text(f"""bootstrap.servers={given.kafka}
listeners=http://127.0.0.1:{city.http}
plugin.path={given.connect}/plugins
plugin.discovery=hybrid_warn
offset.storage.file.filename={city.work}/connect-offsets
offset.flush.interval.ms=10000
connector.client.config.override.policy=All
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=io.apicurio.registry.utils.converter.AvroConverter
value.converter.apicurio.registry.url={given.registry.replace('/apis/ccompat/v7', '/apis/registry/v2')}
value.converter.apicurio.registry.id-handler=io.apicurio.registry.serde.Legacy4ByteIdHandler
value.converter.apicurio.registry.use-id=contentId
""")
    url = given.database.replace("postgresql://city@", "jdbc:postgresql://")
    (city.work / "sink.properties").write_text(f"""name=sink
connector.class=io.debezium.connector.jdbc.JdbcSinkConnector
tasks.max=1
topics=city.traffic
connection.url={url}?reWriteBatchedInserts=true
connection.username=city
connection.password=city
insert.mode=upsert
primary.key.mode=record_value
primary.key.fields=device,observed_at
schema.evolution=basic
collection.name.format=sunk
batch.size=5000
use.reduction.buffer=true
consumer.override.max.poll.records=5000
consumer.override.auto.offset.reset=earliest
transforms=flat
transforms.flat.type=org.apache.kafka.connect.transforms.ReplaceField$Value
transforms.flat.exclude={NESTED}
""")
    log = open(city.work / "connect.log", "ab")
    worker = subprocess.Popen(["java", "-Xmx768m", "-cp", f"{given.connect}/worker/*", "org.apache.kafka.connect.cli.ConnectStandalone",
                               str(city.work / "worker.properties"), str(city.work / "sink.properties")], stdout=log, stderr=log)
    atexit.register(end, worker)
    meter = Meter(connect=worker.pid, postgres=city.postgres_pid, kafka=city.kafka_pid)
    rows, marks, until = 0, [], time.monotonic() + 900
    while rows < count and time.monotonic() < until and worker.poll() is None and "Task is being killed" not in (city.work / "connect.log").read_text():
        time.sleep(1)
        rows = sunk(city)
        if rows and (not marks or len(marks) == 1 and rows >= count // 2):
            marks.append((rows, Meter(**meter.pids)))
    for before, mark in marks:
        if rows > before:
            mark.say(f"sink, behind {before} rows", rows - before)
    if rows:
        meter.say("sink, with its start", rows)
        print(f"  resident {memory(worker.pid):.0f} MiB", flush=True)
    else:
        print("FAILED the sink stored nothing", *(city.work / "connect.log").read_text().splitlines()[-15:], sep="\n")
    end(worker)


def sunk(city):
    return city.one("select coalesce(sum(n_tup_ins), 0)::bigint from pg_stat_user_tables where relname = 'sunk'")
