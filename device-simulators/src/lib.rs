//! p
pub mod devices;
pub mod ledger;
pub mod runs;
pub mod uplinks;
