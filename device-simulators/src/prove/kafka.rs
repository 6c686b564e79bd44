//! The Kafka that a proof runs against: the repository's script starts it, signals by process id damage it.
//!
//! Its own data folder and ports, so that nothing else is touched; its nodes are killed when the proof ends, and by the
//! script's watch should the proof itself be killed.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::ports::free_block;

/// The processes that a Kafka consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One node, broker and controller at once.
    One,
    /// Three such nodes.
    Three,
    /// A broker, and its controller as a process of its own.
    Split,
}

/// What a process of [`Layout::Split`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Broker,
    Controller,
}

/// How a Kafka is started, or started again.
#[derive(Clone, Debug)]
struct Launch {
    script: PathBuf,
    data: PathBuf,
    port: u16,
    controller_port: u16,
    layout: Layout,
}

/// A running Kafka.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    /// `None`: not started here, and not to be touched.
    own: Option<Launch>,
}

// === impl Layout ===

impl Layout {
    /// As the script calls it.
    fn name(self) -> &'static str {
        match self {
            Layout::One => "1",
            Layout::Three => "3",
            Layout::Split => "1+1",
        }
    }

    fn processes(self) -> usize {
        match self {
            Layout::One => 1,
            Layout::Split => 2,
            Layout::Three => 3,
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::One => "one node",
            Layout::Three => "three nodes",
            Layout::Split => "a broker and its controller",
        })
    }
}

// === impl Launch ===

impl Launch {
    /// Starts what is down, waits until all nodes serve, and returns their addresses.
    fn run(&self) -> anyhow::Result<String> {
        fs::create_dir_all(&self.data)?;
        let log = self.data.join("kafka-script.log");
        let output = Command::new(&self.script)
            .args(["start", self.layout.name()])
            .env("KAFKA_DATA", &self.data)
            .env("KAFKA_PORT", self.port.to_string())
            .env("KAFKA_CONTROLLER_PORT", self.controller_port.to_string())
            .env("KAFKA_WHILE", std::process::id().to_string())
            .env("KAFKA_KEEP", "1")
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .output()
            .with_context(|| format!("cannot run {}", self.script.display()))?;
        ensure!(
            output.status.success(),
            "{} start {}: {}; {}",
            self.script.display(),
            self.layout.name(),
            output.status,
            fs::read_to_string(&log).unwrap_or_default().trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A node alone lives in the folder itself, one of several in a folder of its own.
    fn pid(&self, node: usize) -> anyhow::Result<Pid> {
        let home = if self.layout == Layout::One {
            self.data.clone()
        } else {
            self.data.join(format!("node{node}"))
        };
        let text = fs::read_to_string(home.join("pid")).with_context(|| format!("Kafka node {node} has no pid"))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        pid.with_context(|| format!("Kafka node {node}: {text:?} is not a process id"))
    }

    fn signal(&self, node: usize, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid(node)?;
        kill_process(pid, signal).with_context(|| format!("Kafka node {node}, process {}", pid.as_raw_nonzero()))
    }
}

// === impl Kafka ===

impl Kafka {
    /// Starts these processes with new, empty data in `data`. Blocks until they serve.
    pub fn start(script: &Path, data: PathBuf, layout: Layout) -> anyhow::Result<Kafka> {
        let processes = layout.processes() as u16;
        let port = free_block(2 * processes)?;
        let launch = Launch {
            // A relative name without a slash would be searched for among the system's programs.
            script: fs::canonicalize(script).with_context(|| {
                let script = script.display();
                format!("{script} does not exist: run in the repository's folder, or say --kafka-script")
            })?,
            data,
            port,
            controller_port: port + processes,
            layout,
        };
        let bootstrap = launch.run().inspect_err(|_| kill_all(&launch))?;
        Ok(Kafka {
            bootstrap,
            own: Some(launch),
        })
    }

    pub fn external(bootstrap: String) -> Kafka {
        Kafka { bootstrap, own: None }
    }

    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn layout(&self) -> Option<Layout> {
        self.own.as_ref().map(|launch| launch.layout)
    }

    pub fn stop(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::STOP)
    }

    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::CONT)
    }

    /// Of a Kafka of two processes, this one.
    pub fn stop_process(&self, role: Role) -> anyhow::Result<()> {
        self.launch()?.signal(role.node(), Signal::STOP)
    }

    pub fn continue_process(&self, role: Role) -> anyhow::Result<()> {
        self.launch()?.signal(role.node(), Signal::CONT)
    }

    /// kill -9 of these nodes, counted from 1.
    pub fn kill(&self, nodes: &[usize]) -> anyhow::Result<()> {
        let launch = self.launch()?;
        nodes.iter().try_for_each(|node| launch.signal(*node, Signal::KILL))
    }

    /// Starts what is down; ends when all nodes serve.
    pub async fn restart(&self) -> anyhow::Result<()> {
        let launch = self.launch()?.clone();
        tokio::task::spawn_blocking(move || launch.run()).await?.map(drop)
    }

    fn signal_all(&self, signal: Signal) -> anyhow::Result<()> {
        let launch = self.launch()?;
        (1..=launch.layout.processes()).try_for_each(|node| launch.signal(node, signal))
    }

    fn launch(&self) -> anyhow::Result<&Launch> {
        self.own
            .as_ref()
            .context("this Kafka was not started here, and is not damaged")
    }
}

impl Role {
    /// Its number in the script's folders.
    fn node(self) -> usize {
        match self {
            Role::Broker => 1,
            Role::Controller => 2,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Broker => "broker",
            Role::Controller => "controller",
        })
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(launch) = &self.own {
            kill_all(launch);
        }
    }
}

/// Its records are of no use to anyone; a node may be dead already.
fn kill_all(launch: &Launch) {
    for node in 1..=launch.layout.processes() {
        launch.signal(node, Signal::KILL).ok();
    }
}
