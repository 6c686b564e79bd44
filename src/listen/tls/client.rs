//! A client's certificate, once its handshake has succeeded.
//!
//! It is looked at again whenever authorities or revocation lists change, and when it ends, on the threads of handshakes, so that a
//! connection can be closed whose certificate has been revoked or has expired.

use std::fmt::{self, Debug, Formatter};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::timeout;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::in_force::InForce;
use crate::devices::CertificateNames;
use crate::operate::clock::wall_s;

/// The clock may be set meanwhile: at least this often the end of a certificate is compared with it.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(60 * 60);

/// Instead of a number of changes: it was not verified since the handshake.
const NEVER: u64 = u64::MAX;

/// See the module's documentation.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Its own first, then those of its issuers.
    chain: Arc<[CertificateDer<'static>]>,
    /// The last second of its validity, since 1970.
    not_after_s: i64,
    in_force: Arc<InForce>,
    changes: watch::Receiver<u64>,
    /// Under which of the changes it was last accepted.
    accepted_under: Arc<AtomicU64>,
}

// === impl ClientCertificate ===

impl ClientCertificate {
    /// One that is accepted. `changes`: from before it was verified.
    pub(super) fn new(
        chain: &[CertificateDer<'static>],
        in_force: Arc<InForce>,
        changes: watch::Receiver<u64>,
    ) -> Self {
        // One that cannot be read is not accepted any more, as one that has ended.
        let not_after_s = chain.first().map_or(0, |own| {
            X509Certificate::from_der(own).map_or(0, |(_, own)| own.validity().not_after.timestamp())
        });
        ClientCertificate {
            chain: chain.into(),
            not_after_s,
            in_force,
            changes,
            accepted_under: Arc::new(AtomicU64::new(NEVER)),
        }
    }

    /// By which its device is found.
    pub fn names(&self) -> CertificateNames {
        CertificateNames::of(self.chain.first().map_or(&[], |own| own.as_ref()))
    }

    /// Whether it is accepted now. It is verified again only if authorities or lists have changed.
    pub fn is_accepted(&self) -> bool {
        // Before it is verified: a change meanwhile is noticed the next time.
        let changes = *self.changes.borrow();
        if self.accepted_under.load(Ordering::Relaxed) == changes && wall_s() <= self.not_after_s {
            return true;
        }
        let is_accepted = self.in_force.accepts(&self.chain).is_ok();
        if is_accepted {
            self.accepted_under.store(changes, Ordering::Relaxed);
        }
        is_accepted
    }

    /// Comes back once it is not accepted any more.
    pub async fn until_refused(mut self) {
        loop {
            match timeout(self.rest(), self.changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return pending().await,
                Err(_) if wall_s() <= self.not_after_s => continue,
                Err(_) => {}
            }
            if let Err(error) = self.in_force.accepts_on_threads(self.chain.clone()).await {
                self.in_force.note_closed(&error);
                return;
            }
        }
    }

    /// How long to wait until it is looked at, whatever changes.
    fn rest(&self) -> Duration {
        let seconds = self.not_after_s.saturating_add(1).saturating_sub(wall_s());
        Duration::from_secs(seconds.max(1).unsigned_abs()).min(LOOKED_AT_EVERY)
    }
}

impl Debug for ClientCertificate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({})", self.names().subject())
    }
}
