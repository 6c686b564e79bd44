//! The spool's own locks: short ones, around state in memory.
//!
//! None is held while the disk works. That a holder panicked does not end the spool: what it guards is whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder panicked is not poisoned: every change under these locks is whole or not begun.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
