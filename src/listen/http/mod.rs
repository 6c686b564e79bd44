//! HTTP: readings by POST, one or many at a time, each answered when it is safe.
//!
//! `POST /devices/<device>/<kind>` accepts one JSON reading (204), a JSON array or NDJSON (200 with a result per item, in
//! order; 422 if all were rejected, 503 if all are busy). What is wrong is said as problem+json (RFC 9457) with the path
//! of the field. Bodies are bounded and charged as they arrive ([`body`]). With an `Idempotency-Key` a request may be
//! repeated without passing its readings on again ([`idempotency`] says how far that goes). The framing is hyper's, and
//! there is one handler, so there is no router; [`request`] is the way of one request, [`response`] the words of its
//! answer.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use bytesize::ByteSize;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::accept::{self, Troubles};
use super::addresses::ListenAddresses;
use super::admit::{Seat, Seats};
use super::incomplete::PeerRoom;
use super::linger;
use super::pace::Rate;
use super::patience::Patience;
use super::tcp::Listeners;
use super::{Context, Error};
use crate::message::{Origin, Protocol};

mod body;

mod head;

mod idempotency;

mod request;

mod response;

/// What this listener is called in the configuration and in logs.
const NAME: &str = "http";

/// The `[http]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    /// Where to listen, one address or several; plain text, so loopback unless a proxy or a trusted network stands in
    /// front.
    pub listen: ListenAddresses,
    /// Connections open at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Largest body.
    pub body_bytes_max: ByteSize,
    /// How slowly a body may arrive, in bytes per second.
    pub body_bytes_per_second_min: ByteSize,
    /// How far a body may fall behind that, and how long nothing of it may come; also how long it waits for room, and
    /// how long a client may read nothing of its answer.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub body_timeout: Duration,
    /// How long a connection may take to send the head of its next request.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub idle_timeout: Duration,
    /// Idempotency keys remembered; beyond it the one answered longest ago is forgotten. 0: the header is ignored.
    pub idempotency_keys_max: usize,
    /// Memory for all of them: some 256 bytes each, and for a batch 16 bytes per reading and the text of each rejection.
    pub idempotency_bytes_max: ByteSize,
    /// How long after its answer a key is remembered.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub idempotency_lifetime: Duration,
}

/// Largest request line and headers; the buffer of a connection.
const HEAD_BYTES_MAX: usize = 16 * 1024;

impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
            connections_max: 10_000,
            body_bytes_max: ByteSize::kib(768),
            body_bytes_per_second_min: ByteSize::b(512),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            idempotency_keys_max: 100_000,
            idempotency_bytes_max: ByteSize::mib(64),
            idempotency_lifetime: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Config {
    /// What is wrong with this section, each mistake starting with the field's name.
    pub fn mistakes(&self) -> Vec<String> {
        let checks = [
            (self.connections_max > 0, "http.connections_max: must be at least 1"),
            (
                self.body_bytes_max >= ByteSize::kib(1),
                "http.body_bytes_max: must be at least 1 KiB",
            ),
            (
                self.body_bytes_per_second_min >= ByteSize::b(1),
                "http.body_bytes_per_second_min: must be at least 1 B",
            ),
            (!self.body_timeout.is_zero(), "http.body_timeout: must be above 0"),
            (!self.idle_timeout.is_zero(), "http.idle_timeout: must be above 0"),
        ];
        checks
            .into_iter()
            .filter(|(good, _)| !good)
            .map(|(_, text)| text.to_owned())
            .collect()
    }

    fn rate(&self) -> Rate {
        Rate::new(self.body_bytes_per_second_min.as_u64(), self.body_timeout)
    }
}

/// Half of the time that the head of a request, or the rest of an answer, has left when the gateway ends.
const HEAD_WAIT: Duration = Duration::from_millis(150);

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listener: Listeners,
}

/// What a request handler knows.
struct House {
    front: Context,
    config: Config,
    keys: Arc<idempotency::Keys>,
    /// Of the one status that nearly all responses have.
    no_content: IntCounter,
}

/// What a request handler knows of its connection.
struct Connection {
    peer: SocketAddr,
    /// The room for incomplete messages, as its peer finds it.
    room: PeerRoom,
    /// Of its own: all connections would wait for each other at a common one.
    stopping: CancellationToken,
    /// An answer ended it before its request was read to the end.
    unread: AtomicBool,
    /// Whether a request of it is with its handler; one at a time is.
    handling: AtomicBool,
}

impl Connection {
    /// Of a message that is received now.
    fn origin(&self) -> Origin {
        Origin::anonymous(Protocol::Http, NAME, self.peer)
    }
}

/// Binds the addresses, so that they are known and reserved before anything starts.
pub async fn bind(config: &Config) -> Result<Bound, Error> {
    Ok(Bound {
        config: config.clone(),
        listener: Listeners::bind(NAME, &config.listen)?,
    })
}

impl Bound {
    /// Where it listens, with the ports that were given for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listener.addresses()
    }

    /// Serves until `front.stopping`, then answers what it has taken in, and ends.
    pub fn serve(self, front: Context) {
        let seats = Seats::new(
            self.config.connections_max,
            front.connections.clone(),
            front.metrics.http.http_connections.clone(),
        );
        let limits = idempotency::Limits {
            keys_max: self.config.idempotency_keys_max,
            bytes_max: usize::try_from(self.config.idempotency_bytes_max.as_u64()).unwrap_or(usize::MAX),
            lifetime: self.config.idempotency_lifetime,
        };
        let responses = &front.metrics.http.http_responses_total;
        let house = House {
            no_content: responses.with_label_values(&[StatusCode::NO_CONTENT.as_str()]),
            keys: idempotency::Keys::new(limits, front.metrics.http.clone()),
            front: front.clone(),
            config: self.config,
        };
        front
            .tasks
            .clone()
            .spawn(accept_all(self.listener, seats, Arc::new(house)));
    }
}

/// Accepts a connection only when there is a seat for it; more wait in the kernel's queue.
async fn accept_all(listener: Listeners, seats: Seats, house: Arc<House>) {
    let stopping = house.front.stopping.clone();
    let failures = house.front.metrics.http.http_accept_failures_total.clone();
    let mut troubles = Troubles::default();
    loop {
        let accepted = async { (seats.take().await, listener.accept().await) };
        let (seat, accepted) = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(stream, peer, seat, house.clone());
                house.front.tasks.spawn(connection);
            }
            Err(error) => {
                if !accept::failed(NAME, &error, &mut troubles, &failures, &stopping).await {
                    return;
                }
            }
        }
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

/// Counts what hyper has answered itself: 400 to an invalid head, 431 to one that is too large.
fn count_refusal(error: &hyper::Error, context: &Connection, house: &House) {
    if !error.is_parse() || error.is_parse_version_h2() {
        return;
    }
    // Not 414: a target that long does not fit into the buffer, so it is a head that is too large.
    let (status, reason) = if error.is_parse_too_large() {
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large")
    } else {
        (StatusCode::BAD_REQUEST, "bad_head")
    };
    context.unread.store(true, Ordering::Relaxed);
    let metrics = &house.front.metrics.http;
    metrics.http_responses_total.with_label_values(&[status.as_str()]).inc();
    metrics.http_requests_refused_total.with_label_values(&[reason]).inc();
}

/// One connection. The seat returns when it closes.
async fn serve_connection(stream: TcpStream, peer: SocketAddr, seat: Seat, house: Arc<House>) {
    // Answers are small and awaited: Nagle's delay would only add to them. A socket that refuses the option is a dead
    // one, and says so when it is read.
    stream.set_nodelay(true).ok();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Who has sent all it wants to say may wait for the answer; and to look for the end of the stream meanwhile would
        // cost each request a new buffer, as its body is still in the old one. Who has gone is noticed with the answer.
        .half_close(true)
        .header_read_timeout(house.config.idle_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    let context = Connection {
        peer,
        room: house.front.admit.incomplete().for_peer(peer.ip()),
        stopping: house.front.stopping.child_token(),
        unread: AtomicBool::new(false),
        handling: AtomicBool::new(false),
    };
    let service = service_fn(async |request| {
        context.handling.store(true, Ordering::Relaxed);
        let response = request::post(&house, &context, request).await;
        context.handling.store(false, Ordering::Relaxed);
        response
    });
    let mut stream = Patience::with_writes(stream, house.config.body_timeout);
    let ended = {
        let mut connection = pin!(builder.serve_connection(TokioIo::new(&mut stream), service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = context.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                finish(connection, &context.handling).await
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "http connection ended");
        count_refusal(&error, &context, &house);
    }
    if context.unread.load(Ordering::Relaxed) {
        let wait = linger::wait_max(context.stopping.is_cancelled());
        linger::close(&mut stream, &[], wait).await;
    }
    drop(seat);
}
