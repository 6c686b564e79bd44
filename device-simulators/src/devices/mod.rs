//! What the city's devices measure.
//!
//! A reading is a pure function of (seed, device, sequence, moment): the same inputs give the same bytes, on any run. A
//! fleet is therefore described by its seed alone, and a reading that has to be sent again need not be kept. Each kind
//! has its own file and knows only `calendar` and `noise`; how a reading travels is `uplinks`' business.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

mod calendar;
pub mod energy;
mod noise;
pub mod traffic;
pub mod weather;

use noise::Noise;

/// What a device measures; also the name of its schema, and the last part of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Traffic,
    Weather,
    Energy,
}

/// When a reading is made, and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970 (UTC).
    pub observed_at_ms: i64,
    /// What the values cover, ending at `observed_at_ms`.
    pub interval: Duration,
}

/// One simulated device: its place in the city follows from `seed` and `index`.
#[derive(Clone, Debug)]
pub struct Device {
    kind: Kind,
    name: String,
    noise: Noise,
}

/// The fields that every kind has (design: `device` and `received_at` are the gateway's to fill in).
#[derive(Debug, Serialize)]
struct Header {
    observed_at: i64,
    sequence: u64,
    interval_s: f64,
    location: Location,
    status: &'static str,
}

/// Where the device stands (WGS 84).
#[derive(Clone, Copy, Debug, Serialize)]
struct Location {
    latitude: f64,
    longitude: f64,
    altitude_m: f64,
}

// === impl Kind ===

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Traffic, Kind::Weather, Kind::Energy];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Traffic => "traffic",
            Kind::Weather => "weather",
            Kind::Energy => "energy",
        }
    }

    /// Position in [`Kind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// What people call the thing at the roadside, on the roof, in the cellar.
    fn device_prefix(self) -> &'static str {
        match self {
            Kind::Traffic => "loop",
            Kind::Weather => "station",
            Kind::Energy => "meter",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Device ===

impl Device {
    /// The `index`th device of the fleet that `seed` describes.
    pub fn new(kind: Kind, seed: u64, index: u64) -> Device {
        Device {
            kind,
            name: format!("{}-{index:05}", kind.device_prefix()),
            noise: Noise::new(seed, index),
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The device id: `loop-00417`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The reading as JSON; `sequence` is the device's own counter.
    pub fn reading(&self, sequence: u64, moment: Moment) -> Vec<u8> {
        let header = self.header(sequence, moment);
        match self.kind {
            Kind::Traffic => json(header, traffic::reading(&self.noise, moment)),
            Kind::Weather => json(header, weather::reading(&self.noise, moment)),
            Kind::Energy => json(header, energy::reading(&self.noise, moment)),
        }
    }

    fn header(&self, sequence: u64, moment: Moment) -> Header {
        let location = Location {
            latitude: rounded(calendar::LATITUDE + 0.05 * self.noise.signed("latitude"), 5),
            longitude: rounded(calendar::LONGITUDE + 0.08 * self.noise.signed("longitude"), 5),
            altitude_m: rounded(4.0 + 30.0 * self.noise.fixed("altitude"), 1),
        };
        Header {
            observed_at: moment.observed_at_ms,
            sequence,
            interval_s: rounded(moment.interval.as_secs_f64(), 3),
            location,
            // One device in fifty reports that it is not at its best; what it measures is still a reading.
            status: if self.noise.fixed("status") < 0.02 {
                "degraded"
            } else {
                "ok"
            },
        }
    }
}

fn json(header: Header, values: impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Reading<V> {
        #[serde(flatten)]
        header: Header,
        #[serde(flatten)]
        values: V,
    }
    // Structs of numbers and fixed strings: there is nothing in them that JSON could refuse.
    serde_json::to_vec(&Reading { header, values }).unwrap_or_default()
}

/// To the resolution of the sensor: no real thermometer says 11.283746521.
fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    let result = (value * scale).round() / scale;
    // A sensor does not say minus zero.
    if result == 0.0 { 0.0 } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Wednesday 2026-06-17 00:00 UTC.
    const WEDNESDAY_MS: i64 = 1_781_654_400_000;

    /// That Wednesday at `hour`, local standard time.
    pub(super) fn at(hour: f64) -> Moment {
        let midnight = WEDNESDAY_MS - calendar::UTC_OFFSET_MS;
        Moment {
            observed_at_ms: midnight + (hour * 3_600_000.0) as i64,
            interval: Duration::from_secs(60),
        }
    }

    fn parsed(kind: Kind, seed: u64, index: u64, moment: Moment) -> Value {
        serde_json::from_slice(&Device::new(kind, seed, index).reading(1, moment)).unwrap()
    }

    /// The mean of one field over forty devices.
    fn mean(kind: Kind, field: &str, hour: f64) -> f64 {
        let value = |index| parsed(kind, 7, index, at(hour))[field].as_f64().unwrap();
        (0..40).map(value).sum::<f64>() / 40.0
    }

    #[test]
    fn a_reading_is_a_function_of_seed_device_and_time() {
        for kind in Kind::ALL {
            let bytes = |seed, index, hour| Device::new(kind, seed, index).reading(5, at(hour));
            assert_eq!(bytes(1, 2, 8.0), bytes(1, 2, 8.0), "{kind}: the same again");
            assert_ne!(bytes(1, 2, 8.0), bytes(2, 2, 8.0), "{kind}: another seed");
            assert_ne!(bytes(1, 2, 8.0), bytes(1, 3, 8.0), "{kind}: another device");
            assert_ne!(bytes(1, 2, 8.0), bytes(1, 2, 8.25), "{kind}: another time");
        }
    }

    #[test]
    fn every_reading_carries_the_header_and_fits_a_datagram() {
        for kind in Kind::ALL {
            for index in 0..30 {
                let moment = at(index as f64 * 0.8);
                let bytes = Device::new(kind, 3, index).reading(42, moment);
                // CoAP devices send it whole: with header and options it must stay under 1280 bytes (RFC 7252 §4.6).
                assert!(bytes.len() <= 1152, "{kind} is {} bytes", bytes.len());
                let reading: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(reading["sequence"], 42);
                assert_eq!(reading["observed_at"], moment.observed_at_ms);
                assert_eq!(reading["interval_s"], 60.0);
                assert!((51.0..53.0).contains(&reading["location"]["latitude"].as_f64().unwrap()));
                for filled_by_the_gateway in ["device", "received_at"] {
                    assert_eq!(reading.get(filled_by_the_gateway), None);
                }
            }
        }
    }

    #[test]
    fn values_stay_in_the_range_of_their_sensors() {
        let check = |kind: Kind, field: &str, minimum: f64, maximum: f64| {
            for step in 0..2000u64 {
                let mut moment = at(0.0);
                moment.observed_at_ms += step as i64 * 4_391_003; // some 100 days, never twice at the same hour
                let reading = parsed(kind, 11, step % 50, moment);
                let value = reading[field].as_f64();
                let value = value.unwrap_or_else(|| panic!("{kind}.{field} is {:?}", reading[field]));
                assert!((minimum..=maximum).contains(&value), "{kind}.{field} = {value}");
            }
        };
        check(Kind::Traffic, "vehicle_count", 0.0, 120.0);
        check(Kind::Traffic, "flow_veh_h", 0.0, 6000.0);
        check(Kind::Traffic, "speed_kmh", 5.0, 140.0);
        check(Kind::Traffic, "occupancy_percent", 0.0, 100.0);
        check(Kind::Traffic, "headway_s", 0.5, 900.0);
        check(Kind::Weather, "temperature_c", -20.0, 42.0);
        check(Kind::Weather, "dew_point_c", -30.0, 30.0);
        check(Kind::Weather, "relative_humidity_percent", 5.0, 100.0);
        check(Kind::Weather, "pressure_hpa", 970.0, 1050.0);
        check(Kind::Weather, "wind_speed_m_s", 0.0, 30.0);
        check(Kind::Weather, "wind_gust_m_s", 0.0, 50.0);
        check(Kind::Weather, "wind_direction_deg", 0.0, 359.99);
        check(Kind::Weather, "rain_mm", 0.0, 2.0);
        check(Kind::Weather, "irradiance_w_m2", 0.0, 1100.0);
        check(Kind::Weather, "visibility_m", 50.0, 50_000.0);
        check(Kind::Weather, "uv_index", 0.0, 11.0);
        check(Kind::Energy, "energy_import_kwh", 0.0, 100_000.0);
        check(Kind::Energy, "energy_export_kwh", 0.0, 100_000.0);
        check(Kind::Energy, "power_w", -6000.0, 6000.0);
        check(Kind::Energy, "power_factor", 0.8, 1.0);
        check(Kind::Energy, "frequency_hz", 49.8, 50.2);
    }

    #[test]
    fn the_city_has_a_day() {
        let more = |kind: Kind, field: &str, more: f64, less: f64| {
            let (high, low) = (mean(kind, field, more), mean(kind, field, less));
            assert!(high > low, "{kind}.{field}: {high} at {more} h, {low} at {less} h");
        };
        more(Kind::Traffic, "flow_veh_h", 8.0, 3.0);
        more(Kind::Traffic, "flow_veh_h", 17.0, 12.0);
        more(Kind::Traffic, "speed_kmh", 3.0, 8.0);
        more(Kind::Traffic, "occupancy_percent", 8.0, 3.0);
        more(Kind::Traffic, "headway_s", 3.0, 8.0);
        more(Kind::Weather, "temperature_c", 15.0, 4.0);
        more(Kind::Weather, "irradiance_w_m2", 12.0, 8.0);
        more(Kind::Weather, "relative_humidity_percent", 5.0, 15.0);
        more(Kind::Energy, "power_w", 19.0, 3.0);
        more(Kind::Energy, "power_w", 19.0, 13.0);
        assert_eq!(mean(Kind::Weather, "irradiance_w_m2", 1.0), 0.0);
        assert_eq!(mean(Kind::Weather, "uv_index", 1.0), 0.0);
    }
}
