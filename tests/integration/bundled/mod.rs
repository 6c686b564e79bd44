//! What is promised of the kinds in `schemas/`: one form of what they share, documented fields, and that readings of before
//! can be read.
//!
//! `tests/golden/schemas` has the three kinds as they were first published. Avro's own rules decide whether a reader of one
//! version understands the other; a real registry is asked by `registry`. [`reference`] keeps the
//! page about them true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use citygate::catalogue::Kinds;
use citygate::receipt::metrics::Tallies;
use citygate::validate::{self, Scratch, Validator};
use serde_json::Value;

use crate::harness::repository;

mod reference;

/// In the order of the page about them: the three of the city, then the others.
const KINDS: [&str; 8] = [
    "traffic",
    "weather",
    "energy",
    "air",
    "noise",
    "parking",
    "streetlight",
    "water",
];

/// The fields that every kind begins with, and those that it ends with.
const FIRST: [&str; 7] = [
    "device",
    "observed_at",
    "received_at",
    "sequence",
    "interval_s",
    "location",
    "status",
];
const LAST: [&str; 8] = [
    "battery_v",
    "battery_percent",
    "rssi_dbm",
    "snr_db",
    "firmware",
    "device_temperature_c",
    "serial",
    "quality",
];

/// Fields that say nothing without a value beside them: what something is, where and when.
const NO_VALUES: [&str; 16] = [
    "device",
    "observed_at",
    "received_at",
    "sequence",
    "interval_s",
    "location",
    "serial",
    "firmware",
    "direction",
    "wind_averaging_s",
    "depth_m",
    "tariff",
    "medium",
    "read_at",
    "month_peak_at",
    "spaces_total",
];

fn text(folder: &str, kind: &str) -> String {
    let path = repository().join(folder).join(kind).with_extension("avsc");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn schema(kind: &str) -> Value {
    serde_json::from_str(&text("schemas", kind)).unwrap()
}

fn fields(record: &Value) -> &Vec<Value> {
    record["fields"].as_array().unwrap()
}

fn name(field: &Value) -> &str {
    field["name"].as_str().unwrap()
}

/// Every part of a schema: types and fields.
fn walk<'v>(part: &'v Value, visit: &mut dyn FnMut(&'v Value)) {
    visit(part);
    match part {
        Value::Array(branches) => branches.iter().for_each(|branch| walk(branch, visit)),
        Value::Object(members) => {
            let inner = ["type", "items", "values", "fields"];
            inner
                .iter()
                .filter_map(|member| members.get(*member))
                .for_each(|part| walk(part, visit));
        }
        _ => {}
    }
}

#[test]
fn what_kinds_share_is_the_same_in_each() {
    let traffic = schema("traffic");
    let shared = |kind: &Value| {
        let fields = fields(kind);
        [&fields[..FIRST.len()], &fields[fields.len() - LAST.len()..]].concat()
    };
    let names: Vec<String> = shared(&traffic).iter().map(|field| name(field).to_owned()).collect();
    assert_eq!(names, [&FIRST[..], &LAST[..]].concat());
    let mut types: BTreeMap<String, Value> = BTreeMap::new();
    for kind in KINDS {
        let schema = schema(kind);
        assert_eq!(shared(&schema), shared(&traffic), "{kind}");
        // Generated code has one class for a name, whatever the kind.
        walk(&schema, &mut |part| {
            if part.get("symbols").is_some() || part.get("fields").is_some() {
                let known = types.entry(name(part).to_owned()).or_insert_with(|| part.clone());
                assert_eq!(known, part, "{kind} has another {}", name(part));
            }
        });
    }
}

#[test]
fn every_bundled_kind_is_looked_at() {
    let folder = std::fs::read_dir(repository().join("schemas")).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let schemas = paths.filter(|path| path.extension().is_some_and(|extension| extension == "avsc"));
    let stems: BTreeSet<String> = schemas
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(stems, KINDS.map(str::to_owned).into());
}

/// Of the outermost record, and of those inside that could hold nothing.
#[test]
fn a_reading_needs_a_value() {
    for kind in KINDS {
        let schema = schema(kind);
        walk(&schema, &mut |part| {
            if part.get("fields").is_none() || ["Location", "Quality"].contains(&name(part)) {
                return;
            }
            let is_outermost = name(part) == name(&schema);
            let is_optional = |field: &&Value| is_outermost || field.get("default").is_some();
            let fields = fields(part).iter().filter(is_optional).map(name);
            let values: Vec<&str> = fields.filter(|name| !NO_VALUES.contains(name)).collect();
            let any_of = part.get("any_of").cloned().unwrap_or_else(|| serde_json::json!([]));
            assert_eq!(any_of, serde_json::json!(values), "{kind}: {}", name(part));
        });
    }
}

/// What a reading is refused for, and what is one all the same.
#[test]
fn a_reading_without_a_measured_value_is_refused() {
    let kinds = Kinds::load(&repository().join("schemas"), "city.", &Tallies::default()).unwrap();
    let (validator, mut scratch) = (Validator::new(&validate::Config::default()), Scratch::default());
    let mut read = |kind: &str, json: &str| {
        let program = &kinds.get(kind).unwrap().program;
        validator.reading(program, "d", 1_795_262_400_000, json.as_bytes(), &mut scratch)
    };
    let place = r#""location":{"latitude":1,"longitude":2},"interval_s":60,"sequence":1,"serial":"a","firmware":"","observed_at":"2026-11-21T12:00:00Z""#;
    for kind in KINDS {
        for json in [
            "{}",
            &format!("{{{place}}}"),
            r#"{"status":null,"battery_v":null,"quality":[]}"#,
        ] {
            let words = read(kind, json).unwrap_err().detail;
            assert!(
                words.starts_with("no value; send at least one of status, "),
                "{kind} {json}: {words}"
            );
        }
    }
    let empty = [
        (
            "traffic",
            r#"{"lanes":[{"lane":1},{"lane":2,"direction":"north","speed_kmh":null}]}"#,
        ),
        (
            "traffic",
            r#"{"lanes":[{"lane":1,"details":{},"class_flow_veh_h":{"car":null}}],"classes":{}}"#,
        ),
        (
            "traffic",
            r#"{"direction":"north","class_speed_kmh":{"car":null},"class_length_m":{}}"#,
        ),
        (
            "weather",
            r#"{"wind_averaging_s":600,"radiation":{},"rain_totals":{"day_mm":null},"road":{},"lightning":{}}"#,
        ),
        (
            "weather",
            r#"{"soil":[{"depth_m":0.1},{}],"channels":[{"channel":"indoor"}]}"#,
        ),
        // A value that is nulled is noted, and yet none that counts.
        ("weather", r#"{"soil":[{"depth_m":-5}]}"#),
        (
            "energy",
            r#"{"phases":[{"phase":"L1"},{"phase":"L2","supply_quality":{}}],"tariff":"0001"}"#,
        ),
        (
            "energy",
            r#"{"demand":{},"registers":{},"line_voltages":{},"supply":{"breaker":null},"tariff":""}"#,
        ),
        (
            "energy",
            r#"{"demand":{"month_peak_at":"2026-11-21T12:00:00Z"},"tariffs":[{"tariff":"1"}]}"#,
        ),
        (
            "energy",
            r#"{"channels":[{"channel":"N"}],"submeters":[{"channel":"1","medium":"gas","serial":"x","read_at":0}]}"#,
        ),
        ("air", r#"{"pm10_ug_m3":null}"#),
        (
            "noise",
            r#"{"bands":[{"centre_hz":1000},{"centre_hz":2000,"leq_db":null}]}"#,
        ),
        ("parking", r#"{"spaces_total":40,"free_by_category":{},"spaces":[]}"#),
        ("streetlight", r#"{"lamp":null,"power_w":null}"#),
        ("water", r#"{"alarms":[],"volume_m3":null}"#),
    ];
    for (kind, json) in empty {
        let words = read(kind, json).unwrap_err().detail;
        assert!(
            words.starts_with("no value; send at least one of "),
            "{kind} {json}: {words}"
        );
    }
    let refused = [
        (
            "energy",
            r#"{"tariffs":[{"tariff":"","energy_import_kwh":5}]}"#,
            "tariffs[0].tariff: \"\" is empty",
        ),
        (
            "energy",
            r#"{"submeters":[{"channel":"","volume_m3":5}]}"#,
            "submeters[0].channel: \"\" is empty",
        ),
        (
            "weather",
            r#"{"channels":[{"channel":"","leak":1}]}"#,
            "channels[0].channel: \"\" is empty",
        ),
        (
            "parking",
            r#"{"spaces":[{"space":"","state":"free"}]}"#,
            "spaces[0].space: \"\" is empty",
        ),
    ];
    for (kind, json, words) in refused {
        assert_eq!(read(kind, json).unwrap_err().detail, words, "{kind} {json}");
    }
    let valued = [
        ("traffic", r#"{"lanes":[{"lane":1},{"lane":2,"speed_kmh":50}]}"#),
        ("traffic", r#"{"lanes":[{"lane":1,"speed_kmh":255}]}"#),
        (
            "traffic",
            r#"{"lanes":[{"lane":1,"details":{"class_speed_kmh":{"car":300}}}]}"#,
        ),
        ("traffic", r#"{"classes":{"car":0}}"#),
        ("weather", r#"{"soil":[{},{"depth_m":0.1,"moisture_percent":0}]}"#),
        ("weather", r#"{"quality":[{"field":"temperature_c","flag":"missing"}]}"#),
        (
            "energy",
            r#"{"phases":[{"phase":"L1"},{"phase":"L2","supply_quality":{"sag_count":0}}]}"#,
        ),
        ("energy", r#"{"supply":{"limit_w":999900},"tariff":""}"#),
        ("air", r#"{"pm10_ug_m3":-999}"#),
        ("noise", r#"{"overload":false}"#),
        ("parking", r#"{"spaces":[{"space":"1","state":"free"}]}"#),
        ("streetlight", r#"{"status":"fault"}"#),
        ("water", r#"{"alarms":["leak"]}"#),
    ];
    for (kind, json) in valued {
        let found = read(kind, json);
        assert!(found.is_ok(), "{kind} {json}: {}", found.unwrap_err());
    }
}

#[test]
fn every_field_has_its_doc_and_every_number_its_range_and_unit() {
    // Ratios and codes have no unit, counts are of what they are called.
    let has_no_unit = |name: &str| {
        [
            "sequence",
            "lane",
            "friction",
            "leak",
            "uv_index",
            "present_weather_code",
            "air_quality_index",
        ]
        .contains(&name)
            || ["factor", "count", "spaces_total", "spaces_free", "spaces_occupied"]
                .iter()
                .any(|end| name.ends_with(end))
    };
    for kind in KINDS {
        let schema = schema(kind);
        walk(&schema, &mut |part| {
            let Some(of) = part.get("type").filter(|_| part.get("name").is_some()) else {
                return;
            };
            assert!(
                part["doc"].as_str().is_some_and(|doc| doc.ends_with('.')),
                "{kind}: {part}"
            );
            let is_number = |of: &Value| ["int", "long", "double"].iter().any(|name| of == name);
            if is_number(of) || of.as_array().is_some_and(|branches| branches.iter().any(is_number)) {
                let field = name(part);
                let is_bounded =
                    part.get("minimum").is_some() && (part.get("maximum").is_some() || field == "sequence");
                assert!(is_bounded, "{kind}: {field}");
                assert_eq!(
                    part.get("unit").is_none(),
                    has_no_unit(field),
                    "{kind}: the unit of {field}"
                );
            }
        });
    }
}

/// A reader with an older schema meets a symbol that it does not know.
#[test]
fn enums_have_a_default_unless_they_had_none_when_they_were_published() {
    for kind in KINDS {
        walk(&schema(kind), &mut |part| {
            if let Some(symbols) = part["symbols"].as_array() {
                let is_old = ["Status", "PhaseName"].contains(&name(part));
                assert_eq!(part.get("default").is_none(), is_old, "{kind}: {}", name(part));
                let is_plain = |symbol: &Value| symbols.contains(symbol);
                assert!(is_old || is_plain(&part["default"]), "{kind}: {}", name(part));
            }
        });
    }
}

#[test]
fn readers_of_before_and_of_now_understand_each_others_readings() {
    for kind in ["traffic", "weather", "energy"] {
        let [before, now] =
            ["tests/golden/schemas", "schemas"].map(|folder| Schema::parse_str(&text(folder, kind)).unwrap());
        for (writer, reader) in [(&before, &now), (&now, &before)] {
            let found = SchemaCompatibility::can_read(writer, reader);
            assert!(found.is_ok(), "{kind}: {found:?}");
        }
    }
}

/// What a field that nobody sends costs: a byte, since it is a union's null or the end of an array.
#[test]
fn a_short_reading_costs_a_byte_for_each_new_field() {
    let validator = Validator::new(&validate::Config::default());
    let mut scratch = Scratch::default();
    let mut bytes = |folder: &Path, kind: &str, json: &str| {
        let kinds = Kinds::load(folder, "city.", &Tallies::default()).unwrap();
        let program = &kinds.get(kind).unwrap().program;
        validator
            .reading(program, "d", 1_795_262_400_000, json.as_bytes(), &mut scratch)
            .unwrap();
        scratch.value().len()
    };
    let lanes = r#"{"vehicle_count":12,"lanes":[{"lane":1,"vehicle_count":5},{"lane":2,"vehicle_count":7}]}"#;
    let phases = r#"{"power_w":1,"phases":[{"phase":"L1"},{"phase":"L2"},{"phase":"L3"}]}"#;
    let [before, now] = ["tests/golden/schemas", "schemas"].map(|folder| repository().join(folder));
    for (kind, json, more) in [
        ("traffic", lanes, 19 + 2 * 2),
        ("weather", r#"{"temperature_c":21.5}"#, 23),
        ("energy", phases, 16 + 3),
    ] {
        let (before, now) = (bytes(&before, kind, json), bytes(&now, kind, json));
        println!("{kind}: {before} bytes became {now}");
        assert_eq!(now - before, more, "{kind}");
    }
}

/// What the fleet's devices send.
#[test]
fn the_fleets_readings_grow_by_little() {
    use device_simulators::devices::{City, Device, Kind, Moment};

    let at_ms = 1_795_262_400_000;
    let validator = Validator::new(&validate::Config::default());
    let mut scratch = Scratch::default();
    let load = |folder: &str| Kinds::load(&repository().join(folder), "city.", &Tallies::default()).unwrap();
    let versions = ["tests/golden/schemas", "schemas"].map(load);
    let city = std::sync::Arc::new(City::new(20_261_121));
    for kind in Kind::PHYSICAL {
        let name = kind.to_string();
        let mut bytes = [0; 2];
        for index in 0..200 {
            let device = Device::in_city(&city, kind, index);
            let moment = Moment {
                observed_at_ms: at_ms - index as i64 * 60_000,
                interval: std::time::Duration::from_secs(60),
            };
            let reading = device.reading(index, moment);
            // Which the first version knew nothing of.
            let mut without_notes: Value = serde_json::from_slice(&reading).unwrap();
            without_notes.as_object_mut().unwrap().remove("quality");
            let readings = [without_notes.to_string().into_bytes(), reading];
            for ((kinds, reading), bytes) in versions.iter().zip(readings).zip(&mut bytes) {
                let program = &kinds.get(&name).unwrap().program;
                validator
                    .reading(program, device.name(), at_ms, &reading, &mut scratch)
                    .unwrap();
                *bytes += scratch.value().len();
            }
        }
        let [before, now] = bytes.map(|bytes| bytes / 200);
        println!("{name}: {before} bytes per reading of the fleet became {now}");
        assert!(now - before <= 32, "{name}: {before} became {now}");
    }
}
