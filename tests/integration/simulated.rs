//! Simulated devices of any kind, checked with the validator itself: all that they send is accepted, nothing of it becomes
//! null, and each fault is answered as it says.
//!
//! The kinds are those of `schemas/`, and a table of schemas in which every attribute stands somewhere awkward.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use citygate::catalogue::Kinds;
use citygate::devices::credential::Key;
use citygate::outcome::Rejection;
use citygate::receipt::metrics::Tallies;
use citygate::validate::{Config, Program, Scratch, Validator};
use device_simulators::devices::faults::{ClockLimits, Fault, FaultPlan, FaultRule, Faulty, Reason};
use device_simulators::devices::{self, City, Device, Moment};
use device_simulators::uplinks::Protocol;
use device_simulators::uplinks::credentials::Credentials;
use device_simulators::{Begin, Fleet, FleetConfig, Report, TopicReader, TopicReaderConfig};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::certificates::Authority;
use crate::harness::{Broker, TEST_TIMEOUT, TestGateway, eventually, repository};

/// Of each kind.
const DEVICES: u64 = 50;
const READINGS: u64 = 41;

/// 2026-10-24 12:00 UTC: half a day before summer time ends in Europe.
const START_MS: i64 = 1_792_843_200_000;

/// A quarter of an hour, and an odd bit more.
const STEP_MS: i64 = 903_457;

/// Fields of an outermost record, by the name of the kind.
const AWKWARD: [(&str, &str); 18] = [
    (
        "ranges",
        r#"{"name":"a","type":"double","exclusiveMinimum":0,"exclusiveMaximum":0.001},
           {"name":"b","type":"float","minimum":0.1,"maximum":0.3,"simulate":{"mean":0.1,"stddev":1}},
           {"name":"c","type":{"type":"int","minimum":7,"maximum":7}},
           {"name":"d","type":"long","exclusiveMinimum":-3,"exclusiveMaximum":-1},
           {"name":"e","type":["null","double"],"minimum":-1e300,"maximum":1e300},
           {"name":"f","type":"long","minimum":9007199254740993},
           {"name":"g","type":"double","minimum":1e-30,"maximum":2e-30},
           {"name":"h","type":"float","exclusiveMinimum":0,"maximum":1e-7},
           {"name":"i_c","type":"double","minimum":60,"maximum":61,"unit":"degC"}"#,
    ),
    (
        "sentinels",
        r#"{"name":"a","type":["null","int"],"default":null,"minimum":0,"maximum":5,"sentinels":[0,1,2,3,5],"out_of_range":"null"},
           {"name":"b","type":["null","double"],"sentinels":[14,14.1,13.9],"minimum":13.5,"maximum":14.5},
           {"name":"c_percent","type":["null","float"],"default":null,"maximum":100,"minimum":0,"sentinels":[55,-9999.9],
            "out_of_range":"null","simulate":{"mean":100,"stddev":80}},
           {"name":"d","type":["null",{"type":"long","maximum":250}],"default":null,"sentinels":[255]}"#,
    ),
    (
        "counters",
        r#"{"name":"a_kwh","type":"double","minimum":0,"maximum":10,"simulate":{"increase_per_hour":3}},
           {"name":"b_total","type":"int","minimum":100,"maximum":200},
           {"name":"c","type":["null","long"],"default":null,"sentinels":[0,7],"simulate":{"increase_per_hour":2,"reset_hours":24}},
           {"name":"d","type":"float","maximum":0,"minimum":-5,"simulate":{"increase_per_hour":1}}"#,
    ),
    (
        "texts",
        r#"{"name":"a","type":"string","pattern":"^[A-Z]{2}-\\d{3,}$","maxLength":6},
           {"name":"b","type":["null","string"],"default":null,"maxLength":1},
           {"name":"c","type":"string","pattern":"(?i)kerb|^$"},
           {"name":"d","type":"string","pattern":"\\bN(orth|E)?\\b.*[^\\x00-\\x7F]"},
           {"name":"e","type":{"type":"string","maxLength":3},"pattern":"^(ab|c{0,9})+$"},
           {"name":"f","type":"string","simulate":{"values":["a \"quoted\" one","ä","\n"]}},
           {"name":"g","type":"string","pattern":"^[0-9A-F]{2}(:[0-9A-F]{2}){5}$"}"#,
    ),
    (
        "lengths",
        r#"{"name":"id","type":{"type":"string","minLength":12,"maxLength":14}},
           {"name":"a","type":["null","string"],"default":null,"minLength":3},
           {"name":"b","type":"string","pattern":"^[a-z]+$","minLength":2},
           {"name":"c","type":{"type":"array","unique":"name","items":{"type":"record","name":"C","fields":[
              {"name":"name","type":"string","minLength":1,"simulate":{"values":["one","two"]}}]}},"simulate":{"items":5}}"#,
    ),
    (
        "times",
        r#"{"name":"seen","type":{"type":"long","logicalType":"timestamp-millis"},"clock":"observed",
            "accepts":["epoch_s","rfc3339","local"],"time_zone":"Europe/Berlin","disambiguation":"reject"},
           {"name":"a","type":{"type":"long","logicalType":"timestamp-millis"},"accepts":["local"],"utc_offset":"-09:30"},
           {"name":"b","type":["null",{"type":"long","logicalType":"timestamp-micros","accepts":["epoch_ns"]}],"default":null},
           {"name":"c","type":{"type":"long","logicalType":"timestamp-nanos"}},
           {"name":"d","type":{"type":"long","logicalType":"timestamp-micros"},"accepts":["rfc3339"]},
           {"name":"e","type":{"type":"long","logicalType":"local-timestamp-millis"}},
           {"name":"f","type":{"type":"int","logicalType":"date"}},
           {"name":"g","type":{"type":"int","logicalType":"time-millis"}},
           {"name":"h","type":{"type":"long","logicalType":"time-micros"}},
           {"name":"i","type":{"type":"long","logicalType":"timestamp-millis"},"maximum":1700000000000},
           {"name":"j","type":["null",{"type":"long","logicalType":"timestamp-millis"}],"accepts":["local"],
            "time_zone":"America/New_York","disambiguation":"later"}"#,
    ),
    (
        "summer",
        r#"{"name":"observed_at","type":{"type":"long","logicalType":"timestamp-millis"},"clock":"observed",
            "accepts":["local"],"time_zone":"Australia/Lord_Howe","disambiguation":"compatible"},
           {"name":"sequence","type":"long"},{"name":"x","type":"double"}"#,
    ),
    (
        "arrays",
        r#"{"name":"a","type":{"type":"array","maxItems":4,"unique":"lane","items":{"type":"record","name":"Lane","fields":[
             {"name":"lane","type":"int","minimum":1,"maximum":2},{"name":"speed_kmh","type":["null","double"],"default":null}]}},
            "simulate":{"items":9}},
           {"name":"b","type":{"type":"array","unique":"phase","items":{"type":"record","name":"Phase","fields":[
             {"name":"v","type":"double"},
             {"name":"phase","type":{"type":"enum","name":"P","symbols":["L1","L2","L3"],"also":{"L1":["a"],"L2":["b"]}}}]}},
            "simulate":{"items":5}},
           {"name":"c","type":{"type":"array","unique":"space","items":{"type":"record","name":"Space","fields":[
             {"name":"space","type":"string","pattern":"^[ab]$","maxLength":1}]}},"default":[],"simulate":{"items":9,"present":1}},
           {"name":"d","type":["null",{"type":"array","maxItems":1,"items":"double"}],"default":null,"simulate":{"mean":3,"items":2}},
           {"name":"e","type":{"type":"array","items":{"type":"array","items":"P"}}},
           {"name":"f","type":{"type":"map","values":["null","int"]},"simulate":{"keys":["car","\"bus\""],"mean":5}},
           {"name":"g","type":{"type":"array","items":{"type":"enum","name":"Q","symbols":["x","y"]}},"simulate":{"weights":{"y":1}}}"#,
    ),
    (
        "names",
        r#"{"name":"temperature_c","type":["null","double"],"default":null,"also":["temp","t"],"aliases":["temperature"]},
           {"name":"state","type":{"type":"enum","name":"S","symbols":["on","off"],"also":{"on":["ON","1"],"off":["OFF"]}}},
           {"name":"status","type":["null","string"],"default":null},
           {"name":"fw","type":["null","string"],"default":null},
           {"name":"device","type":["null","string"],"default":null},
           {"name":"received_at","type":["null","long"],"default":null}"#,
    ),
    (
        "unions",
        r#"{"name":"a","type":["int","double"]},
           {"name":"b","type":["double","null","long"],"default":0},
           {"name":"c","type":["null","string","long",{"type":"map","values":"int"}],"default":null},
           {"name":"d","type":["boolean","null"],"default":true},
           {"name":"e","type":"null"},
           {"name":"f","type":["null"],"default":null},
           {"name":"g","type":{"type":{"type":"float"}},"minimum":1,"maximum":2}"#,
    ),
    (
        "other_branches",
        r#"{"name":"a","type":["null","int",{"type":"enum","name":"U","symbols":["u"]}],"default":null},
           {"name":"b","type":"U"},
           {"name":"sequence","type":"double"}"#,
    ),
    (
        "itself",
        r#"{"name":"a","type":["null","Record"],"default":null,"simulate":{"present":1}},
           {"name":"b","type":{"type":"array","items":"Record"},"simulate":{"items":2}},
           {"name":"c","type":["Record","string"]},
           {"name":"d","type":["null",{"type":"map","values":"Record"}]}"#,
    ),
    (
        "spaces_names",
        r#"{"name":"a","type":{"type":"record","name":"other.P","fields":[{"name":"x","type":{"type":"enum","name":"E","symbols":["o"]}}]}},
           {"name":"b","type":{"type":"enum","name":"E","symbols":["t"]}},
           {"name":"c","type":"other.E"},{"name":"d","type":"E"},{"name":"e","type":"test.simulated.E"}"#,
    ),
    (
        "no_fix",
        r#"{"name":"x","type":"int"},
           {"name":"latitude","type":["null","double"],"default":null,"maximum":90,"out_of_range":"null"},
           {"name":"b","type":{"type":"array","items":{"type":"record","name":"Place","fields":[
             {"name":"latitude","type":["null","int"],"sentinels":[999],"maximum":90}]}}}"#,
    ),
    (
        "noted",
        r#"{"name":"x","type":"double"},{"name":"y","type":["null","double"],"simulate":{"present":0}},
           {"name":"field","type":"int"},
           {"name":"notes","type":{"type":"array","maxItems":33,"items":{"type":"record","name":"Note","fields":[
              {"name":"field","type":"string"},
              {"name":"flag","type":{"type":"enum","name":"Flag","symbols":["other","out_of_range","sentinel","estimated"],"default":"other"}},
              {"name":"source","type":{"type":"enum","name":"Source","symbols":["device","gateway"],"default":"device"},"default":"device"}
            ]}},"default":[],"fill":"quality"}"#,
    ),
    (
        "nothing",
        r#"{"name":"device","type":"string","fill":"device"},
           {"name":"received_at","type":{"type":"long","logicalType":"timestamp-millis"},"fill":"received_at"}"#,
    ),
    (
        "small_numbers",
        r#"{"name":"sequence","type":"int"},{"name":"interval_s","type":"int","maximum":2},
           {"name":"x","type":"double"}"#,
    ),
    (
        "long_ones",
        r#"{"name":"sequence","type":["null","long"],"default":null},
           {"name":"location","type":["null",{"type":"record","name":"L","fields":[
             {"name":"latitude","type":"double","maximum":10},{"name":"longitude","type":"float"}]}],"default":null},
           {"name":"a","type":["null","string"],"default":null,"simulate":{"values":["TEXT"]}},
           {"name":"b","type":["null","string"],"default":null,"simulate":{"values":["TEXT"]}},
           {"name":"c","type":["null",{"type":"array","items":"int"}],"default":null,"simulate":{"items":500}}"#,
    ),
];

/// A record of which one of two must have a value, at any depth.
const ANY_OF: &str = r#"{"type":"record","name":"Any","any_of":["a","b","c","d"],"fields":[
    {"name":"quality","type":["null","string"],"default":null,"simulate":{"present":0}},
    {"name":"a","type":["null","int"],"default":null,"simulate":{"present":0}},
    {"name":"b","type":{"type":"array","items":"int"},"default":[],"simulate":{"items":0}},
    {"name":"c","type":{"type":"map","values":"int"},"default":{},"simulate":{"present":0.1}},
    {"name":"d","type":["null",{"type":"record","name":"D","any_of":["x","y"],"fields":[
      {"name":"x","type":["null","int"],"default":null,"simulate":{"present":0}},
      {"name":"y","type":["null","double"],"default":null,"simulate":{"present":0.5}}]}],"default":null,"simulate":{"present":0.5}}]}"#;

/// The same of records inside that say nothing of values: what is really sent counts.
const ANY_OF_PARTS: &str = r#"{"type":"record","name":"Parts","any_of":["part","parts","by_name","texts"],"fields":[
    {"name":"part","type":{"type":"record","name":"Part","fields":[
      {"name":"x","type":["null","int"],"simulate":{"present":0}},
      {"name":"y","type":["null","string"],"default":null,"simulate":{"present":0.2,"values":["","y"]}},
      {"name":"z","type":["null","int"],"default":null,"simulate":{"present":0.1}}]},"default":{"x":null},"simulate":{"present":0.6}},
    {"name":"parts","type":["null",{"type":"array","unique":"name","items":{"type":"record","name":"Named","any_of":["inner"],"fields":[
      {"name":"name","type":"string"},
      {"name":"inner","type":["null","Part"],"default":null,"simulate":{"present":0.5}}]}}],"default":null,"simulate":{"present":0.3,"items":0}},
    {"name":"by_name","type":{"type":"map","values":["null","Part"]},"default":{},"simulate":{"present":0.3}},
    {"name":"texts","type":["null",{"type":"array","items":"string"}],"default":null,"simulate":{"present":0.3,"values":["","a"]}}]}"#;

/// All kinds: name, the schema as the gateway has it, and as its devices have it.
struct Both {
    gateway: Kinds,
    devices: Vec<devices::Kind>,
}

impl Both {
    fn of(folder: &Path) -> Both {
        let gateway = Kinds::load(folder, "city.", &Tallies::default());
        let gateway = gateway.unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        let devices = devices::Kinds::of_folder(folder).select(&["*"]);
        Both {
            gateway,
            devices: devices.unwrap_or_else(|error| panic!("{error}")),
        }
    }

    fn awkward() -> Both {
        let folder = TempDir::new().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name).with_extension("avsc"), text).unwrap();
        for (name, fields) in AWKWARD {
            let fields = fields.replace("TEXT", &"x".repeat(700));
            let head = r#""type":"record","name":"Record","namespace":"test.simulated""#;
            write(name, &format!("{{{head},\"fields\":[{fields}]}}"));
        }
        write("any_of", ANY_OF);
        write("any_of_parts", ANY_OF_PARTS);
        Both::of(folder.path())
    }

    fn bundled() -> Both {
        Both::of(&repository().join("schemas"))
    }

    fn program(&self, kind: devices::Kind) -> &Program {
        &self.gateway.get(kind.name()).unwrap().program
    }
}

/// The validator, which is asked again and again.
struct Judge {
    validator: Validator,
    scratch: Scratch,
}

impl Judge {
    fn new() -> Judge {
        Judge {
            validator: Validator::new(&Config::default()),
            scratch: Scratch::default(),
        }
    }

    /// The answer to a reading; how many of its numbers became null.
    fn answer(&mut self, program: &Program, device: &Device, json: &[u8], now_ms: i64) -> Result<usize, Rejection> {
        let Judge { validator, scratch } = self;
        validator.reading(program, device.name(), now_ms, json, scratch)?;
        Ok(scratch.nulled().len())
    }
}

#[test]
fn every_reading_of_every_kind_is_accepted_as_it_is() {
    let mut judge = Judge::new();
    for both in [Both::awkward(), Both::bundled()] {
        let city = Arc::new(City::new(7));
        for kind in &both.devices {
            for index in 0..DEVICES {
                let device = Device::in_city(&city, *kind, index);
                for number in 0..READINGS {
                    let moment = Moment {
                        observed_at_ms: START_MS + number as i64 * STEP_MS + index as i64 * 1117,
                        interval: Duration::from_millis([200, 1000, 60_000, 3_600_000][number as usize % 4]),
                    };
                    let json = device.reading(1_792_843_200_000 + number, moment);
                    let text = String::from_utf8(json).unwrap();
                    let answer = judge.answer(both.program(*kind), &device, text.as_bytes(), moment.observed_at_ms);
                    assert!(matches!(answer, Ok(0)), "{kind}: {answer:?}: {text}");
                    // One that must have more of itself is as long as it is.
                    assert!(
                        text.len() < 1200 || kind.name() == "itself",
                        "{kind}: {} bytes",
                        text.len()
                    );
                }
            }
        }
    }
}

/// Of the flags that devices say, `noted` knows one; and a value that is never sent is not spoken of.
#[test]
fn devices_say_the_flags_that_a_kind_knows() {
    let both = Both::awkward();
    let kind = both.devices.iter().find(|kind| kind.name() == "noted").unwrap();
    let city = Arc::new(City::new(7));
    let mut said: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (index, number) in (0..DEVICES).flat_map(|index| (0..READINGS).map(move |number| (index, number))) {
        let moment = Moment {
            observed_at_ms: START_MS + number as i64 * STEP_MS,
            interval: Duration::from_secs(60),
        };
        let reading = Device::in_city(&city, *kind, index).reading(number, moment);
        let reading: serde_json::Value = serde_json::from_slice(&reading).unwrap();
        for note in reading["notes"].as_array().into_iter().flatten() {
            let text = |name: &str| note[name].as_str().unwrap().to_owned();
            *said.entry((text("field"), text("flag"))).or_default() += 1;
        }
    }
    let of_x = said.get(&("x".to_owned(), "estimated".to_owned()));
    assert!(of_x.is_some_and(|times| *times >= 3), "{said:?}");
    assert!(
        said.keys().all(|(field, flag)| field != "y" && flag == "estimated"),
        "{said:?}"
    );
}

/// A record of the fleet says its number, unless its kind has no place for it.
#[test]
fn kinds_without_a_number_are_known() {
    let both = Both::awkward();
    let numbered = both.devices.iter().filter(|kind| kind.is_numbered());
    let names: Vec<&str> = numbered.map(|kind| kind.name()).collect();
    assert_eq!(names, ["long_ones", "summer"]);
}

#[test]
fn faults_of_any_kind_expect_what_the_gateway_answers() {
    let reason = |rejection: &Rejection| match rejection.reason.label() {
        "malformed" => Reason::Malformed,
        "schema_mismatch" => Reason::SchemaMismatch,
        "out_of_range" => Reason::OutOfRange,
        "bad_clock" => Reason::BadClock,
        other => panic!("{other}: {rejection:?}"),
    };
    let mut judge = Judge::new();
    let mut seen: BTreeMap<(Fault, &str), u64> = BTreeMap::new();
    for both in [Both::awkward(), Both::bundled()] {
        let city = Arc::new(City::new(7));
        for (kind, fault) in both
            .devices
            .iter()
            .flat_map(|kind| Fault::ALL.map(|fault| (*kind, fault)))
        {
            let plan = FaultPlan {
                rules: vec![FaultRule::new(fault, 0.3)],
            };
            for index in 0..2 {
                let device = Device::in_city(&city, kind, index);
                let mut faulty = Faulty::new(7, device, &plan, ClockLimits::default());
                for sequence in 0..60 {
                    let moment = Moment {
                        observed_at_ms: START_MS + sequence as i64 * 300_000,
                        interval: Duration::from_secs(300),
                    };
                    for emission in faulty.measure(sequence, moment, moment.observed_at_ms) {
                        let (program, now_ms) = (both.program(kind), moment.observed_at_ms);
                        let answer = judge.answer(program, faulty.device(), &emission.payload, now_ms);
                        let answered = answer.as_ref().err().map(reason);
                        let shown = String::from_utf8_lossy(&emission.payload);
                        let (labels, expected) = (emission.labels, emission.expected);
                        assert!(
                            expected.allows(answered),
                            "{kind}, {labels}: {expected:?}, not {answer:?}: {shown}"
                        );
                        let outcome = match (answered, answer) {
                            (Some(reason), _) => reason.label(),
                            (None, Ok(0)) => "accepted",
                            (None, _) => "null",
                        };
                        labels
                            .iter()
                            .for_each(|fault| *seen.entry((fault, outcome)).or_default() += 1);
                    }
                }
            }
        }
    }
    for met in [
        (Fault::Stuck, "accepted"),
        (Fault::Spike, "accepted"),
        (Fault::Spike, "null"),
        (Fault::Spike, "out_of_range"),
        (Fault::Drift, "accepted"),
        (Fault::Sentinel, "null"),
        (Fault::Sentinel, "out_of_range"),
        (Fault::UnitMixUp, "null"),
        (Fault::DeadClock, "bad_clock"),
        (Fault::ClockSkew, "accepted"),
        (Fault::ClockSkew, "bad_clock"),
        (Fault::Duplicate, "accepted"),
        (Fault::LateBurst, "accepted"),
        (Fault::Truncated, "malformed"),
        (Fault::Malformed, "malformed"),
        (Fault::Malformed, "schema_mismatch"),
        (Fault::Resend, "accepted"),
    ] {
        assert!(seen.get(&met).is_some_and(|times| *times > 20), "{met:?}: {seen:#?}");
    }
}

/// So many schemas, each another kind's: the bundled ones in turn, with a field of their own.
fn many_kinds(count: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    let names = devices::Kinds::bundled().names().unwrap();
    for number in 0..count {
        let kind = &names[number % names.len()];
        let text = std::fs::read_to_string(repository().join("schemas").join(kind).with_extension("avsc")).unwrap();
        let mut schema: serde_json::Value = serde_json::from_str(&text).unwrap();
        let own = serde_json::json!({"name": format!("own_{number}_count"), "type": "int", "default": 0, "minimum": 0});
        schema["fields"].as_array_mut().unwrap().push(own);
        std::fs::write(folder.path().join(format!("{kind}-{number}.avsc")), schema.to_string()).unwrap();
    }
    folder
}

/// One `.avsc` more is one stream more, and one kind of device more; two hundred are no special case.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_kinds_in_one_folder_lose_nothing() {
    const KINDS: usize = 200;
    let folder = many_kinds(KINDS);
    let broker = Broker::any();
    let gateway = TestGateway::start(&broker, |config| {
        config.schemas = citygate::catalogue::Config::every(folder.path());
        config.kafka.partitions = 1;
    })
    .await;
    let kinds = devices::Kinds::of_folder(folder.path()).select(&["*"]).unwrap();
    let mut reader = TopicReaderConfig::new(&broker.servers, &gateway.topic_prefix);
    (reader.begin, reader.kinds) = (Begin::Earliest, kinds.clone());
    let reader = tokio::task::spawn_blocking(move || TopicReader::start(&reader)).await;
    // Each kind on each protocol.
    let fleet = FleetConfig {
        devices: 3 * KINDS,
        kinds,
        interval: Duration::from_millis(1500),
        start_spread: Duration::from_millis(1500),
        mqtt: gateway.addresses.mqtt,
        coap: gateway.addresses.coap,
        http: gateway.addresses.http,
        ..FleetConfig::default()
    };
    let (fleet, started) = (Fleet::start(fleet).unwrap(), Instant::now());
    eventually("each device has sent a few readings", async || {
        (fleet.counters().total().acknowledged > 4 * 3 * KINDS as u64).then_some(())
    })
    .await;
    let outcome = fleet.stop().await;
    let found = reader
        .unwrap()
        .unwrap()
        .finish(&outcome.ledger, TEST_TIMEOUT)
        .await
        .unwrap();
    let report = Report::new(&outcome, &found, started.elapsed());
    assert!(report.passed() && report.tally.rejected == 0, "{report}");
    assert_eq!(
        (report.lost, report.out_of_order, report.unreadable),
        (0, 0, 0),
        "{report}"
    );
    assert_eq!(report.by_kind.len(), KINDS);
    assert!(report.by_kind.values().all(|kind| kind.in_kafka >= 3), "{report}");
    gateway.finish().await;
}

/// Devices of which each proves by its key who it is, over TLS, and one that has none: what is acknowledged is in Kafka.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_with_keys_over_tls_loses_nothing() {
    let authority = Authority::new();
    authority.issue(90);
    let (folder, broker) = (tempfile::tempdir().unwrap(), Broker::any());
    let fleet = FleetConfig {
        devices: 48,
        interval: Duration::from_millis(100),
        // Where, is known when the gateway is.
        mqtt: Some(([127, 0, 0, 1], 0).into()),
        http: Some(([127, 0, 0, 1], 0).into()),
        ..FleetConfig::default()
    };
    let (mut records, mut keys) = (String::new(), String::new());
    for (id, kind) in fleet.device_names(&[Protocol::Mqtt, Protocol::Http]) {
        let key = Key::generate();
        records += &format!("{}\n", json!({"id": id, "kinds": [kind], "keys": [key.hash()]}));
        keys += &format!("{}\n", json!({"id": id, "key": key.reveal()}));
    }
    // The first has lost its key.
    let lost = keys.lines().next().unwrap().to_owned();
    let keys_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&keys_file, keys.replacen(&lost, "", 1)).unwrap();
    std::fs::write(folder.path().join("fleet.ndjson"), records).unwrap();
    let gateway = TestGateway::start(&broker, |config| {
        authority.use_in(config);
        config.devices.folder = Some(folder.path().to_owned());
        config.devices.refusal_delay = Duration::from_millis(100);
    })
    .await;
    let mut reader = TopicReaderConfig::new(&broker.servers, &gateway.topic_prefix);
    (reader.begin, reader.kinds) = (Begin::Earliest, fleet.kinds.clone());
    let reader = tokio::task::spawn_blocking(move || TopicReader::start(&reader)).await;
    let authority_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&authority_file, authority.pem()).unwrap();
    let credentials = Credentials::read(Some(keys_file.path()), Some(authority_file.path())).unwrap();
    let fleet = FleetConfig {
        mqtt: gateway.addresses.mqtt_tls,
        http: gateway.addresses.http_tls,
        credentials: Arc::new(credentials),
        ..fleet
    };
    let (fleet, started) = (Fleet::start(fleet).unwrap(), Instant::now());
    eventually("each device has sent a few readings", async || {
        (fleet.counters().total().acknowledged > 500).then_some(())
    })
    .await;
    let outcome = fleet.stop().await;
    let found = reader
        .unwrap()
        .unwrap()
        .finish(&outcome.ledger, TEST_TIMEOUT)
        .await
        .unwrap();
    let report = Report::new(&outcome, &found, started.elapsed());
    assert!(report.passed(), "{report}");
    assert_eq!(
        (report.lost, report.out_of_order, report.tally.rejected),
        (0, 0, 0),
        "{report}"
    );
    let silent = outcome
        .ledger
        .accounts
        .iter()
        .filter(|account| account.acknowledged.is_empty());
    assert_eq!(silent.count(), 1, "{report}");
    let scrape = gateway.scrape();
    assert!(scrape.sum("citygate_authentications_refused_total", &[("reason", "missing")]) > 0);
    assert_eq!(scrape.sum("citygate_tls_handshakes_total", &[("result", "failed")]), 0);
    gateway.finish().await;
}
