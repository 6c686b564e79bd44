//! The command line: flags, logging, runtime, exit codes.
//!
//! Exit codes: 0 all well; 1 something failed (the demo lost a reading, a check found a fault, topics differ from their list); 64 the
//! configuration or the command line is wrong (`EX_USAGE`); 69 Kafka could not be asked for its topics (`EX_UNAVAILABLE`).

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
#[cfg(feature = "demo")]
use citygate::demo;
use citygate::gateway::Gateway;
use citygate::operate::config::{Config, Format, Log};
use citygate::operate::{check, drain_spool, health, identities, shutdown, tail, topics};
use citygate::store;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;

/// An ingestion gateway for a city's sensors: MQTT, CoAP and HTTP in, validated Avro in Kafka out.
///
/// A positive answer means the reading is safe: acknowledged by all in-sync Kafka replicas or, while Kafka is unavailable,
/// fsynced in the local spool.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT; it then answers what it has accepted, and ends.
    Run(ConfigFile),
    /// Validate configuration, schemas, registry and Kafka topics, and print everything that is wrong at once.
    Check {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        options: check::Options,
    },
    /// Ask the running gateway, or store, of this configuration whether it runs, or accepts readings: exit code 0 or 1, and one line of why.
    Health {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        options: health::Options,
    },
    /// Send to Kafka what a spool holds that no gateway uses any more: exit code 0 once nothing is left in it.
    ///
    /// Each device's readings go in their order, at the pace of [replay]. What Kafka does not acknowledge stays in the spool.
    Drain {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        options: drain_spool::Options,
    },
    /// Show readings from Kafka as JSON, one per line: {"kind":…, "device":…, "partition":…, "offset":…, "reading":{…}}.
    ///
    /// Bytes, fixed values and decimals are arrays of bytes, dates and timestamps numbers as Avro has them; fields that are
    /// null are left out. Ends at Ctrl-C, after --max readings, or when nobody reads its output any more.
    Tail {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        options: tail::Options,
    },
    /// Store readings from Kafka in PostgreSQL ([store]), each once, and run the SQL that computes results; until SIGTERM or SIGINT.
    ///
    /// Several instances share the work. What is not stored stays in Kafka, for as long as its topic keeps it.
    Store(ConfigFile),
    /// Add, show and change device identities: who may write, and with which key.
    Devices {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        options: identities::Options,
    },
    /// Show which topics there are to be, how Kafka's differ, make them so, and compute how large all of it must be.
    Topics {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        options: topics::Options,
    },
    /// Try it: an embedded broker, a gateway and a fleet of simulated devices in one process, nothing to install.
    #[cfg(feature = "demo")]
    Demo(demo::Options),
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The TOML file; deploy/citygate.toml explains every setting. Without one it is /etc/citygate/citygate.toml, if that
    /// exists; else defaults and CITYGATE_* variables hold.
    #[arg(long, short, value_name = "FILE", env = "CITYGATE_CONFIG", global = true)]
    config: Option<PathBuf>,
}

/// The configuration of the package: on its machine every command means the service's settings.
const INSTALLED: &str = "/etc/citygate/citygate.toml";

impl ConfigFile {
    fn path(self) -> Option<PathBuf> {
        self.config.or_else(|| existing(Path::new(INSTALLED)))
    }
}

/// A file that this user may not look at counts as there: to be told so is better than to go by other settings.
fn existing(file: &Path) -> Option<PathBuf> {
    file.try_exists().unwrap_or(true).then(|| file.to_owned())
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // To stdout and successful for --help and --version, to stderr for mistakes.
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let outcome = match arguments.command {
        Command::Run(file) => with_config(file, |config| block_on(run(config))),
        Command::Check { file, options } => with_config(file, |config| block_on(print_findings(config, options))),
        Command::Health { file, options } => with_config(file, |config| block_on(ask_health(config, options))),
        Command::Drain { file, options } => with_config(file, |config| block_on(drain(config, options))),
        Command::Tail { file, options } => with_config(file, |config| block_on(print_readings(config, options))),
        Command::Store(file) => with_config(file, |config| block_on(store_readings(config))),
        Command::Devices { file, options } => with_config(file, |config| {
            identities::run(&options, &config, &mut std::io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Topics { file, options } => with_config(file, |config| block_on(do_topics(config, options))),
        #[cfg(feature = "demo")]
        Command::Demo(options) => {
            start_logging(&demo::log());
            block_on(demo::run(options))
        }
    };
    match outcome {
        Ok(code) => code,
        // As `| head` ends it.
        Err(error) if nobody_reads(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("citygate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read what is printed has seen enough.
fn nobody_reads(error: &anyhow::Error) -> bool {
    let of_pipe = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(of_pipe)
}

fn with_config(file: ConfigFile, act: impl FnOnce(Config) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    match Config::load(file.path().as_deref()) {
        Ok(config) => {
            start_logging(&config.log);
            act(config)
        }
        Err(mistakes) => {
            eprintln!("{mistakes}");
            Ok(ExitCode::from(USAGE))
        }
    }
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    // Before anything starts: as the first process of a container it would not be ended by a signal without a handler.
    let mut signals = shutdown::Signals::new().context("signal handlers")?;
    let read_again = "identities, certificates and revocation lists are read again; settings at the next start";
    shutdown::outlive_hangups(read_again).context("signal handlers")?;
    // A task of its own, since it waits for the disk, too.
    let mut start = TaskTracker::new().spawn(Gateway::start(config));
    let started = tokio::select! {
        biased;
        started = &mut start => started.context("start")?,
        signal = signals.next() => {
            tracing::info!(signal, "citygate ends before it has started");
            // It is not waited for: the spool is as whole as before, and what was acknowledged at the last instant is safe.
            std::process::exit(0);
        }
    };
    let gateway = match started {
        Ok(gateway) => gateway,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let failed = gateway.failed();
    tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "citygate is shutting down");
            wait_before_end(&gateway, &mut signals).await;
        }
        () = failed.cancelled() => {}
    }
    let all_answered = tokio::select! {
        all_answered = gateway.drain() => all_answered,
        signal = signals.next() => {
            // Whoever asks again does not want to wait. What was acknowledged is safe all the same, except for readings of a
            // spool that was taken away and is still being written anew.
            tracing::warn!(signal, "citygate ends at once");
            std::process::exit(1);
        }
    };
    Ok(if all_answered && !failed.is_cancelled() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Says that the gateway ends, and waits for `drain.delay`, another signal, or its failure.
async fn wait_before_end(gateway: &Gateway, signals: &mut shutdown::Signals) {
    gateway.announce_end();
    let delay = gateway.drain_delay();
    if delay.is_zero() {
        return;
    }
    tracing::info!(?delay, "readings are accepted until drain.delay is over");
    let failed = gateway.failed();
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        signal = signals.next() => tracing::info!(signal, "drain.delay ends early"),
        () = failed.cancelled() => {}
    }
}

async fn print_findings(config: Config, options: check::Options) -> anyhow::Result<ExitCode> {
    let findings = check::findings(config, options).await;
    let mut output = std::io::stdout().lock();
    for line in &findings.errors {
        writeln!(output, "error    {line}")?;
    }
    for line in &findings.warnings {
        writeln!(output, "warning  {line}")?;
    }
    for line in &findings.ok {
        writeln!(output, "ok       {line}")?;
    }
    Ok(if findings.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn ask_health(config: Config, options: health::Options) -> anyhow::Result<ExitCode> {
    let answer = health::ask(&config.admin, &config.store, &options).await;
    let is_yes = answer.is_ok();
    // On one stream, whatever it is: HEALTHCHECK and probes keep what they find there.
    writeln!(
        std::io::stdout(),
        "{}",
        answer.unwrap_or_else(|error| error.to_string())
    )
    .ok();
    Ok(if is_yes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn drain(config: Config, options: drain_spool::Options) -> anyhow::Result<ExitCode> {
    let mut signals = shutdown::Signals::new().context("signal handlers")?;
    let is_empty = drain_spool::run(config, &options, &mut signals).await?;
    Ok(if is_empty { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn print_readings(config: Config, options: tail::Options) -> anyhow::Result<ExitCode> {
    tail::run(&config, &options).await?;
    Ok(ExitCode::SUCCESS)
}

async fn do_topics(config: Config, options: topics::Options) -> anyhow::Result<ExitCode> {
    match topics::run(&options, config, &mut std::io::stdout()).await {
        Ok(topics::End::Good) => Ok(ExitCode::SUCCESS),
        Ok(topics::End::Differs) => Ok(ExitCode::FAILURE),
        Err(error @ topics::Error::Print(_)) => Err(error.into()),
        Err(error) => {
            eprintln!("citygate: {error}");
            Ok(ExitCode::from(match error {
                _ if error.is_usage() => USAGE,
                _ if error.is_unavailable() => UNAVAILABLE,
                _ => 1,
            }))
        }
    }
}

async fn store_readings(config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = shutdown::Signals::new().context("signal handlers")?;
    shutdown::outlive_hangups("settings, schemas and SQL are read at the next start").context("signal handlers")?;
    let closing = CancellationToken::new();
    let sections = store::Sections {
        store: &config.store,
        kafka: &config.kafka,
        schemas: &config.schemas,
        registry: &config.registry,
    };
    let run = store::run(sections, closing.clone());
    let mut run = std::pin::pin!(run);
    let ended = tokio::select! {
        ended = &mut run => ended,
        signal = signals.next() => {
            tracing::info!(signal, "citygate store is shutting down");
            closing.cancel();
            tokio::select! {
                ended = &mut run => ended,
                // Whoever asks again does not want to wait; what is not stored is stored by the next one.
                signal = signals.next() => {
                    tracing::warn!(signal, "citygate store ends at once");
                    std::process::exit(1);
                }
            }
        }
    };
    match ended {
        Err(error) if error.is_usage() => {
            eprintln!("citygate: {error}");
            Ok(ExitCode::from(USAGE))
        }
        ended => Ok(ended.map(|()| ExitCode::SUCCESS)?),
    }
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("runtime")?;
    let outcome = runtime.block_on(future);
    // What still waits for a disk or a file that hangs is not waited for: all that matters has ended.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn start_logging(log: &Log) {
    let filter = log.filter().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => lines.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn a_configuration_is_that_of_the_package_only_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("citygate.toml");
        assert_eq!(super::existing(&file), None);
        std::fs::write(&file, "").unwrap();
        assert_eq!(super::existing(&file), Some(file.clone()));
        // Below a file nothing can be looked for, as below a folder that is closed to this user.
        let hidden = file.join("citygate.toml");
        assert_eq!(super::existing(&hidden), Some(hidden));
    }
}
