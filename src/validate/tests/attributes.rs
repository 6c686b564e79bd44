//! Mistakes in a schema's attributes: in the wrong place, misspelt, without a sense, or meaning something else than their author
//! thought. Each is named by its path, and all are reported at once.
//!
//! Other mistakes of schemas are in [`mistakes`](super::mistakes).

use super::mistakes::check;
use super::*;

#[test]
fn attributes_of_the_gateway_in_the_wrong_place() {
    let at = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
    check(&[
        (
            r#"{"name":"x","type":"string","fill":"devise"}"#,
            "x: \"fill\" is \"devise\"; it can be \"device\", \"received_at\" or \"quality\"",
        ),
        (
            r#"{"name":"x","type":"int","fill":"device"}"#,
            "x: \"fill\": \"device\" needs a string",
        ),
        (
            r#"{"name":"x","type":"long","fill":"received_at"}"#,
            "x: \"fill\": \"received_at\" needs a long with logicalType timestamp-millis",
        ),
        (
            r#"{"name":"x","type":["null","string"],"fill":"device"}"#,
            "x: \"fill\": \"device\" needs a string",
        ),
        (
            &format!(r#"{{"name":"x","type":["null",{at}],"clock":"observed"}}"#),
            "x: \"clock\": \"observed\" needs a long with logicalType timestamp-millis",
        ),
        (
            &format!(r#"{{"name":"x","type":{at},"clock":"device"}}"#),
            "x: \"clock\" is \"device\"; it can be \"observed\"",
        ),
        (
            &format!(r#"{{"name":"x","type":{at},"clock":"observed","fill":"received_at"}}"#),
            "x: \"fill\" and \"clock\" exclude each other",
        ),
        (
            &format!(r#"{{"name":"x","type":{at},"clock":"observed","minimum":0}}"#),
            "x: \"minimum\" means nothing beside \"fill\" and \"clock\"",
        ),
        (
            r#"{"name":"x","type":{"type":"string","fill":"device"}}"#,
            "x: \"fill\" stands inside the type; put it on the field",
        ),
        (
            r#"{"name":"r","type":{"type":"record","name":"R","fields":[{"name":"x","type":"string","fill":"device"}]}}"#,
            "r.x: \"fill\" and \"clock\" are for fields of the outermost record",
        ),
    ]);
}

#[test]
fn attributes_that_are_misspelt_or_have_no_such_value() {
    let at = r#"{"type":"long","logicalType":"timestamp-millis""#;
    let lanes = |rule: &str| {
        format!(
            r#"{{"name":"x","type":{{"type":"array",{rule},"items":{{"type":"record","name":"L","fields":[
                {{"name":"lane","type":"int"}},{{"name":"speed","type":["null","double"],"default":null}}]}}}}}}"#
        )
    };
    let unique = |text: &str| {
        format!("x: \"unique\" is {text}; it must name a required field of the items, an integer, string or enum")
    };
    let misspelt = |name: &str, nearest: &str| {
        format!("x: \"{name}\" is no attribute, and would silently mean nothing; did you mean \"{nearest}\"?")
    };
    let zone = r#""accepts":["local"],"time_zone":"Europe/Berlin""#;
    let disambiguation = "x: \"time_zone\" needs \"disambiguation\", for times that summer time skips or repeats: \"reject\", \
                          \"earlier\", \"later\" or \"compatible\" (later when skipped, earlier when repeated)";
    check(&[
        (
            r#"{"name":"x","type":"int","minimun":0}"#,
            &misspelt("minimun", "minimum"),
        ),
        (
            r#"{"name":"x","type":["null",{"type":"int","sentinel":[9]}]}"#,
            &misspelt("sentinel", "sentinels"),
        ),
        (
            r#"{"name":"x","type":{"type":"string","max_length":5}}"#,
            &misspelt("max_length", "maxLength"),
        ),
        (
            r#"{"name":"x","type":["null","int"],"out_of_range":"zero"}"#,
            "x: \"out_of_range\" is \"zero\"; it can be \"reject\" or \"null\"",
        ),
        (
            r#"{"name":"x","type":"int","out_of_range":"null"}"#,
            "x: \"out_of_range\": \"null\" stores null, so the type must be a union with null",
        ),
        (
            r#"{"name":"x","type":"int","minimum":0,"exclusiveMinimum":0}"#,
            "x: \"minimum\" and \"exclusiveMinimum\" exclude each other",
        ),
        (
            r#"{"name":"x","type":"int","exclusiveMinimum":0,"exclusiveMaximum":1}"#,
            "x: the minimum 1 is above the maximum 0",
        ),
        (
            r#"{"name":"x","type":"int","maxLength":3}"#,
            "x: \"maxLength\" stands on something that is not a string",
        ),
        (
            r#"{"name":"x","type":["null","string"],"maxLength":0}"#,
            "x: \"maxLength\" is 0; it must be an integer above 0",
        ),
        (
            r#"{"name":"x","type":"string","pattern":"a(b"}"#,
            "x: \"pattern\": unclosed group",
        ),
        (
            r#"{"name":"x","type":"string","pattern":"(?:a{1000}){1000}"}"#,
            "x: \"pattern\": Compiled regex exceeds size limit of 1048576 bytes.",
        ),
        (
            r#"{"name":"x","type":"string","maxItems":3}"#,
            "x: \"maxItems\" stands on something that is not an array",
        ),
        (&lanes(r#""unique":"lan""#), &unique("\"lan\"")),
        (&lanes(r#""unique":"speed""#), &unique("\"speed\"")),
        (&lanes(r#""unique":7"#), &unique("7")),
        (
            r#"{"name":"x","type":{"type":"array","items":"Test","unique":"y"},"default":[]}"#,
            &unique("\"y\""),
        ),
        (
            r#"{"name":"x","type":{"type":"record","name":"R","any_of":["b"],"fields":[{"name":"a","type":"int"}]}}"#,
            "x: \"any_of\": \"b\" is no field of this record",
        ),
        (
            r#"{"name":"x","type":{"type":"record","name":"R","any_of":["a"],"fields":[{"name":"a","type":"int"}]}}"#,
            "x: \"any_of\": \"a\" is required, or the gateway's own, so it would say nothing",
        ),
        (
            r#"{"name":"x","type":{"type":"record","name":"R","any_of":["a"],"fields":[{"name":"a","type":["null","int"],"default":null}]}}"#,
            "x: \"any_of\" of a record inside means nothing unless the outermost has one",
        ),
        (
            r#"{"name":"x","type":"string","minLength":3,"maxLength":2}"#,
            "x: \"minLength\": 3 is above \"maxLength\": 2",
        ),
        (
            r#"{"name":"x","type":"string","minLength":0}"#,
            "x: \"minLength\" is 0; it must be an integer above 0",
        ),
        (
            r#"{"name":"x","type":{"type":"string","maxLength":2},"fill":"device"}"#,
            "x: \"maxLength\" means nothing beside \"fill\" and \"clock\"",
        ),
        (
            r#"{"name":"x","type":"int","any_of":["a"]}"#,
            "x: \"any_of\" stands on something that is not a record",
        ),
        (
            r#"{"name":"x","type":{"type":"enum","name":"E","symbols":["A"],"also":{"B":["b"]}}}"#,
            "x: \"also\": B is no symbol",
        ),
        (
            r#"{"name":"x","type":{"type":"enum","name":"E","symbols":["A","B"],"also":{"A":["B"]}}}"#,
            "x: \"also\": B stands for two symbols",
        ),
        (
            r#"{"name":"x","type":"int","also":["x"]}"#,
            "\"x\" is another spelling of two fields",
        ),
        (
            r#"{"name":"x","type":"int","accepts":["epoch_s"]}"#,
            "x: \"accepts\" stands on something that is not a timestamp",
        ),
        (
            &format!(r#"{{"name":"x","type":{at},"accepts":["epoch"]}}}}"#),
            "x: \"accepts\": epoch is no form; it can be epoch_s, epoch_ms, epoch_us, epoch_ns, rfc3339, local",
        ),
        (
            &format!(r#"{{"name":"x","type":{at},"accepts":["epoch_s","epoch_ms"]}}}}"#),
            "x: \"accepts\" names two forms that are numbers, which nobody can tell apart",
        ),
        (
            &format!(r#"{{"name":"x","type":{at},"accepts":["local"]}}}}"#),
            "x: \"accepts\": \"local\" needs \"utc_offset\" or \"time_zone\"",
        ),
        (
            &format!(r#"{{"name":"x","type":{at},"accepts":["local"],"utc_offset":"++1:00"}}}}"#),
            "x: \"utc_offset\" is \"++1:00\"; it must be one such as \"+01:00\"",
        ),
        (
            &format!(r#"{{"name":"x","type":{at},"utc_offset":"+01:00"}}}}"#),
            "x: \"utc_offset\" and \"time_zone\" mean nothing without \"accepts\": [\"local\"]",
        ),
        (&format!(r#"{{"name":"x","type":{at},{zone}}}}}"#), disambiguation),
        (
            &format!(
                r#"{{"name":"x","type":{at},"accepts":["local"],"time_zone":"Mars/Base","disambiguation":"reject"}}}}"#
            ),
            "x: \"time_zone\" is \"Mars/Base\"; it must be a name of the IANA time zone database, such as \"Europe/Berlin\"",
        ),
        (
            r#"{"name":"x","type":{"type":"array","items":"string"},"fill":"quality","default":[]}"#,
            &format!("x: {}", quality::NEEDS),
        ),
    ]);
}

/// In a record inside that does not say what counts, all does: also what stands for a field that no device sent.
#[test]
fn defaults_that_would_count_as_values() {
    let check = |fields: &str, expected: &[&str]| {
        let schema = record(fields).replacen(r#""fields""#, r#""any_of":["x"],"fields""#, 1);
        let counts = "its default is a value, and would count for \"any_of\" of the outermost record although no device sent it; \
                      make it null or empty, or list in an \"any_of\" of this record what counts";
        let expected: Vec<String> = expected.iter().map(|path| format!("test: {path}: {counts}")).collect();
        assert_eq!(load(&schema).err().unwrap_or_default(), expected, "{fields}");
    };
    let unit = r#"{"name":"unit","type":"string","default":"m"}"#;
    let level = r#"{"name":"level","type":["null","double"],"default":null}"#;
    let part = |fields: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
    let x = |of: &str| format!(r#"{{"name":"x","type":["null",{of}],"default":null}}"#);
    check(&x(&part(&format!("{unit},{level}"))), &["x.unit"]);
    check(&x(&part(&format!("{},{level}", unit.replace("\"m\"", "\"\"")))), &[]);
    // What every such record must have is a value anyhow, if it is one.
    check(&x(&part(&format!(r#"{unit},{{"name":"number","type":"int"}}"#))), &[]);
    check(
        &x(&part(&format!(
            r#"{unit},{{"name":"name","type":{{"type":"string","minLength":1}}}}"#
        ))),
        &[],
    );
    check(
        &x(&part(&format!(r#"{unit},{{"name":"name","type":"string"}}"#))),
        &["x.unit"],
    );
    // Also in a union of which each branch is one, and in a record inside or around.
    let union = |branches: &str| format!(r#"{{"name":"u","type":[{branches}]}}"#);
    let inside = |fields: &str| format!(r#"{{"type":"record","name":"I","fields":[{fields}]}}"#);
    let number = r#"{"name":"number","type":"int"}"#;
    for (valued, expected) in [
        (union(r#""int","boolean""#), &[][..]),
        (union(r#""int","string""#), &["x.unit"]),
        (union(r#""int","null""#), &["x.unit"]),
        (union(&format!(r#""int",{}"#, inside(number))), &[]),
        (format!(r#"{{"name":"i","type":{}}}"#, inside(number)), &[]),
        (format!(r#"{{"name":"i","type":{}}}"#, inside(level)), &["x.unit"]),
        (
            format!(r#"{{"name":"i","type":{},"default":{{}}}}"#, inside(unit)),
            &["x.unit", "x.i", "x.i.unit"],
        ),
        (
            format!(r#"{number},{{"name":"i","type":{},"default":{{}}}}"#, inside(unit)),
            &[],
        ),
        (union(r#""R","int""#), &["x.unit"]),
    ] {
        check(&x(&part(&format!("{unit},{valued}"))), expected);
    }
    // One that says what counts, and one that counts nowhere.
    check(
        &x(&part(&format!("{unit},{level}")).replacen("\"fields\"", "\"any_of\":[\"level\"],\"fields\"", 1)),
        &[],
    );
    check(
        &format!(
            r#"{},{{"name":"y","type":{},"default":{{}}}}"#,
            x("\"int\""),
            part(unit)
        ),
        &[],
    );
    // Anywhere inside.
    let flag = r#"{"name":"flag","type":"boolean","default":false}"#;
    let inner = format!(r#"{{"type":"record","name":"I","fields":[{flag}]}}"#);
    check(
        &x(&part(&format!(
            r#"{{"name":"a","type":{{"type":"array","items":{{"type":"map","values":{inner}}}}}}},
               {{"name":"b","type":["string",{{"type":"record","name":"J","fields":[{unit},{{"name":"again","type":["null","J"],"default":null}}]}}]}},
               {{"name":"c","type":"I","default":{{}}}}"#
        ))),
        &["x.c", "x.a[]{}.flag", "x.b.unit"],
    );
    // A default of the outermost record's counts for nobody, until it is inside of itself.
    check(r#"{"name":"x","type":"int","default":5}"#, &[]);
    check(&x(r#"{"type":"map","values":"Test"}"#), &[]);
    check(
        r#"{"name":"x","type":["int",{"type":"map","values":"Test"}],"default":5}"#,
        &["x{}.x"],
    );
}

#[test]
fn quality_flags_of_a_form_that_the_gateway_cannot_add_to() {
    let good = super::generate::QUALITY;
    load(&record(good)).unwrap();
    let needs = format!("test: quality: {}", quality::NEEDS);
    for (from, to) in [
        (r#""maxItems":36"#, r#""maxItems":32"#),
        (r#""maxItems":36"#, r#""maxItems":96"#),
        (r#""maxItems":36,"#, ""),
        (r#""default":[],"#, ""),
        (
            r#""default":"device"},"default":"device""#,
            r#""default":"device"},"default":"gateway""#,
        ),
        (r#""default":"device"},"default":"device""#, r#""default":"device"}"#),
        (r#"["device","gateway"]"#, r#"["gateway","device"]"#),
        (r#""sentinel","#, ""),
        (r#"{"name":"field""#, r#"{"name":"path""#),
        // The gateway's own paths have up to 160 characters, or none.
        (r#""maxLength":160"#, r#""maxLength":159"#),
        (r#""maxLength":160"#, r#""minLength":1"#),
        (r#""maxLength":160"#, r#""pattern":"^[a-z]*$""#),
        // One value may have a note of the device and one of the gateway.
        (r#""maxItems":36"#, r#""maxItems":36,"unique":"field""#),
    ] {
        assert!(good.contains(from), "{from}");
        let mistakes = load(&record(&good.replacen(from, to, 1))).unwrap_err();
        assert_eq!(mistakes, [needs.as_str()], "{to}");
    }
    let second =
        r#"{"name":"more","type":{"type":"array","maxItems":36,"items":"Quality"},"default":[],"fill":"quality"}"#;
    let mistakes = load(&record(&format!("{good},{second}"))).unwrap_err();
    assert_eq!(
        mistakes.last().unwrap(),
        "test: more: \"fill\": \"quality\" is given twice"
    );
}

#[test]
fn attributes_of_others_are_allowed_and_known() {
    let schema = record(
        r#"{"name":"x","type":{"type":"array","items":{"type":"int","javaType":"Short"}},"site":"a","default":[],
            "simulate":{"anything":1}}"#,
    );
    load(&schema).unwrap();
    assert_eq!(foreign_attributes(&schema), ["x: \"site\"", "x[]: \"javaType\""]);
}

#[test]
fn attributes_may_stand_on_the_field_or_inside_the_type() {
    for field in [
        r#"{"name":"x","type":["null","int"],"default":null,"minimum":1,"maximum":9,"sentinels":[99]}"#,
        r#"{"name":"x","type":["null",{"type":"int","minimum":1,"maximum":9,"sentinels":[99]}],"default":null}"#,
        r#"{"name":"x","type":["null",{"type":"int","minimum":1}],"default":null,"maximum":9,"sentinels":[99]}"#,
        r#"{"name":"x","type":["null",{"type":{"type":"int","minimum":1,"maximum":9},"sentinels":[99]}],"default":null}"#,
        r#"{"name":"x","type":{"type":["null","int"],"minimum":1,"maximum":9,"sentinels":[99]},"default":null}"#,
    ] {
        let bench = Bench::of_fields(field);
        assert_eq!(bench.field("test", r#"{"x":99}"#, "x"), Value::Null, "{field}");
        assert_eq!(bench.field("test", r#"{"x":9}"#, "x"), Value::Int(9), "{field}");
        for json in [r#"{"x":0}"#, r#"{"x":10}"#] {
            assert_eq!(
                bench.read("test", json.as_bytes()).unwrap_err().reason,
                Reason::OutOfRange,
                "{field}"
            );
        }
    }
}

/// JSON allows it, and the last one counts: that is seldom meant.
#[test]
fn what_is_given_twice_in_one_object() {
    let twice = |name: &str| format!("\"{name}\" is given twice, and only the last would count");
    check(&[
        (
            r#"{"name":"v","type":"double","minimum":-5,"maximum":9,"minimum":0}"#,
            &format!("v: {}", twice("minimum")),
        ),
        (
            r#"{"name":"v","type":{"type":"map","values":{"type":"int","maximum":1,"maximum":2}}}"#,
            &format!("v{{}}: {}", twice("maximum")),
        ),
        (
            r#"{"name":"v","doc":"a","type":["null",{"type":"array","items":{"type":"record","name":"R","fields":[
                {"name":"a","type":"int","doc":"x","d\u006fc":"y"}]}}],"default":null}"#,
            &format!("v[].a: {}", twice("doc")),
        ),
        (
            r#"{"name":"v","type":{"type":"enum","name":"E","symbols":["A"],"also":{"A":["a"],"A":["b"]}}}"#,
            &format!("v: {}", twice("A")),
        ),
        (
            r#"{"name":"v","type":"int","simulate":{"noise":[{"by":1,"by":2}]}}"#,
            &format!("v: {}", twice("by")),
        ),
    ]);
    let of_the_schema = r#"{"type":"record","name":"Test","doc":"a","fields":[],"doc":"b"}"#;
    assert_eq!(load(of_the_schema).unwrap_err(), [format!("test: {}", twice("doc"))]);
}
