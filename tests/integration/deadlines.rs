//! No answer waits for ever, whatever hangs: a disk under the spool, Kafka, or the gateway's own drain. Every message
//! is answered *busy* within its deadline, the reason is logged, and all goes on when the disk does. Hanging is made by
//! a preloaded `fsync`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::program::Program;
use crate::harness::{Broker, Client, TEST_TIMEOUT, Via, broker, eventually};

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;

/// An `fsync` that hangs while a file exists, for programs that are started with it preloaded.
const HANGING_FSYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static void hang(void) {
    const char *file = getenv("FSYNC_HANGS_WHILE");
    while (file && access(file, F_OK) == 0) usleep(5000);
}
int fdatasync(int fd) { hang(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
int fsync(int fd) { hang(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
"#;

/// A disk that can be made to hang.
struct SlowDisk {
    folder: TempDir,
}

impl SlowDisk {
    fn new() -> Self {
        let disk = SlowDisk {
            folder: tempfile::tempdir().unwrap(),
        };
        let source = disk.folder.path().join("fsync.c");
        std::fs::write(&source, HANGING_FSYNC).unwrap();
        let compiled = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&disk.library(), &source])
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(compiled.success());
        disk
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("fsync.so")
    }

    fn trigger(&self) -> PathBuf {
        self.folder.path().join("hang")
    }

    fn hang(&self) {
        std::fs::write(self.trigger(), "").unwrap();
    }

    fn go_on(&self) {
        std::fs::remove_file(self.trigger()).unwrap();
    }

    async fn program(&self, broker: &Broker) -> Program {
        let (library, trigger) = (self.library(), self.trigger());
        let environment: [(&str, &Path); 3] = [
            ("LD_PRELOAD", &library),
            ("FSYNC_HANGS_WHILE", &trigger),
            ("CITYGATE_KAFKA__DELIVERY_TIMEOUT", Path::new("5s")),
        ];
        Program::start_with(broker, &environment).await
    }
}

async fn told_busy(via: Via, client: &mut Client) {
    let limit = if via == Via::Mqtt311 {
        Duration::from_secs(1)
    } else {
        TEST_TIMEOUT
    };
    let answer = client.answer(limit).await;
    let code = answer.as_ref().map(|answer| answer.code.as_str());
    match via {
        // 3.1.1 has no word for it: silence, or the connection closes.
        Via::Mqtt311 => assert!(matches!(code, None | Some("closed")), "{answer:?}"),
        Via::Mqtt5 => assert!(matches!(code, Some("0x97" | "DISCONNECT 0x97")), "{answer:?}"),
        Via::Coap => assert_eq!(code, Some("5.03"), "{answer:?}"),
        Via::Http => assert_eq!(code, Some("503"), "{answer:?}"),
    }
    if via != Via::Mqtt311 {
        let text = answer.unwrap().text;
        assert!(text.contains("disk of the spool"), "{via:?}: it says why: {text}");
    }
}

/// Kafka is unavailable, and then the disk under the spool hangs in an fsync: everybody is told busy in time, the reason is
/// said, and all goes on when the disk does.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_hangs_everybody_is_told_busy_in_time_and_all_goes_on_afterwards() {
    let broker = Broker::mock();
    let disk = SlowDisk::new();
    let program = disk.program(&broker).await;
    broker.answer_after(Duration::from_secs(600));
    for via in Via::ALL {
        let answer = program.client(via).await.send("devices/before/weather", "", GOOD).await;
        assert!(answer.is_yes(via), "{via:?}: {answer:?}");
    }
    let mut clients = Vec::new();
    for via in Via::ALL {
        clients.push((via, program.client(via).await));
    }
    disk.hang();
    for (via, client) in &mut clients {
        client.post(&format!("devices/during-{via:?}/weather"), "", GOOD).await;
    }
    let began = Instant::now();
    for (via, client) in clients.iter_mut().rev() {
        told_busy(*via, client).await; // MQTT 3.1.1 last: when all others have been told, its time is over too
    }
    eprintln!("all were told after {:?}", began.elapsed());
    // Those that come now do not wait for the same time-out.
    let asked_at = Instant::now();
    let mut late = program.client(Via::Http).await;
    late.post("devices/late/weather", "", GOOD).await;
    told_busy(Via::Http, &mut late).await;
    assert!(asked_at.elapsed() < Duration::from_secs(4), "{:?}", asked_at.elapsed());
    let (status, why) = program.admin("/readyz").await;
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("disk of the spool"), "{why}");
    assert!(program.admin("/status").await.1.contains("the disk of the spool hangs"));
    assert_eq!(program.scrape().await.sum("citygate_spool_disk_slow", &[]), 1);
    let said = program.said();
    assert_eq!(said.matches("the disk of the spool hangs").count(), 1, "{said}");
    disk.go_on();
    for via in Via::ALL {
        eventually("spooled again", async || {
            let mut client = program.client(via).await;
            client.post(&format!("devices/after-{via:?}/weather"), "", GOOD).await;
            client
                .answer(Duration::from_secs(6))
                .await
                .filter(|answer| answer.is_yes(via))
        })
        .await;
    }
    let in_doubt = program
        .scrape()
        .await
        .sum("citygate_spool_readings_in_doubt_total", &[]);
    assert!(in_doubt >= 4, "{in_doubt} were answered busy and written all the same");
    broker.answer_after(Duration::ZERO);
    eventually("the spool is empty", async || {
        (program.scrape().await.sum("citygate_spool_readings", &[]) == 0).then_some(())
    })
    .await;
    let topic = format!("{}weather", program.topic_prefix);
    let records = broker::read_all(&broker.servers, &topic);
    for device in Via::ALL.map(|via| format!("after-{via:?}")) {
        assert!(
            records.iter().any(|record| record.key == device),
            "{device} is in Kafka"
        );
    }
}

/// A hung disk holds up the end no longer than the drain's deadline allows, and the exit code says that not all is well.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_disk_hangs_still_ends() {
    let broker = Broker::mock();
    let disk = SlowDisk::new();
    let mut program = disk.program(&broker).await;
    broker.answer_after(Duration::from_secs(600));
    let mut client = program.client(Via::Http).await;
    assert!(client.send("devices/before/weather", "", GOOD).await.is_yes(Via::Http));
    disk.hang();
    client.post("devices/during/weather", "", GOOD).await;
    told_busy(Via::Http, &mut client).await;
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(1), "{}", program.said());
    assert!(
        program.said().contains("the disk of the spool hangs"),
        "{}",
        program.said()
    );
}

/// With a spool there is nothing to wait for when Kafka is unavailable.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_program_soon_though_kafka_is_unavailable() {
    let broker = Broker::mock();
    let mut program = Program::start(&broker).await;
    let mut clients = Vec::new();
    for via in Via::ALL {
        let mut client = program.client(via).await;
        assert!(client.send("devices/last/weather", "", GOOD).await.is_yes(via));
        clients.push((via, client));
    }
    broker.answer_after(Duration::from_secs(600));
    for (via, client) in &mut clients {
        for _ in 0..3 {
            let answer = client.send("devices/last/weather", "", GOOD).await;
            assert!(answer.is_yes(*via), "{via:?}: {answer:?}");
        }
    }
    program.scrape().await;
    ends_soon(&mut program).await;
}

/// Tells it to end; how long that took, it says itself: that a process is started and reaped late is not its doing.
async fn ends_soon(program: &mut Program) {
    program.signal("TERM");
    let status = program.ended().await;
    let said = program.said();
    assert_eq!(status.code(), Some(0), "{said}");
    let last = said.lines().find(|line| line.contains("citygate has ended")).unwrap();
    let elapsed = last.split_once("elapsed_s=").unwrap().1;
    let elapsed: f64 = elapsed.split_whitespace().next().unwrap().parse().unwrap();
    eprintln!("ended {elapsed:.3} s after SIGTERM");
    assert!(elapsed <= 0.5, "{said}");
}

/// The same when nothing listens at Kafka's address, from the start.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_program_soon_though_kafka_was_never_there() {
    let broker = Broker::mock();
    let nowhere = [("CITYGATE_KAFKA__BOOTSTRAP_SERVERS", Path::new("127.0.0.1:1"))];
    let mut program = Program::start_with(&broker, &nowhere).await;
    for via in Via::ALL {
        let answer = program.client(via).await.send("devices/last/weather", "", GOOD).await;
        assert!(answer.is_yes(via), "{via:?}: {answer:?}");
    }
    ends_soon(&mut program).await;
}
