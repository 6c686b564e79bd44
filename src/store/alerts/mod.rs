//! Alerts on the city on their way to Alertmanager: what `city.alert` says, told as a Prometheus server tells its own.
//!
//! Of all instances one tells. It looks at the table again and again, and gives what it finds to a task for each Alertmanager
//! ([`alertmanager`]), so that one that does not answer keeps neither the others waiting nor anything else of the store. What there
//! is to tell, [`told`] decides; what a city is alerted of, the SQL does. Without the database nothing is told: Alertmanager then
//! considers an alert over [`told::VALID_FOR`] after it was told last, and not before.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::Config;
use super::database::{self, Database};
use super::metrics::StoreMetrics;
use super::status::{Part, Status};
use alertmanager::Alertmanager;
use told::{Memory, Row, Told};

mod alertmanager;

mod told;

pub use alertmanager::Error;

const LOCK_ALERTS: i32 = 4;

/// How often the table is looked at; the jobs that change it run as often.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the database may take for it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// How often it is asked for the lock.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// How many alerts are told; of more, those that were raised last.
const ALERTS_MAX: i64 = 10_000;

/// Looks at the table.
pub struct Alerts {
    database: Database,
    status: Arc<Status>,
    closing: CancellationToken,
    memory: Memory,
    told: watch::Sender<Told>,
}

// === impl Alerts ===

impl Alerts {
    /// Tells all Alertmanagers of the configuration until `closing`.
    ///
    /// # Errors
    /// There is no HTTP client, or a URL is none.
    pub fn start(
        config: &Config,
        database: Database,
        metrics: &StoreMetrics,
        status: &Arc<Status>,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Result<(), Error> {
        if config.alertmanager_urls.is_empty() {
            return Ok(());
        }
        let (told, _) = watch::channel(None);
        for (number, url) in config.alertmanager_urls.iter().enumerate() {
            let one = Alertmanager::new(number, url, metrics.clone(), status.clone())?;
            tasks.spawn(one.run(told.subscribe(), closing.clone()));
        }
        let alerts = Alerts {
            database,
            status: status.clone(),
            closing: closing.clone(),
            memory: Memory::default(),
            told,
        };
        tasks.spawn(alerts.run());
        Ok(())
    }

    async fn run(mut self) {
        while !self.closing.is_cancelled() {
            // Whatever keeps it from connecting, the loop that stores readings says.
            if let Ok(client) = self.database.connect().await {
                if has_lock(&client).await {
                    self.work(&client).await;
                    // Another instance may tell now, and know better.
                    self.told.send_replace(None);
                } else {
                    self.status.well(Part::Alerts);
                }
            }
            self.pause(ASK_INTERVAL).await;
        }
    }

    /// With the lock, until the database does not answer.
    async fn work(&mut self, client: &Client) {
        while !self.closing.is_cancelled() {
            let found = tokio::time::timeout(LOOK_TIMEOUT, rows(client)).await;
            let rows = match found {
                Ok(Ok(rows)) => rows,
                failed => {
                    let why = match failed {
                        Ok(Err(error)) => self.database.error("city.alert", error).to_string(),
                        _ => format!("city.alert: no answer within {LOOK_TIMEOUT:?}"),
                    };
                    return self.status.fault(Part::Alerts, &why);
                }
            };
            self.status.well(Part::Alerts);
            let alerts = self.memory.told(&rows, SystemTime::now());
            self.told.send_replace(Some(alerts.into()));
            self.pause(LOOK_INTERVAL).await;
        }
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.closing.cancelled() => {}
        }
    }
}

async fn has_lock(client: &Client) -> bool {
    let asked = tokio::time::timeout(LOOK_TIMEOUT, database::try_lock(client, LOCK_ALERTS)).await;
    asked.unwrap_or(false)
}

/// Of every subject one alert: that which lasts, else that which ended last, if lately. None while there is no such table.
async fn rows(client: &Client) -> Result<Vec<Row>, tokio_postgres::Error> {
    let exists = "select to_regclass('city.alert') is not null";
    if !client.query_one(exists, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let ask = "select alert, scope, subject, district, severity, reason, raised_at, cleared_at from ( \
                 select distinct on (alert, scope, subject) * from city.alert \
                 where not withdrawn and caused_by is null and (cleared_at is null or cleared_at > $1) \
                 order by alert, scope, subject, cleared_at is null desc, raised_at desc \
               ) of_subject order by raised_at desc limit $2";
    let lately = SystemTime::now() - told::LATELY;
    let found = client.query(ask, &[&lately, &ALERTS_MAX]).await?;
    let rows = found.iter().map(|row| Row {
        alert: row.get(0),
        scope: row.get(1),
        subject: row.get(2),
        district: row.get(3),
        severity: row.get(4),
        reason: row.get(5),
        raised_at: row.get(6),
        cleared_at: row.get(7),
    });
    Ok(rows.collect())
}
