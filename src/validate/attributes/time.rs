//! The attributes of a time: in which forms it is accepted, and what a time without an offset from UTC means.
//!
//! Without `accepts`, a number counts in the field's unit and a text has an offset. What summer time skips or repeats is
//! ambiguous, so whoever names a zone says what is meant then.

use jiff::tz::{Disambiguation, Offset, TimeZone};

use super::{Attributes, Mistake};
use crate::validate::accepts::{Accepts, Zone};
use crate::validate::program::NodeId;
use crate::validate::text::{Form, Text};
use crate::validate::time::Unit;

const EPOCHS: [(&str, Unit); 4] = [
    ("epoch_s", Unit::Seconds),
    ("epoch_ms", Unit::Millis),
    ("epoch_us", Unit::Micros),
    ("epoch_ns", Unit::Nanos),
];

const DISAMBIGUATIONS: [(&str, Disambiguation); 4] = [
    ("compatible", Disambiguation::Compatible),
    ("earlier", Disambiguation::Earlier),
    ("later", Disambiguation::Later),
    ("reject", Disambiguation::Reject),
];

// === impl Attributes: times ===

impl Attributes<'_> {
    /// The forms of a time that is stored by `node` in `unit`; `None` if they are the usual ones.
    pub fn accepts(&self, node: NodeId, unit: Unit, mistake: Mistake<'_>) -> Option<Accepts> {
        let forms = self.forms(mistake);
        let zone = self.zone(mistake);
        let is_local = forms.contains(&"local");
        let names_zone = self.get("utc_offset").or(self.get("time_zone")).is_some();
        if is_local && !names_zone {
            mistake("\"accepts\": \"local\" needs \"utc_offset\" or \"time_zone\"".to_owned());
        }
        if names_zone && !is_local {
            mistake("\"utc_offset\" and \"time_zone\" mean nothing without \"accepts\": [\"local\"]".to_owned());
        }
        let mut epochs = EPOCHS.iter().filter(|(name, _)| forms.contains(name));
        let epoch = epochs.next().map(|(_, unit)| *unit);
        if epochs.next().is_some() {
            mistake("\"accepts\" names two forms that are numbers, which nobody can tell apart".to_owned());
        }
        self.get("accepts").map(|_| Accepts {
            node,
            unit,
            epoch,
            rfc3339: forms.contains(&"rfc3339"),
            local: zone,
        })
    }

    fn forms(&self, mistake: Mistake<'_>) -> Vec<&str> {
        let Some(text) = self.get("accepts") else {
            return Vec::new();
        };
        let known = EPOCHS.map(|(name, _)| name);
        let known = || known.iter().copied().chain(["rfc3339", "local"]);
        let forms: Vec<&str> = text.items().iter().filter_map(Text::as_str).collect();
        let is_known = |form: &&str| known().any(|name| name == *form);
        if !matches!(text.form, Form::Array(_)) || forms.len() != text.items().len() || forms.is_empty() {
            mistake(format!("\"accepts\" is {text}; it must be an array of forms"));
        }
        if let Some(form) = forms.iter().find(|form| !is_known(form)) {
            let known: Vec<&str> = known().collect();
            mistake(format!(
                "\"accepts\": {form} is no form; it can be {}",
                known.join(", ")
            ));
        }
        forms
    }

    fn zone(&self, mistake: Mistake<'_>) -> Option<Zone> {
        let zone = match (self.get("utc_offset"), self.get("time_zone")) {
            (None, None) => None,
            (Some(offset), None) => self.fixed(offset, mistake),
            (None, Some(name)) => self.named(name, mistake),
            (Some(_), Some(_)) => {
                mistake("\"utc_offset\" and \"time_zone\" exclude each other".to_owned());
                None
            }
        };
        if self.get("disambiguation").is_some() && self.get("time_zone").is_none() {
            mistake("\"disambiguation\" means nothing without \"time_zone\"".to_owned());
        }
        zone
    }

    fn fixed(&self, text: &Text<'_>, mistake: Mistake<'_>) -> Option<Zone> {
        let zone = text.as_str().and_then(offset).map(TimeZone::fixed);
        if zone.is_none() {
            mistake(format!("\"utc_offset\" is {text}; it must be one such as \"+01:00\""));
        }
        zone.map(|zone| Zone {
            zone,
            disambiguation: Disambiguation::Compatible,
        })
    }

    fn named(&self, text: &Text<'_>, mistake: Mistake<'_>) -> Option<Zone> {
        let zone = text.as_str().and_then(|name| TimeZone::get(name).ok());
        if zone.is_none() {
            mistake(format!(
                "\"time_zone\" is {text}; it must be a name of the IANA time zone database, such as \"Europe/Berlin\""
            ));
        }
        let given = self.get("disambiguation");
        let known = |text: &Text<'_>| {
            let mut known = DISAMBIGUATIONS.iter();
            known.find(|(name, _)| text.as_str() == Some(name))
        };
        let Some((_, disambiguation)) = given.and_then(known) else {
            mistake(
                "\"time_zone\" needs \"disambiguation\", for times that summer time skips or repeats: \"reject\", \"earlier\", \
                 \"later\" or \"compatible\" (later when skipped, earlier when repeated)"
                    .to_owned(),
            );
            return None;
        };
        zone.map(|zone| Zone {
            zone,
            disambiguation: *disambiguation,
        })
    }
}

/// `+01:00`.
fn offset(text: &str) -> Option<Offset> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let is_two_digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let below = |text: &str, end: u8| {
        text.parse::<u8>()
            .ok()
            .filter(|&number| is_two_digits(text) && number < end)
    };
    let (hours, minutes) = (below(hours, 24)?, below(minutes, 60)?);
    Offset::from_seconds(sign * (i32::from(hours) * 60 + i32::from(minutes)) * 60).ok()
}
