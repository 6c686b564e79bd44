//! `citygate topics`: what is planned, how a cluster differs from it, the changes that make it so, and how large all of it must be.
//!
//! The list is `kafka.topics_file`, or `--file`; with it count the kinds of `schemas.kinds` and the dead-letter topic. Sizing
//! ([`plan`]) asks nobody. What is changed, and what never is, is said in [`changes`].

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use crate::catalogue::schemas;
use crate::deliver::kafka::{self, operator::Operator};
use crate::operate::config::{Config, topics_file};
use crate::topics::{Comparison, Difference, List, Topic};

mod changes;

mod error;

mod plan;

mod print;

use changes::{Allowed, Change, Left};
pub use error::Error;

/// How long a change may take until the cluster tells of it.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Print the list: every topic with its key, partitions, retention, who writes and who reads it.
    List {
        #[command(flatten)]
        file: FileOption,
        #[command(flatten)]
        form: Form,
    },
    /// Print how the cluster's topics differ from the list. Exit code 0: they do not; 1: they do; 69: Kafka cannot be asked.
    ///
    /// Only what is listed is compared. Topics of kafka.topic_prefix that are not listed are named, and are no difference.
    Diff {
        #[command(flatten)]
        file: FileOption,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Create what is missing and change settings, so that the cluster's topics are those of the list. `diff` says what it would do.
    ///
    /// Exit code 0: they are the same now; 1: something differs still, and is named, with Kafka's reason where it refused; 69: Kafka
    /// cannot be asked. One topic that is refused does not stop the others. No topic gets fewer partitions or another number of
    /// replicas. Settings that were made by hand and are not listed stay.
    Apply {
        #[command(flatten)]
        file: FileOption,
        /// Add partitions that a topic lacks. Keys then move to other partitions: until readers have read what was written before,
        /// they may see newer readings of a device before older ones; a compacted topic keeps outdated records of keys that moved.
        #[arg(long)]
        add_partitions: bool,
        /// Delete topics, with their records, whose name begins with kafka.topic_prefix and that are not listed. Needs --yes.
        #[arg(long)]
        delete_unlisted: bool,
        /// Confirm --delete-unlisted; without it what would be deleted is printed.
        #[arg(long)]
        yes: bool,
        /// Print JSON, an object per line.
        #[arg(long)]
        json: bool,
    },
    /// Print how large everything must be for so many devices: partitions, brokers, disks, network, gateways, storage. Asks nobody.
    Plan(plan::Options),
}

#[derive(Args, Clone, Debug)]
struct FileOption {
    /// The list, such as deploy/kafka/topics.toml; default: kafka.topics_file of the configuration.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// How it is printed, if not for people.
#[derive(Args, Clone, Copy, Debug)]
#[group(multiple = false)]
struct Form {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print a table in Markdown; that of deploy/TOPICS.md is made so.
    #[arg(long)]
    markdown: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Good,
    /// The cluster is not as listed.
    Differs,
}

/// Does it, and prints it to `out`.
///
/// # Errors
/// See [`Error`].
pub async fn run(options: &Options, mut config: Config, out: &mut dyn Write) -> Result<End, Error> {
    match &options.action {
        Action::Plan(options) => {
            plan::run(options, out)?;
            Ok(End::Good)
        }
        Action::List { file, form } => {
            let list = file.list(&mut config)?;
            print::list(&list, &config.kafka.topic_prefix, (form.json, form.markdown), out)?;
            Ok(End::Good)
        }
        Action::Diff { file, json } => {
            file.list(&mut config)?;
            let (_, comparison) = compare(&config).await?;
            print::comparison(&comparison, *json, out)?;
            Ok(end(&comparison))
        }
        Action::Apply {
            file,
            add_partitions,
            delete_unlisted,
            yes,
            json,
        } => {
            file.list(&mut config)?;
            let allowed = Allowed {
                add_partitions: *add_partitions,
                delete_unlisted: *delete_unlisted,
                yes: *yes,
            };
            apply(&config, allowed, *json, out).await
        }
    }
}

impl FileOption {
    /// The list, which is then the configuration's as well.
    fn list(&self, config: &mut Config) -> Result<Arc<List>, Error> {
        if let Some(file) = &self.file {
            config.kafka.topics = Some(topics_file::read(file)?);
        }
        config.kafka.topics.clone().ok_or(Error::NoList)
    }
}

fn end(comparison: &Comparison) -> End {
    match comparison.is_same() {
        true => End::Good,
        false => End::Differs,
    }
}

/// Every topic that is planned: the listed ones, those of the kinds, and for dead letters.
fn planned(config: &Config) -> Result<Vec<Topic>, Error> {
    let found = schemas::read(&config.schemas, &config.kafka.topic_prefix);
    if !found.errors.is_empty() {
        return Err(Error::Schemas(found.errors));
    }
    let mut names: Vec<String> = found.definitions.into_iter().map(|kind| kind.topic).collect();
    names.push(config.kafka.dead_letter_topic.clone());
    let listed = config.kafka.topics.iter().flat_map(|list| list.topics.keys());
    names.extend(listed.cloned());
    names.sort();
    names.dedup();
    Ok(names.iter().map(|name| config.kafka.topic(name)).collect())
}

async fn compare(config: &Config) -> Result<(Operator, Comparison), Error> {
    let planned = planned(config)?;
    let operator = Operator::new(&config.kafka).map_err(Error::Unavailable)?;
    let comparison = ask(&operator, planned, &config.kafka.topic_prefix).await?;
    Ok((operator, comparison))
}

async fn ask(operator: &Operator, planned: Vec<Topic>, prefix: &str) -> Result<Comparison, Error> {
    let is_planned = |name: &str| planned.iter().any(|topic| topic.name == name);
    let is_of_interest = |name: &str| is_planned(name) || (!prefix.is_empty() && name.starts_with(prefix));
    let found = operator.topics(is_of_interest).await.map_err(Error::Unavailable)?;
    Ok(Comparison::new(planned, &found, prefix))
}

async fn apply(config: &Config, allowed: Allowed, json: bool, out: &mut dyn Write) -> Result<End, Error> {
    let (operator, comparison) = compare(config).await?;
    let (changes, left) = changes::changes(&comparison, allowed);
    let is_nothing_to_do = changes.is_empty();
    let made = make_all(&operator, changes, json, out).await?;
    for Left { topic, why } in &left {
        print::left(topic, why, json, out)?;
    }
    let (comparison, remaining) = look_again(config, &operator, &made).await?;
    for topic in remaining {
        print::left(
            &topic,
            "was changed, and Kafka still tells of it as before; ask it with `diff`",
            json,
            out,
        )?;
    }
    if is_nothing_to_do && left.is_empty() {
        print::nothing_to_do(json, out)?;
    }
    let wanted_deleted = allowed.delete_unlisted && !comparison.unlisted.is_empty();
    Ok(if wanted_deleted { End::Differs } else { end(&comparison) })
}

/// Makes one change after the other, also when Kafka refuses one of them; those that were made.
async fn make_all(
    operator: &Operator,
    changes: Vec<Change>,
    json: bool,
    out: &mut dyn Write,
) -> Result<Vec<Change>, Error> {
    let mut made = Vec::new();
    for change in changes {
        match make(operator, &change).await {
            Ok(()) => {
                print::change(&change, json, out)?;
                made.push(change);
            }
            Err(refusal) if refusal.is_of_a_topic() => {
                print::refused(change.topic(), &refusal.to_string(), json, out)?;
            }
            Err(failure) => return Err(Error::Unavailable(failure)),
        }
    }
    Ok(made)
}

async fn make(operator: &Operator, change: &Change) -> Result<(), kafka::Error> {
    match change {
        Change::Create(topic) => operator.create(topic).await,
        Change::AddPartitions { topic, .. } => operator.add_partitions(&topic.name, topic.partitions).await,
        Change::Set { topic, settings } => operator.set(topic, settings).await,
        Change::Delete { topic } => operator.delete(topic).await,
    }
}

/// A cluster tells of a change a moment after it has accepted it. The topics of which it does not, even then.
async fn look_again(
    config: &Config,
    operator: &Operator,
    changes: &[Change],
) -> Result<(Comparison, Vec<String>), Error> {
    let began = Instant::now();
    loop {
        let comparison = ask(operator, planned(config)?, &config.kafka.topic_prefix).await?;
        let remaining = changes.iter().filter(|change| is_pending(change, &comparison));
        let mut remaining: Vec<String> = remaining.map(|change| change.topic().to_owned()).collect();
        remaining.dedup();
        if remaining.is_empty() || began.elapsed() >= TOLD_WITHIN {
            return Ok((comparison, remaining));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn is_pending(change: &Change, comparison: &Comparison) -> bool {
    let still = comparison.topics.iter().find(|one| one.topic.name == change.topic());
    let differs = |is: fn(&Difference) -> bool| still.is_some_and(|one| one.differences.iter().any(is));
    match change {
        Change::Create(_) => still.is_some(),
        Change::AddPartitions { .. } => differs(|one| matches!(one, Difference::TooFewPartitions { .. })),
        Change::Set { .. } => differs(|one| matches!(one, Difference::Setting { .. })),
        Change::Delete { topic } => comparison.unlisted.contains(topic),
    }
}
