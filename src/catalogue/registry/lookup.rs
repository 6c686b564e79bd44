//! The schemas of a registry by their ids, for whoever reads what gateways wrote.
//!
//! An id names the same schema for ever, so whoever asks keeps the answer. Schemas that refer to other subjects are not resolved.

use apache_avro::Schema;

use super::Config;
use super::client::Registry;
use super::error::{Error, LookupError};

/// A registry that can be asked.
#[derive(Debug)]
pub struct Lookup(Registry);

// === impl Lookup ===

impl Lookup {
    /// `None`: there is no registry.
    ///
    /// # Errors
    /// There is no HTTP client to ask with.
    pub fn new(config: &Config) -> Result<Option<Self>, Error> {
        Ok(Registry::new(config)?.map(Lookup))
    }

    /// # Errors
    /// The registry does not know the id, or does not answer; or what it says is not a schema.
    pub async fn schema(&self, id: u32) -> Result<Schema, LookupError> {
        let text = self.0.schema(id).await?;
        Schema::parse_str(&text).map_err(|error| LookupError::NotASchema {
            id,
            error: Box::new(error),
        })
    }
}
