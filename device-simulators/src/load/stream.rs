//! One TCP connection that sends readings: MQTT or HTTP, in the clear or over TLS.
//!
//! All messages that are due leave in one write, all answers that have come are read at once. A connection that
//! breaks is made anew after a pause; what waited on it is lost and counted as such. One whose credentials are refused
//! stays down. What the kernel does not accept at once is kept, and nothing is added until it is written.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use native_tls::TlsConnector;
use socket2::{Domain, Protocol as Transport, Socket, Type};

use super::clock::{Nanos, nanos};
use super::codes::{Code, Event};
use super::context::Context;
use super::http;
use super::link::{Link, Step, is_later};
use super::mqtt::{self, Malformed};
use super::poller::{Interest, Ready};
use super::sender::Sender;
use super::settings::{Credentials, source_port};
use super::slots::{Match, Slots};
use crate::uplinks::Protocol;

/// How long connecting and the handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a connection is made anew is between this and twice this.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Ports that are tried before a connection counts as failed.
const BIND_ATTEMPTS: usize = 4;

/// Bytes after which a write is made before more is put together.
const WRITE_BYTES: usize = 64 * 1024;

/// One TCP connection that sends readings.
#[derive(Debug)]
pub struct Stream {
    sender: Sender,
    credentials: Credentials,
    /// The line of a request's head that says who sends.
    authorization: String,
    tls: Option<TlsConnector>,
    state: State,
    link: Option<Link>,
    slots: Slots,
    /// What the server allows to be unanswered.
    limit: u16,
    /// HTTP answers in order: the slot whose turn it is.
    turn: u16,
    /// The beginning of an answer whose end has not come.
    partial: Vec<u8>,
    /// What the kernel has not accepted yet.
    unsent: Vec<u8>,
    keep_alive: Nanos,
    last_sent: Nanos,
    ping_sent: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before its time in the ramp.
    New,
    Connecting {
        deadline: Nanos,
    },
    /// The TLS handshake is on its way.
    Securing {
        deadline: Nanos,
    },
    /// MQTT: CONNECT is on its way.
    Greeting {
        deadline: Nanos,
    },
    Up,
    Down {
        retry_at: Nanos,
    },
    /// For good.
    Refused,
}

// === impl Stream ===

impl Stream {
    /// Without a connector in the clear.
    pub fn new(sender: Sender, window: u16, credentials: Credentials, tls: Option<TlsConnector>) -> Stream {
        Stream {
            sender,
            authorization: http::authorization(&credentials),
            credentials,
            tls,
            state: State::New,
            link: None,
            slots: Slots::new(window),
            limit: window,
            turn: 0,
            partial: Vec::new(),
            unsent: Vec::new(),
            keep_alive: Nanos::MAX,
            last_sent: 0,
            ping_sent: None,
        }
    }

    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    pub fn open(&mut self, context: &mut Context) {
        let deadline = context.now + nanos(CONNECT_TIMEOUT);
        context.handshakes += 1;
        self.state = State::Connecting { deadline };
        match self.connect(context) {
            Ok(socket) => self.link = Some(Link::Plain(socket)),
            Err(error) => self.lose(error.kind().into(), context),
        }
    }

    fn connect(&self, context: &Context) -> io::Result<TcpStream> {
        let address = context.address(self.sender.protocol);
        let address: SocketAddr = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Transport::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = context.source(self.sender.index) {
            self.bind(&socket, source, context.settings.sources.len())?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let socket = TcpStream::from(socket);
        context.poller.add(&socket, self.sender.local_index, Interest::Write)?;
        Ok(socket)
    }

    fn bind(&self, socket: &Socket, source: IpAddr, sources: usize) -> io::Result<()> {
        // A port whose last connection is still cooling down may be taken.
        socket.set_reuse_address(true)?;
        let mut outcome = Ok(());
        for attempt in 0..BIND_ATTEMPTS {
            let port = source_port(self.sender.index, sources, attempt);
            outcome = socket.bind(&SocketAddr::new(source, port).into());
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                _ => break,
            }
        }
        outcome
    }

    /// The socket is ready for something.
    pub fn ready(&mut self, ready: Ready, context: &mut Context) {
        match self.state {
            State::Connecting { .. } if ready.writable => return self.connected(context),
            State::Securing { deadline } => return self.secure(deadline, context),
            _ => {}
        }
        if ready.readable {
            self.read(context);
        }
        if ready.writable && !self.unsent.is_empty() {
            self.flush(context);
        }
        self.pump(context);
    }

    fn connected(&mut self, context: &mut Context) {
        let Some(link) = &self.link else { return };
        let outcome = match link.take_error() {
            Ok(None) => context.poller.modify(link, self.sender.local_index, Interest::Read),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match outcome {
            Err(error) => self.lose(error.kind().into(), context),
            Ok(()) if self.tls.is_some() => self.secure(context.now + nanos(CONNECT_TIMEOUT), context),
            Ok(()) => self.begin(context),
        }
    }

    /// Goes on with the TLS handshake as far as it can.
    fn secure(&mut self, deadline: Nanos, context: &mut Context) {
        let (Some(link), Some(tls)) = (self.link.take(), &self.tls) else {
            return;
        };
        self.state = State::Securing { deadline };
        match link.shake(tls) {
            Step::Waits(link) => self.link = Some(link),
            Step::Failed => self.lose(Event::Tls, context),
            Step::Done(link) => {
                self.link = Some(link);
                self.begin(context);
            }
        }
    }

    /// The bytes can flow.
    fn begin(&mut self, context: &mut Context) {
        match self.sender.protocol {
            Protocol::Http => self.rise(context),
            _ => self.greet(context),
        }
    }

    fn greet(&mut self, context: &mut Context) {
        let settings = &context.settings;
        let keep_alive_s = settings.keep_alive.as_secs().clamp(1, 65_535) as u16;
        let mut hello = Vec::with_capacity(64);
        mqtt::connect(
            &mut hello,
            settings.mqtt_version,
            &self.sender.device,
            keep_alive_s,
            &self.credentials,
        );
        self.set_keep_alive(keep_alive_s);
        let deadline = context.now + nanos(CONNECT_TIMEOUT);
        self.state = State::Greeting { deadline };
        self.write(&hello, context);
    }

    /// The connection can be used from now on.
    fn rise(&mut self, context: &mut Context) {
        self.state = State::Up;
        context.handshakes -= 1;
        context.up[self.sender.protocol.index()] += 1;
        self.last_sent = context.now;
        self.sender.join(context.now, context);
        self.pump(context);
    }

    /// Whether something is due that it could send, now or when an answer has made room.
    pub fn is_behind(&self, context: &Context) -> bool {
        self.state == State::Up && self.sender.due(context).is_some()
    }

    /// Sends what is due and has room.
    pub fn pump(&mut self, context: &mut Context) {
        if self.state != State::Up {
            return;
        }
        let mut output = std::mem::take(&mut context.output);
        while self.state == State::Up && self.unsent.is_empty() {
            output.clear();
            while output.len() < WRITE_BYTES && self.slots.has_room(self.limit) {
                let Some(due) = self.sender.due(context) else { break };
                let Some(slot) = self.slots.take(due) else { break };
                self.encode(&mut output, slot, context);
                context.tally.sent(self.sender.protocol, due, context.now);
            }
            if output.is_empty() {
                break;
            }
            self.last_sent = context.now;
            self.write(&output, context);
        }
        context.output = output;
    }

    fn encode(&mut self, output: &mut Vec<u8>, slot: u16, context: &Context) {
        let number = self.sender.advance(context);
        let reading = context.readings.of(self.sender.kind, self.sender.index).of(number);
        let (place, length) = (self.sender.place(), reading.len());
        match self.sender.protocol {
            Protocol::Http => context.head.post(output, place, &self.authorization, length),
            // Packet ids are not 0 [MQTT-2.2.1-3].
            _ => mqtt::publish(output, context.settings.mqtt_version, place, slot + 1, length),
        }
        let flaw = context.settings.flaw(number);
        reading.append(output, context.stamp.digits, context.first_sequence + number, flaw);
    }

    fn write(&mut self, bytes: &[u8], context: &mut Context) {
        let Some(link) = &mut self.link else { return };
        let written = match link.write(bytes) {
            Ok(written) => written,
            Err(error) => return self.lose(error.kind().into(), context),
        };
        let rest = bytes.get(written..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        self.unsent.extend_from_slice(rest);
        if let Err(error) = context.poller.modify(link, self.sender.local_index, Interest::Both) {
            self.lose(error.kind().into(), context);
        }
    }

    fn flush(&mut self, context: &mut Context) {
        let Some(link) = &mut self.link else { return };
        match link.write(&self.unsent) {
            Ok(written) => drop(self.unsent.drain(..written)),
            Err(error) => return self.lose(error.kind().into(), context),
        }
        if !self.unsent.is_empty() {
            return;
        }
        self.unsent = Vec::new();
        if let Err(error) = context.poller.modify(link, self.sender.local_index, Interest::Read) {
            self.lose(error.kind().into(), context);
        }
    }

    fn read(&mut self, context: &mut Context) {
        let Some(link) = &mut self.link else { return };
        let mut input = std::mem::take(&mut context.input);
        let kept = self.partial.len();
        input[..kept].copy_from_slice(&self.partial);
        let outcome = match link.read(&mut input[kept..]) {
            Ok(0) => Err(Event::Closed),
            Ok(count) => self.scan(&input[..kept + count], context),
            Err(error) if is_later(&error) => Ok(()),
            Err(error) => Err(error.kind().into()),
        };
        context.input = input;
        if let Err(event) = outcome {
            self.lose(event, context);
        }
    }

    /// Handles the answers that are complete, and keeps the rest.
    fn scan(&mut self, bytes: &[u8], context: &mut Context) -> Result<(), Event> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let length = match self.sender.protocol {
                Protocol::Http => self.handle_http(rest, context)?,
                _ => self.handle_mqtt(rest, context)?,
            };
            if length == 0 {
                break;
            }
            taken += length;
        }
        self.partial.clear();
        self.partial.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// One packet; returns its length, 0 if it is not complete.
    fn handle_mqtt(&mut self, bytes: &[u8], context: &mut Context) -> Result<usize, Event> {
        let Some((heard, length)) = mqtt::parse(bytes)? else {
            return Ok(0);
        };
        match heard {
            mqtt::Received::PubAck { id, reason } => {
                let matched = self.slots.answer(id.wrapping_sub(1));
                self.answered(matched, Code::Mqtt(reason), context);
            }
            mqtt::Received::ConnAck(connack) => self.greeted(connack, context)?,
            mqtt::Received::PingResp => {
                if let Some(sent) = self.ping_sent.take() {
                    context.tally.pong(self.sender.protocol, context.now - sent);
                }
            }
            mqtt::Received::Disconnect { reason } => return Err(Event::Disconnect(reason)),
            mqtt::Received::Other => {}
        }
        Ok(length)
    }

    fn greeted(&mut self, connack: mqtt::ConnAck, context: &mut Context) -> Result<(), Event> {
        if !matches!(self.state, State::Greeting { .. }) {
            return Err(Event::Malformed);
        }
        if connack.code != 0 {
            return Err(Event::Connack(connack.code));
        }
        self.limit = connack.receive_maximum;
        if let Some(keep_alive_s) = connack.keep_alive_s {
            self.set_keep_alive(keep_alive_s);
        }
        self.rise(context);
        Ok(())
    }

    /// One response; returns its length, 0 if it is not complete.
    fn handle_http(&mut self, bytes: &[u8], context: &mut Context) -> Result<usize, Event> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let Some((heard, length)) = http::parse(bytes)? else {
            return Ok(0);
        };
        let matched = self.slots.answer(self.turn);
        self.turn = (self.turn + 1) % context.settings.window(Protocol::Http).max(1);
        self.answered(matched, Code::Http(heard.status), context);
        match (matched, heard.closes) {
            (Match::Nothing, _) => Err(Event::Malformed),
            (_, true) => Err(Event::Closed),
            (_, false) => Ok(length),
        }
    }

    fn answered(&mut self, matched: Match, code: Code, context: &mut Context) {
        match matched {
            Match::Waited(due) => context.tally.answered(self.sender.protocol, code, due, context.now),
            Match::Late | Match::Nothing => context.tally.stray(self.sender.protocol),
        }
    }

    /// Three quarters of what was agreed: the server waits for one and a half times that (MQTT 5 §3.1.2.10).
    fn set_keep_alive(&mut self, keep_alive_s: u16) {
        self.keep_alive = match keep_alive_s {
            0 => Nanos::MAX,
            seconds => u64::from(seconds) * 750_000_000,
        };
    }

    /// Retries, time-outs, keep-alive.
    pub fn sweep(&mut self, context: &mut Context) {
        match self.state {
            State::Down { retry_at } if retry_at <= context.now && !context.draining => self.open(context),
            State::Connecting { deadline } | State::Securing { deadline } | State::Greeting { deadline }
                if deadline <= context.now =>
            {
                self.lose(Event::TimedOut, context);
            }
            State::Up => self.sweep_up(context),
            _ => {}
        }
    }

    fn sweep_up(&mut self, context: &mut Context) {
        let (protocol, now, limit) = (self.sender.protocol, context.now, context.overdue_before());
        let mut expired = 0;
        self.slots.give_up(limit, |_, due| {
            expired += 1;
            context.tally.unanswered(protocol, Code::NoAnswer, due, now);
        });
        // What follows on this connection would have to wait for that answer too.
        if expired > 0 && protocol == Protocol::Http {
            return self.lose(Event::TimedOut, context);
        }
        if self.ping_sent.is_some_and(|sent| sent < limit) {
            return self.lose(Event::TimedOut, context);
        }
        let is_quiet = now.saturating_sub(self.last_sent) >= self.keep_alive;
        if protocol == Protocol::Mqtt && is_quiet && self.ping_sent.is_none() && self.unsent.is_empty() {
            self.last_sent = now;
            self.ping_sent = Some(now);
            self.write(&mqtt::PINGREQ, context);
        }
    }

    /// The connection is of no use any more.
    fn lose(&mut self, event: Event, context: &mut Context) {
        let (protocol, now) = (self.sender.protocol, context.now);
        match self.state {
            State::Connecting { .. } | State::Securing { .. } | State::Greeting { .. } => context.handshakes -= 1,
            State::Up => context.up[protocol.index()] -= 1,
            State::New | State::Down { .. } | State::Refused => return,
        }
        context.tally.event(protocol, event);
        self.slots
            .clear(|due| context.tally.unanswered(protocol, Code::ConnectionLost, due, now));
        // Spread over as much again, so that what broke together does not come back together.
        let pause = nanos(RETRY_PAUSE);
        let spread = self.sender.index as u64 * 7_919 * 1_000_000 % pause;
        self.state = match event.is_refusal() {
            true => State::Refused,
            false => State::Down {
                retry_at: now + pause + spread,
            },
        };
        (self.link, self.turn, self.ping_sent) = (None, 0, None);
        self.partial = Vec::new();
        self.unsent = Vec::new();
    }

    /// The run is over: disconnects, and counts what is left without an answer.
    pub fn finish(&mut self, context: &mut Context) {
        let (protocol, now) = (self.sender.protocol, context.now);
        self.slots
            .clear(|due| context.tally.unanswered(protocol, Code::NoAnswer, due, now));
        self.sender.finish(context);
        if let (State::Up, Protocol::Mqtt, Some(link)) = (self.state, protocol, &mut self.link) {
            // Whether it arrives makes no difference to anybody here.
            link.write(&mqtt::DISCONNECT).unwrap_or_default();
        }
    }
}

impl From<Malformed> for Event {
    fn from(_: Malformed) -> Event {
        Event::Malformed
    }
}
