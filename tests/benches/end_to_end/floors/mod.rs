//! What a gateway cannot be cheaper than: servers and a producer that do one part of its work and nothing else.
//!
//! The sink is `device-simulators sink`; producer and HTTP handler are this benchmark itself, started once more.

pub mod producer;
mod sink;
pub mod web;

pub use sink::Sink;
pub use web::Web;
