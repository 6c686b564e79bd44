//! One thread of a run: its connections, and the loop that serves them.
//!
//! The loop opens connections as the ramp asks for them, sends what is due, reads what has come, and every tenth of a
//! second looks after time-outs. Nothing is shared with other threads while messages are in flight. When the steady part is
//! over it waits for outstanding answers, no longer than one message may wait, and hands in what it counted.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};

use anyhow::Context as _;

use super::clock::{Clock, Nanos, nanos};
use super::context::{Context, INPUT_BYTES};
use super::http::Head;
use super::pace::{Pace, Schedule};
use super::poller::{Events, Poller, Ready};
use super::port::Port;
use super::readings::{Readings, Stamp};
use super::sender::Sender;
use super::settings::Settings;
use super::stream::Stream;
use super::tally::{Interval, Intervals, Steady, Tally};
use crate::uplinks::Protocol;

/// How often timers are looked at.
const SWEEP: Nanos = 100_000_000;

/// Messages that fall due within this are sent together; the delay counts as latency, and the report shows it.
const COALESCE: Nanos = 50_000;

/// Connections that one thread makes at a time: a listener's queue is finite.
const HANDSHAKES_MAX: usize = 200;

/// What the threads of a run and its runner tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    ending: AtomicU8,
    up: [AtomicI64; 3],
}

/// How a run is to end, each more urgent than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Ending {
    /// By the clock.
    Timely,
    /// No more messages; answers are waited for.
    Drain,
    /// At once.
    Abandon,
}

/// What one thread needs to know.
#[derive(Debug)]
pub struct Task {
    pub settings: Arc<Settings>,
    pub readings: Arc<Readings>,
    pub clock: Clock,
    /// Its connections, among all.
    pub connections: Range<usize>,
    pub first_message_id: u16,
    pub shared: Arc<Shared>,
    pub finished: mpsc::Sender<Interval>,
}

/// One thread of a run.
#[derive(Debug)]
pub struct Worker {
    context: Context,
    connections: Vec<Connection>,
    shared: Arc<Shared>,
    /// How many connections the ramp has opened.
    opened: usize,
    /// Up to which message of the schedule the connections were told that it is due.
    told: u64,
    /// What of `context.up` was made known.
    up_told: [i64; 3],
    next_sweep: Nanos,
}

/// A connection of either transport.
#[derive(Debug)]
enum Connection {
    Stream(Stream),
    Port(Port),
}

// === impl Shared ===

impl Shared {
    pub fn end(&self, ending: Ending) {
        self.ending.fetch_max(ending as u8, Ordering::Relaxed);
    }

    fn ending(&self) -> Ending {
        match self.ending.load(Ordering::Relaxed) {
            0 => Ending::Timely,
            1 => Ending::Drain,
            _ => Ending::Abandon,
        }
    }

    /// Connections that are up.
    pub fn up(&self, protocol: Protocol) -> u64 {
        self.up[protocol.index()].load(Ordering::Relaxed).max(0) as u64
    }
}

// === impl Connection ===

impl Connection {
    /// Fails if the device's certificate is none.
    fn new(index: usize, local_index: usize, task: &Task) -> anyhow::Result<Connection> {
        let settings = &task.settings;
        let (protocol, _) = settings.targets[index % settings.targets.len()];
        let (device, place) = settings.device(index, settings.targets.len());
        let sender = Sender::new(protocol, (device.kind(), place), device.name(), index, local_index);
        let window = settings.window(protocol);
        let first_id = task.first_message_id.wrapping_add((index as u16).wrapping_mul(257));
        Ok(match protocol {
            Protocol::Coap => Connection::Port(Port::new(sender, window, first_id)),
            Protocol::Mqtt | Protocol::Http => {
                let credentials = settings.credentials_of(device.name());
                let tls = settings.device_credentials.connector(device.name())?;
                Connection::Stream(Stream::new(sender, window, credentials, tls))
            }
        })
    }

    fn open(&mut self, context: &mut Context) {
        match self {
            Connection::Stream(stream) => stream.open(context),
            Connection::Port(port) => port.open(context),
        }
    }

    fn ready(&mut self, ready: Ready, context: &mut Context) {
        match self {
            Connection::Stream(stream) => stream.ready(ready, context),
            Connection::Port(port) => port.ready(ready, context),
        }
    }

    fn pump(&mut self, context: &mut Context) {
        match self {
            Connection::Stream(stream) => stream.pump(context),
            Connection::Port(port) => port.pump(context),
        }
    }

    fn is_behind(&self, context: &Context) -> bool {
        match self {
            Connection::Stream(stream) => stream.is_behind(context),
            Connection::Port(port) => port.is_behind(context),
        }
    }

    fn sweep(&mut self, context: &mut Context) {
        match self {
            Connection::Stream(stream) => stream.sweep(context),
            Connection::Port(port) => port.sweep(context),
        }
    }

    fn finish(&mut self, context: &mut Context) {
        match self {
            Connection::Stream(stream) => stream.finish(context),
            Connection::Port(port) => port.finish(context),
        }
    }

    fn sender(&mut self) -> &mut Sender {
        match self {
            Connection::Stream(stream) => stream.sender(),
            Connection::Port(port) => port.sender(),
        }
    }
}

// === impl Worker ===

impl Worker {
    pub fn new(task: Task) -> anyhow::Result<Worker> {
        let settings = Arc::clone(&task.settings);
        let steady_from = nanos(settings.ramp);
        let steady_part = steady_from..steady_from + nanos(settings.steady);
        let tally = Tally::new(
            Intervals::new(settings.ramp),
            steady_part.clone(),
            task.finished.clone(),
        );
        let numbered = task.connections.clone().enumerate();
        let connections = numbered.map(|(local_index, index)| Connection::new(index, local_index, &task));
        let connections = connections.collect::<anyhow::Result<Vec<_>>>()?;
        let has_datagrams = settings.targets.iter().any(|(protocol, _)| *protocol == Protocol::Coap);
        let input_bytes = if has_datagrams {
            INPUT_BYTES * quinn_udp::BATCH_SIZE
        } else {
            INPUT_BYTES
        };
        let http = settings
            .targets
            .iter()
            .find(|(protocol, _)| *protocol == Protocol::Http);
        let host = http.map_or_else(String::new, |(_, address)| address.to_string());
        let now = task.clock.now();
        let context = Context {
            end: steady_part.end,
            schedule: schedule(&settings, &task.connections),
            head: Head::new(&host),
            readings: task.readings,
            clock: task.clock,
            poller: Poller::new().context("cannot wait for sockets")?,
            tally,
            count_due: 0,
            now,
            stamp: Stamp::new(now, task.clock.unix_ms(now)),
            first_sequence: task.clock.unix_ms(0),
            draining: false,
            handshakes: 0,
            up: [0; 3],
            input: vec![0; input_bytes],
            output: Vec::new(),
            settings,
        };
        Ok(Worker {
            context,
            connections,
            shared: task.shared,
            opened: 0,
            told: 0,
            up_told: [0; 3],
            next_sweep: 0,
        })
    }

    /// Runs to the end of the run; what it counted over the steady part.
    pub fn run(mut self) -> io::Result<[Steady; 3]> {
        // A wait for a few microseconds should not last fifty more; where the system refuses, it does.
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).unwrap_or_default();
        let settings = Arc::clone(&self.context.settings);
        let steady_from = nanos(settings.ramp);
        let end = steady_from + nanos(settings.steady);
        let mut everybody_joined = false;
        let mut events = Events::default();
        self.context.tick();
        while self.context.now < end && self.shared.ending() == Ending::Timely {
            if !everybody_joined && self.context.now >= steady_from {
                everybody_joined = true;
                self.join_all(steady_from);
            }
            self.open_due();
            self.send_due();
            let wake = self.wake().min(end);
            self.serve(wake, &mut events)?;
        }
        self.drain(end, &mut events)?;
        for connection in &mut self.connections {
            connection.finish(&mut self.context);
        }
        self.tell_up();
        Ok(self.context.tally.close(self.context.now))
    }

    /// Opens the connections whose time in the ramp has come.
    fn open_due(&mut self) {
        let settings = Arc::clone(&self.context.settings);
        let ramp = nanos(settings.ramp);
        while self.opened < self.connections.len() && self.context.handshakes < HANDSHAKES_MAX {
            if self.open_at(self.opened, ramp) > self.context.now {
                return;
            }
            self.connections[self.opened].open(&mut self.context);
            self.opened += 1;
            self.context.tick();
        }
    }

    /// The moment of a connection in the ramp: threads open side by side, each its own evenly.
    fn open_at(&self, index: usize, ramp: Nanos) -> Nanos {
        (u128::from(ramp) * index as u128 / self.connections.len().max(1) as u128) as Nanos
    }

    /// From here on every message counts, whether its connection is up or not.
    fn join_all(&mut self, from: Nanos) {
        for connection in &mut self.connections {
            connection.sender().join(from, &self.context);
        }
    }

    /// Sends what fell due since the last time.
    fn send_due(&mut self) {
        let Some(schedule) = self.context.schedule else { return };
        self.context.tick();
        let due = self.told..self.context.count_due;
        self.told = due.end;
        let connections = self.connections.len();
        if due.end - due.start >= connections as u64 {
            for connection in &mut self.connections {
                connection.pump(&mut self.context);
            }
            return;
        }
        for message in due {
            self.connections[schedule.connection_of(message)].pump(&mut self.context);
        }
    }

    /// When there is something to do even if nothing comes.
    fn wake(&self) -> Nanos {
        let mut wake = self.next_sweep;
        if self.opened < self.connections.len() && self.context.handshakes < HANDSHAKES_MAX {
            wake = wake.min(self.open_at(self.opened, nanos(self.context.settings.ramp)));
        }
        if let Some(schedule) = &self.context.schedule {
            let next = schedule.due(self.context.count_due);
            wake = wake.min(next.max(self.context.now + COALESCE));
        }
        wake
    }

    /// Waits until `wake` for sockets, and serves those that are ready.
    fn serve(&mut self, wake: Nanos, events: &mut Events) -> io::Result<()> {
        let timeout = wake.saturating_sub(self.context.now);
        self.context.poller.wait(timeout, events)?;
        for ready in events.iter() {
            self.context.tick();
            self.connections[ready.token].ready(ready, &mut self.context);
        }
        self.context.tick();
        self.context.tally.roll(self.context.now);
        if self.context.now >= self.next_sweep {
            self.sweep();
        }
        Ok(())
    }

    fn sweep(&mut self) {
        self.next_sweep = self.context.now + SWEEP;
        for connection in self.connections.iter_mut().take(self.opened) {
            connection.sweep(&mut self.context);
        }
        self.tell_up();
    }

    fn tell_up(&mut self) {
        for (index, up) in self.context.up.iter().enumerate() {
            let change = up - self.up_told[index];
            self.shared.up[index].fetch_add(change, Ordering::Relaxed);
            self.up_told[index] = *up;
        }
    }

    /// Sends what fell due before, and waits for outstanding answers.
    fn drain(&mut self, end: Nanos, events: &mut Events) -> io::Result<()> {
        self.context.tick();
        self.context.draining = true;
        for connection in &mut self.connections {
            connection.pump(&mut self.context);
        }
        let deadline = self.context.now.min(end) + nanos(self.context.settings.timeout);
        while (self.context.tally.outstanding() > 0 || self.is_behind())
            && self.context.now < deadline
            && self.shared.ending() != Ending::Abandon
        {
            let wake = self.next_sweep.min(deadline);
            self.serve(wake, events)?;
        }
        Ok(())
    }

    fn is_behind(&self) -> bool {
        self.connections
            .iter()
            .any(|connection| connection.is_behind(&self.context))
    }
}

/// The part of the rate that falls to these connections.
fn schedule(settings: &Settings, connections: &Range<usize>) -> Option<Schedule> {
    let Pace::Open { rate } = settings.pace else {
        return None;
    };
    let share = connections.len() as f64 / settings.connections.max(1) as f64;
    // The threads' messages fall between each other, not on the same moments.
    let phase = (connections.start as f64 / settings.connections.max(1) as f64 * 1e9 / rate.max(1e-9)) as Nanos;
    Some(Schedule::new(rate * share, phase, connections.len()))
}
