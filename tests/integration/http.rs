//! HTTP on the wire: heads that are not valid, bodies in pieces, cut off or without a length, and clients that close
//! their side early, or reset. Requests are written as bytes, piece by piece, and each case names its status and the
//! reason it is counted under.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Broker, TEST_TIMEOUT, TestGateway, Via, eventually, repository};

const HEAD: &str = "POST /devices/a/weather HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";

/// A request as pieces, which the server may or may not see one by one; the status, and part of the answer.
type Case = (&'static [&'static str], u16, &'static str);

const CASES: &[Case] = &[
    (&["content-length: 24\r\n\r\n{\"temperature_c\": 21.5}\n"], 204, ""),
    (
        &["content-length: 23\r\n\r\n", "{\"temperature_c\"", ": 21.5}"],
        204,
        "",
    ),
    (
        &[
            "transfer-encoding: chunked\r\n\r\n",
            "6\r\n{\"temp\r\n",
            "10\r\nerature_c\": 21.5\r\n1\r\n}\r\n0\r\n\r\n",
        ],
        204,
        "",
    ),
    (
        &["transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-signature: 1\r\n\r\n"],
        204,
        "",
    ),
    (
        &["content-length: 23\r\n\r\n", "{\"temperature_c\""],
        408,
        "\"reason\":\"cut_off\"",
    ),
    (&["content-length: 23\r\n\r\n"], 408, "before the body was whole"),
    (
        &["transfer-encoding: chunked\r\n\r\n", "10\r\n{\"temperature_c\""],
        408,
        "\"reason\":\"cut_off\"",
    ),
    (
        &["transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"],
        408,
        "\"title\":\"Request Timeout\"",
    ),
    (
        &["transfer-encoding: chunked\r\n\r\n2\r\n{}\r\nxx\r\n"],
        400,
        "invalid chunked encoding: ",
    ),
    (
        &["transfer-encoding: chunked\r\n\r\n2\r\n{}}\r\n0\r\n\r\n"],
        400,
        "invalid chunked encoding: ",
    ),
    (&["content-length: 2000\r\n\r\n"], 413, "1024 bytes"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_taken_whole_or_not_at_all() {
    let gateway = start().await;
    for &(pieces, status, text) in CASES {
        let answer = exchange(&gateway, pieces.iter().map(|piece| (*piece).to_owned())).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{pieces:?}: {answer}"
        );
        assert!(answer.contains(text), "{pieces:?}: {answer}");
    }
    let count = |of: u16| CASES.iter().filter(|(_, status, _)| *status == of).count();
    assert_eq!(gateway.records("weather").len(), count(204));
    let reason = [("protocol", "http"), ("reason", "cut_off")];
    let cut_off = gateway.scrape().sum("citygate_readings_rejected_total", &reason);
    assert_eq!(cut_off as usize, count(408));
    assert_eq!(gateway.dead_letters().len(), 0, "what was not read is not kept");
    gateway.finish().await;
}

/// Nobody can be answered, and nothing was received: it counts as a reset alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_reset_in_a_body_is_no_reading() {
    let gateway = start().await;
    let resets = || gateway.scrape().sum("citygate_http_requests_reset_total", &[]);
    for (expected, body) in (1..).zip([
        "content-length: 23\r\n\r\n{\"temperature_c\"",
        "transfer-encoding: chunked\r\n\r\n10\r\n{\"temperature_c\"",
        "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ]) {
        let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
        let request = format!("{HEAD}expect: 100-continue\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        // It waits for the rest of the body.
        let mut go_on = [0; 25];
        timeout(TEST_TIMEOUT, stream.read_exact(&mut go_on))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.set_zero_linger().unwrap();
        drop(stream);
        eventually("the reset is counted", async || (resets() == expected).then_some(())).await;
    }
    let scrape = gateway.scrape();
    assert_eq!(scrape.sum("citygate_readings_received_total", &[]), 0);
    assert_eq!(scrape.sum("citygate_http_responses_total", &[]), 0);
    gateway.finish().await;
}

/// Header lines of a request with a small body, in one chunk if they say `chunked`, and what they are answered; `reason` is what they are
/// counted under, empty for those that are no fault of the head.
struct Head {
    version: &'static str,
    lines: &'static [&'static str],
    status: u16,
    reason: &'static str,
    /// A line of the answer, in lower case.
    line: &'static str,
}

const fn head(lines: &'static [&'static str], status: u16, reason: &'static str) -> Head {
    Head {
        version: "1.1",
        lines,
        status,
        reason,
        line: "",
    }
}

const CHUNKED: &str = "Transfer-Encoding: chunked";

const HEADS: &[Head] = &[
    head(&["Host: gateway.example:8080", CHUNKED], 204, ""),
    head(&["host:", CHUNKED], 204, ""),
    head(&["Host: [::1]:8080", "transfer-encoding:  CHUNKED "], 204, ""),
    head(
        &[
            "Host: x",
            "Content-Encoding: Identity",
            "content-encoding: identity",
            CHUNKED,
        ],
        204,
        "",
    ),
    head(
        &[
            "Host: x",
            "Content-Type: application/json",
            "Content-Type: application/json",
            CHUNKED,
        ],
        204,
        "",
    ),
    head(&[CHUNKED], 400, "bad_host"),
    head(&["Host: x", "Host: x", CHUNKED], 400, "bad_host"),
    head(&["Host: x", "Host: y", CHUNKED], 400, "bad_host"),
    head(&["Host: x y", CHUNKED], 400, "bad_host"),
    head(&["Host: http://x/", CHUNKED], 400, "bad_host"),
    head(&["Host: [::1", CHUNKED], 400, "bad_host"),
    head(&["Host: x:port", CHUNKED], 400, "bad_host"),
    head(
        &["Host: x", "Transfer-Encoding: chunked, chunked"],
        400,
        "bad_transfer_encoding",
    ),
    head(&["Host: x", CHUNKED, CHUNKED], 400, "bad_transfer_encoding"),
    head(
        &["Host: x", "Transfer-Encoding: gzip, chunked"],
        501,
        "bad_transfer_encoding",
    ),
    head(
        &["Host: x", "Transfer-Encoding: gzip", CHUNKED],
        501,
        "bad_transfer_encoding",
    ),
    head(
        &["Host: x", "Transfer-Encoding: identity, chunked"],
        501,
        "bad_transfer_encoding",
    ),
    // hyper's own answers.
    head(&["Host: x", "Transfer-Encoding: gzip"], 400, "bad_head"),
    head(&["Host: x", "Transfer-Encoding: chunked, gzip"], 400, "bad_head"),
    head(&["Host: x", "Content-Length: two"], 400, "bad_head"),
    head(&["Host: x", "Content-Length: 2", "Content-Length: 3"], 400, "bad_head"),
    head(&["Host: x", "no colon"], 400, "bad_head"),
    head(&["Host: x", "a b: c"], 400, "bad_head"),
    head(
        &["Host: x", "Idempotency-Key: a", "Idempotency-Key: b", CHUNKED],
        400,
        "bad_idempotency_key",
    ),
    Head {
        line: "accept-encoding: identity",
        ..head(&["Host: x", "Content-Encoding: GZIP", CHUNKED], 415, "")
    },
    Head {
        line: "accept-encoding: identity",
        ..head(
            &["Host: x", "Content-Encoding: identity", "Content-Encoding: br", CHUNKED],
            415,
            "",
        )
    },
    Head {
        line: "accept: application/json, application/x-ndjson",
        ..head(&["Host: x", "Content-Type: text/csv", CHUNKED], 415, "")
    },
    Head {
        line: "accept: application/json, application/x-ndjson",
        ..head(
            &[
                "Host: x",
                "Content-Type: application/json",
                "Content-Type: text/csv",
                CHUNKED,
            ],
            415,
            "",
        )
    },
    Head {
        line: "content type application/json; charset=utf-8, text/csv is not decoded",
        ..head(
            &[
                "Host: x",
                "Content-Type: application/json; charset=utf-8",
                "Content-Type: text/csv",
                CHUNKED,
            ],
            415,
            "",
        )
    },
    // HTTP/1.0 has no need of a Host, and no transfer coding.
    Head {
        version: "1.0",
        ..head(&["Content-Length: 12"], 204, "")
    },
    Head {
        version: "1.0",
        ..head(&["Host: x", "Host: x", "Content-Length: 2"], 400, "bad_host")
    },
    Head {
        version: "1.0",
        ..head(&["Host: x", CHUNKED], 400, "bad_head")
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_one_of_rfc_9112_or_refused_and_counted() {
    let gateway = start().await;
    for head in HEADS {
        let scrape = gateway.scrape();
        let text = format!(
            "POST /devices/a/weather HTTP/{}\r\n{}\r\n\r\n",
            head.version,
            head.lines.join("\r\n")
        );
        let chunked = text.to_lowercase().contains("chunked");
        let body = if chunked {
            "2\r\n{}\r\n0\r\n\r\n"
        } else {
            "{}          "
        };
        let pieces = [text.clone(), body.to_owned()];
        let answer = raw_exchange(&gateway, pieces.into_iter()).await;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        assert_eq!(status, Some(head.status), "{text}: {answer}");
        assert!(answer.to_lowercase().contains(head.line), "{text}: {answer}");
        let refused = [("reason", head.reason)];
        let is_fault = u64::from(!head.reason.is_empty());
        let count = |name: &str, labels: &[(&str, &str)]| gateway.scrape().sum(name, labels) - scrape.sum(name, labels);
        let counted = || count("citygate_http_requests_refused_total", &refused) == is_fault;
        // hyper's are counted when the connection ends, which may be after the answer.
        eventually("it is counted", async || counted().then_some(())).await;
        assert_eq!(count("citygate_http_requests_refused_total", &[]), is_fault, "{text}");
        let status = head.status.to_string();
        let responses = count("citygate_http_responses_total", &[("status", status.as_str())]);
        assert_eq!(responses, 1, "{text}");
        assert_eq!(count("citygate_readings_received_total", &[]), 1 - is_fault, "{text}");
        if is_fault == 1 && head.reason != "bad_head" {
            assert!(
                answer.contains(&format!("\"reason\":\"{}\"", head.reason)),
                "{text}: {answer}"
            );
            assert!(answer.to_lowercase().contains("connection: close"), "{text}: {answer}");
        }
    }
    gateway.finish().await;
}

/// hyper answers what it cannot read itself, and it is counted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_answered_and_counted() {
    let gateway = start().await;
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "x: x\r\n".repeat(200));
    for (request, status, reason) in [
        ("rubbish\r\n\r\n", 400, "bad_head"),
        ("POST  /devices/a/weather HTTP/1.1\r\n\r\n", 400, "bad_head"),
        ("POST /devices/a/weather HTTP/3\r\n\r\n", 400, "bad_head"),
        ("P(ST / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_head"),
        (long.as_str(), 431, "head_too_large"),
        (many.as_str(), 431, "head_too_large"),
        (
            "PUT /devices/a/weather HTTP/1.1\r\nHost: x\r\n\r\n",
            405,
            "method_not_allowed",
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
    ] {
        let labels = [("reason", reason)];
        let refused = || gateway.scrape().sum("citygate_http_requests_refused_total", &labels);
        let before = refused();
        let answer = raw_exchange(&gateway, [request.to_owned()].into_iter()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        // hyper's are counted when the connection ends, which may be after the answer.
        eventually("it is counted", async || (refused() == before + 1).then_some(())).await;
    }
    assert_eq!(gateway.scrape().sum("citygate_readings_received_total", &[]), 0);
    gateway.finish().await;
}

/// hyper says nothing to a head that is not whole in time. To a connection without a request nothing is to be said.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_not_whole_in_time_is_answered_408() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.http.idle_timeout = Duration::from_millis(300);
    })
    .await;
    let get = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let begun = "POST /devices/a/weather HTTP/1.1\r\nhost: x\r\n";
    for (sent, ok, too_slow) in [
        ("", 0, 0),
        ("P", 0, 1),
        (begun, 0, 1),
        (get, 1, 0),
        (&format!("{get}{begun}"), 1, 1),
    ] {
        let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = timeout(TEST_TIMEOUT, stream.read_to_string(&mut answer)).await;
        read.expect("it is closed").unwrap();
        let count = |status: &str| answer.matches(&format!("HTTP/1.1 {status}")).count();
        assert_eq!((count("200 "), count("408 ")), (ok, too_slow), "{sent:?}: {answer}");
        assert_eq!(count(""), ok + too_slow, "{sent:?}: {answer}");
        let (_, last) = answer.split_at(answer.find("HTTP/1.1 408").unwrap_or(answer.len()));
        let closes = "connection: close\r\ncontent-length: 0\r\ndate: ";
        assert!(
            last.is_empty() || last.contains(closes) && last.ends_with(" GMT\r\n\r\n"),
            "{last}"
        );
    }
    let scrape = gateway.scrape();
    let labels = [("reason", "head_too_slow")];
    assert_eq!(scrape.sum("citygate_http_requests_refused_total", &labels), 3);
    assert_eq!(scrape.sum("citygate_http_responses_total", &[("status", "408")]), 3);
    gateway.finish().await;
}

/// A body that is not read would be taken for the next request: the connection ends behind the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_reads_ends_the_connection() {
    let gateway = start().await;
    for (request, status, allow) in [
        ("GET /", 200, None),
        ("HEAD /", 200, None),
        ("PUT /", 405, Some("allow: get, head\r\n")),
        ("PUT /devices/a/weather", 405, Some("allow: post\r\n")),
    ] {
        let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = timeout(TEST_TIMEOUT, stream.read_to_string(&mut answer)).await;
        read.expect("it ends").unwrap();
        let answer = answer.to_lowercase();
        assert!(
            answer.starts_with(&format!("http/1.1 {status} ")),
            "{request}: {answer}"
        );
        assert!(answer.contains("connection: close\r\n"), "{request}: {answer}");
        assert!(allow.is_none_or(|allow| answer.contains(allow)), "{request}: {answer}");
    }
    gateway.finish().await;
}

/// RFC 9112 §6.3: the transfer coding counts, and the connection ends behind the answer, so that nothing that follows is
/// taken for a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_a_transfer_coding_smuggles_nothing() {
    let gateway = start().await;
    let smuggled = "POST /devices/smuggled/weather HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    for lengths in [
        ["content-length: 2", CHUNKED],
        [CHUNKED, "content-length: 2"],
        ["content-length: 400", CHUNKED],
    ] {
        let lines = lengths.join("\r\n");
        let request = format!("POST /devices/a/weather HTTP/1.1\r\nhost: x\r\n{lines}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n");
        let answer = raw_exchange(&gateway, [request + smuggled].into_iter()).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{lines}: {answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{lines}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lines}: {answer}");
    }
    let records = gateway.records("weather");
    assert_eq!(
        (records.len(), records.iter().all(|record| record.key == "a")),
        (3, true)
    );
    gateway.finish().await;
}

/// The reason phrase is the library's; the title is what RFC 9110 calls it.
#[tokio::test(flavor = "multi_thread")]
async fn a_problem_has_the_title_of_its_status() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.http.body_bytes_max = bytesize::ByteSize::kib(1);
        config.http.body_timeout = Duration::from_millis(300);
    })
    .await;
    let mut client = gateway.client(Via::Http).await;
    let long = " ".repeat(2000);
    for (path, content_type, body, status, title) in [
        ("devices/a/weather", "", "rubbish", "400", "Bad Request"),
        ("devices/a/unheard-of", "", "{}", "404", "Not Found"),
        ("devices/a/weather", "", long.as_str(), "413", "Content Too Large"),
        ("devices/a/weather", "text/csv", "{}", "415", "Unsupported Media Type"),
        ("devices/a/weather", "", "1", "422", "Unprocessable Content"),
        ("devices/a/weather", "", "[1]", "422", "Unprocessable Content"),
    ] {
        let answer = client.send(path, content_type, body.as_bytes()).await;
        assert_eq!(answer.code, status, "{answer:?}");
        let problem: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(
            (&problem["title"], problem["status"].to_string()),
            (&title.into(), answer.code)
        );
        assert!(
            problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()),
            "{problem}"
        );
    }
    // One that comes no further, and is not cut off.
    let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
    let request = format!("{HEAD}content-length: 20\r\n\r\n{{");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(TEST_TIMEOUT, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains("\"reason\":\"too_slow\"") && answer.contains("Request Timeout"),
        "{answer}"
    );
    gateway.finish().await;
}

/// One without a length is read up to the limit, however it is cut into pieces.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_bounded_too() {
    let gateway = start().await;
    let chunk = format!("40\r\n{}\r\n", " ".repeat(64));
    for (chunks, status) in [(16 - 1, 204), (16, 413), (1000, 413)] {
        let pieces = ["transfer-encoding: chunked\r\n\r\n".to_owned()]
            .into_iter()
            .chain(std::iter::repeat_n(chunk.clone(), chunks))
            .chain(["2\r\n{}\r\n0\r\n\r\n".to_owned()]);
        let answer = exchange(&gateway, pieces).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{chunks}: {answer}");
    }
    assert_eq!(gateway.records("weather").len(), 1);
    gateway.finish().await;
}

/// With the kinds as they were first published, of which `{}` is a reading: bodies are framed here by the byte.
async fn start() -> TestGateway {
    TestGateway::start(&Broker::any(), |config| {
        config.schemas.folder = repository().join("tests/golden/schemas");
        config.http.body_bytes_max = bytesize::ByteSize::kib(1)
    })
    .await
}

async fn exchange(gateway: &TestGateway, pieces: impl Iterator<Item = String>) -> String {
    raw_exchange(gateway, [HEAD.to_owned()].into_iter().chain(pieces)).await
}

/// Sends a request piece by piece, closes this side of the connection, and reads the answer.
async fn raw_exchange(gateway: &TestGateway, pieces: impl Iterator<Item = String>) -> String {
    let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answer = Vec::new();
    let exchanged = async {
        let (mut reader, mut writer) = stream.split();
        let write = async {
            for piece in pieces {
                writer.write_all(piece.as_bytes()).await?;
                // A chance for the server to read it on its own.
                tokio::task::yield_now().await;
            }
            writer.shutdown().await
        };
        // A refused body need not be read to its end, so writing may fail, and reading after the answer.
        let (_written, _read) = tokio::join!(write, reader.read_to_end(&mut answer));
    };
    timeout(TEST_TIMEOUT, exchanged).await.expect("an answer");
    String::from_utf8(answer).unwrap()
}
