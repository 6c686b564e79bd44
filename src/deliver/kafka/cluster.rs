//! What is asked of the cluster: metadata, settings of topics, and their creation.
//!
//! Metadata is asked for over the connections of whoever wants to know it, since the answer also says that these work.
//! Administrative requests have a client of their own for each, whose connection errors are returned to whoever asked.
//! All of it blocks for seconds at most, and none of it is on the path of a reading.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use tracing::debug;

use super::error::Error;
use crate::deliver::config::{Config, Mask};
use crate::deliver::reason::{Cause, Reason};

/// How long a metadata request may take before the cluster counts as unavailable.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a look at one topic may take, while its readings wait.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// How the cluster is reached.
#[derive(Debug)]
pub struct Cluster {
    client: ClientConfig,
    mask: Mask,
}

/// For clients whose account is of no interest to the operator: their errors are returned to whoever asked.
#[derive(Clone, Debug)]
pub struct Silent(Mask);

// === impl Cluster ===

impl Cluster {
    pub fn new(config: &Config) -> Self {
        Cluster {
            client: config.client(),
            mask: config.mask(),
        }
    }

    /// Where it is, as the configuration says.
    pub fn servers(&self) -> &str {
        self.client.get("bootstrap.servers").unwrap_or_default()
    }

    /// A client for administrative requests.
    pub(super) fn admin(&self) -> Result<AdminClient<Silent>, Error> {
        self.client
            .create_with_context(Silent(self.mask.clone()))
            .map_err(|error| Error::Client(self.mask.hide(&error.to_string())))
    }

    /// Asks the cluster for its topics; the error is what to say if nothing is known of the connections.
    pub(super) fn metadata<C: ClientContext>(&self, client: &Client<C>) -> Result<Metadata, Reason> {
        let answer = client.fetch_metadata(None, METADATA_TIMEOUT);
        answer.map_err(|error| {
            debug!(error = text(&error), "no metadata");
            // The same words as where librdkafka tells it of a broker.
            Reason::new(Cause::Timeout, format!("kafka at {} does not answer", self.servers()))
        })
    }

    /// The `max.message.bytes` of a topic, as it is now. Blocks for some seconds.
    ///
    /// # Errors
    /// Kafka does not say.
    pub fn message_bytes_max(&self, topic: &str) -> Result<u64, Error> {
        block_on(async {
            let options = AdminOptions::new().request_timeout(Some(LOOK_TIMEOUT));
            let asked = self.admin()?;
            let about = [ResourceSpecifier::Topic(topic)];
            let described = asked.describe_configs(&about, &options).await?;
            let config = described.into_iter().next().ok_or(Error::NoAnswer)?;
            let config = config.map_err(Error::Topic)?;
            let entry = config.get("max.message.bytes").and_then(|entry| entry.value.as_ref());
            entry.and_then(|value| value.parse().ok()).ok_or(Error::NoLimit)
        })
    }
}

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        let message = self.0.hide(message);
        debug!(fac, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.0.hide(reason);
        debug!(%error, reason, "librdkafka error");
    }
}

/// rdkafka's error texts lead with the enum's name; the part for people is librdkafka's.
fn text(error: &KafkaError) -> String {
    error
        .rdkafka_error_code()
        .map_or_else(|| error.to_string(), |code| code.to_string())
}

/// Runs an administrative request on the calling thread; rdkafka's futures need no runtime but a poller.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers");
    runtime.block_on(future)
}
