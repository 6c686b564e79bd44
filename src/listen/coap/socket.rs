//! The UDP socket: many datagrams in one system call.
//!
//! On loopback a system call costs more than all else that is done for a small request, so datagrams are read and written
//! up to [`BATCH`] at a time (recvmmsg, sendmmsg). Readiness is given back when a batch was not full, without asking the
//! kernel once more; should there be more after all, the next datagram tells. What a datagram means is left to `packet`.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::addr::SocketAddrArg as _;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::exchange::Outgoing;

/// Datagrams in one system call.
pub const BATCH: usize = 64;

thread_local! {
    // The kernel's view of a batch holds pointers, so it stays on its thread. It also keeps the length of the addresses as
    // the kernel left it, which is right for one socket: a thread serves one.
    static INBOUND: RefCell<MultiHeaders<SockaddrStorage>> = RefCell::new(MultiHeaders::preallocate(BATCH, None));
}

/// The socket with the buffers of one batch.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    buffers: Box<[u8]>,
    /// Of one datagram.
    buffer_bytes: usize,
    // Reused from batch to batch.
    arrived: Vec<(usize, Option<SocketAddr>)>,
}

impl Socket {
    /// A datagram that is longer than `buffer_bytes` is cut there.
    pub fn new(socket: UdpSocket, buffer_bytes: usize) -> Self {
        Socket {
            socket,
            buffers: vec![0; BATCH * buffer_bytes].into(),
            buffer_bytes,
            arrived: Vec::with_capacity(BATCH),
        }
    }

    pub async fn readable(&self) {
        // Readiness is only a hint: whether it was an error shows when the socket is read.
        self.socket.readable().await.ok();
    }

    /// Reads a batch and shows each datagram to `act`.
    pub fn receive(&mut self, act: impl FnMut(SocketAddr, &[u8])) -> io::Result<()> {
        self.arrived.clear();
        let (socket, buffers, arrived) = (&self.socket, &mut self.buffers, &mut self.arrived);
        let read = socket.try_io(Interest::READABLE, || {
            let read = read_batch(socket, buffers, self.buffer_bytes, arrived);
            // Not full: there is no more, which the runtime learns without another call.
            read.and_then(|()| match arrived.len() {
                BATCH => Ok(()),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            })
        });
        let buffers = self.buffers.chunks_exact(self.buffer_bytes);
        let datagrams = self.arrived.iter().zip(buffers);
        datagrams
            .filter_map(|(&(bytes, peer), buffer)| peer.map(|peer| (peer, &buffer[..bytes.min(buffer.len())])))
            .for_each({
                let mut act = act;
                move |(peer, datagram)| act(peer, datagram)
            });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // A peer's port is closed: news of an earlier send, not of this socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            read => read,
        }
    }

    /// Sends what is to be sent; `failed` is told of each that the socket does not take.
    pub fn send(&mut self, messages: &[Outgoing], mut failed: impl FnMut(SocketAddr, io::Error)) {
        let mut rest = messages;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BATCH)];
            let socket = &self.socket;
            let sent = match socket.try_io(Interest::WRITABLE, || write_batch(socket, batch)) {
                Ok(sent) => sent,
                // It is the first that was not taken; the others are tried.
                Err(error) => {
                    failed(batch[0].peer, error);
                    1
                }
            };
            rest = &rest[sent.clamp(1, rest.len())..];
        }
    }
}

fn read_batch(
    socket: &UdpSocket,
    buffers: &mut [u8],
    buffer_bytes: usize,
    arrived: &mut Vec<(usize, Option<SocketAddr>)>,
) -> io::Result<()> {
    INBOUND.with_borrow_mut(|headers| {
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = {
            let mut chunks = buffers.chunks_exact_mut(buffer_bytes);
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())])
        };
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let messages = recvmmsg(fd, headers, slices.iter_mut(), flags, None)?;
        arrived.extend(messages.map(|message| (message.bytes, message.address.and_then(|peer| address(&peer)))));
        Ok(())
    })
}

/// How many were sent, from the first on.
fn write_batch(socket: &UdpSocket, batch: &[Outgoing]) -> io::Result<usize> {
    let peers: Vec<SocketAddrAny> = batch.iter().map(|outgoing| outgoing.peer.as_any()).collect();
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
