//! One file of frames: its name, its header, and how a damaged one is read.
//!
//! [`scan`] walks a whole segment in memory and never gives up at the first bad byte: it looks for the next whole frame
//! behind it and says what is missing in between. What that means (a crash, a bad disk) is `recovery`'s to say.

use std::ops::Range;

use super::frame::{self, Bad, Frame, Mark};

/// Bytes in front of the first frame.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a segment that hold no entries: the header and the end mark.
pub const OVERHEAD_BYTES: u64 = (HEADER_BYTES + frame::HEADER_BYTES) as u64;
/// Version of the format, in the header of every segment and in the cursor file.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"citygate";

/// What a file of the spool's folder is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Lock,
    Cursor,
    /// Frames of this epoch.
    Segment(u32),
    /// A whole segment's worth of written blocks, to be used again; it was of this epoch.
    Spare(u32),
    /// A spare that is being filled with zeros.
    Filling,
    /// Damaged bytes, kept for whoever wants to look at them.
    Damaged,
    /// The same of the cursor, which is not part of the budget.
    DamagedCursor,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A segment of this version, made with so many bytes.
    Good { segment_bytes: u64 },
    /// Of another version, and whole.
    Version(u32),
    /// Not a header. `version` is what stands in its place if the file is at least marked as the spool's.
    Bad { version: Option<u32> },
}

/// What a walk through a segment found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Where the next frame belongs.
    pub end: usize,
    /// The sequence that should follow; `None`: nothing was found, and nothing was known.
    pub next: Option<u64>,
    /// Whether an end mark was found there; otherwise the last write was torn, or its end is damaged.
    pub clean: bool,
    /// Where the last group starts, or a group before it if its first frame is bad.
    pub group_start: usize,
    /// The first sequence of the last group, even if that entry is bad: all before it was safe when it was written.
    pub group_from: Option<u64>,
    pub gaps: Vec<Gap>,
}

/// A place where frames are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The bad bytes; empty if sequences are missing between two good frames.
    pub place: Range<usize>,
    /// The missing sequences. The start is `None` if nothing before is known.
    pub from: Option<u64>,
    pub to: u64,
    /// All of it belongs to one group, after which nothing more was written: it may never have been acknowledged.
    pub last_group: bool,
    /// A hole stands there: it was reported by an earlier start.
    pub known: bool,
}

// === impl Kind ===

impl Kind {
    pub fn of(name: &str) -> Option<Kind> {
        let epoch = |digits: &str| {
            let number = digits.parse().ok()?;
            // Only one spelling: neither "+1" nor "01".
            (digits == format!("{number:010}")).then_some(number)
        };
        match (name, name.rsplit_once('.')) {
            ("lock", _) => Some(Kind::Lock),
            ("cursor", _) => Some(Kind::Cursor),
            ("cursor.damaged", _) => Some(Kind::DamagedCursor),
            ("filling", _) => Some(Kind::Filling),
            (_, Some((digits, "segment"))) => epoch(digits).map(Kind::Segment),
            (_, Some((digits, "spare"))) => epoch(digits).map(Kind::Spare),
            (_, Some((_, "damaged"))) => Some(Kind::Damaged),
            _ => None,
        }
    }
}

/// Name of the segment of an epoch.
pub fn name(epoch: u32) -> String {
    format!("{epoch:010}.segment")
}

/// Name of a spare.
pub fn spare_name(epoch: u32) -> String {
    format!("{epoch:010}.spare")
}

/// The header of a new segment, and the end mark behind it.
pub fn start(epoch: u32, segment_bytes: u64, created_ms: i64, sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(OVERHEAD_BYTES as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&epoch.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&segment_bytes.to_le_bytes());
    bytes.extend_from_slice(&created_ms.to_le_bytes());
    bytes.resize(HEADER_BYTES, 0);
    let checksum = header_checksum(&bytes);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    end_mark(&mut bytes, epoch, sequence, sequence);
    bytes
}

/// Appends the mark that says: nothing follows.
pub fn end_mark(buffer: &mut Vec<u8>, epoch: u32, sequence: u64, group_start: u64) {
    let mark = Mark::End { group_start };
    let entry = &[];
    frame::encode(buffer, epoch, Frame { sequence, mark, entry });
}

/// A frame over a gap's bad bytes, which are otherwise left as they are. `None` if there are none.
pub fn hole(bytes: &[u8], epoch: u32, gap: &Gap) -> Option<Vec<u8>> {
    // A gap reaches from where a frame began to where another does: it is never shorter than a header.
    let entry = bytes.get(gap.place.start + frame::HEADER_BYTES..gap.place.end)?;
    let mark = Mark::Hole {
        from: gap.from.unwrap_or(gap.to),
    };
    let mut hole = Vec::with_capacity(gap.place.len());
    let sequence = gap.to;
    frame::encode(&mut hole, epoch, Frame { sequence, mark, entry });
    Some(hole)
}

/// Reads the header at the start of `bytes`.
pub fn header(bytes: &[u8], epoch: u32) -> Header {
    let version = frame::number(bytes, 8);
    let marked = bytes.starts_with(MAGIC);
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Header::Bad { version: None };
    };
    if !marked || frame::number(header, 12) != header_checksum(header) {
        let version = marked.then_some(version);
        return Header::Bad { version };
    }
    match version {
        VERSION if frame::number(header, 16) == epoch => Header::Good {
            segment_bytes: frame::long(header, 24),
        },
        VERSION => Header::Bad { version: Some(VERSION) },
        other => Header::Version(other),
    }
}

/// Whether this may be the beginning of a header, of which the rest was cut.
pub fn is_begun(bytes: &[u8]) -> bool {
    let is_short = bytes.len() < HEADER_BYTES;
    let marked = bytes.iter().zip(MAGIC).all(|(found, expected)| found == expected);
    let version = (bytes.len() >= 12).then(|| frame::number(bytes, 8));
    is_short && marked && version.is_none_or(|version| version == VERSION)
}

fn header_checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..HEADER_BYTES])
}

/// Walks through a whole segment, from its header to its end mark or to where no whole frame is left. `next` is the
/// sequence that its first frame should have, if known. Every good entry is visited with its offset.
pub fn scan<'a>(bytes: &'a [u8], epoch: u32, next: Option<u64>, mut visit: impl FnMut(usize, &Frame<'a>)) -> Scan {
    let mut scan = Scan {
        end: HEADER_BYTES,
        group_start: HEADER_BYTES,
        next,
        ..Scan::default()
    };
    let mut at = HEADER_BYTES;
    loop {
        let Some(frame) = expected(bytes, at, epoch, scan.next) else {
            match find(bytes, at, epoch, scan.next) {
                Some(found) => at = found,
                // `end` stays where the bad bytes begin: the tail is cut here.
                None => return scan,
            }
            continue;
        };
        let follows = match frame.mark {
            Mark::Hole { from } => from,
            _ => frame.sequence,
        };
        if scan.end < at || scan.next.is_some_and(|next| next < follows) {
            scan.gaps.push(gap(&scan, at, &frame));
        }
        scan.end = at;
        scan.next = Some(frame.sequence);
        scan.group_from = frame.group_from().or(scan.group_from);
        match frame.mark {
            Mark::End { .. } => {
                scan.clean = true;
                return scan;
            }
            Mark::Entry { place, .. } => {
                if place == 0 {
                    scan.group_start = at;
                }
                visit(at, &frame);
                at += frame.bytes();
                scan.end = at;
                scan.next = Some(frame.sequence + 1);
            }
            Mark::Hole { from } => {
                scan.gaps.push(Gap {
                    place: at..at + frame.bytes(),
                    from: Some(from),
                    to: frame.sequence,
                    last_group: false,
                    known: true,
                });
                at += frame.bytes();
                scan.end = at;
                scan.group_start = at;
            }
        }
    }
}

/// The next whole frame behind a bad one at `at`.
pub fn find(bytes: &[u8], at: usize, epoch: u32, next: Option<u64>) -> Option<usize> {
    // If the length is intact, the next frame is where it should be. Trying that first also means that bytes inside an
    // entry, which a device chose, are looked at only if the length is damaged too.
    let length = frame::number(bytes.get(at..)?, 4) as usize;
    let behind = at.saturating_add(frame::bytes(length));
    if behind < bytes.len() && expected(bytes, behind, epoch, next).is_some() {
        return Some(behind);
    }
    let last = bytes.len().saturating_sub(frame::HEADER_BYTES);
    (at + 1..=last).find(|at| expected(bytes, *at, epoch, next).is_some())
}

/// Behind the end mark at `end`: up to the end of the last whole frame of this epoch, which a torn write has left.
pub fn remains(bytes: &[u8], end: usize, epoch: u32) -> Range<usize> {
    let mut remains = end..end;
    let mut at = end + frame::HEADER_BYTES;
    while let Some(found) = (at..bytes.len()).find(|at| expected(bytes, *at, epoch, None).is_some()) {
        at = found + frame::bytes(frame::number(&bytes[found..], 4) as usize);
        remains.end = at;
    }
    remains
}

/// The frame at `at`, if it is whole and not older than what was already seen.
fn expected(bytes: &[u8], at: usize, epoch: u32, next: Option<u64>) -> Option<Frame<'_>> {
    let decoded: Result<Frame<'_>, Bad> = frame::decode(bytes.get(at..)?, epoch);
    decoded
        .ok()
        .filter(|frame| next.is_none_or(|next| next <= frame.sequence))
}

fn gap(scan: &Scan, at: usize, frame: &Frame<'_>) -> Gap {
    Gap {
        place: scan.end..at,
        from: scan.next,
        to: match frame.mark {
            Mark::Hole { from } => from.max(scan.next.unwrap_or(from)),
            _ => frame.sequence,
        },
        known: false,
        last_group: scan
            .next
            .zip(frame.group_from())
            .is_some_and(|(next, from)| from <= next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u32 = 9;

    /// A segment with these groups of entries, and where each entry starts.
    fn segment(groups: &[&[&str]]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = start(EPOCH, 4096, 0, 1);
        let (mut sequence, mut places) = (1, Vec::new());
        for group in groups {
            bytes.truncate(bytes.len() - frame::HEADER_BYTES);
            let group_start = sequence;
            for (place, entry) in group.iter().enumerate() {
                places.push(bytes.len());
                let mark = Mark::Entry {
                    arrived_ms: 0,
                    place: place as u32,
                };
                let entry = entry.as_bytes();
                frame::encode(&mut bytes, EPOCH, Frame { sequence, mark, entry });
                sequence += 1;
            }
            end_mark(&mut bytes, EPOCH, sequence, group_start);
        }
        places.push(bytes.len() - frame::HEADER_BYTES);
        bytes.resize(4096, 0);
        (bytes, places)
    }

    fn sequences(bytes: &[u8]) -> (Vec<u64>, Scan) {
        let mut found = Vec::new();
        let scan = scan(bytes, EPOCH, Some(1), |_, frame| found.push(frame.sequence));
        (found, scan)
    }

    #[test]
    fn names_say_what_a_file_is() {
        let check = |name: &str, expected| assert_eq!(Kind::of(name), expected, "{name}");
        check(&name(7), Some(Kind::Segment(7)));
        check(&spare_name(u32::MAX), Some(Kind::Spare(u32::MAX)));
        check("lock", Some(Kind::Lock));
        check("0000000007-64.damaged", Some(Kind::Damaged));
        check("7.segment", None);
        check("+000000007.segment", None);
        check("9999999999.segment", None);
        check("notes.txt", None);
    }

    #[test]
    fn headers_are_good_or_say_what_is_wrong() {
        let good = start(EPOCH, 4096, 5, 1);
        let changed = |at: usize, value: u8, checksum: bool| {
            let mut bytes = good.clone();
            bytes[at] = value;
            if checksum {
                let checksum = header_checksum(&bytes);
                bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
            }
            header(&bytes, EPOCH)
        };
        assert_eq!(header(&good, EPOCH), Header::Good { segment_bytes: 4096 });
        assert_eq!(header(&good, 8), Header::Bad { version: Some(1) });
        assert_eq!(header(b"short", EPOCH), Header::Bad { version: None });
        assert_eq!(changed(0, b'C', true), Header::Bad { version: None });
        assert_eq!(changed(8, 2, true), Header::Version(2));
        assert_eq!(changed(8, 2, false), Header::Bad { version: Some(2) });
        assert_eq!(changed(60, 1, false), Header::Bad { version: Some(1) });
    }

    #[test]
    fn damage_is_told_from_a_torn_tail() {
        let (good, places) = segment(&[&["one", "two"], &["three", "four"], &["five", "six", "seven"]]);
        // Which entries are spoilt (7 is the end mark) → which are found, the gaps (from, to, last group), clean.
        type Gaps<'a> = &'a [(u64, u64, bool)];
        let check = |spoilt: &[usize], found: &[u64], gaps: Gaps<'_>, clean: bool| {
            let mut bytes = good.clone();
            for index in spoilt {
                bytes[places[*index] + 20] ^= 4;
            }
            let (sequences, scan) = sequences(&bytes);
            let seen: Vec<_> = scan
                .gaps
                .iter()
                .map(|gap| (gap.from.unwrap(), gap.to, gap.last_group))
                .collect();
            assert_eq!(
                (&sequences[..], &seen[..], scan.clean),
                (found, gaps, clean),
                "{spoilt:?}"
            );
        };
        check(&[], &[1, 2, 3, 4, 5, 6, 7], &[], true);
        check(&[0], &[2, 3, 4, 5, 6, 7], &[(1, 2, true)], true);
        check(&[1], &[1, 3, 4, 5, 6, 7], &[(2, 3, false)], true);
        check(&[1, 2, 4], &[1, 4, 6, 7], &[(2, 4, false), (5, 6, true)], true);
        check(&[6], &[1, 2, 3, 4, 5, 6], &[(7, 8, true)], true);
        check(&[3, 4, 5, 6], &[1, 2, 3], &[(4, 8, false)], true);
        check(&[7], &[1, 2, 3, 4, 5, 6, 7], &[], false);
        check(&[5, 6, 7], &[1, 2, 3, 4, 5], &[], false);
        check(&[0, 1, 2, 3, 4, 5, 6, 7], &[], &[], false);
    }

    #[test]
    fn a_damaged_length_does_not_hide_what_follows() {
        let (mut bytes, places) = segment(&[&["one"], &["two"], &["three"]]);
        bytes[places[1] + 6] ^= 1;
        let (found, scan) = sequences(&bytes);
        assert_eq!(found, [1, 3]);
        assert_eq!(scan.gaps[0].place, places[1]..places[2]);
    }

    #[test]
    fn the_last_group_starts_where_its_first_frame_does() {
        let (bytes, places) = segment(&[&["one"], &["two", "three"]]);
        assert_eq!(sequences(&bytes).1.group_start, places[1]);
        assert_eq!(sequences(&bytes).1.end, places[3]);
    }
}
