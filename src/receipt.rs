//! A promise to answer: every reading a listener accepts carries one [`Receipt`] until its end.
//!
//! A receipt resolves exactly once into an [`Outcome`]: it counts the outcome, gives back the byte [`InFlightPermit`] and posts
//! the answer into the [`Mailbox`] of the connection that waits for it. Dropped unresolved, it answers *busy* and counts
//! a bug. Since `received` is counted when a receipt is made and the outcome when it is resolved, this one type makes it
//! true that `received = delivered + spooled + rejected + busy` whenever nothing is in flight.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use crate::outcome::{Busy, Outcome};

pub mod metrics;

use metrics::Tally;

/// A share of `listen::in_flight_bytes`; returned when the last reading of the message has its outcome.
pub type InFlightPermit = OwnedSemaphorePermit;

/// A promise to answer one reading.
#[must_use = "a receipt that is dropped answers busy and counts as a bug"]
#[derive(Debug)]
pub struct Receipt {
    tally: Arc<Tally>,
    received_at: Instant,
    // `None` once resolved.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    reply: Reply,
    _permit: Option<InFlightPermit>,
}

/// Who waits for the answer.
#[derive(Debug)]
pub enum Reply {
    /// Nobody: MQTT QoS 0, or a CoAP request that asked for no response.
    Nobody,
    /// A connection, which knows the message by this number of its own.
    To { mailbox: Arc<Mailbox>, ticket: u64 },
    /// The other readings of the same message: item `index` of a batch.
    Item { batch: Arc<Batch>, index: usize },
}

/// The answer to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    One(Outcome),
    /// The outcomes of a batch, in the order of its readings; never empty.
    Many(Vec<Outcome>),
}

/// Where the answers to one connection's messages arrive, in any order.
///
/// Posting wakes the task that waits, once: until it waits again, a batch of delivery reports costs no other wake.
#[derive(Debug, Default)]
pub struct Mailbox(Mutex<Post>);

#[derive(Debug, Default)]
struct Post {
    answers: Vec<(u64, Answer)>,
    /// Of the task that waits, if one does.
    waker: Option<Waker>,
}

/// Several readings that came in one message and are answered together.
#[derive(Debug)]
pub struct Batch {
    // Outcomes so far, how many are missing, and who waits; the permit of the whole message returns with the last.
    state: Mutex<BatchState>,
}

#[derive(Debug)]
struct BatchState {
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    open: Option<Open>,
}

// === impl Receipt ===

impl Receipt {
    /// Counts the reading as received, and promises `reply` its outcome; its message had arrived whole at `received_at`.
    pub fn new(tally: Arc<Tally>, received_at: Instant, reply: Reply, permit: Option<InFlightPermit>) -> Self {
        tally.received();
        Receipt {
            tally,
            received_at,
            open: Some(Open { reply, _permit: permit }),
        }
    }

    pub fn received_at(&self) -> Instant {
        self.received_at
    }

    /// Ends the reading: counts the outcome, answers, and returns the permit.
    pub fn resolve(mut self, outcome: Outcome) {
        self.close(outcome);
    }

    fn close(&mut self, outcome: Outcome) {
        let Some(open) = self.open.take() else { return };
        self.tally.resolved(&outcome, self.received_at.elapsed());
        match open.reply {
            Reply::Nobody => {}
            Reply::To { mailbox, ticket } => mailbox.post(ticket, Answer::One(outcome)),
            Reply::Item { batch, index } => batch.resolve(index, outcome),
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.open.is_some() {
            self.tally.dropped();
            self.close(Outcome::Busy(Busy::Dropped));
        }
    }
}

// === impl Batch ===

impl Batch {
    /// A message of `items` readings (at least one), whose one answer goes to `reply`.
    pub fn new(items: usize, reply: Reply, permit: Option<InFlightPermit>) -> Arc<Self> {
        debug_assert!(items > 0, "a batch without readings would never be answered");
        let open = Some(Open { reply, _permit: permit });
        Arc::new(Batch {
            state: Mutex::new(BatchState {
                outcomes: vec![None; items],
                missing: items,
                open,
            }),
        })
    }

    /// The outcome of item `index`; a receipt's doing, but for an item whose outcome was known before.
    pub fn resolve(&self, index: usize, outcome: Outcome) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.outcomes[index].replace(outcome).is_none() {
            state.missing -= 1;
        }
        if state.missing > 0 {
            return;
        }
        let outcomes = std::mem::take(&mut state.outcomes).into_iter().flatten().collect();
        let Some(open) = state.open.take() else { return };
        drop(state);
        match open.reply {
            Reply::To { mailbox, ticket } => mailbox.post(ticket, Answer::Many(outcomes)),
            Reply::Nobody | Reply::Item { .. } => {}
        }
    }
}

// === impl Mailbox ===

impl Mailbox {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Post> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, ticket: u64, answer: Answer) {
        let waker = {
            let mut post = self.lock();
            post.answers.push((ticket, answer));
            post.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Appends what has arrived to `into`, in the order of arrival.
    pub fn take(&self, into: &mut Vec<(u64, Answer)>) {
        into.append(&mut self.lock().answers);
    }

    /// Returns when something has arrived that was not collected. One task waits at a time; cancel safe; a wake is never lost.
    pub async fn wait(&self) {
        poll_fn(|context| {
            let mut post = self.lock();
            if !post.answers.is_empty() {
                return Poll::Ready(());
            }
            let waker = context.waker();
            if !post.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                post.waker = Some(waker.clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Protocol;
    use crate::receipt::metrics::Tallies;

    fn tally() -> Arc<Tally> {
        Tallies::default().unknown.of(Protocol::Mqtt).clone()
    }

    fn arrived(mailbox: &Mailbox) -> Vec<(u64, Answer)> {
        let mut answers = Vec::new();
        mailbox.take(&mut answers);
        answers
    }

    #[test]
    fn a_resolved_receipt_answers_once_and_keeps_the_law() {
        let (tally, mailbox) = (tally(), Mailbox::new());
        let receipt = Receipt::new(
            tally.clone(),
            Instant::now(),
            Reply::To {
                mailbox: mailbox.clone(),
                ticket: 7,
            },
            None,
        );
        assert_eq!(tally.in_flight(), 1);
        receipt.resolve(Outcome::Delivered);
        assert_eq!(arrived(&mailbox), [(7, Answer::One(Outcome::Delivered))]);
        assert_eq!(tally.in_flight(), 0);
        assert_eq!(tally.dropped_total(), 0);
    }

    #[test]
    fn a_dropped_receipt_answers_busy_and_counts_a_bug() {
        let (tally, mailbox) = (tally(), Mailbox::new());
        drop(Receipt::new(
            tally.clone(),
            Instant::now(),
            Reply::To {
                mailbox: mailbox.clone(),
                ticket: 1,
            },
            None,
        ));
        assert_eq!(arrived(&mailbox), [(1, Answer::One(Outcome::Busy(Busy::Dropped)))]);
        assert_eq!(tally.in_flight(), 0);
        assert_eq!(tally.dropped_total(), 1);
    }

    #[test]
    fn a_batch_is_answered_when_its_last_reading_is() {
        let (tally, mailbox) = (tally(), Mailbox::new());
        let batch = Batch::new(
            2,
            Reply::To {
                mailbox: mailbox.clone(),
                ticket: 3,
            },
            None,
        );
        let [first, second] = [0, 1].map(|index| {
            Receipt::new(
                tally.clone(),
                Instant::now(),
                Reply::Item {
                    batch: batch.clone(),
                    index,
                },
                None,
            )
        });
        second.resolve(Outcome::Delivered);
        assert_eq!(arrived(&mailbox), []);
        first.resolve(Outcome::Busy(Busy::QueueFull));
        let expected = Answer::Many(vec![Outcome::Busy(Busy::QueueFull), Outcome::Delivered]);
        assert_eq!(arrived(&mailbox), [(3, expected)]);
    }

    #[tokio::test]
    async fn a_wake_is_not_lost_between_take_and_wait() {
        let (tally, mailbox) = (tally(), Mailbox::new());
        Receipt::new(
            tally,
            Instant::now(),
            Reply::To {
                mailbox: mailbox.clone(),
                ticket: 1,
            },
            None,
        )
        .resolve(Outcome::Delivered);
        mailbox.wait().await;
        assert_eq!(arrived(&mailbox).len(), 1);
    }
}
