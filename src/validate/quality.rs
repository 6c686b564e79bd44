//! The field that quality flags are in (`"fill": "quality"`): its form, by which the gateway can add its own.
//!
//! The same in every kind, so that one query reads all. A device may send flags of its own, and only as such: as many as
//! leave room for the gateway's, so that `maxItems` is true of what is stored.

use super::notes::NOTES_MAX;
use super::path;
use super::program::{Absent, Node, NodeId, Program, Symbols};
use super::record::Quality;

/// What the form must be.
pub const NEEDS: &str = "\"fill\": \"quality\" needs a default, and an array (\"maxItems\" from 33 to 95: the last 32 are the gateway's; not \
                         \"unique\") of a record with the fields field (string; a path may be empty and have 160 characters), flag \
                         (enum with sentinel, out_of_range and other) and source (enum of device and gateway; device is first, \
                         and the default)";

/// Of a device: one byte of a block's count.
const SENT_MAX: usize = 63;

/// `node` is the array. From then on only `device` is accepted as a source, and no more than leave room.
pub fn compile(program: &mut Program, field: usize, node: NodeId) -> Option<Quality> {
    let Node::Array(array) = program.node(node) else {
        return None;
    };
    let items = array.items;
    let sent_max = array.items_max.checked_sub(NOTES_MAX)?;
    let Node::Record(record) = program.node(items) else {
        return None;
    };
    let [place, flag, source] = &*record.fields else {
        return None;
    };
    let names = [&place.name, &flag.name, &source.name].map(|name| &**name);
    let holds_paths = match program.node(place.node) {
        Node::Text => true,
        Node::CheckedText(rules) => {
            let has_room = rules.chars_max.is_none_or(|most| most >= path::CHARS_MAX);
            has_room && rules.chars_min.is_none_or(|least| least == 0) && rules.pattern.is_none()
        }
        _ => false,
    };
    // One value may have several notes.
    let is_free = array.unique.is_none();
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
    if names != ["field", "flag", "source"] || !holds_paths || !is_free || !(1..=SENT_MAX).contains(&sent_max) {
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
    if let Node::Array(array) = &mut program.nodes[node as usize] {
        array.items_max = sent_max;
    }
    if let Node::Record(record) = &mut program.nodes[items as usize] {
        record.fields[2].node = device_only;
    }
    Some(quality)
}
