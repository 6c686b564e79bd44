//! How many connections may be open at once: of one listener, and of all, which share the process's file descriptors.
//!
//! A permit travels with its connection and returns when that is dropped. A listener may have one in hand for the connection
//! that it waits for; only connections are counted as open.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many connections the file descriptors allow at once, over all listeners that share it.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Semaphore>);

/// How many connections a listener has at once.
#[derive(Clone, Debug)]
pub struct ConnectionPermits {
    max: usize,
    free: Arc<Semaphore>,
    descriptors: Connections,
    open: Option<IntGauge>,
}

/// The right to one connection; it returns when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    _descriptor: OwnedSemaphorePermit,
    open: Option<IntGauge>,
}

/// The permit of a connection that is open, and counted as such until it is dropped.
#[derive(Debug)]
pub struct Open(ConnectionPermit);

// === impl Connections ===

impl Connections {
    pub fn new(max: usize) -> Self {
        Connections(semaphore(max))
    }

    /// Connections that could be opened now.
    pub fn free(&self) -> usize {
        self.0.available_permits()
    }
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

// === impl ConnectionPermits ===

impl ConnectionPermits {
    /// At most `max`, and no more than `descriptors` has; `open` says how many connections are open.
    pub fn new(max: usize, descriptors: Connections, open: Option<IntGauge>) -> Self {
        ConnectionPermits {
            max,
            free: semaphore(max),
            descriptors,
            open,
        }
    }

    /// How many there are.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Connections that the file descriptors still allow.
    pub fn descriptors_free(&self) -> usize {
        self.descriptors.free()
    }

    /// A permit now, or `None`: all are in use.
    pub fn try_acquire(&self) -> Option<ConnectionPermit> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        let descriptor = self.descriptors.0.clone().try_acquire_owned().ok()?;
        Some(self.permit(permit, descriptor))
    }

    /// A permit as soon as one is free.
    pub async fn acquire(&self) -> ConnectionPermit {
        let open = "the semaphore is never closed";
        let permit = self.free.clone().acquire_owned().await.expect(open);
        let descriptor = self.descriptors.0.clone().acquire_owned().await.expect(open);
        self.permit(permit, descriptor)
    }

    fn permit(&self, permit: OwnedSemaphorePermit, descriptor: OwnedSemaphorePermit) -> ConnectionPermit {
        ConnectionPermit {
            _permit: permit,
            _descriptor: descriptor,
            open: self.open.clone(),
        }
    }
}

// === impl ConnectionPermit ===

impl ConnectionPermit {
    /// It is used now.
    pub fn open(self) -> Open {
        if let Some(open) = &self.open {
            open.inc();
        }
        Open(self)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(open) = &self.0.open {
            open.dec();
        }
    }
}
