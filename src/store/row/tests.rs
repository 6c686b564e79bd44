//! Readings as data: the bytes of their rows, what makes two of them the same, and what no row can hold.
//!
//! That PostgreSQL reads these bytes as the values that they were, the integration tests ask.

use apache_avro::types::Value::{Double, Int, Long, Null, String as Text, TimestampMillis, Union};

use super::*;

const SOURCE: Source<'_> = Source {
    device: "loop-7",
    partition: 2,
    offset: 41,
    timestamp_ms: 1_795_838_682_516,
};

fn some(value: Value) -> Value {
    Union(1, Box::new(value))
}

fn none() -> Value {
    Union(0, Box::new(Null))
}

fn record(fields: &[(&str, Value)]) -> Value {
    Value::Record(
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

fn layout(fields: &[(&str, &str)]) -> Layout {
    let fields = fields
        .iter()
        .map(|(name, of)| format!(r#"{{"name":"{name}","type":{of}}}"#));
    let text = format!(
        r#"{{"type":"record","name":"R","fields":[{}]}}"#,
        fields.collect::<Vec<_>>().join(",")
    );
    let schema = Schema::parse_str(&text).unwrap();
    Layout::new("k", &schema, &layout::columns("k", &schema).unwrap())
}

const TIME: &str = r#"{"type":"long","logicalType":"timestamp-millis"}"#;

/// The fields of a row behind those that every row has.
fn fields_of(layout: &Layout, reading: &Value) -> Result<Vec<Option<Vec<u8>>>, Fault> {
    let key = layout.key(reading, SOURCE)?;
    let mut row = Vec::new();
    layout.write(&mut row, reading, key, false, SOURCE)?;
    let (mut fields, mut rest) = (Vec::new(), &row[2..]);
    while !rest.is_empty() {
        let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        let length = usize::try_from(length).ok();
        fields.push(length.map(|length| rest[..length].to_vec()));
        rest = &rest[length.unwrap_or(0)..];
    }
    assert_eq!(fields.len(), usize::from(u16::from_be_bytes([row[0], row[1]])));
    Ok(fields.split_off(layout::OWN_COLUMNS))
}

#[test]
fn a_value_has_the_bytes_of_its_columns_type() {
    let check = |avro: &str, value: Value, expected: Result<Option<&[u8]>, Fault>| {
        let layout = layout(&[("x", avro)]);
        let fields = fields_of(&layout, &record(&[("x", value.clone())]));
        let expected = expected.map(|bytes| vec![bytes.map(<[u8]>::to_vec)]);
        assert_eq!(fields, expected, "{avro} {value:?}");
    };
    check("\"int\"", Int(-2), Ok(Some(&[255, 255, 255, 254])));
    check("\"long\"", Long(1), Ok(Some(&[0, 0, 0, 0, 0, 0, 0, 1])));
    check(
        "[\"null\",\"double\"]",
        some(Double(1.5)),
        Ok(Some(&1.5f64.to_be_bytes())),
    );
    check("[\"null\",\"double\"]", none(), Ok(None));
    check("\"double\"", Double(f64::NAN), Ok(Some(&f64::NAN.to_be_bytes())));
    check("\"boolean\"", Value::Boolean(true), Ok(Some(&[1])));
    check("\"string\"", Text("ü".into()), Ok(Some("ü".as_bytes())));
    check("\"string\"", Text("a\0".into()), Err(Fault::Nul("x".into())));
    check("\"bytes\"", Value::Bytes(vec![0, 1]), Ok(Some(&[0, 1])));
    check(TIME, TimestampMillis(946_684_800_001), Ok(Some(&1000i64.to_be_bytes())));
    check(TIME, TimestampMillis(i64::MAX), Err(Fault::Misfit("x".into())));
    check(TIME, TimestampMillis(253_402_300_800_000), Err(Fault::Time("x".into())));
    check(
        r#"{"type":"int","logicalType":"date"}"#,
        Value::Date(10_958),
        Ok(Some(&[0, 0, 0, 1])),
    );
    check(
        r#"{"type":"int","logicalType":"time-millis"}"#,
        Value::TimeMillis(1),
        Ok(Some(&1000i64.to_be_bytes())),
    );
    let list = r#"{"type":"array","items":"string"}"#;
    check(list, Value::Array(vec![Text("a".into())]), Ok(Some(b"\x01[\"a\"]")));
    check(
        list,
        Value::Array(vec![Text("\\u0000".into())]),
        Ok(Some(b"\x01[\"\\\\u0000\"]")),
    );
    check(
        list,
        Value::Array(vec![Text("\\\0".into())]),
        Err(Fault::Nul("x".into())),
    );
}

#[test]
fn a_row_begins_with_device_times_identity_and_place() {
    let layout = layout(&[
        ("observed_at", TIME),
        ("received_at", TIME),
        ("device", "\"string\""),
        ("x", "\"int\""),
    ]);
    let reading = record(&[
        ("observed_at", TimestampMillis(946_684_800_000)),
        ("received_at", TimestampMillis(946_684_801_000)),
        ("device", Text("loop-7".into())),
        ("x", Int(5)),
    ]);
    let key = layout.key(&reading, SOURCE).unwrap();
    let mut row = Vec::new();
    layout.write(&mut row, &reading, key, true, SOURCE).unwrap();
    let fields: [&[u8]; 8] = [
        b"loop-7",
        &0i64.to_be_bytes(),
        &1_000_000i64.to_be_bytes(),
        &[1],
        &key.reading_id.to_be_bytes(),
        &2i32.to_be_bytes(),
        &41i64.to_be_bytes(),
        &5i32.to_be_bytes(),
    ];
    let mut expected = 8i16.to_be_bytes().to_vec();
    for field in fields {
        expected.extend_from_slice(&(field.len() as i32).to_be_bytes());
        expected.extend_from_slice(field);
    }
    assert_eq!(row, expected);
    assert!(
        layout
            .names
            .starts_with("\"device\", \"observed_at\", \"received_at\", \"is_late\",")
    );
    assert!(layout.names.ends_with("\"kafka_offset\", \"x\""), "{}", layout.names);
}

/// The number is part of what is stored: it must not change from one version to the next.
#[test]
fn the_same_reading_has_the_same_number_whenever_it_is_received() {
    let fields = [
        ("observed_at", TIME),
        ("received_at", TIME),
        ("x", "[\"null\",\"int\"]"),
    ];
    let reading = |observed: i64, received: i64, x: Value| {
        record(&[
            ("observed_at", TimestampMillis(observed)),
            ("received_at", TimestampMillis(received)),
            ("x", x),
        ])
    };
    let id = |reading: &Value| layout(&fields).key(reading, SOURCE).unwrap().reading_id;
    let one = id(&reading(1000, 2000, some(Int(5))));
    assert_eq!(one, {
        let digest = Sha256::digest(br#"{"observed_at":1000,"x":5}"#);
        i64::from_be_bytes(digest[..8].try_into().unwrap())
    });
    assert_eq!(id(&reading(1000, 9999, some(Int(5)))), one);
    assert_ne!(id(&reading(1001, 2000, some(Int(5)))), one);
    assert_ne!(id(&reading(1000, 2000, some(Int(6)))), one);
    assert_ne!(id(&reading(1000, 2000, none())), one);
    // Fields that a later schema has change nothing of a reading that does not have them.
    let later = [
        &fields[..],
        &[("y", "[\"null\",\"int\"]"), ("z", r#"{"type":"array","items":"int"}"#)],
    ]
    .concat();
    let Value::Record(mut with_more) = reading(1000, 2000, some(Int(5))) else {
        unreachable!()
    };
    with_more.extend([("y".to_owned(), none()), ("z".to_owned(), Value::Array(vec![]))]);
    let with_more = layout(&later).key(&Value::Record(with_more), SOURCE).unwrap();
    assert_eq!(with_more.reading_id, one);
}

#[test]
fn a_reading_without_times_has_those_of_its_record() {
    let written_us = SOURCE.timestamp_ms * 1000;
    let check = |layout: &Layout, reading: Value, observed_us: i64, received_us: i64| {
        let key = layout.key(&reading, SOURCE).unwrap();
        assert_eq!((key.observed_us, key.received_us), (observed_us, received_us));
    };
    check(
        &layout(&[("x", "\"int\"")]),
        record(&[("x", Int(1))]),
        written_us,
        written_us,
    );
    let maybe = format!("[\"null\",{TIME}]");
    let times = layout(&[("observed_at", &maybe), ("received_at", TIME)]);
    check(
        &times,
        record(&[("observed_at", none()), ("received_at", TimestampMillis(7))]),
        7000,
        7000,
    );
    check(
        &times,
        record(&[
            ("observed_at", some(TimestampMillis(3))),
            ("received_at", TimestampMillis(7)),
        ]),
        3000,
        7000,
    );
}

#[test]
fn a_reading_of_another_device_than_its_key_is_no_row() {
    let layout = layout(&[("device", "\"string\"")]);
    let fault = layout
        .key(&record(&[("device", Text("loop-8".into()))]), SOURCE)
        .unwrap_err();
    assert_eq!(fault, Fault::OtherDevice("loop-8".into()));
}

#[test]
fn late_is_what_was_received_long_after_it_was_observed() {
    let check = |received_us: i64, expected: bool| {
        let key = Key {
            observed_us: 1000,
            received_us,
            reading_id: 0,
        };
        assert_eq!(key.is_late(3_600_000_000), expected, "{received_us}");
    };
    check(0, false);
    check(1000, false);
    check(3_600_001_000, false);
    check(3_600_001_001, true);
}
