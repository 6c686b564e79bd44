//! Why a scan ended early: what did not fit and where, as it is learned on the way out.
//!
//! Scanning passes on codes that cost nothing; words are made once, and paths are put together while unwinding.

use serde::de::IgnoredAny;

use super::cursor::Malformed;
use crate::outcome::{Reason, Rejection};
use crate::validate::fault::Fault;
use crate::validate::got::{self, Got};
use crate::validate::json;
use crate::validate::pass::Pass;
use crate::validate::program::{NodeId, Program};
use crate::validate::refusal::{self, Step};

/// Why a scan ends early.
#[derive(Debug)]
pub enum Failure {
    /// It is not JSON; the words for that are serde_json's.
    Malformed,
    Refused(Rejection),
}

/// The same on its way up through the scanner; the refusal is kept in [`Verdict`].
#[derive(Clone, Copy)]
pub enum Stop {
    Malformed,
    Refused,
}

/// What is learned when a scan fails.
#[derive(Default)]
pub struct Verdict {
    /// The path, innermost step first; filled while unwinding.
    steps: Vec<Step>,
    refusal: Option<(Reason, String)>,
}

// === impl Stop, Verdict ===

impl From<Malformed> for Stop {
    fn from(_: Malformed) -> Self {
        Stop::Malformed
    }
}

impl Verdict {
    #[cold]
    pub fn refuse(&mut self, program: &Program, pass: &Pass<'_>, fault: Fault, node: NodeId, got: Got<'_>) -> Stop {
        self.refusal = Some((fault.reason(), fault.text(program, node, got, pass)));
        Stop::Refused
    }

    /// Of a field: one that is absent, or should be.
    #[cold]
    pub fn refuse_field(&mut self, program: &Program, pass: &Pass<'_>, fault: Fault, node: NodeId, key: &str) -> Stop {
        self.steps.push(Step::Field(got::cut(key)));
        self.refuse(program, pass, fault, node, Got::Nothing)
    }

    /// The same refusal, one step further out.
    #[cold]
    pub fn within(&mut self, step: impl FnOnce() -> Step, stop: Stop) -> Stop {
        if let Stop::Refused = stop {
            self.steps.push(step());
        }
        stop
    }

    /// Not being JSON goes before all else, wherever it shows.
    #[cold]
    pub fn failure(&mut self, stop: Stop, json: &[u8]) -> Failure {
        let (Stop::Refused, Some((reason, what))) = (stop, self.refusal.take()) else {
            return Failure::Malformed;
        };
        let Ok(text) = std::str::from_utf8(json) else {
            return Failure::Malformed;
        };
        Failure::Refused(match serde_json::from_str::<IgnoredAny>(text) {
            Err(error) => json::malformed(&error),
            Ok(_) => Rejection::new(reason, refusal::located(&self.steps, &what)),
        })
    }
}
