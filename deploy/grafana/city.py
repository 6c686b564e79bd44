"""The dashboards of the city as typed code: what was computed from the readings, asked of PostgreSQL (deploy/postgres/60-views.sql).

  city.py          writes city.json and devices.json beside this file
  city.py --check  fails if they are others
  city.py --ask URL FROM TO  asks every panel's SQL of a PostgreSQL for that time; fails if one is refused, or has no row where one must exist

Needs grafana-foundation-sdk, to ask also psycopg (.ci/requirements.txt). It proves queries, not pictures: no Grafana has drawn it.
"""

import json
import pathlib
import sys
import time

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

FOLDER = pathlib.Path(__file__).parent
SOURCE = DataSourceRef(type_val="grafana-postgresql-datasource", uid="${datasource}")
METRICS = DataSourceRef(type_val="prometheus", uid="${prometheus}")
# Queries that have no row while all is well.
MAY_BE_EMPTY = set()


class Sql(builder.Builder, variants.Dataquery):
    """A query of Grafana's PostgreSQL source, for which the library has no type."""

    def __init__(self, text, shape):
        self.text, self.shape, self.name = " ".join(text.split()), shape, "A"

    def ref_id(self, name):
        self.name = name
        return self

    def build(self):
        return self

    def to_json(self):
        return {"refId": self.name, "datasource": SOURCE, "rawSql": self.text, "format": self.shape, "editorMode": "code", "rawQuery": True}


def panel(kind, title, unit, about, shape, *queries, may_be_empty=False):
    built = kind.title(title).unit(unit).description(about).datasource(SOURCE)
    for name, text in zip("ABCD", queries):
        query = Sql(text, shape)
        if may_be_empty:
            MAY_BE_EMPTY.add(query.text)
        built = built.with_target(query.ref_id(name))
    return built


def number(title, unit, about, query):
    kind = stat.Panel().span(4).height(4).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel(kind, title, unit, about, "table", query)


def rows_of(title, about, query, width=12, may_be_empty=False):
    return panel(table.Panel().span(width).height(8), title, "short", about, "table", query, may_be_empty=may_be_empty)


def curve(title, unit, about, *queries, may_be_empty=False):
    return panel(timeseries.Panel().fill_opacity(5).span(8).height(7), title, unit, about, "time_series", *queries, may_be_empty=may_be_empty)


def of_districts(kind, measure):
    """One curve for each district, by quarters of an hour."""
    return f"""select window_start as time, id as metric, value from city.aggregate_15m
      where scope = 'district' and kind = '{kind}' and measure = '{measure}' and value is not null and $__timeFilter(window_start) order by 1, 2"""


def city():
    yield "Now", [
        number("Open alerts", "short", "Of the city; a cabinet of a silent district is not one of its own.", "select count(*) as value from city.v_alerts_open"),
        number("Districts", "short", "With a device.", "select count(distinct district) as value from city.device"),
        number("Computed until", "s", "So long ago: some 90 s while all is well.", "select max(behind_s) as value from city.v_progress"),
        number("Demand", "watt", "Of all districts in the latest quarter of an hour.", "select sum(power_w) as value from city.v_city"),
        number("Vehicles", "short", "Counted by all detectors in the latest quarter of an hour.", "select sum(vehicle_count) as value from city.v_city"),
        number("Least speed", "velocitykmh", "Of the districts, in the latest quarter of an hour.", "select min(speed_kmh) as value from city.v_city"),
    ]
    yield "What is to be done", [
        rows_of("Open alerts", "Each cause once.", "select raised_at, severity, alert, subject, district, reason from city.v_alerts_open order by severity, raised_at",
                may_be_empty=True),
        rows_of("Alerts of this time", "With those that are over.", """select raised_at, cleared_at, severity, alert, subject, reason from city.alert
          where not withdrawn and caused_by is null and $__timeFilter(raised_at) order by raised_at desc limit 100"""),
        rows_of("Districts", "The latest quarter of an hour.", "select * from city.v_city order by district", width=24),
    ]
    yield "Traffic", [
        curve("Speed", "velocitykmh", "Harmonic mean, weighted with vehicles.", of_districts("traffic", "speed_kmh")),
        curve("Flow", "short", "Vehicles per hour of the mean detector.", of_districts("traffic", "flow_veh_h")),
        curve("Vehicles", "short", "Counted by all detectors.", of_districts("traffic", "vehicle_count")),
        rows_of("Queues", "That travelled upstream.", """select from_at, to_at, subject, value as km_h, reason from city.insight
          where insight = 'queue_upstream' and not withdrawn and $__timeFilter(from_at) order by from_at desc limit 50"""),
        rows_of("Rain and speed", "How much slower than dry, at the same hour.", """select from_at, subject as district, value as percent_slower, reason from city.insight
          where insight = 'rain_speed' and not withdrawn and $__timeFilter(from_at) order by from_at desc limit 100"""),
    ]
    yield "Weather", [
        curve("Temperature", "celsius", "Mean of the stations.", of_districts("weather", "temperature_c")),
        curve("Rain", "lengthmm", "In 15 minutes, mean of the gauges.", of_districts("weather", "rain_mm")),
        curve("Gusts", "velocityms", "Strongest.", of_districts("weather", "wind_gust_m_s")),
    ]
    yield "Electricity", [
        curve("Power", "watt", "Sum of the meters' means.", of_districts("energy", "power_w")),
        curve("Demand less supply", "percentunit", "Of each cell, as a share of what its connections carry.", """select from_at as time, subject as metric, value from city.insight
          where insight = 'demand_supply' and not withdrawn and $__timeFilter(from_at) order by 1, 2"""),
        curve("Watts per degree colder", "watt", "Of each district, by the days before.", """select from_at as time, subject as metric, value from city.insight
          where insight = 'demand_temperature' and not withdrawn and $__timeFilter(from_at) order by 1, 2"""),
    ]


def devices():
    yield "Now", [
        number("Devices", "short", "That are known.", "select count(*) as value from city.device"),
        number("Seen", "short", "At least once.", "select count(last_seen) as value from city.v_device"),
        number("Silent", "short", "For more than three of their intervals.", "select count(*) as value from city.v_device where silent"),
        number("Complete", "percentunit", "Readings of the last four quarters of an hour, of those that are expected.", "select avg(completeness) as value from city.v_device"),
    ]
    yield "Which", [
        rows_of("Silent devices", "Longest first.", """select device, kind, district, cabinet, last_seen, unseen_s from city.v_device
          where silent order by last_seen limit 100""", may_be_empty=True),
        rows_of("Least complete", "In the last four quarters of an hour.", """select device, kind, district, cabinet, completeness, last_seen from city.v_device
          order by completeness, device limit 50"""),
    ]
    yield "Readings", [
        curve("Readings", "short", "In 15 minutes, by kind: those that are not late.", """select window_start as time, kind as metric, sum(readings) as value from city.aggregate_15m
          where scope = 'district' and (kind, measure) in (('traffic', 'occupancy_percent'), ('weather', 'pressure_hpa'), ('energy', 'power_w'))
            and $__timeFilter(window_start) group by 1, 2 order by 1, 2"""),
        curve("Anomalies", "short", "That began in each hour.", """select date_trunc('hour', observed_from) as time, anomaly as metric, count(*) as value from city.anomaly
          where not withdrawn and $__timeFilter(observed_from) group by 1, 2 order by 1, 2"""),
        prometheus_panel(),
    ]
    yield "Anomalies", [
        rows_of("Latest", "With the reason.", "select * from city.v_anomalies where $__timeFilter(observed_from) order by observed_from desc limit 200", width=24),
        rows_of("Devices with the most", "Of this time.", """select device, kind, count(*) as anomalies, string_agg(distinct anomaly, ', ') as of from city.anomaly
          where not withdrawn and $__timeFilter(observed_from) group by 1, 2 order by 3 desc, 1 limit 50"""),
    ]


def prometheus_panel():
    """What is rejected never reaches the database: the gateways count it."""
    target = prometheus.Dataquery().datasource(METRICS).expr("sum by (reason) (rate(citygate_readings_rejected_total[$__rate_interval]))").legend_format("{{reason}}")
    kind = timeseries.Panel().span(8).height(7).title("Rejected").unit("ops").description("By the gateways, by reason; each is a dead letter.")
    return kind.datasource(METRICS).with_target(target.ref_id("A"))


def build(title, uid, about, rows):
    board = (
        dashboard.Dashboard(title).uid(uid).description(about).tags(["citygate"]).refresh("1m").time("now-24h", "now").tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("PostgreSQL").type("grafana-postgresql-datasource"))
        .with_variable(dashboard.DatasourceVariable("prometheus").label("Prometheus").type("prometheus"))
    )
    for row, panels in rows:
        board = board.with_row(dashboard.Row(row))
        for one in panels:
            board = board.with_panel(one)
    made = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    # The library leaves the numbers of panels and variables at nought, all of them.
    for number_of_panel, one in enumerate(made["panels"], start=1):
        one["id"] = number_of_panel
    for variable in made["templating"]["list"]:
        variable.pop("id", None)
    return made


def boards():
    yield FOLDER / "city.json", build("City", "citygate-city", "Districts: traffic, weather, electricity, alerts.", city())
    yield FOLDER / "devices.json", build("Devices", "citygate-devices", "Which devices are seen, complete and plausible.", devices())


def ask(url, from_at, to_at):
    import psycopg

    connection = psycopg.connect(url, autocommit=True)
    asked, empty, slowest, bad = 0, 0, 0.0, []
    for path, board in boards():
        for one in board["panels"]:
            for target in one.get("targets", []):
                if "rawSql" not in target:
                    continue
                text, head = "", target["rawSql"]
                while "$__timeFilter(" in head:
                    before, _, rest = head.partition("$__timeFilter(")
                    column, _, head = rest.partition(")")
                    text += f"{before}{column} between '{from_at}' and '{to_at}'"
                began = time.monotonic()
                try:
                    found = connection.execute(text + head).fetchall()
                except psycopg.Error as error:
                    bad.append(f"{path.name}: {one['title']}: {error}")
                    continue
                slowest = max(slowest, time.monotonic() - began)
                no_row = not found or found == [(None,)]
                asked, empty = asked + 1, empty + no_row
                if no_row and target["rawSql"] not in MAY_BE_EMPTY:
                    bad.append(f"{path.name}: {one['title']}: no row: {text + head}")
    print(f"{asked} queries of dashboards asked, {empty} without a row (of {len(MAY_BE_EMPTY)} that may), the slowest {1000 * slowest:.0f} ms")
    print(*bad, sep="\n", end="\n" if bad else "", file=sys.stderr)
    return bool(bad)


def main():
    match sys.argv[1:]:
        case []:
            for path, board in boards():
                path.write_text(json.dumps(board, indent=1, sort_keys=True) + "\n")
        case ["--check"]:
            if any(json.loads(path.read_text()) != board for path, board in boards()):
                sys.exit("city.json or devices.json is not what city.py makes: run deploy/grafana/city.py")
        case ["--ask", url, from_at, to_at]:
            sys.exit(ask(url, from_at, to_at))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
