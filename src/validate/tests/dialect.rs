//! What the attributes of a schema do to readings: ranges, texts, arrays, records, other spellings, forms of times.
//!
//! One table for each; a reading is either stored as the text says, or refused in these words.

use super::*;

/// `expected` is a field's value as apache-avro shows it, or begins with `!` and is why the reading is refused.
fn check(bench: &Bench, name: &str, cases: &[(&str, &str)]) {
    for (json, expected) in cases {
        let found = match bench.decoded("test", json.as_bytes()) {
            Ok(value) => format!("{:?}", field(&value, name)),
            Err(rejection) => format!("!{}", rejection.detail),
        };
        assert_eq!(found, *expected, "{json}");
        let program = &bench.only_kind().program;
        let mut judge = Scratch::default();
        let judged = bench
            .validator
            .judgement(program, DEVICE, NOW_MS, json.as_bytes(), &mut judge);
        assert_eq!(
            judged.err().map(|rejection| format!("!{}", rejection.detail)),
            expected.starts_with('!').then_some(found),
            "{json}"
        );
    }
}

#[test]
fn bounds_that_are_exclusive() {
    let bench = Bench::of_fields(
        r#"{"name":"v","type":"double","exclusiveMinimum":0,"exclusiveMaximum":1.5,"default":1},
           {"name":"f","type":"float","exclusiveMinimum":0.1,"default":1},
           {"name":"n","type":"int","exclusiveMinimum":0,"exclusiveMaximum":10,"default":1}"#,
    );
    check(
        &bench,
        "v",
        &[
            (r#"{"v":5e-324}"#, "Double(5e-324)"),
            (r#"{"v":1.4999999999999998}"#, "Double(1.4999999999999998)"),
            (r#"{"v":0}"#, "!v: 0 is not above 0"),
            (r#"{"v":1.5}"#, "!v: 1.5 is not below 1.5"),
            (r#"{"v":-2}"#, "!v: -2 is not above 0"),
        ],
    );
    check(
        &bench,
        "f",
        &[
            (r#"{"f":0.10000001}"#, "Float(0.10000001)"),
            (r#"{"f":0.1}"#, "!f: 0.1 is not above 0.1"),
        ],
    );
    check(
        &bench,
        "n",
        &[
            (r#"{"n":9}"#, "Int(9)"),
            (r#"{"n":10}"#, "!n: 10 is not below 10"),
            (r#"{"n":0}"#, "!n: 0 is not above 0"),
        ],
    );
}

#[test]
fn what_is_out_of_range_becomes_null_where_the_schema_says_so() {
    let bench = Bench::of_fields(
        r#"{"name":"v","type":["null","double"],"default":null,"minimum":0,"maximum":100,"sentinels":[50,255],"out_of_range":"null"},
           {"name":"n","type":["int","null"],"default":0,"minimum":0,"maximum":100,"sentinels":[50],"out_of_range":"reject"},
           {"name":"u","type":["null","int","double","string"],"default":null,"out_of_range":"null"}"#,
    );
    check(
        &bench,
        "v",
        &[
            (r#"{"v":100}"#, "Double(100.0)"),
            (r#"{"v":100.5}"#, "Null"),
            (r#"{"v":-1}"#, "Null"),
            (r#"{"v":1e300}"#, "Null"),
            (r#"{"v":50}"#, "Null"),
            (r#"{"v":50.0}"#, "Null"),
            (r#"{"v":255}"#, "Null"),
            (r#"{"v":"x"}"#, "!v: expected double, got \"x\""),
        ],
    );
    check(
        &bench,
        "n",
        &[
            (r#"{"n":50}"#, "Null"),
            (r#"{"n":51}"#, "Int(51)"),
            (r#"{"n":101}"#, "!n: 101 is above the maximum 100"),
        ],
    );
    check(
        &bench,
        "u",
        &[
            (r#"{"u":5}"#, "Int(5)"),
            (r#"{"u":1e400}"#, "Null"),
            (r#"{"u":"5"}"#, "String(\"5\")"),
        ],
    );
}

#[test]
fn texts_of_a_length_and_of_a_pattern() {
    let bench = Bench::of_fields(
        r#"{"name":"t","type":{"type":"string","maxLength":4,"pattern":"^[A-Zä]+$"},"default":"A"},
           {"name":"o","type":["null","string"],"minLength":2,"maxLength":3,"default":null},
           {"name":"one","type":{"type":"string","minLength":1},"default":"x"}"#,
    );
    check(
        &bench,
        "t",
        &[
            (r#"{"t":"ABCD"}"#, "String(\"ABCD\")"),
            (r#"{"t":"ääää"}"#, "String(\"ääää\")"),
            (r#"{"t":"ABCDE"}"#, "!t: \"ABCDE\" is longer than 4 characters"),
            (r#"{"t":"abc"}"#, "!t: \"abc\" does not match \"^[A-Zä]+$\""),
            (r#"{"t":""}"#, "!t: \"\" does not match \"^[A-Zä]+$\""),
            (r#"{"t":5}"#, "!t: expected string, got 5"),
        ],
    );
    check(
        &bench,
        "o",
        &[
            (r#"{"o":null}"#, "Null"),
            (r#"{"o":"日本語"}"#, "String(\"日本語\")"),
            (r#"{"o":"日本語の"}"#, "!o: \"日本語の\" is longer than 3 characters"),
            (r#"{"o":"日"}"#, "!o: \"日\" is shorter than 2 characters"),
        ],
    );
    check(
        &bench,
        "one",
        &[
            (r#"{"one":"日"}"#, "String(\"日\")"),
            (r#"{"one":""}"#, "!one: \"\" is empty"),
        ],
    );
}

const LANES: &str = r#"{"name":"lanes","type":{"type":"array","maxItems":3,"unique":"lane","items":{"type":"record","name":"L",
    "any_of":["speed","flow"],"fields":[
        {"name":"x","type":["null","int"],"default":null},
        {"name":"lane","type":"int"},
        {"name":"speed","type":["null","double"],"default":null,"maximum":250,"sentinels":[255],"also":["v"]},
        {"name":"flow","type":{"type":"array","items":"int"},"default":[]}]}},"default":[]}"#;

#[test]
fn arrays_with_a_limit_and_items_that_are_told_apart() {
    let bench = Bench::of(&format!(
        r#"{{"type":"record","name":"Test","any_of":["lanes"],"fields":[{LANES}]}}"#
    ));
    let lane = |x: &str, lane: i32, speed: &str, flow: &str| {
        format!(
            "Record([(\"x\", Union({})), (\"lane\", Int({lane})), (\"speed\", Union({})), (\"flow\", Array([{flow}]))])",
            if x.is_empty() {
                "0, Null".to_owned()
            } else {
                format!("1, Int({x})")
            },
            if speed.is_empty() {
                "0, Null".to_owned()
            } else {
                format!("1, Double({speed})")
            },
        )
    };
    let one = format!("Array([{}])", lane("", 1, "5.0", ""));
    let two = format!("Array([{}, {}])", lane("1", 2, "5.0", ""), lane("", 1, "", "Int(7)"));
    let null = format!("Array([{}])", lane("", 1, "", ""));
    check(
        &bench,
        "lanes",
        &[
            (r#"{"lanes":[{"lane":1,"speed":5}]}"#, &one),
            (r#"{"lanes":[{"v":5,"lane":1}]}"#, &one),
            (r#"{"lanes":[{"speed":5,"lane":2,"x":1},{"flow":[7],"lane":1}]}"#, &two),
            // A sentinel says that there is no reading, and that is a reading.
            (r#"{"lanes":[{"lane":1,"speed":255}]}"#, &null),
            (
                r#"{"lanes":[{"speed":5,"lane":1},{"x":1,"lane":1,"flow":[1]}]}"#,
                "!lanes: two items have the same lane",
            ),
            (
                r#"{"lanes":[{"lane":1,"v":1},{"lane":2,"v":1},{"lane":3,"v":1},{"lane":4,"v":1}]}"#,
                "!lanes: more than 3 items",
            ),
            (r#"{"lanes":[{"lane":1}]}"#, "!no value; send at least one of lanes"),
            (
                r#"{"lanes":[{"lane":1,"speed":null,"flow":[],"x":5},{"lane":2,"x":1}]}"#,
                "!no value; send at least one of lanes",
            ),
            // A lane without a value costs no other lane's.
            (r#"{"lanes":[{"lane":2,"speed":5,"x":1},{"flow":[7],"lane":1}]}"#, &two),
            (
                r#"{"lanes":[{"lane":1},{"lane":2,"speed":5}]}"#,
                &format!("Array([{}, {}])", lane("", 1, "", ""), lane("", 2, "5.0", "")),
            ),
            (
                r#"{"lanes":[{"lane":1,"v":1,"speed":1}]}"#,
                "!lanes[0].speed: came twice",
            ),
            (r#"{"lanes":[{"speed":1}]}"#, "!lanes[0].lane: missing"),
        ],
    );
}

/// The type of the items elsewhere, too: inside an item, in a map, and moved by the order of the fields.
#[test]
fn only_the_items_themselves_are_told_apart() {
    let bench = Bench::of_fields(
        r#"{"name":"lanes","type":{"type":"array","unique":"lane","items":{"type":"record","name":"L","fields":[
                {"name":"note","type":"string","default":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
                {"name":"child","type":["null","L"],"default":null},
                {"name":"by_name","type":{"type":"map","values":"L"},"default":{}},
                {"name":"lane","type":"int"}]}},"default":[]},
           {"name":"roads","type":{"type":"array","unique":"road","items":{"type":"record","name":"R","fields":[
                {"name":"road","type":"int"},{"name":"main","type":["null","L"],"default":null}]}},"default":[]}"#,
    );
    let same = "lanes: two items have the same lane";
    for (json, expected) in [
        (r#"{"lanes":[{"child":{"lane":1,"note":""},"note":"","lane":2}]}"#, ""),
        (r#"{"lanes":[{"child":{"lane":1,"note":""},"note":"","lane":1}]}"#, ""),
        (
            r#"{"lanes":[{"lane":1,"by_name":{"a":{"lane":1},"b":{"lane":1}}}]}"#,
            "",
        ),
        (r#"{"lanes":[{"lane":1,"note":"a"},{"child":{"lane":1},"lane":2}]}"#, ""),
        (r#"{"lanes":[{"lane":1,"note":"a"},{"lane":1}]}"#, same),
        (
            r#"{"roads":[{"road":1,"main":{"lane":1}},{"road":2,"main":{"lane":2}}]}"#,
            "",
        ),
        (
            r#"{"roads":[{"road":1},{"main":{"lane":2},"road":1}]}"#,
            "roads: two items have the same road",
        ),
    ] {
        let found = bench.decoded("test", json.as_bytes()).err();
        let found = found.map_or(String::new(), |rejection| rejection.detail);
        assert_eq!(found, expected, "{json}");
    }
}

#[test]
fn a_record_may_hold_an_array_of_its_own_kind() {
    let bench = Bench::of(
        r#"{"type":"record","name":"Test","fields":[{"name":"id","type":"string"},
            {"name":"parts","type":{"type":"array","unique":"id","items":"Test"},"default":[]}]}"#,
    );
    let check = |json: &str, expected: Option<&str>| {
        let found = bench.read("test", json.as_bytes()).err();
        assert_eq!(found.map(|rejection| rejection.detail).as_deref(), expected, "{json}");
    };
    check(
        r#"{"id":"a","parts":[{"id":"a"},{"id":"b","parts":[{"id":"a"},{"id":"b"}]}]}"#,
        None,
    );
    check(
        r#"{"id":"a","parts":[{"id":"b"},{"id":"c","parts":[{"parts":[],"id":"a"},{"id":"a"}]}]}"#,
        Some("parts[1].parts: two items have the same id"),
    );
    check(
        r#"{"id":"a","parts":[{"parts":[{"id":"x"}],"id":"b"},{"id":"b","parts":[{"id":"y"}]}]}"#,
        Some("parts: two items have the same id"),
    );
}

#[test]
fn numbers_beyond_64_bits_are_out_of_range_like_others() {
    let bench = Bench::of_fields(
        r#"{"name":"n","type":["null","int"],"default":null,"minimum":0,"out_of_range":"null"},
           {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"default":null,"out_of_range":"null",
            "sentinels":[0],"accepts":["epoch_s","rfc3339"]}"#,
    );
    let cases = ["-1", "4294967295", "18446744073709551615", "1e30", "-1e400"];
    let cases = cases.map(|number| (format!(r#"{{"n":{number}}}"#), "Null"));
    let cases: Vec<_> = cases
        .iter()
        .map(|(json, expected)| (json.as_str(), *expected))
        .collect();
    check(&bench, "n", &cases);
    check(
        &bench,
        "at",
        &[
            (r#"{"at":0}"#, "Null"),
            (r#"{"at":0e25}"#, "Null"),
            (r#"{"at":1e300}"#, "Null"),
            (r#"{"at":"0000-01-01T00:00:00Z"}"#, "Null"),
            (r#"{"at":1}"#, "TimestampMillis(1000)"),
        ],
    );
    let kind = bench.only_kind();
    bench.read("test", br#"{"at":0,"n":-1}"#).unwrap();
    let scratch = bench.scratch.borrow();
    let paths: Vec<_> = scratch
        .nulled()
        .iter()
        .map(|nulled| kind.program.path(nulled.node))
        .collect();
    assert_eq!(paths, ["at", "n"]);
}

#[test]
fn a_reading_without_any_value_is_refused() {
    let schema = r#"{"type":"record","name":"Test","any_of":["a","lanes","by_name"],"fields":[
        {"name":"place","type":["null","string"],"default":null},
        {"name":"a","type":["null","double"],"default":null,"maximum":9,"out_of_range":"null"},
        {"name":"lanes","type":{"type":"array","items":"int"},"default":[]},
        {"name":"by_name","type":{"type":"map","values":"int"},"default":{}}]}"#;
    let bench = Bench::of(schema);
    let none = "!no value; send at least one of a, lanes, by_name";
    check(
        &bench,
        "a",
        &[
            ("{}", none),
            (r#"{"place":"here"}"#, none),
            (r#"{"a":null,"lanes":[],"by_name":{}}"#, none),
            (r#"{"by_name":{"x":1}}"#, "Null"),
            (r#"{"lanes":[0]}"#, "Null"),
            (r#"{"a":10}"#, "Null"),
            (r#"{"place":"here","a":0}"#, "Double(0.0)"),
        ],
    );
}

/// Null where the schema has none is as if the field had not come: its default is written, and is no value of a device.
#[test]
fn null_for_a_default_is_no_value() {
    let schema = r#"{"type":"record","name":"Test","any_of":["part","x","y","parts"],"fields":[
        {"name":"place","type":"int","default":0},
        {"name":"part","type":{"type":"record","name":"Part","fields":[{"name":"n","type":"int"}]},"default":{"n":7}},
        {"name":"x","type":"int","default":5},
        {"name":"nothing","type":{"type":"record","name":"Nothing","fields":[]},"default":{}},
        {"name":"y","type":"string","default":"none"},
        {"name":"parts","type":{"type":"array","items":{"type":"record","name":"Level","any_of":["c"],"fields":[
            {"name":"b","type":"int","default":1},
            {"name":"c","type":["null","int"],"default":null}]}},"default":[]}]}"#;
    let bench = Bench::of(schema);
    let none = "!no value; send at least one of part, x, y, parts";
    check(
        &bench,
        "x",
        &[
            ("{}", none),
            (r#"{"x":null}"#, none),
            (r#"{"part":null,"x":null,"nothing":null,"y":null}"#, none),
            (r#"{"y":null,"x":null,"part":null,"place":null}"#, none),
            (r#"{"parts":[{"b":null},{"c":null,"b":null}],"x":null}"#, none),
            (r#"{"x":5}"#, "Int(5)"),
            (r#"{"x":null,"y":"none"}"#, "Int(5)"),
            (r#"{"y":"none","nothing":null,"x":null}"#, "Int(5)"),
            (r#"{"nothing":null,"y":"none"}"#, "Int(5)"),
            (r#"{"part":{"n":7},"x":null}"#, "Int(5)"),
            (r#"{"y":null,"parts":[{"b":null,"c":0}],"x":null}"#, "Int(5)"),
            (r#"{"parts":[{"b":null,"c":0}]}"#, "Int(5)"),
            (r#"{"x":null,"x":6}"#, "!x: came twice"),
        ],
    );
}

/// `any_of` may list required fields of which not every value says something.
#[test]
fn a_required_field_may_be_null_or_empty() {
    let schema = r#"{"type":"record","name":"Test","any_of":["a","lanes","text"],"fields":[
        {"name":"a","type":["null","double"]},
        {"name":"lanes","type":{"type":"array","items":{"type":"record","name":"Lane","any_of":["level"],"fields":[
            {"name":"unit","type":"string","default":"m"},
            {"name":"level","type":["null","double"]}]}}},
        {"name":"text","type":"string"}]}"#;
    let bench = Bench::of(schema);
    let none = "!no value; send at least one of a, lanes, text";
    check(
        &bench,
        "a",
        &[
            (r#"{"a":null,"lanes":[],"text":""}"#, none),
            (r#"{"a":null,"lanes":[{"level":null}],"text":""}"#, none),
            (r#"{"a":null,"lanes":[{"level":0}],"text":""}"#, "Null"),
            (r#"{"a":null,"lanes":[],"text":"x"}"#, "Null"),
            (r#"{"a":0,"lanes":[],"text":""}"#, "Double(0.0)"),
            (r#"{"lanes":[],"text":"x"}"#, "!a: missing"),
        ],
    );
}

/// Of every type, at any depth, in and out of order.
#[test]
fn what_holds_nothing_is_no_value() {
    let schema = r#"{"type":"record","name":"Test","any_of":["a","text","union","lanes","by_name","part"],"fields":[
        {"name":"device","type":"string","fill":"device"},
        {"name":"place","type":["null","double"],"default":null,"maximum":9,"out_of_range":"null"},
        {"name":"a","type":["null","double"],"default":null,"maximum":9,"out_of_range":"null"},
        {"name":"text","type":["null","string"],"default":null},
        {"name":"union","type":["null","boolean","float","string",{"type":"array","items":["null","int"]}],"default":null},
        {"name":"by_name","type":{"type":"map","values":["null",{"type":"int","sentinels":[-1]}]},"default":{}},
        {"name":"part","type":["null",{"type":"record","name":"Part","any_of":["b","level","inner"],"fields":[
            {"name":"number","type":"long"},
            {"name":"depth","type":["null","double"],"default":null,"maximum":9,"out_of_range":"null"},
            {"name":"level","type":["null","double"],"default":null,"maximum":9,"out_of_range":"null"},
            {"name":"b","type":["null","boolean"],"default":null},
            {"name":"inner","type":["null",{"type":"record","name":"Inner","fields":[
                {"name":"c","type":{"type":"array","items":{"type":"map","values":["null","double"]}},"default":[]}]}],"default":null},
            {"name":"kind","type":{"type":"enum","name":"E","symbols":["x","y"]},"default":"y"}]}],"default":null},
        {"name":"lanes","type":{"type":"array","items":"Part"},"default":[]}]}"#;
    let bench = Bench::of(schema);
    let check = |json: &str, expected: bool| {
        let found = bench.read("test", json.as_bytes());
        let words = found.as_ref().err().map(|rejection| rejection.detail.as_str());
        let none = "no value; send at least one of a, text, union, lanes, by_name, part";
        assert_eq!(words, (!expected).then_some(none), "{json}");
    };
    for (json, expected) in [
        (r#"{"place":1}"#, false),
        // Noted, but not in a field that counts.
        (r#"{"place":10}"#, false),
        (r#"{"a":10,"place":10}"#, true),
        (r#"{"place":10,"a":null}"#, false),
        (r#"{"text":""}"#, false),
        (r#"{"text":" "}"#, true),
        (r#"{"union":""}"#, false),
        (r#"{"union":"x"}"#, true),
        (r#"{"union":false}"#, true),
        (r#"{"union":1.5}"#, true),
        (r#"{"union":[]}"#, false),
        (r#"{"union":[null,null]}"#, false),
        (r#"{"union":[null,0]}"#, true),
        (r#"{"by_name":{"car":null,"bus":null}}"#, false),
        (r#"{"by_name":{"car":null,"bus":0}}"#, true),
        (r#"{"by_name":{"car":-1}}"#, true),
        (r#"{"part":{"number":7}}"#, false),
        (r#"{"part":{"kind":"x","number":7}}"#, false),
        (r#"{"part":{"number":7,"b":false}}"#, true),
        (r#"{"part":{"number":7,"inner":{}}}"#, false),
        (r#"{"part":{"number":7,"inner":{"c":[{},{"x":null}]}}}"#, false),
        (r#"{"part":{"number":7,"inner":{"c":[{},{"x":0}]}}}"#, true),
        (r#"{"lanes":[{"number":1},{"kind":"y","number":-9e15}]}"#, false),
        // Noted, but in a field that does not count in its own record.
        (r#"{"lanes":[{"number":1,"depth":10}]}"#, false),
        (r#"{"lanes":[{"number":1,"depth":10},{"number":2,"level":10}]}"#, true),
        (r#"{"part":{"depth":10,"number":7}}"#, false),
        (r#"{"part":{"level":10,"depth":10,"number":7}}"#, true),
        (
            r#"{"lanes":[{"number":1},{"kind":"y","number":-9e15,"b":true}],"a":null}"#,
            true,
        ),
        (
            r#"{"lanes":[{"number":1},{"number":2}],"part":{"number":3},"by_name":{"x":null},"text":"","device":"device-1"}"#,
            false,
        ),
        (
            r#"{"lanes":[{"number":1},{"number":2}],"part":{"number":3},"by_name":{"x":5},"text":"","device":"device-1"}"#,
            true,
        ),
    ] {
        check(json, expected);
    }
    let many = |last: &str| {
        let lanes = vec![r#"{"number":1}"#; 100].join(",");
        format!(r#"{{"lanes":[{lanes},{last}]}}"#)
    };
    check(&many(r#"{"number":2}"#), false);
    check(&many(r#"{"number":2,"b":true}"#), true);
}

#[test]
fn other_spellings_of_symbols_and_names() {
    let bench = Bench::of_fields(
        r#"{"name":"phase","type":{"type":"enum","name":"P","symbols":["L1","L2"],"also":{"L1":["a","A"],"L2":["b"]}},"default":"L1",
            "also":["ph"],"aliases":["leg"]}"#,
    );
    let (one, two) = ("Enum(0, \"L1\")", "Enum(1, \"L2\")");
    check(
        &bench,
        "phase",
        &[
            (r#"{"phase":"L1"}"#, one),
            (r#"{"phase":"A"}"#, one),
            (r#"{"ph":"b"}"#, two),
            (r#"{"leg":"L2"}"#, two),
            (r#"{"phase":"B"}"#, "!phase: \"B\" is not one of L1, L2"),
            (r#"{"leg":"a","phase":"a"}"#, "!phase: came twice"),
            (r#"{"legs":"a"}"#, "!legs: unknown field"),
        ],
    );
}

#[test]
fn times_in_the_forms_that_a_schema_accepts() {
    let at = |accepts: &str| {
        Bench::of_fields(&format!(
            r#"{{"name":"at","type":["null",{{"type":"long","logicalType":"timestamp-millis"}}],"default":null,{accepts}}}"#
        ))
    };
    let millis = |value: i64| format!("TimestampMillis({value})");
    let seconds = at(r#""accepts":["epoch_s"]"#);
    check(
        &seconds,
        "at",
        &[
            (r#"{"at":1795262400}"#, &millis(NOW_MS)),
            (r#"{"at":1795262400.0009}"#, &millis(NOW_MS)),
            (r#"{"at":1795262400.25}"#, &millis(NOW_MS + 250)),
            (r#"{"at":1.7952624e9}"#, &millis(NOW_MS)),
            (r#"{"at":-0.0001}"#, &millis(-1)),
            (r#"{"at":-1.5}"#, &millis(-1500)),
            (
                r#"{"at":"2026-11-21T12:00:00Z"}"#,
                "!at: expected long (seconds since 1970), got \"2026-11-21T12:00:00Z\"",
            ),
            (
                r#"{"at":9223372036854775807}"#,
                "!at: 9223372036854775807 is out of range",
            ),
        ],
    );
    let micros = at(r#""accepts":["epoch_us","rfc3339"]"#);
    check(
        &micros,
        "at",
        &[
            (r#"{"at":1795262400000999}"#, &millis(NOW_MS)),
            (r#"{"at":-1}"#, &millis(-1)),
            (r#"{"at":"2026-11-21T13:00:00+01:00"}"#, &millis(NOW_MS)),
            (
                r#"{"at":1.5}"#,
                "!at: expected long (microseconds since 1970) or a time such as \"2026-11-21T12:00:00Z\", got 1.5",
            ),
        ],
    );
    let offset = at(r#""accepts":["local"],"utc_offset":"+01:00""#);
    check(
        &offset,
        "at",
        &[
            (r#"{"at":"2026-11-21T13:00:00"}"#, &millis(NOW_MS)),
            (r#"{"at":"2026-11-21 13:00:00.5"}"#, &millis(NOW_MS + 500)),
            (
                r#"{"at":"2026-11-21T12:00:00Z"}"#,
                "!at: \"2026-11-21T12:00:00Z\" has an offset from UTC; a local time without one is expected",
            ),
            (
                r#"{"at":1795262400000}"#,
                "!at: expected a local time such as \"2026-11-21T12:00:00\", got 1795262400000",
            ),
            (
                r#"{"at":"2026-02-30T12:00:00"}"#,
                "!at: \"2026-02-30T12:00:00\" is not a valid date and time",
            ),
        ],
    );
}

#[test]
fn what_summer_time_skips_and_repeats_is_what_the_schema_says() {
    // In 2026, Berlin goes from 02:00 to 03:00 on 29 March, and from 03:00 back to 02:00 on 25 October.
    let skipped = r#"{"at":"2026-03-29T02:30:00"}"#;
    let repeated = r#"{"at":"2026-10-25T02:30:00"}"#;
    let at_utc = |text: &str| {
        let time: jiff::Timestamp = text.parse().unwrap();
        format!("TimestampMillis({})", time.as_millisecond())
    };
    let cases = [
        ("earlier", "2026-03-29T00:30:00Z", "2026-10-25T00:30:00Z"),
        ("later", "2026-03-29T01:30:00Z", "2026-10-25T01:30:00Z"),
        ("compatible", "2026-03-29T01:30:00Z", "2026-10-25T00:30:00Z"),
    ];
    let bench = |disambiguation: &str| {
        Bench::of_fields(&format!(
            r#"{{"name":"at","type":{{"type":"long","logicalType":"timestamp-millis"}},"clock":"observed",
                "accepts":["epoch_ms","rfc3339","local"],"time_zone":"Europe/Berlin","disambiguation":"{disambiguation}"}}"#
        ))
    };
    let config = Config {
        max_age: None,
        ..Config::default()
    };
    for (disambiguation, skipped_as, repeated_as) in cases {
        let mut bench = bench(disambiguation);
        bench.validator = Validator::new(&config);
        check(
            &bench,
            "at",
            &[(skipped, &at_utc(skipped_as)), (repeated, &at_utc(repeated_as))],
        );
    }
    check(
        &bench("reject"),
        "at",
        &[
            (
                skipped,
                "!at: \"2026-03-29T02:30:00\" does not exist: summer time skips it; send it with its offset from UTC",
            ),
            (
                repeated,
                "!at: \"2026-10-25T02:30:00\" comes twice, before and after summer time ends; send it with its offset from UTC",
            ),
            (r#"{"at":"2026-11-21T13:00:00"}"#, &format!("TimestampMillis({NOW_MS})")),
            (
                r#"{"at":"2026-11-21T12:00:00Z"}"#,
                &format!("TimestampMillis({NOW_MS})"),
            ),
            (
                r#"{"at":"2026-07-01T00:00:00"}"#,
                "!at: \"2026-07-01T00:00:00\" (2026-06-30T22:00:00Z) is more than 720h behind the gateway's clock \
                 (2026-11-21T12:00:00Z)",
            ),
        ],
    );
}
