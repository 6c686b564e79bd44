//! What the gateway nulls is noted in `quality`, with its path, behind the flags that the device sent; and counted by field.
//!
//! The differential test draws such readings, too; here are the paths and the limits.

use super::generate::QUALITY;
use super::*;

fn bench() -> Bench {
    let schema = format!(
        r#"{{"type":"record","name":"Test","fields":[
            {{"name":"b","type":["null","int"],"default":null}},
            {QUALITY},
            {{"name":"v","type":["null","double"],"default":null,"minimum":0,"maximum":9,"sentinels":[255],"out_of_range":"null"}},
            {{"name":"lanes","type":{{"type":"array","items":{{"type":"record","name":"L","fields":[
                {{"name":"lane","type":"int"}},
                {{"name":"speed","type":["null","double"],"default":null,"maximum":250,"sentinels":[255]}},
                {{"name":"by_class","type":{{"type":"map","values":["null",{{"type":"int","sentinels":[-1]}}]}},"default":{{}}}}]}}}},
             "default":[]}},
            {{"name":"last","type":["null","L"],"default":null}}]}}"#
    );
    Bench::of(&schema)
}

/// The flags as `path flag source`.
fn flags(value: &Value) -> Vec<String> {
    let Value::Array(flags) = field(value, "quality") else {
        panic!("an array")
    };
    let text = |value: &Value| match value {
        Value::String(text) | Value::Enum(_, text) => text.clone(),
        value => panic!("{value:?}"),
    };
    let shown = |flag: &Value| {
        ["field", "flag", "source"]
            .map(|name| text(field(flag, name)))
            .join(" ")
    };
    flags.iter().map(shown).collect()
}

#[test]
fn every_null_of_the_gateway_has_its_path() {
    let bench = bench();
    let check = |json: &str, expected: &[&str]| {
        let value = bench.decoded("test", json.as_bytes()).unwrap();
        assert_eq!(flags(&value), expected, "{json}");
    };
    check(r#"{"v":5}"#, &[]);
    check(r#"{"v":255,"b":7}"#, &["v sentinel gateway"]);
    check(r#"{"b":7,"v":-0.5}"#, &["v out_of_range gateway"]);
    check(
        r#"{"lanes":[{"lane":1},{"speed":255,"lane":2},{"lane":3,"by_class":{"car":2,"bus.x":-1}}],"v":10}"#,
        &[
            "lanes[1].speed sentinel gateway",
            "lanes[2].by_class[\"bus.x\"] sentinel gateway",
            "v out_of_range gateway",
        ],
    );
    check(r#"{"last":{"lane":1,"speed":255}}"#, &["last.speed sentinel gateway"]);
    let of_device = r#"{"field":"b","flag":"suspect"}"#;
    check(&format!(r#"{{"quality":[{of_device}]}}"#), &["b suspect device"]);
    check(
        &format!(r#"{{"v":255,"quality":[{of_device}]}}"#),
        &["b suspect device", "v sentinel gateway"],
    );
    check(
        &format!(r#"{{"quality":[{of_device}],"b":1,"v":255}}"#),
        &["b suspect device", "v sentinel gateway"],
    );
}

#[test]
fn too_many_notes_end_with_one_that_says_so() {
    let bench = bench();
    let lane = |number: usize| format!(r#"{{"lane":{number},"speed":255}}"#);
    let check = |of_device: usize, lanes: usize, expected: &[String]| {
        let sent = vec![r#"{"field":"b","flag":"suspect"}"#; of_device].join(",");
        let lanes: Vec<String> = (0..lanes).map(lane).collect();
        let json = format!(r#"{{"lanes":[{}],"quality":[{sent}]}}"#, lanes.join(","));
        let value = bench.decoded("test", json.as_bytes()).unwrap();
        assert_eq!(flags(&value), expected, "{json}");
    };
    let device = |count| vec!["b suspect device".to_owned(); count];
    let gateway = |count| (0..count).map(|index| format!("lanes[{index}].speed sentinel gateway"));
    check(0, 2, &gateway(2).collect::<Vec<_>>());
    check(4, 1, &device(4).into_iter().chain(gateway(1)).collect::<Vec<_>>());
    check(0, 32, &gateway(32).collect::<Vec<_>>());
    let more = " other gateway".to_owned();
    for (of_device, lanes) in [(0, 33), (4, 100)] {
        let expected = device(of_device).into_iter().chain(gateway(31));
        check(of_device, lanes, &expected.chain([more.clone()]).collect::<Vec<_>>());
    }
}

/// A record that holds itself, each with flags of its own.
#[test]
fn notes_are_those_of_the_record_that_they_are_in() {
    let schema = format!(
        r#"{{"type":"record","name":"Test","fields":[
            {{"name":"v","type":["null","int"],"default":null,"sentinels":[9]}},
            {{"name":"lanes","type":{{"type":"array","items":["null",{{"type":"int","sentinels":[9]}}]}},"default":[]}},
            {{"name":"next","type":["null","Test"],"default":null}},{QUALITY}]}}"#
    );
    let bench = Bench::of(&schema);
    let value = bench.decoded("test", br#"{"v":9,"next":{"v":9}}"#).unwrap();
    assert_eq!(flags(&value), ["v sentinel gateway", "next.v sentinel gateway"]);
    assert_eq!(flags(field(&value, "next")), ["v sentinel gateway"]);
    // More than get a path before the inner one begins.
    let nines = ["9"; 40].join(",");
    let json = format!(r#"{{"lanes":[{nines}],"next":{{"v":9}}}}"#);
    let value = bench.decoded("test", json.as_bytes()).unwrap();
    assert_eq!(flags(field(&value, "next")), [" other gateway"]);
    assert_eq!(flags(&value).len(), 32);
}

#[test]
fn a_path_has_keys_as_they_came_and_loses_its_beginning_when_it_is_long() {
    let bench = bench();
    let check = |key: &str, expected: &str| {
        let json = format!(r#"{{"lanes":[{{"lane":1,"by_class":{{"{key}":-1}}}}]}}"#);
        let value = bench.decoded("test", json.as_bytes()).unwrap();
        assert_eq!(flags(&value), [format!("{expected} sentinel gateway")], "{key}");
    };
    check("driver's", "lanes[0].by_class.driver's");
    check("Überführung-2", "lanes[0].by_class.Überführung-2");
    check("a]", r#"lanes[0].by_class["a]"]"#);
    check("", r#"lanes[0].by_class[""]"#);
    check("two words", r#"lanes[0].by_class["two words"]"#);
    check(r#"\"\\"#, r#"lanes[0].by_class["\"\\"]"#);
    let long = "x".repeat(50);
    check(&long, &format!("lanes[0].by_class.{long}"));
    check(&"ä".repeat(200), &format!("…{}", "ä".repeat(159)));
}

#[test]
fn what_is_nulled_is_known_by_its_field() {
    let bench = bench();
    let kind = bench.only_kind();
    let json = r#"{"lanes":[{"lane":1,"speed":255},{"lane":2,"speed":255,"by_class":{"car":-1}}],"v":77}"#;
    bench.read("test", json.as_bytes()).unwrap();
    let scratch = bench.scratch.borrow();
    let nulled = scratch.nulled().iter();
    let nulled: Vec<_> = nulled
        .map(|nulled| (kind.program.path(nulled.node), nulled.flag))
        .collect();
    assert_eq!(
        nulled,
        [
            ("lanes[].speed", Flag::Sentinel),
            ("lanes[].speed", Flag::Sentinel),
            ("lanes[].by_class{}", Flag::Sentinel),
            ("v", Flag::OutOfRange),
        ]
    );
}

#[test]
fn a_device_cannot_speak_as_the_gateway_nor_without_end() {
    let bench = bench();
    let check = |json: &str, expected: &str| {
        let rejection = bench.read("test", json.as_bytes()).unwrap_err();
        assert_eq!(rejection.detail, expected, "{json}");
    };
    check(
        r#"{"quality":[{"field":"b","flag":"suspect","source":"gateway"}]}"#,
        "quality[0].source: \"gateway\" is not one of device",
    );
    let five = [r#"{"field":"b","flag":"other"}"#; 5].join(",");
    check(&format!(r#"{{"quality":[{five}]}}"#), "quality: more than 4 items");
    check(
        r#"{"quality":[{"field":"b","flag":"spike"}]}"#,
        "quality[0].flag: \"spike\" is not one of other, sentinel, out_of_range, suspect",
    );
}
