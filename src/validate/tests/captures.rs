//! The readings of real devices in `tests/corpus`: all are accepted, and stored as each line of them says.
//!
//! A fresh clone has them; where they are from, and their licences, is in `tests/corpus/SOURCES.md`.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::*;

pub(super) fn lines(folder: &std::path::Path, name: &str) -> Vec<String> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(str::to_owned).collect()
}

pub(super) fn millis(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// One line of `tests/corpus`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: String,
    device: String,
    reading: Json,
    /// Paths that are stored as null, each with the flag of the gateway's note.
    #[serde(default)]
    nulls: BTreeMap<String, String>,
    /// Paths whose field, or whose symbol, is stored under its own name.
    #[serde(default)]
    renames: BTreeMap<String, String>,
}

/// A part of a reading by its path, such as `lanes[0].speed_kmh`.
pub(super) fn part<'j>(json: &'j mut Json, path: &str) -> Option<&'j mut Json> {
    let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
    json.pointer_mut(&pointer)
}

impl Line {
    /// What must be stored: the reading, but for what the line says.
    fn stored(&self) -> Json {
        let mut stored = self.reading.clone();
        let notes = self.nulls.iter().map(|(path, flag)| {
            *part(&mut stored, path).unwrap_or_else(|| panic!("{}: no {path}", self.device)) = Json::Null;
            json!({"field": path, "flag": flag, "source": "gateway"})
        });
        let notes: Vec<Json> = notes.collect();
        if !notes.is_empty() {
            let sent = stored
                .as_object_mut()
                .unwrap()
                .entry("quality")
                .or_insert_with(|| json!([]));
            sent.as_array_mut().unwrap().extend(notes);
        }
        for (path, name) in &self.renames {
            let value = part(&mut stored, path)
                .unwrap_or_else(|| panic!("{}: no {path}", self.device))
                .take();
            if path.ends_with(".phase") {
                *part(&mut stored, path).unwrap() = name.clone().into();
            } else {
                let fields = stored.as_object_mut().unwrap();
                fields.remove(path);
                fields.insert(name.clone(), value);
            }
        }
        stored
    }
}

/// A decoded value as JSON, without its unions.
pub(super) fn shown(value: &Value) -> Json {
    match bare(value) {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Long(value) | Value::TimestampMillis(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::String(text) | Value::Enum(_, text) => json!(text),
        Value::Array(items) => items.iter().map(shown).collect(),
        Value::Map(map) => map.iter().map(|(key, value)| (key.clone(), shown(value))).collect(),
        Value::Record(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shown(value)))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// Both in one form: no nulls, no empty arrays and maps, times in milliseconds, notes in one order.
fn plain(json: Json) -> Json {
    match json {
        Json::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| match (name.as_str(), &value) {
                ("observed_at" | "read_at" | "month_peak_at", Json::String(text)) => {
                    let at = millis(text);
                    (name, json!(at as f64))
                }
                ("quality", Json::Array(notes)) => {
                    let mut notes: Vec<Json> = notes.iter().cloned().map(with_source).collect();
                    notes.sort_by_key(Json::to_string);
                    (name, notes.into())
                }
                _ => (name, plain(value)),
            });
            let is_something = |(_, value): &(String, Json)| match value {
                Json::Null => false,
                Json::Array(items) => !items.is_empty(),
                Json::Object(fields) => !fields.is_empty(),
                _ => true,
            };
            Json::Object(fields.filter(is_something).collect())
        }
        Json::Array(items) => items.into_iter().map(plain).collect(),
        Json::Number(number) => json!(number.as_f64()),
        other => other,
    }
}

fn with_source(mut note: Json) -> Json {
    if note["source"].is_null() {
        note["source"] = json!("device");
    }
    note
}

#[test]
fn what_may_be_given_away_is_stored_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let sources = std::fs::read_to_string(folder.join("SOURCES.md")).unwrap();
    let config = Config {
        max_age: None,
        ..Config::default()
    };
    let bench = Bench::shipped(&config);
    let mut of_kind: BTreeMap<String, usize> = BTreeMap::new();
    let mut bytes = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        bytes += path.metadata().unwrap().len();
        if path.extension().is_none_or(|extension| extension != "ndjson") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let lines = lines(&folder, &name);
        assert!(
            sources.contains(&format!("| `{name}` | {} |", lines.len())),
            "SOURCES.md has not {name}"
        );
        for text in lines {
            let line: Line = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
            let value = bench.decoded(&line.kind, line.reading.to_string().as_bytes());
            let mut stored = shown(&value.unwrap_or_else(|rejection| panic!("{name}: {rejection}: {text}")));
            let fields = stored.as_object_mut().unwrap();
            fields.retain(|name, _| !["device", "received_at"].contains(&name.as_str()));
            if line.reading["observed_at"].is_null() {
                fields.remove("observed_at");
            }
            assert_eq!(plain(stored), plain(line.stored()), "{name}: {text}");
            *of_kind.entry(line.kind).or_default() += 1;
        }
    }
    println!("readings of real devices by kind: {of_kind:?}");
    assert!(
        of_kind.values().sum::<usize>() >= 500 && of_kind.len() >= 5,
        "{of_kind:?}"
    );
    assert!(bytes <= 300 * 1024, "{bytes} bytes");
}
