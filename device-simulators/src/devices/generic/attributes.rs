//! Attributes of a type: ranges and forms of time, from wherever they stand.
//!
//! They may stand on the field or inside its type object, at any depth. What is wrong with them is the gateway's to say.

use jiff::tz::{Offset, TimeZone};
use serde_json::{Map, Value};

use super::number::{Bounds, Scale};
use super::time::Form;

pub(super) type Object = Map<String, Value>;

/// The objects that may have them, the type's own last.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes<'s>(pub(super) Vec<&'s Object>);

// === impl Attributes ===

impl<'s> Attributes<'s> {
    pub(super) fn get(&self, name: &str) -> Option<&'s Value> {
        self.0.iter().find_map(|object| object.get(name))
    }

    pub(super) fn text(&self, name: &str) -> Option<&'s str> {
        self.get(name).and_then(Value::as_str)
    }

    /// A limit of characters or items; without one there is none.
    pub(super) fn most(&self, name: &str) -> usize {
        let most = self.get(name).and_then(Value::as_u64);
        most.map_or(usize::MAX, |most| most as usize)
    }

    /// The same from below.
    pub(super) fn least(&self, name: &str) -> usize {
        self.get(name).and_then(Value::as_u64).unwrap_or(0) as usize
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }

    /// The range of a number of this type, without its ends where they are excluded.
    pub(super) fn bounds(&self, of: &str) -> Bounds {
        let scale = match of {
            "float" => Scale::Single,
            "double" => Scale::Double,
            _ => Scale::Whole,
        };
        let whole = self.whole(if of == "int" { i32::MAX.into() } else { i64::MAX });
        let (low, high) = match scale {
            Scale::Whole => (whole.0 as f64, whole.1 as f64),
            Scale::Single => self.real(f32::MAX.into(), &|end, up| {
                let end = end as f32;
                (if up { end.next_up() } else { end.next_down() }).into()
            }),
            Scale::Double => self.real(f64::MAX, &|end, up| if up { end.next_up() } else { end.next_down() }),
        };
        let typed = |end: f64| {
            if scale == Scale::Single {
                f64::from(end as f32)
            } else {
                end
            }
        };
        let sentinels = self.get("sentinels").and_then(Value::as_array);
        Bounds {
            scale,
            low: typed(low),
            high: typed(high),
            whole,
            sentinels: sentinels.into_iter().flatten().filter_map(Value::as_f64).collect(),
            nulled: self.text("out_of_range") == Some("null"),
        }
    }

    /// `next` is the number beside an end, above it or below.
    fn real(&self, most: f64, next: &dyn Fn(f64, bool) -> f64) -> (f64, f64) {
        let low = [
            self.number("minimum"),
            self.number("exclusiveMinimum").map(|end| next(end, true)),
        ];
        let high = [
            self.number("maximum"),
            self.number("exclusiveMaximum").map(|end| next(end, false)),
        ];
        let low = low.into_iter().flatten().fold(-most, f64::max);
        (low, high.into_iter().flatten().fold(most, f64::min).max(low))
    }

    fn whole(&self, highest: i64) -> (i64, i64) {
        let end = |name: &str, round: fn(f64) -> f64| {
            let value = self.get(name)?;
            value.as_i64().or_else(|| value.as_f64().map(|end| round(end) as i64))
        };
        let excluded = end("exclusiveMinimum", f64::floor).map(|end| end.saturating_add(1));
        let low = [end("minimum", f64::ceil), excluded];
        let excluded = end("exclusiveMaximum", f64::ceil).map(|end| end.saturating_sub(1));
        let high = [end("maximum", f64::floor), excluded];
        let low = low.into_iter().flatten().fold(-highest - 1, i64::max);
        (low, high.into_iter().flatten().fold(highest, i64::min).max(low))
    }

    /// The forms of a time; `own` is the number that its type holds.
    pub(super) fn forms(&self, own: &str) -> Vec<Form> {
        let accepts = match self.get("accepts") {
            Some(accepts) => texts(Some(accepts)),
            None => vec![own.to_owned(), "rfc3339".to_owned()],
        };
        let form = |form: &String| match form.as_str() {
            "epoch_s" => Some(Form::Epoch(1)),
            "epoch_ms" => Some(Form::Epoch(1000)),
            "epoch_us" => Some(Form::Epoch(1_000_000)),
            "epoch_ns" => Some(Form::Epoch(1_000_000_000)),
            "rfc3339" => Some(Form::Rfc3339),
            "local" => self.zone().map(Form::Local),
            _ => None,
        };
        accepts.iter().filter_map(form).collect()
    }

    fn zone(&self) -> Option<TimeZone> {
        let Some(offset) = self.text("utc_offset") else {
            return TimeZone::get(self.text("time_zone")?).ok();
        };
        let (hours, minutes) = offset.get(1..)?.split_once(':')?;
        let seconds = 3600 * hours.parse::<i32>().ok()? + 60 * minutes.parse::<i32>().ok()?;
        let seconds = if offset.starts_with('-') { -seconds } else { seconds };
        Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?))
    }
}

/// The strings of an array.
pub(super) fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}
