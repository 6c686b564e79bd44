//! Readings as devices send them, with their fields in three orders.
//!
//! The same bytes in every run: the city's own devices make them from a seed and a fixed moment.

use std::sync::Arc;

use citygate::catalogue::Kind;
use device_simulators::devices::{self, City, Device, Moment};
use serde_json::Value;

/// When the readings are received, in milliseconds since 1970.
pub const NOW_MS: i64 = 1_781_654_400_123;

/// Readings of each kind; more would take longer to make than to count.
pub const READINGS: u64 = 40;

const SEED: u64 = 7;

/// The order of the fields of every object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As the schema has them, and as simulated devices write them.
    Schema,
    Alphabetical,
    /// Another one in every reading.
    Random,
}

// === impl Order ===

impl Order {
    pub const ALL: [Order; 3] = [Order::Schema, Order::Alphabetical, Order::Random];

    pub fn name(self) -> &'static str {
        match self {
            Order::Schema => "schema order",
            Order::Alphabetical => "alphabetical",
            Order::Random => "random order",
        }
    }
}

/// Readings of one kind with the devices that send them.
pub fn readings(kind: &Kind, order: Order) -> Vec<(String, Vec<u8>)> {
    let simulated = devices::Kind::PHYSICAL.into_iter().find(|one| one.name() == kind.name);
    let simulated = simulated.unwrap_or_else(|| unreachable!("{} is simulated", kind.name));
    let mut dice = Dice(SEED);
    let city = Arc::new(City::new(SEED));
    (0..READINGS)
        .map(|number| {
            let device = Device::in_city(&city, simulated, number);
            let moment = Moment {
                observed_at_ms: NOW_MS - number as i64 * 1000,
                interval: std::time::Duration::from_secs(60),
            };
            let sent = device.reading(1_000_000 + number, moment);
            let json = match order {
                Order::Schema => sent,
                _ => reordered(&sent, order, &mut dice),
            };
            (device.name().to_owned(), json)
        })
        .collect()
}

fn reordered(json: &[u8], order: Order, dice: &mut Dice) -> Vec<u8> {
    let value: Value = serde_json::from_slice(json).unwrap_or_else(|error| unreachable!("{error}"));
    let mut text = String::new();
    write(&value, order, dice, &mut text);
    text.into_bytes()
}

/// As serde_json writes it, but for the order of fields.
fn write(value: &Value, order: Order, dice: &mut Dice, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            if order == Order::Random {
                dice.shuffle(&mut fields);
            }
            out.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                out.push_str(if index > 0 { ",\"" } else { "\"" });
                out.push_str(name);
                out.push_str("\":");
                write(value, order, dice, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, order, dice, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// xorshift64*: the same throws in every version of every library.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.throw(last + 1));
        }
    }
}
