//! An accepted connection: its bytes, its peer, and its permit, which returns when it is dropped.
//!
//! The one place where a stream is wrapped before a protocol sees it: listeners read and write a [`Connection`], whether it has
//! TLS or not. The handshake belongs in the task of the connection ([`Connection::secured`]), never in the accept loop, which all
//! others wait for. So does the PROXY protocol's header, where a balancer sends one.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::admission::{Admitted, Connecting};
use super::gate::Gate;
use super::listeners::Accepted;
use super::permits::{ConnectionPermit, Open};
use crate::listen::tls::{ClientCertificate, Secured, Tls, TlsMetrics};

/// See the module's documentation.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    certificate: Option<ClientCertificate>,
    entry: Entry,
    _permit: Open,
}

/// How it came in.
#[derive(Debug)]
enum Entry {
    Admitted(Admitted, Connecting),
    /// From a balancer, which is to say for whom.
    Proxied(Gate),
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

// === impl Connection ===

impl Connection {
    /// `None`: it is not admitted, which is counted.
    pub fn new(accepted: Accepted, permit: ConnectionPermit, gate: &Gate) -> Option<Self> {
        let entry = if gate.is_balancer(accepted.peer) {
            Entry::Proxied(gate.clone())
        } else {
            let (admitted, connecting) = gate.admit(accepted.peer)?;
            Entry::Admitted(admitted, connecting)
        };
        let Accepted { stream, peer, tls } = accepted;
        // Answers are small and awaited: Nagle's delay would only add to them. A socket that refuses the option works without
        // it.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "TCP_NODELAY not set");
        }
        Some(Connection {
            stream: Stream::Plain(stream),
            peer,
            tls,
            certificate: None,
            entry,
            _permit: permit.open(),
        })
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What its client has shown of itself in the TLS handshake, which is accepted.
    pub fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }

    /// The same connection after the balancer's header and the TLS handshake, if it is to have these; until `Connecting` is dropped,
    /// its peer has not said who it is. `None`: it has failed, which is counted.
    pub async fn secured(mut self, metrics: &TlsMetrics) -> Option<(Self, Connecting)> {
        if let (Entry::Proxied(gate), Stream::Plain(stream)) = (&self.entry, &mut self.stream) {
            self.peer = gate.source(stream, self.peer).await?;
            let (admitted, connecting) = gate.admit(self.peer)?;
            self.entry = Entry::Admitted(admitted, connecting);
        }
        let (stream, certificate) = match (self.stream, &self.tls) {
            (Stream::Plain(stream), Some(tls)) => {
                let Secured { stream, certificate } = tls.accept(stream, self.peer, metrics).await?;
                (Stream::Tls(stream), certificate)
            }
            (stream, _) => (stream, self.certificate),
        };
        let (entry, connecting) = match self.entry {
            Entry::Admitted(admitted, connecting) => (Entry::Admitted(admitted, Connecting::default()), connecting),
            entry => (entry, Connecting::default()),
        };
        let connection = Connection {
            stream,
            certificate,
            entry,
            ..self
        };
        Some((connection, connecting))
    }
}

/// The same of either stream.
macro_rules! either {
    ($connection:expr, $stream:ident => $result:expr) => {
        match &mut $connection.get_mut().stream {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $result
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(stream);
                $result
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(context, into))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(context))
    }
}
