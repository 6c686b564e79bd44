//! Requests whose sender's key is refused: answered 4.01 (4.03 if the device is disabled) after `devices.refusal_delay`.
//!
//! All wait as long, so they end in the order in which they came. Their exchanges are open meanwhile, so that no more than
//! [`WAITING_MAX`] wait: beyond that the first is answered at once. (What slows down who guesses a password helps little against
//! who guesses 192 random bits.) No body and no key is kept.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::devices::Denied;
use crate::outcome::{Outcome, Reason, Rejection};

/// Requests that wait at once.
pub const WAITING_MAX: usize = 4096;

/// See the module's documentation.
#[derive(Debug)]
pub struct RefusedSenders {
    delay: Duration,
    waiting: VecDeque<RefusedSender>,
}

/// A request to be refused.
#[derive(Debug)]
pub struct RefusedSender {
    pub ticket: Option<u64>,
    pub peer: SocketAddr,
    pub path: String,
    pub denied: Denied,
    due: Instant,
}

// === impl RefusedSenders ===

impl RefusedSenders {
    pub fn new(delay: Duration) -> Self {
        let waiting = VecDeque::new();
        RefusedSenders { delay, waiting }
    }

    pub fn push(&mut self, now: Instant, ticket: Option<u64>, peer: SocketAddr, path: String, denied: Denied) {
        let due = now + self.delay;
        self.waiting.push_back(RefusedSender {
            ticket,
            peer,
            path,
            denied,
            due,
        });
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|first| first.due)
    }

    /// One that is due, or any, if nobody waits any longer.
    pub fn pop(&mut self, now: Instant, at_once: bool) -> Option<RefusedSender> {
        let at_once = at_once || self.waiting.len() > WAITING_MAX;
        let is_due = self.next().is_some_and(|due| at_once || due <= now);
        is_due.then(|| self.waiting.pop_front()).flatten()
    }
}

// === impl RefusedSender ===

impl RefusedSender {
    pub fn outcome(&self) -> Outcome {
        let reason = match self.denied {
            Denied::Disabled => Reason::Forbidden,
            Denied::BadCredential | Denied::Missing | Denied::Busy => Reason::Unauthenticated,
        };
        Rejection::new(reason, self.denied.text()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_wait_in_their_order_and_no_more_than_there_may_be() {
        let (start, delay) = (Instant::now(), Duration::from_secs(1));
        let mut refused = RefusedSenders::new(delay);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let peer = ([127, 0, 0, 1], 1).into();
        let push = |refused: &mut RefusedSenders, ms, ticket, denied| {
            refused.push(at(ms), Some(ticket), peer, "devices/a/weather".into(), denied);
        };
        push(&mut refused, 0, 1, Denied::BadCredential);
        push(&mut refused, 10, 2, Denied::Disabled);
        assert_eq!(refused.next(), Some(at(1000)));
        assert!(refused.pop(at(999), false).is_none());
        assert_eq!(refused.pop(at(1000), false).unwrap().ticket, Some(1));
        assert!(refused.pop(at(1000), false).is_none());
        let told = refused.pop(at(1000), true).unwrap().outcome();
        assert_eq!(crate::acknowledge::coap(&told), (4, 3));
        for ticket in 0..WAITING_MAX as u64 + 2 {
            push(&mut refused, 2000, ticket, Denied::BadCredential);
        }
        let at_once: Vec<_> = std::iter::from_fn(|| refused.pop(at(2000), false)?.ticket).collect();
        assert_eq!(at_once, [0, 1]);
    }
}
