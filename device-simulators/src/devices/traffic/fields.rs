//! What goes wrong in the values of a counting loop.
//!
//! The fields that faults change; see [`Field`]. Where the figures come from is said at
//! [`Fault`](crate::devices::faults::Fault).

use crate::devices::faults::{Field, field};

const LOOP: &[f64] = &[255.0];
const MPH: (f64, f64) = (0.621_371, 0.0);

pub(super) const FIELDS: &[Field] = &[
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
        sentinels: &[15_300.0, 65_535.0],
        said: &[15_300.0],
        jump: 4000.0,
        wild: 65_535.0,
        units: &[(1.0 / 60.0, 0.0), (24.0, 0.0)],
        ..field("flow_veh_h", 0.0, 30_000.0)
    },
    Field {
        within: "lanes",
        sentinels: &[15_300.0, 65_535.0],
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
