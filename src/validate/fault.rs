//! Why a value does not fit its place: a code that costs nothing, which `refusal` turns into words.
//!
//! Also the one limit that needs no schema: how deep arrays and objects may be nested. Which value of which field it is
//! about is known to whoever unwinds.

use super::time;

/// Levels of arrays and objects in a reading; a recursive schema could otherwise nest without end.
pub const DEPTH_MAX: u32 = 64;

/// Why something does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not what the schema has in this place.
    Type,
    Symbol,
    Below,
    Above,
    /// A sentinel: written as null by the union around it, so it never leaves `emit_*`.
    Sentinel,
    /// Out of range where the schema wants null for that: as a sentinel.
    Nulled,
    /// Shorter than `minLength`.
    TooShort,
    /// Longer than `maxLength`.
    TooLong,
    /// Does not match `pattern`.
    Pattern,
    /// More than `maxItems`.
    TooManyItems,
    /// Two items that `unique` forbids.
    NotUnique,
    /// None of `any_of` has a value.
    Empty,
    Unknown,
    Duplicate,
    Missing,
    /// The device names another one than the address does.
    OtherDevice,
    /// A text that is no time, where a time may be sent as text.
    Time(time::Mistake),
    TooFarAhead,
    TooOld,
    /// Before there was anything to observe, whatever the limits say.
    TooEarly,
    /// Nested deeper than [`DEPTH_MAX`].
    Depth,
}

/// Whether what stands inside `depth` arrays and objects may be one itself.
pub fn deeper(depth: u32) -> Result<(), Fault> {
    if depth < DEPTH_MAX { Ok(()) } else { Err(Fault::Depth) }
}
