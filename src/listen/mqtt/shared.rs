//! What all MQTT connections share.
//!
//! Made once, when the listener starts to serve.

use std::sync::Arc;

use super::config::Config;
use super::counters::Counters;
use super::sessions::Sessions;
use super::wills::Wills;
use crate::listen::Context;

/// What this listener is called in the configuration and in logs.
pub const NAME: &str = "mqtt";

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    pub context: Context,
    pub sessions: Arc<Sessions>,
    pub wills: Arc<Wills>,
    pub counters: Counters,
}
