//! The `[log]` section: what is logged, and how a line looks.
//!
//! tracing's `EnvFilter` takes a word that is no level for the name of a module, and then logs nothing else: "verbose",
//! "citygate:debug", or a blank behind a comma make a gateway silent. Here they are mistakes.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::operate::mistake::Mistakes;
use crate::operate::spelling;

/// The `[log]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged, in the syntax of tracing's `EnvFilter`: "info", "citygate=debug,warn".
    pub level: String,
    pub format: Format,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Json,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The names under which this program itself logs.
const MODULES: [&str; 2] = ["citygate", "device_simulators"];

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".into(),
            format: Format::Text,
        }
    }
}

/// The level would not log what it seems to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    #[error("{written:?} is not a level ({}){hint}; try \"info\" or \"citygate=debug,warn\"", LEVELS.join(", "))]
    Level { written: String, hint: String },
    #[error("nothing is called {written:?}; did you mean {meant}?")]
    Module { written: String, meant: &'static str },
    #[error("{0:?} is not a filter; try \"info\" or \"citygate=debug,warn\"")]
    Filter(String),
}

impl Log {
    /// What is wrong with this section.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        if let Err(why) = self.filter() {
            mistakes.push("log.level", why.to_string());
        }
        mistakes
    }

    /// The filter that the level describes.
    ///
    /// # Errors
    /// A part of it is not a level or filter.
    pub fn filter(&self) -> Result<EnvFilter, LevelError> {
        let parts: Vec<_> = self.level.split(',').map(str::trim).collect();
        // What is in brackets names spans and fields, and is left to the library.
        if !self.level.contains('[') {
            parts.iter().try_for_each(|part| check(part))?;
        }
        // Of whoever is not asked for by name: it would log that the log was written to.
        let quiet = (!self.level.contains("notify")).then_some("notify=warn");
        let parts: Vec<_> = parts.into_iter().chain(quiet).collect();
        EnvFilter::try_new(parts.join(",")).map_err(|_| LevelError::Filter(self.level.clone()))
    }
}

fn check(part: &str) -> Result<(), LevelError> {
    let (module, level) = match part.split_once('=') {
        Some((module, level)) => (Some(module.trim_end()), level),
        None => (None, part),
    };
    if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
        return Err(LevelError::Level {
            written: level.to_owned(),
            hint: spelling::hint(level, LEVELS),
        });
    }
    let root = module.map(|module| module.split("::").next().unwrap_or_default());
    match root.and_then(|root| Some((root, spelling::nearest(root, MODULES)?))) {
        Some((written, meant)) => Err(LevelError::Module {
            written: written.to_owned(),
            meant,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_filter_everything_away_is_a_mistake() {
        let check = |level: &str, expected: Option<&str>| {
            let log = Log {
                level: level.into(),
                format: Format::Text,
            };
            let mistakes = log.mistakes().to_string();
            match expected {
                None => assert_eq!(mistakes, "", "{level}"),
                Some(expected) => assert!(
                    mistakes.starts_with("log.level: ") && mistakes.contains(expected),
                    "{level}: {mistakes}"
                ),
            }
        };
        check("info", None);
        check("INFO", None);
        check("off", None);
        check("citygate=debug,warn", None);
        check("citygate::deliver=debug, warn", None);
        check("hyper=debug,rdkafka=off", None);
        check("citygate[request{device=x}]=debug,warn", None);
        check(
            "verbose",
            Some("\"verbose\" is not a level (off, error, warn, info, debug, trace)"),
        );
        check("inof", Some("did you mean info?"));
        check("", Some("\"\" is not a level"));
        check("info,", Some("\"\" is not a level"));
        check("citygate", Some("\"citygate\" is not a level"));
        check("citygate:debug", Some("\"citygate:debug\" is not a level"));
        check("citygate=", Some("\"\" is not a level"));
        check("citygate=verbose", Some("\"verbose\" is not a level"));
        check(
            "citygat=debug",
            Some("nothing is called \"citygat\"; did you mean citygate?"),
        );
        check("citygate=debug=x", Some("\"debug=x\" is not a level"));
    }

    #[test]
    fn a_blank_behind_a_comma_changes_nothing() {
        let filter = |level: &str| {
            let log = Log {
                level: level.into(),
                format: Format::Text,
            };
            log.filter().unwrap().to_string()
        };
        assert_eq!(filter("warn, citygate=debug"), filter("warn,citygate=debug"));
    }
}
