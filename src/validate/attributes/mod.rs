//! The attributes that a schema's author puts on a type, besides Avro's own: which stand where, and who reads them.
//!
//! They may stand on the field (`{"type": ["null", "double"], "minimum": 0}`) or inside a type object
//! (`{"type": "map", "values": {"type": "double", "minimum": 0}}`), but once. On a union they go to the branches that they
//! mean something for. [`number`], [`time`] and [`rules`] read them; [`names`] finds those that are misspelt.

use apache_avro::Schema;

use super::text::{Form, Object, Text};

pub mod names;
mod number;
mod rules;
mod time;
mod types;

pub use rules::{identify, names_of_field};
pub use types::is_number;

/// Where a mistake goes.
type Mistake<'m> = &'m mut dyn FnMut(String);

/// What an attribute needs to stand on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Number,
    Time,
    Text,
    Array,
    Record,
    Enum,
}

/// Every attribute of a type, and what it needs.
const ALL: [(&str, Needs); 17] = [
    ("minimum", Needs::Number),
    ("maximum", Needs::Number),
    ("exclusiveMinimum", Needs::Number),
    ("exclusiveMaximum", Needs::Number),
    ("sentinels", Needs::Number),
    ("out_of_range", Needs::Number),
    ("accepts", Needs::Time),
    ("utc_offset", Needs::Time),
    ("time_zone", Needs::Time),
    ("disambiguation", Needs::Time),
    ("minLength", Needs::Text),
    ("maxLength", Needs::Text),
    ("pattern", Needs::Text),
    ("maxItems", Needs::Array),
    ("unique", Needs::Array),
    ("any_of", Needs::Record),
    ("also", Needs::Enum),
];

/// What is known of a type besides its name.
#[derive(Clone, Copy, Default)]
pub struct Attributes<'j> {
    given: [Option<&'j Text<'j>>; ALL.len()],
    /// There is a union with null around it.
    nullable: bool,
    /// Those of numbers were given for several branches that are numbers.
    shared: bool,
}

// === impl Needs ===

impl Needs {
    fn are_met_by(self, schema: &Schema) -> bool {
        match self {
            Needs::Number => is_number(schema),
            Needs::Time => types::instant(schema).is_some(),
            Needs::Text => matches!(schema, Schema::String),
            Needs::Array => matches!(schema, Schema::Array(_)),
            Needs::Record => matches!(schema, Schema::Record(_)),
            Needs::Enum => matches!(schema, Schema::Enum(_)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Needs::Number => "a number",
            Needs::Time => "a timestamp",
            Needs::Text => "a string",
            Needs::Array => "an array",
            Needs::Record => "a record",
            Needs::Enum => "an enum",
        }
    }
}

// === impl Attributes ===

impl<'j> Attributes<'j> {
    /// Those on the field itself. There, `also` are other names of the field.
    pub fn of_field(field: &'j Object<'j>, mistake: Mistake<'_>) -> Self {
        let mut attributes = Attributes::default();
        attributes.add(field, |name| name != "also", mistake);
        if field.contains_key("logicalType") {
            mistake("\"logicalType\" stands on the field, where it means nothing; put it inside the type".to_owned());
        }
        attributes
    }

    /// Adds those of a type object, `{"type": {"type": "long", …}, …}` at any depth; gives what is at its heart.
    pub fn gather(&mut self, text: &'j Text<'j>, mistake: Mistake<'_>) -> &'j Text<'j> {
        let mut text = text;
        while let Form::Object(object) = &text.form {
            self.add(object, |_| true, mistake);
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

    fn add(&mut self, object: &'j Object<'j>, wanted: impl Fn(&str) -> bool, mistake: Mistake<'_>) {
        for ((name, _), slot) in ALL.iter().zip(&mut self.given) {
            if let Some(value) = object.get(*name).filter(|_| wanted(name))
                && slot.replace(value).is_some()
            {
                mistake(format!("\"{name}\" is given twice, on the field and inside its type"));
            }
        }
    }

    /// What of a union's attributes goes to this branch of it. `shared`: several branches are numbers.
    pub fn for_branch(mut self, branch: &Schema, nullable: bool, shared: bool) -> Self {
        for ((_, needs), given) in ALL.iter().zip(&mut self.given) {
            *given = given.filter(|_| needs.are_met_by(branch));
        }
        self.nullable = nullable;
        let of_numbers = |((_, needs), given): (&(_, Needs), &Option<_>)| *needs == Needs::Number && given.is_some();
        self.shared = shared && ALL.iter().zip(&self.given).any(of_numbers);
        self
    }

    /// Says which attributes mean nothing on any of these types.
    pub fn check_place(&self, schemas: &[&Schema], mistake: Mistake<'_>) {
        for ((name, needs), given) in ALL.iter().zip(&self.given) {
            if given.is_some() && !schemas.iter().any(|schema| needs.are_met_by(schema)) {
                mistake(format!("\"{name}\" stands on something that is not {}", needs.name()));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&'j Text<'j>> {
        let index = ALL.iter().position(|(known, _)| *known == name)?;
        self.given[index]
    }
}

/// An attribute on a field that means nothing there, because the gateway fills or judges the field.
pub fn useless_beside_role(field: &Object<'_>, is_time: bool, is_quality: bool) -> Option<&'static str> {
    let is_useful = |needs: Needs| is_time && needs == Needs::Time || is_quality && needs == Needs::Array;
    let mut attributes = Attributes::of_field(field, &mut drop);
    if let Some(inside) = field.get("type") {
        attributes.gather(inside, &mut drop);
    }
    let given = ALL.iter().zip(&attributes.given);
    let mut useless = given.filter(|((_, needs), given)| given.is_some() && !is_useful(*needs));
    useless.next().map(|((name, _), _)| *name)
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
