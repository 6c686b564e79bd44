"""A week of the city, as processes brought it into tables and topics, against what the fleet's ledger says is true; see week.sh.

  week.py ports                                                 free ports: three in a row twice (Kafka), and eight more
  week.py compare --ledger FILE --database URL --kafka SERVERS --registry URL
"""

import argparse
import collections
import contextlib
import datetime
import io
import math
import random
import socket
import time

import psycopg
import psycopg.rows

import expected
import fleet_ledger
import grading
import outcomes
import tables
import topics
from database import KINDS

# What is computed must be waited for as long as there is progress, and for so long without any.
PROGRESS_TIMEOUT_S = 120


def main():
    arguments = argparse.ArgumentParser()
    commands = arguments.add_subparsers(dest="command", required=True)
    commands.add_parser("ports")
    compare = commands.add_parser("compare")
    for name in ("ledger", "database", "kafka", "registry"):
        compare.add_argument(f"--{name}", required=True)
    given = arguments.parse_args()
    if given.command == "ports":
        print(*free_ports(6, 8))
        return
    cluster = topics.Topics(given.kafka, given.registry)
    ledger = fleet_ledger.FleetLedger(given.ledger)
    ledger.join({kind: cluster.read(f"city.{kind}") for kind in KINDS})
    sent = collections.Counter(one.kind for one in ledger.told)
    copies = sum(reading["copies"] - 1 for kind in KINDS for reading in ledger.readings[kind])
    print(f"ok     {dict(sent)} sent by {len(ledger.devices)} devices; every acknowledged one is in Kafka, {copies} of them a second time")
    database = Answers(given.database)
    began = time.monotonic()
    await_computed(database, cluster, ledger)
    print(f"ok     all is stored, computed and published {time.monotonic() - began:.1f} s after that")
    print(f"ok     {rows(database, ledger)} rows: every reading once, with all its fields, and no other")
    closed = ledger.end + datetime.timedelta(hours=1)
    wanted = {(kind, width): expected.aggregates(ledger, kind, closed, width) for width in (expected.MINUTE, expected.QUARTER) for kind in KINDS}
    aggregates(database, wanted)
    print(f"ok     {sum(map(len, wanted.values()))} aggregates of one minute and of fifteen, of devices, segments, districts, feeders and cells, equal to an "
          "independent computation")
    records = {topic: cluster.read(topic) for topic in ("city.aggregates", "city.anomalies", "city.alerts")}
    message_values(records["city.aggregates"], wanted)
    for topic in ("city.anomalies", "city.alerts"):
        message_rows(database, topic, records[topic])
    grading.silences(database, ledger)
    grading.alerts(database, ledger)
    grading.faults(database, ledger)
    spoiled(database, ledger, wanted, records)


class Answers:
    """What the database has, asked as a dashboard would."""

    def __init__(self, url):
        self.connection = psycopg.connect(url, autocommit=True)

    def rows(self, statement, *parameters):
        return self.connection.execute(statement, parameters or None).fetchall()

    def one(self, statement, *parameters):
        return self.rows(statement, *parameters)[0][0]

    def dicts(self, statement):
        with self.connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute(statement).fetchall()


def free_ports(in_a_row, others):
    while True:
        first = random.randrange(20000, 32000)  # below those that the system gives to whoever asks for any
        try:
            row = [socket.create_server(("127.0.0.1", first + number)) for number in range(in_a_row)]
            break
        except OSError:
            continue
    both = []
    while len(both) < others:
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        tcp.bind(("127.0.0.1", 0))
        try:
            udp.bind(tcp.getsockname())
            both.append((tcp, udp))
        except OSError:
            pass
    return [row[0].getsockname()[1], *(tcp.getsockname()[1] for tcp, _ in both)]


def await_computed(database, cluster, ledger):
    """Until every record is stored, every minute of the week computed, nothing due, judged and published."""
    ends = {(topic, number): end for topic in (*(f"city.{kind}" for kind in KINDS), "city.devices") for number, end in cluster.ends(topic).items() if end}
    until, last = time.monotonic() + PROGRESS_TIMEOUT_S, None
    while True:
        stored = {(topic, number): offset for topic, number, offset in database.rows("select topic, partition, next_offset from city.kafka_offset")}
        left = database.rows("""select (select count(*) from city.window_due d join city.computed c using (kind) where d.window_start < c.computed_until),
          (select count(*) from city.changed), (select count(*) from city.outbox), (select min(computed_until) from city.computed), (select count(*) from city.computed)""")[0]
        behind = sum(end - stored.get(key, 0) for key, end in ends.items())
        if behind == 0 and left[:3] == (0, 0, 0) and left[4] == len(KINDS) and left[3] > ledger.end + datetime.timedelta(hours=6):
            return
        if (behind, left) != last:
            until, last = time.monotonic() + PROGRESS_TIMEOUT_S, (behind, left)
        if time.monotonic() > until:
            raise SystemExit(f"FAILED no progress for {PROGRESS_TIMEOUT_S} s: {behind} records are not stored; due, changed, to be published, computed until: {left}")
        time.sleep(0.2)


def rows(database, ledger, kinds=KINDS):
    """Every reading that Kafka has is one row, with all its fields, from its first record; and there is no other row."""
    count = 0
    for kind in kinds:
        names = [name for name, _, _ in tables.columns(kind)]
        columns = ", ".join(f'"{name}"' for name in ("device", "observed_at", "received_at", "is_late", "kafka_partition", "kafka_offset", *names))
        wanted = {(reading["device"], reading["observed_at"], reading["sequence"]): reading for reading in ledger.readings[kind]}
        for row in database.dicts(f"select {columns} from city.{kind}"):
            key = (row["device"], row["observed_at"], row["sequence"])
            reading = wanted.pop(key, None)
            if reading is None:
                raise SystemExit(f"FAILED {kind}: a row twice, or of no reading: {key}")
            differs = {name: (value, reading.get(name)) for name, value in row.items() if value != reading.get(name)}
            if differs:
                raise SystemExit(f"FAILED {kind}: {key} differs in {differs}")
            count += 1
        if wanted:
            raise SystemExit(f"FAILED {kind}: {len(wanted)} readings have no row, such as {next(iter(wanted))}")
    unreadable = database.one("select count(*) from city.undecodable")
    if unreadable:
        raise SystemExit(f"FAILED {unreadable} records are in city.undecodable")
    return count


def aggregates(database, wanted):
    for (kind, width), due in wanted.items():
        table = "aggregate_1m" if width == expected.MINUTE else "aggregate_15m"
        found = {row[:4]: row[4:] for row in database.rows(
            f"select scope, id, window_start, measure, value, readings, devices from city.{table} where kind = %s and value is not null", kind)}
        wrong = [key for key in due.keys() | found.keys() if not alike(due.get(key), found.get(key), key[3])]
        for key in sorted(wrong, key=str)[:10]:
            print("differs:", key, due.get(key), found.get(key))
        if wrong or not due:
            raise SystemExit(f"FAILED {table} of {kind}: {len(wrong)} of {len(due)} rows differ")


def spoiled(database, ledger, wanted, records):
    """What is compared is spoiled, tables in a transaction that is rolled back: each time somebody must say so."""
    weather = {key: due for key, due in wanted.items() if key == ("weather", expected.QUARTER)}
    first = "(scope, id, kind, window_start, measure) = (select scope, id, kind, window_start, measure from city.aggregate_15m where kind = 'weather' limit 1)"
    cases = [
        ("a row is missing", "delete from city.weather where (device, observed_at) = (select device, min(observed_at) from city.weather group by 1 limit 1)",
         lambda: rows(database, ledger, ("weather",)), "have no row"),
        ("a row is there twice", "insert into city.weather select (jsonb_populate_record(w, jsonb_build_object('reading_id', reading_id # 1))).* from city.weather w limit 1",
         lambda: rows(database, ledger, ("weather",)), "a row twice"),
        ("a value is another", "update city.weather set temperature_c = temperature_c + 0.1 where (device, observed_at) = (select device, max(observed_at) from city.weather group by 1 limit 1)",
         lambda: rows(database, ledger, ("weather",)), "differs in {'temperature_c'"),
        ("an aggregate is missing", f"delete from city.aggregate_15m where {first}", lambda: aggregates(database, weather), "rows differ"),
        ("an aggregate is another", f"update city.aggregate_15m set value = value + 0.001 where {first}", lambda: aggregates(database, weather), "rows differ"),
        ("a silence is missing", "update city.anomaly set withdrawn = true where id = (select min(id) from city.anomaly where anomaly = 'silent' and not withdrawn)",
         lambda: grading.silences(database, ledger), "FAILED silences"),
        ("an alert is raised later", "update city.alert set raised_at = raised_at + interval '1 minute' where id = (select min(id) from city.alert where caused_by is null and not withdrawn)",
         lambda: grading.alerts(database, ledger), "FAILED alerts"),
        ("no sentinel was found", "update city.anomaly set withdrawn = true where anomaly = 'sentinel'",
         lambda: grading.faults(database, ledger), "precision and recall of ['sentinel']"),
        ("no queue and no alert is there", "delete from city.insight", lambda: grading.congested(database, ledger, set()), "incident"),
        ("no storm is there", None, lambda: grading.stormy(ledger, set()), "FAILED of the front"),
        ("no silent district is there", None, lambda: grading.silent_district(ledger, set()), "FAILED the district"),
        ("a message has another value", None, lambda: message_values(other_value(records["city.aggregates"]), wanted), "FAILED city.aggregates: 1 of"),
        ("a message is missing", None, lambda: message_rows(database, "city.anomalies", records["city.anomalies"][:-1]), "FAILED messages of city.anomalies"),
        ("a message has other words", None, lambda: message_rows(database, "city.alerts", other_words(records["city.alerts"])), "FAILED messages of city.alerts"),
    ]
    for what, statement, check, said in cases:
        with database.connection.transaction(force_rollback=True), contextlib.redirect_stdout(io.StringIO()):
            changed = statement is None or database.connection.execute(statement).rowcount
            try:
                check()
                failure = "nothing"
            except SystemExit as error:
                failure = str(error)
        if not changed or said not in failure:
            raise SystemExit(f"FAILED where {what} ({changed} rows): {failure}")
    print(f"ok     {len(cases)} spoiled tables and topics were told: {', '.join(case[0] for case in cases)}")


def alike(one, other, measure):
    if one is None or other is None or one[1:] != other[1:]:
        return False
    if measure == "wind_direction_deg":
        return abs((one[0] - other[0] + 180) % 360 - 180) < 1e-6
    return math.isclose(one[0], other[0], rel_tol=1e-9, abs_tol=1e-6)


def other_value(records):
    """The last record that has a value of a quarter of an hour has another one."""
    number = max(number for number, record in enumerate(records) if record.value["window_s"] == 900 and any(one["value"] is not None for one in record.value["measures"].values()))
    value = records[number].value
    measure = next(name for name, one in value["measures"].items() if one["value"] is not None)
    other = value["measures"][measure] | {"readings": value["measures"][measure]["readings"] + 1}
    return [*records[:number], records[number]._replace(value=value | {"revision": 10**6, "measures": value["measures"] | {measure: other}}), *records[number + 1:]]


def other_words(records):
    return [*records[:-1], records[-1]._replace(value=records[-1].value | {"reason": "nothing"})]


def message_values(records, wanted):
    """Of a key and window the message with the highest revision says what was computed."""
    latest, count = {}, 0
    for record in records:
        value, count = record.value, count + 1
        key = (value["kind"], value["scope"], value["id"], value["window_s"], value["window_start"])
        if record.key != f"{value['scope']}/{value['id']}/{value['kind']}":
            raise SystemExit(f"FAILED city.aggregates: the key {record.key} of {key}")
        if key not in latest or latest[key]["revision"] <= value["revision"]:
            latest[key] = value
    said = {}
    for (kind, scope, place, seconds, window), value in latest.items():
        for measure, one in value["measures"].items():
            if one["value"] is not None:
                said[kind, seconds, scope, place, window, measure] = (one["value"], one["readings"])
    due = {(kind, int(width.total_seconds()), *key): value for (kind, width), of_kind in wanted.items() for key, value in of_kind.items()
           if width == expected.QUARTER or key[0] != "device"}
    wrong = [key for key in due.keys() | said.keys() if key not in due or key not in said or not alike(due[key][:2], said[key], key[5])]
    if wrong or not due:
        raise SystemExit(f"FAILED city.aggregates: {len(wrong)} of {len(due)} values differ, such as {wrong[0]}: {due.get(wrong[0])}, {said.get(wrong[0])}")
    print(f"ok     {count} messages of city.aggregates: the last of each window says the same {len(due)} values")


def message_rows(database, topic, records):
    """Of an anomaly or alert the message with the highest revision says what its row says."""
    table, ends, own = {"city.anomalies": ("anomaly", "observed_to", ""), "city.alerts": ("alert", "cleared_at", "where published")}[topic]
    of_id = {}
    for record in records:
        if record.key not in of_id or of_id[record.key]["revision"] <= record.value["revision"]:
            of_id[record.key] = record.value
    found = {row[0]: row[1:] for row in database.rows(f"select id, revision, withdrawn, {ends}, reason from city.{table} {own}")}
    last = {key: (value["revision"], value["withdrawn"], value[ends], value["reason"]) for key, value in of_id.items()}
    truncated = {key: (*row[:2], row[2] and row[2].replace(microsecond=row[2].microsecond // 1000 * 1000), row[3]) for key, row in found.items()}
    if last != truncated:
        wrong = next(key for key in last.keys() | truncated.keys() if last.get(key) != truncated.get(key))
        raise SystemExit(f"FAILED messages of {topic}: {wrong} is {last.get(wrong)}, in the table {truncated.get(wrong)}")
    print(f"ok     the last message of each of {len(last)} keys of city.{table} is its row")


if __name__ == "__main__":
    main()
