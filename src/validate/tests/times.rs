//! Times as text: RFC 3339 with an offset, exact to the unit, in every
//! timestamp type. What is no time is refused with the reason, and one
//! instant gets the same answer as text and as number.

use super::*;

const FIELDS: &str = r#"
    {"name":"when","type":{"type":"long","logicalType":"timestamp-millis"},"clock":"observed"},
    {"name":"ms","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null,"sentinels":[0],"minimum":1},
    {"name":"us","type":{"type":"long","logicalType":"timestamp-micros"},"default":0},
    {"name":"ns","type":{"type":"long","logicalType":"timestamp-nanos"},"default":0},
    {"name":"either","type":[{"type":"long","logicalType":"timestamp-millis"},"double"],"default":0},
    {"name":"text","type":["string",{"type":"long","logicalType":"timestamp-millis"}],"default":""},
    {"name":"local","type":{"type":"long","logicalType":"local-timestamp-millis"},"default":0}"#;

#[test]
fn a_time_with_an_offset_is_exact() {
    let bench = Bench::of_fields(FIELDS);
    let micros = |value| Value::TimestampMicros(value);
    for (text, expected) in [
        ("2026-11-21T12:00:00Z", 1_795_262_400_000_000),
        ("2026-11-21t12:00:00z", 1_795_262_400_000_000),
        ("2026-11-21 12:00:00Z", 1_795_262_400_000_000),
        ("2026-11-21T13:00:00+01:00", 1_795_262_400_000_000),
        ("2026-11-21T06:30:00-05:30", 1_795_262_400_000_000),
        ("2026-11-21T12:00:00-00:00", 1_795_262_400_000_000),
        ("2026-11-21T12:00:00.5Z", 1_795_262_400_500_000),
        ("2026-11-21T12:00:00.123456Z", 1_795_262_400_123_456),
        // Cut off, towards the past.
        ("2026-11-21T12:00:00.1234567899999Z", 1_795_262_400_123_456),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("0000-12-31T23:30:00-00:30", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ("9999-12-31T23:59:59.999999+00:00", 253_402_300_799_999_999),
    ] {
        let json = format!(r#"{{"us":"{text}"}}"#);
        assert_eq!(bench.field("test", &json, "us"), micros(expected), "{text}");
    }
}

#[test]
fn a_time_can_be_text_in_every_timestamp() {
    let bench = Bench::of_fields(FIELDS);
    let text = "2026-11-21T12:59:59.987654321+01:00";
    for (name, expected) in [
        ("when", Value::TimestampMillis(1_795_262_399_987)),
        ("ms", Value::TimestampMillis(1_795_262_399_987)),
        ("us", Value::TimestampMicros(1_795_262_399_987_654)),
        ("ns", Value::TimestampNanos(1_795_262_399_987_654_321)),
        ("either", Value::TimestampMillis(1_795_262_399_987)),
        // A string, where the union has one.
        ("text", Value::String(text.into())),
    ] {
        let json = format!(r#"{{"{name}":"{text}"}}"#);
        assert_eq!(bench.field("test", &json, name), expected, "{name}");
    }
    // Escapes change nothing, and a sentinel is one in either form.
    let json = r#"{"when":"2026\u002d11-21T12:00:00Z","ms":"1970-01-01T00:00:00Z"}"#;
    assert_eq!(bench.field("test", json, "when"), Value::TimestampMillis(NOW_MS));
    assert_eq!(bench.field("test", json, "ms"), Value::Null);
}

#[test]
fn what_is_no_time_is_refused_in_words() {
    let bench = Bench::of_fields(FIELDS);
    let form = "is not an RFC 3339 time, such as 2026-11-21T12:00:00Z";
    let offset = "has no offset from UTC; end it with Z or with one such as +01:00";
    let none = "is not a valid date and time";
    let leap = "is a leap second, which a number since 1970 cannot express; send the second before it";
    for (text, expected) in [
        ("", form),
        ("now", form),
        ("1795262400000", form),
        ("2026-11-21", form),
        ("2026-11-21T12:00Z", form),
        ("20261121T120000Z", form),
        ("2026-11-21T12:00:00,5Z", form),
        ("2026-11-21T12:00:00.Z", form),
        ("2026-11-21T12:00:00+0100", form),
        ("2026-11-21T12:00:00+01", form),
        ("2026-11-21T12:00:00 Z", form),
        ("2026-11-21T12:00:00Z ", form),
        (" 2026-11-21T12:00:00Z", form),
        ("2026-11-21T12:00:00Z[UTC]", form),
        ("+02026-11-21T12:00:00Z", form),
        ("2026-11-2\u{661}T12:00:00Z", form),
        ("2026-11-21T12:00:00", offset),
        ("2026-11-21T12:00:00.123", offset),
        ("2026-02-29T12:00:00Z", none),
        ("2026-13-01T12:00:00Z", none),
        ("2026-00-01T12:00:00Z", none),
        ("2026-11-31T12:00:00Z", none),
        ("2026-11-21T24:00:00Z", none),
        ("2026-11-21T12:60:00Z", none),
        ("2026-11-21T12:00:61Z", none),
        ("2026-11-21T12:00:00+24:00", none),
        ("2026-11-21T12:00:00+01:60", none),
        ("2016-12-31T23:59:60Z", leap),
        ("2017-01-01T00:59:60.5+01:00", leap),
        ("2016-12-31T22:59:60-01:00", leap),
        // No leap second ever ends another minute than the last one of a day of UTC.
        ("2016-12-31T23:59:60+01:00", none),
        ("2026-11-21T12:00:60Z", none),
        ("2026-13-01T23:59:60Z", none),
        ("2026-11-21T24:59:60Z", none),
        ("2026-11-21T23:60:60Z", none),
    ] {
        for name in ["when", "us", "either"] {
            let json = format!(r#"{{"{name}":"{text}"}}"#);
            let rejection = bench.read("test", json.as_bytes()).unwrap_err();
            assert_eq!(rejection.detail, format!("{name}: \"{text}\" {expected}"));
            assert_eq!(rejection.reason, Reason::SchemaMismatch, "{json}");
        }
    }
    // A local time has no offset, and the time of day is not a text of ours.
    let rejection = bench.read("test", br#"{"local":"2026-11-21T12:00:00"}"#).unwrap_err();
    assert_eq!(rejection.detail, "local: expected long, got \"2026-11-21T12:00:00\"");
}

#[test]
fn a_time_beyond_what_can_be_stored_has_one_reason_as_text_and_as_number() {
    let bench = Bench::of_fields(FIELDS);
    let years = "is beyond the times that can be stored, which are those of the years 1 to 9999";
    let nanos = "is beyond the times that can be stored; nanoseconds since 1970 reach from 1677 to 2262";
    for (name, text, number, expected) in [
        ("us", "0000-06-01T00:00:00Z", "-62148643200000000", years),
        ("us", "0001-01-01T00:00:00+00:01", "-62135596860000000", years),
        ("us", "9999-12-31T23:59:59-00:01", "253402300859000000", years),
        ("ms", "9999-12-31T23:59:59-00:01", "253402300859000", years),
        ("either", "9999-12-31T23:59:59-00:01", "253402300859000", years),
        ("ns", "2262-04-11T23:47:16.854775808Z", "9223372036854775808", nanos),
        ("ns", "1677-09-21T00:12:43.145224191Z", "-9223372036854775809", nanos),
        ("ns", "0000-06-01T00:00:00Z", "-62148643200000000000", nanos),
    ] {
        let rejection = |value: &str| {
            let json = format!(r#"{{"{name}":{value}}}"#);
            bench.read("test", json.as_bytes()).unwrap_err()
        };
        assert_eq!(rejection(number).reason, Reason::OutOfRange, "{name} {number}");
        let rejection = rejection(&format!("\"{text}\""));
        assert_eq!(rejection.reason, Reason::OutOfRange, "{name} {text}");
        assert_eq!(rejection.detail, format!("{name}: \"{text}\" {expected}"));
    }
}

#[test]
fn a_time_as_text_is_judged_as_a_number_is() {
    let bench = Bench::of_fields(FIELDS);
    for (text, expected) in [
        (
            "1999-12-31T23:59:59.999Z",
            "(1999-12-31T23:59:59.999Z) is before 2000-01-01T00:00:00Z",
        ),
        (
            "1970-01-21T18:41:02Z",
            "(1970-01-21T18:41:02Z) is before 2000-01-01T00:00:00Z",
        ),
        (
            "2026-11-21T13:06:00+01:00",
            "(2026-11-21T12:06:00Z) is more than 5m ahead of the gateway's clock (2026-11-21T12:00:00Z)",
        ),
        ("0000-06-01T00:00:00Z", "(no date) is before 2000-01-01T00:00:00Z"),
        (
            "9999-12-31T23:59:59-00:01",
            "(no date) is more than 5m ahead of the gateway's clock (2026-11-21T12:00:00Z)",
        ),
        (
            "2026-10-01T00:00:00Z",
            "(2026-10-01T00:00:00Z) is more than 720h behind the gateway's clock (2026-11-21T12:00:00Z)",
        ),
    ] {
        let rejection = bench
            .read("test", format!(r#"{{"when":"{text}"}}"#).as_bytes())
            .unwrap_err();
        assert_eq!(rejection.detail, format!("when: \"{text}\" {expected}"));
        assert_eq!(rejection.reason, Reason::BadClock);
    }
}
