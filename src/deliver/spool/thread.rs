//! The thread around the writer: when its turns are due.
//!
//! The first entry after a while is written at once; what comes behind it, in groups: one every `commit_interval`, or
//! sooner when `commit_bytes` wait.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::lock::locked;
use super::presence::WATCH_INTERVAL;
use super::queue::State;
use super::shared::Shared;
use super::writer::{CURSOR_INTERVAL, Next, Writer};

/// The thread: a turn whenever a group is due or the upkeep wants one.
pub(super) fn run<T: Send + 'static>(mut writer: Writer<T>, commit_interval: Duration, commit_bytes: u64) {
    let shared = writer.shared.clone();
    // Whatever ends this thread early, nobody may go on waiting for it.
    let _guard = Guard(shared.clone());
    let mut last_group: Option<Duration> = None;
    let mut next = Next::Now;
    loop {
        let mut queue = locked(&shared.queue);
        loop {
            let now = shared.disk.uptime();
            // The first entry after a while is written at once; what comes behind it, in groups.
            let due = last_group.map_or(Duration::ZERO, |last| (last + commit_interval).saturating_sub(now));
            let waits = !queue.waiting.is_empty();
            let wait = match (waits, next) {
                _ if queue.closing => break,
                (true, _) if queue.bytes >= commit_bytes => break,
                (true, _) => due,
                (false, Next::Now) => break,
                (false, Next::After(wait)) => wait,
                (false, Next::Idle) if shared.committed.load(Ordering::SeqCst) => CURSOR_INTERVAL,
                (false, Next::Idle) => WATCH_INTERVAL,
            };
            if wait.is_zero() {
                break;
            }
            let waited = shared.wake.wait_timeout(queue, wait.min(Duration::from_secs(3600)));
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if timeout.timed_out() && !waits {
                break;
            }
        }
        let closing = queue.closing;
        if !queue.waiting.is_empty() {
            last_group = Some(shared.disk.uptime());
        }
        drop(queue);
        if closing {
            return writer.finish();
        }
        next = writer.turn();
    }
}

/// Fails the spool if the thread ends in any way but [`Writer::finish`].
struct Guard<T>(Arc<Shared<T>>);

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        let ended = locked(&self.0.queue).state.clone();
        if !matches!(ended, State::Closed | State::Failed) {
            self.0.fail("its writer ended unexpectedly");
        }
        self.0.rescue_ends();
    }
}
