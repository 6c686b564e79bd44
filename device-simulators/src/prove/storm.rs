//! A storm on the gateway's listeners. Of all devices four fifths lose power together and are back a second later; beside them the
//! others go on, connections are kept half open, then others bring junk, and at last one device sends as fast as it can.
//!
//! Everything comes from address prefixes of its own in 127/8, which the gateway does not exempt from its limits here. What the
//! storm did is counted, and so is what the devices noticed: those that lost power, and apart from them those that did not.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::answer_times::Quantiles;
use super::fault::{Action, Parameters, Step};
use super::proof::PhaseLine;
use crate::fleet::{FleetConfig, RosterEntry, Transport};
use crate::load::pace::Pace;
use crate::load::{self, Report, Settings};
use crate::phases::Phase;
use crate::report::{grouped, milliseconds};
use crate::uplinks::Protocol;
use crate::uplinks::credentials::Credentials;
use crate::uplinks::mqtt::{Quality, Version};

/// Address prefixes of each sort of connection.
const PREFIXES: usize = 64;

/// The second byte of the first of them.
const DEVICES: u8 = 10;
const HALF_OPEN: u8 = 80;
const JUNK: u8 = 150;
const FLOOD: u8 = 250;

/// How many devices may connect a second, at the start.
const CONNECTS_PER_SECOND: u64 = 400;

/// The longest pause of a device before it tries again: at least 125 of 10,000 share an address, which may connect 50 times a second.
pub const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long after the phase has begun the power is lost, and for how long: the phase begins when all devices were made, the time of
/// the cut is counted from before.
const CUT_AFTER: Duration = Duration::from_secs(1);
const CUT_LASTS: Duration = Duration::from_secs(1);

/// How long the last device may take until it is back.
pub const BACK_TIMEOUT: Duration = Duration::from_secs(120);

/// Junk connections that are open at a time, how long one waits for the gateway to close it, and how often some are opened.
pub const JUNK_AT_A_TIME: usize = 1000;
const JUNK_TIMEOUT: Duration = Duration::from_secs(2);
const JUNK_TICKS_PER_SECOND: u64 = 50;

/// What a connection does that could not be made.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The device that sends as fast as it can, and how fast that should be.
const FLOOD_DEVICE: u64 = 7_000_000;
const FLOOD_PER_SECOND: f64 = 20_000.0;

/// How long it waits for an answer, at the end too.
const FLOOD_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it may take to end.
const FLOOD_TIMEOUT: Duration = Duration::from_secs(30);

/// How strong a storm is, for a number of devices: 3,000 half-open connections and 5,000 junk connections per second beside 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Strength {
    pub devices_that_lose_power: usize,
    pub devices_that_do_not: usize,
    pub half_open: usize,
    pub junk_per_second: u64,
}

/// What is on its way.
#[derive(Debug)]
pub struct Storm {
    server: SocketAddr,
    strength: Strength,
    credentials: Arc<Credentials>,
    counts: Arc<Counts>,
    half_open: JoinSet<()>,
    junk: JoinSet<()>,
    flood: JoinSet<anyhow::Result<Report>>,
    flooded: Option<Flooded>,
}

#[derive(Debug, Default)]
struct Counts {
    half_open: AtomicU64,
    half_open_most: AtomicU64,
    half_opened: AtomicU64,
    junk: AtomicU64,
    junk_failed: AtomicU64,
}

/// What it came to.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    #[serde(flatten)]
    pub strength: Strength,
    pub prefixes: usize,
    /// Half-open connections at the same time, and how many were made as the gateway closed them.
    pub half_open_most: u64,
    pub half_opened: u64,
    pub junk_connections: u64,
    pub junk_failed: u64,
    pub flooded: Option<Flooded>,
    /// Devices that came back, and seconds until half of them, 99 of a hundred and all were answered.
    pub back: u64,
    pub back_s: [f64; 3],
    /// The gateway's resident memory before the storm, and the most of the whole run.
    pub memory_before_kib: u64,
    pub memory_most_kib: u64,
    /// Gateway and clients had cores of their own.
    pub own_cores: bool,
    /// As the devices that lost power observed it.
    pub powerless: Vec<PhaseLine>,
    /// From reception to outcome over HTTP, by the gateway's own account: no device that loses power speaks it.
    pub http_in_the_gateway: Vec<(Phase, Quantiles)>,
}

/// What one device that sends as fast as it can was told.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Flooded {
    pub per_second: f64,
    pub sent: u64,
    pub positive: u64,
    pub negative: u64,
    /// Its window was full.
    pub not_sent: u64,
}

/// The phases of a storm: one follows the other.
pub fn plan(parameters: &Parameters, calm: Duration) -> Vec<Step> {
    vec![
        Step::Enter(Phase::Start),
        Step::Wait(start(parameters.devices)),
        Step::Enter(Phase::Before),
        Step::Wait(calm),
        Step::Enter(Phase::Damage),
        Step::Do(Action::HoldHalfOpen),
        Step::AwaitBack,
        Step::Enter(Phase::Replay),
        Step::Do(Action::BeginJunk),
        Step::Wait(parameters.damage),
        Step::Do(Action::EndJunk),
        Step::Do(Action::DropHalfOpen),
        Step::AwaitReplayed,
        Step::Enter(Phase::After),
        Step::Do(Action::BeginFlood),
        Step::Wait(calm),
        Step::Do(Action::EndFlood),
    ]
}

/// What each phase is called.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Start => "start",
        Phase::Before => "before",
        Phase::Damage => "storm",
        Phase::Replay => "junk",
        Phase::After => "flood",
    }
}

/// Over which time the devices connect.
pub fn start_spread(devices: usize) -> Duration {
    Duration::from_millis(1000 + devices as u64 * 1000 / CONNECTS_PER_SECOND)
}

fn start(devices: usize) -> Duration {
    start_spread(devices) + Duration::from_secs(2)
}

/// Every fifth device goes on, over MQTT and HTTP; the others speak MQTT and lose their power.
pub fn roster(config: &FleetConfig, calm: Duration) -> Vec<RosterEntry> {
    let from = start(config.devices) + calm + CUT_AFTER;
    let mut roster = config.roster();
    for (index, entry) in roster.iter_mut().enumerate() {
        let goes_on = index % 5 == 4;
        if goes_on && entry.transport.protocol() == Protocol::Http {
            continue;
        }
        entry.transport = Transport::Mqtt {
            version: Version::V5,
            quality: Quality::AtLeastOnce,
        };
        entry.source = Some(address(DEVICES, index));
        if !goes_on {
            entry.power_cuts = vec![(from, from + CUT_LASTS)];
        }
    }
    roster
}

/// The device that floods, and its kind.
pub fn flooding_device() -> (String, String) {
    let (device, kind) = flood_settings().device(0, 1);
    (device.name().to_owned(), kind)
}

fn flood_settings() -> Settings {
    Settings {
        first_device: FLOOD_DEVICE,
        ..Settings::default()
    }
}

/// One address in each of the prefixes, in turn.
fn address(first: u8, number: usize) -> IpAddr {
    let prefix = (number % PREFIXES) as u8;
    IpAddr::V4(Ipv4Addr::new(127, first + prefix, prefix, 1))
}

// === impl Strength ===

impl Strength {
    pub fn of(devices: usize) -> Strength {
        let go_on = devices / 5;
        Strength {
            devices_that_lose_power: devices - go_on,
            devices_that_do_not: go_on,
            half_open: devices * 3 / 10,
            junk_per_second: (devices as u64 / 2).max(JUNK_TICKS_PER_SECOND),
        }
    }
}

// === impl Storm ===

impl Storm {
    /// Against the gateway's MQTT listener, which speaks TLS.
    pub fn new(server: SocketAddr, devices: usize, credentials: Arc<Credentials>) -> Storm {
        Storm {
            server,
            strength: Strength::of(devices),
            credentials,
            counts: Arc::default(),
            half_open: JoinSet::new(),
            junk: JoinSet::new(),
            flood: JoinSet::new(),
            flooded: None,
        }
    }

    pub fn strength(&self) -> Strength {
        self.strength
    }

    pub fn hold_half_open(&mut self) {
        for number in 0..self.strength.half_open {
            let held = hold_half_open(self.server, address(HALF_OPEN, number), Arc::clone(&self.counts));
            self.half_open.spawn(held);
        }
    }

    pub async fn drop_half_open(&mut self) {
        self.half_open.shutdown().await;
    }

    pub fn begin_junk(&mut self) {
        let (per_second, counts) = (self.strength.junk_per_second, Arc::clone(&self.counts));
        self.junk.spawn(bring_junk(self.server, per_second, counts));
    }

    pub async fn end_junk(&mut self) {
        self.junk.shutdown().await;
    }

    /// It sends for so long.
    pub fn begin_flood(&mut self, steady: Duration) {
        let settings = Settings {
            targets: vec![(Protocol::Mqtt, self.server)],
            sources: vec![address(FLOOD, 0)],
            device_credentials: Arc::clone(&self.credentials),
            connections: 1,
            windows: [u16::MAX; 3],
            pace: Pace::Open { rate: FLOOD_PER_SECOND },
            ramp: Duration::from_millis(500),
            steady,
            timeout: FLOOD_ANSWER_TIMEOUT,
            ..flood_settings()
        };
        self.flood.spawn(load::runner::run(
            settings,
            Arc::default(),
            |_, _| {},
            std::future::pending(),
        ));
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It could not be run.
    pub async fn end_flood(&mut self) -> anyhow::Result<()> {
        let ended = timeout(FLOOD_TIMEOUT, self.flood.join_next()).await;
        let report = ended
            .context("the flood did not end")?
            .context("there was no flood")???;
        let total = report.total;
        self.flooded = Some(Flooded {
            per_second: total.per_second,
            sent: total.sent,
            positive: total.positive,
            negative: total.negative,
            not_sent: total.not_sent,
        });
        Ok(())
    }

    /// What it came to, with what only others know left open.
    pub fn figures(&self, (back, times): (u64, [Duration; 3])) -> Figures {
        let counted = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            strength: self.strength,
            prefixes: PREFIXES,
            half_open_most: counted(&self.counts.half_open_most),
            half_opened: counted(&self.counts.half_opened),
            junk_connections: counted(&self.counts.junk),
            junk_failed: counted(&self.counts.junk_failed),
            flooded: self.flooded,
            back,
            back_s: times.map(|time| (time.as_secs_f64() * 1000.0).round() / 1000.0),
            memory_before_kib: 0,
            memory_most_kib: 0,
            own_cores: false,
            powerless: Vec::new(),
            http_in_the_gateway: Vec::new(),
        }
    }
}

async fn connect(server: SocketAddr, source: IpAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(server).await
}

/// Connects, says nothing until the gateway closes the connection, and connects again.
async fn hold_half_open(server: SocketAddr, source: IpAddr, counts: Arc<Counts>) {
    loop {
        let Ok(mut stream) = connect(server, source).await else {
            sleep(RETRY_PAUSE).await;
            continue;
        };
        counts.half_opened.fetch_add(1, Ordering::Relaxed);
        let now = counts.half_open.fetch_add(1, Ordering::Relaxed) + 1;
        counts.half_open_most.fetch_max(now, Ordering::Relaxed);
        // What it says is of no interest.
        let mut heard = [0; 256];
        while stream.read(&mut heard).await.is_ok_and(|count| count > 0) {}
        counts.half_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens so many connections a second that bring junk; when too many are open, fewer.
async fn bring_junk(server: SocketAddr, per_second: u64, counts: Arc<Counts>) {
    let mut tick = interval(Duration::from_secs(1) / JUNK_TICKS_PER_SECOND as u32);
    let room = Arc::new(Semaphore::new(JUNK_AT_A_TIME));
    let (mut open, mut number) = (JoinSet::new(), 0);
    loop {
        tick.tick().await;
        while open.try_join_next().is_some() {}
        for _ in 0..per_second / JUNK_TICKS_PER_SECOND {
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                break;
            };
            let (source, counts) = (address(JUNK, number), Arc::clone(&counts));
            number += 1;
            open.spawn(async move {
                let brought = timeout(JUNK_TIMEOUT, junk(server, source)).await;
                let count = if brought.is_ok_and(|brought| brought.is_ok()) {
                    &counts.junk
                } else {
                    &counts.junk_failed
                };
                count.fetch_add(1, Ordering::Relaxed);
                drop(permit);
            });
        }
    }
}

/// Sends bytes that are no TLS, and waits until the gateway closes the connection.
async fn junk(server: SocketAddr, source: IpAddr) -> std::io::Result<()> {
    let mut stream = connect(server, source).await?;
    // Its port must not stay in use.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    let bytes: [u8; 64] = std::array::from_fn(|_| rand::random());
    // One beyond its limits is closed before it has said anything.
    stream.write_all(&bytes).await.ok();
    let mut heard = [0; 64];
    while stream.read(&mut heard).await.is_ok_and(|count| count > 0) {}
    Ok(())
}

// === impl Figures ===

impl Figures {
    /// What says that there was no storm, or that it is not over.
    pub fn failures(&self) -> Vec<String> {
        let devices = self.strength.devices_that_lose_power as u64;
        let mut failures = Vec::new();
        if self.back < devices {
            let missing = grouped(devices - self.back);
            failures.push(format!("{missing} devices that lost their power did not come back"));
        }
        let nothing = [
            (self.half_open_most, "no connection was half open"),
            (self.junk_connections, "no connection brought junk"),
            (
                self.flooded.map_or(0, |flooded| flooded.sent),
                "no device flooded the gateway",
            ),
        ];
        failures.extend(
            nothing
                .into_iter()
                .filter(|(count, _)| *count == 0)
                .map(|(_, what)| what.to_owned()),
        );
        failures
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Strength {
            devices_that_lose_power: powerless,
            devices_that_do_not: others,
            half_open,
            junk_per_second,
        } = self.strength;
        writeln!(
            f,
            "{:>14} of {} devices came back, from {} prefixes: half after {:.1} s, 99 % after {:.1} s, all after {:.1} s",
            grouped(self.back),
            grouped(powerless as u64),
            self.prefixes,
            self.back_s[0],
            self.back_s[1],
            self.back_s[2]
        )?;
        writeln!(
            f,
            "{:>14} devices went on beside them (the table)",
            grouped(others as u64)
        )?;
        writeln!(
            f,
            "{:>14} connections were half open at most, of {}; {} in all, as the gateway closed them",
            grouped(self.half_open_most),
            grouped(half_open as u64),
            grouped(self.half_opened)
        )?;
        writeln!(
            f,
            "{:>14} connections brought junk, {} a second were asked for; {} failed",
            grouped(self.junk_connections),
            grouped(junk_per_second),
            grouped(self.junk_failed)
        )?;
        if let Some(flooded) = self.flooded {
            writeln!(
                f,
                "{:>14} readings sent by the device that floods, of {} due; {} positive, {} negative answers",
                grouped(flooded.sent),
                grouped(flooded.sent + flooded.not_sent),
                grouped(flooded.positive),
                grouped(flooded.negative)
            )?;
        }
        let mebibytes = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        let (before, most) = (mebibytes(self.memory_before_kib), mebibytes(self.memory_most_kib));
        writeln!(
            f,
            "{most:>14} MiB of memory at most in the gateway; {before} before the storm"
        )?;
        for (phase, times) in &self.http_in_the_gateway {
            writeln!(
                f,
                "{:>14} p50 and {} p99 from reception to outcome over HTTP in the gateway, {}",
                milliseconds(times.p50_ms),
                milliseconds(times.p99_ms),
                phase_name(*phase)
            )?;
        }
        for line in self.powerless.iter().filter(|line| line.phase != Phase::Start) {
            let mqtt = line.by_protocol.get(&Protocol::Mqtt).copied().unwrap_or_default();
            writeln!(
                f,
                "{:>14} positive answers to those that lost power, {}: p50 {}, p99 {}, {} unanswered, {} busy",
                grouped(mqtt.answers.positive),
                phase_name(line.phase),
                milliseconds(mqtt.latency.p50_ms),
                milliseconds(mqtt.latency.p99_ms),
                grouped(mqtt.answers.unanswered),
                grouped(mqtt.answers.busy)
            )?;
        }
        let cores = if self.own_cores {
            "cores of their own"
        } else {
            "no cores of their own"
        };
        writeln!(f, "{:>14} gateway and clients had {cores}", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_sort_of_connection_has_prefixes_of_its_own() {
        let addresses = |first| {
            (0..1000)
                .map(move |number| address(first, number))
                .collect::<HashSet<_>>()
        };
        let all: Vec<_> = [DEVICES, HALF_OPEN, JUNK].map(addresses).into();
        for addresses in &all {
            assert_eq!(addresses.len(), PREFIXES);
            assert!(addresses.iter().all(IpAddr::is_loopback));
        }
        assert!(all.iter().all(|addresses| !addresses.contains(&address(FLOOD, 0))));
        assert!(all[0].is_disjoint(&all[1]) && all[1].is_disjoint(&all[2]) && all[0].is_disjoint(&all[2]));
    }

    #[test]
    fn four_fifths_lose_power_and_the_others_speak_both_protocols() {
        let somewhere = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = FleetConfig {
            devices: 600,
            mqtt: somewhere,
            http: somewhere,
            ..FleetConfig::default()
        };
        let roster = roster(&config, Duration::from_secs(3));
        let strength = Strength::of(600);
        let (lose, go_on): (Vec<_>, Vec<_>) = roster.iter().partition(|entry| !entry.power_cuts.is_empty());
        assert_eq!(
            (lose.len(), go_on.len()),
            (strength.devices_that_lose_power, strength.devices_that_do_not)
        );
        assert!(
            lose.iter()
                .all(|entry| entry.source.is_some() && entry.transport.protocol() == Protocol::Mqtt)
        );
        for protocol in [Protocol::Mqtt, Protocol::Http] {
            let speaks = go_on.iter().filter(|entry| entry.transport.protocol() == protocol);
            assert_eq!(speaks.count(), 60, "{protocol}");
        }
    }
}
