//! Random readings that fit a program, nearly fit it, or are hardly JSON.
//!
//! The comparison of the two drivers (`judge`) draws from here. Everything is a function of the seed, which a failing test
//! prints. Schemas are drawn by [`generate`](super::generate).

use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::program::{Absent, Integer, Node, NodeId, Program, Real, Symbols};
use super::record::Record;
use super::time::Unit;
use super::*;

/// Draws readings for one program.
pub(super) struct Drawer<'p> {
    program: &'p Program,
    random: StdRng,
    out: String,
    style: Style,
    /// Values that may still be drawn before all becomes as short as can be.
    budget: usize,
}

/// What one reading is like as a whole.
#[derive(Clone, Copy)]
struct Style {
    spaces: Spaces,
    order: Order,
    /// How likely each value, key or comma is none that fits.
    mistakes: f64,
    escapes: f64,
    /// How likely a field is sent that may be left out.
    sent: f64,
}

#[derive(Clone, Copy)]
enum Spaces {
    None,
    Python,
    Wild,
}

#[derive(Clone, Copy)]
enum Order {
    Schema,
    Reverse,
    Random,
}

/// What fits somewhere, seldom, or nowhere.
const STRANGE: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-0.0",
    "0.0",
    "3.0",
    "3e0",
    "1E+2",
    "1e-2",
    "0e999999999999",
    "-0e-5",
    "1e400",
    "-1e400",
    "1e99999999999999999999",
    "1e-99999999999999999999",
    "4.9e-324",
    "2.4703282292062327e-324",
    "2.4703282292062328e-324",
    "1.7976931348623157e308",
    "1.7976931348623159e308",
    "9007199254740993",
    "9007199254740993.0",
    "1.00000005960464477539062500000000000001",
    "1.000000059604644775390625",
    "3.4028235e38",
    "3.4028235677973366e38",
    "-3.4028235677973366e38",
    "3.40282356779733661637539395458142568447e38",
    "7.006492321624085e-46",
    "1.1754943508222875e-38",
    "9223372036854775807.0",
    "9223372036854775808.0",
    "-9223372036854775808.0",
    "922337203685477580.7e1",
    "-9223372036854775809e0",
    "12345678901234567890e-1",
    "250000e-3",
    "-1e-400",
    "1e18",
    "1e19",
    "0.0",
    "0e0",
    "\"2026-11-21T12:00:00Z\"",
    "\"2026-11-21t11:59:59.9999999+00:00\"",
    "\"2026-11-21 13:00:00+01:00\"",
    "\"2026-11-21T12:00:60Z\"",
    "\"2026-11-21T12:00:00\"",
    "\"2026-02-29T12:00:00Z\"",
    "\"0000-01-01T00:00:00Z\"",
    "\"9999-12-31T23:59:59.999Z\"",
    "\"1969-12-31T23:59:59.9999999Z\"",
    "1795262400",
    "1795262400000000",
    "9007199254740992.0",
    "0.1e23",
    "1e22",
    "1e23",
    "8.5e-22",
    "123456789012345678",
    "1234567890123456789",
    "12345678901234567890",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "-18446744073709551615",
    "100000000000000000000000000000",
    "0.00000000000000000000000001",
    "0.30000000000000004",
    "255",
    "255.0",
    "-9999.9",
    "2147483648",
    "-2147483649",
    "\"\"",
    "\"ok\"",
    "\"o\\u006b\"",
    "\"device-1\"",
    "\"devic\\u0065-1\"",
    "\"device-2\"",
    "\"NaN\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud800\"",
    "\"\\udc00\"",
    "\"\\ud800\\u0041\"",
    "\"\\ud800\\\"",
    "\"\\uD8\"",
    "\"\\u00zz\"",
    "\"\\x\"",
    "\"\\b\\f\\n\\r\\t\\/\\\\\\\"\"",
    "\"\t\"",
    "\"\u{1f}\"",
    "\"\u{0}\"",
    "\"\u{7f}\"",
    "\"1234567\\n\"",
    "\"12345678\"",
    "\"123456789\"",
    "\"日本語の文\"",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "{\"a\":1}",
    "{\"a\":1,\"a\":2}",
    "{\"\":0}",
    "[1,]",
    "{\"a\":1,}",
    "[,]",
    "{,}",
    "{1:2}",
    "{\"a\"}",
    "01",
    "-01",
    "00",
    "1.",
    ".5",
    "1.e5",
    "1e",
    "1e+",
    "+1",
    "-",
    "--1",
    "0x1",
    "NaN",
    "Infinity",
    "-Infinity",
    "nul",
    "nulll",
    "tru",
    "True",
    "'a'",
    "\"",
    "\\",
    "",
    "1 2",
    "\u{feff}1",
    "/**/1",
];

impl<'p> Drawer<'p> {
    pub(super) fn new(program: &'p Program, seed: u64) -> Self {
        Drawer {
            program,
            random: StdRng::seed_from_u64(seed),
            out: String::new(),
            style: Style {
                spaces: Spaces::None,
                order: Order::Schema,
                mistakes: 0.0,
                escapes: 0.0,
                sent: 0.7,
            },
            budget: 0,
        }
    }

    pub(super) fn reading(&mut self) -> String {
        self.style = Style {
            spaces: *[Spaces::None, Spaces::None, Spaces::Python, Spaces::Wild]
                .choose(&mut self.random)
                .unwrap(),
            order: *[Order::Schema, Order::Reverse, Order::Random]
                .choose(&mut self.random)
                .unwrap(),
            mistakes: *[0.0, 0.0, 0.01, 0.05].choose(&mut self.random).unwrap(),
            escapes: *[0.0, 0.0, 0.1].choose(&mut self.random).unwrap(),
            sent: *[0.7, 0.7, 0.2].choose(&mut self.random).unwrap(),
        };
        self.budget = 80;
        self.out.clear();
        self.space();
        self.value(self.program.root, 0);
        self.space();
        if self.mistaken() {
            self.strange();
        }
        std::mem::take(&mut self.out)
    }

    fn mistaken(&mut self) -> bool {
        self.style.mistakes > 0.0 && self.random.random_bool(self.style.mistakes)
    }

    fn strange(&mut self) {
        self.out.push_str(STRANGE.choose(&mut self.random).unwrap());
    }

    fn space(&mut self) {
        if let Spaces::Wild = self.style.spaces
            && self.random.random_bool(0.3)
        {
            let spaces = [" ", "\n", "\t", "\r\n", "        ", " \t "];
            self.out.push_str(spaces.choose(&mut self.random).unwrap());
        }
    }

    fn value(&mut self, node: NodeId, depth: usize) {
        if self.mistaken() {
            return self.strange();
        }
        self.budget = self.budget.saturating_sub(1);
        let program = self.program;
        match program.node(node) {
            Node::Null => self.out.push_str("null"),
            Node::Boolean => self.out.push_str(["true", "false"].choose(&mut self.random).unwrap()),
            Node::Integer(integer) => self.integer(integer),
            Node::Real(real) => self.real(real),
            Node::Text | Node::CheckedText(_) => self.text(),
            Node::Device => self.out.push_str("\"device-1\""),
            Node::ObservedAt => {
                let now = NOW_MS - self.random.random_range(-1000..1_000_000);
                match self.random.random_range(0..8) {
                    0 => self.time(now, 1000),
                    _ => self.whole(now),
                }
            }
            Node::Accepts(_) => self.any_time(),
            Node::Reserved => self.out.push_str("null"),
            Node::Enum(symbols) => self.symbol(symbols),
            Node::Array(array) => self.array(array.items, depth),
            Node::Map(values) => self.map(*values, depth),
            Node::Record(record) => self.record(record, depth),
            Node::Optional { .. } if depth > 6 || self.budget == 0 || self.random.random_bool(0.2) => {
                self.out.push_str("null");
            }
            Node::Optional { node, .. } => self.value(*node, depth),
            Node::Union(union) => {
                let flat = [union.boolean, union.integer, union.real, union.text];
                let deep = [union.array, union.object];
                let deep = if depth > 6 || self.budget == 0 {
                    &deep[..0]
                } else {
                    &deep
                };
                let forms: Vec<_> = flat.iter().chain(deep).flatten().collect();
                match forms.choose(&mut self.random) {
                    Some(form) => self.value(form.node, depth),
                    None if union.array.is_some() => self.out.push_str("[]"),
                    None => self.out.push_str(if union.object.is_some() { "{}" } else { "null" }),
                }
            }
        }
    }

    /// A time in any form that a schema can accept.
    fn any_time(&mut self) {
        let now_s = NOW_MS / 1000 - self.random.random_range(-100..100_000);
        let out = &mut self.out;
        let written = match self.random.random_range(0..9) {
            0 | 1 => write!(out, "{now_s}"),
            2 => write!(out, "{now_s}.{:03}", self.random.random_range(0..1000)),
            3 => write!(out, "{now_s}000"),
            4 => write!(out, "{now_s}000000"),
            5 => write!(out, "{now_s}e3"),
            6 => write!(out, "\"2026-11-{:02}T{:02}:30:00\"", 1 + now_s % 20, now_s % 24),
            7 => write!(out, "\"2026-10-25 02:{:02}:00.25\"", now_s % 60),
            _ => return self.time(now_s, 1),
        };
        written.unwrap();
    }

    fn symbol(&mut self, symbols: &Symbols) {
        let other = symbols
            .also
            .choose(&mut self.random)
            .filter(|_| self.random.random_bool(0.3));
        let symbol = match other {
            Some((other, _)) => other.to_string(),
            None => symbols.names.choose(&mut self.random).unwrap().to_string(),
        };
        self.quoted(&symbol);
    }

    fn integer(&mut self, integer: &Integer) {
        let (minimum, maximum) = (integer.range.minimum, integer.range.maximum);
        let value = match self.random.random_range(0..8) {
            0 => self.random.random_range(minimum..=maximum),
            1 => minimum,
            2 => maximum,
            3 => minimum.wrapping_sub(1),
            4 => integer
                .range
                .sentinels
                .choose(&mut self.random)
                .copied()
                .unwrap_or(maximum),
            _ => self.random.random_range(minimum.max(-200)..=maximum.min(200)),
        };
        match integer.instant {
            Some(unit) if self.random.random_bool(0.3) => self.time(value, unit.per_second()),
            _ => self.whole(value),
        }
    }

    /// An integer in one of its forms, or nearly one.
    fn whole(&mut self, value: i64) {
        let out = &mut self.out;
        let written = match self.random.random_range(0..30) {
            0 => write!(out, "{value}.0"),
            1 => write!(out, "{value}e0"),
            2 => write!(out, "{value}000e-3"),
            3 => write!(out, "{}.{}E1", value / 10, value.unsigned_abs() % 10),
            4 => write!(out, "{value}.000000000000000000000000001"),
            _ => write!(out, "{value}"),
        };
        written.unwrap();
    }

    /// A time as text, if jiff has it.
    fn time(&mut self, value: i64, per_second: i64) {
        let nanos = i128::from(value) * i128::from(Unit::Nanos.per_second() / per_second);
        match jiff::Timestamp::from_nanosecond(nanos) {
            Ok(time) if self.random.random_bool(0.7) => write!(self.out, "\"{time}\"").unwrap(),
            Ok(time) => {
                let offset = jiff::tz::offset(self.random.random_range(-23..=23));
                write!(self.out, "\"{}\"", time.display_with_offset(offset)).unwrap();
            }
            Err(_) => write!(self.out, "\"{value}-01-01T00:00:00Z\"").unwrap(),
        }
    }

    fn real(&mut self, real: &Real) {
        let (low, high) = (real.range.minimum.max(-1e6), real.range.maximum.min(1e6));
        let value = self.random.random_range(low..=high);
        let digits = self.random.random_range(0..22_usize);
        let out = &mut self.out;
        let written = match self.random.random_range(0..13) {
            12 => {
                // Halfway between two floats, or next to it.
                let float = self.random.random_range(low..=high) as f32;
                let halfway = (f64::from(float) + f64::from(float.next_up())) / 2.0;
                let tail = ["", "000000001", "00000000"][digits % 3];
                write!(out, "{halfway:.60}{tail}")
            }
            0 => write!(out, "{}", value.trunc() as i64),
            1..=4 => write!(out, "{value:.0$}", digits % 4),
            5 => write!(out, "{value:e}"),
            6 => write!(out, "{value:.digits$}"),
            7 => write!(out, "{value:.digits$E}"),
            8 => write!(out, "{:?}", real.range.sentinels.first().unwrap_or(&high)),
            9 => write!(
                out,
                "{:?}",
                if digits > 11 {
                    real.range.minimum
                } else {
                    real.range.maximum
                }
            ),
            10 => {
                // Any double at all, but for those that are none.
                let any = f64::from_bits(self.random.random());
                write!(out, "{:?}", if any.is_finite() { any } else { value })
            }
            _ => {
                let (digits, power) = (self.random.random::<u64>() >> digits, self.random.random_range(-40..40));
                write!(out, "{digits}e{power}")
            }
        };
        written.unwrap();
    }

    fn text(&mut self) {
        let texts = [
            "",
            "a",
            "Überführung",
            "日本語",
            "😀",
            "q\"uote\\",
            "line\nbreak\t",
            "\u{7f}\u{0}",
            "plain text",
        ];
        let times = self.random.random_range(0..12);
        let text = texts.choose(&mut self.random).unwrap().repeat(times);
        self.quoted(&text);
    }

    fn quoted(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' | '\\' => write!(self.out, "\\{character}").unwrap(),
                '\0'..=' ' => write!(self.out, "\\u{:04x}", character as u32).unwrap(),
                _ if self.style.escapes > 0.0 && self.random.random_bool(self.style.escapes) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04X}").unwrap();
                    }
                }
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    /// Between items: a comma, or seldom none, or two.
    fn comma(&mut self, index: usize) {
        let times = usize::from(index > 0);
        let times = if self.mistaken() {
            self.random.random_range(0..3)
        } else {
            times
        };
        self.out.push_str(&",".repeat(times));
        if let Spaces::Python = self.style.spaces
            && times > 0
        {
            self.out.push(' ');
        }
        self.space();
    }

    fn key(&mut self, key: &str) {
        if self.mistaken() {
            let other = key.chars().skip(1).chain(['c']).collect::<String>();
            self.quoted(&other);
        } else {
            self.quoted(key);
        }
        self.space();
        self.out.push_str(match self.style.spaces {
            Spaces::None => ":",
            Spaces::Python => ": ",
            Spaces::Wild => ":\t",
        });
        self.space();
    }

    fn array(&mut self, items: NodeId, depth: usize) {
        let length = match self.random.random_range(0..60) {
            _ if self.budget == 0 || depth > 6 => 0,
            0 if depth < 3 => self.random.random_range(60..140),
            _ => self.random.random_range(0..4),
        };
        self.out.push('[');
        self.space();
        for index in 0..length {
            self.comma(index);
            self.value(items, depth + 1);
            self.space();
        }
        self.out.push(']');
    }

    fn map(&mut self, values: NodeId, depth: usize) {
        let length = match self.random.random_range(0..60) {
            _ if self.budget == 0 || depth > 6 => 0,
            0 if depth < 3 => self.random.random_range(60..140),
            _ => self.random.random_range(0..4),
        };
        self.out.push('{');
        self.space();
        for index in 0..length {
            self.comma(index);
            let twice = self.mistaken();
            self.key(&format!("key {}", if twice { 0 } else { index }));
            self.value(values, depth + 1);
            self.space();
        }
        self.out.push('}');
    }

    fn record(&mut self, record: &Record, depth: usize) {
        let mut fields = Vec::new();
        for field in &record.fields {
            let wanted = match field.absent {
                Absent::Refused => !self.mistaken(),
                _ if matches!(self.program.node(field.node), Node::Reserved) => self.mistaken(),
                _ => self.budget > 0 && depth < 7 && self.random.random_bool(self.style.sent),
            };
            fields.extend(wanted.then_some(field));
            if wanted && self.mistaken() {
                fields.push(field);
            }
        }
        match self.style.order {
            Order::Schema => {}
            Order::Reverse => fields.reverse(),
            Order::Random => fields.shuffle(&mut self.random),
        }
        self.out.push('{');
        self.space();
        for (index, field) in fields.into_iter().enumerate() {
            self.comma(index);
            let other = record.also(field).choose(&mut self.random).copied();
            match other.filter(|_| self.random.random_bool(0.3)) {
                Some(other) => self.key(other),
                None => self.key(&field.name),
            }
            // As serializers write what a device does not have.
            if !matches!(field.absent, Absent::Refused) && self.random.random_bool(0.06) {
                self.out.push_str("null");
            } else {
                self.value(field.node, depth + 1);
            }
            self.space();
        }
        self.out.push('}');
    }
}
