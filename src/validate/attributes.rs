//! The attributes that a schema's author puts on numbers: `minimum`, `maximum`, `sentinels`; and what a logical type
//! bounds.
//!
//! They may stand on the field (`{"type": ["null", "double"], "minimum": 0}`) or inside a type object
//! (`{"type": "map", "values": {"type": "double", "minimum": 0}}`), but once. A sentinel means "no reading"; it is stored
//! as null, so it needs a union with null around it, and it must lie outside the valid range, so that no real value can
//! be taken for one. Each is rounded to its field's type, as the values are that it is compared with. `unit` and all else
//! is for people.

use apache_avro::Schema;

use super::fault::Fault;
use super::got;
use super::literal;
use super::program::{Integer, Node, Real};
use super::text::{Form, Object, Text};
use super::time::{FIRST_S, LAST_S, Unit};

/// Where a mistake goes.
type Mistake<'m> = &'m mut dyn FnMut(String);

/// What is known of a type besides its name.
#[derive(Clone, Copy, Default)]
pub struct Attributes<'j> {
    minimum: Option<&'j Text<'j>>,
    maximum: Option<&'j Text<'j>>,
    sentinels: Option<&'j Text<'j>>,
    /// There is a union with null around it.
    nullable: bool,
    /// Those above were given for several branches that are numbers.
    shared: bool,
}

// === impl Attributes: gathering ===

impl<'j> Attributes<'j> {
    /// Those on the field itself.
    pub fn of_field(field: &'j Object<'j>, mistake: Mistake<'_>) -> Self {
        let mut attributes = Attributes::default();
        attributes.add(field, mistake);
        if field.contains_key("logicalType") {
            mistake("\"logicalType\" stands on the field, where it means nothing; put it inside the type".to_owned());
        }
        attributes
    }

    /// Adds those of a type object, `{"type": {"type": "long", …}, …}` at any depth; gives what is at its heart.
    pub fn gather(&mut self, text: &'j Text<'j>, mistake: Mistake<'_>) -> &'j Text<'j> {
        let mut text = text;
        while let Form::Object(object) = &text.form {
            self.add(object, mistake);
            for name in ["fill", "clock"] {
                if object.contains_key(name) {
                    mistake(format!("\"{name}\" stands inside the type; put it on the field"));
                }
            }
            match object.get("type") {
                Some(inner) if matches!(inner.form, Form::Object(_) | Form::Array(_)) => text = inner,
                _ => break,
            }
        }
        text
    }

    fn add(&mut self, object: &'j Object<'j>, mistake: Mistake<'_>) {
        let slots = [
            ("minimum", &mut self.minimum),
            ("maximum", &mut self.maximum),
            ("sentinels", &mut self.sentinels),
        ];
        for (name, slot) in slots {
            if let Some(value) = object.get(name)
                && slot.replace(value).is_some()
            {
                mistake(format!("\"{name}\" is given twice, on the field and inside its type"));
            }
        }
    }

    /// What of a union's attributes goes to a branch of it that is a number.
    pub fn for_branch(mut self, nullable: bool, shared: bool) -> Self {
        self.nullable = nullable;
        self.shared = shared && self.numeric_name().is_some();
        self
    }

    fn advice(&self) -> &'static str {
        if self.shared {
            "; give each branch of the union its own"
        } else {
            ""
        }
    }

    /// One of the attributes that only numbers have, if there is one.
    pub fn numeric_name(&self) -> Option<&'static str> {
        let given = [
            ("minimum", self.minimum),
            ("maximum", self.maximum),
            ("sentinels", self.sentinels),
        ];
        given.iter().find(|(_, value)| value.is_some()).map(|(name, _)| *name)
    }
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
        if self.sentinels.is_some() && !self.nullable {
            mistake("\"sentinels\" are stored as null, so the type must be a union with null".to_owned());
        }
        Some(node)
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
        let (minimum, maximum, sentinels) = self.range(lowest, highest, read, |value| value.to_string(), mistake);
        Node::Integer(Integer {
            wide,
            minimum,
            maximum,
            sentinels,
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
        let show = |value| got::show(value, single);
        let (minimum, maximum, sentinels) = self.range(-highest, highest, read, show, mistake);
        Node::Real(Real {
            single,
            minimum,
            maximum,
            sentinels,
        })
    }

    /// `lowest` and `highest` are what the logical type allows; a sentinel is not stored, so it may lie beyond them.
    fn range<T: PartialOrd + Copy>(
        &self,
        lowest: T,
        highest: T,
        read: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(T) -> String,
        mistake: Mistake<'_>,
    ) -> (T, T, Box<[T]>) {
        let mut one = |name: &str, text: &Text<'_>| {
            let value = match text.form {
                Form::Number => read(text.raw),
                _ => Err(format!("{text} is not a number")),
            };
            value.map_err(|what| mistake(format!("\"{name}\": {what}"))).ok()
        };
        let minimum = self.minimum.and_then(|text| one("minimum", text));
        let maximum = self.maximum.and_then(|text| one("maximum", text));
        let listed = self.sentinels.map_or(&[][..], Text::items).iter();
        let sentinels: Box<[T]> = listed.filter_map(|text| one("sentinels", text)).collect();
        if self.sentinels.is_some_and(|text| !matches!(text.form, Form::Array(_))) {
            mistake("\"sentinels\" must be an array of numbers".to_owned());
        }
        for (name, bound) in [("minimum", minimum), ("maximum", maximum)] {
            if let Some(bound) = bound.filter(|bound| !(lowest..=highest).contains(bound)) {
                let (bound, lowest, highest) = (show(bound), show(lowest), show(highest));
                mistake(format!(
                    "\"{name}\": {bound} is beyond the logical type, {lowest} to {highest}"
                ));
            }
        }
        let (minimum, maximum) = (minimum.unwrap_or(lowest), maximum.unwrap_or(highest));
        if minimum > maximum {
            let (minimum, maximum) = (show(minimum), show(maximum));
            mistake(format!("the minimum {minimum} is above the maximum {maximum}"));
        }
        for &sentinel in sentinels.iter().filter(|&&value| minimum <= value && value <= maximum) {
            let sentinel = show(sentinel);
            mistake(format!(
                "the sentinel {sentinel} lies inside the valid range, so a real value could be lost"
            ));
        }
        (minimum, maximum, sentinels)
    }
}

// === which schemas are what ===

/// An integer's type, and what its logical type leaves of it.
struct Whole {
    wide: bool,
    lowest: i64,
    highest: i64,
    instant: Option<Unit>,
}

impl Whole {
    /// Logical types are sent as the plain number. What readers of dates and times can show is what is allowed: the years
    /// 1 to 9999, and the time of one day.
    fn of(schema: &Schema) -> Option<Self> {
        const DAY_S: i64 = 24 * 60 * 60;
        let (wide, lowest, highest, instant) = match schema {
            Schema::Int => (false, i32::MIN.into(), i32::MAX.into(), None),
            Schema::Long => (true, i64::MIN, i64::MAX, None),
            Schema::Date => (false, FIRST_S / DAY_S, LAST_S / DAY_S, None),
            Schema::TimeMillis => (false, 0, DAY_S * 1_000 - 1, None),
            Schema::TimeMicros => (true, 0, DAY_S * 1_000_000 - 1, None),
            Schema::TimestampMillis => return Some(Whole::instant(Unit::Millis, true)),
            Schema::TimestampMicros => return Some(Whole::instant(Unit::Micros, true)),
            Schema::TimestampNanos => return Some(Whole::instant(Unit::Nanos, true)),
            Schema::LocalTimestampMillis => return Some(Whole::instant(Unit::Millis, false)),
            Schema::LocalTimestampMicros => return Some(Whole::instant(Unit::Micros, false)),
            Schema::LocalTimestampNanos => return Some(Whole::instant(Unit::Nanos, false)),
            _ => return None,
        };
        Some(Whole {
            wide,
            lowest,
            highest,
            instant,
        })
    }

    /// Nanoseconds do not reach the years 1 and 9999. A local time has no offset, so it is not accepted as text.
    fn instant(unit: Unit, global: bool) -> Self {
        let per_second = unit.per_second();
        Whole {
            wide: true,
            lowest: FIRST_S.saturating_mul(per_second),
            highest: LAST_S.saturating_mul(per_second).saturating_add(per_second - 1),
            instant: global.then_some(unit),
        }
    }
}

/// Whether `minimum`, `maximum` and `sentinels` mean something on it.
pub fn is_number(schema: &Schema) -> bool {
    matches!(schema, Schema::Float | Schema::Double) || Whole::of(schema).is_some()
}

/// What JSON has no agreed form for.
pub fn unsupported(schema: &Schema) -> Option<&'static str> {
    Some(match schema {
        Schema::Bytes => "bytes",
        Schema::Fixed(_) => "fixed",
        Schema::Decimal(_) => "decimal",
        Schema::BigDecimal => "big-decimal",
        Schema::Uuid(_) => "uuid",
        Schema::Duration(_) => "duration",
        _ => return None,
    })
}
