//! The scanner against its judge, the serde_json driver: the same verdict, reason, words and bytes for any reading of
//! any schema; and apache-avro reads from the bytes what the device sent.
//!
//! Schemas and readings are drawn from a seed (TEST_SEED); TEST_CASES says how many readings (300000). A
//! batch of readings has its own seed, which is the given one for the first of them: so a finding is repeated by its
//! seed alone. With captures of real devices at hand (TEST_CORPUS), schemas are made for them, too.

mod forms;
pub(super) mod values;

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value as Json;

use super::draw::Drawer;
use super::generate::Schemer;
use super::identity::{SEED, ZOO};
use super::mutation::damage;
use super::pass::{write_long, write_text};
use super::program::{Absent, Integer, Node, NodeId};
use super::scan::Failure;
use super::text::{Form, Text};
use super::time::Unit;
use super::*;

/// Readings of one batch: of two schemas in turns, with what the thread remembers of the one met by the other.
const BATCH: usize = 500;

/// What was tried.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    taken: usize,
    malformed: usize,
    refused: usize,
    decoded: usize,
    /// Refused for having no value.
    empty: usize,
}

/// The two scratches, as of one thread.
#[derive(Default)]
struct Court {
    scanner: Scratch,
    judge: Scratch,
    tally: Tally,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.replace('_', "")
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text}")),
    )
}

// === impl Court ===

impl Court {
    /// Panics where the two differ.
    fn try_case(&mut self, bench: &Bench, program: &Program, json: &[u8], context: &dyn Fn() -> String) {
        let context = || format!("{}, {:?}", context(), String::from_utf8_lossy(json));
        let Court { scanner, judge, tally } = self;
        let judged = bench.validator.judgement(program, DEVICE, NOW_MS, json, judge);
        // Without its way out: were the scanner to call JSON malformed, the judge would take it in its place.
        let mut malformed = false;
        let Scratch { buffers, memory } = scanner;
        let scanned = bench.validator.run(program, DEVICE, NOW_MS, buffers, |pass| {
            scan::scan(program, json, pass, memory).map_err(|failure| match failure {
                Failure::Refused(rejection) => rejection,
                Failure::Malformed => {
                    malformed = true;
                    Rejection::new(Reason::Malformed, String::new())
                }
            })
        });
        tally.cases += 1;
        match (scanned, judged) {
            (Ok(()), Ok(())) => {
                assert_eq!(scanner.value(), judge.value(), "{}", context());
                tally.taken += 1;
            }
            (Err(_), Err(judged)) if malformed => {
                assert_eq!(judged.reason, Reason::Malformed, "{judged}, {}", context());
                tally.malformed += 1;
            }
            (Err(scanned), Err(judged)) => {
                assert_eq!(scanned.to_string(), judged.to_string(), "{}", context());
                assert_eq!(scanned.reason, judged.reason, "{}", context());
                tally.refused += 1;
            }
            (scanned, judged) => panic!("scanned {scanned:?}, judged {judged:?}: {}", context()),
        }
    }

    /// What the judge took last, as apache-avro reads it, is what was sent.
    fn decode_case(&mut self, bench: &Bench, kind: &Kind, json: &[u8], context: &dyn Fn() -> String) {
        let program = &kind.program;
        let value = match bench.decoded(&kind.name, json) {
            Ok(value) => value,
            Err(rejection) => {
                if rejection.detail.starts_with("no value;") {
                    let sent = Text::parse(std::str::from_utf8(json).unwrap()).unwrap();
                    let says = values::says_something(program, program.root, &sent);
                    assert!(!says, "{rejection}: {sent}: {}", context());
                    self.tally.empty += 1;
                }
                return;
            }
        };
        let sent = Text::parse(std::str::from_utf8(json).unwrap()).unwrap();
        // What became null in a field that does not count is no value, and is said elsewhere.
        if needs_value(program) && bench.scratch.borrow().nulled().is_empty() {
            let says = values::says_something(program, program.root, &sent);
            assert!(says, "accepted without a value: {sent}: {}", context());
        }
        assert!(
            agrees(program, program.root, &sent, &value),
            "{sent} became {value:?}: {}",
            context()
        );
        self.tally.decoded += 1;
    }
}

fn needs_value(program: &Program) -> bool {
    matches!(program.node(program.root), Node::Record(record) if !record.rules.any_of.is_empty())
}

/// Whether a value is stored as it was sent, as null where it was a sentinel, or as what stands for null or nothing.
fn agrees(program: &Program, node: NodeId, sent: &Text<'_>, stored: &Value) -> bool {
    let stored = bare(stored);
    // jiff's own timestamps have nine digits and end a day before year 9999 does; `times` has the others.
    if let (Form::String(text), Some(_)) = (&sent.form, instant(program.node(node)))
        && text.parse::<jiff::Timestamp>().is_err()
    {
        return true;
    }
    match program.node(node) {
        Node::Null => sent.raw == "null" && *stored == Value::Null,
        Node::Boolean => *stored == Value::Boolean(sent.raw == "true"),
        Node::Integer(integer) => match (whole(sent, integer.instant), stored) {
            (Some(sent), Value::Null) => {
                let is_outside = !(integer.range.minimum..=integer.range.maximum).contains(&sent);
                integer.range.sentinels.contains(&sent) || integer.range.nulled && is_outside
            }
            // Beyond 64 bits, where every double is an integer.
            (None, Value::Null) => {
                let is_beyond = |sent: f64| sent.abs() >= i64::MAX as f64;
                integer.range.nulled && sent.raw.parse().is_ok_and(is_beyond)
            }
            (sent, stored) => sent.is_some() && sent == stored_integer(stored),
        },
        Node::ObservedAt => whole(sent, Some(Unit::Millis)) == stored_integer(stored),
        // A device that sends it is refused.
        Node::Reserved => false,
        Node::Real(real) => match stored {
            Value::Null => {
                let single = || sent.raw.parse::<f32>().map(f64::from);
                let sent = if real.single { single() } else { sent.raw.parse() };
                sent.is_ok_and(|sent| {
                    let is_outside = !(real.range.minimum..=real.range.maximum).contains(&sent);
                    real.range.sentinels.contains(&sent) || real.range.nulled && is_outside
                })
            }
            Value::Double(stored) => sent
                .raw
                .parse::<f64>()
                .is_ok_and(|sent| sent.to_bits() == stored.to_bits()),
            Value::Float(stored) => sent
                .raw
                .parse::<f32>()
                .is_ok_and(|sent| sent.to_bits() == stored.to_bits()),
            _ => false,
        },
        Node::Accepts(accepts) => forms::agrees(accepts, sent, stored_integer(stored)),
        Node::Text | Node::CheckedText(_) | Node::Device | Node::Enum(_) => match stored {
            Value::String(stored) => sent.as_str() == Some(stored),
            Value::Enum(_, stored) => {
                let Node::Enum(symbols) = program.node(node) else {
                    return false;
                };
                let other = symbols.also.iter().find(|(other, _)| sent.as_str() == Some(other));
                let meant = other.map_or(sent.as_str(), |(_, index)| Some(&*symbols.names[*index]));
                meant == Some(stored)
            }
            _ => false,
        },
        Node::Array(array) => match (&sent.form, stored) {
            (Form::Array(sent), Value::Array(stored)) => {
                let mut pairs = sent.iter().zip(stored);
                sent.len() == stored.len() && pairs.all(|(sent, stored)| agrees(program, array.items, sent, stored))
            }
            _ => false,
        },
        Node::Map(values) => match (&sent.form, stored) {
            (Form::Object(sent), Value::Map(stored)) => {
                let mut entries = sent.iter();
                sent.len() == stored.len() && entries.all(|(key, sent)| agrees(program, *values, sent, &stored[&**key]))
            }
            _ => false,
        },
        Node::Record(record) => match (&sent.form, stored) {
            (Form::Object(sent), Value::Record(stored)) => {
                record
                    .fields
                    .iter()
                    .enumerate()
                    .zip(stored)
                    .all(|((index, field), (name, stored))| {
                        let also = record.also(field);
                        let mut spelled = also.iter().filter_map(|other| sent.get(*other));
                        let sent = sent.get(name.as_str()).or_else(|| spelled.next());
                        let is_quality = record.rules.quality.is_some_and(|quality| quality.field == index);
                        let agrees = match sent {
                            _ if is_quality => agrees_without_notes(program, field.node, sent, stored),
                            // Null is as if absent, where it is nothing else.
                            Some(sent) if sent.raw != "null" || is_nullable(program, field.node) => {
                                agrees(program, field.node, sent, stored)
                            }
                            _ => stands_for_nothing(&field.absent, stored),
                        };
                        field.name.as_ref() == name && agrees
                    })
            }
            _ => false,
        },
        Node::Optional { .. } if sent.raw == "null" => *stored == Value::Null,
        Node::Optional { node, .. } => agrees(program, *node, sent, stored),
        Node::Union(_) if sent.raw == "null" => *stored == Value::Null,
        Node::Union(union) => {
            let branch = match &sent.form {
                Form::Number => number_branch(program, union, sent.raw),
                Form::String(_) => union.text.or(union.integer),
                Form::Array(_) => union.array,
                Form::Object(_) => union.object,
                Form::Other => union.boolean,
            };
            branch.is_some_and(|branch| agrees(program, branch.node, sent, stored))
        }
    }
}

/// Quality flags: first the device's own, then the gateway's.
fn agrees_without_notes(program: &Program, node: NodeId, sent: Option<&Text<'_>>, stored: &Value) -> bool {
    let (Node::Array(array), Value::Array(stored)) = (program.node(node), stored) else {
        return false;
    };
    let sent = sent.map(Text::items).unwrap_or_default();
    let mut pairs = sent.iter().zip(stored);
    let mut notes = stored.iter().skip(sent.len());
    stored.len() >= sent.len()
        && sent.len() <= array.items_max
        && stored.len() - sent.len() <= super::notes::NOTES_MAX
        && pairs.all(|(sent, stored)| agrees(program, array.items, sent, stored))
        && notes.all(|note| *field(note, "source") == Value::Enum(1, "gateway".into()))
}

/// What a time counts that may be text.
fn instant(node: &Node) -> Option<Unit> {
    match node {
        Node::Integer(integer) => integer.instant,
        Node::ObservedAt => Some(Unit::Millis),
        _ => None,
    }
}

fn is_nullable(program: &Program, node: NodeId) -> bool {
    match program.node(node) {
        Node::Null | Node::Optional { .. } => true,
        Node::Union(union) => union.null.is_some(),
        _ => false,
    }
}

/// Whether it is what the schema says for a field that has not come.
fn stands_for_nothing(absent: &Absent, stored: &Value) -> bool {
    match absent {
        Absent::Refused => false,
        Absent::Default(default) => {
            let mut datum = Vec::new();
            encode(stored, &mut datum);
            datum == **default
        }
        Absent::Device => *stored == Value::String(DEVICE.into()),
        Absent::ReceivedAt => *stored == Value::TimestampMillis(NOW_MS),
    }
}

/// Avro's encoding of a default. Of a map's entries only the order of one is known.
fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::Float(value) => out.extend(value.to_le_bytes()),
        Value::Double(value) => out.extend(value.to_le_bytes()),
        Value::String(text) => write_text(text.as_bytes(), out),
        Value::Enum(index, _) => write_long((*index).into(), out),
        Value::Union(index, value) => {
            write_long((*index).into(), out);
            encode(value, out);
        }
        Value::Array(items) => {
            if !items.is_empty() {
                write_long(items.len() as i64, out);
            }
            items.iter().for_each(|item| encode(item, out));
            out.push(0);
        }
        Value::Map(entries) => {
            if !entries.is_empty() {
                write_long(entries.len() as i64, out);
            }
            for (key, value) in entries {
                write_text(key.as_bytes(), out);
                encode(value, out);
            }
            out.push(0);
        }
        Value::Record(fields) => fields.iter().for_each(|(_, value)| encode(value, out)),
        value => write_long(stored_integer(value).unwrap(), out),
    }
}

/// An integer literal is an integer where the type holds it; all else is real where there is a real branch.
fn number_branch(program: &Program, union: &program::Union, literal: &str) -> Option<program::Branch> {
    let (Some(integer), Some(real)) = (union.integer, union.real) else {
        return union.integer.or(union.real);
    };
    let wide = !matches!(program.node(integer.node), Node::Integer(Integer { wide: false, .. }));
    let holds = if wide {
        literal.parse::<i64>().is_ok()
    } else {
        literal.parse::<i32>().is_ok()
    };
    Some(if holds { integer } else { real })
}

/// The integer that was sent, by moving the point about in its text.
fn whole(sent: &Text<'_>, instant: Option<Unit>) -> Option<i64> {
    if let (Form::String(text), Some(unit)) = (&sent.form, instant) {
        let nanos = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
        return i64::try_from(nanos.div_euclid(i128::from(1_000_000_000 / unit.per_second()))).ok();
    }
    let lower = sent.raw.to_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if before.chars().chain(behind.chars()).all(|digit| digit == '0') {
        return Some(0);
    }
    let exponent: i32 = exponent
        .parse()
        .ok()
        .filter(|exponent| (-500..500).contains(exponent))?;
    let (mut before, mut behind) = (before.to_owned(), behind.to_owned());
    for _ in 0..exponent {
        before.push(if behind.is_empty() { '0' } else { behind.remove(0) });
    }
    for _ in exponent..0 {
        behind.insert(0, before.pop().unwrap_or('0'));
    }
    let is_whole = behind.chars().all(|digit| digit == '0');
    is_whole.then(|| format!("{sign}{before}").parse().ok()).flatten()
}

fn stored_integer(stored: &Value) -> Option<i64> {
    match *stored {
        Value::Int(value) | Value::Date(value) | Value::TimeMillis(value) => Some(value.into()),
        Value::Long(value)
        | Value::TimeMicros(value)
        | Value::TimestampMillis(value)
        | Value::TimestampMicros(value)
        | Value::TimestampNanos(value)
        | Value::LocalTimestampMillis(value) => Some(value),
        _ => None,
    }
}

// === drawn schemas and readings ===

/// Says how a batch is repeated that panics where nobody knows its seed.
struct Repeat(u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("TEST_SEED={} cargo test --release --lib judge", self.0);
        }
    }
}

fn batch(court: &mut Court, seed: u64, cases: usize) {
    let _repeat = Repeat(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut schemer = Schemer::new(seed);
    let schemas = [schemer.schema(), schemer.schema()];
    let benches = schemas.each_ref().map(|schema| Bench::of(schema));
    let mut drawers = benches
        .each_ref()
        .map(|bench| Drawer::new(&bench.only_kind().program, seed));
    court.scanner = Scratch::default();
    for number in 0..cases {
        let which = usize::from(random.random_bool(0.5));
        let mut json = drawers[which].reading().into_bytes();
        let damaged = random.random_bool(0.3);
        if damaged && !json.is_empty() {
            damage(&mut json, &mut random);
        }
        let context = || format!("seed {seed}, case {number}, {}", schemas[which]);
        let (bench, kind) = (&benches[which], benches[which].only_kind());
        court.try_case(bench, &kind.program, &json, &context);
        if number % 16 == 0 {
            court.decode_case(bench, kind, &json, &context);
        }
    }
}

#[test]
fn the_scanner_takes_writes_and_says_what_its_judge_does() {
    let first = number("TEST_SEED").unwrap_or(SEED);
    let cases = number("TEST_CASES").unwrap_or(300_000) as usize;
    let mut court = Court::default();
    for (number, start) in (0..cases).step_by(BATCH).enumerate() {
        batch(&mut court, first + number as u64, BATCH.min(cases - start));
    }
    println!("seed {first}: {:?}", court.tally);
    let Tally {
        taken,
        malformed,
        refused,
        decoded,
        empty,
        ..
    } = court.tally;
    // Generators that have gone astray try nothing any more.
    for part in [taken, malformed, refused, decoded * 16, empty * 160] {
        assert!(part >= cases / 8 || cases < 100_000, "{:?}", court.tally);
    }
}

#[test]
fn nesting_is_bounded_alike() {
    let schema = record(
        r#"{"name":"me","type":["null","Test"],"default":null},
           {"name":"all","type":{"type":"array","items":"Test"},"default":[]},
           {"name":"by","type":{"type":"map","values":"Test"},"default":{}}"#,
    );
    let bench = Bench::of(&schema);
    let mut court = Court::default();
    for depth in 1..200 {
        for (opening, closing) in [(r#"{"me":"#, "}"), (r#"{"all":["#, "]}"), (r#"{"by":{"x":"#, "}}")] {
            for core in ["{}", "{", "1", r#"{"me":"\ud800"}"#, "1e400"] {
                let json = format!("{}{core}{}", opening.repeat(depth), closing.repeat(depth));
                let context = || format!("{depth} levels");
                court.try_case(&bench, &bench.only_kind().program, json.as_bytes(), &context);
            }
        }
    }
    assert_eq!(
        (court.tally.cases, court.tally.taken),
        (199 * 15, 63 + 31 + 31),
        "{:?}",
        court.tally
    );
}

// === captures of real devices ===

fn captures(folder: &Path, texts: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            _ if path.is_dir() => captures(&path, texts),
            Some("ndjson") => {
                let text = std::fs::read_to_string(&path).unwrap();
                texts.extend(text.lines().take(50).map(str::to_owned));
            }
            Some("json" | "jsonld") => texts.push(std::fs::read_to_string(&path).unwrap()),
            _ => {}
        }
    }
}

/// A schema that takes a value: what an adapter's author might write who sees one reading.
fn schema_of(sent: &Json, names: &mut usize) -> Json {
    match sent {
        Json::Null => "null".into(),
        Json::Bool(_) => "boolean".into(),
        Json::Number(number) if number.is_i64() => "long".into(),
        Json::Number(_) => "double".into(),
        Json::String(_) => "string".into(),
        Json::Array(items) => {
            let items = items.first().map_or("string".into(), |item| schema_of(item, names));
            serde_json::json!({"type": "array", "items": items})
        }
        Json::Object(entries) => {
            *names += 1;
            let name = format!("R{names}");
            let is_name = |key: &String| {
                let mut characters = key.chars();
                characters
                    .next()
                    .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                    && characters.all(|other| other.is_ascii_alphanumeric() || other == '_')
            };
            if !entries.keys().all(is_name) {
                let values = entries
                    .values()
                    .next()
                    .map_or("string".into(), |value| schema_of(value, names));
                return serde_json::json!({"type": "map", "values": values});
            }
            let fields: Vec<Json> = entries
                .iter()
                .map(|(key, value)| serde_json::json!({"name": key, "type": schema_of(value, names)}))
                .collect();
            serde_json::json!({"type": "record", "name": name, "fields": fields})
        }
    }
}

#[test]
fn captures_of_real_devices_are_judged_alike_whole_and_damaged() {
    let mut texts = Vec::new();
    if let Some(folder) = corpus::corpus() {
        captures(&folder, &mut texts);
    }
    let shipped = Bench::shipped(&Config::default());
    let zoo = Bench::of(ZOO);
    let mut court = Court::default();
    let mut random = StdRng::seed_from_u64(SEED);
    for text in &texts {
        let sent = serde_json::from_str::<Json>(text).ok().filter(Json::is_object);
        let schema = sent.map(|sent| schema_of(&sent, &mut 0).to_string());
        let own = schema
            .filter(|schema| schema.contains(r#""fields""#))
            .map(|schema| Bench::new(load(&schema).unwrap(), &Config::default()));
        for bench in own.iter().chain([&shipped, &zoo]) {
            for kind in bench.kinds.iter() {
                let context = || kind.text.to_string();
                court.try_case(bench, &kind.program, text.as_bytes(), &context);
                court.decode_case(bench, kind, text.as_bytes(), &context);
                for _ in 0..20 {
                    let mut json = text.clone().into_bytes();
                    damage(&mut json, &mut random);
                    court.try_case(bench, &kind.program, &json, &context);
                }
            }
        }
    }
    println!("{} captures: {:?}", texts.len(), court.tally);
    assert!(texts.is_empty() || court.tally.taken > 50, "{:?}", court.tally);
}
