//! Where in a reading's text a value stands.
//!
//! Devices write their fields in one order, the reading's own before those of its parts: a field is where its name comes first.

use std::ops::Range as Bytes;

use super::Field;

/// Where a number stands.
pub(in crate::devices) fn number(reading: &[u8], field: &Field) -> Option<Bytes<usize>> {
    let bytes = token(reading, field.within, field.name)?;
    let first = *reading.get(bytes.start)?;
    (first == b'-' || first.is_ascii_digit()).then_some(bytes)
}

pub(in crate::devices) fn value(reading: &[u8], field: &Field) -> Option<f64> {
    let digits = reading.get(number(reading, field)?)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Where the value of a field begins and ends, as far as it has no commas or brackets in it; in the first element of an
/// array, where one is named. Devices write their fields in one order, the reading's own before those of its parts.
pub(in crate::devices) fn token(reading: &[u8], within: &str, name: &str) -> Option<Bytes<usize>> {
    let from = if within.is_empty() {
        0
    } else {
        after(reading, 0, &format!("\"{within}\":["))?
    };
    let start = after(reading, from, &format!("\"{name}\":"))?;
    let rest = reading.get(start..)?;
    let length = rest.iter().position(|byte| b",}]".contains(byte))?;
    Some(start..start + length)
}

/// The first position after `text`, from `from` on.
fn after(reading: &[u8], from: usize, text: &str) -> Option<usize> {
    let windows = reading.get(from..)?.windows(text.len());
    let at = windows.into_iter().position(|window| window == text.as_bytes())?;
    Some(from + at + text.len())
}

pub(in crate::devices) fn replaced(reading: &[u8], bytes: Bytes<usize>, with: &[u8]) -> Vec<u8> {
    let before = reading.get(..bytes.start).unwrap_or_default();
    let behind = reading.get(bytes.end..).unwrap_or_default();
    [before, with, behind].concat()
}

pub(in crate::devices) fn swapped(reading: &[u8], from: u8, to: u8) -> Vec<u8> {
    let swap = |byte: &u8| if *byte == from { to } else { *byte };
    reading.iter().map(swap).collect()
}
