//! What can go wrong with a schema registry: with its client, with a schema that it is asked about, with an id.
//!
//! A registry that does not accept a schema is told from one of which nothing is known: only the first keeps a gateway
//! from starting while ids are kept from before. The words are for the operator, and hold no credentials.

use std::str::FromStr;

/// There can be no ids.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("registry.url: {0}")]
    Url(<reqwest::Url as FromStr>::Err),
    /// There is no HTTP client to ask with.
    #[error("registry: no HTTP client: {0}")]
    Client(reqwest::Error),
    /// The registry does not accept the schemas of these subjects, or nothing is known of them.
    #[error("registry: {subjects}: {why}")]
    Refused { subjects: String, why: String },
}

/// Why a kind has no id from the registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The registry does not accept the schema: another try says the same.
    #[error("{0}")]
    Refused(String),
    /// It answers, but not as a registry, or refuses the login: a kept id may serve.
    #[error("{0}")]
    Unavailable(String),
    /// It does not answer at all: likewise.
    #[error("the registry does not answer at {url}: {why}")]
    NoAnswer { url: String, why: String },
}

/// The schema of an id cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error(transparent)]
    NoAnswer(#[from] Refusal),
    #[error("schema {id} of the registry: {refusal}")]
    Refused { id: u32, refusal: Refusal },
    #[error("the registry has no schema {0}")]
    Unknown(u32),
    #[error("schema {id} of the registry: {error}")]
    NotASchema { id: u32, error: Box<apache_avro::Error> },
}
