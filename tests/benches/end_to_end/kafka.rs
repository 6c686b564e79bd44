//! The Kafka of the run: started by `tests/servers/kafka.sh`, or the one that TEST_KAFKA
//! names. One that was started here is stopped on drop, and its records are removed. CPU
//! is measured only of a Kafka whose process is known.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/kafka.sh");

/// A running Kafka.
#[derive(Debug)]
pub struct Kafka {
    pub servers: String,
    /// `None`: it cannot be measured.
    pub pid: Option<u32>,
    /// Stopped when this is dropped.
    _own: Option<Own>,
}

/// One that was started for this run; its records go with it.
#[derive(Debug)]
struct Own {
    data: TempDir,
    ports: [u16; 2],
}

// === impl Kafka ===

impl Kafka {
    pub fn start(pid: Option<u32>) -> anyhow::Result<Kafka> {
        if let Ok(servers) = std::env::var("TEST_KAFKA") {
            return Ok(Kafka {
                servers,
                pid,
                _own: None,
            });
        }
        let own = Own {
            data: TempDir::new()?,
            ports: free_ports()?,
        };
        let output = own.script("start").output().context("cannot run kafka.sh")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "Kafka does not start: {}", said.trim());
        let pid = fs::read_to_string(own.data.path().join("pid"))?.trim().parse()?;
        Ok(Kafka {
            servers: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            pid: Some(pid),
            _own: Some(own),
        })
    }
}

impl Own {
    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(Path::new(SCRIPT));
        command
            .arg(verb)
            .env("KAFKA_DATA", self.data.path())
            .env("KAFKA_PORT", self.ports[0].to_string())
            .env("KAFKA_CONTROLLER_PORT", self.ports[1].to_string())
            .env("KAFKA_HEAP", "512m")
            .env("KAFKA_WHILE", std::process::id().to_string())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = self.script("stop").status() {
            eprintln!("Kafka could not be stopped: {error}");
        }
    }
}

fn free_ports() -> anyhow::Result<[u16; 2]> {
    let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port()])
}
