//! The kinds of readings: every `<kind>.avsc` of a folder, loaded at start.
//!
//! One file more is one stream more: the kind is the file's name, its topic `<topic_prefix><kind>`. A schema is plain
//! Avro plus attributes that Avro allows and ignores (`minimum`, `maximum`, `unit`, `sentinels`, `fill`, `clock`); what they mean
//! is compiled by `validate`. Every mistake of every file is reported at once. Talking to a registry is left to
//! [`registry`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use apache_avro::Schema;
use serde::{Deserialize, Serialize};

mod fingerprint;

pub mod registry;

/// The `[schemas]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of `<kind>.avsc` files; each one is a stream.
    pub folder: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            folder: "schemas".into(),
        }
    }
}

/// One kind of reading.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Position in [`Schemas::kinds`]; indexes per-kind tables elsewhere.
    pub index: usize,
    /// The file's name without `.avsc`: the last part of an address.
    pub name: String,
    /// Kafka topic of its readings.
    pub topic: String,
    /// The file's text, as registered with a schema registry.
    pub text: String,
    pub schema: Schema,
    /// What precedes each datum: the Avro single-object header (C3 01, fingerprint), or Confluent's (00, id).
    pub prefix: Vec<u8>,
}

/// All kinds, by index and by name.
#[derive(Clone, Debug, Default)]
pub struct Schemas {
    kinds: Vec<Kind>,
    by_name: HashMap<String, usize>,
}

/// Something is wrong with the schema folder; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder or one of its files could not be read.
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// There is no `.avsc` file in the folder.
    #[error("{0}: no <kind>.avsc file in this folder")]
    Empty(PathBuf),
    /// The file's name cannot be part of an address and a topic.
    #[error("{0}: a kind is 1-64 of a-z 0-9 - _, starting with a letter")]
    BadName(PathBuf),
    /// The file is not an Avro schema.
    #[error("{path}: {detail}")]
    NotASchema { path: PathBuf, detail: String },
    /// A reading is a record; the file defines something else.
    #[error("{0}: the schema of a kind must be a record")]
    NotARecord(PathBuf),
}

impl Schemas {
    /// Loads every `.avsc` file of `folder`, in the order of their names; all mistakes at once.
    pub fn load(folder: &Path, topic_prefix: &str) -> Result<Self, Vec<Error>> {
        let files = avsc_files(folder).map_err(|error| vec![error])?;
        let mut schemas = Schemas::default();
        let mut errors = Vec::new();
        for path in files {
            match Kind::load(&path, schemas.kinds.len(), topic_prefix) {
                Ok(kind) => schemas.push(kind),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(schemas) } else { Err(errors) }
    }

    fn push(&mut self, kind: Kind) {
        self.by_name.insert(kind.name.clone(), kind.index);
        self.kinds.push(kind);
    }

    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    pub fn kind(&self, name: &str) -> Option<&Kind> {
        self.by_name.get(name).map(|&index| &self.kinds[index])
    }

    /// The names of all kinds, in the order of their index.
    pub fn names(&self) -> Vec<String> {
        self.kinds.iter().map(|kind| kind.name.clone()).collect()
    }

    /// Replaces single-object headers with Confluent's: `ids[index]` is the registry's id of that kind.
    pub fn use_registry_ids(&mut self, ids: &[u32]) {
        for (kind, id) in self.kinds.iter_mut().zip(ids) {
            kind.prefix = confluent_header(*id);
        }
    }
}

impl Kind {
    fn load(path: &Path, index: usize, topic_prefix: &str) -> Result<Self, Error> {
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default()
            .to_owned();
        if !is_kind_name(&name) {
            return Err(Error::BadName(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let not_a_schema = |detail| Error::NotASchema {
            path: path.to_owned(),
            detail,
        };
        let schema = Schema::parse_str(&text).map_err(|error| not_a_schema(error.to_string()))?;
        if !matches!(schema, Schema::Record(_)) {
            return Err(Error::NotARecord(path.to_owned()));
        }
        let prefix = single_object_header(&text).map_err(not_a_schema)?;
        Ok(Kind {
            index,
            topic: format!("{topic_prefix}{name}"),
            name,
            text,
            schema,
            prefix,
        })
    }
}

fn avsc_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::Unreadable {
        path: folder.to_owned(),
        source,
    };
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "avsc") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        Err(Error::Empty(folder.to_owned()))
    } else {
        Ok(files)
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
fn single_object_header(text: &str) -> Result<Vec<u8>, String> {
    let mut header = vec![0xC3, 0x01];
    header.extend(fingerprint::crc_64_avro(text)?);
    Ok(header)
}

/// Confluent's wire format: a zero byte, then the schema id, big endian.
fn confluent_header(id: u32) -> Vec<u8> {
    let mut header = vec![0];
    header.extend_from_slice(&id.to_be_bytes());
    header
}
