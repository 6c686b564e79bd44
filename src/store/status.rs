//! How the store is: what `/readyz` says, and what is logged once when it changes.
//!
//! A fault has a name and words. While its words stay the same it is said once; when it is over, that is
//! said, too.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

/// What can keep readings from being stored, or results from being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Starting,
    Database,
    Kafka,
    Registry,
    /// SQL files, jobs: readings are stored all the same.
    Jobs,
    /// Results that are not published; likewise.
    Publish,
}

/// The faults of now.
#[derive(Debug, Default)]
pub struct Status(Mutex<BTreeMap<Part, String>>);

// === impl Part ===

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Starting => "start",
            Part::Database => "postgresql",
            Part::Kafka => "kafka",
            Part::Registry => "registry",
            Part::Jobs => "jobs",
            Part::Publish => "results",
        }
    }

    /// Whether nothing is stored meanwhile.
    fn is_fatal(self) -> bool {
        !matches!(self, Part::Jobs | Part::Publish)
    }
}

// === impl Status ===

impl Status {
    /// Nothing is stored until everything has answered.
    pub fn starting() -> Self {
        let status = Status::default();
        status
            .faults()
            .insert(Part::Starting, "nothing has been read yet".to_owned());
        status
    }

    /// Something does not work; said unless it was said before.
    pub fn fault(&self, part: Part, why: &str) {
        let before = self.faults().insert(part, why.to_owned());
        if before.as_deref() != Some(why) {
            warn!(part = part.name(), why, "the store waits, and tries again");
        }
    }

    /// It works again; said if it did not.
    pub fn well(&self, part: Part) {
        let before = self.faults().remove(&part);
        if before.is_some() && part != Part::Starting {
            info!(part = part.name(), "works again");
        }
    }

    /// Why readings are not stored now, if so; otherwise what does not work all the same.
    pub fn words(&self) -> Result<String, String> {
        let faults = self.faults();
        let said = |is_fatal: bool| {
            let these = faults.iter().filter(|(part, _)| part.is_fatal() == is_fatal);
            these
                .map(|(part, why)| format!("{}: {why}", part.name()))
                .collect::<Vec<_>>()
        };
        let fatal = said(true);
        match fatal.is_empty() {
            true => Ok([vec!["ok".to_owned()], said(false)].concat().join("; ")),
            false => Err(fatal.join("; ")),
        }
    }

    fn faults(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_while_readings_are_stored() {
        let status = Status::starting();
        let check = |expected: Result<&str, &str>| {
            let words = status.words();
            assert_eq!(words.as_deref().map_err(String::as_str), expected);
        };
        check(Err("start: nothing has been read yet"));
        status.well(Part::Starting);
        check(Ok("ok"));
        status.fault(Part::Jobs, "a job failed");
        check(Ok("ok; jobs: a job failed"));
        status.fault(Part::Database, "it refuses the connection");
        check(Err("postgresql: it refuses the connection"));
        status.well(Part::Database);
        status.well(Part::Jobs);
        check(Ok("ok"));
    }
}
