//! One chart in SVG: axes, curves, and the values shown under the pointer. It knows numbers and scales; what they
//! measure is its caller's concern (see `curves`). The result is self-contained: no script library, no file beside the
//! report.

use std::fmt::Write as _;

/// Size of a chart in its own units; the page scales it.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 30.0;

/// A curve; a gap where there is nothing.
pub(super) struct Curve {
    pub(super) class: String,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A mark on an axis.
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) text: String,
}

/// A place on the horizontal axis, and what is to be said about it.
pub(super) struct Hint {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) text: String,
}

pub(super) struct Chart {
    pub(super) x: (f64, f64),
    pub(super) y: Scale,
    pub(super) x_ticks: Vec<Tick>,
    /// Shaded from the left to here, with a word.
    pub(super) shade: Option<(f64, &'static str)>,
    pub(super) curves: Vec<Curve>,
    pub(super) hints: Vec<Hint>,
    pub(super) description: String,
}

/// The range of a vertical axis.
pub(super) enum Scale {
    Linear {
        max: f64,
        step: f64,
    },
    /// Whole decades, from 10^low to 10^high.
    Logarithmic {
        low: i32,
        high: i32,
    },
}

// === impl Scale ===

impl Scale {
    /// From nothing to above `max`, in round steps.
    pub(super) fn linear(max: f64) -> Scale {
        let step = round_step(max / 4.0);
        let steps = (max / step).ceil().max(1.0);
        Scale::Linear {
            max: steps * step,
            step,
        }
    }

    /// The decades that hold all `values`.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Scale {
        let positive = values.filter(|value| *value > 0.0);
        let (low, high) = positive.fold((f64::MAX, 0.0f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if high <= 0.0 {
            return Scale::Logarithmic { low: 0, high: 1 };
        }
        let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Scale::Logarithmic {
            low,
            high: high.max(low + 1),
        }
    }

    /// 0 at the bottom, 1 at the top.
    fn place(&self, value: f64) -> f64 {
        let place = match *self {
            Scale::Linear { max, .. } => value / max,
            Scale::Logarithmic { low, high } => (value.max(1e-9).log10() - f64::from(low)) / f64::from(high - low),
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(&self, text: fn(f64) -> String) -> Vec<Tick> {
        let values: Vec<f64> = match *self {
            Scale::Linear { max, step } => (0..=(max / step).round() as u32)
                .map(|tick| f64::from(tick) * step)
                .collect(),
            Scale::Logarithmic { low, high } => (low..=high).map(|decade| 10f64.powi(decade)).collect(),
        };
        values.into_iter().map(|at| Tick { at, text: text(at) }).collect()
    }
}

/// 1, 2 or 5 times a power of ten, not below `wanted`.
pub(super) fn round_step(wanted: f64) -> f64 {
    let decade = 10f64.powf(wanted.max(1e-9).log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * decade >= wanted * 0.999_999);
    factor.unwrap_or(10.0) * decade
}

// === impl Chart ===

impl Chart {
    /// The chart as an `<svg>` element; `text` writes the values of the vertical axis.
    pub(super) fn svg(&self, text: fn(f64) -> String) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            self.description
        );
        // Writing to a string cannot fail.
        self.write(&mut svg, text).unwrap_or_default();
        svg + "</svg>\n"
    }

    fn write(&self, svg: &mut String, text: fn(f64) -> String) -> std::fmt::Result {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        if let Some((to, word)) = self.shade {
            let width = self.place_x(to) - LEFT;
            writeln!(
                svg,
                "<rect class=\"shade\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                bottom - TOP
            )?;
            if width > 40.0 {
                writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\">{word}</text>",
                    LEFT + 6.0,
                    TOP + 14.0
                )?;
            }
        }
        for tick in self.y.ticks(text) {
            let y = self.place_y(tick.at);
            writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            )?;
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                tick.text
            )?;
        }
        for tick in &self.x_ticks {
            let x = self.place_x(tick.at);
            // The last one would stick out.
            let (text_x, anchor) = if x > right - 20.0 {
                (WIDTH, "end")
            } else {
                (x, "middle")
            };
            writeln!(
                svg,
                "<text x=\"{text_x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                HEIGHT - 8.0,
                tick.text
            )?;
            writeln!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>",
                bottom + 5.0
            )?;
        }
        for curve in &self.curves {
            self.write_curve(svg, curve)?;
        }
        for hint in &self.hints {
            let (from, to) = (self.place_x(hint.from), self.place_x(hint.to));
            let middle = (from + to) / 2.0;
            writeln!(
                svg,
                "<g class=\"hit\"><rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/><line x1=\"{middle:.1}\" \
                 x2=\"{middle:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/><title>{}</title></g>",
                (to - from).max(1.0),
                bottom - TOP,
                hint.text
            )?;
        }
        Ok(())
    }

    fn write_curve(&self, svg: &mut String, curve: &Curve) -> std::fmt::Result {
        let class = &curve.class;
        for part in curve
            .points
            .split(|(_, value)| value.is_none())
            .filter(|part| !part.is_empty())
        {
            let places = part
                .iter()
                .filter_map(|(at, value)| Some((self.place_x(*at), self.place_y((*value)?))));
            let places: Vec<(f64, f64)> = places.collect();
            if let [(x, y)] = places[..] {
                writeln!(
                    svg,
                    "<g class=\"{class}\"><circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/></g>"
                )?;
                continue;
            }
            write!(svg, "<g class=\"{class}\"><path class=\"curve\" d=\"")?;
            for (index, (x, y)) in places.iter().enumerate() {
                write!(svg, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { " L" })?;
            }
            writeln!(svg, "\"/></g>")?;
        }
        Ok(())
    }

    fn place_x(&self, value: f64) -> f64 {
        let (from, to) = self.x;
        let share = (value - from) / (to - from).max(1e-9);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn place_y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (wanted, step) in [(0.3, 0.5), (1.0, 1.0), (1.1, 2.0), (37_500.0, 50_000.0), (99.0, 100.0)] {
            assert!(
                (round_step(wanted) - step).abs() < step * 1e-9,
                "{wanted}: {}",
                round_step(wanted)
            );
        }
    }

    #[test]
    fn scales_have_room_for_what_they_show() {
        let Scale::Linear { max, step } = Scale::linear(157_000.0) else {
            unreachable!()
        };
        assert_eq!((max, step), (200_000.0, 50_000.0));
        let check = |values: &[f64], expected: (i32, i32)| {
            let Scale::Logarithmic { low, high } = Scale::logarithmic(values.iter().copied()) else {
                unreachable!()
            };
            assert_eq!((low, high), expected, "{values:?}");
        };
        check(&[0.3, 12.0], (-1, 2));
        check(&[1.0, 1.0], (0, 1));
        check(&[], (0, 1));
        check(&[0.0, 5.0], (0, 1));
    }

    #[test]
    fn a_curve_has_gaps_where_nothing_was_measured() {
        let chart = Chart {
            x: (0.0, 10.0),
            y: Scale::linear(10.0),
            x_ticks: Vec::new(),
            shade: None,
            curves: vec![Curve {
                class: "mqtt".to_owned(),
                points: vec![(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(4.0))],
            }],
            hints: Vec::new(),
            description: String::new(),
        };
        let svg = chart.svg(|value| value.to_string());
        assert_eq!(
            (svg.matches("<path").count(), svg.matches("<circle").count()),
            (1, 1),
            "{svg}"
        );
    }
}
