//! Verifies passwords, few at once: each costs tens of milliseconds of CPU and, usually, 19 MiB of memory.
//!
//! Whoever has no password to verify waits as long for a permit, and has it as long, so that neither time nor words tell who has
//! one. No check begins that could not end in time: under a storm those that begin also end, and are remembered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};
use zeroize::Zeroizing;

use super::Device;
use super::credential::{Credential, Digest, Memory};

/// How long a check is expected to take before one has been made.
const EXPECTED: Duration = Duration::from_millis(50);

/// See the module's documentation.
#[derive(Debug)]
pub struct PasswordChecks {
    permits: Arc<Semaphore>,
    /// Of those that are not under way.
    memories: Arc<Mutex<Vec<Memory>>>,
    /// What the last check took, in microseconds.
    last_us: Arc<AtomicU64>,
}

/// There was no permit in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl PasswordChecks {
    /// At most `max` at once.
    pub fn new(max: usize) -> Self {
        PasswordChecks {
            permits: Arc::new(Semaphore::new(max.max(1))),
            memories: Arc::default(),
            last_us: Arc::new(AtomicU64::new(EXPECTED.as_micros() as u64)),
        }
    }

    /// Which password of the device it is, which is then remembered as `digest`. `None`: none of them, or it has none.
    ///
    /// # Errors
    /// It cannot be known by `due`.
    pub async fn verify(
        &self,
        device: Option<&Arc<Device>>,
        secret: &[u8],
        digest: Digest,
        due: Instant,
    ) -> Result<Option<Credential>, Busy> {
        let expected = Duration::from_micros(self.last_us.load(Ordering::Relaxed));
        let latest = due.checked_sub(expected).unwrap_or(due);
        let permit = timeout_at(latest, self.permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(Busy) };
        let Some(device) = device.filter(|device| device.passwords().next().is_some()) else {
            sleep_until((Instant::now() + expected).min(due)).await;
            return Ok(None);
        };
        let (device, last_us, memories) = (device.clone(), self.last_us.clone(), self.memories.clone());
        let secret = Zeroizing::new(secret.to_vec());
        let check = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let began = Instant::now();
            let mut memory = lock(&memories).pop().unwrap_or_default();
            let found = device.verify(&secret, digest, &mut memory);
            lock(&memories).push(memory);
            last_us.store(began.elapsed().as_micros() as u64, Ordering::Relaxed);
            found
        });
        let found = timeout_at(due, check).await.map_err(|_| Busy)?;
        Ok(found.ok().flatten())
    }

    #[cfg(test)]
    pub(super) fn permits(&self) -> Arc<Semaphore> {
        self.permits.clone()
    }
}

fn lock(memories: &Mutex<Vec<Memory>>) -> MutexGuard<'_, Vec<Memory>> {
    memories.lock().unwrap_or_else(PoisonError::into_inner)
}
