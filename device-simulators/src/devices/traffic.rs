//! A counting loop in a road of one to three lanes.
//!
//! Demand follows the day (two peaks from Monday to Friday, one broad one at the weekend). Everything else follows from
//! demand, as in a fundamental diagram: speed falls as flow rises, occupancy is density seen through the length of a
//! car, headway is the inverse of flow. The count is what passed in the interval, so a short interval counts 0 or 1.

use std::collections::BTreeMap;

use serde::Serialize;

use super::calendar::{self, LocalTime};
use super::noise::Noise;
use super::{Moment, rounded};

/// What one lane carries when it is full, vehicles per hour.
const LANE_CAPACITY_VEH_H: f64 = 1900.0;

/// A car and the loop it drives over, metres.
const CAR_AND_LOOP_M: f64 = 6.5;

/// Headway of an empty road, seconds; a real counter reports its ceiling.
const HEADWAY_S_MAX: f64 = 600.0;

/// Share of capacity by hour, Monday to Friday: peaks at 8 and at 17.
const WORKDAY: [f64; 24] = [
    0.06, 0.04, 0.03, 0.03, 0.06, 0.18, 0.46, 0.83, 0.93, 0.66, 0.52, 0.52, //
    0.56, 0.57, 0.61, 0.71, 0.87, 0.96, 0.74, 0.50, 0.36, 0.27, 0.19, 0.11,
];

/// Saturday and Sunday: late, and one broad afternoon.
const WEEKEND: [f64; 24] = [
    0.13, 0.09, 0.06, 0.04, 0.04, 0.06, 0.11, 0.17, 0.27, 0.40, 0.51, 0.57, //
    0.60, 0.62, 0.63, 0.61, 0.58, 0.53, 0.45, 0.36, 0.29, 0.24, 0.20, 0.16,
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
    speed_kmh: f64,
    occupancy_percent: f64,
    headway_s: f64,
}

/// What the loop reports at `moment`.
pub(super) fn reading(noise: &Noise, moment: Moment) -> Traffic {
    let demand = demand(noise, moment);
    let count = 1 + (noise.fixed("lanes") * 3.0) as u32;
    let lanes: Vec<Lane> = (1..=count)
        .map(|lane| Lane {
            lane,
            flow: lane_flow(noise, moment, demand, lane, count),
        })
        .collect();
    let total = sum(&lanes);
    Traffic {
        total,
        lanes,
        classes: classes(noise, moment, total.vehicle_count),
    }
}

/// Share of capacity that wants to drive now, 0 to 1.
fn demand(noise: &Noise, moment: Moment) -> f64 {
    let local = LocalTime::of(moment.observed_at_ms);
    let curve = if local.is_weekend() { &WEEKEND } else { &WORKDAY };
    let importance = 0.35 + 0.65 * noise.fixed("importance");
    let waves = 1.0 + 0.12 * noise.smooth("demand", moment.observed_at_ms, 600);
    (calendar::by_hour(curve, local.hour) * importance * waves).clamp(0.0, 1.0)
}

fn lane_flow(noise: &Noise, moment: Moment, demand: f64, lane: u32, lanes: u32) -> Flow {
    // On an empty road people keep right; a full one fills every lane.
    let offset = f64::from(lane) - f64::from(lanes + 1) / 2.0;
    let share = 1.0 - 0.5 * offset * (1.0 - demand) / f64::from(lanes);
    let load = (demand * share).clamp(0.0, 1.0);
    let flow = LANE_CAPACITY_VEH_H * load;

    let limit = [50.0, 70.0, 100.0];
    let limit = limit[(noise.fixed("limit") * 3.0) as usize % 3] * (1.0 + 0.05 * offset);
    let mood = 1.0 + 0.04 * noise.smooth("speed", moment.observed_at_ms, 300);
    let speed = limit * mood * (1.0 - 0.6 * load.powi(3));

    let expected = flow * moment.interval.as_secs_f64() / 3600.0;
    let tick = moment.observed_at_ms * 8 + i64::from(lane);
    let vehicle_count = (expected + noise.unit("count", tick)) as u32;
    Flow {
        vehicle_count,
        flow_veh_h: rounded(flow, 1),
        speed_kmh: rounded(speed, 1),
        occupancy_percent: rounded(occupancy(flow, speed), 1),
        headway_s: rounded(headway(flow, 1), 1),
    }
}

/// Share of time that a vehicle stands over the loop: density times length.
fn occupancy(flow_veh_h: f64, speed_kmh: f64) -> f64 {
    (flow_veh_h / speed_kmh * CAR_AND_LOOP_M / 1000.0 * 100.0).min(100.0)
}

/// Mean time between two vehicles of one lane.
fn headway(flow_veh_h: f64, lanes: u32) -> f64 {
    (3600.0 * f64::from(lanes) / flow_veh_h.max(1.0)).min(HEADWAY_S_MAX)
}

/// The whole road: counts and flows add up, speed is the mean of the vehicles, occupancy the mean of the lanes.
fn sum(lanes: &[Lane]) -> Flow {
    let total = |value: fn(&Flow) -> f64| lanes.iter().map(|lane| value(&lane.flow)).sum::<f64>();
    let flow = total(|lane| lane.flow_veh_h);
    let count = lanes.len().max(1) as f64;
    let speed = if flow > 0.0 {
        total(|lane| lane.speed_kmh * lane.flow_veh_h) / flow
    } else {
        total(|lane| lane.speed_kmh) / count
    };
    Flow {
        vehicle_count: lanes.iter().map(|lane| lane.flow.vehicle_count).sum(),
        flow_veh_h: rounded(flow, 1),
        speed_kmh: rounded(speed, 1),
        occupancy_percent: rounded(total(|lane| lane.occupancy_percent) / count, 1),
        headway_s: rounded(headway(flow, lanes.len() as u32), 1),
    }
}

/// Who they were. Trucks, buses and motorcycles are part of the count; those on the path beside the road are not.
fn classes(noise: &Noise, moment: Moment, vehicles: u32) -> BTreeMap<&'static str, u32> {
    let drawn = |class: &str, expected: f64| (expected + noise.unit(class, moment.observed_at_ms)) as u32;
    let mut left = vehicles;
    let mut take = |class: &str, share: f64| {
        let count = drawn(class, share * f64::from(vehicles)).min(left);
        left -= count;
        count
    };
    let truck = take("truck", 0.08);
    let bus = take("bus", 0.02);
    let motorcycle = take("motorcycle", 0.015);
    let hour = LocalTime::of(moment.observed_at_ms).hour;
    let beside_h = 240.0 * calendar::by_hour(&WEEKEND, hour) * noise.fixed("path");
    let beside = beside_h * moment.interval.as_secs_f64() / 3600.0;
    BTreeMap::from([
        ("car", left),
        ("truck", truck),
        ("bus", bus),
        ("motorcycle", motorcycle),
        ("bicycle", drawn("bicycle", 0.7 * beside)),
        ("pedestrian", drawn("pedestrian", 0.3 * beside)),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::tests::at;
    use super::*;

    #[test]
    fn speed_falls_as_flow_rises() {
        let mut crowded = 0;
        for index in 0..60 {
            let noise = Noise::new(4, index);
            let (night, peak) = (reading(&noise, at(3.0)), reading(&noise, at(17.0)));
            let capacity = LANE_CAPACITY_VEH_H * peak.lanes.len() as f64;
            let (night, peak) = (night.total, peak.total);
            assert!(peak.flow_veh_h > 4.0 * night.flow_veh_h, "{night:?} {peak:?}");
            if peak.flow_veh_h > 0.8 * capacity {
                crowded += 1;
                assert!(peak.speed_kmh < 0.8 * night.speed_kmh, "{night:?} {peak:?}");
                assert!(
                    peak.occupancy_percent > 10.0 * night.occupancy_percent,
                    "{night:?} {peak:?}"
                );
            }
        }
        assert!(crowded > 5, "{crowded} of 60 roads are crowded at 17:00");
    }

    #[test]
    fn lanes_and_classes_add_up() {
        for index in 0..60 {
            let traffic = reading(&Noise::new(5, index), at(index as f64 * 0.4));
            let lanes: u32 = traffic.lanes.iter().map(|lane| lane.flow.vehicle_count).sum();
            assert_eq!(lanes, traffic.total.vehicle_count);
            let motor = ["car", "truck", "bus", "motorcycle"].map(|class| traffic.classes[class]);
            assert_eq!(motor.iter().sum::<u32>(), traffic.total.vehicle_count);
        }
    }

    #[test]
    fn short_intervals_count_what_long_ones_count() {
        let noise = Noise::new(6, 1);
        let mut moment = at(8.0);
        moment.interval = std::time::Duration::from_secs(1);
        let mut counted = 0;
        for _ in 0..3600 {
            moment.observed_at_ms += 1000;
            counted += reading(&noise, moment).total.vehicle_count;
        }
        let flow = (reading(&noise, at(8.0)).total.flow_veh_h + reading(&noise, at(9.0)).total.flow_veh_h) / 2.0;
        let ratio = f64::from(counted) / flow;
        assert!((0.85..1.15).contains(&ratio), "{counted} counted, {flow} expected");
    }

    #[test]
    fn there_are_roads_of_one_two_and_three_lanes() {
        let mut seen = [0; 4];
        for index in 0..60 {
            seen[reading(&Noise::new(1, index), at(12.0)).lanes.len()] += 1;
        }
        assert!(seen[0] == 0 && seen.iter().skip(1).all(|&count| count > 5), "{seen:?}");
    }
}
