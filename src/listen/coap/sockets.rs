//! The sockets of the listener: those that the configuration names, and one for each address of a wildcard that is asked.
//!
//! An answer must leave from the address that the request was sent to (RFC 7252 §5.3.2), or the client does not know it.
//! A socket that is bound to one address does so by itself. For one that is bound to a wildcard the kernel chooses by the
//! route; so when the first datagram comes to an address of this host, a socket is bound to that address and port, answers
//! for it, and receives what comes there from then on. Nothing is looked up beforehand: addresses may come and go.
//!
//! Why not packet info on what is sent: rustix's sendmmsg has none, nix's has one for a whole batch and counts what was
//! sent by addresses that are not configured, and one system call for each answer is too many. With a socket per address a batch
//! of answers is one call as before, and packet info is read only until that socket exists.
//!
//! Limits: [`OWN_ADDRESSES_MAX`] sockets for single addresses; the one that was used longest ago is closed. After as many,
//! one is opened every [`OPENING_INTERVAL`], so that a whole network that is routed here costs little more than its
//! datagrams. Where none is opened, answers leave from the wildcard, as the kernel chooses; a failure is logged, counted and
//! tried again.

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use prometheus::{IntCounter, IntGauge};
use socket2::{Domain, Protocol, Type};

use super::drops::Drops;
use super::endpoints::{Cast, Endpoints, Local};
use super::exchange::Outgoing;
use super::socket::{self, Arrived, BATCH, Socket, Target};
use crate::listen::coap::metrics::CoapMetrics;

/// Sockets for single addresses of wildcards, over all.
pub const OWN_ADDRESSES_MAX: usize = 64;

/// Addresses whose failure is known; all are forgotten beyond it.
const REFUSED_MAX: usize = 1024;

/// The mean time between two openings, after the first [`OWN_ADDRESSES_MAX`].
const OPENING_INTERVAL: Duration = Duration::from_millis(10);

/// Batches of a wildcard that may be read before a socket that was opened meanwhile: more than a usual receive buffer holds.
const OLDER_BATCHES_MAX: u32 = 256;

/// After a socket could not be opened for an address, how long none is tried.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// All sockets, and the buffers of one batch.
#[derive(Debug)]
pub struct Sockets {
    /// Those that the configuration names, then those for single addresses of wildcards.
    open: Vec<Entry>,
    configured: usize,
    hasher: RandomState,
    /// When the openings so far would be over, had they kept to the interval.
    openings_until: Instant,
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
    pub drops: Drops,
}

#[derive(Debug)]
struct Entry {
    socket: Socket,
    /// When it last received something.
    used: Instant,
    /// How many batches of its wildcard may still hold older datagrams than this; it is not read before.
    older_batches: u32,
}

/// Opens a socket and binds it, to an address that is bound nowhere else.
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
    if let Err(error) = socket::tell_drops(&socket) {
        tracing::warn!(%error, "coap datagrams that the kernel drops are not counted");
    }
    if address.ip().is_unspecified() {
        socket::tell_targets(&socket, domain)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

// === impl Sockets ===

impl Sockets {
    /// Of bound sockets, within their runtime. A datagram that is longer than `buffer_bytes` is cut there.
    pub fn new(
        bound: Vec<std::net::UdpSocket>,
        buffer_bytes: usize,
        receive_buffer: usize,
        metrics: &CoapMetrics,
    ) -> io::Result<Self> {
        let mut sockets = Sockets {
            open: Vec::new(),
            configured: bound.len(),
            hasher: RandomState::new(),
            openings_until: Instant::now(),
            refused: HashMap::new(),
            receive_buffer,
            buffers: vec![0; BATCH * buffer_bytes].into(),
            buffer_bytes,
            arrived: Vec::with_capacity(BATCH),
            opened: metrics.coap_own_addresses.clone(),
            failures: metrics.coap_own_addresses_failed_total.clone(),
            drops: Drops::new(metrics.coap_datagrams_dropped_total.clone()),
        };
        for (index, socket) in bound.into_iter().enumerate() {
            sockets.add(socket, Local::configured(index), Instant::now(), 0)?;
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
    /// bytes. What waits at a wildcard is older than what waits at a socket that was opened for one of its addresses since:
    /// that one is read as soon as the wildcard was empty once.
    pub fn receive(&mut self, now: Instant, mut act: impl FnMut(Endpoints, Cast, &[u8])) -> io::Result<()> {
        let mut read = Ok(());
        for at in 0.. {
            let Some(entry) = self.open.get_mut(at) else { break };
            if entry.older_batches > 0 {
                continue;
            }
            let batch = entry
                .socket
                .receive(&mut self.buffers, self.buffer_bytes, &mut self.arrived);
            read = read.and(batch);
            self.drops.add(entry.socket.take_dropped());
            if !self.arrived.is_empty() {
                entry.used = now;
            }
            let is_wildcard = entry.socket.is_wildcard();
            let own = entry.socket.local();
            if is_wildcard {
                self.was_read(own, self.arrived.len() < BATCH);
            }
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

    /// A batch of this wildcard has been read, to its end or not.
    fn was_read(&mut self, wildcard: Local, is_empty: bool) {
        let opened = self.open.iter_mut().skip(self.configured);
        for entry in opened.filter(|entry| entry.socket.local().index() == wildcard.index()) {
            let left = if is_empty {
                0
            } else {
                entry.older_batches.saturating_sub(1)
            };
            entry.older_batches = left;
        }
    }

    /// Sends what is to be sent, each from its own address; `failed` is told of each that its socket does not accept.
    pub fn send(&self, messages: &mut [Outgoing], mut failed: impl FnMut(SocketAddr, io::Error)) {
        let local = |outgoing: &Outgoing| outgoing.ends.local;
        if !messages.is_sorted_by_key(local) {
            messages.sort_by_key(local);
        }
        for messages in messages.chunk_by(|one, next| local(one) == local(next)) {
            self.socket_of(messages[0].ends).send(messages, &mut failed);
        }
    }

    /// The socket for these endpoints; its wildcard, if there is none (any more).
    fn socket_of(&self, ends: Endpoints) -> &Socket {
        let is_it = |entry: &&Entry| entry.socket.local() == ends.local;
        let found = self.open.iter().find(is_it);
        &found.unwrap_or(&self.open[ends.local.index()]).socket
    }

    /// The number of an address of ours that the socket `wildcard` received something for.
    fn local_of(&mut self, now: Instant, wildcard: Local, address: SocketAddr) -> Local {
        if let Some(entry) = self.open.iter_mut().find(|entry| entry.socket.address() == address) {
            entry.used = now;
            return entry.socket.local();
        }
        let local = Local::behind(wildcard, self.hasher.hash_one(address));
        if self.refused.get(&address).is_some_and(|until| now < *until) || !self.may_open(now) {
            return local;
        }
        let opened = self.open_for(now, local, address);
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        match opened {
            Ok(()) => {
                self.refused.remove(&address);
                tracing::debug!(%address, "coap has a socket for this address");
            }
            Err(error) => {
                self.failures.inc();
                if self.refused.insert(address, now + RETRY_AFTER).is_none() {
                    tracing::warn!(%address, %error, "coap cannot answer from this address: its clients may not know the answers");
                }
            }
        }
        local
    }

    /// Whether another socket may be opened now; then it counts as opened.
    fn may_open(&mut self, now: Instant) -> bool {
        let after = self.openings_until.max(now) + OPENING_INTERVAL;
        let may = after <= now + OPENING_INTERVAL * OWN_ADDRESSES_MAX as u32;
        if may {
            self.openings_until = after;
        }
        may
    }

    fn open_for(&mut self, now: Instant, local: Local, address: SocketAddr) -> io::Result<()> {
        self.make_room();
        let holder = &self.open[local.index()].socket;
        let socket = make(address, self.receive_buffer)?;
        // A datagram came to it, so it is ours, even if no interface has it (a whole network routed to this host).
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        // The port is shared only while this is bound, and only with sockets of this user: no other user gets in.
        socket.set_reuse_port(true)?;
        holder.share_port(true)?;
        let bound = socket.bind(&address.into());
        holder.share_port(false)?;
        socket.set_reuse_port(false)?;
        bound?;
        self.add(socket.into(), local, now, OLDER_BATCHES_MAX)
    }

    /// Closes the socket for a single address that was used longest ago, if there are as many as may be.
    fn make_room(&mut self) {
        let own = self.open.iter().enumerate().skip(self.configured);
        if own.len() < OWN_ADDRESSES_MAX {
            return;
        }
        if let Some((at, _)) = own.min_by_key(|(_, entry)| entry.used) {
            self.open.remove(at);
        }
    }

    fn add(&mut self, socket: std::net::UdpSocket, local: Local, now: Instant, older_batches: u32) -> io::Result<()> {
        self.open.push(Entry {
            socket: Socket::new(socket, local)?,
            used: now,
            older_batches,
        });
        self.opened.set(self.open.len().saturating_sub(self.configured) as i64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::Metrics;

    /// A wildcard, and the port that it is bound to.
    fn wildcard(metrics: &Metrics) -> (Sockets, u16) {
        let bound = open(SocketAddr::from(([0, 0, 0, 0], 0)), 1 << 16).unwrap();
        let port = bound.local_addr().unwrap().port();
        (Sockets::new(vec![bound], 100, 1 << 16, &metrics.coap).unwrap(), port)
    }

    #[tokio::test]
    async fn where_no_socket_can_be_opened_the_wildcard_answers_and_it_is_tried_again() {
        let metrics = Metrics::default();
        let (mut sockets, _) = wildcard(&metrics);
        // Another's port stands for whatever may be in the way.
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let (start, own) = (Instant::now(), Local::configured(0));
        let number = sockets.local_of(start, own, address);
        let mut check = |after, opened: bool, failures| {
            let now = start + after;
            assert_eq!(sockets.local_of(now, own, address), number, "after {after:?}");
            assert_eq!(
                metrics.coap.coap_own_addresses_failed_total.get(),
                failures,
                "after {after:?}"
            );
            let ends = Endpoints {
                peer: address,
                local: number,
            };
            let socket = sockets.socket_of(ends);
            assert_eq!(socket.is_wildcard(), !opened, "after {after:?}");
        };
        check(Duration::ZERO, false, 1);
        check(RETRY_AFTER / 2, false, 1);
        check(RETRY_AFTER, false, 2);
        drop(other);
        check(RETRY_AFTER * 2, true, 2);
        assert_eq!(metrics.coap.coap_own_addresses.get(), 1);
    }

    #[tokio::test]
    async fn an_address_keeps_its_number_however_many_others_are_asked() {
        let metrics = Metrics::default();
        let (mut sockets, port) = wildcard(&metrics);
        let (start, own) = (Instant::now(), Local::configured(0));
        let address = |number: u16| SocketAddr::from(([127, 1, (number >> 8) as u8, number as u8], port));
        let mut numbers = |round: u64| -> Vec<Local> {
            let ask = |number| {
                let now = start + Duration::from_secs(5000 * round + u64::from(number));
                sockets.local_of(now, own, address(number))
            };
            (0..2000).map(ask).collect()
        };
        assert_eq!(numbers(0), numbers(1));
        assert_eq!(sockets.open.len(), 1 + OWN_ADDRESSES_MAX);
        assert_eq!(metrics.coap.coap_own_addresses_failed_total.get(), 0);
    }

    #[tokio::test]
    async fn a_network_that_is_routed_here_costs_no_socket_for_each_of_its_datagrams() {
        let metrics = Metrics::default();
        let (mut sockets, port) = wildcard(&metrics);
        let (start, own) = (Instant::now(), Local::configured(0));
        let mut opened = 0;
        // A thousand addresses at once, and a thousand more within a second.
        for (asked, expected) in [(0..1000u32, 64), (1000..2000, 164)] {
            for number in asked {
                let after = Duration::from_millis(number.saturating_sub(999).into());
                let [.., high, low] = number.to_be_bytes();
                let address = SocketAddr::from(([127, 2, high, low], port));
                sockets.local_of(start + after, own, address);
                opened += u32::from(sockets.open.iter().any(|entry| entry.socket.address() == address));
            }
            assert_eq!(opened, expected);
        }
        assert_eq!(sockets.open.len(), 1 + OWN_ADDRESSES_MAX);
    }

    /// More than a batch waits at the wildcard when the socket for their address is opened.
    #[tokio::test]
    async fn what_came_before_a_socket_was_opened_is_read_before_what_comes_to_it() {
        let metrics = Metrics::default();
        let (mut sockets, port) = wildcard(&metrics);
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 9], port));
        let send = |numbers: std::ops::Range<u8>| {
            for number in numbers {
                client.send_to(&[number], address).unwrap();
            }
        };
        send(0..150);
        let mut read = Vec::new();
        while read.len() < 160 {
            // The runtime learns which sockets may be read.
            tokio::task::yield_now().await;
            let readable = tokio::time::timeout(Duration::from_secs(10), sockets.readable());
            readable.await.expect("a datagram");
            sockets
                .receive(Instant::now(), |_, _, datagram| read.extend_from_slice(datagram))
                .unwrap();
            if read.len() == BATCH {
                assert_eq!(metrics.coap.coap_own_addresses.get(), 1);
                send(150..160);
            }
        }
        assert_eq!(read, (0..160).collect::<Vec<u8>>());
    }
}
