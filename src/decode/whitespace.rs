//! What may stand around a JSON text without being part of it.
//!
//! Whitespace as RFC 8259 §2 has it, and the byte order mark that its §8.1 lets a reader ignore. Where they are skipped
//! is left to whoever reads.

/// U+FEFF in UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// JSON's whitespace (RFC 8259 §2), which is less than ASCII's: no form feed.
pub(super) fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
