//! The fleet: devices of every kind on every protocol, started together and stopped in order.
//!
//! The mix follows from the device's number: kinds turn fastest, then protocols, then the variants of a protocol, so nine
//! devices of three kinds already meet every kind on every protocol. A scenario makes its own [`RosterEntry`]s. Each device is one task with
//! one connection. [`Fleet::stop`] ends the measuring, waits a bounded time for outstanding answers, and returns the ledger.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, Snapshot};
use crate::device_task::{DeviceTask, Pace};
use crate::devices::faults::{ClockLimits, FaultPlan, Faulty};
use crate::devices::placement::{self, Placement};
use crate::devices::{City, Device, Kind};
use crate::ledger::{Account, Ledger};
use crate::ledger_file::LedgerFile;
use crate::uplinks::credentials::Credentials;
use crate::uplinks::mqtt::{Quality, Version};
use crate::uplinks::{Protocol, Uplink, coap, http, mqtt};

/// How long a device may take to write its account once it was told to abandon what is outstanding.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(2);

/// What a fleet is made of, and where it sends.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    pub devices: usize,
    /// Kinds of the devices, in turn.
    pub kinds: Vec<Kind>,
    /// Describes the city: the same seed has the same devices, roads and weather.
    pub seed: u64,
    /// How often each device measures.
    pub interval: Duration,
    /// Over how long the devices start; as long as the interval, so that they do not all send at once.
    pub start_spread: Duration,
    /// Where the protocols are spoken; one without an address is left out of the mix.
    pub mqtt: Option<SocketAddr>,
    pub coap: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    /// What devices prove themselves with over MQTT and HTTP, and whether these have TLS.
    pub credentials: Arc<Credentials>,
    /// Where every device's counter begins. A fleet whose records meet those of an earlier one in the same topics needs
    /// numbers that the earlier one has not used.
    pub first_sequence: u64,
    /// How long a device waits for one answer before it counts as none.
    pub answer_timeout: Duration,
    /// How often a device sends a reading before it gives it up.
    pub tries_max: u32,
    /// The longest pause before a reading is sent again, give or take half of it.
    pub pause_max: Duration,
    /// How many readings every fourth HTTP device collects before it sends them. With 1, no device ever has a second
    /// reading outstanding: of a batch, one may be refused and the next accepted, which then is ahead of it.
    pub batch_readings: usize,
    /// How long [`Fleet::stop`] waits for outstanding answers.
    pub stop_timeout: Duration,
    /// Where the end of each reading is written down.
    pub ledger_file: Option<Arc<LedgerFile>>,
}

/// One device of a fleet, and how it lives.
#[derive(Debug)]
pub struct RosterEntry {
    pub device: Faulty,
    pub transport: Transport,
    /// The address of this machine that it sends from, over MQTT; the system's choice if none.
    pub source: Option<IpAddr>,
    pub(crate) pace: Pace,
    /// After the start, by the clock.
    pub first_due: Duration,
    /// Without power from when to when after the start, by the clock; the earliest first.
    pub power_cuts: Vec<(Duration, Duration)>,
}

/// A protocol, and the form of it that a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Mqtt {
        version: Version,
        quality: Quality,
    },
    Coap {
        confirmable: bool,
    },
    Http {
        /// In one message; with more than 1 in an array.
        readings: usize,
    },
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    tasks: JoinSet<Account>,
    counters: Arc<Counters>,
    stopping: CancellationToken,
    abandoning: CancellationToken,
    stop_timeout: Duration,
}

/// What is left of a fleet that has stopped.
#[derive(Debug)]
pub struct FleetOutcome {
    pub ledger: Ledger,
    /// Final tallies, latencies and problems.
    pub counters: Arc<Counters>,
    /// Devices that ended without an account: a defect of the fleet, never of the gateway.
    pub devices_without_account: usize,
}

// === impl FleetConfig ===

impl Default for FleetConfig {
    fn default() -> Self {
        FleetConfig {
            devices: 300,
            kinds: Kind::PHYSICAL.into(),
            seed: 1,
            interval: Duration::from_secs(1),
            start_spread: Duration::from_secs(1),
            mqtt: None,
            coap: None,
            http: None,
            credentials: Arc::default(),
            first_sequence: 1,
            answer_timeout: Duration::from_secs(15),
            tries_max: 10,
            pause_max: Duration::from_secs(5),
            batch_readings: 5,
            stop_timeout: Duration::from_secs(10),
            ledger_file: None,
        }
    }
}

impl FleetConfig {
    fn addresses(&self) -> Vec<(Protocol, SocketAddr)> {
        let all = [
            (Protocol::Mqtt, self.mqtt),
            (Protocol::Coap, self.coap),
            (Protocol::Http, self.http),
        ];
        all.into_iter()
            .filter_map(|(protocol, address)| Some((protocol, address?)))
            .collect()
    }
}

impl FleetConfig {
    /// The devices over these protocols by name, each with its kind.
    pub fn device_names(&self, over: &[Protocol]) -> Vec<(String, String)> {
        let mut roster = self.roster();
        roster.retain(|entry| over.contains(&entry.transport.protocol()));
        names(&roster)
    }

    /// A device of every kind on every protocol that there is an address for, in turn.
    pub fn roster(&self) -> Vec<RosterEntry> {
        let addresses = self.addresses();
        let kinds = &self.kinds;
        if addresses.is_empty() || kinds.is_empty() {
            return Vec::new();
        }
        let city = Arc::new(City::new(self.seed));
        let entry = |index: usize| {
            let device = Device::in_city(&city, pick(kinds, index), index as u64);
            let (protocol, _) = pick(&addresses, index / kinds.len());
            let interval = self.interval;
            RosterEntry {
                device: Faulty::new(self.seed, device, &FaultPlan::default(), ClockLimits::default()),
                transport: self.transport(protocol, index / (kinds.len() * addresses.len())),
                source: None,
                pace: Pace::Live { interval },
                first_due: self.start_spread.mul_f64(index as f64 / self.devices as f64),
                power_cuts: Vec::new(),
            }
        };
        (0..self.devices).map(entry).collect()
    }

    /// Most speak their protocol in its plain form, every fourth in its rarest.
    fn transport(&self, protocol: Protocol, variant: usize) -> Transport {
        let is_fourth = variant % 4 == 3;
        match protocol {
            Protocol::Mqtt => {
                let variants = [
                    (Version::V5, Quality::AtLeastOnce),
                    (Version::V4, Quality::AtLeastOnce),
                    (Version::V4, Quality::ExactlyOnce),
                    (Version::V5, Quality::ExactlyOnce),
                ];
                let (version, quality) = pick(&variants, variant);
                Transport::Mqtt { version, quality }
            }
            Protocol::Coap => Transport::Coap {
                confirmable: !is_fourth,
            },
            Protocol::Http => Transport::Http {
                readings: if is_fourth { self.batch_readings } else { 1 },
            },
        }
    }
}

/// The devices of a roster by name, each with its kind.
pub fn names(roster: &[RosterEntry]) -> Vec<(String, String)> {
    let devices = roster.iter().map(|entry| entry.device.device());
    devices
        .map(|device| (device.name().to_owned(), device.kind().to_string()))
        .collect()
}

/// Where the devices of a roster stand.
pub fn placements(roster: &[RosterEntry]) -> Vec<Placement> {
    placement::placements(
        roster
            .iter()
            .map(|entry| (entry.device.device(), entry.pace.interval())),
    )
}

// === impl RosterEntry ===

#[cfg(test)]
impl RosterEntry {
    /// What it measures in a slot.
    pub(crate) fn moment_of_slot(&self, number: u32) -> crate::devices::Moment {
        let mut pace = self.pace;
        if let Pace::Slots { slot, .. } = &mut pace {
            *slot = number;
        }
        pace.moment(0)
    }
}

// === impl Transport ===

impl Transport {
    pub fn protocol(self) -> Protocol {
        match self {
            Transport::Mqtt { .. } => Protocol::Mqtt,
            Transport::Coap { .. } => Protocol::Coap,
            Transport::Http { .. } => Protocol::Http,
        }
    }
}

// === impl Fleet ===

impl Fleet {
    /// Starts every device; must be called within a Tokio runtime. Fails without an address, and when this machine cannot
    /// open one more socket.
    pub fn start(config: FleetConfig) -> anyhow::Result<Fleet> {
        let roster = config.roster();
        Fleet::start_roster(&config, roster)
    }

    /// As [`Fleet::start`], with the devices that are given; `devices`, `kinds`, `seed`, `interval` and `start_spread` of the
    /// configuration are not looked at.
    pub fn start_roster(config: &FleetConfig, roster: Vec<RosterEntry>) -> anyhow::Result<Fleet> {
        let uplinks = Arc::new(Uplinks::new(config)?);
        let kinds = roster.iter().map(|entry| entry.device.device().kind()).collect();
        let counters = Arc::new(Counters::of(&kinds));
        let (stopping, abandoning) = (CancellationToken::new(), CancellationToken::new());
        let started = Instant::now();
        let devices = roster.len();
        let mut tasks = Vec::with_capacity(devices);
        for (index, entry) in roster.into_iter().enumerate() {
            let uplink = uplinks
                .connect(entry.device.device(), entry.transport, entry.source)
                .with_context(|| format!("device {} of {devices} cannot be started", index + 1))?;
            let cut = |(from, until): (Duration, Duration)| (started + from, started + until);
            tasks.push(DeviceTask {
                device: entry.device,
                uplink,
                transport: entry.transport,
                source: entry.source,
                uplinks: Arc::clone(&uplinks),
                counters: Arc::clone(&counters),
                ledger_file: config.ledger_file.clone(),
                loses_power: !entry.power_cuts.is_empty(),
                back_since: None,
                pace: entry.pace,
                first_due: started + entry.first_due,
                first_sequence: config.first_sequence,
                tries_max: config.tries_max.max(1),
                pause_max: config.pause_max,
                power_cuts: entry.power_cuts.into_iter().map(cut).collect(),
                stopping: stopping.clone(),
                abandoning: abandoning.clone(),
            });
        }
        Ok(Fleet {
            tasks: tasks.into_iter().map(DeviceTask::run).collect(),
            counters,
            stopping,
            abandoning,
            stop_timeout: config.stop_timeout,
        })
    }

    /// What the fleet did so far.
    pub fn counters(&self) -> Snapshot {
        self.counters.snapshot()
    }

    /// The same, live, with latencies and problems.
    pub fn live(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Ends the measuring, waits for outstanding answers up to the configured bound, and returns the ledger.
    pub async fn stop(mut self) -> FleetOutcome {
        let devices = self.tasks.len();
        let mut accounts = Vec::with_capacity(devices);
        self.stopping.cancel();
        self.collect(&mut accounts, Instant::now() + self.stop_timeout).await;
        self.abandoning.cancel();
        self.collect(&mut accounts, Instant::now() + ABANDON_TIMEOUT).await;
        let devices_without_account = devices - accounts.len();
        if devices_without_account > 0 {
            tracing::error!(devices_without_account, "some devices ended without an account");
        }
        FleetOutcome {
            ledger: Ledger { accounts },
            counters: self.counters,
            devices_without_account,
        }
    }

    async fn collect(&mut self, accounts: &mut Vec<Account>, deadline: Instant) {
        while let Ok(Some(ended)) = timeout_at(deadline, self.tasks.join_next()).await {
            match ended {
                Ok(account) => accounts.push(account),
                Err(error) => tracing::error!(%error, "a device's task failed"),
            }
        }
    }
}

fn pick<T: Copy>(choices: &[T], number: usize) -> T {
    choices[number % choices.len()]
}

/// Where the fleet sends, and how long it waits for answers.
#[derive(Debug)]
pub(crate) struct Uplinks {
    config: FleetConfig,
    http: Option<http::Clients>,
    /// Uplinks made so far.
    made: AtomicU64,
}

// === impl Uplinks ===

impl Uplinks {
    fn new(config: &FleetConfig) -> anyhow::Result<Uplinks> {
        anyhow::ensure!(
            !config.addresses().is_empty(),
            "the fleet has no address to send to: give one for mqtt, coap or http"
        );
        let tls = config.credentials.shared_connector();
        let http = config
            .http
            .map(|server| http::Clients::new(server, config.answer_timeout, tls.cloned()));
        Ok(Uplinks {
            config: config.clone(),
            http: http.transpose()?,
            made: AtomicU64::new(0),
        })
    }

    /// A client of its own for the device, with a connection of its own once it has something to send.
    pub(crate) fn connect(
        &self,
        device: &Device,
        transport: Transport,
        source: Option<IpAddr>,
    ) -> anyhow::Result<Uplink> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let answer_timeout = self.config.answer_timeout;
        let path = format!("devices/{}/{}", device.name(), device.kind());
        let credentials = &self.config.credentials;
        let secret = credentials.secret(device.name());
        let nowhere = || format!("there is no address for {}", transport.protocol());
        match transport {
            Transport::Mqtt { version, quality } => {
                let server = self.config.mqtt.with_context(nowhere)?;
                let proof = (secret, credentials.connector(device.name())?);
                let (device, how) = (device.name(), (version, quality));
                let uplink = match source {
                    None => mqtt::Uplink::new(server, device, &path, how, answer_timeout, proof),
                    Some(source) => mqtt::Uplink::from_address((server, source), device, &path, answer_timeout, proof),
                };
                Ok(Uplink::Mqtt(Box::new(uplink)))
            }
            Transport::Coap { confirmable } => {
                let server = self.config.coap.with_context(nowhere)?;
                let uplink = coap::Uplink::new(server, &path, confirmable, answer_timeout);
                Ok(Uplink::Coap(Box::new(uplink.context("cannot open a UDP socket")?)))
            }
            Transport::Http { readings } => {
                let shared = self.http.as_ref().with_context(nowhere)?;
                let own = credentials.own_connector(device.name())?;
                let own = own.map(|tls| shared.apart(answer_timeout, tls)).transpose()?;
                // Connections are kept by this name: a device that comes back gets a new one.
                let name = format!("{}-{number}", device.name());
                let login = secret.map(|secret| (device.name(), secret));
                let uplink = own.as_ref().unwrap_or(shared).uplink(&name, &path, readings, login);
                Ok(Uplink::Http(Box::new(uplink)))
            }
        }
    }
}
