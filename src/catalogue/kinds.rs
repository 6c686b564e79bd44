//! Kinds by name: all that is known of each, as one entry of an immutable snapshot.
//!
//! A kind is made of a schema file's [`Definition`] by compiling it; its counters are those that its name had before, if a
//! kind of that name was ever counted. Nothing in an entry changes once it is in a snapshot.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use apache_avro::Schema;

use super::schemas::{self, Definition};
use crate::receipt::metrics::{KindTallies, Tallies};
use crate::validate::{self, Program};

/// One kind of reading.
#[derive(Debug)]
pub struct Kind {
    /// The last part of an address, and the `kind` label of metrics.
    pub name: String,
    /// Kafka topic of its readings.
    pub topic: String,
    /// The schema's text, as registered with a schema registry.
    pub text: String,
    pub schema: Schema,
    /// The compiled schema, with what precedes each datum.
    pub program: Program,
    pub tallies: Arc<KindTallies>,
}

/// All kinds, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Kinds(BTreeMap<String, Arc<Kind>>);

/// What keeps a folder of schema files from being a catalogue; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Schema(#[from] schemas::Error),
    /// A schema cannot be compiled; `mistake` names the field.
    #[error("{kind}: {mistake}")]
    Compile { kind: String, mistake: String },
}

/// Compiles every definition.
///
/// # Errors
/// All mistakes at once, each naming the kind and the field.
pub fn compile(definitions: &[Definition], tallies: &Tallies) -> Result<Vec<Kind>, Vec<Error>> {
    let mut kinds = Vec::new();
    let mut mistakes = Vec::new();
    for definition in definitions {
        match Kind::compile(definition, tallies) {
            Ok(kind) => kinds.push(kind),
            Err(found) => mistakes.extend(found),
        }
    }
    if mistakes.is_empty() { Ok(kinds) } else { Err(mistakes) }
}

// === impl Kind ===

impl Kind {
    /// # Errors
    /// All mistakes of the schema, each naming the kind and the field.
    pub fn compile(definition: &Definition, tallies: &Tallies) -> Result<Self, Vec<Error>> {
        let Definition {
            name,
            topic,
            text,
            schema,
            prefix,
        } = definition.clone();
        let named = |mistake| Error::Compile {
            kind: name.clone(),
            mistake,
        };
        let compiled = validate::compile(&schema, &text);
        let mut program = compiled.map_err(|mistakes| mistakes.into_iter().map(named).collect::<Vec<_>>())?;
        program.prefix = prefix;
        Ok(Kind {
            tallies: tallies.of_kind(&name),
            name,
            topic,
            text,
            schema,
            program,
        })
    }

    /// Replaces the single-object header by Confluent's, with the registry's id of the schema.
    pub fn use_registry_id(&mut self, id: u32) {
        self.program.prefix = confluent_header(id);
    }
}

/// Confluent's wire format: a zero byte, then the schema id, big endian.
fn confluent_header(id: u32) -> Vec<u8> {
    let mut header = vec![0];
    header.extend_from_slice(&id.to_be_bytes());
    header
}

// === impl Kinds ===

impl Kinds {
    /// Reads and compiles every schema file of a folder; all mistakes at once.
    pub fn load(folder: &Path, topic_prefix: &str, tallies: &Tallies) -> Result<Self, Vec<Error>> {
        let found = schemas::read(&schemas::Config::every(folder), topic_prefix);
        if !found.errors.is_empty() {
            return Err(found.errors.into_iter().map(Error::from).collect());
        }
        Ok(compile(&found.definitions, tallies)?.into_iter().collect())
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Kind>> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.0.values()
    }

    /// The topics of all kinds.
    pub fn topics(&self) -> Vec<String> {
        self.iter().map(|kind| kind.topic.clone()).collect()
    }

    /// The names of all kinds, for people: `energy, traffic, weather`.
    pub fn names(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl FromIterator<Arc<Kind>> for Kinds {
    fn from_iter<I: IntoIterator<Item = Arc<Kind>>>(kinds: I) -> Self {
        let named = kinds.into_iter().map(|kind| (kind.name.clone(), kind));
        Kinds(named.collect())
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().map(Arc::new).collect()
    }
}
