//! Work that one instance at a time does, of all that share a database: whoever has the work's lock there.
//!
//! A lock belongs to a connection, so whoever loses that has lost the lock, and another instance takes over within
//! [`ASK_INTERVAL`]. A turn that has begun may go on for as long as it does not notice: what it does must bear being done twice. Why a
//! connection fails is not said here: the loop that stores readings does, over its own.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::database::{self, Database};
use super::status::{Part, Status};

/// How often it is asked for a lock that another instance has.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the database may take to say who has it.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of a work's lock; 1 is that of making tables.
#[derive(Clone, Copy, Debug)]
pub enum Lock {
    Jobs = 2,
    Outbox = 3,
    Alerts = 4,
}

/// What is to be done by one instance.
pub trait Work: Send {
    const LOCK: Lock;
    /// Under which its faults are said.
    const PART: Part;

    /// This instance does it from now on, over this connection.
    ///
    /// # Errors
    /// It cannot begin: the lock is given back.
    fn begin(&mut self, client: &mut Client) -> impl Future<Output = Result<(), String>> + Send;

    /// Does what is due.
    ///
    /// # Errors
    /// It cannot go on: the lock is given back, so that another instance can try.
    fn turn(&mut self, client: &mut Client) -> impl Future<Output = Result<Turn, String>> + Send;

    /// This instance does it no more.
    fn end(&mut self) {}

    /// Another instance does it, and says what fails.
    fn is_elsewhere(&mut self) {}
}

/// A turn is over.
#[derive(Debug)]
pub struct Turn {
    /// When the next one is due.
    pub pause: Duration,
    /// What does not work, although the work goes on.
    pub fault: Option<String>,
}

/// What leads.
#[derive(Clone)]
pub struct Leader {
    pub database: Database,
    pub status: Arc<Status>,
    pub closing: CancellationToken,
}

// === impl Leader ===

impl Leader {
    /// Does the work until `closing`, while this instance has its lock.
    pub async fn lead<W: Work>(self, mut work: W) {
        while !self.closing.is_cancelled() {
            if let Ok(mut client) = self.database.connect().await {
                self.over(&mut client, &mut work).await;
            }
            self.pause(ASK_INTERVAL).await;
        }
    }

    /// Asks for the lock until this connection has it, and does the work until the connection ends, or the work cannot go on.
    async fn over<W: Work>(&self, client: &mut Client, work: &mut W) {
        while !self.has_lock::<W>(client).await {
            work.is_elsewhere();
            self.status.well(W::PART);
            self.pause(ASK_INTERVAL).await;
            if client.is_closed() || self.closing.is_cancelled() {
                return;
            }
        }
        if let Err(why) = self.work(client, work).await {
            self.status.fault(W::PART, &why);
        }
        work.end();
    }

    async fn work<W: Work>(&self, client: &mut Client, work: &mut W) -> Result<(), String> {
        work.begin(client).await?;
        while !client.is_closed() && !self.closing.is_cancelled() {
            let turn = work.turn(client).await?;
            match turn.fault {
                None => self.status.well(W::PART),
                Some(why) => self.status.fault(W::PART, &why),
            }
            self.pause(turn.pause).await;
        }
        Ok(())
    }

    /// Whether this connection has it; it has it until it ends.
    async fn has_lock<W: Work>(&self, client: &Client) -> bool {
        let ask = format!("select pg_try_advisory_lock({}, {})", database::LOCKS, W::LOCK as i32);
        let asked = tokio::time::timeout(ASK_TIMEOUT, client.query_one(&ask, &[])).await;
        asked.is_ok_and(|answer| answer.is_ok_and(|row| row.get(0)))
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.closing.cancelled() => {}
        }
    }
}

// === impl Turn ===

impl Turn {
    /// All is well.
    pub fn well(pause: Duration) -> Self {
        Turn { pause, fault: None }
    }
}
