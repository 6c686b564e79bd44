//! The devices of a scenario, and their time.
//!
//! Everything is a function of the scenario and of the city's time at its start: a device's n-th slot has the same time, and
//! so the same reading and the same faults, at any speed. Only who had to wait for an answer leaves slots out.

use std::sync::Arc;
use std::time::Duration;

use super::{Scenario, Start};
use crate::device_task::Pace;
use crate::devices::faults::{ClockLimits, Faulty};
use crate::devices::{City, Device, placement};
use crate::fleet::{self, RosterEntry};
use crate::ledger_file::{LedgerFile, Line};

const DAY_MS: i64 = 24 * 3_600_000;
const MINUTE_MS: i64 = 60_000;

/// The golden ratio's fraction: its multiples are spread evenly, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// When the city's time begins for a run that begins at `now_ms`, both in milliseconds since 1970; see the map of
/// [`scenario`](super).
pub fn start_ms(scenario: &Scenario, now_ms: i64) -> i64 {
    let latest = now_ms + milliseconds(scenario.length()) - milliseconds(scenario.duration);
    let Start::At { weekday, minute } = scenario.start else {
        return latest;
    };
    let offset_ms = City::new(scenario.seed).place().utc_offset_ms;
    let minute_ms = i64::from(minute) * MINUTE_MS;
    let mut day = (latest + offset_ms - minute_ms).div_euclid(DAY_MS);
    // 1970-01-01 was a Thursday.
    while weekday.is_some_and(|weekday| (day + 3).rem_euclid(7) != i64::from(weekday)) {
        day -= 1;
    }
    day * DAY_MS + minute_ms - offset_ms
}

/// The devices of a scenario whose city's time begins at `start_ms`.
pub fn entries(scenario: &Scenario, start_ms: i64) -> Vec<RosterEntry> {
    let city = Arc::new(city(scenario, start_ms));
    let mut entries = Vec::with_capacity(scenario.devices());
    for (number, group) in scenario.groups.iter().enumerate() {
        let clock_interval = scenario.clock(group.interval);
        for index in 0..group.count {
            let device = Device::in_city(&city, group.kind, entries.len() as u64);
            // Spread over an interval, or they would all send at once.
            let share = index as f64 / group.count as f64;
            let first = group.interval.mul_f64(share);
            let power_cuts = power_cuts(scenario, number, index, &device);
            entries.push(RosterEntry {
                device: Faulty::new(scenario.seed, device, &group.faults, ClockLimits::default()),
                transport: group.transport,
                source: None,
                pace: Pace::Slots {
                    interval: group.interval,
                    clock_interval,
                    first_ms: start_ms + milliseconds(first),
                    slot: 0,
                },
                first_due: scenario.clock(first),
                power_cuts,
            });
        }
    }
    entries
}

/// What is true before anybody sends: who stands where, what happens in the city, who has no power when.
pub fn write_down(scenario: &Scenario, start_ms: i64, roster: &[RosterEntry], file: &LedgerFile) {
    file.note(&Line::City {
        scenario: &scenario.name,
        seed: scenario.seed,
        start_ms,
        end_ms: start_ms + milliseconds(scenario.duration),
    });
    for incident in &scenario.incidents {
        file.note(&Line::Incident {
            segment: placement::segment(incident.road),
            position_m: incident.position_m,
            at_ms: start_ms + incident.at_ms,
            lasts_s: incident.lasts_s,
            capacity_left: incident.capacity_left,
        });
    }
    for front in &scenario.fronts {
        file.note(&Line::Front {
            at_ms: start_ms + front.at_ms,
        });
    }
    for (entry, placement) in roster.iter().zip(fleet::placements(roster)) {
        file.note(&Line::Device(&placement));
        for &(from, until) in &entry.power_cuts {
            let city_ms = |clock: Duration| start_ms + milliseconds(clock) * i64::from(scenario.speed);
            file.note(&Line::Silence {
                device: &placement.device,
                from_ms: city_ms(from),
                until_ms: city_ms(until),
            });
        }
    }
}

fn city(scenario: &Scenario, start_ms: i64) -> City {
    let mut city = City::new(scenario.seed);
    for front in &scenario.fronts {
        let mut front = *front;
        front.at_ms += start_ms;
        city = city.with_front(front);
    }
    for incident in &scenario.incidents {
        let mut incident = *incident;
        incident.at_ms += start_ms;
        city = city.with_incident(incident);
    }
    city
}

/// From when to when after the start a device, the `index`th of its group, has no power, by the clock.
fn power_cuts(scenario: &Scenario, group: usize, index: usize, device: &Device) -> Vec<(Duration, Duration)> {
    let is_struck = |loss: &&super::PowerLoss| {
        let is_there = loss.district.is_none_or(|name| name == placement::district(device));
        loss.groups.contains(&group) && is_there
    };
    let losses = scenario.power_losses.iter().filter(is_struck);
    let cut = |loss: &super::PowerLoss| {
        let from = scenario.clock(loss.at);
        let late = loss.back_within.mul_f64((index as f64 * GOLDEN).fract());
        (from, from + loss.lasts + late)
    };
    let mut cuts: Vec<(Duration, Duration)> = losses.map(cut).collect();
    cuts.sort();
    cuts
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
