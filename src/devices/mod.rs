//! Who the devices are: their identities, what they prove them with, and what they may write.
//!
//! A folder of files ([`files`]) is read into a [`Register`], which is replaced as a whole when a file changes ([`reload`]); the one
//! before stays in force while a file has a mistake. [`Devices`] is what others hold. Who sends is *established* by a
//! listener, with [`authenticate`], *known* here, and *judged* in the pipeline, by [`authorize`](crate::authorize). Another source, such as
//! a database, would make registers of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub mod authenticate;

pub mod certificate;

pub mod config;

pub mod credential;

pub mod device;

mod distinguished_name;

pub mod files;

pub mod metrics;

mod password_checks;

pub mod place;

pub mod rate;

pub mod record;

pub mod register;

pub mod reload;

pub use authenticate::{Authenticator, Claim, Denied, Proven};
pub use certificate::CertificateNames;
pub use config::Config;
pub use device::Device;
pub use metrics::Metrics;
pub use register::Register;

/// The register in force.
#[derive(Debug)]
pub struct Devices {
    register: ArcSwap<Register>,
    // How many registers there have been.
    changes: watch::Sender<u64>,
    mistakes: Mutex<Option<String>>,
}

// === impl Devices ===

impl Devices {
    pub fn new(register: Register) -> Self {
        Devices {
            register: ArcSwap::from_pointee(register),
            changes: watch::channel(0).0,
            mistakes: Mutex::default(),
        }
    }

    /// All devices as they are now.
    pub fn register(&self) -> Arc<Register> {
        self.register.load_full()
    }

    /// Whether there is a device with this id.
    pub fn has(&self, id: &str) -> bool {
        self.register.load().find(id).is_some()
    }

    /// Puts another register in force, and tells whoever subscribed.
    pub fn replace(&self, register: Register) {
        self.register.store(Arc::new(register));
        *self.lock() = None;
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The register in force is what it should be.
    pub fn are_in_order(&self) {
        *self.lock() = None;
    }

    /// The register in force stays, since there is something wrong with the next.
    pub fn not_replaced(&self, why: String) {
        *self.lock() = Some(why);
    }

    /// What is wrong with the register that should be in force, if it is another one.
    pub fn mistakes(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.mistakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notified of every replacement.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
