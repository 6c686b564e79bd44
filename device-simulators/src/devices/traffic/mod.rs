//! A counting loop in a road of one to three lanes.
//!
//! What the [road](roads) carries there and then, seen through a detector: it counts whole vehicles (Poisson), each lane for
//! itself; flow is the count over the interval, speed the mean of those counted, occupancy their density seen through the
//! length of a vehicle and a loop, headway the inverse of flow. An interval in which nothing passed has no speed and no
//! headway. Intervals below half a minute count 0 or 1; there, flow and speed are running means, as such detectors report.

mod fields;
mod roads;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

pub use roads::{Detector, Incident};

use super::calendar::{self, DayType, LocalTime};
use super::city::{City, Spot};
use super::faults::Faultable;
use super::kind::{Definition, Sensor};
use super::noise::Noise;
use super::quality::Quality;
use super::{Device, Header, Moment, json, rounded};
use roads::{Road, State};

pub(super) static KIND: Definition = Definition {
    name: "traffic",
    position: 0,
    device_prefix: "loop",
    schema: include_str!("../../../../schemas/traffic.avsc"),
    numbered: true,
    faultable: Faultable::physical(fields::FIELDS),
    quality: Some(Quality::BUNDLED),
    sensor: &|city, _, index| {
        let detector = Detector::of(index);
        (Arc::new(detector), detector.spot(city))
    },
};

/// A car and the loop it drives over, metres.
const CAR_AND_LOOP_M: f64 = 6.0;

/// How much longer a truck is.
const TRUCK_EXTRA_M: f64 = 8.0;

/// Share of trucks in the slow lane; it halves with every lane.
const TRUCKS: f64 = 0.16;

/// Shares of the lanes where a road carries nothing, a quarter of its capacity, half, three quarters, all (England's
/// motorways, by the minute: MIDAS, 2015).
const SLOW_OF_TWO: [f64; 5] = [0.78, 0.67, 0.50, 0.42, 0.42];
const SLOW_OF_THREE: [f64; 5] = [0.66, 0.43, 0.31, 0.25, 0.28];
const FAST_OF_THREE: [f64; 5] = [0.02, 0.12, 0.29, 0.38, 0.37];

/// Seconds below which a detector reports running means.
const SHORT_INTERVAL_S: f64 = 30.0;

/// On foot, by hour, relative to the busiest: to work, to lunch, home (Monday to Friday).
const ON_FOOT: [f64; 24] = [
    0.11, 0.08, 0.05, 0.03, 0.02, 0.05, 0.17, 0.46, 0.70, 0.55, 0.55, 0.68, //
    0.93, 0.89, 0.79, 0.82, 0.95, 0.98, 0.72, 0.52, 0.41, 0.32, 0.24, 0.17,
];

/// The same at the weekend.
const STROLLING: [f64; 24] = [
    0.20, 0.15, 0.11, 0.07, 0.05, 0.04, 0.06, 0.12, 0.22, 0.37, 0.54, 0.67, //
    0.75, 0.79, 0.81, 0.81, 0.77, 0.70, 0.58, 0.49, 0.41, 0.34, 0.28, 0.24,
];

#[derive(Debug, Serialize)]
pub(super) struct Traffic {
    #[serde(flatten)]
    total: Flow,
    lanes: Vec<Lane>,
    /// Counts by class, of the same interval.
    classes: BTreeMap<&'static str, u32>,
}

#[derive(Debug, Serialize)]
struct Lane {
    /// 1 is the slow lane.
    lane: u32,
    #[serde(flatten)]
    flow: Flow,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Flow {
    vehicle_count: u32,
    flow_veh_h: f64,
    /// None when there was no vehicle to measure.
    speed_kmh: Option<f64>,
    occupancy_percent: f64,
    headway_s: Option<f64>,
}

// === impl Detector ===

impl Detector {
    /// Where it is in the city.
    pub(super) fn spot(&self, city: &City) -> Spot {
        Road::of(city, self.road).spot(self.position_m)
    }

    /// Of its road.
    pub(super) fn lanes(&self, city: &City) -> u32 {
        Road::of(city, self.road).lanes
    }
}

impl Sensor for Detector {
    fn reading(&self, device: &Device, header: Header, moment: Moment) -> Vec<u8> {
        json(header, reading(&device.city, &device.noise, *self, moment))
    }

    fn detector(&self) -> Option<Detector> {
        Some(*self)
    }
}

/// What the detector reports at `moment`.
pub(super) fn reading(city: &City, noise: &Noise, detector: Detector, moment: Moment) -> Traffic {
    let road = Road::of(city, detector.road);
    // What an interval saw is what was there in its middle, for as long as nothing happens faster.
    let half_ms = (moment.interval.as_millis() / 2).min(30_000) as i64;
    let state = road.state(detector.position_m, moment.observed_at_ms.saturating_sub(half_ms));
    let lanes: Vec<Lane> = (1..=road.lanes)
        .map(|lane| Lane {
            lane,
            flow: lane_flow(&road, noise, moment, state, lane),
        })
        .collect();
    let total = sum(&lanes);
    Traffic {
        total,
        lanes,
        classes: classes(city, &road, noise, moment, total.vehicle_count),
    }
}

/// One lane's share of the road's traffic: flow and speed as they are, before anybody counts.
fn lane_state(road: &Road<'_>, state: State, lane: u32) -> (f64, f64) {
    let offset = f64::from(lane) - f64::from(road.lanes + 1) / 2.0;
    if state.is_queue {
        return (state.flow_veh_h, state.speed_kmh);
    }
    let load = state.flow_veh_h / road.capacity_veh_h;
    (
        state.flow_veh_h * lane_share(road, load, lane),
        state.speed_kmh * (1.0 + 0.08 * offset),
    )
}

/// A lane's flow over the mean of the lanes: on an empty road people keep to the slow lane, a full one fills the fast one
/// first, on motorways more than in town.
fn lane_share(road: &Road<'_>, load: f64, lane: u32) -> f64 {
    let at = |shares: &[f64; 5]| {
        let from = (load * 4.0).clamp(0.0, 3.0).floor();
        let pair = shares.iter().skip(from as usize);
        let (low, high) = pair.clone().zip(pair.skip(1)).next().unwrap_or((&1.0, &1.0));
        low + (high - low) * (load * 4.0 - from)
    };
    let (slow, fast) = match road.lanes {
        2 => (at(&SLOW_OF_TWO), 1.0 - at(&SLOW_OF_TWO)),
        3 => (at(&SLOW_OF_THREE), at(&FAST_OF_THREE)),
        _ => return 1.0,
    };
    let share = match lane {
        1 => slow,
        _ if lane == road.lanes => fast,
        _ => 1.0 - slow - fast,
    };
    let uneven = share * f64::from(road.lanes) - 1.0;
    1.0 + uneven * if road.is_motorway() { 1.0 } else { 0.6 }
}

fn lane_flow(road: &Road<'_>, noise: &Noise, moment: Moment, state: State, lane: u32) -> Flow {
    let (flow, speed) = lane_state(road, state, lane);
    let interval_s = moment.interval.as_secs_f64();
    let tick = moment.observed_at_ms.wrapping_mul(8).wrapping_add(i64::from(lane));
    let vehicle_count = noise.poisson("count", tick, flow * interval_s / 3600.0);
    let (flow, speed) = if interval_s >= SHORT_INTERVAL_S {
        let drivers = noise.normal("speed", tick) / f64::from(vehicle_count.max(1)).sqrt();
        (
            f64::from(vehicle_count) * 3600.0 / interval_s,
            speed * (1.0 + 0.09 * drivers),
        )
    } else {
        let channel = if lane == 1 { "slow lane" } else { "fast lanes" };
        let in_a_minute = (flow / 60.0).max(1.0);
        let wander = noise.smooth(channel, moment.observed_at_ms, 60) / in_a_minute.sqrt();
        (flow * (1.0 + 0.8 * wander), speed * (1.0 + 0.05 * wander))
    };
    let flow = rounded(flow, 1);
    let measured = flow > 0.0;
    let length_m = CAR_AND_LOOP_M + TRUCK_EXTRA_M * TRUCKS * 2.0 / f64::from(1 << lane);
    Flow {
        vehicle_count,
        flow_veh_h: flow,
        speed_kmh: measured.then(|| rounded(speed, 1)),
        occupancy_percent: rounded((flow / speed * length_m / 10.0).min(100.0), 1),
        headway_s: measured.then(|| rounded((3600.0 / flow).min(3600.0), 1)),
    }
}

/// The whole road: counts and flows add up, speed is the mean of the vehicles, occupancy the mean of the lanes.
fn sum(lanes: &[Lane]) -> Flow {
    let total = |value: &dyn Fn(&Flow) -> f64| lanes.iter().map(|lane| value(&lane.flow)).sum::<f64>();
    let flow = total(&|lane| lane.flow_veh_h);
    let moving = total(&|lane| lane.speed_kmh.unwrap_or_default() * lane.flow_veh_h);
    let count = lanes.len().max(1) as f64;
    let measured = flow > 0.0;
    Flow {
        vehicle_count: lanes.iter().map(|lane| lane.flow.vehicle_count).sum(),
        flow_veh_h: rounded(flow, 1),
        speed_kmh: measured.then(|| rounded(moving / flow, 1)),
        occupancy_percent: rounded(total(&|lane| lane.occupancy_percent) / count, 1),
        headway_s: measured.then(|| rounded((3600.0 / flow).min(3600.0), 1)),
    }
}

/// Who they were. Trucks, buses and motorcycles are part of the count; those on the path beside the road are not, and
/// beside a motorway there is none.
fn classes(city: &City, road: &Road<'_>, noise: &Noise, moment: Moment, vehicles: u32) -> BTreeMap<&'static str, u32> {
    let tick = moment.observed_at_ms;
    let drawn = |class: &str, expected: f64| noise.poisson(class, tick, expected);
    let mut left = vehicles;
    let mut take = |class: &str, share: f64| {
        let count = drawn(class, share * f64::from(vehicles)).min(left);
        left -= count;
        count
    };
    let truck = take("truck", 0.08);
    let bus = take("bus", 0.02);
    let motorcycle = take("motorcycle", 0.015);
    let mut classes = BTreeMap::from([
        ("car", left),
        ("truck", truck),
        ("bus", bus),
        ("motorcycle", motorcycle),
    ]);
    if !road.is_motorway() {
        let beside = beside_the_road(city, noise, tick) * moment.interval.as_secs_f64() / 3600.0;
        classes.insert("bicycle", drawn("bicycle", 0.35 * beside));
        classes.insert("pedestrian", drawn("pedestrian", beside));
    }
    classes
}

/// People on foot per hour.
fn beside_the_road(city: &City, noise: &Noise, time_ms: i64) -> f64 {
    let local = LocalTime::of(time_ms, city.place.utc_offset_ms);
    let curve = match local.day_type() {
        DayType::Workday => &ON_FOOT,
        DayType::Saturday | DayType::Sunday => &STROLLING,
    };
    // Some paths are for shopping and some for nobody; the weather and what is on move them all.
    let busy = 40.0 + 560.0 * noise.fixed("path") * noise.fixed("path");
    let mood = 1.0 + 0.16 * city.noise.rippled("on foot", time_ms, 30 * 3600);
    busy * calendar::by_hour(curve, local.hour) * mood.max(0.2)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{CITY_SEED, at};
    use super::*;

    fn read(city: &City, index: u64, moment: Moment) -> Traffic {
        let noise = Noise::new(city.seed, "device", index);
        reading(city, &noise, Detector::of(index), moment)
    }

    #[test]
    fn lanes_and_classes_add_up() {
        let city = City::new(CITY_SEED);
        for index in 0..600 {
            let traffic = read(&city, index, at(index as f64 * 0.4));
            let lanes: u32 = traffic.lanes.iter().map(|lane| lane.flow.vehicle_count).sum();
            assert_eq!(lanes, traffic.total.vehicle_count);
            let motor = ["car", "truck", "bus", "motorcycle"].map(|class| traffic.classes[class]);
            assert_eq!(motor.iter().sum::<u32>(), traffic.total.vehicle_count);
        }
    }

    #[test]
    fn flow_is_density_times_speed() {
        let city = City::new(CITY_SEED);
        let mut checked = 0;
        for index in 0..3000u64 {
            let mut moment = at(index as f64 * 0.31);
            if index % 2 == 0 {
                moment.interval = std::time::Duration::from_secs(5);
            }
            for lane in read(&city, index, moment).lanes {
                let Some(speed) = lane.flow.speed_kmh else {
                    assert_eq!((lane.flow.flow_veh_h, lane.flow.occupancy_percent), (0.0, 0.0));
                    continue;
                };
                let length_m = CAR_AND_LOOP_M + TRUCK_EXTRA_M * TRUCKS * 2.0 / f64::from(1 << lane.lane);
                let density = 10.0 * lane.flow.occupancy_percent / length_m;
                // Occupancy is told to a tenth of a per cent, speed to a tenth of a km/h.
                let tolerance = 0.6 / length_m * speed + density * 0.06;
                let difference = (density * speed - lane.flow.flow_veh_h).abs();
                assert!(difference <= tolerance, "{lane:?}: {difference} > {tolerance}");
                checked += 1;
            }
        }
        assert!(checked > 3000, "{checked}");
    }

    #[test]
    fn short_intervals_count_what_long_ones_count() {
        let city = City::new(CITY_SEED);
        let mut moment = at(12.0);
        moment.interval = std::time::Duration::from_secs(1);
        let (mut counted, mut flowed) = (0, 0.0);
        for _ in 0..3600 {
            moment.observed_at_ms += 1000;
            let total = read(&city, 6, moment).total;
            counted += total.vehicle_count;
            flowed += total.flow_veh_h / 3600.0;
        }
        let minutes = (1..=60).map(|minute| read(&city, 6, at(12.0 + f64::from(minute) / 60.0)).total.vehicle_count);
        let expected = f64::from(minutes.sum::<u32>());
        for value in [f64::from(counted), flowed] {
            let ratio = value / expected;
            assert!((0.85..1.15).contains(&ratio), "{value} counted, {expected} expected");
        }
    }

    #[test]
    fn speed_falls_as_density_rises() {
        let city = City::new(CITY_SEED);
        // Speed as a share of the night's, on roads that are crowded in the evening and on those that are not.
        let (mut crowded, mut free) = (Vec::new(), Vec::new());
        for index in (0..2400).step_by(7) {
            let (night, peak) = (read(&city, index, at(3.0)).total, read(&city, index, at(17.5)).total);
            let (Some(night_kmh), Some(peak_kmh)) = (night.speed_kmh, peak.speed_kmh) else {
                continue;
            };
            if peak.occupancy_percent > 25.0 {
                crowded.push(peak_kmh / night_kmh);
            } else if peak.occupancy_percent < 8.0 {
                free.push(peak_kmh / night_kmh);
            }
        }
        let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
        assert!(crowded.len() > 10 && free.len() > 10, "{crowded:?} {free:?}");
        assert!(mean(&crowded) < 0.6, "{crowded:?}");
        assert!((0.85..1.1).contains(&mean(&free)), "{free:?}");
    }

    #[test]
    fn there_are_roads_of_one_two_and_three_lanes() {
        let city = City::new(CITY_SEED);
        let mut seen = [0; 4];
        for road in 0..60 {
            seen[read(&city, road * 24, at(12.0)).lanes.len()] += 1;
        }
        assert!(seen[0] == 0 && seen.iter().skip(1).all(|&count| count > 5), "{seen:?}");
    }

    #[test]
    fn nobody_cycles_or_walks_on_a_motorway() {
        let city = City::new(CITY_SEED);
        let mut motorways = 0;
        for number in 0..60 {
            let road = Road::of(&city, number);
            let classes = read(&city, number * 24, at(12.0)).classes;
            for class in ["bicycle", "pedestrian"] {
                assert_eq!(classes.contains_key(class), !road.is_motorway(), "{class} on {road:?}");
            }
            assert!(road.lanes > 1 || !road.is_motorway(), "{road:?}");
            motorways += usize::from(road.is_motorway());
        }
        assert!((10..30).contains(&motorways), "{motorways}");
    }

    #[test]
    fn lanes_share_all_of_the_flow() {
        let city = City::new(CITY_SEED);
        for number in 0..60 {
            let road = Road::of(&city, number);
            for load in [0.0, 0.1, 0.25, 0.6, 0.99, 1.0, 1.2] {
                let shares: Vec<f64> = (1..=road.lanes).map(|lane| lane_share(&road, load, lane)).collect();
                let sum: f64 = shares.iter().sum();
                assert!((sum - f64::from(road.lanes)).abs() < 1e-9, "{shares:?}");
                assert!(shares.iter().all(|share| *share > 0.0), "{shares:?}");
            }
        }
    }
}
