//! Times in the forms that a field accepts; each device keeps to one of them.
//!
//! A local time that summer time repeats would be one of two, so a device that sends local times then sends the last one
//! that was not: what it observed is in the past, whatever the gateway makes of the hour.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::number::Bounds;
use crate::devices::noise::Noise;

/// Printed for all but seconds: milliseconds, as the moments of a fleet are.
const TEXT: &str = "%Y-%m-%dT%H:%M:%S%.3f";

#[derive(Debug)]
pub(super) struct Time {
    /// Of the field's unit.
    pub(super) per_second: i64,
    pub(super) bounds: Bounds,
    /// At least one.
    pub(super) forms: Vec<Form>,
}

#[derive(Clone, Debug)]
pub(super) enum Form {
    /// So many a second since 1970.
    Epoch(i64),
    Rfc3339,
    Local(TimeZone),
}

// === impl Time ===

impl Time {
    /// Milliseconds since 1970 as JSON.
    pub(super) fn text(&self, noise: &Noise, channel: &str, ms: i64) -> String {
        let value = convert(ms, 1000, self.per_second);
        let value = self.bounds.whole(value);
        let ms = convert(value, self.per_second, 1000);
        let chance = noise.fixed(&format!("{channel} form"));
        match self.forms.get((chance * self.forms.len() as f64) as usize) {
            Some(Form::Rfc3339) => global(ms).unwrap_or_else(|| value.to_string()),
            Some(Form::Local(zone)) => local(ms, zone).unwrap_or_else(|| value.to_string()),
            Some(Form::Epoch(per_second)) => convert(value, self.per_second, *per_second).to_string(),
            None => value.to_string(),
        }
    }
}

fn convert(value: i64, from: i64, to: i64) -> i64 {
    let wide = i128::from(value) * i128::from(to);
    i64::try_from(wide.div_euclid(i128::from(from))).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn global(ms: i64) -> Option<String> {
    let time = Timestamp::from_millisecond(ms).ok()?;
    Some(format!("\"{}Z\"", time.strftime(TEXT)))
}

fn local(ms: i64, zone: &TimeZone) -> Option<String> {
    let datetime = |ms: i64| Some(zone.to_datetime(Timestamp::from_millisecond(ms).ok()?));
    let mut hours = (0..4).filter_map(|hours| datetime(ms - hours * 3_600_000));
    let found = hours.find(|datetime| !zone.to_ambiguous_timestamp(*datetime).is_ambiguous())?;
    Some(format!("\"{}\"", found.strftime(TEXT)))
}
