//! The connections of the admin port, from the accept to what axum serves.
//!
//! Handshakes are made aside: a silent one keeps no other waiting, and gives way to those that come after it as any idle connection
//! does.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::access::Peer;
use crate::listen::tcp::{Acceptor, Closable, Connection, LongestIdle, StallTimeout};
use crate::listen::tls::TlsMetrics;

/// A connection over which nothing is sent or read for so long is closed; longer than scrapers pause.
const SILENCE_MAX: Duration = Duration::from_secs(180);

type Stream = StallTimeout<Closable<Connection>>;

/// What axum accepts from: the connections of all acceptors that were added.
pub struct AdminListener {
    made: mpsc::Sender<(Stream, Peer)>,
    ready: mpsc::Receiver<(Stream, Peer)>,
    address: SocketAddr,
}

async fn accept_all(
    mut acceptor: Acceptor,
    idle: LongestIdle,
    tls: TlsMetrics,
    ready: mpsc::Sender<(Stream, Peer)>,
    tasks: TaskTracker,
) {
    while let Some(connection) = acceptor.next().await {
        let connection = idle.include(connection);
        tasks.spawn(secure(connection, tls.clone(), ready.clone()));
    }
}

async fn secure(connection: Closable<Connection>, tls: TlsMetrics, ready: mpsc::Sender<(Stream, Peer)>) {
    // Whom limits per address keep waiting is no concern of this port: it has few connections.
    let secured = connection.and_then(async |connection| {
        let (connection, _connecting) = connection.secured(&tls).await?;
        Some(connection)
    });
    let Some(connection) = secured.await else { return };
    let peer = Peer {
        address: connection.get_ref().peer(),
        certificate: connection.get_ref().client_certificate().cloned(),
    };
    // It is closed where nobody serves any more.
    ready
        .send((StallTimeout::with_both(connection, SILENCE_MAX), peer))
        .await
        .ok();
}

// === impl AdminListener ===

impl AdminListener {
    /// `address` is the one that it is known by.
    pub fn new(address: SocketAddr) -> Self {
        let (made, ready) = mpsc::channel(1);
        AdminListener { made, ready, address }
    }

    /// Accepts connections of which at most as many as `idle` has are open, until the acceptor stops.
    pub fn add(&self, acceptor: Acceptor, idle: LongestIdle, tls: &TlsMetrics, tasks: &TaskTracker) {
        tasks.spawn(accept_all(
            acceptor,
            idle,
            tls.clone(),
            self.made.clone(),
            tasks.clone(),
        ));
    }
}

impl Listener for AdminListener {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Stream, Peer) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // It is closing, and does not ask again.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            address: self.address,
            certificate: None,
        })
    }
}

impl Connected<IncomingStream<'_, AdminListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, AdminListener>) -> Self {
        stream.remote_addr().clone()
    }
}
