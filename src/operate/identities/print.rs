//! What `citygate devices` prints: for people a line or a table, with `--json` an object per line.
//!
//! A key is printed once, when it is made; hashes are in the JSON alone.

use std::io::Write;

use serde_json::json;

use crate::devices::credential::Key;
use crate::devices::files::Found;
use crate::devices::record::Record;

/// Prints for people, or as JSON.
pub struct Printer<'a, W> {
    pub json: bool,
    pub output: &'a mut W,
}

impl<W: Write> Printer<'_, W> {
    /// A key that was made, if one was.
    pub fn key(&mut self, id: &str, key: Option<&Key>) -> anyhow::Result<()> {
        match (self.json, key) {
            (true, key) => writeln!(self.output, "{}", json!({"id": id, "key": key.map(Key::reveal)}))?,
            (false, Some(key)) => writeln!(self.output, "{id}  {}", key.reveal())?,
            (false, None) => {}
        }
        Ok(())
    }

    pub fn device(&mut self, found: &Found) -> anyhow::Result<()> {
        if self.json {
            return self.line(&found.record);
        }
        let Found { file, line, record } = found;
        let list = |items: &[String], none: &str| {
            if items.is_empty() {
                none.to_owned()
            } else {
                items.join(", ")
            }
        };
        let tags = record.tags.iter().map(|(name, value)| format!("{name}={value}"));
        let tags: Vec<_> = tags.collect();
        let certificates: Vec<_> = record.certificates.iter().map(ToString::to_string).collect();
        let rows = [
            ("id", record.id.clone()),
            ("state", if record.disabled { "disabled" } else { "enabled" }.to_owned()),
            ("keys", record.keys.len().to_string()),
            ("passwords", record.passwords.len().to_string()),
            ("certificates", list(&certificates, "none")),
            ("kinds", list(&record.kinds, "all")),
            ("acts for", list(&record.acts_for, "itself alone")),
            ("readings/s", or_default(record.readings_per_second)),
            ("bytes/s", or_default(record.bytes_per_second)),
            ("tags", list(&tags, "none")),
            ("file", format!("{}:{line}", file.display())),
        ];
        for (name, value) in rows {
            writeln!(self.output, "{name:<12} {value}")?;
        }
        Ok(())
    }

    /// All, by id.
    pub fn list(&mut self, mut records: Vec<&Record>) -> anyhow::Result<()> {
        records.sort_by(|one, other| one.id.cmp(&other.id));
        if !self.json {
            self.row("ID", "STATE", "KINDS", "ACTS FOR")?;
        }
        for record in records {
            if self.json {
                self.line(record)?;
                continue;
            }
            let state = if record.disabled { "disabled" } else { "enabled" };
            let list = |items: &[String], none: &str| match items {
                [] => none.to_owned(),
                items => items.join(","),
            };
            let (kinds, acts_for) = (list(&record.kinds, "all"), list(&record.acts_for, "-"));
            self.row(&record.id, state, &kinds, &acts_for)?;
        }
        Ok(())
    }

    fn row(&mut self, id: &str, state: &str, kinds: &str, acts_for: &str) -> anyhow::Result<()> {
        writeln!(self.output, "{id:<32} {state:<9} {kinds:<24} {acts_for}")?;
        Ok(())
    }

    fn line(&mut self, record: &Record) -> anyhow::Result<()> {
        writeln!(self.output, "{}", serde_json::to_string(record)?)?;
        Ok(())
    }
}

fn or_default(rate: Option<impl ToString>) -> String {
    rate.map_or_else(|| "default".to_owned(), |rate| rate.to_string())
}
