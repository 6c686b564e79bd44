//! stub
use crate::clock::Clock;
use bytesize::ByteSize;
use std::sync::Arc;
use std::time::Duration;
pub mod disk {
    #[derive(Debug)]
    pub struct RealDisk;
    pub trait Disk: Send + Sync {}
    impl Disk for RealDisk {}
}
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    pub folder: std::path::PathBuf,
    pub bytes_max: ByteSize,
}
impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            folder: "citygate-spool".into(),
            bytes_max: ByteSize::gib(1),
        }
    }
}
impl Config {
    pub fn mistakes(&self) -> Vec<String> {
        vec![]
    }
}
#[derive(Debug)]
pub struct Spool<T>(std::marker::PhantomData<fn(T)>);
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Error;
#[derive(Debug, Clone)]
pub enum Failure {
    Full,
    Poisoned,
    Closed,
    TooLarge { limit: usize },
    Busy,
}
pub struct Recovery {
    pub entries: u64,
    pub bytes: u64,
    pub next_sequence: u64,
    pub damage: Vec<String>,
}
#[derive(Debug, Default)]
pub struct Status {
    pub uncommitted_entries: u64,
    pub uncommitted_bytes: u64,
    pub disk_bytes: u64,
    pub disk_bytes_max: u64,
    pub oldest_ms: Option<i64>,
    pub ingest_bytes_per_s: f64,
    pub last_fsync: Duration,
    pub poisoned: Option<String>,
}
pub fn open<T>(
    _c: &Config,
    _d: Arc<dyn disk::Disk>,
    _k: Arc<dyn Clock>,
    _done: impl FnMut(Vec<(T, Result<u64, Failure>)>) + Send + 'static,
) -> Result<(Spool<T>, Recovery), Error> {
    Err(Error)
}
impl<T> Spool<T> {
    pub fn append(&self, e: Vec<u8>, t: T) -> Result<(), (T, Vec<u8>, Failure)> {
        Err((t, e, Failure::Full))
    }
    pub fn read(&self, _: usize, _: usize) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        Err(Error)
    }
    pub fn rewind(&self) {}
    pub fn commit(&self, _: u64) {}
    pub fn status(&self) -> Status {
        Status::default()
    }
    pub fn refuses(&self) -> Option<Failure> {
        None
    }
    pub fn close(&self) {}
}
