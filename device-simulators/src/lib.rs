//! A fleet of simulated city devices, and the ledger that holds the gateway to its promise.
//!
//! A device [measures](devices), its [uplink](uplinks) sends the reading over MQTT, CoAP or HTTP and waits for the
//! answer, its account of the [ledger] notes what it was told. A [topic reader](topic_reader) meanwhile reads
//! what arrives in Kafka. When the [fleet] has stopped, the two are compared: *every acknowledged reading is in Kafka at least
//! once*. The [report] says so, or names what is missing.
//!
//! The tools of the program `device-simulators` are features: `load` sends as fast as it is asked to, and measures; `prove`
//! damages a gateway and its Kafka meanwhile. The fleet needs neither.
//!
//! This crate knows the schemas' field names and the protocols, as any device maker would. It never imports the gateway.

pub mod devices;

pub mod uplinks;

mod device_task;

pub mod fleet;

pub mod counters;

pub mod phases;

pub mod grades;

pub mod sequence_set;

pub mod timeline;

pub mod ledger;

pub mod ledger_file;

pub mod balance;

pub mod topic_reader;

pub mod report;

pub mod scenario;

#[cfg(feature = "prove")]
pub mod prove;

#[cfg(feature = "load")]
pub mod load;

pub use fleet::{Fleet, FleetConfig, FleetOutcome};
pub use ledger::{Found, Ledger};
pub use report::{Report, live_line};
pub use topic_reader::{Begin, TopicReader, TopicReaderConfig};
