//! One field of a record: its name, where its type stands in the program, and what stands for it when it is left out.
//!
//! Filled by [`compile`](super::compile), read by all that walk a program. A record's fields as a whole are
//! [`record`](super::record)'s.

/// Position in a program's nodes.
pub type NodeId = u32;

#[derive(Debug)]
pub struct Field {
    pub name: Box<str>,
    /// The name as JSON nearly always has it: `"name":`.
    pub quoted: Box<[u8]>,
    pub node: NodeId,
    pub absent: Absent,
}

/// What is written for a field that the reading leaves out, or sends as null where the schema has none.
#[derive(Debug)]
pub enum Absent {
    /// Nothing: the field is required.
    Refused,
    /// The schema's default, as Avro.
    Default(Box<[u8]>),
    /// The device of the address.
    Device,
    /// The time of receipt.
    ReceivedAt,
}

// === impl Absent ===

impl Absent {
    pub fn is_required(&self) -> bool {
        matches!(self, Absent::Refused)
    }
}
