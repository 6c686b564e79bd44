//! Connections to PostgreSQL, and what its errors mean for whoever stores.
//!
//! A connection is driven by a task of its own until it ends; it is not mended, but replaced by who uses it. An error is
//! about the connection or the server's state (another try may succeed), or about what was asked for (it would fail again).
//! The URL holds a password: no error quotes it.

use std::path::PathBuf;
use std::time::Duration;

use native_tls::{Certificate, TlsConnector};
use postgres_native_tls::MakeTlsConnector;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use tokio_util::task::TaskTracker;

use super::config::{self, Config};

/// How long a server may take to accept a connection, and data that is sent to be acknowledged by its host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take in all until statements are accepted.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// After this silence it is looked whether the other host is still there.
const IDLE: Duration = Duration::from_secs(30);

/// How long a statement waits for who holds a lock. What is stored, and jobs, hold theirs for moments.
const LOCK_TIMEOUT: &str = "20s";

/// The database schema that holds all tables of the store, and names what it locks.
pub const SCHEMA: &str = "city";

/// What `pg_advisory_lock` knows the store's locks by: "city", and the number of one.
pub const LOCKS: i32 = 0x6369_7479;

/// What to say of a URL that does not ask for TLS.
pub const MAY_BE_PLAIN: &str = "without sslmode=require, readings and password may cross the network in plain text";

/// Where the database is, and how it is connected to.
#[derive(Clone)]
pub struct Database {
    config: tokio_postgres::Config,
    tls: MakeTlsConnector,
    /// `host:port`, for people.
    place: String,
    tasks: TaskTracker,
}

/// Why the database accepts nothing: the `reason` label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// There is none, or it was lost.
    Connection,
    Timeout,
    /// User, password, name of the database.
    Login,
    /// Or it recovers from a crash.
    Starting,
    Stopping,
    /// Its disk, its memory, or its connections.
    Full,
    /// It is a standby.
    ReadOnly,
    /// A lock, a deadlock, another store.
    Conflict,
    /// Its clock and that of this host differ.
    Clocks,
    /// Something else of its own.
    Server,
    /// What was asked for.
    Refused,
}

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("store.database_url is not set; it names the database, postgresql://user:password@host:5432/city")]
    NoUrl,
    #[error("store.database_url: {0}")]
    Url(String),
    #[error("store.database_ca: {}: {why}", path.display())]
    Authority { path: PathBuf, why: String },
    /// No connection, or it was lost.
    #[error("postgresql at {place}: {why}")]
    Unavailable { place: String, reason: Reason, why: String },
    /// The server refuses a statement.
    #[error("postgresql: {what}: {}", words(error))]
    Refused {
        what: String,
        error: Box<tokio_postgres::Error>,
    },
}

// === impl Database ===

impl Database {
    /// # Errors
    /// There is no URL, it is wrong, or the authority's file is.
    pub fn new(config: &Config, tasks: TaskTracker) -> Result<Self, Error> {
        let url = config.database_url.as_ref().ok_or(Error::NoUrl)?;
        let mut database = config::parse_url(url).map_err(|why| Error::Url(why.to_owned()))?;
        let place = place(&database);
        if database.get_connect_timeout().is_none() {
            database.connect_timeout(CONNECT_TIMEOUT);
        }
        if database.get_tcp_user_timeout().is_none() {
            database.tcp_user_timeout(ACKNOWLEDGE_TIMEOUT);
        }
        database.keepalives_idle(IDLE);
        if database.get_application_name().is_none() {
            database.application_name("citygate store");
        }
        let mut tls = TlsConnector::builder();
        if let Some(path) = &config.database_ca {
            let wrong = |why: String| Error::Authority {
                path: path.clone(),
                why,
            };
            let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            tls.add_root_certificate(Certificate::from_pem(&text).map_err(|error| wrong(error.to_string()))?);
        }
        let tls = tls.build().map_err(|error| Error::Url(error.to_string()))?;
        Ok(Database {
            config: database,
            tls: MakeTlsConnector::new(tls),
            place,
            tasks,
        })
    }

    /// `host:port` of the server, of all that the URL names.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether what is sent to another machine may be in plain text.
    pub fn may_be_plain(&self) -> bool {
        let is_near = |host: &Host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
            #[cfg(unix)]
            Host::Unix(_) => true,
        };
        self.config.get_ssl_mode() != SslMode::Require && !self.config.get_hosts().iter().all(is_near)
    }

    /// A new connection, whose every statement sees times in UTC.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn connect(&self) -> Result<Client, Error> {
        // TLS and login as well: the library's own limit is that of TCP.
        let connected = tokio::time::timeout(LOGIN_TIMEOUT, self.log_in()).await;
        connected.unwrap_or_else(|_| {
            Err(Error::Unavailable {
                place: self.place.clone(),
                reason: Reason::Timeout,
                why: format!("no login within {} s", LOGIN_TIMEOUT.as_secs()),
            })
        })
    }

    async fn log_in(&self) -> Result<Client, Error> {
        let unavailable = |error: &tokio_postgres::Error| Error::Unavailable {
            place: self.place.clone(),
            reason: reason(error),
            why: words(error),
        };
        let client = match self.config.get_ssl_mode() {
            SslMode::Disable => {
                let connected = self.config.connect(NoTls).await;
                let (client, connection) = connected.map_err(|error| unavailable(&error))?;
                self.tasks.spawn(connection);
                client
            }
            _ => {
                let connected = self.config.connect(self.tls.clone()).await;
                let (client, connection) = connected.map_err(|error| unavailable(&error))?;
                self.tasks.spawn(connection);
                client
            }
        };
        // The server, too, notices that this host, or this process, is gone: until then it keeps its locks, and goes on with what it was asked.
        let settings = "set time zone 'UTC'; set client_min_messages = warning; set tcp_keepalives_idle = 30; \
                        set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3; set tcp_user_timeout = 60000; \
                        set client_connection_check_interval = '2s'";
        let set = client.batch_execute(settings).await;
        set.map_err(|error| unavailable(&error))?;
        Ok(client)
    }

    /// What to say of an error in doing something.
    pub fn error(&self, what: impl Into<String>, error: tokio_postgres::Error) -> Error {
        match error.code() {
            Some(code) if !is_of_the_server(code) => Error::Refused {
                what: what.into(),
                error: Box::new(error),
            },
            _ => Error::Unavailable {
                place: self.place.clone(),
                reason: reason(&error),
                why: words(&error),
            },
        }
    }
}

// === impl Error ===

impl Error {
    /// Why the database accepts nothing.
    pub fn reason(&self) -> Reason {
        match self {
            Error::Unavailable { reason, .. } => *reason,
            Error::Refused { error, .. } => reason(error),
            Error::NoUrl | Error::Url(_) | Error::Authority { .. } => Reason::Login,
        }
    }
}

fn reason(error: &tokio_postgres::Error) -> Reason {
    error.code().map_or(Reason::Connection, |code| reason_of(code.code()))
}

/// By the SQLSTATE of an error: its class, or the whole.
fn reason_of(code: &str) -> Reason {
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "57P03") => Reason::Starting,
        (_, "57P01" | "57P02" | "57P05") => Reason::Stopping,
        (_, "57014") => Reason::Timeout,
        (_, "25006") => Reason::ReadOnly,
        (_, "55P03") | ("40", _) => Reason::Conflict,
        ("28" | "3D", _) => Reason::Login,
        ("08", _) => Reason::Connection,
        ("53", _) => Reason::Full,
        ("57" | "58" | "XX", _) => Reason::Server,
        _ => Reason::Refused,
    }
}

/// Shutdown, recovery, too many connections, no room, deadlock: nothing is wrong with what was asked for.
fn is_of_the_server(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "40" | "53" | "57" | "58" | "XX") || *code == SqlState::LOCK_NOT_AVAILABLE
}

/// What is wrong with the values themselves, not with the statement: they are too long, not valid, or not unique.
pub fn is_of_the_data(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map(SqlState::code).unwrap_or_default();
    matches!(code.get(..2).unwrap_or_default(), "22" | "23" | "54")
}

/// No partition holds a row: it was dropped meanwhile.
pub fn is_without_partition(error: &tokio_postgres::Error) -> bool {
    // A constraint that somebody made has the same code, and a name.
    let is_of_a_constraint = error.as_db_error().is_some_and(|error| error.constraint().is_some());
    error.code() == Some(&SqlState::CHECK_VIOLATION) && !is_of_a_constraint
}

/// An error and its cause: the library's own words are no reason.
pub fn words(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        let detail = error.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail}", error.message());
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn place(config: &tokio_postgres::Config) -> String {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        }
    });
    hosts.collect::<Vec<_>>().join(", ")
}

/// From now on the server itself ends a statement that waits for a lock, or takes longer than this: one that is given up only here goes
/// on there, and its connection with it.
///
/// # Errors
/// The connection was lost.
pub async fn limit(client: &Client, time: Duration) -> Result<(), tokio_postgres::Error> {
    let settings = format!(
        "set lock_timeout = '{LOCK_TIMEOUT}'; set statement_timeout = {}",
        time.as_millis()
    );
    client.batch_execute(&settings).await
}

/// A name in SQL, whatever letters it has.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_understood_or_refused_without_being_quoted() {
        let check = |url: &str, expected: Option<&str>| {
            let parsed = config::parse_url(&url.into());
            assert_eq!(parsed.as_ref().ok().map(place).as_deref(), expected, "{url}");
            if let Err(why) = parsed {
                assert!(!why.contains("hunter2"), "{why}");
            }
        };
        check("postgresql://city:hunter2@db.example/city", Some("db.example:5432"));
        check(
            "postgresql://city@127.0.0.1:5433/city?sslmode=disable",
            Some("127.0.0.1:5433"),
        );
        check("postgres://u:p@a:1,b:2/x", Some("a:1, b:2"));
        check("host=db user=city password=hunter2", Some("db:5432"));
        check("postgresql:///city", None);
        check("postgresql://city:hunter2@db/city?hunter2=x", None);
        check("mysql://city:hunter2@db/city", None);
        check("", None);
    }

    #[test]
    fn a_reason_follows_from_the_code_of_an_error() {
        let check = |codes: &[&str], expected: &str| {
            for code in codes {
                assert_eq!(<&str>::from(reason_of(code)), expected, "{code}");
            }
        };
        check(&["57P03"], "starting");
        check(&["57P01", "57P02"], "stopping");
        check(&["57014"], "timeout");
        check(&["53100", "53300"], "full");
        check(&["25006"], "read_only");
        check(&["28P01", "28000", "3D000"], "login");
        check(&["40P01", "55P03"], "conflict");
        check(&["08006"], "connection");
        check(&["58030", "XX001", "57000"], "server");
        check(&["42501", "42P01", "22003", ""], "refused");
    }

    #[test]
    fn names_are_quoted() {
        let check = |name: &str, expected: &str| assert_eq!(quoted(name), expected);
        check("traffic", "\"traffic\"");
        check("bike-counter", "\"bike-counter\"");
        check("a\"b", "\"a\"\"b\"");
    }
}
