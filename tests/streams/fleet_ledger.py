"""The ledger that `device-simulators run --ledger` wrote, as the ledger that expected.py computes from, and what it says of faults.

A row is due for every reading that was acknowledged. Of one that a device never got an answer to (it lost its power meanwhile), the
topic says whether it arrived; so it does when each was received. Nothing here asks the database.
"""

import collections
import datetime
import json

import gateway
from database import KINDS

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
Label = collections.namedtuple("Label", "anomaly device from_at to_at field")
Told = collections.namedtuple("Told", "kind key reading faults is_due")
# A row of the place of a device as expected.py wants it.
PLACES = ("segment", "district", "feeder", "cell", "cabinet")
# Readings further apart are not compared for jumps.
GAP_INTERVALS = 2.5
# What a jump must exceed to be one, by the table of thresholds.
JUMPS = {"speed_kmh": 40, "occupancy_percent": 30, "flow_veh_h": 3000, "temperature_c": 6, "relative_humidity_percent": 20, "pressure_hpa": 8,
         "wind_speed_m_s": 14, "rain_mm": 8, "power_w": 15000, "frequency_hz": 3}
LANE_FLOW_VEH_H = 2000


def at(ms):
    return EPOCH + datetime.timedelta(milliseconds=ms)


class FleetLedger:
    def __init__(self, path):
        self.devices, self.incidents, self.fronts, self.silences, self.told = [], [], [], [], []
        schemas = {kind: gateway.Schema(kind) for kind in KINDS}
        with open(path) as lines:
            for line in lines:
                (what, value), = json.loads(line).items()
                getattr(self, f"take_{what}")(value, schemas)
        # No register of the fleet comes round, and none begins again.
        self.capacity, self.resets, self.wrong_registers = collections.defaultdict(lambda: 1e12), set(), set()
        self.readings = {}

    def take_city(self, value, _):
        self.start, self.end = at(value["start_ms"]), at(value["end_ms"])

    def take_device(self, value, _):
        self.devices.append(value | {place: value.get(place) for place in PLACES})

    def take_incident(self, value, _):
        self.incidents.append(value | {"at": at(value["at_ms"]), "until": at(value["at_ms"]) + datetime.timedelta(seconds=value["lasts_s"])})

    def take_front(self, value, _):
        self.fronts.append(at(value["at_ms"]))

    def take_silence(self, value, _):
        self.silences.append((value["device"], at(value["from_ms"]), at(value["until_ms"])))

    def take_reading(self, value, schemas):
        if value["accepted"] is not True or value["end"] == "rejected":
            raise SystemExit(f"FAILED this scenario has no reading that a gateway refuses: {value}")
        reading = schemas[value["kind"]].stored(value["reading"])
        key = (value["device"], reading["observed_at"], reading["sequence"])
        self.told.append(Told(value["kind"], key, reading, tuple(value["faults"]), value["end"] == "acknowledged"))

    def join(self, topics):
        """`topics`: the records of each kind. What is due and in none is lost; what is in one and nobody sent is a mistake."""
        for kind in KINDS:
            records = {}
            for record in topics[kind]:
                key = (record.key, to_ms(record.value["observed_at"]), record.value["sequence"])
                records.setdefault(key, []).append(record)
            told = {}
            for one in self.told:
                if one.kind == kind:
                    told.setdefault(one.key, []).append(one)
            lost = [key for key, of_key in told.items() if key not in records and any(one.is_due for one in of_key)]
            if lost or records.keys() - told.keys():
                raise SystemExit(f"FAILED {kind}: {len(lost)} acknowledged readings are not in Kafka, {len(records.keys() - told.keys())} that nobody sent are")
            self.readings[kind] = [self.row(told[key], of_key) for key, of_key in records.items()]
        self.note_faults()

    @staticmethod
    def row(told, records):
        """A reading with its first record, which is the one that is stored; each copy is equal."""
        if any(one.reading != told[0].reading for one in told):
            raise SystemExit(f"FAILED one device sent two readings of one number: {told}")
        first = min(records, key=lambda record: record.offset)
        faults = {fault for one in told for fault in one.faults}
        return told[0].reading | {"device": first.key, "observed_at": at(told[0].key[1]), "received_at": first.value["received_at"], "is_late": False,
                                  "kafka_partition": first.partition, "kafka_offset": first.offset, "faults": faults, "copies": len(records)}

    def series(self):
        """The readings of each device, in order."""
        found = collections.defaultdict(list)
        for kind in KINDS:
            for reading in self.readings[kind]:
                found[kind, reading["device"]].append(reading)
        for (kind, device), readings in found.items():
            yield kind, device, sorted(readings, key=lambda reading: reading["observed_at"])

    # === faults, as what can be seen of them ===

    def note_faults(self):
        self.labels, self.spiked, self.unseen = [], [], collections.Counter()
        self.interval = {row["device"]: datetime.timedelta(seconds=row["interval_s"]) for row in self.devices}
        self.lanes = {row["device"]: row.get("lane_count") for row in self.devices}
        for kind, device, readings in self.series():
            self.note_nulls(device, readings)
            self.note_spikes(kind, device, readings)
            self.note_stuck(kind, device, readings)

    def label(self, anomaly, device, first, last, field):
        self.labels.append(Label(anomaly, device, first["observed_at"], last["observed_at"], field))

    def note_nulls(self, device, readings):
        """What became null on the way; a station's sentinels go on for some readings."""
        for reading in readings:
            for note in reading["quality"]:
                if note["source"] == "gateway":
                    self.label("sentinel", device, reading, reading, note["field"])

    def note_spikes(self, kind, device, readings):
        for number, reading in enumerate(readings):
            if "spike" not in reading["faults"]:
                continue
            self.spiked.append((device, reading["observed_at"], reading["observed_at"]))
            around = [readings[other] for other in (number - 1, number + 1) if 0 <= other < len(readings)]
            if any(note["source"] == "gateway" for note in reading["quality"]):
                continue
            # A spike beside it says nothing of its own register.
            sides = (reversed(readings[:number]), readings[number + 1:])
            true = [one for one in (next((other for other in side if "spike" not in other["faults"]), None) for side in sides) if one]
            if kind == "energy" and not registers(true, reading):
                fell = all(reading["energy_import_kwh"] < other["energy_import_kwh"] for other in true)
                self.wrong_registers.add((device, reading["observed_at"]))
                self.label("register_backwards" if fell else "jump", device, reading, reading, "energy_import_kwh")
            elif any(abs(other["observed_at"] - reading["observed_at"]) > GAP_INTERVALS * self.interval[device] for other in around):
                self.unseen["spike beside readings that are missing"] += 1
            elif field := leaping(around, reading, self.lanes.get(device) or 0):
                self.label("jump", device, reading, reading, field)
            else:
                self.unseen["spike in a lane, a phase, or of less than a rule's limit"] += 1

    def note_stuck(self, kind, device, readings):
        """Runs of it, with the true reading before; of an empty road, or of fewer than ten readings, nothing can be seen."""
        run = []
        for before, reading in zip([None, *readings], [*readings, None]):
            if reading and "stuck" in reading["faults"]:
                run += [reading] if run else [before, reading]
            elif run:
                moves = kind != "traffic" or run[-1]["vehicle_count"] or run[-1]["flow_veh_h"]
                if len(run) - (run[0] is None) >= 10 and moves:
                    self.label("stuck", device, run[0] or run[1], run[-1], "")
                else:
                    self.unseen["stuck on an empty road, or for fewer than ten readings"] += 1
                run = []


def to_ms(when):
    return round((when - EPOCH) / datetime.timedelta(milliseconds=1))


def registers(around, reading):
    """Whether the register is between those around it."""
    values = sorted(other["energy_import_kwh"] for other in around)
    return len(values) < 2 or values[0] <= reading["energy_import_kwh"] <= values[1]


def leaping(around, reading, lanes):
    """The field that is beyond a jump's limit from both neighbours, on the same side."""
    for field, limit in JUMPS.items():
        if field == "flow_veh_h":
            limit = max(limit, LANE_FLOW_VEH_H * lanes)
        values = [other.get(field) for other in around]
        if reading.get(field) is not None and len(values) == 2 and None not in values:
            leaps = [reading[field] - value for value in values]
            if min(map(abs, leaps)) > limit and leaps[0] * leaps[1] > 0:
                return field
    return None
