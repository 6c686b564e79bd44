//! The attributes that a schema's author puts on numbers: `minimum`, `maximum`, `sentinels`, `logicalType`.
//!
//! They may stand on the field (`{"type": ["null", "double"], "minimum": 0}`) or inside a type object
//! (`{"type": "map", "values": {"type": "double", "minimum": 0}}`), but once. A sentinel means "no reading"; it is stored
//! as null, so it needs a union with null around it, and it must lie outside the valid range, so that no real value can
//! be taken for one. `unit` and all else is for people.

use apache_avro::Schema;
use serde_json::Value;

use super::program::{Integer, Node, Real};
use super::refusal::number;

/// A JSON object.
pub type Object = serde_json::Map<String, Value>;

/// Where a mistake goes.
type Mistake<'m> = &'m mut dyn FnMut(String);

/// What is known of a type besides its name.
#[derive(Clone, Copy, Default)]
pub struct Attributes<'j> {
    minimum: Option<&'j Value>,
    maximum: Option<&'j Value>,
    sentinels: Option<&'j Value>,
    logical_type: Option<&'j str>,
    /// There is a union with null around it.
    nullable: bool,
}

// === impl Attributes: gathering ===

impl<'j> Attributes<'j> {
    /// Those on the field itself.
    pub fn of_field(field: &'j Object, mistake: Mistake<'_>) -> Self {
        let mut attributes = Attributes::default();
        attributes.add(field, mistake);
        if field.contains_key("logicalType") {
            mistake("\"logicalType\" stands on the field, where it means nothing; put it inside the type".to_owned());
        }
        attributes
    }

    /// Adds those of a type object, `{"type": {"type": "long", …}, …}` at any depth; gives what is at its heart.
    pub fn gather(&mut self, json: &'j Value, mistake: Mistake<'_>) -> &'j Value {
        let mut json = json;
        while let Value::Object(object) = json {
            self.add(object, mistake);
            if let Some(Value::String(name)) = object.get("logicalType") {
                self.logical_type = Some(name);
            }
            for name in ["fill", "clock"] {
                if object.contains_key(name) {
                    mistake(format!("\"{name}\" stands inside the type; put it on the field"));
                }
            }
            match object.get("type") {
                Some(inner @ (Value::Object(_) | Value::Array(_))) => json = inner,
                _ => break,
            }
        }
        json
    }

    fn add(&mut self, object: &'j Object, mistake: Mistake<'_>) {
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
    pub fn for_branch(mut self, nullable: bool) -> Self {
        self.logical_type = None;
        self.nullable = nullable;
        self
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
    /// apache-avro takes a logical type that it does not know, or not on this type, for no logical type at all.
    pub fn check_logical_type(&self, schema: &Schema, mistake: Mistake<'_>) {
        let Some(given) = self.logical_type else {
            return;
        };
        if unsupported(schema).is_none() && logical_type(schema) != Some(given) {
            mistake(format!("logicalType \"{given}\" is not supported on this type"));
        }
    }

    /// The node of a number; `None` if the schema is none.
    pub fn number(&self, schema: &Schema, mistake: Mistake<'_>) -> Option<Node> {
        if !is_number(schema) {
            return None;
        }
        if self.sentinels.is_some() && !self.nullable {
            mistake("\"sentinels\" are stored as null, so the type must be a union with null".to_owned());
        }
        Some(match schema {
            Schema::Double => self.real("double", false, f64::MIN, f64::MAX, mistake),
            Schema::Float => self.real("float", true, f64::from(f32::MIN), f64::from(f32::MAX), mistake),
            Schema::Int | Schema::Date | Schema::TimeMillis => {
                self.integer("int", i64::from(i32::MIN), i64::from(i32::MAX), mistake)
            }
            _ => self.integer("long", i64::MIN, i64::MAX, mistake),
        })
    }

    fn integer(&self, name: &'static str, lowest: i64, highest: i64, mistake: Mistake<'_>) -> Node {
        let read = |value: &Value| value.as_i64().ok_or_else(|| format!("{value} is not an integer"));
        let (minimum, maximum, sentinels) = self.range(lowest, highest, read, |value| value.to_string(), mistake);
        Node::Integer(Integer {
            name,
            minimum,
            maximum,
            sentinels,
        })
    }

    fn real(&self, name: &'static str, single: bool, lowest: f64, highest: f64, mistake: Mistake<'_>) -> Node {
        let read = |value: &Value| value.as_f64().ok_or_else(|| format!("{value} is not a number"));
        let (minimum, maximum, sentinels) = self.range(lowest, highest, read, number, mistake);
        Node::Real(Real {
            name,
            single,
            minimum,
            maximum,
            sentinels,
        })
    }

    fn range<T: PartialOrd + Copy>(
        &self,
        lowest: T,
        highest: T,
        read: impl Fn(&Value) -> Result<T, String>,
        show: impl Fn(T) -> String,
        mistake: Mistake<'_>,
    ) -> (T, T, Box<[T]>) {
        let mut one = |name: &str, value: &Value| {
            let value = read(value)
                .map_err(|what| mistake(format!("\"{name}\": {what}")))
                .ok()?;
            if value < lowest || value > highest {
                mistake(format!("\"{name}\": {} is beyond the type", show(value)));
            }
            Some(value)
        };
        let minimum = self.minimum.and_then(|value| one("minimum", value)).unwrap_or(lowest);
        let maximum = self.maximum.and_then(|value| one("maximum", value)).unwrap_or(highest);
        let listed: &[Value] = match self.sentinels {
            Some(Value::Array(values)) => values,
            _ => &[],
        };
        let sentinels: Box<[T]> = listed.iter().filter_map(|value| one("sentinels", value)).collect();
        if self.sentinels.is_some_and(|value| !value.is_array()) {
            mistake("\"sentinels\" must be an array of numbers".to_owned());
        }
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

/// Whether `minimum`, `maximum` and `sentinels` mean something on it.
pub fn is_number(schema: &Schema) -> bool {
    matches!(schema, Schema::Int | Schema::Long | Schema::Float | Schema::Double) || logical_type(schema).is_some()
}

/// The logical types that are taken: those on `int` and `long`, sent as the plain number.
fn logical_type(schema: &Schema) -> Option<&'static str> {
    Some(match schema {
        Schema::Date => "date",
        Schema::TimeMillis => "time-millis",
        Schema::TimeMicros => "time-micros",
        Schema::TimestampMillis => "timestamp-millis",
        Schema::TimestampMicros => "timestamp-micros",
        Schema::TimestampNanos => "timestamp-nanos",
        Schema::LocalTimestampMillis => "local-timestamp-millis",
        Schema::LocalTimestampMicros => "local-timestamp-micros",
        Schema::LocalTimestampNanos => "local-timestamp-nanos",
        _ => return None,
    })
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
