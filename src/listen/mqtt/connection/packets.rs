//! What comes over a connection: which packets may be decoded now, and what each of them does.
//!
//! A PUBLISH is judged by its first bytes, before its body is read: too large ends the connection, a full window pauses
//! its reading. What has arrived of it is charged by the [`wire`](crate::listen::mqtt::wire); its permit is acquired when it
//! has arrived whole. Other packets are always decoded, so pings and releases in front of a PUBLISH that waits are answered.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{OUTBOUND_BYTES_MAX, Session};
use crate::listen::mqtt::acks::Ack;
use crate::listen::mqtt::counters::{Close, Pause};
use crate::listen::mqtt::packet::{
    self, DisconnectReason, Fault, Head, Packet, Publish, TOO_LARGE, Version, protocol_error,
};
use crate::listen::mqtt::qos2::{self, Seen};
use crate::message::{DeadLetters, Inbound, Policy};
use crate::outcome::{Outcome, Reason, Rejection};
use crate::receipt::Reply;

/// How often a client is told at most that it has sent more than its rate allows.
const REFUSED_EVERY: Duration = Duration::from_millis(100);

/// What was done with the packet at the front of the buffer.
enum Step {
    /// Decoded; whether the pipeline was given something.
    Decoded(bool),
    /// Left there for this reason.
    Paused(Pause),
    /// Not arrived whole.
    Short,
}

// === impl Session ===

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Decodes packets from the buffer until one must stay there; whether the pipeline was given any.
    pub fn read_packets(&mut self) -> Result<bool, Close> {
        // Also of a client that never stops sending.
        self.sender.recheck(self.shared).map_err(Close::Revoked)?;
        if self.health.has_changed().unwrap_or(false) {
            self.kafka_up = self.health.borrow_and_update().accepts_readings();
        }
        let (mut given, mut taken) = (false, false);
        let pause = loop {
            match self.next_packet()? {
                Step::Decoded(publish) => {
                    self.wire.arrival.stop();
                    taken = true;
                    given |= publish;
                }
                Step::Paused(pause) => break Some(pause),
                Step::Short => break None,
            }
        };
        if pause.is_some() {
            self.wire.arrival.stop();
        } else if !self.wire.inbound.is_empty() {
            self.wire.arrival.start();
        }
        if pause.is_some() && (taken || pause != self.pause) {
            self.paused_since = Some(Instant::now());
        }
        if pause != self.pause {
            match pause {
                Some(reason) => self.shared.counters.paused(reason),
                None => self.heard_at = Instant::now(),
            }
            self.pause = pause;
        }
        Ok(given)
    }

    fn next_packet(&mut self) -> Result<Step, Close> {
        if self.wire.outbound.len() >= OUTBOUND_BYTES_MAX {
            return Ok(Step::Paused(Pause::Output));
        }
        let Some(head) = packet::head(&self.wire.inbound, self.client.is_3_1)? else {
            return Ok(Step::Short);
        };
        if head.packet_bytes > self.shared.config.packet_bytes_max() {
            return Err(self.refuse_too_large(&head));
        }
        if head.is_publish()
            && let Some(pause) = self.must_wait(&head)
        {
            return Ok(Step::Paused(pause));
        }
        self.wire.missing = head.packet_bytes.saturating_sub(self.wire.inbound.len());
        if self.wire.missing > 0 {
            return Ok(Step::Short);
        }
        let packet = packet::decode(self.client.encoder.version, &head, &mut self.wire.inbound)?;
        self.shared.counters.received(head.kind());
        self.take(packet).map(Step::Decoded)
    }

    /// Whether the PUBLISH at the front may be read; its body need not have arrived yet.
    fn must_wait(&mut self, head: &Head) -> Option<Pause> {
        let version = self.client.encoder.version;
        if version == Version::V3 && !self.kafka_up {
            // What it would occupy is needed by those who can be told *no*.
            (self.permit, self.waiting) = (None, None);
            return Some(Pause::KafkaUnavailable);
        }
        if let Some(pause) = self.over_rate() {
            return Some(pause);
        }
        // Also with MQTT 5, though it could be told 0x93 [§3.3.4]: clients send more than the Receive Maximum at once, and
        // waiting costs them less than a disconnect. PUBACK and PUBREC end the wait, for which no packet behind this one is
        // needed; QoS 2 ids that are not released have a bound of their own (`qos2_ids_max`).
        if head.qos() > 0 && self.acks.len() >= self.shared.config.window() {
            return Some(Pause::Window);
        }
        // Its permit is acquired when it has arrived whole: who sends a part and waits must not occupy what others need.
        let needed = self.permit.is_none() && self.wire.inbound.len() >= head.packet_bytes;
        needed.then(|| self.ask_for(head.packet_bytes)).flatten()
    }

    /// Whether its client has sent more than its rate allows, and is not read: MQTT 3.1.1 until it may send again, MQTT 5, which is
    /// told 0x97, for a moment after each, or it could go on as fast as the network is.
    fn over_rate(&mut self) -> Option<Pause> {
        let now = Instant::now();
        let wait = self.sender.over_rate(self.shared, self.peer)?;
        let until = match self.client.encoder.version {
            Version::V3 => now + wait,
            Version::V5 if self.over_rate_until.is_some_and(|until| now < until) => self.over_rate_until?,
            Version::V5 => {
                self.over_rate_until = Some(now + REFUSED_EVERY.min(wait));
                return None;
            }
        };
        // What it would occupy is needed by others.
        (self.permit, self.waiting) = (None, None);
        self.over_rate_until = Some(until);
        if self.client.encoder.version == Version::V3 && self.pause != Some(Pause::OverRate) {
            self.shared
                .context
                .pipeline
                .note_over_rate(&self.sender.origin(self.peer), wait);
        }
        Some(Pause::OverRate)
    }

    // Acquires `bytes` of `limits.in_flight_bytes` now, or starts to wait for them.
    fn ask_for(&mut self, bytes: usize) -> Option<Pause> {
        if self.waiting.is_some() {
            return Some(Pause::InFlightBytes);
        }
        let budget = &self.shared.context.in_flight_bytes;
        self.permit = budget.try_bytes(bytes);
        if self.permit.is_some() {
            return None;
        }
        let budget = budget.clone();
        self.waiting = Some(Box::pin(async move { budget.bytes(bytes).await }));
        Some(Pause::InFlightBytes)
    }

    fn refuse_too_large(&self, head: &Head) -> Close {
        if head.is_publish() {
            let most = self.shared.config.packet_bytes_max();
            let detail = format!("{} bytes in one packet, at most {most} are accepted", head.packet_bytes);
            self.refuse(head, Rejection::new(Reason::TooLarge, detail).into());
        }
        TOO_LARGE.into()
    }

    /// Counts the reading of which a part has arrived, if the rest is not read because of `close`.
    pub fn refuse_rest(&self, close: Close) -> Close {
        if let Some(outcome) = close.outcome()
            && let Ok(Some(head)) = packet::head(&self.wire.inbound, self.client.is_3_1)
            && head.is_publish()
        {
            self.refuse(&head, outcome);
        }
        close
    }

    fn refuse(&self, head: &Head, outcome: Outcome) {
        let topic = packet::topic_of_part(head, &self.wire.inbound);
        let pipeline = &self.shared.context.pipeline;
        pipeline.refuse(&self.sender.origin(self.peer), topic, outcome, Reply::Nobody);
    }

    // Whether the pipeline was given something.
    fn take(&mut self, packet: Packet) -> Result<bool, Close> {
        let encoder = self.client.encoder;
        let outbound = &mut self.wire.outbound;
        match packet {
            Packet::Publish(publish) => return self.publish(&publish).map(|()| true),
            Packet::PubRel { pkid } => {
                let found = self.state.qos2.release(pkid);
                encoder.pubcomp(pkid, found, outbound);
            }
            Packet::PubRec { pkid } => encoder.pubrel_unknown(pkid, outbound),
            Packet::PubAckOrComp => {}
            Packet::Subscribe { pkid, filters } => encoder.suback(pkid, filters, outbound),
            Packet::Unsubscribe { pkid, filters } => encoder.unsuback(pkid, filters, outbound),
            Packet::PingReq => encoder.pingresp(outbound),
            Packet::Disconnect {
                reason,
                session_expiry_s,
            } => return Err(self.leaving(reason, session_expiry_s)),
        }
        Ok(false)
    }

    fn leaving(&mut self, reason: u8, session_expiry_s: Option<u32>) -> Close {
        if let Some(seconds) = session_expiry_s {
            let most = self.shared.config.session_expiry_max;
            if self.client.keep.is_zero() && seconds > 0 && !most.is_zero() {
                // [MQTT-3.14.2-2]: a session that was to end with its connection cannot be kept after all.
                return protocol_error("a Session Expiry Interval in DISCONNECT after none in CONNECT").into();
            }
            let asked = Duration::from_secs(seconds.into());
            self.client.keep = asked.min(most);
        }
        // [MQTT-3.14.4-3]; any other reason leaves the will to be published.
        if reason == 0 {
            self.client.will = None;
        }
        Close::Client
    }

    fn publish(&mut self, publish: &Publish) -> Result<(), Close> {
        let permit = self.permit.take();
        let path = self.aliases.topic(publish)?;
        let ticket = match publish.qos {
            0 => None,
            1 => Some(self.acks.push(Ack::PubAck, publish.pkid)),
            _ => {
                let content = qos2::content(path, publish.properties, &publish.payload);
                let ids_max = self.shared.config.qos2_ids_max;
                match self.state.qos2.seen(publish.pkid, content, ids_max) {
                    Seen::New => {
                        let ticket = self.acks.push(Ack::PubRec, publish.pkid);
                        self.state.qos2.accept(publish.pkid, content, ticket);
                        Some(ticket)
                    }
                    seen => return self.repeated(publish.pkid, seen),
                }
            }
        };
        let mailbox = || self.state.mailbox.clone();
        let reply = ticket.map_or(Reply::Nobody, |ticket| Reply::To {
            mailbox: mailbox(),
            ticket,
        });
        let inbound = Inbound {
            origin: self.sender.origin(self.peer),
            path,
            body: &publish.payload,
            content_type: publish.content_type.as_deref().unwrap_or_default(),
            policy: Policy {
                dead_letters: dead_letters(publish.qos, self.client.encoder.version),
                is_paced: self.client.encoder.version == Version::V3,
                ..Policy::default()
            },
        };
        self.shared.context.pipeline.accept(&inbound, permit, reply);
        Ok(())
    }

    // A QoS 2 publish that is no new reading.
    fn repeated(&mut self, pkid: u16, seen: Seen) -> Result<(), Close> {
        match seen {
            Seen::Received => self.acks.push_answered(Ack::PubRec, pkid, Outcome::Delivered),
            // Its one answer is on its way, on this connection.
            Seen::InFlight { slot } if self.acks.is_own(slot) => {}
            Seen::InFlight { .. } => {
                let slot = self.acks.push(Ack::PubRec, pkid);
                self.state.qos2.redirect(pkid, slot);
            }
            Seen::New | Seen::Full => {
                let reason = DisconnectReason::QuotaExceeded;
                let why = "more QoS 2 packet ids open than are remembered";
                return Err(Fault { reason, why }.into());
            }
        }
        Ok(())
    }
}

/// Which rejected readings are kept: all, where the answer to one may be positive. Of QoS 2 a later connection of the session
/// may ask again, in a version of its own.
fn dead_letters(qos: u8, version: Version) -> DeadLetters {
    match qos == 2 || qos == 1 && version == Version::V3 {
        true => DeadLetters::All,
        false => DeadLetters::Allowed,
    }
}
