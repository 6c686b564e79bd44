//! One reading while it is written.
//!
//! An optional field is in all readings of four devices of five, and in none of the fifth, unless a hint gives its share of
//! the readings. A record of which something must have a value gets one. The reading's own numbers and texts come before
//! its arrays and records, and it stays below [`BYTES_MAX`] as far as optional fields allow it.

use super::choice::Choice;
use super::number::{Course, Number};
use super::plan::{Array, Field, Plan, Record, Role, Shape, ShapeId};
use crate::devices::calendar::{DAY_MS, LocalTime};
use crate::devices::noise::Noise;
use crate::devices::{Device, Header, Moment};

/// With its header and options, a CoAP message must stay under 1280 bytes (RFC 7252 §4.6).
const BYTES_MAX: usize = 1100;

/// Records, arrays and maps inside each other, where a schema would allow any number.
const DEPTH_MAX: usize = 6;

/// A record that must hold itself, which no gateway accepts, ends somewhere.
const DEPTH_END: usize = 60;

/// The share of devices that have what they may leave out.
const EQUIPPED: f64 = 0.8;

/// Of the devices that lack a value, the share that sends null instead of nothing.
const SAYS_NULL: f64 = 0.2;

/// The share of devices that use another spelling, where there is one.
const SPELLS_OTHERWISE: f64 = 0.25;

pub(super) struct Writer<'a> {
    plan: &'a Plan,
    noise: &'a Noise,
    header: &'a Header,
    moment: Moment,
    /// Local standard time, milliseconds since 1970.
    local_ms: i64,
    out: Vec<u8>,
    /// The place in the reading, which is also the channel of its chance.
    path: String,
    depth: usize,
}

/// The field by which an item differs from others, and its value as JSON.
type Identity<'a> = Option<(&'a str, &'a str)>;

// === impl Writer ===

impl<'a> Writer<'a> {
    pub(super) fn new(plan: &'a Plan, device: &'a Device, header: &'a Header, moment: Moment) -> Writer<'a> {
        Writer {
            plan,
            noise: &device.noise,
            header,
            moment,
            local_ms: moment.observed_at_ms.saturating_add(device.city.place.utc_offset_ms),
            out: Vec::with_capacity(512),
            path: String::new(),
            depth: 0,
        }
    }

    pub(super) fn reading(mut self) -> Vec<u8> {
        self.record(self.plan.outermost(), None, false);
        self.out
    }

    /// Writes a value; whether it is one for `any_of`. `must`: it has to be, as far as it can.
    fn shape(&mut self, shape: ShapeId, must: bool) -> bool {
        let time_ms = self.moment.observed_at_ms;
        match self.plan.shape(shape) {
            _ if self.depth > DEPTH_END => {
                self.push("null");
                return false;
            }
            Shape::Null => {
                self.push("null");
                return false;
            }
            Shape::Boolean(choice) => {
                let position = choice.position(self.noise, &self.path, time_ms);
                self.push(&choice.symbols[position]);
            }
            Shape::Symbol(choice) => {
                let position = choice.position(self.noise, &self.path, time_ms);
                self.symbol(choice, position);
            }
            Shape::Number(number) => self.number(number),
            Shape::Time(time) => {
                // Something that happened within the last ten minutes.
                let ago_ms = (600_000.0 * self.noise.fixed(&self.path)) as i64;
                self.push(&time.text(self.noise, &self.path, time_ms.saturating_sub(ago_ms)));
            }
            Shape::Text(text) => {
                let text = text.of(self.noise, &self.path, time_ms, 0);
                self.text(&text);
                return !text.is_empty();
            }
            Shape::Array(array) => return self.array(array, must),
            Shape::Map { keys, values } => return self.map(keys, *values, must),
            Shape::Record(record) => return self.record(record, None, must),
        }
        true
    }

    fn number(&mut self, number: &Number) {
        let local = LocalTime::of(self.local_ms, 0);
        let location = &self.header.location;
        let value = match &number.course {
            // Beyond 53 bits a double would round.
            Course::Sequence => return self.push(&self.header.sequence.to_string()),
            Course::Interval => self.header.interval_s,
            Course::Latitude => location.latitude,
            Course::Longitude => location.longitude,
            Course::Altitude => location.altitude_m,
            Course::Calendar { per_day, of_day: true } => (local.hour / 24.0 * per_day).floor(),
            Course::Calendar { per_day, of_day: false } => (self.local_ms as f64 / DAY_MS as f64 * per_day).floor(),
            Course::Level(level) => level.value(self.noise, &self.path, self.moment.observed_at_ms, local),
            Course::Counter(counter) => {
                let register = (number.bounds.low, number.bounds.high);
                counter.value(self.noise, &self.path, self.local_ms, register)
            }
        };
        self.push(&number.text(value));
    }

    fn symbol(&mut self, choice: &Choice, position: usize) {
        let symbol = &choice.symbols[position];
        let also = choice.also.get(position).map(Vec::as_slice).unwrap_or_default();
        self.text(self.spelling(symbol, also));
    }

    /// The name that this device has for something.
    fn spelling<'n>(&self, name: &'n str, also: &'n [String]) -> &'n str {
        let chance = self.noise.fixed(&format!("{} {name} spelling", self.path)) / SPELLS_OTHERWISE;
        also.get((chance * also.len() as f64) as usize)
            .map_or(name, String::as_str)
    }

    fn text(&mut self, text: &str) {
        // A text is always JSON, and the buffer grows.
        serde_json::to_writer(&mut self.out, text).unwrap_or_default();
    }

    fn push(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Separates what follows from what was written since the bracket.
    fn comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.push(",");
        }
    }

    /// Writes a value one level deeper, at `step` behind the path.
    fn at<V>(&mut self, step: &str, write: impl FnOnce(&mut Self) -> V) -> V {
        let path = self.path.len();
        self.path.push_str(step);
        self.depth += 1;
        let written = write(self);
        self.depth -= 1;
        self.path.truncate(path);
        written
    }
}

// === impl Writer: arrays and maps ===

impl Writer<'_> {
    fn array(&mut self, array: &Array, must: bool) -> bool {
        let some = 1 + (3.0 * self.noise.fixed(&self.path)) as usize;
        let wanted = array.count.unwrap_or(some).max(must.into()).min(array.most);
        let count = match must {
            true => wanted,
            false if self.depth > DEPTH_MAX => 0,
            false => wanted,
        };
        let mut has_value = false;
        let mut written: Vec<Vec<u8>> = Vec::new();
        self.push("[");
        for position in 0..count {
            let step = format!("[{position}]");
            let identity = self.identity(array, position, &step);
            if identity.as_ref().is_some_and(|identity| written.contains(identity)) {
                continue;
            }
            let before = self.out.len();
            self.comma();
            let (start, must) = (self.out.len(), must && !has_value);
            let is_value = self.at(&step, |this| {
                match (this.plan.shape(array.items), &array.unique, &identity) {
                    (Shape::Record(record), Some(name), Some(value)) => {
                        this.record(record, Some((name, &String::from_utf8_lossy(value))), must)
                    }
                    _ => this.shape(array.items, must),
                }
            });
            // Alarms, say, are on or off, not on twice.
            let item = self.out.get(start..).unwrap_or_default().to_vec();
            let is_twice = matches!(self.plan.shape(array.items), Shape::Symbol(_)) && written.contains(&item);
            if is_twice || self.out.len() > BYTES_MAX && position > 0 {
                self.out.truncate(before);
            } else {
                written.push(identity.unwrap_or(item));
                has_value |= is_value;
            }
        }
        self.push("]");
        has_value
    }

    /// What tells an item from the others, as JSON.
    fn identity(&mut self, array: &Array, position: usize, step: &str) -> Option<Vec<u8>> {
        let Shape::Record(record) = self.plan.shape(array.items) else {
            return None;
        };
        let name = array.unique.as_ref()?;
        let field = record.fields.iter().find(|field| field.name == *name)?;
        let start = self.out.len();
        // The same chance for all items, so that no two begin with the same text.
        let channel = format!("{}[].{name}", self.path);
        self.at(&format!("{step}.{name}"), |this| match this.plan.shape(field.shape) {
            Shape::Number(number) => this.push(&number.nth(position)),
            // A further symbol would be one that is there already: it is left out.
            Shape::Symbol(choice) => this.text(&choice.symbols[position % choice.symbols.len()]),
            Shape::Text(text) => this.text(&text.of(this.noise, &channel, this.moment.observed_at_ms, position)),
            _ => drop(this.shape(field.shape, false)),
        });
        Some(self.out.split_off(start))
    }

    fn map(&mut self, keys: &[String], values: ShapeId, must: bool) -> bool {
        self.push("{");
        let keys = if self.depth > DEPTH_MAX && !must { &[] } else { keys };
        let mut has_value = false;
        for key in keys {
            self.comma();
            self.text(key);
            self.push(":");
            has_value |= self.at(&format!(".{key}"), |this| this.shape(values, must && !has_value));
        }
        self.push("}");
        has_value
    }
}

// === impl Writer: records ===

impl Writer<'_> {
    /// Whether one of those fields that count has a value; `must`: one has to.
    fn record(&mut self, record: &Record, identity: Identity<'_>, must: bool) -> bool {
        let start = self.out.len();
        if self.fields(record, identity, None) {
            return true;
        }
        if !record.needs_value && !must {
            return false;
        }
        let candidates = self.candidates(record);
        candidates.into_iter().any(|forced| {
            self.out.truncate(start);
            self.fields(record, identity, Some(forced))
        })
    }

    /// Fields that can be made to have a value, beginning with any.
    fn candidates<'r>(&self, record: &'r Record) -> Vec<&'r Field> {
        let counting = record
            .fields
            .iter()
            .filter(|field| field.counts && field.role != Role::Filled);
        let mut candidates: Vec<&Field> = counting.collect();
        let first = (self.chance("", "any_of") * candidates.len() as f64) as usize;
        candidates.rotate_left(first);
        if self.depth > DEPTH_MAX {
            // The way that ends soonest, and no other: of records that hold themselves there are too many.
            candidates.sort_by_key(|field| self.plan.shape(field.shape).is_composite());
            candidates.truncate(1);
        }
        candidates
    }

    /// A record's fields; whether one of those that count has a value. One may be forced to.
    fn fields(&mut self, record: &Record, identity: Identity<'_>, forced: Option<&Field>) -> bool {
        self.push("{");
        let mut has_value = false;
        for field in &record.fields {
            let identity = identity.filter(|(name, _)| *name == field.name);
            let must = forced.is_some_and(|forced| forced.name == field.name);
            has_value |= self.field(field, identity, must) && field.counts;
        }
        self.push("}");
        has_value
    }

    /// Whether the field has a value now.
    fn field(&mut self, field: &Field, identity: Identity<'_>, must: bool) -> bool {
        if field.role == Role::Filled {
            return false;
        }
        let before = self.out.len();
        if !must && !self.has(field) {
            let says_null = field.nullable && self.chance(&field.name, "null") < SAYS_NULL;
            if says_null || !field.optional {
                self.member(field, |this| this.push("null"));
            }
            return false;
        }
        let has_value = self.member(field, |this| match identity {
            Some((_, value)) => {
                this.push(value);
                value != "\"\""
            }
            None if field.role == Role::Clock => {
                this.clock(field);
                true
            }
            None => this.shape(field.shape, must),
        });
        let is_spare = field.role == Role::Plain && field.optional && !must;
        if is_spare && self.out.len() > BYTES_MAX {
            self.out.truncate(before);
            return false;
        }
        has_value
    }

    fn has(&self, field: &Field) -> bool {
        let is_deep = self.depth >= DEPTH_MAX && self.plan.shape(field.shape).is_composite();
        match field.role {
            _ if !field.optional && !field.nullable => true,
            Role::Plain if is_deep => false,
            Role::Plain => match field.present {
                Some(share) => {
                    let channel = format!("{}.{} present", self.path, field.name);
                    self.noise.unit(&channel, self.moment.observed_at_ms) < share
                }
                None => !field.optional || self.chance(&field.name, "equipped") < EQUIPPED,
            },
            Role::Kept | Role::Clock | Role::Sequence | Role::Filled => true,
        }
    }

    fn member<V>(&mut self, field: &Field, write: impl FnOnce(&mut Self) -> V) -> V {
        self.comma();
        let name = match field.role {
            Role::Plain => self.spelling(&field.name, &field.also).to_owned(),
            _ => field.name.clone(),
        };
        self.text(&name);
        self.push(":");
        let step = if self.path.is_empty() {
            field.name.clone()
        } else {
            format!(".{}", field.name)
        };
        self.at(&step, write)
    }

    fn clock(&mut self, field: &Field) {
        if let Shape::Time(time) = self.plan.shape(field.shape) {
            self.push(&time.text(self.noise, &field.name, self.moment.observed_at_ms));
        }
    }

    /// A property of the device's field that never changes, 0 to 1.
    fn chance(&self, name: &str, what: &str) -> f64 {
        self.noise.fixed(&format!("{}.{name} {what}", self.path))
    }
}
