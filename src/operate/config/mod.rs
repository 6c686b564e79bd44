//! The configuration: the rooms' own tables, composed.
//!
//! A TOML file, then the [`environment`] (`CITYGATE_KAFKA__BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`), then secrets
//! that are kept in files. Every setting has a default; a setting that does not exist is a mistake. All mistakes are
//! reported at once, each with its line. Reading is left to [`parse`]; what a setting means is said where its room declares
//! it and in `deploy/citygate.toml`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::listen::{coap, http, in_flight_bytes, mqtt};
use crate::operate::mistake::{Mistake, Mistakes};
use crate::operate::{admin, shutdown};
use crate::{catalogue, deliver, devices, store, validate};

mod ask;

mod environment;

mod expected;

mod exposure;

mod log;

mod parse;

pub mod topics_file;

use exposure::Exposed;
pub use log::{Format, Log};

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of the spool and of caches; created if its parent exists. Every gateway needs its own.
    pub state_dir: PathBuf,
    pub mqtt: mqtt::Config,
    pub coap: coap::Config,
    pub http: http::Config,
    pub admin: admin::Config,
    pub devices: devices::Config,
    pub kafka: deliver::Config,
    pub spool: deliver::spool::Config,
    pub replay: deliver::replay_threads::Config,
    pub store: store::Config,
    pub schemas: catalogue::Config,
    pub registry: catalogue::registry::Config,
    pub clock: validate::Config,
    pub limits: in_flight_bytes::Config,
    pub drain: shutdown::Config,
    pub log: Log,
    /// What was found in the environment that has no effect.
    #[serde(skip)]
    pub warnings: Vec<Mistake>,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Config {
            state_dir: "citygate-state".into(),
            mqtt: Default::default(),
            coap: Default::default(),
            http: Default::default(),
            admin: Default::default(),
            devices: Default::default(),
            kafka: Default::default(),
            spool: Default::default(),
            replay: Default::default(),
            store: Default::default(),
            schemas: Default::default(),
            registry: Default::default(),
            clock: Default::default(),
            limits: Default::default(),
            drain: Default::default(),
            log: Default::default(),
            warnings: Vec::new(),
        };
        config.spool.folder = config.spool_dir();
        config
    }
}

impl Config {
    /// Reads a file (none: defaults only) and this process's environment.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(path: Option<&Path>) -> Result<Self, Mistakes> {
        let file = path.map_or_else(String::new, |path| path.display().to_string());
        let text = match path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Mistakes(vec![Mistake::new(&*file, format!("cannot be read: {error}"))]))?,
        };
        let (environment, unreadable) = environment::texts(std::env::vars_os());
        match Self::parse(&file, &text, environment.into_iter()) {
            Ok(config) if unreadable.0.is_empty() => Ok(config),
            parsed => {
                let mut mistakes = parsed.err().unwrap_or_default();
                mistakes.extend(unreadable);
                Err(mistakes)
            }
        }
    }

    /// Reads a text, which mistakes call `file`, and these environment variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn parse(
        file: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let mut read = parse::read::<Config>(file, text, environment);
        let mut config = std::mem::take(&mut read.value);
        config.warnings = std::mem::take(&mut read.warnings);
        if !read.sets("spool.folder") {
            config.spool.folder = config.spool_dir();
        }
        config.registry.cache_file = Some(config.state_dir.join("schema-ids.json"));
        let mut relations = config.kafka.read_files();
        relations.extend(config.read_topics());
        relations.extend(config.registry.read_files());
        relations.extend(config.admin.read_files());
        relations.extend(config.store.read_files());
        relations.extend(config.relations());
        read.add(relations);
        match read.mistakes.0.is_empty() {
            true => Ok(config),
            false => Err(read.mistakes),
        }
    }

    /// Reads the list of topics, if there is to be one.
    fn read_topics(&mut self) -> Mistakes {
        let read = self.kafka.topics_file.as_deref().map(topics_file::read).transpose();
        match read {
            Ok(list) => {
                self.kafka.topics = list;
                Mistakes::default()
            }
            Err(mistakes) => mistakes,
        }
    }

    /// Where the spool is, unless `spool.folder` says otherwise.
    fn spool_dir(&self) -> PathBuf {
        self.state_dir.join("spool")
    }

    /// What single fields cannot know of each other.
    fn relations(&self) -> Mistakes {
        let mut mistakes = self.kafka.mistakes();
        mistakes.extend(self.registry.mistakes());
        mistakes.extend(self.limits.prefix.mistakes());
        mistakes.extend(self.log.mistakes());
        mistakes.extend(self.coap.mistakes());
        mistakes.extend(self.spool.mistakes());
        mistakes.extend(self.replay.mistakes());
        mistakes.extend(self.store.mistakes());
        mistakes.extend(self.mqtt.mistakes());
        mistakes.extend(self.http.mistakes());
        mistakes.extend(self.admin.mistakes());
        mistakes.extend(self.devices.mistakes());
        mistakes.extend(self.shared_addresses());
        mistakes.extend(exposure::mistakes(&self.exposed()));
        let mut require = |good: bool, path: &str, text: &str| mistakes.require(good, path, text);
        require(!self.state_dir.as_os_str().is_empty(), "state_dir", "is empty");
        require(
            self.mqtt.enabled || self.coap.enabled || self.http.enabled,
            "mqtt.enabled, coap.enabled, http.enabled",
            "at least one listener must be enabled",
        );
        require(
            self.drain.deadline > self.kafka.delivery_timeout,
            "drain.deadline",
            "must be longer than kafka.delivery_timeout, so that every reading gets its answer",
        );
        require(
            !self.coap.key_in_query || self.devices.folder.is_some(),
            "coap.key_in_query",
            "needs devices.folder",
        );
        let in_flight = self.limits.in_flight_bytes;
        require(
            in_flight >= self.http.body_bytes_max && in_flight >= self.mqtt.packet_bytes_max,
            "limits.in_flight_bytes",
            "must hold the largest message (http.body_bytes_max, mqtt.packet_bytes_max)",
        );
        require(
            self.limits.incomplete_bytes >= self.http.body_bytes_max.max(self.mqtt.packet_bytes_max),
            "limits.incomplete_bytes",
            "must hold the largest message (http.body_bytes_max, mqtt.packet_bytes_max)",
        );
        // What is rejected is kept whole: it must fit into a record with its headers.
        let largest = self.kafka.message_bytes_max().as_u64().saturating_sub(16 * 1024);
        require(
            self.http.body_bytes_max.as_u64() <= largest && self.mqtt.packet_bytes_max.as_u64() <= largest,
            "http.body_bytes_max, mqtt.packet_bytes_max",
            "must be 16 KiB below \"message.max.bytes\" of kafka.properties (1000000)",
        );
        require(
            !self.spool.enabled
                || self.spool.entry_bytes_max.as_u64()
                    >= self.http.body_bytes_max.max(self.mqtt.packet_bytes_max).as_u64() + 16 * 1024,
            "spool.entry_bytes_max",
            "must be 16 KiB more than http.body_bytes_max and mqtt.packet_bytes_max",
        );
        require(
            in_flight.as_u64() <= u64::from(u32::MAX),
            "limits.in_flight_bytes",
            "must be below 4 GiB",
        );
        require(
            self.limits.batch_readings > 0,
            "limits.batch_readings",
            "must be at least 1",
        );
        mistakes
    }

    /// Whether others than this machine reach a listener whose connections are limited by address prefix.
    pub fn is_beyond_loopback(&self) -> bool {
        let [mqtt, _, http, _, _] = self.exposed();
        mqtt.is_beyond_loopback() || http.is_beyond_loopback()
    }

    pub fn is_coap_beyond_loopback(&self) -> bool {
        let [_, coap, _, _, _] = self.exposed();
        coap.is_beyond_loopback()
    }

    fn exposed(&self) -> [Exposed<'_>; 5] {
        macro_rules! exposed {
            ($table:ident, $tls_listen:expr, $authenticates:expr) => {
                Exposed {
                    table: stringify!($table),
                    enabled: self.$table.enabled,
                    listen: &self.$table.listen,
                    tls_listen: $tls_listen,
                    authenticates: $authenticates,
                    allow_plaintext: self.$table.allow_plaintext,
                    allow_anonymous: self.$table.allow_anonymous,
                }
            };
        }
        let has_identities = self.devices.folder.is_some();
        let [mqtt, http, admin] = [&self.mqtt.tls, &self.http.tls, &self.admin.tls].map(|tls| tls.listen.as_ref());
        [
            exposed!(mqtt, mqtt, has_identities),
            exposed!(coap, None, has_identities),
            exposed!(http, http, has_identities),
            exposed!(admin, admin, self.admin.authenticates()),
            Exposed {
                table: "store",
                enabled: self.store.is_enabled(),
                listen: &self.store.listen,
                tls_listen: None,
                authenticates: false,
                // It shows figures, and no reading.
                allow_plaintext: true,
                allow_anonymous: self.store.allow_anonymous,
            },
        ]
    }

    /// Listeners over TCP that want the same address.
    fn shared_addresses(&self) -> Mistakes {
        let all = [
            ("mqtt.listen", self.mqtt.enabled, Some(&self.mqtt.listen)),
            ("mqtt.tls.listen", self.mqtt.enabled, self.mqtt.tls.listen.as_ref()),
            ("http.listen", self.http.enabled, Some(&self.http.listen)),
            ("http.tls.listen", self.http.enabled, self.http.tls.listen.as_ref()),
            ("admin.listen", self.admin.enabled, Some(&self.admin.listen)),
            ("admin.tls.listen", self.admin.enabled, self.admin.tls.listen.as_ref()),
            ("store.listen", self.store.is_enabled(), Some(&self.store.listen)),
        ];
        let all = all.into_iter().filter(|one| one.1);
        let all: Vec<_> = all.filter_map(|(name, _, listen)| Some((name, listen?))).collect();
        let mut mistakes = Mistakes::default();
        for (index, (name, listen)) in all.iter().enumerate() {
            for (other, others) in &all[..index] {
                if let Some(address) = listen.shared_with(others) {
                    let text = format!("{address} is also used by {other}; give each listener a port of its own");
                    mistakes.push(*name, text);
                }
            }
        }
        mistakes
    }
}

#[cfg(test)]
mod tests;
