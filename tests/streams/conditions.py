"""Alerts of conditions from windows: when they are raised, when they are over, also for want of windows, and that it does not matter
in which order windows become known.

  conditions.py URL [SEED]
"""

import datetime
import random
import sys

import outcomes
from database import Database

START = datetime.datetime(2026, 11, 2, tzinfo=datetime.UTC)
DAYS = 3
DISTRICTS = ("harbour", "north")


def at(minutes):
    return START + datetime.timedelta(minutes=minutes)


def fresh(url):
    database = Database(url, [START.date()])
    database.execute("select city.make_aggregate_partitions(%s, %s)", at(0), at(DAYS * 24 * 60))
    database.execute("delete from city.changed")
    return database


def gust(database, district, window, value):
    """As compute_windows() writes it; without a value there is nothing any more."""
    database.execute("""insert into city.aggregate_15m (scope, id, kind, window_start, measure, value, readings, devices, weight)
      values ('district', %s, 'weather', %s, 'wind_gust_m_s', %s, 1, 1, 1)
      on conflict (window_start, scope, kind, id, measure) do update set value = excluded.value""", district, at(window), value)
    database.execute("insert into city.changed values ('weather', '15m', 'district', %s, %s) on conflict do nothing", district, at(window))


def judge(database, now):
    for kind in ("traffic", "weather", "energy"):
        database.execute("insert into city.computed values (%s, %s) on conflict (kind) do update set computed_until = excluded.computed_until", kind, at(now))
    database.execute("select city.judge_city()")


def alerts(database):
    return database.rows("select subject, severity, raised_at, cleared_at, value, reason, readings from city.alert where not withdrawn order by 1, 3")


def minutes(moment):
    return None if moment is None else round((moment - START).total_seconds() / 60)


def check(url, name, windows, now, expected):
    """`windows`: (minute, gust in m/s); `expected`: (raised, cleared, whether for want of windows)."""
    database = fresh(url)
    for window, value in windows:
        gust(database, "north", window, value)
    judge(database, now)
    found = [(minutes(raised), minutes(cleared), "nothing was measured" in reason) for _, _, raised, cleared, _, reason, _ in alerts(database)]
    if found != expected:
        raise SystemExit(f"FAILED {name}: {found}, expected {expected}")
    states = [state for (state,) in database.rows("select value ->> 'state' from city.outbox where topic = 'city.alerts' order by id")]
    if states != ["firing" if cleared is None else "resolved" for _, cleared, _ in expected]:
        raise SystemExit(f"FAILED {name}: messages {states}")


# One window of 20.8 m/s raises a storm, two below 13.9 in a row end it.
CASES = [
    ("a storm", [(0, 5), (15, 21), (30, 25), (45, 5), (60, 5)], 75, [(15, 60, False)]),
    ("a lull is no end", [(0, 21), (15, 5), (30, 21), (45, 5)], 60, [(0, None, False)]),
    ("between the borders it lasts", [(0, 21), (15, 15), (30, 15), (45, 15)], 60, [(0, None, False)]),
    ("no window since, for less than five hours", [(0, 21), (15, 22)], 330, [(0, None, False)]),
    ("no window for five hours", [(0, 21), (15, 22)], 331, [(0, 315, True)]),
    ("no window for days", [(0, 21)], 3000, [(0, 300, True)]),
    ("a window after just five hours", [(0, 21), (300, 21)], 330, [(0, None, False)]),
    ("again after five hours and more", [(0, 21), (315, 21)], 345, [(0, 300, True), (315, None, False)]),
    ("calm after five hours and more", [(0, 21), (400, 5)], 415, [(0, 300, True)]),
]


def late_windows(url):
    """An alert ends as time passes, goes on when a window is known after all, and is told each time."""
    database = fresh(url)
    gust(database, "north", 0, 25)
    said = []
    for now, window in ((15, None), (315, None), (316, None), (400, 285), (600, None), (601, None)):
        if window is not None:
            gust(database, "north", window, 25)
        judge(database, now)
        said.append([minutes(row[3]) for row in alerts(database)])
    states = [state for (state,) in database.rows("select value ->> 'state' from city.outbox where topic = 'city.alerts' order by id")]
    if said != [[None], [None], [300], [None], [None], [585]] or states != ["firing", "resolved", "firing", "resolved"]:
        raise SystemExit(f"FAILED an alert that ended in time: {said}, {states}")


def any_order(url, seed):
    """Windows known in time, late, corrected and gone; then the same, as they are in the end, at once; and both as a loop says."""
    chance = random.Random(seed)
    moments = list(range(60, DAYS * 24 * 60, 60))
    true, silent_until = {}, dict.fromkeys(DISTRICTS, 0)
    for district in DISTRICTS:
        value = 10.0
        for window in range(0, moments[-1] - 60, 15):
            value = min(40, max(0, value + chance.uniform(-6, 6)))
            if chance.random() < 0.012:
                silent_until[district] = window + chance.choice([45, 290, 310, 900])
            if window >= silent_until[district]:
                true[district, window] = round(value, 1)
    course, shown = fresh(url), {}
    for now in moments:
        for (district, window), value in true.items():
            if window + 15 > now:
                continue
            due = value if now == moments[-1] or chance.random() < 0.98 else chance.choice([None, 30.0, 3.0])
            # Most become known at once, some hours late; a few are wrong for a while.
            if shown.get((district, window), "none") != due and (now == moments[-1] or now - window < 90 or chance.random() < 0.02) and (
                    now == moments[-1] or chance.random() < 0.9):
                shown[district, window] = due
                gust(course, district, window, due)
        judge(course, now)
    is_ = alerts(course)
    once, must = fresh(url), []
    for (district, window), value in true.items():
        gust(once, district, window, value)
    judge(once, moments[-1])
    for district in DISTRICTS:
        levels = [(at(window), outcomes.level("storm", value)) for (of, window), value in true.items() if of == district]
        must += [(one.subject, one.severity, one.raised_at, one.cleared_at) for one in outcomes.of_levels("storm", district, levels, at(moments[-1]))]
    return is_, alerts(once), sorted(must, key=str)


def main(url, seed):
    for case in CASES:
        check(url, *case)
    late_windows(url)
    rounds, count, unknown = 3, 0, 0
    for number in range(rounds):
        course, once, must = any_order(url, seed + number)
        if course != once:
            raise SystemExit(f"FAILED conditions in the course of time, seed {seed + number}: {course}, at once {once}")
        if sorted((row[:4] for row in once), key=str) != must:
            raise SystemExit(f"FAILED conditions, seed {seed + number}: {once}, expected {must}")
        count, unknown = count + len(must), unknown + sum("nothing was measured" in row[5] for row in once)
    if not unknown:
        raise SystemExit("FAILED no alert was over for want of windows: the seeds say nothing of it")
    print(f"ok     conditions: {len(CASES)} cases, and {count} alerts of {rounds} cities the same in the course of time, at once and by a loop, "
          f"{unknown} over for want of windows (seeds from {seed})")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
