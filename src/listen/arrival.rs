//! A message that arrives over MQTT or HTTP: the room that its first part takes, how slowly the rest may come, and how
//! long it may wait for room.
//!
//! While it waits for room it is not read, so its pace is paused; but no wait is longer than the grace time of its rate.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::incomplete::{Evicted, FREE_BYTES, Part, PeerRoom};
use super::pace::{Pace, Rate};

/// What a connection knows of the message that arrives.
#[derive(Debug)]
pub struct Arrival {
    rate: Rate,
    part: Option<Part>,
    // While it is up to the peer to send the rest.
    pace: Option<Pace>,
}

/// Why a message is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It fell behind its rate.
    TooSlow,
    /// It waited for room in vain.
    NoRoom,
}

// === impl Arrival ===

impl Arrival {
    /// Of a message that has not begun; it may come at `rate`, and wait for room for its grace time.
    pub fn new(rate: Rate) -> Self {
        Arrival {
            rate,
            part: None,
            pace: None,
        }
    }

    /// The rest is awaited from now on, unless it was already.
    pub fn start(&mut self) {
        if self.pace.is_none() {
            self.pace = Some(self.rate.start(Instant::now()));
        }
    }

    /// It is there whole, or the gateway does not read it: it cannot be late.
    pub fn stop(&mut self) {
        self.pace = None;
    }

    /// Notes that `bytes` more were read at `now`.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        if let Some(pace) = &mut self.pace {
            pace.arrived(bytes, now);
        }
    }

    /// Charges to `room` the `bytes` of it that are there.
    pub fn charge(&mut self, bytes: usize, room: &PeerRoom) {
        match &mut self.part {
            None if bytes <= FREE_BYTES => {}
            None => self.part = Some(room.enter(bytes)),
            Some(part) if bytes > FREE_BYTES => part.arrived(bytes),
            Some(_) => self.part = None,
        }
    }

    /// The room that it has, which is given back when dropped.
    pub fn into_part(self) -> Option<Part> {
        self.part
    }

    pub fn has_part(&self) -> bool {
        self.part.is_some()
    }

    /// How many bytes may be read now, `None` while nothing is charged for it; pending while there is no room for more.
    /// Call it before each attempt to read, as [`Part::poll_turn`].
    ///
    /// # Errors
    /// The message is given up.
    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<usize>, Evicted>> {
        let Some(part) = &mut self.part else {
            return Poll::Ready(Ok(None));
        };
        let waited_since = part.waits_since();
        let turn = ready!(part.poll_turn(context));
        if let (Some(since), Some(pace)) = (waited_since, &mut self.pace) {
            pace.paused(Instant::now() - since);
        }
        Poll::Ready(turn.map(Some))
    }

    /// The gateway does not read it now for reasons of its own.
    pub fn hold(&mut self) {
        if let Some(part) = &mut self.part {
            part.hold();
        }
    }

    /// Whether there is data of it for which there is no room.
    pub fn waits(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.waits_since().is_some())
    }

    /// When it is late, unless more of it is read by then.
    pub fn due(&self) -> Option<(Instant, Late)> {
        match self.part.as_ref().and_then(Part::waits_since) {
            Some(since) => Some((since + self.rate.grace(), Late::NoRoom)),
            None => self.pace.map(|pace| (pace.due(), Late::TooSlow)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::*;
    use crate::listen::incomplete::Room;
    use crate::operate::metrics::Metrics;

    const GRACE: Duration = Duration::from_secs(30);

    /// Room in which nothing is free, what fills it, and a message that waits there for more of it.
    fn waiting() -> (PeerRoom, Part, Arrival) {
        let room = Room::new(100_000, &Metrics::new().readings).for_peer([127, 0, 0, 1].into());
        let others = room.enter(100_000);
        let mut arrival = Arrival::new(Rate::new(512, GRACE));
        arrival.start();
        arrival.charge(5000, &room);
        (room, others, arrival)
    }

    fn poll(arrival: &mut Arrival) -> Poll<Result<Option<usize>, Evicted>> {
        arrival.poll_turn(&mut Context::from_waker(Waker::noop()))
    }

    /// A read of `part` that brings one byte more than `bytes`.
    fn brings(part: &mut Part, bytes: usize) {
        assert!(part.poll_turn(&mut Context::from_waker(Waker::noop())).is_ready());
        part.arrived(bytes + 1);
    }

    #[tokio::test]
    async fn waiting_for_room_shifts_the_time_at_which_a_message_is_late() {
        const OWN: Duration = Duration::from_millis(50);
        let (room, others, mut arrival) = waiting();
        // The message that may exceed the room is another one.
        let mut exceeds = room.enter(5000);
        brings(&mut exceeds, 5000);
        assert!(exceeds.poll_turn(&mut Context::from_waker(Waker::noop())).is_ready());
        let (due, late) = arrival.due().unwrap();
        assert_eq!(late, Late::TooSlow);
        tokio::time::sleep(OWN).await;
        assert!(poll(&mut arrival).is_ready());
        arrival.charge(5001, &room);
        assert!(poll(&mut arrival).is_pending(), "no room for more");
        let began = Instant::now();
        let (waits_until, late) = arrival.due().unwrap();
        assert_eq!(late, Late::NoRoom, "no wait without a deadline");
        assert!(waits_until <= began + GRACE);
        tokio::time::sleep(OWN).await;
        drop((others, exceeds));
        assert!(poll(&mut arrival).is_ready());
        let (shifted, late) = arrival.due().unwrap();
        assert_eq!(late, Late::TooSlow);
        assert!(shifted >= due + OWN, "what it waited is not its own time");
        assert!(shifted <= Instant::now() + GRACE - OWN, "no fresh grace time");
    }
}
