//! Where a device stands and what it belongs to: a record of the topic of devices, out of an identity's tags, a CSV row or an object.
//!
//! The fields are the columns of `city.device` in the database. In tags and in CSV all values are texts, lists have spaces between
//! their items, and an empty text says nothing. What else an identity is tagged with is for people, and left out; in a CSV file or
//! an object it is a mistake, since whoever wrote it expects it to be kept.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// One device. Nothing but its id has to be known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Place {
    /// Its id; the record's key, and no part of its value.
    #[serde(skip_serializing, alias = "id")]
    pub device: String,
    /// What it measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Degrees, WGS 84.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
    /// The road, in the direction of its traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Metres along the road.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_m: Option<f64>,
    /// Neighbouring detectors, from which traffic comes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<String>,
    /// Neighbouring detectors, to which it goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub downstream: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub district: Option<String>,
    /// Of the electricity network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feeder: Option<String>,
    /// Of the grid by which demand and supply are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// How often a reading is expected, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<f64>,
    /// Devices of one cabinet share its power and its modem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cabinet: Option<String>,
    /// Of its connection to the electricity network, watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_w: Option<f64>,
    /// Since when all this is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Timestamp>,
}

/// What the texts of a device say that cannot be: the field, and why.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Mistake {
    #[error("{field}: {text:?} is {expected}")]
    Unreadable {
        field: &'static str,
        text: String,
        expected: &'static str,
    },
    #[error("{field}: {value} is not between {least} and {most}")]
    OutOfRange {
        field: &'static str,
        value: String,
        least: f64,
        most: f64,
    },
    #[error("{field}: has {bytes} bytes, or a NUL; a text has at most {TEXT_BYTES_MAX}")]
    Text { field: &'static str, bytes: usize },
    #[error("unknown field {0:?}; known fields: {known}", known = FIELDS.join(", "))]
    Unknown(String),
}

/// Of a text, or a list as JSON: they are names, and indexed.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Numbers that are of no device: field, least and most.
pub const RANGES: [(&str, f64, f64); 5] = [
    ("latitude", -90.0, 90.0),
    ("longitude", -180.0, 180.0),
    ("position_m", 0.0, 10_000_000.0),
    ("interval_s", 0.001, 366.0 * 86_400.0),
    ("capacity_w", 0.0, 1e12),
];

/// All fields but the id, as columns of the database are called.
pub const FIELDS: [&str; 16] = [
    "kind",
    "latitude",
    "longitude",
    "segment",
    "position_m",
    "upstream",
    "downstream",
    "lane_count",
    "district",
    "feeder",
    "cell",
    "operator",
    "interval_s",
    "cabinet",
    "capacity_w",
    "valid_from",
];

// === impl Place ===

impl Place {
    /// From texts by field, as a CSV row has them.
    ///
    /// # Errors
    /// The first text that its field cannot hold, or whose field is unknown.
    pub fn of_texts<'t>(device: &str, texts: impl IntoIterator<Item = (&'t str, &'t str)>) -> Result<Self, Mistake> {
        let mut place = Place {
            device: device.to_owned(),
            ..Place::default()
        };
        for (field, text) in texts {
            if !text.trim().is_empty() {
                place.set(field, text.trim())?;
            }
        }
        place.checked()
    }

    /// From an identity's tags and kinds.
    ///
    /// # Errors
    /// The first tag of a known name that its field cannot hold.
    pub fn of_tags(device: &str, kinds: &[String], tags: &BTreeMap<String, String>) -> Result<Self, Mistake> {
        let known = tags.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let known = known.filter(|(name, _)| FIELDS.contains(name));
        let mut place = Self::of_texts(device, known)?;
        if let (None, [kind]) = (&place.kind, kinds) {
            place.kind = Some(kind.clone());
        }
        Ok(place)
    }

    /// Itself, if its numbers and texts can be.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn checked(self) -> Result<Self, Mistake> {
        let values = [
            self.latitude,
            self.longitude,
            self.position_m,
            self.interval_s,
            self.capacity_w,
        ];
        // JSON has no NaN.
        let mut numbers = RANGES.iter().zip(values);
        let number = numbers.find_map(|(range, value)| out_of(range, value?));
        let object = serde_json::to_value(&self).unwrap_or_default();
        number.or_else(|| mistake_of(&object)).map_or(Ok(self), Err)
    }

    fn set(&mut self, field: &str, text: &str) -> Result<(), Mistake> {
        let list = || text.split_whitespace().map(str::to_owned).collect();
        match field {
            "kind" => self.kind = Some(text.to_owned()),
            "latitude" => self.latitude = Some(number("latitude", text)?),
            "longitude" => self.longitude = Some(number("longitude", text)?),
            "segment" => self.segment = Some(text.to_owned()),
            "position_m" => self.position_m = Some(number("position_m", text)?),
            "upstream" => self.upstream = list(),
            "downstream" => self.downstream = list(),
            "lane_count" => self.lane_count = Some(parsed("lane_count", text, "no whole number")?),
            "district" => self.district = Some(text.to_owned()),
            "feeder" => self.feeder = Some(text.to_owned()),
            "cell" => self.cell = Some(text.to_owned()),
            "operator" => self.operator = Some(text.to_owned()),
            "interval_s" => self.interval_s = Some(number("interval_s", text)?),
            "cabinet" => self.cabinet = Some(text.to_owned()),
            "capacity_w" => self.capacity_w = Some(number("capacity_w", text)?),
            "valid_from" => self.valid_from = Some(parsed("valid_from", text, "no time such as 2026-01-31T12:00:00Z")?),
            unknown => return Err(Mistake::Unknown(unknown.to_owned())),
        }
        Ok(())
    }
}

/// The first number or text of a device that cannot be, of an object whose other fields may be anything.
pub fn mistake_of(object: &Json) -> Option<Mistake> {
    let number = RANGES
        .iter()
        .find_map(|range| out_of(range, object.get(range.0)?.as_f64()?));
    let text = |field: &&'static str| match object.get(*field)? {
        Json::String(text) => no_text(field, text),
        other => no_text(field, &other.to_string()),
    };
    number.or_else(|| FIELDS.iter().find_map(text))
}

fn no_text(field: &'static str, text: &str) -> Option<Mistake> {
    let bytes = text.len();
    (bytes > TEXT_BYTES_MAX || text.contains('\0')).then_some(Mistake::Text { field, bytes })
}

fn out_of(&(field, least, most): &(&'static str, f64, f64), value: f64) -> Option<Mistake> {
    (!(least..=most).contains(&value)).then(|| Mistake::OutOfRange {
        field,
        value: value.to_string(),
        least,
        most,
    })
}

fn number(field: &'static str, text: &str) -> Result<f64, Mistake> {
    parsed(field, text, "no number")
}

fn parsed<T: FromStr>(field: &'static str, text: &str, expected: &'static str) -> Result<T, Mistake> {
    text.parse().map_err(|_| Mistake::Unreadable {
        field,
        text: text.to_owned(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_what_their_fields_hold() {
        let check = |texts: &[(&str, &str)], expected: &str| {
            let place = Place::of_texts("loop-7", texts.iter().copied());
            let said = match place {
                Ok(place) => serde_json::to_string(&place).unwrap(),
                Err(mistake) => mistake.to_string(),
            };
            assert!(said.starts_with(expected), "{said}");
        };
        check(&[], "{}");
        check(
            &[("district", " north "), ("latitude", "52.09")],
            r#"{"latitude":52.09,"district":"north"}"#,
        );
        check(
            &[("upstream", "loop-5  loop-6"), ("feeder", "")],
            r#"{"upstream":["loop-5","loop-6"]}"#,
        );
        check(
            &[("lane_count", "2"), ("valid_from", "2026-01-31T12:00:00Z")],
            r#"{"lane_count":2,"valid_from":"2026-01-31T12:00:00Z"}"#,
        );
        check(&[("lane_count", "2.5")], r#"lane_count: "2.5" is no whole number"#);
        check(&[("latitude", "north")], r#"latitude: "north" is no number"#);
        check(&[("latitude", "91")], "latitude: 91 is not between -90 and 90");
        check(
            &[("cabinet", &"x".repeat(1025))],
            "cabinet: has 1025 bytes, or a NUL; a text has at most 1024",
        );
        check(&[("upstream", &"a ".repeat(300))], "upstream: has 1201 bytes");
        check(&[("district", "a\0b")], "district: has 3 bytes, or a NUL");
        check(&[("interval_s", "NaN")], "interval_s: NaN is not between 0.001 and");
        check(
            &[("valid_from", "yesterday")],
            r#"valid_from: "yesterday" is no time such as"#,
        );
        check(
            &[("colour", "red")],
            r#"unknown field "colour"; known fields: kind, latitude"#,
        );
    }

    #[test]
    fn every_field_is_known_as_a_text_and_as_an_object() {
        let texts = FIELDS.map(|field| match field {
            "valid_from" => (field, "2026-01-31T12:00:00Z"),
            "kind" => (field, "traffic"),
            _ => (field, "1"),
        });
        let place = Place::of_texts("loop-7", texts).unwrap();
        let object = serde_json::to_value(&place).unwrap();
        for field in FIELDS {
            assert!(object.get(field).is_some(), "{field} of {object}");
        }
        assert_eq!(object.as_object().unwrap().len(), FIELDS.len(), "the id is the key");
        let mut object = object;
        object["id"] = "loop-7".into();
        assert_eq!(serde_json::from_value::<Place>(object).unwrap(), place);
    }

    #[test]
    fn an_identity_has_other_tags_too_and_perhaps_one_kind() {
        let tags = BTreeMap::from([
            ("owner".to_owned(), "north".to_owned()),
            ("district".to_owned(), "x".to_owned()),
        ]);
        let place = |kinds: &[&str]| {
            let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
            serde_json::to_string(&Place::of_tags("a", &kinds, &tags).unwrap()).unwrap()
        };
        assert_eq!(place(&["energy"]), r#"{"kind":"energy","district":"x"}"#);
        assert_eq!(place(&["energy", "water"]), r#"{"district":"x"}"#);
    }
}
