//! Traffic counters beside England's motorways and Auckland's pavements.
//!
//! Five minutes of some hundred lanes, by the minute, and how lanes share the flow; a year of people on foot, by the hour.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use device_simulators::devices::{City, Device, Kind, Moment};
use serde_json::Value;

use crate::SEED;
use crate::comparison::{Bounds, Comparison, say};
use crate::corpus::{civil, corpus, date, rows};
use crate::series::{DAY_MS, HOUR_MS, Series, day_of_week, simulated, sum};

#[test]
fn people_walk_as_in_auckland() {
    let Some(folder) = corpus() else { return };
    let rows = rows(&folder, "traffic/auckland-pedestrians-hourly-2024.csv");
    let mut real = Series::default();
    for row in rows.iter().skip(1) {
        let hour: i64 = row[1].split(':').next().unwrap().parse().unwrap();
        let all: f64 = row[3..].iter().filter_map(|count| count.parse::<f64>().ok()).sum();
        real.points.push((date(&row[0]) + hour * HOUR_MS, all));
    }
    let real = real.normalised();
    let city = Arc::new(City::new(SEED));
    let paths = (0..).map(|index| {
        let device = Device::in_city(&city, Kind::TRAFFIC, index * 24);
        let from_ms = civil(2025, 3, 3, 0);
        simulated(&city, &device, "/classes/pedestrian", from_ms, 3600, 8 * 7 * 24)
    });
    // Nobody walks beside a motorway.
    let paths = paths.filter(|path| !path.points.is_empty()).take(21);
    let ours = sum(paths.collect()).normalised();
    let mut comparison = Comparison::default();
    let workday = |time: i64| day_of_week(time) < 5;
    let weekend = |time: i64| day_of_week(time) >= 5;
    let bounds = Bounds {
        day: Some(0.95),
        lag1: 0.08,
        range: 0.25,
    };
    comparison.compare(
        "on foot, Mon–Fri (mean = 1)",
        &real.only(workday),
        &ours.only(workday),
        &bounds,
    );
    comparison.compare(
        "on foot, Sat–Sun (mean = 1)",
        &real.only(weekend),
        &ours.only(weekend),
        &bounds,
    );
    comparison.finish("Streets: 21 counters in Auckland 2024, hourly, beside 21 simulated ones");
}

/// One lane's minute.
#[derive(Clone, Copy)]
struct LaneMinute {
    flow: f64,
    speed: f64,
    occupancy: f64,
}

/// Five minutes of a lane; the lanes one after the other, a day apart, so that only neighbours in time count as such.
fn chained(lanes: &[Vec<LaneMinute>], value: fn(&LaneMinute) -> f64) -> Series {
    let mut series = Series::default();
    for (index, minutes) in lanes.iter().enumerate() {
        for (minute, lane) in minutes.iter().enumerate() {
            series
                .points
                .push((index as i64 * DAY_MS + minute as i64 * 60_000, value(lane)));
        }
    }
    series
}

/// England's motorway counters: 09:33 to 09:37 on Wednesday 2015-04-29. Speed 255 and flow 15300 are no readings.
fn motorway_lanes(folder: &Path) -> Vec<Vec<LaneMinute>> {
    let text = std::fs::read_to_string(folder.join("traffic/traffic-tmu-loops-real-a.ndjson")).unwrap();
    let mut lanes: std::collections::BTreeMap<(String, u64), Vec<LaneMinute>> = Default::default();
    for line in text.lines() {
        let capture: Value = serde_json::from_str(line).unwrap();
        let mut minutes: std::collections::BTreeMap<u64, LaneMinute> = Default::default();
        for value in capture["values"].as_array().unwrap() {
            let lane = value["index"].as_u64().unwrap() / 8;
            let number = |name: &str| value[name].as_str().unwrap().parse::<f64>().unwrap();
            let minute = minutes.entry(lane).or_insert(LaneMinute {
                flow: 0.0,
                speed: 255.0,
                occupancy: 255.0,
            });
            match value["type"].as_str().unwrap() {
                "TrafficSpeed" => minute.speed = number("speed"),
                "TrafficConcentration" => minute.occupancy = number("percentage"),
                "TrafficFlow" => minute.flow += number("vehicleFlowRate"),
                _ => {}
            }
        }
        for (lane, minute) in minutes {
            if minute.speed < 255.0 && minute.flow > 0.0 && minute.flow < 15_300.0 {
                let site = capture["site"].as_str().unwrap().to_owned();
                lanes.entry((site, lane)).or_default().push(minute);
            }
        }
    }
    lanes.into_values().filter(|minutes| minutes.len() == 5).collect()
}

#[test]
fn traffic_flows_as_on_a_motorway() {
    let Some(folder) = corpus() else { return };
    let real = motorway_lanes(&folder);
    let city = Arc::new(City::new(SEED));
    let mut ours = Vec::new();
    // Wednesday 2025-04-30, the same five minutes.
    let from = civil(2025, 4, 30, 9) + 33 * 60_000;
    let at_night = |device: &Device| simulated(&city, device, "/speed_kmh", civil(2025, 4, 30, 3), 3600, 1).mean();
    for index in 0..1200 {
        let device = Device::in_city(&city, Kind::TRAFFIC, index * 7);
        // The city's motorways are the roads on which people drive fast when nobody is in their way.
        if at_night(&device) < 85.0 {
            continue;
        }
        for lane in 0..3 {
            let read = |field: &str| {
                let series = simulated(&city, &device, &format!("/lanes/{lane}/{field}"), from, 60, 5);
                series.values().collect::<Vec<f64>>()
            };
            let (flow, speed, occupancy) = (read("flow_veh_h"), read("speed_kmh"), read("occupancy_percent"));
            if speed.len() == 5 && flow.len() == 5 {
                let minute = |index: usize| LaneMinute {
                    flow: flow[index],
                    speed: speed[index],
                    occupancy: occupancy[index],
                };
                ours.push((0..5).map(minute).collect());
            }
        }
    }
    let mut comparison = Comparison::default();
    let bounds = |lag1: f64, range: f64| Bounds { day: None, lag1, range };
    let mut check = |what: &str, value: fn(&LaneMinute) -> f64, bounds: Bounds| {
        comparison.compare(what, &chained(&real, value), &chained(&ours, value), &bounds);
    };
    check("flow of a lane, veh/h", |lane| lane.flow, bounds(0.12, 0.35));
    check("speed of a lane, km/h", |lane| lane.speed, bounds(0.12, 0.4));
    check("occupancy of a lane, %", |lane| lane.occupancy, bounds(0.2, 0.35));
    let length = |lane: &LaneMinute| lane.occupancy * 10.0 * lane.speed / lane.flow;
    let lengths = |lanes: &[Vec<LaneMinute>]| {
        let busy = lanes.iter().flatten().filter(|lane| lane.flow >= 900.0);
        let points = busy
            .enumerate()
            .map(|(index, lane)| (index as i64, length(lane)))
            .collect();
        Series { points }
    };
    let (theirs, mine) = (lengths(&real).percentile(0.5), lengths(&ours).percentile(0.5));
    comparison.finish(
        "Traffic: England's motorway counters, five minutes by the minute, beside some 400 simulated detectors",
    );
    // Occupancy, flow and speed together are a length: of a vehicle, and the loop.
    say(&format!(
        "Occupied length of a vehicle at 900 veh/h or more: real {theirs:.1} m, simulated {mine:.1} m\n"
    ));
    assert!(
        (3.0..9.0).contains(&mine) && (mine / theirs) < 2.5,
        "{mine} m and {theirs} m"
    );
}

/// Flow of the mean lane from which on, veh/h, and the shares of the lanes from the slow one on.
type Shares = (f64, [f64; 3]);

/// Sums by the mean lane's flow, in steps of 200 veh/h from 400 on.
fn shares(sites: &[[f64; 3]]) -> Vec<Shares> {
    let of = |from: f64| {
        let mean = |lanes: &&[f64; 3]| lanes.iter().sum::<f64>() / 3.0;
        let within: Vec<_> = sites
            .iter()
            .filter(|lanes| (from..from + 200.0).contains(&mean(lanes)))
            .collect();
        let total: f64 = within.iter().copied().flatten().sum();
        let share = |lane: usize| within.iter().map(|lanes| lanes[lane]).sum::<f64>() / total;
        (from, [share(0), share(1), share(2)])
    };
    [400.0, 600.0, 800.0, 1000.0, 1200.0].into_iter().map(of).collect()
}

/// Three-lane sites of England's motorways, mean of the minutes that the authority did not flag.
fn motorway_sites(folder: &Path) -> Vec<[f64; 3]> {
    let text = std::fs::read_to_string(folder.join("traffic/traffic-midas-loops-real-a.ndjson")).unwrap();
    let mut sites: std::collections::BTreeMap<String, Vec<[f64; 3]>> = Default::default();
    for line in text.lines() {
        let capture: Value = serde_json::from_str(line).unwrap();
        let values = capture["values"].as_array().unwrap();
        let lane = |value: &Value| value["index"].as_u64().unwrap() as usize / 8;
        if values.iter().any(|value| value["dataError"] != "false") || values.iter().map(lane).max() != Some(2) {
            continue;
        }
        let mut lanes = [0.0; 3];
        for value in values.iter().filter(|value| value["type"] == "TrafficFlow") {
            lanes[lane(value)] += value["vehicleFlowRate"].as_str().unwrap().parse::<f64>().unwrap();
        }
        let site = capture["site"].as_str().unwrap().to_owned();
        sites.entry(site).or_default().push(lanes);
    }
    let mean = |minutes: Vec<[f64; 3]>| {
        [0, 1, 2].map(|lane| minutes.iter().map(|lanes| lanes[lane]).sum::<f64>() / minutes.len() as f64)
    };
    sites.into_values().map(mean).collect()
}

#[test]
fn lanes_fill_as_on_a_motorway() {
    // MIDAS 2015-04-29, 63 sites of three lanes: what the corpus gives.
    const MIDAS: [Shares; 5] = [
        (400.0, [0.44, 0.45, 0.11]),
        (600.0, [0.38, 0.44, 0.18]),
        (800.0, [0.34, 0.40, 0.26]),
        (1000.0, [0.30, 0.39, 0.31]),
        (1200.0, [0.26, 0.36, 0.38]),
    ];
    let real = corpus().map_or(MIDAS.to_vec(), |folder| shares(&motorway_sites(&folder)));
    let city = Arc::new(City::new(SEED));
    let mut ours = Vec::new();
    for road in 0..60 {
        let device = Device::in_city(&city, Kind::TRAFFIC, road * 24);
        for hour in 6..20 {
            let moment = Moment {
                observed_at_ms: civil(2025, 4, 30, hour) - city.place().utc_offset_ms,
                interval: Duration::from_secs(300),
            };
            let reading: Value = serde_json::from_slice(&device.reading(1, moment)).unwrap();
            let lanes: Vec<f64> = reading["lanes"].as_array().unwrap().iter().map(flow).collect();
            let is_motorway = reading["classes"].get("bicycle").is_none();
            if let ([slow, middle, fast], true) = (lanes.as_slice(), is_motorway) {
                ours.push([*slow, *middle, *fast]);
            }
        }
    }
    let ours = shares(&ours);
    say("\nShares of a motorway's three lanes, by the flow of their mean, veh/h\n");
    for ((from, real), (_, ours)) in real.iter().zip(&ours) {
        say(&format!("  from {from:4}: real {real:.2?}, simulated {ours:.2?}\n"));
        for (real, ours) in real.iter().zip(ours) {
            assert!((real - ours).abs() < 0.07, "{ours} and {real} from {from} veh/h");
        }
    }
}

fn flow(lane: &Value) -> f64 {
    lane["flow_veh_h"].as_f64().unwrap()
}
