//! The city's devices beside real ones: do their figures move as real figures do?
//!
//! Each generator is compared with series that somebody measured (the corpus beside the repository, or wherever
//! `TEST_CORPUS` says): the mean day (Pearson's r of the 24 hourly means), the autocorrelation from one value to the
//! next, and the range from the 1st to the 99th percentile. The comparison is printed; `cargo test --test statistics --
//! --nocapture` shows it. Bounds are as wide as another climate or another country makes them, and no wider.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod comparison;
mod corpus;
mod energy;
mod series;
mod traffic;
mod weather;

/// The city that is looked at.
const SEED: u64 = 1;
