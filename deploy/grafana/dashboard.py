"""The operations dashboard as typed code: prints what belongs into citygate.json, or checks that it is there.

  dashboard.py          prints the dashboard
  dashboard.py --check  fails if citygate.json beside this file is another one
  dashboard.py --ask URL  asks every panel's queries of a Prometheus; fails if one is refused, or has no row where one must exist

Needs grafana-foundation-sdk (.ci/requirements.txt). It proves queries, not pictures: no Grafana has drawn it.
"""

import json
import pathlib
import sys
import urllib.parse
import urllib.request

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode, StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

COMMITTED = pathlib.Path(__file__).with_name("citygate.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Every selector begins so: the gateways that are chosen above the panels; {S}: all stores.
G = 'job="citygate",instance=~"$instance"'
S = 'job="citygate-store"'
# Queries whose answer is empty while all is well: they count what is refused, missing or damaged, by labels that only then exist.
MAY_BE_EMPTY = set()


def query(expression, legend="", instant=False, may_be_empty=False):
    target = prometheus.Dataquery().datasource(SOURCE).expr(expression.replace("{G", "{" + G).replace("{S", "{" + S).replace("[]", "[$__rate_interval]"))
    target = target.legend_format(legend) if legend else target
    if may_be_empty:
        MAY_BE_EMPTY.add(target.build().expr)
    return target.instant() if instant else target


def panel(kind, title, unit, about, queries, may_be_empty=False):
    built = kind.title(title).unit(unit).description(about).datasource(SOURCE)
    for name, target in zip("ABCDEFGH", queries):
        if may_be_empty:
            MAY_BE_EMPTY.add(target.build().expr)
        built = built.with_target(target.ref_id(name))
    return built


def curve(title, unit, about, *queries, stacked=False, may_be_empty=False, width=8):
    kind = timeseries.Panel().min(0).fill_opacity(10).span(width).height(7)
    if stacked:
        kind = kind.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return panel(kind, title, unit, about, queries, may_be_empty)


def number(title, unit, about, expression, bad_from=None, bad_below=None):
    """One number; red from `bad_from`, or below `bad_below`."""
    steps = [Threshold(color="green", value=None)]
    if bad_from is not None:
        steps.append(Threshold(color="red", value=bad_from))
    if bad_below is not None:
        steps = [Threshold(color="red", value=None), Threshold(color="green", value=bad_below)]
    kind = stat.Panel().span(4).height(4).color_mode(BigValueColorMode.BACKGROUND)
    kind = kind.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    kind = kind.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return panel(kind, title, unit, about, [query(expression)])


def rows():
    yield "Is all well?", [
        number("Gateways that answer", "short", "Of those that Prometheus knows.", "sum(up{G})", bad_below=1),
        number("Kafka available", "bool_yes_no", "To every gateway.", "min(citygate_kafka_up{G})", bad_below=1),
        number("Readings per second", "ops", "Received, over all protocols.", "sum(rate(citygate_readings_received_total{G}[]))"),
        number("Unanswered", "short", "received - (delivered + spooled + rejected + busy): what is in flight, and 0 whenever nothing is.",
               "sum(instance:citygate_readings_unanswered:sum{G})"),
        number("In the spool", "short", "Readings that are not in Kafka yet.", "sum(citygate_spool_readings{G})", bad_from=1),
        number("Spool lasts", "s", "At the rate at which devices send now, were Kafka unavailable.", "min(citygate_spool_remaining_seconds{G})", bad_below=1800),
    ]
    yield "Accounting", [
        curve("Readings by outcome", "ops", "received = delivered + spooled + rejected + busy, once nothing is in flight.",
              query("sum by (outcome) (rate(citygate_readings_total{G}[]))", "{{outcome}}"), stacked=True),
        curve("Received, and ended", "ops", "The two lie on each other.",
              query("sum(rate(citygate_readings_received_total{G}[]))", "received"),
              query("sum(rate(citygate_readings_total{G}[]))", "ended")),
        curve("Unanswered", "short", "Per gateway. One that does not come down to 0 when devices are silent means readings without an outcome.",
              query("instance:citygate_readings_unanswered:sum{G}", "{{instance}}"),
              query("sum by (instance) (citygate_receipts_dropped_total{G})", "{{instance}}: receipts dropped (a fault)")),
    ]
    yield "Latency", [
        curve("Answers: 50, 99 in a hundred", "s", "From the reception of a reading to its outcome.",
              query("histogram_quantile(0.5, sum by (le, protocol) (rate(citygate_reading_answer_seconds_bucket{G}[])))", "{{protocol}} 50 %"),
              query("histogram_quantile(0.99, sum by (le, protocol) (rate(citygate_reading_answer_seconds_bucket{G}[])))", "{{protocol}} 99 %")),
        panel(heatmap.Panel().span(8).height(7), "Answers", "s", "How many readings took how long.",
              [query("sum by (le) (increase(citygate_reading_answer_seconds_bucket{G}[]))", "{{le}}").format(PromQueryFormat.HEATMAP)]),
        curve("Kafka and the disk", "s", "What an answer waits for.",
              query("max by (broker) (citygate_kafka_round_trip_seconds{G})", "round trip {{broker}}"),
              query("max by (instance) (citygate_spool_fsync_seconds{G})", "fsync {{instance}}")),
    ]
    yield "Spool", [
        curve("Readings in the spool", "short", "Not in Kafka yet; those without a topic, and those that Kafka refuses, wait.",
              query("citygate_spool_readings{G}", "{{instance}}"),
              query("citygate_spool_readings_without_topic{G}", "{{instance}} without topic"),
              query("citygate_spool_readings_refused{G}", "{{instance}} refused")),
        curve("Disk", "bytes", "Of spool.bytes_max.", query("citygate_spool_disk_bytes{G}", "{{instance}}"),
              query("citygate_spool_disk_bytes_max{G}", "{{instance}} max")),
        curve("Time left", "s", "Until it is full, were Kafka unavailable; nothing while no device sends.",
              query("citygate_spool_remaining_seconds{G}", "{{instance}}")),
        curve("In and out", "ops", "Readings written to the spool, and replayed to Kafka.",
              query("sum(rate(citygate_spool_appended_total{G}[]))", "written"),
              query("sum(rate(citygate_spool_replayed_total{G}[]))", "replayed")),
        curve("Oldest reading", "s", "Since it was received.", query("citygate_spool_oldest_seconds{G}", "{{instance}}")),
        curve("Faults", "short", "Each has an alert.",
              query("citygate_spool_disk_slow{G}", "{{instance}} disk slow"), query("citygate_spool_short{G}", "{{instance}} short"),
              query("citygate_spool_failed{G}", "{{instance}} failed"), query("citygate_spool_damaged_places{G}", "{{instance}} damaged places"),
              query("citygate_spool_readings_lost{G}", "{{instance}} lost")),
    ]
    yield "Protocols", [
        curve("Received by protocol", "ops", "", query("sum by (protocol) (rate(citygate_readings_received_total{G}[]))", "{{protocol}}"), stacked=True),
        curve("Received by kind", "ops", "", query("sum by (kind) (rate(citygate_readings_received_total{G}[]))", "{{kind}}"), stacked=True),
        curve("Connections", "short", "Open now, of how many.",
              query("citygate_mqtt_connections{G}", "{{instance}} MQTT"), query("citygate_mqtt_connections_max{G}", "{{instance}} MQTT max"),
              query("citygate_http_connections{G}", "{{instance}} HTTP"), query("citygate_http_connections_max{G}", "{{instance}} HTTP max")),
        curve("Permits in use", "percentunit", "Of limits.in_flight_bytes, limits.incomplete_bytes and of connections (the larger).",
              query("instance:citygate_permits_in_use:ratio{G}", "{{instance}}"),
              query("citygate_incomplete_bytes{G} / citygate_incomplete_bytes_max{G}", "{{instance}} incomplete")),
        curve("HTTP answers", "ops", "By status.", query("sum by (status) (rate(citygate_http_responses_total{G}[]))", "{{status}}")),
        curve("CoAP answers", "ops", "By code.", query("sum by (code) (rate(citygate_coap_responses_total{G}[]))", "{{code}}")),
        curve("MQTT packets", "ops", "Received, by type.", query("sum by (type) (rate(citygate_mqtt_packets_received_total{G}[]))", "{{type}}")),
        curve("CoAP: open, remembered", "short", "Exchanges that are not answered or acknowledged; peers known for de-duplication.",
              query("citygate_coap_exchanges{G}", "{{instance}} exchanges"), query("citygate_coap_peers{G}", "{{instance}} peers")),
        curve("CoAP: dropped, sent again", "ops", "By the kernel, as a receive buffer was full; by the gateway, as no ACK came.",
              query("rate(citygate_coap_datagrams_dropped_total{G}[])", "{{instance}} dropped"),
              query("rate(citygate_coap_retransmissions_total{G}[])", "{{instance}} sent again")),
    ]
    yield "Kafka", [
        curve("Available", "short", "1 while Kafka confirms readings.", query("citygate_kafka_up{G}", "{{instance}}")),
        curve("Why not", "short", "1 for each reason.", query("citygate_kafka_unavailable{G} == 1", "{{instance}} {{reason}}"),
              query("citygate_kafka_topic_missing{G} == 1", "{{instance}} without {{topic}}"), may_be_empty=True),
        curve("Records", "ops", "Enqueued, and possible duplicates.", query("sum(rate(citygate_kafka_records_sent_total{G}[]))", "sent"),
              query("sum(rate(citygate_kafka_records_in_doubt_total{G}[]))", "in doubt")),
        curve("Records that failed", "ops", "By error.", query("sum by (error) (rate(citygate_kafka_records_failed_total{G}[]))", "{{error}}"), may_be_empty=True),
        curve("Queue", "short", "Records that wait in the producer.", query("citygate_kafka_queue_records{G}", "{{instance}}")),
        curve("Batches", "short", "Readings per batch, by topic.", query("avg by (topic) (citygate_kafka_batch_records{G})", "{{topic}}")),
    ]
    yield "Refusals", [
        curve("Rejected", "ops", "By reason; each is a dead letter.", query("sum by (reason) (rate(citygate_readings_rejected_total{G}[]))", "{{reason}}"), stacked=True),
        curve("Busy", "ops", "By reason.", query("sum by (reason) (rate(citygate_readings_busy_total{G}[]))", "{{reason}}"), stacked=True, may_be_empty=True),
        curve("Not kept", "ops", "Rejected readings beyond a device's allowance.", query("sum(rate(citygate_dead_letters_skipped_total{G}[]))", "skipped")),
        curve("Credentials", "ops", "Refused, by reason.",
              query("sum by (protocol, reason) (rate(citygate_authentications_refused_total{G}[]))", "{{protocol}} {{reason}}"),
              query("sum by (listener, reason) (rate(citygate_tls_client_certificates_refused_total{G}[]))", "{{listener}} certificate {{reason}}"), may_be_empty=True),
        curve("Connections", "ops", "Closed, by reason.",
              query("sum by (reason) (rate(citygate_mqtt_closed_total{G}[]))", "MQTT {{reason}}")),
        curve("Connections refused", "ops", "Before anything was read.",
              query("sum by (listener, reason) (rate(citygate_connections_refused_total{G}[]))", "{{listener}} {{reason}}"), may_be_empty=True),
        panel(table.Panel().span(24).height(6), "Certificates", "dateTimeFromNow", "When each ends.",
              [query("sort(citygate_tls_certificate_expiry_timestamp_seconds{G} * 1000)", instant=True).format(PromQueryFormat.TABLE)]),
    ]
    yield "Store", [
        curve("Stored", "ops", "Rows, by kind.", query("sum by (kind) (rate(citygate_store_rows_total{S}[]))", "{{kind}}"), stacked=True),
        curve("Behind", "s", "How old the oldest record is that may not be stored; up to 2 s while nothing waits.",
              query("instance:citygate_store_behind:seconds{S}", "{{instance}}")),
        curve("Not stored yet", "short", "Records, by topic.", query("sum by (topic) (citygate_store_lag_records{S})", "{{topic}}")),
        curve("Partitions", "short", "Those that stores have, and those that their topics have: as many, or readings are not stored.",
              query("sum(citygate_store_partitions{S})", "stores"), query("sum(max by (topic) (citygate_store_topic_partitions{S}))", "topics")),
        curve("Does not work", "short", "1 for each part that has a fault; why, /readyz says.", query("citygate_store_fault{S}", "{{instance}} {{part}}"),
              query("citygate_store_database_unavailable{S} == 1", "{{instance}} {{reason}}", may_be_empty=True)),
        curve("A batch", "s", "99 in a hundred: from its first record to its commit, and of that in the database.",
              query("histogram_quantile(0.99, sum by (le, part) (rate(citygate_store_batch_seconds_bucket{S}[])))", "{{part}}")),
        curve("Not a row", "ops", "Undecodable (kept in city.undecodable), late (in no aggregate), duplicates, too old; failed transactions.",
              query("sum by (reason) (rate(citygate_store_undecodable_total{S}[]))", "undecodable: {{reason}}", may_be_empty=True),
              query("sum(rate(citygate_store_late_total{S}[]))", "late"), query("sum(rate(citygate_store_duplicates_total{S}[]))", "duplicates"),
              query("sum(rate(citygate_store_expired_total{S}[]))", "too old"),
              query("sum by (reason) (rate(citygate_store_failures_total{S}[]))", "failed: {{reason}}", may_be_empty=True)),
        curve("Jobs", "s", "Since each succeeded last.",
              query("time() - max by (job_name) (citygate_store_job_last_success_timestamp_seconds{S})", "{{job_name}}")),
        curve("A job", "s", "Of each the mean.",
              query("sum by (job_name) (rate(citygate_store_job_seconds_sum{S}[])) / sum by (job_name) (rate(citygate_store_job_seconds_count{S}[]))", "{{job_name}}"),
              query("sum by (job_name) (rate(citygate_store_job_failures_total{S}[]))", "{{job_name}}: failed per second", may_be_empty=True)),
        curve("Results", "ops", "Published, by topic.", query("sum by (topic) (rate(citygate_store_published_total{S}[]))", "{{topic}}")),
        curve("Results not published", "short", "In city.outbox.", query("sum(citygate_store_outbox_rows{S})", "results"),
              query("max(citygate_store_outbox_age_seconds{S})", "the oldest, in seconds")),
        curve("Alertmanager", "short", "1 while it accepts alerts on the city.", query("max by (alertmanager) (citygate_store_alertmanager_up{S})", "{{alertmanager}}"),
              query("sum by (alertmanager, reason) (rate(citygate_store_alertmanager_failures_total{S}[]))", "{{alertmanager}}: {{reason}} per second", may_be_empty=True)),
        curve("Alerts on the city", "ops", "Told, by Alertmanager; each that lasts once a minute.",
              query("sum by (alertmanager) (rate(citygate_store_alertmanager_alerts_total{S}[]))", "{{alertmanager}}")),
    ]


def build():
    board = (
        dashboard.Dashboard("citygate").uid("citygate").description("Operations of the gateways; see deploy/RUNBOOK.md.")
        .tags(["citygate"]).refresh("30s").time("now-3h", "now").tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(dashboard.QueryVariable("instance").label("Gateway").datasource(SOURCE).multi(True).include_all(True)
                       .all_value(".+").query('label_values(up{job="citygate"}, instance)'))
    )
    for title, panels in rows():
        board = board.with_row(dashboard.Row(title))
        for one in panels:
            board = board.with_panel(one)
    made = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    # The library leaves the numbers of panels and variables at nought, all of them.
    for number_of_panel, one in enumerate(made["panels"], start=1):
        one["id"] = number_of_panel
    for variable in made["templating"]["list"]:
        variable.pop("id", None)
    return made


def ask(url):
    asked, empty, bad = 0, 0, []
    for one in build()["panels"]:
        for target in one.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".+")
            found = urllib.request.Request(f"{url}/api/v1/query", urllib.parse.urlencode({"query": expression}).encode())
            try:
                with urllib.request.urlopen(found, timeout=10) as answer:
                    count = len(json.load(answer)["data"]["result"])
            except urllib.error.HTTPError as error:
                bad.append(f"{one['title']}: {expression}: {error.read().decode()}")
                continue
            asked, empty = asked + 1, empty + (count == 0)
            if count == 0 and target["expr"] not in MAY_BE_EMPTY:
                bad.append(f"{one['title']}: no row: {expression}")
    panels = sum(1 for one in build()["panels"] if one.get("targets"))
    print(f"{panels} panels, {asked} queries asked, {empty} without a row (of {len(MAY_BE_EMPTY)} that may)")
    print(*bad, sep="\n", file=sys.stderr)
    return bool(bad)


def main():
    match sys.argv[1:]:
        case []:
            print(json.dumps(build(), indent=1, sort_keys=True))
        case ["--check"]:
            if json.loads(COMMITTED.read_text()) != build():
                sys.exit("citygate.json is not what dashboard.py makes: deploy/grafana/dashboard.py >deploy/grafana/citygate.json")
        case ["--ask", url]:
            sys.exit(ask(url))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
