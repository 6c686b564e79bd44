//! A client's certificate, once its handshake has succeeded.
//!
//! It is looked at again whenever authorities or revocation lists change, on the threads of handshakes, so that a connection can
//! be closed whose certificate has been revoked.

use std::fmt::{self, Debug, Formatter};
use std::future::pending;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::in_force::InForce;
use crate::devices::CertificateNames;

/// See the module's documentation.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Its own first, then those of its issuers.
    chain: Arc<[CertificateDer<'static>]>,
    in_force: Arc<InForce>,
    changes: watch::Receiver<u64>,
}

// === impl ClientCertificate ===

impl ClientCertificate {
    /// One that is accepted. `changes`: from before it was verified.
    pub(super) fn new(
        chain: &[CertificateDer<'static>],
        in_force: Arc<InForce>,
        changes: watch::Receiver<u64>,
    ) -> Self {
        let chain = chain.into();
        ClientCertificate {
            chain,
            in_force,
            changes,
        }
    }

    /// By which its device is found.
    pub fn names(&self) -> CertificateNames {
        CertificateNames::of(self.chain.first().map_or(&[], |own| own.as_ref()))
    }

    /// Whether it is accepted now.
    pub fn is_accepted(&self) -> bool {
        self.in_force.accepts(&self.chain).is_ok()
    }

    /// Comes back once it is not accepted any more.
    pub async fn until_refused(mut self) {
        while self.changes.changed().await.is_ok() {
            let (in_force, chain) = (self.in_force.clone(), self.chain.clone());
            let looked = self.in_force.threads.spawn(async move { in_force.accepts(&chain) });
            if let Ok(Err(error)) = looked.await {
                self.in_force.note_closed(&error);
                return;
            }
        }
        pending().await
    }
}

impl Debug for ClientCertificate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({})", self.names().subject())
    }
}
