//! The kinds of devices: a table, in which a further kind is one more entry.
//!
//! A kind has a name, which is also that of its schema and the last part of its devices' address, and makes the [`Sensor`]
//! of a device. Everything that counts by kind counts by its position in the table.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::city::{City, Spot};
use super::faults::Field;
use super::noise::Noise;
use super::{Device, Header, Moment, energy, traffic, weather};

/// All there are.
const KINDS: &[Definition] = &[traffic::KIND, weather::KIND, energy::KIND];

/// Makes a device's sensor, and says where in the city it stands.
type MakeSensor = fn(&City, &Noise, u64) -> (Arc<dyn Sensor>, Spot);

/// What a device measures: a position in the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(usize);

/// All that is known of a kind.
pub(super) struct Definition {
    pub(super) name: &'static str,
    /// What people call the thing at the roadside, on the roof, in the cellar; with a number it is the device's name.
    pub(super) device_prefix: &'static str,
    /// The schema of its readings, as the repository had it when this was built.
    pub(super) schema: &'static str,
    /// Those that faults change.
    pub(super) fields: &'static [Field],
    /// Makes the sensor of the city's device with this number, and says where it is.
    pub(super) sensor: MakeSensor,
}

/// What measures.
pub(super) trait Sensor: fmt::Debug + Send + Sync {
    /// The reading of the device that this sensor is in, as JSON.
    fn reading(&self, device: &Device, header: Header, moment: Moment) -> Vec<u8>;
}

// === impl Kind ===

impl Kind {
    pub const TRAFFIC: Kind = Kind(0);
    pub const WEATHER: Kind = Kind(1);
    pub const ENERGY: Kind = Kind(2);

    pub const ALL: [Kind; KINDS.len()] = {
        let mut all = [Kind(0); KINDS.len()];
        let mut index = 0;
        while index < all.len() {
            all[index] = Kind(index);
            index += 1;
        }
        all
    };

    pub fn name(self) -> &'static str {
        self.definition().name
    }

    /// Position in [`Kind::ALL`].
    pub fn index(self) -> usize {
        self.0
    }

    /// The schema of its readings, as the repository had it when this was built.
    pub fn schema(self) -> &'static str {
        self.definition().schema
    }

    pub(super) fn fields(self) -> &'static [Field] {
        self.definition().fields
    }

    pub(super) fn definition(self) -> &'static Definition {
        &KINDS[self.0]
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

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        let name = String::deserialize(deserializer)?;
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name).join(", ");
            serde::de::Error::custom(format!("unknown kind {name}; known kinds: {known}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_table() {
        let names = [Kind::TRAFFIC, Kind::WEATHER, Kind::ENERGY].map(Kind::name);
        assert_eq!(names, ["traffic", "weather", "energy"]);
        for kind in Kind::ALL {
            assert_eq!(serde_json::from_value::<Kind>(kind.name().into()).unwrap(), kind);
            let schema: serde_json::Value = serde_json::from_str(kind.schema()).unwrap();
            assert!(schema["fields"].is_array(), "{kind}");
        }
        let error = serde_json::from_value::<Kind>("noise".into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown kind noise; known kinds: traffic, weather, energy"
        );
    }
}
