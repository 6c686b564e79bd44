//! What devices send, checked against the schemas: readings are always accepted, and faults are answered as they say.
//!
//! The judge is a second reading of the gateway's documented rules, over the `.avsc` files themselves: strict JSON, no
//! unknown or repeated field, types, `minimum`, `maximum`, `sentinels`, `out_of_range`, `any_of`, `unique`, lengths, other
//! names, who fills what, and the clock. It shares no code
//! with the devices, nor with the gateway.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use device_simulators::devices::energy::Consumer;
use device_simulators::devices::faults::{ClockLimits, Fault, FaultPlan, FaultRule, Faulty, Reason};
use device_simulators::devices::{City, Device, Kind, Moment};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Wednesday 2026-06-17 06:00 UTC.
const START_MS: i64 = 1_781_676_000_000;

// === JSON that keeps what came twice ===

#[derive(Clone, Debug)]
enum Json {
    Null,
    Boolean,
    Integer(i64),
    Real(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
                Ok(Json::Boolean)
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Integer(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(i64::try_from(value).map_or(Json::Real(value as f64), Json::Integer))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Real(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(Json::Array(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    all.push(entry);
                }
                Ok(Json::Object(all))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

// === the judge ===

/// The schemas, and the types that they name.
struct Judge {
    schemas: BTreeMap<Kind, Value>,
    named: BTreeMap<String, Value>,
    limits: ClockLimits,
    /// Something in the last reading was out of range, and to be stored as null.
    nulled: Cell<bool>,
}

/// What is wrong with a value: every reason that there is.
type Wrong = Vec<(Reason, String)>;

impl Judge {
    fn new() -> Judge {
        let mut judge = Judge {
            schemas: BTreeMap::new(),
            named: BTreeMap::new(),
            limits: ClockLimits::default(),
            nulled: Cell::default(),
        };
        for kind in Kind::PHYSICAL {
            let path = format!("{}/../schemas/{kind}.avsc", env!("CARGO_MANIFEST_DIR"));
            let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            judge.learn(&schema);
            judge.schemas.insert(kind, schema);
        }
        judge
    }

    fn learn(&mut self, schema: &Value) {
        match schema {
            Value::Object(entries) => {
                if entries.get("type").is_some_and(|of| of == "record" || of == "enum") {
                    let name = entries["name"].as_str().unwrap().to_owned();
                    self.named.insert(name, schema.clone());
                }
                entries.values().for_each(|value| self.learn(value));
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn(item)),
            _ => {}
        }
    }

    /// Everything that is wrong with a reading that is received at `now_ms`.
    fn wrong(&self, kind: Kind, device: &str, payload: &[u8], now_ms: i64) -> Wrong {
        let mut wrong = Wrong::new();
        self.nulled.set(false);
        match serde_json::from_slice::<Json>(payload) {
            Ok(json) => self.record(&self.schemas[&kind], &json, device, now_ms, "", &mut wrong),
            Err(error) => wrong.push((Reason::Malformed, error.to_string())),
        }
        wrong
    }

    fn record(&self, schema: &Value, json: &Json, device: &str, now_ms: i64, path: &str, wrong: &mut Wrong) {
        let Json::Object(entries) = json else {
            wrong.push((Reason::SchemaMismatch, format!("{path}: no object")));
            return;
        };
        let fields = schema["fields"].as_array().unwrap();
        for (index, (name, value)) in entries.iter().enumerate() {
            let path = format!("{path}.{name}");
            let is_called = |field: &&Value| field["name"] == name.as_str() || lists(&field["also"], name);
            let Some(field) = fields.iter().find(is_called) else {
                wrong.push((Reason::SchemaMismatch, format!("{path}: unknown")));
                continue;
            };
            if entries.iter().skip(index + 1).any(|(other, _)| other == name) {
                wrong.push((Reason::SchemaMismatch, format!("{path}: twice")));
            }
            match field["fill"].as_str() {
                Some("device") if matches!(value, Json::Text(text) if text == device) => {}
                Some("device" | "received_at") => {
                    wrong.push((Reason::SchemaMismatch, format!("{path}: not the device's to fill")));
                }
                _ => self.value(&field["type"], field, value, (device, now_ms), &path, wrong),
            }
        }
        for field in fields {
            let name = field["name"].as_str().unwrap();
            let may_miss =
                field.get("default").is_some() || field.get("fill").is_some() || field.get("clock").is_some();
            if !may_miss && !entries.iter().any(|(entry, _)| entry == name) {
                wrong.push((Reason::SchemaMismatch, format!("{path}.{name}: missing")));
            }
        }
        // Records inside need no value: it is the reading that needs one.
        if path.is_empty() && schema.get("any_of").is_some() && !self.has_value(schema, json) {
            wrong.push((Reason::SchemaMismatch, format!("{path}: no value")));
        }
    }

    /// Neither null nor empty, nor an array or object of nothing else; of a record, in the fields that `any_of` lists.
    fn has_value(&self, of: &Value, json: &Json) -> bool {
        let of = match of {
            Value::Array(branches) => branches.iter().find(|branch| *branch != "null").unwrap(),
            Value::String(name) => self.named.get(name).unwrap_or(of),
            of => of,
        };
        match json {
            Json::Null => false,
            Json::Text(text) => !text.is_empty(),
            Json::Array(items) => items.iter().any(|item| self.has_value(&of["items"], item)),
            Json::Object(entries) => entries.iter().any(|(name, value)| match of["fields"].as_array() {
                None => self.has_value(&of["values"], value),
                Some(fields) => fields.iter().any(|field| {
                    let is_called = field["name"] == name.as_str() || lists(&field["also"], name);
                    let counts = of
                        .get("any_of")
                        .is_none_or(|any_of| lists(any_of, field["name"].as_str().unwrap()));
                    is_called && counts && self.has_value(&field["type"], value)
                }),
            }),
            _ => true,
        }
    }

    fn value(&self, of: &Value, bounds: &Value, json: &Json, context: (&str, i64), path: &str, wrong: &mut Wrong) {
        let mut mismatch = || wrong.push((Reason::SchemaMismatch, format!("{path}: {json:?} is no {of}")));
        match (of, json) {
            (Value::Array(branches), Json::Null) => {
                if !branches.iter().any(|branch| branch == "null") {
                    mismatch();
                }
            }
            (Value::Array(branches), json) => {
                let branch = branches.iter().find(|branch| *branch != "null").unwrap();
                self.value(branch, bounds, json, context, path, wrong);
            }
            (Value::Object(definition), json) => match definition["type"].as_str().unwrap() {
                "record" => self.record(of, json, context.0, context.1, path, wrong),
                "enum" => {
                    let symbols = definition["symbols"].as_array().unwrap();
                    if !matches!(json, Json::Text(text) if symbols.iter().any(|symbol| symbol == text.as_str())) {
                        mismatch();
                    }
                }
                "array" => match json {
                    Json::Array(items) if !fits(definition, items) => mismatch(),
                    Json::Array(items) => items.iter().enumerate().for_each(|(index, item)| {
                        self.value(
                            &definition["items"],
                            bounds,
                            item,
                            context,
                            &format!("{path}[{index}]"),
                            wrong,
                        );
                    }),
                    _ => mismatch(),
                },
                "map" => match json {
                    Json::Object(entries) => entries.iter().for_each(|(key, item)| {
                        self.value(
                            &definition["values"],
                            bounds,
                            item,
                            context,
                            &format!("{path}.{key}"),
                            wrong,
                        );
                    }),
                    _ => mismatch(),
                },
                name => {
                    let inner = Value::String(name.to_owned());
                    let bounds = if definition.contains_key("minimum") { of } else { bounds };
                    self.value(&inner, bounds, json, context, path, wrong);
                }
            },
            (Value::String(name), json) => match (name.as_str(), json) {
                ("double", Json::Integer(value)) => self.range(bounds, *value as f64, path, wrong),
                ("double", Json::Real(value)) => self.range(bounds, *value, path, wrong),
                ("int" | "long", Json::Integer(value)) => {
                    if bounds["clock"] == "observed" {
                        self.clock(*value, context.1, path, wrong);
                    }
                    self.range(bounds, *value as f64, path, wrong);
                }
                ("string", Json::Text(text)) => {
                    let most = bounds["maxLength"].as_u64();
                    if most.is_some_and(|most| text.chars().count() as u64 > most) {
                        mismatch();
                    }
                }
                (name, json) => match self.named.get(name) {
                    Some(definition) => self.value(definition, bounds, json, context, path, wrong),
                    None => mismatch(),
                },
            },
            _ => mismatch(),
        }
    }

    fn range(&self, bounds: &Value, value: f64, path: &str, wrong: &mut Wrong) {
        let sentinels = bounds["sentinels"].as_array();
        if sentinels.is_some_and(|values| values.iter().any(|sentinel| sentinel.as_f64() == Some(value))) {
            return;
        }
        let below = bounds["minimum"].as_f64().is_some_and(|minimum| value < minimum);
        let above = bounds["maximum"].as_f64().is_some_and(|maximum| value > maximum);
        if (below || above) && bounds["out_of_range"] == "null" {
            self.nulled.set(true);
        } else if below || above {
            wrong.push((Reason::OutOfRange, format!("{path}: {value}")));
        }
    }

    fn clock(&self, observed_ms: i64, now_ms: i64, path: &str, wrong: &mut Wrong) {
        let ahead = observed_ms - now_ms > self.limits.max_ahead.as_millis() as i64;
        let old = self
            .limits
            .max_age
            .is_some_and(|age| now_ms - observed_ms > age.as_millis() as i64);
        if ahead || old {
            wrong.push((Reason::BadClock, format!("{path}: {observed_ms}")));
        }
    }
}

/// Whether an array of texts has this one.
fn lists(texts: &Value, text: &str) -> bool {
    texts
        .as_array()
        .is_some_and(|texts| texts.iter().any(|one| one == text))
}

/// Whether an array may have these items: not too many, and none twice.
fn fits(array: &serde_json::Map<String, Value>, items: &[Json]) -> bool {
    let most = array.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let identity = array.get("unique").and_then(Value::as_str);
    let identities = items.iter().filter_map(|item| match (item, identity) {
        (Json::Object(entries), Some(identity)) => entries.iter().find(|(name, _)| name == identity),
        _ => None,
    });
    let identities: Vec<String> = identities.map(|(_, value)| format!("{value:?}")).collect();
    let twice = (1..identities.len()).any(|end| identities[..end].contains(&identities[end]));
    items.len() as u64 <= most && !twice
}

// === the tests ===

#[test]
fn the_judge_judges() {
    let judge = Judge::new();
    let check = |json: &str, expected: &[Reason]| {
        let wrong = judge.wrong(Kind::TRAFFIC, "loop-1", json.as_bytes(), START_MS);
        let reasons: Vec<Reason> = wrong.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, expected, "{json}: {wrong:?}");
    };
    use Reason::{BadClock, Malformed, OutOfRange, SchemaMismatch};
    check(
        r#"{"speed_kmh":50,"lanes":[{"lane":1,"speed_kmh":255}],"classes":{"car":3}}"#,
        &[],
    );
    check(
        r#"{"device":"loop-1","status":"ok","location":{"latitude":1,"longitude":2}}"#,
        &[],
    );
    check(
        r#"{"averageVehicleSpeed":50,"flow_veh_h":15300,"queue_length_m":-1}"#,
        &[],
    );
    check(
        r#"{"quality":[{"field":"speed_kmh","flag":"suspect"}],"firmware":"7"}"#,
        &[],
    );
    check("{}", &[SchemaMismatch]);
    check(
        r#"{"location":{"latitude":1,"longitude":2},"lanes":[],"speed_kmh":null}"#,
        &[SchemaMismatch],
    );
    check(
        r#"{"speed_kmh":3,"lanes":[{"lane":1},{"lane":2},{"lane":1}]}"#,
        &[SchemaMismatch],
    );
    check(r#"{"lanes":[{"lane":1},{"lane":2}]}"#, &[SchemaMismatch]);
    check(r#"{"lanes":[{"lane":1},{"lane":2,"vehicle_count":0}]}"#, &[]);
    check(
        r#"{"lanes":[{"lane":1,"details":{"class_speed_kmh":{"car":null}}}]}"#,
        &[SchemaMismatch],
    );
    check(r#"{"speed_kmh":251}"#, &[]);
    check(
        r#"{"lanes":[{"lane":1,"flow_veh_h":15300},{"lane":65,"flow_veh_h":15301}]}"#,
        &[OutOfRange],
    );
    check(
        r#"{"speed_kmh":25,"location":{"latitude":91,"longitude":0}}"#,
        &[OutOfRange],
    );
    check(r#"{"lanes":[{"speed_kmh":3}]}"#, &[SchemaMismatch]);
    check(r#"{"speed_kmh":"3"}"#, &[SchemaMismatch]);
    check(r#"{"vehicle_count":3.0}"#, &[SchemaMismatch]);
    check(r#"{"status":"OK"}"#, &[SchemaMismatch]);
    check(r#"{"sequence":1,"sequence":1,"speed_kmh":3}"#, &[SchemaMismatch]);
    check(r#"{"device":"loop-2","speed_kmh":3}"#, &[SchemaMismatch]);
    check(r#"{"received_at":1,"speed_kmh":3}"#, &[SchemaMismatch]);
    check(r#"{"observed_at":0,"speed_kmh":3}"#, &[BadClock]);
    check(r#"{"classes":{"car":-1}}"#, &[OutOfRange]);
    check(r#"{"speed_kmh":NaN}"#, &[Malformed]);
}

#[test]
fn every_reading_of_every_device_is_taken() {
    let judge = Judge::new();
    for seed in 1..=3 {
        let city = Arc::new(City::new(seed));
        let mut meters = Vec::new();
        for index in 0..4000u64 {
            let moment = Moment {
                observed_at_ms: START_MS + index as i64 * 7_654_321,
                interval: Duration::from_millis([200, 1000, 60_000, 3_600_000][index as usize % 4]),
            };
            let of = |kind: Kind| Device::in_city(&city, kind, index);
            // A meter's first reading may have months of sunshine to add up, so each meter says several.
            if index % 8 == 0 {
                meters = Consumer::ALL
                    .map(|consumer| Device::meter(&city, consumer, index))
                    .into();
                meters.push(of(Kind::ENERGY));
            }
            let others = Kind::PHYSICAL.into_iter().filter(|kind| *kind != Kind::ENERGY).map(of);
            for device in others.collect::<Vec<_>>().iter().chain(&meters) {
                let reading = device.reading(index, moment);
                let wrong = judge.wrong(device.kind(), device.name(), &reading, moment.observed_at_ms);
                assert!(wrong.is_empty(), "{wrong:?}: {}", String::from_utf8_lossy(&reading));
            }
        }
    }
}

/// Faults one at a time and all together; what they expect is what the judge finds.
#[test]
fn faults_expect_what_the_schemas_say() {
    let judge = Judge::new();
    let mut plans: Vec<Vec<FaultRule>> = Fault::ALL
        .iter()
        .map(|fault| vec![FaultRule::new(*fault, 0.1)])
        .collect();
    plans.push(Fault::ALL.iter().map(|fault| FaultRule::new(*fault, 0.02)).collect());
    let mut seen: BTreeMap<(Fault, &str), u64> = BTreeMap::new();
    for seed in 1..=6 {
        let city = Arc::new(City::new(seed));
        for (rules, kind) in plans.iter().flat_map(|rules| Kind::PHYSICAL.map(|kind| (rules, kind))) {
            let plan = FaultPlan { rules: rules.clone() };
            let device = Device::in_city(&city, kind, seed * 31);
            let mut faulty = Faulty::new(seed, device, &plan, ClockLimits::default());
            for sequence in 0..600u64 {
                let moment = Moment {
                    observed_at_ms: START_MS + sequence as i64 * 300_000,
                    interval: Duration::from_secs(300),
                };
                for emission in faulty.measure(sequence, moment, moment.observed_at_ms) {
                    let wrong = judge.wrong(kind, faulty.device().name(), &emission.payload, moment.observed_at_ms);
                    let shown = String::from_utf8_lossy(&emission.payload);
                    let allowed = match wrong.as_slice() {
                        [] => emission.expected.allows(None),
                        wrong => wrong.iter().any(|(reason, _)| emission.expected.allows(Some(*reason))),
                    };
                    assert!(
                        allowed,
                        "{} expects {:?}: {wrong:?} in {shown}",
                        emission.labels, emission.expected
                    );
                    let accepted = if judge.nulled.get() { "nulled" } else { "accepted" };
                    let found = wrong.first().map_or(accepted, |(reason, _)| reason.label());
                    for fault in emission.labels.iter() {
                        *seen.entry((fault, found)).or_default() += 1;
                    }
                }
            }
        }
    }
    // Each fault was met, and those that can end in two ways ended in both.
    let count = |fault: Fault, found: &str| {
        seen.iter()
            .filter(|((f, r), _)| (*f, *r) == (fault, found))
            .map(|(_, n)| n)
            .sum::<u64>()
    };
    for (fault, found) in [
        (Fault::Stuck, "accepted"),
        (Fault::Spike, "accepted"),
        (Fault::Spike, "nulled"),
        (Fault::Drift, "accepted"),
        (Fault::Sentinel, "accepted"),
        (Fault::Sentinel, "nulled"),
        (Fault::UnitMixUp, "accepted"),
        (Fault::UnitMixUp, "nulled"),
        (Fault::DeadClock, "bad_clock"),
        (Fault::ClockSkew, "accepted"),
        (Fault::ClockSkew, "bad_clock"),
        (Fault::Duplicate, "accepted"),
        (Fault::LateBurst, "accepted"),
        (Fault::Truncated, "malformed"),
        (Fault::Malformed, "malformed"),
        (Fault::Malformed, "schema_mismatch"),
        (Fault::Malformed, "out_of_range"),
        (Fault::Resend, "accepted"),
    ] {
        assert!(count(fault, found) > 5, "{fault} {found}: {seen:?}");
    }
    assert_eq!(count(Fault::DeadClock, "accepted"), 0);
    for found in ["accepted", "nulled"] {
        assert_eq!(count(Fault::Truncated, found) + count(Fault::Malformed, found), 0);
    }
}
