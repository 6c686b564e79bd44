//! The message layer (RFC 7252 §4 and §5.2): datagrams in, datagrams out, no socket and no clock of its own.
//!
//! A request becomes an [`InboundRequest`] with a ticket; its answer comes back under that ticket. In time it travels on the
//! acknowledgement; otherwise the peer gets an empty acknowledgement, and later a confirmable response that is repeated
//! until it is acknowledged. A non-confirmable request gets a non-confirmable response, once. A response is positive only
//! if the reading's outcome is; what has been answered is answered the same way to a duplicate (see `peers`). What was sent
//! to a multicast or broadcast address as well as to us is left to [`multicast`].
//!
//! Bounded: `exchanges_max` requests await their answer (further ones are told 5.03), `separate_max` responses await
//! their acknowledgement (further ones go out non-confirmable, as §5.2.2 allows). To an unproved address no more than three
//! times the bytes of its request is sent, the empty acknowledgement and retransmissions included ([`request`]).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Instant;

use coap_lite::{MessageType, Packet};
use rand::SeedableRng;
use rand::rngs::StdRng;
use slab::Slab;
use zeroize::Zeroizing;

use super::blocks::{Block, Blocks};
use super::config::Config;
use super::counters::Counters;
use super::deadlines::Deadlines;
use super::endpoints::{Cast, Endpoints};
use super::options;
use super::packet::{self, Head, Message, Response, Unanswered, Verdict};
use super::peers::{Answered, Arrival, Key, Limits, Peers};
use super::resource::{self, Links, Reachability, Wanted};
use crate::acknowledge;
use crate::outcome::{Busy, Outcome, Reason, Rejection, beginning};
use crate::receipt::Answer;

mod multicast;

mod request;

mod separate;

mod slots;

use request::{Request, Waiting};
use slots::{Exchange, SEPARATE_MAX, State, find, slot};

/// Told to an address that may be forged; it fits beside the request for the whole list.
const PROOF_NEEDED: &str = "repeat the Echo, or ask ?rt=citygate.<kind>";

/// A datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub ends: Endpoints,
    pub message: Message,
}

/// A message with readings, to be handed to the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRequest {
    /// Under which the answer is awaited; `None`: it has been refused already and is only to be counted.
    pub ticket: Option<u64>,
    pub peer: SocketAddr,
    pub path: String,
    pub content_type: Cow<'static, str>,
    pub body: Vec<u8>,
    /// Of the whole datagram.
    pub bytes: usize,
    /// What its sender says who it is by, where that is looked for.
    pub key: Option<SenderKey>,
    /// Set if the message is not to be accepted, whatever the pipeline thinks of it.
    pub refusal: Option<Outcome>,
}

/// A key that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct SenderKey(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for SenderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// All exchanges of the listener.
#[derive(Debug)]
pub struct Exchanges {
    config: Config,
    links: Links,
    reachability: Reachability,
    peers: Peers,
    open: Slab<Exchange>,
    /// Responses that await their acknowledgement, by endpoints and message id.
    separate: HashMap<(Endpoints, u16), u64>,
    /// Responses to requests that were multicast, which await their time.
    delayed: usize,
    deadlines: Deadlines,
    generation: u32,
    hasher: RandomState,
    random: StdRng,
    counters: Counters,
}

// === impl Exchanges ===

impl Exchanges {
    /// `seed` decides message ids and the jitter of retransmissions.
    pub fn new(config: &Config, links: Links, counters: Counters, now: Instant, seed: u64) -> Self {
        let limits = Limits {
            messages_per_peer: config.messages_per_peer,
            bytes_max: usize::try_from(config.remembered_bytes_max.as_u64()).unwrap_or(usize::MAX),
            confirmable: config.exchange_lifetime,
            non_confirmable: config.non_lifetime,
        };
        let mut config = config.clone();
        config.separate_max = config.separate_max.min(SEPARATE_MAX);
        Exchanges {
            config,
            links,
            reachability: Reachability::new(now),
            peers: Peers::new(limits, now, seed, counters.forgotten.clone()),
            open: Slab::new(),
            separate: HashMap::new(),
            delayed: 0,
            deadlines: Deadlines::default(),
            generation: 0,
            hasher: RandomState::new(),
            random: StdRng::seed_from_u64(!seed),
            counters,
        }
    }

    /// Processes a datagram: what is to be sent at once is appended to `out`, a message with readings is returned.
    pub fn on_datagram(
        &mut self,
        now: Instant,
        ends: Endpoints,
        cast: Cast,
        datagram: &[u8],
        out: &mut Vec<Outgoing>,
    ) -> Option<InboundRequest> {
        self.counters.received.inc();
        let verdict = packet::check(datagram, self.config.datagram_bytes());
        match (verdict, cast) {
            (Verdict::Ignore(why), _) => self.counters.unanswered(why),
            (verdict, Cast::Multicast) => self.on_multicast(now, ends, datagram, verdict),
            (Verdict::Request(head), _) => return self.on_request(now, ends, datagram, head, out),
            (Verdict::Reject(mid, why), _) => self.reject(ends, mid, why, out),
            (Verdict::Ping(mid), _) => self.reject(ends, mid, Unanswered::Ping, out),
            (Verdict::Acknowledgement(mid), _) => {
                self.counters.unanswered(Unanswered::Acknowledgement);
                self.stop(ends, mid);
            }
            (Verdict::Reset(mid), _) => {
                self.counters.unanswered(Unanswered::Reset);
                self.stop(ends, mid);
            }
        }
        None
    }

    /// Processes the answer to the message of this ticket. A ticket that is no longer open is ignored.
    pub fn on_answer(&mut self, now: Instant, ticket: u64, answer: &Answer, out: &mut Vec<Outgoing>) {
        let Some(Exchange {
            state: State::Waiting(_),
            ..
        }) = self.exchange(ticket)
        else {
            return;
        };
        let exchange = self.open.remove(slot(ticket));
        let State::Waiting(waiting) = exchange.state else {
            return;
        };
        let summary;
        let outcome = match answer {
            Answer::One(outcome) => outcome,
            Answer::Many(outcomes) => {
                summary = acknowledge::summarise(outcomes);
                &summary
            }
        };
        let mut response = response_to(outcome);
        if response.code == packet::TOO_LARGE {
            response.size1 = waiting.request.body_bytes_max;
        }
        if response.is_positive() {
            self.peers.accepted(waiting.request.key);
            response.block1 = waiting.request.block1;
        }
        let text = acknowledge::text(outcome).unwrap_or_default();
        self.answer(now, &waiting, response, text, out);
    }

    /// Does what is due: empty acknowledgements, retransmissions, forgetting.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Vec<Outgoing>) {
        while let Some((at, ticket)) = self.deadlines.pop_due(now) {
            if self.exchange(ticket).is_some_and(|exchange| exchange.due == Some(at)) {
                self.due(now, ticket, out);
            }
        }
        self.peers.expire(now);
    }

    /// When [`Exchanges::on_timeout`] has something to do next (or may have).
    pub fn next_timeout(&self) -> Option<Instant> {
        [self.deadlines.next(), self.peers.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Requests that have not been answered.
    pub fn owed(&self) -> usize {
        self.open.len() - self.separate.len() - self.delayed
    }

    /// Requests that have not been answered, and responses that have not been sent or not been acknowledged.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The memory for duplicates.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The deadline of this exchange has come.
    fn due(&mut self, now: Instant, ticket: u64, out: &mut Vec<Outgoing>) {
        let exchange = &mut self.open[slot(ticket)];
        exchange.due = None;
        match &mut exchange.state {
            State::Waiting(waiting) => {
                waiting.acknowledged = true;
                let key = waiting.request.key;
                self.acknowledge(now, key, out);
            }
            State::Separate(_) => self.repeat(now, ticket, out),
            State::Delayed(_) => self.send_delayed(ticket, out),
        }
    }

    fn on_request(
        &mut self,
        now: Instant,
        ends: Endpoints,
        datagram: &[u8],
        head: Head<'_>,
        out: &mut Vec<Outgoing>,
    ) -> Option<InboundRequest> {
        let kept = datagram.get(..self.config.datagram_bytes()).unwrap_or(datagram);
        let Ok(packet) = Packet::from_bytes(kept) else {
            self.reject(ends, head.mid, Unanswered::Malformed, out);
            return None;
        };
        let key = Key {
            ends,
            mid: head.mid,
            fingerprint: self.hasher.hash_one((ends, kept)),
        };
        let request = Request::new(key, &head, &packet, datagram.len());
        let list = |packet: &Packet, blocks: Blocks| self.discover(now, &request, packet, blocks.response);
        let (wanted, blocks) = resource::find(&packet, head.code, head.oversize, list);
        let request = request.with(blocks);
        match wanted {
            Wanted::Reading(path) => match self.peers.arrive(now, key, head.confirmable) {
                Arrival::New => Some(self.accept(now, request, head.oversize, path, packet, out)),
                Arrival::Duplicate(answered) => {
                    self.on_duplicate(&request, answered, out);
                    None
                }
            },
            Wanted::BadOption(..) if !head.confirmable => {
                self.reject(ends, head.mid, Unanswered::BadOption, out);
                None
            }
            Wanted::Answer(response, text) | Wanted::BadOption(response, text) => {
                self.answer(now, &Waiting::new(request), response, &text, out);
                None
            }
        }
    }

    /// Answers a confirmable duplicate as its original was. One that is not confirmable is dropped; one that waits has its
    /// answer coming.
    fn on_duplicate(&self, request: &Request, answered: Answered, out: &mut Vec<Outgoing>) {
        self.counters.unanswered(Unanswered::Duplicate);
        let (ends, mid) = (request.key.ends, request.key.mid);
        let message = match answered {
            _ if !request.confirmable => return,
            Answered::Nothing => return,
            Answered::Code(packet::EMPTY) => packet::empty(MessageType::Acknowledgement, mid),
            Answered::Code(code) => {
                packet::encode(MessageType::Acknowledgement, mid, &request.token, &Response::new(code))
            }
            Answered::Message(message) => *message,
        };
        out.push(Outgoing { ends, message });
    }

    /// Opens an exchange for a message with readings, or refuses it if there are too many.
    fn accept(
        &mut self,
        now: Instant,
        request: Request,
        oversize: bool,
        path: String,
        packet: Packet,
        out: &mut Vec<Outgoing>,
    ) -> InboundRequest {
        let mut received = InboundRequest {
            ticket: None,
            peer: request.key.ends.peer,
            path,
            content_type: options::media_type(&packet),
            key: self
                .config
                .key_in_query
                .then(|| options::key(&packet))
                .flatten()
                .map(SenderKey),
            body: packet.payload,
            bytes: request.bytes,
            refusal: oversize.then(|| too_large(self.config.datagram_bytes())),
        };
        if self.owed() >= self.config.exchanges_max {
            let busy = Outcome::Busy(Busy::MemoryFull);
            let text = acknowledge::text(&busy).unwrap_or_default();
            self.answer(now, &Waiting::new(request), response_to(&busy), text, out);
            received.refusal = Some(busy);
            return received;
        }
        let due = request.confirmable.then(|| now + self.config.piggyback_timeout);
        let ends = request.key.ends;
        received.ticket = Some(self.insert(ends, due, State::Waiting(Waiting::new(request))));
        received
    }

    /// The list of streams; to an address that may be forged, only if it is short.
    fn discover(&self, now: Instant, request: &Request, packet: &Packet, block: Option<Block>) -> Response {
        let response = self.links.list(packet, block);
        let peer = request.key.ends.peer;
        let proved = || self.reachability.is_proved(now, peer, options::echo(packet));
        if request.room(&response) >= response.payload.len() || proved() {
            return response;
        }
        let mut response = Response {
            echo: Some(self.reachability.challenge(now, peer)),
            ..Response::new(packet::UNAUTHORIZED)
        };
        let room = request.room(&response).min(block.map_or(usize::MAX, Block::bytes));
        response.payload = beginning(PROOF_NEEDED, room).into();
        response
    }

    /// Answers a request in the form that it is due, with as much of `text` as its length allows.
    fn answer(&mut self, now: Instant, waiting: &Waiting, mut response: Response, text: &str, out: &mut Vec<Outgoing>) {
        let request = &waiting.request;
        let ends = request.key.ends;
        if !request.wants(&response) {
            if request.confirmable && !waiting.acknowledged {
                self.acknowledge(now, request.key, out);
            }
            return;
        }
        let may_repeat = waiting.acknowledged && self.separate.len() < self.config.separate_max;
        let transmissions = if may_repeat { 1 + self.config.max_retransmit } else { 1 };
        if response.payload.is_empty() && !text.is_empty() {
            let room = waiting.text_room(&response, transmissions);
            response.payload = beginning(text, room.min(self.config.diagnostic_bytes_max)).into();
        }
        self.counters.response(response.code);
        let encode = |kind, mid| packet::encode(kind, mid, &request.token, &response);
        // As often as the bytes of the request allow; once is as good as non-confirmable.
        let repetitions = match may_repeat {
            true => self.repetitions(waiting.budget() / encode(MessageType::Confirmable, 0).len()),
            false => 0,
        };
        let message = if repetitions > 0 {
            let mid = self.free_mid(ends);
            let message = encode(MessageType::Confirmable, mid);
            self.await_acknowledgement(now, ends, mid, message.clone(), repetitions);
            message
        } else if waiting.acknowledged || !request.confirmable {
            encode(MessageType::NonConfirmable, self.free_mid(ends))
        } else {
            let message = encode(MessageType::Acknowledgement, request.key.mid);
            let answered = match response.is_bare() {
                true => Answered::Code(response.code),
                false => Answered::Message(Box::new(message.clone())),
            };
            self.peers.answered(now, request.key, answered);
            message
        };
        out.push(Outgoing { ends, message });
    }

    fn acknowledge(&mut self, now: Instant, key: Key, out: &mut Vec<Outgoing>) {
        let message = packet::empty(MessageType::Acknowledgement, key.mid);
        self.peers.answered(now, key, Answered::Code(packet::EMPTY));
        let ends = key.ends;
        out.push(Outgoing { ends, message });
    }

    fn reject(&mut self, ends: Endpoints, mid: u16, why: Unanswered, out: &mut Vec<Outgoing>) {
        self.counters.unanswered(why);
        let message = packet::empty(MessageType::Reset, mid);
        out.push(Outgoing { ends, message });
    }

    fn insert(&mut self, ends: Endpoints, due: Option<Instant>, state: State) -> u64 {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = self.open.insert(Exchange {
            generation,
            ends,
            due,
            state,
        });
        let ticket = u64::from(generation) << 32 | slot as u64;
        if let Some(at) = due {
            self.schedule(at, ticket);
        }
        ticket
    }

    fn schedule(&mut self, at: Instant, ticket: u64) {
        let open = &self.open;
        let is_open = |at, ticket| find(open, ticket).is_some_and(|exchange| exchange.due == Some(at));
        self.deadlines.push(at, ticket, open.len(), is_open);
    }

    fn exchange(&self, ticket: u64) -> Option<&Exchange> {
        find(&self.open, ticket)
    }
}

/// The response that an outcome is, without its text.
fn response_to(outcome: &Outcome) -> Response {
    let (class, detail) = acknowledge::coap(outcome);
    let code = packet::code(class, detail);
    let max_age = match *outcome {
        Outcome::Busy(busy) => Some(acknowledge::retry_after_seconds(busy)),
        _ => None,
    };
    Response {
        max_age,
        ..Response::new(code)
    }
}

fn too_large(bytes_max: usize) -> Outcome {
    Rejection::new(
        Reason::TooLarge,
        format!("at most {bytes_max} bytes fit into a datagram"),
    )
    .into()
}

#[cfg(test)]
mod tests;
