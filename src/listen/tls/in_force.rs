//! The set that is in force on a listener, shared by its handshakes and by the connections that were accepted under it.
//!
//! Whoever waits learns when other clients are accepted. Certificates are verified on the threads of handshakes, which also many
//! of them at once do not take from readings.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use super::refused::Refused;
use super::set::Set;
use crate::operate::log_limit::LogLimit;

/// Certificates of open connections that are verified at once.
const VERIFIED_AT_ONCE: usize = 4;

/// See the module's documentation.
#[derive(Debug)]
pub struct InForce {
    /// As metrics and logs call it: `mqtt`, `http`.
    pub listener: &'static str,
    set: ArcSwap<Set>,
    /// How often it has changed which clients are accepted.
    changes: watch::Sender<u64>,
    logged: Mutex<LogLimit<Instant>>,
    /// A change has all connections verified: they do not keep handshakes waiting.
    turns: Semaphore,
    pub threads: &'static Handle,
}

impl InForce {
    pub fn new(listener: &'static str, set: Set, threads: &'static Handle) -> Self {
        InForce {
            listener,
            set: ArcSwap::from_pointee(set),
            changes: watch::channel(0).0,
            logged: Mutex::default(),
            turns: Semaphore::new(VERIFIED_AT_ONCE),
            threads,
        }
    }

    pub fn set(&self) -> Arc<Set> {
        self.set.load_full()
    }

    /// Puts another one in force.
    pub fn replace(&self, set: Arc<Set>) {
        let accepts_as_before = set.accepts_as(&self.set.load());
        self.set.store(set);
        if !accepts_as_before {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Told when other clients are accepted.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a client's chain is accepted now.
    ///
    /// # Errors
    /// It is not; why.
    pub fn accepts(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let set = self.set.load();
        set.trust.as_ref().map_or(Ok(()), |trust| trust.verify(chain))
    }

    /// The same for a connection that is open, on the threads of handshakes and in its turn.
    ///
    /// # Errors
    /// It is not; why.
    pub async fn accepts_on_threads(
        self: &Arc<Self>,
        chain: Arc<[CertificateDer<'static>]>,
    ) -> Result<(), rustls::Error> {
        let _turn = self.turns.acquire().await;
        let in_force = self.clone();
        let looked = self.threads.spawn(async move { in_force.accepts(&chain) });
        // The threads end with the process, and it with every connection.
        looked.await.unwrap_or(Ok(()))
    }

    /// A connection is closed, since its client's certificate is not accepted any more.
    pub fn note_closed(&self, error: &rustls::Error) {
        let reason = Refused::of(error).map_or("invalid", Refused::label);
        if self.may_log("closed") {
            warn!(
                listener = self.listener,
                reason, "a client certificate is not accepted any more; its connections are closed"
            );
        }
    }

    /// Once a minute for each cause.
    pub fn may_log(&self, cause: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.allows(Instant::now(), cause)
    }
}
