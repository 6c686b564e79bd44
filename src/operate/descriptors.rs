//! File descriptors: how many this process may have, and who gets them.
//!
//! The soft limit (`ulimit -n`, commonly 1,024) is raised to the hard one. Of that, a reserve is kept for what must not
//! fail while devices are connected: the spool's files, Kafka's sockets, the operator's port. Only what is left is for
//! connections: more of them are refused (MQTT) or wait (HTTP) as beyond their `connections_max`. The reserve is an
//! estimate: how many brokers a cluster has is not known at the start. With more than are counted on, descriptors can be
//! used up after all; what is refused then is answered busy.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::listen::coap;
use crate::operate::admin;
use crate::operate::config::Config;

/// Standard streams, event loops, a connection that is about to be refused, registry, metrics.
const PROCESS: u64 = 44;
/// librdkafka: a socket and a pair of pipes per broker of the cluster, whether or not it was named.
const PER_BROKER: u64 = 4;
/// The producer, the one that replaces it, the admin client.
const CLIENTS: u64 = 3;
/// Brokers of a cluster, where the limit is large enough; a smaller one keeps an eighth for them.
const BROKERS: u64 = 32;
const BROKERS_MIN: u64 = 3;
const KAFKA: u64 = 16;
/// Of the spool, besides segments held open: the one being made, cursor, lock, folder, one being read, one being copied.
const SPOOL: u64 = 8;
/// Fewer connections than this are no gateway.
const CONNECTIONS_MIN: u64 = 16;

/// Who gets how many descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the process may have.
    pub limit: u64,
    /// Kept for spool, Kafka and everything else that is not a device's connection.
    pub reserve: u64,
    /// What `mqtt.connections_max` and `http.connections_max` ask for together.
    pub connections_wanted: usize,
    /// Connections that may be open at once, over both listeners.
    pub connections: usize,
    /// Of these, those of one listener at most: some are left to the other, whoever comes first.
    pub mqtt_connections: usize,
    pub http_connections: usize,
    /// Segments of the spool that are held open.
    pub open_segments: usize,
}

/// The limit is too low for any connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "file descriptors: this process may have {limit}, and needs {needed} at least; raise the hard limit (ulimit -n, LimitNOFILE)"
)]
pub struct TooFew {
    pub limit: u64,
    pub needed: u64,
}

/// Raises the soft limit as far as this process may, and returns what it then has (`u64::MAX`: no limit).
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of file descriptors could not be raised");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

// === impl Plan ===

impl Plan {
    /// # Errors
    /// The limit is too low for any connection.
    pub fn new(config: &Config, limit: u64) -> Result<Self, TooFew> {
        let reserve = reserve(config, limit);
        let left = limit.saturating_sub(reserve);
        if left < CONNECTIONS_MIN {
            let needed = least(config, limit);
            return Err(TooFew { limit, needed });
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let wanted = |enabled: bool, max: usize| if enabled { max } else { 0 };
        let mqtt = wanted(config.mqtt.enabled, config.mqtt.connections_max);
        let http = wanted(config.http.enabled, config.http.connections_max);
        let share = |mine: usize, other: usize| mine.min(left - other.min(left / 8));
        Ok(Plan {
            limit,
            reserve,
            connections_wanted: mqtt.saturating_add(http),
            connections: left.min(mqtt.saturating_add(http)),
            mqtt_connections: share(mqtt, http),
            http_connections: share(http, mqtt),
            open_segments: open_segments(config, limit),
        })
    }

    /// Holds the configuration to what there is.
    pub fn apply(&self, config: &mut Config) {
        config.mqtt.connections_max = self.mqtt_connections;
        config.http.connections_max = self.http_connections;
        config.spool.open_segments_max = self.open_segments;
    }

    /// Whether fewer connections can be open than the configuration asks for.
    pub fn is_short(&self) -> bool {
        self.connections < self.connections_wanted
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan {
            limit,
            reserve,
            connections,
            connections_wanted,
            ..
        } = self;
        write!(
            f,
            "file descriptors: of {limit}, {reserve} are kept for spool, kafka and admin, {connections} are for connections"
        )?;
        if self.is_short() {
            write!(
                f,
                "; mqtt.connections_max and http.connections_max ask for {connections_wanted}: raise the hard limit (ulimit -n, LimitNOFILE)"
            )?;
        }
        Ok(())
    }
}

/// What is kept for everything but connections.
fn reserve(config: &Config, limit: u64) -> u64 {
    PROCESS
        + listeners(config)
        + kafka(config, limit)
        + admin::connections_max(&config.admin) as u64
        + spool(config, open_segments(config, limit))
}

/// The lowest limit above `limit` that leaves some for connections: the reserve grows with it.
fn least(config: &Config, limit: u64) -> u64 {
    let mut least = limit;
    loop {
        let needed = reserve(config, least) + CONNECTIONS_MIN;
        if needed <= least {
            return least;
        }
        least = needed;
    }
}

fn open_segments(config: &Config, limit: u64) -> usize {
    if !config.spool.enabled {
        return config.spool.open_segments_max;
    }
    let segments = config.spool.bytes_max.as_u64() / config.spool.segment_bytes.as_u64().max(1);
    let most = (config.spool.open_segments_max as u64).min(segments + 1).min(limit / 4);
    most as usize
}

/// Sockets that are bound, and those that CoAP binds to single addresses of a wildcard.
fn listeners(config: &Config) -> u64 {
    let all = [
        &config.mqtt.listen,
        &config.coap.listen,
        &config.http.listen,
        &config.admin.listen,
    ];
    let with_tls = [&config.mqtt.tls, &config.http.tls, &config.admin.tls];
    let with_tls = with_tls.iter().filter_map(|tls| tls.listen.as_ref());
    let bound: usize = all
        .into_iter()
        .chain(with_tls)
        .map(|listen| listen.iter().count())
        .sum();
    let wildcard = config.coap.enabled && config.coap.listen.iter().any(|address| address.ip().is_unspecified());
    (bound + if wildcard { coap::OWN_ADDRESSES_MAX } else { 0 }) as u64
}

fn spool(config: &Config, open_segments: usize) -> u64 {
    match config.spool.enabled {
        true => SPOOL + open_segments as u64,
        false => 0,
    }
}

/// Every client connects to every broker that the cluster tells it of.
fn kafka(config: &Config, limit: u64) -> u64 {
    let named = config.kafka.bootstrap_servers.split(',').count() as u64;
    let per_broker = PER_BROKER * CLIENTS;
    let affordable = (limit / 8 / per_broker).min(BROKERS);
    KAFKA + per_broker * affordable.max(named).max(BROKERS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_the_reserve_leaves() {
        // Limit, MQTT and HTTP connections asked for → together, MQTT, HTTP.
        let check = |limit: u64, asked: (usize, usize), expected: Option<(usize, usize, usize)>| {
            let mut config = Config::default();
            (config.mqtt.connections_max, config.http.connections_max) = asked;
            let plan = Plan::new(&config, limit);
            let got = plan
                .as_ref()
                .ok()
                .map(|plan| (plan.connections, plan.mqtt_connections, plan.http_connections));
            assert_eq!(got, expected, "{limit} {asked:?}: {plan:?}");
        };
        check(100_000, (10_000, 10_000), Some((20_000, 10_000, 10_000)));
        check(u64::MAX, (10_000, 10_000), Some((20_000, 10_000, 10_000)));
        // 44 of the process, 4 listeners, 16 and 12 for each of 13 brokers of Kafka, 16 of the operator, 73 of the spool.
        check(1309, (10_000, 10_000), Some((1000, 875, 875)));
        check(1309, (10_000, 100), Some((1000, 900, 100)));
        check(1309, (400, 300), Some((700, 400, 300)));
        check(64, (10_000, 10_000), None);
    }

    #[test]
    fn the_number_that_is_needed_is_enough() {
        for limit in [0, 32, 64, 100, 140, 160] {
            let mut config = Config::default();
            config.spool.bytes_max = bytesize::ByteSize::gib(100);
            let needed = Plan::new(&config, limit).unwrap_err().needed;
            Plan::new(&config, needed).unwrap();
            Plan::new(&config, needed - 1).unwrap_err();
        }
    }

    #[test]
    fn kafka_gets_more_for_brokers_where_there_is_more() {
        let check = |limit: u64, named: &str, brokers: u64| {
            let mut config = Config::default();
            config.kafka.bootstrap_servers = named.into();
            assert_eq!(kafka(&config, limit), 16 + 12 * brokers, "{limit}");
        };
        check(256, "a:1", 3);
        check(1024, "a:1", 10);
        check(4096, "a:1", 32);
        check(u64::MAX, "a:1", 32);
        check(1024, &["a:1"; 40].join(","), 40);
    }

    #[test]
    fn a_large_spool_does_not_take_what_connections_need() {
        let mut config = Config::default();
        config.spool.bytes_max = bytesize::ByteSize::tib(1);
        assert_eq!(Plan::new(&config, 1 << 20).unwrap().open_segments, 256);
        assert_eq!(Plan::new(&config, 400).unwrap().open_segments, 100);
    }

    #[test]
    fn what_is_short_is_said_with_the_settings() {
        let plan = Plan::new(&Config::default(), 1024).unwrap();
        let said = plan.to_string();
        assert!(said.contains("mqtt.connections_max") && said.contains("1024"), "{said}");
        let error = Plan::new(&Config::default(), 100).unwrap_err().to_string();
        assert!(error.contains("ulimit -n"), "{error}");
    }
}
