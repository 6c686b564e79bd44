//! The closed loops: MQTT, CoAP and HTTP through each gateway and, in the same round, against the floors (sink, bare
//! handler, bare producer). CPU of gateway, generator and Kafka is measured per message, and the counters must agree
//! with what was sent. `verdict` prints the results.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::Part;
use crate::floors::producer;
use crate::gateway::Gateway;
use crate::load::{Load, Percentiles, RAMP, Report};
use crate::parts;
use crate::process::{Usage, machine_s, resident_mib};
use crate::stage::Stage;

/// What is left out at the beginning and at the end of a measurement.
const MARGIN: Duration = Duration::from_millis(500);

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// Mean length of the JSON, by kind: traffic, weather, energy.
    pub reading_bytes: [f64; 3],
    /// By case, one entry a round.
    pub cases: BTreeMap<&'static str, Vec<Round>>,
    /// One entry a round; of each, one a gateway.
    pub rate: Vec<Vec<parts::Answered>>,
    pub invalid: Vec<Vec<Measured>>,
    pub slow: Vec<Vec<Measured>>,
    pub syscalls: Vec<parts::Syscalls>,
    pub idle: Option<Vec<parts::Idle>>,
    /// What the first gateway has logged over the whole run.
    pub log_bytes: u64,
}

/// A protocol and its devices.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub connections: usize,
    pub window: usize,
}

/// One case in one round.
#[derive(Debug, Serialize)]
pub struct Round {
    pub gateways: Vec<Measured>,
    pub sink: Measured,
    pub producer: Measured,
    /// Mean length of the producer's values, which are what the gateway makes of these readings.
    pub value_bytes: f64,
    /// HTTP only.
    pub web: Option<Measured>,
}

/// What one target took; CPU in microseconds a message.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub messages: u64,
    pub per_second: f64,
    pub cpu_us: f64,
    pub user_us: f64,
    pub system_us: f64,
    /// CPU by the name of the thread.
    pub threads_us: BTreeMap<String, f64>,
    /// Times a message that a thread went to sleep, and that one was preempted.
    pub sleeps: f64,
    pub preemptions: f64,
    pub load_us: Option<f64>,
    pub kafka_us: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p999_ms: Option<f64>,
    pub resident_mib: f64,
    /// Of all cores' time, what others took.
    pub others_percent: f64,
    /// Messages without an answer.
    pub unanswered: u64,
    /// Readings that went to the spool, because Kafka took longer than `kafka.spool_after`, or were busy.
    pub spooled: u64,
    pub busy: u64,
}

// === impl Case ===

impl Case {
    pub fn of(part: Part) -> Case {
        let case = |name, connections, window| Case {
            name,
            connections,
            window,
        };
        match part {
            Part::Coap => case("coap", 500, 1),
            Part::Http => case("http", 500, 1),
            _ => case("mqtt", 100, 20),
        }
    }

    /// Flags of the load generator for the server at `address`.
    pub fn arguments(self, address: &str) -> Vec<String> {
        let Case {
            name,
            connections,
            window,
        } = self;
        let flags = format!("--{name} {address} --connections {connections} --window {window}");
        flags.split(' ').map(str::to_owned).collect()
    }

    fn of_gateway(self, gateway: &Gateway) -> Vec<String> {
        let address = match self.name {
            "coap" => gateway.coap(),
            "http" => gateway.http(),
            _ => gateway.mqtt(),
        };
        self.arguments(&address)
    }
}

/// One round of a case: every gateway, then the floors.
pub fn measure(part: Part, stage: &Stage, results: &mut Results) -> anyhow::Result<()> {
    let case = Case::of(part);
    let mut gateways = Vec::new();
    for gateway in &stage.gateways {
        let measured = drive(stage, gateway, &case.of_gateway(gateway), RAMP)?;
        gateways.push(measured);
    }
    let protocol = ["mqtt", "coap", "http"].iter().position(|name| *name == case.name);
    let address = &stage.sink.addresses[protocol.unwrap_or_default()];
    let sink = drive_floor(stage, stage.sink.pid(), &case.arguments(address))?;
    let web = match part {
        Part::Http => Some(drive_floor(
            stage,
            stage.web.pid(),
            &case.arguments(&stage.web.address),
        )?),
        _ => None,
    };
    let (producer, value_bytes) = produce(stage, case.connections * case.window)?;
    let round = Round {
        gateways,
        sink,
        producer,
        value_bytes,
        web,
    };
    results.cases.entry(case.name).or_default().push(round);
    Ok(())
}

/// Sends to a gateway for a while; what that took of it, of the generator and of Kafka. The gateway counts what it
/// answers, so that beginning and end are left out.
pub fn drive(stage: &Stage, gateway: &Gateway, arguments: &[String], ramp: Duration) -> anyhow::Result<Measured> {
    let load = Load::start(&stage.simulators, arguments, ramp, stage.seconds)?;
    std::thread::sleep(ramp + MARGIN);
    let (before, counted) = (Look::at(gateway.pid(), stage)?, gateway.scrape()?);
    std::thread::sleep(Duration::from_secs(stage.seconds) - 2 * MARGIN);
    let (after, counted_then) = (Look::at(gateway.pid(), stage)?, gateway.scrape()?);
    let report = load.report()?;
    let messages = counted_then.answered() - counted.answered();
    let mut measured = Measured::new(messages, report.generator.processor_us_per_message, &before, &after);
    let ended = |how| counted_then.ended(how) - counted.ended(how);
    (measured.spooled, measured.busy) = (ended("spooled"), ended("busy"));
    measured.tell(&report);
    measured.resident_mib = resident_mib(gateway.pid())?;
    Ok(measured)
}

/// The same for a server that does not say what it has answered: the whole run counts.
fn drive_floor(stage: &Stage, pid: u32, arguments: &[String]) -> anyhow::Result<Measured> {
    let before = Look::at(pid, stage)?;
    let report = Load::start(&stage.simulators, arguments, RAMP, stage.seconds)?.report()?;
    let after = Look::at(pid, stage)?;
    let load_us = report.generator.processor_us_per_message;
    let mut measured = Measured::new(report.answers(), load_us, &before, &after);
    measured.tell(&report);
    measured.resident_mib = resident_mib(pid)?;
    Ok(measured)
}

/// The bare producer, with so many records out.
fn produce(stage: &Stage, window: usize) -> anyhow::Result<(Measured, f64)> {
    let look = |at_s, target| -> anyhow::Result<Look> {
        Ok(Look {
            at_s,
            target,
            kafka: stage.kafka.pid.map(Usage::of).transpose()?,
            machine_s: 0.0,
        })
    };
    let before = look(0.0, Usage::default())?;
    let outcome = producer::start(stage.place(), window, stage.seconds)?;
    let after = look(outcome.seconds, outcome.used())?;
    let mut measured = Measured::new(outcome.records, None, &before, &after);
    // It measures its own loop; what the machine did meanwhile is not known here.
    measured.others_percent = f64::NAN;
    Ok((measured, outcome.value_bytes))
}

/// What somebody and Kafka had used at one moment.
struct Look {
    /// Of a clock that is the same for two looks.
    at_s: f64,
    target: Usage,
    kafka: Option<Usage>,
    machine_s: f64,
}

// === impl Look ===

impl Look {
    fn at(pid: u32, stage: &Stage) -> anyhow::Result<Look> {
        Ok(Look {
            at_s: stage.began.elapsed().as_secs_f64(),
            target: Usage::of(pid)?,
            kafka: stage.kafka.pid.map(Usage::of).transpose()?,
            machine_s: machine_s()?,
        })
    }
}

// === impl Measured ===

impl Measured {
    fn new(messages: u64, load_us: Option<f64>, before: &Look, after: &Look) -> Measured {
        let each = |total: f64| total / messages.max(1) as f64;
        let used = after.target.since(&before.target);
        let kafka = before.kafka.as_ref().zip(after.kafka.as_ref());
        let kafka_s = kafka.map(|(before, after)| after.cpu_s() - before.cpu_s());
        let elapsed_s = after.at_s - before.at_s;
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let load_s = load_us.unwrap_or(0.0) * messages as f64 / 1e6;
        let others_s = after.machine_s - before.machine_s - used.cpu_s() - kafka_s.unwrap_or(0.0) - load_s;
        let threads = used.threads.iter();
        Measured {
            messages,
            per_second: messages as f64 / elapsed_s,
            cpu_us: each(used.cpu_s() * 1e6),
            user_us: each(used.user_s * 1e6),
            system_us: each(used.system_s * 1e6),
            threads_us: threads
                .map(|(name, seconds)| (name.clone(), each(seconds * 1e6)))
                .collect(),
            sleeps: each(used.sleeps as f64),
            preemptions: each(used.preemptions as f64),
            load_us,
            kafka_us: kafka_s.map(|kafka_s| each(kafka_s * 1e6)),
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            resident_mib: 0.0,
            others_percent: others_s * 100.0 / (elapsed_s * cores),
            unanswered: 0,
            spooled: 0,
            busy: 0,
        }
    }

    /// What the generator has to say of it.
    fn tell(&mut self, report: &Report) {
        let Percentiles {
            p50_ms,
            p99_ms,
            p999_ms,
        } = report.total.latency;
        (self.p50_ms, self.p99_ms, self.p999_ms) = (p50_ms, p99_ms, p999_ms);
        self.unanswered = report.total.unanswered + report.total.not_sent;
    }
}
