//! `citygate drain`: sends what a spool holds to Kafka, where no gateway does so any more.
//!
//! For a spool that was left behind: of a gateway that was scaled in, on a disk that was moved. It is opened and replayed as a
//! gateway does it (`deliver`): its lock refuses one that is in use, order and pace are those of `[replay]`, and a reading that
//! Kafka does not acknowledge stays. It ends when none is left, at a signal, or when nothing has been acknowledged for a while.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use crate::catalogue::schemas;
use crate::deliver::health::Health;
use crate::deliver::spool::{self, RealDisk};
use crate::deliver::{self, Deliver};
use crate::gateway::Metrics;
use crate::operate::clock::SystemClock;
use crate::operate::config::Config;
use crate::operate::descriptors::{self, Plan};
use crate::operate::shutdown::Signals;
use crate::operate::state;

/// How often it is looked how much is left, and how often that is said.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const SAY_INTERVAL: Duration = Duration::from_secs(5);

/// What to send.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The spool's folder; without it the one of the configuration. Folders that readings were saved into beside it
    /// (spool.rescued-1, …) come first.
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Give up once nothing has been acknowledged for so long.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    timeout: SignedDuration,
    /// Send nothing: say how much it holds; exit code 0 if that is nothing, and no damaged bytes are in it.
    #[arg(long)]
    dry_run: bool,
}

/// It cannot begin; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("spool: {0} does not exist, or holds no spool; name the folder that has the files *.segment (--spool)")]
    NoSpool(String),
    /// The topics of the kinds are not known.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Schemas(Vec<schemas::Error>),
    #[error(transparent)]
    Descriptors(#[from] descriptors::TooFew),
    #[error(transparent)]
    Spool(#[from] spool::Error),
    #[error(transparent)]
    Client(#[from] deliver::kafka::Error),
    #[error(transparent)]
    Deliver(#[from] deliver::Error),
}

/// Why it ended.
enum End {
    Empty,
    Signal(&'static str),
    /// In so long, and what is known of why.
    Nothing(Duration, String),
    /// The spool's disk failed.
    Failed,
}

/// Sends all that the spool holds, and before it what was saved into folders beside it when its files were taken away; false: some of it
/// stays, or the disk failed, which has been said.
///
/// # Errors
/// See [`Error`].
pub async fn run(mut config: Config, options: &Options, signals: &mut Signals) -> Result<bool, Error> {
    if let Some(folder) = &options.spool {
        config.spool.folder.clone_from(folder);
    }
    look(&mut config)?;
    // One that is in use is refused before anything beside it is sent.
    held(&config)?;
    let mut is_all = true;
    // What was saved beside it is older than what it holds.
    let mut folders = spool::left_beside(&config.spool.folder, &RealDisk::default());
    folders.push(config.spool.folder.clone());
    for folder in folders {
        config.spool.folder = folder;
        if options.dry_run {
            is_all &= say_what_it_holds(&config)?;
            continue;
        }
        let (is_empty, end) = drain(&mut config, options, signals).await?;
        is_all &= is_empty;
        if matches!(end, End::Signal(_)) {
            return Ok(false);
        }
    }
    Ok(is_all)
}

/// Whether that is nothing, not even damaged bytes.
fn say_what_it_holds(config: &Config) -> Result<bool, Error> {
    let held = held(config)?;
    println!("{} holds {held} readings", state::absolute(&config.spool.folder));
    Ok(!say_what_is_damaged(config) && held == 0)
}

/// Sends what one folder holds; whether nothing stays, and why it ended.
async fn drain(config: &mut Config, options: &Options, signals: &mut Signals) -> Result<(bool, End), Error> {
    let folder = state::absolute(&config.spool.folder);
    let deliver = Arc::new(open(config)?);
    let held = left(&deliver);
    println!(
        "{folder} holds {held} readings; kafka is {}",
        config.kafka.bootstrap_servers
    );
    let end = wait(&deliver, held, options.timeout.unsigned_abs(), signals).await;
    let (closing, deadline) = (deliver.clone(), config.drain.deadline);
    let is_closed = tokio::task::spawn_blocking(move || closing.close(deadline)).await;
    let left = left(&deliver);
    let acknowledged = held.saturating_sub(left);
    println!("{acknowledged} readings were acknowledged by kafka, {left} stay in {folder}");
    if let Some(why) = end.text() {
        println!("{why}; what stays can be sent by calling it again");
    }
    let places = deliver.spool_status().map_or(0, |spool| spool.damaged_places);
    if places > 0 {
        println!("{places} damaged places were found, and the log says what they held");
    }
    say_what_is_damaged(config);
    let is_empty = left == 0 && matches!(end, End::Empty) && is_closed.unwrap_or(false);
    Ok((is_empty, end))
}

/// Files of bytes that a start, or an earlier call, could not read and moved there. Whether there are any.
fn say_what_is_damaged(config: &Config) -> bool {
    let folder = &config.spool.folder;
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_damaged = |file: &DirEntry| {
        Path::new(&file.file_name())
            .extension()
            .is_some_and(|end| end == "damaged")
    };
    let damaged = files.filter(is_damaged).count();
    if damaged > 0 {
        let folder = state::absolute(folder);
        println!(
            "{damaged} files {folder}/*.damaged hold bytes that could not be read: readings that were acknowledged may be lost"
        );
    }
    damaged > 0
}

/// Whether there is one that can be opened: a gateway would create it.
fn look(config: &mut Config) -> Result<(), Error> {
    Plan::new(config, descriptors::raise())?.apply(config);
    let folder = &config.spool.folder;
    let found = spool::inspect::inspect(&config.spool, &RealDisk::default())?.segments;
    // One without readings has its cursor; an empty folder may be a disk that is not mounted.
    let is_spool = found.is_some_and(|segments| segments > 0 || folder.join("cursor").exists());
    match is_spool {
        true => Ok(()),
        false => Err(Error::NoSpool(state::absolute(folder))),
    }
}

/// Opens it as a gateway does, and closes it at once.
fn held(config: &Config) -> Result<u64, Error> {
    let (disk, clock) = (Arc::new(RealDisk::default()), Arc::new(SystemClock));
    let (_spool, _writer, recovery) = spool::open_stopped::<()>(&config.spool, disk, clock)?;
    Ok(recovery.entries)
}

/// Opens it as a gateway does, and begins to send.
fn open(config: &mut Config) -> Result<Deliver, Error> {
    let kinds = schemas::read(&config.schemas, &config.kafka.topic_prefix);
    if !kinds.errors.is_empty() {
        return Err(Error::Schemas(kinds.errors));
    }
    let topics: Vec<String> = kinds.definitions.into_iter().map(|kind| kind.topic).collect();
    config.spool.enabled = true;
    let metrics = Metrics::new().deliver;
    let client = deliver::Client::new(&config.kafka, true, &metrics.kafka)?;
    let sections = deliver::Sections {
        kafka: &config.kafka,
        spool: &config.spool,
        replay: &config.replay,
    };
    let clock = Arc::new(SystemClock);
    Ok(Deliver::start(
        sections,
        client,
        move || topics.clone(),
        &metrics,
        clock,
    )?)
}

async fn wait(deliver: &Deliver, held: u64, timeout: Duration, signals: &mut Signals) -> End {
    let failed = deliver.failed();
    let (mut lowest, mut moved_at, mut said_at) = (held, Instant::now(), Instant::now());
    loop {
        let left = left(deliver);
        if left == 0 {
            return End::Empty;
        }
        if left < lowest {
            (lowest, moved_at) = (left, Instant::now());
        }
        if moved_at.elapsed() >= timeout {
            return End::Nothing(timeout, obstacles(deliver));
        }
        if said_at.elapsed() >= SAY_INTERVAL {
            said_at = Instant::now();
            println!("{left} of {held} readings are left: {}", obstacles(deliver));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            signal = signals.next() => return End::Signal(signal),
            () = failed.cancelled() => return End::Failed,
        }
    }
}

/// Readings that Kafka has not acknowledged.
fn left(deliver: &Deliver) -> u64 {
    deliver.spool_status().map_or(0, |spool| spool.uncommitted_entries)
}

/// What keeps readings from Kafka, as far as it is known.
fn obstacles(deliver: &Deliver) -> String {
    let kafka = match &*deliver.health().borrow() {
        Health::Up => "kafka is available".to_owned(),
        Health::Starting => "kafka has not answered yet".to_owned(),
        Health::Spooling(why) | Health::Down(why) => why.clone(),
    };
    let all = [kafka].into_iter().chain(deliver.warnings());
    all.collect::<Vec<_>>().join("; ")
}

// === impl End ===

impl End {
    /// What to say of it; nothing if all was sent.
    fn text(&self) -> Option<String> {
        match self {
            End::Empty => None,
            End::Signal(signal) => Some(format!("ended by {signal}")),
            End::Nothing(timeout, why) => {
                let timeout = SignedDuration::try_from(*timeout).unwrap_or(SignedDuration::MAX);
                Some(format!("nothing was acknowledged for {timeout:#}: {why}"))
            }
            End::Failed => Some("the disk of the spool failed, as the log says".to_owned()),
        }
    }
}
