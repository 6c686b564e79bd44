//! What a configuration may say, and how its mistakes are told.

use super::*;
use serde::Serialize;
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
        "citygate.toml:5: kafka.compresion: unknown field `compresion`; did you mean `compression`?",
        "citygate.toml:9: http.listen: ",
        "citygate.toml:11: [htpp]: no such section; did you mean http?",
        "CITYGATE_LIMITS_BATCH_READINGS: ",
        "citygate.toml:6: drain.deadline: must be longer than kafka.delivery_timeout",
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
    let text = include_str!("../../../deploy/citygate.toml");
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
    for field in ["url", "username", "password", "password_file", "token", "token_file"] {
        assert!(
            text.contains(&format!("\n# {field} = ")),
            "registry.{field} has no default, but is explained"
        );
    }
}

/// Settings that bound nothing: switches, addresses, names, the sizes of steps, and which times are right.
const NO_LIMITS: &str = "
    mqtt.enabled mqtt.listen
    coap.enabled
    http.enabled http.listen
    admin.enabled admin.listen
    kafka.bootstrap_servers kafka.topic_prefix kafka.dead_letter_topic kafka.create_topics kafka.partitions
    kafka.replication_factor kafka.linger kafka.batch_bytes kafka.batch_readings kafka.compression
    kafka.probe_interval kafka.statistics_interval kafka.properties kafka.properties_files
    spool.enabled spool.folder spool.segment_bytes spool.commit_interval spool.commit_bytes
    replay.try_again
    schemas.folder
    registry.cache_file
    clock.max_ahead clock.max_age
    drain.delay
    log.level log.format
";

#[test]
fn the_page_of_limits_names_every_setting_that_is_one() {
    let page = include_str!("../../../deploy/README.md");
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
        "citygate.toml:3: mqtt.packet_bytes_per_second_min: must be at least 1 B",
        "citygate.toml:5: http.body_bytes_per_second_min: must be at least 1 B",
        "citygate.toml:7: limits.incomplete_bytes: must hold the largest message (http.body_bytes_max, mqtt.packet_bytes_max)",
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
        ("CITYGATE_KAFKA__QUEUE_READINGS", "1000"),
        ("CITYGATE_KAFKA__PROPERTIES__CLIENT_ID", "north"),
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
    assert_eq!(config.kafka.queue_readings, 1000);
    assert_eq!(config.kafka.properties["client.id"].reveal(), "north");
    assert_eq!(config.coap.listen.to_string(), "127.0.0.1:5683, [::1]:5683");
    assert_eq!(config.mqtt.listen.to_string(), "127.0.0.1:1883, [::1]:1883");
    assert_eq!(config.limits.in_flight_bytes, bytesize::ByteSize::mib(128));
}

#[test]
fn variables_that_name_no_setting_are_mistakes() {
    let check = |variable: &str, expected: &str| {
        let mistakes = parse("", &[(variable, "hunter2")]).unwrap_err();
        assert!(mistakes.len() == 1 && mistakes[0].starts_with(expected), "{mistakes:?}");
        assert!(!mistakes[0].contains("hunter2"), "{mistakes:?}");
    };
    check(
        "CITYGATE_KAFAK_LINGER",
        "CITYGATE_KAFAK_LINGER: no such setting; did you mean CITYGATE_KAFKA_LINGER?",
    );
    check(
        "CITYGATE_KAFAK_X",
        "CITYGATE_KAFAK_X: no such setting; a variable is called",
    );
    check(
        "CITYGATE_KAFKA_LINGR",
        "CITYGATE_KAFKA_LINGR: unknown field `lingr`; did you mean `linger`?",
    );
    check(
        "CITYGATE_REGISTRY_PASWORD",
        "CITYGATE_REGISTRY_PASWORD: unknown field `pasword`; did you mean `password`?",
    );
    check("CITYGATE_KAFKA", "CITYGATE_KAFKA: no such setting");
}

#[test]
fn properties_are_merged_key_by_key() {
    let file = "[kafka.properties]\n\"security.protocol\" = \"ssl\"\n\"client.id\" = \"file\"\n";
    let check = |environment: &[(&str, &str)], expected: &[(&str, &str)]| {
        let config = parse(file, environment).unwrap();
        let properties = config.kafka.properties.iter();
        let is: Vec<_> = properties.map(|(key, value)| (key.as_str(), value.reveal())).collect();
        assert_eq!(is, expected, "{environment:?}");
    };
    let (protocol, id) = (("security.protocol", "ssl"), |id| ("client.id", id));
    check(&[], &[id("file"), protocol]);
    check(
        &[("CITYGATE_KAFKA_PROPERTIES", r#"{"client.id": "json"}"#)],
        &[id("json"), protocol],
    );
    check(
        &[("CITYGATE_KAFKA_PROPERTIES", r#"{"client.id" = "toml"}"#)],
        &[id("toml"), protocol],
    );
    check(
        &[("CITYGATE_KAFKA_PROPERTIES__CLIENT_ID", "a,b=c")],
        &[id("a,b=c"), protocol],
    );
    check(
        &[
            (
                "CITYGATE_KAFKA_PROPERTIES",
                r#"{"client.id": "json", "client.rack": "r"}"#,
            ),
            ("CITYGATE_KAFKA_PROPERTIES__CLIENT_ID", "one"),
        ],
        &[id("one"), ("client.rack", "r"), protocol],
    );
}

#[test]
fn secrets_may_be_in_files_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, empty, missing) = (
        write("good", "hunter2\n"),
        write("empty", "\n"),
        folder.path().join("missing"),
    );
    let missing = missing.display();
    let config = parse(
        &format!(
            "[kafka.properties_files]\n\"sasl.password\" = {good:?}\n[registry]\nurl = \"http://r\"\nusername = \"u\"\n\
             password_file = {good:?}"
        ),
        &[("CITYGATE_KAFKA_PROPERTIES_FILES__SSL_KEY_PASSWORD", good.as_str())],
    )
    .unwrap();
    assert_eq!(config.kafka.properties["sasl.password"].reveal(), "hunter2");
    assert_eq!(config.kafka.properties["ssl.key.password"].reveal(), "hunter2");
    assert_eq!(config.registry.password.as_ref().unwrap().reveal(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));

    let check = |text: &str, environment: &[(&str, &str)], expected: &[&str]| {
        let mistakes = parse(text, environment).unwrap_err();
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
        for (mistake, expected) in mistakes.iter().zip(expected) {
            assert!(mistake.starts_with(expected), "{mistake}, expected {expected}");
            assert!(!mistake.contains("hunter2"), "{mistake}");
        }
    };
    check(
        &format!(
            "[kafka.properties_files]\n\"sasl.password\" = \"{missing}\"\n[registry]\nurl = \"http://r\"\n\
             token_file = {empty:?}"
        ),
        &[],
        &[
            &format!(
                "citygate.toml:2: kafka.properties_files.\"sasl.password\": {missing} cannot be read: No such file"
            ),
            &format!("citygate.toml:5: registry.token_file: {empty} is empty; write the secret into it"),
        ],
    );
    check(
        &format!(
            "[kafka.properties]\n\"sasl.password\" = \"hunter2\"\n[kafka.properties_files]\n\"sasl.password\" = {good:?}"
        ),
        &[],
        &[
            "citygate.toml:4: kafka.properties_files.\"sasl.password\": is set by kafka.properties, too; keep one of them",
        ],
    );
    check(
        "[kafka.properties]\n\"sasl.pasword\" = \"hunter2\"",
        &[],
        &[
            "citygate.toml:2: kafka.properties.\"sasl.pasword\": librdkafka has no such property; did you mean sasl.password?",
        ],
    );
    let no_quotes = "citygate.toml:1: kafka.properties: \"sasl.password\": the value must be text; write it in quotes";
    check("[kafka.properties]\n\"sasl.password\" = 92726478422", &[], &[no_quotes]);
    check(
        "[kafka.properties]\n\"sasl.password\" = 92726478422\n\"sasl.username\" = true\n\"debug\" = \"all\"",
        &[],
        &[
            "citygate.toml:1: kafka.properties: \"sasl.password\", \"sasl.username\": the value must be text; write it in quotes",
        ],
    );
    check(
        "[kafka.properties]\n\"sasl.password\" = hunter2",
        &[],
        &["citygate.toml:2: "],
    );
    check(
        "[kafka]\nproperties = \"sasl.password=hunter2\"",
        &[],
        &["citygate.toml:2: kafka.properties: must be a table"],
    );
    check(
        "",
        &[("CITYGATE_KAFKA_PROPERTIES", "sasl.password=hunter2")],
        &["CITYGATE_KAFKA_PROPERTIES: must be a table, such as { \"client.id\" = \"north\" }"],
    );
    check(
        "",
        &[("CITYGATE_KAFKA_PROPERTIES__SASL_PASWORD", "hunter2")],
        &[
            "CITYGATE_KAFKA_PROPERTIES__SASL_PASWORD: kafka.properties.\"sasl.pasword\": librdkafka has no such property",
        ],
    );
    check(
        "[registry]\nurl = \"http//user:hunter2@registry\"",
        &[],
        &["citygate.toml:2: registry.url: is not an http or https URL"],
    );
    check(
        "[registry]\nurl = \"http://:hunter2@registry\"",
        &[],
        &["citygate.toml:2: registry.url: holds a password, but no user; write http://user:password@host"],
    );
    for behind in ["?key=hunter2", "/#hunter2"] {
        check(
            &format!("[registry]\nurl = \"http://registry{behind}\""),
            &[],
            &["citygate.toml:2: registry.url: must be the base of its API, without '?' and '#'"],
        );
    }
    check(
        "[registry]\npassword = \"hunter2\"",
        &[],
        &["citygate.toml:2: registry.password: needs a user name; set registry.username"],
    );
    check(
        "[registry]\nurl = \"http://user:hunter2@registry\"\ntoken = \"hunter2\"",
        &[],
        &["citygate.toml:3: registry.username, registry.token, registry.url: only one of them"],
    );
}

#[test]
fn listeners_have_addresses_of_their_own() {
    let mistakes = parse(
        "[mqtt]\nlisten = \"127.0.0.1:8080\"\n[coap]\nlisten = \"127.0.0.1:8080\"",
        &[],
    )
    .unwrap_err();
    assert_eq!(
        mistakes,
        [
            "citygate.toml:2: http.listen: 127.0.0.1:8080 is also used by mqtt.listen; give each listener a port of its own"
        ]
    );
}
