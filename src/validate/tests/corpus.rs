//! Readings of real devices, mapped as an adapter would map them: every row is accepted, and no value is changed.
//!
//! These captures are other people's and stay outside of the repository: `TEST_CORPUS` names their folder (default:
//! `../shared/corpus`). Without it their tests are skipped, and say so. Those that may be given away are in [`captures`].

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::captures::{lines, millis, part, shown};
use super::*;

/// The captures' folder, if there is one.
pub(super) fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("TEST_CORPUS").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"));
    if folder.is_dir() {
        return Some(folder);
    }
    // Past the test harness, which would swallow it: a skip is to be seen.
    let said = format!("SKIPPED: no captures of real devices at {}", folder.display());
    writeln!(std::io::stderr(), "{said}").unwrap();
    None
}

/// Checks readings of one kind; gives how many values became null for being sentinels.
struct Intake {
    bench: Bench,
    readings: usize,
    nulled: BTreeMap<String, usize>,
}

impl Intake {
    fn new() -> Self {
        let config = Config {
            max_age: None,
            ..Config::default()
        };
        Intake {
            bench: Bench::shipped(&config),
            readings: 0,
            nulled: BTreeMap::new(),
        }
    }

    fn take(&mut self, kind: &str, reading: &Json) {
        let text = reading.to_string();
        let value = self.bench.decoded(kind, text.as_bytes());
        let value = value.unwrap_or_else(|rejection| panic!("{rejection}: {text}"));
        self.compare(kind, reading, &value);
        self.readings += 1;
    }

    /// Whatever was sent is in the record as sent, or null where it was a sentinel.
    fn compare(&mut self, path: &str, sent: &Json, stored: &Value) {
        match (sent, bare(stored)) {
            (Json::Object(fields), record @ Value::Record(_)) => {
                for (name, sent) in fields {
                    self.compare(&format!("{path}.{name}"), sent, field(record, name));
                }
            }
            (Json::Object(entries), Value::Map(map)) => {
                for (key, sent) in entries {
                    self.compare(&format!("{path}{{}}"), sent, &map[key]);
                }
            }
            (Json::Array(sent), Value::Array(stored)) => {
                assert_eq!(sent.len(), stored.len(), "{path}");
                for (sent, stored) in sent.iter().zip(stored) {
                    self.compare(&format!("{path}[]"), sent, stored);
                }
            }
            (Json::Number(_), Value::Null) => *self.nulled.entry(path.to_owned()).or_default() += 1,
            (Json::Null, Value::Null) => {}
            (Json::Number(sent), Value::Double(stored)) => assert_eq!(sent.as_f64(), Some(*stored), "{path}"),
            (Json::Number(sent), Value::Int(stored)) => assert_eq!(sent.as_i64(), Some(i64::from(*stored)), "{path}"),
            (Json::Number(sent), Value::Long(stored) | Value::TimestampMillis(stored)) => {
                assert_eq!(sent.as_i64(), Some(*stored), "{path}");
            }
            (Json::String(sent), Value::String(stored) | Value::Enum(_, stored)) => assert_eq!(sent, stored, "{path}"),
            (sent, stored) => panic!("{path}: {sent} became {stored:?}"),
        }
    }

    fn nulled(&self, path: &str) -> usize {
        self.nulled.get(path).copied().unwrap_or_default()
    }
}

/// UK motorway loops: per lane a speed, a headway, an occupancy and the flows of four classes, eight values apart. With the
/// authority's own data errors, or without them.
fn loops(capture: &Json, with_errors: bool) -> Json {
    let mut lanes: BTreeMap<u64, Json> = BTreeMap::new();
    let (mut faulty, mut notes) = (false, Vec::new());
    for value in capture["values"].as_array().unwrap() {
        let index = value["index"].as_u64().unwrap();
        let place = lanes.keys().position(|lane| *lane == index / 8).unwrap_or(lanes.len());
        let lane = lanes
            .entry(index / 8)
            .or_insert_with(|| json!({"lane": index / 8 + 1, "class_flow_veh_h": {}}));
        let number = |name: &str| value[name].as_str().unwrap().parse::<f64>().unwrap();
        match value["type"].as_str().unwrap() {
            "TrafficSpeed" => lane["speed_kmh"] = json!(number("speed")),
            "TrafficHeadway" => lane["headway_s"] = json!(number("duration")),
            "TrafficConcentration" => lane["occupancy_percent"] = json!(number("percentage")),
            _ => lane["class_flow_veh_h"][format!("class_{}", index % 8 - 2)] = json!(number("vehicleFlowRate")),
        }
        faulty |= value["dataError"] == "true";
        if with_errors && value["dataError"] == "true" {
            let flag = match value["value"].as_str() {
                Some("out of range") => "out_of_range",
                Some("suspect equipment") => "suspect",
                Some("outstation error") => "device_fault",
                _ => "other",
            };
            notes.push(json!({"field": format!("lanes[{place}].{}", loop_field(value)), "flag": flag}));
        }
    }
    let mut reading = json!({
        "observed_at": millis(capture["time"].as_str().unwrap()),
        "interval_s": 60,
        "status": if faulty { "degraded" } else { "ok" },
        "lanes": lanes.into_values().collect::<Vec<_>>(),
    });
    if with_errors {
        reading["quality"] = notes.into();
    }
    reading
}

/// The field of a lane that a loop's value goes to.
fn loop_field(value: &Json) -> String {
    match value["type"].as_str().unwrap() {
        "TrafficSpeed" => "speed_kmh".to_owned(),
        "TrafficHeadway" => "headway_s".to_owned(),
        "TrafficConcentration" => "occupancy_percent".to_owned(),
        _ => format!("class_flow_veh_h.class_{}", value["index"].as_u64().unwrap() % 8 - 2),
    }
}

/// Of the values that the road authority marked as faulty: all, and those that are null or have a note.
fn marked(bench: &Bench, capture: &Json, with_errors: bool) -> (usize, usize) {
    let reading = loops(capture, with_errors).to_string();
    let stored = shown(&bench.decoded("traffic", reading.as_bytes()).unwrap());
    let notes: Vec<String> = stored["quality"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| note["field"].to_string())
        .collect();
    let values = capture["values"].as_array().unwrap().iter();
    let faulty: Vec<&Json> = values.filter(|value| value["dataError"] == "true").collect();
    let is_told = |value: &&&Json| {
        let lane = value["index"].as_u64().unwrap() / 8 + 1;
        let place = stored["lanes"]
            .as_array()
            .unwrap()
            .iter()
            .position(|known| known["lane"] == lane)
            .unwrap();
        let path = format!("lanes[{place}].{}", loop_field(value));
        notes.contains(&json!(path).to_string()) || part(&mut stored.clone(), &path).unwrap().is_null()
    };
    let told = faulty.iter().filter(is_told).count();
    (faulty.len(), told)
}

/// The authority's marks are the only sign of most faulty values: a zero looks like an empty road.
#[test]
fn what_a_road_authority_marks_as_faulty_is_told_to_consumers() {
    let Some(folder) = corpus() else {
        return;
    };
    let bench = Intake::new().bench;
    let mut counts = [(0, 0); 2];
    for name in UK_LOOPS {
        for line in lines(&folder, name) {
            let capture = serde_json::from_str(&line).unwrap();
            for (count, with_errors) in counts.iter_mut().zip([true, false]) {
                let (faulty, told) = marked(&bench, &capture, with_errors);
                *count = (count.0 + faulty, count.1 + told);
            }
        }
    }
    let [with, without] = counts;
    println!("faulty values that are null or noted, of all: {with:?} with the authority's marks, {without:?} without");
    assert_eq!(with, (386, 386));
    assert_eq!(without.0, 386);
    assert!(without.1 >= 144, "{without:?}");
}

const UK_LOOPS: [&str; 2] = [
    "traffic/traffic-midas-loops-real-a.ndjson",
    "traffic/traffic-tmu-loops-real-a.ndjson",
];

#[test]
fn uk_motorway_loops_are_taken() {
    let Some(folder) = corpus() else {
        return;
    };
    let mut intake = Intake::new();
    for name in UK_LOOPS {
        for line in lines(&folder, name) {
            intake.take("traffic", &loops(&serde_json::from_str(&line).unwrap(), false));
        }
    }
    assert_eq!(intake.readings, 108 + 555);
    // What the road authority sends for "no reading"; its headway of 25.5 and occupancy of 100 are values too, and stay.
    assert_eq!(intake.nulled("traffic.lanes[].speed_kmh"), 13 + 15);
    assert_eq!(intake.nulled("traffic.lanes[].class_flow_veh_h{}"), 49 + 60);
    assert!(intake.nulled("traffic.lanes[].occupancy_percent") >= 7);
    assert_eq!(intake.nulled("traffic.lanes[].headway_s"), 0);
}

#[test]
fn surfrad_and_midc_and_airport_weather_is_taken() {
    let Some(folder) = corpus() else {
        return;
    };
    let mut intake = Intake::new();
    for line in lines(&folder, "weather/weather-surfrad-slv16001.dat").iter().skip(2) {
        let columns: Vec<f64> = line.split_whitespace().map(|column| column.parse().unwrap()).collect();
        let time = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:00Z",
            columns[0], columns[2], columns[3], columns[4], columns[5]
        );
        intake.take(
            "weather",
            &json!({
                "observed_at": millis(&time), "interval_s": 60,
                "location": {"latitude": 37.70, "longitude": -105.92, "altitude_m": 2317},
                "irradiance_w_m2": columns[8], "uv_index": columns[28],
                "temperature_c": columns[38], "relative_humidity_percent": columns[40],
                "wind_speed_m_s": columns[42], "wind_direction_deg": columns[44], "pressure_hpa": columns[46],
            }),
        );
    }
    assert_eq!((intake.readings, intake.nulled("weather.uv_index")), (1440, 1440));
    for line in lines(&folder, "weather/weather-midc-20181014.csv").iter().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let number = |index: usize| columns[index].parse::<f64>().unwrap();
        intake.take(
            "weather",
            &json!({"irradiance_w_m2": number(2), "temperature_c": number(4)}),
        );
    }
    for line in lines(&folder, "weather/nyc-jfk-weather-hourly-2013.csv").iter().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let number = |index: usize, scale: f64| columns[index].parse::<f64>().ok().map(|value| value * scale);
        let celsius = |index: usize| number(index, 1.0).map(|value| (value - 32.0) / 1.8);
        intake.take(
            "weather",
            &json!({
                "observed_at": millis(columns[14]), "interval_s": 3600,
                "temperature_c": celsius(5), "dew_point_c": celsius(6), "relative_humidity_percent": number(7, 1.0),
                "wind_direction_deg": number(8, 1.0), "wind_speed_m_s": number(9, 0.447_04),
                "wind_gust_m_s": number(10, 0.447_04), "rain_mm": number(11, 25.4),
                "sea_level_pressure_hpa": number(12, 1.0), "visibility_m": number(13, 1609.344),
            }),
        );
    }
    assert_eq!(
        intake.nulled.len(),
        1,
        "no sentinels but SURFRAD's UV: {:?}",
        intake.nulled
    );
    assert!(intake.readings > 1440 + 1400 + 8000, "{}", intake.readings);
}

#[test]
fn ecowitt_stations_are_taken() {
    let Some(folder) = corpus() else {
        return;
    };
    let mut intake = Intake::new();
    for name in [
        "ambweather",
        "gw1000bpro",
        "gw2000a_1",
        "gw2000a_4",
        "unknown",
        "ws2900",
    ] {
        let form = lines(&folder, &format!("ecowitt/weather-ecowitt-{name}.form")).concat();
        let pairs: BTreeMap<&str, &str> = form.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let number = |name: &str| pairs.get(name).and_then(|value| value.parse::<f64>().ok());
        intake.take(
            "weather",
            &json!({
                "temperature_c": number("tempf").map(|value| (value - 32.0) / 1.8),
                "relative_humidity_percent": number("humidity"),
                "pressure_hpa": number("baromabsin").map(|value| value * 33.863_886),
                "wind_speed_m_s": number("windspeedmph").map(|value| value * 0.447_04),
                "wind_gust_m_s": number("windgustmph").map(|value| value * 0.447_04),
                "wind_direction_deg": number("winddir"),
                "irradiance_w_m2": number("solarradiation"),
                "uv_index": number("uv"),
            }),
        );
    }
    assert_eq!((intake.readings, intake.nulled.len()), (6, 0));
}

#[test]
fn shelly_and_tasmota_meters_are_taken() {
    let Some(folder) = corpus() else {
        return;
    };
    let mut intake = Intake::new();
    let text = lines(&folder, "energy/energy-shelly-pro3em-fixture.json").concat();
    let status = serde_json::from_str::<Json>(&text).unwrap()["status"].clone();
    let (now, total) = (&status["em:0"], &status["emdata:0"]);
    let kwh = |value: &Json| json!(value.as_f64().unwrap() / 1000.0);
    let phases: Vec<Json> = [("a", "L1"), ("b", "L2"), ("c", "L3")]
        .iter()
        .map(|(letter, phase)| {
            let of = |name: &str| now[format!("{letter}_{name}")].clone();
            json!({
                "phase": phase, "voltage_v": of("voltage"), "current_a": of("current"), "power_w": of("act_power"),
                "apparent_power_va": of("aprt_power"), "power_factor": of("pf"), "frequency_hz": of("freq"),
                "energy_import_kwh": kwh(&total[format!("{letter}_total_act_energy")]),
                "energy_export_kwh": kwh(&total[format!("{letter}_total_act_ret_energy")]),
            })
        })
        .collect();
    intake.take(
        "energy",
        &json!({
            "observed_at": status["sys"]["unixtime"].as_i64().unwrap() * 1000,
            "energy_import_kwh": kwh(&total["total_act"]), "energy_export_kwh": kwh(&total["total_act_ret"]),
            "power_w": now["total_act_power"], "apparent_power_va": now["total_aprt_power"],
            "neutral_current_a": now["n_current"], "phases": phases,
        }),
    );
    for line in lines(&folder, "energy/energy-shelly-gen2-mqtt-captures.ndjson") {
        let payload = serde_json::from_str::<Json>(&line).unwrap()["payload"].clone();
        // One phase of an EM, in a notification or alone; exporting, so its power is negative.
        let meter = if payload["params"].is_null() {
            &payload
        } else {
            &payload["params"]["em1:0"]
        };
        if let Some(power) = meter["act_power"].as_f64() {
            let phase = json!({"phase": "L1", "voltage_v": meter["voltage"], "current_a": meter["current"], "power_w": power,
                "apparent_power_va": meter["aprt_power"], "power_factor": meter["pf"], "frequency_hz": meter["freq"]});
            intake.take("energy", &json!({"power_w": power, "phases": [phase]}));
        }
    }
    for line in lines(&folder, "energy/tasmota-sensor-captures.ndjson") {
        let meter = serde_json::from_str::<Json>(&line).unwrap()["payload"]["ENERGY"].clone();
        if meter.is_object() {
            intake.take(
                "energy",
                &json!({"energy_import_kwh": meter["Total"], "power_w": meter["Power"],
                    "apparent_power_va": meter["ApparentPower"], "reactive_power_var": meter["ReactivePower"],
                    "power_factor": meter["Factor"],
                    "phases": [{"phase": "L1", "voltage_v": meter["Voltage"], "current_a": meter["Current"]}]}),
            );
        }
    }
    assert_eq!((intake.readings, intake.nulled.len()), (5, 0));
}
