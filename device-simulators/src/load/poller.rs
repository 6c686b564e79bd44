//! Waiting for many sockets at once: Linux' epoll, level-triggered.
//!
//! Directly on `rustix`, because its time-outs are in nanoseconds where those of others are in milliseconds: a schedule of a hundred
//! thousand messages per second is kept by it without spinning.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::clock::Nanos;

/// Events fetched at a time: few enough that the first is not old when the last is served.
const EVENTS: usize = 256;

/// What is waited for, besides errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Read,
    Write,
    Both,
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub token: usize,
    pub readable: bool,
    pub writable: bool,
}

/// A set of sockets that are waited for.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

/// What a wait has found. It belongs to the thread that waits.
pub struct Events(Vec<epoll::Event>);

// === impl Interest ===

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::Both => EventFlags::IN | EventFlags::OUT,
        }
    }
}

// === impl Poller ===

impl Poller {
    pub fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Closing the socket ends it.
    pub fn add(&self, socket: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(token as u64),
            interest.flags(),
        )?)
    }

    pub fn modify(&self, socket: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            socket,
            EventData::new_u64(token as u64),
            interest.flags(),
        )?)
    }

    /// Waits for `timeout` nanoseconds at most.
    pub fn wait(&self, timeout: Nanos, events: &mut Events) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: (timeout / 1_000_000_000) as i64,
            tv_nsec: (timeout % 1_000_000_000) as i64,
        };
        events.0.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events.0), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

// === impl Events ===

impl Default for Events {
    fn default() -> Self {
        Events(Vec::with_capacity(EVENTS))
    }
}

impl Events {
    pub fn iter(&self) -> impl Iterator<Item = Ready> {
        let failed = EventFlags::ERR | EventFlags::HUP;
        self.0.iter().map(move |event| {
            // Copied out: the kernel's struct is packed.
            let (flags, data) = (event.flags, event.data);
            Ready {
                token: data.u64() as usize,
                readable: flags.intersects(EventFlags::IN | failed),
                writable: flags.intersects(EventFlags::OUT | failed),
            }
        })
    }
}
