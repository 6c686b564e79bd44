//! The floor of the protocols: `device-simulators sink`, which acknowledges and does
//! nothing else. What the gateway costs above it is decoding, validation and delivery.
//! It runs as a process of its own and is killed on drop.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::process::Helper;

/// A running sink.
#[derive(Debug)]
pub struct Sink {
    helper: Helper,
    /// MQTT, CoAP, HTTP.
    pub addresses: [String; 3],
}

// === impl Sink ===

impl Sink {
    pub fn start(simulators: &Path) -> anyhow::Result<Sink> {
        let any = "127.0.0.1:0";
        let child = Command::new(simulators)
            .args(["sink", "--mqtt", any, "--coap", any, "--http", any])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut helper = Helper(child);
        let said = helper.0.stderr.take().context("the sink says nothing")?;
        let mut lines = BufReader::new(said).lines();
        let mut addresses = ["mqtt", "coap", "http"].map(str::to_owned);
        // One line each, in this order: `mqtt at 127.0.0.1:40000`.
        for address in &mut addresses {
            let line = lines.next().context("the sink has ended")??;
            let (protocol, at) = line
                .split_once(" at ")
                .with_context(|| format!("the sink says {line}"))?;
            anyhow::ensure!(protocol == address, "the sink says {line}");
            *address = at.to_owned();
        }
        Ok(Sink { helper, addresses })
    }

    pub fn pid(&self) -> u32 {
        self.helper.0.id()
    }
}
