//! `citygate health` says of a running gateway what its admin port says, in one line and with the exit code of a probe.
//!
//! The program asks the program, as a container's HEALTHCHECK does.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use citygate::operate::config::Config;

use crate::harness::program::Program;
use crate::harness::{Broker, eventually};

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
}
