//! One entry on disk: a header of 32 bytes, then the entry.
//!
//! ```text
//! offset  bytes
//!      0      4  CRC-32C of everything behind it, up to the end of the entry
//!      4      4  length of the entry, in bytes
//!      8      4  epoch of the segment: bytes that a recycled segment still holds from before never count
//!     12      4  place in its group, from 0; 0xFFFF_FFFF: end mark; 0xFFFF_FFFE: hole
//!     16      8  sequence; in marks and holes: of the next entry
//!     24      8  arrival, milliseconds since the Unix epoch; in an end mark: first sequence of the last group; in a
//!                hole: first sequence that is missing
//! ```
//! All numbers are little-endian. The place tells recovery where the group began: all before it was safe when this
//! frame was written, so damage there is a disk's and not a crash's. A hole covers a damaged place that was reported:
//! what it holds is what is left of it.

/// Bytes in front of every entry.
pub const HEADER_BYTES: usize = 32;

const END: u32 = u32::MAX;
const HOLE: u32 = u32::MAX - 1;

/// A frame that was read and is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub sequence: u64,
    pub mark: Mark,
    pub entry: &'a [u8],
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// An entry, and how many of its group came before it.
    Entry { arrived_ms: i64, place: u32 },
    /// Nothing follows; `sequence` is the next to be written, `group_start` the first of the last group.
    End { group_start: u64 },
    /// Entries are missing from `from` up to `sequence`, and somebody was told.
    Hole { from: u64 },
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// They may be the start of one of so many bytes.
    Short { needed: usize },
    /// Another epoch, or a checksum that does not fit.
    Broken,
}

// === impl Frame ===

impl Frame<'_> {
    /// Bytes it takes on disk.
    pub fn bytes(&self) -> usize {
        bytes(self.entry.len())
    }

    /// The first sequence of its group (of the group before an end mark); a hole is of no group.
    pub fn group_from(&self) -> Option<u64> {
        match self.mark {
            Mark::Entry { place, .. } => Some(self.sequence.saturating_sub(place.into())),
            Mark::End { group_start } => Some(group_start),
            Mark::Hole { .. } => None,
        }
    }
}

/// Bytes that an entry takes on disk.
pub fn bytes(entry_bytes: usize) -> usize {
    HEADER_BYTES + entry_bytes
}

/// Appends a frame to `buffer`. The entry must be shorter than 4 GiB.
pub fn encode(buffer: &mut Vec<u8>, epoch: u32, frame: Frame<'_>) {
    let start = buffer.len();
    let (place, last) = match frame.mark {
        Mark::Entry { arrived_ms, place } => (place, arrived_ms.to_le_bytes()),
        Mark::End { group_start } => (END, group_start.to_le_bytes()),
        Mark::Hole { from } => (HOLE, from.to_le_bytes()),
    };
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&(frame.entry.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&epoch.to_le_bytes());
    buffer.extend_from_slice(&place.to_le_bytes());
    buffer.extend_from_slice(&frame.sequence.to_le_bytes());
    buffer.extend_from_slice(&last);
    buffer.extend_from_slice(frame.entry);
    let checksum = crc32c::crc32c(&buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// The frame at the start of `bytes`.
pub fn decode(bytes: &[u8], epoch: u32) -> Result<Frame<'_>, Bad> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Bad::Short { needed: HEADER_BYTES });
    };
    // The epoch first: it is the cheapest test, and fails nearly everywhere while a frame is searched for.
    if number(header, 8) != epoch {
        return Err(Bad::Broken);
    }
    let length = number(header, 4) as usize;
    let Some(entry) = rest.get(..length) else {
        let needed = HEADER_BYTES + length;
        return Err(Bad::Short { needed });
    };
    if crc32c::crc32c(&bytes[4..HEADER_BYTES + length]) != number(header, 0) {
        return Err(Bad::Broken);
    }
    let last = long(header, 24);
    let mark = match number(header, 12) {
        END => Mark::End { group_start: last },
        HOLE => Mark::Hole { from: last },
        place => Mark::Entry {
            arrived_ms: last as i64,
            place,
        },
    };
    let sequence = long(header, 16);
    Ok(Frame { sequence, mark, entry })
}

/// The `u32` at `offset`; 0 where there is none, which no caller asks for.
pub(super) fn number(bytes: &[u8], offset: usize) -> u32 {
    let found = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    found.copied().map_or(0, u32::from_le_bytes)
}

/// The `u64` at `offset`; 0 where there is none, which no caller asks for.
pub(super) fn long(bytes: &[u8], offset: usize) -> u64 {
    let found = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    found.copied().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(entry: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        let mark = Mark::Entry {
            arrived_ms: -5,
            place: 7,
        };
        let frame = Frame {
            sequence: 1 << 40,
            mark,
            entry,
        };
        encode(&mut buffer, 3, frame);
        assert_eq!(decode(&buffer, 3), Ok(frame));
        buffer
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for entry in [&b""[..], b"x", &[0; 300], &[0xFF; 70_000]] {
            assert_eq!(encoded(entry).len(), bytes(entry.len()));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_noticed() {
        let good = encoded(b"{\"lanes\":[2]}");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, 3).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(matches!(decode(&good[..length], 3), Err(Bad::Short { .. })));
        }
        assert_eq!(decode(&good, 4), Err(Bad::Broken));
    }

    #[test]
    fn zeros_are_no_frame_of_any_epoch_in_use() {
        assert_eq!(decode(&[0; 64], 1), Err(Bad::Broken));
    }
}
