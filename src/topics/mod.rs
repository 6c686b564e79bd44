//! Topics as data: what `deploy/kafka/topics.toml` lists, and how it differs from what a cluster has.
//!
//! [`list`] is the file, [`topic`] one topic as it is planned, [`difference`] compares that with what was found. A noun, and pure:
//! the file is read by [`operate::config`](crate::operate::config), the cluster is asked and changed by
//! [`deliver::kafka`](crate::deliver::kafka).

pub mod difference;

pub mod list;

pub mod retention;

pub mod topic;

pub use difference::{Comparison, Difference, Found};
pub use list::List;
pub use retention::Retention;
pub use topic::{Cleanup, Topic};
