//! Messages of which a part has arrived: the memory that they may use together, and how slowly the rest may come.
//!
//! Bytes are charged as they arrive, never for what is only announced.
//! * The first [`FREE_BYTES`] of a message are free: the connection limits bound them, and nearly every reading is smaller.
//!   While the budget is used up, a connection that has none of it is read no further than that.
//! * All others together have `limits.incomplete_bytes`. It may be exceeded by what one read brings, per thread; by what a
//!   message that waits brought before: what it had when it was charged first, and the [`SPARE_BYTES`] (or what else its
//!   listener reads at once) by which it was seen that there is more; and by one message of the largest size.
//!
//! A message with data that exceed the budget waits and is not read ([`budget`], [`messages`]); while messages wait, others
//! are evicted ([`evict`]). A peer is an IPv4 address or an IPv6 network of 64 bits: many devices may be behind it, so its
//! share is enforced only while others wait. A small message never comes here, and locks nothing. [`arrival`] is the whole
//! of it as MQTT and HTTP see it, [`rate`] the lowest rate at which a message may arrive.

pub mod arrival;

pub mod budget;

mod evict;

mod evicted;

mod messages;

pub mod rate;

pub use budget::{Budget, Charge, PeerBudget};
pub use evicted::Evicted;
pub use messages::{FREE_BYTES, SPARE_BYTES};

#[cfg(test)]
mod tests;
