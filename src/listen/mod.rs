//! The three listeners, and what they share.
//!
//! Each binds eagerly (so its address is known and reserved before anything starts), then serves until told to stop:
//! first it stops accepting and reading, sends every answer it owes, and ends. What they share is small: the [`Context`],
//! two functions of the pipeline and a receipt; MQTT, HTTP and the admin port also [`tcp`], MQTT and HTTP [`incomplete`].
//! They differ exactly where it matters (order, retransmission, replies), so there is no listener trait.

pub mod addresses;

pub mod in_flight_bytes;

pub mod coap;

mod context;

mod error;

pub mod http;

pub mod incomplete;

pub mod metrics;

pub mod mqtt;

mod shares;

pub mod tcp;

pub mod tls;

pub use context::Context;
pub use error::Error;
pub use metrics::Metrics;

/// Whether this machine has IPv6; if not, what needs it is left out, and this says so.
#[cfg(test)]
pub fn has_ipv6() -> bool {
    let bound = std::net::UdpSocket::bind("[::1]:0");
    if let Err(error) = &bound {
        eprintln!("no IPv6 here, which is not tested: {error}");
    }
    bound.is_ok()
}
