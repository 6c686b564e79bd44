//! Settings from environment variables: `CITYGATE_<TABLE>__<FIELD>`, and which variables are meant as such.
//!
//! Two underscores stand between tables and fields (`CITYGATE_MQTT__LISTEN`, `CITYGATE_MQTT__TLS__CERTIFICATE`); what is in
//! no table has none (`CITYGATE_STATE_DIR`). A librdkafka property has `_` for every dot:
//! `CITYGATE_KAFKA__PROPERTIES__SSL_CA_LOCATION` is `ssl.ca.location`, and is always text. Any other value is TOML where
//! its field accepts it as such (a number, a list), a plain text otherwise, with whatever quotes it has. A field that is a table of any names accepts a
//! table, as TOML or JSON: `CITYGATE_KAFKA__PROPERTIES='{"client.id": "north"}'`. All is merged with the file, key by key.
//! A name with two underscores that is no setting is a mistake; one without is somebody else's, perhaps, and a warning.

use std::ffi::OsString;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::ask::{accepts, is_in_free_table, names};
use crate::operate::mistake::{Mistake, Mistakes};
use crate::operate::spelling;

const PREFIX: &str = "CITYGATE_";

/// Variables of that prefix that are no settings: what the command line reads, and what the scripts and tests of the
/// repository do.
const NO_SETTINGS: [&str; 4] = ["CONFIG", "HEALTH_STORE", "CACHE", "REQUIRE_KAFKA"];

/// What variables set.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Each variable, and its line of TOML.
    pub lines: Vec<(String, String)>,
    pub mistakes: Mistakes,
    pub warnings: Vec<Mistake>,
}

/// All variables that are UTF-8; and what is wrong with those that are meant as settings, and are not.
pub(super) fn texts(variables: impl Iterator<Item = (OsString, OsString)>) -> (Vec<(String, String)>, Mistakes) {
    let (mut texts, mut mistakes) = (Vec::new(), Mistakes::default());
    for (name, value) in variables {
        match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => texts.push((name.to_owned(), value.to_owned())),
            _ => {
                let name = name.to_string_lossy();
                if is_ours(&name, &value.to_string_lossy()) {
                    mistakes.push(name, "is not UTF-8; write it in UTF-8");
                }
            }
        }
    }
    (texts, mistakes)
}

/// The settings of a configuration `T` among these variables, in the order of their names.
pub(super) fn settings<T: DeserializeOwned>(variables: impl Iterator<Item = (String, String)>) -> Settings {
    let mut ours: Vec<_> = variables.filter(|(name, value)| is_ours(name, value)).collect();
    ours.sort();
    let mut settings = Settings::default();
    for (variable, value) in ours {
        match path::<T>(&variable) {
            Some(path) => settings.lines.push((variable, line::<T>(&path, &value))),
            None if variable.contains("__") => {
                let hint = nearest::<T>(&variable);
                let hint = hint.unwrap_or("; a setting is called CITYGATE_<TABLE>__<FIELD>".to_owned());
                settings.mistakes.push(variable, format!("no such setting{hint}"));
            }
            None => {
                let hint = nearest::<T>(&variable).unwrap_or_default();
                let text = format!("is not a setting and has no effect{hint}");
                settings.warnings.push(Mistake::new(variable, text));
            }
        }
    }
    settings
}

/// Whether a variable is meant as a setting.
fn is_ours(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    !NO_SETTINGS.contains(&rest) && (rest.contains("__") || !is_service_link(rest, value))
}

/// The setting that a variable names.
fn path<T: DeserializeOwned>(variable: &str) -> Option<Vec<String>> {
    let rest = variable.strip_prefix(PREFIX)?.to_ascii_lowercase();
    let mut path: Vec<String> = Vec::new();
    for part in rest.split("__") {
        path.push(part.to_owned());
        if is_in_free_table::<T>(&path) {
            path.pop();
            path.push(part.replace('_', "."));
        } else if !names::<T>(&path[..path.len() - 1]).iter().any(|name| name == part) {
            return None;
        }
    }
    // A table as a whole is set field by field.
    names::<T>(&path).is_empty().then_some(path)
}

/// The variable of a setting.
fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_ascii_uppercase())
}

/// What a variable may have been meant to be, as the end of a message.
fn nearest<T: DeserializeOwned>(written: &str) -> Option<String> {
    fn add<T: DeserializeOwned>(path: &[String], found: &mut Vec<String>) {
        for name in names::<T>(path) {
            let path = [path, &[name]].concat();
            match names::<T>(&path).is_empty() {
                true => found.push(variable(&path)),
                false => add::<T>(&path, found),
            }
        }
    }
    let mut known = Vec::new();
    add::<T>(&[], &mut known);
    let meant = spelling::nearest(written, known.iter().map(String::as_str))?;
    Some(format!("; did you mean {meant}?"))
}

/// The line of TOML that a variable stands for.
fn line<T: DeserializeOwned>(path: &[String], text: &str) -> String {
    let keys = path.iter().map(|key| toml::Value::from(key.as_str()).to_string());
    let keys = keys.collect::<Vec<_>>().join(".");
    let value = match is_in_free_table::<T>(path) {
        true => None,
        false => toml_value::<T>(path, text),
    };
    let value = value.unwrap_or_else(|| toml::Value::from(text).to_string());
    format!("{keys} = {value}\n")
}

/// The text as a value other than text, if the field accepts it as such: TOML, or a table as JSON.
fn toml_value<T: DeserializeOwned>(path: &[String], text: &str) -> Option<String> {
    let as_json = serde_json::from_str::<toml::Table>(text).ok();
    let as_table = as_json.map(|table| toml::Value::Table(table).to_string());
    let mut candidates = [Some(text.to_owned()), as_table].into_iter().flatten();
    candidates.find(|text| match DeValue::parse(text).map(|value| value.into_inner()) {
        // Its entries are looked at one by one later.
        Ok(DeValue::Table(_)) => accepts::<T>(path, DeValue::Table(DeTable::new())),
        // Of a password, quotes are a part.
        Ok(DeValue::String(_)) if accepts::<T>(path, DeValue::String(text.as_str().into())) => false,
        Ok(value) => accepts::<T>(path, value),
        Err(_) => false,
    })
}

/// Kubernetes gives every container the addresses of the services beside it: a service called `citygate` makes
/// `CITYGATE_SERVICE_HOST` and `CITYGATE_PORT_1883_TCP_ADDR`.
fn is_service_link(name: &str, value: &str) -> bool {
    const SCHEMES: [&str; 3] = ["tcp://", "udp://", "sctp://"];
    let name = format!("_{name}");
    let is_url = SCHEMES.iter().any(|scheme| value.starts_with(scheme));
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
            && parts
                .next()
                .is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name
            .split_once("_SERVICE_PORT")
            .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('_'))
        || (name.ends_with("_PORT") && is_url)
        || name.split("_PORT_").skip(1).any(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_others_are_left_alone() {
        let check = |name: &str, value: &str, expected: bool| assert_eq!(is_ours(name, value), expected, "{name}");
        check("CITYGATE_KAFKA__LINGER", "5ms", true);
        check("CITYGATE_KAFAK__LINGER", "5ms", true);
        check("CITYGATE_CONFIG", "x", false);
        check("CITYGATE_CONFIGS", "x", true);
        check("CITYGATE_HEALTH_STORE", "1", false);
        check("CITYGATE_REQUIRE_KAFKA", "1", false);
        check("HOME", "/root", false);
        check("CITYGATE_SERVICE_HOST", "10.0.0.1", false);
        check("CITYGATE_SERVICE_PORT", "1883", false);
        check("CITYGATE_SERVICE_PORT_MQTT", "1883", false);
        check("CITYGATE_PORT", "tcp://10.0.0.1:1883", false);
        check("CITYGATE_PORT", "1883", true);
        check("CITYGATE_PORT_1883_TCP", "tcp://10.0.0.1:1883", false);
        check("CITYGATE_KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1", false);
        check("CITYGATE_MQTT_PORT_NUMBER", "1883", true);
        // Two underscores: nobody but an operator writes them.
        check("CITYGATE_MQTT__SERVICE_HOST", "10.0.0.1", true);
        check("CITYGATE_MQTT__PORT_1883_TCP", "tcp://10.0.0.1:1883", true);
        check("CITYGATE_MQTT__PORT", "tcp://10.0.0.1:1883", true);
    }

    #[test]
    fn a_setting_that_is_not_utf_8_is_a_mistake() {
        use std::os::unix::ffi::OsStringExt as _;
        let variables = [
            ("CITYGATE_KAFKA__LINGER", &b"5\xffms"[..]),
            ("CITYGATE_CONFIG", b"/\xff.toml"),
            ("OTHER", b"\xff"),
            ("CITYGATE_LOG__LEVEL", b"info"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), OsString::from_vec(value.to_vec())));
        let (texts, mistakes) = texts(variables.into_iter());
        assert_eq!(texts, [("CITYGATE_LOG__LEVEL".to_owned(), "info".to_owned())]);
        assert_eq!(
            mistakes.to_string(),
            "CITYGATE_KAFKA__LINGER: is not UTF-8; write it in UTF-8"
        );
    }

    #[test]
    fn a_value_becomes_a_line() {
        use crate::operate::config::Config;
        let check = |variable: &str, text: &str, expected: &str| {
            let line = line::<Config>(&path::<Config>(variable).unwrap(), text);
            assert_eq!(line.trim_end(), expected);
        };
        check("CITYGATE_KAFKA__PARTITIONS", "7", "\"kafka\".\"partitions\" = 7");
        check("CITYGATE_LOG__LEVEL", "info", "\"log\".\"level\" = \"info\"");
        let properties = |value: &str| format!("\"kafka\".\"properties\" = {value}");
        check(
            "CITYGATE_KAFKA__PROPERTIES",
            "{\"a.b\": \"c\"}",
            &properties("{ \"a.b\" = \"c\" }"),
        );
        check(
            "CITYGATE_KAFKA__PROPERTIES",
            "{\"a.b\" = \"c\"}",
            &properties("{\"a.b\" = \"c\"}"),
        );
        check(
            "CITYGATE_KAFKA__PROPERTIES__SASL_PASSWORD",
            "a,b=c\"",
            "\"kafka\".\"properties\".\"sasl.password\" = 'a,b=c\"'",
        );
    }
}
