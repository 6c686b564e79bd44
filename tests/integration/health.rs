//! `citygate health` says of a running gateway or store what its own port says, in one line and with the exit code of a probe.
//!
//! The program asks the program, as a container's HEALTHCHECK does.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use citygate::operate::config::Config;

use crate::harness::program::Program;
use crate::harness::{Broker, eventually, free_ports};

/// The exit code must be this, and its one line must contain these words.
fn check(asked: &mut Command, code: i32, words: &str) {
    let Output { status, stdout, stderr } = asked.output().unwrap();
    let (said, errors) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(
        (status.code(), said.lines().count()),
        (Some(code), 1),
        "{asked:?}: {said}{errors}"
    );
    assert!(said.contains(words), "{said:?} does not say {words:?}");
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_is_healthy_and_one_that_hangs_or_has_ended_is_not() {
    let mut program = Program::start(&Broker::any()).await;
    check(&mut program.command("health"), 0, "ok");
    check(program.command("health").arg("--ready"), 0, "ok");
    program.signal("STOP");
    let asked_at = Instant::now();
    check(program.command("health").args(["--timeout", "500ms"]), 1, "not in time");
    assert!(asked_at.elapsed() < Duration::from_secs(10), "{:?}", asked_at.elapsed());
    program.signal("CONT");
    // By the environment alone, as in a container.
    let mut by_environment = Command::new(env!("CARGO_BIN_EXE_citygate"));
    let admin = program.addresses.admin.unwrap().to_string();
    check(
        by_environment.arg("health").env("CITYGATE_ADMIN__LISTEN", admin),
        0,
        "ok",
    );
    program.signal("TERM");
    assert!(program.ended().await.success());
    check(&mut program.command("health"), 1, "Connection refused");
}

/// It runs, and accepts nothing: with the operator's token the probe learns why.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_accepts_nothing_is_alive_and_not_ready_and_it_says_why() {
    let unavailable = |config: &mut Config| {
        config.kafka.bootstrap_servers = "127.0.0.1:9".into();
        config.spool.enabled = false;
        config.admin.token = Some(serde_json::from_value("0123456789abcdef".into()).unwrap());
        config.admin.listen = at(config.admin.listen[0].port()).into();
        config.admin.allow_plaintext = true;
    };
    let program = Program::start_changed(&Broker::mock(), unavailable);
    eventually("it says why", async || {
        let said = program.command("health").arg("--ready").output().unwrap();
        String::from_utf8_lossy(&said.stdout)
            .contains("answers 503: kafka")
            .then_some(())
    })
    .await;
    check(&mut program.command("health"), 0, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_said() {
    let ask = |name: &str, value: &str| {
        let mut asked = Command::new(env!("CARGO_BIN_EXE_citygate"));
        asked.arg("health").env(name, value);
        asked
    };
    check(
        &mut ask("CITYGATE_ADMIN__ENABLED", "false"),
        1,
        "admin.enabled is false",
    );
    check(
        &mut ask("CITYGATE_ADMIN__LISTEN", "127.0.0.1:0"),
        1,
        "admin.listen is 127.0.0.1:0",
    );
    check(
        ask("CITYGATE_STORE__LISTEN", "127.0.0.1:0").arg("--store"),
        1,
        "store.listen is 127.0.0.1:0",
    );
}

/// A store listens elsewhere. It runs without Kafka and PostgreSQL, and is not ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_asked_by_a_flag_or_by_the_environment() {
    let [port] = free_ports();
    let program = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_citygate"));
        program.envs([
            ("CITYGATE_STORE__LISTEN", format!("127.0.0.1:{port}").as_str()),
            ("CITYGATE_STORE__DATABASE_URL", "postgresql://city@127.0.0.1:9/city"),
            ("CITYGATE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9"),
        ]);
        program
    };
    let mut store = program().arg("store").stderr(Stdio::null()).spawn().unwrap();
    eventually("it runs", async || {
        let asked = program().args(["health", "--store"]).output().unwrap();
        asked.status.success().then_some(())
    })
    .await;
    check(program().arg("health").env("CITYGATE_HEALTH_STORE", "true"), 0, "ok");
    check(
        program().args(["health", "--store", "--ready"]),
        1,
        "answers 503: start",
    );
    store.kill().unwrap();
    store.wait().unwrap();
    check(program().args(["health", "--store"]), 1, "Connection refused");
}

#[test]
fn a_store_without_a_database_says_what_to_set_and_ends() {
    let check = |url: Option<&str>, words: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_citygate"));
        program
            .arg("store")
            .envs(url.map(|url| ("CITYGATE_STORE__DATABASE_URL", url)));
        let Output { status, stderr, .. } = program.output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(64), "{said}");
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    };
    check(None, "store.database_url is not set");
    check(
        Some("mysql://city@localhost/city"),
        "store.database_url, store.database_url_file",
    );
}
