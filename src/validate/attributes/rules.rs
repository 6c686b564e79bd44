//! The attributes of strings, arrays, records and enums: lengths, patterns, what must be unique, and other spellings.
//!
//! Names that an attribute refers to are looked up here, so that one that does not exist is a mistake of the schema.

use regex::bytes::RegexBuilder;

use super::{Attributes, Mistake};
use crate::validate::program::{Absent, Array, Field, Node, NodeId, Program, Symbols};
use crate::validate::text::{Form, Object, Text};
use crate::validate::text_rules::TextRules;

/// Bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

// === impl Attributes: strings, enums, arrays ===

impl Attributes<'_> {
    pub fn text(&self, mistake: Mistake<'_>) -> Node {
        let chars_min = self.count("minLength", mistake);
        let chars_max = self.count("maxLength", mistake);
        if let (Some(least), Some(most)) = (chars_min, chars_max)
            && least > most
        {
            mistake(format!("\"minLength\": {least} is above \"maxLength\": {most}"));
        }
        let pattern = self.get("pattern").and_then(|text| {
            let built = match text.as_str() {
                Some(pattern) => RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build(),
                None => {
                    mistake(format!("\"pattern\" is {text}; it must be a string"));
                    return None;
                }
            };
            built
                .map_err(|error| mistake(format!("\"pattern\": {}", one_line(&error))))
                .ok()
        });
        match (chars_min, chars_max, &pattern) {
            (None, None, None) => Node::Text,
            _ => Node::CheckedText(Box::new(TextRules {
                chars_min,
                chars_max,
                pattern,
            })),
        }
    }

    pub fn symbols(&self, names: &[String], mistake: Mistake<'_>) -> Symbols {
        let mut also: Vec<(Box<str>, usize)> = Vec::new();
        let given = self.get("also");
        if given.is_some_and(|given| !matches!(given.form, Form::Object(_))) {
            mistake("\"also\" on an enum must be an object: a symbol to an array of its other spellings".to_owned());
        }
        let members = given.into_iter().filter_map(|given| match &given.form {
            Form::Object(members) => Some(members),
            _ => None,
        });
        for (symbol, others) in members.flatten() {
            let Some(index) = names.iter().position(|name| name == symbol) else {
                mistake(format!("\"also\": {symbol} is no symbol"));
                continue;
            };
            for other in spellings(others, mistake) {
                if names.contains(&other) || also.iter().any(|(known, _)| **known == *other) {
                    mistake(format!("\"also\": {other} stands for two symbols"));
                }
                also.push((other.into(), index));
            }
        }
        Symbols {
            names: names.iter().map(|symbol| symbol.as_str().into()).collect(),
            also: also.into(),
        }
    }

    /// `unique` is not looked up yet: items may be the record that the array is in ([`identify`]).
    pub fn array(&self, items: NodeId, mistake: Mistake<'_>) -> Array {
        let unique = self.get("unique").and_then(|text| {
            let name = text.as_str();
            if name.is_none() {
                mistake(no_identity(text.raw));
            }
            name
        });
        Array {
            items,
            items_max: self.count("maxItems", mistake).unwrap_or(usize::MAX),
            unique: unique.map(Box::from),
        }
    }

    fn count(&self, name: &str, mistake: Mistake<'_>) -> Option<usize> {
        let text = self.get(name)?;
        let count = text.raw.parse().ok().filter(|count| *count > 0);
        if count.is_none() {
            mistake(format!("\"{name}\" is {text}; it must be an integer above 0"));
        }
        count
    }
}

/// Makes the items, which must be records, keep where the field `unique` lies that tells them apart.
///
/// # Errors
/// There is no such field, or it cannot tell them apart.
pub fn identify(unique: &str, items: NodeId, program: &mut Program) -> Result<(), String> {
    let kind = |field: &Field| {
        matches!(
            program.node(field.node),
            Node::Integer(_) | Node::Enum(_) | Node::Text | Node::CheckedText(_)
        )
    };
    let found = match program.node(items) {
        Node::Record(record) => record
            .find(unique.as_bytes())
            .filter(|&index| record.fields[index].absent.is_required() && kind(&record.fields[index])),
        _ => None,
    };
    match (found, &mut program.nodes[items as usize]) {
        (Some(index), Node::Record(record)) if record.rules.identity.is_none_or(|known| known == index) => {
            record.rules.identity = Some(index);
            Ok(())
        }
        _ => Err(no_identity(&format!("{unique:?}"))),
    }
}

fn no_identity(unique: &str) -> String {
    format!("\"unique\" is {unique}; it must name a required field of the items, an integer, string or enum")
}

// === impl Attributes: records ===

impl Attributes<'_> {
    /// The fields of `any_of`.
    pub fn any_of(&self, fields: &[Field], program: &Program, mistake: Mistake<'_>) -> Box<[usize]> {
        let Some(text) = self.get("any_of") else {
            return Box::default();
        };
        if text.items().is_empty() {
            mistake(format!("\"any_of\" is {text}; it must be an array of names of fields"));
        }
        let mut listed = Vec::new();
        for item in text.items() {
            let named = |field: &Field| item.as_str() == Some(&field.name);
            match fields.iter().position(named) {
                Some(index) if says_nothing(&fields[index], program) => mistake(format!(
                    "\"any_of\": {item} is required, or the gateway's own, so it would say nothing"
                )),
                Some(index) => listed.push(index),
                None => mistake(format!("\"any_of\": {item} is no field of this record")),
            }
        }
        listed.into()
    }

    pub fn has_any_of(&self) -> bool {
        self.get("any_of").is_some()
    }
}

/// Whether every reading has a value of it, or the gateway writes it.
fn says_nothing(field: &Field, program: &Program) -> bool {
    match field.absent {
        Absent::Default(_) => false,
        Absent::Refused => program.is_always_value(field.node),
        Absent::Device | Absent::ReceivedAt => true,
    }
}

/// Other spellings of a field's name: Avro's aliases, and `also`.
pub fn names_of_field(field: &Object<'_>, mistake: Mistake<'_>) -> Vec<String> {
    let aliases = field.get("aliases").map(Text::items).unwrap_or_default().iter();
    let mut names: Vec<String> = aliases.filter_map(Text::as_str).map(str::to_owned).collect();
    if let Some(also) = field.get("also") {
        names.extend(spellings(also, mistake));
    }
    names
}

fn spellings(text: &Text<'_>, mistake: Mistake<'_>) -> Vec<String> {
    let spellings: Vec<String> = text
        .items()
        .iter()
        .filter_map(Text::as_str)
        .map(str::to_owned)
        .collect();
    if spellings.is_empty() || spellings.len() != text.items().len() {
        mistake(format!("\"also\" is {text}; it must be an array of strings"));
    }
    spellings
}

fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    // The last line says what; those above it show where, in a picture.
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}
