//! Alerts on the city on their way to Alertmanager: what `city.alert` says, told as a Prometheus server tells its own.
//!
//! Of all instances one tells, the [`leader`](super::leader). It looks at the table again and again, and gives what it finds to a task for each Alertmanager
//! ([`alertmanager`]), so that one that does not answer keeps neither the others waiting nor anything else of the store. What there
//! is to tell, [`told`] decides; what a city is alerted of, the SQL does. Without the database nothing is told: Alertmanager then
//! considers an alert over [`told::VALID_FOR`] after it was told last, and not before.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

use super::config::Config;
use super::database::Database;
use super::leader::{Leader, Lock, Turn, Work};
use super::metrics::StoreMetrics;
use super::status::Part;
use alertmanager::Alertmanager;
use told::{Memory, Row, Told};

mod alertmanager;

mod told;

pub use alertmanager::Error;

/// How often the table is looked at; the jobs that change it run as often.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the database may take for it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// How many alerts are told; of more, those that were raised last.
const ALERTS_MAX: i64 = 10_000;

/// Looks at the table.
pub struct Alerts {
    database: Database,
    memory: Memory,
    told: watch::Sender<Told>,
}

// === impl Alerts ===

impl Alerts {
    /// Tells all Alertmanagers of the configuration until `closing`.
    ///
    /// # Errors
    /// There is no HTTP client, or a URL is none.
    pub fn start(config: &Config, leader: &Leader, metrics: &StoreMetrics, tasks: &TaskTracker) -> Result<(), Error> {
        if config.alertmanager_urls.is_empty() {
            return Ok(());
        }
        let (told, _) = watch::channel(None);
        for (number, url) in config.alertmanager_urls.iter().enumerate() {
            let one = Alertmanager::new(number, url, metrics.clone(), leader.status.clone())?;
            tasks.spawn(one.run(told.subscribe(), leader.closing.clone()));
        }
        let alerts = Alerts {
            database: leader.database.clone(),
            memory: Memory::default(),
            told,
        };
        tasks.spawn(leader.clone().lead(alerts));
        Ok(())
    }
}

impl Work for Alerts {
    const LOCK: Lock = Lock::Alerts;
    const PART: Part = Part::Alerts;

    async fn begin(&mut self, _: &mut Client) -> Result<(), String> {
        Ok(())
    }

    async fn turn(&mut self, client: &mut Client) -> Result<Turn, String> {
        let found = tokio::time::timeout(LOOK_TIMEOUT, rows(client)).await;
        let rows = match found {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return Err(self.database.error("city.alert", error).to_string()),
            Err(_) => return Err(format!("city.alert: no answer within {LOOK_TIMEOUT:?}")),
        };
        let alerts = self.memory.told(&rows, SystemTime::now());
        self.told.send_replace(Some(alerts.into()));
        Ok(Turn::well(LOOK_INTERVAL))
    }

    fn end(&mut self) {
        // Another instance may tell now, and know better.
        self.told.send_replace(None);
    }
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
