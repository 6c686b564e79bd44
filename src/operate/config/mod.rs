//! The configuration: the rooms' own sections, composed.
//!
//! A TOML file, then the [`environment`] (`CITYGATE_KAFKA_BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`), then secrets
//! that are kept in files. Every section is optional and every field has a default; a field that does not exist is a
//! mistake. All mistakes are reported at once, each with its line. Reading sections is left to [`parse`]; what a field
//! means is said where its room declares it and in `deploy/citygate.toml`.

use std::path::Path;
use std::time::Duration;

use crate::listen::{admit, coap, http, mqtt};
use crate::operate::{admin, shutdown};
use crate::{catalogue, deliver, validate};

mod environment;

mod log;

mod parse;

pub use log::{Format, Log};

/// Everything that can be configured.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub mqtt: mqtt::Config,
    pub coap: coap::Config,
    pub http: http::Config,
    pub admin: admin::Config,
    pub kafka: deliver::Config,
    pub spool: deliver::spool::Config,
    pub replay: deliver::replay::Config,
    pub schemas: catalogue::Config,
    pub registry: catalogue::registry::Config,
    pub clock: validate::Config,
    pub limits: admit::Config,
    pub drain: shutdown::Config,
    pub log: Log,
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

impl Config {
    /// Reads a file (none: defaults only) and this process's environment.
    pub fn load(path: Option<&Path>) -> Result<Self, Mistakes> {
        let text = match path {
            None => String::new(),
            Some(path) => {
                std::fs::read_to_string(path).map_err(|error| Mistakes(vec![format!("{}: {error}", path.display())]))?
            }
        };
        let file = path.map_or_else(String::new, |path| path.display().to_string());
        let (environment, unreadable) = environment::texts(std::env::vars_os());
        let parsed = Self::parse(&file, &text, environment.into_iter());
        if unreadable.is_empty() {
            return parsed;
        }
        let mut mistakes = parsed.err().map_or_else(Vec::new, |mistakes| mistakes.0);
        mistakes.extend(unreadable);
        Err(Mistakes(mistakes))
    }

    /// Reads a text, which messages call `file`, and these environment variables.
    pub fn parse(
        file: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let mut sections = parse::Sections::new(file, text, environment);
        let mut config = Config {
            mqtt: sections.take("mqtt"),
            coap: sections.take("coap"),
            http: sections.take("http"),
            admin: sections.take("admin"),
            kafka: sections.take("kafka"),
            spool: sections.take("spool"),
            replay: sections.take("replay"),
            schemas: sections.take("schemas"),
            registry: sections.take("registry"),
            clock: sections.take("clock"),
            limits: sections.take("limits"),
            drain: sections.take("drain"),
            log: sections.take("log"),
        };
        let mut relations = config.kafka.read_files();
        relations.extend(config.registry.read_files());
        relations.extend(config.relations());
        let mistakes = sections.finish(relations);
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(Mistakes(mistakes))
        }
    }

    /// What single fields cannot know of each other.
    fn relations(&self) -> Vec<String> {
        let mut mistakes = self.kafka.mistakes();
        mistakes.extend(self.registry.mistakes());
        mistakes.extend(self.log.mistakes());
        mistakes.extend(self.coap.mistakes());
        mistakes.extend(self.spool.mistakes());
        mistakes.extend(self.replay.mistakes());
        mistakes.extend(self.mqtt.mistakes());
        mistakes.extend(self.http.mistakes());
        mistakes.extend(self.shared_addresses());
        let mut require = |good: bool, text: &str| {
            if !good {
                mistakes.push(text.to_owned());
            }
        };
        require(
            self.mqtt.enabled || self.coap.enabled || self.http.enabled,
            "mqtt.enabled, coap.enabled, http.enabled: at least one listener must be enabled",
        );
        require(
            self.drain.deadline > self.kafka.delivery_timeout,
            "drain.deadline: must be longer than kafka.delivery_timeout, so that every reading gets its answer",
        );
        let in_flight = self.limits.in_flight_bytes;
        require(
            in_flight >= self.http.body_bytes_max && in_flight >= self.mqtt.packet_bytes_max,
            "limits.in_flight_bytes: must hold the largest message (http.body_bytes_max, mqtt.packet_bytes_max)",
        );
        require(
            self.limits.incomplete_bytes >= self.http.body_bytes_max.max(self.mqtt.packet_bytes_max),
            "limits.incomplete_bytes: must hold the largest message (http.body_bytes_max, mqtt.packet_bytes_max)",
        );
        // What is rejected is kept whole: it must fit into a record with its headers.
        let largest = self.kafka.message_bytes_max().as_u64().saturating_sub(16 * 1024);
        require(
            self.http.body_bytes_max.as_u64() <= largest && self.mqtt.packet_bytes_max.as_u64() <= largest,
            "http.body_bytes_max, mqtt.packet_bytes_max: must be 16 KiB below \"message.max.bytes\" of kafka.properties (1000000)",
        );
        require(
            !self.spool.enabled
                || self.spool.entry_bytes_max.as_u64()
                    >= self.http.body_bytes_max.max(self.mqtt.packet_bytes_max).as_u64() + 16 * 1024,
            "spool.entry_bytes_max: must be 16 KiB more than http.body_bytes_max and mqtt.packet_bytes_max",
        );
        require(
            in_flight.as_u64() <= u64::from(u32::MAX),
            "limits.in_flight_bytes: must be below 4 GiB",
        );
        require(
            self.limits.batch_readings > 0,
            "limits.batch_readings: must be at least 1",
        );
        mistakes
    }

    /// Listeners over TCP that want the same address.
    fn shared_addresses(&self) -> Vec<String> {
        let all = [
            ("mqtt.listen", self.mqtt.enabled, &self.mqtt.listen),
            ("http.listen", self.http.enabled, &self.http.listen),
            ("admin.listen", self.admin.enabled, &self.admin.listen),
        ];
        let mut mistakes = Vec::new();
        for (index, (name, _, listen)) in all.iter().enumerate().filter(|(_, one)| one.1) {
            for (other, _, others) in all[..index].iter().filter(|one| one.1) {
                if let Some(address) = listen.shared_with(others) {
                    mistakes.push(format!(
                        "{name}: {address} is also used by {other}; give each listener a port of its own"
                    ));
                }
            }
        }
        mistakes
    }

    /// Ports 0 on loopback, the repository's schemas, quick time-outs.
    pub fn for_testing() -> Self {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::default();
        config.mqtt.listen = any.into();
        config.coap.listen = any.into();
        config.http.listen = any.into();
        config.admin.listen = any.into();
        config.schemas.folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        config.registry.cache_file = None;
        // Tests of the spool give it a folder of their own.
        config.spool.enabled = false;
        config.kafka.create_topics = true;
        config.kafka.linger = Duration::from_millis(1);
        config.kafka.delivery_timeout = Duration::from_secs(3);
        config.kafka.probe_interval = Duration::from_millis(100);
        config.kafka.statistics_interval = Duration::from_millis(500);
        config.drain.deadline = Duration::from_secs(10);
        config
    }
}

#[cfg(test)]
mod tests;
