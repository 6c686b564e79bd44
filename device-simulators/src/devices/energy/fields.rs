//! What goes wrong in the values of an energy meter.
//!
//! The fields that faults change; see [`Field`]. Where the figures come from is said at
//! [`Fault`](crate::devices::faults::Fault).

use crate::devices::faults::{Field, field};

pub(super) const FIELDS: &[Field] = &[
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
