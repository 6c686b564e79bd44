//! What a schema asks of a string besides being one: `maxLength` and `pattern`, as in JSON Schema.
//!
//! A pattern is searched in time linear in the text, whatever it is; its compiled size is bounded.

use regex::bytes::Regex;

/// Characters of a text, and what must be found in it.
#[derive(Debug, Default)]
pub struct TextRules {
    pub chars_max: Option<usize>,
    pub pattern: Option<Regex>,
}

// === impl TextRules ===

impl TextRules {
    /// `text` is UTF-8.
    pub fn is_too_long(&self, text: &[u8]) -> bool {
        // Bytes that begin a character: all but those that continue one.
        let chars = || text.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
        self.chars_max.is_some_and(|most| text.len() > most && chars() > most)
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
    }
}
