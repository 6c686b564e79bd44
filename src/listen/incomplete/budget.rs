//! The budget of bytes for incomplete messages: what each connection is charged, and how it waits.
//!
//! One lock for all connections; who only asks whether the budget is used up reads an atomic. The order of those that wait
//! is [`messages`](super::messages)', whom to evict for them [`evict`](super::evict)'s.

use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use prometheus::{IntCounter, IntGauge};
use strum::VariantArray;
use tokio::time::{Instant, Sleep};

use super::evict::CHECK_EVERY;
use super::evicted::Evicted;
use super::messages::{Messages, Turn};
use crate::listen::metrics::AdmissionMetrics;

/// The budget of all connections.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

/// The budget as one peer finds it.
#[derive(Clone, Debug)]
pub struct PeerBudget {
    budget: Budget,
    peer: IpAddr,
}

/// What one incomplete message is charged; it is returned when this is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    id: usize,
    bytes: usize,
    paused: bool,
    waits_since: Option<Instant>,
    // Set while this message waits and is the one that checks whether others can be evicted.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    // The same as in `messages`, for those that only ask whether it is full.
    used: AtomicUsize,
    messages: Mutex<Messages>,
    gauge: IntGauge,
    waits: IntCounter,
    evicted: Box<[IntCounter]>,
}

/// The address by which a peer's share is counted.
pub(super) fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

// === impl Budget ===

impl Budget {
    /// For `bytes_max` bytes.
    pub fn new(bytes_max: usize, metrics: &AdmissionMetrics) -> Self {
        metrics.incomplete_bytes_max.set(bytes_max as i64);
        let evicted = &metrics.incomplete_evicted_total;
        Budget(Arc::new(Shared {
            bytes_max,
            used: AtomicUsize::new(0),
            messages: Mutex::new(Messages {
                bytes_max,
                ..Messages::default()
            }),
            gauge: metrics.incomplete_bytes.clone(),
            waits: metrics.incomplete_waits_total.clone(),
            evicted: Evicted::VARIANTS
                .iter()
                .map(|&reason| evicted.with_label_values(&[<&str>::from(reason)]))
                .collect(),
        }))
    }

    pub fn for_peer(&self, address: IpAddr) -> PeerBudget {
        PeerBudget {
            budget: self.clone(),
            peer: peer_of(address),
        }
    }

    /// Bytes of incomplete messages now; also written to the gauge.
    pub fn observe(&self) -> usize {
        let used = self.0.used.load(Ordering::Relaxed);
        self.0.gauge.set(used as i64);
        used
    }

    // Runs `change` on the messages, and keeps what is read without the lock.
    fn with<T>(&self, change: impl FnOnce(&mut Messages) -> T) -> T {
        let mut messages: MutexGuard<'_, Messages> = self.0.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut messages);
        self.0.used.store(messages.used, Ordering::Relaxed);
        for (counter, count) in self.0.evicted.iter().zip(std::mem::take(&mut messages.evicted)) {
            if count > 0 {
                counter.inc_by(count);
            }
        }
        result
    }
}

// === impl PeerBudget ===

impl PeerBudget {
    /// Whether nothing more fits; one relaxed load.
    pub fn is_full(&self) -> bool {
        self.budget.0.used.load(Ordering::Relaxed) >= self.budget.0.bytes_max
    }

    /// Charges a message of which `bytes` have arrived. They are in memory already, so it never fails.
    pub fn charge(&self, bytes: usize) -> Charge {
        let id = self
            .budget
            .with(|messages| messages.insert(self.peer, bytes, Instant::now()));
        Charge {
            budget: self.budget.clone(),
            id,
            bytes,
            paused: false,
            waits_since: None,
            timer: None,
        }
    }
}

// === impl Charge ===

impl Charge {
    /// Charges `bytes` in all instead of what was charged before.
    pub fn arrived(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.bytes = bytes;
            self.budget
                .with(|messages| messages.arrived(self.id, bytes, Instant::now()));
        }
    }

    /// How many bytes may be read now; pending until any may. While the peer is read, call it before each attempt, also
    /// one that finds nothing: it wakes the task when the message is evicted.
    ///
    /// # Errors
    /// The message is evicted.
    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, Evicted>> {
        self.paused = false;
        loop {
            let now = Instant::now();
            let turn = self
                .budget
                .with(|messages| messages.turn(self.id, context.waker(), now));
            match turn {
                Turn::Read(bytes) => {
                    (self.waits_since, self.timer) = (None, None);
                    return Poll::Ready(Ok(bytes));
                }
                Turn::Evicted(why) => return Poll::Ready(Err(why)),
                Turn::Wait { checks } => {
                    if self.waits_since.is_none() {
                        self.waits_since = Some(now);
                        self.budget.0.waits.inc();
                    }
                    if !checks {
                        self.timer = None;
                        return Poll::Pending;
                    }
                }
            }
            match &mut self.timer {
                Some(timer) => {
                    ready!(timer.as_mut().poll(context));
                    timer.as_mut().reset(now + CHECK_EVERY);
                }
                none => *none = Some(Box::pin(tokio::time::sleep(CHECK_EVERY))),
            }
            self.budget.with(|messages| messages.evict_while_short(now));
        }
    }

    /// Since when it has data that exceed the budget.
    pub fn waits_since(&self) -> Option<Instant> {
        self.waits_since
    }

    /// The gateway does not read it now for reasons of its own: silence is not the peer's fault.
    pub fn pause(&mut self) {
        if !self.paused {
            self.paused = true;
            (self.waits_since, self.timer) = (None, None);
            self.budget.with(|messages| messages.pause(self.id));
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.with(|messages| messages.remove(self.id));
    }
}
