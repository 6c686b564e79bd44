//! Texts: one of those that are hinted, one that a pattern describes, or a plain one.
//!
//! A device says the same text always, but for hinted ones, which change as states do. A text from a pattern is made along
//! the pattern's own parts and then matched against it, since a word's border or a pattern's middle may not hold.

use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::devices::noise::Noise;

/// How long a hinted text stays.
const HOLD_MS: i64 = 600_000;

/// Repetitions beyond the least, where a pattern allows any number.
const MORE_MAX: u32 = 3;

/// Texts that are tried until one matches; the last is the shortest.
const TRIES: i64 = 20;

#[derive(Debug)]
pub(super) struct Text {
    source: Source,
    /// How many characters it may have.
    chars: (usize, usize),
    /// One that fits, should none be found for a device.
    fallback: String,
}

#[derive(Debug)]
enum Source {
    Plain { name: String },
    Values(Vec<String>),
    Pattern { hir: Box<Hir>, regex: Regex },
}

// === impl Text ===

impl Text {
    /// `name` is that of its field; hinted `values` go before the pattern.
    ///
    /// # Errors
    /// A hinted value does not fit, or no text can be made of the pattern.
    pub(super) fn new(
        name: &str,
        values: Option<&Vec<String>>,
        pattern: Option<&str>,
        chars: (usize, usize),
    ) -> Result<Text, String> {
        let regex = pattern.map(Regex::new).transpose();
        let regex = regex.map_err(|error| format!("\"pattern\": {}", error.to_string().replace('\n', " ")))?;
        let fits = |text: &str| has_length(text, chars) && regex.as_ref().is_none_or(|regex| regex.is_match(text));
        if let Some(values) = values {
            return match values.iter().find(|value| !fits(value)) {
                Some(value) => Err(format!(
                    "simulate.values: {value:?} does not fit its pattern, minLength or maxLength"
                )),
                None => Ok(Text {
                    source: Source::Values(values.clone()),
                    chars,
                    fallback: String::new(),
                }),
            };
        }
        let source = match (regex, pattern) {
            (Some(regex), Some(pattern)) => Source::Pattern {
                hir: Box::new(regex_syntax::parse(pattern).map_err(|error| error.to_string())?),
                regex,
            },
            _ => Source::Plain { name: name.to_owned() },
        };
        let mut text = Text {
            source,
            chars,
            fallback: String::new(),
        };
        match (text.made(&Noise::new(0, "pattern", 0), "", 0), pattern) {
            (None, Some(pattern)) => Err(format!(
                "no text can be made of the pattern {pattern}: list some in simulate.values"
            )),
            (made, _) => {
                text.fallback = made.unwrap_or_default();
                Ok(text)
            }
        }
    }

    /// The text of a moment; in an array, of the item in this position.
    pub(super) fn of(&self, noise: &Noise, channel: &str, time_ms: i64, position: usize) -> String {
        let made = match &self.source {
            Source::Values(values) => {
                let chance = noise.unit(channel, time_ms.div_euclid(HOLD_MS));
                let first = (chance * values.len() as f64) as usize;
                // Beyond the last they begin anew: whoever needs others leaves the item out.
                values.get((first + position) % values.len().max(1)).cloned()
            }
            _ => self.made(noise, channel, position),
        };
        made.unwrap_or_else(|| self.fallback.clone())
    }

    fn made(&self, noise: &Noise, channel: &str, position: usize) -> Option<String> {
        let (hir, regex) = match &self.source {
            Source::Values(values) => return values.first().cloned(),
            Source::Plain { name } => return Some(self.plain(name, noise, channel, position)),
            Source::Pattern { hir, regex } => (hir, regex),
        };
        let attempt = |attempt: i64| {
            let mut along = Along {
                noise,
                channel,
                tick: (position as i64) << 32 | attempt << 16,
                more_max: if attempt < TRIES - 1 { MORE_MAX } else { 0 },
                text: Vec::new(),
            };
            along.walk(hir);
            let text = String::from_utf8(along.text).ok()?;
            (has_length(&text, self.chars) && regex.is_match(&text)).then_some(text)
        };
        (0..TRIES).find_map(attempt)
    }

    fn plain(&self, name: &str, noise: &Noise, channel: &str, position: usize) -> String {
        let number = |most: f64| (most * noise.fixed(channel)) as u32;
        let text = match name {
            "firmware" | "version" => format!("{}.{}.{}", 1 + number(4.0), number(40.0) % 10, number(300.0) % 10),
            "serial" => format!("{:08}", number(1e8)),
            _ if position > 0 || name == "space" => format!("{}", position + 1),
            _ => format!("{name}-{}", 1 + number(99.0)),
        };
        let (least, most) = self.chars;
        let padding = (text.chars().count()..least).map(|_| '0');
        text.chars().chain(padding).take(most).collect()
    }
}

fn has_length(text: &str, (least, most): (usize, usize)) -> bool {
    (least..=most).contains(&text.chars().count())
}

/// A walk along a pattern, with chance at each fork.
struct Along<'a> {
    noise: &'a Noise,
    channel: &'a str,
    tick: i64,
    more_max: u32,
    text: Vec<u8>,
}

// === impl Along ===

impl Along<'_> {
    /// 0 to `below`, without it.
    fn pick(&mut self, below: usize) -> usize {
        self.tick += 1;
        (self.noise.unit(self.channel, self.tick) * below as f64) as usize
    }

    fn walk(&mut self, hir: &Hir) {
        match hir.kind() {
            // Borders hold or do not: the whole is matched afterwards.
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => self.text.extend_from_slice(&literal.0),
            HirKind::Class(class) => self.one_of(class),
            HirKind::Repetition(repetition) => {
                let most = repetition.max.unwrap_or(u32::MAX);
                let more = most.saturating_sub(repetition.min).min(self.more_max);
                let times = repetition.min as usize + self.pick(more as usize + 1);
                (0..times).for_each(|_| self.walk(&repetition.sub));
            }
            HirKind::Capture(capture) => self.walk(&capture.sub),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.walk(part)),
            HirKind::Alternation(parts) => {
                let picked = self.pick(parts.len());
                if let Some(part) = parts.get(picked) {
                    self.walk(part);
                }
            }
        }
    }

    /// A character of a class, a printable one of ASCII if there is any.
    fn one_of(&mut self, class: &Class) {
        let ranges: Vec<(u32, u32)> = match class {
            Class::Unicode(class) => class
                .iter()
                .map(|range| (range.start().into(), range.end().into()))
                .collect(),
            Class::Bytes(class) => class
                .iter()
                .map(|range| (range.start().into(), range.end().into()))
                .collect(),
        };
        let printable = ranges.iter().map(|&(start, end)| (start.max(0x20), end.min(0x7e)));
        let printable: Vec<(u32, u32)> = printable.filter(|(start, end)| start <= end).collect();
        let ranges = if printable.is_empty() { ranges } else { printable };
        let picked = self.pick(ranges.len());
        let Some(&(start, end)) = ranges.get(picked) else {
            return;
        };
        let code = start + self.pick((end - start) as usize + 1) as u32;
        let mut buffer = [0; 4];
        let character = char::from_u32(code).unwrap_or('a').encode_utf8(&mut buffer);
        self.text.extend_from_slice(character.as_bytes());
    }
}
