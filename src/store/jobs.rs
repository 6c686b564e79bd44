//! The SQL that computes results: files that are run at start, and statements that are run again and again.
//!
//! Of all instances one runs them, that which has a lock of the database; when its connection ends another takes over. They run one
//! after the other, each in the transactions that it says itself. What fails is counted, said once, and tried again
//! at its next time; storing readings waits for nothing of it. What there is, [`sql_folder`](super::sql_folder) reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::database::{self, Database};
use super::metrics::StoreMetrics;
use super::sql_folder::{FILES, Sql};
use super::status::{Part, Status};
use super::tables::Tables;
use crate::catalogue::Definition;

const LOCK_JOBS: i32 = 2;

/// How often it is asked for the lock, and how soon files that failed are run again.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
const FILES_AGAIN: Duration = Duration::from_secs(30);

/// How long a job may take; those of this repository stop by themselves far sooner. Files may take as long as they need: they make indexes.
const JOB_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// A server that has not answered by then never will.
const NO_ANSWER: Duration = Duration::from_secs(11 * 60);

/// Runs them.
pub struct Runner {
    pub database: Database,
    pub kinds: Vec<Definition>,
    pub sql: Sql,
    pub metrics: StoreMetrics,
    pub status: Arc<Status>,
    pub closing: CancellationToken,
    /// What failed when it was run last, with the words for it.
    pub failing: BTreeMap<String, String>,
}

// === impl Runner ===

impl Runner {
    /// Runs the SQL until `closing`, while this instance has the lock.
    pub async fn run(mut self) {
        if self.sql.files.is_empty() && self.sql.jobs.is_empty() {
            return;
        }
        for job in &self.sql.jobs {
            let interval = self.metrics.store_job_interval_seconds.with_label_values(&[&job.name]);
            interval.set(job.every.as_secs_f64());
        }
        while !self.closing.is_cancelled() {
            // Whatever keeps it from connecting, the loop that stores readings says.
            if let Ok(mut client) = self.database.connect().await {
                if database::try_lock(&client, LOCK_JOBS).await {
                    info!("this instance runs the jobs");
                    self.metrics.store_runs_jobs.set(1);
                    self.work(&mut client).await;
                    self.metrics.store_runs_jobs.set(0);
                } else {
                    // Another instance runs them, and says what fails.
                    self.failing.clear();
                    self.status.well(Part::Jobs);
                }
            }
            self.pause(ASK_INTERVAL).await;
        }
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.closing.cancelled() => {}
        }
    }

    /// With the lock, until the connection ends.
    async fn work(&mut self, client: &mut Client) {
        while !self.run_files(client).await {
            if client.is_closed() || self.closing.is_cancelled() {
                return;
            }
            self.pause(FILES_AGAIN).await;
        }
        if database::limit(client, JOB_TIMEOUT).await.is_err() {
            return;
        }
        let jobs = self.sql.jobs.clone();
        let mut due: Vec<Instant> = vec![Instant::now(); jobs.len()];
        while !client.is_closed() && !self.closing.is_cancelled() {
            let Some(next) = (0..jobs.len()).min_by_key(|job| due[*job]) else {
                return self.pause(ASK_INTERVAL).await;
            };
            self.pause(due[next].saturating_duration_since(Instant::now())).await;
            if self.closing.is_cancelled() {
                return;
            }
            due[next] = Instant::now() + jobs[next].every;
            let began = Instant::now();
            let Ok(done) = tokio::time::timeout(NO_ANSWER, client.batch_execute(&jobs[next].sql)).await else {
                return;
            };
            self.note(
                client,
                &jobs[next].name,
                began,
                done.map_err(|error| database::words(&error)),
            )
            .await;
        }
    }

    /// Runs the files; whether all of them succeeded.
    async fn run_files(&mut self, client: &mut Client) -> bool {
        let began = Instant::now();
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
                // It may have begun a transaction.
                client.batch_execute("rollback").await.ok();
            }
        }
        match self.failing.is_empty() {
            true => self.status.well(Part::Jobs),
            false => {
                let words = self.failing.iter().map(|(job, why)| format!("{job}: {why}"));
                self.status.fault(Part::Jobs, &words.collect::<Vec<_>>().join("; "));
            }
        }
    }
}
