//! What the city's devices measure.
//!
//! A reading is a pure function of (seed, device, sequence, moment): the same inputs give the same bytes, in any order, at
//! any speed, on any machine. A fleet is therefore described by its seed alone, and a reading that has to be sent again
//! need not be kept. Devices of one [`City`] share its weather, its roads and its grid; each [`Kind`] has its own module. How a
//! reading travels is `uplinks`' business; what [`faults`] make of it on its way out is theirs.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

mod calendar;
mod city;
pub mod energy;
pub mod faults;
mod generic;
mod kind;
mod kinds;
mod math;
mod noise;
pub mod placement;
mod quality;
mod sun;
pub mod traffic;
pub mod weather;

pub use city::{City, Spot};
pub use kind::Kind;
pub use kinds::Kinds;
pub use sun::Place;

use energy::Consumer;
use kind::Sensor;
use noise::Noise;

/// When a reading is made, and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970 (UTC).
    pub observed_at_ms: i64,
    /// What the values cover, ending at `observed_at_ms`.
    pub interval: Duration,
}

/// One simulated device: all about it follows from its city's seed and its number.
#[derive(Clone, Debug)]
pub struct Device {
    name: String,
    city: Arc<City>,
    noise: Noise,
    kind: Kind,
    sensor: Arc<dyn Sensor>,
    location: Location,
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

// === impl Device ===

impl Device {
    /// The `index`th device of the fleet that `seed` describes, in a city of its own. Devices of a fleet should share one:
    /// see [`Device::in_city`].
    pub fn new(kind: Kind, seed: u64, index: u64) -> Device {
        Device::in_city(&Arc::new(City::new(seed)), kind, index)
    }

    /// The `index`th device of a city. Traffic detectors of neighbouring numbers are on the same road (see
    /// [`Detector::of`]); who is behind a meter follows from chance.
    pub fn in_city(city: &Arc<City>, kind: Kind, index: u64) -> Device {
        let noise = Noise::new(city.seed, "device", index);
        let definition = kind.definition();
        let (sensor, spot) = (definition.sensor)(city, &noise, index);
        let (latitude, longitude) = city.coordinates(spot);
        Device {
            name: format!("{}-{index:05}", definition.device_prefix),
            city: Arc::clone(city),
            kind,
            sensor,
            location: Location {
                latitude: rounded(latitude, 5),
                longitude: rounded(longitude, 5),
                altitude_m: rounded(4.0 + 30.0 * noise.fixed("altitude"), 1),
            },
            noise,
        }
    }

    /// The `index`th device of a city: a meter, with a consumer of that sort behind it.
    pub fn meter(city: &Arc<City>, consumer: Consumer, index: u64) -> Device {
        let device = Device::in_city(city, Kind::ENERGY, index);
        let sensor = consumer.meter(city, &device.noise);
        Device { sensor, ..device }
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
        let reading = self.sensor.reading(self, self.header(sequence, moment), moment);
        quality::noted(reading, self.kind, &self.noise, moment.observed_at_ms)
    }

    /// Its field for the time of observation, and how it would say this one; None if its kind has no such field.
    fn clock(&self, ms: i64) -> Option<(&'static str, String)> {
        self.sensor.clock(self, ms)
    }

    fn header(&self, sequence: u64, moment: Moment) -> Header {
        Header {
            observed_at: moment.observed_at_ms,
            sequence,
            interval_s: rounded(moment.interval.as_secs_f64(), 3),
            location: self.location,
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
fn rounded(value: f64, decimals: u8) -> f64 {
    let scale = match decimals {
        0 => 1.0,
        1 => 10.0,
        2 => 100.0,
        3 => 1_000.0,
        4 => 10_000.0,
        _ => 100_000.0,
    };
    let result = (value * scale).round() / scale;
    // A sensor does not say minus zero.
    if result == 0.0 { 0.0 } else { result }
}

#[cfg(test)]
pub(in crate::devices) mod tests {
    use super::*;
    use serde_json::Value;

    /// The city that tests look at, unless they look at many.
    pub(super) const CITY_SEED: u64 = 7;

    /// Wednesday 2026-06-17 00:00 UTC.
    const WEDNESDAY_MS: i64 = 1_781_654_400_000;

    /// That Wednesday at `hour`, local standard time; a minute long.
    pub(in crate::devices) fn at(hour: f64) -> Moment {
        let midnight = WEDNESDAY_MS - Place::UTRECHT.utc_offset_ms;
        Moment {
            observed_at_ms: midnight + (hour * 3_600_000.0) as i64,
            interval: Duration::from_secs(60),
        }
    }

    fn city() -> Arc<City> {
        Arc::new(City::new(CITY_SEED))
    }

    fn parsed(city: &Arc<City>, kind: Kind, index: u64, moment: Moment) -> Value {
        serde_json::from_slice(&Device::in_city(city, kind, index).reading(1, moment)).unwrap()
    }

    /// The mean of one field over many devices, on five workdays.
    fn mean(city: &Arc<City>, kind: Kind, field: &str, hour: f64) -> f64 {
        let value = |index: u64| {
            let moment = at(hour + 24.0 * [0.0, 1.0, 2.0, 5.0, 6.0][index as usize % 5]);
            parsed(city, kind, index * 5, moment)[field].as_f64()
        };
        let values: Vec<f64> = (0..200).filter_map(value).collect();
        values.iter().sum::<f64>() / values.len() as f64
    }

    #[test]
    fn the_same_seed_is_the_same_city_byte_for_byte() {
        // FNV-1a over all that the city's devices say; in whatever order they are asked, on whatever machine.
        let sum_of = |seed: u64, order: &dyn Fn(u64) -> u64| {
            let city = Arc::new(City::new(seed));
            let mut sums = vec![0u64; 3000];
            for asked in 0..3000 {
                let number = order(asked);
                let kind = Kind::PHYSICAL[number as usize % 3];
                let mut moment = at(number as f64 * 1.37);
                moment.interval = Duration::from_secs([1, 60, 900][number as usize / 3 % 3]);
                let bytes = Device::in_city(&city, kind, number % 500).reading(number, moment);
                sums[number as usize] = fnv(&bytes);
            }
            fnv(&sums.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<u8>>())
        };
        let forwards = sum_of(1, &|asked| asked);
        assert_eq!(forwards, sum_of(1, &|asked| 2999 - asked), "backwards");
        assert_eq!(forwards, sum_of(1, &|asked| asked * 1117 % 3000), "at random");
        assert_ne!(forwards, sum_of(2, &|asked| asked), "another city");
        assert_eq!(forwards, CITY_ONE, "{forwards:#x}: not the city that it was");
    }

    /// Changes with every change of what devices say, on purpose: it shows that none happens by accident.
    const CITY_ONE: u64 = 0xf629_8fc2_4eee_3976;

    fn fnv(bytes: &[u8]) -> u64 {
        let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
    }

    #[test]
    fn a_reading_is_a_function_of_seed_device_and_time() {
        for kind in Kind::PHYSICAL {
            let bytes = |seed, index, hour| Device::new(kind, seed, index).reading(5, at(hour));
            assert_eq!(bytes(1, 2, 8.0), bytes(1, 2, 8.0), "{kind}: the same again");
            assert_ne!(bytes(1, 2, 8.0), bytes(2, 2, 8.0), "{kind}: another seed");
            assert_ne!(bytes(1, 2, 8.0), bytes(1, 3, 8.0), "{kind}: another device");
            assert_ne!(bytes(1, 2, 8.0), bytes(1, 2, 8.25), "{kind}: another time");
        }
    }

    #[test]
    fn every_reading_carries_the_header_and_fits_a_datagram() {
        let city = city();
        for kind in Kind::PHYSICAL {
            for index in 0..300 {
                let moment = at(index as f64 * 0.8);
                let bytes = Device::in_city(&city, kind, index * 7).reading(42, moment);
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
        let city = city();
        let check = |kind: Kind, field: &str, minimum: f64, maximum: f64| {
            for step in 0..2000u64 {
                let mut moment = at(0.0);
                moment.observed_at_ms += step as i64 * 4_391_003; // some 100 days, never twice at the same hour
                let reading = parsed(&city, kind, step % 500, moment);
                let value = match (&reading[field], &reading["vehicle_count"]) {
                    // Nobody came, so nobody was measured.
                    (Value::Null, Value::Number(count)) if count.as_u64() == Some(0) => continue,
                    (value, _) => value.as_f64(),
                };
                let value = value.unwrap_or_else(|| panic!("{kind}.{field} is {:?}", reading[field]));
                assert!((minimum..=maximum).contains(&value), "{kind}.{field} = {value}");
            }
        };
        check(Kind::TRAFFIC, "vehicle_count", 0.0, 160.0);
        check(Kind::TRAFFIC, "flow_veh_h", 0.0, 9000.0);
        check(Kind::TRAFFIC, "speed_kmh", 1.0, 160.0);
        check(Kind::TRAFFIC, "occupancy_percent", 0.0, 100.0);
        check(Kind::TRAFFIC, "headway_s", 0.3, 3600.0);
        check(Kind::WEATHER, "temperature_c", -20.0, 42.0);
        check(Kind::WEATHER, "dew_point_c", -30.0, 30.0);
        check(Kind::WEATHER, "relative_humidity_percent", 5.0, 100.0);
        check(Kind::WEATHER, "pressure_hpa", 970.0, 1050.0);
        check(Kind::WEATHER, "wind_speed_m_s", 0.0, 30.0);
        check(Kind::WEATHER, "wind_gust_m_s", 0.0, 50.0);
        check(Kind::WEATHER, "wind_direction_deg", 0.0, 359.99);
        check(Kind::WEATHER, "rain_mm", 0.0, 1.0);
        check(Kind::WEATHER, "sea_level_pressure_hpa", 970.0, 1055.0);
        check(Kind::WEATHER, "irradiance_w_m2", -5.0, 1100.0);
        check(Kind::WEATHER, "visibility_m", 50.0, 50_000.0);
        check(Kind::WEATHER, "uv_index", 0.0, 11.0);
        check(Kind::ENERGY, "energy_import_kwh", 0.0, 999_999.999);
        check(Kind::ENERGY, "energy_export_kwh", 0.0, 999_999.999);
        check(Kind::ENERGY, "power_w", -25_000.0, 25_000.0);
        check(Kind::ENERGY, "power_factor", 0.8, 1.0);
        check(Kind::ENERGY, "frequency_hz", 49.8, 50.2);
    }

    #[test]
    fn the_city_has_a_day() {
        let city = city();
        let mean = |kind: Kind, field: &str, hour: f64| mean(&city, kind, field, hour);
        let more = |kind: Kind, field: &str, more: f64, less: f64| {
            let (high, low) = (mean(kind, field, more), mean(kind, field, less));
            assert!(high > low, "{kind}.{field}: {high} at {more} h, {low} at {less} h");
        };
        more(Kind::TRAFFIC, "flow_veh_h", 8.0, 3.0);
        more(Kind::TRAFFIC, "flow_veh_h", 17.0, 12.0);
        more(Kind::TRAFFIC, "speed_kmh", 3.0, 8.0);
        more(Kind::TRAFFIC, "occupancy_percent", 8.0, 3.0);
        more(Kind::TRAFFIC, "headway_s", 3.0, 8.0);
        more(Kind::WEATHER, "temperature_c", 15.0, 4.0);
        more(Kind::WEATHER, "irradiance_w_m2", 12.0, 8.0);
        more(Kind::WEATHER, "relative_humidity_percent", 5.0, 15.0);
        more(Kind::ENERGY, "power_w", 19.0, 3.0);
        more(Kind::ENERGY, "reactive_power_var", 11.0, 4.0);
        // The zero of a pyranometer by night.
        assert!((-4.5..-0.5).contains(&mean(Kind::WEATHER, "irradiance_w_m2", 1.0)));
        assert_eq!(mean(Kind::WEATHER, "uv_index", 1.0), 0.0);
    }
}
