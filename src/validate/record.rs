//! A compiled record: its fields by name, what stands for those that a reading leaves out, and its rules as a whole.
//!
//! The defaults of fields that follow one another lie side by side, so that a run of absent fields costs one copy, however
//! many a schema has of them. Made by [`compile`](super::compile); [`pass`](super::pass) writes by it.

use super::field::{Absent, Field};
use super::lookup::Lookup;

#[derive(Debug)]
pub struct Record {
    pub fields: Box<[Field]>,
    /// Its place in [`Program::successors`](super::Program::successors).
    pub successors: usize,
    pub rules: Rules,
    pub defaults: Defaults,
    /// The names of fields and their other spellings, each with the field's index.
    names: Box<[(Box<str>, usize)]>,
    by_name: Lookup,
}

/// What a record must fulfil besides its fields.
#[derive(Debug, Default)]
pub struct Rules {
    /// `"any_of"`: the outermost record is refused unless one of these is sent with a value. Of a record inside, these are the
    /// fields by which it has one.
    pub any_of: Box<[usize]>,
    pub is_outermost: bool,
    /// The field by which `"unique"` tells the items of an array apart.
    pub identity: Option<usize>,
    /// `"fill": "quality"`: what the gateway nulls is noted there.
    pub quality: Option<Quality>,
}

/// The field of quality flags, and the symbols that the gateway writes there.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub field: usize,
    pub sentinel: usize,
    pub out_of_range: usize,
    pub other: usize,
    pub gateway: usize,
}

/// What stands for absent fields.
#[derive(Debug, Default)]
pub struct Defaults {
    /// The defaults of all fields, one after the other.
    bytes: Box<[u8]>,
    /// Where in `bytes` each field's begins; one more for the end.
    starts: Box<[usize]>,
    /// For each field the first from it on that has none: one of the gateway's own, or one that is required. One more for the
    /// end.
    next_without: Box<[usize]>,
}

// === impl Record ===

impl Record {
    /// `also` are other spellings of the names, with the field's index.
    pub fn new(fields: Vec<Field>, also: Vec<(Box<str>, usize)>, successors: usize) -> Self {
        let own = fields
            .iter()
            .enumerate()
            .map(|(index, field)| (field.name.clone(), index));
        let names: Box<[_]> = own.chain(also).collect();
        let spelled: Vec<&[u8]> = names.iter().map(|(name, _)| name.as_bytes()).collect();
        Record {
            by_name: Lookup::new(&spelled),
            defaults: Defaults::new(&fields),
            fields: fields.into(),
            successors,
            rules: Rules::default(),
            names,
        }
    }

    /// The index of the field `key`.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let candidates = self.by_name.candidates(key);
        let mut named = candidates.filter_map(|index| self.names.get(index));
        named.find(|(name, _)| name.as_bytes() == key).map(|(_, field)| *field)
    }

    /// The fields of which a value is one of the record's: those of `any_of`, or all.
    pub fn counting(&self) -> impl Iterator<Item = &Field> {
        let any_of = &self.rules.any_of;
        let counts = |index: &usize| any_of.is_empty() || any_of.contains(index);
        let fields = self.fields.iter().enumerate();
        fields.filter(move |(index, _)| counts(index)).map(|(_, field)| field)
    }

    /// The other spellings of a field's name.
    #[cfg(test)]
    pub fn also(&self, field: &Field) -> Vec<&str> {
        let named = |(_, index): &&(_, usize)| self.fields[*index].name == field.name;
        let names = self.names.iter().skip(self.fields.len());
        names.filter(named).map(|(name, _)| &**name).collect()
    }
}

// === impl Defaults ===

impl Defaults {
    fn new(fields: &[Field]) -> Self {
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        let mut next_without = vec![usize::MAX; fields.len() + 1];
        for field in fields {
            if let Absent::Default(default) = &field.absent {
                bytes.extend_from_slice(default);
            }
            starts.push(bytes.len());
        }
        for (index, field) in fields.iter().enumerate().rev() {
            let has_default = matches!(field.absent, Absent::Default(_));
            next_without[index] = if has_default { next_without[index + 1] } else { index };
        }
        Defaults {
            bytes: bytes.into(),
            starts: starts.into(),
            next_without: next_without.into(),
        }
    }

    /// The first of the fields `from..to` that has no default.
    #[inline]
    pub fn first_without(&self, from: usize, to: usize) -> Option<usize> {
        Some(self.next_without[from]).filter(|&index| index < to)
    }

    /// The defaults of the fields `from..to`, as far as they have one.
    #[inline]
    pub fn of(&self, from: usize, to: usize) -> &[u8] {
        &self.bytes[self.starts[from]..self.starts[to]]
    }
}
