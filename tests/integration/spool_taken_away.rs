//! Somebody removes, renames or replaces the spool's files under the running gateway: nothing acknowledged is lost.
//!
//! The program as its operator runs it. Kafka does not answer meanwhile, so that the readings are nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::gateway;
use crate::harness::program::Program;
use crate::harness::{Broker, Client, TestGateway, Via, broker, eventually, repository};

/// Kafka answers nobody who asks while the test runs.
const NEVER: Duration = Duration::from_secs(600);

async fn send(client: &mut Client, sequence: u64) -> String {
    let reading = format!(r#"{{"temperature_c": 21.5, "sequence": {sequence}}}"#);
    let answer = client.send("devices/witness/weather", "", reading.as_bytes()).await;
    answer.code
}

/// A program that has spooled so many readings while Kafka does not answer.
async fn spooling(kafka: &Broker, readings: u64) -> (Program, Client) {
    let program = Program::start(kafka).await;
    let mut client = program.client(Via::Http).await;
    kafka.answer_after(NEVER);
    for sequence in 0..readings {
        assert_eq!(send(&mut client, sequence).await, "204");
    }
    (program, client)
}

fn arrived(kafka: &Broker, program: &Program) -> Vec<u64> {
    let schema = gateway::schema(&repository().join("schemas"), "weather");
    let topic = format!("{}weather", program.topic_prefix);
    let records = gateway::decoded(&schema, broker::read_all(&kafka.servers, &topic));
    let numbers = records
        .into_iter()
        .map(|arrived| arrived.reading["sequence"].as_u64().unwrap());
    numbers.collect()
}

/// Sends until it is told no; returns how many were acknowledged in all.
async fn send_until_refused(client: &mut Client, from: u64) -> u64 {
    let mut acknowledged = from;
    while send(client, acknowledged).await == "204" {
        acknowledged += 1;
        assert!(acknowledged < from + 100, "it goes on acknowledging");
    }
    acknowledged
}

async fn check(take_away: fn(&Path), expected: &str) {
    let kafka = Broker::mock();
    let (mut program, mut client) = spooling(&kafka, 30).await;
    take_away(&program.spool());
    let acknowledged = send_until_refused(&mut client, 30).await;
    assert_eq!(acknowledged, 30, "{expected}: the very next group is not acknowledged");
    assert_eq!(program.ended().await.code(), Some(1), "{expected}: {}", program.said());
    let said = program.said();
    for words in [
        "the spool failed",
        expected,
        "was acknowledged is safe in this folder",
        "readings=30",
    ] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
    kafka.answer_after(Duration::ZERO);
    program.start_again().await;
    eventually("what was acknowledged is in Kafka", async || {
        let arrived = arrived(&kafka, &program);
        (0..acknowledged).all(|number| arrived.contains(&number)).then_some(())
    })
    .await;
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0));
}

fn segment_of(folder: &Path) -> PathBuf {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "segment"))
        .collect();
    segments.sort();
    segments.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_folder_is_made_again_with_all_that_was_acknowledged() {
    check(|folder| fs::remove_dir_all(folder).unwrap(), "it was removed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_folder_is_made_again_with_all_that_was_acknowledged() {
    let rename = |folder: &Path| fs::rename(folder, folder.with_file_name("old")).unwrap();
    check(rename, "its folder was removed or renamed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_segment_is_put_back() {
    check(|folder| fs::remove_file(segment_of(folder)).unwrap(), "it was removed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_was_replaced_is_put_back_and_the_other_file_is_kept() {
    let replace = |folder: &Path| {
        let segment = segment_of(folder);
        fs::copy(&segment, folder.with_file_name("backup")).unwrap();
        fs::rename(folder.with_file_name("backup"), segment).unwrap();
    };
    check(replace, "another file stands in its place").await;
}

/// Nobody sends anything: the gateway looks by itself, and at the latest when it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_folder_is_noticed_without_a_reading() {
    let kafka = Broker::mock();
    for signal in [None, Some("TERM")] {
        kafka.answer_after(Duration::ZERO);
        let (mut program, _client) = spooling(&kafka, 5).await;
        fs::remove_dir_all(program.spool()).unwrap();
        signal.into_iter().for_each(|signal| program.signal(signal));
        assert_eq!(program.ended().await.code(), Some(1), "{}", program.said());
        kafka.answer_after(Duration::ZERO);
        program.start_again().await;
        eventually("what was acknowledged is in Kafka", async || {
            let arrived = arrived(&kafka, &program);
            (0..5).all(|number| arrived.contains(&number)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_said_wherever_an_operator_looks() {
    let kafka = Broker::mock();
    let folder = tempfile::tempdir().unwrap();
    let gateway = TestGateway::start(&kafka, |config| {
        config.spool.enabled = true;
        config.spool.folder = folder.path().join("spool");
    })
    .await;
    fs::remove_dir_all(folder.path().join("spool")).unwrap();
    // Nothing has been spooled yet, and Kafka is available: it is noticed all the same.
    let why = eventually("it is not ready", async || {
        let (status, why) = gateway.admin("/readyz").await;
        (status == 503).then_some(why)
    })
    .await;
    let reason = "/spool/cursor: it was removed, or its folder was removed or renamed";
    assert!(why.contains("the spool failed") && why.contains(reason), "{why}");
    assert!(gateway.admin("/status").await.1.contains(reason));
    let metrics = gateway.admin("/metrics").await.1;
    assert!(metrics.contains("citygate_spool_failed 1"), "{metrics}");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_leaves_readings_behind_says_how_many_and_where() {
    let kafka = Broker::mock();
    let (mut program, _client) = spooling(&kafka, 7).await;
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0), "{}", program.said());
    let said = program.said();
    let folder = program.spool();
    for words in ["readings stay in the spool", "readings=7", folder.to_str().unwrap()] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
}
