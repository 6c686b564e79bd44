//! The configuration: the rooms' own sections, composed.
//!
//! A TOML file, then the environment (`CITYGATE_KAFKA_BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`). Every section
//! is optional and every field has a default; a field that does not exist is a mistake. All mistakes are reported at
//! once, each with its line. Reading sections is left to [`parse`]; what a field means is said where its room declares
//! it and in `deploy/citygate.toml`.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::listen::{admit, coap, http, mqtt};
use crate::{admin, deliver, drain, schemas, validate};

mod parse;

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
    pub schemas: schemas::Config,
    pub registry: schemas::registry::Config,
    pub clock: validate::Config,
    pub limits: admit::Config,
    pub drain: drain::Config,
    pub log: Log,
}

/// The `[log]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged, in the syntax of tracing's `EnvFilter`: "info", "citygate=debug,warn".
    pub level: String,
    pub format: Format,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Json,
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".into(),
            format: Format::Text,
        }
    }
}

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
        // A variable that is not UTF-8 is not one of ours.
        let environment =
            std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        Self::parse(&file, &text, environment)
    }

    /// Reads a text, which messages call `file`, and these environment variables.
    pub fn parse(
        file: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let mut sections = parse::Sections::new(file, text, environment);
        let config = Config {
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
        let mut mistakes = sections.finish();
        mistakes.extend(config.relations());
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(Mistakes(mistakes))
        }
    }

    /// What single fields cannot know of each other.
    fn relations(&self) -> Vec<String> {
        let mut mistakes = self.kafka.mistakes();
        mistakes.extend(self.coap.mistakes());
        mistakes.extend(self.spool.mistakes());
        mistakes.extend(self.replay.mistakes());
        mistakes.extend(self.mqtt.mistakes());
        mistakes.extend(self.http.mistakes());
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
        require(
            tracing_subscriber::EnvFilter::try_new(&self.log.level).is_ok(),
            "log.level: is not a level or filter (try \"info\" or \"citygate=debug,warn\")",
        );
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
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let environment = environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        Config::parse("citygate.toml", text, environment).map_err(|mistakes| mistakes.0)
    }

    #[test]
    fn an_empty_file_is_a_good_configuration() {
        let config = parse("", &[]).unwrap();
        assert_eq!(config.kafka.bootstrap_servers, "127.0.0.1:9092");
        assert!(
            config.http.listen[0].ip().is_loopback(),
            "plain ports are on loopback by default"
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_lines() {
        let text = "
[kafka]
bootstrap_servers = 9092
linger = \"soon\"
compresion = \"zstd\"
delivery_timeout = \"40s\"

[http]
listen = \"localhost\"

[htpp]
listen = \"127.0.0.1:1\"
";
        let mistakes = parse(text, &[("CITYGATE_LIMITS_BATCH_READINGS", "many")]).unwrap_err();
        let expected = [
            "citygate.toml:3: kafka.bootstrap_servers: ",
            "citygate.toml:4: kafka.linger: ",
            "citygate.toml:5: kafka.compresion: unknown field",
            "citygate.toml:9: http.listen: ",
            "citygate.toml:11: [htpp]: no such section",
            "CITYGATE_LIMITS_BATCH_READINGS: ",
            "drain.deadline: must be longer than kafka.delivery_timeout",
        ];
        for expected in expected {
            assert!(
                mistakes.iter().any(|found| found.starts_with(expected)),
                "{expected} is not in {mistakes:#?}"
            );
        }
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    }

    /// The sections as text, to compare and to list their fields.
    fn sections(config: &Config) -> toml::Table {
        fn section(of: &impl Serialize) -> toml::Value {
            toml::Value::try_from(of).unwrap()
        }
        let Config {
            mqtt,
            coap,
            http,
            admin,
            kafka,
            spool,
            replay,
            schemas,
            registry,
            clock,
            limits,
            drain,
            log,
        } = config;
        toml::Table::from_iter([
            ("mqtt".to_owned(), section(mqtt)),
            ("coap".to_owned(), section(coap)),
            ("http".to_owned(), section(http)),
            ("admin".to_owned(), section(admin)),
            ("kafka".to_owned(), section(kafka)),
            ("spool".to_owned(), section(spool)),
            ("replay".to_owned(), section(replay)),
            ("schemas".to_owned(), section(schemas)),
            ("registry".to_owned(), section(registry)),
            ("clock".to_owned(), section(clock)),
            ("limits".to_owned(), section(limits)),
            ("drain".to_owned(), section(drain)),
            ("log".to_owned(), section(log)),
        ])
    }

    #[test]
    fn the_example_file_explains_every_setting_with_its_default() {
        let text = include_str!("../../deploy/citygate.toml");
        let defaults = sections(&Config::default());
        assert_eq!(sections(&parse(text, &[]).unwrap()), defaults);
        let written: toml::Table = toml::from_str(text).unwrap();
        for (name, section) in &defaults {
            for field in section.as_table().unwrap().keys() {
                assert!(
                    written[name].get(field).is_some(),
                    "{name}.{field} is not in deploy/citygate.toml"
                );
            }
        }
        assert!(
            text.contains("# url = "),
            "registry.url has no default, but is explained"
        );
    }

    /// Settings that bound nothing: switches, addresses, names, the sizes of steps, and which times are right.
    const NO_LIMITS: &str = "
        mqtt.enabled mqtt.listen
        coap.enabled
        http.enabled http.listen
        admin.enabled admin.listen
        kafka.bootstrap_servers kafka.topic_prefix kafka.dead_letter_topic kafka.create_topics kafka.partitions
        kafka.replication_factor kafka.linger kafka.batch_bytes kafka.batch_readings kafka.compression
        kafka.probe_interval kafka.statistics_interval kafka.properties
        spool.enabled spool.folder spool.segment_bytes spool.commit_interval spool.commit_bytes
        replay.try_again
        schemas.folder
        registry.cache_file
        clock.max_ahead clock.max_age
        log.level log.format
    ";

    #[test]
    fn the_page_of_limits_names_every_setting_that_is_one() {
        let page = include_str!("../../deploy/README.md");
        let named: Vec<_> = page.split('`').skip(1).step_by(2).collect();
        // Every other setting is a limit.
        let no_limits: HashSet<&str> = NO_LIMITS.split_whitespace().collect();
        let defaults = sections(&Config::default());
        let mut known = HashSet::new();
        for (section, fields) in &defaults {
            for field in fields.as_table().unwrap().keys() {
                let name = format!("{section}.{field}");
                let is_there = named.contains(&name.as_str()) || no_limits.contains(name.as_str());
                assert!(is_there, "{name} is not in deploy/README.md");
                known.insert(name);
            }
        }
        for name in no_limits {
            assert!(known.contains(name), "{name} does not exist");
        }
        for (section, field) in named.iter().filter_map(|name| name.split_once('.')) {
            let known = defaults.get(section).is_none_or(|section| section.get(field).is_some());
            assert!(known, "deploy/README.md names {section}.{field}, which does not exist");
        }
    }

    #[test]
    fn limits_that_let_nothing_arrive_are_mistakes() {
        let text = "
[mqtt]
packet_bytes_per_second_min = \"0 B\"
[http]
body_bytes_per_second_min = \"0 B\"
[limits]
incomplete_bytes = \"500 KiB\"
";
        let mistakes = parse(text, &[]).unwrap_err();
        let expected = [
            "mqtt.packet_bytes_per_second_min: must be at least 1 B",
            "http.body_bytes_per_second_min: must be at least 1 B",
            "limits.incomplete_bytes: must hold the largest message (http.body_bytes_max, mqtt.packet_bytes_max)",
        ];
        assert_eq!(mistakes, expected);
    }

    #[test]
    fn broken_syntax_is_reported_with_its_line() {
        let mistakes = parse("[kafka]\nlinger = = 5\n", &[]).unwrap_err();
        assert!(mistakes[0].starts_with("citygate.toml:2: "), "{mistakes:?}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let environment = [
            ("CITYGATE_KAFKA_BOOTSTRAP_SERVERS", "kafka-1:9092,kafka-2:9092"),
            ("CITYGATE_KAFKA_CREATE_TOPICS", "true"),
            ("CITYGATE_KAFKA_LINGER", "20ms"),
            ("CITYGATE_LIMITS_IN_FLIGHT_BYTES", "128 MiB"),
            ("CITYGATE_COAP_LISTEN", "127.0.0.1:5683,[::1]:5683"),
            ("CITYGATE_MQTT_LISTEN", "[\"127.0.0.1:1883\", \"[::1]:1883\"]"),
            ("CITYGATE_REQUIRE_KAFKA", "1"),
            ("HOME", "/root"),
        ];
        let config = parse("[kafka]\nbootstrap_servers = \"x:1\"\npartitions = 7", &environment).unwrap();
        assert_eq!(config.kafka.bootstrap_servers, "kafka-1:9092,kafka-2:9092");
        assert!(config.kafka.create_topics);
        assert_eq!(config.kafka.linger, Duration::from_millis(20));
        assert_eq!(config.kafka.partitions, 7);
        assert_eq!(config.coap.listen.to_string(), "127.0.0.1:5683, [::1]:5683");
        assert_eq!(config.mqtt.listen.to_string(), "127.0.0.1:1883, [::1]:1883");
        assert_eq!(config.limits.in_flight_bytes, bytesize::ByteSize::mib(128));
    }
}
