//! What every listener is given: the pipeline, the budgets that they share, and how they are told to stop.
//!
//! One value, cloned per listener; the gateway makes it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::in_flight_bytes::InFlightBytes;
use super::metrics::Metrics;
use super::tcp::{Admission, Connections};
use crate::deliver::health::Health;
use crate::devices::Authenticator;
use crate::pipeline::Pipeline;

/// What every listener is given.
#[derive(Clone, Debug)]
pub struct Context {
    pub pipeline: Arc<Pipeline>,
    pub in_flight_bytes: InFlightBytes,
    /// Who may connect.
    pub admission: Admission,
    /// Verifies who sends; none where no identities are configured, and everybody is anonymous.
    pub authenticator: Option<Arc<Authenticator>>,
    /// Descriptors for the connections of all listeners.
    pub connections: Connections,
    pub metrics: Metrics,
    /// Whether Kafka accepts readings now; a listener that can push back without an answer (MQTT) does so while it is not.
    pub health: watch::Receiver<Health>,
    /// Every connection's task, so that the drain can wait for them.
    pub tasks: TaskTracker,
    /// The shutdown is announced: `/readyz` says no, everything else goes on.
    pub leaving: CancellationToken,
    /// Stop accepting connections and messages; answer what was accepted; then close.
    pub stopping: CancellationToken,
}
