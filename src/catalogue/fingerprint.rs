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

/// What implementations of Avro need to read and write, besides [`KEPT`].
const READ: [&str; 6] = ["default", "aliases", "order", "logicalType", "precision", "scale"];

/// The fingerprint of a schema, little endian.
///
/// # Errors
/// It is no schema.
pub fn crc_64_avro(schema: &Value) -> Result<Vec<u8>, Box<apache_avro::Error>> {
    let stripped = Schema::parse(&only(schema, &|name| KEPT.contains(&name))).map_err(Box::new)?;
    Ok(stripped.fingerprint::<Rabin>().bytes)
}

/// The schema without documentation and attributes, of which apache-avro would keep a copy of each.
pub fn plain(schema: &Value) -> Value {
    only(schema, &|name| KEPT.contains(&name) || READ.contains(&name))
}

/// The schema with nothing but these members.
fn only(schema: &Value, is_kept: &dyn Fn(&str) -> bool) -> Value {
    match schema {
        Value::Array(branches) => branches.iter().map(|branch| only(branch, is_kept)).collect(),
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| is_kept(name));
            let kept = kept.map(|(name, value)| {
                let inner = matches!(name.as_str(), "type" | "items" | "values" | "fields");
                (name.clone(), if inner { only(value, is_kept) } else { value.clone() })
            });
            let mut kept: Map<String, Value> = kept.collect();
            // `{"type": "long", "unit": …}` is a long.
            match kept.remove("type") {
                Some(of) if kept.is_empty() => of,
                Some(of) => {
                    kept.insert("type".to_owned(), of);
                    Value::Object(kept)
                }
                None => Value::Object(kept),
            }
        }
        name => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        crc_64_avro(&serde_json::from_str(text).unwrap())
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
