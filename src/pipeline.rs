//! The whole path of a reading on one screen: resolve → authorize → decode → validate → route → deliver.
//!
//! [`Pipeline::accept`] is synchronous and blocks on nothing: the answer arrives in the reply's mailbox when the reading
//! is safe, or when it is known that it is not. It runs on the listener's thread, from the socket's buffer to the Kafka
//! client's queue, without owning a byte in between. What is answered before a record goes anywhere may call it again; later
//! answers come under the lock of `deliver::dispatch`, and may only wake a task, as a mailbox does.

use std::cell::Cell;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::authorize::{Authorize, Permission};
use crate::catalogue::{Catalogue, Kind, Kinds};
use crate::dead_letter_allowance::{DeadLetterAllowance, Decision};
use crate::decode::address;
use crate::decode::envelope::{self, Envelope};
use crate::deliver::Deliver;
use crate::message::{DeadLetters, Identity, Inbound, Origin, Policy, Reading};
use crate::operate::clock::Clock;
use crate::operate::log_limit::LogLimit;
use crate::outcome::{Busy, Outcome, Reason, Rejection, quoted};
use crate::receipt::metrics::{Tallies, Tally};
use crate::receipt::{Batch, InFlightPermit, Receipt, Reply};
use crate::recent_refusals::{RecentRefusals, Refusal};
use crate::route::{self, DeadLetter};
use crate::validate::{Scratch, Validator};

/// Everything a reading meets between its listener and its answer.
#[derive(Debug)]
pub struct Pipeline {
    pub catalogue: Catalogue,
    pub validator: Validator,
    pub deliver: Deliver,
    pub tallies: Arc<Tallies>,
    pub clock: Arc<dyn Clock>,
    /// Who may write where.
    pub access: Arc<dyn Authorize>,
    /// What was logged of devices that write what they may not.
    pub forbidden_logged: Mutex<LogLimit<Instant>>,
    /// The same of devices that send more than their rate allows.
    pub over_rate_logged: Mutex<LogLimit<Instant>>,
    /// Who was refused lately, for people.
    pub recent_refusals: Arc<RecentRefusals>,
    /// How much of what is rejected is kept.
    pub dead_letter_allowance: DeadLetterAllowance,
    /// Readings in one message (`limits.batch_readings`).
    pub batch_readings_max: usize,
}

/// What is known of a message before its body is looked at.
struct Arrival<'a> {
    inbound: &'a Inbound<'a>,
    /// As the address names them; empty where it is no address.
    device: &'a str,
    kind: &'a str,
    tally: Arc<Tally>,
    received_at_ms: i64,
}

/// Where a message belongs: its address, resolved.
#[derive(Clone, Copy)]
struct Target<'a> {
    device: &'a str,
    kind: &'a Kind,
    batch: bool,
}

thread_local! {
    // Taken out while it is used, so that an answer may enter the pipeline again.
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Pipeline {
    /// Accepts a message and promises `reply` its answer.
    pub fn accept(&self, inbound: &Inbound<'_>, permit: Option<InFlightPermit>, reply: Reply) {
        let kinds = self.catalogue.snapshot();
        let (arrival, target) = self.resolve(inbound, &kinds);
        // Decided before the body is split: a message that is not accepted is one outcome, however many readings it holds.
        let target = self.authorize_sender(inbound).and_then(|()| {
            let target = target?;
            self.authorize(inbound, &target)?;
            Ok(target)
        });
        let target = match target {
            Ok(target) => target,
            Err(outcome) => {
                let receipt = Receipt::new(arrival.tally.clone(), inbound.origin.received_at, reply, permit);
                return self.end(&arrival, inbound.body, outcome, receipt);
            }
        };
        match envelope::open(inbound, target.batch, self.batch_readings_max) {
            Ok(Envelope::Single(json)) => {
                let receipt = Receipt::new(arrival.tally.clone(), inbound.origin.received_at, reply, permit);
                self.reading(&arrival, target, json, inbound.body, receipt, |rejection| rejection);
            }
            Ok(Envelope::Several(items)) => {
                // One was charged before.
                self.access.charge(&inbound.origin, items.found().saturating_sub(1), 0);
                let batch = Batch::new(items.found(), reply, permit);
                let mut places = items.places();
                for (index, json) in items.iter().enumerate() {
                    let settled = inbound.policy.settled.get(index);
                    if let Some(outcome) = settled.filter(|outcome| !matches!(outcome, Outcome::Busy(_))) {
                        batch.resolve(index, outcome.clone());
                        continue;
                    }
                    let item = Reply::Item {
                        batch: batch.clone(),
                        index,
                    };
                    let receipt = Receipt::new(arrival.tally.clone(), inbound.origin.received_at, item, None);
                    self.reading(&arrival, target, json, json, receipt, |rejection| {
                        places.locate(index, rejection)
                    });
                }
            }
            Err(rejection) => {
                let receipt = Receipt::new(arrival.tally.clone(), inbound.origin.received_at, reply, permit);
                self.dead_letter(&arrival, inbound.body, rejection, receipt);
            }
        }
    }

    /// Counts and answers a message that its listener does not accept: too large to read, or no memory for it.
    pub fn refuse(&self, origin: &Origin<'_>, path: &str, outcome: Outcome, reply: Reply) {
        let kinds = self.catalogue.snapshot();
        let address = address::parse(path).ok();
        let kind = address.and_then(|address| kinds.get(address.kind)).map(Arc::as_ref);
        if let Outcome::Rejected(rejection) = &outcome {
            let device = address.map_or("", |address| address.device);
            self.note_refusal(origin, device, rejection.reason.label(), &rejection.detail);
        }
        Receipt::new(self.tally(origin, kind), origin.received_at, reply, None).resolve(outcome);
    }

    /// Reads the address, and looks up what it names among the kinds as they are now.
    fn resolve<'a>(&self, inbound: &'a Inbound<'a>, kinds: &'a Kinds) -> (Arrival<'a>, Result<Target<'a>, Rejection>) {
        let address = address::parse(inbound.path);
        let (device, name) = address
            .as_ref()
            .map_or(("", ""), |address| (address.device, address.kind));
        let kind = kinds.get(name).map(Arc::as_ref);
        let target = address.and_then(|address| {
            let kind = kind.ok_or_else(|| unknown_kind(address.kind, kinds))?;
            Ok(Target {
                device,
                kind,
                batch: address.batch,
            })
        });
        let arrival = Arrival {
            inbound,
            device,
            kind: name,
            tally: self.tally(&inbound.origin, kind),
            received_at_ms: self.clock.wall_ms(),
        };
        (arrival, target)
    }

    /// Whether the sender may write at all, and has not sent too much; what it sends now is charged, whatever its outcome.
    fn authorize_sender(&self, inbound: &Inbound<'_>) -> Result<(), Outcome> {
        let origin = &inbound.origin;
        match self.access.sender(origin) {
            Permission::OverRate(wait) if !inbound.policy.is_paced => {
                self.note_over_rate(origin, wait);
                return granted(Permission::OverRate(wait));
            }
            Permission::OverRate(_) => {}
            permission => granted(permission)?,
        }
        self.access.charge(origin, 1, inbound.body.len());
        Ok(())
    }

    /// Whether the sender may write there, and as much.
    fn authorize(&self, inbound: &Inbound<'_>, target: &Target<'_>) -> Result<(), Outcome> {
        let permission = self.access.authorize(&inbound.origin, target.device, &target.kind.name);
        if let Permission::Forbidden(why) = &permission {
            self.note(&self.forbidden_logged, &inbound.origin, |sender, protocol, peer| {
                warn!(sender, protocol, %peer, why, "a device writes what it may not");
            });
        }
        granted(permission)
    }

    /// Once a minute for each sender.
    fn note(&self, logged: &Mutex<LogLimit<Instant>>, origin: &Origin<'_>, log: impl FnOnce(&str, &str, SocketAddr)) {
        let sender = match origin.identity {
            Identity::Device(sender) => sender.id(),
            Identity::Anonymous => "",
        };
        let is_due = logged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .allows(Instant::now(), sender);
        if is_due {
            log(sender, origin.protocol.label(), origin.peer);
        }
    }

    fn tally(&self, origin: &Origin<'_>, kind: Option<&Kind>) -> Arc<Tally> {
        let tallies = kind.map_or(&self.tallies.unknown, |kind| &kind.tallies);
        tallies.of(origin.protocol).clone()
    }

    /// One reading; if it is rejected, `original` is kept, and `locate` says where in the message it is.
    fn reading(
        &self,
        arrival: &Arrival<'_>,
        target: Target<'_>,
        json: &[u8],
        original: &[u8],
        receipt: Receipt,
        locate: impl FnOnce(Rejection) -> Rejection,
    ) {
        let Some((checked, scratch)) = self.checked(arrival, target, json) else {
            // The receipt's end answers busy, and is counted as what it is: a bug.
            return drop(receipt);
        };
        match checked {
            Ok(()) => {
                self.count_nulled(target.kind, &scratch);
                let reading = Reading {
                    device: target.device,
                    topic: &target.kind.topic,
                    value: scratch.value(),
                    received_at_ms: arrival.received_at_ms,
                };
                self.deliver.send(&route::record(&reading), receipt);
            }
            Err(rejection) => self.dead_letter(arrival, original, locate(rejection), receipt),
        }
        SCRATCH.set(Some(scratch));
    }

    /// Checks one reading, in buffers that the thread reuses. Should the validator panic, that is this reading's matter: `None`;
    /// else one datagram could end the CoAP listener, which is a single thread.
    fn checked(
        &self,
        arrival: &Arrival<'_>,
        target: Target<'_>,
        json: &[u8],
    ) -> Option<(Result<(), Rejection>, Box<Scratch>)> {
        let mut scratch = SCRATCH.take().unwrap_or_default();
        let Target { device, kind, .. } = target;
        // What a panic leaves in the buffers is dropped with them.
        let check = AssertUnwindSafe(|| {
            let result = self
                .validator
                .reading(&kind.program, device, arrival.received_at_ms, json, &mut scratch);
            (result, scratch)
        });
        let checked = std::panic::catch_unwind(check);
        if checked.is_err() {
            let bytes = json.len();
            error!(
                device,
                kind = kind.name,
                bytes,
                "the check of a reading panicked, which is a bug in citygate; it is answered busy"
            );
        }
        checked.ok()
    }

    fn count_nulled(&self, kind: &Kind, scratch: &Scratch) {
        for nulled in scratch.nulled() {
            let labels = [&kind.name, kind.program.path(nulled.node), nulled.flag.into()];
            let counter = &self.tallies.metrics.readings_values_nulled_total;
            counter.with_label_values(&labels).inc();
        }
    }

    /// A message that ends before its readings are looked at.
    fn end(&self, arrival: &Arrival<'_>, body: &[u8], outcome: Outcome, receipt: Receipt) {
        match outcome {
            // Of strangers nothing is kept.
            Outcome::Rejected(rejection) if rejection.reason != Reason::Unauthenticated => {
                self.dead_letter(arrival, body, *rejection, receipt)
            }
            outcome => {
                if let Outcome::Rejected(rejection) = &outcome {
                    self.note_rejection(arrival, rejection);
                }
                receipt.resolve(outcome)
            }
        }
    }

    /// Notes for people that a sender has sent more than its rate allows: it is told so, or not read meanwhile.
    pub fn note_over_rate(&self, origin: &Origin<'_>, wait: Duration) {
        let busy = Busy::OverRate(wait);
        self.note(&self.over_rate_logged, origin, |sender, protocol, peer| {
            warn!(sender, protocol, %peer, ?wait, "a device sends more than its rate allows; it is to send later");
        });
        self.note_refusal(origin, "", busy.label(), busy.text());
    }

    fn note_rejection(&self, arrival: &Arrival<'_>, rejection: &Rejection) {
        self.note_refusal(
            &arrival.inbound.origin,
            arrival.device,
            rejection.reason.label(),
            &rejection.detail,
        );
    }

    fn note_refusal(&self, origin: &Origin<'_>, device: &str, reason: &'static str, detail: &str) {
        let refusal = Refusal {
            protocol: origin.protocol,
            peer: origin.peer,
            reason,
            detail,
            at_ms: self.clock.wall_ms(),
        };
        let is_known = matches!(origin.identity, Identity::Device(_));
        self.recent_refusals
            .note(self.access.charged(origin, device), is_known, refusal);
    }

    fn dead_letter(&self, arrival: &Arrival<'_>, body: &[u8], rejection: Rejection, receipt: Receipt) {
        self.note_rejection(arrival, &rejection);
        let charged = self.access.charged(&arrival.inbound.origin, arrival.device);
        let is_kept = match arrival.inbound.policy.dead_letters {
            // Not even MQTT 3.1.1, to which no cannot be said, fills the topic with what it may not write.
            DeadLetters::All if rejection.reason == Reason::Forbidden => {
                if !self.is_allowed(charged, arrival.received_at_ms) {
                    return receipt.resolve(unkept(&arrival.inbound.policy, rejection));
                }
                true
            }
            DeadLetters::All => true,
            DeadLetters::Allowed => self.is_allowed(charged, arrival.received_at_ms),
        };
        if !is_kept {
            return receipt.resolve(rejection.into());
        }
        let names = (arrival.device, arrival.kind);
        let letter = DeadLetter::new(arrival.inbound, body, &rejection, names, arrival.received_at_ms);
        self.deliver.dead_letter(&letter, receipt);
    }

    /// Whether the device's allowance of dead letters permits one more.
    fn is_allowed(&self, device: &str, received_at_ms: i64) -> bool {
        let decision = self.dead_letter_allowance.spend(device, received_at_ms);
        if decision == Decision::Keep {
            return true;
        }
        self.tallies.metrics.dead_letters_skipped_total.inc();
        if decision == Decision::DropAndLog {
            let kept = self.dead_letter_allowance.per_minute();
            warn!(
                device,
                kept,
                "more rejected readings of a device (empty: of addresses that name none) in a minute than are kept"
            );
        }
        false
    }
}

/// Of what may not be written and is not kept: who can be told so is told so; who cannot is to keep it itself.
fn unkept(policy: &Policy<'_>, rejection: Rejection) -> Outcome {
    if policy.is_paced {
        return Outcome::Busy(Busy::OverRate(Duration::ZERO));
    }
    let is_unkept = true;
    Rejection { is_unkept, ..rejection }.into()
}

fn granted(permission: Permission) -> Result<(), Outcome> {
    let (reason, detail) = match permission {
        Permission::Granted => return Ok(()),
        Permission::OverRate(wait) => return Err(Outcome::Busy(Busy::OverRate(wait))),
        Permission::Unauthenticated(detail) => (Reason::Unauthenticated, detail),
        Permission::Forbidden(detail) => (Reason::Forbidden, detail),
    };
    Err(Rejection::new(reason, detail).into())
}

fn unknown_kind(kind: &str, kinds: &Kinds) -> Rejection {
    let (shown, known) = (quoted(kind), kinds.names());
    Rejection::new(
        Reason::UnknownKind,
        format!("unknown kind {shown}; known kinds: {known}"),
    )
}

#[cfg(test)]
mod tests;
