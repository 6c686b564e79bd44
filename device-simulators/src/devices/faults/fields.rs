//! A field that faults change, with the schema's bounds and with what goes wrong in it.
//!
//! Physical kinds list their own: bounds, sentinels and `out_of_range` are copied from
//! `schemas/*.avsc`, since they decide what a gateway must answer; a test checks them against the files.

use super::payload::FirmwareBug;

/// A number of a reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::devices) struct Field {
    /// The array whose first element it is in; empty for a field of the reading itself.
    pub(in crate::devices) within: &'static str,
    pub(in crate::devices) name: &'static str,
    pub(in crate::devices) minimum: f64,
    pub(in crate::devices) maximum: f64,
    /// Values that the schema reads as "no reading".
    pub(in crate::devices) sentinels: &'static [f64],
    /// What devices say for "no reading", whether the schema knows or not.
    pub(in crate::devices) said: &'static [f64],
    /// A jump that could be, up or down.
    pub(in crate::devices) jump: f64,
    /// What a counter that ran over looks like.
    pub(in crate::devices) wild: f64,
    /// Another unit: factor and offset.
    pub(in crate::devices) units: &'static [(f64, f64)],
    /// What is out of range is stored as null, not rejected.
    pub(in crate::devices) nulled: bool,
    /// It has no fraction.
    pub(in crate::devices) whole: bool,
}

/// What faults need to know of a kind.
#[derive(Clone, Copy)]
pub(in crate::devices) struct Faultable {
    /// The last field of what a device sends whatever its sensors do; values stand behind it.
    pub(in crate::devices) header_end: &'static str,
    pub(in crate::devices) fields: &'static [Field],
    /// Those that a gateway must refuse.
    pub(in crate::devices) bugs: &'static [FirmwareBug],
}

/// What the schema says of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    Inside,
    /// Stored as null.
    Sentinel,
    /// Out of range, and stored as null.
    Nulled,
    Outside,
}

/// A field of the reading itself in which nothing goes wrong yet.
pub(in crate::devices) const fn field(name: &'static str, minimum: f64, maximum: f64) -> Field {
    Field {
        within: "",
        name,
        minimum,
        maximum,
        sentinels: &[],
        said: &[],
        jump: 0.0,
        wild: 0.0,
        units: &[],
        nulled: true,
        whole: false,
    }
}

// === impl Faultable ===

impl Faultable {
    /// Of a kind whose devices are made by hand.
    pub(in crate::devices) const fn physical(fields: &'static [Field]) -> Faultable {
        Faultable {
            header_end: "status",
            fields,
            bugs: &FirmwareBug::ALL,
        }
    }
}

// === impl Field ===

impl Field {
    pub(super) fn judge(&self, value: f64) -> Range {
        if self.sentinels.contains(&value) {
            Range::Sentinel
        } else if value >= self.minimum && value <= self.maximum {
            Range::Inside
        } else if self.nulled {
            Range::Nulled
        } else {
            Range::Outside
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Kind;
    use serde_json::Value;

    /// The field's definition in the schema.
    fn defined(schema: &Value, field: &Field) -> Value {
        let named = |record: &Value, name: &str| {
            let fields = record["fields"].as_array().unwrap();
            fields.iter().find(|field| field["name"] == name).unwrap().clone()
        };
        if field.within.is_empty() {
            return named(schema, field.name);
        }
        named(&named(schema, field.within)["type"]["items"], field.name)
    }

    #[test]
    fn bounds_are_those_of_the_schemas() {
        for kind in Kind::PHYSICAL {
            let schema: Value = serde_json::from_str(kind.schema()).unwrap();
            for field in kind.faultable().fields {
                let defined = defined(&schema, field);
                let number = |name: &str| defined[name].as_f64();
                assert_eq!(number("minimum"), Some(field.minimum), "{kind} {field:?}");
                assert_eq!(number("maximum"), Some(field.maximum), "{kind} {field:?}");
                let sentinels = defined["sentinels"].as_array().cloned().unwrap_or_default();
                let sentinels: Vec<f64> = sentinels.iter().filter_map(Value::as_f64).collect();
                assert_eq!(sentinels, field.sentinels, "{kind} {field:?}");
                assert_eq!(defined["out_of_range"] == "null", field.nulled, "{kind} {field:?}");
            }
        }
    }
}
