//! Values as Python has them, by `tests/interop/values.py`: what a number is, exactly; and that readers read what is stored.
//!
//! The expectations are Python's alone. TEST_LITERALS says how many numbers (100000); PYTHON is the interpreter. A
//! machine that lacks it, or the readers' modules, skips and says so, or fails if CITYGATE_REQUIRE_KAFKA=1, as it is
//! where nothing may be missing.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

use super::*;

/// What a script exits with that lacks a module.
const LACKING: i32 = 77;

/// The output of values.py; `None`, and said so, if it cannot run here.
fn python(arguments: &[&str], input: &str) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/values.py");
    let interpreter = std::env::var_os("PYTHON").unwrap_or("python3".into());
    let child = Command::new(&interpreter)
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return skipped(&format!("{}: {error}", interpreter.display())),
    };
    // It reads all of it before it writes, or nothing at all: then it may be gone already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&stderr);
    if status.code() == Some(LACKING) {
        return skipped(errors.trim());
    }
    assert!(status.success(), "values.py {arguments:?}: {status}: {errors}");
    Some(String::from_utf8(stdout).unwrap())
}

/// Past the test harness, which would swallow it: a skip is to be seen. Where nothing may be missing, it is a failure.
fn skipped<T>(why: &str) -> Option<T> {
    let required = std::env::var_os("CITYGATE_REQUIRE_KAFKA").is_some_and(|value| value != "0");
    assert!(
        !required,
        "CITYGATE_REQUIRE_KAFKA is set, but values by Python cannot be tested: {why}"
    );
    writeln!(std::io::stderr(), "SKIPPED: values by Python: {why}").unwrap();
    None
}

fn lines(output: &str) -> impl Iterator<Item = Json> {
    output.lines().map(|line| serde_json::from_str(line).unwrap())
}

/// A kind with one field, `x`.
fn bench_of(kind: &str) -> Bench {
    Bench::of_fields(&format!(r#"{{"name":"x","type":{kind}}}"#))
}

/// The datum in hexadecimal digits, or the reason why there is none; the same from both drivers.
fn stored(bench: &Bench, literal: &str) -> String {
    let json = format!(r#"{{"x":{literal}}}"#);
    let program = &bench.only_kind().program;
    let mut scratch = bench.scratch.borrow_mut();
    let mut shown = |judged: bool| {
        let (validator, json) = (&bench.validator, json.as_bytes());
        let result = if judged {
            validator.judgement(program, DEVICE, NOW_MS, json, &mut scratch)
        } else {
            validator.reading(program, DEVICE, NOW_MS, json, &mut scratch)
        };
        match result {
            Ok(()) => hexadecimal(scratch.value().strip_prefix(program.prefix.as_slice()).unwrap()),
            Err(rejection) => rejection.reason.label().to_owned(),
        }
    };
    let (scanned, judged) = (shown(false), shown(true));
    assert_eq!(scanned, judged, "the two drivers differ: {json}");
    scanned
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_number_is_what_pythons_decimal_says() {
    let count = std::env::var("TEST_LITERALS").unwrap_or("100000".to_owned());
    let Some(output) = python(&["literals", &count], "") else {
        return;
    };
    let mut benches = std::collections::BTreeMap::new();
    let mut seen = 0;
    for line in lines(&output) {
        let literal = line["literal"].as_str().unwrap();
        for (kind, expected) in line["data"].as_object().unwrap() {
            let bench = benches.entry(kind.clone()).or_insert_with(|| bench_of(kind));
            assert_eq!(stored(bench, literal), expected.as_str().unwrap(), "{kind} {literal}");
        }
        seen += 1;
    }
    assert_eq!((seen.to_string(), benches.len()), (count, 6));
}

#[test]
fn readers_read_the_smallest_and_largest_of_every_type() {
    let Some(output) = python(&["extremes"], "") else {
        return;
    };
    let mut data = String::new();
    for line in lines(&output) {
        let kind = line["type"].to_string();
        let bench = bench_of(&kind);
        let literals = |name: &str| -> Vec<String> {
            let list = line[name].as_array().unwrap();
            list.iter()
                .map(|literal| literal.as_str().unwrap().to_owned())
                .collect()
        };
        for literal in literals("accepted") {
            let datum = stored(&bench, &literal);
            assert!(
                datum.bytes().all(|digit| digit.is_ascii_hexdigit()),
                "{kind} {literal}: {datum}"
            );
            let schema = &bench.only_kind().text;
            data += &serde_json::json!({"schema": **schema, "literal": literal, "datum": datum}).to_string();
            data.push('\n');
        }
        for literal in literals("refused") {
            // A local time is not sent as text; a text beyond an instant's bounds is refused like its number.
            let is_instant = line["type"]["logicalType"]
                .as_str()
                .is_some_and(|name| name.starts_with("timestamp-"));
            let reason = if literal.starts_with('"') && !is_instant {
                "schema_mismatch"
            } else {
                "out_of_range"
            };
            assert_eq!(stored(&bench, &literal), reason, "{kind} {literal}");
        }
    }
    if let Some(said) = python(&["read"], &data) {
        println!("{said}");
    }
}
