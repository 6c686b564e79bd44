//! What a schema asks of a string besides being one: `minLength`, `maxLength` and `pattern`, as in JSON Schema.
//!
//! A pattern is searched in time linear in the text, whatever it is; its compiled size is bounded.

use regex::bytes::Regex;

/// Characters of a text, and what must be found in it.
#[derive(Debug, Default)]
pub struct TextRules {
    pub chars_min: Option<usize>,
    pub chars_max: Option<usize>,
    pub pattern: Option<Regex>,
}

// === impl TextRules ===

impl TextRules {
    /// `text` is UTF-8.
    pub fn is_too_long(&self, text: &[u8]) -> bool {
        self.chars_max
            .is_some_and(|most| text.len() > most && chars(text) > most)
    }

    pub fn is_too_short(&self, text: &[u8]) -> bool {
        self.chars_min
            .is_some_and(|least| text.len() < least || chars(text) < least)
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
    }
}

/// Bytes that begin a character: all but those that continue one.
fn chars(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte & 0xC0 != 0x80).count()
}
