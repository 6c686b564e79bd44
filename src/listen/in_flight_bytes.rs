//! Permits: how many bytes of messages may be in flight at once.
//!
//! A permit is acquired when a message has arrived whole, and travels in its receipt, so it returns when the answer is known.
//! Without a free one MQTT stops reading the socket, HTTP says 503, CoAP says 5.03. What large messages need before they have
//! arrived whole is [`incomplete`](super::incomplete)'s.

use std::sync::Arc;

use bytesize::ByteSize;
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::incomplete::Budget;
use super::tcp::admission;
use crate::listen::metrics::AdmissionMetrics;
use crate::receipt::InFlightPermit;

/// The `[limits]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Maximum bytes of messages that are whole and not yet answered, over all protocols.
    pub in_flight_bytes: ByteSize,
    /// Maximum bytes of messages that are still arriving, over MQTT and HTTP, until they are whole and count among those in
    /// flight; the first 4 KiB of each are free.
    pub incomplete_bytes: ByteSize,
    /// Maximum readings per message (JSON array, NDJSON).
    pub batch_readings: usize,
    /// Maximum rejected readings per device and minute that go to the dead-letter topic; of further ones 1 in 100 does,
    /// unless their answer may be positive.
    pub dead_letters_per_minute: u32,
    pub prefix: admission::Config,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            in_flight_bytes: ByteSize::mib(64),
            incomplete_bytes: ByteSize::mib(64),
            batch_readings: 10_000,
            dead_letters_per_minute: 600,
            prefix: admission::Config::default(),
        }
    }
}

/// The budget of bytes in flight, shared by all listeners.
#[derive(Clone, Debug)]
pub struct InFlightBytes {
    bytes: Arc<Semaphore>,
    bytes_max: u32,
    in_flight: IntGauge,
    incomplete: Budget,
}

impl InFlightBytes {
    /// The gauges are set to what is in flight whenever it is [observed](InFlightBytes::observe).
    pub fn new(config: &Config, metrics: &AdmissionMetrics) -> Self {
        metrics.in_flight_bytes_max.set(config.in_flight_bytes.as_u64() as i64);
        let incomplete = usize::try_from(config.incomplete_bytes.as_u64()).unwrap_or(usize::MAX / 2);
        let bytes_max = u32::try_from(config.in_flight_bytes.as_u64()).unwrap_or(u32::MAX);
        InFlightBytes {
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
            in_flight: metrics.in_flight_bytes.clone(),
            incomplete: Budget::new(incomplete, metrics),
        }
    }

    /// The budget of messages of which a part has arrived.
    pub fn incomplete(&self) -> &Budget {
        &self.incomplete
    }

    /// A permit for `bytes` now, or `None`: the budget is used up.
    pub fn try_bytes(&self, bytes: usize) -> Option<InFlightPermit> {
        self.bytes.clone().try_acquire_many_owned(self.clamped(bytes)).ok()
    }

    /// A permit for `bytes` as soon as so many are free. Cancel safe: a dropped future gives back its place in the queue.
    pub async fn bytes(&self, bytes: usize) -> InFlightPermit {
        let acquired = self.bytes.clone().acquire_many_owned(self.clamped(bytes)).await;
        acquired.expect("the budget is never closed")
    }

    /// Bytes in flight now; also written to the gauge.
    pub fn observe(&self) -> usize {
        self.incomplete.observe();
        let used = self.bytes_max as usize - self.bytes.available_permits();
        self.in_flight.set(used as i64);
        used
    }

    // A message larger than the whole budget uses all of it; its listener's size limit decides whether it may.
    fn clamped(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.bytes_max)
    }
}
