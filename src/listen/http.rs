//! HTTP: readings by POST, one or many at a time, each answered when it is safe.
//!
//! `POST /devices/<device>/<kind>` takes one JSON reading (204), a JSON array or NDJSON (200 with a result per item, in
//! order). What is wrong is said as problem+json (RFC 9457) with the path of the field. Bodies are bounded and their
//! bytes are permitted before they are read; without room the answer is 503 with `Retry-After`. The routing and the
//! framing are axum's and hyper's; which status an outcome gets is `acknowledge`'s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytesize::ByteSize;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::admit::{Seat, Seats};
use super::{Error, Front};
use crate::acknowledge;
use crate::message::{Inbound, Protocol};
use crate::outcome::{Busy, Outcome, Reason, Rejection};
use crate::receipt::{Answer, Mailbox, Reply};

/// The `[http]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Where to listen; plain text, so loopback unless a proxy or a trusted network stands in front.
    pub listen: SocketAddr,
    /// Connections open at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Largest body.
    pub body_bytes_max: ByteSize,
    /// How long a request's body may take to arrive.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub body_timeout: Duration,
    /// How long a connection may take to send the head of its next request.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub idle_timeout: Duration,
}

/// Largest request line and headers; the buffer of a connection.
const HEAD_BYTES_MAX: usize = 16 * 1024;

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            connections_max: 10_000,
            body_bytes_max: ByteSize::mib(1),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
        }
    }
}

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
}

/// What a request handler knows.
#[derive(Clone)]
struct House {
    front: Front,
    config: Arc<Config>,
}

/// Binds the address, so that it is known and reserved before anything starts.
pub async fn bind(config: &Config) -> Result<Bound, Error> {
    let failed = |source| Error::Bind {
        listener: "http",
        address: config.listen,
        source,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound {
        config: config.clone(),
        listener,
        address,
    })
}

impl Bound {
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `front.stopping`, then answers what it has taken in, and ends.
    pub fn serve(self, front: Front) {
        let seats = Seats::new(self.config.connections_max, front.metrics.http.http_connections.clone());
        let house = House {
            front: front.clone(),
            config: Arc::new(self.config),
        };
        front.tasks.clone().spawn(accept(self.listener, seats, house));
    }
}

/// Accepts a connection only when there is a seat for it; more wait in the kernel's queue.
async fn accept(listener: TcpListener, seats: Seats, house: House) {
    let router = Router::new().fallback(post).with_state(house.clone());
    let stopping = house.front.stopping.clone();
    loop {
        let accepted = async { (seats.take().await, listener.accept().await) };
        let (seat, accepted) = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, seat, router.clone(), house.clone());
                house.front.tasks.spawn(connection);
            }
            Err(error) => {
                // Out of file descriptors, most likely: the next attempt succeeds when a connection has closed.
                warn!(%error, "http cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection: hyper frames, axum routes. The seat returns when it closes.
async fn serve_connection(stream: TcpStream, seat: Seat, router: Router, house: House) {
    // Answers are small and awaited: Nagle's delay would only add to them. A socket that refuses the option is a dead
    // one, and says so when it is read.
    stream.set_nodelay(true).ok();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(house.config.idle_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = house.front.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "http connection ended");
    }
    drop(seat);
}

async fn post(State(house): State<House>, request: Request<Body>) -> Response {
    let response = answer(&house, request)
        .await
        .unwrap_or_else(IntoResponse::into_response);
    let status = response.status();
    house
        .front
        .metrics
        .http
        .http_responses_total
        .with_label_values(&[status.as_str()])
        .inc();
    response
}

/// The order of a request: method, room, body, pipeline, answer.
async fn answer(house: &House, request: Request<Body>) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let path = decoded_path(&head.uri);
    if path.is_empty() {
        return Ok(greeting(house));
    }
    if head.method != Method::POST {
        return Err(Problem::method_not_allowed());
    }
    let refuse = |outcome: Outcome| {
        house
            .front
            .pipeline
            .refuse(Protocol::Http, &path, outcome.clone(), Reply::Nobody);
        Problem::new(&outcome)
    };
    if house.front.stopping.is_cancelled() {
        return Err(refuse(Outcome::Busy(Busy::Draining)));
    }
    if let Some(encoding) = head
        .headers
        .get(header::CONTENT_ENCODING)
        .filter(|value| *value != "identity")
    {
        let detail = format!("content encoding {encoding:?} is not decoded; send the body as it is");
        return Err(refuse(Rejection::new(Reason::UnsupportedFormat, detail).into()));
    }
    let bytes_max = house.config.body_bytes_max.as_u64();
    let declared = content_length(&head.headers);
    if declared.is_some_and(|length| length > bytes_max) {
        return Err(refuse(too_large(bytes_max)));
    }
    // A body without a declared length (chunked) is permitted as if it were as large as it may be.
    let Some(permit) = house.front.admit.try_bytes(declared.unwrap_or(bytes_max) as usize) else {
        return Err(refuse(Outcome::Busy(Busy::MemoryFull)));
    };
    let body = match timeout(house.config.body_timeout, to_bytes(body, bytes_max as usize)).await {
        Ok(Ok(body)) => body,
        // Axum reports a body over the limit and one that was cut off by the same error.
        Ok(Err(_)) if declared.is_none() => return Err(refuse(too_large(bytes_max))),
        Ok(Err(_)) => return Err(refuse(Rejection::new(Reason::Malformed, "the body was cut off").into())),
        Err(_) => {
            return Err(refuse(
                Rejection::new(Reason::Malformed, "the body did not arrive in time").into(),
            ));
        }
    };
    let content_type = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mailbox = Mailbox::new();
    let inbound = Inbound {
        protocol: Protocol::Http,
        path: &path,
        body: &body,
        content_type,
    };
    house.front.pipeline.accept(
        &inbound,
        Some(permit),
        Reply::To {
            mailbox: mailbox.clone(),
            ticket: 0,
        },
    );
    Ok(respond(&receive(&mailbox).await))
}

async fn receive(mailbox: &Mailbox) -> Answer {
    let mut answers = Vec::with_capacity(1);
    loop {
        mailbox.take(&mut answers);
        if let Some((_, answer)) = answers.pop() {
            return answer;
        }
        mailbox.wait().await;
    }
}

/// The response to a message whose readings have all ended.
fn respond(answer: &Answer) -> Response {
    match answer {
        Answer::One(outcome) if outcome.is_safe() => StatusCode::NO_CONTENT.into_response(),
        Answer::One(outcome) => Problem::new(outcome).into_response(),
        Answer::Many(outcomes) => results(outcomes),
    }
}

/// 200 with a result per reading; 503 if none was taken and all may be sent again as they are.
fn results(outcomes: &[Outcome]) -> Response {
    if outcomes.iter().all(|outcome| matches!(outcome, Outcome::Busy(_))) {
        return Problem::new(&outcomes[0]).into_response();
    }
    let items: Vec<_> = outcomes.iter().map(result).collect();
    let body = json!({ "results": items }).to_string();
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn result(outcome: &Outcome) -> serde_json::Value {
    let status = acknowledge::http(outcome);
    match acknowledge::text(outcome) {
        None => json!({ "status": status }),
        Some(detail) => json!({ "status": status, "reason": reason(outcome), "detail": detail }),
    }
}

/// A negative answer: RFC 9457.
struct Problem {
    status: StatusCode,
    reason: &'static str,
    detail: String,
}

impl Problem {
    fn new(outcome: &Outcome) -> Self {
        let status = StatusCode::from_u16(acknowledge::http(outcome)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = acknowledge::text(outcome).unwrap_or_default().to_owned();
        Problem {
            status,
            reason: reason(outcome),
            detail,
        }
    }

    fn method_not_allowed() -> Self {
        let detail = "readings are sent by POST to /devices/<device>/<kind>".to_owned();
        Problem {
            status: StatusCode::METHOD_NOT_ALLOWED,
            reason: "method_not_allowed",
            detail,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "reason": self.reason,
        });
        let problem = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, problem, body.to_string()).into_response();
        let extra = match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                Some((header::RETRY_AFTER, HeaderValue::from(acknowledge::RETRY_AFTER_SECONDS)))
            }
            StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, HeaderValue::from_static("POST"))),
            _ => None,
        };
        response.headers_mut().extend(extra);
        response
    }
}

fn reason(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => outcome.label(),
        Outcome::Rejected(rejection) => rejection.reason.label(),
        Outcome::Busy(busy) => busy.label(),
    }
}

/// `GET /`: a person with a browser or curl learns where readings go.
fn greeting(house: &House) -> Response {
    let kinds = house.front.pipeline.schemas.names().join(", ");
    format!("citygate: POST a JSON reading to /devices/<device>/<kind>; kinds: {kinds}\n").into_response()
}

fn too_large(bytes_max: u64) -> Outcome {
    Rejection::new(Reason::TooLarge, format!("the body is larger than {bytes_max} bytes")).into()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The path without its leading slash, percent-decoded per segment; a segment that decodes to a slash or to bad UTF-8
/// stays as it came, and is then refused as an address.
fn decoded_path(uri: &Uri) -> String {
    let path = uri.path().strip_prefix('/').unwrap_or_default();
    path.split('/').map(decoded_segment).collect::<Vec<_>>().join("/")
}

fn decoded_segment(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%').then(|| after.get(..2)).flatten();
        let decoded = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('/') => text,
        _ => segment.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_per_segment() {
        let check = |path: &'static str, expected: &str| {
            assert_eq!(decoded_path(&Uri::from_static(path)), expected, "{path}");
        };
        check("/devices/a/weather", "devices/a/weather");
        check("/devices/a%3Ab/weather?x=1", "devices/a:b/weather");
        check("/devices/a%2Fb/weather", "devices/a%2Fb/weather");
        check("/devices/%ff/weather", "devices/%ff/weather");
        check("/devices/a%3/weather", "devices/a%3/weather");
        check("/devices/%25/weather/", "devices/%/weather/");
        check("/", "");
    }

    #[tokio::test]
    async fn a_batch_is_answered_per_item() {
        let rejected = Outcome::from(Rejection::new(Reason::OutOfRange, "x: 9 is above the maximum 5"));
        let response = respond(&Answer::Many(vec![
            Outcome::Delivered,
            rejected,
            Outcome::Busy(Busy::QueueFull),
        ]));
        assert_eq!(response.status(), StatusCode::OK);
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let statuses: Vec<_> = body["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["status"])
            .collect();
        assert_eq!(statuses, [204, 422, 503]);
        assert_eq!(body["results"][1]["detail"], "x: 9 is above the maximum 5");
    }

    #[test]
    fn a_batch_of_which_nothing_was_taken_may_be_sent_again_whole() {
        let response = respond(&Answer::Many(vec![Outcome::Busy(Busy::KafkaAway); 2]));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
