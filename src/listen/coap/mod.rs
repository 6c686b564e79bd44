//! CoAP over UDP (RFC 7252): one thread for all sockets, no task or timer per exchange.
//!
//! The thread reads datagrams in batches, hands readings to the pipeline, and sends what [`exchange`] says; answers
//! come back through one mailbox. It has a runtime of its own: on one that is shared, an idle thread is woken by each
//! datagram that arrives while another is at work on the ones before. [`sockets`] see to it that an answer leaves from the
//! address that was asked. The layers below know no socket: [`packet`] judges and writes messages, [`options`] and
//! [`resource`] understand requests, [`peers`] remembers duplicates, [`deadlines`] keeps time. Nothing a peer sends, and no
//! error of the socket, ends it; it ends when it is told to and owes no answer. Not here yet: bodies in several blocks
//! (refused with 4.02; see [`blocks`]), DTLS, Observe.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::addresses::show;
use super::{Context, Error};
use crate::devices::{Denied, Proven};
use crate::message::{Identity, Inbound, Origin, Policy, Protocol};
use crate::outcome::{Busy, Outcome};
use crate::receipt::{Answer, Mailbox, Reply};

mod blocks;
pub mod metrics;

mod config;

mod counters;

mod deadlines;

mod drops;

mod endpoints;

mod exchange;

mod options;

mod packet;

mod peers;

mod refused;

mod resource;

mod socket;

mod sockets;

pub use config::Config;
use counters::Counters;
use exchange::{Exchanges, InboundRequest, Outgoing, SenderKey};
use refused::RefusedSenders;
use resource::Links;
pub use sockets::OWN_ADDRESSES_MAX;
use sockets::Sockets;

/// Rest after an error of the socket that may last, so that it cannot spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// What this listener is called in the configuration and in logs.
const NAME: &str = "coap";

/// A listener that has its addresses and does not serve yet.
#[derive(Debug)]
pub struct Bound {
    sockets: Vec<std::net::UdpSocket>,
    addresses: Vec<SocketAddr>,
    config: Config,
}

/// The sockets, and what the thread needs beside it.
struct Server {
    sockets: Sockets,
    context: Context,
    exchanges: Exchanges,
    mailbox: Arc<Mailbox>,
    // Reused from turn to turn.
    answers: Vec<(u64, Answer)>,
    out: Vec<Outgoing>,
    received: Vec<InboundRequest>,
    refused: RefusedSenders,
    /// Set when told to stop: when to give up waiting for acknowledgements.
    stops_at: Option<Instant>,
    /// How long acknowledgements of separate responses are awaited then.
    linger: Duration,
}

/// Binds the addresses. Where the system lets an IPv6 wildcard receive IPv4, too, that is a socket of its own: it then
/// tells IPv4's broadcasts apart.
pub async fn bind(config: &Config) -> Result<Bound, Error> {
    let mut bound = Bound {
        sockets: Vec::new(),
        addresses: Vec::new(),
        config: config.clone(),
    };
    for &address in config.listen.iter() {
        let failed = |source| Error::Bind {
            listener: NAME,
            address,
            source,
        };
        let receive_buffer = config.receive_buffer_bytes();
        let socket = sockets::open(address, receive_buffer).map_err(failed)?;
        let own = socket.local_addr().map_err(failed)?;
        bound.addresses.push(own);
        bound.sockets.push(socket);
        if sockets::is_for_both_families(own, config.listen.only_v6(address)) {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, own.port()));
            bound.sockets.push(sockets::open(any, receive_buffer).map_err(failed)?);
        }
    }
    Ok(bound)
}

// === impl Bound ===

impl Bound {
    /// Where it listens, with the ports that were given for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `context.stopping`, and then until no answer is owed; `context.tasks` waits for it.
    pub fn serve(self, context: Context) -> Result<(), Error> {
        let addresses = show(&self.addresses);
        let failed = |source| Error::Thread { listener: NAME, source };
        let serving = context.tasks.token();
        let (started, starting) = std::sync::mpsc::sync_channel(1);
        // The runtime is made, and dropped, on the thread: in a task it must not be.
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ready = runtime.and_then(|runtime| {
                let server = runtime.block_on(async { Server::new(self.sockets, &self.config, context) })?;
                Ok((server, runtime))
            });
            let (server, result) = match ready {
                Ok(ready) => (Some(ready), Ok(())),
                Err(error) => (None, Err(error)),
            };
            started.send(result).ok();
            if let Some((server, runtime)) = server {
                runtime.block_on(server.run());
            }
            drop(serving);
        };
        let thread = std::thread::Builder::new().name("coap".into());
        thread.spawn(serve).map_err(failed)?;
        let gone = || Err(std::io::ErrorKind::BrokenPipe.into());
        starting.recv().unwrap_or_else(|_| gone()).map_err(failed)?;
        tracing::info!(addresses, "coap listening");
        Ok(())
    }
}

// === impl Server ===

impl Server {
    /// Within the runtime that serves it.
    fn new(bound: Vec<std::net::UdpSocket>, config: &Config, context: Context) -> std::io::Result<Self> {
        let catalogue = context.pipeline.catalogue.clone();
        let kinds = move || catalogue.snapshot().iter().map(|kind| kind.name.clone()).collect();
        let counters = Counters::new(&context.metrics.coap);
        // One byte more than is allowed shows that a datagram was longer.
        let datagram_bytes = config.datagram_bytes() + 1;
        let sockets = Sockets::new(
            bound,
            datagram_bytes,
            config.receive_buffer_bytes(),
            &context.metrics.coap,
        )?;
        Ok(Server {
            exchanges: Exchanges::new(config, Links::new(kinds), counters, Instant::now(), rand::random()),
            linger: config.ack_timeout,
            sockets,
            mailbox: Mailbox::new(),
            answers: Vec::new(),
            out: Vec::new(),
            received: Vec::new(),
            refused: RefusedSenders::new(
                context
                    .authenticator
                    .as_ref()
                    .map_or(Duration::ZERO, |known| known.refusal_delay()),
            ),
            stops_at: None,
            context,
        })
    }

    async fn run(mut self) {
        while !self.is_done() {
            let due = self.next_due();
            tokio::select! {
                () = self.context.stopping.cancelled(), if self.stops_at.is_none() => {
                    self.stops_at = Some(Instant::now() + self.linger);
                }
                () = self.mailbox.wait() => {}
                () = sleep_until(due) => {}
                () = self.sockets.readable() => {
                    if let Err(error) = self.receive() {
                        tracing::debug!(%error, "coap socket cannot be read");
                        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    }
                }
            }
            self.refuse_due();
            self.answer();
            let now = Instant::now();
            self.exchanges.on_timeout(now, &mut self.out);
            self.send();
            self.sockets.drops.log(now);
        }
        self.sockets.drops.log_rest();
        tracing::info!("coap listener closed");
    }

    fn next_due(&self) -> Option<Instant> {
        // Once that is past, only an answer that is still owed keeps the thread here.
        let stops_at = self.stops_at.filter(|at| *at > Instant::now());
        let drops = self.sockets.drops.next();
        [self.exchanges.next_timeout(), stops_at, drops, self.refused.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether it was told to stop, owes no answer, and has waited long enough for acknowledgements.
    fn is_done(&self) -> bool {
        let is_over = |at| self.exchanges.owed() == 0 && (self.exchanges.open() == 0 || Instant::now() >= at);
        self.stops_at.is_some_and(is_over)
    }

    /// Reads a batch of datagrams and passes on what they bring.
    fn receive(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        let (exchanges, out, received) = (&mut self.exchanges, &mut self.out, &mut self.received);
        let read = self.sockets.receive(now, |ends, cast, datagram| {
            received.extend(exchanges.on_datagram(now, ends, cast, datagram, out));
        });
        let mut received = std::mem::take(&mut self.received);
        received.drain(..).for_each(|received| self.accept(received));
        self.received = received;
        read
    }

    /// Gives a message to the pipeline, which answers through the mailbox.
    fn accept(&mut self, received: InboundRequest) {
        let sender = match self.identify(&received) {
            Ok(sender) => sender,
            Err(denied) => {
                let InboundRequest { ticket, peer, path, .. } = received;
                return self.refused.push(Instant::now(), ticket, peer, path, denied);
            }
        };
        let pipeline = &self.context.pipeline;
        let origin = Origin {
            identity: sender
                .as_ref()
                .map_or(Identity::Anonymous, |known| Identity::Device(&known.device)),
            ..Origin::anonymous(Protocol::Coap, NAME, received.peer)
        };
        let reply = self.reply(received.ticket);
        let draining = || self.stops_at.map(|_| Outcome::Busy(Busy::Draining));
        if let Some(outcome) = received.refusal.or_else(draining) {
            return pipeline.refuse(&origin, &received.path, outcome, reply);
        }
        let Some(permit) = self.context.in_flight_bytes.try_bytes(received.bytes) else {
            return pipeline.refuse(&origin, &received.path, Outcome::Busy(Busy::MemoryFull), reply);
        };
        let inbound = Inbound {
            origin,
            path: &received.path,
            body: &received.body,
            content_type: &received.content_type,
            policy: Policy::default(),
        };
        pipeline.accept(&inbound, Some(permit), reply);
    }

    fn reply(&self, ticket: Option<u64>) -> Reply {
        let mailbox = self.mailbox.clone();
        ticket.map_or(Reply::Nobody, |ticket| Reply::To { mailbox, ticket })
    }

    /// Who sends, if it says so; `None`: it may be anonymous, or is refused anyway.
    fn identify(&self, received: &InboundRequest) -> Result<Option<Proven>, Denied> {
        match (&self.context.authenticator, &received.key) {
            (Some(authenticator), Some(SenderKey(key))) if received.refusal.is_none() => {
                let from = (Protocol::Coap, received.peer);
                authenticator.authenticate_key(from, key).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Answers those whose key is refused, once that is due.
    fn refuse_due(&mut self) {
        let at_once = self.stops_at.is_some();
        while let Some(refused) = self.refused.pop(Instant::now(), at_once) {
            let origin = Origin::anonymous(Protocol::Coap, NAME, refused.peer);
            let reply = self.reply(refused.ticket);
            let pipeline = &self.context.pipeline;
            pipeline.refuse(&origin, &refused.path, refused.outcome(), reply);
        }
    }

    fn answer(&mut self) {
        let now = Instant::now();
        self.mailbox.take(&mut self.answers);
        for (ticket, answer) in self.answers.drain(..) {
            self.exchanges.on_answer(now, ticket, &answer, &mut self.out);
        }
    }

    /// Sends what is to be sent. What the socket does not accept is lost, as a datagram may be: a confirmable request comes
    /// again and is answered again.
    fn send(&mut self) {
        let metrics = &self.context.metrics.coap;
        self.sockets.send(&mut self.out, |peer, error| {
            metrics.coap_send_failures_total.inc();
            tracing::debug!(%error, %peer, "coap datagram not sent");
        });
        self.out.clear();
        let peers = self.exchanges.peers();
        metrics.coap_peers.set(peers.len() as i64);
        metrics.coap_messages_remembered.set(peers.messages() as i64);
        metrics.coap_remembered_bytes.set(peers.bytes() as i64);
        metrics.coap_exchanges.set(self.exchanges.open() as i64);
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
