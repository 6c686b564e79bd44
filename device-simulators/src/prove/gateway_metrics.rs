//! What the gateway says of itself, added up over its lives.
//!
//! A counter begins at 0 again when the gateway is started again, so what its predecessor had counted is carried over,
//! as of the last time it was asked: what it counted after that, up to a kill -9, is not known to anybody.

use std::collections::BTreeMap;

/// Metrics of this name are of interest, and those whose name begins with [`SPOOL`].
const NAMES: [&str; 7] = [
    "citygate_kafka_up",
    "citygate_kafka_producers_replaced_total",
    "citygate_readings_received_total",
    "citygate_readings_total",
    "citygate_kafka_records_sent_total",
    "citygate_kafka_records_in_doubt_total",
    "citygate_receipts_dropped_total",
];
const SPOOL: &str = "citygate_spool_";

/// Series by name and labels, as they stand in the text.
#[derive(Clone, Debug, Default)]
pub struct GatewayMetrics {
    series: BTreeMap<String, Series>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Series {
    /// Of earlier lives.
    carried: f64,
    now: f64,
}

// === impl GatewayMetrics ===

impl GatewayMetrics {
    /// The gateway's metrics in Prometheus' text format.
    pub fn observe(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            if let (true, Ok(value)) = (is_of_interest(name), value.parse()) {
                self.series.entry(name.to_owned()).or_default().now = value;
            }
        }
    }

    /// The gateway begins a new life.
    pub fn restarted(&mut self) {
        for (name, series) in &mut self.series {
            if metric(name).ends_with("_total") {
                series.carried += series.now;
            }
            series.now = 0.0;
        }
    }

    /// Over all lives and labels.
    pub fn sum(&self, name: &str) -> f64 {
        self.series_of(name).map(|series| series.carried + series.now).sum()
    }

    /// Of the present life.
    pub fn sum_now(&self, name: &str) -> f64 {
        self.series_of(name).map(|series| series.now).sum()
    }

    /// Records that Kafka has confirmed in the present life.
    pub fn confirmed_now(&self) -> f64 {
        let delivered = self
            .series
            .iter()
            .filter(|(name, _)| name.contains("outcome=\"delivered\""));
        delivered.map(|(_, series)| series.now).sum::<f64>() + self.sum_now("citygate_spool_replayed_total")
    }

    /// Sums over labels by outcome and metric, without what is 0.
    pub fn listed(&self) -> BTreeMap<String, f64> {
        let mut listed: BTreeMap<String, f64> = BTreeMap::new();
        for (name, series) in &self.series {
            let sum = series.carried + series.now;
            if sum != 0.0 {
                *listed.entry(label(name)).or_default() += sum;
            }
        }
        listed
    }

    fn series_of<'a>(&'a self, metric_name: &'a str) -> impl Iterator<Item = &'a Series> {
        let wanted = self.series.iter().filter(move |(name, _)| metric(name) == metric_name);
        wanted.map(|(_, series)| series)
    }
}

fn metric(name: &str) -> &str {
    name.split('{').next().unwrap_or(name)
}

fn is_of_interest(name: &str) -> bool {
    let metric = metric(name);
    NAMES.contains(&metric) || (metric.starts_with(SPOOL) && !metric.ends_with("_bucket"))
}

/// A metric, with its outcome if it has one.
fn label(name: &str) -> String {
    let outcome = name
        .split_once("outcome=\"")
        .and_then(|(_, rest)| rest.split('"').next());
    match outcome {
        Some(outcome) => format!("{} {outcome}", metric(name)),
        None => metric(name).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_carried_over_a_restart_and_gauges_are_not() {
        let mut metrics = GatewayMetrics::default();
        metrics.observe(
            "# HELP citygate_readings_total x\n\
             citygate_readings_total{kind=\"traffic\",outcome=\"delivered\",protocol=\"mqtt\"} 5\n\
             citygate_readings_total{kind=\"energy\",outcome=\"delivered\",protocol=\"mqtt\"} 2\n\
             citygate_readings_total{kind=\"energy\",outcome=\"busy\",protocol=\"mqtt\"} 0\n\
             citygate_spool_records 7\n\
             citygate_spool_fsync_seconds_bucket{le=\"0.1\"} 9\n\
             process_cpu_seconds_total 3\n",
        );
        metrics.restarted();
        metrics.observe("citygate_readings_total{kind=\"energy\",outcome=\"delivered\",protocol=\"mqtt\"} 4\n");
        assert_eq!(metrics.sum("citygate_readings_total"), 11.0);
        assert_eq!(metrics.sum_now("citygate_readings_total"), 4.0);
        assert_eq!(metrics.sum("citygate_spool_records"), 0.0);
        metrics.observe("citygate_spool_replayed_total 3\n");
        assert_eq!(metrics.confirmed_now(), 7.0);
        let listed: Vec<_> = metrics.listed().into_iter().collect();
        assert_eq!(
            listed,
            [
                ("citygate_readings_total delivered".to_owned(), 11.0),
                ("citygate_spool_replayed_total".to_owned(), 3.0)
            ]
        );
    }
}
