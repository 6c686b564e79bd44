//! What the handle and the writer share: the queue, the ledger, and figures.
//!
//! Whoever finds that the spool can promise nothing more says so here (*failed*), whatever happens to the rest.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use super::budget::Budget;
use super::damage::Damage;
use super::disk::Disk;
use super::error::Error;
use super::ledger::Ledger;
use super::lock::locked;
use super::presence::Kept;
use super::queue::{Queue, State};
use super::rescue::Rescue;
use crate::operate::clock::Clock;

/// What the handle and the writer share.
#[derive(Debug)]
pub struct Shared<T> {
    pub(super) folder: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Mutex<Queue<T>>,
    /// Something is in the queue, or the spool closes.
    pub(super) wake: Condvar,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) budget: Budget,
    pub(super) failed: OnceLock<String>,
    /// The low-water mark moved since the writer looked.
    pub(super) committed: AtomicBool,
    pub(super) last_fsync_us: AtomicU64,
    pub(super) fsyncs: AtomicU64,
    pub(super) fsyncs_us: AtomicU64,
    pub(super) damaged_places: AtomicU64,
    pub(super) damaged_entries: AtomicU64,
    pub(super) shortages: AtomicU64,
    pub(super) kept: Kept,
    pub(super) rescue: Mutex<Rescue>,
}

// === impl Shared ===

impl<T> Shared<T> {
    pub(super) fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// From now on nothing is accepted. Only the first reason counts.
    pub(super) fn fail(&self, why: &str) {
        {
            let mut queue = locked(&self.queue);
            if queue.state == State::Failed {
                return;
            }
            queue.state = State::Failed;
            queue.room = 0;
        }
        tracing::error!(
            why,
            "the spool failed: it accepts nothing more until the gateway is started again"
        );
        // Set once: of two threads that find a reason, the second has returned above.
        self.failed.set(why.to_owned()).ok();
    }

    pub(super) fn fsynced(&self, took: Duration) {
        let us = took.as_micros() as u64;
        self.last_fsync_us.store(us, Ordering::Relaxed);
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.fsyncs_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Counts and logs a damaged place.
    pub(super) fn report(&self, damage: &Damage) {
        self.damaged_places.fetch_add(1, Ordering::Relaxed);
        self.damaged_entries.fetch_add(damage.entries(), Ordering::Relaxed);
        damage.log();
    }

    /// To be called before the spool fails: whoever sees that must see this.
    pub(super) fn rescue_begins(&self) {
        locked(&self.rescue).is_running = true;
    }

    pub(super) fn rescue_ends(&self) {
        let mut rescue = locked(&self.rescue);
        (rescue.is_running, rescue.waits_for) = (false, None);
    }

    /// Something was done; now and then it is logged how much.
    pub(super) fn rescue_steps(&self, bytes: u64) {
        let mut rescue = locked(&self.rescue);
        rescue.steps += 1;
        rescue.bytes += bytes;
        if rescue.waits_for.take().is_some() || rescue.logs() {
            tracing::info!(bytes = rescue.bytes, "the readings of the spool are being written anew");
        }
    }

    pub(super) fn rescue_waits(&self, error: &Error) {
        let mut rescue = locked(&self.rescue);
        rescue.waits_for = Some(error.to_string());
        if rescue.logs() {
            tracing::error!(
                %error,
                "the readings of the spool cannot be written anew yet, and some may be in open files alone: make room, \
                 and do not end the gateway; while kafka is up, it is sent what there is"
            );
        }
    }
}
