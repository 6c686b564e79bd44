//! Decodes records with `apache-avro` into plain JSON that can be compared with what was sent. The header and the
//! fingerprint are written from Avro's specification, not by the gateway's code, so that a mistake made there shows
//! here.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use serde_json::{Map, Number, Value};

/// The header of the single-object encoding, as the specification has it: the marker C3 01, then the CRC-64-AVRO of the
/// parsing canonical form, little endian. Written from the specification, not by the library that the gateway uses.
pub fn single_object_header(schema: &str) -> [u8; 10] {
    let canonical = canonical_form(&serde_json::from_str(schema).unwrap(), "");
    let mut header = [0xC3, 0x01, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..].copy_from_slice(&fingerprint(&canonical).to_le_bytes());
    header
}

/// Avro 1.12, "Schema Fingerprints".
fn fingerprint(canonical_form: &str) -> u64 {
    const EMPTY: u64 = 0xC15D_213A_A4D7_A795;
    let table: Vec<u64> = (0..256u64)
        .map(|byte| (0..8).fold(byte, |sum, _| (sum >> 1) ^ (EMPTY & (sum & 1).wrapping_neg())))
        .collect();
    canonical_form.bytes().fold(EMPTY, |sum, byte| {
        (sum >> 8) ^ table[((sum ^ u64::from(byte)) & 0xFF) as usize]
    })
}

/// Avro 1.12, "Transforming into Parsing Canonical Form"; for schemas without `fixed`.
fn canonical_form(schema: &Value, namespace: &str) -> String {
    const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
    let full = |name: &str, namespace: &str| match name.contains('.') || namespace.is_empty() {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    };
    let list = |items: &Value, one: &dyn Fn(&Value) -> String| {
        items.as_array().unwrap().iter().map(one).collect::<Vec<_>>().join(",")
    };
    match schema {
        Value::String(name) if PRIMITIVES.contains(&name.as_str()) => format!("\"{name}\""),
        Value::String(name) => format!("\"{}\"", full(name, namespace)),
        Value::Array(_) => format!("[{}]", list(schema, &|branch| canonical_form(branch, namespace))),
        _ => {
            let namespace = schema["namespace"].as_str().unwrap_or(namespace);
            let name = full(schema["name"].as_str().unwrap_or_default(), namespace);
            match schema["type"]
                .as_str()
                .expect("a type is named, or an object or a list itself")
            {
                "array" => format!(
                    r#"{{"type":"array","items":{}}}"#,
                    canonical_form(&schema["items"], namespace)
                ),
                "map" => format!(
                    r#"{{"type":"map","values":{}}}"#,
                    canonical_form(&schema["values"], namespace)
                ),
                "enum" => {
                    let symbols = list(&schema["symbols"], &Value::to_string);
                    format!(r#"{{"name":"{name}","type":"enum","symbols":[{symbols}]}}"#)
                }
                "record" => {
                    let field = |field: &Value| {
                        let of = canonical_form(&field["type"], namespace);
                        format!(r#"{{"name":{},"type":{of}}}"#, field["name"])
                    };
                    let fields = list(&schema["fields"], &field);
                    format!(r#"{{"name":"{name}","type":"record","fields":[{fields}]}}"#)
                }
                primitive => format!("\"{primitive}\""), // its logical type and our attributes are stripped
            }
        }
    }
}

/// A value in Avro's single-object encoding, written with this schema.
pub fn single_object(schema: &Schema, value: &[u8]) -> Value {
    let (header, datum) = value.split_at_checked(10).expect("a header of ten bytes");
    assert_eq!(header[..2], [0xC3, 0x01], "the marker of the single-object encoding");
    decode(schema, datum)
}

/// A value in Confluent's wire format: the schema's id, and what was decoded.
pub fn confluent(schema: &Schema, value: &[u8]) -> (u32, Value) {
    let (header, datum) = value.split_at_checked(5).expect("a header of five bytes");
    assert_eq!(header[0], 0, "Confluent's magic byte");
    let id = u32::from_be_bytes(header[1..].try_into().unwrap());
    (id, decode(schema, datum))
}

fn decode(schema: &Schema, mut datum: &[u8]) -> Value {
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let value = reader.read_value(&mut datum).unwrap();
    assert!(datum.is_empty(), "{} bytes behind the datum", datum.len());
    Value::try_from(value).unwrap()
}

/// Without what says nothing: null fields, empty arrays and empty maps. A whole number is an integer however it was
/// written, so that 5 equals 5.0.
pub fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = fields.into_iter().map(|(name, value)| (name, plain(value)));
            let said: Map<_, _> = said.filter(|(_, value)| !says_nothing(value)).collect();
            Value::Object(said)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        Value::Number(number) => whole(&number).map_or(Value::Number(number), Value::from),
        other => other,
    }
}

/// Up to 2^53, where doubles begin to skip integers.
fn whole(number: &Number) -> Option<i64> {
    let double = number
        .as_f64()
        .filter(|double| number.is_f64() && double.fract() == 0.0);
    double.filter(|double| double.abs() < 9e15).map(|double| double as i64)
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
