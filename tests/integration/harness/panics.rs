//! Counts panics outside the tests' own code: in the gateway, or in a library that it uses.
//!
//! A task that panics ends in silence, so that a test would not see it; the hook does.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static OUTSIDE_TESTS: AtomicU64 = AtomicU64::new(0);
static HOOK: Once = Once::new();

/// Starts counting; as often as you like.
pub fn watch() {
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A failed assertion is reported at the test's own line (`track_caller`).
            if !info.location().is_some_and(|place| place.file().contains("tests/")) {
                OUTSIDE_TESTS.fetch_add(1, Ordering::Relaxed);
            }
            default(info);
        }));
    });
}

/// Panics so far, in this process, that no test raised.
pub fn outside_tests() -> u64 {
    OUTSIDE_TESTS.load(Ordering::Relaxed)
}
