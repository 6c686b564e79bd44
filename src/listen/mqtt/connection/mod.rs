//! One connection from CONNECT to its end: one task, one loop, no task or channel per message.
//!
//! A publish is given to the pipeline as it is decoded; its answer arrives in the mailbox, waits its turn in [`Acks`],
//! and all that are ready leave in one write. Pressure is pushed back by not reading: a PUBLISH is decoded only
//! when the window, the byte budget and (3.1.1, which has no *no*) Kafka allow it. While it is not read, a
//! client's keep-alive does not run ([`packets`]).
//!
//! However a connection ends, what was accepted from it is answered first, as long as its client may hear it: from then on
//! it is not read, and stays until the answers are sent, at most `closing_timeout`. Only a client that connects again
//! is not kept waiting: of its old connection, what is known is sent. What outlives the connection is handed to
//! `sessions` before its last packet is sent.

use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::debug;

mod packets;

mod sender;

mod unsent;

use super::acks::{Ack, Acks};
use super::aliases::Aliases;
use super::connect::{self, Client, Ended};
use super::counters::{Close, Pause};
use super::packet::{Refusal, Version};
use super::sessions::State;
use super::shared::Shared;
use super::wire::{Moved, Wire};
use crate::acknowledge::{self, MqttReason};
use crate::deliver::health::Health;
use crate::listen::incomplete::arrival::Late;
use crate::listen::tcp::Connecting;
use crate::listen::tls::ClientCertificate;
use crate::outcome::Outcome;
use crate::receipt::{Answer, InFlightPermit};
use sender::Sender;
use unsent::Unsent;

/// How long a 3.1.1 connection whose reading could not be accepted stays open, unread, before it is closed: it will send
/// the reading again as soon as it is back, so it is delayed for as long as the other protocols ask their devices to
/// wait.
const BUSY_HOLD: Duration = Duration::from_secs(acknowledge::RETRY_AFTER_SECONDS as u64);

/// Unsent bytes of answers beyond which no more packets are read.
const OUTBOUND_BYTES_MAX: usize = 16 * 1024;

/// A timer that is not needed is set this far ahead.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

type Waiting = Pin<Box<dyn Future<Output = InFlightPermit> + Send>>;

struct Session<'a, S> {
    shared: &'a Shared,
    wire: Wire<S>,
    peer: SocketAddr,
    sender: Sender,
    client: Client,
    state: State,
    acks: Acks,
    aliases: Aliases,
    health: watch::Receiver<Health>,
    kafka_up: bool,
    // The permit of the PUBLISH at the front of the buffer, or the wait for it.
    permit: Option<InFlightPermit>,
    waiting: Option<Waiting>,
    // Reused from wake to wake.
    arrived: Vec<(u64, Answer)>,
    pause: Option<Pause>,
    // Since when no packet was read because of it.
    paused_since: Option<Instant>,
    ending: Option<Ending>,
    heard_at: Instant,
    unsent: Unsent,
    // Since when a busy 3.1.1 client is delayed.
    busy_since: Option<Instant>,
    // When a client that has sent more than its rate allows is read again.
    over_rate_until: Option<Instant>,
}

/// A connection that is not read any more and still owes answers.
#[derive(Clone, Copy, Debug)]
struct Ending {
    close: Close,
    /// It closes then, whatever it owes.
    due: Instant,
}

enum Event {
    Halted,
    Moved(io::Result<Moved>),
    Answers,
    Permit(InFlightPermit),
    Health,
    Identities,
    CertificateRefused,
    Timer,
}

/// Runs a connection to its end; it is `connecting` until its CONNECT is accepted. The last packets for its client are in the
/// returned wire's `outbound`.
pub async fn serve<S>(
    mut wire: Wire<S>,
    peer: SocketAddr,
    certificate: Option<ClientCertificate>,
    connecting: Connecting,
    shared: &Shared,
) -> (Wire<S>, Ended)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let opened = tokio::select! {
        biased;
        () = shared.context.stopping.cancelled() => Err(Close::Stopping.into()),
        opened = tokio::time::timeout(
            shared.config.connect_timeout,
            connect::receive(&mut wire, shared.config.packet_bytes_max()),
        ) => opened.unwrap_or(Err(Close::ConnectTimeout.into())),
    };
    let connect = match opened {
        Ok(connect) => connect,
        Err(ended) => return (wire, ended),
    };
    // Nothing of it is kept while it waits for its refusal.
    wire.arrival.stop();
    wire.settle();
    let sender = tokio::select! {
        biased;
        () = shared.context.stopping.cancelled() => return (wire, Close::Stopping.into()),
        sender = Sender::identify(shared, peer, &connect.login, certificate) => sender,
    };
    let sender = match sender {
        Ok(sender) => sender,
        Err(denied) => {
            let ended = connect::refuse(&connect, Refusal::Denied(denied), &mut wire);
            return (wire, ended);
        }
    };
    drop(connecting);
    let (client, mut connack) = connect::agree(connect, &shared.config);
    shared.counters.received(1);
    shared.counters.connected(client.encoder.version);
    let halt = shared.context.stopping.child_token();
    let key = sender.session_key(&client.id);
    let (ownership, mut state) = shared.sessions.enter(&key, client.clean, halt.clone()).await;
    if let Some(will) = state.as_mut().and_then(|state| state.will.take()) {
        will.delete();
    }
    connack.session_present = state.is_some();
    let version = client.encoder.version;
    debug!(
        %peer,
        client = client.id,
        ?version,
        session_present = state.is_some(),
        "mqtt client connected"
    );
    client.encoder.connack(connack, &mut wire.outbound);
    let mut session = Session::new(shared, wire, (peer, sender), client, state.unwrap_or_default());
    let close = session.run(&halt).await;
    // What has become known meanwhile.
    session.collect();
    session.answer();
    shared.counters.unanswered(session.acks.len());
    let Session {
        mut wire,
        mut client,
        state,
        acks,
        ..
    } = session;
    let next_number = acks.next();
    let will = client.will.take();
    let will = will.and_then(|will| shared.wills.connection_ended(&client.id, will, client.keep));
    let state = State {
        next_number,
        will,
        ..state
    };
    ownership.release(state, client.keep);
    if let Some((reason, why)) = close.told() {
        client.encoder.disconnect(reason, why, &mut wire.outbound);
    }
    let ended = Ended {
        close,
        why: close.told().map_or("", |(_, why)| why),
        client_id: client.id,
    };
    (wire, ended)
}

// === impl Session ===

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    fn new(
        shared: &'a Shared,
        wire: Wire<S>,
        (peer, sender): (SocketAddr, Sender),
        client: Client,
        state: State,
    ) -> Self {
        let mut health = shared.context.health.clone();
        let kafka_up = health.borrow_and_update().accepts_readings();
        Session {
            acks: Acks::starting_at(state.next_number),
            aliases: Aliases::new(shared.config.topic_alias_maximum),
            shared,
            wire,
            peer,
            sender,
            client,
            state,
            health,
            kafka_up,
            permit: None,
            waiting: None,
            arrived: Vec::new(),
            pause: None,
            paused_since: None,
            ending: None,
            heard_at: Instant::now(),
            unsent: Unsent::default(),
            busy_since: None,
            over_rate_until: None,
        }
    }

    async fn run(&mut self, halt: &CancellationToken) -> Close {
        let mut halted = pin!(halt.cancelled());
        let mut changes = pin!(self.sender.changes());
        let mut refused = pin!(self.sender.until_certificate_refused());
        let mut sleep = pin!(tokio::time::sleep_until(self.next_deadline().0));
        loop {
            if let Err(close) = self.work().or_else(|close| self.end(close)) {
                return close;
            }
            let before = self.wire.outbound.len();
            if self.wire.send_now().await.is_err() {
                return Close::Network;
            }
            self.unsent.note(before, self.wire.outbound.len(), Instant::now);
            if self.may_read_on() {
                continue;
            }
            if let Some(ending) = self.ending
                && self.acks.is_empty()
                && self.wire.outbound.is_empty()
            {
                return ending.close;
            }
            // Moved forward at once, backward only when it fires: most wakes leave the timer alone.
            let (due, _) = self.next_deadline();
            if due < sleep.deadline() {
                sleep.as_mut().reset(due);
            }
            let before = self.wire.outbound.len();
            let told = (halted.as_mut(), changes.as_mut(), refused.as_mut());
            let event = self.event(told, sleep.as_mut()).await;
            match event {
                Event::Identities => changes.set(self.sender.changes()),
                Event::CertificateRefused => refused.set(self.sender.until_certificate_refused()),
                _ => {}
            }
            self.unsent.note(before, self.wire.outbound.len(), Instant::now);
            let handled = self.handle(event, sleep.as_mut());
            if let Err(close) = handled.or_else(|close| self.end(close)) {
                return close;
            }
        }
    }

    async fn event(
        &mut self,
        (halted, changes, refused): (
            Pin<&mut WaitForCancellationFuture<'_>>,
            Pin<&mut impl Future<Output = ()>>,
            Pin<&mut impl Future<Output = ()>>,
        ),
        sleep: Pin<&mut Sleep>,
    ) -> Event {
        let reading = self.is_reading();
        let kafka_unavailable = self.pause == Some(Pause::KafkaUnavailable);
        // Once it ends, the drain has nothing to add.
        let stopping = self.ending.is_some() && self.shared.context.stopping.is_cancelled();
        let (wire, mailbox) = (&mut self.wire, &self.state.mailbox);
        tokio::select! {
            biased;
            () = halted, if !stopping => Event::Halted,
            moved = poll_fn(|context| wire.poll(context, reading)) => Event::Moved(moved),
            () = mailbox.wait() => Event::Answers,
            permit = granted(&mut self.waiting) => Event::Permit(permit),
            () = changed(&mut self.health), if kafka_unavailable => Event::Health,
            () = changes => Event::Identities,
            () = refused => Event::CertificateRefused,
            () = sleep => Event::Timer,
        }
    }

    fn handle(&mut self, event: Event, sleep: Pin<&mut Sleep>) -> Result<(), Close> {
        match event {
            Event::Halted if self.shared.context.stopping.is_cancelled() => self.stop(),
            Event::Halted => return Err(Close::TakenOver),
            Event::Moved(Ok(Moved::Read(0))) => return Err(Close::HungUp),
            Event::Moved(Ok(Moved::Read(count))) => self.heard(count),
            Event::Moved(Ok(Moved::Evicted(why))) => return Err(self.refuse_rest(Close::Evicted(why))),
            Event::Moved(Err(_)) => return Err(Close::Network),
            // What was sent has been noted, and what arrived is collected before the next wait.
            Event::Moved(Ok(Moved::Sent)) | Event::Answers => {}
            Event::Permit(permit) => (self.permit, self.waiting) = (Some(permit), None),
            Event::Identities => self.sender.recheck(self.shared).map_err(Close::Revoked)?,
            Event::CertificateRefused => return Err(Close::CertificateRefused),
            Event::Health => self.kafka_up = self.health.borrow().accepts_readings(),
            Event::Timer => {
                let (due, close) = self.next_deadline();
                match close {
                    Some(close) if due <= Instant::now() => return Err(self.refuse_rest(close)),
                    // What it waited for is looked at again.
                    None if due <= Instant::now() => {
                        self.over_rate_until = None;
                        sleep.reset(self.next_deadline().0);
                    }
                    _ => sleep.reset(due),
                }
            }
        }
        Ok(())
    }

    fn heard(&mut self, bytes: usize) {
        let now = Instant::now();
        self.heard_at = now;
        self.wire.arrival.received(bytes, now);
    }

    fn is_reading(&self) -> bool {
        self.pause.is_none() && self.ending.is_none() && self.busy_since.is_none()
    }

    /// When something is to be done although nothing happens: to close, for a reason, or to go on.
    fn next_deadline(&self) -> (Instant, Option<Close>) {
        let config = &self.shared.config;
        let after = |since: Option<Instant>, wait: Duration, close| since.map(|since| (since + wait, Some(close)));
        // Who is not read cannot be late, nor silent.
        let reading = self.is_reading();
        let arrival = &self.wire.arrival;
        [
            after(
                (reading && !arrival.waits()).then_some(self.heard_at),
                self.client.silence_max,
                Close::KeepAlive,
            ),
            arrival
                .due()
                .filter(|_| reading)
                .map(|(due, late)| (due, Some(late.into()))),
            after(self.unsent.since, config.packet_timeout, Close::Stalled),
            // Whatever it waits for has a deadline of its own; this is the last resort.
            after(self.pause.and(self.paused_since), config.idle_timeout, Close::NotRead),
            after(
                self.busy_since,
                if self.ending.is_some() {
                    Duration::ZERO
                } else {
                    BUSY_HOLD
                },
                Close::Busy,
            ),
            self.ending.map(|ending| (ending.due, Some(ending.close))),
            self.over_rate_until
                .filter(|_| self.pause == Some(Pause::OverRate) && self.busy_since.is_none())
                .map(|until| (until, None)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(due, _)| *due)
        .unwrap_or_else(|| (Instant::now() + FAR, None))
    }

    /// Ends the connection: from now on it only answers what was accepted, or it closes at once (`Err`), because its
    /// client is gone, nothing may be answered, or the time for that is over.
    fn end(&mut self, close: Close) -> Result<(), Close> {
        match self.ending {
            // Its client does not wait any longer; it ends for the reason that it had.
            Some(ending) if close == Close::TakenOver => Err(ending.close),
            None if close.answers_first() => {
                let due = Instant::now() + self.shared.config.closing_timeout;
                self.stop_reading(Ending { close, due });
                Ok(())
            }
            _ => Err(close),
        }
    }

    /// The gateway drains: every reading has its outcome by the drain's deadline.
    fn stop(&mut self) {
        let due = Instant::now() + FAR;
        let close = Close::Stopping;
        self.stop_reading(Ending { close, due });
    }

    fn stop_reading(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.pause = None;
        (self.permit, self.waiting) = (None, None);
        self.wire.discard();
    }

    // Whether there is more to do now that the client has received our answers.
    fn may_read_on(&self) -> bool {
        self.busy_since.is_none() && self.pause == Some(Pause::Output) && self.wire.outbound.len() < OUTBOUND_BYTES_MAX
    }

    /// Everything that can be done without waiting: answers out, packets in, until there is no more of either.
    fn work(&mut self) -> Result<(), Close> {
        loop {
            self.collect();
            self.answer();
            if self.ending.is_some() || self.busy_since.is_some() || !self.read_packets()? {
                break;
            }
        }
        self.wire.settle();
        Ok(())
    }

    /// Notes the outcomes that have arrived.
    fn collect(&mut self) {
        let mut arrived = std::mem::take(&mut self.arrived);
        self.state.mailbox.take(&mut arrived);
        for (ticket, answer) in arrived.drain(..) {
            let outcome = match answer {
                Answer::One(outcome) => outcome,
                Answer::Many(outcomes) => acknowledge::summarise(&outcomes),
            };
            self.settle(ticket, outcome);
        }
        self.arrived = arrived;
    }

    fn settle(&mut self, ticket: u64, outcome: Outcome) {
        let positive = match self.client.encoder.version {
            Version::V3 => acknowledge::mqtt_v3_acknowledges(&outcome),
            Version::V5 => acknowledge::mqtt(&outcome) == MqttReason::Success,
        };
        if self.acks.is_own(ticket) {
            if let Some(pending) = self.acks.fill(ticket, outcome)
                && pending.ack == Ack::PubRec
            {
                self.state.qos2.settle(ticket, positive);
            }
        } else if let Some(slot) = self.state.qos2.settle(ticket, positive) {
            // Accepted by an earlier connection of this session; due here if the client has asked again.
            if slot != ticket {
                self.acks.fill(slot, outcome);
            }
        }
    }

    /// Writes the answers whose turn it is.
    fn answer(&mut self) {
        while self.busy_since.is_none()
            && let Some((ack, pkid, outcome)) = self.acks.pop()
        {
            let encoder = self.client.encoder;
            let reason = match encoder.version {
                Version::V5 => acknowledge::mqtt(&outcome),
                Version::V3 if acknowledge::mqtt_v3_acknowledges(&outcome) => MqttReason::Success,
                // Nothing may be answered out of turn, so nothing is answered any more.
                Version::V3 => {
                    self.busy_since = Some(Instant::now());
                    return;
                }
            };
            let text = acknowledge::text(&outcome);
            match ack {
                Ack::PubAck => encoder.puback(pkid, reason, text, &mut self.wire.outbound),
                Ack::PubRec => encoder.pubrec(pkid, reason, text, &mut self.wire.outbound),
            }
        }
    }
}

impl From<Late> for Close {
    fn from(late: Late) -> Self {
        match late {
            Late::TooSlow => Close::TooSlow,
            Late::NoMemory => Close::NoMemory,
        }
    }
}

async fn granted(waiting: &mut Option<Waiting>) -> InFlightPermit {
    match waiting {
        Some(waiting) => waiting.await,
        None => pending().await,
    }
}

async fn changed(health: &mut watch::Receiver<Health>) {
    if health.changed().await.is_err() {
        // Kafka is not watched any more; what is known last stays.
        pending().await
    }
}
