//! The ways from JSON to validated Avro that are compared: the gateway's scanner, serde_json with the same program,
//! apache-avro's own path, and serde_json skipping the reading as the floor. And the flaws of readings that are
//! refused.

use std::fmt;
use std::hint::black_box;

use apache_avro::Schema;
use apache_avro::types::Value;
use citygate::catalogue::Kind;
use citygate::validate::Scratch;

use super::payloads::{DEVICE, Kinds};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// What is in service.
    Scanner,
    /// The judge.
    SerdeJson,
    /// apache-avro's naive path: JSON to a tree, that to a value, resolved against the schema, encoded. It checks neither
    /// ranges nor clocks nor unknown fields.
    ApacheAvro,
    /// serde_json skipping over the reading: the least that its parser takes.
    Skip,
}

/// One kind, and the memory that drivers reuse.
pub struct Bench<'k> {
    kinds: &'k Kinds,
    kind: &'k Kind,
    schema: Schema,
    scratch: Scratch,
    /// The fields that the gateway fills, which apache-avro's path must be given.
    filled: Vec<(&'static str, serde_json::Value)>,
}

/// What is wrong with a reading.
#[derive(Clone, Copy, Debug)]
pub enum Flaw {
    None,
    /// The first key.
    UnknownField,
    /// In the middle.
    WrongType,
    /// At the end.
    CutShort,
}

// === impl Bench ===

impl<'k> Bench<'k> {
    pub fn new(kinds: &'k Kinds, kind: usize) -> Self {
        let kind = kinds.kind(kind);
        let schema = Schema::parse_str(&kind.text).unwrap();
        let has = |name: &str| match &schema {
            Schema::Record(record) => record.lookup.contains_key(name),
            _ => false,
        };
        let filled = [("device", DEVICE.into()), ("received_at", kinds.now_ms.into())];
        let filled = filled.into_iter().filter(|(name, _)| has(name)).collect();
        Bench {
            kinds,
            kind,
            schema,
            scratch: Scratch::default(),
            filled,
        }
    }

    /// Takes all of them by one driver.
    pub fn all(&mut self, driver: Driver, payloads: &[Vec<u8>]) {
        let Kinds { validator, now_ms, .. } = self.kinds;
        for json in payloads {
            match driver {
                Driver::Scanner => {
                    let taken = validator.reading(&self.kind.program, DEVICE, *now_ms, json, &mut self.scratch);
                    taken.unwrap();
                    black_box(self.scratch.value());
                }
                Driver::SerdeJson => {
                    let taken = validator.judgement(&self.kind.program, DEVICE, *now_ms, json, &mut self.scratch);
                    taken.unwrap();
                    black_box(self.scratch.value());
                }
                Driver::ApacheAvro => drop(black_box(self.naively(json))),
                Driver::Skip => {
                    black_box(serde_json::from_slice::<serde::de::IgnoredAny>(json).unwrap());
                }
            }
        }
    }

    #[expect(deprecated, reason = "this is the path that its documentation showed")]
    fn naively(&self, json: &[u8]) -> Vec<u8> {
        let mut json: serde_json::Value = serde_json::from_slice(json).unwrap();
        for (name, value) in &self.filled {
            json[name] = value.clone();
        }
        let schema = &self.schema;
        let value = Value::try_from(json).unwrap().resolve(schema).unwrap();
        apache_avro::to_avro_datum(schema, value).unwrap()
    }

    /// Has all of them refused by the scanner.
    pub fn all_refused(&mut self, payloads: &[Vec<u8>]) {
        let Kinds { validator, now_ms, .. } = self.kinds;
        for json in payloads {
            let taken = validator.reading(&self.kind.program, DEVICE, *now_ms, json, &mut self.scratch);
            drop(black_box(taken));
        }
    }
}

// === impl Flaw ===

impl Flaw {
    pub const ALL: [Flaw; 4] = [Flaw::None, Flaw::UnknownField, Flaw::WrongType, Flaw::CutShort];

    pub fn put_into(self, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
        payloads.iter().map(|json| self.put(json.clone())).collect()
    }

    fn put(self, mut json: Vec<u8>) -> Vec<u8> {
        match self {
            Flaw::None => {}
            Flaw::UnknownField => drop(json.splice(1..1, *br#""colour":7,"#)),
            Flaw::WrongType => {
                let middle = json.len() / 2;
                let colon = json.iter().skip(middle).position(|&byte| byte == b':');
                let at = middle + colon.unwrap() + 1;
                drop(json.splice(at..at, *b"[[]],\"x\":"));
            }
            Flaw::CutShort => drop(json.pop()),
        }
        json
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Flaw::None => "nothing is wrong",
            Flaw::UnknownField => "unknown field at the start",
            Flaw::WrongType => "wrong type in the middle",
            Flaw::CutShort => "cut short at the end",
        })
    }
}
