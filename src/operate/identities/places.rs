//! Where the devices stand, out of the identities' tags or a file: CSV, or an object per line.
//!
//! A file is read whole or not at all: the first line that cannot be is named, with its number. What a field may hold is
//! [`place`](crate::devices::place)'s business.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::devices::place::Place;
use crate::devices::record::Record;
use crate::message::is_device_id;

/// Reads a file of places: `*.csv` with a header row, of which one column is `device` or `id`; else an object per line, a place
/// (`{"device": …, "district": …}`) or an identity with tags.
///
/// # Errors
/// The first line that is none, and why; a device that is there twice.
pub fn read(path: &Path) -> anyhow::Result<Vec<Place>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
    let is_csv = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let places = if is_csv { of_csv(&text) } else { of_objects(&text) };
    let places = places.with_context(|| match is_csv {
        true => name.to_string(),
        false => format!("{name}, an object per line as its name does not end with .csv"),
    })?;
    let mut known = BTreeSet::new();
    for (line, place) in &places {
        let device = &place.device;
        ensure!(is_device_id(device), "{name}, line {line}: {device:?} is no device id");
        ensure!(known.insert(device), "{name}, line {line}: {device} is there twice");
    }
    Ok(places.into_iter().map(|(_, place)| place).collect())
}

/// Of identities.
///
/// # Errors
/// The first one with a tag that cannot be.
pub fn of_identities<'r>(records: impl Iterator<Item = &'r Record>) -> anyhow::Result<Vec<Place>> {
    let place = |record: &Record| {
        Place::of_tags(&record.id, &record.kinds, &record.tags).with_context(|| format!("tags of {}", record.id))
    };
    records.filter(|record| !record.disabled).map(place).collect()
}

/// Each with its line.
fn of_csv(text: &str) -> anyhow::Result<Vec<(u64, Place)>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let Some(id) = header.iter().position(|column| matches!(column, "device" | "id")) else {
        bail!("no column is called device");
    };
    let mut places = Vec::new();
    for row in reader.records() {
        let row = row?;
        let line = row.position().map_or(0, csv::Position::line);
        let texts = header.iter().zip(&row).enumerate().filter(|(column, _)| *column != id);
        let place = Place::of_texts(&row[id], texts.map(|(_, text)| text));
        places.push((line, place.with_context(|| format!("line {line}"))?));
    }
    Ok(places)
}

fn of_objects(text: &str) -> anyhow::Result<Vec<(u64, Place)>> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let place = |(text, line): (&str, u64)| {
        let place = of_object(text).with_context(|| format!("line {line}"))?;
        Ok((line, place))
    };
    lines.map(place).collect()
}

fn of_object(text: &str) -> anyhow::Result<Place> {
    let value: Value = serde_json::from_str(text)?;
    if value.get("tags").is_none() {
        return Ok(serde_json::from_value::<Place>(value)?.checked()?);
    }
    let record = Record::from_value(value).map_err(anyhow::Error::msg)?;
    Ok(Place::of_tags(&record.id, &record.kinds, &record.tags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let said = |place: &Place| format!("{} {}", place.device, serde_json::to_string(place).unwrap());
        match read(&path) {
            Ok(places) => Ok(places.iter().map(said).collect::<Vec<_>>().join("; ")),
            Err(error) => Err(format!("{error:#}").replace(&path.display().to_string(), name)),
        }
    }

    #[test]
    fn a_file_of_places_is_read_whole_or_its_first_mistake_is_named() {
        let check = |name: &str, text: &str, expected: Result<&str, &str>| match (read_text(name, text), expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (read, expected) => panic!("{read:?}, not {expected:?}"),
        };
        let csv = "district, id, upstream\n\"north, east\",loop-7,loop-5 loop-6\n,loop-8,\n";
        let both = r#"loop-7 {"upstream":["loop-5","loop-6"],"district":"north, east"}; loop-8 {}"#;
        check("a.csv", csv, Ok(both));
        check("a.CSV", "district\nnorth\n", Err("a.CSV: no column is called device"));
        check(
            "a.csv",
            "id,latitude\nx,1\ny,north\n",
            Err("a.csv: line 3: latitude: \"north\" is no number"),
        );
        check("a.csv", "id,district\nx\n", Err("found record with 1 fields"));
        check(
            "a.csv",
            "id,district\nx,a\nx,b\n",
            Err("a.csv, line 3: x is there twice"),
        );
        check("a.csv", "id\n/x\n", Err("a.csv, line 2: \"/x\" is no device id"));
        check("a.csv", "id,colour\nx,red\n", Err("unknown field \"colour\""));
        let identity = r#"{"id":"m-1","kinds":["energy"],"tags":{"district":"north","contact":"0123"}}"#;
        check("a.ndjson", identity, Ok(r#"m-1 {"kind":"energy","district":"north"}"#));
        let object = "\n{\"device\":\"m-1\",\"lane_count\":2}\n";
        check("a.ndjson", object, Ok(r#"m-1 {"lane_count":2}"#));
        check(
            "a.ndjson",
            "{\"device\":\"m-1\",\"colour\":1}",
            Err("line 1: unknown field `colour`"),
        );
        check(
            "a.ndjson",
            "{\"device\":\"m-1\",\"latitude\":100}",
            Err("line 1: latitude: 100 is not between"),
        );
        check("a.ndjson", "{}\n", Err("line 1: \"\" is no device id"));
    }
}
