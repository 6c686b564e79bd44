"""What every aggregate of the synthetic city must be, computed from the ledger in another way than in the database: straight from
the readings for each width, place and measure, with the registers' truth instead of rules that find it.
"""

import collections
import datetime
import math

MINUTE = datetime.timedelta(minutes=1)
QUARTER = datetime.timedelta(minutes=15)
REGISTERS = ("energy_import_kwh", "energy_export_kwh")


def accepted(ledger, kind, closed_until):
    """Of each device, in order: what was not late; of one instant what was received last."""
    latest = {}
    for reading in ledger.readings[kind]:
        key = (reading["device"], reading["observed_at"])
        if not reading["is_late"] and reading["observed_at"] < closed_until:
            if key not in latest or latest[key]["received_at"] <= reading["received_at"]:
                latest[key] = reading
    return [latest[key] for key in sorted(latest)]


def lanes_or(reading, field):
    value = reading.get(field)
    parts = [lane.get(field) for lane in reading.get("lanes", ())]
    return value if value is not None or not parts or None in parts else sum(parts)


def lane_vehicles(lane):
    flow = lane.get("flow_veh_h")
    return lane["vehicle_count"] if lane.get("vehicle_count") is not None else flow and flow / 60


def traffic(reading):
    vehicles, flow = lanes_or(reading, "vehicle_count"), lanes_or(reading, "flow_veh_h")
    speed = reading["speed_kmh"]
    if speed is None and reading["lanes"]:
        passed = [(lane_vehicles(lane), lane.get("speed_kmh")) for lane in reading["lanes"]]
        passed = [(count, km_h) for count, km_h in passed if count and km_h]
        hours = sum(count / km_h for count, km_h in passed)
        speed = sum(count for count, _ in passed) / hours if passed else None
    seconds = reading["interval_s"]
    if vehicles is not None:
        yield "vehicle_count", vehicles, 1
    if flow is None and vehicles is not None:
        flow = vehicles * 3600 / seconds
    if flow is not None:
        yield "flow_veh_h", flow, seconds
    # Where nobody counts, each speed weighs the same.
    weight = vehicles if vehicles is not None else 1 if flow is None else flow * seconds / 3600
    if speed and weight > 0:
        yield "speed_kmh", speed, weight
    if reading["occupancy_percent"] is not None:
        yield "occupancy_percent", reading["occupancy_percent"], seconds


def weather(reading):
    for field in ("temperature_c", "relative_humidity_percent", "pressure_hpa", "wind_speed_m_s", "wind_gust_m_s", "rain_mm", "irradiance_w_m2"):
        if reading[field] is not None:
            yield field, reading[field], 1
    length = 1 if reading["wind_speed_m_s"] is None else reading["wind_speed_m_s"]
    if length > 0 and reading["wind_direction_deg"] is not None:
        yield "wind_direction_deg", reading["wind_direction_deg"], length


def energy(reading):
    if reading["power_w"] is not None:
        yield "power_w", reading["power_w"], 1
        yield "demand_w", max(reading["power_w"], 0), 1
        yield "supply_w", max(-reading["power_w"], 0), 1
    for field, step in reading["steps"].items():
        yield field, step, 1


def register_steps(ledger, readings):
    """By the ledger: a wrong register is passed over, one that began again counts from nothing, one of few digits comes round."""
    last = {}
    for reading in readings:
        device = reading["device"]
        reading["steps"] = {}
        for field in REGISTERS:
            wrong = field == "energy_import_kwh" and (device, reading["observed_at"]) in ledger.wrong_registers
            if wrong or reading[field] is None:
                continue
            before = last.get((device, field))
            last[device, field] = (reading["observed_at"], reading[field])
            if before and reading["observed_at"] - before[0] <= datetime.timedelta(hours=6):
                if field == "energy_import_kwh" and any(before[0] < at <= reading["observed_at"] for name, at in ledger.resets if name == device):
                    reading["steps"][field] = reading[field]
                else:
                    modulus = ledger.capacity[device] if field == "energy_import_kwh" else 1e12
                    reading["steps"][field] = (reading[field] - before[1]) % modulus if reading[field] != before[1] else 0.0


class Sum:
    """All readings of one device in one window, for one measure."""

    def __init__(self):
        self.pairs = []

    def value(self, measure):
        pairs = self.pairs
        if measure in ("vehicle_count", "rain_mm", *REGISTERS):
            return math.fsum(value for value, _ in pairs)
        if measure == "wind_gust_m_s":
            return max(value for value, _ in pairs)
        if measure == "speed_kmh":
            return math.fsum(weight for _, weight in pairs) / math.fsum(weight / value for value, weight in pairs)
        if measure == "wind_direction_deg":
            return direction(self.vector())
        return math.fsum(value * weight for value, weight in pairs) / math.fsum(weight for _, weight in pairs)

    def vector(self):
        return (math.fsum(weight * math.sin(math.radians(value)) for value, weight in self.pairs),
                math.fsum(weight * math.cos(math.radians(value)) for value, weight in self.pairs))


def direction(vector):
    return math.degrees(math.atan2(*vector)) % 360 if math.hypot(*vector) > 1e-9 else None


def of_places(measure, sums):
    if measure in ("vehicle_count", "power_w", "demand_w", "supply_w", *REGISTERS):
        return math.fsum(one.value(measure) for one in sums)
    if measure == "wind_gust_m_s":
        return max(one.value(measure) for one in sums)
    if measure == "speed_kmh":
        joined = Sum()
        joined.pairs = [pair for one in sums for pair in one.pairs]
        return joined.value(measure)
    if measure == "wind_direction_deg":
        means = [(east / len(one.pairs), north / len(one.pairs)) for one in sums for east, north in [one.vector()]]
        return direction((math.fsum(east for east, _ in means), math.fsum(north for _, north in means)))
    return math.fsum(one.value(measure) for one in sums) / len(sums)


def floor(when, width):
    start = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    return start + (when - start) // width * width


def sums(ledger, kind, closed_until, width):
    """What belongs to one window: of devices, (device, window, measure) -> Sum; of places, (scope, id, window, measure) -> [Sum]."""
    end = floor(closed_until, width)
    readings = accepted(ledger, kind, closed_until)
    if kind == "energy":
        register_steps(ledger, readings)
    values = {"traffic": traffic, "weather": weather, "energy": energy}[kind]
    devices = {row["device"]: row for row in ledger.devices}
    of_device = collections.defaultdict(Sum)
    for reading in readings:
        window = floor(reading["observed_at"], width)
        if window + width <= end or width == MINUTE:
            for measure, value, weight in values(reading):
                of_device[reading["device"], window, measure].pairs.append((value, weight))
    of_place = collections.defaultdict(list)
    for (device, window, measure), one in of_device.items():
        for scope in ("segment", "district", "feeder", "cell"):
            if devices[device][scope]:
                of_place[scope, devices[device][scope], window, measure].append(one)
    return of_device, of_place


def aggregates(ledger, kind, closed_until, width):
    """(scope, id, window, measure) -> (value, readings, devices)"""
    of_device, of_place = sums(ledger, kind, closed_until, width)
    found = {("device", *key): (one.value(key[2]), len(one.pairs), 1) for key, one in of_device.items()}
    for (scope, place, window, measure), parts in of_place.items():
        found[scope, place, window, measure] = (of_places(measure, parts), sum(len(one.pairs) for one in parts), len(parts))
    return {key: value for key, value in found.items() if value[0] is not None}
