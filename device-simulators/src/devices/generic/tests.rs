//! What hints promise, measured on readings: profiles, counters, drifts, shares; and the [`mistakes`] that are named.
//!
//! That all of it fits the schemas is checked with the gateway itself (`tests/integration/simulated.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::devices::tests::at;
use crate::devices::{City, Kinds};

mod mistakes;

/// A device of a kind with this field, and its number.
fn device(field: &str, index: u64) -> Device {
    let sequence = r#"{"name":"sequence","type":["null","long"],"default":null}"#;
    let schema = format!(r#"{{"type":"record","name":"R","fields":[{sequence},{field}]}}"#);
    let kind = kind("test", &schema).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    Device::new(kind, 7, index)
}

/// The field `x` of a device, at this hour.
fn value(device: &Device, hour: f64) -> Value {
    let reading: Value = serde_json::from_slice(&device.reading(1, at(hour))).unwrap();
    reading["x"].clone()
}

/// The field `x` of many devices, each at many times of this hour of the day.
fn values(field: &str, hour: f64) -> Vec<Value> {
    let devices: Vec<Device> = (0..40).map(|index| device(field, index)).collect();
    let of = |device: &Device| {
        (0..50)
            .map(|day| value(device, 24.0 * f64::from(day) + hour))
            .collect::<Vec<_>>()
    };
    devices.iter().flat_map(of).collect()
}

fn mean(values: &[Value]) -> f64 {
    let numbers: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn field(of: &str, hints: &str) -> String {
    format!(r#"{{"name":"x","type":{of},"simulate":{hints}}}"#)
}

#[test]
fn a_daily_profile_peaks_at_its_hour() {
    let field = field(
        "\"double\"",
        r#"{"mean": 20, "amplitude": 8, "peak_hour": 15, "stddev": 0.5}"#,
    );
    let by_hour: Vec<f64> = (0..8).map(|turn| mean(&values(&field, f64::from(3 * turn)))).collect();
    let (most, least) = (by_hour[5], by_hour[1]);
    assert!(by_hour.iter().all(|mean| (least..=most).contains(mean)), "{by_hour:?}");
    assert!((most - 28.0).abs() < 0.3 && (least - 12.0).abs() < 0.3, "{by_hour:?}");
}

#[test]
fn noise_has_its_spread_and_a_drift_its_slope() {
    let noisy = values(&field("\"double\"", r#"{"mean": 100, "stddev": 4}"#), 9.0);
    let mean = mean(&noisy);
    let variance = noisy
        .iter()
        .filter_map(Value::as_f64)
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / 2000.0;
    assert!(
        (mean - 100.0).abs() < 1.0 && (3.0..5.0).contains(&variance.sqrt()),
        "{mean} {variance}"
    );
    let drifting = device(&field("\"double\"", r#"{"mean": 100, "drift_per_day": 0.5}"#), 1);
    let days: Vec<f64> = (0..90)
        .map(|day| value(&drifting, 24.0 * f64::from(day)).as_f64().unwrap())
        .collect();
    let is_put_right = |pair: &&[f64]| pair[1] < pair[0];
    assert_eq!(
        days.windows(2).filter(is_put_right).count(),
        3,
        "every thirty days: {days:?}"
    );
    assert!(
        days.windows(2)
            .filter(|pair| !is_put_right(pair))
            .all(|pair| (pair[1] - pair[0] - 0.5).abs() < 0.01)
    );
}

#[test]
fn counters_never_fall_but_where_they_are_reset() {
    let check = |of: &str, hints: &str, resets: usize, least: f64, most: f64| {
        for index in 0..20 {
            let device = device(&field(of, hints), index);
            // Ten days, a reading every twelve minutes.
            let shown: Vec<f64> = (0..1200)
                .map(|step| value(&device, 0.2 * f64::from(step)).as_f64().unwrap())
                .collect();
            let falls = shown.windows(2).filter(|pair| pair[1] < pair[0]).count();
            assert_eq!(falls, resets, "{hints}: device {index}");
            let gained: f64 = shown.windows(2).map(|pair| (pair[1] - pair[0]).max(0.0)).sum();
            assert!((least..=most).contains(&gained), "{hints}: {gained} in ten days");
        }
    };
    // Devices are half to one and a half times as busy as hinted.
    check(
        "\"double\"",
        r#"{"increase_per_hour": 2, "amplitude": 2, "peak_hour": 18}"#,
        0,
        235.0,
        725.0,
    );
    check("\"long\"", r#"{"increase_per_hour": 30}"#, 0, 3590.0, 10_801.0);
    check(
        "\"double\"",
        r#"{"increase_per_hour": 2, "reset_hours": 24}"#,
        9,
        230.0,
        725.0,
    );
    // A register of three digits runs over.
    let device = device(
        &field(r#"{"type": "int", "maximum": 999}"#, r#"{"increase_per_hour": 30}"#),
        3,
    );
    let shown: Vec<i64> = (0..2000)
        .map(|step| value(&device, 0.2 * f64::from(step)).as_i64().unwrap())
        .collect();
    assert!(shown.windows(2).any(|pair| pair[1] < pair[0]) && shown.iter().all(|shown| (0..=999).contains(shown)));
}

#[test]
fn a_register_that_no_hint_names_counts_as_well() {
    for (name, unit) in [
        ("energy_kwh", "kWh"),
        ("volume_m3", ""),
        ("passages_total", ""),
        ("running", "h"),
    ] {
        let field = format!(r#"{{"name":"{name}","type":"double","unit":"{unit}","minimum":0,"maximum":1e12}}"#);
        let device = device(&field, 1);
        let shown = |hour: f64| {
            let reading: Value = serde_json::from_slice(&device.reading(1, at(hour))).unwrap();
            reading[name].as_f64().unwrap()
        };
        let hours: Vec<f64> = (0..100).map(|hour| shown(f64::from(hour))).collect();
        assert!(
            hours.is_sorted() && hours[99] > hours[0] && hours[0] > 0.0,
            "{name}: {hours:?}"
        );
    }
}

#[test]
fn shares_are_as_hinted() {
    let share = |values: &[Value], of: &Value| values.iter().filter(|value| *value == of).count() as f64 / 2000.0;
    let close = |is: f64, hinted: f64| assert!((is - hinted).abs() < 0.04, "{is}, not {hinted}");
    let optional = r#"{"name":"x","type":["null","int"],"default":null,"simulate":{"present":0.3}}"#;
    close(share(&values(optional, 9.0), &Value::Null), 0.7);
    let required = r#"{"name":"x","type":["null","int"],"simulate":{"present":0.6}}"#;
    close(share(&values(required, 9.0), &Value::Null), 0.4);
    let symbols = r#"{"type":"enum","name":"E","symbols":["free","occupied","closed"]}"#;
    let states = values(&field(symbols, r#"{"weights": {"free": 1, "occupied": 3}}"#), 9.0);
    close(share(&states, &"free".into()), 0.25);
    close(share(&states, &"closed".into()), 0.0);
    let flags = values(
        &field("\"boolean\"", r#"{"weights": {"true": 0.1, "false": 0.9}}"#),
        9.0,
    );
    close(share(&flags, &true.into()), 0.1);
    let texts = values(&field("\"string\"", r#"{"values": ["A1", "A2"]}"#), 9.0);
    close(share(&texts, &"A1".into()), 0.5);
    close(share(&texts, &"A2".into()), 0.5);
    // Without a hint, what nobody would send is not sent, and all is usually well.
    let unhinted = r#"{"name":"x","type":{"type":"enum","name":"E","symbols":["unknown","ok","fault"]}}"#;
    let states = values(unhinted, 9.0);
    close(share(&states, &"unknown".into()), 0.0);
    close(share(&states, &"ok".into()), 0.97);
}

/// So many items as there are texts that tell them apart are all sent, whichever comes first.
#[test]
fn unique_items_use_up_the_hinted_texts() {
    let named = |items: usize| {
        field(
            r#"{"type":"array","unique":"name","items":{"type":"record","name":"Item","fields":[
                {"name":"name","type":"string","simulate":{"values":["a","b","c"]}},{"name":"n","type":"int"}]}}"#,
            &format!(r#"{{"items":{items}}}"#),
        )
    };
    for (items, expected) in [(1, 1), (2, 2), (3, 3), (5, 3)] {
        let sent = values(&named(items), 9.0);
        assert!(
            sent.iter().all(|sent| sent.as_array().unwrap().len() == expected),
            "{items}"
        );
        let first: std::collections::BTreeSet<String> = sent.iter().map(|sent| sent[0]["name"].to_string()).collect();
        assert_eq!(first.len(), 3, "{items}");
    }
}

/// A type that is referred to by its name is the same, and yet each field has its own hints.
#[test]
fn a_named_enum_has_the_weights_of_each_field() {
    let schema = |of_b: &str| {
        format!(
            r#"{{"type":"record","name":"R","namespace":"city","fields":[
                {{"name":"a","type":{{"type":"enum","name":"E","symbols":["free","occupied","closed"]}},"simulate":{{"weights":{{"free":1}}}}}},
                {{"name":"b","type":["null","E"],"simulate":{{"weights":{{"{of_b}":1}}}}}},
                {{"name":"c","type":{{"type":"array","items":"city.E"}},"simulate":{{"weights":{{"closed":1}}}}}},
                {{"name":"d","type":"E"}}]}}"#
        )
    };
    let kind = |of_b: &str| kind("test", &schema(of_b));
    let (device, mut of_d) = (Device::new(kind("occupied").unwrap(), 7, 1), BTreeMap::new());
    for hour in 0..200 {
        let reading: Value = serde_json::from_slice(&device.reading(1, at(f64::from(hour)))).unwrap();
        assert_eq!(
            (&reading["a"], &reading["b"], &reading["c"][0]),
            (&"free".into(), &"occupied".into(), &"closed".into())
        );
        *of_d.entry(reading["d"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert!(
        of_d.len() == 3 && of_d.values().all(|times| *times > 40),
        "no hint: {of_d:?}"
    );
    let mistakes = kind("ocupied").unwrap_err();
    assert_eq!(
        mistakes,
        ["field b: simulate.weights: ocupied is no symbol; did you mean occupied?"]
    );
}

#[test]
fn a_type_may_be_defined_in_a_branch_that_is_not_played() {
    let mistakes = |of: &str| {
        let schema = format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"x","type":{of}}},{{"name":"y","type":"E"}}]}}"#
        );
        kind("test", &schema).err().unwrap_or_default()
    };
    let defined = r#"{"type":"enum","name":"E","symbols":["free"]}"#;
    assert_eq!(mistakes(&format!(r#"["null","string",{defined}]"#)), [""; 0]);
    assert_eq!(
        mistakes(&format!(r#"["int",{{"type":"array","items":{defined}}}]"#)),
        [""; 0]
    );
}

/// A double would be rounded some day, and a number that a record says otherwise is not found in Kafka.
#[test]
fn only_a_whole_number_numbers_readings() {
    for (of, expected) in [("long", true), ("int", false), ("double", false), ("float", false)] {
        let schema = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"sequence","type":"{of}"}}]}}"#);
        assert_eq!(kind("x", &schema).unwrap().is_numbered(), expected, "{of}");
    }
}

/// A day at local midnight, a week on Mondays.
#[test]
fn counters_begin_anew_where_people_expect_it() {
    let falls = |hints: &str| {
        let device = device(&field("\"double\"", hints), 2);
        let shown: Vec<f64> = (0..=4 * 24 * 16)
            .map(|quarter| value(&device, 0.25 * f64::from(quarter)).as_f64().unwrap())
            .collect();
        // From Wednesday on; the reading of the hour itself begins anew.
        let falls = shown.windows(2).enumerate().filter(|(_, pair)| pair[1] < pair[0]);
        falls.map(|(before, _)| 0.25 * (before + 1) as f64).collect::<Vec<_>>()
    };
    let every = |hours: f64, from: f64| -> Vec<f64> {
        let times = (0..).map(|turn| from + hours * f64::from(turn));
        times.take_while(|hour| *hour <= 24.0 * 16.0).collect()
    };
    assert_eq!(
        falls(r#"{"increase_per_hour": 5, "reset_hours": 24}"#),
        every(24.0, 24.0)
    );
    assert_eq!(falls(r#"{"increase_per_hour": 5, "reset_hours": 8}"#), every(8.0, 8.0));
    assert_eq!(
        falls(r#"{"increase_per_hour": 5, "reset_hours": 168}"#),
        every(168.0, 24.0 * 5.0)
    );
}

#[test]
fn a_state_lasts_and_a_device_has_its_fields_or_not() {
    let symbols = r#"{"type":"enum","name":"E","symbols":["free","occupied"]}"#;
    let space = device(&field(symbols, "{}"), 4);
    let states: Vec<Value> = (0..360)
        .map(|second| value(&space, f64::from(second) / 360.0))
        .collect();
    let changes = states.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes <= 6, "{changes} in an hour");
    let optional = r#"{"name":"x","type":["null","double"],"default":null}"#;
    let mut equipped = 0;
    for index in 0..200 {
        let device = device(optional, index);
        let has: Vec<bool> = (0..20)
            .map(|hour| value(&device, f64::from(hour)) != Value::Null)
            .collect();
        assert!(has.iter().all(|one| *one == has[0]), "device {index}");
        equipped += usize::from(has[0]);
    }
    assert!((140..180).contains(&equipped), "{equipped} of 200");
}

#[test]
fn values_of_bundled_kinds_are_plausible() {
    // Kind and field, and between what its mean over devices and hours lies.
    let plausible = [
        ("air", "pm10_ug_m3", 5.0, 40.0),
        ("air", "temperature_c", 5.0, 25.0),
        ("air", "co2_ppm", 400.0, 600.0),
        ("noise", "laeq_db", 45.0, 70.0),
        ("parking", "occupancy_percent", 30.0, 80.0),
        ("streetlight", "voltage_v", 225.0, 235.0),
        ("streetlight", "power_factor", 0.9, 1.0),
        ("water", "pressure_bar", 3.0, 6.0),
        ("water", "rssi_dbm", -105.0, -85.0),
        ("water", "battery_v", 3.0, 4.0),
    ];
    for (name, field, least, most) in plausible {
        let kind = Kinds::bundled().get(name).unwrap();
        let city = Arc::new(City::new(7));
        let values: Vec<Value> = (0..400u64)
            .map(|index| {
                let reading = Device::in_city(&city, kind, index).reading(1, at(index as f64 * 1.3));
                let reading: Value = serde_json::from_slice(&reading).unwrap();
                reading[field].clone()
            })
            .collect();
        let mean = mean(&values);
        assert!((least..=most).contains(&mean), "{name}.{field}: {mean}");
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes_in_any_order() {
    let city = Arc::new(City::new(7));
    let kinds = Kinds::bundled().select(&["*"]).unwrap();
    let reading = |kind: Kind, number: u64| {
        let moment = Moment {
            interval: Duration::from_secs([1, 60, 900][number as usize % 3]),
            ..at(number as f64 * 1.37)
        };
        Device::in_city(&city, kind, number % 50).reading(number, moment)
    };
    for kind in kinds {
        let forwards: BTreeMap<u64, Vec<u8>> = (0..300).map(|number| (number, reading(kind, number))).collect();
        let backwards: BTreeMap<u64, Vec<u8>> = (0..300).rev().map(|number| (number, reading(kind, number))).collect();
        assert_eq!(forwards, backwards, "{kind}");
        let other = Device::new(kind, 8, 3).reading(3, at(3.0));
        assert_ne!(
            other,
            Device::new(kind, 7, 3).reading(3, at(3.0)),
            "{kind}: another seed"
        );
        assert!(forwards.values().all(|bytes| bytes.len() <= 1152), "{kind}: a datagram");
        for filled_by_the_gateway in ["device", "received_at"] {
            let name = format!("\"{filled_by_the_gateway}\"");
            let texts = forwards.values().map(|bytes| String::from_utf8_lossy(bytes));
            assert!(texts.into_iter().all(|text| !text.contains(&name)), "{kind}: {name}");
        }
    }
}
