"""Which devices were silent when, and which alerts must come of a ledger: by going through time, where the database works with sets.

Numbers are those of the table of thresholds as it is shipped; where a rule is not in it, there is none.
"""

import collections
import datetime
import pathlib
import re

import expected

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "postgres"
THRESHOLDS = {name: float(value) for file in FOLDER.glob("*.sql") for name, value in re.findall(r"^ *\('([\w.]+)', ([\d.]+), '", file.read_text(), re.M)}
SECONDS = lambda count: datetime.timedelta(seconds=count)
FOREVER = datetime.datetime.max.replace(tzinfo=datetime.UTC)
EPISODE_GAP = SECONDS(THRESHOLDS["episode_gap"])
# Windows further apart are not in a row.
WITHIN = datetime.timedelta(hours=5)
Condition = collections.namedtuple("Condition", "kind measure width scope")
CONDITIONS = {
    "congestion": Condition("traffic", "speed_kmh", expected.MINUTE, "segment"),
    "storm": Condition("weather", "wind_gust_m_s", expected.QUARTER, "district"),
    "heavy_rain": Condition("weather", "rain_mm", expected.QUARTER, "district"),
}
# Of what an outage of it is a part.
PART_OF = {"cabinet_dead": ("district_silent", "city_silent"), "district_silent": ("city_silent",), "city_silent": ()}
Alert = collections.namedtuple("Alert", "alert subject severity raised_at cleared_at")


def silences(ledger):
    """Of each device the gaps between two readings that are longer than three intervals and a half, as one if little is between them;
    the last one lasts for ever. And from when it counts as silent."""
    interval = {row["device"]: row["interval_s"] for row in ledger.devices}
    for kind, device, readings in ledger.series():
        limit = SECONDS(max((THRESHOLDS["silent.intervals"] + 0.5) * interval[device], THRESHOLDS["silent.least"]))
        begun = over = None
        for one, other in zip(readings, [*readings[1:], None]):
            until = other["observed_at"] if other else FOREVER
            if until - one["observed_at"] > limit:
                if over and one["observed_at"] > over + EPISODE_GAP:
                    yield kind, device, begun, over, begun + limit
                    begun = None
                begun, over = begun or one["observed_at"], until
        if begun:
            yield kind, device, begun, over, begun + limit


# === conditions ===


def condition_alerts(ledger, closed, computed_until):
    of_kind = {}
    for alert, condition in CONDITIONS.items():
        key = (condition.kind, condition.width)
        if key not in of_kind:
            of_kind[key] = expected.sums(ledger, condition.kind, closed, condition.width)[1]
        series = collections.defaultdict(list)
        for (scope, place, window, measure), parts in of_kind[key].items():
            if scope == condition.scope and measure == condition.measure:
                if alert != "congestion" or sum(weight for part in parts for _, weight in part.pairs) >= THRESHOLDS["congestion.vehicles_least"]:
                    series[place].append((window, level(alert, expected.of_places(measure, parts))))
        for place, levels in series.items():
            yield from of_levels(alert, place, sorted(levels), computed_until)


def level(alert, value):
    on, critical, off = (THRESHOLDS[f"{alert}.{border}"] for border in ("on", "critical", "off"))
    if alert == "congestion":
        return 2 if value < critical else 1 if value < on else -1 if value >= off else 0
    return 2 if value >= critical else 1 if value >= on else -1 if value < off else 0


def of_levels(alert, place, levels, computed_until):
    """`levels`: (window, level) of one place. What lasts when there is no window for long is over then."""
    raised = None
    for number, (window, _) in enumerate(levels):
        if raised is not None and window - levels[number - 1][0] > WITHIN:
            yield alert_of(alert, place, levels[raised:number], levels[number - 1][0] + WITHIN)
            raised = None
        wanted = int(THRESHOLDS[f"{alert}.windows_on" if raised is None else f"{alert}.windows_off"])
        last = levels[max(0, number + 1 - wanted):number + 1]
        if len(last) < wanted or window - last[0][0] > WITHIN:
            continue
        if raised is None and all(one >= 1 for _, one in last):
            raised = number
        elif raised is not None and all(one == -1 for _, one in last):
            yield alert_of(alert, place, levels[raised:number], window)
            raised = None
    if raised is not None:
        over = levels[-1][0] + WITHIN
        yield alert_of(alert, place, levels[raised:], over if over < computed_until - expected.QUARTER else None)


def alert_of(alert, place, levels, cleared_at):
    return Alert(alert, place, "critical" if max(one for _, one in levels) == 2 else "warning", levels[0][0], cleared_at)


# === outages ===


def limit(alert, name, otherwise):
    return THRESHOLDS.get(f"{alert}.{name}", otherwise)


def outage_alerts(ledger):
    """Of cabinets, districts and the city; what falls silent with its district, or with the city, is not an alert of its own."""
    found, lasting = list(silences(ledger)), {}
    for alert in PART_OF:
        hold = SECONDS(limit(alert, "hold", 0))
        outages = merged(spans(alert, groups(ledger, alert), found))
        lasting[alert] = [one for one in outages if one[2] > one[1] + hold]
    home = collections.defaultdict(set)
    for row in ledger.devices:
        home[row["cabinet"]].add(row["district"])
    for alert, outages in lasting.items():
        for place, from_at, to_at in outages:
            causes = [(begun - SECONDS(limit(cause, "lead", 0)), over) for cause in PART_OF[alert] for subject, begun, over in lasting[cause]
                      if cause != "district_silent" or subject == min(home[place])]
            if not any(begun <= from_at < over for begun, over in causes):
                yield Alert(alert, place, "critical", from_at + SECONDS(limit(alert, "hold", 0)), None if to_at == FOREVER else to_at)


def groups(ledger, alert):
    """(place, kind) -> devices, where there are enough of them: of a cabinet all kinds together."""
    if f"{alert}.devices_least" not in THRESHOLDS:
        return {}
    scope = alert.split("_")[0]
    found, districts = collections.defaultdict(set), collections.defaultdict(set)
    for row in ledger.devices:
        place = "city" if scope == "city" else row[scope]
        if place is not None:
            key = (place, None if scope == "cabinet" else row["kind"])
            found[key].add(row["device"])
            districts[key].add(row["district"])
    return {key: devices for key, devices in found.items()
            if len(devices) >= limit(alert, "devices_least", 1) and len(districts[key]) >= limit(alert, "districts_least", 1)}


def spans(alert, of_groups, found):
    """From when so many of a group are silent until no more than some of them are."""
    for (place, _), devices in of_groups.items():
        steps = collections.Counter()
        for _, device, _, until, since in found:
            if device in devices:
                steps[since] += 1
                if until < FOREVER:
                    steps[until] -= 1
        silent, begun = 0, None
        for when, step in sorted(steps.items()):
            silent += step
            if begun is None and silent >= limit(alert, "on", 1) * len(devices):
                begun = when
            elif begun is not None and silent <= limit(alert, "off", 0.5) * len(devices):
                yield place, begun, when
                begun = None
        if begun is not None:
            yield place, begun, FOREVER


def merged(found):
    """Of one place the spans of its kinds that touch, as one."""
    of_place = collections.defaultdict(list)
    for place, from_at, to_at in found:
        of_place[place].append((from_at, to_at))
    for place, times in of_place.items():
        times.sort()
        begun, over = times[0]
        for from_at, to_at in times[1:]:
            if from_at > over:
                yield place, begun, over
                begun, over = from_at, to_at
            over = max(over, to_at)
        yield place, begun, over
