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
    ("energy", {"power_w": 5e-324}, {"power_w": (0, 1), "demand_w": (0, 1), "supply_w": (0, 1)}),
    ("traffic", {"interval_s": 5e-324, "speed_kmh": 50, "vehicle_count": 5, "flow_veh_h": 100}, {"vehicle_count": (5, 1), "flow_veh_h": (100, 60), "speed_kmh": (50, 5)}),
    ("energy", {"interval_s": 5e-324, "power_w": -70}, {"power_w": (-70, 1), "demand_w": (0, 1), "supply_w": (70, 1)}),
    ("weather", {"interval_s": 5e-324, "rain_mm": 0.2, "wind_speed_m_s": 1e15, "wind_direction_deg": 90},
     {"rain_mm": (0.2, 1), "wind_speed_m_s": (1e15, 1), "wind_direction_deg": (90, 1e15)}),
    ("energy", [{"energy_import_kwh": 1e308, "energy_export_kwh": 1e308}] * 2, {}),
    ("energy", [{"energy_import_kwh": 1e15, "energy_export_kwh": 5e-324}] * 2, {"energy_import_kwh": (0, 1), "energy_export_kwh": (0, 1)}),
    ("energy", [{"energy_import_kwh": 1e15}, {"energy_import_kwh": -1e15}, {"energy_import_kwh": 1e-9}], {}),
]
# Each measure that is a field as what is no number, and as a zero with a sign.
WEIGHTS = {"flow_veh_h": 60, "occupancy_percent": 60}
for kind, measures in (("traffic", ("vehicle_count", "flow_veh_h", "speed_kmh", "occupancy_percent")),
                       ("weather", ("temperature_c", "relative_humidity_percent", "pressure_hpa", "wind_speed_m_s", "wind_gust_m_s", "wind_direction_deg", "rain_mm", "irradiance_w_m2")),
                       ("energy", ("power_w", "energy_import_kwh", "energy_export_kwh"))):
    for measure in measures:
        nothing = dict.fromkeys(("power_w", "demand_w", "supply_w"), (0, 1)) if measure == "power_w" else {measure: (0, WEIGHTS.get(measure, 1))}
        if measure != "vehicle_count":  # which is a whole number
            CASES += [(kind, [{measure: number}] * 2, {}) for number in NOT_NUMBERS]
            CASES.append((kind, [{measure: -0.0}] * 2, {} if measure == "speed_kmh" else nothing))

# Of what city.usable() lets through, the values and weights at the ends, with what is made of them: veh/h of a count and an interval, vehicles
# of a flow and an interval; and so many devices of each.
VALUES = (0, -3.6e-21, 3.6e-21, -1e-9, 1e-9, 0.001, 1, 90, -1e15, 1e15, -3.6e21, 3.6e21)
OF_WEIGHT = (2.7e-16, 1e-9, 1, 1e15, 2.8e26)
DEVICES = 100_000


def cases(url):
    """Each on a device of its own, the readings a minute apart."""
    database = corrections.fresh(url, [dict(corrections.devices()[0], device=f"case-{number}", kind=kind) for number, (kind, _, _) in enumerate(CASES)])
    for kind in KINDS:
        rows = []
        for number, (of_kind, given, _) in enumerate(CASES):
            for minute, fields in enumerate(given if isinstance(given, list) else [given]):
                at = START + datetime.timedelta(minutes=minute)
                if of_kind == kind:
                    rows.append({"device": f"case-{number}", "observed_at": at, "received_at": at, "is_late": False, "reading_id": len(rows), "kafka_partition": 0,
                                 "kafka_offset": len(rows), **fields})
        database.store(kind, rows, END)
    database.run_jobs()
    for number, (kind, given, expected) in enumerate(CASES):
        rows = database.rows("select measure, value, weight from city.aggregate_1m where scope = 'device' and id = %s and value is not null", f"case-{number}")
        found = {measure: values for measure, *values in rows}
        if found.keys() != expected.keys() or not all(math.isclose(is_, must, rel_tol=1e-9) for measure, *values in rows for is_, must in zip(values, expected[measure])):
            raise SystemExit(f"FAILED {kind} {given}: {rows}, expected {expected}")


def aggregates(url):
    """Each value with each weight, one reading and all in one minute; then of a place with so many devices. None fails, and none is without end."""
    database = corrections.fresh(url, corrections.devices())
    quarter = START + datetime.timedelta(minutes=15)
    count = 0
    for kind in KINDS:
        with database.connection.transaction(force_rollback=True):
            database.execute("select city.begin_work(), city.make_aggregate_partitions(%s, %s)", START, START)
            database.execute("""insert into work_value
              select device, %s + number * interval '1 ms', measure, value, weight, true from (
                select measure, value, weight, row_number() over (partition by measure order by value, weight) as number
                from city.measure, unnest(%s::float8[]) value, unnest(%s::float8[]) weight where kind = %s and (over_time <> 'harmonic' or value >= 0.001)) v
              cross join lateral (values ('one-' || number), ('all')) d(device)""", START, [float(value) for value in VALUES], [float(weight) for weight in OF_WEIGHT], kind)
            database.execute("select city.aggregate_devices(%s, %s), city.merge_fresh(%s, '1m', %s)", kind, START, kind, START)
            database.execute("select city.aggregate_quarters(%s, %s, %s), city.merge_fresh(%s, '15m', %s)", kind, START, quarter, kind, START)
            database.execute("""insert into city.aggregate_1m
              select scope, id || '/' || copy, kind, window_start, measure, value, readings, devices, weight, 1
              from city.aggregate_1m cross join generate_series(1, %s / (select count(distinct id) from city.aggregate_1m)) copy
              where measure in ('speed_kmh', 'flow_veh_h', 'wind_direction_deg', 'power_w')""", DEVICES)
            database.execute("insert into city.place select distinct id, 'district', 'd' from city.aggregate_1m")
            for width in ("1m", "15m"):
                database.execute("select city.aggregate_places(%s, %s, %s, %s), city.merge_fresh(%s, %s, %s)", kind, width, START, quarter, kind, width, START)
                odd = database.rows(f"select * from city.aggregate_{width} where not abs(value) < 1e60 or not weight < 1e60 limit 3")
                if odd:
                    raise SystemExit(f"FAILED aggregates of {kind}: {odd}")
                count += database.one(f"select count(*) from city.aggregate_{width}")
    return count


def of_devices(database):
    rows = database.results()
    return [*(row for row in rows["aggregate_1m"] + rows["aggregate_15m"] if row[0] == "device" and not row[1].startswith("edge-")),
            *(row for row in rows["anomaly"] if "|edge-" not in row[0])]


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


def main(url, seed):
    cases(url)
    edges = aggregates(url)
    count, others = check(url, seed)
    print(f"ok     extremes: {len(CASES)} devices as cases; {edges} aggregates of values and weights at the ends, of {DEVICES} devices too; {count} results of a small city with numbers at the ends of what can be held, the same in the course of time "
          f"and at once, and {others} of other devices as without them (seed {seed})")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
