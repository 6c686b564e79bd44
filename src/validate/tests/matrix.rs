//! Which readings are accepted and which are rejected, by type and by reason: malformed,
//! schema mismatch, out of range. Every row goes through both drivers. Texts of refusals
//! are in `texts`, numbers in `numbers`, times in `times`.

use super::*;
use Reason::{Malformed, OutOfRange, SchemaMismatch};

const FIELDS: &str = r#"
    {"name":"t","type":"double","minimum":-90,"maximum":70},
    {"name":"n","type":"int","default":0},
    {"name":"l","type":"long","default":0},
    {"name":"o","type":["null","double"],"default":null},
    {"name":"oi","type":["null","int"],"default":null},
    {"name":"f","type":"float","default":0},
    {"name":"s","type":"string","default":""},
    {"name":"b","type":"boolean","default":false},
    {"name":"e","type":{"type":"enum","name":"E","symbols":["OK","BAD"]},"default":"OK"},
    {"name":"tags","type":{"type":"array","items":"string"},"default":[]},
    {"name":"m","type":{"type":"map","values":"int"},"default":{}},
    {"name":"next","type":["null","Test"],"default":null}"#;

fn check(cases: &[(&[u8], Result<(), Reason>)]) {
    let bench = Bench::of_fields(FIELDS);
    for (json, expected) in cases {
        let got = bench
            .decoded("test", json)
            .map(drop)
            .map_err(|rejection| rejection.reason);
        assert_eq!(got, *expected, "{}", String::from_utf8_lossy(json));
    }
}

#[test]
fn what_fits_is_taken() {
    check(&[
        (br#"{"t":1.5}"#, Ok(())),
        (br#"{"t":3}"#, Ok(())),
        (br#"{"t":-0}"#, Ok(())),
        (br#"{"t":1e1}"#, Ok(())),
        (br#"{"t":1,"o":3}"#, Ok(())),
        (br#"{"t":1,"o":null}"#, Ok(())),
        (br#"{"t":1,"oi":3}"#, Ok(())),
        (br#"{"t":1,"n":-0}"#, Ok(())),
        (br#"{"t":1,"n":3.0}"#, Ok(())),
        (br#"{"t":1,"n":3e0}"#, Ok(())),
        (br#"{"t":1,"l":3.0}"#, Ok(())),
        (br#"{"t":1,"oi":3.0}"#, Ok(())),
        (br#"{"t":1,"n":null,"s":null,"tags":null,"m":null,"next":null}"#, Ok(())),
        (br#"{"t":1,"n":2147483647,"l":9223372036854775807}"#, Ok(())),
        (br#"{"t":1,"n":-2147483648,"l":-9223372036854775808}"#, Ok(())),
        (br#"{"t":1,"f":3.25}"#, Ok(())),
        (br#"{"t":1,"tags":[]}"#, Ok(())),
        (br#"{"t":1,"tags":["a","b"],"m":{"x":1,"y":2}}"#, Ok(())),
        (br#"{"s":"\u00e9\ud83d\ude00\n","t":1}"#, Ok(())),
        ("{\"s\":\"é😀\",\"t\":1}".as_bytes(), Ok(())),
        (b" \r\n\t{ \"t\" : 1 }\n ", Ok(())),
        (br#"{"\u0074":1}"#, Ok(())),
        (br#"{"next":{"t":2,"next":{"t":3}},"t":1}"#, Ok(())),
    ]);
}

#[test]
fn what_is_not_json_is_malformed() {
    check(&[
        (b"", Err(Malformed)),
        (b"   ", Err(Malformed)),
        (b"hello", Err(Malformed)),
        (b"\xef\xbb\xbf{\"t\":1}", Err(Malformed)),
        (br#"{"t":1"#, Err(Malformed)),
        (br#"{"t":"#, Err(Malformed)),
        (br#"{"t"#, Err(Malformed)),
        (br#"{"t":1,}"#, Err(Malformed)),
        (br#"{"t":1} x"#, Err(Malformed)),
        (br#"{"t":1}{"t":1}"#, Err(Malformed)),
        // Whitespace is four characters (RFC 8259 §2); a form feed, a vertical tab or a no-break space is none of them.
        (b"\x0c{\"t\":1}", Err(Malformed)),
        (b"{\"t\":1}\x0c", Err(Malformed)),
        (b"{\"t\":\x0c1}", Err(Malformed)),
        (b"{\x0b\"t\":1}", Err(Malformed)),
        (b"{\"t\":1\xc2\xa0}", Err(Malformed)),
        (br#"{"t":01.5}"#, Err(Malformed)),
        (br#"{"t":1.}"#, Err(Malformed)),
        (br#"{"t":.5}"#, Err(Malformed)),
        (br#"{"t":+1}"#, Err(Malformed)),
        (br#"{"t":NaN}"#, Err(Malformed)),
        (br#"{"t":Infinity}"#, Err(Malformed)),
        (br#"{"t":nul}"#, Err(Malformed)),
        (br#"{t:1}"#, Err(Malformed)),
        (br#"{"s":"\ud800"}"#, Err(Malformed)),
        (br#"{"s":"\ud800\u0041"}"#, Err(Malformed)),
        (br#"{"s":"\udc00"}"#, Err(Malformed)),
        (br#"{"s":"\x"}"#, Err(Malformed)),
        (b"{\"s\":\"\x01\"}", Err(Malformed)),
        (b"{\"s\":\"\n\"}", Err(Malformed)),
        (b"{\"s\":\"\xff\"}", Err(Malformed)),
        (b"{\"s\":\"\xed\xa0\x80\"}", Err(Malformed)),
        (b"{\"unknown\":\"\xff\"}", Err(Malformed)),
        (b"{\"unknown\":[{\"x\":\"\xc3\x28\"}]}", Err(Malformed)),
        (b"{\"\xff\":1}", Err(Malformed)),
        (b"{\"t\":1}\xff", Err(Malformed)),
    ]);
}

#[test]
fn what_is_not_the_schema_is_a_mismatch() {
    check(&[
        (br#"{"t":1,"x":2}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"T":2}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"t":1}"#, Err(SchemaMismatch)),
        (br#"{"n":1,"t":1,"n":1}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"m":{"x":1,"x":1}}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"m":{"x":1,"y":2,"\u0078":1}}"#, Err(SchemaMismatch)),
        (br#"{}"#, Err(SchemaMismatch)),
        (br#"{"n":1}"#, Err(SchemaMismatch)),
        (br#"{"t":"NaN"}"#, Err(SchemaMismatch)),
        (br#"{"t":"INF"}"#, Err(SchemaMismatch)),
        (br#"{"t":"1"}"#, Err(SchemaMismatch)),
        (br#"{"t":null}"#, Err(SchemaMismatch)),
        (br#"{"t":true}"#, Err(SchemaMismatch)),
        (br#"{"t":[1]}"#, Err(SchemaMismatch)),
        (br#"{"t":{"double":1}}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"o":{"double":1}}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"o":"1"}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"n":3.5}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"n":3e-1}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"l":3.25}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"oi":3.5}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"n":null,"n":1}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"s":1}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"b":0}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"b":"true"}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"e":"ok"}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"e":""}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"e":0}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"tags":{}}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"tags":"a"}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"tags":["a",1]}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"tags":["a",null]}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"m":[]}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"m":{"x":null}}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"next":[]}"#, Err(SchemaMismatch)),
        (br#"{"t":1,"next":{}}"#, Err(SchemaMismatch)),
        (b"[]", Err(SchemaMismatch)),
        (b"null", Err(SchemaMismatch)),
        (b"17", Err(SchemaMismatch)),
        (br#""{}""#, Err(SchemaMismatch)),
    ]);
}

#[test]
fn what_is_too_small_or_too_large_is_out_of_range() {
    check(&[
        (br#"{"t":70.1}"#, Err(OutOfRange)),
        (br#"{"t":71}"#, Err(OutOfRange)),
        (br#"{"t":-90.0001}"#, Err(OutOfRange)),
        (br#"{"t":1e300}"#, Err(OutOfRange)),
        (br#"{"t":1e400}"#, Err(OutOfRange)),
        (br#"{"t":-1e400}"#, Err(OutOfRange)),
        (br#"{"t":18446744073709551615}"#, Err(OutOfRange)),
        (br#"{"t":100000000000000000000}"#, Err(OutOfRange)),
        (br#"{"t":1,"n":2147483648}"#, Err(OutOfRange)),
        (br#"{"t":1,"n":-2147483649}"#, Err(OutOfRange)),
        (br#"{"t":1,"l":9223372036854775808}"#, Err(OutOfRange)),
        (br#"{"t":1,"l":-9223372036854775809}"#, Err(OutOfRange)),
        (br#"{"t":1,"l":18446744073709551616}"#, Err(OutOfRange)),
        (br#"{"t":1,"f":1e39}"#, Err(OutOfRange)),
        (br#"{"t":1,"oi":2147483648}"#, Err(OutOfRange)),
    ]);
}

#[test]
fn nesting_has_an_end() {
    let bench = Bench::of_fields(FIELDS);
    let nested = |levels: usize| {
        format!(
            "{}{}{}",
            r#"{"t":1,"next":"#.repeat(levels),
            r#"{"t":1}"#,
            "}".repeat(levels)
        )
    };
    // In a debug build apache-avro's reader needs more than a test's stack for this.
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().stack_size(16 << 20);
        let decoded = reader.spawn_scoped(scope, || {
            Bench::of_fields(FIELDS).decoded("test", nested(63).as_bytes()).unwrap()
        });
        decoded.unwrap().join().unwrap();
    });
    for levels in [64, 127, 128, 129, 10_000] {
        let rejection = bench.read("test", nested(levels).as_bytes()).unwrap_err();
        assert_eq!(rejection.reason, Malformed, "{levels} levels: {rejection}");
    }
    for (before, after) in [
        (r#"{"t":"#, "}"),
        (r#"{"tags":"#, "}"),
        (r#"{"unknown":"#, "}"),
        ("", ""),
    ] {
        let opened = format!("{before}{}", "[".repeat(100_000));
        let closed = format!("{opened}{}{after}", "]".repeat(100_000));
        for (json, reason) in [(opened, Malformed), (closed, SchemaMismatch)] {
            let rejection = bench.read("test", json.as_bytes()).unwrap_err();
            assert_eq!(rejection.reason, reason, "{rejection}");
        }
    }
}

#[test]
fn not_being_json_goes_before_all_else() {
    for json in [
        r#"{"t":"x""#,
        r#"{"x":1"#,
        r#"{"t":99"#,
        r#"{"t":1e400"#,
        r#"{"n":3.5}}"#,
        r#"{"e":"ok"} true"#,
    ] {
        check(&[(json.as_bytes(), Err(Malformed))]);
    }
}

#[test]
fn an_array_or_map_of_any_length_is_one_block() {
    let bench = Bench::of_fields(FIELDS);
    for length in [0, 1, 2, 63, 64, 65, 8191, 8192, 10_000] {
        let tags: Vec<String> = (0..length).map(|index| format!("\"t{index}\"")).collect();
        let entries: Vec<String> = (0..length).map(|index| format!("\"k{index}\":{index}")).collect();
        let json = format!(r#"{{"m":{{{}}},"tags":[{}],"t":1}}"#, entries.join(","), tags.join(","));
        let value = bench.decoded("test", json.as_bytes()).unwrap();
        assert!(matches!(field(&value, "tags"), Value::Array(items) if items.len() == length));
        assert!(matches!(field(&value, "m"), Value::Map(items) if items.len() == length));
        let mut count = Vec::new();
        pass::write_long(length as i64, &mut count);
        let only = Bench::of_fields(r#"{"name":"a","type":{"type":"array","items":"string"}}"#);
        let datum = only
            .read("test", format!(r#"{{"a":[{}]}}"#, tags.join(",")).as_bytes())
            .unwrap();
        assert!(datum.starts_with(&count), "{length} items are one block");
    }
}

#[test]
fn a_large_hostile_reading_takes_linear_time_and_space() {
    let bench = Bench::of_fields(FIELDS);
    // Every field of the record again and again would be a duplicate; the same keys in a map are found by sorting.
    let entries: Vec<String> = (0..200_000)
        .map(|index| format!("\"{:x}\":1", index ^ 0x5555))
        .collect();
    let distinct = format!(r#"{{"t":1,"m":{{{}}}}}"#, entries.join(","));
    assert!(bench.read("test", distinct.as_bytes()).unwrap().len() < distinct.len());
    let twice = format!(r#"{{"t":1,"m":{{{},"0":1}}}}"#, entries.join(","));
    let rejection = bench.read("test", twice.as_bytes()).unwrap_err();
    assert_eq!(rejection.detail, "m.0: came twice");
}

#[test]
fn buffers_are_reused_after_success_and_failure_alike() {
    let bench = Bench::of_fields(FIELDS);
    let good: &[u8] = br#"{"m":{"a":1,"b":2},"tags":["x"],"next":{"n":2,"t":2},"t":1}"#;
    let expected = bench.read("test", good).unwrap();
    let round = || {
        bench.read("test", br#"{"m":{"a":1,"b":{}},"t":1}"#).unwrap_err();
        assert!(
            bench.scratch.borrow().value().is_empty(),
            "a failed reading leaves no value"
        );
        bench.read("test", br#"{"next":{"m":{"a":1},"next":{"t":"#).unwrap_err();
        assert_eq!(bench.read("test", good).unwrap(), expected);
        bench.scratch.borrow().buffers.capacity()
    };
    let capacity = round();
    for _ in 0..100 {
        assert_eq!(round(), capacity, "nothing grew");
    }
}

#[test]
fn a_field_left_out_takes_its_default() {
    let bench = Bench::of_fields(
        r#"{"name":"a","type":{"type":"array","items":"long"},"default":[1,2]},
           {"name":"u","type":["long","null"],"default":7},
           {"name":"x","type":["null","long"],"default":null},
           {"name":"r","type":{"type":"record","name":"R","fields":[
               {"name":"p","type":"int","default":5},{"name":"q","type":"string"}]},"default":{"q":"dq"}},
           {"name":"rr","type":"R","default":{"q":"é","p":1}},
           {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]},"default":"B"},
           {"name":"d","type":"double","default":2},
           {"name":"m","type":{"type":"map","values":"boolean"},"default":{"k":true}}"#,
    );
    let schema = &bench.schemas["test"];
    let empty = apache_avro::types::Value::try_from(serde_json::json!({})).unwrap();
    let expected = empty.resolve(schema).unwrap();
    assert_eq!(bench.decoded("test", b"{}").unwrap(), expected);
    assert_eq!(bench.field("test", r#"{"u":null}"#, "u"), Value::Null);
    assert_eq!(bench.field("test", r#"{"x":9}"#, "x"), Value::Long(9));
    assert_eq!(bench.field("test", r#"{"m":{},"a":[]}"#, "a"), Value::Array(vec![]));
}

#[test]
fn a_union_takes_the_branch_that_the_json_looks_like() {
    let bench = Bench::of_fields(
        r#"{"name":"u","type":["double","null","int","boolean",{"type":"enum","name":"E","symbols":["A"]},
            {"type":"array","items":"int"},{"type":"map","values":"string"}]}"#,
    );
    let cases = [
        ("1.0", 0, Value::Double(1.0)),
        ("3000000000", 0, Value::Double(3e9)),
        ("1e20", 0, Value::Double(1e20)),
        ("null", 1, Value::Null),
        ("1", 2, Value::Int(1)),
        ("true", 3, Value::Boolean(true)),
        ("\"A\"", 4, Value::Enum(0, "A".into())),
        ("[1]", 5, Value::Array(vec![Value::Int(1)])),
        ("{}", 6, Value::Map(Default::default())),
    ];
    for (json, branch, expected) in cases {
        let json = format!(r#"{{"u":{json}}}"#);
        let value = bench.decoded("test", json.as_bytes()).unwrap();
        let Value::Record(fields) = value else {
            panic!("a record")
        };
        assert_eq!(fields[0].1, Value::Union(branch, Box::new(expected)), "{json}");
    }
    for (json, reason) in [
        ("\"B\"", SchemaMismatch),
        ("1e400", OutOfRange),
        ("[null]", SchemaMismatch),
    ] {
        let json = format!(r#"{{"u":{json}}}"#);
        assert_eq!(
            bench.read("test", json.as_bytes()).unwrap_err().reason,
            reason,
            "{json}"
        );
    }
}

#[test]
fn a_sentinel_becomes_null_and_only_a_sentinel() {
    let bench = Bench::of_fields(
        r#"{"name":"v","type":["null","double"],"default":null,"minimum":0,"maximum":250,"sentinels":[255,-9999.9]},
           {"name":"n","type":["int","null"],"default":0,"minimum":0,"maximum":100,"sentinels":[255]},
           {"name":"u","type":["null","string","long"],"default":null,"maximum":9,"sentinels":[99]},
           {"name":"m","type":{"type":"map","values":["null",{"type":"float","maximum":1,"sentinels":[2.5]}]},"default":{}}"#,
    );
    let null = Value::Null;
    for (json, name, expected) in [
        (r#"{"v":255}"#, "v", &null),
        (r#"{"v":255.0}"#, "v", &null),
        (r#"{"v":2.55e2}"#, "v", &null),
        (r#"{"v":-9999.9}"#, "v", &null),
        (r#"{"v":250}"#, "v", &Value::Double(250.0)),
        (r#"{"v":0}"#, "v", &Value::Double(0.0)),
        (r#"{"n":255}"#, "n", &null),
        (r#"{"n":100}"#, "n", &Value::Int(100)),
        (r#"{"u":99}"#, "u", &null),
        (r#"{"u":9}"#, "u", &Value::Long(9)),
        (r#"{"u":"99"}"#, "u", &Value::String("99".into())),
    ] {
        assert_eq!(bench.field("test", json, name), *expected, "{json}");
    }
    let map = bench.field("test", r#"{"m":{"a":2.5,"b":0.5}}"#, "m");
    let Value::Map(map) = map else { panic!("a map") };
    assert_eq!((bare(&map["a"]), bare(&map["b"])), (&null, &Value::Float(0.5)));
    for json in [
        r#"{"v":255.1}"#,
        r#"{"v":254}"#,
        r#"{"v":-9999}"#,
        r#"{"n":254}"#,
        r#"{"u":98}"#,
    ] {
        assert_eq!(
            bench.read("test", json.as_bytes()).unwrap_err().reason,
            OutOfRange,
            "{json}"
        );
    }
}
