//! Values that nobody may read in a log or an error: passwords, tokens, and whatever a property of librdkafka holds.
//!
//! A [`Secret`] is not shown by `Debug`, nor by the error about a value of the wrong type, which serde would quote. It may
//! come from a file, as orchestrators provide it. Serializing writes the value: that is for writing a configuration.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::path::{Path, PathBuf};

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroize;

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

/// A file that should hold a secret does not.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened, or is not UTF-8.
    #[error("{} cannot be read: {source}; it must be a text file that the gateway may read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} is empty; write the secret into it", .0.display())]
    Empty(PathBuf),
}

/// What stands for a value that is not shown.
const HIDDEN: &str = "(hidden)";

// === impl Secret ===

impl Secret {
    /// The value itself, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The content of a file, without the line break at its end.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path).map_err(|source| FileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        match line.is_empty() {
            true => Err(FileError::Empty(path.to_owned())),
            false => Ok(Secret(line.to_owned())),
        }
    }

    /// `text` without this value, where it stands as a word of its own.
    pub fn hide_in(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let is_word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
        let (mut hidden, mut last) = (String::new(), ' ');
        let mut pieces = text.split(&self.0).peekable();
        while let Some(piece) = pieces.next() {
            hidden.push_str(piece);
            last = piece.chars().last().unwrap_or(last);
            if let Some(next) = pieces.peek() {
                let inside = is_word(Some(last)) || is_word(next.chars().next());
                hidden.push_str(if inside { &self.0 } else { HIDDEN });
                last = self.0.chars().last().unwrap_or(last);
            }
        }
        hidden
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Secret(text.to_owned())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

/// For a field that is a table of secrets: `#[serde(deserialize_with = "secret::table")]`.
///
/// # Errors
/// It is no table, or holds something other than texts; the error does not quote it.
pub fn table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    deserializer.deserialize_any(Table)
}

struct Text;

struct Table;

/// Without these, serde quotes the value that it did not expect.
macro_rules! refuse_without_quoting {
    ($($visit:ident: $type:ty),* $(,)?) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<Self::Value, E> {
            Err(E::custom(Self::EXPECTED))
        })*
    };
}

impl Text {
    const EXPECTED: &str = "the value must be text; write it in quotes";
}

impl<'de> Visitor<'de> for Text {
    type Value = Secret;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(text.into())
    }

    refuse_without_quoting!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64);
}

impl Table {
    const EXPECTED: &str = r#"must be a table, such as { "client.id" = "north" }"#;
}

impl<'de> Visitor<'de> for Table {
    type Value = BTreeMap<String, Secret>;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut table = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry::<String, Secret>()? {
            table.insert(key, value);
        }
        Ok(table)
    }

    refuse_without_quoting!(
        visit_str: &str, visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let check = |content: &[u8], expected: Result<&str, &str>| {
            std::fs::write(&path, content).unwrap();
            match (Secret::read(&path), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.reveal(), expected),
                (Err(error), Err(expected)) => {
                    let error = error.to_string();
                    assert!(
                        error.starts_with(path.to_str().unwrap()) && error.contains(expected),
                        "{error}"
                    );
                    assert!(!error.contains("hunter2"), "{error}");
                }
                (is, _) => panic!("{content:?}: {is:?}, expected {expected:?}"),
            }
        };
        check(b"hunter2", Ok("hunter2"));
        check(b"hunter2\n", Ok("hunter2"));
        check(b"hunter2\r\n", Ok("hunter2"));
        check(b" hunter2 \n\n", Ok(" hunter2 \n"));
        check(b"", Err("is empty; write the secret into it"));
        check(b"\n", Err("is empty"));
        check(
            b"hunter2\xff",
            Err("cannot be read: stream did not contain valid UTF-8"),
        );
        std::fs::remove_file(&path).unwrap();
        let error = Secret::read(&path).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn it_is_not_shown() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret:?}"), "(hidden)");
        let check = |text: &str, expected: &str| assert_eq!(secret.hide_in(text), expected);
        check(r#"value "hunter2" of x"#, r#"value "(hidden)" of x"#);
        check("hunter2", "(hidden)");
        check("hunter23 and xhunter2", "hunter23 and xhunter2");
        check("hunter2 hunter2", "(hidden) (hidden)");
        check("none", "none");
        assert_eq!(Secret::from("").hide_in("none"), "none");
    }
}
