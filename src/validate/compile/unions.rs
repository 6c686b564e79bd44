//! Unions: JSON does not say which branch it means, so a value's form must.
//!
//! At most one branch may accept each form. A union of null and one type, by far the commonest, has a node of its own.

use apache_avro::Schema;
use apache_avro::schema::UnionSchema;

use super::Compiler;
use crate::validate::attributes::{self, Attributes};
use crate::validate::program::{Branch, Node, NodeId, Union};
use crate::validate::text::{NULL, Text};

impl Compiler {
    pub(super) fn union<'t>(&mut self, schema: &UnionSchema, text: &'t Text<'t>, attributes: Attributes<'t>) -> NodeId {
        let variants = schema.variants();
        if variants.is_empty() {
            self.mistake("a union without branches: no reading could ever fit");
        }
        let nullable = variants.iter().any(|variant| matches!(variant, Schema::Null));
        let numbers = variants.iter().filter(|variant| attributes::is_number(variant)).count();
        let branches: Vec<&Schema> = variants.iter().collect();
        attributes.check_place(&branches, &mut |what| self.mistake(what));
        let mut union = Union::default();
        for (index, variant) in variants.iter().enumerate() {
            let own = attributes.for_branch(variant, nullable, numbers > 1);
            let text = text.items().get(index).unwrap_or(&NULL);
            let node = self.node(variant, text, own);
            // Never above seven branches, or they would be ambiguous: one byte each.
            self.branch(&mut union, (index as u8) << 1, node);
        }
        self.push(simplified(union))
    }

    /// JSON does not name branches, so at most one may fit each form of value.
    fn branch(&mut self, union: &mut Union, byte: u8, node: NodeId) {
        let branch = Branch { byte, node };
        let (slot, form) = match self.program.node(node) {
            // A null, or what could not be compiled and is reported already. A record that holds itself directly
            // through a union is still unknown here, and an object all the same.
            Node::Null if !self.named.values().any(|&named| named == node) => {
                union.null = Some(byte);
                return;
            }
            Node::Boolean => (&mut union.boolean, "booleans"),
            Node::Integer(_) | Node::ObservedAt | Node::Accepts(_) | Node::Reserved => (&mut union.integer, "integers"),
            Node::Real(_) => (&mut union.real, "numbers"),
            Node::Text | Node::CheckedText(_) | Node::Device | Node::Enum(_) => (&mut union.text, "strings"),
            Node::Array(_) => (&mut union.array, "arrays"),
            Node::Null | Node::Map(_) | Node::Record(_) => (&mut union.object, "objects"),
            Node::Optional { .. } | Node::Union(_) => return self.mistake("a union inside a union"),
        };
        if slot.replace(branch).is_some() {
            self.mistake(format!("ambiguous union: two branches accept JSON {form}"));
        }
    }
}

/// `["null", T]`, by far the commonest union, has a node of its own.
fn simplified(union: Union) -> Node {
    let mut others = union.branches();
    let (first, second) = (others.next(), others.next());
    drop(others);
    match (union.null, first, second) {
        (Some(null), Some(Branch { byte, node }), None) => Node::Optional { null, some: byte, node },
        _ => Node::Union(Box::new(union)),
    }
}
