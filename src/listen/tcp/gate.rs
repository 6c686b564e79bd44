//! Whom a listener lets in, and as whom: by the limits of its address prefix, or of the one that a balancer names.
//!
//! Both are looked at before anything else of a connection is read. Without limits everybody is let in (the admin port).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus::{IntCounter, IntCounterVec};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::admission::{Admission, Admitted, Connecting, ListenerAdmission};
use super::proxy;
use crate::operate::log_limit::LogLimit;
use crate::operate::networks::Networks;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Gate {
    listener: &'static str,
    /// None: everybody.
    admission: Option<ListenerAdmission>,
    /// Balancers, which say for whom they connect.
    balancers: Networks,
    failed: Option<IntCounter>,
    logged: Arc<Mutex<LogLimit<Instant>>>,
}

// === impl Gate ===

impl Gate {
    /// `balancers` must send a PROXY protocol header; what came of those that did not is counted in `failed`.
    pub fn new(listener: &'static str, admission: &Admission, balancers: Networks, failed: &IntCounterVec) -> Self {
        Gate {
            listener,
            admission: Some(admission.of(listener)),
            balancers,
            failed: Some(failed.with_label_values(&[listener, "proxy_protocol"])),
            logged: Arc::default(),
        }
    }

    /// Lets everybody in.
    pub fn open(listener: &'static str) -> Self {
        Gate {
            listener,
            admission: None,
            balancers: Networks::default(),
            failed: None,
            logged: Arc::default(),
        }
    }

    pub fn is_balancer(&self, peer: SocketAddr) -> bool {
        !self.balancers.is_empty() && self.balancers.contains(peer.ip())
    }

    /// See [`ListenerAdmission::admit`].
    pub fn admit(&self, peer: SocketAddr) -> Option<(Admitted, Connecting)> {
        match &self.admission {
            Some(admission) => admission.admit(peer),
            None => Some(Default::default()),
        }
    }

    /// For whom a balancer connects, or itself. `None`: it does not say, which is counted.
    pub async fn source(&self, stream: &mut TcpStream, balancer: SocketAddr) -> Option<SocketAddr> {
        // Loopback has no limits, and nobody is there who has connected to the balancer.
        let is_elsewhere = |source: &SocketAddr| !source.ip().to_canonical().is_loopback();
        match proxy::source(stream).await {
            Ok(source) => Some(source.filter(is_elsewhere).unwrap_or(balancer)),
            Err(error) => {
                self.failed.iter().for_each(|failed| failed.inc());
                let listener = self.listener;
                // Who says nothing may be a health check; who says something else shuts out every device behind it.
                if error.kind() == ErrorKind::InvalidData && self.may_log(balancer) {
                    warn!(%balancer, %error, listener, "connections of a balancer are closed: see proxy_protocol");
                } else {
                    debug!(%balancer, %error, listener, "PROXY protocol header not accepted");
                }
                None
            }
        }
    }

    /// Once a minute for each balancer.
    fn may_log(&self, balancer: SocketAddr) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.allows(Instant::now(), &balancer.ip().to_string())
    }
}
