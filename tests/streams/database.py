"""The database of the test: the tables, the readings as `citygate store` writes them, and the jobs as it runs them."""

import datetime
import json
import pathlib
import tomllib

import psycopg

import tables

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "postgres"
KINDS = ("traffic", "weather", "energy")
STORE = ("device", "observed_at", "received_at", "is_late", "reading_id", "kafka_partition", "kafka_offset")


class Database:
    def __init__(self, url, days):
        self.connection = psycopg.connect(url, autocommit=True)
        self.jobs = tomllib.loads((FOLDER / "jobs.toml").read_text())["job"]
        self.execute("drop schema if exists city cascade")
        self.execute(tables.OWN)
        for kind in KINDS:
            self.execute("insert into city.window_progress (kind) values (%s)", kind)
            for statement in tables.statements(kind, days):
                self.execute(statement)
        self.run_files()
        self.run_files()  # they may be run again

    def run_files(self):
        for file in sorted(FOLDER.glob("*.sql")):
            self.execute(file.read_text())

    def execute(self, statement, *parameters):
        return self.connection.execute(statement, parameters or None)

    def rows(self, statement, *parameters):
        """With times in UTC, whatever zone the session is in."""
        return [tuple(value.astimezone(datetime.UTC) if isinstance(value, datetime.datetime) else value for value in row)
                for row in self.execute(statement, *parameters).fetchall()]

    def one(self, statement, *parameters):
        return self.rows(statement, *parameters)[0][0]

    def insert_devices(self, devices):
        names = list(devices[0])
        with self.connection.cursor() as cursor:
            cursor.executemany(f"insert into city.device ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})",
                               [list(row.values()) for row in devices])

    def store(self, kind, readings, received_until):
        """One transaction of the store: rows, what they make due, and how far it is."""
        fields = [name for name, _, _ in tables.columns(kind) if any(name in reading for reading in readings)]
        required = {"lanes": [], "quality": [], "phases": [], "classes": {}, "class_speed_kmh": {}, "class_length_m": {}, "tariffs": [], "channels": [],
                    "submeters": [], "soil": []}
        fields += [name for name, _, _ in tables.columns(kind) if name in required and name not in fields]
        names = [*STORE, *fields]

        def row(reading):
            for name in names:
                value = reading.get(name, required.get(name))
                yield json.dumps(value) if isinstance(value, list | dict) else value

        with self.connection.transaction():
            self.execute("create temp table if not exists arrived (like city.%s) on commit delete rows" % kind)
            with self.connection.cursor() as cursor:
                with cursor.copy(f"copy arrived ({', '.join(names)}) from stdin") as copy:
                    for reading in readings:
                        copy.write_row(list(row(reading)))
            self.execute("select closed_until from city.window_progress where kind = %s for share", kind)
            self.execute(f"insert into city.{kind} select * from arrived on conflict do nothing")
            self.execute("""insert into city.window_due (kind, device, window_start)
              select distinct p.kind, a.device, city.floor_minute(a.observed_at) from arrived a join city.window_progress p on p.kind = %s
              where a.observed_at < p.closed_until and not a.is_late""", kind)
            self.execute("drop table arrived")
            self.execute("""insert into city.stored values (%s, 0, %s) on conflict (kind, partition)
              do update set received_at = excluded.received_at""", kind, received_until)

    def run_jobs(self):
        for job in self.jobs:
            self.execute(job["sql"])
        while self.one("""select exists (select from city.window_progress p left join city.computed c using (kind)
            where p.closed_until is not null and (c.computed_until is null or c.computed_until < p.closed_until))
          or exists (select from city.window_due d join city.computed c using (kind) where d.window_start < c.computed_until)"""):
            for job in self.jobs:
                self.execute(job["sql"])

    def results(self):
        """All results, without what says how often they changed."""
        return {
            "aggregate_1m": self.rows("select scope, id, kind, window_start, measure, value, readings, devices, weight from city.aggregate_1m where value is not null order by 1, 2, 3, 4, 5"),
            "aggregate_15m": self.rows("select scope, id, kind, window_start, measure, value, readings, devices, weight from city.aggregate_15m where value is not null order by 1, 2, 3, 4, 5"),
            "anomaly": self.rows("select id, observed_from, observed_to, value, expected, score, points, reason, readings from city.anomaly where not withdrawn order by id"),
            "insight": self.rows("select id, to_at, value, unit, reason, details from city.insight where not withdrawn order by id"),
            "alert": self.rows("select id, severity, cleared_at, value, reason, readings, caused_by from city.alert where not withdrawn order by id"),
        }


def utc(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
