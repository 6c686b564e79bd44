//! The whole path of a reading on one screen: decode → validate → route → deliver.
//!
//! [`Pipeline::accept`] is synchronous and blocks on nothing: the answer arrives in the reply's mailbox when the reading
//! is safe, or when it is known that it is not. It runs on the listener's thread, from the socket's buffer to the Kafka
//! client's queue, without owning a byte in between.

use std::cell::RefCell;
use std::sync::Arc;

use tracing::warn;

use crate::catalogue::{Kind, Schemas};
use crate::dead_letter_allowance::{DeadLetterAllowance, Fate};
use crate::decode::address;
use crate::decode::envelope::{self, Envelope};
use crate::deliver::Deliver;
use crate::message::{Address, Inbound, Protocol, Reading};
use crate::operate::clock::Clock;
use crate::operate::metrics::{Metrics, Tally};
use crate::outcome::{Outcome, Reason, Rejection, quoted};
use crate::receipt::{Batch, Permit, Receipt, Reply};
use crate::route::{self, DeadLetter};
use crate::validate::{Scratch, Validator};

/// Everything a reading meets between its listener and its answer.
#[derive(Debug)]
pub struct Pipeline {
    pub schemas: Arc<Schemas>,
    pub validator: Validator,
    pub deliver: Deliver,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    /// How much of what is rejected is kept.
    pub dead_letter_allowance: DeadLetterAllowance,
    /// Readings in one message (`limits.batch_readings`).
    pub batch_readings_max: usize,
}

/// What is known of a message before its readings are looked at.
struct Arrival<'a> {
    inbound: &'a Inbound<'a>,
    address: Result<Address<'a>, Rejection>,
    kind: Option<&'a Kind>,
    tally: Arc<Tally>,
    received_at_ms: i64,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Pipeline {
    /// Takes a message in and promises `reply` its answer.
    pub fn accept(&self, inbound: &Inbound<'_>, permit: Option<Permit>, reply: Reply) {
        self.accept_rest(inbound, permit, reply, &[]);
    }

    /// The same, for a batch that was taken in `before` with these outcomes (in the order of its readings; none: never):
    /// only the readings that were busy are counted and sent again, the others keep their outcome in the answer.
    pub fn accept_rest(&self, inbound: &Inbound<'_>, permit: Option<Permit>, reply: Reply, before: &[Outcome]) {
        let arrival = self.arrive(inbound);
        // Judged before the body is split: a message that belongs nowhere is one dead letter, however many readings it holds.
        if let Err(rejection) = self.place(&arrival) {
            let receipt = Receipt::new(arrival.tally.clone(), reply, permit);
            return self.dead_letter(&arrival, inbound.body, rejection, receipt);
        }
        let batch = arrival.address.as_ref().is_ok_and(|address| address.batch);
        match envelope::open(inbound, batch, self.batch_readings_max) {
            Ok(Envelope::Single(json)) => {
                let receipt = Receipt::new(arrival.tally.clone(), reply, permit);
                self.reading(&arrival, json, inbound.body, receipt, |rejection| rejection);
            }
            Ok(Envelope::Several(items)) => {
                let batch = Batch::new(items.found(), reply, permit);
                let mut places = items.places();
                for (index, json) in items.iter().enumerate() {
                    if let Some(known) = before.get(index).filter(|known| !matches!(known, Outcome::Busy(_))) {
                        batch.resolve(index, known.clone());
                        continue;
                    }
                    let item = Reply::Item {
                        batch: batch.clone(),
                        index,
                    };
                    let receipt = Receipt::new(arrival.tally.clone(), item, None);
                    self.reading(&arrival, json, json, receipt, |rejection| {
                        places.locate(index, rejection)
                    });
                }
            }
            Err(rejection) => {
                let receipt = Receipt::new(arrival.tally.clone(), reply, permit);
                self.dead_letter(&arrival, inbound.body, rejection, receipt);
            }
        }
    }

    /// Counts and answers a message that its listener does not take in: too large to read, or no room for it.
    pub fn refuse(&self, protocol: Protocol, path: &str, outcome: Outcome, reply: Reply) {
        let inbound = Inbound {
            protocol,
            path,
            body: &[],
            content_type: "",
            must_keep: false,
        };
        Receipt::new(self.arrive(&inbound).tally, reply, None).resolve(outcome);
    }

    fn arrive<'a>(&'a self, inbound: &'a Inbound<'a>) -> Arrival<'a> {
        let address = address::parse(inbound.path);
        let kind = address
            .as_ref()
            .ok()
            .and_then(|address| self.schemas.kind(address.kind));
        let tally = self.metrics.tally(inbound.protocol, kind.map(|kind| kind.index));
        Arrival {
            inbound,
            address,
            kind,
            tally,
            received_at_ms: self.clock.wall_ms(),
        }
    }

    /// One reading; if it is rejected, `original` is kept, and `locate` says where in the message it is.
    fn reading(
        &self,
        arrival: &Arrival<'_>,
        json: &[u8],
        original: &[u8],
        receipt: Receipt,
        locate: impl FnOnce(Rejection) -> Rejection,
    ) {
        SCRATCH.with_borrow_mut(|scratch| match self.validate(arrival, json, scratch) {
            Ok(reading) => self.deliver.send(&route::record(&reading), receipt),
            Err(rejection) => self.dead_letter(arrival, original, locate(rejection), receipt),
        });
    }

    fn validate<'a>(
        &self,
        arrival: &Arrival<'a>,
        json: &[u8],
        scratch: &'a mut Scratch,
    ) -> Result<Reading<'a>, Rejection> {
        let (address, kind) = self.place(arrival)?;
        self.validator
            .reading(kind, address.device, arrival.received_at_ms, json, scratch)?;
        let value = scratch.value();
        Ok(Reading {
            device: address.device,
            kind,
            value,
            received_at_ms: arrival.received_at_ms,
        })
    }

    /// Where the message belongs, if anywhere.
    fn place<'a>(&self, arrival: &Arrival<'a>) -> Result<(Address<'a>, &'a Kind), Rejection> {
        let address = arrival.address.clone()?;
        let kind = arrival.kind.ok_or_else(|| self.unknown_kind(address.kind))?;
        Ok((address, kind))
    }

    fn dead_letter(&self, arrival: &Arrival<'_>, body: &[u8], rejection: Rejection, receipt: Receipt) {
        let names = arrival
            .address
            .as_ref()
            .map_or(("", ""), |address| (address.device, address.kind));
        if !arrival.inbound.must_keep && !self.keeps(names.0, arrival.received_at_ms) {
            return receipt.resolve(rejection.into());
        }
        let letter = DeadLetter::new(arrival.inbound, body, &rejection, names, arrival.received_at_ms);
        self.deliver.dead_letter(&letter, receipt);
    }

    /// Whether the device's allowance of dead letters has room for one more.
    fn keeps(&self, device: &str, received_at_ms: i64) -> bool {
        let fate = self.dead_letter_allowance.spend(device, received_at_ms);
        if fate == Fate::Kept {
            return true;
        }
        self.metrics.readings.dead_letters_skipped_total.inc();
        if fate == Fate::CountedFirst {
            let kept = self.dead_letter_allowance.per_minute();
            warn!(
                device,
                kept,
                "more rejected readings of a device (empty: of addresses that name none) in a minute than are kept"
            );
        }
        false
    }

    fn unknown_kind(&self, kind: &str) -> Rejection {
        let shown = quoted(kind);
        let known = self.schemas.names().join(", ");
        Rejection::new(Reason::UnknownKind, format!("{shown}: no such kind; there is {known}"))
    }
}
