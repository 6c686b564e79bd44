//! A schema's text with each of its parts as it was written, so that no number in it loses a digit.
//!
//! serde_json's values would round a bound such as `0.1` or a 64-bit default; here each number keeps its literal. They would
//! also keep the last of two members of one name, without a word. Whether the text is a schema is left to apache-avro.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A part of a schema's text.
#[derive(Clone, Debug)]
pub struct Text<'t> {
    /// As it was written.
    pub raw: &'t str,
    pub form: Form<'t>,
    /// Names that an object has more than once.
    pub repeated: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum Form<'t> {
    Object(Object<'t>),
    Array(Vec<Text<'t>>),
    String(String),
    Number,
    /// null, true or false.
    Other,
}

/// A JSON object.
pub type Object<'t> = BTreeMap<String, Text<'t>>;

/// Stands for what is not there.
pub static NULL: Text<'static> = Text {
    raw: "null",
    form: Form::Other,
    repeated: Vec::new(),
};

// === impl Text ===

impl<'t> Text<'t> {
    pub fn parse(raw: &'t str) -> serde_json::Result<Self> {
        let raw = serde_json::from_str::<&RawValue>(raw)?.get();
        let mut repeated = Vec::new();
        let form = match raw.as_bytes().first() {
            Some(b'{') => {
                let mut object = Object::new();
                for (name, raw) in serde_json::from_str::<Members<'t>>(raw)?.0 {
                    if object.insert(name.clone(), Text::parse(raw.get())?).is_some() {
                        repeated.push(name);
                    }
                }
                Form::Object(object)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(raw)?;
                let items = items.into_iter().map(|raw| Text::parse(raw.get()));
                Form::Array(items.collect::<serde_json::Result<_>>()?)
            }
            Some(b'"') => Form::String(serde_json::from_str(raw)?),
            Some(b'-' | b'0'..=b'9') => Form::Number,
            _ => Form::Other,
        };
        Ok(Text { raw, form, repeated })
    }

    /// An object's member; null if there is none.
    pub fn member(&self, name: &str) -> &Text<'t> {
        match &self.form {
            Form::Object(members) => members.get(name).unwrap_or(&NULL),
            _ => &NULL,
        }
    }

    /// The items of an array; none of anything else.
    pub fn items(&self) -> &[Text<'t>] {
        match &self.form {
            Form::Array(items) => items,
            _ => &[],
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.form {
            Form::String(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.raw)
    }
}

// === impl Members ===

/// An object's members as they come.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'t> Deserialize<'t> for Members<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'t> Visitor<'t> for Collect {
            type Value = Members<'t>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Members<'t>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
