//! MQTT 3.1, 3.1.1 and 5: the accept loop, and what a connection may cost.
//!
//! Publishing only: a PUBACK (QoS 1) or PUBREC (QoS 2) leaves when its reading is safe, in packet order; a negative one
//! says why. Where MQTT 3.1.1 has no negative answer, a rejected reading is acknowledged once it is in the dead-letter
//! topic, and one that cannot be accepted is not acknowledged: its connection is closed, so that the device sends it
//! again.
//!
//! However a connection ends, what was accepted from it is answered first. Bridges (bit 7 of the protocol level) are served
//! as any client.
//!
//! What is not here, and how a client notices: subscriptions (refused in SUBACK), retained messages (the flag is
//! ignored), wills (counted and logged when they become due, and not delivered), credentials (read and ignored), enhanced
//! authentication (refused in CONNACK).
//! QoS 2 is once per packet id and content of a session, within the life of this gateway process.
//!
//! `packet` turns bytes into packets, `connect` opens a connection, `session` runs it,
//! `acks` keeps the order of its answers, `qos2`, `sessions` and `wills` keep what outlives it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tracing::{debug, warn};

mod acks;
mod aliases;
mod connect;
mod connection;
mod counters;
mod packet;
mod qos2;
mod sessions;
mod wills;
mod wire;

use super::Context;
use super::accept::{self, Troubles};
use super::addresses::ListenAddresses;
use super::admit::{Seat, Seats};
use super::linger;
use super::pace::Rate;
use super::tcp::Listeners;
use counters::{Close, Counters};
use sessions::Sessions;
use wills::Wills;

/// What this listener is called in the configuration and in logs.
const NAME: &str = "mqtt";

/// The `[mqtt]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether to listen at all.
    pub enabled: bool,
    /// Address and port, or several; plain text, so loopback unless told otherwise.
    pub listen: ListenAddresses,
    /// Connections open at once; further ones are closed as soon as they are accepted.
    pub connections_max: usize,
    /// The largest packet, header included (Maximum Packet Size of MQTT 5).
    pub packet_bytes_max: ByteSize,
    /// Publishes of QoS 1 and 2 that a connection may have unanswered (Receive Maximum of MQTT 5): it is not read while
    /// it has as many.
    pub receive_maximum: u16,
    /// Topic aliases that an MQTT 5 connection may use; 0 for none.
    pub topic_alias_maximum: u16,
    /// How long a connection may take until its CONNECT is there.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub connect_timeout: Duration,
    /// How slowly a packet may arrive, in bytes per second.
    pub packet_bytes_per_second_min: ByteSize,
    /// How far a packet may fall behind that, and how long nothing of it may come; also how long it waits for room, and
    /// how long a client may take to read what it is sent.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub packet_timeout: Duration,
    /// How long a connection that ends (DISCONNECT, end of stream, silence, a fault) stays for the answers to what was
    /// accepted from it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub closing_timeout: Duration,
    /// The longest keep-alive; MQTT 5 clients that ask for more, or for none, are told this one (at most 65535 s).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keep_alive_max: Duration,
    /// A 3.1.1 connection that is silent for so long is closed, whatever its keep-alive; and any connection of which no
    /// packet can be accepted for so long (its window is full, the byte budget used up, Kafka unavailable to 3.1.1).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub idle_timeout: Duration,
    /// How long the session of a client that is away is kept: at most this (MQTT 5), exactly this (3.1.1, Clean Session
    /// 0).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub session_expiry_max: Duration,
    /// Sessions kept of clients that are away; beyond it the one that would expire next is forgotten.
    pub sessions_max: usize,
    /// QoS 2 packet ids that a session may have open; a connection that exceeds it is closed.
    pub qos2_ids_max: usize,
}

impl Config {
    /// What is wrong with this section, each mistake starting with the field's name.
    pub fn mistakes(&self) -> Vec<String> {
        let sizes = ByteSize::kib(1)..=ByteSize::mib(256);
        let checks = [
            (self.connections_max > 0, "mqtt.connections_max: must be at least 1"),
            (
                sizes.contains(&self.packet_bytes_max),
                "mqtt.packet_bytes_max: must be between 1 KiB and 256 MiB",
            ),
            (self.receive_maximum > 0, "mqtt.receive_maximum: must be at least 1"),
            (!self.connect_timeout.is_zero(), "mqtt.connect_timeout: must be above 0"),
            (
                self.packet_bytes_per_second_min >= ByteSize::b(1),
                "mqtt.packet_bytes_per_second_min: must be at least 1 B",
            ),
            (!self.packet_timeout.is_zero(), "mqtt.packet_timeout: must be above 0"),
            (!self.closing_timeout.is_zero(), "mqtt.closing_timeout: must be above 0"),
            (!self.idle_timeout.is_zero(), "mqtt.idle_timeout: must be above 0"),
        ];
        checks
            .into_iter()
            .filter(|(good, _)| !good)
            .map(|(_, text)| text.to_owned())
            .collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)).into(),
            connections_max: 10_000,
            packet_bytes_max: ByteSize::kib(256),
            receive_maximum: 64,
            topic_alias_maximum: 16,
            connect_timeout: Duration::from_secs(10),
            packet_bytes_per_second_min: ByteSize::b(512),
            packet_timeout: Duration::from_secs(30),
            closing_timeout: Duration::from_secs(10),
            keep_alive_max: Duration::from_secs(20 * 60),
            idle_timeout: Duration::from_secs(24 * 60 * 60),
            session_expiry_max: Duration::from_secs(24 * 60 * 60),
            sessions_max: 100_000,
            qos2_ids_max: 1024,
        }
    }
}

/// A listener that has its addresses and does not accept yet.
#[derive(Debug)]
pub struct Bound {
    listener: Listeners,
    config: Config,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    config: Config,
    front: Context,
    sessions: Arc<Sessions>,
    wills: Arc<Wills>,
    counters: Counters,
}

/// Takes the addresses; nothing is accepted until [`Bound::serve`].
pub async fn bind(config: &Config) -> Result<Bound, super::Error> {
    Ok(Bound {
        listener: Listeners::bind(NAME, &config.listen)?,
        config: config.clone(),
    })
}

// === impl Config ===

impl Config {
    // The codec counts what follows the fixed header, and a packet needs a few bytes to be one.
    fn packet_bytes_max(&self) -> usize {
        const LARGEST: u64 = 268_435_455;
        self.packet_bytes_max.as_u64().clamp(64, LARGEST) as usize
    }

    fn rate(&self) -> Rate {
        Rate::new(self.packet_bytes_per_second_min.as_u64(), self.packet_timeout)
    }

    fn window(&self) -> usize {
        self.receive_maximum.max(1).into()
    }
}

// === impl Bound ===

impl Bound {
    /// Where it listens, with the ports that were given for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listener.addresses()
    }

    /// Accepts until `front.stopping`; each connection is a task of `front.tasks`, and so is this loop.
    pub fn serve(self, front: Context) {
        let tasks = front.tasks.clone();
        tasks.spawn(accept_all(self, front));
    }
}

async fn accept_all(bound: Bound, front: Context) {
    let seats = Seats::new(
        bound.config.connections_max,
        front.connections.clone(),
        front.metrics.mqtt.mqtt_connections.clone(),
    );
    let failures = front.metrics.mqtt.mqtt_accept_failures_total.clone();
    let shared = Arc::new(Shared {
        sessions: Sessions::new(bound.config.sessions_max, front.metrics.mqtt.mqtt_sessions_kept.clone()),
        wills: Wills::new(
            front.metrics.mqtt.mqtt_wills_discarded_total.clone(),
            front.tasks.clone(),
            front.stopping.clone(),
        ),
        counters: Counters::new(&front.metrics.mqtt),
        config: bound.config,
        front,
    });
    let stopping = shared.front.stopping.clone();
    let mut troubles = Troubles::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            accepted = bound.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match seats.try_take() {
                Some(seat) => {
                    let shared = shared.clone();
                    let tasks = shared.front.tasks.clone();
                    tasks.spawn(serve(stream, peer, seat, shared));
                }
                None => {
                    shared.counters.closed(Close::Full);
                    if let Some(times) = troubles.happened() {
                        let max = shared.config.connections_max;
                        let left = shared.front.connections.free();
                        warn!(%peer, times, max, left, "mqtt connection closed: all mqtt.connections_max are in use, or no descriptor is left");
                    }
                }
            },
            Err(error) => {
                if !accept::failed(NAME, &error, &mut troubles, &failures, &stopping).await {
                    return;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, _seat: Seat, shared: Arc<Shared>) {
    // Acknowledgements are small and waited for; a socket that refuses the option works without it.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "TCP_NODELAY not set");
    }
    let room = shared.front.admit.incomplete().for_peer(peer.ip());
    let (wire, ended) = connection::serve(wire::Wire::new(stream, room, shared.config.rate()), peer, &shared).await;
    let connect::Ended { close, why, client_id } = ended;
    debug!(%peer, client = client_id, reason = close.label(), why, "mqtt connection closed");
    shared.counters.closed(close);
    if close.is_heard() {
        wire.close(linger::wait_max(shared.front.stopping.is_cancelled())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_survives_being_written_and_read() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert!(text.contains("keep_alive_max = \"20m\""), "{text}");
        let read: Config = toml::from_str(&text).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
        assert!(toml::from_str::<Config>("recieve_maximum = 5").is_err());
    }

    #[tokio::test]
    async fn an_address_is_reserved_once() {
        let config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            ..Config::default()
        };
        let first = bind(&config).await.unwrap();
        let listen = first.addresses()[0];
        assert_ne!(listen.port(), 0);
        let taken = Config {
            listen: listen.into(),
            ..config
        };
        let error = bind(&taken).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("mqtt cannot listen on {listen}")),
            "{error}"
        );
    }
}
