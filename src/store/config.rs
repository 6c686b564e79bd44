//! The `[store]` table: which database, how batches are made, how long readings are kept.
//!
//! The database's URL holds its password, so it is a secret, and may be in a file; likewise those of Alertmanagers. Without a
//! database there is no store: a gateway reads this table and does nothing with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio_postgres::config::Host;

use crate::listen::addresses::ListenAddresses;
use crate::operate::mistake::Mistakes;
use crate::operate::secret::Secret;

/// The `[store]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where readings are stored: `postgresql://user:password@host/database?sslmode=require`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_url: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_url_file: Option<PathBuf>,
    /// PEM file with the authority of the database's certificate, beside those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_ca: Option<PathBuf>,
    /// Where `citygate store` serves /metrics, /livez and /readyz.
    pub listen: ListenAddresses,
    /// Listen beyond loopback, though whoever reaches it may read everything there, in plain text.
    pub allow_anonymous: bool,
    /// The consumer group, whose instances share the partitions.
    pub group: String,
    /// This instance's name in the group, if it keeps one: it then has its partitions again at once after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Time without a heartbeat after which the group gives an instance's partitions to the others.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub session_timeout: Duration,
    /// Readings at which a batch is stored without waiting longer.
    pub batch_readings: u32,
    /// Time after which a batch is stored.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub batch_interval: Duration,
    /// Readings observed longer ago are not stored; those that are stored are dropped then, by whole days (UTC).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retention: Duration,
    /// A reading received longer after it was observed is late: stored and counted, but part of no aggregate.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub late_after: Duration,
    /// Folder of the SQL files that compute results, of `jobs.toml`, and of the schemas of topics that results go to.
    pub sql_folder: PathBuf,
    /// Each Alertmanager of a cluster, by the URL of its page, which may hold `user:password@`. They are told the alerts on the city
    /// that are in the table `city.alert`; none: nobody is.
    pub alertmanager_urls: Vec<Secret>,
    /// File with these URLs instead, one in each line, so that no password is in the configuration. Read once at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alertmanager_urls_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            database_url: None,
            database_url_file: None,
            database_ca: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 9466)).into(),
            allow_anonymous: false,
            group: "citygate-store".into(),
            instance: None,
            session_timeout: Duration::from_secs(10),
            batch_readings: 5_000,
            batch_interval: Duration::from_millis(500),
            retention: Duration::from_secs(400 * 24 * 60 * 60),
            late_after: Duration::from_secs(60 * 60),
            sql_folder: "deploy/postgres".into(),
            alertmanager_urls: Vec::new(),
            alertmanager_urls_file: None,
        }
    }
}

impl Config {
    /// Whether there is a database.
    pub fn is_enabled(&self) -> bool {
        self.database_url.is_some()
    }

    /// What is wrong with this table. No mistake quotes the URL.
    pub fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        let url = self.database_url.as_ref();
        if let Some(Err(error)) = url.map(parse_url) {
            mistakes.push("store.database_url, store.database_url_file", error);
        }
        if let Some(wrong) = self.alertmanager_urls.iter().find_map(|url| check_http_url(url).err()) {
            mistakes.push("store.alertmanager_urls, store.alertmanager_urls_file", wrong);
        }
        let mut require = |good: bool, path: &str, text: &str| mistakes.require(good, path, text);
        require(!self.group.trim().is_empty(), "store.group", "is empty");
        require(
            self.instance.as_ref().is_none_or(|name| !name.trim().is_empty()),
            "store.instance",
            "is empty; leave it out if the instance keeps no name",
        );
        require(
            (Duration::from_secs(6)..=Duration::from_secs(300)).contains(&self.session_timeout),
            "store.session_timeout",
            "must be between 6s and 5m, as brokers accept it",
        );
        require(
            (1..=100_000).contains(&self.batch_readings),
            "store.batch_readings",
            "must be between 1 and 100000",
        );
        require(
            (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.batch_interval),
            "store.batch_interval",
            "must be between 1ms and 1m",
        );
        let day = Duration::from_secs(24 * 60 * 60);
        require(
            (day..=36_525 * day).contains(&self.retention),
            "store.retention",
            "must be between 24h and 876600h (100 years)",
        );
        require(
            (Duration::from_secs(60)..=self.retention).contains(&self.late_after),
            "store.late_after",
            "must be between 1m and store.retention",
        );
        mistakes
    }

    /// Puts URLs that are in files into their fields.
    pub fn read_files(&mut self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        if let Some(path) = self.database_url_file.take() {
            let read = match &self.database_url {
                Some(_) => Err("store.database_url is set, too; keep one of them".to_owned()),
                None => Secret::read(&path).map_err(|error| error.to_string()),
            };
            match read {
                Ok(url) => self.database_url = Some(url),
                Err(why) => mistakes.push("store.database_url_file", why),
            }
        }
        if let Some(path) = self.alertmanager_urls_file.take() {
            let read = match self.alertmanager_urls.is_empty() {
                true => read_lines(&path),
                false => Err("store.alertmanager_urls is set, too; keep one of them".to_owned()),
            };
            match read {
                Ok(urls) => self.alertmanager_urls = urls,
                Err(why) => mistakes.push("store.alertmanager_urls_file", why),
            }
        }
        mistakes
    }
}

/// The lines of a file that hold anything.
fn read_lines(path: &Path) -> Result<Vec<Secret>, String> {
    let text = Secret::read(path).map_err(|error| error.to_string())?;
    let lines = text.reveal().lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<Secret> = lines.map(Secret::from).collect();
    match lines.is_empty() {
        true => Err(format!("{} has no line with a URL", path.display())),
        false => Ok(lines),
    }
}

/// Reads a URL.
///
/// # Errors
/// What is wrong with it, without quoting it.
pub fn parse_url(url: &Secret) -> Result<tokio_postgres::Config, &'static str> {
    const EXPECTED: &str = "is not understood; write postgresql://user:password@host:5432/database?sslmode=require, with %40 for an \
                            @ in a password";
    let config: tokio_postgres::Config = url.reveal().parse().map_err(|_| EXPECTED)?;
    // What follows the first @ of a password would be shown with the host.
    let is_host = |host: &Host| match host {
        Host::Tcp(name) => !name.contains('@'),
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    match config.get_hosts() {
        [] => Err(EXPECTED),
        hosts if hosts.iter().all(is_host) => Ok(config),
        _ => Err(EXPECTED),
    }
}

fn check_http_url(url: &Secret) -> Result<(), &'static str> {
    const EXPECTED: &str = "each must be the http or https URL of an Alertmanager's page, such as \"http://127.0.0.1:9093\", without '?' and '#'";
    let url = Url::parse(url.reveal()).map_err(|_| EXPECTED)?;
    let is_base = matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
    match (is_base, url.username(), url.password()) {
        (true, "", Some(_)) => Err("one holds a password, but no user; write http://user:password@host"),
        (true, _, _) => Ok(()),
        (false, _, _) => Err(EXPECTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_alertmanager_is_accepted_or_refused_without_being_quoted() {
        let check = |url: &str, expected: Option<&str>| {
            let wrong = Config {
                alertmanager_urls: vec!["http://127.0.0.1:9093".into(), url.into()],
                ..Config::default()
            };
            let mistakes = wrong.mistakes().0;
            assert_eq!(mistakes.len(), usize::from(expected.is_some()), "{url}: {mistakes:?}");
            for mistake in mistakes {
                assert_eq!(mistake.path, "store.alertmanager_urls, store.alertmanager_urls_file");
                assert!(mistake.text.contains(expected.unwrap_or_default()), "{mistake}");
                assert!(!mistake.text.contains("hunter2"), "{mistake}");
            }
        };
        check("https://alerts.city.example/alertmanager/", None);
        check("http://city:hunter2@[::1]:9093", None);
        check("http://:hunter2@alerts:9093", Some("but no user"));
        check("alerts:9093", Some("must be the http or https URL"));
        check("ftp://city:hunter2@alerts", Some("must be the http or https URL"));
        check(
            "http://alerts:9093?token=hunter2",
            Some("must be the http or https URL"),
        );
        check("http://alerts:hunter2", Some("must be the http or https URL"));
        check("", Some("must be the http or https URL"));
    }
    #[test]
    fn urls_of_alertmanagers_may_be_in_a_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("urls");
        let check = |content: &str, set: &[&str], expected: Result<&[&str], &str>| {
            std::fs::write(&file, content).unwrap();
            let mut config = Config {
                alertmanager_urls: set.iter().map(|url| Secret::from(*url)).collect(),
                alertmanager_urls_file: Some(file.clone()),
                ..Config::default()
            };
            let mistakes = config.read_files().0;
            match expected {
                Ok(urls) => {
                    assert_eq!(mistakes.len(), 0, "{mistakes:?}");
                    let read: Vec<&str> = config.alertmanager_urls.iter().map(Secret::reveal).collect();
                    assert_eq!(read, urls);
                }
                Err(words) => {
                    assert_eq!(mistakes[0].path, "store.alertmanager_urls_file");
                    assert!(mistakes[0].text.contains(words), "{mistakes:?}");
                    assert!(!mistakes[0].text.contains("hunter2"), "{mistakes:?}");
                }
            }
        };
        let one = "https://city:hunter2@alerts:9093/";
        check(one, &[], Ok(&[one]));
        check(
            &format!("{one}\r\n\n  http://other:9093\n"),
            &[],
            Ok(&[one, "http://other:9093"]),
        );
        check(one, &[one], Err("store.alertmanager_urls is set, too"));
        check("\n\n", &[], Err("no line with a URL"));
        check("", &[], Err("is empty"));
    }
}
