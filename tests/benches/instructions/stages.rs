//! The stages by name: each is an operation on reading number N that callgrind counts. They are the gateway's own
//! functions, from validation of one kind to the whole path of an MQTT publish, with a broker that only remembers.
//! `main` runs and compares them.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use citygate::catalogue::{Catalogue, Kind, Kinds};
use citygate::decode::{address, envelope};
use citygate::deliver::broker::{Broker, Refused};
use citygate::deliver::dispatch::{Dispatch, Pending, Store, Ticket, Times, Unreadable};
use citygate::deliver::encoded_record;
use citygate::deliver::health::Monitor;
use citygate::deliver::spool::frame::{self, Frame, Mark};
use citygate::gateway::Metrics;
use citygate::message::{Inbound, Origin, Policy, Protocol, Reading, Record};
use citygate::outcome::{Busy, Outcome};
use citygate::receipt::{Mailbox, Receipt, Reply};
use citygate::route;
use citygate::validate::{self, Scratch, Validator};

use crate::callgrind::OPERATIONS;
use crate::json::{self, NOW_MS, Order};

/// What callgrind watches.
pub type Stage = Box<dyn FnMut(usize)>;

/// Readings that are unconfirmed at a time on the whole path; as many as an MQTT connection has in its window.
const WINDOW: usize = 20;

/// Nothing is spooled for being late while it is watched.
const LONG: Duration = Duration::from_secs(3600);

const KINDS: [&str; 3] = ["traffic", "weather", "energy"];

pub fn names() -> Vec<String> {
    let orders = |kind| Order::ALL.map(|order| format!("validate {kind}, {}", order.name()));
    let validate = KINDS.into_iter().flat_map(orders);
    let others = [
        "refuse a wrong type",
        "refuse a cut reading",
        "address and envelope",
        "receipt to mailbox",
        "encoded",
        "spool frame",
        "whole path, MQTT, no broker",
    ];
    validate.chain(others.map(str::to_owned)).collect()
}

/// The stage of this name, ready to be watched.
pub fn build(name: &str) -> anyhow::Result<Stage> {
    let setup = Setup::new()?;
    if let Some(rest) = name.strip_prefix("validate ") {
        let (kind, order) = rest.split_once(", ").context("no such stage")?;
        let order = Order::ALL.into_iter().find(|one| one.name() == order);
        return Ok(setup.validate(kind, order.context("no such order")?));
    }
    match name {
        "refuse a wrong type" => Ok(setup.refuse(|json| {
            let text = String::from_utf8_lossy(json).replacen("\"sequence\":", "\"sequence\":\"\",\"x\":", 1);
            text.into_bytes()
        })),
        "refuse a cut reading" => {
            Ok(setup.refuse(|json| json.split_last().map_or(Vec::new(), |(_, rest)| rest.to_vec())))
        }
        "address and envelope" => Ok(setup.open()),
        "receipt to mailbox" => Ok(setup.receipt()),
        "encoded" => Ok(setup.encoded()),
        "spool frame" => Ok(setup.frame()),
        "whole path, MQTT, no broker" => Ok(setup.path()),
        _ => Err(anyhow!("there is no stage {name:?}")),
    }
}

/// What the stages need of the gateway.
struct Setup {
    catalogue: Catalogue,
    validator: Validator,
    metrics: Metrics,
}

/// A message as it comes, with the device that sends it.
struct Sent {
    device: String,
    path: String,
    body: Vec<u8>,
    kind: Arc<Kind>,
}

/// A broker that remembers what it was given until it is asked to confirm it.
#[derive(Debug, Default)]
struct Null(Mutex<Vec<usize>>);

impl Broker for Null {
    fn epoch(&self) -> u64 {
        0
    }

    fn produce(&self, _: u64, record: &Record<'_>, slot: usize) -> Result<(), Refused> {
        black_box(record.value);
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(slot);
        Ok(())
    }
}

/// A spool that nothing is written to.
#[derive(Debug)]
struct NoSpool;

impl Store for NoSpool {
    fn append(&self, _parcel: Vec<u8>, _ticket: Ticket) -> Result<(), (Ticket, Vec<u8>, Busy)> {
        unreachable!("nothing is spooled while the broker confirms")
    }

    fn read(&self, _entries_max: usize, _bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, Unreadable> {
        Ok(Vec::new())
    }

    fn rewind(&self) {}

    fn is_committed(&self, _: u64) -> bool {
        true
    }

    fn commit(&self, _sequence: u64) {}

    fn refuses(&self) -> Option<Busy> {
        None
    }

    fn uncommitted(&self) -> u64 {
        0
    }

    fn keeps_too_much(&self) -> bool {
        false
    }
}

// === impl Setup ===

impl Setup {
    fn new() -> anyhow::Result<Setup> {
        let shipped = || Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let folder = std::env::var_os("BENCH_SCHEMAS").map_or_else(shipped, PathBuf::from);
        let metrics = Metrics::new();
        let kinds = Kinds::load(&folder, "city.", &metrics.tallies).map_err(|errors| anyhow!("{errors:?}"))?;
        Ok(Setup {
            metrics,
            catalogue: Catalogue::new(kinds),
            validator: Validator::new(&validate::Config::default()),
        })
    }

    fn kind(&self, name: &str) -> Arc<Kind> {
        let kind = self.catalogue.snapshot().get(name).cloned();
        kind.unwrap_or_else(|| unreachable!("schemas/{name}.avsc exists"))
    }

    /// Messages of all kinds in turn.
    fn sent(&self) -> Vec<Sent> {
        let of_kind = KINDS.map(|name| (self.kind(name), json::readings(&self.kind(name), Order::Schema)));
        let turns = (0..OPERATIONS).map(|turn| {
            let (kind, readings) = &of_kind[turn % KINDS.len()];
            let (device, body) = &readings[turn / KINDS.len() % readings.len()];
            Sent {
                path: format!("devices/{device}/{}", kind.name),
                device: device.clone(),
                body: body.clone(),
                kind: kind.clone(),
            }
        });
        turns.collect()
    }

    /// The Avro values of these messages.
    fn values(&self, sent: &[Sent]) -> Vec<Vec<u8>> {
        let mut scratch = Scratch::default();
        let value = |sent: &Sent| {
            let valid = self
                .validator
                .reading(&sent.kind.program, &sent.device, NOW_MS, &sent.body, &mut scratch);
            valid.unwrap_or_else(|rejection| unreachable!("{rejection}"));
            scratch.value().to_vec()
        };
        sent.iter().map(value).collect()
    }

    fn validate(self, kind: &str, order: Order) -> Stage {
        let kind = self.kind(kind);
        let readings = json::readings(&kind, order);
        let mut scratch = Scratch::default();
        Box::new(move |number| {
            let (device, body) = &readings[number % readings.len()];
            let valid = self
                .validator
                .reading(&kind.program, device, NOW_MS, body, &mut scratch);
            valid.unwrap_or_else(|rejection| unreachable!("{rejection}"));
            black_box(scratch.value());
        })
    }

    fn refuse(self, spoil: impl Fn(&[u8]) -> Vec<u8>) -> Stage {
        let kind = self.kind("weather");
        let mut readings = json::readings(&kind, Order::Schema);
        readings.iter_mut().for_each(|(_, body)| *body = spoil(body));
        let mut scratch = Scratch::default();
        Box::new(move |number| {
            let (device, body) = &readings[number % readings.len()];
            let refused = self
                .validator
                .reading(&kind.program, device, NOW_MS, body, &mut scratch);
            assert!(black_box(refused).is_err());
        })
    }

    fn open(self) -> Stage {
        let sent = self.sent();
        Box::new(move |number| {
            let inbound = sent[number].inbound();
            let address = address::parse(inbound.path).unwrap_or_else(|rejection| unreachable!("{rejection}"));
            black_box(self.catalogue.snapshot().get(address.kind));
            black_box(envelope::open(&inbound, address.batch, 1).is_ok());
        })
    }

    fn receipt(self) -> Stage {
        let tally = self.kind("energy").tallies.of(Protocol::Mqtt).clone();
        let (mailbox, mut answers) = (Mailbox::new(), Vec::new());
        Box::new(move |number| {
            Receipt::new(tally.clone(), origin().received_at, reply(&mailbox, number), None)
                .resolve(Outcome::Delivered);
            if number % WINDOW == WINDOW - 1 {
                mailbox.take(&mut answers);
                assert_eq!(black_box(&answers).len(), WINDOW);
                answers.clear();
            }
        })
    }

    fn encoded(self) -> Stage {
        let sent = self.sent();
        let values = self.values(&sent);
        let mut buffer = Vec::new();
        Box::new(move |number| {
            let record = route::record(&sent[number].reading(&values[number]));
            buffer.clear();
            black_box(encoded_record::encode(&record, &mut buffer));
        })
    }

    fn frame(self) -> Stage {
        let values = self.values(&self.sent());
        let mut buffer = Vec::new();
        Box::new(move |number| {
            if number.is_multiple_of(WINDOW) {
                buffer.clear();
            }
            let mark = Mark::Entry {
                arrived_ms: NOW_MS,
                place: (number % WINDOW) as u32,
            };
            let frame = Frame {
                sequence: number as u64,
                mark,
                entry: &values[number],
            };
            frame::encode(&mut buffer, 1, frame);
            black_box(&buffer);
        })
    }

    /// What `Pipeline::accept` does, up to a broker that confirms a window at a time, and the answers back.
    fn path(self) -> Stage {
        let sent = self.sent();
        let health = Arc::new(Monitor::new(&self.metrics.deliver.kafka, true));
        health.found();
        let times = Times {
            spool_after: LONG,
            delivery_timeout: LONG * 2,
            linger: Duration::ZERO,
            retry_interval: LONG,
        };
        let metrics = (self.metrics.deliver.kafka.clone(), self.metrics.deliver.spool.clone());
        let dispatch = Dispatch::new(Null::default(), Some(NoSpool), (0, 0), times, health, metrics);
        let (mailbox, mut answers) = (Mailbox::new(), Vec::new());
        let mut scratch = Scratch::default();
        let mut slots = Vec::new();
        Box::new(move |number| {
            self.accept(
                &sent[number].inbound(),
                reply(&mailbox, number),
                &dispatch,
                &mut scratch,
            );
            if number % WINDOW == WINDOW - 1 {
                std::mem::swap(
                    &mut slots,
                    &mut dispatch
                        .broker()
                        .0
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner),
                );
                for slot in slots.drain(..) {
                    dispatch.reported(slot, Ok(()));
                }
                mailbox.take(&mut answers);
                assert_eq!(answers.len(), WINDOW);
                answers.clear();
                dispatch.tick(Instant::now());
            }
        })
    }

    fn accept(&self, inbound: &Inbound<'_>, reply: Reply, dispatch: &Dispatch<Null, NoSpool>, scratch: &mut Scratch) {
        let address = address::parse(inbound.path).unwrap_or_else(|rejection| unreachable!("{rejection}"));
        let kinds = self.catalogue.snapshot();
        let Some(kind) = kinds.get(address.kind) else {
            unreachable!("{}", address.kind)
        };
        let tally = kind.tallies.of(inbound.origin.protocol).clone();
        let Ok(envelope::Envelope::Single(body)) = envelope::open(inbound, address.batch, 1) else {
            unreachable!("one reading")
        };
        let receipt = Receipt::new(tally, inbound.origin.received_at, reply, None);
        let valid = self
            .validator
            .reading(&kind.program, address.device, NOW_MS, body, scratch);
        valid.unwrap_or_else(|rejection| unreachable!("{rejection}"));
        let reading = Reading {
            device: address.device,
            topic: &kind.topic,
            value: scratch.value(),
            received_at_ms: NOW_MS,
        };
        let pending = Pending {
            receipt,
            once_safe: Outcome::Delivered,
        };
        dispatch.send(Instant::now(), &route::record(&reading), pending);
    }
}

fn origin() -> Origin<'static> {
    Origin::anonymous(Protocol::Mqtt, "mqtt", ([127, 0, 0, 1], 1).into())
}

fn reply(mailbox: &Arc<Mailbox>, number: usize) -> Reply {
    Reply::To {
        mailbox: mailbox.clone(),
        ticket: number as u64,
    }
}

// === impl Sent ===

impl Sent {
    fn inbound(&self) -> Inbound<'_> {
        Inbound {
            origin: origin(),
            path: &self.path,
            body: &self.body,
            content_type: "",
            policy: Policy::default(),
        }
    }

    fn reading<'a>(&'a self, value: &'a [u8]) -> Reading<'a> {
        Reading {
            device: &self.device,
            topic: &self.kind.topic,
            value,
            received_at_ms: NOW_MS,
        }
    }
}
