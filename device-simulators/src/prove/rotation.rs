//! The gateway's certificate and the authorities of its clients are replaced, again and again, while devices send.
//!
//! Meanwhile good clients connect ten times a second, each with a certificate of the authority that stays: none may be refused.
//! After each change a client sees whether new connections are as they should be. That no connection of a device was dropped is
//! seen by the gateway's count of handshakes, which must be those of these clients alone.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use native_tls::{Certificate, Identity, TlsConnector};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::fault::{Action, Step};
use super::identities::{Authority, Identities, Issued, replace};
use crate::report::grouped;
use crate::uplinks::direct::Connection;

/// How long a change may take until new connections are as they should be.
const IN_FORCE_TIMEOUT: Duration = Duration::from_secs(10);

const RETRY_PAUSE: Duration = Duration::from_millis(50);

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a good client connects.
const GOOD_CLIENTS_EVERY: Duration = Duration::from_millis(100);

/// How long things go on between two changes.
const PAUSE: Duration = Duration::from_millis(500);

/// Clients that are no devices of the fleet: one that always has a good certificate, and one whose authority comes and goes.
pub const GOOD_CLIENT: &str = "rotation-good";
const GUEST: &str = "rotation-guest";

/// Who issues what, and what was seen.
#[derive(Debug)]
pub struct Rotation {
    server: SocketAddr,
    identities: Identities,
    authorities: Arc<Authorities>,
    /// The guest's certificate of the authority that was added last.
    guest: Option<Issued>,
    counts: Arc<Counts>,
    good_clients: JoinSet<()>,
    over: CancellationToken,
    figures: Figures,
}

/// Those that stay.
#[derive(Debug)]
pub struct Authorities {
    /// Of the gateway's certificates.
    pub servers: Authority,
    /// Of the devices' certificates.
    pub devices: Authority,
}

#[derive(Debug, Default)]
struct Counts {
    good: AtomicU64,
    good_refused: AtomicU64,
    /// Of all clients of this module.
    handshakes: AtomicU64,
}

/// What it came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    pub certificates_replaced: u64,
    pub authorities_replaced: u64,
    /// Seconds until a new connection was as it should be, the longest.
    pub in_force_s: f64,
    pub good_clients: u64,
    pub good_clients_refused: u64,
    /// Handshakes besides those of this module: connections of devices that were dropped.
    pub made_anew: u64,
    #[serde(skip)]
    handshakes_before: u64,
}

/// What a connection came to.
enum Seen {
    /// With the certificate that the gateway showed.
    Accepted(Vec<u8>),
    Refused,
}

/// The damage, for so long.
pub fn plan(length: Duration) -> Vec<Step> {
    let rounds = (length.as_millis() / (2 * PAUSE).as_millis()).clamp(2, 60);
    let round = || {
        [
            Step::Do(Action::ReplaceCertificate),
            Step::Wait(PAUSE),
            Step::Do(Action::ReplaceAuthority),
            Step::Wait(PAUSE),
        ]
    };
    (0..rounds).flat_map(|_| round()).collect()
}

/// Clients that are no devices of the fleet, each with a kind.
pub fn clients() -> impl Iterator<Item = (String, String)> {
    [GOOD_CLIENT, GUEST]
        .into_iter()
        .map(|name| (name.to_owned(), "weather".to_owned()))
}

// === impl Authorities ===

impl Authorities {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Authorities {
            servers: Authority::new("gateways")?,
            devices: Authority::new("devices")?,
        })
    }
}

// === impl Rotation ===

impl Rotation {
    pub fn new(server: SocketAddr, identities: Identities, authorities: Arc<Authorities>) -> Self {
        Rotation {
            server,
            identities,
            authorities,
            guest: None,
            counts: Arc::default(),
            good_clients: JoinSet::new(),
            over: CancellationToken::new(),
            figures: Figures::default(),
        }
    }

    /// Good clients come from now on. `metrics`: the gateway's.
    ///
    /// # Errors
    /// They have no certificate.
    pub fn begin(&mut self, metrics: &str) -> anyhow::Result<()> {
        if !self.good_clients.is_empty() {
            return Ok(());
        }
        self.figures.handshakes_before = completed(metrics);
        let issued = self.authorities.devices.issue(GOOD_CLIENT)?;
        let tls = connector(&self.authorities.servers.pem, &issued)?;
        let (server, counts, over) = (self.server, Arc::clone(&self.counts), self.over.clone());
        self.good_clients.spawn(connect_often(server, tls, counts, over));
        Ok(())
    }

    /// The gateway's certificate: new connections must see the new one.
    ///
    /// # Errors
    /// They do not.
    pub async fn replace_certificate(&mut self) -> anyhow::Result<()> {
        let issued = self.authorities.servers.issue_server(&self.identities)?;
        let good = self.authorities.devices.issue(GOOD_CLIENT)?;
        let in_force = |seen: &Seen| matches!(seen, Seen::Accepted(shown) if *shown == issued.der);
        self.await_seen(&good, in_force)
            .await
            .context("the new certificate is not shown")?;
        self.figures.certificates_replaced += 1;
        Ok(())
    }

    /// The authority beside that of the devices: a client of the new one must be accepted, a client of the old one refused.
    ///
    /// # Errors
    /// It is not.
    pub async fn replace_authority(&mut self) -> anyhow::Result<()> {
        let added = Authority::new("guests")?;
        let file = self
            .identities
            .client_authorities
            .as_deref()
            .context("there are no client certificates")?;
        replace(file, &format!("{}{}", self.authorities.devices.pem, added.pem))?;
        let guest = added.issue(GUEST)?;
        let accepted = |seen: &Seen| matches!(seen, Seen::Accepted(_));
        self.await_seen(&guest, accepted)
            .await
            .context("a client of the new authority is refused")?;
        if let Some(before) = self.guest.replace(guest) {
            let refused = |seen: &Seen| matches!(seen, Seen::Refused);
            self.await_seen(&before, refused)
                .await
                .context("a client of the authority before is accepted")?;
        }
        self.figures.authorities_replaced += 1;
        Ok(())
    }

    /// Connects until it is as it should be.
    async fn await_seen(&mut self, client: &Issued, expected: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
        let began = Instant::now();
        let tls = connector(&self.authorities.servers.pem, client)?;
        while began.elapsed() < IN_FORCE_TIMEOUT {
            if expected(&connect(self.server, &tls, &self.counts).await) {
                self.figures.in_force_s = self.figures.in_force_s.max(began.elapsed().as_secs_f64());
                return Ok(());
            }
            sleep(RETRY_PAUSE).await;
        }
        bail!("not within {IN_FORCE_TIMEOUT:?}")
    }

    /// The last good client is gone when this returns.
    pub async fn end(&mut self) {
        self.over.cancel();
        while self.good_clients.join_next().await.is_some() {}
    }

    /// What it came to. `metrics`: the gateway's, after the end.
    pub fn note(&mut self, metrics: &str) {
        let counted = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.figures.good_clients = counted(&self.counts.good);
        self.figures.good_clients_refused = counted(&self.counts.good_refused);
        let all = completed(metrics).saturating_sub(self.figures.handshakes_before);
        self.figures.made_anew = all.saturating_sub(counted(&self.counts.handshakes));
    }

    pub fn figures(&self) -> Figures {
        self.figures.clone()
    }
}

/// Until it is over.
async fn connect_often(server: SocketAddr, tls: TlsConnector, counts: Arc<Counts>, over: CancellationToken) {
    let mut turn = interval(GOOD_CLIENTS_EVERY);
    while !over.is_cancelled() {
        turn.tick().await;
        let count = match connect(server, &tls, &counts).await {
            Seen::Accepted(_) => &counts.good,
            Seen::Refused => &counts.good_refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Connects, says CONNECT, and disconnects when it is answered.
async fn connect(server: SocketAddr, tls: &TlsConnector, counts: &Counts) -> Seen {
    let client = format!("rotation-{:08x}", rand::random::<u32>());
    let source = Ipv4Addr::LOCALHOST.into();
    let mut connection = Connection::new((server, source), &client, KEEP_ALIVE, None, Some(tls.clone()));
    let answered = timeout(ANSWER_TIMEOUT, connection.poll()).await;
    let (Ok(Ok(_)), Some(shown)) = (answered, connection.peer_certificate()) else {
        return Seen::Refused;
    };
    let shown = shown.to_vec();
    counts.handshakes.fetch_add(1, Ordering::Relaxed);
    Seen::Accepted(shown)
}

fn connector(authority: &str, client: &Issued) -> anyhow::Result<TlsConnector> {
    let identity = Identity::from_pkcs8(client.pem.as_bytes(), client.key_pem.as_bytes())?;
    let mut builder = TlsConnector::builder();
    builder
        .disable_built_in_roots(true)
        .add_root_certificate(Certificate::from_pem(authority.as_bytes())?);
    Ok(builder.identity(identity).build()?)
}

/// TLS handshakes that the gateway has completed, by its metrics.
fn completed(metrics: &str) -> u64 {
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("citygate_tls_handshakes_total{"));
    let completed = lines.filter(|line| line.contains("result=\"completed\""));
    let counts = completed.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    counts.sum::<f64>() as u64
}

// === impl Figures ===

impl Figures {
    /// What must not be.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (count, what) in [
            (self.good_clients_refused, "good clients were refused"),
            (self.made_anew, "connections of devices were made anew"),
        ] {
            if count > 0 {
                failures.push(format!("{} {what} while certificates were replaced", grouped(count)));
            }
        }
        let nothing = [self.certificates_replaced, self.authorities_replaced, self.good_clients].contains(&0);
        if nothing {
            failures.push("nothing was replaced, or no client came meanwhile".to_owned());
        }
        failures
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>14} times the gateway's certificate was replaced, {} times an authority of clients; in force after {:.2} s at most",
            grouped(self.certificates_replaced),
            grouped(self.authorities_replaced),
            self.in_force_s
        )?;
        writeln!(
            f,
            "{:>14} good clients connected meanwhile, {} refused; {} connections of devices were made anew",
            grouped(self.good_clients),
            grouped(self.good_clients_refused),
            grouped(self.made_anew)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_connections_made_anew_fail_and_so_does_nothing_at_all() {
        let figures = |good_clients_refused, made_anew, certificates_replaced| Figures {
            certificates_replaced,
            authorities_replaced: 1,
            good_clients: 9,
            good_clients_refused,
            made_anew,
            ..Figures::default()
        };
        for (figures, failures) in [
            (figures(0, 0, 1), 0),
            (figures(1, 0, 1), 1),
            (figures(0, 1, 1), 1),
            (figures(0, 0, 0), 1),
        ] {
            assert_eq!(figures.failures().len(), failures, "{figures}");
        }
    }

    #[test]
    fn only_completed_handshakes_count() {
        let text = "citygate_tls_handshakes_total{listener=\"mqtt\",result=\"completed\"} 5\n\
                    citygate_tls_handshakes_total{listener=\"http\",result=\"completed\"} 2\n\
                    citygate_tls_handshakes_total{listener=\"http\",result=\"failed\"} 9\n";
        assert_eq!(completed(text), 7);
    }
}
