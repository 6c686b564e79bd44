//! Kinds by name: all that is known of each, as one entry of an immutable snapshot.
//!
//! A kind is made of a schema file's [`Definition`] by compiling it; its counters are those that its name had before, if a
//! kind of that name was ever counted. Nothing in an entry changes once it is in a snapshot.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::schemas::{self, Definition};
use crate::receipt::metrics::{KindTallies, Tallies};
use crate::validate::lookup::Lookup;
use crate::validate::{self, Program};

/// One kind of reading.
#[derive(Debug)]
pub struct Kind {
    /// The last part of an address, and the `kind` label of metrics.
    pub name: String,
    /// Kafka topic of its readings.
    pub topic: String,
    /// The schema's text, as registered with a schema registry.
    pub text: Arc<str>,
    /// The compiled schema, with what precedes each datum.
    pub program: Program,
    pub tallies: Arc<KindTallies>,
}

/// All kinds.
#[derive(Clone, Debug)]
pub struct Kinds {
    /// In the order of their names.
    kinds: Box<[Arc<Kind>]>,
    by_name: Lookup,
}

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
        let named = |mistake| Error::Compile {
            kind: definition.name.clone(),
            mistake,
        };
        let compiled = validate::compile(&definition.schema, &definition.text);
        let mut program = compiled.map_err(|mistakes| mistakes.into_iter().map(named).collect::<Vec<_>>())?;
        program.prefix.clone_from(&definition.prefix);
        Ok(Kind {
            name: definition.name.clone(),
            topic: definition.topic.clone(),
            text: definition.text.clone(),
            program,
            tallies: tallies.of_kind(&definition.name),
        })
    }

    /// Replaces the single-object header by Confluent's, with the registry's id of the schema.
    pub fn use_registry_id(&mut self, id: u32) {
        self.program.prefix = confluent_header(id);
    }
}

/// Confluent's wire format: a zero byte, then the schema id, big endian.
pub fn confluent_header(id: u32) -> Vec<u8> {
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
        let candidates = self.by_name.candidates(name.as_bytes());
        let mut kinds = candidates.filter_map(|index| self.kinds.get(index));
        kinds.find(|kind| kind.name == name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    /// The topics of all kinds.
    pub fn topics(&self) -> Vec<String> {
        self.iter().map(|kind| kind.topic.clone()).collect()
    }

    /// The names of all kinds, for people: `energy, traffic, weather`.
    pub fn names(&self) -> String {
        let names = self.iter().map(|kind| kind.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Kinds::from_iter(std::iter::empty::<Arc<Kind>>())
    }
}

impl FromIterator<Arc<Kind>> for Kinds {
    fn from_iter<I: IntoIterator<Item = Arc<Kind>>>(kinds: I) -> Self {
        // Of one name, the last.
        let named = kinds.into_iter().map(|kind| (kind.name.clone(), kind));
        let kinds: Box<[_]> = named.collect::<BTreeMap<_, _>>().into_values().collect();
        let names: Vec<&[u8]> = kinds.iter().map(|kind| kind.name.as_bytes()).collect();
        Kinds {
            by_name: Lookup::new(&names),
            kinds,
        }
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().map(Arc::new).collect()
    }
}
