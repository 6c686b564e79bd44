//! Why `citygate topics` ends without an answer: a wrong command line or file, a Kafka that does not answer, or one that refuses.
//!
//! What differs between a list and a cluster is no error. The texts are for operators, and say what to do.

use crate::catalogue::schemas;
use crate::deliver::kafka;
use crate::operate::mistake::Mistakes;

/// Nothing was printed or done; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no list.
    #[error("there is no list of topics: name it with --file, or set kafka.topics_file")]
    NoList,
    /// The list has mistakes.
    #[error(transparent)]
    List(#[from] Mistakes),
    /// The fleet that is to be planned for has mistakes.
    #[error("--kinds: {0}")]
    Kinds(String),
    /// The topics of the kinds are not known.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Schemas(Vec<schemas::Error>),
    /// Kafka does not answer, or not about topics.
    #[error(transparent)]
    Unavailable(kafka::Error),
    /// Nobody reads what is printed.
    #[error(transparent)]
    Print(#[from] std::io::Error),
}

// === impl Error ===

impl Error {
    /// Whether the command line or a file is wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::NoList | Error::List(_) | Error::Kinds(_))
    }

    pub fn is_unavailable(&self) -> bool {
        matches!(self, Error::Unavailable(_))
    }
}
