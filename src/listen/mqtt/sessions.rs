//! Which client id is connected, and the sessions of clients that are not.
//!
//! A client id has one connection: a new one ends the old one and takes over its session. The session has one owner at
//! any time. It is handed over from the old connection to the new (or is stored here in between), so nothing of it is
//! shared or locked while readings flow. Stored sessions are bounded in number and time; of the identity that has most of them, the
//! one that would expire next is forgotten first. Nothing is kept over a restart of the gateway: clients are then told that there
//! is no session (Session Present 0), and what QoS 2 becomes is said in `qos2`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::qos2::Qos2;
use super::wills::Delayed;
use crate::listen::shares::Shares;
use crate::receipt::Mailbox;

/// What outlives a connection.
#[derive(Debug)]
pub struct State {
    pub qos2: Qos2,
    /// Where the answers to readings in flight arrive; the next connection reads it on.
    pub mailbox: Arc<Mailbox>,
    /// The next number of the acknowledgement queue, whose numbers go on over connections.
    pub next_number: u64,
    /// The will of the last connection, while its delay passes. It is due when the session ends, that is, when this is
    /// dropped.
    pub will: Option<Delayed>,
}

/// All sessions, connected or stored.
#[derive(Debug)]
pub struct Sessions {
    // Sessions of disconnected clients: how many there may be, and are.
    stored_max: usize,
    stored: IntGauge,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    generation: u64,
    entries: HashMap<Arc<str>, Entry>,
    // Every stored session, by when it expires, and by identity.
    expiry: BTreeMap<(Instant, u64), Arc<str>>,
    shares: Shares<(Instant, u64), Arc<str>>,
}

#[derive(Debug)]
enum Entry {
    Connected {
        generation: u64,
        halt: CancellationToken,
        // The session, when its connection has ended; `None` if it ended with the connection.
        handover: oneshot::Receiver<Option<State>>,
    },
    Stored {
        expires: (Instant, u64),
        state: State,
    },
}

/// A connection's right to its client id. Dropped, it gives the id up and the session is gone.
#[derive(Debug)]
pub struct Ownership {
    sessions: Arc<Sessions>,
    id: Arc<str>,
    generation: u64,
    // `None` once left.
    handover: Option<oneshot::Sender<Option<State>>>,
}

// === impl State ===

impl Default for State {
    fn default() -> Self {
        State {
            qos2: Qos2::default(),
            mailbox: Mailbox::new(),
            next_number: 0,
            will: None,
        }
    }
}

// === impl Sessions ===

impl Sessions {
    /// At most `stored_max` sessions of disconnected clients are kept; `stored` says how many.
    pub fn new(stored_max: usize, stored: IntGauge) -> Arc<Self> {
        Arc::new(Sessions {
            stored_max,
            stored,
            inner: Mutex::default(),
        })
    }

    /// Acquires `id`: a connection that has it is told to `halt`, and its session awaited. `clean` discards the session.
    ///
    /// Waits only for the predecessor to let go, which it does without waiting for anything but its own predecessor.
    pub async fn enter(self: &Arc<Self>, id: &str, clean: bool, halt: CancellationToken) -> (Ownership, Option<State>) {
        let (ownership, previous) = self.replace(id, halt);
        let state = match previous {
            None => None,
            Some(Entry::Stored { state, .. }) => Some(state),
            Some(Entry::Connected { halt, handover, .. }) => {
                halt.cancel();
                match clean {
                    true => None,
                    // A connection that was dropped without releasing its session has ended it.
                    false => handover.await.unwrap_or_default(),
                }
            }
        };
        (ownership, state.filter(|_| !clean))
    }

    fn replace(self: &Arc<Self>, id: &str, halt: CancellationToken) -> (Ownership, Option<Entry>) {
        let mut inner = self.lock();
        inner.forget_expired(Instant::now());
        inner.generation += 1;
        let generation = inner.generation;
        let (sender, handover) = oneshot::channel();
        let id: Arc<str> = id.into();
        let entry = Entry::Connected {
            generation,
            halt,
            handover,
        };
        let previous = inner.entries.insert(id.clone(), entry);
        if let Some(Entry::Stored { expires, .. }) = &previous {
            inner.expiry.remove(expires);
            inner.shares.remove(identity_of(&id), *expires);
        }
        self.stored.set(inner.expiry.len() as i64);
        drop(inner);
        let ownership = Ownership {
            sessions: self.clone(),
            id,
            generation,
            handover: Some(sender),
        };
        (ownership, previous)
    }

    // Client ids connected, and sessions stored.
    #[cfg(test)]
    fn count(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.entries.len() - inner.expiry.len(), inner.expiry.len())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Ownership ===

impl Ownership {
    /// Releases the id: the session is stored for `keep` (zero: it ends), or goes to the connection that has taken the id over.
    pub fn release(mut self, mut state: State, keep: Duration) {
        state.qos2.forget_superseded();
        if !state.qos2.any_in_flight() {
            // Nothing can arrive there that matters to anybody.
            state.mailbox = Mailbox::new();
        }
        state.qos2.shrink();
        let Some(handover) = self.handover.take() else { return };
        let state = (!keep.is_zero()).then_some(state);
        let sessions = self.sessions.clone();
        let mut inner = sessions.lock();
        if inner.is_connected(&self.id, self.generation) {
            inner.store(&self.id, self.generation, state, keep, sessions.stored_max);
            sessions.stored.set(inner.expiry.len() as i64);
        } else {
            drop(inner);
            // A successor that gave up meanwhile does not want it either.
            drop(handover.send(state));
        }
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        if self.handover.is_some() {
            let mut inner = self.sessions.lock();
            if inner.is_connected(&self.id, self.generation) {
                inner.entries.remove(&self.id);
            }
        }
    }
}

// === impl Inner ===

impl Inner {
    fn is_connected(&self, id: &str, own: u64) -> bool {
        matches!(self.entries.get(id), Some(Entry::Connected { generation, .. }) if *generation == own)
    }

    fn store(&mut self, id: &Arc<str>, generation: u64, state: Option<State>, keep: Duration, stored_max: usize) {
        self.entries.remove(id);
        let Some(state) = state else { return };
        let expires = (Instant::now() + keep, generation);
        self.entries.insert(id.clone(), Entry::Stored { expires, state });
        self.expiry.insert(expires, id.clone());
        self.shares.insert(identity_of(id), expires, id.clone(), 1);
        while self.expiry.len() > stored_max
            && let Some(id) = self.shares.pop()
        {
            if let Some(Entry::Stored { expires, .. }) = self.entries.remove(&id) {
                self.expiry.remove(&expires);
            }
        }
    }

    fn forget_expired(&mut self, now: Instant) {
        while let Some(first) = self.expiry.first_entry().filter(|first| first.key().0 <= now) {
            let (expires, id) = first.remove_entry();
            self.shares.remove(identity_of(&id), expires);
            self.entries.remove(&id);
        }
    }
}

/// Whose session it is: see `Sender::session_key`.
fn identity_of(id: &str) -> &str {
    id.split_once('\0').map_or("", |(identity, _)| identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::mqtt::qos2::Seen;

    fn sessions(stored_max: usize) -> Arc<Sessions> {
        Sessions::new(stored_max, IntGauge::new("stored", "sessions stored").unwrap())
    }

    const KEEP: Duration = Duration::from_secs(60);

    fn state_with(pkid: u16) -> State {
        let mut state = State::default();
        state.qos2.accept(pkid, 1, 0);
        state.qos2.settle(0, true);
        state
    }

    fn remembers(state: &Option<State>, pkid: u16) -> bool {
        state
            .as_ref()
            .is_some_and(|state| state.qos2.seen(pkid, 1, 9) == Seen::Received)
    }

    #[tokio::test]
    async fn a_session_rests_until_its_client_returns() {
        let sessions = sessions(10);
        let (ownership, state) = sessions.enter("meter", false, CancellationToken::new()).await;
        assert!(state.is_none());
        ownership.release(state_with(7), KEEP);
        assert_eq!((sessions.count(), sessions.stored.get()), ((0, 1), 1));
        let (ownership, state) = sessions.enter("meter", false, CancellationToken::new()).await;
        assert!(remembers(&state, 7));
        assert_eq!(sessions.count(), (1, 0));
        ownership.release(state_with(7), Duration::ZERO);
        assert_eq!(sessions.count(), (0, 0));
    }

    #[tokio::test]
    async fn a_clean_start_discards_the_session() {
        let sessions = sessions(10);
        let (ownership, _) = sessions.enter("meter", false, CancellationToken::new()).await;
        ownership.release(state_with(7), KEEP);
        let (_place, state) = sessions.enter("meter", true, CancellationToken::new()).await;
        assert!(state.is_none());
        assert_eq!(sessions.count(), (1, 0));
    }

    #[tokio::test]
    async fn a_new_connection_halts_the_old_one_and_takes_its_session() {
        let sessions = sessions(10);
        let halt = CancellationToken::new();
        let (old, _) = sessions.enter("meter", false, halt.clone()).await;
        let (new, ()) = tokio::join!(sessions.enter("meter", false, CancellationToken::new()), async {
            halt.cancelled().await;
            old.release(state_with(7), KEEP);
        });
        assert!(remembers(&new.1, 7));
        assert_eq!(
            sessions.count(),
            (1, 0),
            "the old one's leaving does not put the new one to rest"
        );
    }

    #[tokio::test]
    async fn of_many_that_connect_at_once_the_session_reaches_the_last() {
        // Each connection ends as soon as it is halted, and hands on what it was handed.
        let sessions = sessions(10);
        let (first, _) = sessions.enter("meter", false, CancellationToken::new()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let sessions = sessions.clone();
            tasks.spawn(async move {
                let halt = CancellationToken::new();
                let (ownership, state) = sessions.enter("meter", false, halt.clone()).await;
                assert!(remembers(&state, 7));
                halt.cancelled().await;
                ownership.release(state.unwrap_or_default(), KEEP);
            });
        }
        first.release(state_with(7), KEEP);
        // 49 are halted by another one; the last is left alone, until the test takes its ownership.
        for _ in 0..49 {
            tasks.join_next().await.unwrap().unwrap();
        }
        assert_eq!(sessions.count(), (1, 0));
        let (_place, state) = sessions.enter("meter", false, CancellationToken::new()).await;
        tasks.join_next().await.unwrap().unwrap();
        assert!(remembers(&state, 7));
    }

    #[tokio::test]
    async fn a_connection_torn_down_gives_its_client_id_up() {
        let sessions = sessions(10);
        let (ownership, _) = sessions.enter("meter", false, CancellationToken::new()).await;
        drop(ownership);
        assert_eq!(sessions.count(), (0, 0));
        let (old, _) = sessions.enter("meter", false, CancellationToken::new()).await;
        let (new, ()) = tokio::join!(sessions.enter("meter", false, CancellationToken::new()), async {
            drop(old)
        });
        assert!(new.1.is_none());
        assert_eq!(sessions.count(), (1, 0));
    }

    #[tokio::test]
    async fn who_stores_most_sessions_loses_its_own() {
        let sessions = sessions(3);
        for (id, keep) in [
            ("north\0a", 30),
            ("loop-7\0a", 10),
            ("north\0b", 20),
            ("north\0c", 40),
            ("north\0d", 50),
        ] {
            let (ownership, _) = sessions.enter(id, false, CancellationToken::new()).await;
            ownership.release(state_with(7), Duration::from_secs(keep));
        }
        for (id, is_kept) in [
            ("loop-7\0a", true),
            ("north\0a", false),
            ("north\0b", false),
            ("north\0d", true),
        ] {
            let (_place, state) = sessions.enter(id, false, CancellationToken::new()).await;
            assert_eq!(remembers(&state, 7), is_kept, "{id:?}");
        }
    }

    #[tokio::test]
    async fn idle_sessions_are_bounded_in_number_and_time() {
        let sessions = sessions(2);
        for (id, keep) in [("a", 30), ("b", 10), ("c", 20)] {
            let (ownership, _) = sessions.enter(id, false, CancellationToken::new()).await;
            ownership.release(state_with(7), Duration::from_secs(keep));
        }
        assert_eq!(sessions.count(), (0, 2), "b, the next to expire, is forgotten");
        sessions.lock().forget_expired(Instant::now() + Duration::from_secs(20));
        let (_place, state) = sessions.enter("c", false, CancellationToken::new()).await;
        assert!(state.is_none(), "c has expired");
        let (_place, state) = sessions.enter("a", false, CancellationToken::new()).await;
        assert!(remembers(&state, 7));
    }
}
