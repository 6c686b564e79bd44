//! The readings that are measured: what the fleet's devices send, with their fields in
//! three orders. For other schemas (a folder can be given) values are drawn from what the
//! schema allows. All are made beforehand, with a fixed seed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use citygate::catalogue::{self, Kind};
use citygate::receipt::metrics::Tallies;
use citygate::validate::program::{Absent, Integer, Node, NodeId, Program, Real};
use citygate::validate::{Config, Validator};
use device_simulators::devices::{City, Device, Kind as Measured, Moment};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

pub const SEED: u64 = 20_261_121;
/// Readings of one kind in one order.
pub const COUNT: usize = 2000;
/// The id of the device that the address names; the fleet does not send it.
pub const DEVICE: &str = "loop-00417";

/// The schemas being measured, by default the repository's.
pub struct Kinds {
    pub kinds: Vec<Arc<Kind>>,
    pub validator: Validator,
    pub now_ms: i64,
    shipped: bool,
}

/// How a device orders the fields of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Schema,
    Alphabetical,
    /// Another one in every reading: no device does this.
    Random,
}

/// A JSON value that keeps the order of its fields.
enum Tree {
    /// A scalar as it is written.
    Leaf(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

/// Draws values that a program accepts.
struct Draw<'p> {
    program: &'p Program,
    random: StdRng,
    now_ms: i64,
}

// === impl Order ===

impl Order {
    pub const ALL: [Order; 3] = [Order::Schema, Order::Alphabetical, Order::Random];
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Order::Schema => "schema order",
            Order::Alphabetical => "alphabetical",
            Order::Random => "random",
        })
    }
}

// === impl Kinds ===

impl Kinds {
    /// Of BENCH_SCHEMAS, if it is set.
    pub fn load() -> Self {
        let chosen = std::env::var_os("BENCH_SCHEMAS").map(PathBuf::from);
        let shipped = chosen.is_none();
        let folder = chosen.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas"));
        let kinds = catalogue::Kinds::load(&folder, "city.", &Tallies::default()).unwrap();
        // Of the shipped kinds those that the fleet's devices send.
        let is_sent = |kind: &&Arc<Kind>| !shipped || Measured::PHYSICAL.iter().any(|sent| sent.name() == kind.name);
        Kinds {
            kinds: kinds.iter().filter(is_sent).cloned().collect(),
            validator: Validator::new(&Config::default()),
            now_ms: jiff::Timestamp::now().as_millisecond(),
            shipped,
        }
    }

    pub fn kind(&self, kind: usize) -> &Kind {
        &self.kinds[kind]
    }

    /// [`COUNT`] readings of a kind.
    pub fn payloads(&self, kind: usize, order: Order) -> Vec<Vec<u8>> {
        let mut random = StdRng::seed_from_u64(SEED);
        let trees = if self.shipped {
            self.sent(kind)
        } else {
            self.drawn(kind)
        };
        let texts = trees.into_iter().map(|mut tree| {
            tree.put_in(order, &mut random);
            tree.to_string().into_bytes()
        });
        texts.collect()
    }

    /// What the fleet's devices of that kind send over a day.
    fn sent(&self, kind: usize) -> Vec<Tree> {
        let name = &self.kind(kind).name;
        let measured = Measured::PHYSICAL
            .into_iter()
            .find(|measured| measured.name() == name)
            .unwrap();
        let city = Arc::new(City::new(SEED));
        let devices: Vec<_> = (0..50).map(|index| Device::in_city(&city, measured, index)).collect();
        let reading = |number: usize| {
            let moment = Moment {
                observed_at_ms: self.now_ms - 43_200 * (COUNT - number) as i64,
                interval: Duration::from_secs(60),
            };
            let json = devices[number % devices.len()].reading(number as u64, moment);
            let mut tree = serde_json::from_slice(&json).unwrap();
            // Notes that a device adds now and then are no part of the payload that is measured from version to version.
            if let Tree::Object(entries) = &mut tree {
                entries.retain(|(name, _)| name != "quality");
            }
            tree
        };
        (0..COUNT).map(reading).collect()
    }

    fn drawn(&self, kind: usize) -> Vec<Tree> {
        let program = &self.kind(kind).program;
        let mut draw = Draw {
            program,
            random: StdRng::seed_from_u64(SEED),
            now_ms: self.now_ms,
        };
        (0..COUNT).map(|_| draw.value(program.root, 0)).collect()
    }
}

// === impl Tree ===

impl Tree {
    fn put_in(&mut self, order: Order, random: &mut StdRng) {
        match self {
            Tree::Leaf(_) => {}
            Tree::Array(items) => items.iter_mut().for_each(|item| item.put_in(order, random)),
            Tree::Object(fields) => {
                fields.iter_mut().for_each(|(_, value)| value.put_in(order, random));
                match order {
                    Order::Schema => {}
                    Order::Alphabetical => fields.sort_by(|(one, _), (other, _)| one.cmp(other)),
                    Order::Random => fields.shuffle(random),
                }
            }
        }
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comma = |index: usize| if index > 0 { "," } else { "" };
        match self {
            Tree::Leaf(text) => f.write_str(text),
            Tree::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", comma(index))?;
                }
                f.write_str("]")
            }
            Tree::Object(fields) => {
                f.write_str("{")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name:?}:{value}", comma(index))?;
                }
                f.write_str("}")
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf("null".to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(serde_json::Value::from(value).to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut tree = Vec::new();
        while let Some(item) = items.next_element()? {
            tree.push(item);
        }
        Ok(Tree::Array(tree))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Tree, A::Error> {
        let mut tree = Vec::new();
        while let Some(field) = fields.next_entry()? {
            tree.push(field);
        }
        Ok(Tree::Object(tree))
    }
}

// === impl Draw ===

impl Draw<'_> {
    fn value(&mut self, node: NodeId, depth: usize) -> Tree {
        let program = self.program;
        match program.node(node) {
            Node::Null => Tree::Leaf("null".to_owned()),
            Node::Reserved => Tree::Leaf("null".to_owned()),
            Node::Boolean => Tree::Leaf(self.random.random_bool(0.9).to_string()),
            Node::Integer(integer) => Tree::Leaf(self.integer(integer).to_string()),
            Node::Real(real) => Tree::Leaf(self.real(real)),
            Node::Text | Node::CheckedText(_) => {
                Tree::Leaf(format!("\"text-{:05}\"", self.random.random_range(0..100_000)))
            }
            Node::Device => Tree::Leaf(format!("\"{DEVICE}\"")),
            Node::Accepts(accepts) => self.value(accepts.node, depth),
            Node::ObservedAt => Tree::Leaf((self.now_ms - self.random.random_range(0..86_400_000)).to_string()),
            Node::Enum(symbols) => Tree::Leaf(format!(
                "\"{}\"",
                symbols.names[self.random.random_range(0..symbols.names.len())]
            )),
            Node::Optional { .. } if depth > 4 || self.random.random_bool(0.1) => Tree::Leaf("null".to_owned()),
            Node::Optional { node, .. } => self.value(*node, depth),
            Node::Array(array) => {
                let length = self.random.random_range(1..=4);
                Tree::Array((0..length).map(|_| self.value(array.items, depth + 1)).collect())
            }
            Node::Map(values) => Tree::Object(
                ["car", "bus", "truck"]
                    .iter()
                    .map(|key| (key.to_string(), self.value(*values, depth + 1)))
                    .collect(),
            ),
            Node::Record(record) => {
                let mut fields = Vec::new();
                for field in record
                    .fields
                    .iter()
                    .filter(|field| !matches!(program.node(field.node), Node::Reserved))
                {
                    if matches!(field.absent, Absent::Refused) || self.random.random_bool(0.9) {
                        fields.push((field.name.to_string(), self.value(field.node, depth + 1)));
                    }
                }
                Tree::Object(fields)
            }
            Node::Union(union) => {
                let forms = [
                    union.boolean,
                    union.integer,
                    union.real,
                    union.text,
                    union.array,
                    union.object,
                ];
                let form = forms.into_iter().flatten().next().unwrap();
                self.value(form.node, depth)
            }
        }
    }

    fn integer(&mut self, integer: &Integer) -> i64 {
        let (low, high) = (integer.range.minimum.max(0), integer.range.maximum.min(1_000_000));
        self.random.random_range(low.min(high)..=high)
    }

    /// With up to three digits behind the point, as sensors send.
    fn real(&mut self, real: &Real) -> String {
        let (low, high) = (real.range.minimum.max(-1000.0), real.range.maximum.min(1000.0));
        let value = self.random.random_range(low..=high);
        let digits = self.random.random_range(0..=3_usize);
        let rounded = format!("{value:.digits$}");
        let fits = rounded.parse().is_ok_and(|value| (low..=high).contains(&value));
        if fits { rounded } else { format!("{value:?}") }
    }
}
