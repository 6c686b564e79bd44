//! A mistake in the configuration: the setting, where it was set, what is wrong with it and what to do.
//!
//! Rooms name the setting and say what is wrong; [`config`](crate::operate::config) knows where it was set. All mistakes
//! are collected before any is reported.

use std::fmt::{self, Display, Formatter};

/// One mistake, which reads `citygate.toml:7: kafka.linger: must be …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The setting's full name, several with commas between; empty for text that is no TOML.
    pub path: String,
    /// The line of the file (`citygate.toml:7`) or the variable (`CITYGATE_KAFKA__LINGER`); `None`: it has its default.
    pub line: Option<String>,
    pub text: String,
}

/// All mistakes, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

// === impl Mistake ===

impl Mistake {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Mistake {
            path: path.into(),
            line: None,
            text: text.into(),
        }
    }

    pub fn at(self, line: impl Into<String>) -> Self {
        Mistake {
            line: Some(line.into()),
            ..self
        }
    }
}

impl Display for Mistake {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        if let Some(line) = &self.line {
            write!(formatter, "{line}: ")?;
        }
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.text)
    }
}

// === impl Mistakes ===

impl Mistakes {
    pub fn push(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Mistake::new(path, text));
    }

    /// Notes what is wrong unless it is `good`.
    pub fn require(&mut self, good: bool, path: &str, text: &str) {
        if !good {
            self.push(path, text);
        }
    }

    pub fn extend(&mut self, others: Mistakes) {
        self.0.extend(others.0);
    }
}

impl Display for Mistakes {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(formatter, "{end}{mistake}")?;
        }
        Ok(())
    }
}
