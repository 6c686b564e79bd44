//! One reading on its way through a program: its bytes, and where in them each field lies.
//!
//! The bytes equal apache-avro's: one block per array or map, and a record's fields in the schema's order whatever the
//! order of arrival. Fields that come in order, some left out, are written once, where they belong; otherwise the
//! record's bytes are copied once. Buffers are reused from reading to reading, so that in a steady state nothing is
//! allocated. The work is linear in the reading (but for sorting a map's keys), whatever a device sends. [`rules`] has what a
//! record as a whole must fulfil, and the gateway's notes.

use super::clock::Limits;
use super::fault::Fault;
use super::notes::{Flag, Notes};
use super::path::Place;
use super::program::{Absent, Array, Branch, Field, NodeId, Program};
use super::record::{Quality, Record};

use nulls::Nulls;

mod nulls;
mod rules;

/// Buffers that are reused from reading to reading.
#[derive(Debug, Default)]
pub struct Buffers {
    /// The prefix, then the datum.
    pub out: Vec<u8>,
    /// Where in `out` each field of the open records lies.
    spans: Vec<Span>,
    /// Where in `out` each key of the open maps lies.
    keys: Vec<Span>,
    /// A record's bytes as they came, while they are put in the schema's order.
    moved: Vec<u8>,
    /// Where in `out` what tells the items of the open arrays apart lies.
    identities: Vec<Span>,
    /// The same of the record that was closed last, if it is of a type that has such a field.
    last_identity: Span,
    nulls: Nulls,
    pub notes: Notes,
}

/// From, to: positions in [`Buffers::out`].
pub type Span = (usize, usize);

/// The span of a field that has not come yet.
const ABSENT: Span = (usize::MAX, usize::MAX);

/// One reading on its way through a program.
#[derive(Debug)]
pub struct Pass<'a> {
    pub buffers: &'a mut Buffers,
    pub device: &'a str,
    pub received_at_ms: i64,
    pub limits: &'a Limits,
}

/// A record whose fields are arriving.
#[derive(Clone, Copy, Debug)]
pub struct OpenRecord {
    /// Its first span.
    base: usize,
    /// Its first byte in `out`.
    start: usize,
    /// The field after the last one that came: the likeliest to come now.
    next: usize,
    /// Whatever has come or been left out so far is where it belongs.
    in_order: bool,
    /// How many notes there were before it.
    notes: usize,
}

/// Why a record cannot be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclosed {
    /// The index of the first required field that has not come.
    Missing(usize),
    /// None of `any_of` has a value, and it is the outermost record.
    Empty,
}

/// An array or map whose items are arriving.
#[derive(Clone, Copy, Debug)]
pub struct OpenBlock {
    /// Where its count will stand; one byte is kept free for it.
    at: usize,
    /// Its first key, if it is a map.
    keys: usize,
    /// Its first item's identity, if it is an array of such.
    identities: usize,
    /// How many notes there were before its next item.
    notes: usize,
    pub items: usize,
}

// === impl Pass: records ===

impl Pass<'_> {
    /// Begins a record. Every one that is begun and does not fail must be closed.
    #[inline]
    pub fn open_record(&mut self, record: &Record) -> OpenRecord {
        let base = self.buffers.spans.len();
        self.buffers.spans.resize(base + record.fields.len(), ABSENT);
        OpenRecord {
            base,
            start: self.buffers.out.len(),
            next: 0,
            in_order: true,
            notes: self.buffers.notes.count(),
        }
    }

    /// Which field a key names: one that has not come yet.
    pub fn find_field(&self, record: &Record, open: &OpenRecord, key: &[u8]) -> Result<usize, Fault> {
        let index = record.find(key).ok_or(Fault::Unknown)?;
        self.admit(open, index).map(|()| index)
    }

    /// Whether a field has not come yet.
    #[inline]
    pub fn admit(&self, open: &OpenRecord, index: usize) -> Result<(), Fault> {
        if self.buffers.spans[open.base + index] != ABSENT {
            Err(Fault::Duplicate)
        } else {
            Ok(())
        }
    }

    /// Makes ready for a field's value; gives where its bytes will begin.
    #[inline]
    pub fn open_field(&mut self, record: &Record, open: &mut OpenRecord, index: usize) -> usize {
        if index != open.next && open.in_order {
            open.in_order = self.pass_over(record, open.next, index);
        }
        self.buffers.out.len()
    }

    /// Devices leave out the same fields time and again, if only those that the gateway fills. What stands for them is
    /// written as soon as a later one comes, as if in order; should they come after all, it is dropped.
    fn pass_over(&mut self, record: &Record, from: usize, to: usize) -> bool {
        from <= to && self.absent_run(record, from, to).is_ok()
    }

    /// Notes that the bytes from `start` to the end of `out` are the field's value.
    #[inline]
    pub fn close_field(&mut self, open: &mut OpenRecord, index: usize, start: usize) {
        self.buffers.spans[open.base + index] = (start, self.buffers.out.len());
        open.next = index + 1;
    }

    /// Ends a record: defaults and filled fields are written, and all put in the schema's order.
    ///
    /// # Errors
    /// A required field has not come, or no value.
    pub fn close_record(&mut self, program: &Program, record: &Record, open: &OpenRecord) -> Result<(), Unclosed> {
        let is_noted = self.buffers.notes.count() != open.notes;
        // What was nulled was sent, and is noted.
        let is_value_noted = is_noted && self.locate_notes(record, open);
        let quality = record.rules.quality.as_ref().filter(|_| is_noted);
        // In order: the fields are where they belong, and only the last ones may be absent.
        let is_moved = !open.in_order || quality.is_some();
        if is_moved {
            self.put_in_order(record, open, quality)?;
        } else {
            self.absent_run(record, open.next, record.fields.len())
                .map_err(Unclosed::Missing)?;
        }
        if record.rules.is_outermost
            && open.base == 0
            && !is_value_noted
            && !self.has_any(program, record, open, is_moved)
        {
            return Err(Unclosed::Empty);
        }
        if let Some(field) = record.rules.identity {
            self.buffers.last_identity = self.buffers.spans[open.base + field];
        }
        self.buffers.spans.truncate(open.base);
        Ok(())
    }

    fn put_in_order(&mut self, record: &Record, open: &OpenRecord, quality: Option<&Quality>) -> Result<(), Unclosed> {
        self.lift_record(open);
        let mut index = 0;
        while index < record.fields.len() {
            let at = open.base + index;
            let span = self.buffers.spans[at];
            if let Some(quality) = quality.filter(|quality| quality.field == index) {
                self.write_quality(quality, span, open);
                index += 1;
            } else if span == ABSENT {
                let rest = &self.buffers.spans[at..];
                let run = rest.iter().take_while(|&&span| span == ABSENT).count();
                let end = quality
                    .filter(|quality| quality.field > index)
                    .map_or(index + run, |quality| quality.field.min(index + run));
                self.absent_run(record, index, end).map_err(Unclosed::Missing)?;
                index = end;
            } else {
                let start = self.buffers.out.len();
                let bytes = &self.buffers.moved[span.0 - open.start..span.1 - open.start];
                self.buffers.out.extend_from_slice(bytes);
                if record.rules.identity == Some(index) {
                    self.buffers.spans[at] = (start, self.buffers.out.len());
                }
                index += 1;
            }
        }
        Ok(())
    }

    fn lift_record(&mut self, open: &OpenRecord) {
        let Buffers { out, moved, .. } = &mut *self.buffers;
        moved.clear();
        moved.extend_from_slice(&out[open.start..]);
        out.truncate(open.start);
    }

    /// A null where the schema has none: serializers write it for what a device does not have, so it is as if the field
    /// had not come.
    ///
    /// # Errors
    /// There must be a value: it is a type fault.
    #[cold]
    pub fn null_field(&mut self, field: &Field) -> Result<(), Fault> {
        let start = self.buffers.out.len();
        self.absent(field).ok_or(Fault::Type)?;
        // What has no bytes is no value anyhow, and the next field begins where it does.
        if self.buffers.out.len() > start {
            let Buffers { nulls, spans, .. } = &mut *self.buffers;
            nulls.add(spans.len(), start);
        }
        Ok(())
    }

    /// Writes what stands for fields that have not come.
    ///
    /// # Errors
    /// The index of the first that the schema has nothing for.
    fn absent_run(&mut self, record: &Record, from: usize, to: usize) -> Result<(), usize> {
        let mut at = from;
        while let Some(other) = record.defaults.first_without(at, to) {
            self.buffers.out.extend_from_slice(record.defaults.of(at, other));
            self.absent(&record.fields[other]).ok_or(other)?;
            at = other + 1;
        }
        self.buffers.out.extend_from_slice(record.defaults.of(at, to));
        Ok(())
    }

    /// Writes what stands for a field that has not come; `None` if the schema has nothing for it.
    fn absent(&mut self, field: &Field) -> Option<()> {
        let out = &mut self.buffers.out;
        match &field.absent {
            Absent::Refused => return None,
            Absent::Default(bytes) => out.extend_from_slice(bytes),
            Absent::Device => write_text(self.device.as_bytes(), out),
            Absent::ReceivedAt => write_long(self.received_at_ms, out),
        }
        Some(())
    }
}

// === impl OpenRecord ===

impl OpenRecord {
    /// The field after the last one that came.
    #[inline]
    pub fn next(&self) -> usize {
        self.next
    }
}

// === impl Pass: arrays and maps ===

impl Pass<'_> {
    #[inline]
    pub fn open_block(&mut self) -> OpenBlock {
        let at = self.buffers.out.len();
        self.buffers.out.push(0);
        OpenBlock {
            at,
            keys: self.buffers.keys.len(),
            identities: self.buffers.identities.len(),
            notes: self.buffers.notes.count(),
            items: 0,
        }
    }

    /// Ends an item of an array; if items are told apart, it is the record that was closed last.
    #[inline]
    pub fn close_item(&mut self, array: &Array, open: &mut OpenBlock) {
        if array.unique.is_some() {
            self.buffers.identities.push(self.buffers.last_identity);
        }
        if self.buffers.notes.count() != open.notes {
            let index = open.items;
            self.buffers
                .notes
                .locate(open.notes, open.at, |_| (Place::Item(index), true));
            open.notes = self.buffers.notes.count();
        }
        open.items += 1;
    }

    /// Ends a value of a map.
    #[inline]
    pub fn close_value(&mut self, open: &mut OpenBlock) {
        if self.buffers.notes.count() != open.notes {
            let key = self.key(self.current_key(open));
            self.buffers
                .notes
                .locate(open.notes, open.at, |_| (Place::Field(&key), true));
            open.notes = self.buffers.notes.count();
        }
        open.items += 1;
    }

    /// The key of a map's next value.
    pub fn write_key(&mut self, key: &[u8]) {
        let Buffers { out, keys, .. } = &mut *self.buffers;
        write_text(key, out);
        keys.push((out.len() - key.len(), out.len()));
    }

    /// Ends an array.
    ///
    /// # Errors
    /// It has too many items, or two that must not both be there.
    #[inline]
    pub fn close_array(&mut self, array: &Array, open: &OpenBlock) -> Result<(), Fault> {
        if open.items > array.items_max {
            return Err(Fault::TooManyItems);
        }
        if array.unique.is_some() {
            let Buffers { out, identities, .. } = &mut *self.buffers;
            if repeated(out, &mut identities[open.identities..]).is_some() {
                return Err(Fault::NotUnique);
            }
        }
        self.buffers.identities.truncate(open.identities);
        self.close_block(open);
        Ok(())
    }

    /// Ends an array or map: its count goes before its items, so that all are one block.
    fn close_block(&mut self, open: &OpenBlock) {
        let out = &mut self.buffers.out;
        match open.items {
            // The byte kept free is the zero that ends an array.
            0 => return,
            1..64 => out[open.at] = (open.items as u8) << 1,
            _ => {
                let end = out.len();
                write_long(open.items as i64, out);
                // The count's bytes turn from the end to the front, over the byte kept free.
                let count = out.len() - end;
                out[open.at + 1..].rotate_right(count);
                out.remove(open.at);
            }
        }
        out.push(0);
    }

    /// Ends a map.
    ///
    /// # Errors
    /// Where a key lies that came twice.
    pub fn close_map(&mut self, open: &OpenBlock) -> Result<(), Span> {
        let Buffers { out, keys, .. } = &mut *self.buffers;
        if let Some(key) = repeated(out, &mut keys[open.keys..]) {
            return Err(key);
        }
        keys.truncate(open.keys);
        self.close_block(open);
        Ok(())
    }

    /// A map's key, for people.
    pub fn key(&self, (from, to): Span) -> String {
        String::from_utf8_lossy(&self.buffers.out[from..to]).into_owned()
    }

    /// Where the key lies whose value is being written.
    pub fn current_key(&self, open: &OpenBlock) -> Span {
        self.buffers.keys[open.keys + open.items]
    }
}

/// A span whose bytes another one has as well; sorts them.
fn repeated(out: &[u8], spans: &mut [Span]) -> Option<Span> {
    spans.sort_unstable_by_key(|&(from, to)| &out[from..to]);
    let mut pairs = spans.windows(2);
    let twice = pairs.find(|pair| out[pair[0].0..pair[0].1] == out[pair[1].0..pair[1].1]);
    twice.map(|pair| pair[0])
}

// === impl Buffers ===

impl Buffers {
    /// Drops what was written behind the first `length` bytes.
    pub fn rewind(&mut self, length: usize) {
        self.out.truncate(length);
        self.spans.clear();
        self.keys.clear();
        self.moved.clear();
        self.identities.clear();
        self.nulls.clear();
        self.notes.clear();
    }

    /// Empties them for the next reading, which may follow a failed one; what they hold of memory stays.
    pub fn reset(&mut self) {
        self.rewind(0);
    }

    #[cfg(test)]
    pub fn capacity(&self) -> [usize; 4] {
        [
            self.out.capacity(),
            self.spans.capacity(),
            self.keys.capacity(),
            self.moved.capacity(),
        ]
    }
}

// === impl Pass: unions ===

impl Pass<'_> {
    /// Writes a branch's number; gives its node.
    #[inline]
    pub fn take(&mut self, byte: u8, node: NodeId) -> NodeId {
        self.buffers.out.push(byte);
        node
    }

    /// The same, if there is such a branch.
    pub fn take_branch(&mut self, branch: Option<Branch>) -> Result<NodeId, Fault> {
        let branch = branch.ok_or(Fault::Type)?;
        Ok(self.take(branch.byte, branch.node))
    }

    /// Writes a number, stored by `node`, as the branch `byte`; or as null, if that is what the schema wants for it.
    #[inline]
    pub fn number(
        &mut self,
        null: Option<u8>,
        byte: u8,
        node: NodeId,
        emit: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let at = self.buffers.out.len();
        self.buffers.out.push(byte);
        match (emit(self), null) {
            (Err(Fault::Sentinel), Some(null)) => self.note(at, null, node, Flag::Sentinel),
            (Err(Fault::Nulled), Some(null)) => self.note(at, null, node, Flag::OutOfRange),
            (result, _) => return result,
        }
        Ok(())
    }

    #[cold]
    fn note(&mut self, at: usize, null: u8, node: NodeId, flag: Flag) {
        self.buffers.out.truncate(at);
        self.buffers.out.push(null);
        self.buffers.notes.add(node, flag, at);
    }
}

// === writers ===

/// Appends Avro's zig-zag variable-length integer.
#[inline]
pub fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends an Avro string.
#[inline]
pub fn write_text(text: &[u8], out: &mut Vec<u8>) {
    write_long(text.len() as i64, out);
    out.extend_from_slice(text);
}
