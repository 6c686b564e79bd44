//! One of several symbols, or true and false.
//!
//! A state is drawn anew every ten minutes, by the weights of its symbols. Without hints, all is usually well: symbols such
//! as `ok` and `none` are the rule, and those that mean nothing in particular (`unknown`, `other`) are not sent.

use super::hints::Hints;
use crate::devices::noise::Noise;

/// How long a state lasts at least.
const HOLD_MS: i64 = 600_000;

/// What devices say nearly always.
const USUAL: [&str; 5] = ["ok", "none", "normal", "good", "operational"];

/// What they say if nothing else fits.
const VAGUE: [&str; 2] = ["unknown", "other"];

/// How much more often the usual is said.
const USUAL_WEIGHT: f64 = 30.0;

#[derive(Debug)]
pub(super) struct Choice {
    pub(super) symbols: Vec<String>,
    /// Other spellings of each.
    pub(super) also: Vec<Vec<String>>,
    /// Shares of the symbols up to each, the last 1.
    ends: Vec<f64>,
}

// === impl Choice ===

impl Choice {
    pub(super) fn new(symbols: Vec<String>, also: Vec<Vec<String>>, hints: &Hints) -> Choice {
        let is_vague = |symbol: &String| VAGUE.contains(&symbol.as_str());
        let says_something = symbols.iter().any(|symbol| !is_vague(symbol));
        let weight = |symbol: &String| match &hints.weights {
            Some(weights) => weights.get(symbol).copied().unwrap_or(0.0),
            None if USUAL.contains(&symbol.as_str()) => USUAL_WEIGHT,
            None if says_something && is_vague(symbol) => 0.0,
            None => 1.0,
        };
        let weights: Vec<f64> = symbols.iter().map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let ends = weights.iter().scan(0.0, |end, weight| {
            *end += weight / sum;
            Some(*end)
        });
        Choice {
            ends: ends.collect(),
            symbols,
            also,
        }
    }

    /// The position of the symbol of a moment.
    pub(super) fn position(&self, noise: &Noise, channel: &str, time_ms: i64) -> usize {
        let shift_ms = (noise.fixed(channel) * HOLD_MS as f64) as i64;
        let chance = noise.unit(channel, (time_ms + shift_ms).div_euclid(HOLD_MS));
        let found = self.ends.iter().position(|end| chance < *end);
        // Rounding may leave the last end a little below 1: then it is the last one that is said at all.
        found.unwrap_or_else(|| {
            self.ends
                .partition_point(|end| *end < 1.0 - 1e-9)
                .min(self.symbols.len() - 1)
        })
    }
}
