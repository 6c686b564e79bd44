//! Which number a JSON literal is, in every type that accepts numbers. Integers are exact, doubles and floats are
//! rounded once and from the literal, and bounds, sentinels and defaults are rounded like the values that are compared
//! with them.

use super::*;
use Reason::{OutOfRange, SchemaMismatch};

/// Reads each literal as a field of the type; both drivers must agree.
fn check(kind: &str, cases: &[(&str, Result<Value, Reason>)]) {
    let bench = Bench::of_fields(&format!(r#"{{"name":"x",{kind}}}"#));
    for (literal, expected) in cases {
        let json = format!(r#"{{"x":{literal}}}"#);
        let got = bench.decoded("test", json.as_bytes());
        let got = got.map(|value| match value {
            Value::Record(mut fields) => fields.remove(0).1,
            value => value,
        });
        assert_eq!(got.map_err(|rejection| rejection.reason), *expected, "{kind} {json}");
        let mut scratch = Scratch::default();
        let kind = bench.kinds.get("test").unwrap();
        let judged = bench
            .validator
            .judgement(&kind.program, DEVICE, NOW_MS, json.as_bytes(), &mut scratch);
        assert_eq!(
            judged.map_err(|rejection| rejection.reason),
            expected.clone().map(drop),
            "{json}"
        );
    }
}

#[test]
fn an_integer_may_have_a_fraction_of_zero_or_an_exponent() {
    let int = |value| Ok(Value::Int(value));
    check(
        r#""type":"int""#,
        &[
            ("0", int(0)),
            ("-0", int(0)),
            ("0.0", int(0)),
            ("-0.0", int(0)),
            ("0e0", int(0)),
            ("-0e5", int(0)),
            ("0.000e-999999999999999999999", int(0)),
            ("1.0", int(1)),
            ("1e3", int(1000)),
            ("1E+3", int(1000)),
            ("-1200e-2", int(-12)),
            ("12.50e1", int(125)),
            ("0.0000001e7", int(1)),
            ("10000000000000000000000000000e-28", int(1)),
            ("2147483647.0", int(i32::MAX)),
            ("-21474836480e-1", int(i32::MIN)),
            ("2147483648.0", Err(OutOfRange)),
            ("-2147483649e0", Err(OutOfRange)),
            ("1e400", Err(OutOfRange)),
            ("-1e99999999999999999999", Err(OutOfRange)),
            ("0.5", Err(SchemaMismatch)),
            ("125e-1", Err(SchemaMismatch)),
            ("1e-400", Err(SchemaMismatch)),
            ("-1e-400", Err(SchemaMismatch)),
            ("1e-99999999999999999999", Err(SchemaMismatch)),
            // A double rounds these to 1 and to 2^31.
            ("1.00000000000000000000000000001", Err(SchemaMismatch)),
            ("2147483647.9999999999", Err(SchemaMismatch)),
        ],
    );
    let long = |value| Ok(Value::Long(value));
    check(
        r#""type":"long""#,
        &[
            ("9007199254740993.0", long(9_007_199_254_740_993)),
            ("9223372036854775807.0", long(i64::MAX)),
            ("922337203685477580.7e1", long(i64::MAX)),
            ("-9223372036854775808.000", long(i64::MIN)),
            ("9e18", long(9_000_000_000_000_000_000)),
            ("9223372036854775808", Err(OutOfRange)),
            ("9223372036854775808.0", Err(OutOfRange)),
            ("-9223372036854775809", Err(OutOfRange)),
            ("1e19", Err(OutOfRange)),
            ("12345678901234567890123456789", Err(OutOfRange)),
            ("9223372036854775807.5", Err(SchemaMismatch)),
        ],
    );
}

#[test]
fn a_union_stores_an_integer_as_one_where_it_fits() {
    let union = |branch, value| Ok(Value::Union(branch, Box::new(value)));
    let (int, long) = (
        |value| union(0, Value::Int(value)),
        |value| union(0, Value::Long(value)),
    );
    let double = |value| union(1, Value::Double(value));
    check(
        r#""type":["long","double"]"#,
        &[
            ("-0", long(0)),
            ("7", long(7)),
            ("9223372036854775807", long(i64::MAX)),
            ("9223372036854775808", double(9_223_372_036_854_775_808.0)),
            ("-9223372036854775809", double(-9_223_372_036_854_775_808.0)),
            ("-0.0", double(-0.0)),
            ("7.0", double(7.0)),
            ("7e0", double(7.0)),
            ("1e400", Err(OutOfRange)),
        ],
    );
    check(
        r#""type":["int","double"]"#,
        &[
            ("2147483647", int(i32::MAX)),
            ("2147483648", double(2_147_483_648.0)),
            ("3000000000", double(3e9)),
            ("-2147483649", double(-2_147_483_649.0)),
            ("-0", int(0)),
            ("0e0", double(0.0)),
        ],
    );
    // A bound that is declared is a rule about the value: it sends nothing elsewhere.
    check(
        r#""type":[{"type":"int","maximum":9},"float"]"#,
        &[("10", Err(OutOfRange)), ("10.0", union(1, Value::Float(10.0)))],
    );
    check(
        r#""type":["null","long"]"#,
        &[("2e0", union(1, Value::Long(2))), ("2.5", Err(SchemaMismatch))],
    );
}

#[test]
fn a_float_is_rounded_once_and_from_the_literal() {
    let float = |value| Ok(Value::Float(value));
    check(
        r#""type":"float""#,
        &[
            ("0.1", float(0.1)),
            ("-0", float(-0.0)),
            ("16777217", float(16_777_216.0)),
            ("9223372036854775807", float(9_223_372_036_854_775_807.0)),
            // Halfway between 1 and the next float: to even. A little more: up, though a double cannot tell.
            ("1.000000059604644775390625", float(1.0)),
            ("1.00000005960464477539062500000000000001", float(1.000_000_1)),
            ("1.00000005960464477539062499999999999999", float(1.0)),
            ("1.00000017881393432617187499", float(1.000_000_1)),
            ("1.000000178813934326171875", float(1.000_000_2)),
            ("3.4028235e38", float(f32::MAX)),
            ("340282356779733661637539395458142568447", float(f32::MAX)),
            ("340282356779733661637539395458142568448", Err(OutOfRange)),
            ("1e39", Err(OutOfRange)),
            ("-1e400", Err(OutOfRange)),
            ("1e-45", float(f32::from_bits(1))),
            ("7.006492321624085e-46", float(0.0)),
            ("7.0064923216240853546186479164495807e-46", float(f32::from_bits(1))),
            ("1e-400", float(0.0)),
            ("-1e-400", float(-0.0)),
        ],
    );
    check(
        r#""type":"double""#,
        &[
            ("-1e-400", Ok(Value::Double(-0.0))),
            ("1.7976931348623158e308", Ok(Value::Double(f64::MAX))),
            ("1.7976931348623159e308", Err(OutOfRange)),
            ("18446744073709551616", Ok(Value::Double(18_446_744_073_709_551_616.0))),
        ],
    );
}

#[test]
fn bounds_and_sentinels_are_rounded_as_the_values_are() {
    let some = |value| Ok(Value::Union(1, Box::new(value)));
    let null = || Ok(Value::Union(0, Box::new(Value::Null)));
    let float = |value| some(Value::Float(value));
    check(
        r#""type":["null","float"],"minimum":-0.1,"maximum":0.1,"sentinels":[-9999.9]"#,
        &[
            ("0.1", float(0.1)),
            ("0.100000001", float(0.1)),
            ("-0.1", float(-0.1)),
            ("0.10000001", Err(OutOfRange)),
            ("-9999.9", null()),
            ("-9999.90000001", null()),
            ("-9999.89", Err(OutOfRange)),
        ],
    );
    let long = |value| some(Value::Long(value));
    check(
        r#""type":["null","long"],"minimum":9007199254740993.0,"maximum":9.007199254740994e15,"sentinels":[1e3]"#,
        &[
            ("9007199254740992", Err(OutOfRange)),
            ("9007199254740993", long(9_007_199_254_740_993)),
            ("9007199254740994.0", long(9_007_199_254_740_994)),
            ("9007199254740995", Err(OutOfRange)),
            ("1000", null()),
            ("1000.0", null()),
        ],
    );
    // Nothing but the one value between them.
    check(
        r#""type":["null","float"],"minimum":0.1,"maximum":0.10000000149"#,
        &[("0.1", float(0.1)), ("0.11", Err(OutOfRange))],
    );
}

#[test]
fn a_default_keeps_every_digit() {
    let bench = Bench::of_fields(
        r#"{"name":"l","type":"long","default":9007199254740993},
           {"name":"f","type":"float","default":1.00000005960464477539062500000000000001}"#,
    );
    assert_eq!(bench.field("test", "{}", "l"), Value::Long(9_007_199_254_740_993));
    assert_eq!(bench.field("test", "{}", "f"), Value::Float(1.000_000_1));
}
