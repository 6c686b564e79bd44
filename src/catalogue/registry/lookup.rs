//! The schemas of a registry by their ids, for whoever reads what gateways wrote.
//!
//! An id names the same schema for ever, so each is asked for once. Schemas that refer to other subjects are not resolved.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use apache_avro::Schema;

use super::Config;
use super::client::Registry;
use super::error::{Error, LookupError};

/// A registry, and what it said so far.
#[derive(Debug)]
pub struct Lookup {
    registry: Registry,
    known: HashMap<u32, Schema>,
}

// === impl Lookup ===

impl Lookup {
    /// `None`: there is no registry.
    ///
    /// # Errors
    /// There is no HTTP client to ask with.
    pub fn new(config: &Config) -> Result<Option<Self>, Error> {
        let registry = Registry::new(config)?;
        Ok(registry.map(|registry| Lookup {
            registry,
            known: HashMap::new(),
        }))
    }

    /// # Errors
    /// The registry does not know the id, or does not answer; or what it says is not a schema.
    pub async fn schema(&mut self, id: u32) -> Result<&Schema, LookupError> {
        match self.known.entry(id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let text = self.registry.schema(id).await?;
                let not_a_schema = |error| LookupError::NotASchema {
                    id,
                    error: Box::new(error),
                };
                Ok(unknown.insert(Schema::parse_str(&text).map_err(not_a_schema)?))
            }
        }
    }
}
