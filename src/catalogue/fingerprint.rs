//! The CRC-64-AVRO fingerprint of a schema's parsing canonical form (Avro 1.12, "Schema Fingerprints").
//!
//! apache-avro 0.22 computes both, but its canonical form keeps what the specification strips: `{"type":"long"}` for a
//! long with attributes, and `order`, `precision`, `scale`. A consumer in another language would look for another
//! fingerprint. So the schema is stripped here first, and the library's work on what is left is right.

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use serde_json::{Map, Value};

/// What the specification's STRIP rule keeps, and `namespace`, which its FULLNAMES rule needs.
const KEPT: [&str; 8] = [
    "type",
    "name",
    "namespace",
    "fields",
    "symbols",
    "items",
    "values",
    "size",
];

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// The text has no fingerprint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    NotJson(#[from] serde_json::Error),
    /// It is JSON, but not a schema.
    #[error(transparent)]
    NotASchema(#[from] Box<apache_avro::Error>),
}

/// The fingerprint of a schema's text, little endian.
///
/// # Errors
/// The text is not a schema.
pub fn crc_64_avro(text: &str) -> Result<Vec<u8>, Error> {
    let schema: Value = serde_json::from_str(text)?;
    let stripped = Schema::parse(&strip(&schema)).map_err(Box::new)?;
    Ok(stripped.fingerprint::<Rabin>().bytes)
}

/// The schema without anything that does not affect how data is read.
fn strip(schema: &Value) -> Value {
    match schema {
        Value::Array(branches) => branches.iter().map(strip).collect(),
        Value::Object(fields) if is_primitive(fields) => fields["type"].clone(),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| KEPT.contains(&key.as_str()));
            let stripped = kept.map(|(key, value)| {
                let inner = matches!(key.as_str(), "type" | "items" | "values" | "fields");
                (key.clone(), if inner { strip(value) } else { value.clone() })
            });
            Value::Object(stripped.collect())
        }
        name => name.clone(),
    }
}

/// `{"type": "long", "logicalType": …}`, but not a field, which has a name.
fn is_primitive(fields: &Map<String, Value>) -> bool {
    let named = fields.contains_key("name");
    !named
        && fields
            .get("type")
            .and_then(Value::as_str)
            .is_some_and(|name| PRIMITIVES.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        crc_64_avro(text)
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Expected values: fastavro 1.13, `fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")`, as its bytes in
    /// little endian order.
    #[test]
    fn fingerprints_are_those_of_other_implementations() {
        let plain = r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"a","type":"long"},{"name":"b","type":["null","n.E"]}]}"#;
        let check = |text: &str, expected: &str| assert_eq!(hex(text), expected, "{text}");
        check(r#""long""#, "b71df49344e154d0");
        check(
            r#"{"type":"long","logicalType":"timestamp-millis","unit":"ms"}"#,
            "b71df49344e154d0",
        );
        check(
            &plain.replace(r#""n.E""#, r#"{"type":"enum","name":"E","symbols":["x"]}"#),
            "7171ee0a850d0208",
        );
        let attributed = r#"{"type":"record","name":"R","namespace":"n","doc":"d","fields":[
            {"name":"a","type":{"type":"long","logicalType":"timestamp-millis"},"order":"ignore","minimum":0},
            {"name":"b","type":["null",{"type":"enum","name":"E","doc":"e","symbols":["x"]}],"default":null}]}"#;
        check(attributed, "7171ee0a850d0208");
    }
}
