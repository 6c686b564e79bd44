//! What a record must fulfil as a whole, and what the gateway notes of it.
//!
//! `any_of`, by what was written for its fields; and `quality`: the notes of this record get their paths, and are written
//! behind those of the device. None of it costs a reading without notes more than a look at the first field that has a value.

use super::{ABSENT, Buffers, OpenRecord, Pass, Span, write_long, write_text};
use crate::validate::notes::{Flag, NOTES_MAX};
use crate::validate::path::Place;
use crate::validate::program::Program;
use crate::validate::record::{Quality, Record};

impl Pass<'_> {
    /// Whether one of `any_of` was sent with a value. `is_moved`: the fields' spans are those of the bytes as they came.
    #[inline]
    pub(super) fn has_any(&self, program: &Program, record: &Record, open: &OpenRecord, is_moved: bool) -> bool {
        let Buffers {
            out,
            moved,
            spans,
            nulls,
            ..
        } = &*self.buffers;
        let (bytes, start) = if is_moved { (moved, open.start) } else { (out, 0) };
        let has_value = |&index: &usize| match spans[open.base + index] {
            ABSENT => false,
            (from, _) if nulls.has(record.fields.len(), from) => false,
            (from, to) => program.has_value(record.fields[index].node, &bytes[from - start..to - start]),
        };
        record.rules.any_of.is_empty() || record.rules.any_of.iter().any(has_value)
    }

    /// Notes that were made in this record get its fields' names. Gives whether one is about a value that `any_of` lists, here and in
    /// the records inside.
    #[cold]
    pub(super) fn locate_notes(&mut self, record: &Record, open: &OpenRecord) -> bool {
        let Buffers { spans, notes, .. } = &mut *self.buffers;
        let spans = &spans[open.base..];
        let any_of = &record.rules.any_of;
        // Those that are not located are too many to be about other fields alone.
        let too_many = notes.count() > NOTES_MAX;
        let any_counts = notes.locate(open.notes, open.start, |at| {
            let found = spans.iter().position(|&(from, to)| (from..to).contains(&at));
            let field = found.and_then(|index| record.fields.get(index));
            let is_listed = any_of.is_empty() || found.is_some_and(|index| any_of.contains(&index));
            (Place::Field(field.map_or("", |field| &field.name)), is_listed)
        });
        too_many || any_counts
    }

    /// Writes the quality flags that the device sent (in `span`, if it sent some), and behind them the gateway's. If those are
    /// too many, the last one says so: it is about no field.
    #[cold]
    pub(super) fn write_quality(&mut self, quality: &Quality, span: Span, open: &OpenRecord) {
        let Buffers { out, moved, notes, .. } = &mut *self.buffers;
        let sent = match span {
            ABSENT => &[][..],
            (from, to) => &moved[from - open.start..to - open.start],
        };
        let (count, items) = split_block(sent);
        let own = notes.count() - open.notes;
        // Those that have a path; notes of a record around this one may have come before.
        let known = NOTES_MAX.saturating_sub(open.notes);
        let kept = if own > known { known.saturating_sub(1) } else { own };
        write_long((count + kept + usize::from(kept < own)) as i64, out);
        out.extend_from_slice(items);
        for (path, flag) in notes.paths().skip(open.notes).take(kept) {
            let flag = match flag {
                Flag::Sentinel => quality.sentinel,
                Flag::OutOfRange => quality.out_of_range,
            };
            write_note(path, flag, quality.gateway, out);
        }
        if kept < own {
            write_note("", quality.other, quality.gateway, out);
        }
        out.push(0);
    }
}

/// The count and the items of an array of one block, or none.
fn split_block(block: &[u8]) -> (usize, &[u8]) {
    // A device sends at most 63 (`quality`), so the count is one byte.
    match block {
        [] | [_] => (0, &[]),
        [count, items @ .., _] => (usize::from(count >> 1), items),
    }
}

fn write_note(path: &str, flag: usize, source: usize, out: &mut Vec<u8>) {
    write_text(path.as_bytes(), out);
    write_long(flag as i64, out);
    write_long(source as i64, out);
}
