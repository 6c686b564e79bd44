//! The city: what all devices of a seed share.
//!
//! Its place on Earth, its weather and its roads. A scenario may add events to those that chance brings: a front that
//! crosses the centre at a given time, an incident on a given road. Nothing here changes after it was built, but for what
//! is remembered of the meters' past, which is a function of the seed as well.

use super::energy::sums::SolarSums;
use super::noise::Noise;
use super::sun::Place;
use super::traffic::Incident;
use super::weather::Front;

/// Metres of one degree of latitude.
const DEGREE_M: f64 = 111_200.0;

/// Half of the city's width, metres.
const RADIUS_M: f64 = 5_000.0;

/// A city, to be shared by its devices.
#[derive(Debug)]
pub struct City {
    pub(crate) seed: u64,
    pub(crate) place: Place,
    /// Of what is one in the city: weather, grid.
    pub(crate) noise: Noise,
    /// Beyond those that chance brings.
    pub(crate) fronts: Vec<Front>,
    pub(crate) incidents: Vec<Incident>,
    pub(crate) sums: SolarSums,
}

/// Metres east and north of the centre.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot {
    pub east_m: f64,
    pub north_m: f64,
}

// === impl City ===

impl City {
    pub fn new(seed: u64) -> City {
        City {
            seed,
            place: Place::UTRECHT,
            noise: Noise::new(seed, "city", 0),
            fronts: Vec::new(),
            incidents: Vec::new(),
            sums: SolarSums::default(),
        }
    }

    /// The same somewhere else on Earth: another sun, another clock.
    #[must_use]
    pub fn at(self, place: Place) -> City {
        City { place, ..self }
    }

    /// Adds a front.
    #[must_use]
    pub fn with_front(mut self, front: Front) -> City {
        self.fronts.push(front);
        self
    }

    /// Adds an incident.
    #[must_use]
    pub fn with_incident(mut self, incident: Incident) -> City {
        self.incidents.push(incident);
        self
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Latitude and longitude of a spot, degrees.
    pub(crate) fn coordinates(&self, spot: Spot) -> (f64, f64) {
        // A few kilometres on a flat map; the cosine of the city's latitude.
        let shrink = super::math::cos_turns(self.place.latitude / 360.0);
        (
            self.place.latitude + spot.north_m / DEGREE_M,
            self.place.longitude + spot.east_m / (DEGREE_M * shrink),
        )
    }
}

// === impl Spot ===

impl Spot {
    pub const CENTRE: Spot = Spot {
        east_m: 0.0,
        north_m: 0.0,
    };

    /// Somewhere in the city.
    pub(crate) fn of(noise: &Noise) -> Spot {
        Spot {
            east_m: RADIUS_M * noise.signed("east"),
            north_m: RADIUS_M * noise.signed("north"),
        }
    }
}
