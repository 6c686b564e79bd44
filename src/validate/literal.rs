//! A JSON number as it came, for what its nearest double cannot tell: whether it is an integer, and the nearest float.
//!
//! Integers are exact, whatever the number's length or exponent; floats are unless the exponent is beyond 65535, where the
//! standard library's parser cuts it off. Nearly all numbers of sensors do not need this.

use super::fault::Fault;

/// The integer that a number with fraction or exponent (or too many digits, or `-0`) is, if it is one: `1.0`, `1e3`,
/// `-0.0`, `1200e-2`.
///
/// # Errors
/// A type fault if it is none; below or above, if it is beyond `long`.
#[cold]
pub fn whole(literal: &str) -> Result<i64, Fault> {
    let (negative, literal) = match literal.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let (mantissa, exponent) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let behind = behind.trim_end_matches('0');
    let zeros = match behind {
        "" => before.len() - before.trim_end_matches('0').len(),
        _ => 0,
    };
    let significant = before.len() + behind.len() - zeros;
    let digits = before.bytes().chain(behind.bytes()).take(significant);
    let digits = digits.skip_while(|&digit| digit == b'0');
    let count = digits.clone().count();
    if count == 0 {
        return Ok(0);
    }
    // The last significant digit stands for ten to this power. Lengths are far from the bounds of `i64`.
    let power = (zeros as i64 - behind.len() as i64).saturating_add(power_of_ten(exponent));
    let beyond = if negative { Fault::Below } else { Fault::Above };
    if power < 0 {
        return Err(Fault::Type);
    }
    let zeros = usize::try_from(power).unwrap_or(usize::MAX);
    if count.saturating_add(zeros) > 19 {
        return Err(beyond);
    }
    let digits = digits.chain(std::iter::repeat_n(b'0', zeros));
    let magnitude = digits.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| beyond)
}

/// An exponent, or as much of it as `i64` can hold: far beyond what any number's digits make up for.
fn power_of_ten(exponent: &str) -> i64 {
    let beyond = if exponent.starts_with('-') { i64::MIN } else { i64::MAX };
    exponent.parse().unwrap_or(beyond)
}

/// The nearest float of a number whose nearest double is `value`: rounded once, from the number itself. To round the double
/// would give the same unless it lies halfway between two floats, as the number may not.
#[inline(always)]
pub fn single<'l>(value: f64, literal: impl Fn() -> &'l str) -> f32 {
    /// The bits of a double that a float does not have, when it lies halfway.
    const HALFWAY: u64 = 1 << 28;
    const EXCESS: u64 = (1 << 29) - 1;
    let halfway = value.to_bits() & EXCESS == HALFWAY;
    let subnormal = value.abs() < f64::from(f32::MIN_POSITIVE) && value != 0.0;
    if halfway || subnormal {
        from_literal(literal(), value)
    } else {
        value as f32
    }
}

#[cold]
fn from_literal(literal: &str, value: f64) -> f32 {
    literal.parse().unwrap_or(value as f32)
}
