//! Avro's decimals as PostgreSQL's `numeric` has them on the wire.
//!
//! Avro has an integer in two's complement, big endian, and a scale; PostgreSQL digits to the base 10,000, the first of which
//! counts 10,000 to the power of `weight`, behind a head of four 16-bit fields. Pure.

const BASE: u32 = 10_000;
const BASE_DIGITS: usize = 4;
const NEGATIVE: u16 = 0x4000;

/// Appends the number `unscaled` / 10^`scale`.
pub fn write(bytes: &mut Vec<u8>, unscaled: &[u8], scale: u16) {
    let is_negative = unscaled.first().is_some_and(|byte| byte & 0x80 != 0);
    let behind = usize::from(scale).div_ceil(BASE_DIGITS);
    // So that the point stands between two digits to the base 10,000.
    let shift = 10u32.pow((behind * BASE_DIGITS - usize::from(scale)) as u32);
    let mut digits = digits(magnitude(unscaled, is_negative), shift);
    let weight = digits.len() as i64 - behind as i64 - 1;
    let trailing = digits.iter().rev().take_while(|digit| **digit == 0).count();
    digits.truncate(digits.len() - trailing);
    let weight = if digits.is_empty() { 0 } else { weight };
    let sign = if is_negative && !digits.is_empty() { NEGATIVE } else { 0 };
    bytes.extend_from_slice(&(digits.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&(weight as i16).to_be_bytes());
    bytes.extend_from_slice(&sign.to_be_bytes());
    bytes.extend_from_slice(&scale.to_be_bytes());
    digits
        .iter()
        .for_each(|digit| bytes.extend_from_slice(&digit.to_be_bytes()));
}

/// Without its sign.
fn magnitude(unscaled: &[u8], is_negative: bool) -> Vec<u8> {
    let mut bytes = unscaled.to_vec();
    if is_negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    bytes
}

/// The digits of a number times `factor`, which is below 10,000; none of zero.
fn digits(mut number: Vec<u8>, factor: u32) -> Vec<u16> {
    let mut digits = Vec::new();
    // The lowest digit first: divided by the base until nothing is left, each multiplied as it comes.
    let mut carry = 0;
    while number.iter().any(|byte| *byte != 0) || carry > 0 {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = rest << 8 | u32::from(*byte);
            *byte = (value / BASE) as u8;
            rest = value % BASE;
        }
        let value = rest * factor + carry;
        digits.push((value % BASE) as u16);
        carry = value / BASE;
    }
    digits.reverse();
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_has_postgresqls_digits() {
        let check = |unscaled: i64, scale: u16, weight: i16, sign: u16, digits: &[u16]| {
            for bytes in [
                unscaled.to_be_bytes().to_vec(),
                i128::from(unscaled).to_be_bytes().to_vec(),
            ] {
                let mut written = Vec::new();
                write(&mut written, &bytes, scale);
                let words: Vec<u16> = written
                    .chunks(2)
                    .map(|word| u16::from_be_bytes([word[0], word[1]]))
                    .collect();
                let head = [digits.len() as u16, weight as u16, sign, scale];
                assert_eq!(words, [&head[..], digits].concat(), "{unscaled} / 10^{scale}");
            }
        };
        check(0, 2, 0, 0, &[]);
        check(1, 0, 0, 0, &[1]);
        check(12_345, 0, 1, 0, &[1, 2345]);
        check(12_345, 2, 0, 0, &[123, 4500]);
        check(-12_345, 2, 0, NEGATIVE, &[123, 4500]);
        check(-1, 4, -1, NEGATIVE, &[1]);
        check(5, 1, -1, 0, &[5000]);
        check(1, 5, -2, 0, &[1000]);
        check(100_000_000, 0, 2, 0, &[1]);
        check(-128, 0, 0, NEGATIVE, &[128]);
        check(i64::MIN, 0, 4, NEGATIVE, &[922, 3372, 368, 5477, 5808]);
        check(99_999_999, 3, 1, 0, &[9, 9999, 9990]);
    }
}
