//! Whether any reading can fit a schema: not if a record must hold itself, or more levels than a reading may have.
//!
//! Such a schema would refuse everything its devices send, so it is a mistake of its author, found when it is loaded. The limit
//! is [`fault::DEPTH_MAX`](super::fault::DEPTH_MAX).

use super::fault::DEPTH_MAX;
use super::program::{Field, Node, Program};

/// # Errors
/// No reading fits; the mistake begins with the field of the outermost record that nothing can be sent for.
pub fn check(program: &Program) -> Result<(), String> {
    let levels = levels(program);
    let level = |node: u32| levels[node as usize];
    if level(program.root) <= DEPTH_MAX {
        return Ok(());
    }
    let deepest = match program.node(program.root) {
        Node::Record(record) => record
            .fields
            .iter()
            .filter(required)
            .max_by_key(|field| level(field.node)),
        _ => None,
    };
    let name = deepest.map_or("the schema", |field| &field.name);
    Err(match level(program.root) {
        ENDLESS => format!("{name}: required, and holds itself without end: no reading could ever fit"),
        levels => format!("{name}: required, and nests {levels} levels deep; a reading may nest {DEPTH_MAX}"),
    })
}

/// Of a place that has no finite value.
const ENDLESS: u32 = u32::MAX;

/// For each place: how many arrays and objects the shallowest value has one inside the other.
fn levels(program: &Program) -> Vec<u32> {
    let mut levels = vec![ENDLESS; program.nodes.len()];
    loop {
        let found: Vec<u32> = program.nodes.iter().map(|node| shallowest(node, &levels)).collect();
        // Each round finds values that need those of the round before: at last none is new.
        if found == levels {
            return levels;
        }
        levels = found;
    }
}

fn shallowest(node: &Node, levels: &[u32]) -> u32 {
    let level = |node: u32| levels[node as usize];
    match node {
        Node::Record(record) => {
            let inside = record.fields.iter().filter(required).map(|field| level(field.node));
            inside.max().unwrap_or_default().saturating_add(1)
        }
        Node::Array(_) | Node::Map(_) => 1,
        Node::Union(union) if union.null.is_none() => {
            let inside = union.branches().map(|branch| level(branch.node));
            inside.min().unwrap_or(ENDLESS)
        }
        _ => 0,
    }
}

fn required(field: &&Field) -> bool {
    field.absent.is_required()
}
