//! Wills: what the server is to publish when a client is gone without a DISCONNECT [MQTT 5.0 §3.1.2.5, 3.1.1 §3.1.2.5].
//!
//! Nothing delivers them yet, so one that becomes due is counted and logged, and discarded. When it becomes due is kept to
//! the standard: as the connection ends, unless by DISCONNECT with reason 0; with MQTT 5 after the Will Delay Interval,
//! or when its session ends before that, and not at all if the client resumes its session in time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::packet::Will;
use crate::operate::log_limit::Repeats;

/// How often the number of those that were discarded is logged.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Counts and logs the wills that are due, and waits for those with a delay.
#[derive(Debug)]
pub struct Wills {
    discarded: IntCounter,
    repeats: Mutex<Repeats<std::time::Instant>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// A will that waits for its delay to pass. Dropped, its session has ended, and it is due.
#[derive(Debug)]
pub struct Delayed(oneshot::Sender<Resumed>);

#[derive(Debug)]
struct Resumed;

// === impl Wills ===

impl Wills {
    pub fn new(discarded: IntCounter, tasks: TaskTracker, stopping: CancellationToken) -> Arc<Self> {
        Arc::new(Wills {
            discarded,
            repeats: Mutex::new(Repeats::every(LOG_EVERY)),
            tasks,
            stopping,
        })
    }

    /// The connection of `client` has ended, and its will was not deleted; `session_kept` is how long its session is.
    pub fn connection_ended(self: &Arc<Self>, client: &str, will: Will, session_kept: Duration) -> Option<Delayed> {
        let delay = will.delay.min(session_kept);
        if delay.is_zero() {
            self.discard(client, &will);
            return None;
        }
        let (sender, resumed) = oneshot::channel();
        let (wills, client) = (self.clone(), client.to_owned());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                resumed = resumed => if let Ok(Resumed) = resumed {
                    return debug!(client, topic = will.topic, "mqtt will deleted: its client is back");
                },
                () = tokio::time::sleep(delay) => {}
                // Its session ends with the gateway.
                () = wills.stopping.cancelled() => {}
            }
            wills.discard(&client, &will);
        });
        Some(Delayed(sender))
    }

    fn discard(self: &Arc<Self>, client: &str, will: &Will) {
        self.discarded.inc();
        debug!(
            client,
            topic = will.topic,
            "mqtt will is due; the gateway does not deliver wills"
        );
        let mut repeats = self.repeats();
        let is_waited_for = repeats.next().is_some();
        repeats.add(1);
        if let Some(times) = repeats.due(Instant::now().into_std()) {
            log(times);
        }
        if let Some(at) = repeats.next().filter(|_| !is_waited_for) {
            self.tasks.spawn(self.clone().log_at(at.into()));
        }
    }

    /// Logs what was counted until then; what is left when the gateway stops is logged when this is dropped.
    async fn log_at(self: Arc<Self>, at: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(at) => {
                if let Some(times) = self.repeats().due(Instant::now().into_std()) {
                    log(times);
                }
            }
            () = self.stopping.cancelled() => {}
        }
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats<std::time::Instant>> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wills {
    fn drop(&mut self) {
        if let Some(times) = self.repeats().rest() {
            log(times);
        }
    }
}

fn log(times: u64) {
    info!(times, "mqtt wills are due; the gateway does not deliver wills");
}

// === impl Delayed ===

impl Delayed {
    /// Its session is resumed [MQTT-3.1.3-9]; without effect if it was due already.
    pub fn delete(self) {
        drop(self.0.send(Resumed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Setup {
        wills: Arc<Wills>,
        discarded: IntCounter,
        tasks: TaskTracker,
        stopping: CancellationToken,
    }

    fn setup() -> Setup {
        let discarded = IntCounter::new("wills", "wills").unwrap();
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        Setup {
            wills: Wills::new(discarded.clone(), tasks.clone(), stopping.clone()),
            discarded,
            tasks,
            stopping,
        }
    }

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(20);

    impl Setup {
        fn ended(&self, delay: Duration, kept: Duration) -> Option<Delayed> {
            let topic = "t".to_owned();
            self.wills.connection_ended("c", Will { topic, delay }, kept)
        }

        // Once nothing waits any more.
        async fn discarded(&self) -> u64 {
            self.tasks.close();
            let waited = tokio::time::timeout(Duration::from_secs(60), self.tasks.wait());
            waited.await.expect("nothing waits");
            self.discarded.get()
        }
    }

    #[tokio::test]
    async fn a_will_is_due_after_its_delay_or_with_the_end_of_its_session() {
        const NOW: Duration = Duration::ZERO;
        for (delay, kept, after) in [
            (NOW, NOW, NOW),
            (NOW, LONG, NOW),
            (LONG, NOW, NOW),
            (SHORT, LONG, SHORT),
            (LONG, SHORT, SHORT),
        ] {
            let setup = setup();
            let start = Instant::now();
            let delayed = setup.ended(delay, kept);
            assert_eq!(
                delayed.is_some(),
                !after.is_zero(),
                "delay {delay:?}, session kept for {kept:?}"
            );
            assert_eq!(setup.discarded().await, 1);
            assert!(start.elapsed() >= after);
        }
    }

    #[tokio::test]
    async fn a_will_that_waits_is_deleted_by_its_client_and_due_with_its_session_and_with_the_gateway() {
        type End = fn(&Setup, Delayed) -> Option<Delayed>;
        let deleted: End = |_, delayed| {
            delayed.delete();
            None
        };
        let session_ended: End = |_, _dropped| None;
        let stopped: End = |setup, delayed| {
            setup.stopping.cancel();
            Some(delayed)
        };
        for (end, discarded) in [(deleted, 0), (session_ended, 1), (stopped, 1)] {
            let setup = setup();
            let delayed = setup.ended(LONG, LONG).expect("it waits");
            let _still_there = end(&setup, delayed);
            assert_eq!(setup.discarded().await, discarded);
        }
    }

    #[tokio::test]
    async fn how_many_are_discarded_is_logged_to_the_last() {
        for (interval, stopped, left) in [(SHORT, false, None), (LONG, true, Some(4999))] {
            let setup = setup();
            *setup.wills.repeats() = Repeats::every(interval);
            for _ in 0..5000 {
                assert!(setup.ended(Duration::ZERO, LONG).is_none());
            }
            if stopped {
                setup.stopping.cancel();
            }
            assert_eq!(setup.discarded().await, 5000);
            assert_eq!(setup.wills.repeats().rest(), left, "what is logged as this is dropped");
        }
    }
}
