//! Kafka's floor: a bare producer of the gateway's own records, with the gateway's own settings.
//!
//! `ThreadedProducer`, idempotent, acks=all, a number as opaque. It keeps as many records unconfirmed as the devices of
//! the case it stands beside: with fewer, batches are smaller and each record costs more. It sleeps while that many are
//! out, and is woken once an eighth of them is back.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, ensure};
use citygate::catalogue::Kinds;
use citygate::deliver;
use citygate::receipt::metrics::Tallies;
use citygate::validate::{Scratch, Validator};
use device_simulators::devices::{Device, Kind};
use device_simulators::load::readings::{Digits, Readings};
use device_simulators::load::settings::FIRST_DEVICE;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use serde::{Deserialize, Serialize};

use crate::gateway::Place;
use crate::process::Usage;

/// Devices whose records are sent in turn, and records of each.
const DEVICES: u64 = 102;
const RECORDS: u64 = 4;

const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(long)]
    servers: String,
    #[arg(long)]
    topic_prefix: String,
    #[arg(long)]
    schemas: PathBuf,
    /// Records that are out at a time.
    #[arg(long)]
    window: usize,
    #[arg(long)]
    span_s: u64,
}

/// What a run of it came to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub records: u64,
    pub failed: usize,
    pub seconds: f64,
    pub user_s: f64,
    pub system_s: f64,
    pub sleeps: u64,
    pub preemptions: u64,
    /// Mean size of a value, in bytes.
    pub value_bytes: f64,
}

/// One record of the pool.
struct Record {
    topic: String,
    key: String,
    value: Vec<u8>,
}

/// What the delivery reports and the sender share.
struct Reports {
    out: AtomicUsize,
    failed: AtomicUsize,
    /// The sender sleeps until no more than this many are out.
    wake_at: usize,
    asleep: AtomicBool,
    sender: Thread,
}

/// Starts the benchmark once more as a producer, and waits for what it has to say.
pub fn start(place: Place<'_>, window: usize, seconds: u64) -> anyhow::Result<Outcome> {
    let output = Command::new(std::env::current_exe()?)
        .args([
            "producer",
            "--servers",
            place.servers,
            "--topic-prefix",
            place.topic_prefix,
        ])
        .arg("--schemas")
        .arg(place.schemas)
        .args(["--window", &window.to_string(), "--span-s", &seconds.to_string()])
        .stdin(Stdio::null())
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let outcome: Outcome =
        serde_json::from_slice(&output.stdout).map_err(|_| anyhow!("the bare producer: {}", complaint.trim()))?;
    ensure!(outcome.failed == 0, "the bare producer lost {} records", outcome.failed);
    Ok(outcome)
}

/// Sends for a while, and prints what it took.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let records = records(options)?;
    let reports = Arc::new(Reports {
        out: AtomicUsize::new(0),
        failed: AtomicUsize::new(0),
        wake_at: options.window - options.window / 8 - 1,
        asleep: AtomicBool::new(false),
        sender: std::thread::current(),
    });
    let producer: ThreadedProducer<Callbacks> =
        settings(&options.servers).create_with_context(Callbacks(Arc::clone(&reports)))?;
    // Connections, metadata and the producer's id are made with the first record.
    send(&producer, &reports, &records[0])?;
    producer.flush(FLUSH_TIMEOUT)?;

    let (before, began) = (Usage::of(std::process::id())?, Instant::now());
    let deadline = began + Duration::from_secs(options.span_s);
    let mut sent = 0;
    let mut turns = records.iter().cycle();
    while Instant::now() < deadline {
        while reports.out.load(Ordering::Acquire) < options.window
            && let Some(record) = turns.next()
        {
            send(&producer, &reports, record)?;
            sent += 1;
        }
        reports.sleep();
    }
    producer.flush(FLUSH_TIMEOUT)?;
    let used = Usage::of(std::process::id())?.since(&before);
    let bytes: usize = records.iter().map(|record| record.value.len()).sum();
    let outcome = Outcome {
        records: sent,
        failed: reports.failed.load(Ordering::Relaxed),
        seconds: began.elapsed().as_secs_f64(),
        user_s: used.user_s,
        system_s: used.system_s,
        sleeps: used.sleeps,
        preemptions: used.preemptions,
        value_bytes: bytes as f64 / records.len() as f64,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn send(producer: &ThreadedProducer<Callbacks>, reports: &Reports, record: &Record) -> anyhow::Result<()> {
    reports.out.fetch_add(1, Ordering::AcqRel);
    let queued = BaseRecord::with_opaque_to(&record.topic, 1_usize)
        .key(record.key.as_bytes())
        .payload(&record.value);
    let sent: Result<(), (KafkaError, _)> = producer.send(queued);
    sent.map_err(|(error, _)| error).context("a record is refused")
}

/// The gateway's own, with a spool behind it.
fn settings(servers: &str) -> ClientConfig {
    let config = deliver::Config {
        bootstrap_servers: servers.to_owned(),
        ..deliver::Config::default()
    };
    config.producer(true)
}

/// What the gateway would make of the load generator's readings.
fn records(options: &Options) -> anyhow::Result<Vec<Record>> {
    let kinds = Kinds::load(&options.schemas, &options.topic_prefix, &Tallies::default());
    let kinds = kinds.map_err(|errors| anyhow!("{errors:?}"))?;
    let validator = Validator::new(&citygate::validate::Config::default());
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let readings = Readings::make(1, now_ms, 0)?;
    let mut scratch = Scratch::default();
    let mut json = Vec::new();
    let mut records = Vec::new();
    for number in 0..RECORDS {
        for index in 0..DEVICES {
            let kind = Kind::PHYSICAL[index as usize % Kind::PHYSICAL.len()];
            let device = Device::new(kind, 1, FIRST_DEVICE + index);
            json.clear();
            let reading = readings.of(kind, index as usize).of(number);
            reading.append(&mut json, Digits::of(now_ms), now_ms + number, None);
            let of = kinds.get(kind.name()).context("a kind has no schema")?;
            validator
                .reading(&of.program, device.name(), now_ms as i64, &json, &mut scratch)
                .map_err(|rejection| anyhow!("{rejection}"))?;
            records.push(Record {
                topic: of.topic.clone(),
                key: device.name().to_owned(),
                value: scratch.value().to_vec(),
            });
        }
    }
    Ok(records)
}

// === impl Outcome ===

impl Outcome {
    pub fn used(&self) -> Usage {
        Usage {
            user_s: self.user_s,
            system_s: self.system_s,
            sleeps: self.sleeps,
            preemptions: self.preemptions,
            ..Usage::default()
        }
    }
}

// === impl Reports ===

impl Reports {
    /// Until enough is back, or a moment has passed.
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        if self.out.load(Ordering::SeqCst) > self.wake_at {
            std::thread::park_timeout(Duration::from_millis(100));
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    fn reported(&self, good: bool) {
        if !good {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        let out = self.out.fetch_sub(1, Ordering::SeqCst) - 1;
        if out <= self.wake_at && self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.sender.unpark();
        }
    }
}

/// What librdkafka calls back.
#[derive(Clone)]
struct Callbacks(Arc<Reports>);

impl ClientContext for Callbacks {}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, _slot: usize) {
        self.0.reported(result.is_ok());
    }
}
