"""Stretches without a reading: computing goes on behind them in a few steps, and all results are what they are where each quarter of an hour
of them is computed, also when readings come for them after all.

  stretches.py URL [SEED]
"""

import datetime
import random
import sys
import time

from database import KINDS, Database

START = datetime.datetime(2026, 11, 2, tzinfo=datetime.UTC)  # a Monday
FAR_DAYS = 399
STEPS = 20  # of a kind, at most
DEVICES = [{"device": f"{kind}-{number}", "kind": kind, "interval_s": 300, "district": "d", "segment": "s" if kind == "traffic" else None,
            "feeder": "f" if kind == "energy" else None, "cell": "c", "cabinet": f"b-{number}", "capacity_w": 9000} for kind in KINDS for number in (1, 2)]


def at(day, hour, minute=0):
    return START + datetime.timedelta(days=day, hours=hour, minutes=minute)


def reading(device, observed_at, chance, factor=1):
    """Of an ordinary day; `factor`: how far from it."""
    number = chance.getrandbits(62)
    values = {"traffic": {"interval_s": 300, "vehicle_count": round(40 * factor) + chance.randrange(4), "speed_kmh": round(60 / factor + chance.uniform(-2, 2), 1), "lanes": []},
              "weather": {"temperature_c": round(9 + 20 * (factor - 1) + chance.uniform(-1, 1), 1), "wind_gust_m_s": round(8 * factor, 1), "wind_speed_m_s": 6.5,
                          "wind_direction_deg": chance.randrange(360), "rain_mm": 0.1},
              "energy": {"power_w": round(1500 * factor + chance.uniform(-40, 40), 1)}}[device.split("-")[0]]
    return {"device": device, "observed_at": observed_at, "received_at": observed_at, "is_late": False, "reading_id": number, "kafka_partition": 0,
            "kafka_offset": number % 10**9, **values}


def batches(chance):
    """(until when it is received, readings): each in one transaction of a kind."""
    def of(day, from_minute, to_minute, devices=DEVICES, factor=1):
        return [reading(row["device"], at(day, 9, minute), chance, factor) for row in devices for minute in range(from_minute, to_minute, 5)]

    def ended(day, minute, readings):
        return at(day, 9, minute) + datetime.timedelta(seconds=90), readings

    weather = [row for row in DEVICES if row["kind"] == "weather"]
    ones = [row for row in DEVICES if row["device"].endswith("-1")]
    twos = [row for row in DEVICES if row["device"].endswith("-2")]
    # The end of the first day is a storm, a queue and an overload: nothing says when they ended. That evening only the weather is known.
    yield ended(0, 240, of(0, 0, 210) + of(0, 210, 240, factor=4))
    yield ended(0, 480, of(0, 360, 480, weather))
    for day in (1, 2):
        yield ended(day, 240, of(day, 0, 240))
    yield ended(3, 37, of(3, 0, 37))
    # Three hours of nothing, of which readings come later: of an hour behind, and of the one that lasts.
    yield ended(3, 220, of(3, 210, 220))
    yield ended(3, 220, of(3, 62, 118, ones, factor=4) + of(3, 185, 190, ones, factor=4))
    yield ended(3, 240, of(3, 220, 240, twos, factor=4))
    # Two kinds again much later than the third.
    yield ended(4, 300, of(4, 0, 60, weather) + of(4, 200, 300))


def fresh(url, days, chunk, hourly=False):
    database = Database(url, days)
    database.insert_devices(DEVICES)
    database.execute("update city.threshold set value = %s where name = 'compute.chunk'", chunk)
    if hourly:
        database.execute("create or replace function city.next_minute(of_kind text, from_at timestamptz, until timestamptz) returns timestamptz language sql as 'select from_at'")
    return database


def store(database, readings, until):
    for kind in KINDS:
        database.store(kind, [row for row in readings if row["device"].startswith(kind)], until)


def check(url, seed):
    """How many results there are: as where all is computed quarter by quarter, and at once."""
    course = list(batches(random.Random(seed)))
    found = {}
    for way in ("hourly", "skipping", "at once"):
        database = fresh(url, [at(day, 0).date() for day in range(5)], 3600, way == "hourly")
        begun = time.monotonic()
        if way == "at once":
            store(database, [row for _, readings in course for row in readings], course[-1][0])
        else:
            for until, readings in course:
                store(database, readings, until)
                database.run_jobs()
        database.run_jobs()
        found[way] = database.results(), time.monotonic() - begun
    must = found["hourly"][0]
    for way in ("skipping", "at once"):
        for table, rows in must.items():
            is_ = found[way][0][table]
            if is_ != rows:
                raise SystemExit(f"FAILED {table}, {way}: also {[row for row in is_ if row not in rows][:3]}, and not {[row for row in rows if row not in is_][:3]}")
    unusual = {row[0] for row in must["anomaly"] if "|profile|" in row[0]}
    late = [id for id in unusual if "2026-11-05T10:0" in id or "2026-11-05T10:1" in id or "2026-11-05T12:0" in id]
    ended = [row for row in must["alert"] if "nothing was measured" in row[4]]
    silent = [row for row in must["alert"] if "silent" in row[4]]
    if not (late and len(unusual) > len(late) and ended and silent):
        raise SystemExit(f"FAILED the course says nothing of profiles {unusual}, conditions {ended} or outages {silent}")
    return sum(map(len, must.values())), len(unusual), len(ended), len(silent), found["hourly"][1], found["skipping"][1]


def far(url, of_kinds, chunk):
    """One reading long ago of each of the kinds: how many steps the slowest needs, and seconds all jobs. Chunks may be shorter than a quarter."""
    long_ago = START - datetime.timedelta(days=FAR_DAYS)
    now = [reading(row["device"], at(0, 8, minute), random.Random(minute), 1) for row in DEVICES for minute in range(0, 40, 5)]
    plain = fresh(url, [START.date()], chunk)
    store(plain, now, at(0, 9))
    plain.run_jobs()
    must = plain.results()
    database = fresh(url, [long_ago.date(), START.date()], chunk)
    store(database, [reading(f"{kind}-1", long_ago + datetime.timedelta(minutes=7 * number), random.Random(1), 1) for number, kind in enumerate(of_kinds)] + now, at(0, 9))
    begun, most = time.monotonic(), 0
    database.execute("select city.close_windows()")
    for kind in KINDS:
        steps = 0
        while database.one("select city.compute_kind(%s)", kind):
            steps += 1
            if steps > STEPS:
                raise SystemExit(f"FAILED a reading of {FAR_DAYS} days ago: after {STEPS} steps {kind} is computed up to {database.rows('select * from city.computed')}")
        most = max(most, steps)
    database.run_jobs()
    seconds = time.monotonic() - begun
    is_ = database.results()
    for table in ("aggregate_1m", "aggregate_15m"):
        if [row for row in is_[table] if row[3] >= at(0, 0)] != must[table]:
            raise SystemExit(f"FAILED {table} after a reading of {FAR_DAYS} days ago")
    quarters = {row[1] for row in is_["aggregate_15m"] if row[0] == "device" and row[3] == long_ago}
    if quarters != {f"{kind}-1" for kind in of_kinds}:
        raise SystemExit(f"FAILED the quarter of a reading of {FAR_DAYS} days ago: {quarters}, chunk {chunk} s")
    silent = sorted((row[0].split("|")[0], row[1], row[2]) for row in is_["anomaly"] if "-1|silent|" in row[0] and row[2] is not None)
    expected = sorted((kind, long_ago + datetime.timedelta(minutes=7 * number), at(0, 8)) for number, kind in enumerate(of_kinds))
    if silent != expected or database.rows("select * from city.v_trouble"):
        raise SystemExit(f"FAILED silences after a reading of {FAR_DAYS} days ago: {silent}, expected {expected}")
    return most, seconds


def together(url):
    """While kinds catch up, one that has a stretch without a reading does not leave the others so far behind that they are not waited for."""
    database = fresh(url, [START.date()], 1800)
    chance = random.Random(1)
    store(database, [reading(row["device"], at(0, 0, minute), chance) for row in DEVICES for minute in range(0, 360, 5)
                     if row["kind"] != "traffic" or not 10 < minute < 340], at(0, 6))
    database.execute("select city.close_windows()")
    rounds = 0
    while [kind for kind in KINDS if database.one("select city.compute_kind(%s)", kind)]:
        rounds += 1
        if database.rows("select * from city.v_trouble"):
            raise SystemExit(f"FAILED kinds that catch up, after {rounds} rounds: {database.rows('select * from city.computed order by 1')}")


def main(url, seed):
    together(url)
    count, unusual, ended, silent, hourly, skipping = check(url, seed)
    steps = [far(url, *case) for case in ((("traffic",), 60), (KINDS, 900))]
    print(f"ok     stretches: {count} results ({unusual} unusual, {ended} conditions over for want of windows, {silent} outages) the same where each hour without a "
          f"reading is computed ({hourly:.0f} s), and is not ({skipping:.0f} s); {FAR_DAYS} empty days in {max(most for most, _ in steps)} steps of a kind, "
          f"{max(seconds for _, seconds in steps):.1f} s (seed {seed})")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
