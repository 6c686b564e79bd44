//! The city's roads, and how full they are.
//!
//! A road is 7.2 km of one carriageway in one direction, with a detector every 300 m; the lower the position, the further
//! upstream. What it carries follows the first-order theory of traffic (Lighthill, Whitham, Richards) with a triangular
//! fundamental diagram and a capacity drop:
//!
//! * freely flowing, speed falls a little as flow rises; in a queue, density and flow lie on a straight line that ends at
//!   the jam density: `flow = WAVE · (JAM − density)`. Flow is density times speed in either;
//! * **demand** follows the day (two peaks from Monday to Friday, one broad one at the weekend), drifts downstream, and
//!   takes its random platoons with it;
//! * a **bottleneck** that gets more than it can carry makes a queue, which grows upstream through the rush hour and
//!   shrinks after it. While there is a queue, less gets out than before: the capacity drop;
//! * an **incident** takes lanes away for a while. Its queue's tail runs upstream as a shock wave, starves the road
//!   downstream, and once it is cleared dissolves from its head;
//! * within a queue, stop-and-go waves run upstream at `WAVE`.

use super::super::calendar::{self, DayType, LocalTime};
use super::super::city::{City, Spot};
use super::super::math;
use super::super::noise::Noise;

/// From this limit on a road is for motor vehicles only, and has more than one lane.
const MOTORWAY_KMH: f64 = 100.0;

/// Distance between two detectors, metres.
const SPACING_M: f64 = 300.0;

/// Detectors of one road.
const DETECTORS: u64 = 24;

/// Density of a queue that does not move, vehicles per kilometre and lane.
const JAM_VEH_KM: f64 = 145.0;

/// How fast a disturbance runs upstream through a queue, km/h.
const WAVE_KMH: f64 = 18.0;

/// What gets out of a queue, as a share of what the road carried before.
const DROP: f64 = 0.93;

/// Time is cut into cells; a road has at most one incident by chance in each.
const INCIDENT_CELL_MS: i64 = 8 * 3_600_000;

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

/// How busy each day is, from Monday.
const WEEK: [f64; 7] = [0.97, 0.99, 1.0, 1.02, 1.03, 1.0, 0.86];

/// Where a detector is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detector {
    pub road: u64,
    /// From the road's beginning; traffic goes towards higher positions.
    pub position_m: f64,
}

/// An accident, a breakdown, a lost load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Incident {
    pub road: u64,
    /// When it happens, in milliseconds since 1970.
    pub at_ms: i64,
    /// How long it blocks.
    pub lasts_s: f64,
    pub position_m: f64,
    /// The share of the road's capacity that is left beside it, 0 to 1.
    pub capacity_left: f64,
}

/// A road of a city.
#[derive(Debug)]
pub(super) struct Road<'c> {
    city: &'c City,
    number: u64,
    noise: Noise,
    pub(super) lanes: u32,
    limit_kmh: f64,
    pub(super) free_kmh: f64,
    /// Of one lane, vehicles per hour.
    pub(super) capacity_veh_h: f64,
    /// The busiest hour's demand, as a share of the capacity, over the curves' own maximum.
    importance: f64,
    /// Positive where the morning is the busier peak.
    bias: f64,
    bottleneck_m: f64,
    /// What a lane gets through the bottleneck, vehicles per hour.
    bottleneck_veh_h: f64,
}

/// Traffic at one place and time, mean of the lanes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct State {
    pub(super) flow_veh_h: f64,
    pub(super) speed_kmh: f64,
    pub(super) is_queue: bool,
}

/// What an incident makes of a place at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Effect {
    None,
    /// In its queue, with so much flow.
    Queue(f64),
    /// Beyond it, with so little flow.
    Starved(f64),
    /// Where its queue dissolves, with so much flow.
    Discharge(f64),
}

// === impl Detector ===

impl Detector {
    /// The detector of the fleet's `index`th device. Neighbouring numbers are on the same road.
    pub fn of(index: u64) -> Detector {
        Detector {
            road: index / DETECTORS,
            position_m: SPACING_M * (index % DETECTORS) as f64,
        }
    }
}

// === impl Road ===

impl<'c> Road<'c> {
    pub(super) fn of(city: &'c City, number: u64) -> Road<'c> {
        let noise = Noise::new(city.seed, "road", number);
        let sorts = [(50.0, 1500.0), (70.0, 1800.0), (100.0, 2200.0)];
        let sort = (noise.fixed("sort") * 3.0) as usize % 3;
        let (limit_kmh, capacity_veh_h) = sorts.get(sort).copied().unwrap_or((70.0, 1800.0));
        Road {
            city,
            number,
            lanes: if limit_kmh >= MOTORWAY_KMH {
                2 + (noise.fixed("lanes") * 2.0) as u32
            } else {
                1 + (noise.fixed("lanes") * 3.0) as u32
            },
            limit_kmh,
            free_kmh: limit_kmh * (1.0 + 0.06 * noise.signed("free speed")),
            capacity_veh_h,
            importance: 0.2 + 0.83 * noise.fixed("importance"),
            bias: 0.2 * noise.signed("bias"),
            bottleneck_m: 3600.0 + 3300.0 * noise.fixed("bottleneck"),
            bottleneck_veh_h: capacity_veh_h * (0.8 + 0.15 * noise.fixed("bottleneck capacity")),
            noise,
        }
    }

    pub(super) fn is_motorway(&self) -> bool {
        self.limit_kmh >= MOTORWAY_KMH
    }

    /// Where a position of the road is in the city.
    pub(super) fn spot(&self, position_m: f64) -> Spot {
        let middle = Spot::of(&self.noise);
        let bearing = self.noise.fixed("bearing");
        let along = position_m - SPACING_M * DETECTORS as f64 / 2.0;
        Spot {
            east_m: 0.5 * middle.east_m + along * math::sin_turns(bearing),
            north_m: 0.5 * middle.north_m + along * math::cos_turns(bearing),
        }
    }

    /// Traffic at a position.
    pub(super) fn state(&self, position_m: f64, time_ms: i64) -> State {
        // Demand enters upstream and drifts down at the free speed, with its platoons.
        let entered_ms = time_ms - (3600.0 * position_m / self.free_kmh).round() as i64;
        let local = LocalTime::of(entered_ms, self.city.place.utc_offset_ms);
        let platoons = 1.0
            + 0.16 * self.noise.smooth("platoons", entered_ms, 300)
            + 0.06 * self.noise.smooth("drift", entered_ms, 1800);
        let mut flow = (self.demand(local.day, local.hour) * platoons).min(0.97 * self.capacity_veh_h);
        let mut queue_head_m = None;

        let (out, tail_km) = self.bottleneck(time_ms);
        let upstream_km = (self.bottleneck_m - position_m) / 1000.0;
        if tail_km > 0.0 && upstream_km < 0.0 {
            flow = flow.min(out);
        } else if upstream_km >= 0.0 && upstream_km < tail_km {
            flow = out;
            queue_head_m = Some(self.bottleneck_m);
        }
        for incident in self.incidents(time_ms) {
            match self.effect(&incident, position_m, time_ms) {
                Effect::None => {}
                Effect::Queue(limit) => {
                    flow = flow.min(limit);
                    queue_head_m = Some(incident.position_m);
                }
                Effect::Starved(limit) => flow = flow.min(limit),
                Effect::Discharge(rate) if queue_head_m.is_none() => flow = rate,
                Effect::Discharge(_) => {}
            }
        }
        match queue_head_m {
            None => State {
                flow_veh_h: flow,
                speed_kmh: self.free_speed(flow),
                is_queue: false,
            },
            Some(head_m) => self.queued(flow, head_m - position_m, time_ms),
        }
    }

    /// In a queue whose head is `upstream_m` ahead: stop and go.
    fn queued(&self, flow: f64, upstream_m: f64, time_ms: i64) -> State {
        let from_head_ms = time_ms - (3600.0 * upstream_m / WAVE_KMH).round() as i64;
        let waves = 1.0 + 0.3 * self.noise.smooth("stop and go", from_head_ms, 240);
        let flow = (flow * waves).min(DROP * self.capacity_veh_h);
        State {
            flow_veh_h: flow,
            speed_kmh: flow / queue_density(flow),
            is_queue: true,
        }
    }

    /// Vehicles per hour that want to use a lane, without their platoons.
    fn demand(&self, day: i64, hour: f64) -> f64 {
        let curve = match calendar::day_type(day) {
            DayType::Workday => &WORKDAY,
            DayType::Saturday | DayType::Sunday => &WEEKEND,
        };
        let tilt = 1.0 + self.bias * (math::hill((hour - 8.0) / 3.5) - math::hill((hour - 17.0) / 3.5));
        let week = WEEK.get(calendar::weekday(day)).copied().unwrap_or(1.0);
        let today = week * (0.96 + 0.08 * self.noise.unit("today", day));
        self.capacity_veh_h * self.importance * calendar::by_hour(curve, hour) * tilt * today
    }

    /// What gets through the bottleneck, and how far its queue reaches upstream, km.
    fn bottleneck(&self, time_ms: i64) -> (f64, f64) {
        const STEP_H: f64 = 1.0 / 6.0;
        let local = LocalTime::of(time_ms, self.city.place.utc_offset_ms);
        let out = DROP * self.bottleneck_veh_h;
        if self.importance * 1.3 * self.capacity_veh_h < self.bottleneck_veh_h {
            return (out, 0.0);
        }
        // Vehicles of a lane that are held up, summed since early morning.
        let (mut held, mut hour) = (0.0f64, 5.0);
        while hour < local.hour {
            let step = STEP_H.min(local.hour - hour);
            let demand = self.demand(local.day, hour + step / 2.0);
            let through = if held > 0.0 { out } else { self.bottleneck_veh_h };
            held = (held + (demand - through) * step).max(0.0);
            hour += STEP_H;
        }
        let arriving = self.demand(local.day, local.hour).min(0.97 * self.capacity_veh_h);
        let denser = (queue_density(out) - arriving / self.free_speed(arriving)).max(5.0);
        (out, held / denser)
    }

    /// What happened on this road and may still be felt.
    fn incidents(&self, time_ms: i64) -> impl Iterator<Item = Incident> {
        let cell = time_ms.div_euclid(INCIDENT_CELL_MS);
        let by_chance = [cell - 1, cell].map(|cell| self.incident_of(cell));
        let ordered = self.city.incidents.iter().copied();
        let here = ordered.filter(|incident| incident.road == self.number);
        by_chance.into_iter().flatten().chain(here)
    }

    fn incident_of(&self, cell: i64) -> Option<Incident> {
        let draw = |channel| self.noise.unit(channel, cell);
        if draw("incident") > 0.12 {
            return None;
        }
        let lanes = f64::from(self.lanes);
        Some(Incident {
            road: self.number,
            at_ms: cell * INCIDENT_CELL_MS + (draw("incident time") * INCIDENT_CELL_MS as f64) as i64,
            lasts_s: 60.0 * (8.0 + 42.0 * draw("incident duration")),
            position_m: 900.0 + 6000.0 * draw("incident place"),
            // One lane is gone, and those who pass look at it.
            capacity_left: if self.lanes == 1 {
                0.3
            } else {
                0.85 * (lanes - 1.0) / lanes
            },
        })
    }

    /// The solution of the kinematic wave model for constant arrivals: a tail that runs upstream, a head that dissolves
    /// faster than that from the clearance on, and what both send downstream.
    fn effect(&self, incident: &Incident, position_m: f64, time_ms: i64) -> Effect {
        let at = LocalTime::of(incident.at_ms, self.city.place.utc_offset_ms);
        let discharge = DROP * self.capacity_veh_h;
        let arriving = self.demand(at.day, at.hour).min(0.9 * discharge);
        let left = (incident.capacity_left * self.capacity_veh_h).max(0.02 * self.capacity_veh_h);
        if arriving <= 1.02 * left {
            return Effect::None;
        }
        let queue = queue_density(left);
        let tail_kmh = (arriving - left) / (queue - arriving / self.free_speed(arriving));
        let head_kmh = (discharge - left) / (queue - discharge / self.free_speed(discharge));
        // Where and when the head catches up with the tail.
        let blocked_h = incident.lasts_s / 3600.0;
        let longest_km = blocked_h / (1.0 / tail_kmh - 1.0 / head_kmh);
        let dissolved_h = longest_km / tail_kmh;

        let hours = (time_ms - incident.at_ms) as f64 / 3_600_000.0;
        let upstream_km = (incident.position_m - position_m) / 1000.0;
        let (free_kmh, discharge_kmh) = (self.free_speed(left), self.free_speed(discharge));
        let last = dissolved_h + (longest_km - upstream_km) / discharge_kmh;
        let (first, cleared, starving) = if upstream_km >= 0.0 {
            let limit = Effect::Queue(left);
            (upstream_km / tail_kmh, blocked_h + upstream_km / head_kmh, limit)
        } else {
            let limit = Effect::Starved(left);
            let later = blocked_h - upstream_km / discharge_kmh;
            (-upstream_km / free_kmh, later, limit)
        };
        if upstream_km >= longest_km || hours < first || hours >= last {
            Effect::None
        } else if hours < cleared {
            starving
        } else {
            Effect::Discharge(discharge)
        }
    }

    /// Speed of freely flowing traffic.
    pub(super) fn free_speed(&self, flow_veh_h: f64) -> f64 {
        let share = flow_veh_h / self.capacity_veh_h;
        self.free_kmh * (1.0 - 0.18 * share * share)
    }
}

/// Density of a queue with so much flow, vehicles per kilometre and lane.
pub(super) fn queue_density(flow_veh_h: f64) -> f64 {
    JAM_VEH_KM - flow_veh_h / WAVE_KMH
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{CITY_SEED, at};
    use super::*;

    /// A road that is busy without being full at ten o'clock, with nothing else on it.
    fn quiet_road(city: &City) -> u64 {
        let calm = |number: &u64| {
            let road = Road::of(city, *number);
            let (noon, hours) = (at(10.0).observed_at_ms, 4 * 3_600_000);
            let share = road.demand(20_621, 10.0) / road.capacity_veh_h;
            let no_incident = [noon - hours, noon, noon + hours]
                .iter()
                .all(|&time| road.incidents(time).next().is_none());
            (0.40..0.60).contains(&share) && road.lanes == 2 && road.bottleneck(noon).1 == 0.0 && no_incident
        };
        (0..500).find(calm).unwrap()
    }

    /// The first minute after ten at which `is_so`.
    fn first_minute(road: &Road<'_>, position_m: f64, is_so: impl Fn(State) -> bool) -> Option<i64> {
        let start = at(10.0).observed_at_ms;
        (0..240).find(|minute| is_so(road.state(position_m, start + minute * 60_000)))
    }

    #[test]
    fn an_incident_reaches_upstream_detectors_later_and_leaves_them_later() {
        let city = City::new(CITY_SEED);
        let number = quiet_road(&city);
        let city = city.with_incident(Incident {
            road: number,
            at_ms: at(10.0).observed_at_ms,
            lasts_s: 1800.0,
            position_m: 6000.0,
            capacity_left: 0.25,
        });
        let road = Road::of(&city, number);
        let mut reached = Vec::new();
        for position_m in [5900.0, 5400.0, 4800.0, 4200.0] {
            let from = first_minute(&road, position_m, |state| state.is_queue);
            let from = from.unwrap_or_else(|| panic!("no queue at {position_m} m"));
            let later = |minute: i64| road.state(position_m, at(10.0).observed_at_ms + minute * 60_000);
            let until = (from..300).find(|&minute| !later(minute).is_queue).unwrap();
            reached.push((position_m, from, until));
        }
        for pair in reached.windows(2) {
            let [(near_m, near_from, near_until), (far_m, far_from, far_until)] = pair else {
                continue;
            };
            assert!(far_from > near_from && far_until > near_until, "{reached:?}");
            // Shock waves run at walking to cycling pace, the recovery faster than the tail.
            let kilometres = (near_m - far_m) / 1000.0;
            let tail_kmh = kilometres / ((far_from - near_from) as f64 / 60.0);
            assert!((3.0..20.0).contains(&tail_kmh), "{tail_kmh} km/h: {reached:?}");
            assert!(far_until - near_until <= far_from - near_from, "{reached:?}");
        }
        // Downstream, nothing but less traffic, and soon.
        let before = road.state(6600.0, at(9.95).observed_at_ms).flow_veh_h;
        let starved = first_minute(&road, 6600.0, |state| state.flow_veh_h < 0.75 * before);
        assert!(starved.is_some_and(|minute| minute <= 2), "{starved:?}");
        assert_eq!(first_minute(&road, 6600.0, |state| state.is_queue), None);
        // The vehicles that were held up come through afterwards.
        let flow = |hours: f64| road.state(6600.0, at(10.0 + hours).observed_at_ms).flow_veh_h;
        assert!((31..50).any(|minute| flow(f64::from(minute) / 60.0) > 1.3 * before));
    }

    #[test]
    fn vehicles_held_up_by_an_incident_are_neither_lost_nor_made() {
        let quiet = City::new(CITY_SEED);
        let number = quiet_road(&quiet);
        let struck = City::new(CITY_SEED).with_incident(Incident {
            road: number,
            at_ms: at(10.0).observed_at_ms,
            lasts_s: 900.0,
            position_m: 5000.0,
            capacity_left: 0.25,
        });
        let passed = |city: &City| {
            let road = Road::of(city, number);
            let flow = |second: i64| road.state(6900.0, at(9.5).observed_at_ms + second * 1000).flow_veh_h;
            (0..900).map(|step| flow(step * 10)).sum::<f64>() / 360.0
        };
        let (undisturbed, disturbed) = (passed(&quiet), passed(&struck));
        let ratio = disturbed / undisturbed;
        assert!((ratio - 1.0).abs() < 0.04, "{disturbed} vehicles, not {undisturbed}");
    }

    #[test]
    fn some_roads_queue_in_the_rush_hour_and_none_at_night() {
        let city = City::new(CITY_SEED);
        let queued = |hour: f64| {
            let has_queue = |number: &u64| {
                let road = Road::of(&city, *number);
                road.bottleneck(at(hour).observed_at_ms).1 > 0.3
            };
            (0..200).filter(has_queue).count()
        };
        assert_eq!((queued(3.0), queued(22.0)), (0, 0));
        for hour in [8.5, 17.5] {
            assert!((10..120).contains(&queued(hour)), "{} of 200 at {hour}", queued(hour));
        }
    }

    #[test]
    fn states_are_on_the_fundamental_diagram() {
        let city = City::new(CITY_SEED);
        let mut queues = 0;
        for step in 0..40_000u64 {
            let road = Road::of(&city, step % 50);
            let time_ms = at(0.0).observed_at_ms + step as i64 * 97_003;
            let state = road.state((step % 24) as f64 * 300.0, time_ms);
            let density = state.flow_veh_h / state.speed_kmh;
            assert!(
                density <= JAM_VEH_KM && state.flow_veh_h <= road.capacity_veh_h,
                "{state:?}"
            );
            assert!(state.speed_kmh > 0.0 && state.speed_kmh <= road.free_kmh, "{state:?}");
            if state.is_queue {
                queues += 1;
                let line = WAVE_KMH * (JAM_VEH_KM - density);
                assert!((line - state.flow_veh_h).abs() < 1e-6, "{state:?}");
                assert!(state.speed_kmh < road.free_speed(state.flow_veh_h), "{state:?}");
            }
        }
        assert!((200..8000).contains(&queues), "{queues} of 40000 in a queue");
    }
}
