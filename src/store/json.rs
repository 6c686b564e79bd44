//! A decoded reading as JSON text: what `jsonb` columns hold, and what a reading's identity is computed over.
//!
//! Keys are sorted, nulls left out, no spaces: the same reading is always the same text. Bytes and decimals are arrays of
//! numbers, times numbers in the unit of their type, as `citygate tail` shows them. A number that JSON does not have
//! (NaN, infinity) is null.

use apache_avro::types::Value;
use serde::Serialize;

/// Appends a value.
pub fn write(text: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => text.extend_from_slice(b"null"),
        Value::Boolean(is) => scalar(text, is),
        Value::Int(number) | Value::Date(number) | Value::TimeMillis(number) => scalar(text, number),
        Value::Long(number)
        | Value::TimeMicros(number)
        | Value::TimestampMillis(number)
        | Value::TimestampMicros(number)
        | Value::TimestampNanos(number)
        | Value::LocalTimestampMillis(number)
        | Value::LocalTimestampMicros(number)
        | Value::LocalTimestampNanos(number) => scalar(text, number),
        Value::Float(number) => scalar(text, number),
        Value::Double(number) => scalar(text, number),
        Value::String(string) | Value::Enum(_, string) => scalar(text, string),
        Value::Uuid(uuid) => scalar(text, &uuid.as_hyphenated().to_string()),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => scalar(text, bytes),
        Value::Duration(duration) => scalar(text, &<[u8; 12]>::from(*duration)),
        Value::Decimal(decimal) => scalar(text, &Vec::<u8>::try_from(decimal).unwrap_or_default()),
        Value::BigDecimal(decimal) => scalar(text, &decimal.to_plain_string()),
        Value::Union(_, value) => write(text, value),
        Value::Array(items) => {
            text.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write(text, item);
            }
            text.push(b']');
        }
        Value::Map(entries) => object(text, entries.iter().map(|(key, value)| (key.as_str(), value)).collect()),
        Value::Record(fields) => object(text, fields.iter().map(|(key, value)| (key.as_str(), value)).collect()),
    }
}

/// Appends an object of these, in the order of their keys, without what is null.
pub fn object(text: &mut Vec<u8>, mut entries: Vec<(&str, &Value)>) {
    entries.retain(|(_, value)| !is_null(value));
    entries.sort_unstable_by_key(|(key, _)| *key);
    text.push(b'{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        scalar(text, key);
        text.push(b':');
        write(text, value);
    }
    text.push(b'}');
}

fn scalar(text: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Memory cannot fail to be written to, and none of these types can fail to be JSON.
    serde_json::to_writer(text, value).ok();
}

pub fn is_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Union(_, value) => is_null(value),
        _ => false,
    }
}

/// Null, or a list or map that holds nothing: what a field of a later schema is that this reading could not have.
pub fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Union(_, value) => says_nothing(value),
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_always_the_same_text() {
        let check = |value: Value, expected: &str| {
            let mut text = Vec::new();
            write(&mut text, &value);
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        };
        let some = |value| Value::Union(1, Box::new(value));
        check(Value::Double(48.5), "48.5");
        check(Value::Double(5.0), "5.0");
        check(Value::Double(f64::NAN), "null");
        check(Value::Float(0.1), "0.1");
        check(Value::Long(i64::MIN), "-9223372036854775808");
        check(Value::String("a\"\n\u{1}ü".into()), "\"a\\\"\\n\\u0001ü\"");
        check(Value::Bytes(vec![0, 255]), "[0,255]");
        check(Value::Enum(1, "northbound".into()), "\"northbound\"");
        check(some(Value::Boolean(true)), "true");
        check(
            Value::Record(vec![
                ("b".into(), some(Value::Int(1))),
                ("none".into(), Value::Union(0, Box::new(Value::Null))),
                ("a".into(), Value::Array(vec![Value::Null, Value::Int(2)])),
            ]),
            r#"{"a":[null,2],"b":1}"#,
        );
        let map = ["z", "y", "x"].map(|key| (key.to_owned(), Value::Boolean(false)));
        check(Value::Map(map.into()), r#"{"x":false,"y":false,"z":false}"#);
        check(Value::Map([].into()), "{}");
    }
}
