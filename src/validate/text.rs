//! A schema's text with each of its parts as it was written, so that no number in it loses a digit.
//!
//! serde_json's values would round a bound such as `0.1` or a 64-bit default; here each number keeps its literal. Whether the
//! text is a schema is left to apache-avro.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;

/// A part of a schema's text.
#[derive(Clone, Debug)]
pub struct Text<'t> {
    /// As it was written.
    pub raw: &'t str,
    pub form: Form<'t>,
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
pub const NULL: Text<'static> = Text {
    raw: "null",
    form: Form::Other,
};

// === impl Text ===

impl<'t> Text<'t> {
    pub fn parse(raw: &'t str) -> serde_json::Result<Self> {
        let raw = serde_json::from_str::<&RawValue>(raw)?.get();
        let form = match raw.as_bytes().first() {
            Some(b'{') => {
                let members: BTreeMap<String, &RawValue> = serde_json::from_str(raw)?;
                let members = members
                    .into_iter()
                    .map(|(name, raw)| Ok((name, Text::parse(raw.get())?)));
                Form::Object(members.collect::<serde_json::Result<_>>()?)
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
        Ok(Text { raw, form })
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
