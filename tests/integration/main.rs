//! The promises of citygate, checked against a running gateway, real sockets and a real Kafka.
//!
//! One binary; each module is one promise, written as tables where it can be. `harness` starts gateways and Kafkas,
//! and checks the balance after every test: `received = delivered + spooled + rejected + busy`. Without Java
//! and Maven, tests that need no more than a Kafka protocol run on librdkafka's mock cluster, the others say SKIPPED;
//! `CITYGATE_REQUIRE_KAFKA=1` turns both into failures.

// A test may spawn tasks of its own: nothing drains it. And `unwrap` is how a test says what must not fail.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod harness;

mod accepts;

mod addresses;

mod admission;

mod admin;

mod rejects;

mod http;

mod bodies;

mod idempotency;

mod answered;

mod standards;

mod exactly_once;

mod outage;

mod unavailable;

mod spool;

mod spool_start;

mod spool_taken_away;

mod start;

mod descriptors;

mod dialect;

mod drain;

mod drain_spool;

mod health;

mod deadlines;

mod places;
mod refusals;

mod topics;

mod composed;

mod planned;

mod hostile;

mod incomplete;

mod balance;

mod leaderless;
mod links;

mod kinds;

mod bundled;

mod simulated;

mod identities;

mod who_may_send;

mod shares;

mod registry;

mod tail;

mod store;

mod store_again;

mod store_alerts;

mod store_exactly_once;

mod store_leader;

mod store_operated;

mod store_results;

mod corpus;

mod circles;
mod client_certificates;

mod tidy;

mod tls;

mod watched;
