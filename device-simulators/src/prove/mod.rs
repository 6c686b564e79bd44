//! `device-simulators prove FAULT`: the promise under damage, on a real Kafka, in one command.
//!
//! It starts a Kafka of its own and the gateway, lets a fleet send over all three protocols, does the damage itself (signals, a full
//! disk, another clock), waits for the recovery, and compares what every device was told with what the topics hold:
//! acknowledged, in Kafka, lost, duplicated, out of order per device. Nothing acknowledged may be missing, and no device's
//! readings may change their order; devices send again what was not acknowledged, and have one reading outstanding.
//!
//! What devices observed is in the table by phase: *before*, *damage*, *replay* (all is repaired, and Kafka catches up) and
//! *after*. Processes and files end with the command, also when it is interrupted.
//!
//! Any setting of the gateway can be changed by its environment variable: `CITYGATE_KAFKA__LINGER=20ms device-simulators
//! prove calm`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

mod answer_times;

mod cores;

mod disk;

mod gateway_metrics;

mod gateway;

mod identities;

mod kafka;

mod ports;

mod proof;

mod fault;

mod rotation;

mod runner;

mod storm;

pub use fault::Fault;
use fault::Parameters;
use kafka::{Kafka, Layout};
pub use proof::Proof;
use runner::Setup;

/// Exit codes of the command.
const BROKEN: u8 = 1;
const NOT_RUN: u8 = 2;

/// What the command line says.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Which faults to make, or `all` of them; --list names them.
    #[arg(value_name = "FAULT", required_unless_present = "list")]
    faults: Vec<Wanted>,
    /// List the faults.
    #[arg(long)]
    list: bool,

    /// How long the damage lasts; before and after it, it is calm for as long (3 to 15 s).
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=86_400))]
    seconds: u64,
    /// Readings per second of the whole fleet.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// How many devices there are, evenly over three protocols and three kinds; in flash-reconnect as well three tenths as many
    /// half-open connections, and half as many junk connections per second.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(9..=20_000))]
    devices: u32,
    /// How often the gateway is killed, in gateway-killed and both-killed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: Option<u32>,
    /// How often Kafka is fenced, in kafka-fenced.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    events: u32,
    /// With a key for each device and TLS, over MQTT and HTTP.
    #[arg(long)]
    identities: bool,
    /// The same seed gives the same devices and the same moments of damage.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// The gateway's program; without this, the one beside this program.
    #[arg(long, value_name = "FILE")]
    citygate: Option<PathBuf>,
    /// What starts a Kafka.
    #[arg(long, value_name = "FILE", default_value = "tests/servers/kafka.sh")]
    kafka_script: PathBuf,
    /// A Kafka that runs already, for faults that leave Kafka alone (calm, gateway-killed, flash-reconnect, rotation).
    #[arg(long, value_name = "HOST:PORT,…")]
    kafka: Option<String>,
    /// Folder of the <kind>.avsc files.
    #[arg(long, value_name = "FOLDER", default_value = "schemas")]
    schemas: PathBuf,
    /// Keep configuration, spool and logs in this folder.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Print the results as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// A fault's name, or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    One(Fault),
    All,
}

/// What all faults of a command share.
struct Session {
    options: Options,
    program: PathBuf,
    schemas: PathBuf,
    /// The last Kafka, for the next fault that wants the same.
    kafka: Option<Kafka>,
    folder: PathBuf,
    /// Removes the folder, unless it is to be kept.
    _temporary: Option<TempDir>,
}

/// Runs the faults. Exit code 0: the promise held; 1: it was broken; 2: something could not be run.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    if options.list {
        for fault in Fault::ALL {
            println!("{fault:<22}{}", fault.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let seed = options.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let mut session = Session::new(options)?;
    let faults = session.faults()?;
    let mut lines = Vec::new();
    let (mut broken, mut not_run) = (false, false);
    for fault in faults {
        let proof = tokio::select! {
            proof = session.prove(fault, seed) => proof,
            signal = interrupted() => bail!("interrupted by {}", signal?),
        };
        match proof {
            Ok(proof) => {
                broken |= !proof.holds;
                session.print(&proof)?;
                lines.extend(proof.to_string().lines().last().map(str::to_owned));
            }
            Err(error) => {
                not_run = true;
                eprintln!("{fault} could not be run: {error:#}");
                lines.push(format!("NOT RUN {fault}"));
            }
        }
    }
    if lines.len() > 1 {
        eprintln!("\n{}", lines.join("\n"));
    }
    Ok(match (broken, not_run) {
        (true, _) => ExitCode::from(BROKEN),
        (false, true) => ExitCode::from(NOT_RUN),
        (false, false) => ExitCode::SUCCESS,
    })
}

// === impl Session ===

impl Session {
    fn new(options: Options) -> anyhow::Result<Session> {
        let program = match &options.citygate {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("citygate"),
        };
        let program = absolute(&program, "build it with cargo build --release, or say --citygate")?;
        let schemas = absolute(&options.schemas, "run in the repository's folder, or say --schemas")?;
        let (folder, temporary) = match &options.keep {
            Some(folder) => {
                std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
                (absolute(folder, "")?, None)
            }
            None => {
                let temporary = TempDir::with_prefix("citygate-prove-")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        Ok(Session {
            options,
            program,
            schemas,
            kafka: None,
            folder,
            _temporary: temporary,
        })
    }

    /// In the order of the command line; `all` leaves out what cannot be run against a Kafka that is not its own.
    fn faults(&self) -> anyhow::Result<Vec<Fault>> {
        let foreign = self.options.kafka.is_some();
        let mut faults = Vec::new();
        for wanted in &self.options.faults {
            match wanted {
                Wanted::One(fault) if foreign && fault.damages_kafka() => {
                    bail!("{fault} damages Kafka, and the one of --kafka is left alone")
                }
                Wanted::One(fault) => faults.push(*fault),
                Wanted::All => {
                    let possible = Fault::ALL.into_iter().filter(|one| !foreign || !one.damages_kafka());
                    faults.extend(possible);
                }
            }
        }
        Ok(faults)
    }

    async fn prove(&mut self, fault: Fault, seed: u64) -> anyhow::Result<Proof> {
        let options = &self.options;
        eprintln!("\n{fault}: {} (seed {seed})", fault.about());
        let setup = Setup {
            fault,
            parameters: Parameters {
                damage: Duration::from_secs(options.seconds),
                kills: options.kills,
                events: options.events,
                devices: options.devices as usize,
                seed,
            },
            rate: options.rate,
            devices: options.devices as usize,
            with_identities: options.identities || fault.needs_identities(),
            program: self.program.clone(),
            schemas: self.schemas.clone(),
            folder: self.folder.join(fault.name()),
            // Topics of its own, so that no record of another run is met.
            topic_prefix: format!("prove-{fault}-{:08x}.", rand::random::<u32>()),
        };
        std::fs::create_dir_all(&setup.folder)?;
        let kafka = self.kafka(fault.kafka_layout()).await?;
        let proof = runner::run(&setup, &kafka).await;
        if proof.is_ok() {
            self.kafka = Some(kafka);
        } // Otherwise its state is unknown.
        proof
    }

    async fn kafka(&mut self, layout: Layout) -> anyhow::Result<Kafka> {
        if let Some(bootstrap) = &self.options.kafka {
            return Ok(Kafka::external(bootstrap.clone()));
        }
        if let Some(kafka) = self.kafka.take().filter(|kafka| kafka.layout() == Some(layout)) {
            return Ok(kafka);
        }
        eprintln!("starting Kafka: {layout}");
        let data = self.folder.join(format!("kafka-{:08x}", rand::random::<u32>()));
        let script = self.options.kafka_script.clone();
        tokio::task::spawn_blocking(move || Kafka::start(&script, data, layout)).await?
    }

    fn print(&self, proof: &Proof) -> anyhow::Result<()> {
        if self.options.json {
            println!("{}", serde_json::to_string(proof)?);
            eprintln!("\n{proof}");
        } else {
            println!("\n{proof}");
        }
        Ok(())
    }
}

/// The name of the signal that asks the command to end; what it started must end with it.
async fn interrupted() -> anyhow::Result<&'static str> {
    let [mut interrupt, mut terminate, mut hang_up] = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ];
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
    })
}

fn absolute(path: &Path, hint: &str) -> anyhow::Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("{} does not exist: {hint}", path.display()))
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        if text == "all" {
            return Ok(Wanted::All);
        }
        text.parse().map(Wanted::One)
    }
}
