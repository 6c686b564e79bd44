"""What was found in a week of the fleet, against the faults, silences, incidents and fronts of its ledger."""

import collections
import datetime

import outcomes

MERGE = datetime.timedelta(minutes=20)
MINUTES = lambda count: datetime.timedelta(minutes=count)
# At 7,200 times the clock, a tenth of a second is a reading more or less at the edge of a silence.
PLAYED_FAST = MINUTES(30)


def silences(database, ledger):
    """Exactly the gaps of the readings; and each loss of power is in one of them."""
    due = {(device, from_at, to_at) for _, device, from_at, to_at, _ in outcomes.silences(ledger)}
    found = {(device, from_at, to_at or outcomes.FOREVER) for device, from_at, to_at in database.rows(
        "select device, observed_from, observed_to from city.anomaly where anomaly = 'silent' and not withdrawn")}
    if due != found:
        raise SystemExit(f"FAILED silences: {len(due - found)} of {len(due)} were not found, {len(found - due)} are none: {sorted((due ^ found))[:3]}")
    cut = 0
    for device, from_at, until in ledger.silences:
        cut += 1
        if not any(name == device and begun <= from_at + PLAYED_FAST and to_at >= min(until, ledger.end) - PLAYED_FAST for name, begun, to_at in due):
            raise SystemExit(f"FAILED {device} had no power from {from_at} to {until}, and is not silent")
    lasting = sum(to_at == outcomes.FOREVER for _, _, to_at in due)
    print(f"ok     silences: {len(found)} found, precision and recall 1.000; {cut} are losses of power, {lasting} the end of the run")


def faults(database, ledger):
    """Precision (0.95) and recall (0.9) by episodes: found and true of one device and kind of anomaly meet if their times do. What a rule
    cannot be expected to see is no miss, and no mistake if it is seen. An unusual quarter of an hour is no fault, so that profiles are left out."""
    found, true = collections.defaultdict(list), collections.defaultdict(list)
    for anomaly, device, from_at, to_at in database.rows("select anomaly, device, observed_from, observed_to from city.anomaly where not withdrawn and anomaly <> 'silent'"):
        found[anomaly].append((device, from_at, to_at))
    for label in ledger.labels:
        true[label.anomaly].append((label.device, label.from_at, label.to_at))
    # A week without any says nothing of the rule.
    failed = [anomaly for anomaly in ("sentinel", "stuck") if not true[anomaly]]
    for anomaly in sorted(true.keys() | found.keys() - {"profile"}):
        caught = [one for one in true[anomaly] if any(meets(one, other) for other in found[anomaly])]
        injected = true[anomaly] + (ledger.spiked if anomaly in ("jump", "register_backwards") else [])
        right = [one for one in found[anomaly] if any(meets(one, other) for other in injected)]
        precision, recall = len(right) / max(1, len(found[anomaly])), len(caught) / max(1, len(true[anomaly]))
        print(f"ok     {anomaly}: precision {precision:.3f} of {len(found[anomaly])} found, recall {recall:.3f} of {len(true[anomaly])} injected")
        for what, some in (("wrong", [one for one in found[anomaly] if one not in right]), ("missed", [one for one in true[anomaly] if one not in caught])):
            if some:
                print(f"   {what}:", *(f"{device} {from_at:%a %H:%M}" for device, from_at, _ in some[:8]))
        # Of a few, one says nothing.
        if len(found[anomaly]) - len(right) > max(1, 0.05 * len(found[anomaly])) or len(true[anomaly]) - len(caught) > max(1, 0.1 * len(true[anomaly])):
            failed.append(anomaly)
    print(f"note   not graded: {dict(ledger.unseen)}")
    if failed:
        raise SystemExit(f"FAILED precision and recall of {failed}")


def meets(one, other):
    return one[0] == other[0] and one[1] - MERGE <= other[2] and other[1] - MERGE <= one[2]


def alerts(database, ledger):
    """Exactly those that going through the ledger in time makes; and what happened in the city is among them."""
    computed_until = database.one("select min(computed_until) from city.computed")
    due = {*outcomes.condition_alerts(ledger, ledger.end + MINUTES(60), computed_until), *outcomes.outage_alerts(ledger)}
    found = {outcomes.Alert(*row) for row in database.rows(
        "select alert, subject, severity, raised_at, cleared_at from city.alert where not withdrawn and caused_by is null")}
    if due != found:
        for one in sorted(due - found, key=str)[:8]:
            print("   missed:", one)
        for one in sorted(found - due, key=str)[:8]:
            print("   wrong: ", one)
        raise SystemExit(f"FAILED alerts: {len(due - found)} of {len(due)} are not there, {len(found - due)} should not be")
    print(f"ok     {len(found)} alerts, each raised and cleared when the ledger says: {dict(collections.Counter(one.alert for one in found))}")
    congested(database, ledger, found)
    stormy(ledger, found)
    silent_district(ledger, found)


def happened(what, judged):
    """The scenario has one of each: a week without says nothing of the rule."""
    if not judged:
        raise SystemExit(f"FAILED there is no {what} in this week that could be judged")


def congested(database, ledger, found):
    """Of each incident: its road is congested, or a queue grew on it; if most of the readings came that would show it, as devices that have
    to wait for answers leave some out. One at least is judged."""
    judged = 0
    queues = database.rows("select subject, from_at, to_at, value, reason from city.insight where insight = 'queue_upstream' and not withdrawn")
    segment = {row["device"]: row["segment"] for row in ledger.devices}
    for one in ledger.incidents:
        until = one["until"] + MINUTES(120)
        of_road = [alert for alert in found if (alert.alert, alert.subject) == ("congestion", one["segment"]) and alert.raised_at <= until
                   and (alert.cleared_at or until) >= one["at"]]
        queued = [queue for queue in queues if segment[queue[0]] == one["segment"] and queue[1] <= until and queue[2] >= one["at"]]
        detectors = [row for row in ledger.devices if row["segment"] == one["segment"]]
        due = sum((one["until"] - one["at"] + MINUTES(60)).total_seconds() / row["interval_s"] for row in detectors)
        came = sum(segment[reading["device"]] == one["segment"] and one["at"] <= reading["observed_at"] <= one["until"] + MINUTES(60)
                   for reading in ledger.readings["traffic"])
        if not of_road and not queued and came < due / 2:
            print(f"note   incident on {one['segment']} at {one['at']:%a %H:%M}: not judged, {came} of {due:.0f} readings were sent")
            continue
        if not of_road and not queued:
            raise SystemExit(f"FAILED of the incident {one} nothing was found")
        judged += 1
        print(f"ok     incident on {one['segment']} at {one['at']:%a %H:%M}: congestion raised {', '.join(f'{alert.raised_at:%H:%M}' for alert in of_road) or 'never'}; "
              f"{', '.join(queue[4] for queue in queued) or 'no queue of three detectors'}")

    happened("incident", judged)


def stormy(ledger, found):
    for front in ledger.fronts:
        districts = [one.subject for one in found if one.alert == "storm" and abs(one.raised_at - front) <= MINUTES(180) and one.cleared_at]
        if len(districts) < 3:
            raise SystemExit(f"FAILED of the front of {front} only {districts} have a storm that was cleared")
        print(f"ok     front at {front:%a %H:%M}: storm in {', '.join(sorted(districts))}, all cleared")
    happened("front", len(ledger.fronts))


def silent_district(ledger, found):
    """Each district all of whose devices lose their power at once: one alert, named, and cleared."""
    judged = 0
    cut = collections.defaultdict(set)
    for device, from_at, until in ledger.silences:
        cut[from_at, until].add(device)
    districts = collections.defaultdict(set)
    for row in ledger.devices:
        districts[row["district"]].add(row["device"])
    for (from_at, until), devices in cut.items():
        for name in [name for name, of_it in districts.items() if of_it <= devices]:
            of_it = [one for one in found if (one.alert, one.subject) == ("district_silent", name) and one.raised_at < until
                     and (one.cleared_at or until) >= until - PLAYED_FAST]
            everywhere = [one for one in found if one.alert == "city_silent" and one.raised_at < until and (one.cleared_at or until) > from_at]
            if not of_it and everywhere:
                print(f"note   district {name} silent from {from_at:%a %H:%M}: not judged, all of the city was silent then, at {everywhere[0].raised_at:%a %H:%M}")
                continue
            if len(of_it) != 1 or of_it[0].cleared_at is None:
                raise SystemExit(f"FAILED the district {name} was silent from {from_at} to {until}: {of_it}")
            judged += 1
            cabinets = {row["cabinet"] for row in ledger.devices if row["district"] == name and row["cabinet"]}
            print(f"ok     district {name} silent from {from_at:%a %H:%M}: one alert, raised {of_it[0].raised_at:%H:%M}, cleared {of_it[0].cleared_at:%a %H:%M}, "
                  f"for {len(districts[name])} devices and {len(cabinets)} cabinets")
    happened("silence of all of a district", judged)
