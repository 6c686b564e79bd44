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
    let decimal = Decimal::new(literal);
    match decimal.power {
        _ if decimal.digits().next().is_none() => Ok(0),
        ..0 => Err(Fault::Type),
        power => decimal.integer(power, usize::MAX, 0),
    }
}

/// The largest integer that is not above the number times ten to the power of `decimals`.
///
/// # Errors
/// Below or above, if it is beyond `long`.
#[cold]
pub fn floor(literal: &str, decimals: u32) -> Result<i64, Fault> {
    let decimal = Decimal::new(literal);
    let power = decimal.power.saturating_add(i64::from(decimals));
    if decimal.digits().next().is_none() {
        return Ok(0);
    }
    if power >= 0 {
        return decimal.integer(power, usize::MAX, 0);
    }
    // The last significant digit is none, so what is cut off is never all zeros.
    let cut = usize::try_from(power.unsigned_abs()).unwrap_or(usize::MAX);
    let kept = decimal.digits().count().saturating_sub(cut);
    decimal.integer(0, kept, i128::from(decimal.negative))
}

/// A number taken apart: its significant digits, the last of which stands for ten to the power of `power`.
struct Decimal<'l> {
    negative: bool,
    before: &'l str,
    behind: &'l str,
    significant: usize,
    power: i64,
}

impl<'l> Decimal<'l> {
    fn new(literal: &'l str) -> Self {
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
        Decimal {
            negative,
            before,
            behind,
            significant: before.len() + behind.len() - zeros,
            // Lengths are far from the bounds of `i64`.
            power: (zeros as i64 - behind.len() as i64).saturating_add(power_of_ten(exponent)),
        }
    }

    /// Without leading zeros.
    fn digits(&self) -> impl Iterator<Item = u8> + Clone {
        let all = self.before.bytes().chain(self.behind.bytes()).take(self.significant);
        all.skip_while(|&digit| digit == b'0')
    }

    /// The first `kept` digits times ten to the power of `zeros`, further from zero by `more`.
    fn integer(&self, zeros: i64, kept: usize, more: i128) -> Result<i64, Fault> {
        let beyond = if self.negative { Fault::Below } else { Fault::Above };
        let digits = self.digits().take(kept);
        let zeros = usize::try_from(zeros).unwrap_or(usize::MAX);
        if digits.clone().count().saturating_add(zeros) > 19 {
            return Err(beyond);
        }
        let digits = digits.chain(std::iter::repeat_n(b'0', zeros));
        let magnitude = digits.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0')) + more;
        i64::try_from(if self.negative { -magnitude } else { magnitude }).map_err(|_| beyond)
    }
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
