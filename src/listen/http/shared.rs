//! What a request handler knows: of the listener, and of the request's connection.
//!
//! Both are made before the first request.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntCounter;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::idempotency::Keys;
use crate::devices::{CertificateNames, Proven};
use crate::listen::Context;
use crate::listen::incomplete::PeerBudget;
use crate::listen::tcp::Connecting;
use crate::message::{Identity, Origin, Protocol};

/// What this listener is called in the configuration and in logs.
pub const NAME: &str = "http";

/// What all requests share.
pub struct Shared {
    pub context: Context,
    pub config: Config,
    pub keys: Arc<Keys>,
    /// Of the one status that nearly all responses have.
    pub no_content: IntCounter,
}

/// What a request handler knows of its connection.
pub struct Connection {
    pub peer: SocketAddr,
    /// Of the certificate that its client has shown.
    pub certificate: Option<CertificateNames>,
    /// Of incomplete messages, as its peer finds it.
    pub budget: PeerBudget,
    /// Of its own: all connections would wait for each other at a common one.
    pub stopping: CancellationToken,
    /// An answer ended it before its request was read to the end.
    pub unread: AtomicBool,
    /// Whether a request of it is with its handler; one at a time is.
    pub handling: AtomicBool,
    /// Until a sender was accepted, it counts among those that have not said who they are.
    pub connecting: Mutex<Connecting>,
}

impl Connection {
    /// The head of a request was accepted, and its sender.
    pub fn has_said_who_it_is(&self) {
        *self.connecting.lock().unwrap_or_else(PoisonError::into_inner) = Connecting::default();
    }

    /// Of a message that is received now, from who has proved to be this.
    pub fn origin<'a>(&self, sender: Option<&'a Proven>) -> Origin<'a> {
        Origin {
            identity: sender.map_or(Identity::Anonymous, |sender| Identity::Device(&sender.device)),
            ..Origin::anonymous(Protocol::Http, NAME, self.peer)
        }
    }
}
