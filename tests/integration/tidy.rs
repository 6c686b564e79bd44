//! The repository's own rules, checked on its source: which room may name which, how files open, which words are plain,
//! that the top level and the shipped configuration are what they are said to be. A rule that is not here is a habit,
//! and may be forgotten.

// Words are found at the borders of characters.
#![allow(clippy::string_slice)]

use std::path::{Path, PathBuf};

use crate::circles;
use crate::harness::repository;

/// The arrows of `src/lib.rs`: what a room's files may name by `crate::`. Nouns may be named by everybody.
const MAY_KNOW: [(&str, &[&str]); 11] = [
    ("listen", &["pipeline", "acknowledge", "listen", "deliver", "devices"]),
    ("pipeline", &["authorize", "decode", "validate", "route", "deliver"]),
    ("authorize", &[]),
    ("decode", &["decode"]),
    ("validate", &["validate"]),
    ("route", &[]),
    // A noun that is made of compiled schemas.
    ("catalogue", &["validate"]),
    ("deliver", &["deliver", "route"]),
    ("acknowledge", &[]),
    // Its port listens at addresses as a listener's; results become Avro as readings do.
    ("store", &["store", "deliver", "listen", "validate"]),
    // It stands beside the listeners, and is given the same `Context`.
    ("operate::admin", &["deliver", "listen"]),
];
const NOUNS: [&str; 17] = [
    "message",
    "receipt",
    "catalogue",
    "topics",
    "outcome",
    "dead_letter_allowance",
    "recent_refusals",
    "devices",
    "operate::clock",
    "operate::log_limit",
    "operate::metrics",
    "operate::mistake",
    "operate::networks",
    "operate::rate_limit",
    "operate::secret",
    "operate::spelling",
    "operate::watch",
];

#[test]
fn rooms_know_only_whom_they_may() {
    let mut trespasses = Vec::new();
    for file in files_of_rooms() {
        let room = room(&file);
        // The composition knows every room: gateway, main, demo, and what is no noun in `operate`.
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

/// Walls as if they were crates: what a reading is and whether it fits depends on nobody who receives, delivers or counts it.
#[test]
fn decode_and_validate_name_no_listener_no_delivery_and_no_metrics() {
    for file in files_of_rooms() {
        if ["decode", "validate"].contains(&room(&file).as_str()) {
            let text = code_of(&file);
            let named = |name: &&str| text.contains(&format!("crate::{name}"));
            let trespass = ["listen", "deliver", "operate::metrics", "receipt", "pipeline"]
                .iter()
                .find(|name| named(name));
            assert_eq!(trespass, None, "{}", file.display());
        }
    }
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
    check("axum::", &["listen", "operate::admin", "store"]);
    check("tokio_postgres::", &["store"]);
    for quiet in [
        "authorize",
        "decode",
        "validate",
        "route",
        "acknowledge",
        "outcome",
        "message",
    ] {
        for file in files_of_rooms().into_iter().filter(|file| room(file) == quiet) {
            let text = code_of(&file);
            for word in ["tokio::", "std::fs", "std::net", "reqwest::"] {
                assert!(!text.contains(word), "{} does I/O: {word}", file.display());
            }
        }
    }
}

/// Files of tools are hidden; a further name at the top needs a reason.
#[test]
fn the_top_level_is_what_it_is_said_to_be() {
    let names = std::fs::read_dir(repository()).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str().unwrap().to_owned()
    });
    // What .gitignore names: built or spooled here, not part of the repository.
    let ignored = ["target", "citygate-state"];
    let mut names: Vec<String> = names
        .filter(|name| !name.starts_with('.') && !ignored.contains(&name.as_str()))
        .collect();
    names.sort();
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "deploy",
        "device-simulators",
        "schemas",
        "src",
        "tests",
    ];
    assert_eq!(names, expected);
}

/// Files that name each other in a loop can only be read together.
#[test]
fn modules_form_no_circles() {
    let circles = circles::circles(&repository().join("src"), &files_of_rooms(), code_of);
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    // What it is, what it promises, what it leaves to others.
    for file in ["src", "device-simulators", "tests"].into_iter().flat_map(sources) {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(
            lines >= 3,
            "{} opens with {lines} lines of //!, not with 3",
            file.display()
        );
    }
}

/// Private metaphor that the field has a plain word for, as a reader would otherwise ask what is meant; see the terms that
/// MQTT, CoAP, Kafka and Prometheus use. In whatever people read: code, tests, settings, pages, scripts.
#[test]
fn words_are_plain() {
    const BANNED: [&str; 38] = [
        "is away", // unavailable
        "are away",
        "be away",
        "goes away", // becomes unavailable, disconnects
        "go away",
        "went away",
        "gone away",
        "became of", // outcome
        "becomes of",
        "become of",
        "gone mad",  // rejected too often
        "orchestra", // runner
        "seat",      // connection permit
        "seats",
        "house",  // what it holds; the balance
        "parked", // deferred
        "parks",
        "set aside",    // reserved, retained
        "goodbye",      // disconnect
        "touched_down", // removed
        "aloft",        // in flight
        "held against", // checked against, compared with
        "hold against",
        "holds against",
        "at rest", // idle
        "at_rest",
        "hand_over",     // enqueue
        "lose_patience", // time out
        "loses patience",
        "patience", // timeout
        "parcel",   // encoded record
        "taken in", // accepted
        "takes readings",
        "take readings",
        "takes messages",
        "lent", // occupied, issued
        "lends",
        "in peace", // alone
    ];
    let mut read = files(
        &["src", "device-simulators", "schemas", "deploy", "tests", ".ci"],
        &[".rs", ".md", ".toml", ".sh", ".py", ".yaml", ".yml", ".avsc", "run"],
    );
    read.extend(["README.md", "Cargo.toml"].map(|file| repository().join(file)));
    // But this list.
    read.retain(|file| !file.ends_with("tests/integration/tidy.rs"));
    let mut found = Vec::new();
    for file in read {
        let text = std::fs::read_to_string(&file).unwrap().to_lowercase();
        for (line, number) in text.lines().zip(1..) {
            let words = BANNED.iter().filter(|word| has_word(line, word));
            found.extend(words.map(|word| format!("{}:{number}: {word}", file.display())));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, behind) = (&line[..at], &line[at + word.len()..]);
        !is_part(before.chars().next_back()) && !is_part(behind.chars().next())
    })
}

#[test]
fn words_are_found_whole() {
    let check = |line: &str, word: &str, expected: bool| assert_eq!(has_word(line, word), expected, "{line}");
    check("kafka is away.", "is away", true);
    check("a seat", "seat", true);
    check("take_seat(seats)", "seat", false);
    check("é seat", "seat", true);
}

#[test]
fn the_shipped_configuration_is_valid() {
    let file = repository().join("deploy/citygate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let parsed = citygate::operate::config::Config::parse("deploy/citygate.toml", &text, std::iter::empty());
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

/// The rooms named behind `crate::`: one, or those of a group `{a, b::c, d::{e, f}}`. Those of `operate` count one by one:
/// some of them are nouns.
fn rooms_at(rest: &str) -> Vec<String> {
    let group = rest.strip_prefix('{');
    let branches = group.map_or_else(|| vec![rest], branches);
    let rooms = branches.into_iter().flat_map(|branch| {
        let room: String = branch
            .chars()
            .take_while(|letter| letter.is_ascii_lowercase() || *letter == '_')
            .collect();
        let inside = branch.strip_prefix("operate::").map(rooms_at);
        inside.map_or_else(
            || vec![room],
            |inside| inside.into_iter().map(|inside| format!("operate::{inside}")).collect(),
        )
    });
    rooms.filter(|room| !room.is_empty()).collect() // empty: a comma at the end
}

/// The parts of a group, up to the brace that closes it.
fn branches(group: &str) -> Vec<&str> {
    let (mut branches, mut depth, mut from) = (Vec::new(), 1, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && letter == ',') {
            branches.extend(group.get(from..at).map(str::trim_start));
            from = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    branches
}

#[test]
fn rooms_are_found_in_every_form_of_use() {
    let check = |rest: &str, expected: &[&str]| assert_eq!(rooms_at(rest), expected, "{rest}");
    check("listen::in_flight_bytes::Config;", &["listen"]);
    check("route;", &["route"]);
    check(
        "{admin, listen::{coap, http}, schemas::Kind};",
        &["admin", "listen", "schemas"],
    );
    check("{\n    decode::address,\n    route,\n};", &["decode", "route"]);
    check("operate::clock::Clock;", &["operate::clock"]);
    check("operate::{admin, clock::Clock};", &["operate::admin", "operate::clock"]);
    check(
        "{operate::{admin, check}, route};",
        &["operate::admin", "operate::check", "route"],
    );
}

/// The first name under `src`: a folder, or a file without its ending; with the second one in `operate`.
fn room(file: &Path) -> String {
    let inside = file.strip_prefix(repository().join("src")).unwrap().with_extension("");
    let depth = if inside.starts_with("operate") { 2 } else { 1 };
    let names: Vec<_> = inside.iter().take(depth).map(|name| name.to_str().unwrap()).collect();
    names.join("::")
}

/// The files of all rooms, but their unit tests: those may fetch what they need from anywhere.
fn files_of_rooms() -> Vec<PathBuf> {
    let mut files = sources("src");
    let inside = |file: &Path| file.strip_prefix(repository()).unwrap().with_extension("");
    files.retain(|file| inside(file).components().all(|part| part.as_os_str() != "tests"));
    files
}

fn sources(folder: &str) -> Vec<PathBuf> {
    files(&[folder], &[".rs"])
}

/// The files below these folders whose names end so.
fn files(folders: &[&str], endings: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| repository().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.to_str().unwrap().ends_with(ending)) {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty());
    files
}
