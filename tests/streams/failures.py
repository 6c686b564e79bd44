"""What one failure must not do to everything else: a kind whose computing fails, one that is read no more, a schema without a field, a
threshold that cannot be, a device that comes back, and a new version of the numbers.

  failures.py URL [SEED]
"""

import datetime
import random
import sys

import psycopg

import conditions
import corrections
import outages
from corrections import END, START
from database import KINDS, Database


def must(what, is_, expected):
    if is_ != expected:
        raise SystemExit(f"FAILED {what}: {is_}, expected {expected}")


def run_jobs(database):
    """Once; what failed, by the job's name."""
    said = {}
    for job in database.jobs:
        try:
            database.execute(job["sql"])
        except psycopg.Error as error:
            said[job["name"]] = error.diag.message_primary
    return said


def broken(database, function):
    """A function of the SQL that fails, until the files are run again."""
    result = database.one("select pg_get_function_arguments(oid) || ') returns ' || pg_get_function_result(oid) from pg_proc where oid = %s::regproc", f"city.{function}")
    database.execute(f"create or replace function city.{function}({result} language plpgsql as 'begin perform 1 / 0; end'")


def filled(url, seed):
    chance = random.Random(seed)
    database, readings = corrections.fresh(url, corrections.devices()), corrections.readings(chance)
    for kind in KINDS:
        database.store(kind, readings[kind], END)
    return database


def one_kind_fails(url, seed):
    """Others are computed, it is said, and when it is mended nothing is missing."""
    whole = filled(url, seed)
    whole.run_jobs()
    due = whole.results()
    for function, job, part, computed in (("fill_weather", "compute_windows", "weather", {"traffic", "energy"}), ("find_queues", "judge_city", "conditions", set(KINDS)),
                                          ("find_outages", "judge_city", "outages", set(KINDS))):
        database = filled(url, seed)
        broken(database, function)
        for _ in range(2):
            must(f"where {function}() fails", run_jobs(database), {job: f"{part}: division by zero, in city.{function}"})
        must(f"kinds computed where {function}() fails", {kind for (kind,) in database.rows("select kind from city.computed where computed_until > %s", START + datetime.timedelta(minutes=100))}, computed)
        must("what a person sees", database.rows("select trouble, subject from city.v_trouble"), [("fails", part)])
        if job == "judge_city" and part == "conditions":
            must("alerts on outages", database.rows("select id from city.alert where alert = 'cabinet_dead' and not withdrawn order by 1"),
                 [(row[0],) for row in due["alert"] if row[0].startswith("cabinet_dead")])
        database.run_files()
        database.run_jobs()
        must("once it is mended", database.rows("select * from city.v_trouble"), [])
        mended = database.results()
        for table, rows in due.items():
            must(f"{table} once {function}() is mended", [row for row in mended[table] if row not in rows] + [row for row in rows if row not in mended[table]], [])


def one_kind_stands_still(url):
    """A kind that is read no more: outages are found, what is old is deleted, and what it raised is over."""
    database = outages.fresh(url)
    database.execute("insert into city.computed values ('weather', %s)", outages.at(-5 * 24 * 60))
    for device, (_, _, cabinet) in outages.MEMBERS.items():
        if cabinet == "cabinet-0-0":
            outages.silence(database, device, 0, None)
    outages.judge(database, 60)
    must("an outage beside a kind that stands still", [row[:2] for row in outages.alerts(database)], [("cabinet_dead", "cabinet-0-0")])
    must("the kind that stands still", database.rows("select trouble, subject from city.v_trouble"), [("stands still", "weather")])
    database.execute("select city.make_aggregate_partitions(%s, %s)", outages.at(-40 * 24 * 60), outages.at(0))
    database.execute("select city.drop_old()")
    must("partitions kept", database.one("select count(*) from pg_inherits where inhparent = 'city.aggregate_1m'::regclass"), 31)

    # A kind that is an hour behind is waited for.
    database = outages.fresh(url)
    for device, (_, _, cabinet) in outages.MEMBERS.items():
        if cabinet == "cabinet-0-0":
            outages.silence(database, device, 0, None)
    database.execute("insert into city.computed values ('weather', %s)", outages.at(3))
    outages.judge(database, 60)
    must("an outage before all kinds are computed", outages.alerts(database), [])
    must("a kind that is behind", database.rows("select * from city.v_trouble"), [])

    database = conditions.fresh(url)
    conditions.gust(database, "north", 0, 25)
    conditions.judge(database, 30)
    must("a storm", [row[3] for row in conditions.alerts(database)], [None])
    for kind in ("traffic", "energy"):
        database.execute("update city.computed set computed_until = %s where kind = %s", conditions.at(600), kind)
    database.execute("select city.judge_city()")
    must("a storm of a kind that stands still", [conditions.minutes(row[3]) for row in conditions.alerts(database)], [300])


def other_schema(url):
    """Fields that the schema of a city does not have, or has as text: what needs them is not computed, all else is."""
    database = Database(url, [START.date()])
    database.execute("alter table city.traffic drop column lanes cascade")
    database.execute("alter table city.traffic drop column occupancy_percent")
    database.execute("drop view city.weather_reading")
    database.execute("alter table city.weather alter column rain_mm type text, alter column temperature_c type real")
    database.execute("drop table city.energy cascade")
    database.run_files()
    must("missing fields", database.rows("select subject from city.v_trouble where trouble = 'missing field' order by 1"),
         [("traffic.lanes",), ("traffic.occupancy_percent",), ("weather.rain_mm",)])
    common = "device, observed_at, received_at, is_late, reading_id, kafka_partition, kafka_offset, quality"
    values = f"'a', '{START}', '{START}', false, 1, 0, 1, '[]'"
    database.execute(f"insert into city.traffic ({common}, classes, class_speed_kmh, class_length_m, vehicle_count, interval_s) values ({values}, '{{}}', '{{}}', '{{}}', 5, 60)")
    database.execute(f"insert into city.weather ({common}, channels, soil, rain_mm, temperature_c) values ({values}, '[]', '[]', '3 mm', 7.5)")
    for kind in ("traffic", "weather"):
        database.execute("insert into city.stored values (%s, 0, %s)", kind, END)
    must("jobs with other schemas", run_jobs(database), {})
    must("what is computed with other schemas", database.rows("select measure, value from city.aggregate_1m where scope = 'device' order by 1"),
         [("flow_veh_h", 300.0), ("temperature_c", 7.5), ("vehicle_count", 5.0)])


def thresholds(url):
    """One that would disable an alert is refused; what a city changed stays; what this version has is seen, and measures are of this version."""
    database = Database(url, [START.date()])
    must("thresholds that are as they come", database.rows("select * from city.v_threshold"), [])
    for name, value, said in (("congestion.windows_on", "10", "congestion.windows_on is 10: it must be a whole number from 1 to 6"),
                              ("storm.windows_off", "0", "storm.windows_off is 0: it must be a whole number from 1 to 6"),
                              ("storm.windows_off", "1.5", "storm.windows_off is 1.5: it must be a whole number from 1 to 6"),
                              ("storm.on", "'NaN'", "storm.on is NaN: it must be 0, or a number between 1e-9 and 1e15"),
                              ("compute.chunk", "0", "compute.chunk is 0: it must be at least 60, or nothing is computed"),
                              ("storm.on", "1e-320", "storm.on is 1e-320: it must be 0, or a number between 1e-9 and 1e15")):
        try:
            database.execute(f"update city.threshold set value = {value} where name = '{name}'")
            raise SystemExit(f"FAILED {name} may be {value}")
        except psycopg.errors.CheckViolation as error:
            must(f"{name} as {value}", error.diag.message_primary, f"city.threshold: {said}")
    database.execute("update city.threshold set value = 6 where name = 'congestion.windows_on'")
    database.execute("update city.threshold set value = 22, default_value = 21, meaning = 'old' where name = 'storm.on'")
    database.execute("update city.measure set over_places = 'sum' where measure = 'speed_kmh'")
    database.run_files()
    must("thresholds that a city changed", database.rows("select name, value, default_value from city.v_threshold order by 1"),
         [("congestion.windows_on", 6.0, 3.0), ("storm.on", 22.0, 20.8)])
    must("a measure", database.one("select over_places from city.measure where measure = 'speed_kmh'"), "harmonic")


def of_nothing(url, seed):
    """Thresholds that a city set to 0: all is computed, of connections of 0 W too."""
    names = [name for (name,) in Database(url, [START.date()]).rows("select name from city.threshold where name !~ 'windows_(on|off)$' and name <> 'compute.chunk'")]
    for zeros in (names, ["register.least"], ["feeder_overload.coincidence"]):
        database = filled(url, seed)
        database.execute("update city.threshold set value = 0 where name = any(%s)", zeros)
        database.execute("update city.device set capacity_w = 0 where device = 'meter-1'")
        must(f"jobs, where {', '.join(zeros[:3])} are 0", run_jobs(database), {})


def of_earlier(url):
    """A count of windows from before there was a limit: the alert is raised, if later."""
    database = conditions.fresh(url)
    database.execute("alter table city.threshold disable trigger keep_threshold")
    database.execute("update city.threshold set value = 10 where name = 'storm.windows_on'")
    for window in range(0, 120, 15):
        conditions.gust(database, "north", window, 25)
    conditions.judge(database, 120)
    must("a storm of ten windows in a row", [conditions.minutes(row[2]) for row in conditions.alerts(database)], [75])


def comes_back(url):
    """A device that was removed for a while is not silent before its own time has passed, nor for the time in which it was not there."""
    database = Database(url, [START.date()])
    database.insert_devices([{"device": "other", "kind": "traffic", "interval_s": 60}])
    back = START + datetime.timedelta(minutes=30)

    def store(minutes, device="other"):
        at = START + datetime.timedelta(minutes=minutes)
        database.store("traffic", [{"device": device, "observed_at": at, "received_at": at, "is_late": False, "reading_id": minutes, "kafka_partition": 0,
                                    "kafka_offset": minutes, "vehicle_count": 1, "interval_s": 60}], at + datetime.timedelta(seconds=90))
        database.run_jobs()
        return database.rows("select observed_from, observed_to from city.anomaly where device = 'road' and anomaly = 'silent' and not withdrawn")

    must("before it is removed", store(1, "road"), [])
    must("while it is removed", store(29), [])
    database.insert_devices([{"device": "road", "kind": "traffic", "interval_s": 60, "valid_from": back}])
    must("soon after it is back", store(32), [])
    must("when nothing comes", store(36), [(back, None)])
    must("when it comes", store(38, "road"), [(back, START + datetime.timedelta(minutes=38))])


def main(url, seed):
    one_kind_fails(url, seed)
    one_kind_stands_still(url)
    other_schema(url)
    thresholds(url)
    of_nothing(url, seed)
    of_earlier(url)
    comes_back(url)
    print("ok     failures: one kind, conditions, outages, each leaves the others; a kind that stands still, other schemas, thresholds, a device that comes back")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
