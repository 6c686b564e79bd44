//! A schema's text with each of its parts as it was written, so that no number in it loses a digit.
//!
//! serde_json's values would round a bound such as `0.1` or a 64-bit default; here each number keeps its literal. They would
//! also keep the last of two members of one name, without a word. Whether the text is a schema is left to apache-avro.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::IgnoredAny;

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
pub type Object<'t> = BTreeMap<Cow<'t, str>, Text<'t>>;

/// Stands for what is not there.
pub static NULL: Text<'static> = Text {
    raw: "null",
    form: Form::Other,
    repeated: Vec::new(),
};

// === impl Text ===

impl<'t> Text<'t> {
    pub fn parse(raw: &'t str) -> serde_json::Result<Self> {
        // What is JSON can be cut into its parts without a look at anything twice.
        serde_json::from_str::<IgnoredAny>(raw)?;
        Cutter { raw, at: 0 }.value()
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

/// Where in a schema's text, which is JSON, its next part begins.
struct Cutter<'t> {
    raw: &'t str,
    at: usize,
}

// === impl Cutter ===

impl<'t> Cutter<'t> {
    fn value(&mut self) -> serde_json::Result<Text<'t>> {
        let mut repeated = Vec::new();
        let first = self.next();
        let start = self.at;
        let form = match first {
            b'{' => Form::Object(self.object(&mut repeated)?),
            b'[' => Form::Array(self.array()?),
            b'"' => Form::String(self.string()?.into_owned()),
            b'-' | b'0'..=b'9' => self.skip(Form::Number),
            _ => self.skip(Form::Other),
        };
        let raw = self.since(start);
        Ok(Text { raw, form, repeated })
    }

    fn object(&mut self, repeated: &mut Vec<String>) -> serde_json::Result<Object<'t>> {
        let mut object = Object::new();
        self.at += 1;
        while self.next() != b'}' {
            let name = self.string()?;
            self.pass(b':');
            if let Some(before) = object.insert(name.clone(), self.value()?) {
                drop(before);
                repeated.push(name.into_owned());
            }
            self.pass(b',');
        }
        self.at += 1;
        Ok(object)
    }

    fn array(&mut self) -> serde_json::Result<Vec<Text<'t>>> {
        let mut items = Vec::new();
        self.at += 1;
        while self.next() != b']' {
            items.push(self.value()?);
            self.pass(b',');
        }
        self.at += 1;
        Ok(items)
    }

    fn string(&mut self) -> serde_json::Result<Cow<'t, str>> {
        let (start, bytes) = (self.at, self.raw.as_bytes());
        let mut end = start + 1;
        let mut is_plain = true;
        while bytes.get(end).is_some_and(|&byte| byte != b'"') {
            let is_escape = bytes[end] == b'\\';
            is_plain &= !is_escape;
            end += if is_escape { 2 } else { 1 };
        }
        self.at = end + 1;
        let quoted = self.since(start);
        match quoted.get(1..quoted.len() - 1) {
            Some(text) if is_plain => Ok(Cow::Borrowed(text)),
            _ => serde_json::from_str(quoted).map(Cow::Owned),
        }
    }

    /// Passes over a number or a word.
    fn skip(&mut self, form: Form<'t>) -> Form<'t> {
        let rest = self.raw.as_bytes().get(self.at..).unwrap_or_default();
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b",]}".contains(byte);
        self.at += rest.iter().position(ends).unwrap_or(rest.len());
        form
    }

    /// The next byte that is no space.
    fn next(&mut self) -> u8 {
        let rest = self.raw.as_bytes().get(self.at..).unwrap_or_default();
        let spaces = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.at += spaces;
        // There is one wherever another part is asked for.
        rest.get(spaces).copied().unwrap_or(b']')
    }

    /// Passes over a separator, if there is one.
    fn pass(&mut self, separator: u8) {
        if self.next() == separator {
            self.at += 1;
            self.next();
        }
    }

    fn since(&self, start: usize) -> &'t str {
        self.raw.get(start..self.at).unwrap_or_default()
    }
}
