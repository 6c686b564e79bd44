//! The schemas of a registry by their ids, for whoever reads what gateways wrote.
//!
//! An id names the same schema for ever, so each is asked for once. Schemas that refer to other subjects are not resolved.

use std::collections::HashMap;

use apache_avro::Schema;

use super::Config;
use super::client::Registry;

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
    pub fn new(config: &Config) -> Result<Option<Self>, String> {
        let registry = Registry::new(config)?;
        Ok(registry.map(|registry| Lookup {
            registry,
            known: HashMap::new(),
        }))
    }

    /// # Errors
    /// The registry does not know the id, or does not answer; or what it says is not a schema.
    pub async fn schema(&mut self, id: u32) -> Result<&Schema, String> {
        if !self.known.contains_key(&id) {
            let text = self.registry.schema(id).await?;
            let schema = Schema::parse_str(&text).map_err(|error| format!("schema {id} of the registry: {error}"))?;
            self.known.insert(id, schema);
        }
        self.known.get(&id).ok_or_else(|| format!("schema {id} is not known"))
    }
}
