//! The PostgreSQL that a test stands on, started through `tests/servers/postgres.sh`.
//!
//! [`Postgres::shared`] is one server for all tests, each of which has a [`Database`] of its own in it; [`Postgres::own`] is one that
//! a test may kill. Without its programs tests say SKIPPED, or fail where `CITYGATE_REQUIRE_KAFKA` is set.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, NoTls, Row};

use super::broker::{script, skip};

/// A server; its own ones end with it.
pub struct Postgres {
    data: PathBuf,
    port: u16,
    /// Removed when dropped.
    _own: Option<TempDir>,
}

/// A database of one test.
pub struct Database {
    pub url: String,
}

// === impl Postgres ===

impl Postgres {
    /// The server that all tests share, or `None` after saying SKIPPED.
    pub fn shared() -> Option<Self> {
        static SHARED: OnceLock<Result<(PathBuf, u16), String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            installed().map(|()| {
                // Not among what is built: the server runs as another user where tests run as root.
                let data = std::env::temp_dir().join(format!("citygate-postgres-{}", std::process::id()));
                let [port] = super::free_ports();
                start(&data, port);
                (data, port)
            })
        });
        match shared {
            Ok((data, port)) => Some(Postgres {
                data: data.clone(),
                port: *port,
                _own: None,
            }),
            Err(why) => {
                skip(why);
                None
            }
        }
    }

    /// A server that a test may kill, not started yet, or `None` after saying SKIPPED.
    pub fn own() -> Option<Self> {
        if let Err(why) = installed() {
            skip(&why);
            return None;
        }
        let folder = TempDir::new().unwrap();
        // Whoever the server runs as must reach what is in it.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let [port] = super::free_ports();
        Some(Postgres {
            data: folder.path().join("postgres"),
            port,
            _own: Some(folder),
        })
    }

    pub fn start(&self) {
        start(&self.data, self.port);
    }

    /// SIGKILL to all its processes.
    pub fn kill(&self) {
        run(&self.data, self.port, "kill");
    }

    /// Runs a file of SQL as the superuser.
    pub fn run_file(&self, file: &Path) {
        let status = Command::new(script("postgres.sh"))
            .args(["psql", "-q", "-U", "postgres", "-d", "postgres", "-f"])
            .arg(file)
            .env("POSTGRES_DATA", &self.data)
            .env("POSTGRES_PORT", self.port.to_string())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{}: {status}", file.display());
    }

    /// The database that exists as soon as the server has started.
    pub fn only_database(&self) -> Database {
        Database {
            url: format!("postgresql://city@127.0.0.1:{}/city", self.port),
        }
    }

    /// A new database.
    pub async fn database(&self) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let owner = format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&owner, NoTls).await.unwrap();
        tokio::spawn(connection);
        let create = format!("create database {name} owner city");
        client.batch_execute(&create).await.unwrap();
        Database {
            url: format!("postgresql://city@127.0.0.1:{}/{name}", self.port),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self._own.is_some() {
            run(&self.data, self.port, "kill");
        }
    }
}

fn start(data: &Path, port: u16) {
    run(data, port, "start");
}

fn run(data: &Path, port: u16, action: &str) {
    let status = Command::new(script("postgres.sh"))
        .arg(action)
        .env("POSTGRES_DATA", data)
        .env("POSTGRES_PORT", port.to_string())
        .env("POSTGRES_SETTINGS", "-c max_connections=200")
        .env("POSTGRES_WHILE", std::process::id().to_string())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "postgres.sh {action}: {status}");
}

/// Whether a real PostgreSQL can be started here.
fn installed() -> Result<(), String> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders = debian.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_initdb = |folder: PathBuf| folder.join("initdb").exists();
    match folders.any(has_initdb) || std::env::split_paths(&path).any(has_initdb) {
        true => Ok(()),
        false => Err("PostgreSQL is not installed".to_owned()),
    }
}

// === impl Database ===

impl Database {
    pub async fn connect(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("set time zone 'UTC'").await.unwrap();
        client
    }

    pub async fn execute(&self, statements: &str) {
        self.connect().await.batch_execute(statements).await.unwrap();
    }

    /// The rows of a question; none while the table does not exist.
    pub async fn rows(&self, question: &str) -> Vec<Row> {
        self.rows_with(question, &[]).await
    }

    pub async fn rows_with(&self, question: &str, with: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        match self.connect().await.query(question, with).await {
            Ok(rows) => rows,
            Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE) => Vec::new(),
            Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::INVALID_SCHEMA_NAME) => Vec::new(),
            Err(error) => panic!("{question}: {error:?}"),
        }
    }

    /// The first column of each row.
    pub async fn column<T: for<'a> FromSql<'a>>(&self, question: &str) -> Vec<T> {
        self.rows(question).await.iter().map(|row| row.get(0)).collect()
    }

    /// A number of rows; 0 while the table does not exist.
    pub async fn count(&self, of: &str) -> i64 {
        let counted = self.column(&format!("select count(*) from {of}")).await;
        counted.first().copied().unwrap_or(0)
    }
}
