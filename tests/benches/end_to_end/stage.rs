//! Everything that runs while measurements are made: Kafka, the gateways, the sink and the bare handler. Built in the
//! order of dependence, warmed up before the first measurement (the JVM compiles what it runs often), and ended in
//! reverse order.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::ensure;
use citygate::deliver;

use crate::Options;
use crate::floors::{Sink, Web};
use crate::gateway::{Gateway, Place};
use crate::kafka::Kafka;
use crate::load::{Load, RAMP};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// How long the warm-up sends: Kafka's JVM compiles what it runs often.
const WARM_UP_S: u64 = 4;

/// Everything that runs, in the order in which it is to end.
#[derive(Debug)]
pub struct Stage {
    pub gateways: Vec<Gateway>,
    pub sink: Sink,
    pub web: Web,
    pub simulators: PathBuf,
    pub schemas: PathBuf,
    pub topic_prefix: String,
    pub seconds: u64,
    pub began: Instant,
    programs: Vec<PathBuf>,
    pub kafka: Kafka,
}

// === impl Stage ===

impl Stage {
    pub fn build(options: &Options) -> anyhow::Result<Stage> {
        let own = PathBuf::from(env!("CARGO_BIN_EXE_citygate"));
        let simulators = own.with_file_name("device-simulators");
        ensure!(
            simulators.exists(),
            "{} is missing: first run `cargo build --release --workspace`",
            simulators.display()
        );
        let programs = match options.gateway.is_empty() {
            true => vec![own],
            false => options.gateway.clone(),
        };
        let kafka = Kafka::start(options.kafka_pid)?;
        let mut stage = Stage {
            gateways: Vec::new(),
            sink: Sink::start(&simulators)?,
            web: Web::start()?,
            simulators,
            schemas: Path::new(REPOSITORY).join("schemas"),
            topic_prefix: format!("bench{}.", std::process::id()),
            seconds: options.seconds,
            began: Instant::now(),
            programs,
            kafka,
        };
        stage.gateways = stage.fresh_gateways()?;
        Ok(stage)
    }

    /// Gateways besides those that run.
    pub fn fresh_gateways(&self) -> anyhow::Result<Vec<Gateway>> {
        self.programs
            .iter()
            .map(|program| Gateway::start(program, self.place()))
            .collect()
    }

    /// The program that is measured where only one is.
    pub fn program(&self) -> &Path {
        &self.programs[0]
    }

    /// Sends over every protocol for a while; nothing is measured.
    pub fn warm_up(&self) -> anyhow::Result<()> {
        for gateway in &self.gateways {
            let [mqtt, coap, http] = [gateway.mqtt(), gateway.coap(), gateway.http()];
            let arguments = [
                "--mqtt",
                &mqtt,
                "--coap",
                &coap,
                "--http",
                &http,
                "--connections",
                "150",
            ];
            let arguments = arguments.map(str::to_owned);
            Load::start(&self.simulators, &arguments, RAMP, WARM_UP_S)?.report()?;
        }
        Ok(())
    }

    pub fn place(&self) -> Place<'_> {
        Place {
            servers: &self.kafka.servers,
            topic_prefix: &self.topic_prefix,
            partitions: deliver::Config::default().partitions,
            schemas: &self.schemas,
        }
    }
}
