//! Elementary functions that give the same bits on every machine.
//!
//! The functions of the standard library come from the platform, and differ in their last bits from one to the next: enough
//! for a reading to be rounded the other way. These use only `+ − × ÷ √` and rounding, which IEEE 754 fixes. They are exact
//! to about 1e-12, a thousand times more than any sensor, and meant for the arguments of this crate alone.

/// Sine of an angle in turns (1 is a full circle).
pub(crate) fn sin_turns(turns: f64) -> f64 {
    let within = turns - turns.round();
    let folded = if within > 0.25 {
        0.5 - within
    } else if within < -0.25 {
        -0.5 - within
    } else {
        within
    };
    let x = folded * std::f64::consts::TAU;
    let square = x * x;
    // Taylor up to x^19: the next term is below 1e-15 at a quarter turn.
    let mut sum = 1.0;
    for odd in [18.0, 16.0, 14.0, 12.0, 10.0, 8.0, 6.0, 4.0, 2.0] {
        sum = 1.0 - sum * square / (odd * (odd + 1.0));
    }
    x * sum
}

/// Cosine of an angle in turns.
pub(crate) fn cos_turns(turns: f64) -> f64 {
    sin_turns(turns + 0.25)
}

/// The angle in turns, 0 to 0.5, whose cosine is `cosine`; what is beyond −1 or 1 counts as that.
pub(crate) fn acos_turns(cosine: f64) -> f64 {
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..44 {
        let middle = (low + high) / 2.0;
        if cos_turns(middle) > cosine {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// e to the power of `x`; 0 below −700 and capped above 700.
pub(crate) fn exp(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    let x = x.min(700.0);
    let twos = (x * std::f64::consts::LOG2_E).round();
    let rest = x - twos * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for term in [
        14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0,
    ] {
        sum = 1.0 + sum * rest / term;
    }
    sum * f64::from_bits(((1023 + twos as i64) as u64) << 52)
}

/// The natural logarithm of a positive, normal number.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as f64 - 1023.0;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1.0;
    }
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let mut sum = 0.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 1.0 / odd;
    }
    exponent * std::f64::consts::LN_2 + 2.0 * ratio * sum
}

/// `base` to the power of `exponent`; 0 for a base that is not positive.
pub(crate) fn pow(base: f64, exponent: f64) -> f64 {
    if base <= 0.0 { 0.0 } else { exp(exponent * ln(base)) }
}

/// 0 up to `from`, 1 beyond `to`, and smooth between them.
pub(crate) fn step(value: f64, from: f64, to: f64) -> f64 {
    let x = ((value - from) / (to - from)).clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}

/// A hill around 0 that is 1 in the middle and 0 beyond −1 and 1.
pub(crate) fn hill(x: f64) -> f64 {
    let slope = (1.0 - x * x).max(0.0);
    slope * slope
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expected: f64, what: f64) {
        let error = (value - expected).abs() / expected.abs().max(1.0);
        assert!(error < 1e-12, "{what}: {value} is not {expected}");
    }

    #[test]
    fn they_are_what_the_standard_library_says() {
        for step in -4000..4000 {
            let x = f64::from(step) / 331.0;
            close(sin_turns(x), (x * std::f64::consts::TAU).sin(), x);
            close(cos_turns(x), (x * std::f64::consts::TAU).cos(), x);
            close(exp(x), x.exp(), x);
            if x > 0.0 {
                close(ln(x), x.ln(), x);
                close(pow(x, 1.7), x.powf(1.7), x);
                close(ln(x * 1e-9), (x * 1e-9).ln(), x);
            }
            if x.abs() <= 1.0 {
                close(acos_turns(x), x.acos() / std::f64::consts::TAU, x);
            }
        }
        assert_eq!((exp(-800.0), pow(0.0, 2.0), exp(0.0), ln(1.0)), (0.0, 0.0, 1.0, 0.0));
        assert!(exp(800.0).is_finite());
    }

    #[test]
    fn they_give_these_very_bits() {
        let mut sum = 0u64;
        for step in 0..10_000 {
            let x = f64::from(step) * 0.0173;
            for value in [sin_turns(x), exp(-x), ln(1.0 + x), acos_turns(x / 173.0)] {
                sum = sum.rotate_left(5) ^ value.to_bits();
            }
        }
        assert_eq!(sum, 0x6473_fe05_2624_8acf, "{sum:#x}");
    }

    #[test]
    fn steps_and_hills_are_smooth_and_bounded() {
        let check = |value: f64, expected: f64| assert_eq!(value, expected);
        check(step(0.9, 1.0, 3.0), 0.0);
        check(step(2.0, 1.0, 3.0), 0.5);
        check(step(3.5, 1.0, 3.0), 1.0);
        check(hill(0.0), 1.0);
        check(hill(1.0), 0.0);
        check(hill(-7.0), 0.0);
    }
}
