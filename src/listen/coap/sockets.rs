//! The sockets of the listener: those that the configuration names, and one for each address of a wildcard that is asked.
//!
//! An answer must leave from the address that the request was sent to (RFC 7252 §5.3.2), or the client does not know it.
//! A socket that is bound to one address does so by itself. For one that is bound to a wildcard the kernel chooses by the
//! route; so when the first datagram comes to an address of this host, a socket is bound to that address and port, answers
//! for it, and receives what comes there from then on. Nothing is looked up beforehand: addresses may come and go.
//!
//! Why not packet info on what is sent: rustix's sendmmsg has none, nix's has one for a whole batch and counts what was
//! sent by addresses that nobody wrote, and one system call for each answer is too many. With a socket per address a batch
//! of answers is one call as before, and packet info is read only until that socket is there.
//!
//! Limits: [`OWN_ADDRESSES_MAX`] sockets for single addresses; the one that was used longest ago makes room. Where one
//! cannot be opened, answers leave from the wildcard, as the kernel chooses; that is logged, counted and tried again.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use prometheus::{IntCounter, IntGauge};
use socket2::{Domain, Protocol, Type};

use super::endpoints::{Cast, Endpoints, Local};
use super::exchange::Outgoing;
use super::socket::{self, Arrived, BATCH, Socket, Target};
use crate::metrics::CoapMetrics;

/// Sockets for single addresses of wildcards, over all.
pub const OWN_ADDRESSES_MAX: usize = 64;

/// Addresses whose number, or failure, is known; all are forgotten beyond it.
const KNOWN_MAX: usize = 1024;

/// After a socket could not be opened for an address, how long none is tried.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// All sockets, and the buffers of one batch.
#[derive(Debug)]
pub struct Sockets {
    /// Those that the configuration names, then those for single addresses of wildcards.
    open: Vec<Entry>,
    configured: usize,
    next: Local,
    /// The numbers of addresses that had a socket: with its next one they are the same endpoint still.
    numbers: HashMap<SocketAddr, Local>,
    /// Addresses that no socket could be opened for, and when it is tried again.
    refused: HashMap<SocketAddr, Instant>,
    receive_buffer: usize,
    buffers: Box<[u8]>,
    /// Of one datagram.
    buffer_bytes: usize,
    // Reused from batch to batch.
    arrived: Vec<Arrived>,
    opened: IntGauge,
    failures: IntCounter,
}

#[derive(Debug)]
struct Entry {
    socket: Socket,
    /// When it last received something.
    used: Instant,
}

/// Opens a socket and binds it, to an address that nobody else holds.
pub fn open(address: SocketAddr, receive_buffer: usize) -> io::Result<std::net::UdpSocket> {
    let socket = make(address, receive_buffer)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether a socket at this address would receive IPv4, too, if it were not kept from it: an IPv6 wildcard, unless the
/// system says otherwise (net.ipv6.bindv6only) or an IPv4 address of this port is `configured` beside it.
pub fn is_for_both_families(address: SocketAddr, configured: bool) -> bool {
    let may = || socket2::Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?.only_v6();
    address.is_ipv6() && address.ip().is_unspecified() && !configured && !may().unwrap_or(true)
}

fn make(address: SocketAddr, receive_buffer: usize) -> io::Result<socket2::Socket> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // A smaller buffer drops more in a burst; that is no reason not to serve.
    if let Err(error) = socket.set_recv_buffer_size(receive_buffer) {
        tracing::warn!(%error, wanted = receive_buffer, "coap receive buffer not set");
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if address.ip().is_unspecified() {
        socket::tell_targets(&socket, domain)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

// === impl Sockets ===

impl Sockets {
    /// Takes bound sockets, within their runtime. A datagram that is longer than `buffer_bytes` is cut there.
    pub fn new(
        bound: Vec<std::net::UdpSocket>,
        buffer_bytes: usize,
        receive_buffer: usize,
        metrics: &CoapMetrics,
    ) -> io::Result<Self> {
        let mut sockets = Sockets {
            open: Vec::new(),
            configured: bound.len(),
            next: Local::default(),
            numbers: HashMap::new(),
            refused: HashMap::new(),
            receive_buffer,
            buffers: vec![0; BATCH * buffer_bytes].into(),
            buffer_bytes,
            arrived: Vec::with_capacity(BATCH),
            opened: metrics.coap_own_addresses.clone(),
            failures: metrics.coap_own_addresses_failed_total.clone(),
        };
        for socket in bound {
            let local = sockets.number();
            sockets.add(socket, local, Instant::now())?;
        }
        Ok(sockets)
    }

    /// Ends when one of them may be read.
    pub async fn readable(&self) {
        poll_fn(|context| {
            let is_ready = |entry: &Entry| entry.socket.poll_readable(context).is_ready();
            match self.open.iter().any(is_ready) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Reads a batch of each and shows each datagram to `act`: between whom it goes, whether others got it too, and its
    /// bytes. Wildcards come first: what waits there is older than what waits at a socket that was opened later.
    pub fn receive(&mut self, now: Instant, mut act: impl FnMut(Endpoints, Cast, &[u8])) -> io::Result<()> {
        let mut read = Ok(());
        for at in 0.. {
            let Some(entry) = self.open.get_mut(at) else { break };
            let batch = entry
                .socket
                .receive(&mut self.buffers, self.buffer_bytes, &mut self.arrived);
            read = read.and(batch);
            if !self.arrived.is_empty() {
                entry.used = now;
            }
            let is_wildcard = entry.socket.is_wildcard();
            let own = entry.socket.local();
            for number in 0..self.arrived.len() {
                let Arrived { bytes, peer, target } = self.arrived[number];
                let Some(peer) = peer else { continue };
                let local = match target {
                    Some(Target::Own(address)) if is_wildcard => self.local_of(now, own, address),
                    _ => own,
                };
                let cast = target.map_or(Cast::Unicast, Target::cast);
                let start = number * self.buffer_bytes;
                let datagram = &self.buffers[start..start + bytes.min(self.buffer_bytes)];
                act(Endpoints { peer, local }, cast, datagram);
            }
        }
        read
    }

    /// Sends what is to be sent, each from its own address; `failed` is told of each that its socket does not take.
    pub fn send(&self, messages: &mut [Outgoing], mut failed: impl FnMut(SocketAddr, io::Error)) {
        let local = |outgoing: &Outgoing| outgoing.ends.local;
        if !messages.is_sorted_by_key(local) {
            messages.sort_by_key(local);
        }
        for messages in messages.chunk_by(|one, next| local(one) == local(next)) {
            self.socket_of(messages[0].ends).send(messages, &mut failed);
        }
    }

    /// The socket for these endpoints; a wildcard, if it was closed meanwhile.
    fn socket_of(&self, ends: Endpoints) -> &Socket {
        let is_it = |entry: &&Entry| entry.socket.local() == ends.local;
        let fits =
            |entry: &&Entry| entry.socket.is_wildcard() && entry.socket.address().is_ipv4() == ends.peer.is_ipv4();
        let found = self.open.iter().find(is_it).or_else(|| self.open.iter().find(fits));
        &found.unwrap_or(&self.open[0]).socket
    }

    /// The number of an address of ours that the socket `wildcard` received something for.
    fn local_of(&mut self, now: Instant, wildcard: Local, address: SocketAddr) -> Local {
        if let Some(entry) = self.open.iter_mut().find(|entry| entry.socket.address() == address) {
            entry.used = now;
            return entry.socket.local();
        }
        if self.refused.get(&address).is_some_and(|until| now < *until) {
            return wildcard;
        }
        let opened = self.open_for(now, wildcard, address);
        if self.refused.len() >= KNOWN_MAX {
            self.refused.clear();
        }
        match opened {
            Ok(local) => {
                self.refused.remove(&address);
                tracing::debug!(%address, "coap has a socket for this address");
                local
            }
            Err(error) => {
                self.failures.inc();
                if self.refused.insert(address, now + RETRY_AFTER).is_none() {
                    tracing::warn!(%address, %error, "coap cannot answer from this address: its clients may not know the answers");
                }
                wildcard
            }
        }
    }

    fn open_for(&mut self, now: Instant, wildcard: Local, address: SocketAddr) -> io::Result<Local> {
        self.make_room();
        let holder = self.open.iter().find(|entry| entry.socket.local() == wildcard);
        let holder = &holder.ok_or(io::ErrorKind::NotFound)?.socket;
        let socket = make(address, self.receive_buffer)?;
        // A datagram came to it, so it is ours, even if no interface has it (a whole network routed to this host).
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        // The port is shared only while this is bound, and only with sockets of this user: nobody else gets in.
        socket.set_reuse_port(true)?;
        holder.share_port(true)?;
        let bound = socket.bind(&address.into());
        holder.share_port(false)?;
        socket.set_reuse_port(false)?;
        bound?;
        if self.numbers.len() >= KNOWN_MAX {
            self.numbers.clear();
        }
        let local = self.numbers.get(&address).copied();
        let local = local.unwrap_or_else(|| self.number());
        self.numbers.insert(address, local);
        self.add(socket.into(), local, now)?;
        Ok(local)
    }

    /// Closes the socket for a single address that was used longest ago, if there is no room for another.
    fn make_room(&mut self) {
        let own = self.open.iter().enumerate().skip(self.configured);
        if own.len() < OWN_ADDRESSES_MAX {
            return;
        }
        if let Some((at, _)) = own.min_by_key(|(_, entry)| entry.used) {
            self.open.remove(at);
        }
    }

    /// A number that no address has.
    fn number(&mut self) -> Local {
        let next = Local(self.next.0.wrapping_add(1));
        std::mem::replace(&mut self.next, next)
    }

    fn add(&mut self, socket: std::net::UdpSocket, local: Local, now: Instant) -> io::Result<()> {
        let socket = Socket::new(socket, local)?;
        self.open.push(Entry { socket, used: now });
        self.opened.set(self.open.len().saturating_sub(self.configured) as i64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    /// A wildcard, and the port that it is bound to.
    fn wildcard(metrics: &Metrics) -> (Sockets, u16) {
        let bound = open(SocketAddr::from(([0, 0, 0, 0], 0)), 1 << 16).unwrap();
        let port = bound.local_addr().unwrap().port();
        (Sockets::new(vec![bound], 100, 1 << 16, &metrics.coap).unwrap(), port)
    }

    #[tokio::test]
    async fn where_no_socket_can_be_opened_the_wildcard_answers_and_it_is_tried_again() {
        let metrics = Metrics::new(&[]);
        let (mut sockets, _) = wildcard(&metrics);
        // Another's port stands for whatever may be in the way.
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let (start, own) = (Instant::now(), Local(0));
        let mut check = |after, expected, failures| {
            assert_eq!(
                sockets.local_of(start + after, own, address),
                expected,
                "after {after:?}"
            );
            assert_eq!(
                metrics.coap.coap_own_addresses_failed_total.get(),
                failures,
                "after {after:?}"
            );
        };
        check(Duration::ZERO, own, 1);
        check(RETRY_AFTER / 2, own, 1);
        check(RETRY_AFTER, own, 2);
        drop(other);
        check(RETRY_AFTER * 2, Local(1), 2);
        assert_eq!(metrics.coap.coap_own_addresses.get(), 1);
    }

    #[tokio::test]
    async fn an_address_keeps_its_number_when_its_socket_makes_room() {
        let metrics = Metrics::new(&[]);
        let (mut sockets, port) = wildcard(&metrics);
        let start = Instant::now();
        let address = |last| SocketAddr::from(([127, 0, 1, last], port));
        for round in 0..2 {
            for last in 0..100u8 {
                let now = start + Duration::from_secs(100 * round + u64::from(last));
                let local = sockets.local_of(now, Local(0), address(last));
                assert_eq!(local, Local(1 + u32::from(last)));
            }
        }
        assert_eq!(sockets.open.len(), 1 + OWN_ADDRESSES_MAX);
        assert_eq!(metrics.coap.coap_own_addresses_failed_total.get(), 0);
    }
}
