//! The accept loop of every TCP listener: one connection after the other, each with a permit.
//!
//! Where all permits are in use, a listener lets further connections wait in the kernel's queue, or accepts and closes them, or
//! closes an idle one instead. A failed accept is counted, logged now and then, and tried again after a moment: descriptors are shared out
//! beforehand (`descriptors`), so this is for what else may use them up, such as other processes of the machine, or a limit
//! that was lowered.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::Connection;
use super::gate::Gate;
use super::listeners::{Accepted, Listeners};
use super::longest_idle::LongestIdle;
use super::permits::{ConnectionPermit, ConnectionPermits};
use crate::listen::tls::Tls;
use crate::operate::log_limit::Repeats;

/// How often what goes wrong again and again is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the usual cause is that file descriptors have run out, and they do not come back at once.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Accepts connections for one listener.
#[derive(Debug)]
pub struct Acceptor {
    listener: &'static str,
    listeners: Listeners,
    permits: ConnectionPermits,
    when_full: WhenFull,
    gate: Gate,
    /// Counts connections that could not be accepted.
    failures: Option<IntCounter>,
    failed: Repeats<Instant>,
    refused: Repeats<Instant>,
    stopping: CancellationToken,
}

/// What happens to a connection beyond those permitted.
#[derive(Debug)]
pub enum WhenFull {
    /// It waits in the kernel's queue until another one has closed.
    Wait,
    /// It is closed as soon as it is accepted, and counted here.
    Close(IntCounter),
    /// It has the place of the one that has been idle longest. The listener includes every connection here.
    Replace(LongestIdle),
}

// === impl Acceptor ===

impl Acceptor {
    pub fn new(
        listener: &'static str,
        listeners: Listeners,
        permits: ConnectionPermits,
        when_full: WhenFull,
        gate: Gate,
        failures: Option<IntCounter>,
        stopping: CancellationToken,
    ) -> Self {
        Acceptor {
            listener,
            listeners,
            permits,
            when_full,
            gate,
            failures,
            failed: Repeats::every(LOG_EVERY),
            refused: Repeats::every(LOG_EVERY),
            stopping,
        }
    }

    /// Where it listens, with the ports that were given for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listeners.addresses()
    }

    /// The TLS of the listener, if it has one.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.listeners.tls()
    }

    /// The next connection; `None`: the listener is to stop.
    pub async fn next(&mut self) -> Option<Connection> {
        loop {
            let stopping = self.stopping.clone();
            let (permit, accepted) = tokio::select! {
                biased;
                () = stopping.cancelled() => return None,
                accepted = self.accept() => accepted,
            };
            match (accepted, permit) {
                (Ok(accepted), Some(permit)) => {
                    if let Some(connection) = Connection::new(accepted, permit, &self.gate) {
                        return Some(connection);
                    }
                }
                (Ok(accepted), None) => self.close(accepted.peer),
                (Err(error), _) => {
                    if !self.failed(&error).await {
                        return None;
                    }
                }
            }
        }
    }

    async fn accept(&self) -> (Option<ConnectionPermit>, io::Result<Accepted>) {
        match &self.when_full {
            WhenFull::Wait => (Some(self.permits.acquire().await), self.listeners.accept().await),
            WhenFull::Close(_) => {
                let accepted = self.listeners.accept().await;
                (self.permits.try_acquire(), accepted)
            }
            WhenFull::Replace(connections) => {
                let accepted = self.listeners.accept().await;
                let permit = match self.permits.try_acquire() {
                    Some(permit) => permit,
                    None => {
                        connections.close();
                        self.permits.acquire().await
                    }
                };
                (Some(permit), accepted)
            }
        }
    }

    /// Says that a connection was closed for want of a permit.
    fn close(&mut self, peer: SocketAddr) {
        if let WhenFull::Close(refused) = &self.when_full {
            refused.inc();
        }
        self.refused.add(1);
        if let Some(times) = self.refused.due(Instant::now()) {
            let (listener, max, left) = (self.listener, self.permits.max(), self.permits.descriptors_free());
            warn!(%peer, times, max, left, "{listener} connection closed: all {listener}.connections_max are in use, or no descriptor is left");
        }
    }

    /// After a failed accept: counts it if something is short, and comes back when the next one may be tried. False: the listener is
    /// to stop.
    async fn failed(&mut self, error: &io::Error) -> bool {
        // These are about one connection, whose client is gone; the next one may be tried at once.
        if matches!(
            error.kind(),
            ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
        ) {
            return !self.stopping.is_cancelled();
        }
        if let Some(failures) = &self.failures {
            failures.inc();
        }
        self.failed.add(1);
        if let Some(times) = self.failed.due(Instant::now()) {
            warn!(%error, times, "{} connection not accepted", self.listener);
        }
        tokio::select! {
            () = self.stopping.cancelled() => false,
            () = tokio::time::sleep(BACK_OFF) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::permits::Connections;
    use super::*;
    use prometheus::IntGauge;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    fn acceptor(connections_max: usize, when_full: WhenFull) -> (Acceptor, IntCounter, CancellationToken) {
        let listeners = Listeners::bind("test", &"127.0.0.1:0".parse().unwrap()).unwrap();
        let open = IntGauge::new("open", "help").unwrap();
        let permits = ConnectionPermits::new(connections_max, Connections::new(connections_max), Some(open));
        let failures = IntCounter::new("failures", "help").unwrap();
        let stopping = CancellationToken::new();
        let acceptor = Acceptor::new(
            "test",
            listeners,
            permits,
            when_full,
            Gate::open("test"),
            Some(failures.clone()),
            stopping.clone(),
        );
        (acceptor, failures, stopping)
    }

    #[tokio::test]
    async fn a_failed_accept_is_tried_again_until_the_stop() {
        let (mut acceptor, failures, stopping) = acceptor(1, WhenFull::Wait);
        let error = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert!(acceptor.failed(&error).await);
        stopping.cancel();
        assert!(!acceptor.failed(&error).await);
        assert_eq!(failures.get(), 2);
        assert!(!acceptor.failed(&io::ErrorKind::ConnectionAborted.into()).await);
        assert_eq!(failures.get(), 2, "nothing is short when a client has gone");
        assert!(acceptor.next().await.is_none());
    }

    /// The second connection of a listener that permits one.
    async fn second(when_full: WhenFull) -> (Acceptor, Connection, TcpStream) {
        let (mut acceptor, _, _) = acceptor(1, when_full);
        let address = acceptor.addresses()[0];
        let _first = TcpStream::connect(address).await.unwrap();
        let connection = acceptor.next().await.unwrap();
        (acceptor, connection, TcpStream::connect(address).await.unwrap())
    }

    #[tokio::test]
    async fn a_connection_beyond_those_permitted_is_closed_and_counted() {
        let refused = IntCounter::new("refused", "help").unwrap();
        let (mut acceptor, first, mut second) = second(WhenFull::Close(refused.clone())).await;
        let next = acceptor.next();
        let closed = async { second.read(&mut [0]).await };
        tokio::select! {
            _ = next => panic!("there is no permit for it"),
            closed = closed => assert_eq!(closed.unwrap_or(0), 0),
        }
        assert_eq!(refused.get(), 1);
        drop(first);
        let address = acceptor.addresses()[0];
        let third = TcpStream::connect(address).await.unwrap();
        let accepted = acceptor.next().await.unwrap();
        assert_eq!(accepted.peer(), third.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_connection_beyond_those_permitted_waits_for_another_to_end() {
        let (mut acceptor, first, second) = second(WhenFull::Wait).await;
        let waits = tokio::time::timeout(Duration::from_millis(100), acceptor.next()).await;
        assert!(waits.is_err(), "there is no permit for it yet");
        drop(first);
        let accepted = acceptor.next().await.unwrap();
        assert_eq!(accepted.peer(), second.local_addr().unwrap());
    }
}
