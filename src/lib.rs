//! citygate: a city's sensors in, validated Avro in Kafka out, acknowledged only when it is safe.
//!
//! # The walk of one reading
//! 1. [`listen`] reads a message off the wire (MQTT PUBLISH, CoAP POST/PUT, HTTP POST). [`listen::in_flight_bytes`] gives it a
//!    permit in bytes before it is accepted, so that pressure is pushed back instead of buffered without bound.
//! 2. [`pipeline`] is the whole path on one screen: [`decode`] finds the address, [`authorize`] says whether the sender may
//!    write there, [`decode`] splits batches, [`validate`] turns JSON into checked Avro in one pass, [`route`] names topic,
//!    key and headers.
//! 3. [`deliver`] hands the record to Kafka. A rejected message goes the same way, to the dead-letter topic, as far
//!    as its device's [`dead_letter_allowance`] reaches.
//! 4. The delivery report resolves the reading's [`receipt`]: the outcome is counted, the permit returned, and the
//!    answer posted to the connection that waits.
//! 5. The listener sends what [`acknowledge`] calls that outcome in its protocol, in the protocol's order.
//!
//! A positive answer therefore means the reading is safe, and `received = delivered + spooled + rejected + busy`
//! whenever nothing is in flight. [`store`] is another program's walk: from Kafka on, into PostgreSQL.
//!
//! # Who may know whom
//! [`gateway`] knows every room. `listen` knows `pipeline`, `acknowledge` and the health of `deliver`; `pipeline` knows the stages; `authorize`,
//! `decode`, `validate` and `route` know nouns only, and do no I/O. Only `listen` knows packets; only `deliver::kafka` knows the
//! producer. `tests/integration/tidy.rs` checks it.

// --- the composition
pub mod gateway;

#[cfg(feature = "demo")]
pub mod demo;

pub mod pipeline;

// --- stages, in the order in which a reading meets them
pub mod listen;

pub mod authorize;

pub mod decode;

pub mod validate;

pub mod route;

pub mod deliver;

pub mod acknowledge;

// --- behind Kafka
pub mod store;

// --- nouns, which the stages share
pub mod message;

pub mod receipt;

pub mod devices;

pub mod catalogue;

pub mod topics;

pub mod outcome;

pub mod dead_letter_allowance;

pub mod recent_refusals;

// --- running it
pub mod operate;
