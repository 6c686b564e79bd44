"""A synthetic city of four workdays, and the ledger of what is true in it: what was injected where, and what each register did.

Everything is a function of the seed. Readings are rows of the tables that `citygate store` fills; some arrive late, some twice,
some corrected by a second reading of the same instant, some only after their minute was closed.
"""

import collections
import datetime
import json
import math
import random

START = datetime.datetime(2026, 11, 2, tzinfo=datetime.UTC)  # a Monday
DAYS = 4  # the last of them until 16:00
SLOW_S = 600  # most devices report so often; those of the road, and three meters, each minute of the last day
LATE_AFTER = datetime.timedelta(hours=1)
# What a district has; six of the eight detectors are one road, on which a queue grows on the last morning.
DISTRICTS = ("north", "south", "harbour")
ROAD = [f"road-{number}" for number in range(8)]  # in the direction of travel, 500 m apart
QUEUE_FROM = START + datetime.timedelta(days=3, hours=8, minutes=10)
QUEUE_KM_H = 12.0  # so fast the end of the queue moves upstream
QUEUE_LASTS = datetime.timedelta(minutes=40)
STORM = (9, 10)  # hours of the third day, in the north
OVERLOAD = ("feeder-1", 18, 19)  # hours of the third day
CABINET_DEAD = (11, 11.75)  # hours of the last day
HARBOUR_SILENT = (12.5, 13.75)
SLOWER_IN_RAIN = 0.15
WATTS_PER_DEGREE = 40

Label = collections.namedtuple("Label", "anomaly device from_at to_at field")


class Ledger:
    def __init__(self, seed):
        self.seed = seed
        self.devices = []  # rows of city.device
        self.readings = collections.defaultdict(list)  # kind -> readings, as observed
        self.labels = []
        self.wrong_registers = set()  # (device, observed_at): readings whose register is not the meter's
        self.resets = set()  # (device, observed_at): the first after a reset
        self.capacity = {}  # device -> where its register begins again


def at(day, hour=0, minute=0):
    return START + datetime.timedelta(days=day, hours=hour, minutes=minute)


END = at(DAYS - 1, 16)


def rows_between(readings, from_at, to_at):
    return [reading for reading in readings if from_at <= reading["observed_at"] < to_at]


def build(seed):
    ledger = Ledger(seed)
    chance = random.Random(seed)
    meters(ledger, chance)
    stations(ledger, chance)
    detectors(ledger, chance)
    silences(ledger, chance)
    outages(ledger)
    for kind in ledger.readings:
        deliver(ledger.readings[kind], chance)
        ledger.readings[kind] = [reading for reading in ledger.readings[kind] if reading["received_at"] < END]
    ledger.labels.sort()
    return ledger


def device(ledger, name, kind, index, interval_s, **more):
    district = more.pop("district", DISTRICTS[index % len(DISTRICTS)])
    row = {"device": name, "kind": kind, "latitude": 52.5 + index / 1000, "longitude": 13.4, "district": district, "interval_s": interval_s,
           "upstream": [], "downstream": [], "cabinet": None, "segment": None, "position_m": None, "feeder": None, "cell": None,
           "capacity_w": None} | more
    ledger.devices.append(row)
    return row


def ticks(row, from_at, to_at, chance):
    """When a device observes: every interval, each a little off."""
    step = row["interval_s"]
    offset = chance.uniform(0, step)
    count = int((to_at - from_at).total_seconds() // step)
    for number in range(count):
        seconds = offset + number * step + chance.uniform(-0.02, 0.02) * step
        yield from_at + datetime.timedelta(milliseconds=round(1000 * max(0, min(seconds, count * step - 1))))


def rain(when):
    """Millimetres in ten minutes: of the second day dry, of the others some hours wet."""
    hours = (when - START).total_seconds() / 3600
    return 0.0 if 24 <= hours < 48 else 1.0 * max(0.0, math.sin(hours / 3.1) - 0.3)


def temperature(when):
    days = (when - START).total_seconds() / 86400
    return 9 + 4 * math.sin((days % 1 - 0.4) * 2 * math.pi) - (0, 3, 1, 4)[min(3, int(days))]


def note(reading, field, flag):
    reading.setdefault("quality", []).append({"field": field, "flag": flag, "source": "gateway"})


# === electricity ===


def meters(ledger, chance):
    for index in range(11):
        fast = index >= 9
        row = device(ledger, f"meter-{index}", "energy", index, 60 if fast else SLOW_S, feeder=f"feeder-{index % 4}", cell=f"cell-{index % 6}",
                     cabinet=f"box-{index % 3}-{index // 6}", capacity_w=chance.choice([8000, 14000, 22000]))
        from_at = at(3, 6) if fast else at(0)
        readings = [meter_reading(chance, index, when) for when in ticks(row, from_at, END, chance)]
        if row["feeder"] == OVERLOAD[0]:
            for reading in rows_between(readings, at(2, OVERLOAD[1]), at(2, OVERLOAD[2])):
                reading["power_w"] = row["capacity_w"] * 0.6
        registers(ledger, chance, row, readings)
        faults_of_meter(ledger, chance, row, readings)
        ledger.readings["energy"] += readings


def meter_reading(chance, index, when):
    hour = when.hour + when.minute / 60
    day = 0.45 + 0.35 * math.exp(-((hour - 19) / 3) ** 2) + 0.2 * math.exp(-((hour - 8) / 2) ** 2)
    power = (600 + 90 * (index % 7)) * day * math.exp(chance.gauss(0, 0.1)) + WATTS_PER_DEGREE * (12 - temperature(when))
    if index % 5 == 0:  # a roof with panels
        power -= 900 * max(0, math.sin((hour - 6) / 12 * math.pi)) * chance.uniform(0.85, 1)
    return {"device": f"meter-{index}", "observed_at": when, "power_w": round(power, 1), "frequency_hz": round(chance.gauss(50, 0.015), 3)}


def registers(ledger, chance, row, readings):
    """The true registers: three decimals, as many digits as the meter has."""
    digits = chance.choice([4, 5, 6])
    ledger.capacity[row["device"]] = 10.0**digits
    total = 10.0**digits - chance.uniform(1, 4) if chance.random() < 0.3 else chance.uniform(0.4, 0.6) * 10.0**digits
    given, before = 0.0, None
    for reading in readings:
        hours = (reading["observed_at"] - before).total_seconds() / 3600 if before else 0
        before = reading["observed_at"]
        total = (total + max(reading["power_w"], 0) * hours / 1000) % 10.0**digits
        given += max(-reading["power_w"], 0) * hours / 1000
        reading["energy_import_kwh"], reading["energy_export_kwh"] = round(total, 3), round(given, 3)


def faults_of_meter(ledger, chance, row, readings):
    """At most one fault in each part of a day, so that each can be told from the others."""
    name, hours = row["device"], collections.defaultdict(list)
    for index, reading in enumerate(readings):
        hours[reading["observed_at"].day - START.day, reading["observed_at"].hour].append(index)
    days = sorted({day for day, _ in hours})
    for day in days:
        places = {hour: hours[day, hour] or hours[day, hour + 6] for hour in range(24)}
        if chance.random() < 0.5:
            reading = readings[places[3][4]]
            reading["power_w"] = round(reading["power_w"] + chance.choice([-1, 1]) * chance.uniform(18000, 30000), 1)
            label(ledger, "jump", name, reading, reading, "power_w")
        if chance.random() < 0.2:
            reading = readings[places[5][5]]
            reading["frequency_hz"] = round(reading["frequency_hz"] + chance.choice([-1, 1]) * 20, 3)
            label(ledger, "jump", name, reading, reading, "frequency_hz")
        if chance.random() < 0.25:
            reading = readings[places[7][5]]
            reading["frequency_hz"] = None
            note(reading, "frequency_hz", chance.choice(["sentinel", "out_of_range"]))
            label(ledger, "sentinel", name, reading, reading, "frequency_hz")
        if chance.random() < 0.25:
            stick(ledger, name, readings, places[10][0], 12, ("power_w", "frequency_hz", "energy_import_kwh", "energy_export_kwh"))
        if chance.random() < 0.3 and readings[places[14][5]]["energy_import_kwh"] > 1500:
            reading = readings[places[14][5]]
            reading["energy_import_kwh"] = round(reading["energy_import_kwh"] - 900, 3)
            ledger.wrong_registers.add((name, reading["observed_at"]))
            label(ledger, "register_backwards", name, reading, reading, "energy_import_kwh")
        elif chance.random() < 0.1:
            reading = readings[places[14][5]]
            reading["energy_import_kwh"] = round(reading["energy_import_kwh"] + 900, 3)
            ledger.wrong_registers.add((name, reading["observed_at"]))
            label(ledger, "jump", name, reading, reading, "energy_import_kwh")
    if chance.random() < 0.3:
        swap(ledger, chance, name, readings, hours[days[-1], 15][3])
    if chance.random() < 0.8 and len(days) == DAYS:
        unusual(ledger, name, rows_between(readings, at(3, 8), at(3, 9)), "power_w", chance.choice([4.0, 6.0]))


def label(ledger, anomaly, name, first, last, field):
    ledger.labels.append(Label(anomaly, name, first["observed_at"], last["observed_at"], field))


def stick(ledger, name, readings, first, count, fields):
    stuck = readings[first:first + count]
    for reading in stuck[1:]:
        for field in fields:
            reading[field] = stuck[0][field]
        ledger.wrong_registers.discard((name, reading["observed_at"]))
    label(ledger, "stuck", name, stuck[0], stuck[-1], "")


def swap(ledger, chance, name, readings, first):
    """Another meter, whose register begins at nothing."""
    taken = readings[first]["energy_import_kwh"] - chance.uniform(0, 0.02)
    if taken < 100:
        return
    for reading in readings[first:]:
        if (name, reading["observed_at"]) not in ledger.wrong_registers:
            reading["energy_import_kwh"] = round((reading["energy_import_kwh"] - taken) % ledger.capacity[name], 3)
    ledger.resets.add((name, readings[first]["observed_at"]))
    label(ledger, "register_backwards", name, readings[first], readings[first], "energy_import_kwh")


def unusual(ledger, name, readings, field, factor):
    for reading in readings:
        if reading.get(field) is not None:
            reading[field] = round(abs(reading[field]) * factor, 1)
    label(ledger, "profile", name, readings[0], readings[-1], field)


# === weather ===


def stations(ledger, chance):
    for index in range(4):
        row = device(ledger, f"station-{index}", "weather", index, SLOW_S, cell=f"cell-{index}")
        readings = [station_reading(chance, row["device"], when) for when in ticks(row, at(0), END, chance)]
        for day in range(DAYS):
            if day == 2 and row["district"] == "north":
                for reading in rows_between(readings, at(2, STORM[0]), at(2, STORM[1])):
                    reading["wind_gust_m_s"] = round(chance.uniform(29, 33), 1)
            faults_of_station(ledger, chance, row["device"], rows_between(readings, at(day), at(day + 1)))
        ledger.readings["weather"] += readings


def station_reading(chance, name, when):
    hours = (when - START).total_seconds() / 3600
    wind = 4 + 2 * math.sin(hours / 5) + chance.gauss(0, 0.5)
    return {"device": name, "observed_at": when, "temperature_c": round(temperature(when) + chance.gauss(0, 0.2), 1),
            "relative_humidity_percent": round(75 - 12 * math.sin((hours - 9) / 24 * 2 * math.pi) + chance.gauss(0, 0.8), 1),
            "pressure_hpa": round(1012 + 3 * math.sin(hours / 30) + chance.gauss(0, 0.1), 1), "wind_speed_m_s": round(max(0, wind), 1),
            "wind_gust_m_s": round(max(0, wind) * chance.uniform(1.3, 1.7), 1), "wind_direction_deg": round(chance.gauss(355 + 10 * math.sin(hours / 9), 12) % 360, 0),
            "rain_mm": round(rain(when) * chance.uniform(0.8, 1.2) - (0.01 if chance.random() < 0.05 else 0), 2),
            "irradiance_w_m2": round(max(-4.0, 500 * math.sin((hours % 24 - 6) / 12 * math.pi)) + chance.gauss(0, 2), 1)}


def faults_of_station(ledger, chance, name, readings):
    jumps = {"temperature_c": 15, "relative_humidity_percent": -30, "pressure_hpa": 40, "wind_speed_m_s": 20}
    if chance.random() < 0.7:
        reading, field = readings[20], chance.choice(sorted(jumps))
        reading[field] = round(reading[field] + jumps[field], 1)
        label(ledger, "jump", name, reading, reading, field)
    if chance.random() < 0.7:
        for reading in readings[50:54]:
            reading["temperature_c"] = None
            note(reading, "temperature_c", "sentinel")
        label(ledger, "sentinel", name, readings[50], readings[53], "temperature_c")
    if chance.random() < 0.5:
        stick(ledger, name, readings, 83, 12, [field for field in readings[83] if field.endswith(("_c", "_percent", "_hpa", "_s", "_deg", "_mm", "_m2"))])


# === roads ===


def detectors(ledger, chance):
    for index in range(9):
        row = device(ledger, f"counter-{index}", "traffic", index, SLOW_S, segment=f"street-{index % 4}", position_m=100.0 * index, cabinet=f"kiosk-{index % 3}")
        readings = [counted(chance, row, when, 90, 7 * (1 + index % 3)) for when in ticks(row, at(0), END, chance)]
        for day in range(DAYS):
            faults_of_counter(ledger, chance, row["device"], rows_between(readings, at(day), at(day + 1)))
        if index % 2 == 0:
            doubled = rows_between(readings, at(3, 10), at(3, 11))
            for reading in doubled:
                reading["vehicle_count"] *= 4
                reading["flow_veh_h"] = reading["vehicle_count"] * 3600.0 / SLOW_S
            label(ledger, "profile", row["device"], doubled[0], doubled[-1], "flow_veh_h")
        ledger.readings["traffic"] += readings
    for index, name in enumerate(ROAD):
        row = device(ledger, name, "traffic", index, 60, segment="road", position_m=500.0 * index, upstream=ROAD[index - 1:index] if index else [],
                     downstream=ROAD[index + 1:index + 2], cabinet="road-cabinet", district="south")
        readings = [counted(chance, row, when, 100, 18) for when in ticks(row, at(3, 7), END, chance)]
        # The queue begins at the last but one detector and reaches those before it one after another.
        distance_m = 500.0 * (6 - index)
        if 2 <= index <= 6:
            begins = QUEUE_FROM + datetime.timedelta(hours=distance_m / 1000 / QUEUE_KM_H)
            for reading in rows_between(readings, begins, begins + QUEUE_LASTS):
                reading["speed_kmh"] = round(chance.uniform(11, 17), 1)
                reading["occupancy_percent"] = round(chance.uniform(45, 60), 1)
        if index % 2:  # this one tells lanes apart, and leaves the sum of them to others
            for reading in readings:
                by_lane(chance, reading)
        ledger.readings["traffic"] += readings


def counted(chance, row, when, free_km_h, peak):
    hour = when.hour + when.minute / 60
    rate = peak * (0.25 + math.exp(-((hour - 8) / 2.5) ** 2) + math.exp(-((hour - 17.5) / 3) ** 2)) * row["interval_s"] / 60
    count = max(0, round(chance.gauss(rate, math.sqrt(rate))))
    speed = chance.gauss(free_km_h, 12 / math.sqrt(max(count, 1))) * (1 - SLOWER_IN_RAIN if rain(when) > 0 else 1)
    return {"device": row["device"], "observed_at": when, "interval_s": float(row["interval_s"]), "vehicle_count": count,
            "flow_veh_h": count * 3600.0 / row["interval_s"], "speed_kmh": round(max(10, speed), 1) if count else None,
            "occupancy_percent": round(min(100, count * 60 / row["interval_s"] * 0.35 + chance.uniform(0, 0.4)), 1), "lanes": []}


def by_lane(chance, reading):
    left = sum(chance.random() < 0.4 for _ in range(reading["vehicle_count"]))
    counts = (reading["vehicle_count"] - left, left)
    reading["lanes"] = [{"lane": lane + 1, "vehicle_count": count, "speed_kmh": round(reading["speed_kmh"] + 4 * lane, 1) if count else None, "flow_veh_h": None}
                        for lane, count in enumerate(counts)]
    reading["vehicle_count"] = reading["flow_veh_h"] = reading["speed_kmh"] = None


def faults_of_counter(ledger, chance, name, readings):
    if chance.random() < 0.4:
        reading = readings[25]
        if reading["speed_kmh"]:
            reading["speed_kmh"] = round(reading["speed_kmh"] + 60, 1)
            label(ledger, "jump", name, reading, reading, "speed_kmh")
    if chance.random() < 0.4:
        reading = readings[40]
        reading["flow_veh_h"] = reading["speed_kmh"] = None
        note(reading, "speed_kmh", "sentinel")
        label(ledger, "sentinel", name, reading, reading, "speed_kmh")
    if chance.random() < 0.3 and readings[83]["vehicle_count"]:
        stick(ledger, name, readings, 83, 12, ("vehicle_count", "flow_veh_h", "speed_kmh", "occupancy_percent"))


# === who says nothing, and what arrives how ===


def silence(ledger, kind, name, from_at, to_at):
    """Removes readings, and labels the gap."""
    all_of = [reading for reading in ledger.readings[kind] if reading["device"] == name]
    before = max((r["observed_at"] for r in all_of if r["observed_at"] < from_at), default=from_at)
    after = min((r["observed_at"] for r in all_of if r["observed_at"] >= to_at), default=None)
    ledger.readings[kind] = [r for r in ledger.readings[kind] if r["device"] != name or not from_at <= r["observed_at"] < to_at]
    ledger.labels.append(Label("silent", name, before, after or to_at, ""))


def silences(ledger, chance):
    """Some devices are silent once, on the first two evenings, one after another: what other faults one had then is gone, too."""
    starts = [at(day, 16, 30) + datetime.timedelta(minutes=70 * slot) for day in (0, 1) for slot in range(6)]
    slow = [row for row in ledger.devices if row["interval_s"] == SLOW_S]
    for row, from_at in zip(chance.sample(slow, len(starts)), starts):
        silence(ledger, row["kind"], row["device"], from_at, from_at + datetime.timedelta(minutes=chance.randrange(45, 55)))


def outages(ledger):
    """A cabinet without power, and a district from which nothing comes, both on the last day."""
    hour = lambda hours: at(3) + datetime.timedelta(hours=hours)
    for row in ledger.devices:
        if row["cabinet"] == "road-cabinet":
            silence(ledger, row["kind"], row["device"], *map(hour, CABINET_DEAD))
        elif row["district"] == "harbour":
            silence(ledger, row["kind"], row["device"], *map(hour, HARBOUR_SILENT))


def deliver(readings, chance):
    """When each reading is received; a few twice, a few corrected, a few late, and some of the last two by hours."""
    readings.sort(key=lambda reading: (reading["observed_at"], reading["device"]))
    more = []
    for reading in readings:
        kind_of_delay = chance.random()
        seconds = chance.uniform(0.1, 20)
        if kind_of_delay < 0.03:
            seconds = chance.uniform(120, 3300)
        elif kind_of_delay < 0.035:
            seconds = chance.uniform(3700, 9000)
        reading["received_at"] = reading["observed_at"] + datetime.timedelta(milliseconds=round(1000 * seconds))
        if chance.random() < 0.01 and "power_w" in reading:
            corrected = dict(reading) | {"power_w": round(reading["power_w"] + 1, 1)}
            corrected["received_at"] = reading["received_at"] + datetime.timedelta(seconds=chance.uniform(1, 200))
            more.append(corrected)
    readings += more
    readings.sort(key=lambda reading: (reading["received_at"], reading["device"]))
    for offset, reading in enumerate(readings):
        reading["is_late"] = reading["received_at"] - reading["observed_at"] > LATE_AFTER
        reading["kafka_partition"], reading["kafka_offset"] = 0, offset
        content = json.dumps({k: v for k, v in reading.items() if k not in ("received_at", "kafka_offset", "is_late")}, sort_keys=True, default=str)
        reading["reading_id"] = random.Random(content).randrange(-2**63, 2**63)
