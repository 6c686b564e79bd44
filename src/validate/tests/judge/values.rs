//! Whether a reading has a value that its schema needs, found in what was sent and not in what was written.
//!
//! Only of readings that fit their schema, and where nothing became null.

use super::{Form, Node, NodeId, Program, Text};

/// Of what fits the schema. A number that became null counts, as it was sent.
pub fn says_something(program: &Program, node: NodeId, sent: &Text<'_>) -> bool {
    match (&sent.form, program.node(node)) {
        (_, Node::Optional { node, .. }) if sent.raw != "null" => says_something(program, *node, sent),
        (_, Node::Union(union)) => {
            let branch = match &sent.form {
                Form::Array(_) => union.array,
                Form::Object(_) => union.object,
                Form::String(_) => union.text.or(union.integer),
                Form::Number => return true,
                Form::Other => return sent.raw != "null",
            };
            branch.is_some_and(|branch| says_something(program, branch.node, sent))
        }
        (Form::Other, _) => sent.raw != "null",
        (Form::Number, _) => true,
        (Form::String(text), Node::Text | Node::CheckedText(_)) => !text.is_empty(),
        (Form::String(_), _) => true,
        (Form::Array(items), Node::Array(array)) => items.iter().any(|item| says_something(program, array.items, item)),
        (Form::Object(entries), Node::Map(values)) => {
            entries.values().any(|value| says_something(program, *values, value))
        }
        (Form::Object(entries), Node::Record(record)) => entries.iter().any(|(name, value)| {
            let any_of = &record.rules.any_of;
            let found = record.find(name.as_bytes());
            let listed = found.filter(|index| any_of.is_empty() || any_of.contains(index));
            listed.is_some_and(|index| says_something(program, record.fields[index].node, value))
        }),
        _ => false,
    }
}
