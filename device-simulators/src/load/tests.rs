//! The load generator against a sink in the same process: what one counts is what the other counted. Latency is
//! measured from when a message was due, so that a stalled server cannot look fast. Failures end a run in words, with
//! what was measured until then.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::mqtt::Version;
use super::pace::Pace;
use super::sink::Sink;
use super::{Credentials, Ended, Report, Settings, html, runner};
use crate::uplinks::Protocol;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn sink_for(protocols: &[Protocol]) -> Sink {
    let address = |protocol: Protocol| protocols.contains(&protocol).then_some(ANY);
    Sink::start(Protocol::ALL.map(address), 1).unwrap()
}

/// A short run against `sink`.
fn settings(sink: &Sink) -> Settings {
    let addresses = Protocol::ALL.into_iter().zip(sink.addresses);
    Settings {
        targets: addresses
            .filter_map(|(protocol, address)| Some((protocol, address?)))
            .collect(),
        connections: 12,
        windows: [4, 4, 2],
        ramp: Duration::from_millis(50),
        steady: Duration::from_millis(400),
        timeout: Duration::from_secs(5),
        silence_timeout: Duration::from_millis(300),
        ..Settings::default()
    }
}

async fn load(settings: Settings) -> Report {
    let report = runner::run(settings, Arc::new(Mutex::new(None)), |_, _| {}, pending())
        .await
        .unwrap();
    for line in report.by_protocol.values().chain([&report.total]) {
        // The balance of the generator: a message that was due ends in exactly one way.
        let ends: u64 = line.answers.values().sum();
        assert_eq!(ends, line.sent + line.not_sent, "{line:?}");
        assert_eq!(line.positive + line.negative + line.unanswered, line.sent, "{line:?}");
    }
    report
}

/// Waits until the sink has answered so much that the run is in full swing.
fn wait_until_busy(sink: &Sink, protocol: Protocol) {
    let began = Instant::now();
    while sink.answered(protocol) < 200 {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is answered");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn what_the_generator_counts_is_what_the_sink_counted() {
    for (version, threads, windows) in [(Version::V5, 1, [4, 4, 2]), (Version::V4, 2, [64, 1, 1])] {
        let sink = sink_for(&Protocol::ALL);
        let report = load(Settings {
            mqtt_version: version,
            threads,
            windows,
            ..settings(&sink)
        })
        .await;
        for (protocol, line) in &report.by_protocol {
            assert!(line.sent > 0 && line.per_second > 0.0, "{protocol}: {line:?}");
            assert_eq!(line.positive, line.sent, "{protocol}: {line:?}");
            assert_eq!(sink.answered(*protocol), line.sent + line.retransmissions, "{protocol}");
            assert_eq!((line.connections, line.connections_up), (4, 4), "{protocol}");
            let latency = line.latency;
            assert!(
                latency.p50_ms <= latency.p99_ms && latency.p99_ms <= latency.max_ms,
                "{latency:?}"
            );
            assert!(latency.count > 0 && latency.count <= line.sent);
        }
        assert_eq!(report.exit_code(), ExitCode::SUCCESS);
        assert!(report.passed() && report.generator.processor_us_per_message.unwrap() > 0.0);
    }
}

/// A sink that stands still for half a second holds up a third of the messages of a second and a half. A generator that
/// counted from when it managed to send would have seen a handful of slow ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_stall_shows_in_all_messages_that_were_due_meanwhile() {
    for protocol in Protocol::ALL {
        let sink = Arc::new(sink_for(&[protocol]));
        let stalling = {
            let sink = Arc::clone(&sink);
            tokio::task::spawn_blocking(move || {
                wait_until_busy(&sink, protocol);
                sink.behavior().stalled.store(true, Relaxed);
                std::thread::sleep(Duration::from_millis(500));
                sink.behavior().stalled.store(false, Relaxed);
            })
        };
        let report = load(Settings {
            pace: Pace::Open { rate: 2000.0 },
            windows: [2; 3],
            ramp: Duration::ZERO,
            steady: Duration::from_millis(1500),
            ..settings(&sink)
        })
        .await;
        stalling.await.unwrap();
        let line = &report.by_protocol[&protocol];
        assert_eq!(
            line.positive + line.not_sent,
            3000,
            "{protocol}: what is due does not depend on the server"
        );
        assert_eq!(line.latency.count, 3000, "{protocol}");
        // A thousand of 3000 waited, evenly between nothing and half a second: 500 more than a quarter of a second.
        let p90 = line.latency.p90_ms.unwrap();
        assert!(p90 >= 200.0, "{protocol}: p90 {p90} ms");
        let max = line.latency.max_ms.unwrap();
        assert!(max >= 450.0, "{protocol}: max {max} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_never_answers_again_is_not_fast() {
    let sink = Arc::new(sink_for(&[Protocol::Mqtt]));
    let stalling = {
        let sink = Arc::clone(&sink);
        tokio::task::spawn_blocking(move || {
            wait_until_busy(&sink, Protocol::Mqtt);
            sink.behavior().stalled.store(true, Relaxed);
        })
    };
    let began = Instant::now();
    let report = load(Settings {
        pace: Pace::Open { rate: 1000.0 },
        ramp: Duration::ZERO,
        steady: Duration::from_millis(1000),
        timeout: Duration::from_millis(500),
        ..settings(&sink)
    })
    .await;
    stalling.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "it must not wait for ever");
    let line = &report.total;
    assert_eq!(line.positive + line.unanswered + line.not_sent, 1000, "{line:?}");
    assert!(line.unanswered > 0 && line.not_sent > 0, "{line:?}");
    assert_eq!(line.latency.count, 1000, "what waited in vain is in the latencies");
    assert!(line.latency.p90_ms.unwrap() >= 300.0, "{:?}", line.latency);
    assert_eq!(report.exit_code(), ExitCode::from(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_dies_ends_the_run_with_what_was_measured_until_then() {
    for protocol in Protocol::ALL {
        let mut sink = sink_for(&[protocol]);
        let settings = Settings {
            pace: Pace::Open { rate: 2000.0 },
            ramp: Duration::ZERO,
            steady: Duration::from_secs(60),
            ..settings(&sink)
        };
        let dying = tokio::task::spawn_blocking(move || {
            wait_until_busy(&sink, protocol);
            sink.stop().unwrap();
        });
        let began = Instant::now();
        let report = load(settings).await;
        dying.await.unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{protocol}: it must not go on"
        );
        let Ended::Gone { because, .. } = &report.ended else {
            panic!("{protocol}: {:?}", report.ended)
        };
        assert!(!because.is_empty());
        let line = &report.by_protocol[&protocol];
        assert!(
            line.positive >= 200 && line.connection_events.contains_key("connection refused"),
            "{line:?}"
        );
        assert!(report.seconds > 0.0 && report.seconds < 20.0, "{}", report.seconds);
        assert_eq!(report.exit_code(), ExitCode::from(1));
        assert!(report.ending().unwrap().contains(protocol.name()));
    }
}

#[tokio::test]
async fn other_answers_are_counted_by_their_codes() {
    let sink = sink_for(&Protocol::ALL);
    sink.behavior().puback.store(0x97, Relaxed);
    sink.behavior().coap.store(0xa3, Relaxed);
    sink.behavior().status.store(503, Relaxed);
    sink.behavior().every.store(4, Relaxed);
    let report = load(settings(&sink)).await;
    let check = |protocol: Protocol, good: &str, other: &str| {
        let line = &report.by_protocol[&protocol];
        assert_eq!(
            line.answers
                .keys()
                .map(String::as_str)
                .collect::<std::collections::BTreeSet<_>>(),
            [good, other].into()
        );
        let share = line.answers[other] as f64 / line.sent as f64;
        assert!(
            share > 0.0 && share <= 0.25,
            "{protocol}: every fourth of each connection, not {share}"
        );
        assert_eq!(
            (line.positive, line.negative),
            (line.answers[good], line.answers[other])
        );
    };
    check(Protocol::Mqtt, "PUBACK 0x00 success", "PUBACK 0x97 quota exceeded");
    check(Protocol::Coap, "2.04 Changed", "5.03 Service Unavailable");
    check(Protocol::Http, "204 No Content", "503 Service Unavailable");
    assert_eq!(report.exit_code(), ExitCode::from(1));
}

#[tokio::test]
async fn refused_credentials_end_the_run_in_words() {
    let check = async |protocol: Protocol, connack: u8, status: u16, words: &str| {
        let sink = sink_for(&[protocol]);
        sink.behavior().connack.store(connack, Relaxed);
        sink.behavior().status.store(status, Relaxed);
        sink.behavior().every.store(1, Relaxed);
        let began = Instant::now();
        let report = load(Settings {
            steady: Duration::from_secs(60),
            credentials: Credentials {
                username: Some("city".to_owned()),
                password: Some("wrong".to_owned()),
            },
            ..settings(&sink)
        })
        .await;
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{protocol}: it must not go on"
        );
        let ending = report.ending().unwrap();
        assert!(
            matches!(report.ended, Ended::Refused { .. }) && ending.contains(words),
            "{ending}"
        );
        assert_eq!(report.exit_code(), ExitCode::from(2), "nothing was measured");
    };
    check(Protocol::Mqtt, 0x86, 0, "CONNACK 0x86 bad user name or password").await;
    check(Protocol::Mqtt, 5, 0, "CONNACK 0x05 not authorized").await;
    check(Protocol::Http, 0, 401, "401 Unauthorized").await;
}

#[tokio::test]
async fn idle_connections_are_kept_alive_and_cost_little() {
    let sink = sink_for(&[Protocol::Mqtt]);
    let report = load(Settings {
        connections: 50,
        pace: Pace::Idle,
        keep_alive: Duration::from_secs(1),
        steady: Duration::from_millis(2500),
        ..settings(&sink)
    })
    .await;
    assert_eq!(
        (report.total.connections_up, report.total.sent, sink.accepted()),
        (50, 0, 50)
    );
    assert!(report.total.pings_answered >= 50, "{}", report.total.pings_answered);
    assert!(report.total.connection_events.is_empty() && report.total.ping.p50_ms.is_some());
    assert_eq!(report.exit_code(), ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_run_can_be_interrupted() {
    let sink = sink_for(&[Protocol::Mqtt]);
    let settings = Settings {
        steady: Duration::from_secs(60),
        ..settings(&sink)
    };
    // After the second line of progress, whenever that is.
    let second_line = Arc::new(tokio::sync::Notify::new());
    let (heard, mut lines) = (second_line.clone(), 0);
    let each_second = move |_: &_, _: &_| {
        lines += 1;
        if lines == 2 {
            heard.notify_one();
        }
    };
    let report = runner::run(settings, Arc::new(Mutex::new(None)), each_second, async move {
        second_line.notified().await
    })
    .await
    .unwrap();
    assert!(matches!(report.ended, Ended::Interrupted { .. }), "{:?}", report.ended);
    assert!(report.seconds > 0.0 && report.seconds < 10.0);
    assert_eq!(
        (report.total.positive, report.exit_code()),
        (report.total.sent, ExitCode::SUCCESS)
    );
}

#[tokio::test]
async fn the_page_has_every_curve_and_needs_nothing_else() {
    let sink = sink_for(&Protocol::ALL);
    let report = load(settings(&sink)).await;
    let page = html::page(&report);
    assert_eq!(page.matches("<svg").count(), 3);
    assert!(
        page.matches("<path class=\"curve\"").count() >= 3,
        "a curve for each protocol"
    );
    for foreign in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for element in [
        "svg", "table", "figure", "section", "main", "g", "tr", "td", "th", "text", "title",
    ] {
        let opened = page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    html::Page::create(&path).unwrap().write(&report).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), page);
    assert!(html::Page::create(folder.path()).is_err(), "a folder");
    assert!(
        html::Page::create(folder.path().join("none/report.html")).is_err(),
        "no such folder"
    );
}
