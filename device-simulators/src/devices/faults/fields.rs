//! The fields that faults change, with the schema's bounds and with what goes wrong in each.
//!
//! Bounds and sentinels are copied from `schemas/*.avsc`, since they decide what a gateway must answer; a test holds them
//! against the files.

use super::super::Kind;

/// A number of a reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Field {
    /// The array whose first element it is in; empty for a field of the reading itself.
    pub(super) within: &'static str,
    pub(super) name: &'static str,
    pub(super) minimum: f64,
    pub(super) maximum: f64,
    /// Values that the schema takes for "no reading".
    pub(super) sentinels: &'static [f64],
    /// What devices say for "no reading", whether the schema knows or not.
    pub(super) said: &'static [f64],
    /// A jump that could be, up or down.
    pub(super) jump: f64,
    /// What a counter that ran over looks like.
    pub(super) wild: f64,
    /// Another unit: factor and offset.
    pub(super) units: &'static [(f64, f64)],
}

/// What the schema says of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    Inside,
    /// Stored as null.
    Sentinel,
    Outside,
}

const LOOP: &[f64] = &[255.0];
const STATION: &[f64] = &[-9999.9, -9999.0, -999.9, -999.0];
const MPH: (f64, f64) = (0.621_371, 0.0);
const FAHRENHEIT: (f64, f64) = (1.8, 32.0);

const fn field(name: &'static str, minimum: f64, maximum: f64) -> Field {
    Field {
        within: "",
        name,
        minimum,
        maximum,
        sentinels: &[],
        said: &[],
        jump: 0.0,
        wild: 0.0,
        units: &[],
    }
}

const TRAFFIC: [Field; 5] = [
    Field {
        sentinels: LOOP,
        said: LOOP,
        jump: 60.0,
        wild: 6553.5,
        units: &[MPH],
        ..field("speed_kmh", 0.0, 250.0)
    },
    Field {
        sentinels: LOOP,
        said: LOOP,
        jump: 40.0,
        wild: 6553.5,
        units: &[(0.01, 0.0), (10.0, 0.0)],
        ..field("occupancy_percent", 0.0, 100.0)
    },
    Field {
        // No sentinel of the whole road: there a wide one can reach 15300.
        said: &[15_300.0],
        jump: 4000.0,
        wild: 65_535.0,
        units: &[(1.0 / 60.0, 0.0), (24.0, 0.0)],
        ..field("flow_veh_h", 0.0, 100_000.0)
    },
    Field {
        within: "lanes",
        sentinels: &[15_300.0],
        said: &[15_300.0],
        jump: 1500.0,
        wild: 65_535.0,
        units: &[(1.0 / 60.0, 0.0), (24.0, 0.0)],
        ..field("flow_veh_h", 0.0, 10_000.0)
    },
    Field {
        within: "lanes",
        sentinels: LOOP,
        said: LOOP,
        jump: 60.0,
        wild: 6553.5,
        units: &[MPH],
        ..field("speed_kmh", 0.0, 250.0)
    },
];

const WEATHER: [Field; 6] = [
    Field {
        sentinels: STATION,
        said: STATION,
        jump: 15.0,
        wild: 3276.7,
        units: &[FAHRENHEIT, (1.0, 273.15)],
        ..field("temperature_c", -100.0, 70.0)
    },
    Field {
        sentinels: STATION,
        said: STATION,
        jump: 30.0,
        wild: 655.35,
        units: &[(0.01, 0.0), (10.0, 0.0)],
        ..field("relative_humidity_percent", 0.0, 110.0)
    },
    Field {
        sentinels: STATION,
        said: STATION,
        jump: 40.0,
        wild: 6553.5,
        // Pascal, inches of mercury, kilopascal.
        units: &[(100.0, 0.0), (0.029_53, 0.0), (0.1, 0.0)],
        ..field("pressure_hpa", 300.0, 1100.0)
    },
    Field {
        sentinels: STATION,
        said: STATION,
        jump: 20.0,
        wild: 655.35,
        units: &[(3.6, 0.0), (2.236_94, 0.0), (1.943_84, 0.0)],
        ..field("wind_speed_m_s", 0.0, 120.0)
    },
    Field {
        sentinels: STATION,
        said: STATION,
        jump: 10.0,
        wild: 6553.5,
        units: &[(0.039_37, 0.0), (10.0, 0.0)],
        ..field("rain_mm", 0.0, 2000.0)
    },
    Field {
        sentinels: STATION,
        said: STATION,
        jump: 300.0,
        wild: 65_535.0,
        units: &[(0.001, 0.0)],
        ..field("irradiance_w_m2", -50.0, 2000.0)
    },
];

const ENERGY: [Field; 5] = [
    Field {
        said: &[-9999.9, -1.0],
        jump: 900.0,
        wild: 4_294_967.295,
        units: &[(1000.0, 0.0)],
        ..field("energy_import_kwh", 0.0, 1e12)
    },
    Field {
        said: &[-9999.9, 0.0],
        jump: 20_000.0,
        wild: 4_294_967_295.0,
        units: &[(0.001, 0.0)],
        ..field("power_w", -1e9, 1e9)
    },
    Field {
        said: &[-9999.9, -1.0],
        jump: 20.0,
        wild: 6553.5,
        units: &[(10.0, 0.0), (60.0, 0.0)],
        ..field("frequency_hz", 0.0, 500.0)
    },
    Field {
        within: "phases",
        said: &[-9999.9, 0.0],
        jump: 90.0,
        wild: 6553.5,
        units: &[(10.0, 0.0), (1000.0, 0.0)],
        ..field("voltage_v", 0.0, 1e6)
    },
    Field {
        within: "phases",
        said: &[-9999.9],
        jump: 60.0,
        wild: 655_350.0,
        units: &[(1000.0, 0.0)],
        ..field("current_a", -100_000.0, 100_000.0)
    },
];

pub(super) fn of(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Traffic => &TRAFFIC,
        Kind::Weather => &WEATHER,
        Kind::Energy => &ENERGY,
    }
}

// === impl Field ===

impl Field {
    pub(super) fn judge(&self, value: f64) -> Range {
        if self.sentinels.contains(&value) {
            Range::Sentinel
        } else if value >= self.minimum && value <= self.maximum {
            Range::Inside
        } else {
            Range::Outside
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The field's definition in the schema.
    fn defined(schema: &Value, field: &Field) -> Value {
        let named = |record: &Value, name: &str| {
            let fields = record["fields"].as_array().unwrap();
            fields.iter().find(|field| field["name"] == name).unwrap().clone()
        };
        if field.within.is_empty() {
            return named(schema, field.name);
        }
        named(&named(schema, field.within)["type"]["items"], field.name)
    }

    #[test]
    fn bounds_are_those_of_the_schemas() {
        for kind in Kind::ALL {
            let path = format!("{}/../schemas/{kind}.avsc", env!("CARGO_MANIFEST_DIR"));
            let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            for field in of(kind) {
                let defined = defined(&schema, field);
                let number = |name: &str| defined[name].as_f64();
                assert_eq!(number("minimum"), Some(field.minimum), "{kind} {field:?}");
                assert_eq!(number("maximum"), Some(field.maximum), "{kind} {field:?}");
                let sentinels = defined["sentinels"].as_array().cloned().unwrap_or_default();
                let sentinels: Vec<f64> = sentinels.iter().filter_map(Value::as_f64).collect();
                assert_eq!(sentinels, field.sentinels, "{kind} {field:?}");
            }
        }
    }
}
