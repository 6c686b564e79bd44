//! Byte for byte what apache-avro writes for the same reading, whatever the order of its fields. The schema has every
//! node that programs know; readings are random and fit it. apache-avro is the reference for bytes, not for what is
//! accepted.

use apache_avro::writer::datum::GenericDatumWriter;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::judge::values::says_something;
use super::program::{Absent, Array, Field, Node, NodeId, Program};
use super::text::Text;
use super::text_rules::TextRules;
use super::*;

pub(super) const SEED: u64 = 20_261_121;

/// Every node there is, unions of all forms and a record that holds itself.
pub(super) const ZOO: &str = r#"{"type":"record","name":"Zoo","namespace":"test","fields":[
    {"name":"b","type":"boolean"},
    {"name":"i","type":"int"},
    {"name":"l","type":"long"},
    {"name":"f","type":"float"},
    {"name":"d","type":"double"},
    {"name":"s","type":"string"},
    {"name":"date","type":{"type":"int","logicalType":"date"}},
    {"name":"of_day","type":["null",{"type":"int","logicalType":"time-millis"}],"default":null},
    {"name":"seen","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null},
    {"name":"micros","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},
    {"name":"last","type":["long","null"],"default":-1},
    {"name":"many","type":["null","boolean","long","double","string",{"type":"array","items":"Zoo"},
        {"type":"map","values":"double"}],"default":null},
    {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B","C"]}},
    {"name":"again","type":["null","E"],"default":null},
    {"name":"inner","type":{"type":"record","name":"Inner","fields":[
        {"name":"x","type":"int"},{"name":"y","type":["null","string"],"default":null}]},"default":{"x":7}},
    {"name":"arrays","type":{"type":"array","items":{"type":"array","items":"int"}},"default":[]},
    {"name":"maps","type":{"type":"map","values":{"type":"map","values":"Inner"}},"default":{}},
    {"name":"me","type":["null","Zoo"],"default":null}]}"#;

#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Schema,
    Alphabetical,
    Random,
}

/// Writes random readings that fit a program.
pub(super) struct Writer<'p> {
    pub(super) program: &'p Program,
    pub(super) random: StdRng,
    pub(super) order: Order,
    /// Entries of a map; apache-avro keeps maps in hash tables, so only those of one entry have one order.
    pub(super) entries_max: usize,
}

impl Writer<'_> {
    pub(super) fn value(&mut self, node: NodeId, depth: usize) -> String {
        let program = self.program;
        match program.node(node) {
            Node::Null => "null".to_owned(),
            Node::Boolean => self.random.random::<bool>().to_string(),
            Node::Integer(integer) => loop {
                let text = self.integer(integer.range.minimum, integer.range.maximum);
                if !integer.range.inside.contains(&text.parse().unwrap()) {
                    return text;
                }
            },
            Node::Real(real) => loop {
                let text = self.real(real.range.minimum, real.range.maximum, real.single);
                if !real.range.inside.contains(&text.parse().unwrap()) {
                    return text;
                }
            },
            Node::Text => self.text(),
            Node::CheckedText(rules) => self.checked_text(rules),
            Node::Device => format!("\"{DEVICE}\""),
            Node::Reserved => "null".to_owned(),
            Node::Accepts(accepts) => self.value(accepts.node, depth),
            Node::ObservedAt => (NOW_MS - self.random.random_range(-1000..1_000_000)).to_string(),
            Node::Enum(symbols) => format!("\"{}\"", symbols.names.choose(&mut self.random).unwrap()),
            Node::Array(array) => self.array(array, depth),
            Node::Map(values) => self.map(*values, depth),
            Node::Record(_) => loop {
                let text = self.record(node, depth);
                // Those inside need none.
                if depth > 0 || says_something(program, node, &Text::parse(&text).unwrap()) {
                    return text;
                }
            },
            Node::Optional { .. } if depth > 4 || self.random.random_bool(0.2) => "null".to_owned(),
            Node::Optional { node, .. } => self.value(*node, depth),
            Node::Union(union) => {
                let forms = [
                    union.boolean,
                    union.integer,
                    union.real,
                    union.text,
                    union.array,
                    union.object,
                ];
                let forms: Vec<_> = forms.into_iter().flatten().collect();
                let form = forms[self.random.random_range(0..forms.len())];
                let is_container = matches!(program.node(form.node), Node::Array(_) | Node::Map(_) | Node::Record(_));
                if is_container && depth > 4 {
                    "null".to_owned()
                } else {
                    self.value(form.node, depth)
                }
            }
        }
    }

    fn integer(&mut self, minimum: i64, maximum: i64) -> String {
        let value = match self.random.random_range(0..4) {
            0 => self.random.random_range(minimum..=maximum),
            1 => minimum,
            2 => maximum,
            _ => self.random.random_range(minimum.max(-200)..=maximum.min(200)),
        };
        value.to_string()
    }

    /// As devices write them: rounded to some digits, whole, with an exponent, in full.
    fn real(&mut self, minimum: f64, maximum: f64, single: bool) -> String {
        let (low, high) = (minimum.max(-1e6), maximum.min(1e6));
        let value = self.random.random_range(low..=high);
        let text = match self.random.random_range(0..6) {
            0 => format!("{}", value.trunc() as i64),
            1 => format!("{value:.1}"),
            2 => format!("{value:.3}"),
            3 => format!("{value:e}"),
            4 if !single => format!("{value:.25}"),
            _ => format!("{value:?}"),
        };
        // Rounding may have left the range.
        let rounded: f64 = text.parse().unwrap();
        if (minimum..=maximum).contains(&rounded) {
            text
        } else {
            format!("{value:?}")
        }
    }

    fn text(&mut self) -> String {
        let texts = [
            "",
            "a",
            "Überführung",
            "日本語",
            "😀",
            "q\"uote\\",
            "line\nbreak\t",
            "\u{7f}\u{0}",
        ];
        let text = texts[self.random.random_range(0..texts.len())].repeat(self.random.random_range(1..20));
        let plain = serde_json::to_string(&text).unwrap();
        if self.random.random_bool(0.1) {
            plain.replace('a', "\\u0061")
        } else {
            plain
        }
    }

    /// One of some texts that sensors send.
    fn checked_text(&mut self, rules: &TextRules) -> String {
        let texts = ["a", "0002", "1.2.3", "AB-12", "2026-11-28"];
        let fits = |text: &&str| {
            !rules.is_too_long(text.as_bytes())
                && !rules.is_too_short(text.as_bytes())
                && rules.matches(text.as_bytes())
        };
        let fitting: Vec<&str> = texts.into_iter().filter(fits).collect();
        format!("\"{}\"", fitting.choose(&mut self.random).expect("a text that fits"))
    }

    fn array(&mut self, array: &Array, depth: usize) -> String {
        let length = match self.random.random_range(0..20) {
            0 if depth < 2 => self.random.random_range(60..200),
            _ => self.random.random_range(0..4),
        };
        let length = if depth > 3 { 0 } else { length.min(array.items_max) };
        let mut items: Vec<String> = (0..length).map(|_| self.value(array.items, depth + 3)).collect();
        if let Some(unique) = &array.unique {
            let mut seen = Vec::new();
            items.retain(|item| {
                let item: serde_json::Value = serde_json::from_str(item).unwrap();
                let is_new = !seen.contains(&item[&**unique]);
                seen.push(item[&**unique].clone());
                is_new
            });
        }
        format!("[{}]", items.join(","))
    }

    fn map(&mut self, values: NodeId, depth: usize) -> String {
        let length = self.random.random_range(0..=self.entries_max);
        let entries: Vec<String> = (0..length)
            .map(|index| format!("\"key {index}\":{}", self.value(values, depth + 1)))
            .collect();
        format!("{{{}}}", entries.join(", "))
    }

    fn record(&mut self, node: NodeId, depth: usize) -> String {
        let Node::Record(record) = self.program.node(node) else {
            panic!("a record")
        };
        let mut fields = Vec::new();
        let is_sent = |field: &&Field| !matches!(self.program.node(field.node), Node::Reserved);
        for field in record.fields.iter().filter(is_sent) {
            let required = matches!(field.absent, Absent::Refused);
            if required || self.random.random_bool(0.7) {
                fields.push((
                    &field.name,
                    format!("\"{}\": {}", field.name, self.value(field.node, depth + 1)),
                ));
            }
        }
        match self.order {
            Order::Schema => {}
            Order::Alphabetical => fields.sort_by_key(|(name, _)| name.to_string()),
            Order::Random => fields.shuffle(&mut self.random),
        }
        let fields: Vec<String> = fields.into_iter().map(|(_, text)| text).collect();
        format!("{{{}}}", fields.join(","))
    }
}

/// What apache-avro makes of the reading, with the filled fields as the gateway fills them.
fn expected(program: &Program, schema: &Schema, json: &str) -> Value {
    let mut json: serde_json::Value = serde_json::from_str(json).unwrap();
    let Node::Record(record) = program.node(program.root) else {
        panic!("a record")
    };
    let object = json.as_object_mut().unwrap();
    for field in &record.fields {
        let filled = match field.absent {
            Absent::Device => DEVICE.into(),
            Absent::ReceivedAt => NOW_MS.into(),
            _ => continue,
        };
        object.entry(field.name.to_string()).or_insert(filled);
    }
    Value::try_from(json).unwrap().resolve(schema).unwrap()
}

fn compare(bench: &Bench, kind: &str, count: usize, entries_max: usize) {
    let kind = bench.kinds.get(kind).unwrap();
    let (program, schema) = (&kind.program, &bench.schemas[&kind.name]);
    let avro = GenericDatumWriter::builder(schema).build().unwrap();
    for order in [Order::Schema, Order::Alphabetical, Order::Random] {
        let random = StdRng::seed_from_u64(SEED + kind.name.len() as u64);
        let mut writer = Writer {
            program,
            random,
            order,
            entries_max,
        };
        for number in 0..count {
            let json = writer.value(program.root, 0);
            let context = || format!("seed {SEED}, {}, {order:?}, reading {number}: {json}", kind.name);
            let datum = bench.read(&kind.name, json.as_bytes());
            let datum = datum.unwrap_or_else(|rejection| panic!("{rejection}; {}", context()));
            let value = expected(program, schema, &json);
            assert_eq!(
                bench.decoded(&kind.name, json.as_bytes()).unwrap(),
                value,
                "{}",
                context()
            );
            if entries_max <= 1 {
                let mut bytes = Vec::new();
                avro.write_value(&mut bytes, value).unwrap();
                assert_eq!(datum, bytes, "{}", context());
            }
        }
    }
}

#[test]
fn shipped_kinds_are_written_as_apache_avro_writes_them() {
    let bench = Bench::shipped(&Config::default());
    assert!(bench.kinds.iter().count() >= 3);
    for kind in bench.kinds.iter() {
        compare(&bench, &kind.name, 300, 1);
        compare(&bench, &kind.name, 50, 12);
    }
}

#[test]
fn every_node_is_written_as_apache_avro_writes_it() {
    let bench = Bench::of(ZOO);
    compare(&bench, "test", 300, 1);
    compare(&bench, "test", 100, 5);
}
