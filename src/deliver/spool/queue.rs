//! Entries between those who append and the writer.
//!
//! One lock guards it, held for a few instructions. It also says whether anything is accepted, and for how many bytes there
//! is room.

/// An entry that waits for the writer.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) entry: Vec<u8>,
    pub(super) arrived_ms: i64,
    pub(super) token: T,
}

/// What is between those who append and the writer.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub(super) waiting: Vec<Waiting<T>>,
    /// Bytes of the waiting on disk.
    pub(super) bytes: u64,
    /// Bytes on disk for which there is room, less those that wait.
    pub(super) room: u64,
    /// What the machine was short of when the spool last needed it; `None`: it was not.
    pub(super) short: Option<String>,
    pub(super) state: State,
    /// The thread should end, failed or not.
    pub(super) closing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// Nothing more is accepted; the writer finishes.
    Closing,
    Closed,
    Failed,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Queue {
            waiting: Vec::new(),
            bytes: 0,
            room: 0,
            short: None,
            state: State::Open,
            closing: false,
        }
    }
}
