//! What watches a gateway names what exists: every metric in rules, dashboards and runbook is in the golden catalogue, every
//! recording that is used is recorded, every alert has its section in the runbook and its tests, every alert that another silences exists.
//!
//! Whether the rules fire is tested by `promtool test rules` (`tests/deploy/watching.sh`), not here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::harness::repository;

fn read(file: &str) -> String {
    let path = repository().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The catalogue: names with their kind.
fn catalogue() -> BTreeMap<String, String> {
    let text = read("tests/golden/metrics.txt");
    let lines = text.lines().filter(|line| line.starts_with("citygate_"));
    let named = lines.map(|line| {
        let (declared, kind) = line.rsplit_once(' ').unwrap();
        let name = declared.split('{').next().unwrap();
        (name.to_owned(), kind.to_owned())
    });
    named.collect()
}

/// Words of these letters that hold `marker`.
fn words<'a>(text: &'a str, marker: &'a str) -> impl Iterator<Item = &'a str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    text.split(move |letter| !is_part(letter))
        .filter(move |word| word.contains(marker))
}

/// What follows `key` in the lines that begin with it.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter_map(move |line| line.trim_start().trim_start_matches("- ").strip_prefix(key))
        .map(str::trim)
}

fn watching() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = ["prometheus", "grafana", "alertmanager"]
        .map(|folder| repository().join("deploy").join(folder))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let of_text = |path: &PathBuf| {
                path.extension()
                    .is_some_and(|ending| ["yaml", "json", "py"].iter().any(|text| ending == *text))
            };
            if path.is_dir() {
                folders.push(path);
            } else if of_text(&path) {
                found.push(path);
            }
        }
    }
    found.push(repository().join("deploy/RUNBOOK.md"));
    found
}

#[test]
fn every_metric_that_is_watched_is_in_the_catalogue() {
    let catalogue = catalogue();
    assert!(catalogue.len() > 50);
    let exists = |name: &str| {
        let base = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let is_histogram = base
            .and_then(|base| catalogue.get(base))
            .is_some_and(|kind| kind == "histogram");
        catalogue.get(name).is_some_and(|kind| kind != "histogram") || is_histogram
    };
    let (mut unknown, mut named) = (Vec::new(), BTreeSet::new());
    for file in watching() {
        let text = std::fs::read_to_string(&file).unwrap();
        for name in words(&text, "citygate_").filter(|word| !word.contains(':')) {
            named.insert(name.to_owned());
            if !exists(name) {
                unknown.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "not in tests/golden/metrics.txt: {unknown:#?}");
    assert!(named.len() > 40, "{named:?}");
}

#[test]
fn every_recording_that_is_used_is_recorded() {
    let rules = read("deploy/prometheus/rules.yaml");
    let recorded: BTreeSet<_> = values(&rules, "record:").collect();
    let mut used = BTreeSet::new();
    for file in watching() {
        let text = std::fs::read_to_string(&file).unwrap();
        let names = words(&text, ":citygate_").map(str::to_owned);
        used.extend(names.filter(|name| !name.ends_with(':')));
    }
    assert!(used.len() > 3);
    let unknown: Vec<_> = used.iter().filter(|name| !recorded.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not recorded: {recorded:?}");
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_the_runbook_has_no_other() {
    let (rules, runbook) = (read("deploy/prometheus/rules.yaml"), read("deploy/RUNBOOK.md"));
    let alerts: BTreeSet<_> = values(&rules, "alert:").collect();
    let sections: BTreeMap<_, _> = runbook
        .split("\n### ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap())
        .collect();
    assert_eq!(alerts, sections.keys().copied().collect(), "alerts, and sections");
    for alert in &alerts {
        for part in ["**Means** (", "**Look**", "**Do**"] {
            assert!(sections[alert].contains(part), "{alert} has no {part}");
        }
        let link = format!("deploy/RUNBOOK.md#{}", alert.to_lowercase());
        assert!(
            rules.contains(&format!("runbook_url: \"{link}\"")),
            "{alert} does not name {link}"
        );
    }
    // What one alert says of how urgent it is, the runbook says too.
    for rule in rules.split("- alert: ").skip(1) {
        let alert = rule.lines().next().unwrap();
        let severity = values(rule, "labels:").next().unwrap();
        let severity = severity.trim_start_matches("{severity: ").trim_end_matches('}');
        assert!(
            sections[alert].contains(&format!("**Means** ({severity})")),
            "{alert} is {severity}"
        );
    }
}

#[test]
fn every_alert_is_tested_both_ways() {
    let (rules, tests) = (
        read("deploy/prometheus/rules.yaml"),
        read("deploy/prometheus/rules_test.yaml"),
    );
    for alert in values(&rules, "alert:") {
        let quiet = format!("{{alertname: {alert}, eval_time: ");
        let silent = tests
            .lines()
            .any(|line| line.contains(&quiet) && line.ends_with("exp_alerts: []}"));
        assert!(silent, "no test in which {alert} does not fire");
        let fires = tests
            .split("      - alertname: ")
            .skip(1)
            .any(|case| case.lines().next() == Some(alert) && case.contains("exp_labels:"));
        assert!(fires, "no test in which {alert} fires");
    }
}

/// A name in a regular expression of Alertmanager that is no alert silences nothing, and nobody notices.
#[test]
fn what_silences_and_what_is_silenced_are_alerts() {
    let (rules, alertmanager) = (
        read("deploy/prometheus/rules.yaml"),
        read("deploy/alertmanager/alertmanager.yaml"),
    );
    let alerts: BTreeSet<_> = values(&rules, "alert:").collect();
    let matchers = alertmanager.lines().filter(|line| line.contains("_matchers:"));
    let named: BTreeSet<_> = matchers
        .flat_map(|line| words(line, "Citygate"))
        .filter(|name| *name != "Citygate")
        .collect();
    assert!(named.len() > 10);
    assert!(
        named.is_subset(&alerts),
        "{:?}",
        named.difference(&alerts).collect::<Vec<_>>()
    );
}
