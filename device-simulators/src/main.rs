//! The command line of the fleet: `device-simulators run` drives a gateway and ends with a verdict, `prove` does damage
//! meanwhile, `load` measures how much it accepts, and `sink` is what `load` is compared with.
//!
//! Exit codes: 0 = every acknowledged reading is in Kafka; 1 = something acknowledged is missing, or is not as a scenario
//! expects; 2 = the run was not possible (wrong flags, no gateway, no Kafka, or nothing at all was acknowledged).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use device_simulators::devices::{Kind, Kinds};
use device_simulators::ledger_file::{LedgerFile, Line};
use device_simulators::scenario::Scenario;
use device_simulators::scenario::bundled;
use device_simulators::scenario::roster;
use device_simulators::scenario::runner::{self, Limits, Outages, Runner};
use device_simulators::uplinks::credentials::Credentials;
use device_simulators::uplinks::{Protocol, coap};
use device_simulators::{Begin, Fleet, FleetConfig, Report, TopicReaderConfig};
use device_simulators::{fleet, load, prove};
use rustix::process::Pid;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

/// How long a gateway may take to answer the first connection attempt or ping.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a fleet without a scenario sends.
const SECONDS: u64 = 30;

/// A fleet of simulated city devices that checks whether its readings arrived.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send readings to a gateway, read along in Kafka, and compare.
    ///
    /// Devices of every kind send over every protocol that an address is given for, and send again what was answered "busy"
    /// or not at all. At the end every reading that got a positive answer must be
    /// found in Kafka. Ctrl-C ends the run early, with a report. Example:
    /// device-simulators run rush_hour --speed 60
    ///
    /// Exit codes: 0 nothing is lost, and what the scenario expects holds; 1 it does not, or the gateway stopped answering;
    /// 2 the run was not possible.
    Run(Run),
    /// List the scenarios that the program contains, or print one of them, to begin your own with.
    Scenarios(Scenarios),
    /// Damage a gateway and its Kafka while a fleet sends, and compare what was acknowledged with what arrived.
    ///
    /// Starts both itself. Example: device-simulators prove kafka-stopped --seconds 60
    ///
    /// Exit codes: 0 the promise held; 1 something acknowledged is lost or out of order; 2 it could not be run.
    Prove(prove::Options),
    /// Send as many readings as a gateway accepts, or at a fixed rate, and measure.
    ///
    /// Examples: device-simulators load --mqtt 127.0.0.1:1883 --window 16
    ///           device-simulators load --http 127.0.0.1:8080 --rate 5000 --html report.html
    ///
    /// Exit codes: 0 every message got a positive answer; 1 some did not, or a connection broke; 2 it could not be run, or
    /// nothing was answered at all.
    #[command(verbatim_doc_comment)]
    Load(Box<load::Options>),
    /// Acknowledge everything and keep nothing: what the load generator is measured against.
    ///
    /// Exit codes: 0 it ended as asked; 2 it could not listen.
    Sink(load::sink::Options),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// A scenario: who sends what, what happens meanwhile, and what must hold in the end. One of those that
    /// `device-simulators scenarios` lists, or the path of a file.
    #[arg(value_name = "SCENARIO")]
    scenario: Option<String>,
    /// How much faster than the clock the scenario's time runs.
    #[arg(long, value_name = "N", requires = "scenario", value_parser = clap::value_parser!(u32).range(1..=86400), help_heading = "The scenario")]
    speed: Option<u32>,
    /// Run the scenario's short form.
    #[arg(long, requires = "scenario", help_heading = "The scenario")]
    short: bool,
    /// The process to freeze for an outage of Kafka.
    #[arg(long, value_name = "PID", requires = "scenario", value_parser = pid, help_heading = "The scenario")]
    freeze_pid: Option<Pid>,
    /// Say when Kafka is to be stopped and started, and leave it to the reader.
    #[arg(
        long,
        requires = "scenario",
        conflicts_with = "freeze_pid",
        help_heading = "The scenario"
    )]
    by_hand: bool,

    /// The gateway's MQTT listener; with a scenario, 127.0.0.1:1883 if not given.
    #[arg(long, value_name = "HOST:PORT", required_unless_present_any = ["coap", "http", "scenario"], help_heading = "Where to send")]
    mqtt: Option<String>,
    /// The gateway's CoAP listener (UDP); with a scenario, 127.0.0.1:5683 if not given.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Where to send")]
    coap: Option<String>,
    /// The gateway's HTTP listener; with a scenario, 127.0.0.1:8080 if not given.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Where to send")]
    http: Option<String>,
    /// PEM file: the authority of the gateway's certificate. MQTT and HTTP have TLS then; the name in the certificate is not looked at.
    #[arg(long, value_name = "FILE", help_heading = "Where to send")]
    tls_ca: Option<PathBuf>,
    /// Keys of the devices, an object per line: {"id": "…", "key": "…"}, as `citygate devices import --json` prints them; or
    /// passwords: {"id": "…", "password": "…"}. A device without one is anonymous, if it has no certificate.
    #[arg(long, value_name = "FILE", help_heading = "Where to send")]
    keys: Option<PathBuf>,
    /// Client certificates: <device>.pem and <device>.key (PKCS #8) for each device that has one.
    #[arg(long, value_name = "FOLDER", requires = "tls_ca", help_heading = "Where to send")]
    certificates: Option<PathBuf>,
    /// Print the devices instead, an object per line: {"id": "…", "kinds": ["…"], "tags": {"district": "…", …}}, for `citygate devices import`.
    #[arg(long)]
    list_devices: bool,
    /// So long without any answer, and the run ends with a partial report.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time, help_heading = "Where to send")]
    silence_timeout: Duration,

    /// Kafka's bootstrap servers.
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        default_value = "127.0.0.1:9092",
        help_heading = "Where to look"
    )]
    kafka: String,
    /// Folder of the <kind>.avsc files that the gateway validates against; the bundled schemas if not given.
    #[arg(long, value_name = "FOLDER", help_heading = "What to send")]
    schemas: Option<PathBuf>,
    /// The kinds of the devices, in turn, as schemas.kinds of the gateway; * for every kind that there is a schema of.
    #[arg(
        long,
        value_name = "KIND,…",
        default_value = "traffic,weather,energy",
        value_delimiter = ',',
        conflicts_with = "scenario",
        help_heading = "What to send"
    )]
    kinds: Vec<String>,
    /// What stands before the kind in the name of a topic.
    #[arg(long, value_name = "TEXT", default_value = "city.", help_heading = "Where to look")]
    topic_prefix: String,
    /// A further librdkafka setting, such as security.protocol=ssl; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = property, help_heading = "Where to look")]
    kafka_property: Vec<(String, String)>,
    /// How long to wait at the end for readings that are still on their way to Kafka.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Where to look")]
    read_timeout: u64,

    /// How many devices there are.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 300,
        conflicts_with = "scenario",
        help_heading = "What to send"
    )]
    devices: usize,
    /// How long they send; 30, or as long as the scenario lasts.
    #[arg(long, value_name = "N", help_heading = "What to send")]
    seconds: Option<u64>,
    /// How often each device sends a reading.
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "scenario", value_parser = clap::value_parser!(u64).range(1..), help_heading = "What to send")]
    interval_ms: u64,
    /// The same seed gives the same devices, roads and weather; 1, or the scenario's.
    #[arg(long, value_name = "N", help_heading = "What to send")]
    seed: Option<u64>,

    /// Write what is true of the run to this file, an object per line: where each device stands, what happens in the city, and each
    /// reading with its faults and its answer.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Scenarios {
    /// The scenario to print.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // rumqttc logs every negative acknowledgement; the report counts them. `prove` itself makes Kafka unavailable.
    let quiet = match command {
        Command::Run(_) | Command::Scenarios(_) | Command::Load(_) | Command::Sink(_) => "warn,rumqttc=off",
        Command::Prove(_) => "warn,rumqttc=off,rdkafka=off,librdkafka=off",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow!(error).context("cannot start")),
    };
    match command {
        Command::Run(run) => {
            if run.list_devices {
                return run.list().map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS);
            }
            let json = run.json;
            let report = runtime.block_on(run.run());
            report.map_or_else(|error| failed(&error), |report| verdict(&report, json))
        }
        Command::Scenarios(scenarios) => scenarios
            .print()
            .map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS),
        Command::Prove(options) => {
            let proved = runtime.block_on(prove::run(options));
            proved.unwrap_or_else(|error| failed(&error))
        }
        Command::Load(options) => {
            let loaded = runtime.block_on(load::run(*options));
            loaded.unwrap_or_else(|error| failed(&error))
        }
        Command::Sink(options) => {
            let served = runtime.block_on(load::sink::run(options));
            served.unwrap_or_else(|error| failed(&error))
        }
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("device-simulators: {error:#}");
    ExitCode::from(2)
}

/// So that nobody looks for rush hours in a generic device.
fn say_by_schema(kinds: &[Kind]) {
    for kind in Kind::by_schema(kinds) {
        eprintln!("{kind}: the folder's schema is not the program's own, so its devices follow from the schema alone");
    }
}

fn verdict(report: &Report, json: bool) -> ExitCode {
    if json {
        match serde_json::to_string_pretty(report) {
            Ok(text) => println!("{text}"),
            Err(error) => return failed(&error.into()),
        }
    } else {
        println!("\n{report}");
    }
    if !report.passed() {
        return ExitCode::from(1);
    }
    if report.tally.acknowledged == 0 {
        return failed(&anyhow!("nothing was acknowledged, so nothing was proved"));
    }
    ExitCode::SUCCESS
}

/// `key=value`.
fn property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `30s`.
fn time(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    span.try_into().map_err(|_| "a time to come".to_owned())
}

fn pid(text: &str) -> Result<Pid, String> {
    let number = text.parse().ok().filter(|number| *number > 1);
    number
        .and_then(Pid::from_raw)
        .ok_or_else(|| "not the id of a process".to_owned())
}

// === impl Run ===

impl Run {
    async fn run(self) -> anyhow::Result<Report> {
        match &self.scenario {
            Some(scenario) => self.play(self.scenario(scenario)?).await,
            None => self.send().await,
        }
    }

    fn scenario(&self, name: &str) -> anyhow::Result<Scenario> {
        let mut scenario = bundled::load(name, &self.source())?;
        scenario.seed = self.seed.unwrap_or(scenario.seed);
        Ok(if self.short { scenario.shortened() } else { scenario })
    }

    /// Prints the devices that it would run.
    fn list(&self) -> anyhow::Result<()> {
        let roster = match &self.scenario {
            Some(name) => roster::entries(&self.scenario(name)?, 0),
            None => {
                let kinds = self.source().select(&self.kinds)?;
                FleetConfig {
                    devices: self.devices,
                    kinds,
                    seed: self.seed.unwrap_or(1),
                    http: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
                    ..FleetConfig::default()
                }
                .roster()
            }
        };
        for placement in fleet::placements(&roster) {
            let (id, kind, tags) = (&placement.device, placement.kind, placement.tags());
            println!("{}", serde_json::json!({ "id": id, "kinds": [kind], "tags": tags }));
        }
        Ok(())
    }

    async fn play(&self, mut scenario: Scenario) -> anyhow::Result<Report> {
        scenario.speed = self.speed.unwrap_or(scenario.speed);
        scenario.check_speed()?;
        say_by_schema(&scenario.kinds());
        let usual = |protocol: Protocol, port: u16| scenario.speaks(protocol).then(|| format!("127.0.0.1:{port}"));
        // Numbers begin at 1: the faults depend on them, and with the seed they are the same each time.
        let fleet = FleetConfig {
            first_sequence: 1,
            mqtt: find(Protocol::Mqtt, &self.mqtt.clone().or(usual(Protocol::Mqtt, 1883))).await?,
            coap: find(Protocol::Coap, &self.coap.clone().or(usual(Protocol::Coap, 5683))).await?,
            http: find(Protocol::Http, &self.http.clone().or(usual(Protocol::Http, 8080))).await?,
            credentials: self.credentials()?,
            ledger_file: self.ledger_file()?,
            ..FleetConfig::default()
        };
        let outages = match self.freeze_pid {
            Some(pid) => Some(Outages::Freeze(pid)),
            None => self.by_hand.then_some(Outages::ByHand),
        };
        let limits = self.limits(scenario.length());
        let reader = self.topic_reader_config(scenario.kinds());
        let file = fleet.ledger_file.clone();
        let report = runner::play(&scenario, fleet, reader, limits, outages).await?;
        finish(file.as_deref())?;
        Ok(report)
    }

    async fn send(&self) -> anyhow::Result<Report> {
        let kinds = self.source().select(&self.kinds)?;
        say_by_schema(&kinds);
        let fleet = FleetConfig {
            devices: self.devices,
            kinds: kinds.clone(),
            seed: self.seed.unwrap_or(1),
            interval: Duration::from_millis(self.interval_ms),
            start_spread: Duration::from_millis(self.interval_ms),
            // Milliseconds as the first number: no device sends faster, so no later run meets the numbers of this one.
            first_sequence: SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64,
            mqtt: find(Protocol::Mqtt, &self.mqtt).await?,
            coap: find(Protocol::Coap, &self.coap).await?,
            http: find(Protocol::Http, &self.http).await?,
            credentials: self.credentials()?,
            ledger_file: self.ledger_file()?,
            ..FleetConfig::default()
        };
        let runner = Runner::plain(self.limits(Duration::from_secs(SECONDS)));
        let start = || {
            let roster = fleet.roster();
            if let Some(file) = &fleet.ledger_file {
                fleet::placements(&roster)
                    .iter()
                    .for_each(|placement| file.note(&Line::Device(placement)));
            }
            Fleet::start_roster(&fleet, roster)
        };
        let report = runner.run(start, self.topic_reader_config(kinds)).await?;
        finish(fleet.ledger_file.as_deref())?;
        Ok(report)
    }

    fn ledger_file(&self) -> anyhow::Result<Option<Arc<LedgerFile>>> {
        let file = self.ledger.as_ref().map(|path| {
            let file = LedgerFile::create(path).with_context(|| format!("cannot write {}", path.display()));
            file.map(Arc::new)
        });
        file.transpose()
    }

    fn credentials(&self) -> anyhow::Result<Arc<Credentials>> {
        let mut read = Credentials::read(self.keys.as_deref(), self.tls_ca.as_deref())?;
        if let Some(folder) = &self.certificates {
            read = read.with_certificates(folder)?;
        }
        Ok(Arc::new(read))
    }

    fn limits(&self, usually: Duration) -> Limits {
        Limits {
            length: self.seconds.map_or(usually, Duration::from_secs),
            silence_timeout: self.silence_timeout,
            read_timeout: Duration::from_secs(self.read_timeout),
        }
    }

    fn source(&self) -> Kinds {
        self.schemas.as_ref().map_or_else(Kinds::bundled, Kinds::of_folder)
    }

    fn topic_reader_config(&self, kinds: Vec<Kind>) -> TopicReaderConfig {
        let mut config = TopicReaderConfig::new(&self.kafka, &self.topic_prefix);
        config.kinds = kinds;
        config.begin = Begin::Now;
        config.properties = self.kafka_property.clone();
        config
    }
}

// === impl Scenarios ===

impl Scenarios {
    fn print(&self) -> anyhow::Result<()> {
        if let Some(name) = &self.name {
            print!("{}", bundled::text(name).ok_or_else(|| bundled::unknown(name))?);
            return Ok(());
        }
        for name in bundled::names() {
            println!("{name:<16} {}", bundled::load(name, &Kinds::bundled())?.shows);
        }
        Ok(())
    }
}

/// Nobody is to compute anything from half a ledger.
fn finish(ledger: Option<&LedgerFile>) -> anyhow::Result<()> {
    ledger
        .map_or(Ok(()), LedgerFile::finish)
        .context("the ledger is not whole")
}

/// The address, if there is one to find.
async fn find(protocol: Protocol, address: &Option<String>) -> anyhow::Result<Option<SocketAddr>> {
    match address {
        Some(address) => reach(protocol, address).await.map(Some),
        None => Ok(None),
    }
}

/// The address of a listener that answers; an error in words if none does.
async fn reach(protocol: Protocol, address: &str) -> anyhow::Result<SocketAddr> {
    let found = lookup_host(address)
        .await
        .with_context(|| format!("--{protocol} {address} is not an address"))?;
    let mut error = anyhow!("the name has no address");
    for server in found {
        let answered = match protocol {
            Protocol::Coap => coap::ping(server, HELLO_TIMEOUT).await,
            Protocol::Mqtt | Protocol::Http => match timeout(HELLO_TIMEOUT, TcpStream::connect(server)).await {
                Ok(connected) => connected.map(drop),
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            },
        };
        match answered {
            Ok(()) => return Ok(server),
            Err(reason) => error = reason.into(),
        }
    }
    Err(error.context(format!("no gateway answers on {protocol} at {address}")))
}
