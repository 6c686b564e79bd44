//! The gateway under measurement: the real program as a process of its own, with the shipped settings.
//!
//! Its ports are free ones, read from its log; its spool, log and configuration are in a temporary folder. What it counts
//! itself is read from `/metrics`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Helper;

/// How long it may take to start, and to find Kafka and its topics.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    pub name: String,
    helper: Helper,
    folder: TempDir,
    /// MQTT, CoAP, HTTP, admin.
    addresses: [SocketAddr; 4],
}

/// Where readings go.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub servers: &'a str,
    pub topic_prefix: &'a str,
    /// Of each topic.
    pub partitions: i32,
    pub schemas: &'a Path,
}

/// One look at `/metrics`.
#[derive(Clone, Debug)]
pub struct Scrape(String);

// === impl Gateway ===

impl Gateway {
    /// Starts it and waits until it is ready, and Kafka available.
    pub fn start(program: &Path, place: Place<'_>) -> anyhow::Result<Gateway> {
        let folder = TempDir::new()?;
        fs::write(folder.path().join("citygate.toml"), config(folder.path(), place))?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new(program)
            .args(["run", "--config"])
            .arg(folder.path().join("citygate.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut gateway = Gateway {
            name: program.display().to_string(),
            helper: Helper(child),
            folder,
            addresses: [SocketAddr::from(([127, 0, 0, 1], 0)); 4],
        };
        gateway.addresses = gateway.eventually(|gateway| addresses(&gateway.log()))?;
        gateway.eventually(|gateway| {
            let scrape = gateway.scrape().ok()?;
            (scrape.sum("citygate_kafka_up", &[]) == 1.0).then_some(())
        })?;
        Ok(gateway)
    }

    pub fn pid(&self) -> u32 {
        self.helper.0.id()
    }

    pub fn mqtt(&self) -> String {
        self.addresses[0].to_string()
    }

    pub fn coap(&self) -> String {
        self.addresses[1].to_string()
    }

    pub fn http(&self) -> String {
        self.addresses[2].to_string()
    }

    pub fn scrape(&self) -> anyhow::Result<Scrape> {
        let mut stream = TcpStream::connect(self.addresses[3])?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(Scrape(text))
    }

    /// Waits until nothing is in its spool any more.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        self.eventually(|gateway| {
            let scrape = gateway.scrape().ok()?;
            let waiting = scrape.sum("citygate_spool_readings", &[]) + scrape.sum("citygate_in_flight_bytes", &[]);
            (waiting == 0.0).then_some(())
        })
    }

    pub fn log_bytes(&self) -> u64 {
        fs::metadata(self.log_file()).map_or(0, |file| file.len())
    }

    fn eventually<T>(&mut self, look: impl Fn(&Gateway) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(status) = self.helper.0.try_wait()? {
                bail!("{} ended ({status}):\n{}", self.name, self.log());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        bail!("{} is not ready; it says:\n{}", self.name, self.log())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

/// The shipped settings but for addresses and folders.
fn config(folder: &Path, place: Place<'_>) -> String {
    let listeners: String = ["mqtt", "coap", "http", "admin"]
        .map(|name| format!("[{name}]\nlisten = \"127.0.0.1:0\"\n"))
        .concat();
    let Place {
        servers,
        topic_prefix,
        partitions,
        schemas,
    } = place;
    format!(
        "{listeners}[log]\nformat = \"json\"\n[schemas]\nfolder = {schemas:?}\n[spool]\nfolder = {:?}\n\
         [kafka]\nbootstrap_servers = \"{servers}\"\ncreate_topics = true\npartitions = {partitions}\ntopic_prefix = \"{topic_prefix}\"\n\
         dead_letter_topic = \"{topic_prefix}dead-letter\"\n",
        folder.join("spool")
    )
}

/// What the line "citygate is running" names.
fn addresses(log: &str) -> Option<[SocketAddr; 4]> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let running = lines.find(|line| line["fields"]["message"] == "citygate is running")?;
    let address = |name: &str| running["fields"][name].as_str()?.parse().ok();
    Some([address("mqtt")?, address("coap")?, address("http")?, address("admin")?])
}

// === impl Scrape ===

impl Scrape {
    /// The sum of all samples of this name that carry these labels.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let samples = self.0.lines().filter_map(|line| line.strip_prefix(name));
        let samples = samples.filter(|rest| rest.starts_with(['{', ' ']));
        let samples = samples.filter(|rest| labels.iter().all(|label| rest.contains(label)));
        samples
            .filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Readings that have their outcome.
    pub fn answered(&self) -> u64 {
        self.sum("citygate_readings_total", &[]) as u64
    }

    /// Readings that ended so.
    pub fn ended(&self, outcome: &str) -> u64 {
        self.sum("citygate_readings_total", &[&format!("outcome=\"{outcome}\"")]) as u64
    }

    /// The histogram of received → answered: (upper bound in seconds, readings up to it), ascending.
    pub fn answer_buckets(&self, protocol: &str) -> Vec<(f64, f64)> {
        let name = "citygate_reading_answer_seconds_bucket{";
        let label = format!("protocol=\"{protocol}\"");
        let samples = self
            .0
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(&label));
        let bucket = |line: &str| {
            let bound = line.split_once("le=\"")?.1.split_once('"')?.0;
            let count = line.rsplit_once(' ')?.1;
            Some((bound.parse().ok()?, count.parse().ok()?))
        };
        samples.filter_map(bucket).collect()
    }
}
