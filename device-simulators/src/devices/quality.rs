//! What devices note in `quality`: now and then one says of one of its values that it is doubtful, estimated, or missing.
//!
//! The value stays as it is, and a note is added behind all else, if it leaves the reading short enough for a datagram. Which value,
//! and what is said of it, follows from the device and the time, as the reading does. What a fault makes of a value, a device does
//! not know.

use super::faults::{Field, text};
use super::{Kind, Noise};

/// The share of readings with a note.
const SHARE: f64 = 0.03;

/// Of a reading with its note: what a CoAP message holds (RFC 7252 §4.6), less its header and options.
const BYTES_MAX: usize = 1152;

/// Characters of a path that every schema's notes have room for.
const PATH_CHARS_MAX: usize = 160;

/// What is said of a value that is there, the likeliest first, each with the shares up to it.
const OF_VALUES: [(&str, f64); 3] = [("suspect", 0.6), ("estimated", 0.9), ("device_fault", 1.0)];

/// What is said of one that is null.
const OF_NULL: &str = "missing";

/// All that devices say.
const FLAGS: &[&str] = &["suspect", "estimated", "device_fault", OF_NULL];

/// The field of a kind's notes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quality {
    pub(super) field: &'static str,
    /// Those of [`FLAGS`] that it knows.
    pub(super) flags: &'static [&'static str],
}

// === impl Quality ===

impl Quality {
    /// That of every bundled kind.
    pub(super) const BUNDLED: Quality = Quality {
        field: "quality",
        flags: FLAGS,
    };

    /// Of a schema: `symbols` are its flags.
    pub(super) fn new(field: &'static str, symbols: &[String]) -> Quality {
        let known = FLAGS.iter().filter(|flag| symbols.iter().any(|symbol| symbol == *flag));
        Quality {
            field,
            flags: known.copied().collect::<Vec<_>>().leak(),
        }
    }
}

/// The reading, with a note if the device has something to say at this time.
pub(super) fn noted(mut reading: Vec<u8>, kind: Kind, noise: &Noise, time_ms: i64) -> Vec<u8> {
    if let Some(note) = note(&reading, kind, noise, time_ms)
        && reading.len() + note.len() <= BYTES_MAX
        && reading.pop() == Some(b'}')
    {
        reading.extend_from_slice(note.as_bytes());
        reading.push(b'}');
    }
    reading
}

/// `,"quality":[…]`, of one of the values in the reading.
fn note(reading: &[u8], kind: Kind, noise: &Noise, time_ms: i64) -> Option<String> {
    let quality = kind.quality()?;
    if noise.unit("noted", time_ms) >= SHARE {
        return None;
    }
    let fields = kind.faultable().fields;
    let first = (noise.unit("noted value", time_ms) * fields.len() as f64) as usize;
    let mut from_first = fields.iter().cycle().skip(first).take(fields.len());
    let (field, is_null) = from_first.find_map(|field| Some((field, is_null(reading, field)?)))?;
    let chance = noise.unit("flag", time_ms);
    let flag = match is_null {
        true => OF_NULL,
        false => OF_VALUES.iter().find(|(_, end)| chance < *end)?.0,
    };
    let path = match field.within {
        "" => field.name.to_owned(),
        within => format!("{within}[0].{}", field.name),
    };
    let fits = quality.flags.contains(&flag) && path.chars().count() <= PATH_CHARS_MAX;
    fits.then(|| format!(",\"{}\":[{{\"field\":\"{path}\",\"flag\":\"{flag}\"}}]", quality.field))
}

/// Whether a field that is sent has no value.
fn is_null(reading: &[u8], field: &Field) -> Option<bool> {
    let bytes = text::token(reading, field.within, field.name)?;
    match reading.get(bytes)? {
        b"null" => Some(true),
        _ => text::number(reading, field).map(|_| false),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::Value;

    use super::super::tests::at;
    use super::super::{City, Device, Kinds};
    use super::*;

    /// A few readings in a hundred, each about a value that it has.
    #[test]
    fn every_bundled_kind_notes_something_in_a_few_readings_of_a_hundred() {
        let city = Arc::new(City::new(7));
        let mut said: BTreeMap<String, u32> = BTreeMap::new();
        for kind in Kinds::bundled().select(&["*"]).unwrap() {
            let mut noted = 0;
            for number in 0..4000u64 {
                let device = Device::in_city(&city, kind, number % 40);
                let reading = device.reading(number, at(number as f64 * 0.37));
                let reading: Value = serde_json::from_slice(&reading).unwrap();
                let Some(notes) = reading.get("quality") else { continue };
                noted += 1;
                let note = &notes[0];
                let (path, flag) = (note["field"].as_str().unwrap(), note["flag"].as_str().unwrap());
                let value = match path.split_once("[0].") {
                    Some((within, name)) => &reading[within][0][name],
                    None => &reading[path],
                };
                assert_eq!(value.is_null(), flag == "missing", "{kind}: {note} of {value}");
                assert!(value.is_null() || value.is_number(), "{kind}: {note} of {value}");
                assert_eq!(notes.as_array().unwrap().len(), 1);
                *said.entry(flag.to_owned()).or_default() += 1;
            }
            assert!((60..=200).contains(&noted), "{kind}: {noted} of 4000");
        }
        assert!(FLAGS.iter().all(|flag| said.contains_key(*flag)), "{said:?}");
        assert!(
            said["suspect"] > said["estimated"] && said["estimated"] > said["device_fault"],
            "{said:?}"
        );
    }
}
