//! `"simulate"`: what the author of a schema tells simulated devices about a field.
//!
//! A hint is checked when it is read: that it exists, that its value makes sense, and that it means something for its
//! field. Mistakes name the hint; whoever reads the schema adds the field.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use crate::devices::calendar::DAY_MS;

/// What a hint stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Number,
    Optional,
    Choice,
    Text,
    Many,
    Map,
}

/// What its value must be.
#[derive(Clone, Copy)]
enum Form {
    Number {
        least: f64,
        most: f64,
    },
    /// How many.
    Count {
        most: f64,
    },
    /// Hours that begin anew at midnight.
    Period,
    Weights,
    Texts,
}

const ANY: Form = number(f64::MIN, f64::MAX);

const ALL: [(&str, Needs, Form); 12] = [
    ("mean", Needs::Number, ANY),
    ("amplitude", Needs::Number, number(0.0, f64::MAX)),
    ("peak_hour", Needs::Number, number(0.0, 24.0)),
    ("stddev", Needs::Number, number(0.0, f64::MAX)),
    ("drift_per_day", Needs::Number, ANY),
    ("increase_per_hour", Needs::Number, number(0.0, f64::MAX)),
    ("reset_hours", Needs::Number, Form::Period),
    ("present", Needs::Optional, number(0.0, 1.0)),
    ("items", Needs::Many, Form::Count { most: 1000.0 }),
    ("weights", Needs::Choice, Form::Weights),
    ("values", Needs::Text, Form::Texts),
    ("keys", Needs::Map, Form::Texts),
];

/// Those of one field.
#[derive(Debug, Default)]
pub(super) struct Hints {
    numbers: BTreeMap<&'static str, f64>,
    /// By symbol, at least one above 0.
    pub(super) weights: Option<BTreeMap<String, f64>>,
    pub(super) values: Option<Vec<String>>,
    pub(super) keys: Option<Vec<String>>,
}

const fn number(least: f64, most: f64) -> Form {
    Form::Number { least, most }
}

// === impl Needs ===

impl Needs {
    fn name(self) -> &'static str {
        match self {
            Needs::Number => "a number that is measured or counted",
            Needs::Optional => "a field that may be left out or null",
            Needs::Choice => "an enum or a boolean",
            Needs::Text => "a string",
            Needs::Many => "an array",
            Needs::Map => "a map",
        }
    }
}

// === impl Form ===

impl Form {
    fn has(self, number: f64) -> bool {
        match self {
            Form::Number { least, most } => (least..=most).contains(&number),
            Form::Count { most } => (0.0..=most).contains(&number) && number.fract() == 0.0,
            Form::Period => period_ms(number).is_some(),
            Form::Weights | Form::Texts => false,
        }
    }

    /// In words.
    fn wants(self) -> String {
        match self {
            Form::Number { least: f64::MIN, .. } => "a number".to_owned(),
            Form::Number { least, most: f64::MAX } => format!("a number from {least}"),
            Form::Number { least, most } => format!("a number from {least} to {most}"),
            Form::Count { most } => format!("a whole number from 0 to {most}"),
            Form::Period => {
                "hours of which a day has a whole number, such as 0.25 or 8, or whole days, such as 168".to_owned()
            }
            Form::Weights => "an object of symbols and their weights".to_owned(),
            Form::Texts => "an array of strings".to_owned(),
        }
    }
}

/// So many hours in milliseconds, if periods of that length, one after the other, begin at every midnight or at some.
pub(super) fn period_ms(hours: f64) -> Option<i64> {
    let ms = hours * 3_600_000.0;
    let whole = ms.round();
    let is_whole = (1.0..=1e13).contains(&whole) && (ms - whole).abs() < 1e-3;
    let ms = Some(whole as i64).filter(|_| is_whole)?;
    (DAY_MS % ms == 0 || ms % DAY_MS == 0).then_some(ms)
}

// === impl Hints ===

impl Hints {
    /// Reads `"simulate"` of a field that is all of this; what is wrong with it goes to `mistake`.
    pub(super) fn read(simulate: &Value, mistake: &mut dyn FnMut(String)) -> Hints {
        let mut hints = Hints::default();
        let Some(members) = simulate.as_object() else {
            mistake(format!("simulate is {simulate}; it must be an object of hints"));
            return hints;
        };
        for (name, value) in members {
            match ALL.iter().find(|(known, ..)| known == name) {
                Some((known, _, form)) => {
                    if let Err(wrong) = hints.add(known, *form, value) {
                        mistake(format!("simulate.{name} is {value}; it must be {wrong}"));
                    }
                }
                None => mistake(format!(
                    "simulate.{name} is no hint; {}",
                    advice(name, &ALL.map(|(name, ..)| name))
                )),
            }
        }
        hints.check_together(mistake);
        hints
    }

    fn add(&mut self, name: &'static str, form: Form, value: &Value) -> Result<(), String> {
        match form {
            Form::Number { .. } | Form::Count { .. } | Form::Period => {
                let number = value.as_f64().filter(|number| form.has(*number));
                self.numbers.insert(name, number.ok_or_else(|| form.wants())?);
            }
            Form::Weights => {
                let weights: Option<BTreeMap<String, f64>> = serde_json::from_value(value.clone()).ok();
                let has_sense = |weights: &BTreeMap<String, f64>| {
                    weights.values().all(|weight| *weight >= 0.0) && weights.values().any(|weight| *weight > 0.0)
                };
                let weights = weights.filter(has_sense);
                let wrong = "an object of symbols and their weights: numbers from 0, at least one above";
                self.weights = Some(weights.ok_or(wrong)?);
            }
            Form::Texts => {
                let texts: Option<Vec<String>> = serde_json::from_value(value.clone()).ok();
                let texts = texts.filter(|texts| !texts.is_empty());
                let texts = texts.ok_or("an array of strings, at least one")?;
                if name != "keys" {
                    self.values = Some(texts);
                } else if texts.iter().collect::<HashSet<_>>().len() == texts.len() {
                    self.keys = Some(texts);
                } else {
                    return Err("an array of different strings: a map has each key once".to_owned());
                }
            }
        }
        Ok(())
    }

    fn check_together(&self, mistake: &mut dyn FnMut(String)) {
        let rate = self.number("increase_per_hour");
        match rate {
            Some(rate) => {
                for level in ["mean", "stddev", "drift_per_day"] {
                    if self.number(level).is_some() {
                        mistake(format!(
                            "simulate.{level} means nothing beside increase_per_hour: leave one out"
                        ));
                    }
                }
                if self.number("amplitude").is_some_and(|amplitude| amplitude > rate) {
                    mistake(format!(
                        "simulate.amplitude is above increase_per_hour, {rate}: the counter would fall; lower it"
                    ));
                }
            }
            None if self.number("reset_hours").is_some() => {
                mistake("simulate.reset_hours needs increase_per_hour: what does not count is not reset".to_owned());
            }
            None => {}
        }
    }

    /// Names those that mean nothing on a field that is none of what they need.
    pub(super) fn check_place(&self, fits: &[Needs], mistake: &mut dyn FnMut(String)) {
        for (name, needs, _) in ALL.iter().filter(|(name, ..)| self.has(name)) {
            if !fits.contains(needs) {
                mistake(format!(
                    "simulate.{name} is for {}, which this is not: leave it out",
                    needs.name()
                ));
            }
        }
    }

    /// Names weights of symbols that do not exist.
    pub(super) fn check_symbols(&self, symbols: &[String], mistake: &mut dyn FnMut(String)) {
        let known: Vec<&str> = symbols.iter().map(String::as_str).collect();
        let weights = self.weights.iter().flat_map(BTreeMap::keys);
        for name in weights.filter(|name| !symbols.contains(name)) {
            mistake(format!(
                "simulate.weights: {name} is no symbol; {}",
                advice(name, &known)
            ));
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.numbers.get(name).copied()
    }

    /// Whether they describe something that is measured, not counted.
    pub(super) fn says_level(&self) -> bool {
        let level = ["mean", "amplitude", "stddev", "drift_per_day"];
        self.number("increase_per_hour").is_none() && level.iter().any(|name| self.has(name))
    }

    fn has(&self, name: &str) -> bool {
        match name {
            "weights" => self.weights.is_some(),
            "values" => self.values.is_some(),
            "keys" => self.keys.is_some(),
            name => self.numbers.contains_key(name),
        }
    }
}

/// `did you mean mean?`, or all that there are.
fn advice(written: &str, known: &[&str]) -> String {
    let measured = known.iter().map(|name| (strsim::osa_distance(written, name), name));
    match measured.min() {
        Some((1..=3, nearest)) if written.len() > 3 => format!("did you mean {nearest}?"),
        Some((1, nearest)) => format!("did you mean {nearest}?"),
        _ => format!("there are {}", known.join(", ")),
    }
}
