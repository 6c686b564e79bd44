//! The sink: a server that only acknowledges, so that the load generator's own limit can be measured.
//!
//! It answers every MQTT publish of QoS 1 with PUBACK, every CoAP request with 2.04 and every HTTP request with 204, keeps
//! nothing and checks nothing. Each thread has its own listeners (SO_REUSEPORT) and serves what the kernel gives it. For
//! tests it can be told to stall and to answer otherwise: [`Behavior`].

mod datagrams;
mod protocols;
mod streams;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use socket2::{Domain, Socket, Type};

use super::clock::processor_time;
use super::poller::{Interest, Poller};
use super::table::grouped;
use crate::uplinks::Protocol;

/// Bytes that the kernel keeps of datagrams that were not read; it grants no more than net.core.rmem_max.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// How often a thread looks whether it is to stop, and tells what it counted.
const TICK_NS: u64 = 20_000_000;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// What `device-simulators sink` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to listen for MQTT.
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present_any = ["coap", "http"], help_heading = "Where to listen")]
    mqtt: Option<SocketAddr>,
    /// Where to listen for CoAP (UDP).
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Where to listen")]
    coap: Option<SocketAddr>,
    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Where to listen")]
    http: Option<SocketAddr>,
    /// Threads that answer.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// How long; 0: until Ctrl-C.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seconds: u64,
    /// Maximum concurrent connections.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: u32,
}

/// A server that only acknowledges.
#[derive(Debug)]
pub struct Sink {
    /// Where it listens, by protocol.
    pub addresses: [Option<SocketAddr>; 3],
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// What the threads of a sink share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    stopping: AtomicBool,
    answered: [AtomicU64; 3],
    connections: AtomicU64,
    pub(super) behavior: Behavior,
}

/// What a sink may be told to do otherwise; 0 everywhere is to acknowledge.
#[derive(Debug, Default)]
pub struct Behavior {
    /// It reads and answers nothing while this is set.
    pub stalled: AtomicBool,
    /// Every n-th message gets the other answer, by thread; 0: none does.
    pub every: AtomicU32,
    /// The code of CONNACK.
    pub connack: AtomicU8,
    /// The other answers: PUBACK's reason, CoAP's code, HTTP's status.
    pub puback: AtomicU8,
    pub coap: AtomicU8,
    pub status: AtomicU16,
}

// === impl Behavior ===

impl Behavior {
    /// Whether the `count`th message gets the other answer.
    pub(super) fn is_other(&self, count: u64) -> bool {
        let every = self.every.load(Ordering::Relaxed);
        every > 0 && count.is_multiple_of(u64::from(every))
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Stays here for as long as the sink is stalled.
    pub(super) fn stall(&self) {
        while self.behavior.stalled.load(Ordering::Relaxed) && !self.is_stopping() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn answered(&self, protocol: Protocol, count: u64) {
        self.answered[protocol.index()].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn accepted(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Sink ===

impl Sink {
    /// Listens at `addresses` (port 0: any that is free), and answers until it is stopped.
    pub fn start(addresses: [Option<SocketAddr>; 3], threads: usize) -> io::Result<Sink> {
        let shared = Arc::new(Shared::default());
        let mut sink = Sink {
            addresses,
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        let threads = threads.max(1);
        for number in 0..threads {
            let mut streams = streams::Streams::new(Arc::clone(&shared))?;
            for protocol in [Protocol::Mqtt, Protocol::Http] {
                if let Some(address) = &mut sink.addresses[protocol.index()] {
                    let listener = listen(*address)?;
                    // The next thread listens at the port that the first one got.
                    *address = listener.local_addr()?;
                    streams.add(listener, protocol)?;
                }
            }
            if let Some(address) = &mut sink.addresses[Protocol::Coap.index()] {
                let socket = bind(*address)?;
                *address = socket.local_addr()?;
                streams.add_datagrams(datagrams::Datagrams::new(socket, Arc::clone(&shared))?)?;
            }
            let thread = std::thread::Builder::new().name(format!("sink-{number}"));
            sink.threads.push(thread.spawn(|| streams.run())?);
        }
        Ok(sink)
    }

    pub fn behavior(&self) -> &Behavior {
        &self.shared.behavior
    }

    /// Messages that were answered.
    pub fn answered(&self, protocol: Protocol) -> u64 {
        self.shared.answered[protocol.index()].load(Ordering::Relaxed)
    }

    /// Connections that were accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Closes all sockets.
    pub fn stop(&mut self) -> io::Result<()> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| io::Error::other("a thread of the sink failed"))??;
        }
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "the sink has failed");
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A poller that has what all threads of a sink wait for.
fn poller_of(socket: impl std::os::fd::AsFd, token: usize, poller: &Poller) -> io::Result<()> {
    poller.add(socket, token, Interest::Read)
}

/// Runs `device-simulators sink` until its time is over or Ctrl-C.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    super::settings::make_room(options.connections as usize)?;
    let addresses = [options.mqtt, options.coap, options.http];
    let mut sink = Sink::start(addresses, options.threads.into()).context("the sink cannot listen")?;
    for (protocol, address) in Protocol::ALL.into_iter().zip(sink.addresses) {
        if let Some(address) = address {
            eprintln!("{protocol} at {address}");
        }
    }
    let (began, processor) = (Instant::now(), processor_time());
    let over = async {
        match options.seconds {
            0 => std::future::pending().await,
            seconds => tokio::time::sleep(Duration::from_secs(seconds)).await,
        }
    };
    tokio::select! {
        () = over => {}
        signal = tokio::signal::ctrl_c() => signal.context("cannot hear of Ctrl-C")?,
    }
    let processor_s = (processor_time() - processor).as_secs_f64();
    let elapsed_s = began.elapsed().as_secs_f64();
    sink.stop().context("the sink has failed")?;
    let total: u64 = Protocol::ALL.iter().map(|protocol| sink.answered(*protocol)).sum();
    for protocol in Protocol::ALL {
        if sink.addresses[protocol.index()].is_some() {
            println!("{protocol:<6}{:>16} answered", grouped(sink.answered(protocol)));
        }
    }
    println!("connections {:>10} accepted", grouped(sink.accepted()));
    let per_message = processor_s * 1e6 / total.max(1) as f64;
    println!("the sink: {processor_s:.2} s of processor time in {elapsed_s:.1} s, {per_message:.2} µs a message");
    Ok(ExitCode::SUCCESS)
}
