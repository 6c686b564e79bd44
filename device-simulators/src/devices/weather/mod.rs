//! A weather station on a roof.
//!
//! The air mass, the [fronts] and the clouds are the city's: all stations of a seed see the same weather, each when it
//! gets there. A station adds its own height, exposure, small offset and gaps between the clouds. Irradiance is the sun's
//! position through the clouds, less the little that a pyranometer loses to the sky; temperature follows season, air mass
//! and sun, humidity follows from temperature and dew point (Magnus), rain falls from fronts and showers, and haze and rain
//! limit the visibility together.

mod fields;
mod fronts;

use std::sync::Arc;

use serde::Serialize;

pub use fronts::Front;

use super::calendar::LocalTime;
use super::city::{City, Spot};
use super::faults::Faultable;
use super::kind::{Definition, Sensor};
use super::noise::Noise;
use super::quality::Quality;
use super::{Device, Header, Moment, json, math, rounded, sun};
use fronts::Passage;

pub(super) static KIND: Definition = Definition {
    name: "weather",
    position: 1,
    device_prefix: "station",
    schema: include_str!("../../../../schemas/weather.avsc"),
    numbered: true,
    faultable: Faultable::physical(fields::FIELDS),
    quality: Some(Quality::BUNDLED),
    sensor: &|_, noise, _| {
        let spot = Spot::of(noise);
        (Arc::new(Station(spot)), spot)
    },
};

const HOUR_S: i64 = 3600;

/// Which way the fair-weather clouds drift, metres per second east and north.
const DRIFT_M_S: (f64, f64) = (6.0, 2.5);

/// A station, and where it is.
#[derive(Debug)]
struct Station(Spot);

#[derive(Debug, Serialize)]
pub(super) struct Weather {
    temperature_c: f64,
    dew_point_c: f64,
    relative_humidity_percent: f64,
    /// At the station's height.
    pressure_hpa: f64,
    sea_level_pressure_hpa: f64,
    wind_speed_m_s: f64,
    wind_gust_m_s: f64,
    wind_direction_deg: f64,
    /// Fallen in the interval.
    rain_mm: f64,
    irradiance_w_m2: f64,
    visibility_m: f64,
    uv_index: f64,
}

/// The sky above a spot.
#[derive(Clone, Copy, Debug)]
struct Sky {
    passage: Passage,
    /// The share of the sky that clouds cover.
    cover: f64,
    /// Where in the field of clouds the spot is: 0 in the middle of a gap, 1 in the middle of a cloud.
    depth: f64,
    /// What clouds let through.
    thin: f64,
    rain_mm_h: f64,
}

impl Sensor for Station {
    fn reading(&self, device: &Device, header: Header, moment: Moment) -> Vec<u8> {
        let altitude_m = header.location.altitude_m;
        json(header, reading(&device.city, &device.noise, self.0, altitude_m, moment))
    }
}

/// What the station at `spot`, `altitude_m` high, reports at `moment`.
pub(super) fn reading(city: &City, noise: &Noise, spot: Spot, altitude_m: f64, moment: Moment) -> Weather {
    let time = moment.observed_at_ms;
    let mut sky = sky(city, spot, time);
    sky.depth = (sky.depth + 0.15 * noise.smooth("clouds", time, 200)).clamp(0.0, 1.0);
    let through = sky.through();
    let (temperature, dew_point) = air(city, noise, &sky, time);
    let (temperature, dew_point) = (rounded(temperature, 1), rounded(dew_point, 1));
    let sea_level = sea_level_pressure(city, &sky.passage, time) + 0.3 * noise.signed("pressure");
    let (wind, gust, direction) = wind(city, noise, &sky.passage, time);
    let sine = city.place.sun(time);
    let humidity = humidity(temperature, dew_point);
    Weather {
        temperature_c: temperature,
        dew_point_c: dew_point,
        relative_humidity_percent: rounded(humidity, 1),
        // The scale height of a cool atmosphere.
        pressure_hpa: rounded(sea_level * math::exp(-altitude_m / 8400.0), 1),
        sea_level_pressure_hpa: rounded(sea_level, 1),
        wind_speed_m_s: rounded(wind, 1),
        wind_gust_m_s: rounded(gust, 1),
        wind_direction_deg: direction,
        rain_mm: rounded(fallen_mm(city, spot, moment), 3),
        irradiance_w_m2: rounded(
            sun::clear_sky_w_m2(sine) * through - sky.thermal_offset_w_m2(noise, time),
            1,
        ),
        visibility_m: rounded(
            visibility(humidity, sky.rain_mm_h) * (1.0 + 0.1 * noise.smooth("haze", time, 400)),
            0,
        ),
        uv_index: rounded(11.0 * math::pow(sine, 2.4) * (0.3 + 0.7 * through), 1),
    }
}

/// The share of the clear sky's irradiance that gets through the clouds at a spot.
pub(super) fn through(city: &City, spot: Spot, time_ms: i64) -> f64 {
    sky(city, spot, time_ms).through()
}

/// Rain in the interval: a sum of five minutes each, of an hour's at most.
fn fallen_mm(city: &City, spot: Spot, moment: Moment) -> f64 {
    let interval_s = moment.interval.as_secs_f64();
    let parts = (interval_s / 300.0).round().clamp(1.0, 12.0);
    let part_ms = (1000.0 * interval_s.min(3600.0) / parts) as i64;
    let rate = |part: i64| {
        let at_ms = moment.observed_at_ms.saturating_sub(part * part_ms);
        sky(city, spot, at_ms).rain_mm_h
    };
    (0..parts as i64).map(rate).sum::<f64>() / parts * interval_s / 3600.0
}

// === impl Sky ===

impl Sky {
    /// The share of the clear sky's irradiance that arrives: all, or what a cloud before the sun lets through, and at its
    /// bright edge a little more than all.
    fn through(&self) -> f64 {
        let into_cloud = self.depth + self.cover - 1.0;
        let cloud = math::step(into_cloud, -0.05, 0.07);
        let edge = 0.13 * math::hill((into_cloud + 0.12) / 0.12) * math::hill((self.cover - 0.55) / 0.4);
        // The thicker, the further from its edge.
        let thin = self.thin * (1.2 - 0.5 * into_cloud.clamp(0.0, 1.0));
        1.0 - (1.0 - thin) * cloud + edge
    }

    /// What the pyranometer's dome loses to the sky, more to a clear one: its zero.
    fn thermal_offset_w_m2(&self, noise: &Noise, time_ms: i64) -> f64 {
        let clear = 1.0 - self.cover;
        (1.1 + 2.3 * clear) * (0.8 + 0.4 * noise.fixed("dome")) + 0.25 * noise.smooth("dome", time_ms, 600)
    }
}

/// By how much later than at the centre a spot has the fair weather's clouds.
pub(super) fn drift_ms(spot: Spot) -> i64 {
    let (east, north) = DRIFT_M_S;
    let metres_squared_s = spot.east_m * east + spot.north_m * north;
    (1000.0 * metres_squared_s / (east * east + north * north)).round() as i64
}

fn sky(city: &City, spot: Spot, time_ms: i64) -> Sky {
    let passage = Passage::at(city, spot, time_ms);
    // Clouds drift over the city as they are: what is above the west end now is above the east end in half an hour.
    let drifted_ms = time_ms - drift_ms(spot);
    let regime = city.noise.rippled("cover", drifted_ms, 22 * HOUR_S);
    let cumulus = city.noise.rippled("cumulus", drifted_ms, 2400);
    let shower = (cumulus - 1.75 + 0.55 * passage.showery.min(1.0) + 0.4 * (regime - 1.0)).max(0.0);
    let rain_mm_h = passage.rain_mm_h + 9.0 * shower;
    let thick = 0.3 * passage.cloud + 0.12 * rain_mm_h;
    let thin = (0.45 + 0.14 * city.noise.rippled("thickness", drifted_ms, 2 * HOUR_S)).clamp(0.2, 0.85);
    Sky {
        passage,
        cover: fair_cover(regime, &passage),
        depth: math::step(cumulus, -1.9, 1.9),
        thin: thin / (1.0 + thick),
        rain_mm_h,
    }
}

fn fair_cover(regime: f64, passage: &Passage) -> f64 {
    (0.54 + 0.42 * regime + passage.cloud).clamp(0.0, 1.1)
}

/// How much warmer than the coldest hour air with fog is, at most.
const FOG_C: f64 = 0.7;

/// Temperature and dew point. The air mass has the dew point, the day warms the air above it.
fn air(city: &City, noise: &Noise, sky: &Sky, time_ms: i64) -> (f64, f64) {
    let local = LocalTime::of(time_ms, city.place.utc_offset_ms);
    // The year lags the sun by some five weeks; it turns round south of the equator.
    let hemisphere = if city.place.latitude < 0.0 { 0.5 } else { 0.0 };
    let season = -math::cos_turns(local.year_phase() - 0.07 + hemisphere);
    let air_mass = 10.3 + 7.6 * season + 2.6 * city.noise.rippled("air mass", time_ms, 80 * HOUR_S);

    // Little clouds matter little, by day as by night: the last hours' cover counts, not this minute's.
    let regime = city.noise.rippled("cover", time_ms, 22 * HOUR_S);
    let range = (4.6 + 2.2 * season) * (1.0 - 0.6 * fair_cover(regime, &sky.passage).min(1.0));
    // Coldest at five, warmest at half past one.
    let at = |hour: f64| {
        let first = math::cos_turns((hour - 13.9) / 24.0);
        let second = math::cos_turns((hour - 13.2) / 12.0);
        range * (0.93 * first + 0.12 * second)
    };
    let day = at(local.hour);
    let shower = math::step(sky.rain_mm_h, 0.0, 6.0);
    let here = 0.6 * noise.signed("temperature") + 0.15 * noise.smooth("temperature", time_ms, 900);
    let temperature = air_mass + sky.passage.warmer_c + day - 0.8 * shower + here;

    let dryness = 5.4 - 0.5 * season + 3.4 * city.noise.rippled("dryness", time_ms, 44 * HOUR_S);
    // Rain moistens the air in hours, not at once, and seldom quite.
    let damp = sky.passage.damp.min(1.0);
    let spread = dryness.max(0.4) * (1.0 - 0.65 * damp);
    let dew_point = air_mass + sky.passage.moister_c - spread
        + 0.3 * noise.signed("dew point")
        + 0.2 * noise.smooth("dew point", time_ms, 700);
    // What the coldest hour cannot hold is dew on the ground, before it and after: fog lifts as the morning warms the air.
    let coldest = air_mass + sky.passage.warmer_c + at(5.0);
    let most = temperature.min(coldest + FOG_C);
    (temperature, dew_point.min(most - 0.1 - 0.6 * damp))
}

/// Relative humidity of air with that dew point, per cent.
fn humidity(temperature_c: f64, dew_point_c: f64) -> f64 {
    (100.0 * saturation_hpa(dew_point_c) / saturation_hpa(temperature_c)).clamp(2.0, 100.0)
}

/// Saturation vapour pressure over water; Magnus with the constants of Alduchov and Eskridge (1996).
fn saturation_hpa(temperature_c: f64) -> f64 {
    6.1094 * math::exp(17.625 * temperature_c / (temperature_c + 243.04))
}

/// Highs and lows, the fronts' troughs, and the tide of the air (highest at ten, morning and evening).
fn sea_level_pressure(city: &City, passage: &Passage, time_ms: i64) -> f64 {
    let local = LocalTime::of(time_ms, city.place.utc_offset_ms);
    let tide = 0.5 * math::cos_turns((local.hour - 9.8) / 12.0) + 0.3 * math::cos_turns((local.hour - 7.0) / 24.0);
    1020.0 + 7.0 * city.noise.rippled("pressure", time_ms, 90 * HOUR_S) + passage.pressure_hpa + tide
}

/// Mean and gust in m/s, and where the wind comes from, 0 up to 360.
fn wind(city: &City, noise: &Noise, passage: &Passage, time_ms: i64) -> (f64, f64, f64) {
    let synoptic = 4.3 + 2.2 * city.noise.rippled("wind", time_ms, 16 * HOUR_S) + passage.wind_m_s;
    // By day the warm ground stirs the air.
    let hour = LocalTime::of(time_ms, city.place.utc_offset_ms).hour;
    let day = 0.86 + 0.4 * math::hill((hour - 14.8) / 9.5);
    let eddies = 1.0 + 0.26 * noise.smooth("eddies", time_ms, 1500) + 0.14 * noise.smooth("wind", time_ms, 120);
    let mean = (synoptic * day * eddies * (0.8 + 0.4 * noise.fixed("exposure"))).max(0.0);
    let gustiness = 1.4 + 0.25 * noise.smooth("gust", time_ms, 60);

    let weather = 235.0 + 45.0 * city.noise.rippled("direction", time_ms, 36 * HOUR_S) + passage.veer_deg;
    let degrees = weather + 16.0 * noise.smooth("direction", time_ms, 120);
    // After rounding, or 359.96 would become 360.0.
    (mean, mean * gustiness, rounded(degrees, 1).rem_euclid(360.0))
}

/// Metres: the extinction of haze, which swells as the air gets damp, and that of rain (Atlas 1953: 11.6 km at 1 mm/h),
/// together.
fn visibility(humidity_percent: f64, rain_mm_h: f64) -> f64 {
    let dry = ((100.0 - humidity_percent) / 40.0).clamp(0.0, 1.0);
    let fog = math::step(humidity_percent, 98.2, 99.6);
    let haze_m = 250.0 + 42_000.0 * math::pow(dry, 0.45) * (1.0 - fog);
    1.0 / (1.0 / haze_m + math::pow(rain_mm_h, 0.63) / 11_600.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{CITY_SEED, at};
    use super::*;

    fn city() -> City {
        City::new(CITY_SEED)
    }

    fn station(city: &City, index: u64, moment: Moment) -> Weather {
        let noise = Noise::new(city.seed, "station", index);
        reading(city, &noise, Spot::of(&noise), 10.0, moment)
    }

    #[test]
    fn fields_agree_with_each_other() {
        let city = city();
        let mut rained = 0;
        for step in 0..5000u64 {
            let mut moment = at(0.0);
            moment.observed_at_ms += step as i64 * 3_700_000;
            let weather = station(&city, step % 20, moment);
            assert!(weather.dew_point_c <= weather.temperature_c, "{weather:?}");
            assert!(weather.wind_gust_m_s >= weather.wind_speed_m_s, "{weather:?}");
            let expected = humidity(weather.temperature_c, weather.dew_point_c);
            assert!(
                (weather.relative_humidity_percent - expected).abs() < 0.06,
                "{weather:?}"
            );
            assert!(weather.pressure_hpa < weather.sea_level_pressure_hpa, "{weather:?}");
            if city.place.sun(moment.observed_at_ms) < 0.0 {
                assert!((-5.0..=-0.5).contains(&weather.irradiance_w_m2), "{weather:?}");
                assert_eq!(weather.uv_index, 0.0, "{weather:?}");
            }
            if weather.rain_mm > 0.0 {
                rained += 1;
                assert!(weather.visibility_m < 38_900.0, "{weather:?}");
            }
        }
        assert!((150..900).contains(&rained), "it rains in {rained} of 5000 hours");
    }

    /// Fog lifts in the morning: where it does not rain, nobody sees less than a kilometre at ten, or in air that is much warmer than it
    /// was at five.
    #[test]
    fn fog_is_of_the_night() {
        let city = city();
        let mut foggy = 0;
        for day in 0..365 {
            let midnight = at(0.0).observed_at_ms + i64::from(day) * 24 * 3_600_000 - city.place.utc_offset_ms;
            let weather = |hour: i64| {
                let mut moment = at(0.0);
                moment.observed_at_ms = midnight + hour * 3_600_000;
                station(&city, 3, moment)
            };
            let night = weather(5);
            foggy += u32::from(night.visibility_m < 1000.0);
            for hour in 9..20 {
                let now = weather(hour);
                assert!(
                    now.visibility_m >= 1000.0 || now.rain_mm > 0.0,
                    "day {day}, {hour}: {now:?}"
                );
            }
            let morning = weather(8);
            let is_warmer = morning.temperature_c > night.temperature_c + 2.5;
            assert!(
                !is_warmer || morning.relative_humidity_percent < 99.0,
                "day {day}: {night:?} {morning:?}"
            );
        }
        assert!((10..180).contains(&foggy), "{foggy} mornings of 365");
    }

    #[test]
    fn neighbours_have_the_same_weather() {
        let city = city();
        for hour in 0..480 {
            let (one, other) = (
                station(&city, 1, at(f64::from(hour))),
                station(&city, 2, at(f64::from(hour))),
            );
            assert!((one.temperature_c - other.temperature_c).abs() < 5.0);
            assert!((one.pressure_hpa - other.pressure_hpa).abs() <= 3.0);
        }
    }

    /// When the wind squall of a front is strongest, and when its rain begins, at a spot: minutes after the start.
    fn passage_at(city: &City, spot: Spot, from_ms: i64) -> (i64, i64) {
        let at_minute = |minute: i64| Passage::at(city, spot, from_ms + minute * 60_000);
        let minutes = || 0..600;
        let squall = minutes().max_by(|a, b| at_minute(*a).wind_m_s.total_cmp(&at_minute(*b).wind_m_s));
        let rain = minutes().find(|&minute| at_minute(minute).rain_mm_h > 0.3);
        (squall.unwrap(), rain.unwrap())
    }

    #[test]
    fn a_station_downwind_sees_the_front_later() {
        let city = city();
        let mut after = at(0.0).observed_at_ms;
        for _ in 0..10 {
            let front = city.next_front(after).unwrap();
            after = front.at_ms + 1;
            let along = |metres: f64| Spot {
                east_m: metres * math::sin_turns(front.heading_deg / 360.0),
                north_m: metres * math::cos_turns(front.heading_deg / 360.0),
            };
            let from_ms = front.at_ms - 5 * 3_600_000;
            let upwind = passage_at(&city, along(-4500.0), from_ms);
            let downwind = passage_at(&city, along(4500.0), from_ms);
            let expected = 9000.0 / front.speed_m_s / 60.0;
            for (late, early) in [(downwind.0, upwind.0), (downwind.1, upwind.1)] {
                let minutes = (late - early) as f64;
                assert!(
                    (minutes - expected).abs() < 3.0,
                    "{minutes} min, not {expected}: {front:?}"
                );
            }
        }
    }

    #[test]
    fn a_front_that_was_ordered_comes() {
        let moment = at(12.0);
        let passing = moment.observed_at_ms;
        let (calm, stormy) = (city(), city().with_front(Front::crossing(passing)));
        let read = |city: &City, hours: f64| station(city, 3, at(12.0 + hours));
        assert!(read(&stormy, 0.2).wind_speed_m_s > read(&calm, 0.2).wind_speed_m_s + 2.0);
        assert!(read(&stormy, 0.0).pressure_hpa < read(&calm, 0.0).pressure_hpa - 7.0);
        assert!(read(&stormy, 2.0).temperature_c < read(&calm, 2.0).temperature_c - 2.0);
        assert!((-6..6).any(|step| read(&stormy, f64::from(step) / 6.0).rain_mm > 0.01));
    }

    #[test]
    fn saturation_pressure_is_that_of_the_tables() {
        let check = |temperature: f64, expected: f64| {
            let value = saturation_hpa(temperature);
            assert!((value / expected - 1.0).abs() < 0.005, "{temperature} °C: {value} hPa");
        };
        check(0.0, 6.11);
        check(20.0, 23.39);
        check(30.0, 42.47);
    }

    #[test]
    fn visibility_falls_with_rain_and_with_damp() {
        let check = |humidity: f64, rain_mm_h: f64, least_m: f64, most_m: f64| {
            let metres = visibility(humidity, rain_mm_h);
            assert!(
                (least_m..most_m).contains(&metres),
                "{humidity} %, {rain_mm_h} mm/h: {metres} m"
            );
        };
        check(50.0, 0.0, 40_000.0, 45_000.0);
        check(95.0, 0.0, 12_000.0, 20_000.0);
        check(100.0, 0.0, 200.0, 300.0);
        check(93.0, 1.0, 5_000.0, 11_600.0);
        check(93.0, 4.0, 3_300.0, 4_900.0);
        check(93.0, 50.0, 500.0, 1_000.0);
        for humidity in [40.0, 80.0, 95.0, 99.0, 100.0] {
            let falling = (0..200).map(|step| visibility(humidity, f64::from(step) * 0.2));
            let metres: Vec<f64> = falling.collect();
            assert!(
                metres.windows(2).all(|pair| pair[1] < pair[0]),
                "{humidity} %: {metres:?}"
            );
        }
    }
}
