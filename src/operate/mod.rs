//! Running a gateway: its configuration, what is checked before it starts, its metrics and admin port, its end.
//!
//! [`config`] composes the rooms' own settings; [`start`] looks at all of them before anything runs, at [`descriptors`] and at
//! limits of the [`kernel`]; [`check`] is that without the run. [`health`] asks a gateway that runs, [`drain_spool`] sends what
//! one left behind, [`tail`] shows what was delivered, [`identities`] changes who may write, [`topics`] what Kafka has for it. [`metrics`], [`clock`], [`mistake`],
//! [`networks`], [`rate_limit`], [`secret`], [`spelling`], [`log_limit`] and [`watch`] are nouns that every room may use; the
//! other modules stand beside `gateway` and may know the rooms.

pub mod config;

pub mod start;

pub mod check;

pub mod descriptors;

pub mod drain_spool;

pub mod health;

pub mod identities;

pub mod kernel;

pub mod metrics;

pub mod admin;

pub mod shutdown;

pub mod state;

pub mod tail;

pub mod topics;

// --- small things that every room may use
pub mod clock;

pub mod log_limit;

pub mod mistake;

pub mod networks;

pub mod rate_limit;

pub mod secret;

pub mod spelling;

pub mod watch;
