//! The `[mqtt]` section of the configuration: its fields, defaults and mistakes.
//!
//! What is used of it is within bounds even where nobody asked for the mistakes.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::listen::addresses::ListenAddresses;
use crate::listen::incomplete::rate::Rate;
use crate::listen::tls;
use crate::operate::mistake::Mistakes;
use crate::operate::networks::Networks;

/// The `[mqtt]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listen for MQTT 3.1.1 and 5.
    pub enabled: bool,
    /// Address with its port, or a list of them; plain text.
    pub listen: ListenAddresses,
    /// Accept senders that prove nothing: for devices without an identity, where `devices.folder` is set, and for all of them where
    /// it is not.
    pub allow_anonymous: bool,
    /// Listen beyond loopback without TLS.
    pub allow_plaintext: bool,
    pub tls: tls::Config,
    /// Networks of balancers that send a PROXY protocol header (version 2) first; whoever else connects sends none.
    pub proxy_protocol: Networks,
    /// Maximum concurrent connections; further ones are closed on accept.
    pub connections_max: usize,
    /// Maximum packet size, header included (Maximum Packet Size of MQTT 5).
    pub packet_bytes_max: ByteSize,
    /// Maximum unanswered publishes of QoS 1 and 2 per connection (Receive Maximum of MQTT 5); at the limit the
    /// connection is not read.
    pub receive_maximum: u16,
    /// Maximum topic aliases per MQTT 5 connection; 0 disables them.
    pub topic_alias_maximum: u16,
    /// Time until CONNECT must have arrived.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub connect_timeout: Duration,
    /// Minimum rate at which a packet must arrive, per second.
    pub packet_bytes_per_second_min: ByteSize,
    /// How far a packet may fall behind that rate, and how long no byte of it may arrive; how long it may wait for
    /// `limits.incomplete_bytes`; how long a client may leave answers unread.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub packet_timeout: Duration,
    /// How long a connection that ends (DISCONNECT, end of stream, timeout, error) stays open for outstanding answers.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub closing_timeout: Duration,
    /// Maximum keep-alive, at most 65535 s; MQTT 5 clients that ask for more, or for none, are told this one.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keep_alive_max: Duration,
    /// A 3.1.1 connection is closed after this time without a packet, whatever its keep-alive; any connection, after
    /// this time without being read (its window is full, `limits.in_flight_bytes` is used up, Kafka is unavailable to
    /// 3.1.1).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub idle_timeout: Duration,
    /// How long the session of a disconnected client is kept: at most (MQTT 5), or exactly (3.1.1, Clean Session 0).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub session_expiry_max: Duration,
    /// Maximum sessions of disconnected clients; beyond it the one that would expire first is dropped.
    pub sessions_max: usize,
    /// Maximum open QoS 2 packet ids per session; a connection that exceeds it is closed.
    pub qos2_ids_max: usize,
}

impl Config {
    /// What is wrong with this table.
    pub fn mistakes(&self) -> Mistakes {
        let sizes = ByteSize::kib(1)..=ByteSize::mib(256);
        let checks = [
            (self.connections_max > 0, "mqtt.connections_max", "must be at least 1"),
            (
                sizes.contains(&self.packet_bytes_max),
                "mqtt.packet_bytes_max",
                "must be between 1 KiB and 256 MiB",
            ),
            (self.receive_maximum > 0, "mqtt.receive_maximum", "must be at least 1"),
            (
                !self.connect_timeout.is_zero(),
                "mqtt.connect_timeout",
                "must be above 0",
            ),
            (
                self.packet_bytes_per_second_min >= ByteSize::b(1),
                "mqtt.packet_bytes_per_second_min",
                "must be at least 1 B",
            ),
            (!self.packet_timeout.is_zero(), "mqtt.packet_timeout", "must be above 0"),
            (
                !self.closing_timeout.is_zero(),
                "mqtt.closing_timeout",
                "must be above 0",
            ),
            (!self.idle_timeout.is_zero(), "mqtt.idle_timeout", "must be above 0"),
        ];
        let mut mistakes = self.tls.mistakes("mqtt");
        for (good, path, text) in checks {
            mistakes.require(good, path, text);
        }
        mistakes
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)).into(),
            allow_anonymous: false,
            allow_plaintext: false,
            tls: tls::Config::default(),
            proxy_protocol: Networks::default(),
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

impl Config {
    // The codec counts what follows the fixed header, and a packet needs a few bytes to be one.
    pub fn packet_bytes_max(&self) -> usize {
        const LARGEST: u64 = 268_435_455;
        self.packet_bytes_max.as_u64().clamp(64, LARGEST) as usize
    }

    pub fn rate(&self) -> Rate {
        Rate::new(self.packet_bytes_per_second_min.as_u64(), self.packet_timeout)
    }

    pub fn window(&self) -> usize {
        self.receive_maximum.max(1).into()
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
}
