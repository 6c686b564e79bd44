//! `citygate demo`: an embedded broker, a gateway and a fleet in one process, nothing installed.
//!
//! The broker is librdkafka's mock cluster: it speaks Kafka, keeps some 5 MiB per partition in memory and forgets
//! everything at the end, so the ledger reads along while the fleet runs. At the end the ledger says what was sent,
//! acknowledged and found in Kafka; the demo succeeds only if nothing that was acknowledged is missing.

use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use device_simulators::{Begin, Fleet, FleetConfig, Report, TopicReader, TopicReaderConfig, devices, live_line};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use strum::VariantArray;

use crate::catalogue::{Definition, schemas};
use crate::deliver::health::Health;
use crate::gateway::{Addresses, Gateway};
use crate::message::Protocol;
use crate::operate::config::{Config, Format, Log};
use crate::operate::shutdown;
use crate::outcome::OutcomeKind;

/// Partitions of each topic of the embedded broker.
const PARTITIONS: i32 = 6;

/// How long the gateway may take to find the embedded broker.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the end of the topics is searched for readings that were acknowledged.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How long the devices send; 0: until Ctrl-C.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How many devices, spread evenly over three protocols and the kinds; each sends about once a second.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    devices: u32,
    /// The same seed gives the same city.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder of schemas.
    #[arg(
        long,
        value_name = "FOLDER",
        env = "CITYGATE_SCHEMAS__FOLDER",
        default_value = "schemas"
    )]
    schemas: PathBuf,
    /// The kinds of the devices, and those that the gateway accepts; * for every kind of the folder.
    #[arg(
        long,
        value_name = "KIND,…",
        default_value = "traffic,weather,energy",
        value_delimiter = ','
    )]
    kinds: Vec<String>,
    /// End with the ledger as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// How the gateway of the demo logs: its own lines must not drown the ledger's.
pub fn log() -> Log {
    Log {
        level: "warn".into(),
        format: Format::Text,
    }
}

/// Runs the demo; successful only if the ledger balances.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let config = config(&options);
    let kinds = read_schemas(&config)?;
    let simulated = devices::Kinds::of_folder(&options.schemas).select(&options.kinds)?;
    let broker = embedded_broker(&config, &kinds)?;
    let bootstrap = broker.bootstrap_servers();
    let gateway = start_gateway(config, &bootstrap).await?;
    let topic_reader = start_topic_reader(&bootstrap, simulated.clone()).await?;
    let program = std::env::current_exe().context("the path of this program")?;
    eprintln!(
        "{}",
        invitation(&options, gateway.addresses(), &kinds, &bootstrap, &program)?
    );

    let started = Instant::now();
    let fleet = Fleet::start(fleet_config(&options, simulated, gateway.addresses()))?;
    watch(&fleet, &topic_reader, started, options.seconds).await?;
    let elapsed = started.elapsed();
    let outcome = fleet.stop().await;
    let metrics = gateway.metrics();
    let all_answered = gateway.drain().await;
    let found = topic_reader.finish(&outcome.ledger, READ_BACK_TIMEOUT).await?;

    let totals = Protocol::VARIANTS
        .iter()
        .map(|&protocol| metrics.tallies.totals(protocol).outcomes);
    let sum = |outcome: OutcomeKind| totals.clone().map(|outcomes| outcomes[outcome as usize]).sum();
    let report =
        Report::new(&outcome, &found, elapsed).with_gateway(sum(OutcomeKind::Delivered), sum(OutcomeKind::Spooled));
    eprintln!("{report}");
    let law_holds = metrics.tallies.in_flight_total() == 0 && all_answered;
    if !law_holds {
        eprintln!(
            "{} readings were received and not answered",
            metrics.tallies.in_flight_total()
        );
    }
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(if report.passed() && law_holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Free ports on loopback, and time-outs that suit an audience.
fn config(options: &Options) -> Config {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = Config::default();
    config.mqtt.listen = any.into();
    config.coap.listen = any.into();
    config.http.listen = any.into();
    config.admin.listen = any.into();
    config.schemas.folder.clone_from(&options.schemas);
    config.schemas.kinds.clone_from(&options.kinds);
    // The embedded broker keeps nothing, so a spool would only outlive it.
    config.spool.enabled = false;
    config.kafka.probe_interval = Duration::from_millis(100);
    config
}

fn read_schemas(config: &Config) -> anyhow::Result<Vec<Definition>> {
    let found = schemas::read(&config.schemas, &config.kafka.topic_prefix);
    let lines: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
    ensure!(
        lines.is_empty(),
        "{}; run the demo in the repository's folder, or say --schemas FOLDER",
        lines.join("; ")
    );
    Ok(found.definitions)
}

fn embedded_broker(
    config: &Config,
    kinds: &[Definition],
) -> anyhow::Result<MockCluster<'static, DefaultProducerContext>> {
    let broker = MockCluster::new(1).context("embedded broker")?;
    let topics = kinds.iter().map(|kind| kind.topic.as_str());
    for topic in topics.chain([config.kafka.dead_letter_topic.as_str()]) {
        broker
            .create_topic(topic, PARTITIONS, 1)
            .with_context(|| format!("topic {topic}"))?;
    }
    Ok(broker)
}

async fn start_gateway(mut config: Config, bootstrap: &str) -> anyhow::Result<Gateway> {
    config.kafka.bootstrap_servers = bootstrap.to_owned();
    let gateway = Gateway::start(config).await?;
    let mut health = gateway.health();
    let up = tokio::time::timeout(START_TIMEOUT, health.wait_for(Health::is_up)).await;
    ensure!(
        up.is_ok_and(|up| up.is_ok()),
        "the embedded broker at {bootstrap} did not answer"
    );
    Ok(gateway)
}

async fn start_topic_reader(bootstrap: &str, kinds: Vec<devices::Kind>) -> anyhow::Result<TopicReader> {
    let mut config = TopicReaderConfig::new(bootstrap, "city.");
    config.kinds = kinds;
    config.begin = Begin::Earliest;
    tokio::task::spawn_blocking(move || TopicReader::start(&config)).await?
}

fn fleet_config(options: &Options, kinds: Vec<devices::Kind>, addresses: Addresses) -> FleetConfig {
    FleetConfig {
        devices: options.devices as usize,
        kinds,
        seed: options.seed,
        mqtt: addresses.mqtt,
        coap: addresses.coap,
        http: addresses.http,
        ..FleetConfig::default()
    }
}

/// What to type in another terminal while it runs: each line that begins with two spaces is one command, to be pasted as it is.
fn invitation(
    options: &Options,
    addresses: Addresses,
    kinds: &[Definition],
    bootstrap: &str,
    program: &Path,
) -> anyhow::Result<String> {
    let port = |address: Option<SocketAddr>| address.map_or(0, |address| address.port());
    let (mqtt, coap, http, admin) = (
        port(addresses.mqtt),
        port(addresses.coap),
        port(addresses.http),
        port(addresses.admin),
    );
    let ways = [
        format!("curl -i -d '{{\"temperature_c\":21.5}}' http://127.0.0.1:{http}/devices/mine/weather"),
        format!(
            "mosquitto_pub -V 5 -p {mqtt} -q 1 -t devices/mine/traffic -m '{{\"vehicle_count\":12,\"interval_s\":60}}'"
        ),
        format!(
            "coap-client-notls -m post -t 50 -e '{{\"power_w\":-512.5}}' coap://127.0.0.1:{coap}/devices/mine/energy"
        ),
    ];
    let is_accepted = |way: &&String| kinds.iter().any(|kind| way.contains(&format!("mine/{}", kind.name)));
    let ways: String = ways
        .iter()
        .filter(is_accepted)
        .map(|way| format!("  {way}\n"))
        .collect();
    let topic = kinds.last().map_or("", |kind| kind.topic.as_str());
    // Whole paths: another terminal may be in another folder.
    let (program, schemas) = (program.display(), std::path::absolute(&options.schemas)?);
    let settings = format!(
        "CITYGATE_KAFKA__BOOTSTRAP_SERVERS={bootstrap} CITYGATE_SCHEMAS__FOLDER={}",
        schemas.display()
    );
    let until = match options.seconds {
        0 => "until Ctrl-C ends it".to_owned(),
        seconds => format!("for {seconds} s, or until Ctrl-C with --seconds 0"),
    };
    Ok(format!(
        "A city is sending, {until}. Meanwhile send something yourself, in another terminal:
{ways}and look at it as it is in Kafka, by the gateway's own command, or the last records of a topic as bytes (they are Avro):
  {settings} {program} tail --device mine --from-beginning --max 1
  kcat -b {bootstrap} -t {topic} -C -e -q -o -5 -f '%k: %S bytes at offset %o\\n'
or at what the gateway says of itself:
  curl http://127.0.0.1:{admin}/metrics
  curl http://127.0.0.1:{admin}/status
"
    ))
}

/// A line that renews itself on a terminal, a line a second elsewhere; until the time is over or someone presses Ctrl-C.
async fn watch(fleet: &Fleet, topic_reader: &TopicReader, started: Instant, seconds: u64) -> anyhow::Result<()> {
    let on_terminal = std::io::stderr().is_terminal();
    let counters = fleet.live();
    let mut signals = shutdown::Signals::new().context("signal handlers")?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    while seconds == 0 || started.elapsed() < Duration::from_secs(seconds) {
        tokio::select! {
            _ = tick.tick() => {
                let line = live_line(started.elapsed(), &counters, topic_reader.records());
                if on_terminal {
                    eprint!("\r{line}\x1b[K");
                    std::io::stderr().flush().context("terminal")?;
                } else {
                    eprintln!("{line}");
                }
            }
            _ = signals.next() => break,
        }
    }
    eprintln!(
        "{}stopping: waiting for the answers that are still due",
        if on_terminal { "\n" } else { "" }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn commands(arguments: &[&str]) -> Vec<String> {
        let options = Line::parse_from([&["demo"], arguments].concat()).options;
        let kinds = read_schemas(&config(&options)).unwrap();
        let text = invitation(
            &options,
            Addresses::default(),
            &kinds,
            "127.0.0.1:9092",
            Path::new("/bin/citygate"),
        )
        .unwrap();
        let commands = text.lines().filter_map(|line| line.strip_prefix("  "));
        commands.map(ToOwned::to_owned).collect()
    }

    #[test]
    fn each_line_of_the_invitation_is_one_command() {
        let starts: Vec<_> = commands(&[])
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        let own = "CITYGATE_KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:9092";
        assert_eq!(
            starts,
            [
                "curl",
                "mosquitto_pub",
                "coap-client-notls",
                own,
                "kcat",
                "curl",
                "curl"
            ]
        );
    }

    #[test]
    fn only_kinds_that_are_accepted_are_in_the_invitation() {
        let commands = commands(&["--kinds", "energy"]);
        assert!(commands[0].contains("/devices/mine/energy"), "{commands:?}");
        assert!(!commands.iter().any(|line| line.contains("weather")), "{commands:?}");
    }
}
