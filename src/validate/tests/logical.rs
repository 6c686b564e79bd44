//! Logical types: only what readers of dates and times can represent is stored (years 1 to
//! 9999, one day). A sentinel may lie outside of that, and a logical type that is unknown
//! or on the wrong base type is ignored, as Avro asks.

use super::*;

/// The smallest and the largest value of each: years 1 to 9999, and one day.
const BOUNDS: &[(&str, &str, i64, i64)] = &[
    ("int", "date", -719_162, 2_932_896),
    ("int", "time-millis", 0, 86_399_999),
    ("long", "time-micros", 0, 86_399_999_999),
    ("long", "timestamp-millis", -62_135_596_800_000, 253_402_300_799_999),
    (
        "long",
        "timestamp-micros",
        -62_135_596_800_000_000,
        253_402_300_799_999_999,
    ),
    (
        "long",
        "local-timestamp-millis",
        -62_135_596_800_000,
        253_402_300_799_999,
    ),
    (
        "long",
        "local-timestamp-micros",
        -62_135_596_800_000_000,
        253_402_300_799_999_999,
    ),
    // The years 1677 to 2262.
    ("long", "timestamp-nanos", i64::MIN, i64::MAX),
    ("long", "local-timestamp-nanos", i64::MIN, i64::MAX),
];

#[test]
fn the_bounds_are_those_of_the_years_1_to_9999_and_of_one_day() {
    for &(kind, logical, lowest, highest) in BOUNDS {
        let bench = Bench::of_fields(&format!(
            r#"{{"name":"x","type":{{"type":"{kind}","logicalType":"{logical}"}}}}"#
        ));
        let read = |literal: String| {
            let got = bench.decoded("test", format!(r#"{{"x":{literal}}}"#).as_bytes());
            got.map(drop).map_err(|rejection| rejection.reason)
        };
        for good in [lowest, highest, 0] {
            assert_eq!(read(good.to_string()), Ok(()), "{logical} {good}");
        }
        for bad in [i128::from(lowest) - 1, i128::from(highest) + 1, i128::MAX] {
            assert_eq!(read(bad.to_string()), Err(Reason::OutOfRange), "{logical} {bad}");
        }
        assert_eq!(read(format!("{highest}.0")), Ok(()), "{logical}");
        assert_eq!(read("0.5".to_owned()), Err(Reason::SchemaMismatch), "{logical}");
    }
}

#[test]
fn a_sentinel_may_be_what_the_logical_type_cannot_be() {
    let bench = Bench::of_fields(
        r#"{"name":"x","type":["null",{"type":"int","logicalType":"time-millis"}],"sentinels":[-1],"maximum":43200000}"#,
    );
    assert_eq!(bench.field("test", r#"{"x":-1}"#, "x"), Value::Null);
    assert_eq!(
        bench.field("test", r#"{"x":43200000}"#, "x"),
        Value::TimeMillis(43_200_000)
    );
    for json in [r#"{"x":-2}"#, r#"{"x":43200001}"#] {
        assert_eq!(
            bench.read("test", json.as_bytes()).unwrap_err().reason,
            Reason::OutOfRange
        );
    }
}

#[test]
fn a_logical_type_that_is_unknown_or_on_another_type_is_ignored() {
    for (kind, json, expected) in [
        (
            r#"{"type":"int","logicalType":"timestamp-millis"}"#,
            "-2147483648",
            Value::Int(i32::MIN),
        ),
        (
            r#"{"type":"long","logicalType":"timestamp-milis"}"#,
            "9223372036854775807",
            Value::Long(i64::MAX),
        ),
        (
            r#"{"type":"long","logicalType":"date"}"#,
            "9223372036854775807",
            Value::Long(i64::MAX),
        ),
        (
            r#"{"type":"double","logicalType":"time-micros"}"#,
            "-1.5",
            Value::Double(-1.5),
        ),
        (
            r#"{"type":"string","logicalType":"decimal","precision":4}"#,
            "\"any\"",
            Value::String("any".into()),
        ),
        (
            r#"{"type":"string","logicalType":"color"}"#,
            "\"any\"",
            Value::String("any".into()),
        ),
        (
            r#"{"type":"array","items":{"type":"string","logicalType":"date"}}"#,
            "[\"a\"]",
            Value::Array(vec![Value::String("a".into())]),
        ),
    ] {
        for field in [
            format!(r#"{{"name":"x","type":{kind}}}"#),
            format!(r#"{{"name":"x","type":["null",{kind}]}}"#),
        ] {
            let bench = Bench::of_fields(&field);
            assert_eq!(
                bench.field("test", &format!(r#"{{"x":{json}}}"#), "x"),
                expected,
                "{field}"
            );
        }
    }
    // No text where there is no timestamp.
    let bench = Bench::of_fields(r#"{"name":"x","type":{"type":"long","logicalType":"timestamp-milis"}}"#);
    let rejection = bench.read("test", br#"{"x":"2026-11-21T12:00:00Z"}"#).unwrap_err();
    assert_eq!(rejection.detail, "x: expected long, got \"2026-11-21T12:00:00Z\"");
}
