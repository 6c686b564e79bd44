//! `--prometheus`: the run's own metrics, for those who watch the gateway's beside them.
//!
//! Counts are read from the series at each scrape, so that the metrics cost the run nothing. The latencies are kept
//! in fine buckets and given out in Prometheus' coarse ones.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use prometheus::TextEncoder;
use prometheus::proto::{self, MetricFamily, MetricType};
use tokio::net::TcpListener;

use super::clock::processor_time;
use super::codes::{Code, Event};
use super::runner::{SharedSeries, lock};
use super::tally::{Figures, Latencies};
use super::time_series::TimeSeries;
use crate::uplinks::Protocol;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS_S: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const PREFIX: &str = "device_simulators_load";

/// An endpoint that waits to be served.
pub struct Exporter {
    listener: TcpListener,
    router: Router,
}

// === impl Exporter ===

impl Exporter {
    pub async fn bind(address: SocketAddr, series: SharedSeries) -> anyhow::Result<Exporter> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("--prometheus {address}"))?;
        let metrics = move || {
            let families = lock(&series).as_ref().map(families).unwrap_or_default();
            async move { TextEncoder::new().encode_to_string(&families).unwrap_or_default() }
        };
        Ok(Exporter {
            listener,
            router: Router::new().route("/metrics", get(metrics)),
        })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers for as long as it is polled.
    pub async fn serve(self) -> std::io::Result<()> {
        axum::serve(self.listener, self.router).await
    }
}

// === the metrics ===

/// What is in the series, as metrics; families without any value are left out.
fn families(series: &TimeSeries) -> Vec<MetricFamily> {
    let figures = || {
        Protocol::ALL
            .into_iter()
            .map(|protocol| (protocol, series.total(protocol)))
    };
    let of = |count: fn(&Figures) -> u64| -> Vec<proto::Metric> {
        let metric = |(protocol, figures)| metric(&[label_of(protocol)], count(figures));
        figures().map(metric).collect()
    };
    let ends = figures().flat_map(|(protocol, figures)| {
        let count = move |(code, count): (&Code, &u64)| end(protocol, "answer", code.to_string(), *count);
        figures.codes.iter().map(count)
    });
    let events = figures().flat_map(|(protocol, figures)| {
        let count = move |(event, count): (&Event, &u64)| end(protocol, "event", event.to_string(), *count);
        figures.events.iter().map(count)
    });
    let latencies = figures().filter_map(|(protocol, figures)| Some(histogram(protocol, figures.latency.as_deref()?)));
    let mut processor = proto::Counter::default();
    processor.set_value(processor_time().as_secs_f64());
    let mut processor_metric = proto::Metric::default();
    processor_metric.set_counter(processor);
    let up = Protocol::ALL.into_iter().zip(series.up);
    let up = up.map(|(protocol, up)| gauge(protocol, up as f64));
    let (counter, gauges) = (MetricType::COUNTER, MetricType::GAUGE);
    let families = [
        family("sent_total", "Messages sent.", counter, of(|figures| figures.sent)),
        family("ended_total", "Messages by how they ended.", counter, ends.collect()),
        family(
            "connection_events_total",
            "What happened to connections.",
            counter,
            events.collect(),
        ),
        family(
            "retransmissions_total",
            "CoAP messages sent again.",
            counter,
            of(|figures| figures.retransmissions),
        ),
        family("connections", "Connections that are up.", gauges, up.collect()),
        family(
            "latency_seconds",
            "From when a message was due to its positive answer.",
            MetricType::HISTOGRAM,
            latencies.collect(),
        ),
        family(
            "processor_seconds_total",
            "Processor time of this process.",
            counter,
            vec![processor_metric],
        ),
    ];
    families
        .into_iter()
        .filter(|family| !family.get_metric().is_empty())
        .collect()
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("{PREFIX}_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    let mut label = proto::LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn label_of(protocol: Protocol) -> proto::LabelPair {
    label("protocol", protocol.name())
}

fn end(protocol: Protocol, name: &str, what: String, count: u64) -> proto::Metric {
    metric(&[label_of(protocol), label(name, &what)], count)
}

fn metric(labels: &[proto::LabelPair], value: u64) -> proto::Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value as f64);
    let mut metric = proto::Metric::from_label(labels.to_vec());
    metric.set_counter(counter);
    metric
}

fn gauge(protocol: Protocol, value: f64) -> proto::Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = proto::Metric::from_label(vec![label_of(protocol)]);
    metric.set_gauge(gauge);
    metric
}

fn histogram(protocol: Protocol, latency: &Latencies) -> proto::Metric {
    let bucket = |bound_s: &f64| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound_s);
        bucket.set_cumulative_count(latency.count_between(0, (bound_s * 1e6) as u64));
        bucket
    };
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(BUCKETS_S.iter().map(bucket).collect());
    histogram.set_sample_count(latency.len());
    histogram.set_sample_sum(latency.mean() * latency.len() as f64 / 1e6);
    let mut metric = proto::Metric::from_label(vec![label_of(protocol)]);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tally::{Interval, Intervals, latencies};
    use std::time::Duration;

    #[test]
    fn what_is_in_the_book_is_told_in_prometheus_words() {
        let mut series = TimeSeries::new(Intervals::new(Duration::ZERO), 1);
        let mut figures: [Figures; 3] = Default::default();
        figures[0].sent = 3;
        figures[0].codes.insert(Code::Mqtt(0), 2);
        figures[0].codes.insert(Code::Mqtt(0x97), 1);
        figures[0].events.insert(Event::Reset, 4);
        let mut latency = latencies();
        latency.saturating_record(200);
        latency.saturating_record(3_000_000);
        figures[0].latency = Some(latency);
        series.add(Interval {
            index: 0,
            end: 1_000_000_000,
            figures,
        });
        let text = TextEncoder::new().encode_to_string(&families(&series)).unwrap();
        for line in [
            r#"device_simulators_load_sent_total{protocol="mqtt"} 3"#,
            r#"device_simulators_load_ended_total{protocol="mqtt",answer="PUBACK 0x97 quota exceeded"} 1"#,
            r#"device_simulators_load_connection_events_total{protocol="mqtt",event="connection reset"} 4"#,
            r#"device_simulators_load_latency_seconds_bucket{protocol="mqtt",le="0.0001"} 0"#,
            r#"device_simulators_load_latency_seconds_bucket{protocol="mqtt",le="0.00025"} 1"#,
            r#"device_simulators_load_latency_seconds_bucket{protocol="mqtt",le="+Inf"} 2"#,
            r#"device_simulators_load_latency_seconds_count{protocol="mqtt"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
