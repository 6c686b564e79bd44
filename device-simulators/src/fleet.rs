//! The fleet: devices of every kind on every protocol, started together and stopped in order.
//!
//! The mix follows from the device's number: kinds turn fastest, then protocols, then the variants of a protocol, so nine
//! devices already meet every kind on every protocol. Each device is one task with one connection. [`Fleet::stop`] ends
//! the measuring, waits a bounded time for outstanding answers, and returns the ledger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, Snapshot};
use crate::devices::{Device, Kind};
use crate::ledger::{Ledger, Page};
use crate::member::Member;
use crate::uplinks::mqtt::{Quality, Version};
use crate::uplinks::{Protocol, Uplink, coap, http, mqtt};

/// How long a device may take to write its page once it was told to abandon what is outstanding.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(2);

/// What a fleet is made of, and where it sends.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    pub devices: usize,
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
    /// reading outstanding: of a batch, one may be refused and the next taken, which then is ahead of it.
    pub batch_readings: usize,
    /// How long [`Fleet::stop`] waits for outstanding answers.
    pub stop_timeout: Duration,
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    members: JoinSet<Page>,
    counters: Arc<Counters>,
    stopping: CancellationToken,
    abandoning: CancellationToken,
    stop_timeout: Duration,
}

/// What is left of a fleet that has stopped.
#[derive(Debug)]
pub struct FleetOutcome {
    pub ledger: Ledger,
    /// Final tallies, latencies and complaints.
    pub counters: Arc<Counters>,
    /// Devices that ended without a page: a defect of the fleet, never of the gateway.
    pub devices_without_page: usize,
}

// === impl FleetConfig ===

impl Default for FleetConfig {
    fn default() -> Self {
        FleetConfig {
            devices: 300,
            seed: 1,
            interval: Duration::from_secs(1),
            start_spread: Duration::from_secs(1),
            mqtt: None,
            coap: None,
            http: None,
            first_sequence: 1,
            answer_timeout: Duration::from_secs(15),
            tries_max: 10,
            pause_max: Duration::from_secs(5),
            batch_readings: 5,
            stop_timeout: Duration::from_secs(10),
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

// === impl Fleet ===

impl Fleet {
    /// Starts every device; must be called within a Tokio runtime. Fails without an address, and when this machine cannot
    /// open one more socket.
    pub fn start(config: FleetConfig) -> anyhow::Result<Fleet> {
        let uplinks = Uplinks::new(&config)?;
        let counters = Arc::new(Counters::new());
        let (stopping, abandoning) = (CancellationToken::new(), CancellationToken::new());
        let started = Instant::now();
        let mut members = Vec::with_capacity(config.devices);
        for index in 0..config.devices {
            let device = Device::new(pick(&Kind::ALL, index), config.seed, index as u64);
            let uplink = uplinks
                .of(&device, index)
                .with_context(|| format!("device {} of {} cannot be started", index + 1, config.devices))?;
            members.push(Member {
                device,
                uplink,
                counters: Arc::clone(&counters),
                interval: config.interval,
                first_due: started + config.start_spread.mul_f64(index as f64 / config.devices as f64),
                first_sequence: config.first_sequence,
                tries_max: config.tries_max.max(1),
                pause_max: config.pause_max,
                stopping: stopping.clone(),
                abandoning: abandoning.clone(),
            });
        }
        Ok(Fleet {
            members: members.into_iter().map(Member::run).collect(),
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

    /// The same, live, with latencies and complaints.
    pub fn live(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Ends the measuring, waits for outstanding answers up to the configured bound, and closes the books.
    pub async fn stop(mut self) -> FleetOutcome {
        let devices = self.members.len();
        let mut pages = Vec::with_capacity(devices);
        self.stopping.cancel();
        self.collect(&mut pages, Instant::now() + self.stop_timeout).await;
        self.abandoning.cancel();
        self.collect(&mut pages, Instant::now() + ABANDON_TIMEOUT).await;
        let devices_without_page = devices - pages.len();
        if devices_without_page > 0 {
            tracing::error!(devices_without_page, "some devices ended without a page");
        }
        FleetOutcome {
            ledger: Ledger { pages },
            counters: self.counters,
            devices_without_page,
        }
    }

    async fn collect(&mut self, pages: &mut Vec<Page>, deadline: Instant) {
        while let Ok(Some(ended)) = timeout_at(deadline, self.members.join_next()).await {
            match ended {
                Ok(page) => pages.push(page),
                Err(error) => tracing::error!(%error, "a device's task failed"),
            }
        }
    }
}

fn pick<T: Copy>(choices: &[T], number: usize) -> T {
    choices[number % choices.len()]
}

/// Where the fleet sends, and how patient it is.
struct Uplinks {
    addresses: Vec<(Protocol, SocketAddr)>,
    http: Option<http::Clients>,
    answer_timeout: Duration,
    batch_readings: usize,
}

// === impl Uplinks ===

impl Uplinks {
    fn new(config: &FleetConfig) -> anyhow::Result<Uplinks> {
        let addresses = config.addresses();
        anyhow::ensure!(
            !addresses.is_empty(),
            "the fleet has no address to send to: give one for mqtt, coap or http"
        );
        let http = config
            .http
            .map(|server| http::Clients::new(server, config.answer_timeout));
        Ok(Uplinks {
            addresses,
            http: http.transpose()?,
            answer_timeout: config.answer_timeout,
            batch_readings: config.batch_readings,
        })
    }

    /// The client of the `index`th device. Most speak their protocol in its plain form, every fourth in its rarest.
    fn of(&self, device: &Device, index: usize) -> anyhow::Result<Uplink> {
        let (protocol, server) = pick(&self.addresses, index / Kind::ALL.len());
        let variant = index / (Kind::ALL.len() * self.addresses.len());
        let is_fourth = variant % 4 == 3;
        let path = format!("devices/{}/{}", device.name(), device.kind());
        match protocol {
            Protocol::Mqtt => {
                let variants = [
                    (Version::V5, Quality::AtLeastOnce),
                    (Version::V4, Quality::AtLeastOnce),
                    (Version::V4, Quality::ExactlyOnce),
                    (Version::V5, Quality::ExactlyOnce),
                ];
                let variant = pick(&variants, variant);
                let uplink = mqtt::Uplink::new(server, device.name(), &path, variant, self.answer_timeout);
                Ok(Uplink::Mqtt(Box::new(uplink)))
            }
            Protocol::Coap => {
                let uplink = coap::Uplink::new(server, &path, !is_fourth, self.answer_timeout);
                Ok(Uplink::Coap(Box::new(uplink.context("cannot open a UDP socket")?)))
            }
            Protocol::Http => {
                let readings = if is_fourth { self.batch_readings } else { 1 };
                let clients = self.http.as_ref().context("no HTTP client")?;
                Ok(Uplink::Http(Box::new(clients.uplink(device.name(), &path, readings))))
            }
        }
    }
}
