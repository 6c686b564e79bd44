//! What needs no replay: a bit for every entry in memory, and on disk the sequence below which all is done.
//!
//! The file has two slots, written in turns, so that a torn write leaves the other. Entries that were committed out of
//! order, or since the last save, are replayed after a crash: the cursor is never too far, at most behind.
//!
//! ```text
//! offset  bytes   (of each slot; the second is at 4096)
//!      0      8  "citycurs"
//!      8      4  version
//!     12      4  CRC-32C of all other bytes of the slot
//!     16      8  generation: the higher one counts
//!     24      8  sequence below which all is done
//!     32      4  highest epoch in use when it was written
//! ```

use std::collections::VecDeque;
use std::io;

use super::disk::{DiskFile, Identity, read_full, write_full};
use super::frame;
use super::segment::VERSION;

const MAGIC: &[u8; 8] = b"citycurs";
const SLOT_BYTES: usize = 36;
/// The slots lie on different pages: no torn write reaches both.
const SLOT_STRIDE: u64 = 4096;

/// The file.
#[derive(Debug)]
pub struct CursorFile {
    file: Box<dyn DiskFile>,
    identity: Identity,
    generation: u64,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It was never written.
    Nothing,
    /// `all_slots`: no slot is spoilt; otherwise an older one may be telling.
    Cursor { low: u64, epoch: u32, all_slots: bool },
    /// The file is not empty, but no slot is whole.
    Damaged,
    /// Written by a newer program.
    Version(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    Good { generation: u64, low: u64, epoch: u32 },
    Bad,
    Version(u32),
}

/// The committed sequences: all below `low`, and some above.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    low: u64,
    /// Bit `i` of word `j` is sequence `64 * (low / 64 + j) + i`.
    words: VecDeque<u64>,
}

// === impl CursorFile ===

impl CursorFile {
    /// Reads what an open file says.
    pub fn read(file: Box<dyn DiskFile>) -> io::Result<(CursorFile, Saved)> {
        let mut slots = [Slot::Empty; 2];
        for (index, slot) in slots.iter_mut().enumerate() {
            let mut bytes = [0; SLOT_BYTES];
            read_full(&*file, &mut bytes, index as u64 * SLOT_STRIDE)?;
            *slot = Slot::decode(&bytes);
        }
        let generations = slots.iter().map(|slot| match slot {
            Slot::Good { generation, .. } => *generation,
            _ => 0,
        });
        let generation = generations.max().unwrap_or_default();
        let identity = file.identity()?;
        let cursor = CursorFile {
            file,
            identity,
            generation,
        };
        Ok((cursor, judge(slots)))
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Reserves the room for both slots, so that a disk that fills up later cannot stop the cursor.
    pub fn reserve(&self) -> io::Result<()> {
        write_full(&*self.file, &[0; SLOT_STRIDE as usize + SLOT_BYTES], 0)
    }

    /// Writes the other slot; it counts once [synced](CursorFile::sync). After an error it may be tried again.
    pub fn write(&mut self, low: u64, epoch: u32) -> io::Result<()> {
        let generation = self.generation + 1;
        let mut bytes = Vec::with_capacity(SLOT_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&generation.to_le_bytes());
        bytes.extend_from_slice(&low.to_le_bytes());
        bytes.extend_from_slice(&epoch.to_le_bytes());
        let checksum = slot_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        write_full(&*self.file, &bytes, (generation % 2) * SLOT_STRIDE)
    }

    /// Makes what was written durable. After an error nothing is known of that slot, and it must be written again first.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.generation += 1;
        Ok(())
    }

    /// Writes the newest slot again, with what it says. What a start reads may be in the kernel's memory only, and must
    /// be durable before a segment is given up for it; the other slot stays, should this be torn.
    pub fn renew(&mut self, low: u64, epoch: u32) -> io::Result<()> {
        self.generation = self.generation.saturating_sub(1);
        self.save(low, epoch)
    }

    /// Writes and syncs.
    pub fn save(&mut self, low: u64, epoch: u32) -> io::Result<()> {
        self.write(low, epoch)?;
        self.sync()
    }
}

fn judge(slots: [Slot; 2]) -> Saved {
    let version = slots.iter().find_map(|slot| match slot {
        Slot::Version(version) => Some(*version),
        _ => None,
    });
    let newest = slots.iter().filter_map(|slot| match slot {
        Slot::Good { generation, low, epoch } => Some((*generation, *low, *epoch)),
        _ => None,
    });
    match (version, newest.max()) {
        (Some(version), _) => Saved::Version(version),
        (None, Some((_, low, epoch))) => Saved::Cursor {
            low,
            epoch,
            all_slots: !slots.contains(&Slot::Bad),
        },
        (None, None) if slots.contains(&Slot::Bad) => Saved::Damaged,
        (None, None) => Saved::Nothing,
    }
}

fn slot_checksum(slot: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot[..12]), &slot[16..])
}

// === impl Slot ===

impl Slot {
    fn decode(bytes: &[u8; SLOT_BYTES]) -> Slot {
        if bytes.iter().all(|byte| *byte == 0) {
            return Slot::Empty;
        }
        if !bytes.starts_with(MAGIC) || frame::number(bytes, 12) != slot_checksum(bytes) {
            return Slot::Bad;
        }
        match frame::number(bytes, 8) {
            VERSION => Slot::Good {
                generation: frame::long(bytes, 16),
                low: frame::long(bytes, 24),
                epoch: frame::number(bytes, 32),
            },
            other => Slot::Version(other),
        }
    }
}

// === impl Committed ===

impl Committed {
    pub fn from(low: u64) -> Self {
        let mut committed = Committed {
            low,
            words: VecDeque::new(),
        };
        if !low.is_multiple_of(64) {
            // The bits below `low` in its word are done.
            committed.words.push_back((1 << (low % 64)) - 1);
        }
        committed
    }

    /// All below it are committed, it is not.
    pub fn low(&self) -> u64 {
        self.low
    }

    pub fn contains(&self, sequence: u64) -> bool {
        let word = |index: usize| {
            self.words
                .get(index)
                .is_some_and(|word| word >> (sequence % 64) & 1 == 1)
        };
        sequence < self.low || word(self.index(sequence))
    }

    /// Whether it was not committed before.
    pub fn insert(&mut self, sequence: u64) -> bool {
        if self.contains(sequence) {
            return false;
        }
        let index = self.index(sequence);
        if self.words.len() <= index {
            self.words.resize(index + 1, 0);
        }
        self.words[index] |= 1 << (sequence % 64);
        if sequence == self.low {
            self.advance();
        }
        true
    }

    fn index(&self, sequence: u64) -> usize {
        (sequence / 64 - self.low / 64) as usize
    }

    fn advance(&mut self) {
        let mut base = self.low / 64 * 64;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            base += 64;
        }
        let ones = self.words.front().map_or(0, |word| word.trailing_ones());
        self.low = base + u64::from(ones);
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::{Disk, Mode, RealDisk};
    use super::*;

    #[test]
    fn the_low_water_mark_is_where_the_first_hole_is() {
        for start in [0, 1, 63, 64, 65, 1000] {
            let mut committed = Committed::from(start);
            assert!(!committed.contains(start));
            assert!(committed.insert(start + 1) && !committed.insert(start + 1));
            assert_eq!(committed.low(), start);
            assert!((start + 2..start + 300).all(|sequence| committed.insert(sequence)));
            assert_eq!(committed.low(), start);
            assert!(committed.insert(start));
            assert_eq!(committed.low(), start + 300);
            assert!(committed.words.len() <= 1);
            assert!(committed.contains(start) && !committed.contains(start + 300));
            assert!(!committed.insert(start));
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let open = || CursorFile::read(RealDisk::default().open(&path, Mode::Create).unwrap()).unwrap();
        let spoil = |at: u64, value: u8| {
            let file = RealDisk::default().open(&path, Mode::ReadWrite).unwrap();
            write_full(&*file, &[value], at).unwrap();
        };
        let at = |low, all_slots| Saved::Cursor {
            low,
            epoch: 3,
            all_slots,
        };
        assert_eq!(open().1, Saved::Nothing);
        open().0.save(5, 3).unwrap();
        assert_eq!(open().1, at(5, true));
        open().0.save(6, 3).unwrap();
        assert_eq!(open().1, at(6, true));
        spoil(24, 9); // generation 2 is in the first slot
        assert_eq!(open().1, at(5, false));
        open().0.save(7, 3).unwrap();
        assert_eq!(open().1, at(7, true));
        spoil(24, 9);
        spoil(SLOT_STRIDE, b'X');
        assert_eq!(open().1, Saved::Damaged);
    }
}
