//! The validator's tests: which readings it accepts and refuses, the texts of its refusals, and that its bytes are
//! apache-avro's. [`Bench`] compiles schemas and runs both drivers, the scanner and serde_json, which must agree in
//! every test; each module has one subject.

mod attributes;
mod captures;
mod clock;
mod corpus;
mod dialect;
mod draw;
mod generate;
mod identity;
mod judge;
mod logical;
mod matrix;
mod mistakes;
mod mutation;
mod numbers;
mod python;
mod quality_flags;
mod texts;
mod times;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;

use super::*;
use crate::catalogue::{Kind, Kinds};
use crate::outcome::Reason;
use crate::receipt::metrics::Tallies;

/// 2026-11-21T12:00:00Z.
const NOW_MS: i64 = 1_795_262_400_000;
const DEVICE: &str = "device-1";

/// A validator and what it needs.
struct Bench {
    kinds: Kinds,
    /// As apache-avro has them.
    schemas: BTreeMap<String, Schema>,
    validator: Validator,
    scratch: RefCell<Scratch>,
}

impl Bench {
    /// One kind, `test`.
    fn of(schema: &str) -> Self {
        Bench::new(load(schema).unwrap(), &Config::default())
    }

    /// One kind, `test`: a record of these fields.
    fn of_fields(fields: &str) -> Self {
        Bench::of(&record(fields))
    }

    /// The repository's own kinds.
    fn shipped(config: &Config) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        Bench::new(load_folder(&folder).unwrap(), config)
    }

    fn new(kinds: Kinds, config: &Config) -> Self {
        let schemas = kinds.iter().map(|kind| {
            let schema = Schema::parse_str(&kind.text).unwrap();
            (kind.name.clone(), schema)
        });
        Bench {
            schemas: schemas.collect(),
            kinds,
            validator: Validator::new(config),
            scratch: RefCell::default(),
        }
    }

    fn only_kind(&self) -> &Kind {
        let mut kinds = self.kinds.iter();
        let kind = kinds.next().expect("one kind");
        assert!(kinds.next().is_none(), "one kind");
        kind
    }

    /// The datum, without its prefix.
    fn read(&self, kind: &str, json: &[u8]) -> Result<Vec<u8>, Rejection> {
        let program = &self.kinds.get(kind).unwrap().program;
        let mut scratch = self.scratch.borrow_mut();
        self.validator.reading(program, DEVICE, NOW_MS, json, &mut scratch)?;
        let datum = scratch.value().strip_prefix(program.prefix.as_slice());
        Ok(datum.expect("the value begins with the kind's prefix").to_vec())
    }

    /// The same, decoded by apache-avro, which must use up every byte.
    fn decoded(&self, kind: &str, json: &[u8]) -> Result<Value, Rejection> {
        let datum = self.read(kind, json)?;
        let schema = &self.schemas[kind];
        let mut rest = datum.as_slice();
        let reader = GenericDatumReader::builder(schema).build().unwrap();
        let value = reader.read_value(&mut rest).unwrap();
        assert!(rest.is_empty(), "{} bytes are left over", rest.len());
        Ok(value)
    }

    /// The decoded value of one field.
    fn field(&self, kind: &str, json: &str, name: &str) -> Value {
        field(&self.decoded(kind, json.as_bytes()).unwrap(), name).clone()
    }
}

fn record(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"Test","fields":[{fields}]}}"#)
}

fn load(schema: &str) -> Result<Kinds, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("test.avsc"), schema).unwrap();
    load_folder(folder.path())
}

fn load_folder(folder: &Path) -> Result<Kinds, Vec<String>> {
    let loaded = Kinds::load(folder, "city.", &Tallies::default());
    loaded.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// A record's field, out of the union around it.
fn field<'v>(record: &'v Value, name: &str) -> &'v Value {
    let Value::Record(fields) = bare(record) else {
        panic!("{record:?} is no record")
    };
    let found = fields.iter().find(|(field, _)| field == name);
    bare(&found.unwrap_or_else(|| panic!("no field {name}")).1)
}

fn bare(value: &Value) -> &Value {
    match value {
        Value::Union(_, inner) => inner,
        value => value,
    }
}
