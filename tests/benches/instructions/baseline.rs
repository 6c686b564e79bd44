//! The committed instruction counts (`baseline.toml`), and the environment they were counted in: compiler, C library,
//! vector extensions. Counts of another environment are compared for information only, as they differ without any
//! change of the code.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/benches/instructions/baseline.toml");

const OPENING: &str =
    "# Instructions of one reading, stage by stage, counted under callgrind: tests/benches/instructions/main.rs.
# Made by `cargo bench --bench instructions -- --update`; commit it together with the change that is meant.
";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baseline {
    pub environment: Environment,
    pub instructions: BTreeMap<String, f64>,
}

/// What counts depend on besides the code and its dependencies, whose versions are locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    compiler: String,
    libc: String,
    /// The C library has a memcpy for each.
    vectors: String,
}

// === impl Baseline ===

impl Baseline {
    pub fn new(environment: Environment) -> Baseline {
        Baseline {
            environment,
            instructions: BTreeMap::new(),
        }
    }

    pub fn read() -> anyhow::Result<Baseline> {
        let text = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}"))?;
        toml::from_str(&text).with_context(|| format!("cannot read {FILE}"))
    }

    pub fn write(&self) -> anyhow::Result<()> {
        let mut rounded = self.clone();
        for each in rounded.instructions.values_mut() {
            *each = (*each * 10.0).round() / 10.0;
        }
        let text = toml::to_string(&rounded)?;
        fs::write(FILE, format!("{OPENING}\n{text}")).with_context(|| format!("cannot write {FILE}"))?;
        println!("\nwritten to {FILE}");
        Ok(())
    }
}

// === impl Environment ===

impl Environment {
    pub fn here() -> anyhow::Result<Environment> {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has = |flag: &str| processor.split_whitespace().any(|word| word == flag);
        let vectors = ["avx2", "sse2"].into_iter().find(|flag| has(flag));
        Ok(Environment {
            compiler: said("rustc", "-V")?,
            libc: said("getconf", "GNU_LIBC_VERSION")?,
            vectors: vectors.unwrap_or("none").to_owned(),
        })
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.compiler, self.libc, self.vectors)
    }
}

fn said(program: &str, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
