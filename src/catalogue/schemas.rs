//! Schema files: the `<kind>.avsc` of a folder that `schemas.kinds` lists, read at start.
//!
//! One file more, if it is listed, is one stream more: the kind is the file's name, its topic `<topic_prefix><kind>`. A file that is not
//! listed is not opened, so that files which a new version brings change nobody's topics. A schema is plain
//! Avro plus attributes that Avro allows and ignores (`minimum`, `maximum`, `unit`, `sentinels`, `fill`, `clock`); what they
//! mean is compiled by `validate`. Every mistake of every file is reported at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use apache_avro::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fingerprint;
use crate::operate::spelling;

/// The `[schemas]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of Avro schemas; each `<kind>.avsc` that is listed is a stream.
    pub folder: PathBuf,
    /// The kinds that are accepted, or [`EVERY`] alone.
    pub kinds: Vec<String>,
}

/// In the place of all names: every file of the folder.
const EVERY: &str = "*";

impl Default for Config {
    fn default() -> Self {
        Config {
            folder: "schemas".into(),
            kinds: ["traffic", "weather", "energy"].map(str::to_owned).into(),
        }
    }
}

impl Config {
    /// Every kind of a folder.
    pub fn every(folder: &Path) -> Self {
        Config {
            folder: folder.to_owned(),
            kinds: vec![EVERY.to_owned()],
        }
    }

    fn lists(&self, file: &Path) -> bool {
        self.is_every() || self.kinds.iter().any(|kind| *kind == stem(file))
    }

    fn is_every(&self) -> bool {
        self.kinds == [EVERY]
    }

    /// Kinds that are listed without having a file, in words.
    fn missing(&self, files: &[PathBuf]) -> Vec<Error> {
        if self.kinds.is_empty() {
            return vec![Error::NoKinds];
        }
        let known: Vec<String> = files.iter().map(|file| stem(file)).collect();
        let mut missing: Vec<&String> = self.kinds.iter().filter(|kind| !known.contains(kind)).collect();
        missing.retain(|_| !self.is_every());
        let missing = missing.into_iter().map(|kind| match kind.as_str() {
            EVERY => Error::EveryAndMore,
            kind if kind.ends_with(".avsc") => Error::FileListed {
                kind: stem(Path::new(kind)),
                file: kind.to_owned(),
            },
            kind => Error::NoFile {
                path: self.folder.join(format!("{kind}.avsc")),
                kind: kind.to_owned(),
                hint: spelling::nearest(kind, known.iter().map(String::as_str)).map_or_else(
                    || format!("the folder has {}", known.join(", ")),
                    |known| format!("did you mean {known}?"),
                ),
            },
        });
        missing.collect()
    }
}

/// The kind that a file would be.
fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// A path that says from which folder it counts.
fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .as_deref()
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Topics of the gateway's own, behind the prefix; no kind can be called so.
const RESERVED: [&str; 11] = [
    "dead-letter",
    "unknown",
    "raw",
    "late",
    "aggregates",
    "anomalies",
    "alerts",
    "commands",
    "command-status",
    "device-status",
    "completeness",
];

/// Kafka's limit.
const TOPIC_BYTES_MAX: usize = 249;

/// What a schema file defines: a kind before its schema is compiled.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The file's name without `.avsc`: the last part of an address.
    pub name: String,
    /// Kafka topic of its readings.
    pub topic: String,
    /// The file's text, as registered with a schema registry.
    pub text: Arc<str>,
    /// Without documentation and attributes, which nothing but the compiler needs: it reads the text.
    pub schema: Schema,
    /// The Avro single-object header (C3 01, fingerprint), which precedes each datum where there is no registry.
    pub prefix: Vec<u8>,
}

/// What is in a schema folder.
#[derive(Debug, Default)]
pub struct Found {
    pub definitions: Vec<Definition>,
    pub errors: Vec<Error>,
    /// Files that are no kinds, for want of the ending `.avsc`.
    pub ignored: Vec<PathBuf>,
    /// Kinds that are not listed.
    pub unlisted: Vec<String>,
}

/// Something is wrong with the schema folder; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder or one of its files could not be read.
    #[error(
        "schemas: {} cannot be read: {source}; schemas.folder must name a readable folder of <kind>.avsc files",
        absolute(path)
    )]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// A kind is listed that has no file.
    #[error("schemas.kinds: {kind}: there is no {}; {hint}", absolute(path))]
    NoFile { kind: String, path: PathBuf, hint: String },
    /// A file is listed in the place of its kind.
    #[error("schemas.kinds: {file} is a file; list the kind, which is the file's name without .avsc: \"{kind}\"")]
    FileListed { file: String, kind: String },
    /// The list of kinds is empty.
    #[error("schemas.kinds: lists no kind; list those to accept, or [\"{EVERY}\"] for every file of the folder")]
    NoKinds,
    /// The list has names beside that which stands for all.
    #[error("schemas.kinds: \"{EVERY}\" stands for every file of the folder; leave out the names beside it")]
    EveryAndMore,
    /// There is no `.avsc` file in the folder.
    #[error("{0}: no <kind>.avsc file in this folder")]
    Empty(PathBuf),
    /// The file's name cannot be part of an address and a topic.
    #[error("{0}: a kind is 1-64 of a-z 0-9 - _, starting with a letter")]
    BadName(PathBuf),
    /// The gateway has, or will have, a topic of its own that is called so.
    #[error("{path}: a kind cannot be called {name}: {} are topics of the gateway's own; rename the file", RESERVED.join(", "))]
    Reserved { path: PathBuf, name: String },
    /// Kafka does not accept the kind's topic.
    #[error(
        "{path}: the topic {topic} would have more than {TOPIC_BYTES_MAX} characters; shorten the file's name or kafka.topic_prefix"
    )]
    LongTopic { path: PathBuf, topic: String },
    /// The file is not JSON.
    #[error("{path}:{line}:{column}: is not JSON: {detail}")]
    NotJson {
        path: PathBuf,
        line: usize,
        column: usize,
        detail: String,
    },
    /// The file is not an Avro schema.
    #[error("{path}: {detail}")]
    NotASchema { path: PathBuf, detail: String },
    /// A reading is a record; the file defines something else.
    #[error("{0}: the schema of a kind must be a record")]
    NotARecord(PathBuf),
}

/// Reads what can be read of the listed kinds, in the order of the files' names.
pub fn read(config: &Config, topic_prefix: &str) -> Found {
    let mut found = Found::default();
    match files(&config.folder) {
        Err(error) => found.errors.push(error),
        Ok((files, ignored)) => {
            found.ignored = ignored;
            found.errors = config.missing(&files);
            let (listed, unlisted): (Vec<_>, Vec<_>) = files.iter().partition(|file| config.lists(file));
            found.unlisted = unlisted.into_iter().map(|file| stem(file)).collect();
            for path in listed {
                match Definition::read(path, topic_prefix) {
                    Ok(definition) => found.definitions.push(definition),
                    Err(error) => found.errors.push(error),
                }
            }
        }
    }
    found
}

/// Kinds whose topic is the dead-letter topic, or one that Kafka cannot tell from it; in words. `folder` is where the
/// kinds' files are.
pub fn clashes(definitions: &[Definition], folder: &Path, dead_letter_topic: &str) -> Vec<String> {
    let clash = |kind: &Definition| {
        let file = folder.join(&kind.name).with_extension("avsc");
        let topic = &kind.topic;
        let how = if topic == dead_letter_topic {
            format!("is {topic}, the topic of the kind {}", file.display())
        } else if topic.replace('.', "_") == dead_letter_topic.replace('.', "_") {
            format!(
                "is {dead_letter_topic}, and {topic} is the topic of the kind {}: names that differ only in '.' and '_' \
                 are one to Kafka's metrics, so it does not create both",
                file.display()
            )
        } else {
            return None;
        };
        Some(format!("kafka.dead_letter_topic: {how}; rename one of them"))
    };
    definitions.iter().filter_map(clash).collect()
}

// === impl Definition ===

impl Definition {
    fn read(path: &Path, topic_prefix: &str) -> Result<Self, Error> {
        let name = stem(path);
        if !is_kind_name(&name) {
            return Err(Error::BadName(path.to_owned()));
        }
        let topic = format!("{topic_prefix}{name}");
        if RESERVED.contains(&name.as_str()) {
            let path = path.to_owned();
            return Err(Error::Reserved { path, name });
        }
        if topic.len() > TOPIC_BYTES_MAX {
            let path = path.to_owned();
            return Err(Error::LongTopic { path, topic });
        }
        Definition::of_topic(path, &topic).map(|definition| Definition { name, ..definition })
    }

    /// The schema of a topic that is none of a kind; it is called as its topic.
    ///
    /// # Errors
    /// The file cannot be read, or holds no schema of a record.
    pub fn of_topic(path: &Path, topic: &str) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let not_a_schema = |detail: String| Error::NotASchema {
            path: path.to_owned(),
            detail: detail.replace('\n', " "),
        };
        let json: Value = serde_json::from_str(&text).map_err(|error| not_json(path, &error))?;
        let plain = fingerprint::plain(&json);
        let schema = Schema::parse(&plain).map_err(|error| not_a_schema(error.to_string()))?;
        if !matches!(schema, Schema::Record(_)) {
            return Err(Error::NotARecord(path.to_owned()));
        }
        let prefix = single_object_header(&plain).map_err(|error| not_a_schema(error.to_string()))?;
        Ok(Definition {
            topic: topic.to_owned(),
            name: topic.to_owned(),
            text: text.into(),
            schema,
            prefix,
        })
    }
}

/// The `.avsc` files of a folder, and what is ignored of it; in the order of their names.
fn files(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let unreadable = |source| Error::Unreadable {
        path: folder.to_owned(),
        source,
    };
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    let is_avsc = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "avsc");
    let (files, mut ignored): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_avsc);
    // The reference page of the bundled kinds; and a volume of Kubernetes has its versions there.
    ignored.retain(|path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name != b"README.md" && !name.starts_with(b"..")
    });
    match files.is_empty() {
        true => Err(Error::Empty(folder.to_owned())),
        false => Ok((files, ignored)),
    }
}

fn not_json(path: &Path, error: &serde_json::Error) -> Error {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let detail = text
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&text);
    Error::NotJson {
        path: path.to_owned(),
        line,
        // In an empty file there is none.
        column: column.max(1),
        detail: detail.to_owned(),
    }
}

/// A kind names a topic, a path segment and a metric label.
fn is_kind_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
}

/// Avro 1.12 "Single object encoding": C3 01, then the CRC-64-AVRO fingerprint, little endian.
fn single_object_header(schema: &Value) -> Result<Vec<u8>, Box<apache_avro::Error>> {
    let mut header = vec![0xC3, 0x01];
    header.extend(fingerprint::crc_64_avro(schema)?);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;

    /// What is wrong with a folder of these files, without its path.
    fn wrong(files: &[(&str, &str)], dead_letter_topic: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let found = read(&Config::every(folder.path()), "city.");
        let errors = found.errors.iter().map(ToString::to_string);
        let clashes = clashes(&found.definitions, folder.path(), dead_letter_topic);
        let place = format!("{}/", folder.path().display());
        errors.chain(clashes).map(|line| line.replace(&place, "")).collect()
    }

    #[test]
    fn names_that_clash_are_refused_with_one_message() {
        let check = |file: &str, dead_letter_topic: &str, expected: &str| {
            let wrong = wrong(&[(file, GOOD), ("weather.avsc", GOOD)], dead_letter_topic);
            match expected {
                "" => assert_eq!(wrong, [""; 0], "{file}"),
                expected => assert!(wrong.len() == 1 && wrong[0].contains(expected), "{file}: {wrong:?}"),
            }
        };
        check("noise.avsc", "city.dead-letter", "");
        check("dead_letter.avsc", "city.dead-letter", "");
        for name in RESERVED {
            let expected = format!("{name}.avsc: a kind cannot be called {name}: dead-letter, ");
            check(&format!("{name}.avsc"), "city.dead-letter", &expected);
            check(&format!("{name}.avsc"), "city.rejected", &expected);
        }
        check(
            "noise.avsc",
            "city.weather",
            "kafka.dead_letter_topic: is city.weather, the topic of the kind weather.avsc; rename one of them",
        );
        check(
            "noise_raw.avsc",
            "city.noise.raw",
            "kafka.dead_letter_topic: is city.noise.raw, and city.noise_raw is the topic of the kind noise_raw.avsc: names \
             that differ only in '.' and '_' are one to Kafka's metrics",
        );
    }

    #[test]
    fn every_file_is_looked_at_and_syntax_has_its_place() {
        let wrong = wrong(
            &[
                ("a.avsc", "{\n  \"type\": \"record\",,\n}"),
                ("b.avsc", ""),
                ("c.avsc", "\"int\""),
                ("d.avsc", r#"{"type":"recrod","name":"R"}"#),
                ("weather.avsc", GOOD),
            ],
            "x",
        );
        let expected = [
            "a.avsc:2:20: is not JSON: key must be a string",
            "b.avsc:1:1: is not JSON: EOF while parsing a value",
            "c.avsc: the schema of a kind must be a record",
            "d.avsc: ",
        ];
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (wrong, expected) in wrong.iter().zip(expected) {
            assert!(wrong.starts_with(expected), "{wrong}");
        }
    }

    #[test]
    fn what_is_ignored_is_known() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["weather.avsc", "weather.avsc.orig", "notes.txt", "README.md", "..data"] {
            std::fs::write(folder.path().join(name), GOOD).unwrap();
        }
        let found = read(&Config::every(folder.path()), "city.");
        let names: Vec<_> = found.ignored.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["notes.txt", "weather.avsc.orig"]);
        let names: Vec<_> = found.definitions.iter().map(|kind| &kind.name).collect();
        assert_eq!(names, ["weather"]);
    }

    #[test]
    fn only_listed_kinds_are_read_and_a_listed_one_needs_its_file() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("air", GOOD), ("noise", "{"), ("water", GOOD)] {
            std::fs::write(folder.path().join(name).with_extension("avsc"), text).unwrap();
        }
        let place = format!("{}/", absolute(folder.path()));
        let check = |kinds: &[&str], read_kinds: &[&str], unlisted: &[&str], wrong: &[&str]| {
            let config = Config {
                folder: folder.path().to_owned(),
                kinds: kinds.iter().map(ToString::to_string).collect(),
            };
            let found = read(&config, "city.");
            let names: Vec<_> = found.definitions.iter().map(|kind| &kind.name).collect();
            let errors: Vec<_> = found
                .errors
                .iter()
                .map(|error| error.to_string().replace(&place, ""))
                .collect();
            assert_eq!(names, read_kinds, "{kinds:?}");
            assert_eq!(found.unlisted, unlisted, "{kinds:?}");
            assert_eq!(errors, wrong, "{kinds:?}");
        };
        let broken = "noise.avsc:1:1: is not JSON: EOF while parsing an object";
        check(&["water", "air"], &["air", "water"], &["noise"], &[]);
        check(&["air", "air"], &["air"], &["noise", "water"], &[]);
        check(&["noise"], &[], &["air", "water"], &[broken]);
        check(&["*"], &["air", "water"], &[], &[broken]);
        check(
            &["watre", "parking"],
            &[],
            &["air", "noise", "water"],
            &[
                "schemas.kinds: watre: there is no watre.avsc; did you mean water?",
                "schemas.kinds: parking: there is no parking.avsc; the folder has air, noise, water",
            ],
        );
        check(
            &["air.avsc", "schemas/water.avsc", "a.b"],
            &[],
            &["air", "noise", "water"],
            &[
                "schemas.kinds: air.avsc is a file; list the kind, which is the file's name without .avsc: \"air\"",
                "schemas.kinds: schemas/water.avsc is a file; list the kind, which is the file's name without .avsc: \"water\"",
                "schemas.kinds: a.b: there is no a.b.avsc; the folder has air, noise, water",
            ],
        );
        check(
            &["*", "air"],
            &["air"],
            &["noise", "water"],
            &["schemas.kinds: \"*\" stands for every file of the folder; leave out the names beside it"],
        );
        check(
            &[],
            &[],
            &["air", "noise", "water"],
            &["schemas.kinds: lists no kind; list those to accept, or [\"*\"] for every file of the folder"],
        );
    }
}
