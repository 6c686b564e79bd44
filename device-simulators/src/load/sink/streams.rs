//! One thread of the sink: its listeners, its connections, and its port.
//!
//! What has come is answered in one write. A client that does not read its answers is not read either, so that nothing
//! grows.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use super::datagrams::Datagrams;
use super::protocols::{self, MESSAGE_BYTES_MAX, Request};
use super::{Shared, TICK_NS, poller_of};
use crate::load::mqtt::Malformed;
use crate::load::poller::{Events, Interest, Poller, Ready};
use crate::uplinks::Protocol;

/// Connections accepted before others are served.
const ACCEPTS: usize = 64;

/// Token of the UDP port; those of listeners follow, then connections.
const DATAGRAMS: usize = 0;
const FIRST_CONNECTION: usize = 16;

/// One thread of the sink.
#[derive(Debug)]
pub(super) struct Streams {
    shared: Arc<Shared>,
    poller: Poller,
    listeners: Vec<(TcpListener, Protocol)>,
    datagrams: Option<Datagrams>,
    connections: HashMap<usize, Connection>,
    next_token: usize,
    input: Vec<u8>,
    output: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    protocol: Protocol,
    is_v5: bool,
    count: u64,
    partial: Vec<u8>,
    unsent: Vec<u8>,
}

/// Whether a connection stays.
enum Next {
    Stays,
    Ends,
}

// === impl Streams ===

impl Streams {
    pub(super) fn new(shared: Arc<Shared>) -> io::Result<Streams> {
        Ok(Streams {
            shared,
            poller: Poller::new()?,
            listeners: Vec::new(),
            datagrams: None,
            connections: HashMap::new(),
            next_token: FIRST_CONNECTION,
            input: vec![0; 2 * MESSAGE_BYTES_MAX],
            output: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, listener: TcpListener, protocol: Protocol) -> io::Result<()> {
        self.listeners.push((listener, protocol));
        let (listener, _) = &self.listeners[self.listeners.len() - 1];
        poller_of(listener, self.listeners.len(), &self.poller)
    }

    pub(super) fn add_datagrams(&mut self, datagrams: Datagrams) -> io::Result<()> {
        poller_of(datagrams.socket(), DATAGRAMS, &self.poller)?;
        self.datagrams = Some(datagrams);
        Ok(())
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::default();
        while !self.shared.is_stopping() {
            self.poller.wait(TICK_NS, &mut events)?;
            self.shared.stall();
            for ready in events.iter() {
                self.serve(ready)?;
            }
        }
        Ok(())
    }

    fn serve(&mut self, ready: Ready) -> io::Result<()> {
        if let (DATAGRAMS, Some(datagrams)) = (ready.token, &mut self.datagrams) {
            return datagrams.serve();
        }
        if ready.token < FIRST_CONNECTION {
            return self.accept(ready.token - 1);
        }
        let Some(connection) = self.connections.get_mut(&ready.token) else {
            return Ok(());
        };
        let next = connection.serve(ready, &self.shared, (&mut self.input, &mut self.output), &self.poller);
        if !matches!(next, Ok(Next::Stays)) {
            self.connections.remove(&ready.token);
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        let (listener, protocol) = &self.listeners[listener];
        for _ in 0..ACCEPTS {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%error, "the sink cannot accept a connection");
                    break;
                }
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            self.poller.add(&socket, self.next_token, Interest::Read)?;
            let connection = Connection {
                socket,
                protocol: *protocol,
                is_v5: false,
                count: 0,
                partial: Vec::new(),
                unsent: Vec::new(),
            };
            self.connections.insert(self.next_token, connection);
            self.next_token += 1;
            self.shared.accepted();
        }
        Ok(())
    }
}

// === impl Connection ===

impl Connection {
    fn serve(
        &mut self,
        ready: Ready,
        shared: &Shared,
        (input, output): (&mut [u8], &mut Vec<u8>),
        poller: &Poller,
    ) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            return self.flush(ready.token, poller);
        }
        let kept = self.partial.len();
        input[..kept].copy_from_slice(&self.partial);
        let count = match self.socket.read(&mut input[kept..]) {
            Ok(0) => return Ok(Next::Ends),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Stays),
            Err(error) => return Err(error),
        };
        output.clear();
        let next = self.answer(&input[..kept + count], output, shared);
        let next = next.map_err(|Malformed| io::ErrorKind::InvalidData)?;
        self.send(output, ready.token, poller)?;
        Ok(next)
    }

    /// Answers every request that is complete, and keeps the rest.
    fn answer(&mut self, bytes: &[u8], output: &mut Vec<u8>, shared: &Shared) -> Result<Next, Malformed> {
        let (mut taken, mut messages) = (0, 0);
        let mut next = Next::Stays;
        while let Some((request, length)) = {
            let (rest, count) = (&bytes[taken..], self.count + 1);
            match self.protocol {
                Protocol::Http => protocols::http(rest, output, &shared.behavior, count)?,
                _ => protocols::mqtt(rest, output, &shared.behavior, count, &mut self.is_v5)?,
            }
        } {
            taken += length;
            match request {
                Request::Message => {
                    self.count += 1;
                    messages += 1;
                }
                Request::Other => {}
                Request::End => {
                    next = Next::Ends;
                    break;
                }
            }
        }
        shared.answered(self.protocol, messages);
        self.partial.clear();
        self.partial.extend_from_slice(&bytes[taken..]);
        Ok(next)
    }

    fn send(&mut self, output: &[u8], token: usize, poller: &Poller) -> io::Result<()> {
        if output.is_empty() {
            return Ok(());
        }
        let written = match self.socket.write(output) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if written < output.len() {
            self.unsent.extend_from_slice(&output[written..]);
            poller.modify(&self.socket, token, Interest::Write)?;
        }
        Ok(())
    }

    fn flush(&mut self, token: usize, poller: &Poller) -> io::Result<Next> {
        match self.socket.write(&self.unsent) {
            Ok(written) => drop(self.unsent.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.unsent.is_empty() {
            poller.modify(&self.socket, token, Interest::Read)?;
        }
        Ok(Next::Stays)
    }
}
