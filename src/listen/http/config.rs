//! The `[http]` section of the configuration: its fields, defaults and mistakes.
//!
//! Names and defaults are what an operator sees; how they are used is said where they are.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::listen::addresses::ListenAddresses;
use crate::listen::incomplete::rate::Rate;
use crate::listen::tls;
use crate::operate::mistake::Mistakes;
use crate::operate::networks::Networks;

/// The `[http]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listen for HTTP/1.1.
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
    /// Maximum concurrent connections; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Maximum body; a larger one is answered 413.
    pub body_bytes_max: ByteSize,
    /// Minimum rate at which a body must arrive, per second.
    pub body_bytes_per_second_min: ByteSize,
    /// How far a body may fall behind that rate, and how long no byte of it may arrive; how long it may wait for
    /// `limits.incomplete_bytes`; how long a client may leave its response unread.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub body_timeout: Duration,
    /// Time in which the head of the next request must have arrived; one that was begun is answered 408.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub idle_timeout: Duration,
    /// Maximum idempotency keys remembered; beyond it the one answered longest ago is dropped. 0 ignores the header.
    pub idempotency_keys_max: usize,
    /// Memory for all keys: about 256 bytes each, for a batch 16 bytes more per reading and the text of each rejection.
    pub idempotency_bytes_max: ByteSize,
    /// How long after its answer a key is remembered.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub idempotency_lifetime: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
            allow_anonymous: false,
            allow_plaintext: false,
            tls: tls::Config::default(),
            proxy_protocol: Networks::default(),
            connections_max: 10_000,
            body_bytes_max: ByteSize::kib(768),
            body_bytes_per_second_min: ByteSize::b(512),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            idempotency_keys_max: 100_000,
            idempotency_bytes_max: ByteSize::mib(64),
            idempotency_lifetime: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Config {
    /// What is wrong with this table.
    pub fn mistakes(&self) -> Mistakes {
        let checks = [
            (self.connections_max > 0, "http.connections_max", "must be at least 1"),
            (
                self.body_bytes_max >= ByteSize::kib(1),
                "http.body_bytes_max",
                "must be at least 1 KiB",
            ),
            (
                self.body_bytes_per_second_min >= ByteSize::b(1),
                "http.body_bytes_per_second_min",
                "must be at least 1 B",
            ),
            (!self.body_timeout.is_zero(), "http.body_timeout", "must be above 0"),
            (!self.idle_timeout.is_zero(), "http.idle_timeout", "must be above 0"),
        ];
        let mut mistakes = self.tls.mistakes("http");
        for (good, path, text) in checks {
            mistakes.require(good, path, text);
        }
        mistakes
    }

    pub fn rate(&self) -> Rate {
        Rate::new(self.body_bytes_per_second_min.as_u64(), self.body_timeout)
    }
}
