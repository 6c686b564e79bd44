"""Numbers at the ends of what a device, a schema of a city's own, or a record of a device can hold: all is computed nevertheless, the same
in the course of time and at once, and of other devices what would be computed without them.

  extremes.py URL [SEED]
"""

import datetime
import json
import math
import random
import sys

import corrections
from corrections import END, START
from database import KINDS
from tables import SCHEMAS

NUMBERS = (0.0, -0.0, 5e-324, 1e-310, 1e-170, 1e-9, 0.001, 1.0, 1e12, 1e15, 1e170, 1e300, 1.7e308)
# What no JSON has, but Avro.
NOT_NUMBERS = (math.nan, math.inf, -math.inf)
WHOLE = (0, 1, 2**31 - 1)
NEIGHBOURS = {"traffic": "edge-road", "weather": "edge-sky", "energy": "edge-meter"}
PLACES = {"latitude": 90, "longitude": 180, "position_m": 1e300, "interval_s": 1e300, "capacity_w": 1e300}
MOMENTS = (None, "-infinity", "infinity", "294276-01-01 00:00:00+00", "4713-01-01 00:00:00+00 BC", "2026-11-02 07:00:00+00")


def fields(record):
    """Name, whether it is whole, least and most of each number of a record."""
    for field in record["fields"]:
        branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
        for branch in branches:
            if branch in ("double", "int"):
                yield field["name"], branch == "int", field.get("minimum", -math.inf), field.get("maximum", math.inf)


def of_schema(kind):
    schema = json.loads((SCHEMAS / f"{kind}.avsc").read_text())
    lanes = [field["type"]["items"] for field in schema["fields"] if field["name"] == "lanes"]
    return list(fields(schema)), list(fields(lanes[0])) if lanes else []


SCHEMA = {kind: of_schema(kind) for kind in KINDS}


def drawn(chance, whole, least, most, any_number):
    """Of what the schema accepts, or of what its column holds."""
    if whole:
        ends = [number for number in WHOLE if least <= number <= most] + [end for end in (least, most) if math.isfinite(end)]
        return chance.choice(WHOLE if any_number else ends)
    signed = [*NUMBERS, *(-number for number in NUMBERS)]
    if any_number:
        return chance.choice([*signed, *NOT_NUMBERS])
    return chance.choice([number for number in (*signed, least, most) if least <= number <= most and math.isfinite(number)])


def extreme(kind, chance):
    """A reading most of whose numbers are extreme; what is in lanes has to be in JSON."""
    of_reading, of_lane = SCHEMA[kind]
    any_number = chance.random() < 0.5
    reading = {name: drawn(chance, *limits, any_number) if chance.random() < 0.7 else None for name, *limits in of_reading}
    if kind == "traffic":
        reading["lanes"] = []
        for number in range(chance.choice([0, 0, 1, 3])):
            lane = {name: drawn(chance, *limits, any_number) if chance.random() < 0.8 else None for name, *limits in of_lane}
            reading["lanes"].append({name: value for name, value in lane.items() if value is None or math.isfinite(value)} | {"lane": number + 1})
        if reading["lanes"] and chance.random() < 0.7:
            reading |= dict.fromkeys(("vehicle_count", "flow_veh_h", "speed_kmh"))
    return reading


def readings(chance):
    found = corrections.readings(chance)
    for kind, device in NEIGHBOURS.items():
        for minute in range(corrections.MINUTES):
            observed_at = START + datetime.timedelta(minutes=minute, seconds=9)
            number = chance.getrandbits(62)
            found[kind].append({"device": f"{device}-{minute % 3}", "observed_at": observed_at, "received_at": observed_at + datetime.timedelta(seconds=chance.choice([1, 300])),
                                "is_late": False, "reading_id": number, "kafka_partition": 0, "kafka_offset": number % 10**9, **extreme(kind, chance)})
    return found


def devices(chance):
    """Those of corrections.py, and in the same places devices of which nothing can be believed."""
    rows = corrections.devices()
    for kind, device in NEIGHBOURS.items():
        names = [f"{device}-{number}" for number in range(3)]
        for name in names:
            places = {column: chance.choice([None, *(number for number in NUMBERS if number <= most), *NOT_NUMBERS, most]) for column, most in PLACES.items()}
            rows.append(dict(rows[0], device=name, kind=kind, segment="s" if kind == "traffic" else None, feeder="f" if kind == "energy" else None,
                             upstream=names, lane_count=chance.choice([None, 0, 2**31 - 1]), valid_from=chance.choice(MOMENTS), **places))
    return rows


# What one reading is: (kind, fields, {measure: (value, weight)} of its minute).
CASES = [
    ("traffic", {"vehicle_count": 5, "speed_kmh": 1e-310, "interval_s": 60}, {"vehicle_count": (5, 1), "flow_veh_h": (300, 60)}),
    ("traffic", {"vehicle_count": 5, "speed_kmh": 0.0009, "interval_s": 60}, {"vehicle_count": (5, 1), "flow_veh_h": (300, 60)}),
    ("traffic", {"vehicle_count": 5, "speed_kmh": 0.001, "interval_s": 60}, {"vehicle_count": (5, 1), "flow_veh_h": (300, 60), "speed_kmh": (0.001, 5)}),
    ("traffic", {"vehicle_count": 5, "interval_s": 1e-310}, {"vehicle_count": (5, 1)}),
    ("traffic", {"flow_veh_h": 600, "speed_kmh": 50, "interval_s": 0}, {"flow_veh_h": (600, 60), "speed_kmh": (50, 10)}),
    ("traffic", {"flow_veh_h": 1e300, "occupancy_percent": 5e-324, "interval_s": 60}, {"occupancy_percent": (0, 60)}),
    ("traffic", {"lanes": [{"vehicle_count": 3, "speed_kmh": 1e-310}, {"vehicle_count": 2, "speed_kmh": 60}]}, {"vehicle_count": (5, 1), "speed_kmh": (60, 5)}),
    ("weather", {"wind_speed_m_s": 1e-170, "wind_direction_deg": 90}, {"wind_speed_m_s": (0, 1)}),
    ("weather", {"wind_speed_m_s": 2, "wind_direction_deg": 5e-324}, {"wind_speed_m_s": (2, 1), "wind_direction_deg": (0, 2)}),
    ("weather", {"temperature_c": math.nan, "rain_mm": math.inf, "pressure_hpa": 1e16, "irradiance_w_m2": 1e15}, {"irradiance_w_m2": (1e15, 1)}),
    ("energy", {"power_w": 1e300}, {}),
    ("energy", {"power_w": -1e-320}, {"power_w": (0, 1), "demand_w": (0, 1), "supply_w": (0, 1)}),
]


def cases(url):
    """Each on a device of its own."""
    database = corrections.fresh(url, [dict(corrections.devices()[0], device=f"case-{number}", kind=kind) for number, (kind, _, _) in enumerate(CASES)])
    for kind in KINDS:
        database.store(kind, [{"device": f"case-{number}", "observed_at": START, "received_at": START, "is_late": False, "reading_id": number, "kafka_partition": 0,
                               "kafka_offset": number, **fields} for number, (of_kind, fields, _) in enumerate(CASES) if of_kind == kind], END)
    database.run_jobs()
    for number, (kind, fields, expected) in enumerate(CASES):
        found = {measure: values for measure, *values in database.rows(
            "select measure, value, weight from city.aggregate_1m where scope = 'device' and id = %s and value is not null", f"case-{number}")}
        if found.keys() != expected.keys() or not all(math.isclose(is_, must, rel_tol=1e-9) for name in found for is_, must in zip(found[name], expected[name])):
            raise SystemExit(f"FAILED {kind} {fields}: {found}, expected {expected}")


def check(url, seed):
    """How many of all results there are, and of how many sane devices they are what they are without the others."""
    chance = random.Random(seed)
    all_of_it, known = readings(chance), devices(chance)
    database, count = corrections.check(url, f"extremes, seed {seed}", all_of_it, known, chance)
    database.rows("select city.metres_between(one, other) from city.device one cross join city.device other")
    odd = database.rows("select * from city.aggregate_1m where value is not null and not abs(value) < 1e20 or not weight < 1e30 limit 3")
    if odd or not database.one("select count(*) from city.aggregate_1m where scope = 'device' and id like 'edge-%' and value is not null"):
        raise SystemExit(f"FAILED extremes, seed {seed}: {odd}")
    is_ = of_devices(database)
    edges = tuple(f"{device}-" for device in NEIGHBOURS.values())
    sane = {kind: [reading for reading in of_kind if not reading["device"].startswith(edges)] for kind, of_kind in all_of_it.items()}
    if is_ != of_devices(corrections.at_once(url, sane, corrections.devices())):
        raise SystemExit(f"FAILED extremes, seed {seed}: other devices are not as they are without them")
    return count, len(is_)


def of_devices(database):
    rows = database.results()
    return [*(row for row in rows["aggregate_1m"] + rows["aggregate_15m"] if row[0] == "device" and not row[1].startswith("edge-")),
            *(row for row in rows["anomaly"] if "|edge-" not in row[0])]


def main(url, seed):
    cases(url)
    count, others = check(url, seed)
    print(f"ok     extremes: {len(CASES)} readings; {count} results of a small city with numbers at the ends of what can be held, the same in the course of time "
          f"and at once, and {others} of other devices as without them (seed {seed})")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
