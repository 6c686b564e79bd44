//! Links of the pages lead somewhere: to a file or folder of the repository, and behind `#` to a heading of that page, as GitHub
//! names it. So do the runbook links of the alert rules. Addresses of the web are not asked.
//!
//! What the Debian package has of these pages, `tests/deploy/package.sh` looks at.

use std::path::{Path, PathBuf};

use crate::harness::repository;

/// Pages that people read; others are found from here.
const FOLDERS: [&str; 6] = [
    "",
    "deploy",
    "deploy/postgres",
    "schemas",
    "device-simulators",
    "tests/benches",
];

#[test]
fn links_of_the_pages_lead_to_files_and_headings() {
    let mut dead = Vec::new();
    let mut links = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in targets(&text) {
            links += 1;
            if !exists(&page, link) {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
    assert!(links > 100, "{links} links were found");
}

#[test]
fn links_of_the_alert_rules_lead_to_sections_of_the_runbook() {
    let rules = std::fs::read_to_string(repository().join("deploy/prometheus/rules.yaml")).unwrap();
    let alerts = rules.matches("- alert: ").count();
    let links: Vec<_> = rules.split("runbook_url: \"").skip(1).collect();
    assert_eq!(links.len(), alerts, "each alert has a link");
    for link in links {
        let (link, _) = link.split_once('"').unwrap();
        assert!(exists(&repository().join("a page at the top"), link), "{link}");
    }
}

fn pages() -> Vec<PathBuf> {
    let folders = FOLDERS.iter().map(|folder| repository().join(folder));
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    files
        .filter(|file| file.extension().is_some_and(|ending| ending == "md"))
        .collect()
}

/// What stands in `](…)` outside of code, but addresses of the web.
fn targets(text: &str) -> Vec<&str> {
    let prose = text.split("\n```").step_by(2);
    let links = prose.flat_map(|prose| prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')));
    links
        .map(|(target, _)| target)
        .filter(|target| !target.contains("://"))
        .collect()
}

fn exists(page: &Path, link: &str) -> bool {
    let (file, heading) = link
        .split_once('#')
        .map_or((link, None), |(file, heading)| (file, Some(heading)));
    let file = match file {
        "" => page.to_owned(),
        file => page.parent().unwrap().join(file),
    };
    heading.map_or_else(
        || file.exists(),
        |heading| std::fs::read_to_string(&file).is_ok_and(|text| anchors(&text).any(|anchor| anchor == heading)),
    )
}

fn anchors(text: &str) -> impl Iterator<Item = String> {
    let lines = text.split("\n```").step_by(2).flat_map(str::lines);
    lines.filter(|line| line.starts_with('#')).map(anchor)
}

/// Of a heading: small letters, digits, `-`, `_`; a space is a `-`, and everything else is left out.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn headings_have_the_names_that_links_use() {
    let check = |heading: &str, expected: &str| assert_eq!(anchor(heading), expected, "{heading}");
    check("## Signals and the end", "signals-and-the-end");
    check("### CitygateDown", "citygatedown");
    check(
        "## Messages, and what devices are told",
        "messages-and-what-devices-are-told",
    );
    check("# The `state_dir`", "the-state_dir");
}

#[test]
fn a_dead_link_is_found() {
    let page = repository().join("README.md");
    let check = |link: &str, expected: bool| assert_eq!(exists(&page, link), expected, "{link}");
    check("deploy/README.md", true);
    check("deploy/README.md#compose", true);
    check("deploy/README.md#composed", false);
    check("deploy/NONE.md", false);
    check("#try-it", true);
    let text = "[a](b.md) `code` [c](https://d.example)\n```sh\n[e](f.md)\n```\n[g](h.md#i)";
    assert_eq!(targets(text), ["b.md", "h.md#i"]);
}
