//! The three charts of a report: latency by percentile, positive answers per second over time, and the 99th percentile
//! over time. It turns a report's figures into curves, ticks and hints; `chart` draws them. A second without answers is
//! a gap in the curve, not a zero.

use std::collections::BTreeMap;

use super::chart::{Chart, Curve, Hint, Scale, Tick, round_step};
use super::display;
use crate::load::report::{Line, Report};
use crate::load::table::{grouped, milliseconds};
use crate::load::time_series::Point;
use crate::uplinks::Protocol;

/// Points of a curve over time; of a longer run several seconds are drawn as one.
const POINTS_MAX: usize = 240;

/// Some seconds of one protocol.
#[derive(Clone, Copy)]
struct Stretch {
    rate: f64,
    /// The worst of them.
    p99_ms: Option<f64>,
    bad: u64,
}

/// A part of the time axis.
struct Span {
    from_s: f64,
    to_s: f64,
    by_protocol: BTreeMap<Protocol, Stretch>,
}

/// Latency over the percentiles; every nine is as wide as the one before.
pub(super) fn percentiles(report: &Report) -> String {
    let lines = || report.by_protocol.iter().filter(|(_, line)| !line.curve.is_empty());
    let nines = |quantile: f64| -(1.0 - quantile).log10();
    let end = lines()
        .filter_map(|(_, line)| line.curve.last())
        .map(|(quantile, _)| nines(*quantile))
        .fold(1.0, f64::max);
    let curves = lines().map(|(protocol, line)| Curve {
        class: protocol.name().to_owned(),
        points: line
            .curve
            .iter()
            .map(|(quantile, ms)| (nines(*quantile), Some(*ms)))
            .collect(),
    });
    let ticks = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
    let ticks = ticks
        .into_iter()
        .filter(|quantile| nines(*quantile) <= end + 0.01)
        .map(|quantile| Tick {
            at: nines(quantile),
            text: percent(quantile),
        });
    let hints = (0..(end * 10.0).round() as u32).map(|step| {
        let at = f64::from(step) / 10.0;
        Hint {
            from: at - 0.05,
            to: at + 0.05,
            text: hint_of_percentile(1.0 - 10f64.powf(-at), lines(), step as usize),
        }
    });
    let chart = Chart {
        x: (0.0, end),
        y: Scale::logarithmic(lines().flat_map(|(_, line)| line.curve.iter().map(|(_, ms)| *ms))),
        x_ticks: ticks.collect(),
        shade: None,
        curves: curves.collect(),
        hints: hints.collect(),
        description: "Latency in milliseconds by percentile".to_owned(),
    };
    chart.svg(short_milliseconds)
}

fn hint_of_percentile<'a>(quantile: f64, lines: impl Iterator<Item = (&'a Protocol, &'a Line)>, step: usize) -> String {
    let mut text = format!("{:.3} %", quantile * 100.0);
    for (protocol, line) in lines {
        if let Some((_, ms)) = line.curve.get(step) {
            text.push_str(&format!("\n{} {}", display(*protocol), milliseconds(Some(*ms))));
        }
    }
    text
}

/// `99.9 %` of 0.999.
fn percent(quantile: f64) -> String {
    let text = format!("{:.4}", quantile * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Positive answers per second, over time.
pub(super) fn rates(report: &Report) -> String {
    let spans = spans(report);
    let value = |stretch: &Stretch| Some(stretch.rate);
    let max = spans
        .iter()
        .flat_map(|span| span.by_protocol.values())
        .map(|stretch| stretch.rate)
        .fold(1.0, f64::max);
    over_time(
        report,
        &spans,
        Scale::linear(max),
        value,
        "Positive answers per second over time",
    )
    .svg(short_count)
}

/// The 99th percentile of every second.
pub(super) fn latencies(report: &Report) -> String {
    let spans = spans(report);
    let all = spans
        .iter()
        .flat_map(|span| span.by_protocol.values())
        .filter_map(|stretch| stretch.p99_ms);
    let scale = Scale::logarithmic(all);
    let chart = over_time(
        report,
        &spans,
        scale,
        |stretch| stretch.p99_ms,
        "99th percentile of latency over time",
    );
    chart.svg(short_milliseconds)
}

fn over_time(
    report: &Report,
    spans: &[Span],
    y: Scale,
    value: fn(&Stretch) -> Option<f64>,
    description: &str,
) -> Chart {
    let end = spans.last().map_or(1.0, |span| span.to_s);
    let curves = report.by_protocol.keys().map(|protocol| Curve {
        class: protocol.name().to_owned(),
        points: spans
            .iter()
            .map(|span| (span.middle(), span.by_protocol.get(protocol).and_then(value)))
            .collect(),
    });
    let hints = spans.iter().map(|span| Hint {
        from: span.from_s,
        to: span.to_s,
        text: span.hint(),
    });
    let step = round_step(end / 12.0).max(1.0);
    let ticks = (0..=(end / step) as u32).map(|tick| Tick {
        at: f64::from(tick) * step,
        text: format!("{} s", f64::from(tick) * step),
    });
    Chart {
        x: (0.0, end),
        y,
        x_ticks: ticks.collect(),
        shade: (report.set.ramp_s > 0.0).then_some((report.set.ramp_s, "ramp")),
        curves: curves.collect(),
        hints: hints.collect(),
        description: description.to_owned(),
    }
}

/// The run until the end of its steady part, in as many parts as can be drawn.
fn spans(report: &Report) -> Vec<Span> {
    let end = report.set.ramp_s + report.set.steady_s;
    let count = report
        .over_time
        .iter()
        .filter(|point| point.from_s < end - 0.001)
        .count();
    let shown = &report.over_time[..count];
    shown.chunks(count.div_ceil(POINTS_MAX).max(1)).map(Span::new).collect()
}

// === impl Span ===

impl Span {
    fn new(points: &[Point]) -> Span {
        let from_s = points.first().map_or(0.0, |point| point.from_s);
        let to_s = points.last().map_or(0.0, |point| point.to_s);
        let stretch = |protocol: Protocol| {
            let figures: Vec<_> = points
                .iter()
                .filter_map(|point| point.by_protocol.get(&protocol))
                .collect();
            let positive: u64 = figures.iter().map(|figures| figures.positive).sum();
            let stretch = Stretch {
                rate: positive as f64 / (to_s - from_s).max(0.001),
                p99_ms: figures.iter().filter_map(|figures| figures.p99_ms).reduce(f64::max),
                bad: figures
                    .iter()
                    .map(|figures| figures.negative + figures.unanswered)
                    .sum(),
            };
            (!figures.is_empty()).then_some((protocol, stretch))
        };
        Span {
            from_s,
            to_s,
            by_protocol: Protocol::ALL.into_iter().filter_map(stretch).collect(),
        }
    }

    fn middle(&self) -> f64 {
        (self.from_s + self.to_s) / 2.0
    }

    fn hint(&self) -> String {
        let mut text = format!("{:.1} s to {:.1} s", self.from_s, self.to_s);
        for (protocol, stretch) in &self.by_protocol {
            let (rate, p99) = (grouped(stretch.rate.round() as u64), milliseconds(stretch.p99_ms));
            text.push_str(&format!("\n{} {rate}/s, p99 {p99}", display(*protocol)));
            if stretch.bad > 0 {
                text.push_str(&format!(", {} not positive", grouped(stretch.bad)));
            }
        }
        text
    }
}

/// `150 k` of 150,000.
fn short_count(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e3 => format!("{} k", value / 1e3),
        value => format!("{value}"),
    }
}

fn short_milliseconds(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{} s", value / 1000.0),
        value if value < 1.0 => format!("{:.0} µs", value * 1000.0),
        value => format!("{value} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_labelled_in_few_characters() {
        let check = |found: String, text: &str| assert_eq!(found, text);
        check(percent(0.0), "0 %");
        check(percent(0.5), "50 %");
        check(percent(0.999), "99.9 %");
        check(percent(0.99999), "99.999 %");
        check(short_count(150_000.0), "150 k");
        check(short_count(1_500_000.0), "1.5 M");
        check(short_count(50.0), "50");
        check(short_milliseconds(0.1), "100 µs");
        check(short_milliseconds(10.0), "10 ms");
        check(short_milliseconds(10_000.0), "10 s");
    }
}
