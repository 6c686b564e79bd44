//! Hints that are wrong, or that nobody would follow: each is named, with its field and what to do.
//!
//! Whatever a schema's author writes for simulated devices has an effect, or is a mistake.

use super::*;

#[test]
fn mistakes_of_hints_are_named() {
    let check = |of: &str, hints: &str, expected: &[&str]| {
        let field = format!(r#"{{"name":"flow","type":{of},"minimum":0,"maximum":5,"simulate":{hints}}}"#);
        let schema = format!(r#"{{"type":"record","name":"R","fields":[{field}]}}"#);
        let expected: Vec<String> = expected.iter().map(|line| format!("field flow: {line}")).collect();
        assert_eq!(kind("x", &schema).err().unwrap_or_default(), expected, "{hints}");
    };
    let number = "\"double\"";
    check(number, r#"{"mean": 4}"#, &[]);
    check(number, r#"{"mean": 9}"#, &["simulate.mean 9 is beyond maximum 5"]);
    check(number, r#"{"mean": -1}"#, &["simulate.mean -1 is below minimum 0"]);
    check(
        number,
        r#"{"mean": "4"}"#,
        &["simulate.mean is \"4\"; it must be a number"],
    );
    check(
        number,
        r#"{"stddev": -4}"#,
        &["simulate.stddev is -4; it must be a number from 0"],
    );
    check(
        number,
        r#"{"peak_hour": 25}"#,
        &["simulate.peak_hour is 25; it must be a number from 0 to 24"],
    );
    check(
        number,
        r#"{"amplitud": 1}"#,
        &["simulate.amplitud is no hint; did you mean amplitude?"],
    );
    check(number, "7", &["simulate is 7; it must be an object of hints"]);
    check(
        number,
        r#"{"present": 0.5}"#,
        &["simulate.present is for a field that may be left out or null, which this is not: leave it out"],
    );
    check(
        number,
        r#"{"weights": {"a": 1}}"#,
        &["simulate.weights is for an enum or a boolean, which this is not: leave it out"],
    );
    check(
        number,
        r#"{"mean": 3, "increase_per_hour": 1, "amplitude": 2}"#,
        &[
            "simulate.mean means nothing beside increase_per_hour: leave one out",
            "simulate.amplitude is above increase_per_hour, 1: the counter would fall; lower it",
        ],
    );
    check(
        number,
        r#"{"reset_hours": 24}"#,
        &["simulate.reset_hours needs increase_per_hour: what does not count is not reset"],
    );
    let periods = "hours of which a day has a whole number, such as 0.25 or 8, or whole days, such as 168";
    for hours in ["7", "0", "-24", "36", "0.7"] {
        check(
            number,
            &format!(r#"{{"increase_per_hour": 1, "reset_hours": {hours}}}"#),
            &[&format!("simulate.reset_hours is {hours}; it must be {periods}")],
        );
    }
    for hours in ["0.1", "0.25", "24", "72"] {
        check(
            number,
            &format!(r#"{{"increase_per_hour": 1, "reset_hours": {hours}}}"#),
            &[],
        );
    }
    let flat = "simulate.peak_hour means nothing without an amplitude: add one";
    check(number, r#"{"mean": 3, "peak_hour": 7}"#, &[flat]);
    check(number, r#"{"increase_per_hour": 3, "peak_hour": 7}"#, &[flat]);
    check(number, r#"{"peak_hour": 7}"#, &[]);
    check(number, r#"{"mean": 3, "amplitude": 1, "peak_hour": 7}"#, &[]);
    let count = |items: &str| format!("simulate.items is {items}; it must be a whole number from 0 to 1000");
    let array = r#"{"type":"array","items":"int"}"#;
    for items in ["2.5", "-1", "1001"] {
        check(array, &format!(r#"{{"items": {items}}}"#), &[&count(items)]);
    }
    check(array, r#"{"items": 2.0}"#, &[]);
    check(
        r#"{"type":"map","values":"int"}"#,
        r#"{"keys": ["car", "bus", "car"]}"#,
        &[
            "simulate.keys is [\"car\",\"bus\",\"car\"]; it must be an array of different strings: a map has each key once",
        ],
    );
    let symbols = r#"{"type":"enum","name":"E","symbols":["free","occupied"]}"#;
    check(
        symbols,
        r#"{"weights": {"ocupied": 1}}"#,
        &["simulate.weights: ocupied is no symbol; did you mean occupied?"],
    );
    check(
        symbols,
        r#"{"weights": {"free": 0}}"#,
        &[
            "simulate.weights is {\"free\":0}; it must be an object of symbols and their weights: numbers from 0, at least one above",
        ],
    );
    check(
        "\"string\"",
        r#"{"values": []}"#,
        &["simulate.values is []; it must be an array of strings, at least one"],
    );
    check(
        r#"{"type": "string", "pattern": "^[A-Z]$"}"#,
        r#"{"values": ["A", "b"]}"#,
        &["simulate.values: \"b\" does not fit its pattern, minLength or maxLength"],
    );
    check(
        r#"{"type": "string", "pattern": "^abc$", "maxLength": 2}"#,
        "{}",
        &["no text can be made of the pattern ^abc$: list some in simulate.values"],
    );
    check("\"bytes\"", "{}", &["bytes cannot be sent as JSON"]);
    check("\"Speed\"", "{}", &["there is no type Speed before this place"]);
}

/// A hint that nobody would follow.
#[test]
fn hints_where_they_mean_nothing_are_mistakes() {
    let check = |fields: &str, expected: &[&str]| {
        let schema = format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        assert_eq!(kind("x", &schema).err().unwrap_or_default(), expected, "{fields}");
    };
    let time = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
    let present = |name: &str| {
        format!("field {name}: simulate.present means nothing here, since every reading has this field: leave it out")
    };
    for (name, of, more) in [
        ("sequence", r#"["null","long"]"#.to_owned(), r#""default":null"#),
        ("interval_s", r#"["null","double"]"#.to_owned(), r#""default":null"#),
        (
            "status",
            r#"["null",{"type":"enum","name":"S","symbols":["ok"]}]"#.to_owned(),
            r#""default":null"#,
        ),
        ("observed_at", time.to_owned(), r#""clock":"observed""#),
    ] {
        let field = format!(r#"{{"name":"{name}","type":{of},{more},"simulate":{{"present":0.5}}}}"#);
        check(&field, &[&present(name)]);
    }
    check(
        r#"{"name":"status","type":["null","string"],"default":null,"simulate":{"values":["ok"]}}"#,
        &[],
    );
    let filled = |name: &str| {
        format!("field {name}: simulate means nothing here, since the gateway fills this field: leave it out")
    };
    check(
        r#"{"name":"device","type":"string","fill":"device","simulate":{"values":["roof-1"]}}"#,
        &[&filled("device")],
    );
    check(
        &format!(r#"{{"name":"received_at","type":{time},"fill":"received_at","simulate":{{}}}}"#),
        &[&filled("received_at")],
    );
    let inside = |path: &str| format!("field {path}: simulate stands inside the type; put it on the field");
    let hinted = r#"{"type":"double","simulate":{"mean":4}}"#;
    for (of, path) in [
        (hinted.to_owned(), "x"),
        (format!(r#"["null",{hinted}]"#), "x"),
        (format!(r#"["null","string",{hinted}]"#), "x"),
        (format!(r#"{{"type":"array","items":{hinted}}}"#), "x[]"),
        (format!(r#"["null","int",{{"type":"map","values":{hinted}}}]"#), "x"),
        (
            r#"["int",{"type":"record","name":"P","fields":[{"name":"y","type":{"type":"double","simulate":{}}}]}]"#
                .to_owned(),
            "x.y",
        ),
    ] {
        check(&format!(r#"{{"name":"x","type":{of}}}"#), &[&inside(path)]);
    }
    let schema = r#"{"type":"record","name":"R","simulate":{},"fields":[{"name":"x","type":"int"}]}"#;
    assert_eq!(
        kind("x", schema).unwrap_err(),
        ["simulate stands inside the type; put it on the field"]
    );
}
