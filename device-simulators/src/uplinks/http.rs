//! An HTTP device: one kept-alive connection, a POST per reading or per batch of readings.
//!
//! 2xx is a positive answer, 429 and 5xx mean *later*, everything else is a refusal. A batch is answered by a result per
//! item, in order; an item without a result counts as unanswered, because a positive answer is nothing to guess.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use native_tls::TlsConnector;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response};
use serde::Deserialize;

use super::credentials::Secret;
use super::{Answer, Reading, excerpt};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// What the HTTP devices of a fleet share: a client, but no connection.
///
/// A client of its own for every device would set TLS up for every device, which takes longer than everything else that
/// a device does; only who has a certificate needs that. reqwest keeps its connections apart by host name, so each device gets a name of its own; all of them
/// resolve to the gateway.
#[derive(Clone, Debug)]
pub struct Clients {
    client: Client,
    server: SocketAddr,
    scheme: &'static str,
}

/// A device's HTTP client.
#[derive(Debug)]
pub struct Uplink {
    client: Client,
    host: String,
    single: String,
    batch: String,
    readings_per_message: usize,
    /// A name and what goes with it.
    login: Option<(String, Secret)>,
}

/// Resolves every name to the gateway.
struct Always(SocketAddr);

/// The answer to a batch; more may be in it than is read here.
#[derive(Deserialize)]
struct Results {
    results: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    status: u16,
    #[serde(default)]
    detail: Option<String>,
}

// === impl Clients ===

impl Clients {
    /// Clients of `server` that wait for an answer for `answer_timeout`.
    pub fn new(server: SocketAddr, answer_timeout: Duration, tls: Option<TlsConnector>) -> reqwest::Result<Clients> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut builder = Client::builder();
        if let Some(tls) = tls {
            builder = builder.tls_backend_preconfigured(tls);
        }
        let client = builder
            .timeout(answer_timeout)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(None)
            .dns_resolver(Arc::new(Always(server)))
            // A device has no proxy.
            .no_proxy()
            .build()?;
        Ok(Clients { client, server, scheme })
    }

    /// Others, of the same server, for a device with a certificate.
    pub fn apart(&self, answer_timeout: Duration, tls: TlsConnector) -> reqwest::Result<Clients> {
        Clients::new(self.server, answer_timeout, Some(tls))
    }

    /// A client whose connection is kept by `name`; it posts to `path`, or to `path/batch` if it sends several readings at a time.
    /// With a device's name and its secret it says by them who it is.
    pub fn uplink(
        &self,
        name: &str,
        path: &str,
        readings_per_message: usize,
        login: Option<(&str, &Secret)>,
    ) -> Uplink {
        let base = format!("{}://{name}.invalid:{}/{path}", self.scheme, self.server.port());
        Uplink {
            client: self.client.clone(),
            host: self.server.to_string(),
            batch: format!("{base}/batch"),
            single: base,
            readings_per_message: readings_per_message.max(1),
            login: login.map(|(device, secret)| (device.to_owned(), secret.clone())),
        }
    }
}

impl Resolve for Always {
    fn resolve(&self, _name: Name) -> Resolving {
        let addresses: Addrs = Box::new(std::iter::once(self.0));
        Box::pin(ready(Ok(addresses)))
    }
}

// === impl Uplink ===

impl Uplink {
    pub fn readings_per_message(&self) -> usize {
        self.readings_per_message
    }

    /// Sends the readings in one request; one answer each, in order.
    pub async fn send(&mut self, readings: &[Reading]) -> Vec<Answer> {
        let (url, body) = match readings {
            [] => return Vec::new(),
            [reading] if self.readings_per_message == 1 => (&self.single, reading.json.clone()),
            several => (&self.batch, array(several)),
        };
        let request = self.client.post(url).header("host", &self.host);
        let mut request = request.header("content-type", "application/json").body(body);
        request = match &self.login {
            None => request,
            Some((_, Secret::Key(key))) => request.bearer_auth(key),
            Some((device, Secret::Password(password))) => request.basic_auth(device, Some(password)),
        };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return same(readings.len(), unanswered(chain(&error))),
        };
        let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
        match read(response).await {
            Ok(body) => answers(status, retry_after, &body, readings.len()),
            // The status line said it already; only a batch needs the body.
            Err(_) if readings.len() == 1 && status == 204 => vec![Answer::Acknowledged],
            Err(because) => same(readings.len(), unanswered(because)),
        }
    }
}

/// A JSON array of readings that are JSON already.
fn array(readings: &[Reading]) -> Vec<u8> {
    let mut body = vec![b'['];
    for reading in readings {
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(&reading.json);
    }
    body.push(b']');
    body
}

async fn read(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `Retry-After` in seconds (RFC 9110 §10.2.3); its other form, a date, is not for devices without a clock.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// What a response means for each of `count` readings.
fn answers(status: u16, retry_after: Option<Duration>, body: &[u8], count: usize) -> Vec<Answer> {
    let parsed: Option<Results> = serde_json::from_slice(body).ok();
    if let Some(Results { results }) = parsed {
        let items = results.into_iter();
        let told = items.map(|item| answer(item.status, retry_after, &item.detail.unwrap_or_default()));
        let untold = || unanswered("no result for this reading of the batch".to_owned());
        return told.chain(std::iter::repeat_with(untold)).take(count).collect();
    }
    // 204 has no content, and so nothing left unsaid; a 200 to a batch owes a result per item.
    if count > 1 && (200..300).contains(&status) && status != 204 {
        return same(count, unanswered(format!("{status} without results")));
    }
    same(count, answer(status, retry_after, &problem(body)))
}

/// What a status means for one reading (RFC 9110 §15).
fn answer(status: u16, retry_after: Option<Duration>, text: &str) -> Answer {
    match status {
        200..=299 => Answer::Acknowledged,
        408 | 429 | 500..=599 => Answer::Busy {
            code: status.to_string(),
            retry_after,
        },
        _ => Answer::Rejected {
            code: status.to_string(),
            text: excerpt(text, 200),
        },
    }
}

/// The `detail` of a problem document (RFC 9457), or the body itself.
fn problem(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let parsed: Option<Problem> = serde_json::from_slice(body).ok();
    parsed.map_or_else(|| String::from_utf8_lossy(body).into_owned(), |problem| problem.detail)
}

/// The error and what is behind it: reqwest's own text does not say *connection refused*.
fn chain(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    excerpt(&deepest.to_string(), 200)
}

fn same(count: usize, answer: Answer) -> Vec<Answer> {
    vec![answer; count]
}

fn unanswered(because: String) -> Answer {
    Answer::Unanswered { because }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    fn reading(sequence: u64) -> Reading {
        Reading {
            sequence,
            json: format!(r#"{{"sequence":{sequence}}}"#).into_bytes(),
        }
    }

    fn uplink(server: SocketAddr, readings_per_message: usize) -> Uplink {
        let clients = Clients::new(server, Duration::from_secs(5), None).unwrap();
        clients.uplink("meter-00001", "devices/a/energy", readings_per_message, None)
    }

    fn busy(code: &str) -> Answer {
        Answer::Busy {
            code: code.to_owned(),
            retry_after: Some(Duration::from_secs(2)),
        }
    }

    fn rejected(code: &str, text: &str) -> Answer {
        Answer::Rejected {
            code: code.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn statuses_mean() {
        let check = |status: u16, body: &str, count: usize, expected: &[Answer]| {
            let retry_after = Some(Duration::from_secs(2));
            assert_eq!(
                answers(status, retry_after, body.as_bytes(), count),
                expected,
                "{status} {body}"
            );
        };
        let untold = || unanswered("no result for this reading of the batch".to_owned());
        let ok = Answer::Acknowledged;
        let one = std::slice::from_ref(&ok);
        check(204, "", 1, one);
        check(200, "", 1, one);
        check(503, "", 1, &[busy("503")]);
        check(429, "", 1, &[busy("429")]);
        check(422, r#"{"title":"t","detail":"x: 9"}"#, 1, &[rejected("422", "x: 9")]);
        check(404, "no such\nkind", 1, &[rejected("404", "no such kind")]);
        check(204, "", 2, &[ok.clone(), ok.clone()]);
        check(503, "", 2, &[busy("503"), busy("503")]);
        let body = r#"{"results":[{"status":204,"more":1},{"status":422,"detail":"why"},{"status":503}],"more":2}"#;
        check(200, body, 3, &[ok.clone(), rejected("422", "why"), busy("503")]);
        // Fewer results than readings, more than readings, none at all: what was not said was not said.
        check(
            200,
            body,
            4,
            &[ok.clone(), rejected("422", "why"), busy("503"), untold()],
        );
        check(200, body, 1, one);
        check(
            200,
            "{}",
            2,
            &[
                unanswered("200 without results".to_owned()),
                unanswered("200 without results".to_owned()),
            ],
        );
        // A batch that was refused by item, with the status of a refusal.
        check(
            422,
            r#"{"results":[{"status":204},{"status":422}]}"#,
            2,
            &[ok, rejected("422", "")],
        );
    }

    /// Reads one request; its first line and its body.
    async fn request(stream: &mut TcpStream) -> (String, String) {
        let mut text = Vec::new();
        loop {
            let whole = String::from_utf8(text.clone()).unwrap();
            if let Some((head, body)) = whole.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse::<usize>().unwrap())
                });
                if body.len() == length.unwrap_or(0) {
                    return (head.lines().next().unwrap().to_owned(), body.to_owned());
                }
            }
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{whole}");
        }
    }

    #[tokio::test]
    async fn a_device_keeps_its_connection() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let mut uplink = uplink(address, 1);
        let serve = async {
            let (mut stream, _) = server.accept().await.unwrap();
            for sequence in 1..=2 {
                let (line, body) = request(&mut stream).await;
                assert_eq!(line, "POST /devices/a/energy HTTP/1.1");
                assert_eq!(body, format!(r#"{{"sequence":{sequence}}}"#));
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
        };
        let talk = async {
            for sequence in 1..=2 {
                assert_eq!(uplink.send(&[reading(sequence)]).await, [Answer::Acknowledged]);
            }
        };
        tokio::join!(talk, serve);
    }

    #[tokio::test]
    async fn every_device_has_a_connection_of_its_own_and_the_servers_name_for_it() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let clients = Clients::new(address, Duration::from_secs(5), None).unwrap();
        for device in ["meter-1", "meter-2"] {
            let mut uplink = clients.uplink(device, "devices/a/energy", 1, None);
            let serve = async {
                let (mut stream, _) = server.accept().await.unwrap();
                let mut head = vec![0; 2048];
                let length = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
                assert!(head.contains(&format!("\r\nhost: {address}\r\n")), "{head}");
                assert!(!head.contains("invalid"), "{head}");
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                stream
            };
            let (answers, _stream) = tokio::join!(async { uplink.send(&[reading(1)]).await }, serve);
            assert_eq!(answers, [Answer::Acknowledged]);
        }
    }

    #[tokio::test]
    async fn a_batch_is_an_array_with_a_result_per_item() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let mut uplink = uplink(address, 2);
        let serve = async {
            let (mut stream, _) = server.accept().await.unwrap();
            let (line, body) = request(&mut stream).await;
            assert_eq!(line, "POST /devices/a/energy/batch HTTP/1.1");
            assert_eq!(body, r#"[{"sequence":1},{"sequence":2}]"#);
            let answer = r#"{"results":[{"status":204},{"status":503}]}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\nretry-after: 2\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            stream.write_all((head + answer).as_bytes()).await.unwrap();
            // What is left of a batch is sent as a batch.
            let (line, body) = request(&mut stream).await;
            assert_eq!(
                (line.as_str(), body.as_str()),
                ("POST /devices/a/energy/batch HTTP/1.1", r#"[{"sequence":2}]"#)
            );
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        };
        let talk = async {
            let answers = uplink.send(&[reading(1), reading(2)]).await;
            assert_eq!(answers, [Answer::Acknowledged, busy("503")]);
            assert_eq!(uplink.send(&[reading(2)]).await, [Answer::Acknowledged]);
        };
        tokio::join!(talk, serve);
    }

    #[tokio::test]
    async fn nobody_there_is_unanswered_and_says_why() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        drop(server);
        let mut uplink = uplink(address, 1);
        let answers = uplink.send(&[reading(1)]).await;
        let [Answer::Unanswered { because }] = answers.as_slice() else {
            panic!("{answers:?}");
        };
        assert!(because.contains("refused"), "{because}");
    }
}
