//! MQTT 3.1, 3.1.1 and 5: the accept loop, and what a connection may cost.
//!
//! Publishing only: a PUBACK (QoS 1) or PUBREC (QoS 2) leaves when its reading is safe, in packet order; a negative one
//! says why. Where MQTT 3.1.1 has no negative answer, a rejected reading is acknowledged once it is in the dead-letter
//! topic, and one that cannot be accepted is not acknowledged: its connection is closed, so that the device sends it
//! again.
//!
//! However a connection ends, what was accepted from it is answered first. Bridges (bit 7 of the protocol level) are served
//! as any client.
//!
//! What is not here, and how a client notices: subscriptions (refused in SUBACK), retained messages (the flag is
//! ignored), wills (counted and logged when they become due, and not delivered), enhanced
//! authentication (refused in CONNACK).
//! QoS 2 is once per packet id and content of a session, within the life of this gateway process.
//!
//! `packet` turns bytes into packets, `connect` opens a connection, `connection` runs it,
//! `acks` keeps the order of its answers, `qos2`, `sessions` and `wills` keep what outlives it.

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::debug;

mod acks;
mod aliases;
mod config;
mod connect;
mod connection;
mod counters;
pub mod metrics;
mod packet;
mod qos2;
mod sessions;
mod shared;
mod wills;
mod wire;

use super::Context;
use super::tcp::{Acceptor, Connection, ConnectionPermits, Gate, Listeners, WhenFull, linger};
use super::tls::Tls;
pub use config::Config;
use counters::Counters;
use sessions::Sessions;
use shared::{NAME, Shared};
use wills::Wills;

/// A listener that has its addresses and does not accept yet.
#[derive(Debug)]
pub struct Bound {
    listener: Listeners,
    config: Config,
}

/// Binds the addresses; nothing is accepted until [`Bound::serve`].
pub async fn bind(config: &Config) -> Result<Bound, super::Error> {
    Ok(Bound {
        listener: Listeners::bind(NAME, &config.listen)?.and_tls(NAME, &config.tls, &[])?,
        config: config.clone(),
    })
}

// === impl Bound ===

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

    /// Accepts until `context.stopping`; each connection is a task of `context.tasks`, and so is this loop.
    pub fn serve(self, context: Context) {
        let tasks = context.tasks.clone();
        tasks.spawn(accept_all(self, context));
    }
}

async fn accept_all(bound: Bound, context: Context) {
    let metrics = &context.metrics.mqtt;
    let counters = Counters::new(metrics);
    let permits = ConnectionPermits::new(
        bound.config.connections_max,
        context.connections.clone(),
        Some(metrics.mqtt_connections.clone()),
    );
    let mut acceptor = Acceptor::new(
        NAME,
        bound.listener,
        permits,
        WhenFull::Close(counters.refused()),
        Gate::new(
            NAME,
            &context.admission,
            bound.config.proxy_protocol.clone(),
            &context.metrics.admission.connections_refused_total,
        ),
        Some(metrics.mqtt_accept_failures_total.clone()),
        context.stopping.clone(),
    );
    if let Some(tls) = acceptor.tls() {
        let keep = tls.clone().keep(context.metrics.tls.clone(), context.stopping.clone());
        context.tasks.spawn(keep);
    }
    let shared = Arc::new(Shared {
        sessions: Sessions::new(bound.config.sessions_max, metrics.mqtt_sessions_kept.clone()),
        wills: Wills::new(
            metrics.mqtt_wills_discarded_total.clone(),
            context.tasks.clone(),
            context.stopping.clone(),
        ),
        counters,
        config: bound.config,
        context,
    });
    while let Some(connection) = acceptor.next().await {
        shared.context.tasks.spawn(serve(connection, shared.clone()));
    }
}

async fn serve(connection: Connection, shared: Arc<Shared>) {
    let opened = connection.secured(&shared.context.metrics.tls);
    let opened = shared.context.stopping.run_until_cancelled(opened).await.flatten();
    let Some((connection, connecting)) = opened else { return };
    let peer = connection.peer();
    let certificate = connection.client_certificate().cloned();
    let budget = shared.context.in_flight_bytes.incomplete().for_peer(peer.ip());
    let wire = wire::Wire::new(connection, budget, shared.config.rate());
    let (wire, ended) = connection::serve(wire, peer, certificate, connecting, &shared).await;
    let connect::Ended { close, why, client_id } = ended;
    debug!(%peer, client = client_id, reason = close.label(), why, "mqtt connection closed");
    shared.counters.closed(close);
    if close.is_heard() {
        wire.close(linger::wait_max(shared.context.stopping.is_cancelled()))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_reserved_once() {
        let config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            ..Config::default()
        };
        let first = bind(&config).await.unwrap();
        let listen = first.addresses()[0];
        assert_ne!(listen.port(), 0);
        let taken = Config {
            listen: listen.into(),
            ..config
        };
        let error = bind(&taken).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("mqtt cannot listen on {listen}")),
            "{error}"
        );
    }
}
