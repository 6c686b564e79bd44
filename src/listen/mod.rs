//! The three listeners, and what they share.
//!
//! Each binds eagerly (so its address is known and reserved before anything starts), then serves until told to stop:
//! first it stops accepting and reading, answers everyone it owes an answer, and ends. What they share is small: the
//! [`Context`], two functions of the pipeline and a receipt. They differ exactly where it matters (order,
//! retransmission, replies), so there is no listener trait.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::deliver::health::Health;
use crate::operate::metrics::Metrics;
use crate::pipeline::Pipeline;

pub mod accept;

pub mod addresses;

pub mod admit;

pub mod arrival;

pub mod coap;

pub mod http;

pub mod incomplete;

pub mod linger;

pub mod mqtt;

pub mod pace;

pub mod patience;

mod tally;

pub mod tcp;

/// What every listener is given.
#[derive(Clone, Debug)]
pub struct Context {
    pub pipeline: Arc<Pipeline>,
    pub admit: admit::Admit,
    /// Descriptors for the connections of all listeners.
    pub connections: admit::Connections,
    pub metrics: Arc<Metrics>,
    /// Whether Kafka takes readings now; a listener that can push back without an answer (MQTT) does so while it is not.
    pub health: watch::Receiver<Health>,
    /// Every connection's task, so that the drain can wait for them.
    pub tasks: TaskTracker,
    /// The end is announced: `/readyz` says no, everything else goes on.
    pub leaving: CancellationToken,
    /// Stop accepting connections and messages; answer what was taken in; then close.
    pub stopping: CancellationToken,
}

/// A listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is in use, or not this machine's.
    #[error("{listener} cannot listen on {address}: {source}{}", advice(source))]
    Bind {
        listener: &'static str,
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    /// The system gives no thread, or no poll descriptor.
    #[error("{listener} has no thread of its own: {source}")]
    Thread {
        listener: &'static str,
        source: std::io::Error,
    },
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process listens there, perhaps a gateway that still runs",
        std::io::ErrorKind::AddrNotAvailable => "; it is not an address of this machine",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// Whether this machine has IPv6; if not, what needs it is left out, and this says so.
#[cfg(test)]
pub fn has_ipv6() -> bool {
    let bound = std::net::UdpSocket::bind("[::1]:0");
    if let Err(error) = &bound {
        eprintln!("no IPv6 here, which is not tested: {error}");
    }
    bound.is_ok()
}
