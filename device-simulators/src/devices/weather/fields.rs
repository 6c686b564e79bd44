//! What goes wrong in the values of a weather station.
//!
//! The fields that faults change; see [`Field`]. Where the figures come from is said at
//! [`Fault`](crate::devices::faults::Fault).

use crate::devices::faults::{Field, field};

/// What this station says.
const STATION: &[f64] = &[-9999.9, -9999.0, -999.9, -999.0];
/// What the schema reads as no value: that of other stations too, whose values may have 16 bits.
const SIGNED: &[f64] = &[-99_999.0, -9999.9, -9999.0, -7999.0, -6999.0, -999.9, -999.0, 3276.7];
const UNSIGNED: &[f64] = &[-99_999.0, -9999.9, -9999.0, -7999.0, -6999.0, -999.9, -999.0, 6553.5];
const WHOLE: &[f64] = &[-99_999.0, -9999.9, -9999.0, -7999.0, -6999.0, -999.9, -999.0, 32_767.0];
const FAHRENHEIT: (f64, f64) = (1.8, 32.0);

pub(super) const FIELDS: &[Field] = &[
    Field {
        sentinels: SIGNED,
        said: STATION,
        jump: 15.0,
        wild: 3276.7,
        units: &[FAHRENHEIT, (1.0, 273.15)],
        ..field("temperature_c", -100.0, 70.0)
    },
    Field {
        sentinels: UNSIGNED,
        said: STATION,
        jump: 30.0,
        wild: 655.35,
        units: &[(0.01, 0.0), (10.0, 0.0)],
        ..field("relative_humidity_percent", 0.0, 110.0)
    },
    Field {
        sentinels: UNSIGNED,
        said: STATION,
        jump: 40.0,
        wild: 6553.5,
        // Pascal, inches of mercury, kilopascal.
        units: &[(100.0, 0.0), (0.029_53, 0.0), (0.1, 0.0)],
        ..field("pressure_hpa", 300.0, 1100.0)
    },
    Field {
        sentinels: UNSIGNED,
        said: STATION,
        jump: 20.0,
        wild: 655.35,
        units: &[(3.6, 0.0), (2.236_94, 0.0), (1.943_84, 0.0)],
        ..field("wind_speed_m_s", 0.0, 120.0)
    },
    Field {
        sentinels: UNSIGNED,
        said: STATION,
        jump: 10.0,
        wild: 6553.5,
        units: &[(0.039_37, 0.0), (10.0, 0.0)],
        ..field("rain_mm", -0.5, 2000.0)
    },
    Field {
        sentinels: WHOLE,
        said: STATION,
        jump: 300.0,
        wild: 65_535.0,
        units: &[(0.001, 0.0)],
        ..field("irradiance_w_m2", -50.0, 2000.0)
    },
];
