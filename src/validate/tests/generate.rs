//! Random schemas that compile: what the comparison of the two drivers (`judge`) reads by.
//!
//! Everything is a function of the seed, which a failing test prints. Readings for them are drawn by [`draw`](super::draw).

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::*;

/// Draws schemas that compile.
pub(super) struct Schemer {
    random: StdRng,
    /// Types named so far; records among them may be referred to where that has an end.
    names: usize,
    /// The outermost record has an `any_of`.
    needs_value: bool,
}

/// A field.
struct Drawn {
    name: &'static str,
    text: String,
    default: Default,
}

/// What stands for a field that is left out.
enum Default {
    /// It is required, and nearly always a value.
    Missing,
    /// Null or empty; or it is required and may be null.
    Nothing,
    Value,
}

impl Default {
    fn may_be_listed(&self, outermost: bool) -> bool {
        match self {
            Default::Missing => false,
            Default::Nothing => true,
            Default::Value => outermost,
        }
    }
}

impl Schemer {
    pub(super) fn new(seed: u64) -> Self {
        Schemer {
            random: StdRng::seed_from_u64(seed),
            names: 0,
            needs_value: false,
        }
    }

    /// One that compiles: of those with an `any_of`, some have a default that would count.
    pub(super) fn schema(&mut self) -> String {
        loop {
            let schema = self.try_schema();
            match load(&schema) {
                Ok(_) => return schema,
                Err(mistakes) => assert!(
                    mistakes
                        .iter()
                        .all(|mistake| mistake.contains("its default is a value")),
                    "{mistakes:?}: {schema}"
                ),
            }
        }
    }

    fn try_schema(&mut self) -> String {
        self.names = 0;
        self.needs_value = self.random.random_bool(0.4);
        let own = self.fields(0);
        let mut listed = self.listed(&own, true);
        let at = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
        let mut fields: Vec<String> = own.into_iter().map(|field| field.text).collect();
        for (name, kind, role) in [
            ("device", r#""string""#, r#""fill":"device""#),
            ("received_at", at, r#""fill":"received_at""#),
            ("observed_at", at, r#""clock":"observed""#),
        ] {
            if self.random.random_bool(0.5) {
                fields.push(format!(r#"{{"name":"{name}","type":{kind},{role}}}"#));
            }
        }
        if self.random.random_bool(0.5) {
            fields.push(QUALITY.to_owned());
        }
        if self.needs_value {
            fields.push(format!(
                r#"{{"name":"w","type":{},"default":[]}}"#,
                self.array_of_records(2)
            ));
            fields.push(r#"{"name":"v","type":["string","null"],"default":""}"#.to_owned());
            let maps = r#"{"type":"map","values":["null","double"]}"#;
            fields.push(format!(
                r#"{{"name":"m","type":{{"type":"array","items":{maps}}},"default":[]}}"#
            ));
            let least = usize::from(listed.is_empty());
            let count = self.random.random_range(least..=3);
            listed.extend(["w", "v", "m"].sample(&mut self.random, count));
        }
        fields.shuffle(&mut self.random);
        let schema = record(&fields.join(","));
        schema.replacen(r#""fields""#, &format!(r#"{}"fields""#, any_of(&listed)), 1)
    }

    /// Up to three fields for an `any_of`, if the schema has some.
    fn listed(&mut self, fields: &[Drawn], outermost: bool) -> Vec<&'static str> {
        let fields = fields
            .iter()
            .filter(|field| field.default.may_be_listed(outermost))
            .map(|field| field.name);
        let mut listed: Vec<&str> = fields.filter(|_| self.random.random_bool(0.6)).collect();
        listed.truncate(if self.needs_value { 3 } else { 0 });
        listed
    }

    fn fields(&mut self, depth: usize) -> Vec<Drawn> {
        // Names that begin alike, end alike, or are one another's beginning.
        let mut names = vec![
            "a",
            "ab",
            "abc",
            "b",
            "speed_kmh",
            "speed_kmg",
            "temperature_c",
            "x_1",
            "x_2",
            "_",
        ];
        names.shuffle(&mut self.random);
        let count = self.random.random_range(0..=if depth == 0 { 10 } else { 4 });
        let names = names.iter().take(count);
        names.map(|name| self.field(name, depth)).collect()
    }

    fn field(&mut self, name: &'static str, depth: usize) -> Drawn {
        let nullable = self.random.random_bool(0.4);
        let (kind, default) = self.kind(depth + 1, nullable);
        let (text, default) = match (nullable, self.random.random_range(0..3)) {
            (true, 0) => (format!(r#""type":[{kind},"null"]"#), Default::Nothing),
            (true, _) => (format!(r#""type":["null",{kind}],"default":null"#), Default::Nothing),
            (false, 0 | 1) if !default.is_empty() => {
                let is_empty = ["[]", "{}"].contains(&default);
                let text = format!(r#""type":{kind},"default":{default}"#);
                (text, if is_empty { Default::Nothing } else { Default::Value })
            }
            (false, _) => (format!(r#""type":{kind}"#), Default::Missing),
        };
        Drawn {
            name,
            text: format!(r#"{{"name":"{name}",{text}}}"#),
            default,
        }
    }

    /// A type that is no union with null, and a default for it, if there is an easy one.
    fn kind(&mut self, depth: usize, nullable: bool) -> (String, &'static str) {
        let simple = depth > 3;
        match self.random.random_range(0..if simple { 9 } else { 13 }) {
            0 => (r#""boolean""#.to_owned(), "false"),
            1 | 2 => (self.integer(nullable), ""),
            3..=5 => (self.real(nullable), ""),
            6 => (self.string(), r#""é""#),
            7 => self.logical(),
            8 => (self.symbols(), r#""ok""#),
            9 => {
                let nullable = self.random.random_bool(0.3);
                let (items, _) = self.kind(depth + 1, nullable);
                let rule = *["", "", r#","maxItems":3"#].choose(&mut self.random).unwrap();
                match self.random.random_range(0..4) {
                    0 => (self.array_of_records(depth), "[]"),
                    _ => (
                        format!(r#"{{"type":"array","items":{}{rule}}}"#, within(items, nullable)),
                        "[]",
                    ),
                }
            }
            10 => {
                let nullable = self.random.random_bool(0.3);
                let (values, _) = self.kind(depth + 1, nullable);
                (
                    format!(r#"{{"type":"map","values":{}}}"#, within(values, nullable)),
                    "{}",
                )
            }
            11 if nullable => (r#""Test""#.to_owned(), ""),
            12 if !nullable => (self.union(), ""),
            _ => {
                self.names += 1;
                let name = self.names;
                let fields = self.fields(depth);
                let listed = self.listed(&fields, false);
                let (any_of, fields) = (any_of(&listed), joined(fields));
                (
                    format!(r#"{{"type":"record","name":"R{name}",{any_of}"fields":[{fields}]}}"#),
                    "",
                )
            }
        }
    }

    fn string(&mut self) -> String {
        let rules = [
            "",
            "",
            r#","maxLength":12"#,
            r#","pattern":"^[^q]*$""#,
            r#","pattern":"é|a","maxLength":40"#,
        ];
        let rule = rules.choose(&mut self.random).unwrap();
        format!(r#"{{"type":"string"{rule}}}"#)
    }

    /// Told apart by a number, and mostly with something in each.
    fn array_of_records(&mut self, depth: usize) -> String {
        self.names += 1;
        let name = self.names;
        let value = self.real(true);
        let has_any_of = self.needs_value && self.random.random_bool(0.7);
        let any_of = if has_any_of { r#","any_of":["x"]"# } else { "" };
        let fields = format!(
            r#"{{"name":"lane","type":"int","minimum":0,"maximum":3}},{{"name":"x","type":["null",{value}],"default":null,"also":["X"]}}"#
        );
        let more = if depth < 3 {
            joined(self.fields(3))
        } else {
            String::new()
        };
        let fields = if more.is_empty() {
            fields
        } else {
            format!("{more},{fields}")
        };
        format!(
            r#"{{"type":"array","items":{{"type":"record","name":"R{name}"{any_of},"fields":[{fields}]}},"unique":"lane"}}"#
        )
    }

    fn logical(&mut self) -> (String, &'static str) {
        if self.random.random_bool(0.3) {
            let accepts = [
                r#""accepts":["epoch_s","rfc3339"]"#,
                r#""accepts":["epoch_us"]"#,
                r#""accepts":["epoch_ms","local"],"utc_offset":"-03:30""#,
                r#""accepts":["local","rfc3339"],"time_zone":"Europe/Berlin","disambiguation":"reject""#,
                r#""accepts":["epoch_s","local"],"time_zone":"Europe/Berlin","disambiguation":"earlier""#,
            ];
            let accepts = accepts.choose(&mut self.random).unwrap();
            let logical = *["timestamp-millis", "timestamp-micros"]
                .choose(&mut self.random)
                .unwrap();
            return (format!(r#"{{"type":"long","logicalType":"{logical}",{accepts}}}"#), "");
        }
        let (name, logical, default) = [
            ("int", "date", "-3"),
            ("int", "time-millis", "0"),
            ("long", "time-micros", "0"),
            ("long", "timestamp-millis", "-3"),
            ("long", "timestamp-micros", "0"),
            ("long", "timestamp-nanos", "0"),
            ("long", "local-timestamp-millis", "0"),
            // Ignored: unknown, or not of this type.
            ("long", "timestamp-furlongs", "-9223372036854775808"),
            ("int", "timestamp-millis", "2147483647"),
        ][self.random.random_range(0..9)];
        (format!(r#"{{"type":"{name}","logicalType":"{logical}"}}"#), default)
    }

    fn symbols(&mut self) -> String {
        self.names += 1;
        format!(
            r#"{{"type":"enum","name":"E{}","symbols":["ok","OK","o","okay","degraded"],"also":{{"ok":["fine","0"]}}}}"#,
            self.names
        )
    }

    fn union(&mut self) -> String {
        let symbols = self.symbols();
        let at = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
        let whole = *[r#""long""#, r#""int""#, at].choose(&mut self.random).unwrap();
        let real = *[r#""double""#, r#""float""#].choose(&mut self.random).unwrap();
        let mut branches = vec![
            r#""boolean""#,
            whole,
            real,
            &symbols,
            r#"{"type":"array","items":"Test"}"#,
            r#"{"type":"map","values":["null","double"]}"#,
            r#""null""#,
        ];
        branches.shuffle(&mut self.random);
        branches.truncate(self.random.random_range(1..=7));
        format!("[{}]", branches.join(","))
    }

    fn integer(&mut self, nullable: bool) -> String {
        let name = *["int", "long"].choose(&mut self.random).unwrap();
        match self.random.random_range(0..4) {
            0 => format!(r#"{{"type":"{name}"}}"#),
            1 => format!(r#"{{"type":"{name}","minimum":-5,"maximum":70}}"#),
            2 if nullable => format!(
                r#"{{"type":"{name}","exclusiveMinimum":0,"maximum":250,"sentinels":[200,-1],"out_of_range":"null"}}"#
            ),
            _ if nullable => format!(r#"{{"type":"{name}","minimum":0,"maximum":250,"sentinels":[255,-1]}}"#),
            _ => format!(r#"{{"type":"{name}","minimum":0}}"#),
        }
    }

    fn real(&mut self, nullable: bool) -> String {
        let name = *["float", "double"].choose(&mut self.random).unwrap();
        match self.random.random_range(0..4) {
            0 => format!(r#"{{"type":"{name}"}}"#),
            1 => format!(r#"{{"type":"{name}","minimum":-90.5,"maximum":70}}"#),
            2 if nullable => format!(
                r#"{{"type":"{name}","minimum":-10,"exclusiveMaximum":70,"sentinels":[0,70,-9999.9],"out_of_range":"null"}}"#
            ),
            _ if nullable => format!(r#"{{"type":"{name}","minimum":0,"maximum":250,"sentinels":[255,-9999.9]}}"#),
            _ => format!(r#"{{"type":"{name}","maximum":1e9}}"#),
        }
    }
}

fn joined(fields: Vec<Drawn>) -> String {
    let texts: Vec<String> = fields.into_iter().map(|field| field.text).collect();
    texts.join(",")
}

fn any_of(listed: &[&str]) -> String {
    if listed.is_empty() {
        String::new()
    } else {
        format!(r#""any_of":{listed:?},"#)
    }
}

fn within(kind: String, nullable: bool) -> String {
    if nullable { format!(r#"["null",{kind}]"#) } else { kind }
}

/// A field of quality flags, small enough to overflow.
pub(super) const QUALITY: &str = r#"{"name":"quality","type":{"type":"array","maxItems":36,"items":{"type":"record","name":"Quality","fields":[
    {"name":"field","type":"string","maxLength":160},
    {"name":"flag","type":{"type":"enum","name":"QualityFlag","symbols":["other","sentinel","out_of_range","suspect"],"default":"other"}},
    {"name":"source","type":{"type":"enum","name":"QualitySource","symbols":["device","gateway"],"default":"device"},"default":"device"}
]}},"default":[],"fill":"quality"}"#;
