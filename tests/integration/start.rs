//! What keeps a gateway from starting: `citygate check` and `citygate run` say the same, and no secret.
//!
//! Each case is a configuration with one fault, given to the program both ways. What `run` says on standard error must be
//! what `check` calls an error, with the same exit code for settings; it must say what, where and what to do; and neither may
//! change a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::harness::program::Program;
use crate::harness::registry::{FakeRegistry, accepting, always};
use crate::harness::{Broker, Via, free_ports, repository};

/// In place of every secret; no output may contain it.
const CANARY: &str = "Zq7canaryZq7";

/// Nothing listens there.
const NO_KAFKA: &str = "127.0.0.1:9";

const JSON: &str = "application/vnd.schemaregistry.v1+json";

/// The program's surroundings, all of them good until a case spoils them.
struct Ground {
    folder: TempDir,
    kafka: String,
}

/// Settings in place of the good ones, by section; and what is special about the process.
#[derive(Clone, Default)]
struct Fault {
    settings: Vec<(&'static str, String)>,
    environment: Vec<(&'static str, String)>,
    descriptors: Option<u32>,
}

/// What must be said, and with which exit code.
enum Expected<'a> {
    /// The settings are wrong.
    Settings(&'a [&'a str]),
    /// The gateway does not start.
    Start(&'a [&'a str]),
}

impl Ground {
    /// Without Kafka: a gateway would start nevertheless.
    fn new() -> Self {
        Ground::with_kafka(NO_KAFKA)
    }

    fn with_kafka(kafka: &str) -> Self {
        let ground = Ground {
            folder: TempDir::new().unwrap(),
            kafka: kafka.to_owned(),
        };
        for kind in ["weather", "energy"] {
            ground.schema(&format!("{kind}.avsc"), None);
        }
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file below the folder, and returns its path as TOML.
    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        toml::Value::from(self.path(name).to_str().unwrap()).to_string()
    }

    /// A schema; without a text, the one that is shipped.
    fn schema(&self, name: &str, text: Option<&str>) {
        let folder = self.path("schemas");
        fs::create_dir_all(&folder).unwrap();
        match text {
            Some(text) => fs::write(folder.join(name), text).unwrap(),
            None => drop(fs::copy(repository().join("schemas").join(name), folder.join(name)).unwrap()),
        }
    }

    fn write_config(&self, fault: &Fault) {
        let any_port = || "\"127.0.0.1:0\"".to_owned();
        let path = |name: &str| toml::Value::from(self.path(name).to_str().unwrap()).to_string();
        let good = [
            ("mqtt.listen", any_port()),
            ("coap.listen", any_port()),
            ("http.listen", any_port()),
            ("admin.listen", any_port()),
            ("kafka.bootstrap_servers", format!("{:?}", self.kafka)),
            ("schemas.folder", path("schemas")),
            ("schemas.kinds", "[\"*\"]".to_owned()),
            ("spool.folder", path("spool")),
            ("state_dir", path("state")),
            ("log.level", "\"off\"".to_owned()),
        ];
        let mut settings: BTreeMap<&str, String> = good.into_iter().collect();
        settings.extend(fault.settings.iter().cloned());
        let lines = settings.iter().map(|(name, value)| format!("{name} = {value}\n"));
        fs::write(self.path("citygate.toml"), lines.collect::<String>()).unwrap();
    }

    fn ask(&self, command: &str, fault: &Fault) -> Output {
        let program = env!("CARGO_BIN_EXE_citygate");
        let limit = fault.descriptors.map(|limit| format!("ulimit -n {limit}; "));
        // A gateway that starts although it should not is ended, with exit code 124.
        let script = format!(r#"{}exec timeout 60 "$0" "$@""#, limit.unwrap_or_default());
        let mut asked = Command::new("bash");
        asked
            .args(["-c", &script, program])
            .args(command.split(' '))
            .arg("--config")
            .arg(self.path("citygate.toml"))
            .envs(fault.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        asked.output().unwrap()
    }

    /// Every file and folder with its bytes.
    fn contents(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        fn add(folder: &Path, found: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    add(&path, found);
                }
                found.insert(path.clone(), fs::read(&path).ok());
            }
        }
        let mut found = BTreeMap::new();
        add(self.folder.path(), &mut found);
        found
    }
}

fn set(name: &'static str, value: impl Into<String>) -> Fault {
    Fault {
        settings: vec![(name, value.into())],
        ..Fault::default()
    }
}

fn environment(name: &'static str, value: &str) -> Fault {
    Fault {
        environment: vec![(name, value.to_owned())],
        ..Fault::default()
    }
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8(bytes.to_vec())
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// What `check` calls an error, but for Kafka itself, without which a gateway starts and waits.
fn wrong(output: &Output) -> BTreeSet<String> {
    let said = lines(&output.stdout);
    let wrong = said.iter().filter_map(|line| line.strip_prefix("error    "));
    let wrong = wrong.filter(|line| !line.starts_with(&format!("kafka at {NO_KAFKA} ")));
    wrong.map(str::to_owned).collect()
}

/// Asks both ways, and compares.
fn check(ground: &Ground, fault: &Fault, expected: Expected<'_>) {
    ground.write_config(fault);
    let before = ground.contents();
    let (checked, ran) = (ground.ask("check", fault), ground.ask("run", fault));
    assert!(ground.contents() == before, "a file was changed");
    let (said, code, words) = match expected {
        Expected::Settings(words) => (lines(&checked.stderr).into_iter().collect(), 64, words),
        Expected::Start(words) => (wrong(&checked), 1, words),
    };
    let all = format!(
        "check:\n{}{}run:\n{}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr),
        String::from_utf8_lossy(&ran.stderr)
    );
    assert_eq!(
        (checked.status.code(), ran.status.code()),
        (Some(code), Some(code)),
        "(124: it had not ended after 60 s)\n{all}"
    );
    assert_eq!(said, lines(&ran.stderr).into_iter().collect::<BTreeSet<_>>(), "{all}");
    assert_eq!(said.len(), words.len(), "{all}");
    for expected in words {
        // Three dots stand for what differs from run to run.
        let holds = |line: &String| {
            let mut rest = line.as_str();
            expected.split("...").all(|part| match rest.split_once(part) {
                Some((_, behind)) => {
                    rest = behind;
                    true
                }
                None => false,
            })
        };
        assert!(said.iter().any(holds), "{expected:?} is not in\n{all}");
    }
    for output in [&checked, &ran] {
        for bytes in [&output.stdout, &output.stderr] {
            assert!(
                !String::from_utf8_lossy(bytes).contains(CANARY),
                "a secret is shown:\n{all}"
            );
        }
    }
}

#[test]
fn check_and_run_agree_about_settings() {
    use Expected::Settings;
    let check = |fault: Fault, words: &[&str]| check(&Ground::new(), &fault, Settings(words));
    check(
        set("kafka.lingr", "\"5ms\""),
        &["citygate.toml:...: kafka.lingr: no such setting; did you mean kafka.linger?"],
    );
    check(
        environment("CITYGATE_KAFAK__LINGER", CANARY),
        &["CITYGATE_KAFAK__LINGER: no such setting; did you mean CITYGATE_KAFKA__LINGER?"],
    );
    check(
        set("kafka.properties.\"sasl.pasword\"", format!("{CANARY:?}")),
        &[
            "citygate.toml:...: kafka.properties.\"sasl.pasword\": librdkafka has no such property; did you mean sasl.password?",
        ],
    );
    check(
        set("kafka.properties.\"security.protocol\"", format!("{CANARY:?}")),
        &["citygate.toml:...: kafka.properties.\"security.protocol\": librdkafka does not accept its value: "],
    );
    check(
        set("kafka.properties.\"acks\"", "\"1\""),
        &["citygate.toml:...: kafka.properties.\"acks\": cannot be set here; the promise rests on acks=all"],
    );
    check(
        environment("CITYGATE_KAFKA__PROPERTIES", &format!("sasl.password={CANARY}")),
        &["CITYGATE_KAFKA__PROPERTIES: kafka.properties: must be a table, such as { \"client.id\" = \"north\" }"],
    );
    check(
        set("registry.password_file", "\"missing\""),
        &["citygate.toml:...: registry.password_file: missing cannot be read: No such file...; it must be a text file"],
    );
    check(
        set("registry.url", format!("\"registry:{CANARY}@host\"")),
        &["citygate.toml:...: registry.url: is not an http or https URL, such as \"http://registry:8081\""],
    );
    check(
        set("log.level", "\"verbose\""),
        &[
            "citygate.toml:...: log.level: \"verbose\" is not a level (off, error, warn, info, debug, trace); try \"info\"",
        ],
    );
    check(
        set("drain.deadline", "\"3s\""),
        &["citygate.toml:...: drain.deadline: must be longer than kafka.delivery_timeout"],
    );
    check(
        Fault {
            settings: vec![
                ("mqtt.listen", "\"127.0.0.1:1\"".into()),
                ("http.listen", "\"0.0.0.0:1\"".into()),
                ("http.allow_plaintext", "true".into()),
            ],
            ..Fault::default()
        },
        &[
            "citygate.toml:...: http.listen: 0.0.0.0:1 is also used by mqtt.listen; give each listener a port of its own",
            "citygate.toml:...: http.listen: 0.0.0.0:1 is beyond loopback, and without devices.folder whoever reaches it may send \
             readings of any device; http.allow_anonymous = true says that this is meant",
        ],
    );
}

#[test]
fn check_and_run_agree_about_what_they_find() {
    use Expected::Start;
    let ground = Ground::new;

    let here = ground();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = Fault {
        settings: vec![
            ("mqtt.listen", format!("\"{}\"", tcp.local_addr().unwrap())),
            ("coap.listen", format!("\"{}\"", udp.local_addr().unwrap())),
        ],
        ..Fault::default()
    };
    let words: &[&str] = &[
        "mqtt cannot listen on 127.0.0.1:...: Address already in use...; another process listens there",
        "coap cannot listen on 127.0.0.1:...: Address already in use...; another process listens there",
    ];
    check(&here, &taken, Start(words));

    let here = ground();
    here.schema("broken.avsc", Some("{\n  \"type\": \"record\",,\n}"));
    here.schema("late.avsc", Some("{}"));
    here.schema("number.avsc", Some("\"int\""));
    let words: &[&str] = &[
        "/schemas/broken.avsc:2:20: is not JSON: key must be a string",
        "/schemas/late.avsc: a kind cannot be called late: ... are topics of the gateway's own; rename the file",
        "/schemas/number.avsc: the schema of a kind must be a record",
    ];
    check(&here, &Fault::default(), Start(words));

    let here = ground();
    let clash = set("kafka.dead_letter_topic", "\"city.weather\"");
    let words: &[&str] =
        &["kafka.dead_letter_topic: is ...weather, the topic of the kind .../schemas/weather.avsc; rename one of them"];
    check(&here, &clash, Start(words));

    let here = ground();
    check(
        &here,
        &set("schemas.folder", "\"none\""),
        Start(&["schemas: .../none cannot be read: No such file...; schemas.folder must name"]),
    );

    let here = ground();
    let kinds = set("schemas.kinds", "[\"wether\", \"parking\"]");
    let words: &[&str] = &[
        "schemas.kinds: wether: there is no .../schemas/wether.avsc; did you mean weather?",
        "schemas.kinds: parking: there is no .../schemas/parking.avsc; the folder has energy, weather",
    ];
    check(&here, &kinds, Start(words));

    let here = ground();
    let below = set("spool.folder", "\"missing/spool\"");
    let words: &[&str] = &["spool: cannot create the folder missing/spool: No such file...; its parent must exist"];
    check(&here, &below, Start(words));

    let here = ground();
    let nowhere = Fault {
        settings: vec![
            ("state_dir", "\"missing/state\"".into()),
            ("spool.folder", "\"missing/state/spool\"".into()),
        ],
        ..Fault::default()
    };
    let words: &[&str] = &["state_dir: missing/state cannot be created: No such file...; its parent must exist"];
    check(&here, &nowhere, Start(words));

    let here = ground();
    let file = here.file("file", "mine");
    let in_a_file = Fault {
        settings: vec![
            ("state_dir", file.clone()),
            ("spool.folder", format!("{}/spool\"", file.trim_end_matches('"'))),
        ],
        ..Fault::default()
    };
    let words: &[&str] = &["state_dir: ... cannot be used: not a directory; it must be a directory"];
    check(&here, &in_a_file, Start(words));

    let here = ground();
    let file = here.file("file", "mine");
    let words: &[&str] = &["spool: cannot create the folder ...: File exists...; it must be a folder"];
    check(&here, &set("spool.folder", file), Start(words));

    let here = ground();
    fs::create_dir(here.path("spool")).unwrap();
    here.file("spool/photo.jpg", "mine");
    let words: &[&str] = &["/spool/photo.jpg is not a file of the spool; give the spool a folder of its own"];
    check(&here, &Fault::default(), Start(words));

    let here = ground();
    fs::create_dir(here.path("spool")).unwrap();
    let lock = fs::File::create(here.path("spool/lock")).unwrap();
    lock.lock().unwrap();
    let words: &[&str] = &["/spool/lock is locked by another gateway; two gateways need two folders"];
    check(&here, &Fault::default(), Start(words));

    let here = ground();
    let tls = Fault {
        settings: vec![
            ("kafka.properties.\"security.protocol\"", "\"ssl\"".into()),
            ("kafka.properties.\"ssl.ca.location\"", "\"/none/ca.pem\"".into()),
            ("kafka.properties.\"ssl.key.password\"", format!("{CANARY:?}")),
        ],
        ..Fault::default()
    };
    check(
        &here,
        &tls,
        Start(&["kafka: ...ssl.ca.location...; see kafka.properties"]),
    );

    let here = ground();
    let short = Fault {
        descriptors: Some(70),
        ..Fault::default()
    };
    let words: &[&str] = &["file descriptors: this process may have 70, and needs ... at least; raise the hard limit"];
    check(&here, &short, Start(words));
}

#[test]
fn check_and_run_agree_about_the_registry() {
    use Expected::Start;
    let html = "<!DOCTYPE html>\n<html><body>Welcome to nginx!</body></html>";
    let reasons =
        r#"{"is_compatible": false, "messages": ["READER_FIELD_MISSING_DEFAULT_VALUE at /fields/3", "no default"]}"#;
    let not_a_registry =
        "the answer is not that of a schema registry, ...; registry.url must be the base of its API, with its path";
    let endless = format!(r#"{{"is_compatible": true{}}}"#, " ".repeat(64 * 1024));
    let cases: [(u16, &'static str, &str, String); 7] = [
        (200, JSON, &endless, not_a_registry.replace("...", "HTTP 200: {\"is_compatible\": true")),
        (404, "text/html", html, format!("{not_a_registry}; and no id is kept")),
        (404, JSON, r#"{"error_code": 404, "message": "HTTP 404 Not Found"}"#, not_a_registry.replace("...", "HTTP 404: HTTP 404 Not Found")),
        (200, "text/html", html, not_a_registry.replace("...", "HTTP 200: <!DOCTYPE html> <html>...")),
        (
            200,
            JSON,
            reasons,
            "incompatible with what is registered: READER_FIELD_MISSING_DEFAULT_VALUE at /fields/3; no default; change ...avsc so"
                .to_owned(),
        ),
        (
            401,
            JSON,
            r#"{"error_code": 401, "message": "Unauthorized"}"#,
            "the registry refuses this gateway's login, HTTP 401: Unauthorized; set registry.username".to_owned(),
        ),
        (503, "text/plain", "upstream", "the registry cannot answer now, HTTP 503: upstream; and no id is kept".to_owned()),
    ];
    for (status, content_type, body, words) in cases {
        let here = Ground::new();
        let registry = FakeRegistry::start(always(status, content_type, body));
        let fault = Fault {
            settings: vec![
                ("registry.url", format!("{:?}", registry.url())),
                ("registry.username", "\"citygate\"".into()),
                ("registry.password", format!("{CANARY:?}")),
            ],
            ..Fault::default()
        };
        // An incompatible schema is named in its own line, any other reason once for all.
        let expected: Vec<String> = match body == reasons {
            true => ["energy", "weather"]
                .map(|kind| format!("registry: city.{kind}-value: {words}"))
                .into(),
            false => vec![format!("registry: city.energy-value, city.weather-value: {words}")],
        };
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(&here, &fault, Start(&expected));
        assert_eq!(registry.registrations(), 0, "nothing is registered");
    }
    let here = Ground::new();
    let [closed] = free_ports();
    let url = format!("\"http://citygate:{CANARY}@127.0.0.1:{closed}/ccompat\"");
    let words: &[&str] =
        &["registry: ...: the registry does not answer at http://127.0.0.1:...; and no id is kept from before"];
    check(&here, &set("registry.url", url), Start(words));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let here = Ground::new();
    here.schema("broken.avsc", Some("{"));
    fs::create_dir(here.path("spool")).unwrap();
    here.file("spool/photo.jpg", "mine");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = FakeRegistry::start(always(403, JSON, r#"{"message": "no"}"#));
    let fault = Fault {
        settings: vec![
            ("http.listen", format!("\"{}\"", taken.local_addr().unwrap())),
            ("registry.url", format!("{:?}", registry.url())),
            ("kafka.dead_letter_topic", "\"city.weather\"".into()),
            ("kafka.properties.\"security.protocol\"", "\"ssl\"".into()),
            ("kafka.properties.\"ssl.ca.location\"", "\"/none/ca.pem\"".into()),
        ],
        ..Fault::default()
    };
    let words: &[&str] = &[
        "http cannot listen on",
        "/schemas/broken.avsc:1:1: is not JSON",
        "kafka.dead_letter_topic: is",
        "registry: ...energy-value, ...weather-value: the registry refuses this gateway's login, HTTP 403: no",
        "/spool/photo.jpg is not a file of the spool",
        "kafka: ...ssl.ca.location",
    ];
    check(&here, &fault, Expected::Start(words));
}

#[test]
fn a_check_of_what_is_right_leaves_no_trace() {
    let broker = Broker::mock();
    for topic in ["weather", "energy", "dead-letter"] {
        broker.create_topic(&format!("city.{topic}"), 1);
    }
    let here = Ground::with_kafka(&broker.servers);
    here.schema("notes.txt", Some("notes"));
    here.schema("noise.avsc", Some("{"));
    let registry = FakeRegistry::start(|path| match path.contains("compatibility") {
        true => (
            404,
            JSON,
            r#"{"error_code": 40401, "message": "Subject not found"}"#.to_owned(),
        ),
        false => accepting(path, 7),
    });
    let mut fault = set("registry.url", format!("{:?}", registry.url()));
    fault
        .settings
        .push(("schemas.kinds", "[\"weather\", \"energy\"]".into()));
    here.write_config(&fault);
    let before = here.contents();
    let checked = here.ask("check", &fault);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(here.contents() == before, "a file was changed");
    assert_eq!(registry.registrations(), 0, "nothing is registered");
    for words in [
        "ok       schemas: energy, weather",
        "ok       schemas: ignored, as not in schemas.kinds: noise",
        "ok       schemas: ignored, as not called <kind>.avsc: ",
        "ok       registry: it accepts every schema",
        "/spool will be created",
        "ok       state_dir: /",
        "/state will be created",
        "ok       kafka: every topic exists",
    ] {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
    // The next room on disk is said as well: it is no reason not to start.
    fs::remove_file(here.path("schemas/noise.avsc")).unwrap();
    let full = set("spool.free_bytes_min", "\"1 EiB\"");
    here.write_config(&full);
    let checked = here.ask("check", &full);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(
        said.contains("warning  spool: the file system of ") && said.contains("; make room"),
        "{said}"
    );
}

/// A gateway that starts in the meantime finds them free.
#[test]
fn a_check_holds_no_address_while_the_registry_is_asked() {
    let here = Ground::new();
    let [port] = free_ports();
    let (free, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen_free, seen_asked) = (free.clone(), asked.clone());
    let registry = FakeRegistry::start(move |path| {
        let bound = std::net::TcpListener::bind(("127.0.0.1", port));
        seen_free.fetch_add(usize::from(bound.is_ok()), Ordering::Relaxed);
        seen_asked.fetch_add(1, Ordering::Relaxed);
        accepting(path, 7)
    });
    let fault = Fault {
        settings: vec![
            ("registry.url", format!("{:?}", registry.url())),
            ("http.listen", format!("\"127.0.0.1:{port}\"")),
        ],
        ..Fault::default()
    };
    here.write_config(&fault);
    let checked = here.ask("check", &fault);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(said.contains("ok       registry: "), "{said}");
    assert_eq!(
        (free.load(Ordering::Relaxed), asked.load(Ordering::Relaxed)),
        (2, 2),
        "{said}"
    );
}

/// librdkafka's own account is shown, and no secret with it.
#[test]
fn what_is_logged_for_debugging_holds_no_secret() {
    let here = Ground::new();
    let property = |key: &'static str, value: &str| (key, format!("{value:?}"));
    let login = format!("scope=city {CANARY}");
    let registry = FakeRegistry::start(always(409, JSON, r#"{"message": "no"}"#));
    for mechanism in ["PLAIN", "OAUTHBEARER"] {
        let fault = Fault {
            settings: vec![
                property("log.level", "debug"),
                property("kafka.properties.\"debug\"", "all"),
                property("kafka.properties.\"security.protocol\"", "sasl_plaintext"),
                property("kafka.properties.\"sasl.mechanisms\"", mechanism),
                property("kafka.properties.\"sasl.username\"", "city"),
                property("kafka.properties.\"sasl.password\"", CANARY),
                property("kafka.properties.\"sasl.oauthbearer.config\"", &login),
                property("registry.url", &registry.url()),
                property("registry.token", CANARY),
            ],
            ..Fault::default()
        };
        here.write_config(&fault);
        for command in ["check", "run"] {
            let asked = here.ask(command, &fault);
            let said = [&asked.stdout[..], &asked.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert_eq!(asked.status.code(), Some(1), "{said}");
            assert!(said.contains("librdkafka"), "{said}");
            assert!(!said.contains(CANARY), "a secret is shown:\n{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_does_not_disturb_a_gateway_that_runs() {
    let program = Program::start(&Broker::mock()).await;
    let mut client = program.client(Via::Http).await;
    let mut send = async || {
        let answer = client
            .send("devices/roof/weather", "", br#"{"temperature_c": 21.5}"#)
            .await;
        assert!(answer.is_yes(Via::Http), "{answer:?}");
    };
    send().await;
    let said = program.check();
    let lock = format!(
        "error    spool: {}/lock is locked by another gateway",
        program.spool().display()
    );
    assert!(said.contains(&lock), "{said}");
    for listener in ["mqtt", "coap", "http", "admin"] {
        assert!(
            said.contains(&format!("error    {listener} cannot listen on ")),
            "{said}"
        );
    }
    // What can be looked at beside it is in order.
    let of_files = program.command("check").arg("--files").output().unwrap();
    let said = String::from_utf8(of_files.stdout).unwrap();
    assert!(
        of_files.status.success() && said.contains("ok       schemas: "),
        "{said}"
    );
    assert!(!said.contains("error  ") && !said.contains("kafka: "), "{said}");
    send().await;
    assert_eq!(program.admin("/readyz").await.0, 200);
}

#[test]
fn a_check_of_files_says_what_is_wrong_in_them_and_asks_nobody() {
    let check = |fault: &Fault, broken_schema: Option<&str>, expected: &[&str]| {
        let here = Ground::new();
        if let Some(text) = broken_schema {
            here.schema("energy.avsc", Some(text));
        }
        let mut fault = fault.clone();
        // None of them is there: whoever asked would say so.
        fault.settings.push(("registry.url", "\"http://127.0.0.1:9\"".into()));
        fault
            .settings
            .push(("store.database_url", "\"postgresql://nobody@127.0.0.1:9/city\"".into()));
        here.write_config(&fault);
        let before = here.contents();
        let checked = here.ask("check --files", &fault);
        let said: Vec<_> = lines(&checked.stdout)
            .into_iter()
            .filter(|line| line.starts_with("error"))
            .collect();
        assert_eq!(checked.status.code(), Some(i32::from(!expected.is_empty())), "{said:?}");
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for words in expected {
            assert!(
                said.iter().any(|line| line.contains(words)),
                "{words} is not in {said:?}"
            );
        }
        assert!(here.contents() == before, "a file was changed");
    };
    check(&Fault::default(), None, &[]);
    check(&Fault::default(), Some("{"), &["energy"]);
}
