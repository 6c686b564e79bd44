//! One Alertmanager, and what it has been told.
//!
//! What is new or different is told at once, everything again every minute, as Alertmanager forgets what it is not told, and may
//! have been restarted. Each request has a deadline; what was not accepted is told again at the next look, with everything else. Of a cluster each
//! is told everything: they agree among themselves who tells people. The URL's user and password are sent, and in no message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus::IntGauge;
use reqwest::{Client, StatusCode, Url};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::told::{self, Alert, Labels, Told};
use crate::operate::secret::Secret;
use crate::store::metrics::StoreMetrics;
use crate::store::status::{Part, Status};

/// How often everything is told again.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How many alerts are in a request.
const ALERTS_MAX: usize = 250;

/// How much of an Alertmanager's words is passed on.
const WORDS_MAX: usize = 200;

/// See the module.
pub struct Alertmanager {
    number: usize,
    /// Its host and port, for people.
    name: String,
    /// Where alerts are posted, with user and password.
    url: Url,
    client: Client,
    metrics: StoreMetrics,
    status: Arc<Status>,
    /// What it has accepted, by labels.
    known: BTreeMap<Labels, Alert>,
    /// When it accepted everything; none: it has to be told.
    everything_at: Option<Instant>,
}

/// There can be no alerts; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("store.alertmanager_urls: one is no URL: {0}")]
    Url(String),
    #[error("store.alertmanager_urls: no HTTP client: {0}")]
    Client(reqwest::Error),
}

/// Alerts were not accepted.
struct Failure {
    /// The `reason` label of metrics.
    reason: &'static str,
    why: String,
}

// === impl Alertmanager ===

impl Alertmanager {
    /// # Errors
    /// There is no HTTP client, or the URL is none.
    pub fn new(number: usize, base: &Secret, metrics: StoreMetrics, status: Arc<Status>) -> Result<Self, Error> {
        let base = base.reveal().trim_end_matches('/');
        let url = Url::parse(&format!("{base}/api/v2/alerts")).map_err(|error| Error::Url(error.to_string()))?;
        let client = Client::builder()
            .timeout(TIMEOUT)
            // Alerts are no page: whoever redirects them, and answers the GET that it becomes, has not accepted any.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(Error::Client)?;
        let port = url.port_or_known_default().unwrap_or_default();
        Ok(Alertmanager {
            number,
            name: format!("{}:{port}", url.host_str().unwrap_or_default()),
            url,
            client,
            metrics,
            status,
            known: BTreeMap::new(),
            everything_at: None,
        })
    }

    /// Tells until `closing`, whenever the table was looked at by this instance.
    pub async fn run(mut self, mut told: watch::Receiver<Told>, closing: CancellationToken) {
        let work = async {
            while told.changed().await.is_ok() {
                let alerts = told.borrow_and_update().clone();
                match alerts {
                    Some(alerts) => self.tell_due(&alerts).await,
                    None => self.forget(),
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = closing.cancelled() => {}
        }
    }

    /// Everything, if that was a minute ago, or was not accepted; otherwise what is new or different.
    async fn tell_due(&mut self, alerts: &[Alert]) {
        let is_everything = self.everything_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL);
        let is_due = |alert: &&Alert| is_everything || self.known.get(&alert.labels) != Some(alert);
        let due: Vec<&Alert> = alerts.iter().filter(is_due).collect();
        if due.is_empty() && !is_everything {
            return;
        }
        match self.tell(&due).await {
            Ok(()) => {
                self.known = alerts
                    .iter()
                    .map(|alert| (alert.labels.clone(), alert.clone()))
                    .collect();
                if is_everything {
                    self.everything_at = Some(Instant::now());
                }
                self.up().set(1);
                self.status.well(Part::Alertmanager(self.number));
            }
            Err(failure) => {
                self.everything_at = None;
                self.up().set(0);
                let labels = [&*self.name, failure.reason];
                self.metrics
                    .store_alertmanager_failures_total
                    .with_label_values(&labels)
                    .inc();
                let words = format!("{}: {}", self.name, failure.why);
                self.status.fault(Part::Alertmanager(self.number), &words);
            }
        }
    }

    /// Another instance tells from now on.
    fn forget(&mut self) {
        self.known.clear();
        self.everything_at = None;
        // It may not have been told anything yet.
        self.metrics
            .store_alertmanager_up
            .remove_label_values(&[&self.name])
            .ok();
        self.status.well(Part::Alertmanager(self.number));
    }

    fn up(&self) -> IntGauge {
        self.metrics.store_alertmanager_up.with_label_values(&[&self.name])
    }

    /// Without any alert, too: only an answer shows that there will be one.
    async fn tell(&self, alerts: &[&Alert]) -> Result<(), Failure> {
        let mut parts: Vec<&[&Alert]> = alerts.chunks(ALERTS_MAX).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for part in parts {
            self.post(told::json(part, SystemTime::now())).await?;
            let accepted = self
                .metrics
                .store_alertmanager_alerts_total
                .with_label_values(&[&self.name]);
            accepted.inc_by(part.len() as u64);
        }
        Ok(())
    }

    async fn post(&self, alerts: Value) -> Result<(), Failure> {
        let sent = self.client.post(self.url.clone()).json(&alerts).send().await;
        let mut response = sent.map_err(Failure::no_answer)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let words = response.chunk().await.ok().flatten().unwrap_or_default();
        Err(Failure::refused(status, &String::from_utf8_lossy(&words)))
    }
}

// === impl Failure ===

impl Failure {
    fn no_answer(error: reqwest::Error) -> Self {
        let reason = if error.is_timeout() { "timeout" } else { "connection" };
        // The first says that sending failed, the last why.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Failure {
            reason,
            why: cause.to_string(),
        }
    }

    fn refused(status: StatusCode, words: &str) -> Self {
        let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let words: String = line.chars().take(WORDS_MAX).collect();
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; user and password are part of its URL (store.alertmanager_urls_file keeps them out of the configuration)"
            }
            StatusCode::NOT_FOUND => "; its URL must be that of Alertmanager's own page, with its path",
            _ => "",
        };
        Failure {
            reason: "refused",
            why: format!(
                "HTTP {}{}{words}{advice}",
                status.as_u16(),
                if words.is_empty() { "" } else { ": " }
            ),
        }
    }
}
