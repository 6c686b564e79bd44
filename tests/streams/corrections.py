"""Readings that arrive in any order, correct one another, and lack values: what is computed in the course of time is what is computed
of all of them at once. Values are random, so that registers fall and leap, and windows lose the last value that they had.

  corrections.py URL [SEED]
"""

import datetime
import random
import sys

from database import KINDS, Database

START = datetime.datetime(2026, 11, 2, 8, tzinfo=datetime.UTC)
MINUTES = 100
END = START + datetime.timedelta(minutes=MINUTES + 60)
DEVICES = {"traffic": ["road-1", "road-2"], "weather": ["sky-1", "sky-2"], "energy": ["meter-1", "meter-2", "meter-3"]}


def values(kind, chance, state):
    def maybe(value, share=0.6):
        return value if chance.random() < share else None

    if kind == "traffic":
        return {"interval_s": 60, "vehicle_count": maybe(chance.randrange(30)), "speed_kmh": maybe(round(chance.uniform(0, 90), 1)),
                "flow_veh_h": maybe(chance.randrange(1500), 0.3), "occupancy_percent": maybe(round(chance.uniform(0, 60), 1), 0.3), "lanes": []}
    if kind == "weather":
        return {"temperature_c": maybe(round(chance.uniform(-5, 25), 1)), "wind_speed_m_s": maybe(round(chance.uniform(0, 30), 1)),
                "wind_direction_deg": maybe(chance.randrange(360)), "rain_mm": maybe(chance.choice([0, 0.2, 3])), "wind_gust_m_s": maybe(22, 0.1)}
    # Registers that only a few values move, so that what counts is decided by what came before.
    state["register"] = max(0, state.get("register", 100) + chance.choice([0, 0.1, 0.2, 0.4, 40, -0.3, -90]))
    return {"power_w": maybe(chance.randrange(-500, 3000), 0.4), "energy_import_kwh": maybe(round(state["register"], 2), 0.9)}


def readings(chance):
    """By kind: (when it arrives, the reading); some instants twice, with other values."""
    found = {}
    for kind in KINDS:
        found[kind] = []
        for device in DEVICES[kind]:
            state = {}
            for minute in range(MINUTES):
                if chance.random() < 0.15:
                    continue
                for _ in range(2 if chance.random() < 0.08 else 1):
                    observed_at = START + datetime.timedelta(minutes=minute, seconds=7)
                    delay = chance.choice([1, 1, 1, 1, 40, 400, 1500, 3300])
                    number = chance.getrandbits(62)
                    found[kind].append({"device": device, "observed_at": observed_at, "received_at": observed_at + datetime.timedelta(seconds=delay),
                                        "is_late": False, "reading_id": number, "kafka_partition": 0, "kafka_offset": number % 10**9, **values(kind, chance, state)})
    return found


def devices():
    return [{"device": device, "kind": kind, "interval_s": 60, "district": "d", "segment": "s" if kind == "traffic" else None,
             "feeder": "f" if kind == "energy" else None, "cell": "c", "cabinet": f"b-{device[-1]}", "capacity_w": 4000}
            for kind, names in DEVICES.items() for device in names]


def fresh(url, known):
    database = Database(url, [START.date()])
    # Of the columns that any of them has.
    names = {name: None for row in known for name in row}
    database.insert_devices([names | row for row in known])
    return database


def at_once(url, all_of_it, known):
    database = fresh(url, known)
    for kind in KINDS:
        database.store(kind, all_of_it[kind], END)
    database.run_jobs()
    return database


def check(url, what, all_of_it, known, chance):
    """The database with all of it at once, and how many results it has; in the course of time they are the same."""
    course = fresh(url, known)
    moments = [START + datetime.timedelta(minutes=minute) for minute in range(10, MINUTES + 60, 10)] + [END]
    for from_at, to_at in zip([START - datetime.timedelta(days=1), *moments], moments):
        for kind in KINDS:
            batch = [reading for reading in all_of_it[kind] if from_at <= reading["received_at"] < to_at]
            chance.shuffle(batch)
            course.store(kind, batch, to_at)
        course.run_jobs()
    is_ = course.results()

    once = at_once(url, all_of_it, known)
    must = once.results()
    for table, rows in must.items():
        if is_[table] != rows:
            more, less = [row for row in is_[table] if row not in rows], [row for row in rows if row not in is_[table]]
            raise SystemExit(f"FAILED {table}, {what}: in the course of time also {more[:3]}, and not {less[:3]}")
    return once, sum(map(len, must.values()))


def main(url, seed):
    rounds, rows = 3, 0
    for number in range(rounds):
        chance = random.Random(seed + number)
        rows += check(url, f"seed {seed + number}", readings(chance), devices(), chance)[1]
    print(f"ok     {rows} results of {rounds} small cities the same in the course of time, with corrections, and at once (seeds from {seed})")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
