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

/// Why a record is not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum Unconfirmed {
    /// Kafka does not accept it as it is, or as part of its batch: if it is sent alone, it shows which. The `reason` label of metrics.
    #[error("{error}")]
    Unacceptable { reason: &'static str, error: Error },
    /// It may be confirmed another time.
    #[error(transparent)]
    Failed(Error),
}

/// See the module.
pub struct Publisher {
    producer: BaseProducer<Reports>,
    servers: String,
    timeout: Duration,
}

struct Reports {
    told: ConnectionErrors,
    ends: Mutex<Ends>,
}

/// How the records of the list that is being sent have ended.
#[derive(Default)]
struct Ends {
    /// Of which list: a report of an earlier one may come late.
    list: usize,
    of_records: Vec<Option<Result<(), KafkaError>>>,
}

/// Records of one list, at most: a report carries the number of the list above that of the record.
const RECORDS_MAX: usize = 1 << 20;

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
    pub fn publish(&self, records: &[Outgoing]) -> (usize, Option<Unconfirmed>) {
        let reports = self.producer.context();
        let list = reports.begin(records.len());
        for (index, record) in records.iter().enumerate().take(RECORDS_MAX) {
            if let Err(error) = self.send(list * RECORDS_MAX + index, record) {
                reports.ends().of_records[index] = Some(Err(error));
                break;
            }
            self.producer.poll(Duration::ZERO);
        }
        let deadline = Instant::now() + self.timeout + GRACE;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(TURN);
        }
        let ends = std::mem::take(&mut reports.ends().of_records);
        let confirmed = ends.iter().take_while(|end| matches!(end, Some(Ok(())))).count();
        let why = (confirmed < records.len()).then(|| match ends.into_iter().nth(confirmed).flatten() {
            Some(Err(error)) => self.explain(&error, &records[confirmed].topic),
            _ => Unconfirmed::Failed(Error::Unreachable(format!(
                "kafka at {} did not confirm in time",
                self.servers
            ))),
        });
        (confirmed, why)
    }

    fn send(&self, number: usize, record: &Outgoing) -> Result<(), KafkaError> {
        let mut message = BaseRecord::<str, [u8], usize>::with_opaque_to(&record.topic, number);
        if let Some(key) = &record.key {
            message = message.key(key.as_str());
        }
        if let Some(value) = &record.value {
            message = message.payload(value.as_slice());
        }
        self.producer.send(message).map_err(|(error, _)| error)
    }

    fn explain(&self, error: &KafkaError, topic: &str) -> Unconfirmed {
        use RDKafkaErrorCode::{InvalidRecord, InvalidTimestamp, MessageSizeTooLarge, MessageTimedOut};
        let context = self.producer.context();
        let refused = |code: RDKafkaErrorCode| Error::Refused {
            servers: self.servers.clone(),
            why: format!("{topic}: {code}"),
        };
        let unacceptable = |reason, code| Unconfirmed::Unacceptable {
            reason,
            error: refused(code),
        };
        match error.rdkafka_error_code() {
            Some(code @ MessageSizeTooLarge) => unacceptable("too_large", code),
            Some(code @ (InvalidRecord | InvalidTimestamp)) => unacceptable("not_accepted", code),
            Some(MessageTimedOut) => {
                let timeout = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
                Unconfirmed::Failed(context.told.explain(&self.servers, &timeout))
            }
            Some(code) => Unconfirmed::Failed(refused(code)),
            None => Unconfirmed::Failed(context.told.explain(&self.servers, error)),
        }
    }
}

// === impl Reports ===

impl Reports {
    /// Of another list from now on; its number.
    fn begin(&self, records: usize) -> usize {
        let mut ends = self.ends();
        ends.list = (ends.list + 1) % (usize::MAX / RECORDS_MAX);
        ends.of_records = vec![None; records];
        ends.list
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
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

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let end = result.as_ref().map(drop).map_err(|(error, _)| error.clone());
        if end.is_ok() {
            self.told.failures().are_over();
        }
        let mut ends = self.ends();
        let is_of_this = ends.list == number / RECORDS_MAX;
        if let Some(of_record) = ends.of_records.get_mut(number % RECORDS_MAX).filter(|_| is_of_this) {
            *of_record = Some(end);
        }
    }
}
