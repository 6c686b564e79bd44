//! Where a listener listens: one address or several, as the configuration writes them.
//!
//! `"127.0.0.1:5683"`, `"127.0.0.1:5683, [::1]:5683"` (the form for environment variables) or
//! `["127.0.0.1:5683", "[::1]:5683"]`. Groups and the broadcast address are refused: nothing is joined.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::ops::Deref;
use std::str::FromStr;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The addresses of a listener, at least one; none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddresses(Vec<SocketAddr>);

/// Nothing can listen there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("no address to listen on")]
    None,
    #[error("{0:?} is no address with a port, such as \"127.0.0.1:5683\" or \"[::1]:5683\"")]
    NotAnAddress(String),
    #[error("{0} is a group's or the broadcast address; write one of this host")]
    Group(SocketAddr),
    #[error("{0} is listed twice")]
    Twice(SocketAddr),
}

// === impl ListenAddresses ===

impl ListenAddresses {
    /// # Errors
    /// There is none, or one of them cannot be listened on.
    pub fn new(addresses: Vec<SocketAddr>) -> Result<Self, AddressError> {
        if addresses.is_empty() {
            return Err(AddressError::None);
        }
        for (at, address) in addresses.iter().enumerate() {
            let is_broadcast = matches!(address, SocketAddr::V4(v4) if v4.ip().is_broadcast());
            if address.ip().is_multicast() || is_broadcast {
                return Err(AddressError::Group(*address));
            }
            if address.port() != 0 && addresses[..at].contains(address) {
                return Err(AddressError::Twice(*address));
            }
        }
        Ok(ListenAddresses(addresses))
    }

    /// An address of these that one of the others listens on, too; both of TCP.
    pub fn shared_with(&self, others: &Self) -> Option<SocketAddr> {
        let is_shared = |mine: &&SocketAddr| {
            let receives = |listen: &Self, wildcard: SocketAddr, other: SocketAddr| {
                wildcard.ip().is_unspecified()
                    && (wildcard.is_ipv4() == other.is_ipv4() || (wildcard.is_ipv6() && !listen.only_v6(wildcard)))
            };
            others.iter().any(|other| {
                mine.port() != 0
                    && mine.port() == other.port()
                    && (mine.ip() == other.ip() || receives(self, **mine, *other) || receives(others, *other, **mine))
            })
        };
        self.0.iter().find(is_shared).copied()
    }

    /// Whether IPv4 is left to another of these, so that this IPv6 wildcard must not claim it, too.
    pub fn only_v6(&self, address: SocketAddr) -> bool {
        let port = address.port();
        address.is_ipv6()
            && self
                .0
                .iter()
                .any(|other| other.is_ipv4() && other.port() == port && port != 0)
    }
}

impl From<SocketAddr> for ListenAddresses {
    fn from(address: SocketAddr) -> Self {
        ListenAddresses(vec![address])
    }
}

impl Deref for ListenAddresses {
    type Target = [SocketAddr];

    fn deref(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl Display for ListenAddresses {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&show(&self.0))
    }
}

impl FromStr for ListenAddresses {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::new(text.split(',').map(one).collect::<Result<_, _>>()?)
    }
}

impl Serialize for ListenAddresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            [address] => address.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ListenAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany)
    }
}

/// Addresses as people read them, with commas between.
pub fn show(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn one(text: &str) -> Result<SocketAddr, AddressError> {
    let text = text.trim();
    let wrong = |_| AddressError::NotAnAddress(text.to_owned());
    let address: SocketAddr = text.parse().map_err(wrong)?;
    // An IPv4-mapped IPv6 address (::ffff:0:0/96) is IPv4.
    Ok(match address.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, address.port()),
        _ => address,
    })
}

struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = ListenAddresses;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("an address with a port, or a list of them")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ListenAddresses, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<ListenAddresses, A::Error> {
        let mut addresses = Vec::new();
        while let Some(text) = texts.next_element::<String>()? {
            addresses.push(one(&text).map_err(A::Error::custom)?);
        }
        ListenAddresses::new(addresses).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Section {
        listen: ListenAddresses,
    }

    #[test]
    fn one_address_or_several() {
        let check = |toml: &str, expected: &str| {
            let section: Section = toml::from_str(&format!("listen = {toml}")).unwrap();
            assert_eq!(section.listen.to_string(), expected);
            let written = toml::to_string(&section).unwrap();
            let read: Section = toml::from_str(&written).unwrap();
            assert_eq!(read.listen, section.listen, "{written}");
        };
        check(r#""127.0.0.1:5683""#, "127.0.0.1:5683");
        check(r#""[::ffff:127.0.0.1]:5683""#, "127.0.0.1:5683");
        check(r#""127.0.0.1:5683,[::1]:5683""#, "127.0.0.1:5683, [::1]:5683");
        check(r#""127.0.0.1:1, 127.0.0.1:2""#, "127.0.0.1:1, 127.0.0.1:2");
        check(r#"["[fe80::1%3]:5683"]"#, "[fe80::1%3]:5683");
        check(r#"["0.0.0.0:5683", "[::]:5683"]"#, "0.0.0.0:5683, [::]:5683");
        check(r#"["127.0.0.1:0", "127.0.0.1:0"]"#, "127.0.0.1:0, 127.0.0.1:0");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |toml: &str, expected: &str| {
            let error = toml::from_str::<Section>(&format!("listen = {toml}")).unwrap_err();
            assert!(error.message().contains(expected), "{toml}: {error}");
        };
        check(r#""localhost""#, r#""localhost" is no address with a port"#);
        check(r#""127.0.0.1:1,""#, r#""" is no address with a port"#);
        check(
            r#"["127.0.0.1:1", "10.0.0.1"]"#,
            r#""10.0.0.1" is no address with a port"#,
        );
        check("[]", "no address to listen on");
        check("5683", "an address with a port, or a list of them");
        check("[5683]", "expected a string");
        check(
            r#""224.0.1.187:5683""#,
            "224.0.1.187:5683 is a group's or the broadcast address",
        );
        check(r#""[ff02::fd]:5683""#, "[ff02::fd]:5683 is a group's");
        check(r#""255.255.255.255:5683""#, "255.255.255.255:5683 is a group's");
        check(
            r#"["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1"]"#,
            "10.0.0.1:1 is listed twice",
        );
    }

    #[test]
    fn listeners_that_would_share_an_address_are_found() {
        let check = |left: &str, right: &str, expected: Option<&str>| {
            let (one, other): (ListenAddresses, ListenAddresses) = (left.parse().unwrap(), right.parse().unwrap());
            let shared = one.shared_with(&other).map(|address| address.to_string());
            assert_eq!(shared.as_deref(), expected, "{left} and {right}");
            assert_eq!(
                other.shared_with(&one).is_some(),
                expected.is_some(),
                "{right} and {left}"
            );
        };
        check("127.0.0.1:1", "127.0.0.1:2", None);
        check("127.0.0.1:0", "127.0.0.1:0", None);
        check("127.0.0.1:1", "127.0.0.2:1", None);
        check("127.0.0.1:1", "127.0.0.1:1", Some("127.0.0.1:1"));
        check("127.0.0.1:2, 127.0.0.1:1", "0.0.0.0:1", Some("127.0.0.1:1"));
        check("[::]:1", "127.0.0.1:1", Some("[::]:1"));
        check("[::]:1, 127.0.0.2:1", "127.0.0.1:1", None);
        check("[::1]:1", "0.0.0.0:1", None);
        check("[::1]:1", "[::]:1", Some("[::1]:1"));
    }

    #[test]
    fn an_ipv6_wildcard_leaves_ipv4_to_those_that_ask_for_it() {
        let check = |text: &str, expected: bool| {
            let addresses: ListenAddresses = text.parse().unwrap();
            let wildcard = addresses.iter().find(|address| address.is_ipv6()).unwrap();
            assert_eq!(addresses.only_v6(*wildcard), expected, "{text}");
        };
        check("[::]:1", false);
        check("[::]:1, 0.0.0.0:1", true);
        check("127.0.0.1:1, [::]:1", true);
        check("[::]:1, 0.0.0.0:2", false);
        check("[::]:0, 0.0.0.0:0", false);
    }
}
