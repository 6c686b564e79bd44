//! Records of a kind's topic back into what a device sent, whatever wrote them.
//!
//! A record says itself which schema it was written with: Avro's single-object encoding by a fingerprint, which must be
//! that of a schema that is known here (the folder's, or one that was [added](Decoder::add)), Confluent's wire format by an id, which the
//! registry knows. Any program may write to a topic, so what is no reading of its kind is an expected value,
//! [`Undecodable`], of which only some may be different tomorrow ([`Undecodable::may_pass`]). apache-avro does the decoding.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use strum::IntoStaticStr;

use super::missing::Missing;
use super::registry::LookupError;
use super::registry::lookup::Lookup;
use super::schemas::Definition;
use crate::message::is_device_id;

/// Decodes records of kinds.
#[derive(Debug)]
pub struct Decoder {
    /// Several of a kind, where its schema has changed.
    known: Vec<Known>,
    registry: Option<Lookup>,
    by_id: HashMap<u32, Arc<Writer>>,
    /// Ids of which the registry said that it has no schema, or none that can be used.
    missing: Missing<u32, Arc<LookupError>>,
    /// The registry has one of these now.
    has_found: bool,
}

/// A schema by the header of its single-object encoding.
#[derive(Debug)]
struct Known {
    kind: String,
    prefix: Vec<u8>,
    writer: Arc<Writer>,
}

/// The header of Avro's single-object encoding, if a record begins with one: two bytes, and the schema's fingerprint.
pub fn header(value: &[u8]) -> Option<&[u8]> {
    value.get(..10).filter(|header| header.starts_with(&[0xC3, 0x01]))
}

/// The schema's id in a registry, if a record begins as Confluent's wire format.
pub fn registry_id(value: &[u8]) -> Option<u32> {
    match value {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// A schema that readings were written with, ready to read them.
pub struct Writer {
    schema: &'static Schema,
    reader: GenericDatumReader<'static>,
}

/// What a device sent.
#[derive(Debug)]
pub struct Decoded<'r> {
    pub device: &'r str,
    pub reading: Value,
    /// With which it was written.
    pub writer: Arc<Writer>,
}

/// A record that is no reading of its topic's kind, as far as it can be told; its label is a reason for metrics.
#[derive(Debug, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Undecodable {
    #[error("not a reading of {0}: its key is no device id")]
    NoDevice(String),
    #[error("not a reading of {kind}: it was written with the schema of {of}")]
    OtherKind { kind: String, of: String },
    #[error("not a reading of {kind}: schema {id} of the registry, with which it was written, is {name}")]
    OtherSchema { kind: String, id: u32, name: String },
    #[error("no schema in the folder has the fingerprint that it was written with")]
    UnknownFingerprint,
    #[error("it was written with schema {0} of a registry; set registry.url to find it there")]
    NoRegistry(u32),
    #[error(transparent)]
    UnknownId(Arc<LookupError>),
    #[error(transparent)]
    NoAnswer(LookupError),
    #[error("it begins neither as Avro's single-object encoding nor as Confluent's wire format")]
    UnknownFormat,
    #[error("it cannot be decoded: {0}")]
    NotTheSchema(#[from] Box<apache_avro::Error>),
    #[error("{0} bytes follow the reading")]
    TooLong(usize),
    #[error("it ends too early")]
    TooShort,
}

/// Notes whether more was asked for than there is: apache-avro makes zeros and nulls of it.
struct Datum<'a> {
    rest: &'a [u8],
    is_short: bool,
}

// === impl Decoder ===

impl Decoder {
    /// # Errors
    /// apache-avro cannot resolve the names in a schema.
    pub fn new(definitions: &[Definition], registry: Option<Lookup>) -> Result<Self, Box<apache_avro::Error>> {
        let mut decoder = Decoder {
            known: Vec::new(),
            registry,
            by_id: HashMap::new(),
            missing: Missing::default(),
            has_found: false,
        };
        for kind in definitions {
            decoder.add(&kind.name, kind.prefix.clone(), kind.schema.clone())?;
        }
        Ok(decoder)
    }

    /// From now on records of a kind may have been written with this schema, too.
    ///
    /// # Errors
    /// apache-avro cannot resolve the names in it.
    pub fn add(&mut self, kind: &str, prefix: Vec<u8>, schema: Schema) -> Result<(), Box<apache_avro::Error>> {
        if self.known.iter().all(|known| known.prefix != prefix) {
            self.known.push(Known {
                kind: kind.to_owned(),
                prefix,
                writer: Arc::new(Writer::new(schema)?),
            });
        }
        Ok(())
    }

    /// The schema of this header, and the kind that it is of.
    pub fn writer(&self, prefix: &[u8]) -> Option<(&str, &Arc<Writer>)> {
        let known = self.known.iter().find(|known| known.prefix == prefix)?;
        Some((&known.kind, &known.writer))
    }

    /// A record of this kind's topic.
    ///
    /// # Errors
    /// It is no reading of the kind.
    pub async fn reading<'r>(
        &mut self,
        kind: &Definition,
        key: &'r [u8],
        value: &[u8],
    ) -> Result<Decoded<'r>, Undecodable> {
        let key = str::from_utf8(key).ok();
        let device = key.filter(|key| is_device_id(key));
        let device = device.ok_or_else(|| Undecodable::NoDevice(kind.name.clone()))?;
        let (writer, datum) = match value {
            [0xC3, 0x01, ..] => self.by_fingerprint(kind, value)?,
            [0, a, b, c, d, datum @ ..] => {
                let id = u32::from_be_bytes([*a, *b, *c, *d]);
                let writer = self.by_id(id).await?;
                // Of whatever version: a kind's schema may change, its name does not.
                if writer.schema.name() != kind.schema.name() {
                    return Err(Undecodable::OtherSchema {
                        kind: kind.name.clone(),
                        id,
                        name: writer
                            .schema
                            .name()
                            .map_or_else(|| "no record".to_owned(), ToString::to_string),
                    });
                }
                (writer, datum)
            }
            _ => return Err(Undecodable::UnknownFormat),
        };
        let reading = writer.decoded(datum)?;
        Ok(Decoded {
            device,
            reading,
            writer,
        })
    }

    fn by_fingerprint<'v>(&self, kind: &Definition, value: &'v [u8]) -> Result<(Arc<Writer>, &'v [u8]), Undecodable> {
        let mut all = self.known.iter();
        let found = all.find_map(|known| Some((known, value.strip_prefix(&*known.prefix)?)));
        match found {
            Some((known, datum)) if known.kind == kind.name => Ok((known.writer.clone(), datum)),
            Some((known, _)) => Err(Undecodable::OtherKind {
                kind: kind.name.clone(),
                of: known.kind.clone(),
            }),
            None => Err(Undecodable::UnknownFingerprint),
        }
    }

    /// The schema that the registry has under this id. That it has none is remembered for a short time.
    ///
    /// # Errors
    /// There is no registry, it does not answer, or it has none.
    pub async fn by_id(&mut self, id: u32) -> Result<Arc<Writer>, Undecodable> {
        if let Some(known) = self.by_id.get(&id) {
            return Ok(known.clone());
        }
        if let Some(why) = self.missing.recent(&id, Instant::now()) {
            return Err(Undecodable::UnknownId(why.clone()));
        }
        let registry = self.registry.as_ref().ok_or(Undecodable::NoRegistry(id))?;
        let found = registry.schema(id).await.and_then(|schema| {
            let writer = Writer::new(schema);
            writer.map_err(|error| LookupError::NotASchema { id, error })
        });
        match found {
            Ok(writer) => {
                self.has_found |= self.missing.found(&id);
                let writer = Arc::new(writer);
                self.by_id.insert(id, writer.clone());
                Ok(writer)
            }
            Err(error) => {
                let why = Undecodable::of_lookup(error);
                if let Undecodable::UnknownId(why) = &why {
                    self.missing.note(id, why.clone(), Instant::now());
                }
                Err(why)
            }
        }
    }

    /// Whether a schema has been found since the last call that was missing before.
    pub fn has_found(&mut self) -> bool {
        std::mem::take(&mut self.has_found)
    }
}

// === impl Writer ===

impl Writer {
    /// The schema is kept for as long as the process runs, which needs one for each version of a kind's schema that it meets.
    fn new(schema: Schema) -> Result<Self, Box<apache_avro::Error>> {
        let schema: &'static Schema = Box::leak(Box::new(schema));
        let reader = GenericDatumReader::builder(schema).build().map_err(Box::new)?;
        Ok(Writer { schema, reader })
    }

    pub fn schema(&self) -> &Schema {
        self.schema
    }

    /// The whole datum, and nothing behind it.
    ///
    /// # Errors
    /// It is not of this schema, too long, or too short.
    pub fn decoded(&self, datum: &[u8]) -> Result<Value, Undecodable> {
        let mut datum = Datum {
            rest: datum,
            is_short: false,
        };
        let value = self.reader.read_value(&mut datum);
        if datum.is_short {
            return Err(Undecodable::TooShort);
        }
        match datum.rest.len() {
            0 => Ok(value.map_err(Box::new)?),
            more => {
                value.map_err(Box::new)?;
                Err(Undecodable::TooLong(more))
            }
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Writer").field(&self.schema.name()).finish()
    }
}

// === impl Undecodable ===

impl Undecodable {
    fn of_lookup(error: LookupError) -> Self {
        match error {
            LookupError::NoAnswer(_) | LookupError::Refused { .. } => Undecodable::NoAnswer(error),
            LookupError::Unknown(_) | LookupError::NotASchema { .. } => Undecodable::UnknownId(error.into()),
        }
    }

    /// Whether the same record may be decodable later: nothing is known of its schema yet.
    pub fn may_pass(&self) -> bool {
        matches!(self, Undecodable::NoAnswer(_))
    }

    /// Whether only its schema is missing, which may become known.
    pub fn wants_schema(&self) -> bool {
        matches!(
            self,
            Undecodable::UnknownFingerprint | Undecodable::NoRegistry(_) | Undecodable::UnknownId(_)
        )
    }

    /// The `reason` label of metrics.
    pub fn reason(&self) -> &'static str {
        self.into()
    }
}

// === impl Datum ===

impl Read for Datum<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_short |= self.rest.len() < buffer.len();
        self.rest.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datum_is_whole_or_is_refused() {
        let schema = r#"{"type":"record","name":"R","fields":[
            {"name":"text","type":"string"},
            {"name":"number","type":["null","double"],"default":null},
            {"name":"more","type":["null","long"],"default":null},
            {"name":"is","type":["null","boolean"],"default":null},
            {"name":"items","type":{"type":"array","items":"long"}}]}"#;
        let writer = Writer::new(Schema::parse_str(schema).unwrap()).unwrap();
        let whole = [&[4, b'a', b'b', 2][..], &1.5f64.to_le_bytes(), &[0, 2, 1, 2, 14, 0]].concat();
        let json = |datum: &[u8]| serde_json::Value::try_from(writer.decoded(datum).unwrap()).unwrap();
        let expected = serde_json::json!({"text": "ab", "number": 1.5, "more": null, "is": true, "items": [7]});
        assert_eq!(json(&whole), expected);
        for end in 0..whole.len() {
            let decoded = writer.decoded(&whole[..end]);
            assert!(decoded.is_err(), "{end} of {} bytes: {decoded:?}", whole.len());
        }
        let more = [&whole[..], &[0]].concat();
        assert_eq!(
            writer.decoded(&more).unwrap_err().to_string(),
            "1 bytes follow the reading"
        );
        // Other writers give the size of a block as well.
        let sized = [&whole[..15], &[1, 2, 14, 0]].concat();
        assert_eq!(json(&sized), expected);
    }
}
