//! How the store is: what `/readyz` says, and what is logged once when it changes.
//!
//! A fault has a name and words. While its words stay the same it is said once; when it is over, that is
//! said, too. A metric says of each name whether there is a fault.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::IntGaugeVec;
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
    /// Alerts on the city, of which it is not known what to tell; likewise.
    Alerts,
    /// One of them, by number; likewise.
    Alertmanager(usize),
}

/// The faults of now.
#[derive(Debug)]
pub struct Status {
    faults: Mutex<BTreeMap<Part, String>>,
    /// 1 for each part that has a fault.
    gauge: IntGaugeVec,
}

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
            Part::Alerts | Part::Alertmanager(_) => "alertmanager",
        }
    }

    /// Whether nothing is stored meanwhile.
    fn is_fatal(self) -> bool {
        !matches!(self, Part::Jobs | Part::Publish | Part::Alerts | Part::Alertmanager(_))
    }
}

// === impl Status ===

impl Status {
    /// Nothing is stored until everything has answered.
    pub fn starting(gauge: IntGaugeVec) -> Self {
        use Part::{Alerts, Database, Jobs, Kafka, Publish, Registry, Starting};
        let faults = BTreeMap::from([(Starting, "nothing has been read yet".to_owned())]);
        for part in [Starting, Database, Kafka, Registry, Jobs, Publish, Alerts] {
            show(&gauge, part, &faults);
        }
        Status {
            faults: Mutex::new(faults),
            gauge,
        }
    }

    /// Something does not work; said unless it was said before.
    pub fn fault(&self, part: Part, why: &str) {
        let mut faults = self.faults();
        let before = faults.insert(part, why.to_owned());
        show(&self.gauge, part, &faults);
        if before.as_deref() != Some(why) {
            warn!(part = part.name(), why, "the store waits, and tries again");
        }
    }

    /// It works again; said if it did not.
    pub fn well(&self, part: Part) {
        let mut faults = self.faults();
        let before = faults.remove(&part);
        show(&self.gauge, part, &faults);
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
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parts of one name have one metric.
fn show(gauge: &IntGaugeVec, part: Part, faults: &BTreeMap<Part, String>) {
    let has_fault = faults.keys().any(|other| other.name() == part.name());
    gauge.with_label_values(&[part.name()]).set(i64::from(has_fault));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_while_readings_are_stored() {
        let gauge = IntGaugeVec::new(prometheus::Opts::new("fault", "of a part"), &["part"]).unwrap();
        let status = Status::starting(gauge.clone());
        let parts = [
            "start",
            "postgresql",
            "kafka",
            "registry",
            "jobs",
            "results",
            "alertmanager",
        ];
        let check = |expected: Result<&str, &str>, faults: &[&str]| {
            let words = status.words();
            assert_eq!(words.as_deref().map_err(String::as_str), expected);
            let shown = parts
                .into_iter()
                .filter(|part| gauge.with_label_values(&[*part]).get() == 1);
            assert_eq!(shown.collect::<Vec<_>>(), faults);
        };
        check(Err("start: nothing has been read yet"), &["start"]);
        status.well(Part::Starting);
        check(Ok("ok"), &[]);
        status.fault(Part::Jobs, "a job failed");
        check(Ok("ok; jobs: a job failed"), &["jobs"]);
        status.fault(Part::Database, "it refuses the connection");
        check(Err("postgresql: it refuses the connection"), &["postgresql", "jobs"]);
        status.well(Part::Database);
        status.well(Part::Jobs);
        check(Ok("ok"), &[]);
        status.fault(Part::Alertmanager(0), "a:9093: timeout");
        status.fault(Part::Alertmanager(1), "b:9093: timeout");
        check(
            Ok("ok; alertmanager: a:9093: timeout; alertmanager: b:9093: timeout"),
            &["alertmanager"],
        );
        status.well(Part::Alertmanager(0));
        check(Ok("ok; alertmanager: b:9093: timeout"), &["alertmanager"]);
        status.well(Part::Alertmanager(1));
        check(Ok("ok"), &[]);
    }
}
