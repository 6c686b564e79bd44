//! How long the gateway took from the reception of a reading to its outcome, by its own account (`citygate_reading_answer_seconds`).
//!
//! Two scrapes with time between them give the quantiles of that time, as Prometheus' `histogram_quantile` does: within a bucket
//! times count as evenly spread.

use serde::Serialize;

use crate::uplinks::Protocol;

const NAME: &str = "citygate_reading_answer_seconds_bucket{";

/// Of one protocol at one moment: upper bounds in seconds, and how many readings were not above them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerTimes(Vec<(f64, f64)>);

/// In milliseconds; `None` without a reading.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

// === impl AnswerTimes ===

impl AnswerTimes {
    /// From Prometheus' text.
    pub fn read(text: &str, protocol: Protocol) -> AnswerTimes {
        let label = format!("protocol=\"{protocol}\"");
        let lines = text.lines().filter_map(|line| line.strip_prefix(NAME));
        let of_protocol = lines.filter(|line| line.contains(&label));
        let buckets = of_protocol.filter_map(|line| {
            let (labels, count) = line.split_once("} ")?;
            let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse().ok()?
            };
            Some((bound, count.parse().ok()?))
        });
        AnswerTimes(buckets.collect())
    }

    /// Of the readings since `earlier`.
    pub fn since(&self, earlier: &AnswerTimes) -> Quantiles {
        let before = |bound: f64| {
            earlier
                .0
                .iter()
                .find(|(other, _)| *other == bound)
                .map_or(0.0, |(_, count)| *count)
        };
        let grown: Vec<(f64, f64)> = self
            .0
            .iter()
            .map(|(bound, count)| (*bound, count - before(*bound)))
            .collect();
        Quantiles {
            p50_ms: quantile(&grown, 0.5),
            p99_ms: quantile(&grown, 0.99),
        }
    }
}

fn quantile(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let (_, total) = *buckets.last()?;
    let rank = total * quantile;
    let (mut lower, mut below) = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= rank && count > below {
            let within = if bound.is_finite() {
                (bound - lower) * (rank - below) / (count - below)
            } else {
                0.0
            };
            return Some(((lower + within) * 1e6).round() / 1e3);
        }
        (lower, below) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_came_between_two_scrapes() {
        let text = |counts: [u32; 3]| {
            let [small, large, all] = counts;
            format!(
                "# HELP x\n{NAME}protocol=\"mqtt\",le=\"0.001\"}} 9\n{NAME}protocol=\"http\",le=\"0.01\"}} {small}\n\
                 {NAME}protocol=\"http\",le=\"0.1\"}} {large}\n{NAME}protocol=\"http\",le=\"+Inf\"}} {all}\n"
            )
        };
        let read = |counts| AnswerTimes::read(&text(counts), Protocol::Http);
        let check = |from, to, p50_ms, p99_ms| assert_eq!(read(to).since(&read(from)), Quantiles { p50_ms, p99_ms });
        check([0, 0, 0], [100, 100, 100], Some(5.0), Some(9.9));
        check([100, 100, 100], [200, 300, 300], Some(10.0), Some(98.2));
        check([0, 0, 0], [0, 0, 10], Some(100.0), Some(100.0));
        check([5, 5, 5], [5, 5, 5], None, None);
    }
}
