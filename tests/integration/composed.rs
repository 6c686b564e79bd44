//! `deploy/compose.yaml` against what its pages and its own files say of it: memory, disk, version, and what `.env.example` offers.
//!
//! What holds of all services is looked at for each, with YAML's anchors and merges resolved as compose resolves them. Whether all of it
//! runs is for `tests/deploy/compose.sh` to see.

use std::collections::BTreeMap;
use std::time::Duration;

use citygate::operate::config::Config;
use yaml_rust2::{Yaml, YamlLoader};

use crate::harness::repository;

const MIB: f64 = 1024.0 * 1024.0;

fn read(file: &str) -> String {
    let path = repository().join("deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `<<` is replaced by what it merges; keys of the mapping itself win.
fn resolved(yaml: &Yaml) -> Yaml {
    match yaml {
        Yaml::Array(items) => Yaml::Array(items.iter().map(resolved).collect()),
        Yaml::Hash(pairs) => {
            let (merges, own): (Vec<_>, Vec<_>) = pairs.iter().partition(|(key, _)| key.as_str() == Some("<<"));
            let mut all = yaml_rust2::yaml::Hash::new();
            for (_, merged) in merges {
                all.extend(resolved(merged).into_hash().unwrap());
            }
            all.extend(own.into_iter().map(|(key, value)| (key.clone(), resolved(value))));
            Yaml::Hash(all)
        }
        other => other.clone(),
    }
}

fn compose() -> Yaml {
    let documents = YamlLoader::load_from_str(&read("compose.yaml")).unwrap();
    resolved(&documents[0])
}

fn services() -> Vec<(String, Yaml)> {
    let services = compose()["services"].clone().into_hash().unwrap();
    let named = services
        .into_iter()
        .map(|(name, service)| (name.into_string().unwrap(), service));
    named.collect()
}

/// `512m` as MiB.
fn mebibytes(text: &str) -> f64 {
    text.strip_suffix('m').unwrap().parse().unwrap()
}

fn gateway() -> Config {
    toml::from_str(&read("compose/citygate.toml")).unwrap()
}

/// A number of haproxy.cfg, behind `key` in the section.
fn balancer(section: &str, key: &str) -> String {
    let text = read("compose/haproxy.cfg");
    let (_, text) = text.split_once(&format!("\n{section}\n")).unwrap();
    let mut lines = text.lines().map(str::trim);
    lines.find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
}

#[test]
fn each_service_has_a_limit_of_memory_and_of_its_log_and_the_page_has_their_sum() {
    let mut sum = 0.0;
    for (name, service) in services() {
        sum += mebibytes(
            service["mem_limit"]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: no mem_limit")),
        );
        let log = &service["logging"]["options"];
        let is_limited = ["max-size", "max-file"]
            .iter()
            .all(|option| log[*option].as_str().is_some());
        assert!(is_limited, "{name}: its log may fill the disk");
    }
    let words = format!("Memory limits add up to {:.1} GiB", sum / 1024.0);
    assert!(
        read("README.md").contains(&words),
        "deploy/README.md does not say: {words}"
    );
}

/// What README.md says of SIZING.md's and LIMITS.md's figures, in bytes: idle over TLS, and what has come of a message that waits.
const MQTT: f64 = 14_300.0 + 5.0 * 1024.0;
const HTTP: f64 = 20_000.0 + 36.0 * 1024.0;
/// A password that is verified; what the replay holds back and has read ahead; the process itself with its identities.
const PASSWORD: f64 = 19.0 * MIB;
const REPLAY: f64 = 32.0 * MIB;
const REST: f64 = 16.0 * MIB;

#[test]
fn a_gateways_memory_suffices_with_every_queue_full_and_every_connection_waiting() {
    let config = gateway();
    assert!(!config.coap.enabled, "CoAP's memory is not counted here");
    let queues = [
        config.kafka.queue_bytes,
        config.kafka.queue_bytes,
        config.spool.queue_bytes,
        config.limits.in_flight_bytes,
        config.limits.incomplete_bytes,
        config.http.idempotency_bytes_max,
    ];
    let queues: u64 = queues.iter().map(|bytes| bytes.as_u64()).sum();
    let all: usize = balancer("global", "maxconn").parse().unwrap();
    assert!(config.mqtt.connections_max <= all, "more than the balancer passes on");
    let http = config.http.connections_max as f64;
    let mqtt = (all as f64 - http).min(config.mqtt.connections_max as f64);
    let passwords = config.devices.password_checks_max as f64 * PASSWORD;
    let needed = (queues as f64 + http * HTTP + mqtt * MQTT + passwords + REPLAY + REST) / MIB;
    for (name, service) in services() {
        if name.starts_with("gateway-") {
            let limit = mebibytes(service["mem_limit"].as_str().unwrap());
            assert!(needed <= limit, "{name}: up to {needed:.0} MiB of {limit}");
        }
    }
}

#[test]
fn the_balancer_waits_longer_than_the_gateways() {
    let config = gateway();
    for side in ["timeout client", "timeout server"] {
        let hours = balancer("listen mqtt", side)
            .strip_suffix('h')
            .unwrap()
            .parse::<u64>()
            .unwrap();
        assert!(Duration::from_secs(hours * 3600) > config.mqtt.idle_timeout, "{side}");
        let hours = balancer("defaults", side)
            .strip_suffix('h')
            .unwrap()
            .parse::<u64>()
            .unwrap();
        assert!(Duration::from_secs(hours * 3600) > config.http.idle_timeout, "{side}");
    }
}

/// `${NAME:-default}` in compose.yaml; a variable without a default is one that a first start needs.
fn variables() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for rest in read("compose.yaml").split("${").skip(1) {
        let (variable, _) = rest.split_once('}').unwrap();
        let (name, default) = variable
            .split_once(":-")
            .unwrap_or_else(|| panic!("{variable} has no default"));
        let before = found.insert(name.to_owned(), default.to_owned());
        assert!(before.is_none_or(|before| before == default), "{name} has two defaults");
    }
    found
}

#[test]
fn the_example_of_an_env_file_has_every_variable_with_its_default() {
    let text = read(".env.example");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let shown: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, default)| (name.to_owned(), default.to_owned()))
        .collect();
    let mut expected = variables();
    // Of a single build, not of a host.
    assert_eq!(expected.remove("REVISION").as_deref(), Some("unknown"));
    assert_eq!(shown, expected);
}

#[test]
fn what_is_changed_on_a_host_is_no_file_of_the_repository() {
    let ignored = std::fs::read_to_string(repository().join(".gitignore")).unwrap();
    for file in [".env", "compose.override.yaml", "alertmanager.local.yaml"] {
        let line = format!("/deploy/{file}");
        assert!(
            ignored.lines().any(|ignored| ignored == line),
            "{line} is not in .gitignore"
        );
        assert!(
            read("README.md").contains(file),
            "deploy/README.md does not name {file}"
        );
    }
}

#[test]
fn images_are_those_of_the_version_and_say_so() {
    let version = env!("CARGO_PKG_VERSION");
    let mut ours = 0;
    for (name, service) in services() {
        let image = service["image"].as_str().unwrap();
        if service["build"].is_badvalue() {
            assert!(!image.starts_with("citygate"), "{name}: {image} is not built");
            continue;
        }
        ours += 1;
        assert_eq!(image.rsplit_once(':').unwrap().1, version, "{name}");
        if service["build"]["target"].as_str() == Some("citygate") {
            assert_eq!(service["build"]["args"]["VERSION"].as_str(), Some(version), "{name}");
        }
    }
    assert_eq!(ours, 7, "services of images that are built here");
}

/// A container goes on with the file that it was started with: with another version it is created anew.
#[test]
fn services_that_mount_files_are_created_anew_with_another_version() {
    for (name, service) in services() {
        let volumes = service["volumes"].as_vec().into_iter().flatten();
        let mounts_files = volumes.filter_map(Yaml::as_str).any(|volume| volume.contains("./"));
        let is_of_a_version = !service["build"].is_badvalue()
            || service["labels"]["city.citygate.version"].as_str() == Some(env!("CARGO_PKG_VERSION"));
        assert!(!mounts_files || is_of_a_version, "{name}");
    }
}
