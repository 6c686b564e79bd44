//! A device of any kind: what it sends follows from the kind's schema.
//!
//! [`plan`] reads a schema once, with the [`hints`] of its author (`"simulate"`), into shapes; the [`writer`] fills them.
//! Every value fits: types, ranges, lengths, patterns, `any_of`, `unique`, forms of time. Nothing is remembered from one
//! reading to the next: a counter is the integral of its rate, a drift the time since the last service, a state is drawn
//! anew every ten minutes.
//!
//! Without hints, units and names tell what is plausible ([`number`]). Fields that the gateway fills are left out; what a device
//! notes in `quality` is added to the reading of any kind ([`quality`](super::quality)).

use std::sync::Arc;

use super::city::{City, Spot};
use super::faults::Faultable;
use super::kind::{Definition, Sensor};
use super::noise::Noise;
use super::quality::Quality;
use super::{Device, Header, Kind, Moment};
use plan::Plan;
use writer::Writer;

mod attributes;
mod choice;
mod faultable;
mod hints;
mod number;
mod plan;
mod read;
mod text;
mod time;
mod writer;

/// What a device of a kind without physics sends.
#[derive(Debug)]
struct Generic(&'static Plan);

/// A kind whose devices follow from its schema. It is kept for the life of the program.
///
/// # Errors
/// Every mistake of the schema or its hints, each with its field.
pub(super) fn kind(name: &str, schema: &str) -> Result<Kind, Vec<String>> {
    let plan: &'static Plan = Box::leak(Box::new(read::plan(schema)?));
    let name: &'static str = name.to_owned().leak();
    let sensor =
        move |_: &City, noise: &Noise, _| -> (Arc<dyn Sensor>, Spot) { (Arc::new(Generic(plan)), Spot::of(noise)) };
    let definition = Definition {
        name,
        position: Kind::PHYSICAL.len(),
        device_prefix: name,
        schema: schema.to_owned().leak(),
        numbered: plan.is_numbered(),
        quality: plan.notes().map(|(field, flags)| Quality::new(field, flags)),
        faultable: Faultable {
            header_end: faultable::header_end(plan),
            fields: faultable::fields(plan).leak(),
            bugs: faultable::bugs(plan).leak(),
        },
        sensor: Box::leak(Box::new(sensor)),
    };
    Ok(Kind::new(Box::leak(Box::new(definition))))
}

impl Sensor for Generic {
    fn reading(&self, device: &Device, header: Header, moment: Moment) -> Vec<u8> {
        Writer::new(self.0, device, &header, moment).reading()
    }

    fn clock(&self, device: &Device, ms: i64) -> Option<(&'static str, String)> {
        let (name, time) = self.0.clock()?;
        Some((name, time.text(&device.noise, name, ms)))
    }
}

#[cfg(test)]
mod tests;
