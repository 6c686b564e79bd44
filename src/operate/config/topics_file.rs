//! The list of topics that `kafka.topics_file` names: all of it, or everything that is wrong with it.
//!
//! Read as the configuration is, setting by setting, so each mistake has its line. No variable changes it.

use std::path::Path;
use std::sync::Arc;

use super::parse;
use crate::operate::mistake::{Mistake, Mistakes};
use crate::topics::List;

/// Reads the file.
///
/// # Errors
/// It cannot be read, or what is wrong in it.
pub fn read(path: &Path) -> Result<Arc<List>, Mistakes> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&name, &text),
        Err(error) => Err(Mistakes(vec![Mistake::new(
            "kafka.topics_file",
            format!("{name} cannot be read: {error}"),
        )])),
    }
}

/// Reads a text, which mistakes call `file`.
///
/// # Errors
/// What is wrong in it.
fn parse(file: &str, text: &str) -> Result<Arc<List>, Mistakes> {
    let mut read = parse::read::<List>(file, text, std::iter::empty());
    let list = std::mem::take(&mut read.value);
    read.add(list.mistakes());
    match read.mistakes.0.is_empty() {
        true => Ok(Arc::new(list)),
        false => Err(read.mistakes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_has_its_line() {
        let check = |text: &str, expected: &[&str]| {
            let found = parse("topics.toml", text)
                .map(|_| ())
                .map_err(|mistakes| mistakes.to_string());
            let expected = if expected.is_empty() {
                Ok(())
            } else {
                Err(expected.join("\n"))
            };
            assert_eq!(found, expected, "{text}");
        };
        check("", &[]);
        check("[topics.\"city.x\"]\nretention = \"unlimited\"", &[]);
        check(
            "[defaults]\npartition = 3\nretention = \"soon\"\nreplication = \"3\"",
            &[
                "topics.toml:2: defaults.partition: no such setting; did you mean defaults.partitions?",
                "topics.toml:4: defaults.replication: must be a whole number of at most 2147483647",
                "topics.toml:3: defaults.retention: \"soon\" is not a duration; write one such as \"5s\" or \"250ms\", or \"unlimited\"",
            ],
        );
        check(
            "[topics.\"city.x\"]\ncleanup = \"remove\"\n",
            &["topics.toml:2: topics.\"city.x\".cleanup: expected \"delete\" or \"compact\""],
        );
        check(
            "[topics.city.x]\npartitions = 3\n",
            &["topics.toml:1: topics.\"city\".x: a name with dots must be in quotes: \"city.x\""],
        );
        check(
            "[topic.x]\npartitions = 3",
            &["topics.toml:1: [topic]: no such table; did you mean [topics]?"],
        );
        check(
            "[defaults]\nreplication = 3\nmin_insync_replicas = 2\n\n[topics.\"city.x\"]\nreplication = 1\n",
            &[
                "topics.toml:6: topics.\"city.x\".replication: 2 in-sync replicas are required, and there are 1: nothing could be \
                 written",
            ],
        );
        // The line of a setting, not of a table: its name says enough.
        check(
            "[topics.\"a b\"]\npartitions = 3",
            &["topics.\"a b\": is not a Kafka topic name"],
        );
        check("[defaults\n", &["topics.toml:1: unclosed table, expected `]`"]);
    }
}
