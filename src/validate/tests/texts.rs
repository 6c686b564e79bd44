//! The texts of refusals: the path, what was expected, what was sent. They are
//! for the developer of a device, so they show the value, cut and escaped; every
//! text has a maximum length, whatever was sent.

use super::*;

const FIELDS: &str = r#"
    {"name":"device","type":"string","fill":"device"},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"},"clock":"observed"},
    {"name":"received_at","type":{"type":"long","logicalType":"timestamp-millis"},"fill":"received_at"},
    {"name":"vehicle_count","type":["null","int"],"default":null},
    {"name":"temperature_c","type":["null","double"],"default":null,"minimum":-90.5,"maximum":70},
    {"name":"status","type":["null",{"type":"enum","name":"S","symbols":["ok","degraded","fault"]}],"default":null},
    {"name":"zone","type":"string","default":""},
    {"name":"classes","type":{"type":"map","values":"long"},"default":{}},
    {"name":"either","type":["null","long","string"],"default":null,"minimum":1},
    {"name":"lanes","type":{"type":"array","items":{"type":"record","name":"Lane","fields":[
        {"name":"lane","type":"int"},
        {"name":"speed_kmh","type":["null","double"],"default":null,"minimum":0,"maximum":250}]}},"default":[]}"#;

fn check(cases: &[(&str, &str)]) {
    let bench = Bench::of_fields(FIELDS);
    for (json, expected) in cases {
        let rejection = bench.read("test", json.as_bytes()).unwrap_err();
        assert_eq!(rejection.detail, *expected, "{json}");
    }
}

#[test]
fn a_refusal_names_path_expected_and_got() {
    check(&[
        (
            r#"{"lanes":[{"lane":1},{"lane":2},{"lane":3,"speed_kmh":255}]}"#,
            "lanes[2].speed_kmh: 255 is above the maximum 250",
        ),
        (
            r#"{"lanes":[{"lane":1,"speed_kmh":-0.5}]}"#,
            "lanes[0].speed_kmh: -0.5 is below the minimum 0",
        ),
        (r#"{"lanes":[{"speed_kmh":1}]}"#, "lanes[0].lane: missing"),
        (r#"{"lanes":[{"lane":1,"lane":1}]}"#, "lanes[0].lane: came twice"),
        (r#"{"lanes":[7]}"#, "lanes[0]: expected object, got 7"),
        (r#"{"lanes":{}}"#, "lanes: expected array, got object"),
        (
            r#"{"status":"broken"}"#,
            "status: \"broken\" is not one of ok, degraded, fault",
        ),
        (r#"{"status":1}"#, "status: expected one of ok, degraded, fault, got 1"),
        (r#"{"vehicle_count":3.5}"#, "vehicle_count: expected int, got 3.5"),
        (
            r#"{"vehicle_count":30.50E-1}"#,
            "vehicle_count: expected int, got 30.50E-1",
        ),
        (
            r#"{"vehicle_count":-3e9}"#,
            "vehicle_count: -3e9 is below the minimum -2147483648",
        ),
        (
            r#"{"vehicle_count":1e999999999999999999999}"#,
            "vehicle_count: 1e999999999999999999999 is above the maximum 2147483647",
        ),
        (r#"{"zone":1.50}"#, "zone: expected string, got 1.50"),
        (r#"{"vehicle_count":"3"}"#, "vehicle_count: expected int, got \"3\""),
        (r#"{"vehicle_count":[]}"#, "vehicle_count: expected int, got array"),
        (r#"{"vehicle_count":true}"#, "vehicle_count: expected int, got true"),
        (
            r#"{"vehicle_count":3000000000}"#,
            "vehicle_count: 3000000000 is above the maximum 2147483647",
        ),
        (
            r#"{"vehicle_count":18446744073709551615}"#,
            "vehicle_count: 18446744073709551615 is above the maximum 2147483647",
        ),
        (
            r#"{"temperature_c":-100}"#,
            "temperature_c: -100 is below the minimum -90.5",
        ),
        (
            r#"{"temperature_c":1e400}"#,
            "temperature_c: 1e400 is above the maximum 70",
        ),
        (
            r#"{"lanes":[{"lane":1,"speed_kmh":-12.5E+999,"x":1}]}"#,
            "lanes[0].speed_kmh: -12.5E+999 is below the minimum 0",
        ),
        (
            r#"{"temperature_c":"NaN"}"#,
            "temperature_c: expected double, got \"NaN\"",
        ),
        (r#"{"temprature_c":1}"#, "temprature_c: unknown field"),
        (r#"{"lanes":[{"lane":null}]}"#, "lanes[0].lane: expected int, got null"),
        (r#"{"lanes":[null]}"#, "lanes[0]: expected object, got null"),
        (
            r#"{"classes":{"car":1,"bus":-1.5}}"#,
            "classes.bus: expected long, got -1.5",
        ),
        (r#"{"classes":{"car":1,"bus":2,"car":3}}"#, "classes.car: came twice"),
        (r#"{"either":true}"#, "either: expected long or string, got true"),
        (r#"{"either":0}"#, "either: 0 is below the minimum 1"),
        (
            r#"{"at":true}"#,
            "at: expected long (milliseconds since 1970) or a time such as \"2026-11-21T12:00:00Z\", got true",
        ),
        (
            r#"{"device":"other"}"#,
            "device: \"other\" is not the device of the address, \"device-1\"",
        ),
        (r#"{"device":7}"#, "device: expected string, got 7"),
        (
            r#"{"received_at":1}"#,
            "received_at: only the gateway writes this field; leave it out",
        ),
        ("[]", "expected object, got array"),
        ("\"x\"", "expected object, got \"x\""),
    ]);
}

#[test]
fn malformed_json_is_shown_by_line_and_column() {
    check(&[
        ("", "line 1, column 0: EOF while parsing a value"),
        (r#"{"zone":"a" "at":1}"#, "line 1, column 13: expected `,` or `}`"),
        (
            "{\n  \"zone\": \"a\",\n  \"at\": x\n}",
            "line 3, column 9: expected value",
        ),
        (r#"{"zone":"a"} x"#, "line 1, column 14: trailing characters"),
        (
            r#"{"zone":"\ud800"}"#,
            "line 1, column 16: unexpected end of hex escape",
        ),
        (r#"{"vehicle_count":01}"#, "line 1, column 19: invalid number"),
    ]);
    let bench = Bench::of_fields(FIELDS);
    let rejection = bench.read("test", b"{\n\"zone\":\"a\xff\"}").unwrap_err();
    assert_eq!(rejection.detail, "line 2, column 10: not UTF-8");
}

#[test]
fn what_the_device_sent_is_cut_and_escaped() {
    let long = "x".repeat(100_000);
    let cut = format!("{}…", "x".repeat(40));
    let digits = "7".repeat(100_000);
    let many = format!(r#"{{"classes":{{"{long}":"{long}"}}}}"#);
    check(&[
        (
            &format!(r#"{{"status":"{long}"}}"#),
            &format!("status: \"{cut}\" is not one of ok, degraded, fault"),
        ),
        (
            &format!(r#"{{"vehicle_count":{digits}.5}}"#),
            &format!("vehicle_count: expected int, got {}…", "7".repeat(40)),
        ),
        (&format!(r#"{{"{long}":1}}"#), &format!("{cut}: unknown field")),
        (&many, &format!("classes.{cut}: expected long, got \"{cut}\"")),
        (
            r#"{"a\"\n\u0007\u202e":1}"#,
            "[\"a\\\"\\n\\u{7}\\u{202e}\"]: unknown field",
        ),
        (
            r#"{"status":"a\nb"}"#,
            "status: \"a\\nb\" is not one of ok, degraded, fault",
        ),
    ]);
}

#[test]
fn every_text_is_bounded() {
    let name = "n".repeat(100);
    let symbols: Vec<String> = (0..1000).map(|index| format!("\"S{index}\"")).collect();
    let bench = Bench::of_fields(&format!(
        r#"{{"name":"{name}","type":["null","Test"],"default":null}},
           {{"name":"e","type":{{"type":"enum","name":"E","symbols":[{}]}},"default":"S1"}}"#,
        symbols.join(",")
    ));
    let nested = format!(
        "{}{}{}",
        format!("{{\"{name}\":").repeat(60),
        r#"{"e":"T"}"#,
        "}".repeat(60)
    );
    let detail = bench.read("test", nested.as_bytes()).unwrap_err().detail;
    assert!(
        detail.starts_with("…nnn") && detail.contains("n.e: \"T\" is not one of S0, S1"),
        "{detail}"
    );
    assert!(detail.chars().count() < 400, "{detail}");
}
