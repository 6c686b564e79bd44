//! What `citygate topics` prints of lists, differences and changes: lines for people, JSON, or a table in Markdown.
//!
//! A line begins with what happened in a word, so that it can be searched for; JSON has the same words. Nothing is decided here.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::changes::Change;
use crate::topics::{Comparison, List, Topic};

/// The list: `(json, markdown)` say how. What a kind without an entry has is its last line.
pub(super) fn list(list: &List, prefix: &str, form: (bool, bool), out: &mut dyn Write) -> io::Result<()> {
    let others = list.topic(&format!("{prefix}<kind>"));
    let topics: Vec<Topic> = list.listed().chain([others]).collect();
    match form {
        (true, _) => writeln!(out, "{}", serde_json::to_string_pretty(&topics)?),
        (_, true) => table(&topics, out),
        _ => lines(&topics, out),
    }
}

fn lines(topics: &[Topic], out: &mut dyn Write) -> io::Result<()> {
    for topic in topics {
        let (name, size, kept) = (&topic.name, topic.size(), topic.kept());
        writeln!(out, "{name}: {size}; kept: {kept}; key: {}", topic.key)?;
        writeln!(
            out,
            "    written by {}; read by {}",
            topic.owner,
            topic.readers.join(", ")
        )?;
    }
    Ok(())
}

fn table(topics: &[Topic], out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "| topic | key | partitions | replicas, in sync | kept | written by | read by | what |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for topic in topics {
        let in_sync = topic.min_insync_replicas.map_or("-".to_owned(), |min| min.to_string());
        let replication = match topic.replication {
            -1 => "the cluster's".to_owned(),
            number => number.to_string(),
        };
        writeln!(
            out,
            "| `{}` | {} | {} | {replication}, {in_sync} | {} | {} | {} | {} |",
            topic.name,
            topic.key,
            topic.partitions,
            topic.kept(),
            topic.owner,
            topic.readers.join(", "),
            topic.doc
        )?;
    }
    Ok(())
}

/// What differs, topic by topic.
pub(super) fn comparison(comparison: &Comparison, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return writeln!(out, "{}", serde_json::to_string_pretty(comparison)?);
    }
    for compared in &comparison.topics {
        for difference in &compared.differences {
            writeln!(out, "differs   {} {difference}", compared.topic.name)?;
        }
    }
    for topic in &comparison.unlisted {
        writeln!(out, "unlisted  {topic}")?;
    }
    if comparison.is_same() {
        writeln!(out, "every topic is as it is listed")?;
    }
    Ok(())
}

/// A change that was made.
pub(super) fn change(change: &Change, json: bool, out: &mut dyn Write) -> io::Result<()> {
    line(change.what(), change.topic(), &change.text(), json, out)?;
    match change.warning() {
        Some(warning) => line("warning", change.topic(), warning, json, out),
        None => Ok(()),
    }
}

/// What stays as it is.
pub(super) fn left(topic: &str, why: &str, json: bool, out: &mut dyn Write) -> io::Result<()> {
    line("left", topic, why, json, out)
}

/// A change that Kafka does not make.
pub(super) fn refused(topic: &str, why: &str, json: bool, out: &mut dyn Write) -> io::Result<()> {
    line("refused", topic, why, json, out)
}

pub(super) fn nothing_to_do(json: bool, out: &mut dyn Write) -> io::Result<()> {
    match json {
        true => Ok(()),
        false => writeln!(out, "every topic is as it is listed"),
    }
}

fn line(what: &str, topic: &str, text: &str, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        let object: Value = json!({"what": what, "topic": topic, "text": text});
        return writeln!(out, "{object}");
    }
    writeln!(out, "{what:<8}  {topic}: {text}")
}
