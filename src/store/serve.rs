//! The store's own port: `/metrics`, `/livez`, `/readyz`. Read only, on loopback by default.
//!
//! `/livez` says that the process runs, `/readyz` that readings are stored now, or why not. It serves until the store has
//! stored what it has read.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::status::Status;
use crate::listen::addresses::ListenAddresses;
use crate::operate::metrics::Registry;

/// The addresses, bound.
pub struct Bound(Vec<(TcpListener, SocketAddr)>);

/// Nothing can listen there.
#[derive(Debug, thiserror::Error)]
#[error("store.listen: {address}: {source}")]
pub struct Error {
    address: SocketAddr,
    source: std::io::Error,
}

#[derive(Clone)]
struct Shown {
    registry: Arc<Registry>,
    status: Arc<Status>,
}

/// Binds the addresses, before anything starts.
///
/// # Errors
/// One of them cannot be listened on.
pub async fn bind(addresses: &ListenAddresses) -> Result<Bound, Error> {
    let mut bound = Vec::new();
    for &address in addresses.iter() {
        let error = |source| Error { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        bound.push((listener, address));
    }
    Ok(Bound(bound))
}

// === impl Bound ===

impl Bound {
    /// With the ports that were given for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(_, address)| *address).collect()
    }

    /// Serves until `closing`.
    pub fn serve(self, registry: Arc<Registry>, status: Arc<Status>, tasks: &TaskTracker, closing: &CancellationToken) {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .with_state(Shown { registry, status });
        for (listener, _) in self.0 {
            let served =
                axum::serve(listener, router.clone()).with_graceful_shutdown(closing.clone().cancelled_owned());
            tasks.spawn(async move {
                if let Err(error) = served.await {
                    warn!(%error, "the store's listener ended");
                }
            });
        }
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let text_format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, text_format)], shown.registry.encode()).into_response()
}

async fn readyz(State(shown): State<Shown>) -> Response {
    match shown.status.words() {
        Ok(said) => format!("{said}\n").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
