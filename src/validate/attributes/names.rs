//! The names of all attributes: one that is nearly right is a mistake, one that is unknown is for others.
//!
//! Avro ignores what it does not know, so a misspelt `minimum` would silently be no limit. Foreign attributes are allowed
//! (`connect.name`, `javaType`), but said in `check`.

use super::ALL;
use crate::operate::spelling;
use crate::validate::text::{Form, Object, Text};

/// What a misspelt name can have meant besides. Not all of Avro's own: a foreign `site` is no misspelt `size`.
const MEANT: [&str; 8] = [
    "unit",
    "fill",
    "clock",
    "simulate",
    "default",
    "aliases",
    "logicalType",
    "symbols",
];

/// Avro's own, and those of a field that the gateway or the simulated devices know.
const OTHERS: [&str; 19] = [
    "type",
    "name",
    "namespace",
    "doc",
    "fields",
    "symbols",
    "items",
    "values",
    "default",
    "aliases",
    "order",
    "size",
    "logicalType",
    "precision",
    "scale",
    "unit",
    "fill",
    "clock",
    "simulate",
];

/// A name that is no attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The field: `lanes[].speed_kmh`; empty for the schema itself.
    pub path: String,
    pub name: String,
    pub nearest: Option<&'static str>,
}

/// All in a schema's text.
pub fn unknown(text: &Text<'_>) -> Vec<Unknown> {
    let mut found = Vec::new();
    walk(text, "", &mut |object, path| {
        let known = || ALL.iter().map(|(name, _)| *name).chain(OTHERS);
        for name in members(object)
            .keys()
            .filter(|name| known().all(|known| known != **name))
        {
            found.push(Unknown {
                path: path.to_owned(),
                name: name.to_string(),
                nearest: nearest(name),
            });
        }
    });
    found
}

/// Names that stand twice in one object, of which the last would silently count; each with the path of its field.
pub fn repeated(text: &Text<'_>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(text, "", &mut |object, path| {
        let is_walked = |name: &str| ["type", "items", "values", "fields"].contains(&name);
        let others = members(object).iter().filter(|(name, _)| !is_walked(name));
        let inside = others.flat_map(|(_, value)| repeated_inside(value));
        let names = object.repeated.iter().cloned().chain(inside);
        found.extend(names.map(|name| (path.to_owned(), name)));
    });
    found
}

fn repeated_inside(value: &Text<'_>) -> Vec<String> {
    let parts: Vec<&Text<'_>> = match &value.form {
        Form::Object(members) => members.values().collect(),
        _ => value.items().iter().collect(),
    };
    let inside = parts.into_iter().flat_map(repeated_inside);
    value.repeated.iter().cloned().chain(inside).collect()
}

/// Every object that defines a type or a field, with its path.
fn walk<'t>(text: &Text<'t>, path: &str, visit: &mut dyn FnMut(&Text<'t>, &str)) {
    match &text.form {
        // A union's branches; names of types stand there, too.
        Form::Array(branches) => branches.iter().for_each(|branch| walk(branch, path, visit)),
        Form::Object(object) => {
            visit(text, path);
            for (name, step) in [("type", ""), ("items", "[]"), ("values", "{}")] {
                if let Some(inner) = object.get(name) {
                    walk(inner, &format!("{path}{step}"), visit);
                }
            }
            for field in text.member("fields").items() {
                let name = field.member("name").as_str().unwrap_or_default();
                let separator = if path.is_empty() { "" } else { "." };
                walk(field, &format!("{path}{separator}{name}"), visit);
            }
        }
        _ => {}
    }
}

fn members<'o, 't>(text: &'o Text<'t>) -> &'o Object<'t> {
    static NONE: Object<'static> = Object::new();
    match &text.form {
        Form::Object(members) => members,
        _ => &NONE,
    }
}

/// Of another spelling of words, `maxlength` or `max_length`, too.
fn nearest(name: &str) -> Option<&'static str> {
    let known = || ALL.iter().map(|(name, _)| *name).chain(MEANT);
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let same = known().find(|known| plain(known) == plain(name));
    same.or_else(|| spelling::nearest(name, known()))
}
