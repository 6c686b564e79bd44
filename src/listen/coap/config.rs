//! The `[coap]` section of the configuration: its fields, defaults and mistakes.
//!
//! What is used of it is within bounds even where nobody asked for the mistakes.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::endpoints::CONFIGURED_MAX;
use crate::listen::addresses::ListenAddresses;
use crate::operate::mistake::Mistakes;

/// The `[coap]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listen for CoAP over UDP.
    pub enabled: bool,
    /// Address with its port, or a list of at most 32; plain CoAP.
    pub listen: ListenAddresses,
    /// Accept senders that prove nothing: for devices without an identity, where `devices.folder` is set, and for all of them where
    /// it is not.
    pub allow_anonymous: bool,
    /// Listen beyond loopback without TLS.
    pub allow_plaintext: bool,
    /// Accept a device's key in the query, `?key=…`: whoever sees the network reads it.
    pub key_in_query: bool,
    /// Maximum datagram; a longer one is answered 4.13. Beyond 1472 bytes, IPv4 over Ethernet fragments.
    pub datagram_bytes_max: ByteSize,
    /// Maximum diagnostic payload beside an error code. In all, never more than three times the request's length is
    /// sent for it.
    pub diagnostic_bytes_max: usize,
    /// Maximum requests that wait for their answer; further ones are answered 5.03.
    pub exchanges_max: usize,
    /// Maximum separate responses that wait for their acknowledgement, at most 32,768; further ones are sent non-
    /// confirmable.
    pub separate_max: usize,
    /// Maximum messages remembered per peer (address and port), to recognize duplicates.
    pub messages_per_peer: usize,
    /// Memory for remembered messages, over all peers.
    pub remembered_bytes_max: ByteSize,
    /// How long a confirmable message is remembered (EXCHANGE_LIFETIME).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub exchange_lifetime: Duration,
    /// How long a non-confirmable message is remembered (NON_LIFETIME).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub non_lifetime: Duration,
    /// How long a response may take and still be piggybacked; must be below the devices' ACK_TIMEOUT.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub piggyback_timeout: Duration,
    /// First wait for the acknowledgement of a separate response (ACK_TIMEOUT); each retransmission doubles it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub ack_timeout: Duration,
    /// The first wait is extended by a random factor of up to this (ACK_RANDOM_FACTOR), 1 to 10.
    pub ack_random_factor: f64,
    /// Maximum retransmissions of a separate response (MAX_RETRANSMIT).
    pub max_retransmit: u32,
    /// Receive buffer of each socket; the kernel grants no more than `net.core.rmem_max`.
    pub receive_buffer_bytes: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 5683)).into(),
            allow_anonymous: false,
            allow_plaintext: false,
            key_in_query: false,
            datagram_bytes_max: ByteSize::b(2048),
            diagnostic_bytes_max: 128,
            exchanges_max: 65_536,
            separate_max: 4096,
            messages_per_peer: 16_384,
            remembered_bytes_max: ByteSize::mib(64),
            exchange_lifetime: Duration::from_secs(247),
            non_lifetime: Duration::from_secs(145),
            piggyback_timeout: Duration::from_millis(500),
            ack_timeout: Duration::from_secs(2),
            ack_random_factor: 1.5,
            max_retransmit: 4,
            receive_buffer_bytes: ByteSize::mib(4),
        }
    }
}

impl Config {
    /// What is wrong with this table.
    pub fn mistakes(&self) -> Mistakes {
        let bytes = self.datagram_bytes_max.as_u64();
        let checks = [
            (
                !(64..=65_507).contains(&bytes),
                "coap.datagram_bytes_max",
                "must be 64 B to 65507 B",
            ),
            (
                !(1.0..=10.0).contains(&self.ack_random_factor),
                "coap.ack_random_factor",
                "must be 1 to 10",
            ),
            (
                self.piggyback_timeout >= Duration::from_secs(2),
                "coap.piggyback_timeout",
                "must be below 2s",
            ),
            (
                self.ack_timeout < Duration::from_millis(100),
                "coap.ack_timeout",
                "must be at least 100ms",
            ),
            (self.max_retransmit > 10, "coap.max_retransmit", "must be at most 10"),
            (self.exchanges_max == 0, "coap.exchanges_max", "must be at least 1"),
            (self.separate_max > 32_768, "coap.separate_max", "must be at most 32768"),
            // An IPv6 wildcard may need a second socket.
            (
                self.listen.iter().count() > CONFIGURED_MAX / 2,
                "coap.listen",
                "must be at most 32 addresses",
            ),
            (
                self.messages_per_peer == 0,
                "coap.messages_per_peer",
                "must be at least 1",
            ),
        ];
        let mut mistakes = Mistakes::default();
        for (is_wrong, path, text) in checks {
            mistakes.require(!is_wrong, path, text);
        }
        mistakes
    }

    // What is used: within bounds even if nobody asked for the mistakes.
    pub fn random_factor(&self) -> f64 {
        let factor = self.ack_random_factor;
        if factor.is_nan() { 1.0 } else { factor.clamp(1.0, 10.0) }
    }

    pub fn receive_buffer_bytes(&self) -> usize {
        usize::try_from(self.receive_buffer_bytes.as_u64()).unwrap_or(usize::MAX)
    }

    pub fn datagram_bytes(&self) -> usize {
        usize::try_from(self.datagram_bytes_max.as_u64()).map_or(65_507, |bytes| bytes.clamp(64, 65_507))
    }
}
