//! One UDP port that sends confirmable CoAP POSTs.
//!
//! Everything that is due leaves in one system call: the kernel cuts one buffer into datagrams (UDP GSO), which needs
//! equal lengths, so that readings are padded with blanks to the longest of their device. Answers come in batches
//! likewise. What is not answered is sent again, byte for byte, after 2 to 3 s and twice as long each time (RFC 7252
//! §4.2). With a window of 1, as NSTART asks for (§4.7), each message costs a call of its own.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

use super::clock::Nanos;
use super::coap::{self, Received, TOKEN_BYTES};
use super::codes::Code;
use super::context::{Context, INPUT_BYTES};
use super::poller::{Interest, Ready};
use super::sender::Sender;
use super::slots::{Match, Slots};
use crate::uplinks::Protocol;

const COAP: Protocol = Protocol::Coap;

/// Bytes of one segmented send, below the 65,507 of a datagram.
const SEND_BYTES: usize = 60_000;

/// What must be remembered of a message to send it again.
#[derive(Clone, Copy, Debug, Default)]
struct Message {
    /// Tells this message from those that had its slot before.
    generation: u16,
    id: u16,
    number: u64,
    unix_ms: u64,
    tries: u8,
    /// When it is sent again; `Nanos::MAX` once it was acknowledged.
    again_at: Nanos,
}

/// One UDP port that sends readings.
#[derive(Debug)]
pub struct Port {
    sender: Sender,
    socket: Option<UdpSocket>,
    /// Many datagrams at a time; `None` with a window of 1.
    batches: Option<UdpSocketState>,
    slots: Slots,
    messages: Box<[Message]>,
    next_id: u16,
    retry_at: Nanos,
}

// === impl Port ===

impl Port {
    /// A port whose first message id is `first_id`.
    pub fn new(sender: Sender, window: u16, first_id: u16) -> Port {
        Port {
            sender,
            socket: None,
            batches: None,
            slots: Slots::new(window),
            messages: vec![Message::default(); usize::from(window)].into(),
            next_id: first_id,
            retry_at: 0,
        }
    }

    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    pub fn open(&mut self, context: &mut Context) {
        match self.bind(context) {
            Ok((socket, batches)) => {
                (self.socket, self.batches) = (Some(socket), batches);
                context.up[COAP.index()] += 1;
                self.sender.join(context.now, context);
                self.pump(context);
            }
            Err(error) => {
                context.tally.event(COAP, error.kind().into());
                self.retry_at = context.now + 1_000_000_000;
            }
        }
    }

    fn bind(&self, context: &Context) -> io::Result<(UdpSocket, Option<UdpSocketState>)> {
        let address = context.address(COAP).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let any = match (context.source(self.sender.index), address) {
            (Some(source), _) => source,
            (None, SocketAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (None, SocketAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        let batches = match self.messages.len() {
            0 | 1 => None,
            _ => Some(UdpSocketState::new((&socket).into())?),
        };
        context.poller.add(&socket, self.sender.local_index, Interest::Read)?;
        Ok((socket, batches))
    }

    pub fn ready(&mut self, ready: Ready, context: &mut Context) {
        if ready.readable {
            let mut input = std::mem::take(&mut context.input);
            match self.batches {
                Some(_) => self.receive_batch(&mut input, context),
                None => self.receive_one(&mut input, context),
            }
            context.input = input;
        }
        self.pump(context);
    }

    fn receive_one(&mut self, input: &mut [u8], context: &mut Context) {
        let Some(socket) = &self.socket else { return };
        match socket.recv(input) {
            Ok(length) => self.handle(&input[..length], context),
            Err(error) => self.note_error(&error, context),
        }
    }

    fn receive_batch(&mut self, input: &mut [u8], context: &mut Context) {
        let (Some(socket), Some(batches)) = (&self.socket, &self.batches) else {
            return;
        };
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut rooms = input.chunks_mut(INPUT_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
        let count = match batches.recv(socket.into(), &mut slices, &mut metas) {
            Ok(count) => count,
            Err(error) => return self.note_error(&error, context),
        };
        for (buffer, meta) in input.chunks(INPUT_BYTES).zip(&metas).take(count) {
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                self.handle(datagram, context);
            }
        }
    }

    /// An error of a connected UDP socket is about an earlier datagram, which will time out.
    fn note_error(&mut self, error: &io::Error, context: &mut Context) {
        if error.kind() != io::ErrorKind::WouldBlock {
            context.tally.event(COAP, error.kind().into());
        }
    }

    fn handle(&mut self, datagram: &[u8], context: &mut Context) {
        match coap::parse(datagram) {
            Received::Response {
                token,
                code,
                confirmable,
            } => {
                self.answered(token, Code::Coap(code), context);
                if let Some(id) = confirmable {
                    self.send_plain(&coap::acknowledgement(id), context);
                }
            }
            Received::Acknowledged { id } => {
                if let Some(slot) = self.slot_of(id) {
                    self.messages[usize::from(slot)].again_at = Nanos::MAX;
                }
            }
            Received::Reset { id } => {
                if let Some(slot) = self.slot_of(id) {
                    let matched = self.slots.answer(slot);
                    self.count(matched, Code::CoapReset, context);
                }
            }
            Received::Stray { id } => {
                context.tally.stray(COAP);
                self.send_plain(&coap::reset(id), context);
            }
            Received::Noise => context.tally.stray(COAP),
        }
    }

    fn answered(&mut self, token: [u8; TOKEN_BYTES], code: Code, context: &mut Context) {
        let (slot, generation) = from_token(token);
        let is_current = self
            .messages
            .get(usize::from(slot))
            .is_some_and(|message| message.generation == generation);
        let matched = if is_current {
            self.slots.answer(slot)
        } else {
            Match::Nothing
        };
        self.count(matched, code, context);
    }

    fn count(&mut self, matched: Match, code: Code, context: &mut Context) {
        match matched {
            Match::Waited(due) => context.tally.answered(COAP, code, due, context.now),
            Match::Late | Match::Nothing => context.tally.stray(COAP),
        }
    }

    /// The slot of the message with this id, if it still waits. Needed for separate responses only, so it may search.
    fn slot_of(&self, id: u16) -> Option<u16> {
        let slots = 0..self.messages.len() as u16;
        slots
            .into_iter()
            .find(|slot| self.messages[usize::from(*slot)].id == id && self.slots.waits(*slot).is_some())
    }

    /// Whether something is due that it could send, now or when an answer has made room.
    pub fn is_behind(&self, context: &Context) -> bool {
        self.socket.is_some() && self.sender.due(context).is_some()
    }

    /// Sends what is due and has room.
    pub fn pump(&mut self, context: &mut Context) {
        if self.socket.is_none() {
            return;
        }
        let mut output = std::mem::take(&mut context.output);
        loop {
            output.clear();
            let mut count = 0;
            while output.len() < SEND_BYTES && self.slots.has_room(u16::MAX) {
                let Some(due) = self.sender.due(context) else { break };
                let Some(slot) = self.slots.take(due) else { break };
                self.new_message(slot, context);
                self.encode(&mut output, slot, context);
                context.tally.sent(COAP, due, context.now);
                count += 1;
            }
            if count == 0 {
                break;
            }
            self.send(&output, count, context);
        }
        context.output = output;
    }

    fn new_message(&mut self, slot: u16, context: &Context) {
        let message = &mut self.messages[usize::from(slot)];
        *message = Message {
            generation: message.generation.wrapping_add(1),
            id: self.next_id,
            number: self.sender.advance(context),
            unix_ms: context.stamp.unix_ms,
            tries: 0,
            again_at: context.now + first_timeout(self.next_id),
        };
        self.next_id = self.next_id.wrapping_add(1);
    }

    /// The message of a slot: the same bytes whenever it is asked for.
    fn encode(&self, output: &mut Vec<u8>, slot: u16, context: &Context) {
        let message = &self.messages[usize::from(slot)];
        let pool = context.readings.of(self.sender.kind, self.sender.index);
        let reading = pool.of(message.number);
        coap::post(
            output,
            message.id,
            to_token(slot, message.generation),
            self.sender.place(),
        );
        let observed_at = if message.unix_ms == context.stamp.unix_ms {
            context.stamp.digits
        } else {
            super::readings::Digits::of(message.unix_ms)
        };
        let flaw = context.settings.flaw(message.number);
        reading.append(output, observed_at, context.first_sequence + message.number, flaw);
        output.resize(output.len() + pool.bytes_max() - reading.len(), b' ');
    }

    /// Sends `count` datagrams of equal length.
    fn send(&mut self, bytes: &[u8], count: usize, context: &mut Context) {
        let (Some(socket), Some(address)) = (&self.socket, context.address(COAP)) else {
            return;
        };
        let length = bytes.len() / count;
        let at_once = self.batches.as_ref().map_or(1, UdpSocketState::max_gso_segments);
        for part in bytes.chunks(length * at_once.max(1)) {
            let sent = match &self.batches {
                Some(batches) if part.len() > length => {
                    batches.try_send(socket.into(), &segmented(address, part, length))
                }
                _ => socket.send(part).map(drop),
            };
            // A datagram that was not sent counts as lost: it is retransmitted when its time comes.
            if let Err(error) = sent
                && error.kind() != io::ErrorKind::WouldBlock
            {
                context.tally.event(COAP, error.kind().into());
            }
        }
    }

    fn send_plain(&mut self, datagram: &[u8], context: &mut Context) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(datagram)
        {
            self.note_error(&error, context);
        }
    }

    /// Retransmissions and time-outs.
    pub fn sweep(&mut self, context: &mut Context) {
        if self.socket.is_none() {
            if self.retry_at != 0 && self.retry_at <= context.now && !context.draining {
                self.open(context);
            }
            return;
        }
        let (now, limit) = (context.now, context.overdue_before());
        let mut expired = Vec::new();
        self.slots.give_up(limit, |slot, due| expired.push((slot, due)));
        for (slot, due) in expired {
            context.tally.unanswered(COAP, Code::NoAnswer, due, now);
            // The generation in the token keeps a late answer from counting as another's.
            self.slots.answer(slot);
        }
        if self.slots.waiting() > 0 {
            self.send_again(context);
        }
        self.pump(context);
    }

    fn send_again(&mut self, context: &mut Context) {
        let mut output = std::mem::take(&mut context.output);
        for slot in 0..self.messages.len() as u16 {
            let message = &mut self.messages[usize::from(slot)];
            if message.again_at > context.now || self.slots.waits(slot).is_none() {
                continue;
            }
            message.tries += 1;
            message.again_at = if message.tries < coap::MAX_RETRANSMIT {
                context.now + (first_timeout(message.id) << message.tries)
            } else {
                Nanos::MAX
            };
            output.clear();
            self.encode(&mut output, slot, context);
            context.tally.retransmitted(COAP);
            self.send_plain(&output, context);
        }
        context.output = output;
    }

    /// The run is over: counts what is left without an answer.
    pub fn finish(&mut self, context: &mut Context) {
        let now = context.now;
        self.slots
            .clear(|due| context.tally.unanswered(COAP, Code::NoAnswer, due, now));
        self.sender.finish(context);
    }
}

/// Between ACK_TIMEOUT and 1.5 times that (ACK_RANDOM_FACTOR), by the id.
fn first_timeout(id: u16) -> Nanos {
    let spread = u64::from(id.wrapping_mul(40_503)) * coap::ACK_TIMEOUT_NS / 2 / 65_536;
    coap::ACK_TIMEOUT_NS + spread
}

fn to_token(slot: u16, generation: u16) -> [u8; TOKEN_BYTES] {
    let ([a, b], [c, d]) = (slot.to_be_bytes(), generation.to_be_bytes());
    [a, b, c, d]
}

fn from_token([a, b, c, d]: [u8; TOKEN_BYTES]) -> (u16, u16) {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

fn segmented(destination: SocketAddr, contents: &[u8], segment: usize) -> Transmit<'_> {
    Transmit {
        destination,
        ecn: None,
        contents,
        segment_size: Some(segment),
        src_ip: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_slot_and_how_often_it_was_lent() {
        for (slot, generation) in [(0, 0), (5, 9), (65_535, 1), (300, 65_535)] {
            assert_eq!(from_token(to_token(slot, generation)), (slot, generation));
        }
    }

    #[test]
    fn the_first_timeout_is_that_of_the_rfc() {
        let all: Vec<Nanos> = (0..=u16::MAX).map(first_timeout).collect();
        assert!(
            all.iter()
                .all(|timeout| (2_000_000_000..3_000_000_000).contains(timeout))
        );
        let mean = all.iter().sum::<Nanos>() / all.len() as u64;
        assert!((2_450_000_000..2_550_000_000).contains(&mean), "{mean}");
    }
}
