//! A UDP socket: many datagrams in one system call.
//!
//! On loopback a system call costs more than all else that is done for a small request, so datagrams are read and written
//! up to [`BATCH`] at a time (recvmmsg, sendmmsg). Readiness is given back when a batch was not full, without asking the
//! kernel once more; should there be more after all, the next datagram tells. In control messages the kernel says how many
//! datagrams it has dropped since the socket was opened (once there are any), and of a wildcard which address each was sent
//! to. What a datagram means is left to `packet`, from which address it is answered to [`sockets`](super::sockets).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg, setsockopt, sockopt,
};
use rustix::net::addr::SocketAddrArg as _;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::endpoints::{Cast, Local};
use super::exchange::Outgoing;

/// Datagrams in one system call.
pub const BATCH: usize = 64;

/// Bytes for the control message that counts drops.
const DROPS_BYTES: usize = 24;

/// Bytes for the packet info as well; IPv6's needs 40 bytes, IPv4's 32.
const INFO_BYTES: usize = DROPS_BYTES + 40;

/// A socket and the kernel's view of a batch, which holds pointers and so stays on its thread.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    local: Local,
    /// Where it is bound.
    address: SocketAddr,
    // - The kernel overwrites the lengths of addresses and of control messages with what it has written.
    // - So a socket that is bound to one address has no space for control messages when the first drop is to be told.
    //   That one is cut off, of which the kernel tells, and the headers are made anew; the count comes again.
    // - Those of a wildcard are made anew for every batch, so that no packet info is cut off. That is rare: what comes to a
    //   wildcard goes to a socket of its own address after the first datagram.
    // - They are never used for sending, which would leave them with pointers to addresses that are gone.
    inbound: MultiHeaders<SockaddrStorage>,
    /// Since it was opened, as the kernel last said.
    dropped: u32,
    newly_dropped: u32,
}

/// What the control messages of a batch say.
#[derive(Debug, Default)]
struct Control {
    dropped: Option<u32>,
    /// Not all of it was read.
    is_cut: bool,
}

/// A datagram that has been read.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    pub bytes: usize,
    /// `None` if the kernel gives no IP address.
    pub peer: Option<SocketAddr>,
    /// Where it was sent to, if the socket is bound to a wildcard.
    pub target: Option<Target>,
}

/// Where a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This address of ours, with the socket's port.
    Own(SocketAddr),
    /// A multicast or broadcast address.
    Many,
}

// === impl Socket ===

impl Socket {
    /// Makes the bound `socket` known to the runtime of this thread.
    pub fn new(socket: std::net::UdpSocket, local: Local) -> io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Socket {
            socket: UdpSocket::from_std(socket)?,
            local,
            address,
            inbound: headers(address),
            dropped: 0,
            newly_dropped: 0,
        })
    }

    pub fn local(&self) -> Local {
        self.local
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it receives what is sent to any address of this host.
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    /// Lets other sockets of this process be bound to single addresses of the same port, or not.
    pub fn share_port(&self, shared: bool) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).set_reuse_port(shared)
    }

    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        // Readiness is only a hint: whether it was an error shows when the socket is read.
        self.socket.poll_recv_ready(context).map(|_| ())
    }

    /// Reads a batch into `buffers` of `buffer_bytes` each; without a system call if there is nothing to be read.
    pub fn receive(&mut self, buffers: &mut [u8], buffer_bytes: usize, arrived: &mut Vec<Arrived>) -> io::Result<()> {
        arrived.clear();
        let (socket, inbound, address) = (&self.socket, &mut self.inbound, self.address);
        let mut control = Control::default();
        let read = socket.try_io(Interest::READABLE, || {
            let buffers = buffers.chunks_exact_mut(buffer_bytes);
            control = read_batch(socket, address, inbound, buffers, arrived)?;
            // Not full: there is no more, which the runtime learns without another call.
            match arrived.len() {
                BATCH => Ok(()),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        if control.is_cut || self.is_wildcard() && !arrived.is_empty() {
            self.inbound = headers(self.address);
        }
        if let Some(dropped) = control.dropped {
            self.newly_dropped = self.newly_dropped.wrapping_add(dropped.wrapping_sub(self.dropped));
            self.dropped = dropped;
        }
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // A peer's port is closed: news of an earlier send, not of this socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            read => read,
        }
    }

    /// How many more datagrams the kernel has dropped, as far as it has said.
    pub fn take_dropped(&mut self) -> u32 {
        std::mem::take(&mut self.newly_dropped)
    }

    /// Sends what is to be sent; `failed` is told of each that the socket does not accept.
    pub fn send(&self, messages: &[Outgoing], failed: &mut impl FnMut(SocketAddr, io::Error)) {
        let mut rest = messages;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BATCH)];
            // The kernel is asked, not the runtime: that has not looked yet at a socket that was opened for these.
            let sent = match write_batch(&self.socket, batch) {
                Ok(sent) => sent,
                // It is the first that was not accepted; the others are tried.
                Err(error) => {
                    failed(batch[0].ends.peer, error);
                    1
                }
            };
            rest = &rest[sent.clamp(1, rest.len())..];
        }
    }
}

impl Target {
    /// To whom the datagram was sent.
    pub fn cast(self) -> Cast {
        match self {
            Target::Own(_) => Cast::Unicast,
            Target::Many => Cast::Multicast,
        }
    }
}

/// Asks the kernel for the packet info of every datagram; to be done before the socket is bound, so that none comes
/// without.
pub fn tell_targets(socket: &socket2::Socket, domain: socket2::Domain) -> io::Result<()> {
    match domain {
        socket2::Domain::IPV4 => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        _ => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// Asks the kernel for the number of datagrams that it has dropped; before the socket is bound, as above.
pub fn tell_drops(socket: &socket2::Socket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::RxqOvfl, &1)?)
}

fn headers(address: SocketAddr) -> MultiHeaders<SockaddrStorage> {
    let bytes = if address.ip().is_unspecified() {
        INFO_BYTES
    } else {
        DROPS_BYTES
    };
    MultiHeaders::preallocate(BATCH, Some(vec![0; bytes]))
}

fn read_batch<'a>(
    socket: &UdpSocket,
    bound: SocketAddr,
    inbound: &mut MultiHeaders<SockaddrStorage>,
    mut buffers: impl Iterator<Item = &'a mut [u8]>,
    arrived: &mut Vec<Arrived>,
) -> io::Result<Control> {
    let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
        std::array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let messages = recvmmsg(fd, inbound, slices.iter_mut(), flags, None)?;
    let mut control = Control::default();
    arrived.extend(messages.map(|message| Arrived {
        bytes: message.bytes,
        peer: message.address.as_ref().and_then(address),
        target: read_control(&message, bound.port(), &mut control),
    }));
    Ok(control)
}

/// How many were sent, from the first on.
fn write_batch(socket: &UdpSocket, batch: &[Outgoing]) -> io::Result<usize> {
    let peers: Vec<SocketAddrAny> = batch.iter().map(|outgoing| outgoing.ends.peer.as_any()).collect();
    let slices: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|outgoing| [IoSlice::new(&outgoing.message)]).collect();
    let mut nothing: [SendAncillaryBuffer<'_, '_, '_>; BATCH] = std::array::from_fn(|_| SendAncillaryBuffer::default());
    let messages = peers.iter().zip(&slices).zip(&mut nothing);
    let mut messages: Vec<MMsgHdr<'_>> = messages
        .map(|((peer, slice), nothing)| MMsgHdr::new_with_addr(peer, slice, nothing))
        .collect();
    Ok(sendmmsg(socket, &mut messages, SendFlags::DONTWAIT)?)
}

fn address(peer: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || peer.as_sockaddr_in().map(|peer| SocketAddr::V4((*peer).into()));
    let v6 = || peer.as_sockaddr_in6().map(|peer| SocketAddr::V6((*peer).into()));
    v4().or_else(v6)
}

/// Where the datagram was sent to, of a wildcard; the drops go to `control`.
fn read_control(message: &RecvMsg<'_, '_, SockaddrStorage>, port: u16, control: &mut Control) -> Option<Target> {
    let mut target = None;
    let Ok(infos) = message.cmsgs() else {
        control.is_cut = true;
        return None;
    };
    for info in infos {
        match info {
            ControlMessageOwned::RxqOvfl(dropped) => control.dropped = Some(dropped),
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let [sent_to, own] =
                    [info.ipi_addr, info.ipi_spec_dst].map(|ip| Ipv4Addr::from(u32::from_be(ip.s_addr)));
                target = Some(target_v4(sent_to, own, port));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                target = Some(target_v6(info.ipi6_addr.s6_addr.into(), info.ipi6_ifindex, port));
            }
            _ => {}
        }
    }
    target
}

/// `own` is the address that the kernel would answer from: another than the one that was asked, if that is a group or the
/// broadcast address of one of our networks.
fn target_v4(sent_to: Ipv4Addr, own: Ipv4Addr, port: u16) -> Target {
    match sent_to.is_multicast() || sent_to.is_broadcast() || sent_to != own && !own.is_unspecified() {
        true => Target::Many,
        false => Target::Own(SocketAddr::new(IpAddr::V4(sent_to), port)),
    }
}

fn target_v6(sent_to: Ipv6Addr, interface: u32, port: u16) -> Target {
    let scope = if sent_to.is_unicast_link_local() { interface } else { 0 };
    match sent_to.is_multicast() {
        true => Target::Many,
        false => Target::Own(SocketAddrV6::new(sent_to, port, 0, scope).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::coap::endpoints::Endpoints;

    #[test]
    fn the_packet_info_tells_where_a_datagram_was_sent_to() {
        let check = |sent_to: &str, own: &str, expected: Option<&str>| {
            let target = target_v4(sent_to.parse().unwrap(), own.parse().unwrap(), 5683);
            let expected = expected.map_or(Target::Many, |address| Target::Own(address.parse().unwrap()));
            assert_eq!(target, expected, "{sent_to} {own}");
        };
        check("10.77.0.2", "10.77.0.2", Some("10.77.0.2:5683"));
        check("10.77.0.2", "0.0.0.0", Some("10.77.0.2:5683"));
        check("10.77.0.255", "10.77.0.1", None);
        check("255.255.255.255", "10.77.0.1", None);
        check("224.0.1.187", "10.77.0.1", None);
        check("224.0.1.187", "0.0.0.0", None);
        let check = |sent_to: &str, expected: Option<&str>| {
            let target = target_v6(sent_to.parse().unwrap(), 3, 5683);
            let expected = expected.map_or(Target::Many, |address| Target::Own(address.parse().unwrap()));
            assert_eq!(target, expected, "{sent_to}");
        };
        check("fd77::2", Some("[fd77::2]:5683"));
        check("fe80::2", Some("[fe80::2%3]:5683"));
        check("ff02::1", None);
        check("ff05::fd", None);
    }

    /// Reads until nothing is left; how many there were. Of a wildcard each tells where it was sent to.
    async fn read_all(socket: &mut Socket, buffers: &mut [u8]) -> u64 {
        let (mut read, mut arrived) = (0, Vec::new());
        std::future::poll_fn(|context| socket.poll_readable(context)).await;
        loop {
            socket.receive(buffers, 16, &mut arrived).unwrap();
            let told = arrived.iter().filter(|datagram| datagram.target.is_some()).count();
            assert_eq!(told, if socket.is_wildcard() { arrived.len() } else { 0 });
            read += arrived.len() as u64;
            if arrived.len() < BATCH {
                return read;
            }
        }
    }

    /// A socket of an own address is opened for a datagram, and answers it before the runtime has ever looked at it.
    #[tokio::test]
    async fn the_first_answer_of_a_socket_is_sent() {
        let opened = super::super::sockets::open("127.0.0.1:0".parse().unwrap(), 4096).unwrap();
        let socket = Socket::new(opened, Local::configured(0)).unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let ends = Endpoints {
            peer: client.local_addr().unwrap(),
            local: socket.local(),
        };
        let message = std::sync::Arc::from(b"answer".as_slice());
        socket.send(&[Outgoing { ends, message }], &mut |_, error| panic!("{error}"));
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 6);
    }

    /// Control messages grow with the first drop; none is lost by that, and no drop is.
    #[tokio::test]
    async fn drops_are_told_and_leave_room_for_the_packet_info() {
        for (bound, target) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "::1"),
        ] {
            if bound.starts_with('[') && !crate::listen::has_ipv6() {
                continue;
            }
            let opened = super::super::sockets::open(bound.parse().unwrap(), 4096).unwrap();
            let target = SocketAddr::new(target.parse().unwrap(), opened.local_addr().unwrap().port());
            let client = std::net::UdpSocket::bind((target.ip(), 0)).unwrap();
            let mut socket = Socket::new(opened, Local::configured(0)).unwrap();
            let mut buffers = vec![0; BATCH * 16];
            let (mut sent, mut received, mut dropped) = (0, 0, 0);
            // One by one, a burst that overflows the buffer, then one by one again.
            for count in [1, 1, 1000, 1, 1, 1000, 1, 1] {
                for _ in 0..count {
                    client.send_to(b"?", target).unwrap();
                }
                sent += count;
                received += read_all(&mut socket, &mut buffers).await;
                dropped += u64::from(socket.take_dropped());
            }
            assert!(dropped > 0, "{bound}");
            assert_eq!(received + dropped, sent, "{bound}");
        }
    }
}
