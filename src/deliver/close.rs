//! How deliver ends: Kafka is waited for, then the spool, and what stays behind is said.
//!
//! A deadline bounds what is waited for: a disk that hangs does not hold up the end. Only while acknowledged readings are
//! being written anew (their files were removed or moved) the end waits as long as there is progress.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::Deliver;
use super::spool::{self, Spool};

/// The spool has so long to write what it was given, however late it is.
const CLOSE_TIME_MIN: Duration = Duration::from_secs(1);
/// A rescue that has done nothing for so long is not waited for. Its writer gives up sooner, and says what that means.
const RESCUE_TIMEOUT: Duration = Duration::from_secs(30);
/// The same while the replay still runs, and after that the writer tries for the last time.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Watches a rescue: is there progress?
struct Progress {
    steps: u64,
    uncommitted: u64,
    moved_at: Instant,
}

// === impl Deliver ===

impl Deliver {
    /// Waits until Kafka has confirmed all records, at most for `deadline`; the rest is spooled, or answered busy without
    /// a spool. False: the spool's disk did not write what it was given in time. Blocks the calling thread; longer than
    /// `deadline` only while the spool's readings are being written anew.
    pub fn close(&self, deadline: Duration) -> bool {
        if let Some(store) = self.dispatch.store() {
            // The replay goes on meanwhile: what Kafka has needs no place on disk.
            wait_for_rescue(&store.spool);
        }
        let began = Instant::now();
        self.health.close();
        let threads = self.pump.lock().unwrap_or_else(PoisonError::into_inner).take();
        let watch = threads.map(|(pump, watch)| {
            pump.stop();
            watch
        });
        self.dispatch.close(began);
        // With a spool there is no need to wait for an unavailable Kafka.
        let spooling = self.dispatch.store().is_some();
        let timeout = if spooling && !self.health.is_up() {
            Duration::ZERO
        } else {
            deadline / 2
        };
        // Nor for partitions that stall: what they hold up is in the spool.
        self.kafka.close(timeout, || !self.dispatch.awaits_only_stalled());
        let left = deadline.saturating_sub(began.elapsed()).max(CLOSE_TIME_MIN);
        let written = self
            .dispatch
            .store()
            .is_none_or(|store| close_spool(&store.spool, left));
        if let Some(store) = self.dispatch.store().filter(|_| written) {
            self.say_what_stays(&store.spool.status());
        }
        if let Some(watch) = watch {
            watch.stop();
        }
        self.dispatch.give_up();
        info!(elapsed = ?began.elapsed(), waiting = self.dispatch.waiting(), "deliver is closed");
        written
    }

    fn say_what_stays(&self, spool: &spool::Status) {
        if spool.failed.is_some() {
            // Its files may have been removed after the last look of the pump.
            self.failed.cancel();
        }
        let rescued = self.dispatch.store().and_then(|store| store.spool.rescue().folder);
        // If files were removed or moved, it was said what happened to which.
        if spool.uncommitted_entries > 0 && rescued.is_none() {
            warn!(
                readings = spool.uncommitted_entries,
                bytes = spool.uncommitted_bytes,
                folder = %self.spool_folder.display(),
                "readings stay in the spool; the next start sends them to kafka"
            );
        }
    }
}

fn wait_for_rescue<T: Send + 'static>(spool: &Spool<T>) {
    let mut progress = Progress::of(spool);
    while spool.rescue().is_running && progress.is_within(spool, REPLAY_TIMEOUT) {
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Closes the spool, but waits no longer than this for its disk, unless it saves readings. False: it did not write what
/// it was given.
fn close_spool<T: Send + 'static>(spool: &Arc<Spool<T>>, within: Duration) -> bool {
    let (closed, is_closed) = std::sync::mpsc::channel();
    let closing = spool.clone();
    let close = move || {
        closing.close();
        closed.send(()).ok();
    };
    if let Err(error) = std::thread::Builder::new().name("spool-close".into()).spawn(close) {
        warn!(%error, "no thread to close the spool from");
        spool.close();
        return true;
    }
    // Since when it waits for no more than the disk: what was saved is synced behind the last of it.
    let mut since = Instant::now();
    let mut progress = Progress::of(spool);
    loop {
        match is_closed.recv_timeout(LOOK_INTERVAL) {
            Err(RecvTimeoutError::Timeout) => {}
            closed => return closed.is_ok(),
        }
        let rescue = spool.rescue();
        let waits = match rescue.is_running {
            true => {
                since = Instant::now();
                progress.is_within(spool, RESCUE_TIMEOUT)
            }
            false => since.elapsed() < within,
        };
        if !waits {
            let status = spool.status();
            match rescue.is_running {
                true => error!(
                    readings = status.uncommitted_entries,
                    bytes_saved = rescue.bytes,
                    "the disk of the spool hangs while its readings are being written anew; those in open files alone are lost"
                ),
                false => error!(
                    readings = status.queued_entries,
                    bytes = status.queued_bytes,
                    "the disk of the spool hangs; what waited for it is answered busy, and may be lost or written"
                ),
            }
            return false;
        }
    }
}

// === impl Progress ===

impl Progress {
    fn of<T: Send + 'static>(spool: &Spool<T>) -> Self {
        Progress {
            steps: spool.rescue().steps,
            uncommitted: spool.uncommitted_entries(),
            moved_at: Instant::now(),
        }
    }

    /// Whether something was copied or replayed in this time.
    fn is_within<T: Send + 'static>(&mut self, spool: &Spool<T>, timeout: Duration) -> bool {
        let now = Progress::of(spool);
        if (now.steps, now.uncommitted) != (self.steps, self.uncommitted) {
            *self = now;
        }
        self.moved_at.elapsed() < timeout
    }
}

#[cfg(test)]
mod tests {
    use super::super::spool::tests::{FailingDisk, append_all, config, start};
    use super::*;

    #[test]
    fn the_end_waits_for_readings_that_a_slow_disk_still_writes_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let disk = FailingDisk::default();
        let (spool, _, results) = start(&config, Arc::new(disk.clone())).unwrap();
        append_all(&spool, &results, 0..200);
        let spool = Arc::new(spool);
        // Four segments, each of several writes and a sync.
        disk.slow(Duration::from_millis(800));
        std::fs::remove_dir_all(&config.folder).unwrap();
        let began = Instant::now();
        let timeout = Duration::from_secs(3);
        assert!(close_spool(&spool, timeout));
        let took = began.elapsed();
        assert!(took > timeout, "{took:?}: the disk was not slow");
        drop(spool);
        let (_, recovery, _) = start(&config, Arc::new(FailingDisk::default())).unwrap();
        assert_eq!(recovery.entries, 200);
    }

    #[test]
    fn the_end_does_not_wait_for_a_disk_that_hangs() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FailingDisk::default();
        let (spool, _, results) = start(&config(folder.path()), Arc::new(disk.clone())).unwrap();
        append_all(&spool, &results, 0..3);
        let spool = Arc::new(spool);
        disk.slow(Duration::from_secs(2));
        spool.append(vec![1], 3).unwrap();
        let began = Instant::now();
        assert!(!close_spool(&spool, Duration::from_millis(200)));
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}
