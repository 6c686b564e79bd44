//! The attributes of a number: its range, what happens to a value outside of it, and its sentinels.
//!
//! A sentinel means "no reading"; it is stored as null, so it needs a union with null around it, as does `"out_of_range":
//! "null"`. A sentinel may lie within the range where the field's sensors define it so. Each of these numbers is rounded to
//! its field's type, as the values are that it is compared with.

use apache_avro::Schema;

use super::types::Whole;
use super::{Attributes, Mistake};
use crate::validate::fault::Fault;
use crate::validate::got;
use crate::validate::literal;
use crate::validate::program::{Exclusive, Integer, Node, Range, Real};
use crate::validate::text::{Form, Text};

/// How a type reads, shows and steps over its numbers. `lowest` and `highest` are what its logical type allows.
struct Scale<T, R, S, U, D> {
    lowest: T,
    highest: T,
    read: R,
    show: S,
    up: U,
    down: D,
}

// === impl Attributes: numbers ===

impl Attributes<'_> {
    /// The node of a number; `None` if the schema is none.
    pub fn number(&self, schema: &Schema, mistake: Mistake<'_>) -> Option<Node> {
        let node = match schema {
            Schema::Double => self.real(false, mistake),
            Schema::Float => self.real(true, mistake),
            _ => self.integer(Whole::of(schema)?, mistake),
        };
        if self.get("sentinels").is_some() && !self.nullable {
            mistake("\"sentinels\" are stored as null, so the type must be a union with null".to_owned());
        }
        if self.nulled(&mut |_| {}) && !self.nullable {
            mistake("\"out_of_range\": \"null\" stores null, so the type must be a union with null".to_owned());
        }
        Some(node)
    }

    fn advice(&self) -> &'static str {
        if self.shared {
            "; give each branch of the union its own"
        } else {
            ""
        }
    }

    fn integer(&self, whole: Whole, mistake: Mistake<'_>) -> Node {
        let Whole {
            wide,
            lowest,
            highest,
            instant,
        } = whole;
        let read = |text: &str| match literal::whole(text) {
            Ok(value) if wide || i32::try_from(value).is_ok() => Ok(value),
            Err(Fault::Type) => Err(format!("{text} is not an integer")),
            _ => {
                let name = if wide { "long" } else { "int" };
                Err(format!("{text} is beyond the type {name}{}", self.advice()))
            }
        };
        let scale = Scale {
            lowest,
            highest,
            read,
            show: |value: i64| value.to_string(),
            up: |value: i64| value.saturating_add(1),
            down: |value: i64| value.saturating_sub(1),
        };
        Node::Integer(Integer {
            wide,
            range: self.range(&scale, mistake),
            instant,
        })
    }

    fn real(&self, single: bool, mistake: Mistake<'_>) -> Node {
        let highest = if single { f64::from(f32::MAX) } else { f64::MAX };
        let read = |text: &str| {
            let value = if single {
                text.parse().map(f32::into)
            } else {
                text.parse::<f64>()
            };
            let finite = value.ok().filter(|value| value.is_finite());
            let name = if single { "float" } else { "double" };
            finite.ok_or_else(|| format!("{text} is beyond the type {name}{}", self.advice()))
        };
        let scale = Scale {
            lowest: -highest,
            highest,
            read,
            show: |value| got::show(value, single),
            up: |value| Real::up(single, value),
            down: |value| Real::down(single, value),
        };
        Node::Real(Real {
            single,
            range: self.range(&scale, mistake),
        })
    }

    /// Whether what is out of range becomes null.
    fn nulled(&self, mistake: Mistake<'_>) -> bool {
        match self.get("out_of_range") {
            None => false,
            Some(text) if text.as_str() == Some("reject") => false,
            Some(text) if text.as_str() == Some("null") => true,
            Some(text) => {
                mistake(format!("\"out_of_range\" is {text}; it can be \"reject\" or \"null\""));
                false
            }
        }
    }

    fn range<T, R, S, U, D>(&self, scale: &Scale<T, R, S, U, D>, mistake: Mistake<'_>) -> Range<T>
    where
        T: PartialOrd + Copy,
        R: Fn(&str) -> Result<T, String>,
        S: Fn(T) -> String,
        U: Fn(T) -> T,
        D: Fn(T) -> T,
    {
        let nulled = self.nulled(mistake);
        let Scale {
            lowest, highest, show, ..
        } = scale;
        let mut one = |name: &str, text: &Text<'_>| {
            let value = match text.form {
                Form::Number => (scale.read)(text.raw),
                _ => Err(format!("{text} is not a number")),
            };
            value.map_err(|what| mistake(format!("\"{name}\": {what}"))).ok()
        };
        let mut bound = |name: &'static str| Some((name, self.get(name).and_then(|text| one(name, text))?));
        let (least, above) = (bound("minimum"), bound("exclusiveMinimum"));
        let (most, below) = (bound("maximum"), bound("exclusiveMaximum"));
        let listed = self.get("sentinels").map_or(&[][..], Text::items).iter();
        // A sentinel is not stored, so it may lie beyond what the logical type allows.
        let sentinels: Box<[T]> = listed.filter_map(|text| one("sentinels", text)).collect();
        if self
            .get("sentinels")
            .is_some_and(|text| !matches!(text.form, Form::Array(_)))
        {
            mistake("\"sentinels\" must be an array of numbers".to_owned());
        }
        for (name, bound) in [least, above, most, below].into_iter().flatten() {
            if !(*lowest..=*highest).contains(&bound) {
                let (bound, lowest, highest) = (show(bound), show(*lowest), show(*highest));
                mistake(format!(
                    "\"{name}\": {bound} is beyond the logical type, {lowest} to {highest}"
                ));
            }
        }
        for (one, other) in [(least, above), (most, below)] {
            if let (Some((one, _)), Some((other, _))) = (one, other) {
                mistake(format!("\"{one}\" and \"{other}\" exclude each other"));
            }
        }
        let minimum = least.or(above.map(|(name, bound)| (name, (scale.up)(bound))));
        let maximum = most.or(below.map(|(name, bound)| (name, (scale.down)(bound))));
        let minimum = minimum.map_or(*lowest, |(_, bound)| bound);
        let maximum = maximum.map_or(*highest, |(_, bound)| bound);
        if minimum > maximum {
            let (minimum, maximum) = (show(minimum), show(maximum));
            mistake(format!("the minimum {minimum} is above the maximum {maximum}"));
        }
        let within = |value: &&T| minimum <= **value && **value <= maximum;
        Range {
            minimum,
            maximum,
            inside: sentinels.iter().filter(within).copied().collect(),
            sentinels,
            nulled,
            exclusive: Exclusive {
                minimum: above.is_some(),
                maximum: below.is_some(),
            },
        }
    }
}
