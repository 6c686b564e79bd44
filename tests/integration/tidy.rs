//! The house's order, checked on its own source: who knows whom, how files open, and that what is shipped is true.

use std::path::{Path, PathBuf};

use crate::harness::repository;

/// The arrows of `src/lib.rs`: what a room's files may name by `crate::`. Nouns may be named by everybody.
const MAY_KNOW: [(&str, &[&str]); 8] = [
    ("listen", &["pipeline", "acknowledge", "listen", "deliver"]),
    ("pipeline", &["decode", "validate", "route", "deliver"]),
    ("decode", &["decode"]),
    ("validate", &["validate"]),
    ("route", &[]),
    ("deliver", &["deliver", "route"]),
    ("acknowledge", &[]),
    ("admin", &["deliver"]),
];
const NOUNS: [&str; 6] = ["message", "receipt", "schemas", "outcome", "clock", "metrics"];

#[test]
fn rooms_know_only_whom_they_may() {
    let mut trespasses = Vec::new();
    for file in sources("src") {
        let room = room(&file);
        // The composition knows every room: gateway, config, main, demo.
        let Some((_, known)) = MAY_KNOW.iter().find(|(name, _)| *name == room) else {
            if NOUNS.contains(&room.as_str()) {
                trespasses.extend(names(&file, &NOUNS));
            }
            continue;
        };
        let allowed: Vec<&str> = known.iter().chain(&NOUNS).copied().collect();
        trespasses.extend(names(&file, &allowed));
    }
    assert!(trespasses.is_empty(), "{trespasses:#?}");
}

/// Stages between the socket and the producer do no I/O and know no runtime; only `deliver` knows the Kafka client;
/// only `listen` knows packets.
#[test]
fn libraries_stay_in_their_rooms() {
    let check = |library: &str, rooms: &[&str]| {
        for file in sources("src") {
            if !rooms.contains(&room(&file).as_str()) {
                let text = code_of(&file);
                assert!(!text.contains(library), "{} names {library}", file.display());
            }
        }
    };
    check("rdkafka::", &["deliver", "demo"]);
    check("rumqttd::", &["listen"]);
    check("coap_lite::", &["listen"]);
    check("axum::", &["listen", "admin"]);
    for quiet in ["decode", "validate", "route", "acknowledge", "outcome", "message"] {
        for file in sources("src").into_iter().filter(|file| room(file) == quiet) {
            let text = code_of(&file);
            for word in ["tokio::", "std::fs", "std::net", "reqwest::"] {
                assert!(!text.contains(word), "{} does I/O: {word}", file.display());
            }
        }
    }
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    for file in ["src", "device-simulators/src", "tests"].into_iter().flat_map(sources) {
        let text = std::fs::read_to_string(&file).unwrap();
        let opening = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(opening > 0, "{} does not open with //!", file.display());
    }
}

#[test]
fn the_shipped_configuration_is_one_the_program_takes() {
    let file = repository().join("deploy/citygate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let parsed = citygate::config::Config::parse("deploy/citygate.toml", &text, std::iter::empty());
    parsed.unwrap_or_else(|mistakes| panic!("{mistakes}"));
}

/// A name in a comment is not a use of it.
fn code_of(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    // A room's unit tests may fetch what they need from anywhere.
    code.take_while(|line| *line != "#[cfg(test)]")
        .collect::<Vec<_>>()
        .join("\n")
}

/// Each `crate::room` in the file whose room is not among `allowed`.
fn names(file: &Path, allowed: &[&str]) -> Vec<String> {
    let text = code_of(file);
    let mut trespasses = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let end = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len());
        let named = &rest[..end];
        if !allowed.contains(&named) {
            trespasses.push(format!("{} knows {named}", file.display()));
        }
    }
    trespasses
}

/// The first name under `src`: a folder, or a file without its ending.
fn room(file: &Path) -> String {
    let inside = file.strip_prefix(repository().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty());
    files
}
