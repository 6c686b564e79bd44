//! The load generator: `device-simulators load --json` as a process of its own, and
//! the report it prints. Only the fields that the bench compares are read; a
//! generator that fails ends the bench with its own words.

use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use device_simulators::devices::Kind;
use device_simulators::load::readings::Readings;
use serde::Deserialize;

use crate::process::Helper;

/// Connections are opened within this; what is sent meanwhile counts.
pub const RAMP: Duration = Duration::from_millis(200);

/// A generator at work.
#[derive(Debug)]
pub struct Load {
    helper: Helper,
    /// Not a pipe, which would fill up: nobody reads along.
    said: [std::fs::File; 2],
}

/// What of its report matters here.
#[derive(Debug, Deserialize)]
pub struct Report {
    pub total: Line,
    pub generator: Generator,
}

#[derive(Debug, Deserialize)]
pub struct Line {
    pub connections_up: u64,
    pub positive: u64,
    pub negative: u64,
    pub unanswered: u64,
    pub not_sent: u64,
    pub latency: Percentiles,
}

/// In milliseconds; `None` if nothing got a positive answer.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Percentiles {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    #[serde(rename = "p99_9_ms")]
    pub p999_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub struct Generator {
    pub processor_us_per_message: Option<f64>,
}

/// Mean length of the generator's readings in bytes, by kind.
pub fn reading_bytes(padding: usize) -> anyhow::Result<[f64; 3]> {
    const NOW_MS: u64 = 1_781_654_400_123;
    const DEVICES: usize = 128;
    let readings = Readings::make(1, NOW_MS, padding)?;
    Ok(Kind::PHYSICAL.map(|kind| {
        let lengths = (0..DEVICES).map(|device| readings.of(kind, device).of(0).len());
        lengths.sum::<usize>() as f64 / DEVICES as f64
    }))
}

pub fn mean(values: [f64; 3]) -> f64 {
    values.iter().sum::<f64>() / 3.0
}

// === impl Load ===

impl Load {
    pub fn start(program: &Path, arguments: &[String], ramp: Duration, seconds: u64) -> anyhow::Result<Load> {
        let said = [tempfile::tempfile()?, tempfile::tempfile()?];
        let child = Command::new(program)
            .args(["load", "--json", "--threads", "1", "--ramp"])
            .arg(format!("{}ms", ramp.as_millis()))
            .args(["--seconds", &seconds.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(said[0].try_clone()?)
            .stderr(said[1].try_clone()?)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Load {
            helper: Helper(child),
            said,
        })
    }

    /// Waits for its end. Answers that are not positive are a result like any other.
    pub fn report(mut self) -> anyhow::Result<Report> {
        let status = self.helper.0.wait()?;
        let [report, complaints] = &mut self.said;
        let mut texts = [String::new(), String::new()];
        for (file, text) in [report, complaints].into_iter().zip(&mut texts) {
            file.rewind()?;
            file.read_to_string(text)?;
        }
        serde_json::from_str(&texts[0]).map_err(|_| anyhow!("the load generator ended ({status}): {}", texts[1].trim()))
    }
}

// === impl Report ===

impl Report {
    pub fn answers(&self) -> u64 {
        self.total.positive + self.total.negative
    }
}
