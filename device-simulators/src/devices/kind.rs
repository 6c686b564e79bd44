//! The kinds of devices: what a device measures, as what, and where it stands.
//!
//! A kind has a name, which is also that of its schema and the last part of its devices' address, and makes the [`Sensor`]
//! of a device. Kinds of one name are one: whatever counts by kind counts by name. Traffic, weather and energy have
//! devices made after physics, and come first in every list.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::city::{City, Spot};
use super::faults::Faultable;
use super::noise::Noise;
use super::quality::Quality;
use super::{Device, Header, Moment, energy, traffic, weather};

/// Makes a device's sensor, and says where in the city it stands.
type MakeSensor = dyn Fn(&City, &Noise, u64) -> (Arc<dyn Sensor>, Spot) + Send + Sync;

/// What a device measures.
#[derive(Clone, Copy)]
pub struct Kind(&'static Definition);

/// All that is known of a kind.
#[derive(Clone, Copy)]
pub(super) struct Definition {
    pub(super) name: &'static str,
    /// In [`Kind::PHYSICAL`]; behind them for all others.
    pub(super) position: usize,
    /// What people call the thing at the roadside, on the roof, in the cellar; with a number it is the device's name.
    pub(super) device_prefix: &'static str,
    /// The schema of its readings.
    pub(super) schema: &'static str,
    /// Whether its readings say the device's number of the reading (`sequence`), by which each is found in Kafka.
    pub(super) numbered: bool,
    pub(super) faultable: Faultable,
    /// Where its devices note what is to be said of a value; None if the schema has no such field.
    pub(super) quality: Option<Quality>,
    /// Makes the sensor of the city's device with this number, and says where it is.
    pub(super) sensor: &'static MakeSensor,
}

/// What measures.
pub(super) trait Sensor: fmt::Debug + Send + Sync {
    /// The reading of the device that this sensor is in, as JSON.
    fn reading(&self, device: &Device, header: Header, moment: Moment) -> Vec<u8>;

    /// Where on its road it counts, if it is a detector of one.
    fn detector(&self) -> Option<traffic::Detector> {
        None
    }

    /// The field that the gateway judges by its clock, and how the device would say a time there, milliseconds since 1970.
    fn clock(&self, _device: &Device, ms: i64) -> Option<(&'static str, String)> {
        Some(("observed_at", ms.to_string()))
    }
}

// === impl Kind ===

impl Kind {
    pub(super) fn new(definition: &'static Definition) -> Kind {
        Kind(definition)
    }

    pub const TRAFFIC: Kind = Kind(&traffic::KIND);
    pub const WEATHER: Kind = Kind(&weather::KIND);
    pub const ENERGY: Kind = Kind(&energy::KIND);

    /// Those whose devices are made after physics.
    pub const PHYSICAL: [Kind; 3] = [Kind::TRAFFIC, Kind::WEATHER, Kind::ENERGY];

    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// The schema of its readings.
    pub fn schema(self) -> &'static str {
        self.0.schema
    }

    /// Those of a physical kind's name whose schema is another: their devices follow from it.
    pub fn by_schema(kinds: &[Kind]) -> Vec<Kind> {
        let is_other = |kind: &&Kind| {
            let physical = Kind::PHYSICAL.into_iter().find(|physical| physical == *kind);
            physical.is_some_and(|physical| physical.schema() != kind.schema())
        };
        kinds.iter().filter(is_other).copied().collect()
    }

    /// Whether its readings say the device's number of the reading, by which each is found in Kafka.
    pub fn is_numbered(self) -> bool {
        self.0.numbered
    }

    pub(super) fn faultable(self) -> &'static Faultable {
        &self.0.faultable
    }

    pub(super) fn quality(self) -> Option<Quality> {
        self.0.quality
    }

    pub(super) fn definition(self) -> &'static Definition {
        self.0
    }

    /// Position in [`Kind::PHYSICAL`]; behind them for all others.
    pub fn position(self) -> usize {
        self.0.position
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Kind {}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Kind) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Kind) -> Ordering {
        (self.position(), self.name()).cmp(&(other.position(), other.name()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_table() {
        let names = [Kind::TRAFFIC, Kind::WEATHER, Kind::ENERGY].map(Kind::name);
        assert_eq!(names, ["traffic", "weather", "energy"]);
        for (position, kind) in Kind::PHYSICAL.into_iter().enumerate() {
            assert_eq!(kind.position(), position);
            let schema: serde_json::Value = serde_json::from_str(kind.schema()).unwrap();
            assert!(schema["fields"].is_array(), "{kind}");
        }
    }
}
