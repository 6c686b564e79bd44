"""Outages from silences: what is one alert, what is a part of another, and that it does not matter in which order silences are found.

  outages.py URL [SEED]
"""

import datetime
import random
import sys

from database import Database

START = datetime.datetime(2026, 11, 2, tzinfo=datetime.UTC)
DISTRICTS, CABINETS, DEVICES = 4, 3, 4  # cabinets of a district, devices of a cabinet
KINDS = ("traffic", "energy")
MEMBERS = {f"{kind}-{district}-{cabinet}-{number}": (kind, f"district-{district}", f"cabinet-{district}-{cabinet}")
           for kind in KINDS for district in range(DISTRICTS) for cabinet in range(CABINETS) for number in range(DEVICES // len(KINDS))}


def at(minutes):
    return START + datetime.timedelta(minutes=minutes)


def fresh(url):
    database = Database(url, [START.date()])
    database.insert_devices([{"device": device, "kind": kind, "district": district, "cabinet": cabinet, "interval_s": 60}
                             for device, (kind, district, cabinet) in MEMBERS.items()])
    database.execute("delete from city.changed")
    return database


def silence(database, device, begin, end):
    """As find_anomalies() writes it: a silence that is new or different, or, where it ends before it begins, one that was none."""
    kind, withdrawn = MEMBERS[device][0], end is not None and end <= begin
    database.execute("""insert into city.anomaly (id, device, kind, anomaly, field, observed_from, observed_to, points, reason, readings, withdrawn)
      values (%s, %s, %s, 'silent', '', %s, %s, 1, '', '[]', %s)
      on conflict (id) do update set observed_to = excluded.observed_to, withdrawn = excluded.withdrawn""",
                     f"{device}|{begin}", device, kind, at(begin), None if end is None else at(end), withdrawn)
    database.execute("insert into city.changed values (%s, 'silent', 'device', %s, %s) on conflict do nothing", kind, device, at(begin))


def judge(database, now):
    for kind in KINDS:
        database.execute("insert into city.computed values (%s, %s) on conflict (kind) do update set computed_until = excluded.computed_until", kind, at(now))
    database.execute("select city.judge_city()")


def alerts(database):
    return database.rows("""select alert, subject, raised_at, cleared_at, caused_by, reason from city.alert where not withdrawn order by 1, 2, 3""")


def minutes(moment):
    return None if moment is None else round((moment - START).total_seconds() / 60)


def check(url, name, silences, now, expected):
    """`silences`: (prefix of devices, from, to); `expected`: (alert, subject, raised, cleared, the alert it is a part of), in minutes."""
    database = fresh(url)
    for prefix, begin, end in silences:
        for device, (_, district, cabinet) in MEMBERS.items():
            if prefix in (device, district, cabinet, "city"):
                silence(database, device, begin, end)
    judge(database, now)
    found = [(alert, subject, minutes(raised), minutes(cleared), None if cause is None else cause.split("|")[0])
             for alert, subject, raised, cleared, cause, _ in alerts(database)]
    found = [row for row in found if row[0] != "cabinet_dead" or row[4] is None]  # those that are parts go without saying
    if found != sorted(expected):
        raise SystemExit(f"FAILED {name}: {found}, expected {expected}")
    if (database.one("select count(*) from city.outbox where topic = 'city.alerts'") == 0) != all(row[4] for row in expected):
        raise SystemExit(f"FAILED {name}: messages")


# A silence is found 3.5 min after the last reading; a cabinet is dead after 3 min of that, a district silent after 2.
CASES = [
    ("a device", [("traffic-0-0-0", 0, None)], 60, []),
    ("a cabinet", [("cabinet-0-0", 0, 30)], 60, [("cabinet_dead", "cabinet-0-0", 6, 30, None)]),
    ("a cabinet, not long enough", [("cabinet-0-0", 0, 6)], 60, []),
    ("a cabinet that is dead still", [("cabinet-0-0", 0, None)], 60, [("cabinet_dead", "cabinet-0-0", 6, None, None)]),
    ("a cabinet whose time has not come", [("cabinet-0-0", 0, None)], 6, []),
    ("a district", [("district-1", 10, 40)], 60, [("district_silent", "district-1", 16, 40, None)]),
    ("a cabinet, and its district later", [("cabinet-1-0", 0, 90), ("cabinet-1-1", 30, 90), ("cabinet-1-2", 30, 90)], 99,
     [("cabinet_dead", "cabinet-1-0", 6, 90, None), ("district_silent", "district-1", 36, 90, None)]),
    ("a cabinet, and its district soon", [("cabinet-1-0", 0, 90), ("cabinet-1-1", 10, 90), ("cabinet-1-2", 10, 90)], 99,
     [("district_silent", "district-1", 16, 90, None)]),
    ("everything", [("city", 0, 50)], 99,
     [("city_silent", "city", 4, 50, None)] + [("district_silent", f"district-{number}", 6, 50, "city_silent") for number in range(DISTRICTS)]),
]


def any_order(url, seed):
    """Silences found, prolonged, ended and withdrawn in the course of time, and late; then the same, as they are in the end, at once."""
    chance = random.Random(seed)
    moments = list(range(20, 1500, 20))
    stories = {}
    for _ in range(chance.randint(20, 60)):
        prefix = chance.choice(["city", *(f"district-{n}" for n in range(DISTRICTS)), *(member[2] for member in MEMBERS.values()), *MEMBERS])
        begin = chance.randrange(0, 1300)
        for device, (_, district, cabinet) in MEMBERS.items():
            if prefix in (device, district, cabinet, "city") and chance.random() < 0.93:
                first = begin + chance.randrange(0, 6)
                stories.setdefault(device, []).append((first, first + chance.choice([5, 7, 9, 30, 200]) + chance.randrange(0, 5)))
    true = {device: apart(spans) for device, spans in stories.items()}
    wrong = {device: (chance.randrange(0, 1300), chance.choice(moments)) for device in chance.sample(list(MEMBERS), 6)}

    course = fresh(url)
    said = {}
    for now in moments:
        for device, spans in true.items():
            for begin, end in spans:
                state = None if begin + 4 > now else "open" if end > now else end
                # Some is known late: a reading of an hour ago.
                if state is not None and said.get((device, begin)) != state and (now == moments[-1] or chance.random() < 0.8):
                    said[device, begin] = state
                    silence(course, device, begin, None if state == "open" else state)
        for device, (begin, until) in wrong.items():
            if (device, begin) not in said and begin < now:
                silence(course, device, begin, begin + 100 if now < until else begin)
        judge(course, now)
    is_ = alerts(course)

    once = fresh(url)
    for device, spans in true.items():
        for begin, end in spans:
            silence(once, device, begin, end if end <= moments[-1] else None)
    judge(once, moments[-1])
    must = alerts(once)
    if is_ != must:
        raise SystemExit(f"FAILED outages in the course of time, seed {seed}: only there {set(is_) - set(must)}, only at once {set(must) - set(is_)}")
    return len(must)


def apart(spans):
    """A device is silent once at a time."""
    kept = []
    for begin, end in sorted(spans):
        if not kept or begin > kept[-1][1] + 20:
            kept.append((begin, end))
    return kept


def of_today(url):
    """A device that leaves a dead cabinet, and one that is removed: alerts that last are judged again, old ones stay."""
    database = fresh(url)
    for device, (_, _, cabinet) in MEMBERS.items():
        if cabinet == "cabinet-0-0":
            silence(database, device, 0, 30)
            silence(database, device, 100, None)
    judge(database, 200)
    before = alerts(database)
    database.execute("update city.device set cabinet = device where cabinet = 'cabinet-0-0' and device <> 'traffic-0-0-0'")
    judge(database, 201)
    after = alerts(database)
    if len(before) != 2 or after != before[:1]:
        raise SystemExit(f"FAILED a cabinet of one device: {before}, then {after}")


def main(url, seed):
    for case in CASES:
        check(url, *case)
    of_today(url)
    rounds = 4
    found = sum(any_order(url, seed + number) for number in range(rounds))
    print(f"ok     outages: {len(CASES)} cases, and {found} alerts of {rounds} cities the same in the course of time and at once (seeds from {seed})")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
