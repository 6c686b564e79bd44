//! Counts the instructions of one stage: this benchmark once more, under `valgrind --tool=callgrind`.
//!
//! Only what happens inside [`counted_operations`] is counted. All operations run once before, so that buffers have grown
//! and tables are learnt.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// Operations of a stage that are counted.
pub const OPERATIONS: usize = 960;

/// Runs a stage; to be watched.
pub fn run(stage: &mut dyn FnMut(usize)) {
    for operation in 0..OPERATIONS {
        stage(operation);
    }
    counted_operations(stage);
}

/// callgrind is told this name, which nothing else may have.
#[inline(never)]
fn counted_operations(stage: &mut dyn FnMut(usize)) {
    for operation in 0..OPERATIONS {
        stage(operation);
    }
}

/// Instructions of one operation of a stage.
pub fn count(name: &str) -> anyhow::Result<f64> {
    let folder = TempDir::new()?;
    let file = folder.path().join("counts");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_operations*")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(["stage", name])
        .stdin(Stdio::null())
        .output()
        .context("valgrind cannot be run; on Debian it is the package valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, said.trim());
    let counts = fs::read_to_string(&file)?;
    let total = counts.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: f64 = total.context("callgrind has counted nothing")?.trim().parse()?;
    ensure!(total > 0.0, "callgrind has not seen the operations");
    Ok(total / OPERATIONS as f64)
}
