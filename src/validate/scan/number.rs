//! JSON numbers: integers exact, doubles rounded once, whatever their length.
//!
//! Up to nineteen digits are gathered as they are met. A decimal whose digits and power of ten are both exact as
//! doubles needs one multiplication or division, which rounds once and therefore correctly (Clinger, "How to read
//! floating point numbers accurately", 1990, §4: the fast path); that is what sensors send. All others go to the
//! standard library, which rounds correctly as well, up to exponents of 65535.

use super::cursor::{Cursor, Malformed};

/// A number as it is told to a program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Without fraction or exponent, within `long`.
    Integer(i64),
    /// All others, and -0, which has a sign only here: the nearest double, infinite beyond the largest. What that cannot
    /// tell is told by the text ([`literal`](crate::validate::literal)).
    Real(f64),
}

/// The powers of ten that are exact as doubles.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
/// Any so many digits fit 64 bits.
const DIGITS_MAX: usize = 19;
/// Integers up to here are exact as doubles.
const EXACT_MAX: u64 = 1 << 53;

/// The digits of a number as they are gathered.
#[derive(Clone, Copy)]
struct Digits {
    /// Of no use once `count` is beyond [`DIGITS_MAX`].
    value: u64,
    count: usize,
}

// === impl Cursor ===

impl Cursor<'_> {
    /// A number, whose first byte was peeked.
    #[inline(always)]
    pub fn number(&mut self) -> Result<Number, Malformed> {
        let start = self.position();
        let negative = self.eat(b'-');
        let leading_zero = self.peek() == b'0';
        let whole = self.digits(Digits { value: 0, count: 0 });
        if whole.count == 0 || (leading_zero && whole.count > 1) {
            return Err(Malformed);
        }
        match self.peek() {
            b'.' | b'e' | b'E' => self.real(start, negative, whole),
            _ if whole.count < DIGITS_MAX => Ok(match (negative, whole.value as i64) {
                (true, 0) => Number::Real(-0.0),
                (true, value) => Number::Integer(-value),
                (false, value) => Number::Integer(value),
            }),
            _ => self.long(start),
        }
    }

    #[inline(always)]
    fn digits(&mut self, before: Digits) -> Digits {
        let Digits { mut value, mut count } = before;
        for byte in self.rest() {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            count += 1;
        }
        self.skip(count - before.count);
        Digits { value, count }
    }

    /// Behind the digits before the point.
    #[inline(always)]
    fn real(&mut self, start: usize, negative: bool, whole: Digits) -> Result<Number, Malformed> {
        let mut digits = whole;
        if self.eat(b'.') {
            digits = self.digits(whole);
            if digits.count == whole.count {
                return Err(Malformed);
            }
        }
        let mut power = -((digits.count - whole.count) as i64);
        if matches!(self.peek(), b'e' | b'E') {
            power = power.saturating_add(self.exponent()?);
        }
        if digits.count > DIGITS_MAX || digits.value > EXACT_MAX {
            return self.exactly(start);
        }
        let value = digits.value as f64;
        let scale = usize::try_from(power.unsigned_abs()).ok();
        let value = match scale.and_then(|power| POWERS.get(power)) {
            Some(scale) if power < 0 => value / scale,
            Some(scale) => value * scale,
            None => return self.exactly(start),
        };
        Ok(Number::Real(if negative { -value } else { value }))
    }

    #[cold]
    fn exponent(&mut self) -> Result<i64, Malformed> {
        self.step();
        let negative = self.peek() == b'-';
        if negative || self.peek() == b'+' {
            self.step();
        }
        let digits = self.digits(Digits { value: 0, count: 0 });
        match digits.count {
            0 => Err(Malformed),
            1..DIGITS_MAX if negative => Ok(-(digits.value as i64)),
            1..DIGITS_MAX => Ok(digits.value as i64),
            // Far from any power that is exact; the sign is of no matter here.
            _ => Ok(i64::MAX),
        }
    }

    /// An integer of many digits.
    #[cold]
    fn long(&mut self, start: usize) -> Result<Number, Malformed> {
        let text = self.since(start);
        match text.parse() {
            // JSON has no -000…, so this is not -0.
            Ok(value) => Ok(Number::Integer(value)),
            Err(_) => self.exactly(start),
        }
    }

    #[cold]
    fn exactly(&mut self, start: usize) -> Result<Number, Malformed> {
        self.since(start).parse().map(Number::Real).map_err(|_| Malformed)
    }
}
