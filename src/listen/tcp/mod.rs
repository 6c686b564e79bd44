//! TCP for MQTT, HTTP and the admin port alike: from a bound address to a connection that counts among those permitted.
//!
//! [`listeners`] binds, [`accept`] accepts and hands out a [`Connection`] with its permit ([`permits`]); [`stall`] ends one
//! whose peer does not move, [`longest_idle`] one that makes room for the next, [`linger`] closes one so that its peer hears what
//! was sent last. Whoever connects is admitted first ([`gate`], [`admission`]), behind a balancer by the address that this names
//! ([`proxy`]). What wraps a stream, such as TLS, belongs into [`connection`].

pub mod accept;

pub mod admission;

pub mod connection;

pub mod gate;

pub mod linger;

pub mod listeners;

pub mod longest_idle;

pub mod permits;

pub mod proxy;

pub mod stall;

pub use accept::{Acceptor, WhenFull};
pub use admission::{Admission, Connecting};
pub use connection::Connection;
pub use gate::Gate;
pub use listeners::{BACKLOG, Listeners};
pub use longest_idle::{Closable, LongestIdle};
pub use permits::{ConnectionPermits, Connections};
pub use stall::StallTimeout;
