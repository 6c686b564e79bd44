//! Fronts that cross the city, one after the other.
//!
//! Time is cut into cells; four of five hold one front, somewhere in their middle. A front is a straight line that moves
//! at its own speed, so a station downwind sees it later by the distance along its heading. What a front does to the air
//! is the textbook's cold front: the pressure falls to a kink and rises faster, the warm air ahead is replaced by colder and,
//! in some hours, drier air, the wind turns from south-west to north-west with gusts, and it rains in a band around the line.

use super::super::city::{City, Spot};
use super::super::math;

/// One cell, and with it the mean time between two fronts.
const CELL_MS: i64 = 60 * 3_600_000;

/// How long before and after its passage a front is felt at all.
const FELT_MS: i64 = 72 * 3_600_000;

/// A cold front.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Front {
    /// When it crosses the centre, in milliseconds since 1970.
    pub at_ms: i64,
    /// Where it moves to: degrees clockwise from north.
    pub heading_deg: f64,
    pub speed_m_s: f64,
    /// How long it rains at a place.
    pub rain_s: f64,
    /// In the middle of the band, mm/h.
    pub rain_mm_h: f64,
    /// How much colder the air behind it is, degrees.
    pub cooling_c: f64,
    /// How deep the pressure falls, hPa.
    pub trough_hpa: f64,
    /// What the squall adds to the mean wind, m/s.
    pub squall_m_s: f64,
}

/// What the fronts around a moment do at a spot, together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Passage {
    pub(super) warmer_c: f64,
    pub(super) moister_c: f64,
    /// 0 to 1: moistened by the hours of rain.
    pub(super) damp: f64,
    pub(super) pressure_hpa: f64,
    pub(super) wind_m_s: f64,
    pub(super) veer_deg: f64,
    /// 0 to 1, to be added to the cover.
    pub(super) cloud: f64,
    pub(super) rain_mm_h: f64,
    /// 0 to 1: unstable air behind a front, in which showers form.
    pub(super) showery: f64,
}

// === impl Front ===

impl Front {
    /// An ordinary front from the west-north-west that crosses the centre at `at_ms`.
    pub fn crossing(at_ms: i64) -> Front {
        Front {
            at_ms,
            heading_deg: 110.0,
            speed_m_s: 11.0,
            rain_s: 3.0 * 3600.0,
            rain_mm_h: 4.0,
            cooling_c: 6.0,
            trough_hpa: 10.0,
            squall_m_s: 6.0,
        }
    }

    /// When it reaches `spot`, in milliseconds since 1970.
    pub fn reaches_ms(&self, spot: Spot) -> i64 {
        let east = math::sin_turns(self.heading_deg / 360.0);
        let north = math::cos_turns(self.heading_deg / 360.0);
        let metres = spot.east_m * east + spot.north_m * north;
        self.at_ms + (1000.0 * metres / self.speed_m_s).round() as i64
    }

    /// Adds what it does at `spot`.
    fn pass(&self, city: &City, spot: Spot, time_ms: i64, passage: &mut Passage) {
        let behind_ms = time_ms - self.reaches_ms(spot);
        if behind_ms.abs() > FELT_MS {
            return;
        }
        let hours = behind_ms as f64 / 3_600_000.0;
        let ahead = math::step(hours, -20.0, -6.0) * (1.0 - math::step(hours, -0.4, 1.2));
        let after = math::step(hours, -0.2, 1.4) * (1.0 - math::step(hours, 6.0, 60.0));
        passage.warmer_c += self.cooling_c * (0.35 * ahead - 0.65 * after);
        // The dew point follows within the rain, and beyond it.
        let dried = math::step(hours, -0.3, 3.5);
        let moist = math::step(hours, -20.0, -6.0) * (1.0 - dried);
        let dry = dried * (1.0 - math::step(hours, 6.0, 60.0));
        passage.moister_c += self.cooling_c * (0.55 * moist - 0.9 * dry);
        let half_h = self.rain_s / 7200.0;
        passage.damp += math::step(hours, -half_h - 0.5, 0.0) * (1.0 - math::step(hours, half_h - 0.5, half_h + 4.0));
        passage.pressure_hpa -= self.trough_hpa * math::exp(-hours.abs() / if hours < 0.0 { 11.0 } else { 6.0 });
        passage.wind_m_s +=
            self.squall_m_s * (0.35 * math::hill(hours / 10.0) + 0.65 * math::hill((hours - 0.1) / 0.8));
        passage.veer_deg += 45.0 * after - 35.0 * ahead;
        passage.cloud += 0.75 * math::step(hours, -9.0, -3.0) * (1.0 - math::step(hours, 1.0, 4.0));
        passage.showery += math::step(hours, 1.5, 4.0) * (1.0 - math::step(hours, 8.0, 20.0));
        let band = 2.0 * 1000.0 * hours * 3.6 / self.rain_s;
        if band.abs() < 1.0 {
            // Cells within the band, moving with it: what comes later here has come earlier upwind.
            let cells = city.noise.smooth("rain cells", behind_ms + self.at_ms, 540);
            passage.rain_mm_h += self.rain_mm_h * math::hill(band) * (0.75 + 0.65 * cells);
        }
    }
}

// === impl Passage ===

impl Passage {
    pub(super) fn at(city: &City, spot: Spot, time_ms: i64) -> Passage {
        let mut passage = Passage::default();
        for front in by_chance(city, time_ms).iter().flatten() {
            front.pass(city, spot, time_ms, &mut passage);
        }
        for front in &city.fronts {
            front.pass(city, spot, time_ms, &mut passage);
        }
        passage
    }
}

/// The fronts that may be felt at `time_ms`.
fn by_chance(city: &City, time_ms: i64) -> [Option<Front>; 4] {
    let cell = time_ms.div_euclid(CELL_MS);
    [-2, -1, 0, 1].map(|away| of_cell(city, cell + away))
}

fn of_cell(city: &City, cell: i64) -> Option<Front> {
    let draw = |channel| city.noise.unit(channel, cell);
    if draw("front") > 0.8 {
        return None;
    }
    let strength = 0.4 + 1.2 * draw("front strength");
    Some(Front {
        at_ms: (cell as f64 * CELL_MS as f64 + CELL_MS as f64 * (0.15 + 0.7 * draw("front time"))) as i64,
        heading_deg: 60.0 + 70.0 * draw("front heading"),
        speed_m_s: 7.0 + 8.0 * draw("front speed"),
        rain_s: 3600.0 * (1.2 + 3.6 * draw("front width")),
        rain_mm_h: 2.6 * strength,
        cooling_c: 5.0 * strength,
        trough_hpa: 4.0 + 5.0 * strength,
        squall_m_s: 4.5 * strength,
    })
}

impl City {
    /// The first front that crosses the centre after `time_ms`, of those that chance brings.
    pub fn next_front(&self, time_ms: i64) -> Option<Front> {
        let cell = time_ms.div_euclid(CELL_MS);
        let mut coming = (cell..cell + 100).filter_map(|cell| of_cell(self, cell));
        coming.find(|front| front.at_ms > time_ms)
    }
}
