//! The settings of one run of the load generator: targets, pace, devices, windows, readings, credentials. `options`
//! fills them from the command line; nothing changes them during the run. The limits of one machine (source ports per
//! address, open files) are computed here as well.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::mqtt::Version;
use super::pace::Pace;
use super::readings::Flaw;
use crate::devices::{Device, Kind};
use crate::uplinks::Protocol;
use crate::uplinks::credentials;

/// Files that are open besides connections, with room to spare.
const FILES_BESIDES: u64 = 40;

/// Connections from one loopback address: well below the 28,000 ports that Linux gives out by itself.
const CONNECTIONS_PER_SOURCE: usize = 12_000;

/// Default number of the first device: beyond those of a fleet, whose sessions would be taken over.
pub const FIRST_DEVICE: u64 = 100_000;

/// The ports that connections with a given address come from.
const FIRST_SOURCE_PORT: u16 = 10_000;
const SOURCE_PORTS: usize = 50_000;

/// Username and password, as MQTT's CONNECT and HTTP's Basic authentication bear them.
#[derive(Clone, Default)]
pub struct Credentials {
    pub username: Option<String>,
    pub password: Option<String>,
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where connections go, in turn.
    pub targets: Vec<(Protocol, SocketAddr)>,
    /// Addresses that they come from, in turn; empty: the system chooses.
    pub sources: Vec<IpAddr>,
    /// Of those who have none of their own.
    pub credentials: Credentials,
    /// Of single devices, and whether MQTT and HTTP have TLS.
    pub device_credentials: Arc<credentials::Credentials>,
    /// Over all protocols.
    pub connections: usize,
    /// Messages that a connection may have unanswered, by protocol.
    pub windows: [u16; 3],
    pub pace: Pace,
    /// In which the connections are opened one after the other.
    pub ramp: Duration,
    /// Which is measured.
    pub steady: Duration,
    /// A message without an answer after this has none.
    pub timeout: Duration,
    /// A protocol without any connection for so long ends the run.
    pub silence_timeout: Duration,
    pub keep_alive: Duration,
    pub mqtt_version: Version,
    pub threads: usize,
    pub seed: u64,
    /// Number of the first connection's device.
    pub first_device: u64,
    /// Bytes of text by which readings are longer.
    pub padding: usize,
    /// How many names each kind goes under.
    pub kind_names: usize,
    /// How many of a hundred readings have a flaw.
    pub invalid_percent: u8,
}

// === impl Credentials ===

impl std::fmt::Debug for Credentials {
    /// Never the password: settings are logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?})", self.username)
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Settings {
            targets: Vec::new(),
            sources: Vec::new(),
            credentials: Credentials::default(),
            device_credentials: Arc::default(),
            connections: 1000,
            windows: [16, 1, 1],
            pace: Pace::Closed,
            ramp: Duration::from_secs(1),
            steady: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_secs(60),
            mqtt_version: Version::V5,
            threads: 1,
            seed: 1,
            first_device: FIRST_DEVICE,
            padding: 0,
            kind_names: 1,
            invalid_percent: 0,
        }
    }
}

impl Settings {
    pub fn window(&self, protocol: Protocol) -> u16 {
        match self.pace {
            Pace::Idle => 0,
            Pace::Closed | Pace::Open { .. } => self.windows[protocol.index()],
        }
    }

    /// What a device says of itself.
    pub fn credentials_of(&self, device: &str) -> Credentials {
        match self.device_credentials.secret(device) {
            None => self.credentials.clone(),
            Some(secret) => Credentials {
                username: Some(device.to_owned()),
                password: Some(secret.text().to_owned()),
            },
        }
    }

    /// The device of a connection, and its kind's name in topics and paths, where connections go to so many `targets` in turn.
    pub fn device(&self, index: usize, targets: usize) -> (Device, String) {
        // The kind changes only when every protocol has had its turn, so that each gets all kinds.
        let turn = index / targets.max(1);
        let kind = Kind::PHYSICAL[turn % Kind::PHYSICAL.len()];
        let device = Device::new(kind, self.seed, self.first_device + index as u64);
        (device, self.place(kind, turn / Kind::PHYSICAL.len()))
    }

    /// The name of a kind in topics and paths for the connection whose `turn` it is: `traffic`, `traffic-2`, `traffic-3` …
    pub fn place(&self, kind: Kind, turn: usize) -> String {
        match turn % self.kind_names.max(1) {
            0 => kind.name().to_owned(),
            other => format!("{}-{}", kind.name(), other + 1),
        }
    }

    /// What is wrong with message `number` of a connection, if anything: evenly spread, one flaw after the other.
    pub fn flaw(&self, number: u64) -> Option<Flaw> {
        let percent = u64::from(self.invalid_percent);
        let (spoilt, rest) = (number * percent / 100, number * percent % 100);
        (rest < percent).then_some(match spoilt % 2 {
            0 => Flaw::WrongType,
            _ => Flaw::Cut,
        })
    }

    /// Connections of one protocol.
    pub fn connections_of(&self, protocol: Protocol) -> usize {
        let turns = (0..self.connections).map(|index| self.targets[index % self.targets.len()].0);
        turns.filter(|target| *target == protocol).count()
    }
}

/// As many loopback addresses as it takes to have a port for each connection, other ones for other devices, so that
/// several generators do not meet. None if one will do, or if some target is not loopback, where the system chooses.
pub fn loopback_sources(targets: &[(Protocol, SocketAddr)], connections: usize, first_device: u64) -> Vec<IpAddr> {
    let is_loopback_v4 = |address: &SocketAddr| matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback());
    let needed = connections.div_ceil(CONNECTIONS_PER_SOURCE) as u64;
    let first = first_device.saturating_sub(FIRST_DEVICE) / CONNECTIONS_PER_SOURCE as u64;
    if needed + first < 2 || !targets.iter().all(|(_, address)| is_loopback_v4(address)) {
        return Vec::new();
    }
    let address = |number: u64| {
        let number = number % 50_000;
        IpAddr::V4(Ipv4Addr::new(127, 1, (number / 250) as u8, (number % 250 + 1) as u8))
    };
    (first..first + needed).map(address).collect()
}

/// A TCP port to send from: given out here, because the system searches long where many are taken, and does not give out
/// those that are still cooling down (TIME-WAIT). `attempt` counts those that were found to be taken.
pub fn source_port(index: usize, sources: usize, attempt: usize) -> u16 {
    let place = index / sources.max(1) + attempt * CONNECTIONS_PER_SOURCE;
    FIRST_SOURCE_PORT + (place % SOURCE_PORTS) as u16
}

/// Raises this process' limit of open files to what `connections` need; says in words why it cannot.
pub fn make_room(connections: usize) -> anyhow::Result<()> {
    let needed = connections as u64 + FILES_BESIDES;
    let limit = getrlimit(Resource::Nofile);
    let allows = |limit: Option<u64>| limit.is_none_or(|files| files >= needed);
    if allows(limit.current) {
        return Ok(());
    }
    let maximum = if allows(limit.maximum) {
        limit.maximum
    } else {
        Some(needed)
    };
    let raised = Rlimit {
        current: Some(needed),
        maximum,
    };
    setrlimit(Resource::Nofile, raised).with_context(|| {
        let allowed = limit.maximum.unwrap_or(0);
        format!(
            "{connections} connections need {needed} open files, and this process may have {allowed}: raise the hard \
             limit (ulimit -Hn, LimitNOFILE=), or start several with --first-device apart"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_gateway_is_reached_from_as_many_addresses_as_it_takes() {
        let check = |server: &str, connections, first_device, expected: &[&str]| {
            let targets = [(Protocol::Mqtt, server.parse().unwrap())];
            let found = loopback_sources(&targets, connections, FIRST_DEVICE + first_device);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{connections} to {server}");
        };
        check("127.0.0.1:1883", 12_000, 0, &[]);
        check("127.0.0.1:1883", 12_001, 0, &["127.1.0.1", "127.1.0.2"]);
        check("127.0.0.1:1883", 30_000, 0, &["127.1.0.1", "127.1.0.2", "127.1.0.3"]);
        check("127.0.0.1:1883", 16_000, 24_000, &["127.1.0.3", "127.1.0.4"]);
        check("127.0.0.1:1883", 10, 3_000_000, &["127.1.1.1"]);
        check("10.0.0.1:1883", 50_000, 0, &[]);
        check("[::1]:1883", 50_000, 0, &[]);
    }

    #[test]
    fn no_two_connections_have_the_same_address_and_port() {
        let ends: std::collections::HashSet<_> =
            (0..24_000).map(|index| (index % 2, source_port(index, 2, 0))).collect();
        assert_eq!(ends.len(), 24_000);
        assert!((0..10).all(|attempt| source_port(23_999, 2, attempt) >= FIRST_SOURCE_PORT));
        assert_ne!(source_port(7, 2, 0), source_port(7, 2, 1));
    }

    #[test]
    fn connections_are_shared_out_between_protocols() {
        let address = "127.0.0.1:1".parse().unwrap();
        let settings = Settings {
            targets: Protocol::ALL.map(|protocol| (protocol, address)).to_vec(),
            connections: 10,
            ..Settings::default()
        };
        assert_eq!(
            Protocol::ALL.map(|protocol| settings.connections_of(protocol)),
            [4, 3, 3]
        );
    }

    #[test]
    fn as_many_readings_are_flawed_as_was_asked_for() {
        let check = |invalid_percent, expected: [usize; 3]| {
            let settings = Settings {
                invalid_percent,
                ..Settings::default()
            };
            let count = |flaw| (0..1000).filter(|number| settings.flaw(*number) == flaw).count();
            let found = [None, Some(Flaw::WrongType), Some(Flaw::Cut)].map(count);
            assert_eq!(found, expected, "{invalid_percent} %");
        };
        check(0, [1000, 0, 0]);
        check(5, [950, 25, 25]);
        check(30, [700, 150, 150]);
        check(100, [0, 500, 500]);
    }

    #[test]
    fn a_kind_goes_under_as_many_names_as_was_asked_for() {
        let names = |kind_names| {
            let settings = Settings {
                kind_names,
                ..Settings::default()
            };
            [0, 1, 2, 3].map(|turn| settings.place(Kind::ENERGY, turn))
        };
        assert_eq!(names(1), ["energy"; 4]);
        assert_eq!(names(3), ["energy", "energy-2", "energy-3", "energy"]);
    }

    #[test]
    fn passwords_are_not_printed() {
        let credentials = Credentials {
            username: Some("city".to_owned()),
            password: Some("secret".to_owned()),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
