//! The bytes of a TCP connection, in the clear or over TLS: one that is asked to read or write does what it can without waiting.
//!
//! With TLS a read gives one record at most, and what the next ones hold stays in the kernel, so a poller that says *readable* as
//! long as there is something sees it. A write that could not be made whole must be tried again with the same bytes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use native_tls::{HandshakeError, MidHandshakeTlsStream, TlsConnector, TlsStream};

/// The name that the gateway is asked for; which one its certificate has is not looked at.
const NAME: &str = "localhost";

/// A connection.
#[derive(Debug)]
pub enum Link {
    Plain(TcpStream),
    Handshake(Box<MidHandshakeTlsStream<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What came of a step of the handshake.
#[derive(Debug)]
pub enum Step {
    Done(Link),
    /// The next one is due when there is something to read.
    Waits(Link),
    Failed,
}

// === impl Link ===

impl Link {
    /// Begins the handshake, or goes on with it.
    pub fn shake(self, tls: &TlsConnector) -> Step {
        let shaken = match self {
            Link::Plain(socket) => tls.connect(NAME, socket),
            Link::Handshake(begun) => begun.handshake(),
            Link::Tls(stream) => return Step::Done(Link::Tls(stream)),
        };
        match shaken {
            Ok(stream) => Step::Done(Link::Tls(Box::new(stream))),
            Err(HandshakeError::WouldBlock(begun)) => Step::Waits(Link::Handshake(Box::new(begun))),
            Err(HandshakeError::Failure(_)) => Step::Failed,
        }
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.read(buffer),
            Link::Tls(stream) => stream.read(buffer),
            Link::Handshake(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// How many of the bytes are written; 0 if none can be now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        // Of TLS each write is a record.
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            let outcome = match self {
                Link::Plain(socket) => socket.write(rest),
                Link::Tls(stream) => stream.write(rest),
                Link::Handshake(_) => return Ok(0),
            };
            match outcome {
                Ok(count) => written += count,
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Link::Plain(socket) => socket,
            Link::Handshake(begun) => begun.get_ref(),
            Link::Tls(stream) => stream.get_ref(),
        }
    }

    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket().take_error()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

/// Whether it may work when the socket is ready again.
pub fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
