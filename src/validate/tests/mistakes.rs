//! Mistakes of a schema's author, found when the schema is compiled and reported all at
//! once. Each is named by its path: types JSON cannot tell apart, ranges no value fits,
//! defaults of the wrong type. Those of attributes are in [`attributes`](super::attributes).

use super::*;

/// Each field is compiled alone; what is said of it begins with its name.
pub(super) fn check(cases: &[(&str, &str)]) {
    for (field, expected) in cases {
        let mistakes = load(&record(field)).err();
        assert_eq!(mistakes, Some(vec![format!("test: {expected}")]), "{field}");
    }
}

#[test]
fn unions_that_json_cannot_tell_apart() {
    check(&[
        (
            r#"{"name":"u","type":["int","long"]}"#,
            "u: ambiguous union: two branches accept JSON integers",
        ),
        (
            r#"{"name":"u","type":["null","float","double"]}"#,
            "u: ambiguous union: two branches accept JSON numbers",
        ),
        (
            r#"{"name":"u","type":["string",{"type":"enum","name":"E","symbols":["A"]}]}"#,
            "u: ambiguous union: two branches accept JSON strings",
        ),
        (
            r#"{"name":"u","type":[{"type":"record","name":"A","fields":[]},{"type":"record","name":"B","fields":[]}]}"#,
            "u: ambiguous union: two branches accept JSON objects",
        ),
        (
            r#"{"name":"u","type":["null","Test",{"type":"map","values":"int"}],"default":null}"#,
            "u: ambiguous union: two branches accept JSON objects",
        ),
    ]);
}

#[test]
fn types_and_logical_types_that_are_not_supported() {
    let none = "is not supported, for JSON has no such thing";
    check(&[
        (r#"{"name":"x","type":"bytes"}"#, &format!("x: bytes {none}")),
        (
            r#"{"name":"x","type":{"type":"fixed","name":"F","size":4}}"#,
            &format!("x: fixed {none}"),
        ),
        (
            r#"{"name":"x","type":{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}}"#,
            &format!("x: decimal {none}"),
        ),
        (
            r#"{"name":"x","type":["null",{"type":"string","logicalType":"uuid"}]}"#,
            &format!("x: uuid {none}"),
        ),
        (
            r#"{"name":"x","type":"long","logicalType":"timestamp-millis"}"#,
            "x: \"logicalType\" stands on the field, where it means nothing; put it inside the type",
        ),
    ]);
}

#[test]
fn ranges_and_sentinels_that_make_no_sense() {
    check(&[
        (
            r#"{"name":"x","type":"int","minimum":5,"maximum":3}"#,
            "x: the minimum 5 is above the maximum 3",
        ),
        (
            r#"{"name":"x","type":"double","minimum":0.5,"maximum":0}"#,
            "x: the minimum 0.5 is above the maximum 0",
        ),
        (
            r#"{"name":"x","type":"int","minimum":0.5}"#,
            "x: \"minimum\": 0.5 is not an integer",
        ),
        (
            r#"{"name":"x","type":"double","maximum":"9"}"#,
            "x: \"maximum\": \"9\" is not a number",
        ),
        (
            r#"{"name":"x","type":"int","maximum":3000000000}"#,
            "x: \"maximum\": 3000000000 is beyond the type int",
        ),
        (
            r#"{"name":"x","type":"long","maximum":9223372036854775808.0}"#,
            "x: \"maximum\": 9223372036854775808.0 is beyond the type long",
        ),
        (
            r#"{"name":"x","type":"float","maximum":3.5e38}"#,
            "x: \"maximum\": 3.5e38 is beyond the type float",
        ),
        (
            r#"{"name":"x","type":["int","double"],"maximum":3000000000}"#,
            "x: \"maximum\": 3000000000 is beyond the type int; give each branch of the union its own",
        ),
        (
            r#"{"name":"x","type":[{"type":"int","maximum":3000000000},"double"]}"#,
            "x: \"maximum\": 3000000000 is beyond the type int",
        ),
        (
            r#"{"name":"x","type":["null","int"],"default":null,"maximum":3000000000}"#,
            "x: \"maximum\": 3000000000 is beyond the type int",
        ),
        (
            r#"{"name":"x","type":{"type":"int","logicalType":"time-millis"},"maximum":86400000}"#,
            "x: \"maximum\": 86400000 is beyond the logical type, 0 to 86399999",
        ),
        // Apart as they are written, and one and the same as floats.
        (
            r#"{"name":"x","type":{"type":"int","minimum":1},"minimum":0}"#,
            "x: \"minimum\" is given twice, on the field and inside its type",
        ),
        (
            r#"{"name":"x","type":"string","minimum":0}"#,
            "x: \"minimum\" stands on something that is not a number",
        ),
        (
            r#"{"name":"x","type":{"type":"array","items":"int"},"maximum":0}"#,
            "x: \"maximum\" stands on something that is not a number",
        ),
        (
            r#"{"name":"x","type":["null","string"],"sentinels":[0]}"#,
            "x: \"sentinels\" stands on something that is not a number",
        ),
        (
            r#"{"name":"x","type":"int","maximum":9,"sentinels":[99]}"#,
            "x: \"sentinels\" are stored as null, so the type must be a union with null",
        ),
        (
            r#"{"name":"x","type":["null","double"],"maximum":0,"sentinels":255}"#,
            "x: \"sentinels\" must be an array of numbers",
        ),
    ]);
}

#[test]
fn the_default_of_a_union_is_of_its_first_branch() {
    for (kind, default, expected) in [
        // A device's 5 is a long here.
        (r#"["double","long"]"#, "5", Value::Union(0, Value::Double(5.0).into())),
        (r#"["long","double"]"#, "5", Value::Union(0, Value::Long(5).into())),
        (r#"["double","null"]"#, "5", Value::Union(0, Value::Double(5.0).into())),
        (
            r#"["null","long","double"]"#,
            "null",
            Value::Union(0, Value::Null.into()),
        ),
    ] {
        let field = format!(r#"{{"name":"x","type":{kind},"default":{default}}}"#);
        let bench = Bench::of_fields(&field);
        let value = bench.decoded("test", b"{}").unwrap();
        assert_eq!(value, Value::Record(vec![("x".to_owned(), expected)]), "{field}");
    }
}

#[test]
fn defaults_that_do_not_fit() {
    check(&[
        (
            r#"{"name":"x","type":["null","int"],"default":5}"#,
            "x: the default 5 must fit the first branch of the union, null",
        ),
        (
            r#"{"name":"x","type":["int","null"],"default":null}"#,
            "x: the default null must fit the first branch of the union: expected int, got null",
        ),
        (
            r#"{"name":"x","type":["int","null"],"maximum":1,"sentinels":[5],"default":5}"#,
            "x: the default 5 must fit the first branch of the union: 5 is out of range",
        ),
        (
            r#"{"name":"x","type":["string","double"],"default":5}"#,
            "x: the default 5 must fit the first branch of the union: expected string, got 5",
        ),
        (
            r#"{"name":"x","type":["null","int"],"maximum":1,"sentinels":[5],"default":5}"#,
            "x: the default 5 must fit the first branch of the union, null",
        ),
        (
            r#"{"name":"x","type":"int","minimum":1,"default":0}"#,
            "x: the default 0 does not fit: 0 is below the minimum 1",
        ),
        (
            r#"{"name":"x","type":"double","default":"NaN"}"#,
            "x: the default \"NaN\" does not fit: expected double, got \"NaN\"",
        ),
    ]);
}

#[test]
fn all_mistakes_of_all_kinds_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let lanes = r#"{"name":"lanes","type":{"type":"array","items":{"type":"record","name":"L","fields":[
        {"name":"speed","type":["null","double"],"minimum":3,"maximum":2},
        {"name":"raw","type":{"type":"map","values":"bytes"}}]}}}"#;
    std::fs::write(folder.path().join("a.avsc"), record(lanes)).unwrap();
    std::fs::write(folder.path().join("b.avsc"), record(r#"{"name":"x","type":"bytes"}"#)).unwrap();
    std::fs::write(folder.path().join("c.avsc"), record(r#"{"name":"x","type":"int"}"#)).unwrap();
    assert_eq!(
        load_folder(folder.path()).unwrap_err(),
        [
            "a: lanes[].speed: the minimum 3 is above the maximum 2",
            "a: lanes[].raw{}: bytes is not supported, for JSON has no such thing",
            "b: x: bytes is not supported, for JSON has no such thing",
        ]
    );
}

#[test]
fn a_record_that_holds_itself_compiles() {
    let bench = Bench::of_fields(
        r#"{"name":"children","type":{"type":"array","items":"Test"},"default":[]},
           {"name":"by_name","type":{"type":"map","values":["null","Test"]},"default":{}},
           {"name":"up","type":["null","int","Test"],"default":null}"#,
    );
    let json = br#"{"up":{"up":3},"by_name":{"a":null,"b":{}},"children":[{},{"children":[{}]}]}"#;
    bench.decoded("test", json).unwrap();
}

#[test]
fn schemas_that_no_reading_could_fit() {
    let endless = "required, and holds itself without end: no reading could ever fit";
    let deep = |levels: usize| {
        let mut fields = String::new();
        let mut inner = "int".to_owned();
        for level in 1..=levels {
            let record = format!(r#"{{"type":"record","name":"R{level}","fields":[{{"name":"y","type":"{inner}"}}]}}"#);
            fields += &format!(r#"{{"name":"r{level}","type":["null",{record}],"default":null}},"#);
            inner = format!("R{level}");
        }
        format!(r#"{fields}{{"name":"x","type":"{inner}"}}"#)
    };
    check(&[
        (r#"{"name":"me","type":"Test"}"#, &format!("me: {endless}")),
        (
            r#"{"name":"a","type":{"type":"record","name":"A","fields":[
                {"name":"b","type":{"type":"record","name":"B","fields":[{"name":"a","type":["A","Test"]}]}}]}}"#,
            "a.b.a: ambiguous union: two branches accept JSON objects",
        ),
        (
            r#"{"name":"n","type":"int"},{"name":"a","type":{"type":"record","name":"A","fields":[
                {"name":"b","type":{"type":"record","name":"B","fields":[{"name":"a","type":["A"]}]}}]}}"#,
            &format!("a: {endless}"),
        ),
        (
            &deep(64),
            "x: required, and nests 65 levels deep; a reading may nest 64",
        ),
        (
            r#"{"name":"e","type":{"type":"enum","name":"E","symbols":[]}}"#,
            "e: an enum without symbols: no reading could ever fit",
        ),
        (
            r#"{"name":"u","type":[]}"#,
            "u: a union without branches: no reading could ever fit",
        ),
    ]);
    // With a way out.
    for field in [
        &deep(63),
        r#"{"name":"me","type":["null","Test"]}"#,
        r#"{"name":"me","type":["int","Test"]}"#,
        r#"{"name":"me","type":{"type":"array","items":"Test"}}"#,
        r#"{"name":"me","type":{"type":"map","values":"Test"}}"#,
    ] {
        Bench::of_fields(field);
    }
}

#[test]
fn the_fuzzers_schemas_compile() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/schemas");
    load_folder(&folder).unwrap();
}
