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
    // It stands beside the listeners, and is given the same `Front`.
    ("admin", &["deliver", "listen"]),
];
const NOUNS: [&str; 10] = [
    "message",
    "receipt",
    "schemas",
    "outcome",
    "quota",
    "clock",
    "log_limit",
    "metrics",
    "secret",
    "spelling",
];

#[test]
fn rooms_know_only_whom_they_may() {
    let mut trespasses = Vec::new();
    for file in files_of_rooms() {
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
        for file in files_of_rooms() {
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
        for file in files_of_rooms().into_iter().filter(|file| room(file) == quiet) {
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
    code.take_while(|line| *line != "#[cfg(test)]")
        .collect::<Vec<_>>()
        .join("\n")
}

/// Each `crate::room` in the file whose room is not among `allowed`.
fn names(file: &Path, allowed: &[&str]) -> Vec<String> {
    let text = code_of(file);
    let rooms = text.split("crate::").skip(1).flat_map(rooms_at);
    let trespasses = rooms.filter(|room| !allowed.contains(&room.as_str()));
    trespasses
        .map(|room| format!("{} knows {room}", file.display()))
        .collect()
}

/// The rooms named behind `crate::`: one, or those of a group `{a, b::c, d::{e, f}}`.
fn rooms_at(rest: &str) -> Vec<String> {
    let word = |text: &str| {
        let letters = text.trim_start().chars();
        letters
            .take_while(|letter| letter.is_ascii_lowercase() || *letter == '_')
            .collect::<String>()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let (mut rooms, mut depth) = (vec![word(group)], 1);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => rooms.push(word(group.get(at + 1..).unwrap_or_default())),
            _ => {}
        }
    }
    rooms.retain(|room| !room.is_empty()); // a comma at the end
    rooms
}

#[test]
fn rooms_are_found_in_every_form_of_use() {
    let check = |rest: &str, expected: &[&str]| assert_eq!(rooms_at(rest), expected, "{rest}");
    check("listen::admit::Seat;", &["listen"]);
    check("route;", &["route"]);
    check(
        "{admin, listen::{coap, http}, schemas::Kind};",
        &["admin", "listen", "schemas"],
    );
    check("{\n    decode::address,\n    route,\n};", &["decode", "route"]);
}

/// The first name under `src`: a folder, or a file without its ending.
fn room(file: &Path) -> String {
    let inside = file.strip_prefix(repository().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The files of all rooms, but their unit tests: those may fetch what they need from anywhere.
fn files_of_rooms() -> Vec<PathBuf> {
    let mut files = sources("src");
    let inside = |file: &Path| file.strip_prefix(repository()).unwrap().with_extension("");
    files.retain(|file| inside(file).components().all(|part| part.as_os_str() != "tests"));
    files
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
