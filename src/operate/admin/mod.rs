//! The operator's port: `/metrics`, `/livez`, `/readyz`, `/status`.
//!
//! Read only, on loopback by default, and served until the very end of the drain, so that the last scrape sees the last
//! answers. Who may read what is [`access`]'s business. `/livez` says that the process runs; `/readyz` that readings are accepted now, or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use strum::VariantArray;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

mod access;

mod config;

mod connections;

mod metrics;

use access::{Access, IsOperator, Operator, Peer, Scraper};
pub use config::Config;
use connections::AdminListener;
pub use metrics::AdminMetrics;

use crate::deliver::health::Health;
use crate::listen::tcp::{Acceptor, ConnectionPermits, Connections, Gate, Listeners, LongestIdle, WhenFull};
use crate::listen::tls::Tls;
use crate::listen::{self, Error};
use crate::message::Protocol;
use crate::operate::metrics::Registry;
use crate::outcome::OutcomeKind;

/// What this listener is called in the configuration and in logs.
const NAME: &str = "admin";

/// Connections open at once, of the addresses without TLS and again of those with it: whoever uses up the one leaves the other alone.
/// One more is accepted in the place of the one that has been idle longest.
const CONNECTIONS_MAX: usize = 16;

/// How many connections of this port may be open at once: as many descriptors are kept for them.
pub fn connections_max(config: &Config) -> usize {
    let groups = if config.tls.listen.is_some() { 2 } else { 1 };
    CONNECTIONS_MAX * groups
}

/// A bound admin port that does not serve yet.
#[derive(Debug)]
pub struct Bound {
    listener: Listeners,
    config: Config,
}

/// What it shows beside what the listeners have.
pub struct Shown {
    pub registry: Arc<Registry>,
    pub metrics: AdminMetrics,
    /// Where the other ports are.
    pub listeners: Value,
    pub tls: Vec<Arc<Tls>>,
}

#[derive(Clone)]
struct AdminState {
    front: listen::Context,
    registry: Arc<Registry>,
    listeners: Arc<Value>,
    tls: Arc<[Arc<Tls>]>,
    access: Arc<Access>,
    started: Instant,
}

impl FromRef<AdminState> for Arc<Access> {
    fn from_ref(state: &AdminState) -> Self {
        state.access.clone()
    }
}

/// Binds the addresses, so that they are known and reserved before anything starts.
pub async fn bind(config: &Config) -> Result<Bound, Error> {
    Ok(Bound {
        listener: Listeners::bind(NAME, &config.listen)?.and_tls(NAME, &config.tls, &[b"http/1.1"])?,
        config: config.clone(),
    })
}

impl Bound {
    /// Where it listens, with the ports that were given for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listener.addresses()
    }

    /// The first address that has TLS, and that.
    pub fn tls(&self) -> (Option<SocketAddr>, Option<&Arc<Tls>>) {
        (self.listener.tls_address(), self.listener.tls())
    }

    /// The addresses for people, who want to know which have TLS.
    pub fn listening(&self) -> String {
        self.listener.to_string()
    }

    /// Serves until `closing`.
    pub async fn serve(self, front: listen::Context, shown: Shown, closing: CancellationToken) {
        let tls = front.metrics.tls.clone();
        let tasks = TaskTracker::new();
        if let Some(own) = self.listener.tls() {
            tasks.spawn(own.clone().keep(tls.clone(), closing.clone()));
        }
        let state = AdminState {
            front,
            registry: shown.registry,
            listeners: Arc::new(shown.listeners),
            tls: shown.tls.into(),
            access: Arc::new(Access::new(&self.config, shown.metrics)),
            started: Instant::now(),
        };
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/status", get(status))
            .with_state(state);
        let listener = AdminListener::new(self.listener.addresses()[0]);
        for part in self.listener.by_tls() {
            let idle = LongestIdle::default();
            listener.add(acceptor(part, idle.clone(), closing.clone()), idle, &tls, &tasks);
        }
        let served = axum::serve(listener, router.into_make_service_with_connect_info::<Peer>())
            .with_graceful_shutdown(closing.cancelled_owned())
            .await;
        if let Err(error) = served {
            warn!(%error, "admin listener ended");
        }
    }
}

/// Accepts as many connections as are permitted, and then one more in the place of the one that has been idle longest.
fn acceptor(listeners: Listeners, idle: LongestIdle, closing: CancellationToken) -> Acceptor {
    let permits = ConnectionPermits::new(CONNECTIONS_MAX, Connections::new(CONNECTIONS_MAX), None);
    let when_full = WhenFull::Replace(idle);
    Acceptor::new(NAME, listeners, permits, when_full, Gate::open(NAME), None, closing)
}

async fn metrics(_: Scraper, State(state): State<AdminState>) -> Response {
    state.front.in_flight_bytes.observe();
    state.front.pipeline.deliver.observe();
    let text_format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, text_format)], state.registry.encode()).into_response()
}

/// An operator learns why, or what to look after; everybody else whether readings are accepted.
async fn readyz(IsOperator(is_operator): IsOperator, State(state): State<AdminState>) -> Response {
    let why = not_ready(&state.front);
    let status = match why {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let said = match why {
        Some(why) if is_operator => why,
        Some(_) => "not ready".to_owned(),
        None if is_operator => ready(&state.front),
        None => "ok".to_owned(),
    };
    (status, format!("{said}\n")).into_response()
}

/// That readings are accepted, and what to look after all the same.
fn ready(front: &listen::Context) -> String {
    let spooling = match &*front.health.borrow() {
        Health::Spooling(why) => Some(format!("readings are spooled: {why}")),
        _ => None,
    };
    let warnings = front.pipeline.deliver.warnings();
    let said = ["ok".to_owned()].into_iter().chain(spooling).chain(warnings);
    said.collect::<Vec<_>>().join("; ")
}

/// Why readings are not accepted now, if so.
fn not_ready(front: &listen::Context) -> Option<String> {
    // First, since it is why the gateway ends.
    if let Some(why) = front.pipeline.deliver.spool_failure() {
        return Some(format!("the spool failed: {why}"));
    }
    if front.leaving.is_cancelled() {
        return Some("the gateway is shutting down".into());
    }
    match &*front.health.borrow() {
        Health::Up | Health::Spooling(_) => None,
        Health::Starting => Some("kafka has not answered yet".into()),
        Health::Down(why) => Some(why.clone()),
    }
}

async fn status(_: Operator, State(state): State<AdminState>) -> Response {
    let front = &state.front;
    let kinds = front.pipeline.catalogue.snapshot();
    let kinds: Vec<_> = kinds
        .iter()
        .map(|kind| json!({ "kind": kind.name, "topic": kind.topic }))
        .collect();
    let why = not_ready(front);
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": state.started.elapsed().as_secs(),
        "ready": why.is_none(),
        "why_not_ready": why,
        "listeners": *state.listeners,
        "kinds": kinds,
        "kafka": match &*front.health.borrow() {
            Health::Up => "up".to_owned(),
            Health::Starting => "starting".to_owned(),
            Health::Spooling(why) | Health::Down(why) => why.clone(),
        },
        "kafka_unavailable": front.pipeline.deliver.kafka_unavailable(),
        "warnings": front.pipeline.deliver.warnings(),
        "spool": front.pipeline.deliver.describe_spool(),
        "readings": readings(front),
        "mqtt": {
            "connections": front.metrics.mqtt.mqtt_connections.get(),
            "unanswered": front.metrics.mqtt.mqtt_unanswered_total.get(),
        },
        "connections": {
            "mqtt_max": front.metrics.mqtt.mqtt_connections_max.get(),
            "http_max": front.metrics.http.http_connections_max.get(),
            "free": front.connections.free(),
        },
        "devices": devices(front),
        "recent_refusals": recent_refusals(front),
        "tls": tls(&state),
        "in_flight_bytes": front.in_flight_bytes.observe(),
        "coap": coap(front),
        "incomplete_bytes": front.in_flight_bytes.incomplete().observe(),
        "incomplete_waits": front.metrics.admission.incomplete_waits_total.get(),
    });
    ([(header::CONTENT_TYPE, "application/json")], format!("{body:#}\n")).into_response()
}

/// The identities in force, and what is wrong with their files; null where there are none.
fn devices(front: &listen::Context) -> Value {
    front.authenticator.as_ref().map_or(Value::Null, |authenticator| {
        let devices = authenticator.devices();
        json!({ "known": devices.register().len(), "mistakes": devices.mistakes() })
    })
}

/// Who was refused lately, the last one first.
fn recent_refusals(front: &listen::Context) -> Value {
    let all = front.pipeline.recent_refusals.list().into_iter();
    let all = all.map(|(sender, refused)| {
        json!({
            "sender": if sender.is_empty() { "(unknown)" } else { &sender },
            "times": refused.times,
            "protocol": refused.protocol.label(),
            "peer": refused.peer.to_string(),
            "reason": refused.reason,
            "detail": refused.detail,
            "at": Timestamp::from_millisecond(refused.at_ms).map(|at| at.to_string()).ok(),
        })
    });
    all.collect()
}

/// By listener, of those that have it.
fn tls(state: &AdminState) -> Value {
    let all = state.tls.iter().map(|tls| (tls.listener().to_owned(), tls.status()));
    Value::Object(all.collect())
}

/// What the CoAP listener remembers and could not.
fn coap(front: &listen::Context) -> Value {
    let metrics = &front.metrics.coap;
    json!({
        "peers": metrics.coap_peers.get(),
        "messages_remembered": metrics.coap_messages_remembered.get(),
        "remembered_bytes": metrics.coap_remembered_bytes.get(),
        "messages_forgotten": metrics.coap_messages_forgotten_total.get(),
        "own_addresses": metrics.coap_own_addresses.get(),
        "own_addresses_failed": metrics.coap_own_addresses_failed_total.get(),
    })
}

/// The balance in figures, over all kinds, by protocol.
fn readings(front: &listen::Context) -> Value {
    let mut protocols = Map::new();
    for &protocol in Protocol::VARIANTS {
        let totals = front.pipeline.tallies.totals(protocol);
        let outcomes = OutcomeKind::VARIANTS
            .iter()
            .zip(totals.outcomes)
            .map(|(&outcome, count)| (<&str>::from(outcome).to_owned(), count.into()));
        let mut figures: Map<String, Value> = outcomes.collect();
        figures.insert("received".into(), totals.received.into());
        protocols.insert(protocol.label().into(), Value::Object(figures));
    }
    Value::Object(protocols)
}
