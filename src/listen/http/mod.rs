//! HTTP: readings by POST, one or many at a time, each answered when it is safe.
//!
//! `POST /devices/<device>/<kind>` accepts one JSON reading (204), a JSON array or NDJSON (200 with a result per item, in
//! order; 422 if all were rejected, 503 if all are busy). What is wrong is said as problem+json (RFC 9457) with the path
//! of the field. Bodies are bounded and charged as they arrive ([`body`]). With an `Idempotency-Key` a request may be
//! repeated without passing its readings on again ([`idempotency`] says how far that goes). The framing is hyper's, and
//! there is one handler, so there is no router; [`request`] is the way of one request, [`response`] the words of its
//! answer.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::tcp::{self, Acceptor, ConnectionPermits, Gate, Listeners, StallTimeout, WhenFull, linger};
use super::tls::{ClientCertificate, Tls};
use super::{Context, Error};

pub mod authorization;

mod body;
pub mod metrics;

mod config;

mod head;

mod idempotency;

mod request;

mod response;

mod shared;

pub use config::Config;
use shared::{Connection, NAME, Shared};

/// Largest request line and headers; the buffer of a connection.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Half of the time that the head of a request, or the rest of an answer, has left when the gateway ends.
const HEAD_WAIT: Duration = Duration::from_millis(150);

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listener: Listeners,
}

/// Binds the addresses, so that they are known and reserved before anything starts.
pub async fn bind(config: &Config) -> Result<Bound, Error> {
    Ok(Bound {
        config: config.clone(),
        listener: Listeners::bind(NAME, &config.listen)?.and_tls(NAME, &config.tls, &[b"http/1.1"])?,
    })
}

impl Bound {
    /// The first address that has TLS, and that.
    pub fn tls(&self) -> (Option<SocketAddr>, Option<&Arc<Tls>>) {
        (self.listener.tls_address(), self.listener.tls())
    }

    /// The same for people, who want to know which have TLS.
    pub fn listening(&self) -> String {
        self.listener.to_string()
    }

    /// Where it listens, with the ports that were given for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listener.addresses()
    }

    /// Serves until `context.stopping`, then answers what it has accepted, and ends.
    pub fn serve(self, context: Context) {
        let metrics = &context.metrics.http;
        let limits = idempotency::Limits {
            keys_max: self.config.idempotency_keys_max,
            bytes_max: usize::try_from(self.config.idempotency_bytes_max.as_u64()).unwrap_or(usize::MAX),
            lifetime: self.config.idempotency_lifetime,
        };
        let permits = ConnectionPermits::new(
            self.config.connections_max,
            context.connections.clone(),
            Some(metrics.http_connections.clone()),
        );
        let acceptor = Acceptor::new(
            NAME,
            self.listener,
            permits,
            WhenFull::Wait,
            Gate::new(
                NAME,
                &context.admission,
                self.config.proxy_protocol.clone(),
                &context.metrics.admission.connections_refused_total,
            ),
            Some(metrics.http_accept_failures_total.clone()),
            context.stopping.clone(),
        );
        if let Some(tls) = acceptor.tls() {
            let keep = tls.clone().keep(context.metrics.tls.clone(), context.stopping.clone());
            context.tasks.spawn(keep);
        }
        let no_content = [StatusCode::NO_CONTENT.as_str()];
        let shared = Shared {
            no_content: metrics.http_responses_total.with_label_values(&no_content),
            keys: idempotency::Keys::new(limits, metrics.clone()),
            context: context.clone(),
            config: self.config,
        };
        context.tasks.spawn(accept_all(acceptor, Arc::new(shared)));
    }
}

async fn accept_all(mut acceptor: Acceptor, shared: Arc<Shared>) {
    while let Some(connection) = acceptor.next().await {
        shared.context.tasks.spawn(serve_connection(connection, shared.clone()));
    }
}

/// Lets a connection of a gateway that ends finish its request: all its answers are due within the drain's deadline. hyper
/// would wait for the rest of a head that has begun as well, for as long as `http.idle_timeout`.
async fn finish<C>(mut connection: Pin<&mut C>, handling: &AtomicBool) -> C::Output
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut was_idle = false;
    loop {
        if let Ok(ended) = tokio::time::timeout(HEAD_WAIT, connection.as_mut()).await {
            return ended;
        }
        // Twice in a row: an answer that is being written has that long to leave.
        let is_idle = !handling.load(Ordering::Relaxed);
        if is_idle && was_idle {
            return Ok(());
        }
        was_idle = is_idle;
    }
}

/// Why a connection ended in the head of a request, of which `head` has come: what hyper has answered itself, 400 to an
/// invalid head and 431 to one that is too large; and what it has not, one that is not whole in time.
fn head_refusal(error: &hyper::Error, head: &[u8]) -> Option<(StatusCode, &'static str)> {
    if error.is_timeout() {
        // Who has begun no request expects no answer, and might take it for the one to its next.
        return (!head.is_empty()).then_some((StatusCode::REQUEST_TIMEOUT, "head_too_slow"));
    }
    if !error.is_parse() || error.is_parse_version_h2() {
        return None;
    }
    // Not 414: a target that long does not fit into the buffer, so it is a head that is too large.
    Some(match error.is_parse_too_large() {
        true => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"),
        false => (StatusCode::BAD_REQUEST, "bad_head"),
    })
}

/// hyper closes without a word when `header_read_timeout` is over. No body, as in its own answers.
fn too_slow_head(now_ms: i64) -> String {
    let date = Timestamp::from_millisecond(now_ms).ok();
    let date = date.and_then(|now| DateTimePrinter::new().timestamp_to_rfc9110_string(&now).ok());
    let date = date.map_or_else(String::new, |date| format!("date: {date}\r\n"));
    format!("HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n{date}\r\n")
}

fn count_refusal(status: StatusCode, reason: &str, shared: &Shared) {
    let metrics = &shared.context.metrics.http;
    metrics.http_responses_total.with_label_values(&[status.as_str()]).inc();
    metrics.http_requests_refused_total.with_label_values(&[reason]).inc();
}

/// When a connection is to end: the gateway does, or its client's certificate is not accepted any more.
async fn told_to_end(stopping: &CancellationToken, certificate: Option<ClientCertificate>) {
    let Some(certificate) = certificate else {
        return stopping.cancelled().await;
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = certificate.until_refused() => stopping.cancel(),
    }
}

/// One connection. Its permit returns when it is dropped.
async fn serve_connection(stream: tcp::Connection, shared: Arc<Shared>) {
    let opened = stream.secured(&shared.context.metrics.tls);
    let opened = shared.context.stopping.run_until_cancelled(opened).await.flatten();
    let Some((stream, connecting)) = opened else { return };
    let peer = stream.peer();
    let certificate = stream.client_certificate().cloned();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Who has sent all it wants to say may wait for the answer; and to look for the end of the stream meanwhile would
        // cost each request a new buffer, as its body is still in the old one. Who has gone is noticed with the answer.
        .half_close(true)
        .header_read_timeout(shared.config.idle_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    let connection = Connection {
        peer,
        certificate: certificate.as_ref().map(ClientCertificate::names),
        budget: shared.context.in_flight_bytes.incomplete().for_peer(peer.ip()),
        stopping: shared.context.stopping.child_token(),
        unread: AtomicBool::new(false),
        handling: AtomicBool::new(false),
        connecting: Mutex::new(connecting),
    };
    let service = service_fn(async |request| {
        connection.handling.store(true, Ordering::Relaxed);
        let response = request::post(&shared, &connection, request).await;
        connection.handling.store(false, Ordering::Relaxed);
        response
    });
    let mut stream = StallTimeout::with_writes(stream, shared.config.body_timeout);
    let mut serving = builder.serve_connection(TokioIo::new(&mut stream), service);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = told_to_end(&connection.stopping, certificate) => {
            let mut serving = Pin::new(&mut serving);
            serving.as_mut().graceful_shutdown();
            finish(serving, &connection.handling).await
        }
    };
    let head = serving.into_parts().read_buf;
    let mut last = String::new();
    if let Err(error) = ended {
        debug!(%error, "http connection ended");
        if let Some((status, reason)) = head_refusal(&error, &head) {
            connection.unread.store(true, Ordering::Relaxed);
            count_refusal(status, reason, &shared);
            if status == StatusCode::REQUEST_TIMEOUT {
                last = too_slow_head(shared.context.pipeline.clock.wall_ms());
            }
        }
    }
    if connection.unread.load(Ordering::Relaxed) {
        let wait = linger::wait_max(connection.stopping.is_cancelled());
        linger::close(&mut stream, last.as_bytes(), wait).await;
    }
}
