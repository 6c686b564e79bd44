//! Real readings that nobody here wrote: UK motorway loops, an American weather station, Italian and other meters.
//!
//! Adapters map each payload to a kind, as an integrator would: units and names only, every value kept as it came, with
//! its sentinels. All of them are sent over every protocol and must come back from Kafka equal, value by value, with a note
//! in `quality` for each that became null. `tests/corpus` has those that may be given away. The others are not part of the
//! repository: `TEST_CORPUS` names their folder (default: `../shared/corpus`).

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::harness::avro::plain;
use crate::harness::{Broker, TestGateway, Via, now_ms, repository, say_skipped};

/// A reading as the adapter made it, and how many measured values are in it.
struct Real {
    kind: &'static str,
    /// Tells this reading from the others; the device's id, and its time where it says so.
    device: String,
    reading: Value,
}

/// The folder of real payloads, or `None` after saying SKIPPED.
fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("TEST_CORPUS").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| repository().join("../shared/corpus"));
    if !folder.is_dir() {
        say_skipped(&format!("there are no real payloads at {}", folder.display()));
        return None;
    }
    Some(folder)
}

/// Lines that are stored as they are sent; those that are not are compared in `src/validate/tests/captures.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn readings_that_may_be_given_away_come_back_equal() {
    let folder = repository().join("tests/corpus");
    for (file, kind) in [
        ("airport-weather", "weather"),
        ("radiation-station", "weather"),
        ("research-station", "weather"),
        ("home-stations", "weather"),
        ("pedestrians", "traffic"),
        ("meters", "energy"),
    ] {
        let text = std::fs::read_to_string(folder.join(file).with_extension("ndjson")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let lines = lines.filter(|line| line.get("renames").is_none());
        let readings: Vec<Real> = lines.map(|line| given_away(kind, &line)).collect();
        assert!(readings.len() >= 6, "{file}");
        check_all(readings).await;
    }
}

fn given_away(kind: &'static str, line: &Value) -> Real {
    assert_eq!(line["kind"], kind);
    let mut reading = line["reading"].clone();
    for time in [
        "/observed_at",
        "/demand/month_peak_at",
        "/submeters/0/read_at",
        "/submeters/1/read_at",
    ] {
        if let Some(time) = reading.pointer_mut(time).filter(|time| time.is_string()) {
            let at: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
            *time = at.as_millisecond().into();
        }
    }
    Real {
        kind,
        device: line["device"].as_str().unwrap().to_owned(),
        reading,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn motorway_loops_come_back_equal() {
    let Some(corpus) = corpus() else { return };
    let midas = loops(&corpus.join("traffic/traffic-midas-loops-real-a.ndjson"));
    let tmu = loops(&corpus.join("traffic/traffic-tmu-loops-real-a.ndjson"));
    assert_eq!((midas.len(), tmu.len()), (108, 555));
    check_all(midas.into_iter().chain(tmu).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_a_weather_station_comes_back_equal() {
    let Some(corpus) = corpus() else { return };
    let minutes = surfrad(&corpus.join("weather/weather-surfrad-slv16001.dat"));
    assert_eq!(minutes.len(), 24 * 60);
    check_all(minutes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn meters_come_back_equal() {
    let Some(corpus) = corpus() else { return };
    let mut meters = vec![shelly_3em(&corpus.join("energy/energy-shelly-pro3em-fixture.json"))];
    meters.extend(shelly_captures(
        &corpus.join("energy/energy-shelly-gen2-mqtt-captures.ndjson"),
    ));
    assert_eq!(meters.len(), 5);
    check_all(meters).await;
}

/// Sends all over every protocol at once, each reading answered before the next; then compares.
async fn check_all(readings: Vec<Real>) {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.clock.max_age = None;
    })
    .await;
    let kind = readings[0].kind;
    let send_all = async |via: Via| {
        let mut client = gateway.client(via).await;
        for Real { device, reading, .. } in &readings {
            let path = format!("devices/{via:?}-{device}/{kind}");
            let answer = client
                .send(&path, "application/json", reading.to_string().as_bytes())
                .await;
            assert!(answer.is_yes(via), "{path} {reading}: {answer:?}");
        }
    };
    let [a, b, c, d] = Via::ALL;
    tokio::join!(send_all(a), send_all(b), send_all(c), send_all(d));

    let mut arrived: HashMap<(String, i64), Value> = HashMap::new();
    for one in gateway.readings(kind) {
        let observed_at = one.reading["observed_at"].as_i64().unwrap();
        let twice = arrived.insert((one.device, observed_at), one.reading);
        assert!(twice.is_none(), "{twice:?} came twice");
    }
    let count = arrived.len();
    for via in Via::ALL {
        for Real { device, reading, .. } in &readings {
            let device = format!("{via:?}-{device}");
            let came = take(&mut arrived, &device, reading["observed_at"].as_i64());
            assert_eq!(in_one_order(came), expected(&device, reading), "{device}");
        }
    }
    assert_eq!(count, readings.len() * Via::ALL.len());
    gateway.finish().await;
}

/// A reading that came, without what the gateway alone knows.
fn take(arrived: &mut HashMap<(String, i64), Value>, device: &str, observed_at: Option<i64>) -> Value {
    let filled_in = || arrived.keys().find(|(of, _)| of == device).map_or(0, |(_, at)| *at);
    let key = (device.to_owned(), observed_at.unwrap_or_else(filled_in));
    let mut reading = arrived.remove(&key).unwrap_or_else(|| panic!("{key:?} did not come"));
    let fields = reading.as_object_mut().unwrap();
    let received_at = fields.remove("received_at").unwrap().as_i64().unwrap();
    assert!((now_ms() - 600_000..=now_ms()).contains(&received_at));
    if observed_at.is_none() {
        fields.remove("observed_at");
    }
    reading
}

/// As sent, with the device beside it, and with a note in the place of each value that says "no reading".
fn expected(device: &str, reading: &Value) -> Value {
    let mut notes = reading["quality"].as_array().cloned().unwrap_or_default();
    for note in &mut notes {
        note["source"] = "device".into();
    }
    let mut reading = without_sentinels("", reading.clone(), &mut notes);
    reading["device"] = device.into();
    reading["quality"] = notes.into();
    in_one_order(plain(reading))
}

/// The order of notes is that of the fields, which these tests do not know.
fn in_one_order(mut reading: Value) -> Value {
    if let Some(notes) = reading["quality"].as_array_mut() {
        notes.sort_by_key(Value::to_string);
    }
    reading
}

/// What the owners of these devices document: loops 255 and 15300 (255 a minute), SURFRAD -9999.9, meters 999 and 999.9 for no
/// limit.
fn without_sentinels(path: &str, value: Value, notes: &mut Vec<Value>) -> Value {
    let name = path.rsplit('.').next().unwrap_or_default();
    let sentinels: &[f64] = match name {
        "speed_kmh" | "occupancy_percent" => &[255.0],
        "limit_w" => &[999_000.0, 999_900.0],
        "limit_a" => &[999.0],
        name if name.starts_with("length_") => &[15_300.0],
        _ => &[-9999.9],
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let separator = if path.is_empty() { "" } else { "." };
                let value = without_sentinels(&format!("{path}{separator}{name}"), value, notes);
                (name, value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => {
            let items = items.into_iter().enumerate();
            let items = items.map(|(index, item)| without_sentinels(&format!("{path}[{index}]"), item, notes));
            Value::Array(items.collect())
        }
        Value::Number(number) if number.as_f64().is_some_and(|number| sentinels.contains(&number)) => {
            notes.push(json!({"field": path, "flag": "sentinel", "source": "gateway"}));
            Value::Null
        }
        other => other,
    }
}

/// MIDAS and TMU loops, flattened from DATEX II: blocks of eight indices are lanes, each with speed, headway, occupancy,
/// four flows by the vehicles' length, and (index 7) the flow of all. The authority's own `dataError` becomes the status, and
/// a note for each value.
fn loops(file: &PathBuf) -> Vec<Real> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| one_loop(&serde_json::from_str(line).unwrap()))
        .collect()
}

fn one_loop(record: &Value) -> Real {
    let time: jiff::Timestamp = record["time"].as_str().unwrap().parse().unwrap();
    let values = record["values"].as_array().unwrap();
    let lanes: Vec<_> = (0..8).filter_map(|lane| one_lane(lane, values)).collect();
    let placed: usize = lanes.iter().map(|lane| lane["values"].as_u64().unwrap() as usize).sum();
    assert_eq!(placed, values.len(), "every value of the record has its place");
    // One note for a lane of which all is faulty: a reading has room for 32.
    let of_a_lane = |(index, lane): (usize, &Value)| {
        let place = format!("lanes[{index}]");
        let fields = lane["faulty"].as_array().unwrap();
        let paths = match fields.len() as u64 == lane["values"] {
            true => vec![place],
            false => fields
                .iter()
                .map(|field| format!("{place}.{}", field.as_str().unwrap()))
                .collect(),
        };
        let notes = paths
            .into_iter()
            .map(|path| json!({"field": path, "flag": "device_fault"}));
        notes.collect::<Vec<_>>()
    };
    let notes: Vec<Value> = lanes.iter().enumerate().flat_map(of_a_lane).collect();
    let lanes: Vec<_> = lanes.into_iter().map(|mut lane| lane["lane"].take()).collect();
    let faulty = lanes.iter().any(|lane| lane["status"] == "fault");
    Real {
        kind: "traffic",
        device: record["site"].as_str().unwrap().to_owned(),
        reading: json!({
            "observed_at": time.as_millisecond(),
            "interval_s": 60,
            "status": if faulty { "degraded" } else { "ok" },
            "lanes": lanes,
            "quality": notes,
        }),
    }
}

/// The lane, the fields in it that are faulty, and the number of values that went into it; `None` if the site has no such lane.
fn one_lane(number: u64, values: &[Value]) -> Option<Value> {
    let mine = values
        .iter()
        .filter(|value| value["index"].as_u64().unwrap() / 8 == number);
    let (mut lane, mut flows, mut placed, mut faulty) = (Map::new(), Map::new(), 0, Vec::new());
    for value in mine {
        let number = |name: &str| json!(value[name].as_str().unwrap().parse::<f64>().unwrap());
        let place = value["index"].as_u64().unwrap() % 8;
        let mut in_lane = |field: &str, value: Value| (lane.insert(field.to_owned(), value), field.to_owned());
        let (replaced, field) = match (value["type"].as_str().unwrap(), place) {
            ("TrafficSpeed", 0) => in_lane("speed_kmh", number("speed")),
            ("TrafficHeadway", 1) => in_lane("headway_s", number("duration")),
            ("TrafficConcentration", 2) => in_lane("occupancy_percent", number("percentage")),
            ("TrafficFlow", 7) => in_lane("flow_veh_h", number("vehicleFlowRate")),
            ("TrafficFlow", band) => {
                let class = format!("length_{}", band - 2);
                let field = format!("class_flow_veh_h.{class}");
                (flows.insert(class, number("vehicleFlowRate")), field)
            }
            other => panic!("{other:?} has no place"),
        };
        assert_eq!(replaced, None);
        placed += 1;
        if value["dataError"] == "true" {
            faulty.push(field);
        }
    }
    if placed == 0 {
        return None;
    }
    lane.insert("lane".into(), json!(number + 1));
    lane.insert("class_flow_veh_h".into(), Value::Object(flows));
    lane.insert("status".into(), json!(if faulty.is_empty() { "ok" } else { "fault" }));
    Some(json!({ "values": placed, "faulty": faulty, "lane": lane }))
}

/// A NOAA SURFRAD station's day by minutes: two lines of heading, then time and twenty pairs of value and quality flag.
fn surfrad(file: &PathBuf) -> Vec<Real> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().skip(2).map(one_minute).collect()
}

fn one_minute(line: &str) -> Real {
    let columns: Vec<f64> = line.split_whitespace().map(|column| column.parse().unwrap()).collect();
    assert_eq!(columns.len(), 48);
    let whole = |column: usize| columns[column] as i16;
    let date = jiff::civil::date(whole(0), whole(2) as i8, whole(3) as i8);
    let time = date
        .at(whole(4) as i8, whole(5) as i8, 0, 0)
        .to_zoned(jiff::tz::TimeZone::UTC)
        .unwrap();
    let pair = |pair: usize| (columns[8 + 2 * pair], columns[9 + 2 * pair]);
    let measured = [
        ("irradiance_w_m2", pair(0)),
        ("temperature_c", pair(15)),
        ("relative_humidity_percent", pair(16)),
        ("wind_speed_m_s", pair(17)),
        ("wind_direction_deg", pair(18)),
        ("pressure_hpa", pair(19)),
    ];
    let doubtful = measured.iter().any(|(_, (_, flag))| *flag != 0.0);
    let mut reading = json!({
        "observed_at": time.timestamp().as_millisecond(),
        "interval_s": 60,
        "location": { "latitude": 37.70, "longitude": -105.92, "altitude_m": 2317 },
        "status": if doubtful { "degraded" } else { "ok" },
    });
    for (name, (value, _)) in measured {
        reading[name] = json!(value);
    }
    Real {
        kind: "weather",
        device: "slv".to_owned(),
        reading,
    }
}

/// A Shelly Pro 3EM's status: three phases, their registers in Wh.
fn shelly_3em(file: &PathBuf) -> Real {
    let device: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let (now, registers) = (&device["status"]["em:0"], &device["status"]["emdata:0"]);
    let kwh = |name: &str| json!(registers[name].as_f64().unwrap() / 1000.0);
    let phase = |(letter, name): (&str, &str)| {
        json!({
            "phase": name,
            "voltage_v": now[format!("{letter}_voltage")], "current_a": now[format!("{letter}_current")],
            "power_w": now[format!("{letter}_act_power")], "apparent_power_va": now[format!("{letter}_aprt_power")],
            "power_factor": now[format!("{letter}_pf")], "frequency_hz": now[format!("{letter}_freq")],
            "energy_import_kwh": kwh(&format!("{letter}_total_act_energy")),
            "energy_export_kwh": kwh(&format!("{letter}_total_act_ret_energy")),
        })
    };
    let phases = [("a", "L1"), ("b", "L2"), ("c", "L3")].map(phase);
    Real {
        kind: "energy",
        device: device["shelly"]["id"].as_str().unwrap().to_owned(),
        reading: json!({
            "observed_at": device["status"]["sys"]["unixtime"].as_i64().unwrap() * 1000,
            "location": {
                "latitude": device["config"]["sys"]["location"]["lat"],
                "longitude": device["config"]["sys"]["location"]["lon"],
            },
            "power_w": now["total_act_power"], "apparent_power_va": now["total_aprt_power"],
            "neutral_current_a": now["n_current"],
            "energy_import_kwh": kwh("total_act"), "energy_export_kwh": kwh("total_act_ret"),
            "phases": phases,
        }),
    }
}

/// What other Shelly devices published: partial updates, in which an absent value is not a zero.
fn shelly_captures(file: &PathBuf) -> Vec<Real> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .enumerate()
        .map(|(number, line)| one_capture(number, &serde_json::from_str(line).unwrap()))
        .collect()
}

fn one_capture(number: usize, capture: &Value) -> Real {
    let payload = &capture["payload"];
    let parameters = payload["params"].as_object();
    // A notification wraps the component that changed; a status topic is the component itself.
    let component = parameters
        .and_then(|all| all.values().find(|value| value.is_object()))
        .unwrap_or(payload);
    let energy = &component["aenergy"]["total"];
    let reading = json!({
        "observed_at": payload["params"]["ts"].as_f64().map(|seconds| (seconds * 1000.0).round() as i64),
        "power_w": component.get("act_power").or(component.get("apower")),
        "energy_import_kwh": energy.as_f64().map(|wh| wh / 1000.0),
        "phases": [{
            "phase": "L1",
            "voltage_v": component["voltage"], "current_a": component["current"],
            "apparent_power_va": component["aprt_power"], "power_factor": component["pf"],
            "frequency_hz": component["freq"],
        }],
    });
    let Value::Object(mut fields) = reading else {
        unreachable!()
    };
    fields.retain(|_, value| !value.is_null()); // a device without a clock leaves the time out
    Real {
        kind: "energy",
        device: format!("shelly-{number}"),
        reading: Value::Object(fields),
    }
}
