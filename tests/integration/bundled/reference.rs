//! `schemas/README.md`, the page about the bundled kinds: its tables are made from the schemas, its examples are accepted.
//!
//! A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the rest of the page is written by hand.
//! `TEST_GOLDEN=write cargo test --workspace --test integration reference` writes the tables after a change that is meant.

use std::fmt::Write as _;

use citygate::catalogue::Kinds;
use citygate::receipt::metrics::Tallies;
use citygate::validate::{self, Scratch, Validator};
use serde_json::Value;

use super::{FIRST, KINDS, LAST, fields, name, schema};
use crate::harness::repository;

const HEAD: &str = "| field | unit | range | codes | what it is | source |\n|---|---|---|---|---|---|\n";

fn page() -> String {
    std::fs::read_to_string(repository().join("schemas/README.md")).unwrap()
}

/// The page with every table made anew.
fn with_tables(page: &str) -> String {
    let mut parts = page.split("<!-- table: ");
    let mut made = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (of, rest) = part.split_once(" -->").expect("<!-- table: NAME -->");
        let (_, after) = rest.split_once("<!-- end -->").expect("<!-- end -->");
        let rows = table(of);
        write!(made, "<!-- table: {of} -->\n{HEAD}{rows}<!-- end -->{after}").unwrap();
    }
    made
}

/// The rows of a kind's own fields, or of those that every kind has.
fn table(of: &str) -> String {
    let is_shared = |field: &&Value| FIRST.contains(&name(field)) || LAST.contains(&name(field));
    let schema = schema(if of == "shared" { KINDS[0] } else { of });
    let chosen = fields(&schema)
        .iter()
        .filter(|field| is_shared(field) == (of == "shared"));
    let mut rows = String::new();
    chosen.for_each(|field| add(field, "", &mut rows));
    rows
}

/// A field's row, and those of the fields inside it.
fn add(field: &Value, path: &str, rows: &mut String) {
    let of = heart(&field["type"]);
    let (step, items) = match of["type"].as_str() {
        Some("array") => ("[]", heart(&of["items"])),
        Some("map") => (".*", heart(&of["values"])),
        _ => ("", of),
    };
    let path = format!("{path}{}{step}", name(field));
    // Attributes stand on the field, or inside its types.
    let find = |attribute: &str| [field, of, items].into_iter().find_map(|part| part.get(attribute));
    let also = field["also"].as_array().into_iter().flatten();
    let also: String = also.map(|also| format!(", or `{}`", also.as_str().unwrap())).collect();
    let (doc, source) = split(field["doc"].as_str().unwrap());
    let unit = find("unit").map_or("", |unit| unit.as_str().unwrap());
    let (range, codes) = (range(&find), codes(&find, items));
    let cells = [
        format!("`{path}`{also}"),
        unit.to_owned(),
        range,
        codes,
        doc.to_owned(),
        source.to_owned(),
    ];
    for cell in cells {
        write!(rows, "| {}", cell.replace('|', "\\|")).unwrap();
        rows.push_str(if cell.is_empty() { "" } else { " " });
    }
    rows.push_str("|\n");
    let inner = items["fields"].as_array().into_iter().flatten();
    inner.for_each(|field| add(field, &format!("{path}."), rows));
}

/// A type out of its union with null.
fn heart(of: &Value) -> &Value {
    let branches = of
        .as_array()
        .and_then(|branches| branches.iter().find(|branch| *branch != "null"));
    branches.unwrap_or(of)
}

/// The doc without its last sentence, where that names the source.
fn split(doc: &str) -> (&str, &str) {
    let (doc, source) = doc.split_once(" Source: ").unwrap_or((doc, ""));
    (doc, source.trim_end_matches('.'))
}

fn range<'v>(find: &dyn Fn(&str) -> Option<&'v Value>) -> String {
    let number = |attribute: &str| find(attribute).map(Value::to_string);
    let mut text = match (number("minimum"), number("maximum")) {
        (Some(minimum), Some(maximum)) => format!("{minimum} to {maximum}"),
        (Some(minimum), None) => format!("from {minimum}"),
        _ => String::new(),
    };
    if find("out_of_range").is_some_and(|what| what == "null") {
        text.push_str("; else null");
    }
    for (least, most, what) in [("minLength", "maxLength", "characters"), ("", "maxItems", "items")] {
        match (find(least), find(most)) {
            (Some(least), Some(most)) => write!(text, "{least} to {most} {what}").unwrap(),
            (None, Some(most)) => write!(text, "at most {most} {what}").unwrap(),
            _ => {}
        }
    }
    if let Some(unique) = find("unique") {
        write!(text, ", one for each `{}`", unique.as_str().unwrap()).unwrap();
    }
    text
}

fn codes<'v>(find: &dyn Fn(&str) -> Option<&'v Value>, of: &Value) -> String {
    let list = |values: &Value| {
        let values = values.as_array().unwrap().iter().map(|value| match value {
            Value::String(symbol) => format!("`{symbol}`"),
            value => value.to_string(),
        });
        values.collect::<Vec<_>>().join(", ")
    };
    let sentinels = find("sentinels").map(|sentinels| format!("null: {}", list(sentinels)));
    // A type that is known by its name was shown where it is defined.
    let named = of.as_str().filter(|name| name.starts_with(char::is_uppercase));
    let named = named.map(|name| format!("those of {name} above"));
    let symbols = of.get("symbols").map(list).or(named).unwrap_or_default();
    let defined = of["name"].as_str().map_or_else(String::new, |name| format!("{name}: "));
    let others = of.get("also").and_then(Value::as_object).into_iter().flatten();
    let others: Vec<_> = others
        .map(|(symbol, also)| format!("{} for `{symbol}`", list(also)))
        .collect();
    let others = if others.is_empty() {
        String::new()
    } else {
        format!(" (also {})", others.join("; "))
    };
    let defined = if of.get("symbols").is_some() {
        defined
    } else {
        String::new()
    };
    sentinels.unwrap_or(defined + &symbols + &others)
}

#[test]
fn the_tables_of_the_reference_are_those_of_the_schemas() {
    let page = page();
    let now = with_tables(&page);
    if std::env::var_os("TEST_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(repository().join("schemas/README.md"), &now).unwrap();
        return;
    }
    for of in KINDS.iter().chain(&["shared"]) {
        assert!(page.contains(&format!("<!-- table: {of} -->")), "no table of {of}");
    }
    assert!(
        page == now,
        "schemas/README.md is not what the schemas say; if that is meant: \
         TEST_GOLDEN=write cargo test --workspace --test integration reference\n{now}"
    );
}

/// Examples stand in blocks of JSON below the heading of their kind.
#[test]
fn the_examples_of_the_reference_are_accepted() {
    let page = page();
    let kinds = Kinds::load(&repository().join("schemas"), "city.", &Tallies::default()).unwrap();
    let config = validate::Config {
        max_age: None,
        ..Default::default()
    };
    let (validator, mut scratch) = (Validator::new(&config), Scratch::default());
    for kind in KINDS {
        let (_, section) = page
            .split_once(&format!("\n## {kind}\n"))
            .unwrap_or_else(|| panic!("no section {kind}"));
        let section = section.split("\n## ").next().unwrap_or_default();
        let (_, example) = section
            .split_once("```json\n")
            .unwrap_or_else(|| panic!("no example of {kind}"));
        let (example, _) = example.split_once("```").unwrap();
        let program = &kinds.get(kind).unwrap().program;
        let checked = validator.reading(program, "d", 1_795_262_400_000, example.as_bytes(), &mut scratch);
        assert!(checked.is_ok(), "{kind}: {}", checked.unwrap_err());
    }
}
