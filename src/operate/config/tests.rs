//! What a configuration accepts, and how its mistakes are reported: all at once, each with its place and what is
//! expected. The example file `deploy/citygate.toml`, the pages of `deploy/` and the schema of the chart are checked against
//! the settings that exist.

use super::*;
use std::collections::HashSet;
use std::time::Duration;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let environment = environment
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()));
    Config::parse("citygate.toml", text, environment)
        .map_err(|mistakes| mistakes.to_string().lines().map(str::to_owned).collect())
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
    let mistakes = parse(text, &[("CITYGATE_LIMITS__BATCH_READINGS", "many")]).unwrap_err();
    let expected = [
        "citygate.toml:3: kafka.bootstrap_servers: ",
        "citygate.toml:4: kafka.linger: ",
        "citygate.toml:5: kafka.compresion: no such setting; did you mean kafka.compression?",
        "citygate.toml:9: http.listen: ",
        "citygate.toml:11: [htpp]: no such table; did you mean [http]?",
        "CITYGATE_LIMITS__BATCH_READINGS: ",
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

/// The tables as text, to compare and to list their fields.
fn tables(config: &Config) -> toml::Table {
    toml::Table::try_from(config).unwrap()
}

#[test]
fn the_example_file_explains_every_setting_with_its_default() {
    let text = include_str!("../../../deploy/citygate.toml");
    let defaults = tables(&Config::default());
    assert_eq!(tables(&parse(text, &[]).unwrap()), defaults);
    let written: toml::Table = toml::from_str(text).unwrap();
    for (name, table) in &defaults {
        assert!(written.get(name).is_some(), "{name} is not in deploy/citygate.toml");
        for field in table.as_table().into_iter().flatten().map(|(field, _)| field) {
            let explained = match (name.as_str(), field.as_str()) {
                // Its default is in state_dir.
                ("spool", "folder") => text.contains("\n# folder = "),
                _ => written[name].get(field).is_some(),
            };
            assert!(explained, "{name}.{field} is not in deploy/citygate.toml");
        }
    }
    for field in ["url", "username", "password", "password_file", "token", "token_file"] {
        assert!(
            text.contains(&format!("\n# {field} = ")),
            "registry.{field} has no default, but is explained"
        );
    }
}

/// A setting is refused by the chart where its name is wrong, not only by the gateway that would start with it.
#[test]
fn the_chart_knows_the_names_of_all_settings() {
    fn compare(schema: &serde_json::Value, path: &[String]) {
        let names: HashSet<String> = ask::names::<Config>(path).into_iter().collect();
        // What the chart sets itself is refused as a whole; of a table of any names every one is right.
        if names.is_empty() || schema == false {
            return;
        }
        assert_eq!(schema["additionalProperties"], false, "{path:?}");
        let properties = schema["properties"].as_object().unwrap();
        let known: HashSet<String> = properties.keys().cloned().collect();
        // state_dir and the admin port are the chart's.
        let missing: Vec<_> = names
            .difference(&known)
            .filter(|name| *name != "state_dir" && *name != "admin")
            .collect();
        assert!(
            missing.is_empty(),
            "values.schema.json has no {missing:?} in settings {path:?}"
        );
        for (name, inner) in properties {
            assert!(
                names.contains(name),
                "values.schema.json: {path:?} {name} does not exist"
            );
            compare(inner, &[path, std::slice::from_ref(name)].concat());
        }
    }
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../deploy/helm/citygate/values.schema.json")).unwrap();
    compare(&schema["properties"]["settings"], &[]);
}

/// Settings that bound nothing: switches, addresses, names, the sizes of steps, and which times are right.
const NO_LIMITS: &str = "
    state_dir
    mqtt.enabled mqtt.listen
    coap.enabled
    http.enabled http.listen
    mqtt.allow_anonymous mqtt.allow_plaintext coap.allow_anonymous coap.allow_plaintext coap.key_in_query
    http.allow_anonymous http.allow_plaintext admin.allow_anonymous admin.allow_plaintext
    mqtt.tls http.tls admin.tls
    admin.enabled admin.listen
    kafka.bootstrap_servers kafka.topic_prefix kafka.dead_letter_topic kafka.create_topics kafka.partitions
    kafka.replication_factor kafka.linger kafka.batch_bytes kafka.batch_readings kafka.compression
    kafka.probe_interval kafka.statistics_interval kafka.properties kafka.properties_files
    spool.enabled spool.folder spool.segment_bytes spool.commit_interval spool.commit_bytes
    replay.retry_interval
    schemas.folder schemas.kinds
    clock.max_ahead clock.max_age
    drain.delay
    log.level log.format
    store.listen store.allow_anonymous store.group store.session_timeout store.batch_readings store.batch_interval store.retention
    store.late_after store.sql_folder store.alertmanager_urls
";

/// What is not set unless somebody sets it.
const WITHOUT_DEFAULT: [(&str, &str); 7] = [
    ("devices", "folder"),
    ("admin", "token"),
    ("admin", "metrics_token"),
    ("kafka", "topics_file"),
    ("store", "database_url"),
    ("store", "instance"),
    ("store", "alertmanager_urls_file"),
];

#[test]
fn the_page_of_limits_names_every_setting_that_is_one() {
    // Each by itself: an odd number of marks must not change what is a name in the next one.
    let pages = [
        include_str!("../../../deploy/LIMITS.md"),
        include_str!("../../../deploy/SPOOL.md"),
        include_str!("../../../deploy/MESSAGES.md"),
        include_str!("../../../deploy/README.md"),
        include_str!("../../../deploy/ACCESS.md"),
        include_str!("../../../deploy/STORE.md"),
    ];
    let names = |page: &'static str| page.split('`').skip(1).step_by(2);
    let named: Vec<_> = pages.into_iter().flat_map(names).collect();
    // Every other setting is a limit.
    let no_limits: HashSet<&str> = NO_LIMITS.split_whitespace().collect();
    let defaults = tables(&Config::default());
    let mut known = HashSet::new();
    for (table, fields) in &defaults {
        let fields = match fields.as_table() {
            Some(fields) => fields.keys().map(|field| format!("{table}.{field}")).collect(),
            None => vec![table.clone()],
        };
        for name in fields {
            let is_there = named.contains(&name.as_str()) || no_limits.contains(name.as_str());
            assert!(is_there, "{name} is on no page of deploy/");
            known.insert(name);
        }
    }
    for name in no_limits {
        assert!(known.contains(name), "{name} does not exist");
    }
    for (table, field) in named.iter().filter_map(|name| name.split_once('.')) {
        let has_default = defaults.get(table).is_none_or(|table| table.get(field).is_some());
        let known = has_default || WITHOUT_DEFAULT.contains(&(table, field));
        assert!(known, "a page of deploy/ names {table}.{field}, which does not exist");
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
        ("CITYGATE_KAFKA__BOOTSTRAP_SERVERS", "kafka-1:9092,kafka-2:9092"),
        ("CITYGATE_KAFKA__CREATE_TOPICS", "true"),
        ("CITYGATE_KAFKA__LINGER", "20ms"),
        ("CITYGATE_KAFKA__QUEUE_READINGS", "1000"),
        ("CITYGATE_KAFKA__PROPERTIES__CLIENT_ID", "north"),
        ("CITYGATE_LIMITS__IN_FLIGHT_BYTES", "128 MiB"),
        ("CITYGATE_COAP__LISTEN", "127.0.0.1:5683,[::1]:5683"),
        ("CITYGATE_MQTT__LISTEN", "[\"127.0.0.1:1883\", \"[::1]:1883\"]"),
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
        "CITYGATE_KAFAK__LINGER",
        "CITYGATE_KAFAK__LINGER: no such setting; did you mean CITYGATE_KAFKA__LINGER?",
    );
    check(
        "CITYGATE_KAFAK__X",
        "CITYGATE_KAFAK__X: no such setting; a setting is called CITYGATE_<TABLE>__<FIELD>",
    );
    check(
        "CITYGATE_KAFKA__LINGR",
        "CITYGATE_KAFKA__LINGR: no such setting; did you mean CITYGATE_KAFKA__LINGER?",
    );
    check(
        "CITYGATE_REGISTRY__PASWORD",
        "CITYGATE_REGISTRY__PASWORD: no such setting; did you mean CITYGATE_REGISTRY__PASSWORD?",
    );
    check(
        "CITYGATE_KAFKA__LINGER__X",
        "CITYGATE_KAFKA__LINGER__X: no such setting",
    );
    check("CITYGATE_KAFKA__", "CITYGATE_KAFKA__: no such setting");
}

#[test]
fn variables_that_may_be_of_others_are_warnings() {
    let check = |variable: &str, value: &str, expected: &[&str]| {
        let warnings = parse("", &[(variable, value)]).unwrap().warnings;
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, expected);
    };
    check(
        "CITYGATE_KAFKA_LINGER",
        "hunter2",
        &["CITYGATE_KAFKA_LINGER: is not a setting and has no effect; did you mean CITYGATE_KAFKA__LINGER?"],
    );
    check(
        "CITYGATE_STATEDIR",
        "hunter2",
        &["CITYGATE_STATEDIR: is not a setting and has no effect; did you mean CITYGATE_STATE_DIR?"],
    );
    check(
        "CITYGATE_COLOUR",
        "hunter2",
        &["CITYGATE_COLOUR: is not a setting and has no effect"],
    );
    check(
        "CITYGATE_KAFKA",
        "hunter2",
        &["CITYGATE_KAFKA: is not a setting and has no effect"],
    );
    check("CITYGATE_STATE_DIR", "/var/lib/citygate", &[]);
    check("CITYGATE_PORT_1883_TCP_ADDR", "10.0.0.1", &[]);
    check("CITYGATE_SERVICE_HOST", "10.0.0.1", &[]);
}

#[test]
fn the_state_dir_holds_spool_and_schema_ids() {
    let check = |text: &str, environment: &[(&str, &str)], spool: &str, ids: &str| {
        let config = parse(text, environment).unwrap();
        assert_eq!(config.spool.folder, Path::new(spool));
        assert_eq!(config.registry.cache_file.as_deref(), Some(Path::new(ids)));
    };
    check("", &[], "citygate-state/spool", "citygate-state/schema-ids.json");
    check("state_dir = \"/s\"", &[], "/s/spool", "/s/schema-ids.json");
    check("", &[("CITYGATE_STATE_DIR", "/e")], "/e/spool", "/e/schema-ids.json");
    let other_disk = "state_dir = \"/s\"\nspool.folder = \"/mnt/spool\"";
    check(other_disk, &[], "/mnt/spool", "/s/schema-ids.json");
    assert_eq!(
        parse("\nstate_dir = \"\"", &[]).unwrap_err()[0],
        "citygate.toml:2: state_dir: is empty"
    );
}

/// As a listener's table may be one day.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Nested {
    mqtt: NestedMqtt,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NestedMqtt {
    listen: String,
    tls: NestedTls,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NestedTls {
    certificate: String,
    handshakes_max: u16,
}

#[test]
fn tables_nest() {
    let variables = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        pairs.into_iter()
    };
    let text = "[mqtt]\nlisten = \"a\"\n[mqtt.tls]\ncertificate = \"file\"\nhandshakes_max = 1\n";
    let read = parse::read::<Nested>("f", text, variables(&[("CITYGATE_MQTT__TLS__CERTIFICATE", "variable")]));
    assert_eq!(read.mistakes.to_string(), "");
    let tls = NestedTls {
        certificate: "variable".into(),
        handshakes_max: 1,
    };
    assert_eq!((read.value.mqtt.listen.as_str(), read.value.mqtt.tls), ("a", tls));

    let text = "[mqtt.tls]\ncertificat = \"x\"\nhandshakes_max = 70000\n[mqtt.tsl]\n[mqtt.tls.x]\n";
    let read = parse::read::<Nested>("f", text, variables(&[("CITYGATE_MQTT__TLS__CERTIFICAT", "x")]));
    let expected = [
        "f:2: mqtt.tls.certificat: no such setting; did you mean mqtt.tls.certificate?",
        "f:3: mqtt.tls.handshakes_max: must be a whole number of at most 65535, and not negative",
        "f:4: [mqtt.tsl]: no such table; did you mean [mqtt.tls]?",
        "f:5: [mqtt.tls.x]: no such table",
        "CITYGATE_MQTT__TLS__CERTIFICAT: no such setting; did you mean CITYGATE_MQTT__TLS__CERTIFICATE?",
    ];
    let mut found: Vec<_> = read.mistakes.0.iter().map(ToString::to_string).collect();
    found.sort_by_key(|mistake| expected.iter().position(|expected| expected == mistake));
    assert_eq!(found, expected);
}

#[test]
fn what_a_setting_expects_is_said_in_words() {
    let check = |text: &str, expected: &str| {
        assert_eq!(parse(text, &[]).unwrap_err(), [format!("citygate.toml:1: {expected}")])
    };
    let duration = "is not a duration; write one such as \"5s\" or \"250ms\"";
    check("kafka.linger = \"soon\"", &format!("kafka.linger: \"soon\" {duration}"));
    check("kafka.linger = 5", &format!("kafka.linger: 5 {duration}"));
    check("kafka.linger = \"-5s\"", &format!("kafka.linger: \"-5s\" {duration}"));
    check(
        "clock.max_age = \"long\"",
        &format!("clock.max_age: \"long\" {duration}, or \"unlimited\""),
    );
    let size = "is not a size; write one such as \"64 MiB\" or \"512 B\"";
    check(
        "spool.bytes_max = \"much\"",
        &format!("spool.bytes_max: \"much\" {size}"),
    );
    check("spool.bytes_max = 1.5", &format!("spool.bytes_max: 1.5 {size}"));
    check(
        "kafka.bootstrap_servers = 9092",
        "kafka.bootstrap_servers: must be text; write it in quotes",
    );
    check("mqtt.enabled = \"yes\"", "mqtt.enabled: must be true or false");
    check(
        "mqtt.receive_maximum = 70000",
        "mqtt.receive_maximum: must be a whole number of at most 65535, and not negative",
    );
    check(
        "mqtt.connections_max = -1",
        "mqtt.connections_max: must be a whole number, and not negative",
    );
    check(
        "kafka.partitions = \"three\"",
        "kafka.partitions: must be a whole number of at most 2147483647",
    );
    check(
        "coap.ack_random_factor = \"x\"",
        "coap.ack_random_factor: must be a number",
    );
    check(
        "kafka.compression = \"zip\"",
        "kafka.compression: expected one of \"none\", \"gzip\", \"snappy\", \"lz4\", \"zstd\"",
    );
    check(
        "mqtt.listen = 1883",
        "mqtt.listen: expected an address with a port, or a list of them",
    );
    check("mqtt = 1883", "mqtt: must be a table; write [mqtt]");
    check("colour = 1", "colour: no such setting");
    let quotes = "a name with dots must be in quotes";
    check(
        "kafka.properties.security.protocol = \"ssl\"",
        &format!("kafka.properties.\"security\": {quotes}: \"security.protocol\" = …"),
    );
    check(
        "kafka.properties_files.ssl.key.password = \"/k\"",
        &format!("kafka.properties_files.\"ssl\": {quotes}: \"ssl.key.password\" = …"),
    );
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
        &[("CITYGATE_KAFKA__PROPERTIES", r#"{"client.id": "json"}"#)],
        &[id("json"), protocol],
    );
    check(
        &[("CITYGATE_KAFKA__PROPERTIES", r#"{"client.id" = "toml"}"#)],
        &[id("toml"), protocol],
    );
    check(
        &[("CITYGATE_KAFKA__PROPERTIES__CLIENT_ID", "a,b=c")],
        &[id("a,b=c"), protocol],
    );
    check(
        &[
            (
                "CITYGATE_KAFKA__PROPERTIES",
                r#"{"client.id": "json", "client.rack": "r"}"#,
            ),
            ("CITYGATE_KAFKA__PROPERTIES__CLIENT_ID", "one"),
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
        &[("CITYGATE_KAFKA__PROPERTIES_FILES__SSL_KEY_PASSWORD", good.as_str())],
    )
    .unwrap();
    assert_eq!(config.kafka.properties["sasl.password"].reveal(), "hunter2");
    assert_eq!(config.kafka.properties["ssl.key.password"].reveal(), "hunter2");
    assert_eq!(config.registry.password.as_ref().unwrap().reveal(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    let token = write("token", "hunter2-hunter2-hunter2\n");
    let config = parse(
        "[admin]\ntoken = \"hunter2-hunter2-hunter3\"",
        &[("CITYGATE_ADMIN__METRICS_TOKEN_FILE", token.as_str())],
    )
    .unwrap();
    assert_eq!(config.admin.token.as_ref().unwrap().reveal(), "hunter2-hunter2-hunter3");
    assert_eq!(
        config.admin.metrics_token.as_ref().unwrap().reveal(),
        "hunter2-hunter2-hunter2"
    );
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
    let too_short = "must have at least 16 letters";
    check(
        &format!("[admin]\ntoken_file = {good:?}"),
        &[("CITYGATE_ADMIN__METRICS_TOKEN", "hunter2 hunter2 hunter2")],
        &[
            &format!("citygate.toml:2: admin.token, admin.token_file: {too_short}"),
            &format!("CITYGATE_ADMIN__METRICS_TOKEN: admin.metrics_token, admin.metrics_token_file: {too_short}"),
        ],
    );
    check(
        &format!("[admin]\ntoken = \"hunter2-hunter2-hunter2\"\ntoken_file = {good:?}"),
        &[],
        &["citygate.toml:3: admin.token_file: admin.token is set, too; keep one of them"],
    );
    check(
        "[admin]\nmetrics_token = \"hunter2-hunter2-hunter2\"",
        &[],
        &["citygate.toml:2: admin.metrics_token: has no effect without admin.token"],
    );
    check(
        "[kafka.properties]\n\"sasl.pasword\" = \"hunter2\"",
        &[],
        &[
            "citygate.toml:2: kafka.properties.\"sasl.pasword\": librdkafka has no such property; did you mean sasl.password?",
        ],
    );
    let no_quotes = "citygate.toml:2: kafka.properties.\"sasl.password\": the value must be text; write it in quotes";
    check("[kafka.properties]\n\"sasl.password\" = 92726478422", &[], &[no_quotes]);
    check(
        "[kafka.properties]\n\"sasl.password\" = 92726478422\n\"sasl.username\" = true\n\"debug\" = \"all\"",
        &[],
        &[
            no_quotes,
            "citygate.toml:3: kafka.properties.\"sasl.username\": the value must be text; write it in quotes",
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
        &[("CITYGATE_KAFKA__PROPERTIES", "sasl.password=hunter2")],
        &["CITYGATE_KAFKA__PROPERTIES: kafka.properties: must be a table, such as { \"client.id\" = \"north\" }"],
    );
    check(
        "",
        &[("CITYGATE_KAFKA__PROPERTIES__SASL_PASWORD", "hunter2")],
        &[
            "CITYGATE_KAFKA__PROPERTIES__SASL_PASWORD: kafka.properties.\"sasl.pasword\": librdkafka has no such property",
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

#[test]
fn a_text_from_the_environment_is_what_it_says() {
    let secret = |value: &str| {
        let environment = [
            ("CITYGATE_REGISTRY__URL", "http://registry:8081"),
            ("CITYGATE_REGISTRY__USERNAME", "gateway"),
            ("CITYGATE_REGISTRY__PASSWORD", value),
        ];
        let config = parse("", &environment).unwrap();
        assert_eq!(config.registry.password.unwrap().reveal(), value);
    };
    secret("abc");
    secret("\"abc\"");
    secret("'abc'");
    secret("\"\"\"abc\"\"\"");
    secret("5");
    secret("{\"a\": 1}");
    // Where a text must be a duration, it may be one in TOML's quotes.
    let config = parse("", &[("CITYGATE_KAFKA__LINGER", "\"20ms\"")]).unwrap();
    assert_eq!(config.kafka.linger, Duration::from_millis(20));
}

#[test]
fn a_login_that_cannot_be_used_is_a_mistake() {
    let check = |text: &str, environment: &[(&str, &str)], expected: &[&str]| {
        let mistakes = parse(text, environment).unwrap_err();
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
        for (mistake, expected) in mistakes.iter().zip(expected) {
            assert!(mistake.starts_with(expected), "{mistake}, expected {expected}");
            assert!(!mistake.contains("hunter2"), "{mistake}");
        }
    };
    let url = "registry.url = \"http://registry:8081\"\n";
    let no_url = "registry.username, registry.token: there is no registry to log in to; set registry.url";
    check(
        "registry.token = \"hunter2\"",
        &[],
        &[&format!("citygate.toml:1: {no_url}")],
    );
    check(
        "registry.username = \"gateway\"\nregistry.password = \"hunter2\"",
        &[],
        &[&format!("citygate.toml:1: {no_url}")],
    );
    let empty = |name: &str| {
        format!(
            "CITYGATE_REGISTRY__{name}: registry.{}: is empty",
            name.to_ascii_lowercase()
        )
    };
    let user = format!("{url}registry.username = \"gateway\"");
    check(&user, &[("CITYGATE_REGISTRY__PASSWORD", "")], &[&empty("PASSWORD")]);
    check(url, &[("CITYGATE_REGISTRY__TOKEN", "")], &[&empty("TOKEN")]);
    check(url, &[("CITYGATE_REGISTRY__USERNAME", "")], &[&empty("USERNAME")]);
    for token in ["hunter2\nx", "hunter2\r", "hunter2\u{7f}"] {
        let expected = "CITYGATE_REGISTRY__TOKEN: registry.token: holds a line break or another control character";
        check(url, &[("CITYGATE_REGISTRY__TOKEN", token)], &[expected]);
    }
}

#[test]
fn a_mistake_brings_no_second_one() {
    let check = |text: &str, expected: &str| {
        let mistakes = parse(text, &[]).unwrap_err();
        assert!(
            mistakes.len() == 1 && mistakes[0].starts_with(expected),
            "{mistakes:#?}"
        );
    };
    let table = "[registry]\nurl = \"http://registry:8081\"\n";
    // Neither is a password without a user, nor a user without a registry.
    check(
        &format!("{table}username = 5\npassword = \"x\""),
        "citygate.toml:3: registry.username: must be text",
    );
    check(
        "[registry]\nurl = 5\nusername = \"u\"\npassword = \"x\"",
        "citygate.toml:2: registry.url: ",
    );
    check(
        &format!("{table}username = \"u\"\npassword = \"x\\q\""),
        "citygate.toml:4: ",
    );
    check(
        &format!("{table}username = \"u\"\npassword = hunter2"),
        "citygate.toml:4: ",
    );
    check(&format!("{table}username = \"u\npassword = \"x\""), "citygate.toml:3: ");
}

#[test]
fn keys_in_the_query_of_coap_are_those_of_devices() {
    let mistakes = parse("coap.key_in_query = true", &[]).unwrap_err().join("\n");
    assert!(
        mistakes.contains("coap.key_in_query: needs devices.folder"),
        "{mistakes}"
    );
    parse("coap.key_in_query = true\ndevices.folder = \"devices\"", &[]).unwrap();
}

#[test]
fn beyond_loopback_what_is_open_must_be_meant() {
    let check = |text: &str, expected: &[&str]| {
        let config: Config = toml::from_str(text).unwrap();
        let found = exposure::mistakes(&config.exposed());
        let found: Vec<_> = found.0.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (mistake, words) in found.iter().zip(expected) {
            assert!(mistake.contains(words), "{text}: {mistake}, expected {words}");
        }
    };
    check("", &[]);
    for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        check(&format!("mqtt.listen = {loopback:?}"), &[]);
    }
    for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fd00::1]:1"] {
        let both = ["without TLS", "without devices.folder"];
        check(&format!("mqtt.listen = {open:?}"), &both);
    }
    check(
        r#"mqtt.listen = ["127.0.0.1:1", "10.0.0.1:1"]"#,
        &["mqtt.listen: 10.0.0.1:1 is", "whoever reaches it"],
    );
    check("mqtt = {listen = \"10.0.0.1:1\", enabled = false}", &[]);
    check(
        "mqtt = {listen = \"10.0.0.1:1\", allow_plaintext = true}",
        &["mqtt.allow_anonymous = true says"],
    );
    check(
        "mqtt = {listen = \"10.0.0.1:1\", allow_anonymous = true}",
        &["mqtt.allow_plaintext = true says"],
    );
    check(
        "mqtt = {listen = \"10.0.0.1:1\", allow_anonymous = true, allow_plaintext = true}",
        &[],
    );
    // With identities senders prove who they are, or are refused.
    let known = "devices.folder = \"devices\"\n";
    check(
        &format!("{known}http = {{listen = \"10.0.0.1:1\", allow_plaintext = true}}"),
        &[],
    );
    check(
        &format!("{known}coap = {{listen = \"10.0.0.1:1\", allow_plaintext = true}}"),
        &[],
    );
    check(
        &format!("{known}coap = {{listen = \"10.0.0.1:1\", key_in_query = true}}"),
        &["coap.listen: 10.0.0.1:1 is beyond loopback, without TLS; coap.allow_plaintext = true says"],
    );
    let tls = "tls = {listen = \"10.0.0.1:2\"}";
    check(&format!("{known}mqtt = {{{tls}}}"), &[]);
    check(
        &format!("mqtt = {{{tls}}}"),
        &["mqtt.tls.listen: 10.0.0.1:2 is beyond loopback, and without devices.folder"],
    );
    let admin = "admin = {listen = \"10.0.0.1:1\", allow_plaintext = true}";
    check(
        &format!("{known}{admin}"),
        &["admin.listen: 10.0.0.1:1 is beyond loopback, and without admin.token or client certificates"],
    );
    let at = |table: &str, rest: &str| format!("[admin{table}]\nlisten = \"10.0.0.1:1\"\n{rest}");
    let token = "token = \"0123456789abcdef\"\n";
    check(&at("", &format!("{token}allow_plaintext = true")), &[]);
    check(
        &at("", token),
        &["admin.listen: 10.0.0.1:1 is beyond loopback, without TLS"],
    );
    check(&at("", "allow_plaintext = true\nallow_anonymous = true"), &[]);
    check(
        &at(".tls", ""),
        &["admin.tls.listen: 10.0.0.1:1 is beyond loopback, and without admin.token"],
    );
    check(&format!("[admin]\n{token}{}", at(".tls", "")), &[]);
    for how in ["optional", "required"] {
        check(&at(".tls", &format!("client_certificates = \"{how}\"")), &[]);
    }
    // A scraper's token alone leaves everything else open.
    let scraper = "[admin]\nmetrics_token = \"0123456789abcdef\"\n";
    check(
        &format!("{scraper}{}", at(".tls", "")),
        &["admin.tls.listen: 10.0.0.1:1"],
    );
}
