//! A producer for records that wait elsewhere until Kafka has confirmed them, such as results in a table.
//!
//! It promises what the gateway's own does (`acks=all`, idempotence, the partitioner), with the same properties, and sends a list
//! at a time: the answer says of each record whether it is confirmed. What is not may have been written nevertheless. Blocks,
//! for little longer than `kafka.delivery_timeout`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::config::Config;
use super::consumer::{ConnectionErrors, Error};

/// How long it is waited for reports at a time.
const TURN: Duration = Duration::from_millis(100);
/// How much later than `kafka.delivery_timeout` the last report may come.
const GRACE: Duration = Duration::from_secs(2);

/// A record to publish.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub topic: String,
    pub key: Option<String>,
    /// None: that there is nothing under this key any more.
    pub value: Option<Vec<u8>>,
}

/// See the module.
pub struct Publisher {
    producer: BaseProducer<Reports>,
    servers: String,
    timeout: Duration,
}

struct Reports {
    told: ConnectionErrors,
    /// Of each record of the list that is being sent.
    ends: Mutex<Vec<Option<Result<(), KafkaError>>>>,
}

// === impl Publisher ===

impl Publisher {
    /// # Errors
    /// librdkafka does not accept the properties.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let reports = Reports {
            told: ConnectionErrors::new(config),
            ends: Mutex::default(),
        };
        let servers = config.bootstrap_servers.clone();
        let mut producer = config.producer(false);
        // Nobody reads them; librdkafka's crate would log them.
        producer.set("statistics.interval.ms", "0");
        match producer.create_with_context(reports) {
            Ok(producer) => Ok(Publisher {
                producer,
                servers,
                timeout: config.delivery_timeout,
            }),
            Err(error) => Err(Error::Refused {
                servers,
                why: error.to_string(),
            }),
        }
    }

    /// Sends records in their order; how many of them, from the first on, are confirmed, and why the next one is not.
    pub fn publish(&self, records: &[Outgoing]) -> (usize, Option<Error>) {
        let reports = self.producer.context();
        *reports.ends() = vec![None; records.len()];
        for (index, record) in records.iter().enumerate() {
            if let Err(error) = self.send(index, record) {
                reports.ends()[index] = Some(Err(error));
                break;
            }
            self.producer.poll(Duration::ZERO);
        }
        let deadline = Instant::now() + self.timeout + GRACE;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(TURN);
        }
        let ends = std::mem::take(&mut *reports.ends());
        let confirmed = ends.iter().take_while(|end| matches!(end, Some(Ok(())))).count();
        let why = (confirmed < records.len()).then(|| match ends.into_iter().nth(confirmed).flatten() {
            Some(Err(error)) => self.explain(&error, &records[confirmed].topic),
            _ => Error::Unreachable(format!("kafka at {} did not confirm in time", self.servers)),
        });
        (confirmed, why)
    }

    fn send(&self, index: usize, record: &Outgoing) -> Result<(), KafkaError> {
        let mut message = BaseRecord::<str, [u8], usize>::with_opaque_to(&record.topic, index);
        if let Some(key) = &record.key {
            message = message.key(key.as_str());
        }
        if let Some(value) = &record.value {
            message = message.payload(value.as_slice());
        }
        self.producer.send(message).map_err(|(error, _)| error)
    }

    fn explain(&self, error: &KafkaError, topic: &str) -> Error {
        let context = self.producer.context();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageTimedOut) => {
                let timeout = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
                context.told.explain(&self.servers, &timeout)
            }
            Some(code) => Error::Refused {
                servers: self.servers.clone(),
                why: format!("{topic}: {code}"),
            },
            None => context.told.explain(&self.servers, error),
        }
    }
}

// === impl Reports ===

impl Reports {
    fn ends(&self) -> MutexGuard<'_, Vec<Option<Result<(), KafkaError>>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.told.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, told: &str) {
        self.told.error(error, told);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let end = result.as_ref().map(drop).map_err(|(error, _)| error.clone());
        if end.is_ok() {
            self.told.failures().are_over();
        }
        // One of an earlier list may come late.
        if let Some(of_record) = self.ends().get_mut(index) {
            *of_record = Some(end);
        }
    }
}
