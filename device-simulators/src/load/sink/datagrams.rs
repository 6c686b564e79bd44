//! The sink's UDP port. Datagrams are received in batches (GRO), and a peer that sent several gets its answers in one
//! send (GSO), so that the sink stays cheaper than what is compared with it. What is answered is decided in
//! `protocols`.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::sync::Arc;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

use super::{Shared, protocols};
use crate::uplinks::Protocol;

/// Room for what the kernel puts together of one peer.
const ROOM_BYTES: usize = 64 * 1024;

/// Batches received before other sockets are served.
const BATCHES: usize = 8;

#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    state: UdpSocketState,
    shared: Arc<Shared>,
    count: u64,
    input: Vec<u8>,
    output: Vec<u8>,
}

// === impl Datagrams ===

impl Datagrams {
    pub(super) fn new(socket: UdpSocket, shared: Arc<Shared>) -> io::Result<Datagrams> {
        Ok(Datagrams {
            state: UdpSocketState::new((&socket).into())?,
            socket,
            shared,
            count: 0,
            input: vec![0; ROOM_BYTES * BATCH_SIZE],
            output: Vec::new(),
        })
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn serve(&mut self) -> io::Result<()> {
        let mut input = std::mem::take(&mut self.input);
        let before = self.count;
        for _ in 0..BATCHES {
            if !self.serve_batch(&mut input) {
                break;
            }
        }
        self.input = input;
        self.shared.answered(Protocol::Coap, self.count - before);
        Ok(())
    }

    /// Whether there may be more.
    fn serve_batch(&mut self, input: &mut [u8]) -> bool {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut rooms = input.chunks_mut(ROOM_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
        // The error is about an answer to a peer that is gone.
        let Ok(count) = self.state.recv((&self.socket).into(), &mut slices, &mut metas) else {
            return false;
        };
        for (buffer, meta) in input.chunks(ROOM_BYTES).zip(&metas).take(count) {
            self.answer(&buffer[..meta.len], meta);
        }
        count == BATCH_SIZE
    }

    fn answer(&mut self, bytes: &[u8], meta: &RecvMeta) {
        self.output.clear();
        // Answers leave in one send as long as they are of one length, which is that of the first.
        let mut segment = 0;
        for datagram in bytes.chunks(meta.stride.max(1)) {
            let start = self.output.len();
            if protocols::coap(datagram, &mut self.output, &self.shared.behavior, self.count + 1) {
                self.count += 1;
            }
            let length = self.output.len() - start;
            if segment != 0 && length != 0 && length != segment {
                let other = self.output.split_off(start);
                self.send(meta, segment);
                self.output = other;
            }
            if length != 0 {
                segment = length;
            }
        }
        self.send(meta, segment);
    }

    fn send(&self, meta: &RecvMeta, segment: usize) {
        if self.output.is_empty() {
            return;
        }
        let at_once = segment * self.state.max_gso_segments().max(1);
        for contents in self.output.chunks(at_once) {
            let transmit = Transmit {
                destination: meta.addr,
                ecn: None,
                contents,
                segment_size: (contents.len() > segment).then_some(segment),
                src_ip: None,
            };
            // An answer that cannot be sent is lost, as datagrams are; the client retransmits.
            if let Err(error) = self.state.try_send((&self.socket).into(), &transmit) {
                tracing::debug!(%error, "an answer is lost");
            }
        }
    }
}
