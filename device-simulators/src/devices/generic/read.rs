//! From a schema's text to a [`Plan`]: types, names, and the hints of each field.
//!
//! Whether a schema can be served is the gateway's to say; here it is read as far as devices need it. What cannot be played
//! is a mistake, as is every wrong hint; all are reported together, each with its field.

use std::collections::HashMap;

use serde_json::Value;

use super::attributes::{Attributes, Object, texts};
use super::choice::Choice;
use super::hints::{Hints, Needs};
use super::number::{Course, Number, Scale};
use super::plan::{Array, Field, Plan, Record, Role, Shape, ShapeId};
use super::text::Text;
use super::time::Time;

/// Keys of a map that no hint names.
const KEYS: [&str; 2] = ["a", "b"];

/// Fields of the outermost record that all devices send, where a schema has them.
const KEPT: [&str; 3] = ["interval_s", "location", "status"];

/// What is known around a type.
#[derive(Clone, Copy)]
struct Around<'h> {
    /// The name of its field.
    name: &'h str,
    hints: &'h Hints,
}

#[derive(Default)]
struct Reader<'s> {
    plan: Plan,
    /// Each with its definition.
    named: HashMap<String, (ShapeId, &'s Object)>,
    /// Where names without a dot are looked up.
    namespaces: Vec<&'s str>,
    path: Vec<String>,
    mistakes: Vec<String>,
}

/// Reads a schema.
///
/// # Errors
/// Every mistake, each with its field.
pub(super) fn plan(text: &str) -> Result<Plan, Vec<String>> {
    let schema: Value = serde_json::from_str(text).map_err(|error| vec![format!("is not JSON: {error}")])?;
    if schema["type"] != "record" {
        return Err(vec!["the schema of a kind must be a record".to_owned()]);
    }
    let mut reader = Reader::default();
    let hints = &Hints::default();
    reader.shape(&schema, Attributes::default(), Around { name: "", hints });
    match reader.mistakes.is_empty() {
        true => Ok(reader.plan),
        false => Err(reader.mistakes),
    }
}

// === impl Reader: types ===

impl<'s> Reader<'s> {
    fn push(&mut self, shape: Shape) -> ShapeId {
        self.plan.shapes.push(shape);
        self.plan.shapes.len() - 1
    }

    fn mistake(&mut self, what: impl std::fmt::Display) {
        let path = self.path.concat();
        self.mistakes.push(match path.trim_start_matches('.') {
            "" => what.to_string(),
            path => format!("field {path}: {what}"),
        });
    }

    /// A mistake, and a shape that lets the reading go on.
    fn broken(&mut self, what: impl std::fmt::Display) -> ShapeId {
        self.mistake(what);
        self.push(Shape::Null)
    }

    fn shape(&mut self, of: &'s Value, mut attributes: Attributes<'s>, around: Around<'_>) -> ShapeId {
        match of {
            Value::String(name) => self.of_name(name, &attributes, around),
            Value::Array(branches) => self.union(branches, attributes, around),
            Value::Object(object) => {
                if object.contains_key("simulate") {
                    self.mistake("simulate stands inside the type; put it on the field");
                }
                attributes.0.push(object);
                self.shape(object.get("type").unwrap_or(&Value::Null), attributes, around)
            }
            _ => self.broken(format!("{of} is not a type")),
        }
    }

    fn union(&mut self, branches: &'s [Value], attributes: Attributes<'s>, around: Around<'_>) -> ShapeId {
        let Some(played) = self.branch(branches) else {
            return self.push(Shape::Null);
        };
        for branch in branches.get(..played).unwrap_or_default() {
            self.unplayed(branch, around.name);
        }
        let shape = self.shape(&branches[played], attributes, around);
        for branch in branches.get(played + 1..).unwrap_or_default() {
            self.unplayed(branch, around.name);
        }
        shape
    }

    /// The branch of a union that is played: not one that is still being read, since that would never end.
    fn branch(&self, branches: &'s [Value]) -> Option<usize> {
        let others = || (0..branches.len()).filter(|&index| branches[index] != "null");
        let is_open = |index: &usize| {
            let found = branches[*index].as_str().and_then(|name| self.find(name));
            found.is_some_and(|(shape, _)| matches!(self.plan.shape(shape), Shape::Null))
        };
        others().find(|index| !is_open(index)).or_else(|| others().next())
    }

    /// A branch that no device sends: it may have hints, and define what others refer to.
    fn unplayed(&mut self, of: &'s Value, name: &str) {
        let Value::Object(object) = of else {
            return;
        };
        match object.get("type").and_then(Value::as_str) {
            Some("record" | "error" | "enum") => {
                let hints = &Hints::default();
                self.shape(of, Attributes::default(), Around { name, hints });
            }
            _ => {
                if object.contains_key("simulate") {
                    self.mistake("simulate stands inside the type; put it on the field");
                }
                for inner in ["type", "items", "values"] {
                    match object.get(inner) {
                        Some(Value::Array(branches)) => branches.iter().for_each(|branch| self.unplayed(branch, name)),
                        Some(inner) => self.unplayed(inner, name),
                        None => {}
                    }
                }
            }
        }
    }

    fn of_name(&mut self, name: &str, attributes: &Attributes<'s>, around: Around<'_>) -> ShapeId {
        match (name, attributes.0.last()) {
            ("record" | "error", Some(object)) => self.record(object),
            ("enum", Some(object)) => {
                let shape = self.symbols(object, around.hints);
                self.define(object, shape);
                self.namespaces.pop();
                shape
            }
            ("array", Some(object)) => self.array(object, attributes, around),
            ("map", Some(object)) => {
                let place = self.push(Shape::Null);
                let values = self.inside("{}", object.get("values"), around);
                let keys = around.hints.keys.clone();
                let keys = keys.unwrap_or_else(|| KEYS.map(str::to_owned).into());
                self.plan.shapes[place] = Shape::Map { keys, values };
                place
            }
            ("boolean", _) => {
                let symbols = ["true", "false"].map(str::to_owned).to_vec();
                let choice = self.choice(symbols, Vec::new(), around.hints);
                self.push(Shape::Boolean(choice))
            }
            ("string", _) => {
                let values = around.hints.values.as_ref();
                let chars = (attributes.least("minLength"), attributes.most("maxLength"));
                match Text::new(around.name, values, attributes.text("pattern"), chars) {
                    Ok(text) => self.push(Shape::Text(text)),
                    Err(wrong) => self.broken(wrong),
                }
            }
            ("int" | "long" | "float" | "double", _) => self.number(name, attributes, around),
            ("null", _) => self.push(Shape::Null),
            ("bytes" | "fixed", _) => self.broken(format!("{name} cannot be sent as JSON")),
            (name, _) => match self.find(name) {
                // The type is the same, its hints are each field's own.
                Some((_, object)) if object.get("type").is_some_and(|of| of == "enum") => {
                    self.symbols(object, around.hints)
                }
                Some((shape, _)) => shape,
                None => self.broken(format!("there is no type {name} before this place")),
            },
        }
    }

    fn find(&self, name: &str) -> Option<(ShapeId, &'s Object)> {
        let namespace = self.namespaces.last().copied().unwrap_or_default();
        let found = self.named.get(&full_name(namespace, name));
        found.or_else(|| self.named.get(name)).copied()
    }

    /// The type has a name from here on; the names in it are looked up in its namespace, until that is popped.
    fn define(&mut self, object: &'s Object, shape: ShapeId) {
        let text = |member: &str| object.get(member).and_then(Value::as_str);
        let name = text("name").unwrap_or_default();
        let outer = self.namespaces.last().copied().unwrap_or_default();
        let own = name.rsplit_once('.').map(|(namespace, _)| namespace);
        let namespace = own.or(text("namespace")).unwrap_or(outer);
        self.named.insert(full_name(namespace, name), (shape, object));
        self.namespaces.push(namespace);
    }

    /// Items or values: attributes of the field are not theirs, but its hints are.
    fn inside(&mut self, step: &str, of: Option<&'s Value>, around: Around<'_>) -> ShapeId {
        self.path.push(step.to_owned());
        let shape = self.shape(of.unwrap_or(&Value::Null), Attributes::default(), around);
        self.path.pop();
        shape
    }

    fn array(&mut self, object: &'s Object, attributes: &Attributes<'s>, around: Around<'_>) -> ShapeId {
        let place = self.push(Shape::Null);
        self.plan.shapes[place] = Shape::Array(Array {
            items: self.inside("[]", object.get("items"), around),
            count: around.hints.number("items").map(|items| items as usize),
            most: attributes.most("maxItems"),
            unique: attributes.text("unique").map(str::to_owned),
        });
        place
    }

    fn symbols(&mut self, object: &'s Object, hints: &Hints) -> ShapeId {
        let symbols = texts(object.get("symbols"));
        if symbols.is_empty() {
            return self.broken("an enum without symbols");
        }
        let spellings = |symbol: &String| texts(object.get("also").and_then(|also| also.get(symbol)));
        let also = symbols.iter().map(spellings).collect();
        let choice = self.choice(symbols, also, hints);
        self.push(Shape::Symbol(choice))
    }

    fn choice(&mut self, symbols: Vec<String>, also: Vec<Vec<String>>, hints: &Hints) -> Choice {
        hints.check_symbols(&symbols, &mut |mistake| self.mistake(mistake));
        Choice::new(symbols, also, hints)
    }
}

// === impl Reader: records ===

impl<'s> Reader<'s> {
    fn record(&mut self, object: &'s Object) -> ShapeId {
        // The place is taken before the fields are known, so that a record can hold itself.
        let place = self.push(Shape::Null);
        self.define(object, place);
        let any_of = texts(object.get("any_of"));
        let fields = object.get("fields").and_then(Value::as_array);
        let fields = fields.into_iter().flatten().filter_map(Value::as_object);
        let mut fields: Vec<Field> = fields.map(|field| self.field(field, place == 0, &any_of)).collect();
        self.namespaces.pop();
        fields.sort_by_key(|field| {
            let header = match field.role {
                Role::Clock => 0,
                Role::Sequence => 1,
                _ => 2,
            };
            (header, self.plan.shape(field.shape).is_composite(), field.optional)
        });
        let needs_value = !any_of.is_empty();
        self.plan.shapes[place] = Shape::Record(Record { fields, needs_value });
        place
    }

    fn field(&mut self, field: &'s Object, outermost: bool, any_of: &[String]) -> Field {
        let name = field.get("name").and_then(Value::as_str).unwrap_or_default();
        self.path.push(format!(".{name}"));
        let hints = field.get("simulate");
        let hints = hints.map(|hints| Hints::read(hints, &mut |mistake| self.mistake(mistake)));
        let hints = &hints.unwrap_or_default();
        let known_mistakes = self.mistakes.len();
        let shape = self.shape(
            field.get("type").unwrap_or(&Value::Null),
            Attributes(vec![field]),
            Around { name, hints },
        );
        let (branches, nullable) = branches(field.get("type").unwrap_or(&Value::Null));
        let optional = field.contains_key("default") || field.contains_key("clock");
        let role = self.role(field, name, shape, outermost && branches == 1);
        // Of a type that could not be read, nobody knows.
        if self.mistakes.len() == known_mistakes {
            let mut fits = self.fits(shape);
            fits.extend((optional || nullable).then_some(Needs::Optional));
            match role {
                Role::Filled if field.contains_key("simulate") => {
                    self.mistake("simulate means nothing here, since the gateway fills this field: leave it out");
                }
                Role::Kept | Role::Clock | Role::Sequence if hints.number("present").is_some() => {
                    self.mistake(
                        "simulate.present means nothing here, since every reading has this field: leave it out",
                    );
                }
                _ => hints.check_place(&fits, &mut |mistake| self.mistake(mistake)),
            }
        }
        self.path.pop();
        Field {
            role,
            also: [texts(field.get("also")), texts(field.get("aliases"))].concat(),
            name: name.to_owned(),
            shape,
            optional,
            nullable,
            branches,
            counts: any_of.is_empty() || any_of.iter().any(|one| one == name),
            present: hints.number("present"),
        }
    }

    fn role(&self, field: &Object, name: &str, shape: ShapeId, outermost: bool) -> Role {
        // A real number's would be rounded, and read as another.
        let is_sequence = matches!(
            self.plan.shape(shape),
            Shape::Number(number) if matches!(number.course, Course::Sequence) && number.bounds.scale == Scale::Whole
        );
        if field.contains_key("fill") {
            Role::Filled
        } else if field.contains_key("clock") {
            Role::Clock
        } else if outermost && is_sequence {
            Role::Sequence
        } else if outermost && KEPT.contains(&name) {
            Role::Kept
        } else {
            Role::Plain
        }
    }

    /// What hints of a field may be about: it, and the items or values in it.
    fn fits(&self, shape: ShapeId) -> Vec<Needs> {
        match self.plan.shape(shape) {
            Shape::Boolean(_) | Shape::Symbol(_) => vec![Needs::Choice],
            Shape::Number(_) if self.plan.shape(shape).measured().is_some() => vec![Needs::Number],
            Shape::Text(_) => vec![Needs::Text],
            Shape::Array(array) => [vec![Needs::Many], self.fits(array.items)].concat(),
            Shape::Map { values, .. } => [vec![Needs::Map], self.fits(*values)].concat(),
            _ => Vec::new(),
        }
    }

    fn number(&mut self, of: &str, attributes: &Attributes<'s>, around: Around<'_>) -> ShapeId {
        let bounds = attributes.bounds(of);
        let is_outermost = self.path.len() == 1;
        let calendar = |per_day: f64, of_day: bool| Course::Calendar { per_day, of_day };
        let course = match (attributes.text("logicalType").unwrap_or_default(), around.name) {
            ("timestamp-millis", _) => return self.time(1000, "epoch_ms", attributes),
            ("timestamp-micros", _) => return self.time(1_000_000, "epoch_us", attributes),
            ("timestamp-nanos", _) => return self.time(1_000_000_000, "epoch_ns", attributes),
            ("local-timestamp-millis", _) => calendar(86_400e3, false),
            ("local-timestamp-micros", _) => calendar(86_400e6, false),
            ("local-timestamp-nanos", _) => calendar(86_400e9, false),
            ("date", _) => calendar(1.0, false),
            ("time-millis", _) => calendar(86_400e3, true),
            ("time-micros", _) => calendar(86_400e6, true),
            // Numbers of live fleets begin with the milliseconds since 1970.
            (_, "sequence") if is_outermost && bounds.whole.0 <= 0 && bounds.whole.1 > 1 << 53 => Course::Sequence,
            (_, "interval_s") => Course::Interval,
            (_, "latitude") => Course::Latitude,
            (_, "longitude") => Course::Longitude,
            (_, "altitude_m") => Course::Altitude,
            (_, name) => {
                let unit = attributes.text("unit").unwrap_or_default();
                return match Number::measured(name, unit, bounds, around.hints) {
                    Ok(number) => self.push(Shape::Number(number)),
                    Err(wrong) => self.broken(wrong),
                };
            }
        };
        self.push(Shape::Number(Number::known(bounds, course, 5)))
    }

    fn time(&mut self, per_second: i64, own: &str, attributes: &Attributes<'s>) -> ShapeId {
        let time = Time {
            per_second,
            bounds: attributes.bounds("long"),
            forms: attributes.forms(own),
        };
        match time.forms.is_empty() {
            true => self.broken("\"accepts\" names no form that exists"),
            false => self.push(Shape::Time(time)),
        }
    }
}

/// How many branches there are besides null, and whether null is one.
fn branches(of: &Value) -> (usize, bool) {
    match of {
        Value::Array(branches) => {
            let others = branches.iter().filter(|branch| *branch != "null").count();
            (others, others < branches.len())
        }
        Value::Object(object) => match object.get("type") {
            Some(inner @ (Value::Array(_) | Value::Object(_))) => branches(inner),
            _ => (1, false),
        },
        of => (1, of == "null"),
    }
}

fn full_name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() || name.contains('.') {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}
