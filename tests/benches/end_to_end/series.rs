//! One figure over several rounds: the median, and the least and the most
//! beside it. The spread is printed with every median, so that a difference
//! within it is not taken for a result.

/// The median; not a number if there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The median with the least and the most: `5.12 (4.96-5.31)`; `-` if there is none.
pub fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    let (least, most) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
            (least.min(*value), most.max(*value))
        });
    match values.len() {
        0 => "-".to_owned(),
        1 => short(least),
        _ => format!("{} ({}-{})", short(median(values)), short(least), short(most)),
    }
}

/// With as many digits as matter.
pub fn short(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".to_owned(),
        value if value.fract() == 0.0 => format!("{value:.0}"),
        value if value.abs() < 100.0 => format!("{value:.2}"),
        value if value.abs() < 1000.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}
