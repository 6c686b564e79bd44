//! The `[devices]` table of the configuration: where identities are, and what verifying them may cost.
//!
//! Without a folder there are no identities, and every sender is anonymous.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::rate::Rates;
use crate::operate::mistake::Mistakes;

/// The `[devices]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of identity files (`*.toml`, `*.ndjson`); without one every sender is anonymous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// How long after a credential arrived it is refused, whatever is wrong with it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub refusal_delay: Duration,
    /// How many readings a device may send per second on average, unless its record says otherwise; ten seconds' worth at once.
    pub readings_per_second: u32,
    /// The same of bytes of messages.
    pub bytes_per_second: ByteSize,
    /// Credentials refused per minute for a device id, known or not, as many at once; beyond it passwords of it that were not verified
    /// before are not verified.
    pub refused_credentials_per_minute: u32,
    /// Passwords verified at once; each costs tens of milliseconds of CPU and, usually, 19 MiB of memory.
    pub password_checks_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            folder: None,
            refusal_delay: Duration::from_secs(1),
            readings_per_second: 1000,
            bytes_per_second: ByteSize::mib(4),
            refused_credentials_per_minute: 10,
            password_checks_max: 2,
        }
    }
}

impl Config {
    /// How much a device may send whose record does not say.
    pub fn rates(&self) -> Rates {
        Rates {
            readings_per_second: Some(self.readings_per_second),
            bytes_per_second: Some(self.bytes_per_second),
        }
    }

    /// What is wrong with it.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let is_empty = self.folder.as_ref().is_some_and(|folder| folder.as_os_str().is_empty());
        mistakes.require(!is_empty, "devices.folder", "is empty");
        let in_bounds = (Duration::from_millis(100)..=Duration::from_secs(10)).contains(&self.refusal_delay);
        mistakes.require(in_bounds, "devices.refusal_delay", "must be from 100ms to 10s");
        let in_bounds = (1..=64).contains(&self.password_checks_max);
        mistakes.require(in_bounds, "devices.password_checks_max", "must be from 1 to 64");
        mistakes.require(
            self.refused_credentials_per_minute > 0,
            "devices.refused_credentials_per_minute",
            "must be above 0",
        );
        mistakes.require(
            self.readings_per_second > 0,
            "devices.readings_per_second",
            "must be above 0",
        );
        mistakes.require(
            self.bytes_per_second > ByteSize::b(0),
            "devices.bytes_per_second",
            "must be above 0",
        );
        mistakes
    }
}
