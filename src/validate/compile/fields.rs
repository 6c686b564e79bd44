//! Fields: what they are to the gateway, their type, and what stands for them when they are left out.
//!
//! A default is checked and written once, as Avro, in the way in which a device's value would be; a role (`fill`, `clock`)
//! is possible in the outermost record only.

use apache_avro::Schema;
use apache_avro::schema::RecordField;

use super::{Compiler, Role};
use crate::outcome::Rejection;
use crate::validate::attributes::{self, Attributes};
use crate::validate::clock::Limits;
use crate::validate::pass::{Buffers, Pass};
use crate::validate::program::{Absent, Field, Node, NodeId};
use crate::validate::text::{NULL, Object, Text};
use crate::validate::{json, quality};

impl Compiler {
    pub(super) fn field<'t>(&mut self, field: &RecordField, text: &'t Object<'t>, outermost: bool) -> (Field, Role) {
        let role = self.role(&field.schema, text, outermost);
        let attributes = Attributes::of_field(text, &mut |what| self.mistake(what));
        let plain = self.node(&field.schema, text.get("type").unwrap_or(&NULL), attributes);
        let default = text
            .get("default")
            .and_then(|default| self.default_value(plain, default));
        let node = match role {
            Role::Plain | Role::Quality => plain,
            Role::Device => self.push(Node::Device),
            Role::ObservedAt => self.observed_at(plain),
            Role::ReceivedAt => self.push(Node::Reserved),
        };
        let absent = match role {
            Role::Device => Absent::Device,
            Role::ReceivedAt | Role::ObservedAt => Absent::ReceivedAt,
            Role::Plain | Role::Quality => default.map_or(Absent::Refused, Absent::Default),
        };
        let field = Field {
            name: field.name.as_str().into(),
            quoted: format!("\"{}\":", field.name).into_bytes().into(),
            node,
            absent,
        };
        (field, role)
    }

    /// A time of observation, in the forms that the field accepts.
    fn observed_at(&mut self, plain: NodeId) -> NodeId {
        let observed_at = self.push(Node::ObservedAt);
        match &mut self.program.nodes[plain as usize] {
            Node::Accepts(accepts) => {
                accepts.node = observed_at;
                plain
            }
            _ => observed_at,
        }
    }

    fn role(&mut self, schema: &Schema, text: &Object<'_>, outermost: bool) -> Role {
        let role = match (text.get("fill"), text.get("clock")) {
            (None, None) => return Role::Plain,
            (Some(fill), None) if fill.as_str() == Some("device") => Role::Device,
            (Some(fill), None) if fill.as_str() == Some("received_at") => Role::ReceivedAt,
            (Some(fill), None) if fill.as_str() == Some("quality") => Role::Quality,
            (Some(fill), None) => {
                let what = format!("\"fill\" is {fill}; it can be \"device\", \"received_at\" or \"quality\"");
                return self.no_role(what);
            }
            (None, Some(clock)) if clock.as_str() == Some("observed") => Role::ObservedAt,
            (None, Some(clock)) => return self.no_role(format!("\"clock\" is {clock}; it can be \"observed\"")),
            (Some(_), Some(_)) => return self.no_role("\"fill\" and \"clock\" exclude each other"),
        };
        let (fits, needs) = match role {
            Role::Device => (matches!(schema, Schema::String), "\"fill\": \"device\" needs a string"),
            Role::Quality => (matches!(schema, Schema::Array(_)), quality::NEEDS),
            Role::ReceivedAt => (
                matches!(schema, Schema::TimestampMillis),
                "\"fill\": \"received_at\" needs a long with logicalType timestamp-millis",
            ),
            _ => (
                matches!(schema, Schema::TimestampMillis),
                "\"clock\": \"observed\" needs a long with logicalType timestamp-millis",
            ),
        };
        let limit = attributes::useless_beside_role(text, role == Role::ObservedAt, role == Role::Quality);
        if !fits {
            self.no_role(needs)
        } else if !outermost {
            self.no_role("\"fill\" and \"clock\" are for fields of the outermost record")
        } else if let Some(limit) = limit {
            self.no_role(format!("\"{limit}\" means nothing beside \"fill\" and \"clock\""))
        } else {
            role
        }
    }

    fn no_role(&mut self, what: impl std::fmt::Display) -> Role {
        self.mistake(what);
        Role::Plain
    }

    /// The default, as Avro: it is checked and written like a value that a device sends. A union's is one of its first
    /// branch, wherever a value that a device sends would go.
    fn default_value(&mut self, node: NodeId, default: &Text<'_>) -> Option<Box<[u8]>> {
        let mut buffers = Buffers::default();
        let node = match self.first_branch(node) {
            None => node,
            Some(First::Null) if default.raw == "null" => return Some([0].into()),
            Some(First::Null) => {
                self.mistake(format!(
                    "the default {default} must fit the first branch of the union, null"
                ));
                return None;
            }
            Some(First::Branch(node)) => {
                buffers.out.push(0);
                node
            }
        };
        let in_union = !buffers.out.is_empty();
        let mut pass = Pass {
            buffers: &mut buffers,
            device: "",
            received_at_ms: 0,
            limits: &Limits::UNLIMITED,
        };
        match json::write(&self.program, node, default.raw.as_bytes(), &mut pass) {
            Ok(()) => Some(buffers.out.into()),
            Err(_) if !self.mistakes.is_empty() => None,
            Err(Rejection { detail, .. }) => {
                self.mistake(if in_union {
                    format!("the default {default} must fit the first branch of the union: {detail}")
                } else {
                    format!("the default {default} does not fit: {detail}")
                });
                None
            }
        }
    }

    /// `None` if it is no union.
    fn first_branch(&self, node: NodeId) -> Option<First> {
        match self.program.node(node) {
            Node::Optional { null: 0, .. } => Some(First::Null),
            Node::Optional { node, .. } => Some(First::Branch(*node)),
            Node::Union(union) => {
                let first = union.branches().find(|branch| branch.byte == 0);
                Some(first.map_or(First::Null, |branch| First::Branch(branch.node)))
            }
            _ => None,
        }
    }
}

/// The first branch of a union.
enum First {
    Null,
    Branch(NodeId),
}
