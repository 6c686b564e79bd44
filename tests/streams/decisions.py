"""Insights and alerts, against what was injected: each alert once, raised and cleared in time, and no other."""

import datetime
import io
import json
import math

import fastavro

import city
import expected
from database import FOLDER

MINUTES = lambda count: datetime.timedelta(minutes=count)


def check(database, ledger):
    alerts(database)
    queue(database)
    rain(database)
    demand(database, ledger)
    messages(database)
    views(database)


def hour(hours, day=3):
    return city.at(day) + datetime.timedelta(hours=hours)


def alerts(database):
    """(alert, subject, severity, raised between, cleared between), of all that nobody else caused."""
    def near(when, more=0):
        return when, when + MINUTES(25 + more)

    wanted = [
        ("cabinet_dead", "road-cabinet", "critical", near(hour(city.CABINET_DEAD[0])), near(hour(city.CABINET_DEAD[1]))),
        ("congestion", "road", "warning", near(city.QUEUE_FROM), near(city.QUEUE_FROM + city.QUEUE_LASTS)),
        ("district_silent", "harbour", "critical", near(hour(city.HARBOUR_SILENT[0]), 20), near(hour(city.HARBOUR_SILENT[1]))),
        ("feeder_overload", city.OVERLOAD[0], "critical", near(hour(city.OVERLOAD[1], 2), 5), near(hour(city.OVERLOAD[2], 2), 15)),
        ("storm", "north", "critical", near(hour(city.STORM[0], 2)), near(hour(city.STORM[1], 2), 15)),
    ]
    found = database.rows("select alert, subject, severity, raised_at, cleared_at, reason from city.alert where not withdrawn and caused_by is null order by 1, 2, 4")
    if [row[:3] for row in found] != [row[:3] for row in wanted]:
        raise SystemExit(f"FAILED alerts: {found}")
    for is_, must in zip(found, wanted):
        for when, (from_at, to_at) in zip(is_[3:5], must[3:5]):
            if when is None or not from_at <= when <= to_at:
                raise SystemExit(f"FAILED alert at the wrong time: {is_}, {must}")
    parts = database.rows("select subject, caused_by from city.alert where not withdrawn and caused_by is not null")
    if not parts or any("district_silent|harbour" not in cause for _, cause in parts):
        raise SystemExit(f"FAILED cabinets of the silent district: {parts}")
    print(f"ok     {len(found)} alerts, each once and cleared: {', '.join(f'{row[0]} {row[1]}' for row in found)}; {len(parts)} cabinets of the silent district are part of its alert")


def queue(database):
    found = database.rows("select subject, value, details, reason from city.insight where insight = 'queue_upstream' and not withdrawn")
    if len(found) != 1 or found[0][2]["detectors"] != [f"road-{number}" for number in (6, 5, 4, 3, 2)] or abs(found[0][1] / city.QUEUE_KM_H - 1) > 0.25:
        raise SystemExit(f"FAILED queue: {found}")
    print(f"ok     a queue at {city.QUEUE_KM_H} km/h upstream, found at {found[0][1]:.1f}: {found[0][3]}")


def rain(database):
    found = [value for (value,) in database.rows("select value from city.insight where insight = 'rain_speed' and not withdrawn")]
    mean = math.fsum(found) / max(1, len(found))
    if len(found) < 10 or abs(mean - 100 * city.SLOWER_IN_RAIN) > 4:
        raise SystemExit(f"FAILED rain: {len(found)} windows, {mean} % slower")
    print(f"ok     {100 * city.SLOWER_IN_RAIN:.0f} % slower in rain, found {mean:.1f} % in {len(found)} quarters of an hour")


def demand(database, ledger):
    capacity, meters = {}, {}
    for row in ledger.devices:
        if row["kind"] == "energy":
            capacity[row["cell"]] = capacity.get(row["cell"], 0) + row["capacity_w"]
            if row["interval_s"] == city.SLOW_S:
                meters[row["district"]] = meters.get(row["district"], 0) + 1
    closed = database.one("select computed_until from city.computed where kind = 'energy'")
    sums = expected.aggregates(ledger, "energy", closed, expected.QUARTER)
    wanted = {(place, window): (value[0] - sums["cell", place, window, "supply_w"][0]) / capacity[place]
              for (scope, place, window, measure), value in sums.items() if scope == "cell" and measure == "demand_w"}
    found = {(place, window): value for place, window, value in database.rows("select subject, from_at, value from city.insight where insight = 'demand_supply' and not withdrawn")}
    if wanted.keys() != found.keys() or not all(math.isclose(found[key], wanted[key], rel_tol=1e-9, abs_tol=1e-9) for key in wanted):
        raise SystemExit(f"FAILED demand and supply: {len(wanted)} and {len(found)} windows, {sorted(wanted.keys() ^ found.keys())[:5]}")
    print(f"ok     demand less supply of {len(found)} quarters of an hour of cells, equal to an independent computation")
    weather = expected.aggregates(ledger, "weather", database.one("select computed_until from city.computed where kind = 'weather'"), expected.QUARTER)
    for district, day, value in database.rows("select subject, from_at, value from city.insight where insight = 'demand_temperature' and not withdrawn order by 1"):
        slope = colder(sums, weather, district, day)
        if not math.isclose(value, slope, rel_tol=1e-6):
            raise SystemExit(f"FAILED demand and temperature of {district}: {value} instead of {slope}")
        print(f"ok     demand of {district}: {value:.0f} W per degree colder, equal to an independent computation; {city.WATTS_PER_DEGREE * meters[district]} are true, of meters some of whose readings are wrong")


def colder(energy, weather, district, until):
    """Slope of the line through demand and temperature, each less its mean at that hour of the day."""
    pairs, hours = [], {}
    for (scope, place, window, measure), value in energy.items():
        temperature = weather.get(("district", place, window, "temperature_c"))
        if scope == "district" and place == district and measure == "demand_w" and temperature and window < until:
            pairs.append((window.hour, value[0], temperature[0]))
            hours.setdefault(window.hour, []).append(pairs[-1])
    mean = {hour: [math.fsum(pair[axis] for pair in of_hour) / len(of_hour) for axis in (1, 2)] for hour, of_hour in hours.items()}
    centred = [(demand - mean[hour][0], temperature - mean[hour][1]) for hour, demand, temperature in pairs]
    return -math.fsum(demand * temperature for demand, temperature in centred) / math.fsum(temperature**2 for _, temperature in centred)


def messages(database):
    """Every message fits its topic's schema, and the last of each key says what the table says."""
    schemas = {topic: fastavro.parse_schema(json.loads((FOLDER / f"{topic}.avsc").read_text())) for topic in ("city.aggregates", "city.anomalies", "city.alerts")}
    counts, last, states = {}, {}, {}
    for topic, key, value in database.rows("select topic, key, value from city.outbox order by id"):
        names = {field["name"] for field in schemas[topic]["fields"]}
        if value.keys() - names:
            raise SystemExit(f"FAILED {topic}: fields {value.keys() - names} are not in its schema")
        counts[topic] = counts.get(topic, 0) + 1
        if counts[topic] % 50 == 1 or topic == "city.alerts":
            fastavro.schemaless_writer(io.BytesIO(), schemas[topic], timed(schemas[topic], value), strict_allow_default=True)
        if topic == "city.alerts":
            states.setdefault(key, []).append(value["state"])
        if topic != "city.aggregates":
            if key in last and last[key]["revision"] >= value["revision"]:
                raise SystemExit(f"FAILED {topic}: {key} does not rise: {last[key]['revision']}, {value['revision']}")
            last[key] = value
    cabinets = [key for key in states if key.startswith("cabinet_dead") and "road-cabinet" not in key]
    if cabinets or any(of_key[-1] != "resolved" for of_key in states.values()) or sum(of_key[0] == "firing" for of_key in states.values()) < 3:
        raise SystemExit(f"FAILED messages of alerts: {states}")
    for table, topic in (("anomaly", "city.anomalies"), ("alert", "city.alerts")):
        for key, revision in database.rows(f"select id, revision from city.{table}" + (" where caused_by is null" if table == "alert" else "")):
            if last[key]["revision"] != revision:
                raise SystemExit(f"FAILED {topic}: the last message of {key} is not its row")
    print(f"ok     messages fit their schemas, and the last of each key is what the table says: {counts}")


def timed(schema, value):
    """Times as Avro wants them, not as JSON writes them."""
    def convert(avro, one):
        if isinstance(avro, list):
            return None if one is None else convert(next(branch for branch in avro if branch != "null"), one)
        if isinstance(avro, dict) and avro.get("logicalType") == "timestamp-millis":
            return datetime.datetime.fromisoformat(one)
        if isinstance(avro, dict) and avro["type"] == "record":
            return {field["name"]: convert(field["type"], one[field["name"]]) for field in avro["fields"] if field["name"] in one}
        if isinstance(avro, dict) and avro["type"] == "array":
            return [convert(avro["items"], item) for item in one]
        if isinstance(avro, dict) and avro["type"] == "map":
            return {key: convert(avro["values"], item) for key, item in one.items()}
        return one

    return convert(schema, value)


def views(database):
    """Every view that a dashboard asks has rows, and is quick."""
    for name in ("v_progress", "v_district_15m", "v_city", "v_device", "v_anomalies"):
        if not database.rows(f"select * from city.{name} limit 5"):
            raise SystemExit(f"FAILED city.{name} has no row")
    seen = database.rows("select count(*), count(last_seen), min(completeness) from city.v_device")
    print(f"ok     views have rows; devices, seen, least complete: {seen[0]}")
