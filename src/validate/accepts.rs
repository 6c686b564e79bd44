//! The forms in which a schema accepts a time (`"accepts"`), where they are not the usual ones.
//!
//! A number counts milliseconds, seconds, … since 1970, as declared: never guessed from its size. A text has an offset, or is
//! a local time of an offset or a zone that the schema names. What is finer than the field's unit is cut off, towards the
//! past.

use jiff::tz::{Disambiguation, TimeZone};

use super::fault::Fault;
use super::field::NodeId;
use super::got::Got;
use super::literal;
use super::time::{self, Local, Mistake, Unit};

/// A time's forms, and where it is stored.
#[derive(Debug)]
pub struct Accepts {
    /// A timestamp, or the time of observation.
    pub node: NodeId,
    /// Of what is stored.
    pub unit: Unit,
    /// What a number counts.
    pub epoch: Option<Unit>,
    /// A text with an offset from UTC.
    pub rfc3339: bool,
    pub local: Option<Zone>,
}

/// Where a time without an offset is.
#[derive(Debug)]
pub struct Zone {
    pub zone: TimeZone,
    /// What a time means that summer time skips or repeats.
    pub disambiguation: Disambiguation,
}

// === impl Accepts ===

impl Accepts {
    /// An integer, in the unit of the field.
    pub fn integer(&self, value: i64) -> Result<i64, Fault> {
        let epoch = self.epoch.ok_or(Fault::Type)?;
        let (from, to) = (epoch.per_second(), self.unit.per_second());
        if from >= to {
            return Ok(value.div_euclid(from / to));
        }
        let beyond = if value < 0 { Fault::Below } else { Fault::Above };
        value.checked_mul(to / from).ok_or(beyond)
    }

    /// Any other number. Seconds may have a fraction, as far as the field's unit is finer.
    pub fn number(&self, literal: &str) -> Result<i64, Fault> {
        let epoch = self.epoch.ok_or(Fault::Type)?;
        match epoch.decimals() < self.unit.decimals() {
            true => literal::floor(literal, self.unit.decimals() - epoch.decimals()),
            false => self.integer(literal::whole(literal)?),
        }
    }

    /// A text.
    pub fn text(&self, text: &[u8]) -> Result<i64, Fault> {
        let has_text = self.rfc3339 || self.local.is_some();
        match time::read(text) {
            _ if !has_text => Err(Fault::Type),
            Ok(time::Read::Global(time)) if self.rfc3339 => time.in_unit(self.unit).map_err(Fault::Time),
            Ok(time::Read::Global(_)) => Err(Fault::Time(Mistake::HasOffset)),
            Ok(time::Read::Local(time)) => self.local(time).map_err(Fault::Time),
            Err(mistake) => Err(Fault::Time(mistake)),
        }
    }

    fn local(&self, local: Result<Local, Mistake>) -> Result<i64, Mistake> {
        let Zone { zone, disambiguation } = self.local.as_ref().ok_or(Mistake::NoOffset)?;
        local?.in_zone(zone, *disambiguation)?.in_unit(self.unit)
    }

    /// What was sent, in the field's unit, for people.
    pub fn sent(&self, got: Got<'_>) -> Option<i64> {
        match got {
            Got::Number(literal) => self.number(literal).ok(),
            Got::Text(text) => self.text(text.as_bytes()).ok(),
            _ => None,
        }
    }

    /// `long (seconds since 1970) or a time such as "2026-11-21T12:00:00Z"`.
    pub fn expected(&self) -> String {
        let number = self.epoch.map(|epoch| format!("long ({} since 1970)", epoch.name()));
        let text = self
            .rfc3339
            .then(|| "a time such as \"2026-11-21T12:00:00Z\"".to_owned());
        let local = self.local.is_some();
        let local = local.then(|| "a local time such as \"2026-11-21T12:00:00\"".to_owned());
        let forms = [number, text, local];
        forms.into_iter().flatten().collect::<Vec<_>>().join(" or ")
    }
}
