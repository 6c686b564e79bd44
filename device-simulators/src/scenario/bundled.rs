//! The scenarios that are part of the program, so that it needs no folder.
//!
//! They are the files of `device-simulators/scenarios/`, by name; a scenario of one's own is given by its path.

use std::path::Path;

use anyhow::Context;

use super::Scenario;
use crate::devices::Kinds;

/// Name and text, by name.
const SCENARIOS: [(&str, &str); 9] = [
    ("all_kinds", include_str!("../../scenarios/all_kinds.toml")),
    ("bad_firmware", include_str!("../../scenarios/bad_firmware.toml")),
    ("calm_day", include_str!("../../scenarios/calm_day.toml")),
    ("city_week", include_str!("../../scenarios/city_week.toml")),
    ("flash_reconnect", include_str!("../../scenarios/flash_reconnect.toml")),
    ("kafka_outage", include_str!("../../scenarios/kafka_outage.toml")),
    ("night_batch", include_str!("../../scenarios/night_batch.toml")),
    ("rush_hour", include_str!("../../scenarios/rush_hour.toml")),
    ("storm_front", include_str!("../../scenarios/storm_front.toml")),
];

/// The names of all bundled scenarios.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|(name, _)| *name)
}

/// The text of a bundled scenario.
pub fn text(name: &str) -> Option<&'static str> {
    let found = SCENARIOS.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text)
}

/// Reads a scenario, given by its name if it is bundled, else by the path of its file.
pub fn load(name_or_path: &str, kinds: &Kinds) -> anyhow::Result<Scenario> {
    if let Some(text) = text(name_or_path) {
        return Ok(Scenario::parse(name_or_path, text, kinds)?);
    }
    let path = Path::new(name_or_path);
    if path.components().count() == 1 && path.extension().is_none() && !path.exists() {
        return Err(unknown(name_or_path));
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the scenario {name_or_path}"))?;
    Ok(Scenario::parse(name_or_path, &text, kinds)?)
}

/// The error that names what there is instead.
pub fn unknown(name: &str) -> anyhow::Error {
    let known = names().collect::<Vec<_>>().join(", ");
    anyhow::anyhow!("unknown scenario {name}; known scenarios: {known}, or the path of a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_bundled() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let file = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut files: Vec<String> = std::fs::read_dir(folder).unwrap().map(file).collect();
        files.sort();
        let expected: Vec<String> = names().map(|name| format!("{name}.toml")).collect();
        assert_eq!(files, expected);
    }

    #[test]
    fn a_scenario_is_loaded_by_name_or_by_path() {
        assert_eq!(load("rush_hour", &Kinds::bundled()).unwrap().name, "rush_hour");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/calm_day.toml");
        assert_eq!(load(path, &Kinds::bundled()).unwrap().name, "calm_day");
    }

    #[test]
    fn an_unknown_scenario_is_answered_with_the_known_ones() {
        let check = |name: &str, expected: &str| {
            let error = format!("{:#}", load(name, &Kinds::bundled()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        check(
            "rush_our",
            "unknown scenario rush_our; known scenarios: all_kinds, bad_firmware, calm_day, ",
        );
        check("rush_our.toml", "cannot read the scenario rush_our.toml");
        check("mine/rush_hour", "cannot read the scenario mine/rush_hour");
    }
}
