//! A message that arrives over MQTT or HTTP: what its first part is charged, how slowly the rest may come, and how long it
//! may wait for memory.
//!
//! While it waits it is not read, so its pace is paused; but no wait is longer than the grace time of its rate.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::budget::{Charge, PeerBudget};
use super::evicted::Evicted;
use super::messages::FREE_BYTES;
use super::rate::{Pace, Rate};

/// What a connection knows of the message that arrives.
#[derive(Debug)]
pub struct Arrival {
    rate: Rate,
    charge: Option<Charge>,
    // While it is up to the peer to send the rest.
    pace: Option<Pace>,
}

/// Why a message is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It fell behind its rate.
    TooSlow,
    /// It waited for memory in vain.
    NoMemory,
}

// === impl Arrival ===

impl Arrival {
    /// Of a message that has not begun; it may come at `rate`, and wait for memory for its grace time.
    pub fn new(rate: Rate) -> Self {
        Arrival {
            rate,
            charge: None,
            pace: None,
        }
    }

    /// The rest is awaited from now on, unless it was already.
    pub fn start(&mut self) {
        if self.pace.is_none() {
            self.pace = Some(self.rate.start(Instant::now()));
        }
    }

    /// It has arrived whole, or the gateway does not read it: it cannot be late.
    pub fn stop(&mut self) {
        self.pace = None;
    }

    /// Notes that `bytes` more were read at `now`.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        if let Some(pace) = &mut self.pace {
            pace.arrived(bytes, now);
        }
    }

    /// Charges to `budget` the `bytes` of it that have arrived.
    pub fn charge(&mut self, bytes: usize, budget: &PeerBudget) {
        match &mut self.charge {
            None if bytes <= FREE_BYTES => {}
            None => self.charge = Some(budget.charge(bytes)),
            Some(charge) if bytes > FREE_BYTES => charge.arrived(bytes),
            Some(_) => self.charge = None,
        }
    }

    /// What it is charged, which is returned when dropped.
    pub fn into_charge(self) -> Option<Charge> {
        self.charge
    }

    pub fn is_charged(&self) -> bool {
        self.charge.is_some()
    }

    /// How many bytes may be read now, `None` while nothing is charged for it; pending while there is no memory for more.
    /// Call it before each attempt to read, as [`Charge::poll_turn`].
    ///
    /// # Errors
    /// The message is evicted.
    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<usize>, Evicted>> {
        let Some(charge) = &mut self.charge else {
            return Poll::Ready(Ok(None));
        };
        let waited_since = charge.waits_since();
        let turn = ready!(charge.poll_turn(context));
        if let (Some(since), Some(pace)) = (waited_since, &mut self.pace) {
            pace.paused(Instant::now() - since);
        }
        Poll::Ready(turn.map(Some))
    }

    /// The gateway does not read it now for reasons of its own.
    pub fn pause(&mut self) {
        if let Some(charge) = &mut self.charge {
            charge.pause();
        }
    }

    /// Whether there is data of it that exceeds the budget.
    pub fn waits(&self) -> bool {
        self.charge
            .as_ref()
            .is_some_and(|charge| charge.waits_since().is_some())
    }

    /// When it is late, unless more of it is read by then.
    pub fn due(&self) -> Option<(Instant, Late)> {
        match self.charge.as_ref().and_then(Charge::waits_since) {
            Some(since) => Some((since + self.rate.grace(), Late::NoMemory)),
            None => self.pace.map(|pace| (pace.due(), Late::TooSlow)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::*;
    use crate::listen::Metrics;
    use crate::listen::incomplete::Budget;

    const GRACE: Duration = Duration::from_secs(30);

    /// Budget in which nothing is free, what fills it, and a message that waits there for more of it.
    fn waiting() -> (PeerBudget, Charge, Arrival) {
        let budget = Budget::new(100_000, &Metrics::default().admission).for_peer([127, 0, 0, 1].into());
        let others = budget.charge(100_000);
        let mut arrival = Arrival::new(Rate::new(512, GRACE));
        arrival.start();
        arrival.charge(5000, &budget);
        (budget, others, arrival)
    }

    fn poll(arrival: &mut Arrival) -> Poll<Result<Option<usize>, Evicted>> {
        arrival.poll_turn(&mut Context::from_waker(Waker::noop()))
    }

    /// A read of `charge` that brings one byte more than `bytes`.
    fn brings(charge: &mut Charge, bytes: usize) {
        assert!(charge.poll_turn(&mut Context::from_waker(Waker::noop())).is_ready());
        charge.arrived(bytes + 1);
    }

    #[tokio::test]
    async fn waiting_for_memory_shifts_the_time_at_which_a_message_is_late() {
        const OWN: Duration = Duration::from_millis(50);
        let (budget, others, mut arrival) = waiting();
        // The message that may exceed the budget is another one.
        let mut exceeds = budget.charge(5000);
        brings(&mut exceeds, 5000);
        assert!(exceeds.poll_turn(&mut Context::from_waker(Waker::noop())).is_ready());
        let (due, late) = arrival.due().unwrap();
        assert_eq!(late, Late::TooSlow);
        tokio::time::sleep(OWN).await;
        assert!(poll(&mut arrival).is_ready());
        arrival.charge(5001, &budget);
        assert!(poll(&mut arrival).is_pending(), "no memory for more");
        let began = Instant::now();
        let (waits_until, late) = arrival.due().unwrap();
        assert_eq!(late, Late::NoMemory, "no wait without a deadline");
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
