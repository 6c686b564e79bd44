//! Whether what was written for a field says anything: for `any_of`, by which a reading needs a value.
//!
//! Null is no value, nor is an empty text, nor an array, map or record in which there is none. Of a record that has an
//! `any_of` of its own, only those fields count: that a lane has a number, or a direction, is no measurement. Reads the
//! gateway's own Avro, and stops at the first value. What stands for a field that was not sent looks the same there, so
//! no default may count ([`Program::counting_defaults`]).

use std::collections::HashSet;

use super::program::{Absent, Node, NodeId, Program};
use super::record::Record;

impl Program {
    /// `bytes` begin with what was written for `node`.
    pub fn has_value(&self, node: NodeId, bytes: &[u8]) -> bool {
        Written { program: self, bytes }.node(node, true)
    }

    /// Whether whatever is sent for it is a value.
    pub fn is_always_value(&self, node: NodeId) -> bool {
        self.is_value_within(node, &mut Vec::new())
    }

    /// `around` are the records that are being looked into.
    fn is_value_within(&self, node: NodeId, around: &mut Vec<NodeId>) -> bool {
        match self.node(node) {
            Node::Boolean | Node::Integer(_) | Node::Real(_) | Node::Enum(_) | Node::Accepts(_) => true,
            Node::CheckedText(rules) => rules.chars_min.is_some_and(|least| least > 0),
            Node::Union(union) => {
                union.null.is_none() && union.branches().all(|branch| self.is_value_within(branch.node, around))
            }
            Node::Record(record) if !around.contains(&node) => {
                around.push(node);
                let mut counting = record.counting().filter(|field| field.absent.is_required());
                let found = counting.any(|field| self.is_value_within(field.node, around));
                around.pop();
                found
            }
            _ => false,
        }
    }

    /// Fields of records inside whose default would count as a value, although no device sent it; each with the path of its
    /// record. Of records with an `any_of` the compiler has said it.
    pub fn counting_defaults(&self) -> Vec<(String, &str)> {
        let mut search = Search {
            program: self,
            seen: HashSet::new(),
            found: Vec::new(),
        };
        if let Node::Record(outermost) = self.node(self.root) {
            for field in outermost.rules.any_of.iter().map(|&index| &outermost.fields[index]) {
                search.node(field.node, &field.name);
            }
        }
        search.found
    }
}

/// Looks for defaults that count.
struct Search<'p> {
    program: &'p Program,
    seen: HashSet<NodeId>,
    found: Vec<(String, &'p str)>,
}

// === impl Search ===

impl<'p> Search<'p> {
    fn node(&mut self, node: NodeId, path: &str) {
        let program = self.program;
        match program.node(node) {
            Node::Array(array) => self.node(array.items, &format!("{path}[]")),
            Node::Map(values) => self.node(*values, &format!("{path}{{}}")),
            Node::Optional { node, .. } => self.node(*node, path),
            Node::Union(union) => union.branches().for_each(|branch| self.node(branch.node, path)),
            // Of one that has a value anyhow, no default makes a difference, here or further inside.
            Node::Record(record) if !program.is_always_value(node) && self.seen.insert(node) => {
                self.record(record, path)
            }
            _ => {}
        }
    }

    fn record(&mut self, record: &'p Record, path: &str) {
        for field in record.counting() {
            // Of a record with an `any_of` the compiler has said it, but for the outermost, whose own defaults count for nobody
            // until it is inside of itself.
            let is_looked_at = record.rules.any_of.is_empty() || record.rules.is_outermost;
            if let Absent::Default(default) = &field.absent
                && is_looked_at
                && self.program.has_value(field.node, default)
            {
                self.found.push((path.to_owned(), &*field.name));
            }
        }
        for field in record.counting() {
            self.node(field.node, &format!("{path}.{}", field.name));
        }
    }
}

/// What has not been looked at yet.
struct Written<'w> {
    program: &'w Program,
    bytes: &'w [u8],
}

// === impl Written ===

impl Written<'_> {
    /// Whether there is a value, of those that count; if there is none, all of it has been passed over.
    fn node(&mut self, node: NodeId, counts: bool) -> bool {
        let program = self.program;
        match program.node(node) {
            Node::Null => false,
            Node::Boolean => self.skip(1, counts),
            Node::Real(real) => self.skip(if real.single { 4 } else { 8 }, counts),
            Node::Integer(_) | Node::Enum(_) | Node::ObservedAt | Node::Accepts(_) | Node::Reserved => {
                self.long();
                counts
            }
            Node::Text | Node::CheckedText(_) | Node::Device => {
                let length = self.long();
                self.skip(length, counts && length > 0)
            }
            Node::Array(array) => self.block(|written| written.node(array.items, counts)),
            Node::Map(values) => self.block(|written| {
                let length = written.long();
                written.skip(length, false);
                written.node(*values, counts)
            }),
            Node::Record(record) => self.record(record, counts),
            Node::Optional { null, node, .. } => self.branch() != *null && self.node(*node, counts),
            Node::Union(union) => {
                let byte = self.branch();
                let branch = union.branches().find(|branch| branch.byte == byte);
                branch.is_some_and(|branch| self.node(branch.node, counts))
            }
        }
    }

    fn record(&mut self, record: &Record, counts: bool) -> bool {
        let any_of = &record.rules.any_of;
        let mut fields = record.fields.iter().enumerate();
        fields.any(|(index, field)| {
            let is_listed = any_of.is_empty() || any_of.contains(&index);
            self.node(field.node, counts && is_listed)
        })
    }

    /// The gateway writes one block, or none.
    fn block(&mut self, mut item: impl FnMut(&mut Self) -> bool) -> bool {
        let items = self.long();
        let found = (0..items).any(|_| item(self));
        if items > 0 && !found {
            self.long();
        }
        found
    }

    fn branch(&mut self) -> u8 {
        let byte = self.bytes.first().copied().unwrap_or_default();
        self.skip(1, false);
        byte
    }

    fn skip(&mut self, length: usize, counts: bool) -> bool {
        self.bytes = self.bytes.get(length..).unwrap_or_default();
        counts
    }

    /// An integer whose value is wanted only where it is a length.
    fn long(&mut self) -> usize {
        let length = self.bytes.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
        let (digits, rest) = self.bytes.split_at(length.min(self.bytes.len()));
        self.bytes = rest;
        let value = digits
            .iter()
            .rev()
            .fold(0, |value, byte| value << 7 | u64::from(byte & 0x7F));
        (value >> 1) as usize
    }
}
