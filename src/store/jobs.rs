//! The SQL that computes results: files that are run at start, and statements that are run again and again.
//!
//! Of all instances one runs them, the [`leader`](super::leader). They run one after the other, each in the transactions that it says
//! itself. What fails is counted, said once, and tried again at its next time; storing readings waits for nothing of it. What there is, [`sql_folder`](super::sql_folder) reads.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tracing::info;

use super::database::{self, Database};
use super::leader::{Lock, Turn, Work};
use super::metrics::StoreMetrics;
use super::sql_folder::{FILES, Job, Sql};
use super::status::Part;
use super::tables::Tables;
use crate::catalogue::Definition;

/// How soon files that failed are run again.
const FILES_AGAIN: Duration = Duration::from_secs(30);
/// How often it is seen to that the connection is alive, where there are no jobs.
const IDLE: Duration = Duration::from_secs(5);

/// How long a job may take; those of this repository stop by themselves far sooner. Files may take as long as they need: they make indexes.
const JOB_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// A server that has not answered by then never will.
const NO_ANSWER: Duration = Duration::from_secs(11 * 60);

/// Runs them.
pub struct Runner {
    database: Database,
    kinds: Vec<Definition>,
    sql: Sql,
    metrics: StoreMetrics,
    /// When the files were run last.
    files_at: Option<Instant>,
    /// When each job is to be run; none: the files were not run yet.
    due: Option<Vec<Instant>>,
    /// What failed when it was run last, with the words for it.
    failing: BTreeMap<String, String>,
}

// === impl Runner ===

impl Runner {
    pub fn new(database: Database, kinds: Vec<Definition>, sql: Sql, metrics: StoreMetrics) -> Self {
        for job in &sql.jobs {
            let interval = metrics.store_job_interval_seconds.with_label_values(&[&job.name]);
            interval.set(job.every.as_secs_f64());
        }
        Runner {
            database,
            kinds,
            sql,
            metrics,
            files_at: None,
            due: None,
            failing: BTreeMap::new(),
        }
    }

    /// Whether there is anything to run.
    pub fn has_work(&self) -> bool {
        !self.sql.files.is_empty() || !self.sql.jobs.is_empty()
    }

    /// How it is after something was run.
    fn turn_over(&self, pause: Duration) -> Turn {
        let words = self.failing.iter().map(|(job, why)| format!("{job}: {why}"));
        let words = words.collect::<Vec<_>>().join("; ");
        Turn {
            pause,
            fault: Some(words).filter(|words| !words.is_empty()),
        }
    }

    async fn run_job(&mut self, client: &mut Client, job: &Job) -> Result<(), String> {
        let began = Instant::now();
        let asked = tokio::time::timeout(NO_ANSWER, client.batch_execute(&job.sql)).await;
        let done = asked.map_err(|_| format!("{}: no answer within {NO_ANSWER:?}", job.name))?;
        let is_made = !done.as_ref().is_err_and(|error| error.code().is_some_and(is_missing));
        if !is_made && self.files_at.is_none_or(|at| at.elapsed() > FILES_AGAIN) {
            info!(
                job = job.name,
                "what it needs is not there: the SQL files are run again"
            );
            self.due = None;
        }
        let done = done.map_err(|error| database::words(&error));
        self.note(client, &job.name, began, done).await;
        self.show_computed(client).await;
        Ok(())
    }

    /// Of the kinds that are read: whatever else was computed once stands still as it should.
    async fn show_computed(&self, client: &Client) {
        let ask = "select kind, extract(epoch from computed_until)::double precision from city.window_progress \
                   where computed_until is not null and kind = any($1::text[])";
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name.as_str()).collect();
        // What keeps it from answering keeps the next job from it, too.
        let asked = tokio::time::timeout(NO_ANSWER, client.query(ask, &[&kinds])).await;
        for row in asked.ok().and_then(Result::ok).iter().flatten() {
            let until = &self.metrics.store_computed_until_timestamp_seconds;
            until.with_label_values(&[row.get::<_, &str>(0)]).set(row.get(1));
        }
    }

    /// Runs the files; whether all of them succeeded.
    async fn run_files(&mut self, client: &mut Client) -> bool {
        let began = Instant::now();
        self.files_at = Some(began);
        let done = self.try_files(client).await;
        let is_done = done.is_ok();
        self.note(client, FILES, began, done).await;
        is_done
    }

    async fn try_files(&self, client: &mut Client) -> Result<(), String> {
        // They may name the tables of the kinds.
        let made = Tables::default().prepare(&self.database, client, &self.kinds).await;
        made.map_err(|error| error.to_string())?;
        for file in &self.sql.files {
            let named = |why: String| format!("{}: {why}", file.display());
            let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
            client
                .batch_execute(&text)
                .await
                .map_err(|error| named(database::words(&error)))?;
            info!(file = %file.display(), "an SQL file was run");
        }
        Ok(())
    }

    async fn note(&mut self, client: &Client, job: &str, began: Instant, done: Result<(), String>) {
        self.metrics
            .store_job_seconds
            .with_label_values(&[job])
            .observe(began.elapsed().as_secs_f64());
        match done {
            Ok(()) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let last = self
                    .metrics
                    .store_job_last_success_timestamp_seconds
                    .with_label_values(&[job]);
                last.set(now.as_secs_f64());
                self.failing.remove(job);
            }
            Err(why) => {
                self.metrics.store_job_failures_total.with_label_values(&[job]).inc();
                self.failing.insert(job.to_owned(), why);
                // One that it has begun, and that has failed, refuses everything.
                if client.batch_execute("select").await.is_err() {
                    client.batch_execute("rollback").await.ok();
                }
            }
        }
    }
}

/// A function, a table, a column: somebody has dropped it, or a whole schema.
fn is_missing(code: &SqlState) -> bool {
    let missing = [
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
    ];
    missing.contains(code)
}

impl Work for Runner {
    const LOCK: Lock = Lock::Jobs;
    const PART: Part = Part::Jobs;

    async fn begin(&mut self, _: &mut Client) -> Result<(), String> {
        info!("this instance runs the jobs");
        self.metrics.store_runs_jobs.set(1);
        self.due = None;
        Ok(())
    }

    /// The files, until all of them have succeeded; then the job that is due.
    async fn turn(&mut self, client: &mut Client) -> Result<Turn, String> {
        let Some(due) = &mut self.due else {
            if !self.run_files(client).await {
                return Ok(self.turn_over(FILES_AGAIN));
            }
            let limited = database::limit(client, JOB_TIMEOUT).await;
            limited.map_err(|error| database::words(&error))?;
            self.due = Some(vec![Instant::now(); self.sql.jobs.len()]);
            return Ok(self.turn_over(Duration::ZERO));
        };
        let Some(next) = (0..due.len()).min_by_key(|job| due[*job]) else {
            return Ok(Turn::well(IDLE));
        };
        let job = self.sql.jobs[next].clone();
        due[next] = Instant::now() + job.every;
        self.run_job(client, &job).await?;
        let next = self.due.iter().flatten().min().copied();
        let pause = next.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        Ok(self.turn_over(pause))
    }

    fn end(&mut self) {
        self.metrics.store_runs_jobs.set(0);
        self.metrics.store_computed_until_timestamp_seconds.reset();
    }

    fn is_elsewhere(&mut self) {
        self.failing.clear();
    }
}
