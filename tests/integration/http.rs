//! HTTP as it comes over the wire: bodies in pieces, cut off, without a length, and clients that close their side early.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Broker, PATIENCE, TestGateway};

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
    (&["content-length: 23\r\n\r\n", "{\"temperature_c\""], 400, "cut off"),
    (
        &["transfer-encoding: chunked\r\n\r\n", "10\r\n{\"temperature_c\""],
        400,
        "cut off",
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
    let good = CASES.iter().filter(|(_, status, _)| *status == 204).count();
    assert_eq!(gateway.records("weather").len(), good);
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

async fn start() -> TestGateway {
    TestGateway::start(&Broker::any(), |config| {
        config.http.body_bytes_max = bytesize::ByteSize::kib(1)
    })
    .await
}

/// Sends a request piece by piece, closes this side of the connection, and reads the answer.
async fn exchange(gateway: &TestGateway, pieces: impl Iterator<Item = String>) -> String {
    let mut stream = TcpStream::connect(gateway.addresses.http.unwrap()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answer = Vec::new();
    let exchanged = async {
        let (mut reader, mut writer) = stream.split();
        let write = async {
            writer.write_all(HEAD.as_bytes()).await?;
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
    timeout(PATIENCE, exchanged).await.expect("an answer");
    String::from_utf8(answer).unwrap()
}
