//! Whether what was written for a field says anything: for `any_of`, by which a reading needs a value.
//!
//! Null is no value, nor is an empty text, nor an array, map or record in which there is none. Of a record that has an
//! `any_of` of its own, only those fields count: that a lane has a number, or a direction, is no measurement. Reads the
//! gateway's own Avro, and stops at the first value. What stands for a field that was not sent looks the same there, so
//! no default may count ([`Program::counting_defaults`]).

use std::collections::HashSet;

use super::program::{Absent, Field, Node, NodeId, Program};
use super::record::Record;

impl Program {
    /// `bytes` begin with what was written for `node`.
    pub fn has_value(&self, node: NodeId, bytes: &[u8]) -> bool {
        Written { program: self, bytes }.node(node, true)
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
            Node::Record(record) if self.seen.insert(node) => self.record(record, path),
            _ => {}
        }
    }

    fn record(&mut self, record: &'p Record, path: &str) {
        let any_of = &record.rules.any_of;
        let fields = record.fields.iter().enumerate();
        let counting = fields.filter(|(index, _)| any_of.is_empty() || any_of.contains(index));
        let counting: Vec<&Field> = counting.map(|(_, field)| field).collect();
        let is_valued = |field: &&&Field| match &field.absent {
            Absent::Default(default) => self.program.has_value(field.node, default),
            _ => false,
        };
        // Where something is sent with every such record, that is what counts.
        let is_looked_at = any_of.is_empty() || record.rules.is_outermost;
        if is_looked_at && !counting.iter().any(|field| self.is_always_sent(field)) {
            let valued = counting.iter().filter(is_valued);
            self.found.extend(valued.map(|field| (path.to_owned(), &*field.name)));
        }
        for field in counting {
            self.node(field.node, &format!("{path}.{}", field.name));
        }
    }

    /// A field that no reading leaves out, of which any value is one.
    fn is_always_sent(&self, field: &Field) -> bool {
        let is_value = match self.program.node(field.node) {
            Node::Boolean | Node::Integer(_) | Node::Real(_) | Node::Enum(_) | Node::Accepts(_) => true,
            Node::CheckedText(rules) => rules.chars_min.is_some_and(|least| least > 0),
            _ => false,
        };
        is_value && field.absent.is_required()
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
