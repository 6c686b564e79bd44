//! `citygate drain` brings what a killed gateway left in its spool to Kafka, all of it, and says what it could not.
//!
//! The program as its operator runs it: for its exit code, its words, and the lock between it and a gateway.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use crate::harness::program::Program;
use crate::harness::{Broker, Via, broker, chaos, eventually};

const DEVICES: usize = 120;

/// Nothing listens there.
const NO_KAFKA: &str = "127.0.0.1:9";

/// A gateway that was killed while Kafka was unavailable; its spool holds a reading of each device.
async fn killed_with_a_spool(broker: &Broker) -> Program {
    let mut program = Program::start_changed(broker, |config| config.kafka.bootstrap_servers = NO_KAFKA.into());
    eventually("readings are spooled", async || {
        program.try_admin("/readyz").await?.starts_with("ok").then_some(())
    })
    .await;
    let mut client = program.client(Via::Mqtt5).await;
    for device in 0..DEVICES {
        let topic = format!("devices/left-{device}/weather");
        let answer = client.send(&topic, "", br#"{"temperature_c": 21.5}"#).await;
        assert!(answer.is_yes(Via::Mqtt5), "{answer:?}");
    }
    let in_use = drain(&program, broker, &[]).output().unwrap();
    assert_says(&in_use, 1, "is locked by another gateway");
    program.signal("KILL");
    program.ended().await;
    program
}

fn drain(program: &Program, broker: &Broker, arguments: &[&str]) -> Command {
    let mut drain = program.command("drain");
    drain
        .args(arguments)
        .env("CITYGATE_KAFKA__BOOTSTRAP_SERVERS", &broker.servers);
    drain
}

fn assert_says(output: &Output, code: i32, words: &str) {
    let said = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}\ndoes not say {words:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_was_left_behind_is_emptied_into_kafka() {
    let broker = Broker::any();
    let program = killed_with_a_spool(&broker).await;
    let looked = drain(&program, &broker, &["--dry-run"]).output().unwrap();
    assert_says(&looked, 1, "/spool holds 120 readings\n");
    let drained = drain(&program, &broker, &[]).output().unwrap();
    assert_says(&drained, 0, "120 readings were acknowledged by kafka, 0 stay in ");
    let records = broker::read_all(&broker.servers, &format!("{}weather", program.topic_prefix));
    let arrived: BTreeSet<String> = records.into_iter().map(|record| record.key).collect();
    let sent: BTreeSet<String> = (0..DEVICES).map(|device| format!("left-{device}")).collect();
    assert_eq!(arrived, sent);
    let again = drain(&program, &broker, &[]).output().unwrap();
    assert_says(&again, 0, " holds 0 readings; ");
    let looked = drain(&program, &broker, &["--dry-run"]).output().unwrap();
    assert_says(&looked, 0, "/spool holds 0 readings\n");
}

/// Whoever deletes what is empty by these words deletes no reading: what was saved beside the spool is sent as well, and damaged bytes are
/// said.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_is_empty_when_what_was_saved_beside_it_is_sent_as_well_and_damaged_bytes_are_named() {
    let broker = Broker::any();
    let program = killed_with_a_spool(&broker).await;
    let (spool, rescued) = (program.spool(), program.spool().with_file_name("spool.rescued-1"));
    std::fs::rename(&spool, &rescued).unwrap();
    std::fs::create_dir(&spool).unwrap();
    for segment in std::fs::read_dir(&rescued).unwrap().map(Result::unwrap) {
        std::fs::copy(segment.path(), spool.join(segment.file_name())).unwrap();
    }
    let looked = drain(&program, &broker, &["--dry-run"]).output().unwrap();
    assert_says(&looked, 1, "spool.rescued-1 holds 120 readings");
    assert_says(&looked, 1, "/spool holds 120 readings");
    let drained = drain(&program, &broker, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&drained.stdout).into_owned();
    let (first, then) = said.split_once("0 stay in ").unwrap();
    assert!(first.contains("spool.rescued-1 holds 120 readings; "), "{said}");
    assert!(
        then.contains("/spool holds 120 readings; ") && then.contains("0 stay in "),
        "{said}"
    );
    assert_eq!(drained.status.code(), Some(0), "{said}");
    let looked = drain(&program, &broker, &["--dry-run"]).output().unwrap();
    assert_says(&looked, 0, "/spool holds 0 readings");
    std::fs::write(spool.join("0000000001-7.damaged"), "bytes").unwrap();
    let looked = drain(&program, &broker, &["--dry-run"]).output().unwrap();
    assert_says(&looked, 1, "*.damaged hold bytes that could not be read");
    let again = drain(&program, &broker, &[]).output().unwrap();
    assert_says(&again, 0, " holds 0 readings; ");
    assert_says(&again, 0, "*.damaged hold bytes that could not be read");
}

/// Nothing is given up: not when Kafka stays unavailable, not at a signal, and not for a folder that is no spool.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_stays_and_is_said() {
    let broker = Broker::any();
    let program = killed_with_a_spool(&broker).await;
    let without_kafka = |arguments: &[&str]| {
        let mut drain = drain(&program, &broker, arguments);
        drain.env("CITYGATE_KAFKA__BOOTSTRAP_SERVERS", NO_KAFKA);
        drain
    };
    let output = without_kafka(&["--timeout", "1s"]).output().unwrap();
    assert_says(&output, 1, "0 readings were acknowledged by kafka, 120 stay in ");
    assert_says(&output, 1, "nothing was acknowledged for 1s: ");

    let mut running = without_kafka(&[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(running.stdout.take().unwrap()).lines();
    let opened = said.next().unwrap().unwrap();
    assert!(opened.contains(" holds 120 readings; "), "{opened}");
    chaos::signal(running.id(), "TERM");
    let said: String = said.map(Result::unwrap).collect();
    assert!(said.contains("120 stay") && said.contains("ended by SIGTERM"), "{said}");
    assert_eq!(running.wait().unwrap().code(), Some(1));

    let other = program.spool().with_file_name("no-spool");
    let output = drain(&program, &broker, &["--spool", other.to_str().unwrap()])
        .output()
        .unwrap();
    assert_says(
        &output,
        1,
        "no-spool does not exist, or holds no spool; name the folder",
    );
    // A disk that is not mounted is an empty folder.
    std::fs::create_dir(&other).unwrap();
    let output = drain(&program, &broker, &["--spool", other.to_str().unwrap(), "--dry-run"])
        .output()
        .unwrap();
    assert_says(
        &output,
        1,
        "no-spool does not exist, or holds no spool; name the folder",
    );
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0, "it stays empty");
    let output = drain(&program, &broker, &["--spool", program.spool().to_str().unwrap()])
        .output()
        .unwrap();
    assert_says(&output, 0, "120 readings were acknowledged by kafka, 0 stay in ");
}
