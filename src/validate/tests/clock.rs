//! Fields that the gateway fills in, and the limits of a device's clock. A reading
//! that names another device, or brings its own time of receipt, is refused; a refusal
//! for a wrong clock shows both times and the limit.

use std::time::Duration;

use super::*;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

const FIELDS: &str = r#"
    {"name":"x","type":"int","default":0},
    {"name":"who","type":"string","fill":"device"},
    {"name":"when","type":{"type":"long","logicalType":"timestamp-millis"},"clock":"observed"},
    {"name":"arrived","type":{"type":"long","logicalType":"timestamp-millis"},"fill":"received_at"},
    {"name":"y","type":"int","default":0}"#;

fn bench(config: &Config) -> Bench {
    Bench::new(load(&record(FIELDS)).unwrap(), config)
}

#[test]
fn the_gateway_fills_what_the_schema_says() {
    let bench = bench(&Config::default());
    for json in [
        "{}",
        r#"{"y":1}"#,
        r#"{"y":1,"x":2}"#,
        r#"{"who":"device-1"}"#,
        r#"{"y":1,"who":"device-1","x":0}"#,
        // Serializers write null for what a device does not have.
        r#"{"who":null}"#,
        r#"{"y":null,"arrived":null,"when":null,"who":null,"x":null}"#,
        r#"{"x":1,"who":null,"when" : null,"\u0061rrived":null}"#,
    ] {
        assert_eq!(bench.field("test", json, "who"), Value::String(DEVICE.into()), "{json}");
        assert_eq!(
            bench.field("test", json, "when"),
            Value::TimestampMillis(NOW_MS),
            "{json}"
        );
        assert_eq!(
            bench.field("test", json, "arrived"),
            Value::TimestampMillis(NOW_MS),
            "{json}"
        );
    }
    let sent = NOW_MS - 1234;
    let json = format!(r#"{{"when":{sent}}}"#);
    assert_eq!(bench.field("test", &json, "when"), Value::TimestampMillis(sent));
    assert_eq!(bench.field("test", &json, "arrived"), Value::TimestampMillis(NOW_MS));
}

#[test]
fn another_device_or_a_time_of_receipt_is_refused() {
    let bench = bench(&Config::default());
    for json in [
        r#"{"who":"device-2"}"#,
        r#"{"who":"DEVICE-1"}"#,
        r#"{"who":""}"#,
        r#"{"arrived":1795262400000}"#,
        r#"{"arrived":"2026-11-21T12:00:00Z"}"#,
        r#"{"arrived":{}}"#,
        r#"{"arrived":null,"arrived":null}"#,
        r#"{"when":1795262400000.5}"#,
    ] {
        let rejection = bench.read("test", json.as_bytes()).unwrap_err();
        assert_eq!(rejection.reason, Reason::SchemaMismatch, "{json}: {rejection}");
    }
}

#[test]
fn a_clock_that_is_off_is_refused() {
    let cases = [
        (NOW_MS, Ok(())),
        (NOW_MS + 5 * MINUTE_MS, Ok(())),
        (NOW_MS + 5 * MINUTE_MS + 1, Err(Reason::BadClock)),
        (NOW_MS - 30 * DAY_MS, Ok(())),
        (NOW_MS - 30 * DAY_MS - 1, Err(Reason::BadClock)),
        // Seconds for milliseconds, and the other way round.
        (NOW_MS / 1000, Err(Reason::BadClock)),
        (NOW_MS * 1000, Err(Reason::BadClock)),
        (0, Err(Reason::BadClock)),
        (-1, Err(Reason::BadClock)),
        (i64::MIN, Err(Reason::BadClock)),
        (i64::MAX, Err(Reason::BadClock)),
    ];
    let bench = bench(&Config::default());
    for (when, expected) in cases {
        let json = format!(r#"{{"when":{when}}}"#);
        let got = bench.read("test", json.as_bytes()).map(drop);
        assert_eq!(got.map_err(|rejection| rejection.reason), expected, "{json}");
    }
}

#[test]
fn a_bad_clock_is_shown_both_times_and_the_limit() {
    let bench = bench(&Config::default());
    let text = |when: i64| {
        let json = format!(r#"{{"when":{when}}}"#);
        bench.read("test", json.as_bytes()).unwrap_err().detail
    };
    assert_eq!(
        text(1_430_296_680_000),
        "when: 1430296680000 (2015-04-29T08:38:00Z) is more than 720h behind the gateway's clock (2026-11-21T12:00:00Z)"
    );
    assert_eq!(
        text(NOW_MS + DAY_MS),
        "when: 1795348800000 (2026-11-22T12:00:00Z) is more than 5m ahead of the gateway's clock (2026-11-21T12:00:00Z)"
    );
    // Beyond `long` as within.
    for (when, expected) in [
        (
            "9223372036854775807",
            "is more than 5m ahead of the gateway's clock (2026-11-21T12:00:00Z)",
        ),
        (
            "9223372036854775808",
            "is more than 5m ahead of the gateway's clock (2026-11-21T12:00:00Z)",
        ),
        (
            "1e20",
            "is more than 5m ahead of the gateway's clock (2026-11-21T12:00:00Z)",
        ),
        (
            "1e400",
            "is more than 5m ahead of the gateway's clock (2026-11-21T12:00:00Z)",
        ),
        ("-9223372036854775809", "is before 2000-01-01T00:00:00Z"),
        ("-1e20", "is before 2000-01-01T00:00:00Z"),
    ] {
        let json = format!(r#"{{"when":{when}}}"#);
        let rejection = bench.read("test", json.as_bytes()).unwrap_err();
        assert_eq!(rejection.reason, Reason::BadClock, "{json}");
        assert_eq!(rejection.detail, format!("when: {when} (no date) {expected}"));
    }
    assert_eq!(
        text(NOW_MS / 1000),
        "when: 1795262400 (1970-01-21T18:41:02.4Z) is before 2000-01-01T00:00:00Z; seconds? It must be milliseconds since 1970"
    );
    assert_eq!(text(0), "when: 0 (1970-01-01T00:00:00Z) is before 2000-01-01T00:00:00Z");
    for (when, unit) in [(NOW_MS * 1000, "microseconds"), (NOW_MS * 1_000_000, "nanoseconds")] {
        let text = text(when);
        let hint = format!("(2026-11-21T12:00:00Z); {unit}? It must be milliseconds since 1970");
        assert!(text.ends_with(&hint), "{text}");
    }
    // What time.time() gives.
    let rejection = bench.read("test", br#"{"when":1795262400.123}"#).unwrap_err();
    assert_eq!(
        rejection.detail,
        "when: expected long (milliseconds since 1970) or a time such as \"2026-11-21T12:00:00Z\", got 1795262400.123; \
         seconds? It must be milliseconds since 1970"
    );
}

#[test]
fn limits_can_be_set_and_lifted() {
    let parse = toml::from_str::<Config>;
    let strict = parse("max_ahead = \"0s\"\nmax_age = \"90m\"").unwrap();
    assert_eq!(strict.max_age, Some(Duration::from_secs(90 * 60)));
    let strict = bench(&strict);
    let sent = |bench: &Bench, when: i64| bench.read("test", format!(r#"{{"when":{when}}}"#).as_bytes()).is_ok();
    assert!(sent(&strict, NOW_MS) && !sent(&strict, NOW_MS + 1));
    assert!(sent(&strict, NOW_MS - 90 * MINUTE_MS) && !sent(&strict, NOW_MS - 91 * MINUTE_MS));
    let archive = bench(&parse("max_age = \"unlimited\"").unwrap());
    // 2000-01-01T00:00:00Z: nothing was observed before.
    assert!(sent(&archive, 946_684_800_000) && !sent(&archive, 946_684_799_999));
    assert!(!sent(&archive, 0) && !sent(&archive, i64::MIN) && !sent(&archive, NOW_MS + DAY_MS));
    let early = bench(&parse("max_ahead = \"99999999h\"").unwrap());
    assert!(sent(&early, 253_402_300_799_999) && !sent(&early, 253_402_300_800_000));
    // No limit of the configuration is what these exceed.
    for when in ["253402300800000", "\"9999-12-31T23:59:59-00:01\""] {
        let rejection = early
            .read("test", format!(r#"{{"when":{when}}}"#).as_bytes())
            .unwrap_err();
        assert_eq!(
            rejection.detail,
            format!("when: {when} (no date) is after the year 9999")
        );
        assert_eq!(rejection.reason, Reason::BadClock, "{when}");
    }
    let error = parse("max_age = \"for ever\"").unwrap_err().to_string();
    assert!(error.contains("or \"unlimited\""), "{error}");
    assert!(parse("max_age = 0").is_err() && parse("max_old = \"1h\"").is_err());
}

#[test]
fn a_configuration_reads_back_as_it_was_written() {
    for max_age in [None, Some(Duration::from_secs(36 * 3600))] {
        let config = Config {
            max_age,
            ..Config::default()
        };
        let text = toml::to_string(&config).unwrap();
        let back: Config = toml::from_str(&text).unwrap();
        assert_eq!(
            (back.max_age, back.max_ahead),
            (config.max_age, config.max_ahead),
            "{text}"
        );
    }
}
