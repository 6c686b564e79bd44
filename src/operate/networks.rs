//! Networks as a configuration lists them, and the prefix of an address, for which a limit holds.
//!
//! Devices behind one IPv4 address or one IPv6 network of 64 bits cannot be told apart before they have said who they are, and
//! one of them has all of a /64's addresses for itself; so limits are for a prefix. IPv4 within IPv6 counts as IPv4.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Networks, such as `["10.0.0.0/8", "::1"]`; in the environment `10.0.0.0/8, ::1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// The first bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(IpNet);

/// What is known of prefixes, of at most [`PREFIXES_MAX`]; those beyond share one entry.
#[derive(Debug)]
pub struct ByPrefix<T> {
    known: HashMap<Prefix, T>,
    swept_at: Option<Instant>,
}

/// Prefixes that are told apart.
pub const PREFIXES_MAX: usize = 65_536;

/// How often it is looked which of them may be forgotten, once there are too many.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

// === impl Networks ===

impl Networks {
    /// This machine itself.
    pub fn loopback() -> Self {
        let networks = ["127.0.0.0/8", "::1/128"].map(|network| network.parse().ok());
        Networks(networks.into_iter().flatten().collect())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that have more addresses than networks of so many bits.
    pub fn wider_than(&self, ipv4_bits: u8, ipv6_bits: u8) -> impl Iterator<Item = &IpNet> {
        self.0.iter().filter(move |network| match network {
            IpNet::V4(v4) => v4.prefix_len() < ipv4_bits,
            IpNet::V6(v6) => v6.prefix_len() < ipv6_bits,
        })
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = IpNet::from_str(text)
        .or_else(|_| IpAddr::from_str(text).map(IpNet::from))
        .ok();
    // An IPv4 address is looked up as one, whichever way it came.
    let network = network.filter(|network| !matches!(network, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some()));
    network.ok_or_else(|| format!("{text:?} is no network, such as \"10.0.0.0/8\", \"fd00::/8\" or \"192.0.2.7\""))
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let listed = text.split(',').filter(|text| !text.trim().is_empty());
        listed.map(network).collect::<Result<_, _>>().map(Networks)
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(IpNet::to_string))
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(List)
    }
}

struct List;

impl<'de> Visitor<'de> for List {
    type Value = Networks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of networks, such as [\"10.0.0.0/8\", \"fd00::/8\"]")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Networks, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Networks, A::Error> {
        let mut networks = Vec::new();
        while let Some(text) = items.next_element::<String>()? {
            networks.push(network(&text).map_err(A::Error::custom)?);
        }
        Ok(Networks(networks))
    }
}

// === impl Prefix ===

impl Prefix {
    /// Every address.
    pub fn any() -> Self {
        Prefix::of(IpAddr::from([0, 0, 0, 0]), 0, 0)
    }

    /// The first bits of an address; more than it has are all of it.
    pub fn of(address: IpAddr, ipv4_bits: u8, ipv6_bits: u8) -> Self {
        let (address, bits) = match address.to_canonical() {
            IpAddr::V4(v4) => (IpAddr::V4(v4), ipv4_bits.min(32)),
            IpAddr::V6(v6) => (IpAddr::V6(v6), ipv6_bits.min(128)),
        };
        let network = IpNet::new(address, bits).unwrap_or_else(|_| IpNet::from(address));
        Prefix(network.trunc())
    }
}

// === impl ByPrefix ===

impl<T> Default for ByPrefix<T> {
    fn default() -> Self {
        let (known, swept_at) = (HashMap::new(), None);
        ByPrefix { known, swept_at }
    }
}

impl<T: Default> ByPrefix<T> {
    /// What is known of it.
    pub fn get(&self, prefix: Prefix) -> Option<&T> {
        self.known.get(&self.entry_of(prefix))
    }

    /// The same by the name of an entry.
    pub fn get_mut(&mut self, entry: Prefix) -> Option<&mut T> {
        self.known.get_mut(&entry)
    }

    /// Its entry, with the entry's name: its own, or that of those that there is no room for, which is made by forgetting idle ones.
    pub fn entry(&mut self, prefix: Prefix, now: Instant, is_idle: impl Fn(&T) -> bool) -> (Prefix, &mut T) {
        let is_due = self.swept_at.is_none_or(|at| now >= at + SWEEP_EVERY);
        if is_due && !self.has_room_for(prefix) {
            self.swept_at = Some(now);
            self.known.retain(|_, value| !is_idle(value));
        }
        let prefix = self.entry_of(prefix);
        (prefix, self.known.entry(prefix).or_default())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn has_room_for(&self, prefix: Prefix) -> bool {
        self.known.len() < PREFIXES_MAX || self.known.contains_key(&prefix)
    }

    fn entry_of(&self, prefix: Prefix) -> Prefix {
        if self.has_room_for(prefix) {
            prefix
        } else {
            Prefix::any()
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_they_are_written() {
        let check = |text: &str, inside: &[&str], outside: &[&str]| {
            let networks: Networks = text.parse().unwrap();
            for (addresses, expected) in [(inside, true), (outside, false)] {
                for address in addresses {
                    assert_eq!(
                        networks.contains(address.parse().unwrap()),
                        expected,
                        "{text}: {address}"
                    );
                }
            }
        };
        check("", &[], &["127.0.0.1", "::1"]);
        check(
            "10.0.0.0/8, ::1",
            &["10.1.2.3", "::ffff:10.9.9.9", "::1"],
            &["11.0.0.0", "::2"],
        );
        check("10.9.9.9/8", &["10.0.0.1"], &["11.0.0.1"]);
        let wide: Networks = "10.0.0.0/23, 10.1.0.0/24, 192.0.2.7, fd00::/55, fd01::/56, ::1"
            .parse()
            .unwrap();
        let wide: Vec<_> = wide.wider_than(24, 56).map(ToString::to_string).collect();
        assert_eq!(wide, ["10.0.0.0/23", "fd00::/55"]);
        assert_eq!(Networks::loopback(), "127.0.0.0/8,::1/128".parse().unwrap());
        for wrong in ["::ffff:10.0.0.0/104", "10.0.0.0/33", "localhost", "10.0.0", "::1/129"] {
            let error = wrong.parse::<Networks>().unwrap_err();
            assert!(error.starts_with(&format!("{wrong:?} is no network")), "{error}");
        }
    }

    #[test]
    fn a_prefix_is_what_neighbours_share() {
        let check = |address: &str, bits: (u8, u8), expected: &str| {
            let prefix = Prefix::of(address.parse().unwrap(), bits.0, bits.1);
            assert_eq!(prefix.to_string(), expected, "{address} {bits:?}");
        };
        check("192.0.2.77", (32, 64), "192.0.2.77/32");
        check("192.0.2.77", (24, 64), "192.0.2.0/24");
        check("::ffff:192.0.2.77", (24, 64), "192.0.2.0/24");
        check("2001:db8::1:2:3:4", (32, 64), "2001:db8::/64");
        check("2001:db8::1", (32, 200), "2001:db8::1/128");
        check("192.0.2.77", (0, 0), "0.0.0.0/0");
    }
}
