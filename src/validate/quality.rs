//! The field that quality flags are in (`"fill": "quality"`): its form, by which the gateway can add its own.
//!
//! The same in every kind, so that one query reads all. A device may send flags of its own, and only as such.

use super::program::{Absent, Node, NodeId, Program, Symbols};
use super::record::Quality;

/// What the form must be.
pub const NEEDS: &str = "\"fill\": \"quality\" needs a default, and an array (\"maxItems\" up to 63) of a record with the fields field \
                         (string), flag (enum with sentinel, out_of_range and other) and source (enum of device and gateway; device is \
                         first, and the default)";

/// One byte of a block's count.
const ITEMS_MAX: usize = 63;

/// `node` is the array. From then on only `device` is accepted as a source.
pub fn compile(program: &mut Program, field: usize, node: NodeId) -> Option<Quality> {
    let Node::Array(array) = program.node(node) else {
        return None;
    };
    let (items, items_max) = (array.items, array.items_max);
    let Node::Record(record) = program.node(items) else {
        return None;
    };
    let [path, flag, source] = &*record.fields else {
        return None;
    };
    let names = [&path.name, &flag.name, &source.name].map(|name| &**name);
    let is_text = matches!(program.node(path.node), Node::Text | Node::CheckedText(_));
    let (Node::Enum(flags), Node::Enum(sources)) = (program.node(flag.node), program.node(source.node)) else {
        return None;
    };
    let quality = Quality {
        field,
        sentinel: flags.index(b"sentinel")?,
        out_of_range: flags.index(b"out_of_range")?,
        other: flags.index(b"other")?,
        gateway: sources.index(b"gateway")?,
    };
    let is_device_first = sources.index(b"device") == Some(0);
    let is_device_default = matches!(&source.absent, Absent::Default(default) if **default == [0]);
    if names != ["field", "flag", "source"] || !is_text || items_max > ITEMS_MAX {
        return None;
    }
    if !is_device_first || !is_device_default {
        return None;
    }
    // A type of its own: other fields may be of the enum as it is.
    let device_only = program.nodes.len() as NodeId;
    program.nodes.push(Node::Enum(Symbols {
        names: ["device".into()].into(),
        also: Box::default(),
    }));
    if let Node::Record(record) = &mut program.nodes[items as usize] {
        record.fields[2].node = device_only;
    }
    Some(quality)
}
