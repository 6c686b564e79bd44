//! Settings from environment variables: `CITYGATE_<SECTION>_<FIELD>`, or with `__` between them, and which are meant.
//!
//! A value is TOML where its field takes it as such (a number, a list), a plain text otherwise. A field that is a table
//! takes a table, as TOML or JSON: `CITYGATE_KAFKA_PROPERTIES='{"client.id": "north"}'`. One entry of it has a variable of
//! its own, in capitals and with `_` for every dot: `CITYGATE_KAFKA_PROPERTIES__SASL_PASSWORD` is `sasl.password`. Both are
//! merged with what the file says, key by key.

use std::ffi::OsString;

const PREFIX: &str = "CITYGATE_";

/// Variables of that prefix that are no settings: what the command line reads, and what the scripts and tests of the
/// repository do.
const NO_SETTINGS: [&str; 3] = ["CONFIG", "CACHE", "REQUIRE_KAFKA"];

/// Whether a variable is meant as a setting.
pub(super) fn is_ours(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    !NO_SETTINGS.contains(&rest) && !is_service_link(rest, value)
}

/// All variables that are UTF-8; and what is wrong with those that are meant as settings, and are not.
pub(super) fn texts(variables: impl Iterator<Item = (OsString, OsString)>) -> (Vec<(String, String)>, Vec<String>) {
    let (mut texts, mut mistakes) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => texts.push((name.to_owned(), value.to_owned())),
            _ => {
                let name = name.to_string_lossy();
                if is_ours(&name, &value.to_string_lossy()) {
                    mistakes.push(format!("{name}: is not UTF-8; write it in UTF-8"));
                }
            }
        }
    }
    (texts, mistakes)
}

/// The variable of a field.
pub(super) fn variable(section: &str, field: &str) -> String {
    format!("{PREFIX}{}_{}", section, field).to_ascii_uppercase()
}

/// The line of TOML that a variable stands for; `accepts` tells which of several it is.
///
/// # Errors
/// Those of `accepts`, for a plain text.
pub(super) fn line(field: &str, text: &str, accepts: impl Fn(&str) -> Result<(), String>) -> Result<String, String> {
    let field = field.to_ascii_lowercase();
    let as_string = toml::Value::from(text).to_string();
    if let Some((table, key)) = field.split_once("__") {
        let key = toml::Value::from(key.replace('_', "."));
        let line = format!("{table} = {{ {key} = {as_string} }}\n");
        return accepts(&line).map(|()| line);
    }
    let line = |value: &str| format!("{field} = {value}\n");
    let as_json = serde_json::from_str::<toml::Table>(text).ok();
    let as_table = as_json.map(|table| toml::Value::Table(table).to_string());
    let candidates = [Some(text.to_owned()), as_table].into_iter().flatten();
    let accepted = candidates.map(|value| line(&value)).find(|line| accepts(line).is_ok());
    accepted.map_or_else(
        || {
            let line = line(&as_string);
            accepts(&line).map(|()| line)
        },
        Ok,
    )
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
        check("CITYGATE_KAFKA_LINGER", "5ms", true);
        check("CITYGATE_KAFAK_LINGER", "5ms", true);
        check("CITYGATE_CONFIG", "x", false);
        check("CITYGATE_CONFIGS", "x", true);
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
    }

    #[test]
    fn a_setting_that_is_not_utf_8_is_a_mistake() {
        use std::os::unix::ffi::OsStringExt as _;
        let variables = [
            ("CITYGATE_KAFKA_LINGER", &b"5\xffms"[..]),
            ("CITYGATE_CONFIG", b"/\xff.toml"),
            ("OTHER", b"\xff"),
            ("CITYGATE_LOG_LEVEL", b"info"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), OsString::from_vec(value.to_vec())));
        let (texts, mistakes) = texts(variables.into_iter());
        assert_eq!(texts, [("CITYGATE_LOG_LEVEL".to_owned(), "info".to_owned())]);
        assert_eq!(mistakes, ["CITYGATE_KAFKA_LINGER: is not UTF-8; write it in UTF-8"]);
    }

    #[test]
    fn a_value_becomes_a_line() {
        let anything = |line: &str| {
            toml::from_str::<toml::Table>(line)
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        let check = |field: &str, text: &str, expected: &str| {
            let line = line(field, text, anything).unwrap();
            assert_eq!(line.trim_end(), expected);
        };
        check("PARTITIONS", "7", "partitions = 7");
        check("LEVEL", "info", "level = \"info\"");
        check("PROPERTIES", "{\"a.b\": \"c\"}", "properties = { \"a.b\" = \"c\" }");
        check("PROPERTIES", "{\"a.b\" = \"c\"}", "properties = {\"a.b\" = \"c\"}");
        check(
            "PROPERTIES__SASL_PASSWORD",
            "a,b=c\"",
            "properties = { \"sasl.password\" = 'a,b=c\"' }",
        );
    }
}
