//! Who may connect, before anything is read: limits per address prefix, so that one network cannot keep the door from the others.
//!
//! Three of them: connects per second, connections that have not said who they are yet, and connections in all. They hold over
//! all listeners together. Refused connections are closed at once, counted, and logged once a minute for each prefix. What is
//! remembered of a prefix is bounded ([`ByPrefix`]); those beyond share one entry.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntCounterVec};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};
use tracing::warn;

use crate::operate::log_limit::LogLimit;
use crate::operate::mistake::Mistakes;
use crate::operate::networks::{ByPrefix, Networks, Prefix};
use crate::operate::rate_limit::{PrefixLimits, RateLimit};

/// What may come at once from a prefix that was silent: as many connects as in so long.
const BURST: Duration = Duration::from_secs(10);

/// The `[limits.prefix]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bits of an IPv4 address that make a prefix.
    pub ipv4_bits: u8,
    /// Bits of an IPv6 address that make a prefix.
    pub ipv6_bits: u8,
    /// Connects per second on average; ten seconds' worth at once.
    pub connects_per_second: u32,
    /// Maximum connections that have not said who they are yet: before MQTT's CONNACK, or the first request whose head and sender HTTP
    /// has accepted.
    pub connecting_max: u32,
    /// Maximum concurrent connections.
    pub connections_max: u32,
    /// Credentials refused per minute, as many at once; beyond it passwords that nobody has verified yet are not verified.
    pub refused_credentials_per_minute: u32,
    /// Networks without these limits.
    pub exempt: Networks,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ipv4_bits: 32,
            ipv6_bits: 64,
            connects_per_second: 50,
            connecting_max: 500,
            connections_max: 5000,
            refused_credentials_per_minute: 60,
            exempt: Networks::loopback(),
        }
    }
}

impl Config {
    /// What is wrong with this table.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let mut check = |good: bool, field: &str, text: &str| {
            mistakes.require(good, &format!("limits.prefix.{field}"), text);
        };
        check((1..=32).contains(&self.ipv4_bits), "ipv4_bits", "must be from 1 to 32");
        check(
            (1..=128).contains(&self.ipv6_bits),
            "ipv6_bits",
            "must be from 1 to 128",
        );
        check(self.connects_per_second > 0, "connects_per_second", "must be above 0");
        check(self.connecting_max > 0, "connecting_max", "must be above 0");
        check(self.connections_max > 0, "connections_max", "must be above 0");
        check(
            self.refused_credentials_per_minute > 0,
            "refused_credentials_per_minute",
            "must be above 0",
        );
        mistakes
    }

    /// Of credentials that are refused.
    pub fn refused_credentials(&self) -> PrefixLimits {
        let Config {
            refused_credentials_per_minute: per_minute,
            ipv4_bits,
            ipv6_bits,
            ref exempt,
            ..
        } = *self;
        PrefixLimits::new(per_minute, ipv4_bits, ipv6_bits, exempt.clone())
    }
}

/// The limits of all prefixes, shared by all listeners.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Shared>);

/// The same as one listener asks for it, which counts what it refuses.
#[derive(Clone, Debug)]
pub struct ListenerAdmission {
    shared: Arc<Shared>,
    listener: &'static str,
    /// By [`Refused`].
    refused: [IntCounter; Refused::VARIANTS.len()],
}

#[derive(Debug)]
struct Shared {
    config: Config,
    refused: IntCounterVec,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    prefixes: ByPrefix<Connections>,
    logged: LogLimit<Instant>,
}

/// What is known of a prefix.
#[derive(Debug, Default)]
struct Connections {
    open: u32,
    connecting: u32,
    connects: RateLimit,
}

/// Why a connection is refused; the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Refused {
    ConnectsPerSecond,
    ConnectingMax,
    ConnectionsMax,
}

/// A connection that counts among those of its prefix until this is dropped.
#[derive(Debug, Default)]
pub struct Admitted(Option<Counted>);

/// It counts among those that have not said who they are until this is dropped.
#[derive(Debug, Default)]
pub struct Connecting(Option<Counted>);

#[derive(Debug)]
struct Counted {
    shared: Arc<Shared>,
    prefix: Prefix,
}

// === impl Admission ===

impl Admission {
    /// `refused` is labelled with the listener and the reason.
    pub fn new(config: Config, refused: IntCounterVec) -> Self {
        let state = State {
            prefixes: ByPrefix::default(),
            logged: LogLimit::default(),
        };
        Admission(Arc::new(Shared {
            config,
            refused,
            state: Mutex::new(state),
        }))
    }

    pub fn of(&self, listener: &'static str) -> ListenerAdmission {
        let counter = |refused: Refused| self.0.refused.with_label_values(&[listener, refused.into()]);
        ListenerAdmission {
            shared: self.0.clone(),
            listener,
            refused: std::array::from_fn(|at| counter(Refused::VARIANTS[at])),
        }
    }
}

// === impl ListenerAdmission ===

impl ListenerAdmission {
    /// Whether a connection from there may be opened; refused ones are counted and logged.
    pub fn admit(&self, peer: SocketAddr) -> Option<(Admitted, Connecting)> {
        self.admit_at(peer.ip(), Instant::now())
    }

    fn admit_at(&self, peer: IpAddr, now: Instant) -> Option<(Admitted, Connecting)> {
        let config = &self.shared.config;
        if config.exempt.contains(peer) {
            return Some(Default::default());
        }
        let prefix = Prefix::of(peer, config.ipv4_bits, config.ipv6_bits);
        let mut state = self.shared.lock();
        let is_idle = |connections: &Connections| connections.open == 0 && connections.connects.is_idle(now);
        let (prefix, connections) = state.prefixes.entry(prefix, now, is_idle);
        match connections.admit(config, now) {
            Ok(()) => {
                let counted = || {
                    let shared = self.shared.clone();
                    Some(Counted { shared, prefix })
                };
                Some((Admitted(counted()), Connecting(counted())))
            }
            Err(refused) => {
                let is_due = state.logged.allows(now, &prefix.to_string());
                // The log may wait for whoever reads it.
                drop(state);
                self.refused[refused as usize].inc();
                if is_due {
                    let (listener, reason) = (self.listener, <&str>::from(refused));
                    warn!(%prefix, listener, "connections refused: limits.prefix.{reason} is exceeded");
                }
                None
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Connections ===

impl Connections {
    fn admit(&mut self, config: &Config, now: Instant) -> Result<(), Refused> {
        if self.open >= config.connections_max {
            return Err(Refused::ConnectionsMax);
        }
        if self.connecting >= config.connecting_max {
            return Err(Refused::ConnectingMax);
        }
        if !self.connects.wait(BURST, now).is_zero() {
            return Err(Refused::ConnectsPerSecond);
        }
        self.connects.charge(config.connects_per_second.into(), 1, now);
        self.open += 1;
        self.connecting += 1;
        Ok(())
    }
}

// === impl Counted ===

impl Counted {
    fn with(&self, change: impl FnOnce(&mut Connections)) {
        if let Some(connections) = self.shared.lock().prefixes.get_mut(self.prefix) {
            change(connections);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(counted) = &self.0 {
            counted.with(|connections| connections.open = connections.open.saturating_sub(1));
        }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(counted) = &self.0 {
            counted.with(|connections| connections.connecting = connections.connecting.saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::networks::PREFIXES_MAX;
    use prometheus::Opts;

    fn admission(config: Config) -> (Admission, IntCounterVec) {
        let refused = IntCounterVec::new(Opts::new("refused", "help"), &["listener", "reason"]).unwrap();
        (Admission::new(config, refused.clone()), refused)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn one_prefix_is_limited_and_the_others_are_not() {
        let (admission, refused) = admission(Config {
            connects_per_second: 10,
            connecting_max: 60,
            connections_max: 80,
            ..Config::default()
        });
        let now = Instant::now();
        let mqtt = admission.of("mqtt");
        let admit = |last, after_s| mqtt.admit_at(address(last), now + Duration::from_secs(after_s));
        let count = |reason| refused.with_label_values(&["mqtt", reason]).get();
        // No more than 60 that have not said who they are.
        let mut held: Vec<_> = std::iter::from_fn(|| admit(1, 0)).collect();
        assert_eq!((held.len(), count("connecting_max")), (60, 1));
        // They have, and 20 more may connect.
        let mut open: Vec<_> = held.drain(..).map(|(admitted, _)| admitted).collect();
        open.extend(std::iter::from_fn(|| admit(1, 0)).map(|(admitted, _)| admitted));
        assert_eq!((open.len(), count("connections_max")), (80, 1));
        // They are gone: what is left is the rate, 101 of which are the burst, and 10 a second.
        open.clear();
        let more = std::iter::from_fn(|| admit(1, 0)).count();
        assert_eq!((more, count("connects_per_second")), (21, 1));
        assert_eq!(std::iter::from_fn(|| admit(1, 3)).count(), 30);
        // A neighbour, and this machine itself.
        assert!(admit(2, 3).is_some());
        let local = std::iter::from_fn(|| admission.of("mqtt").admit_at([127, 0, 0, 1].into(), now));
        assert_eq!(local.take(10_000).count(), 10_000);
    }

    #[test]
    fn what_is_remembered_of_prefixes_is_bounded() {
        let (admission, _) = admission(Config::default());
        let (now, mqtt) = (Instant::now(), admission.of("mqtt"));
        let peer = |at: usize| IpAddr::V6(((0x2001_0db8_u128 << 96) | ((at as u128) << 64)).into());
        let mut admitted = 0;
        for at in 0..PREFIXES_MAX + 2000 {
            admitted += usize::from(mqtt.admit_at(peer(at), now).is_some());
        }
        let shared = 501;
        assert_eq!(admitted, PREFIXES_MAX + shared);
        assert_eq!(admission.0.lock().prefixes.len(), PREFIXES_MAX + 1);
        // Once they are idle they are forgotten.
        let later = now + Duration::from_secs(60);
        assert!(admission.of("mqtt").admit_at(peer(1 << 20), later).is_some());
        assert_eq!(admission.0.lock().prefixes.len(), 1);
    }
}
