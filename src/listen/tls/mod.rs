//! TLS 1.2 and 1.3 of a listener, by rustls with the provider `ring`: what its files say ([`set`]), which can be replaced, and its
//! handshakes.
//!
//! Handshakes have threads of their own, so that a storm of them does not keep readings waiting. They are bounded by the permits
//! of connections and in time; a silent one keeps no other waiting. What changes on disk is in force for new connections, those
//! that are open go on, except where their client's certificate is not accepted any more. Files that are not in order change nothing.
//! A session is resumed without its client showing its certificate; what it showed before is verified again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use rustls::HandshakeKind;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

pub mod certificate;

pub mod client;

pub mod config;

pub mod metrics;

mod in_force;

mod keys;

mod refused;

mod set;

mod trust;

pub use certificate::Certificate;
pub use client::ClientCertificate;
pub use config::{ClientCertificates, Config};
pub use metrics::TlsMetrics;

use super::error::Error;
use crate::operate::clock::wall_s;
use crate::operate::watch::Watch;
use in_force::InForce;
use refused::Refused;
use set::Set;

/// The TLS of one listener.
#[derive(Debug)]
pub struct Tls {
    config: Config,
    alpn: Vec<Vec<u8>>,
    in_force: Arc<InForce>,
    /// What is wrong with the files, if those before are in force.
    mistake: Mutex<Option<String>>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured {
    pub stream: Box<TlsStream<TcpStream>>,
    /// What its client has shown, which is accepted.
    pub certificate: Option<ClientCertificate>,
}

/// How a handshake ended; the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
enum Handshake {
    Completed,
    Failed,
    TimedOut,
}

// === impl Tls ===

impl Tls {
    /// Reads the files. `alpn`: the protocols that are spoken above it, if that is agreed.
    ///
    /// # Errors
    /// They are not in order; why.
    pub fn new(listener: &'static str, config: &Config, alpn: &[&[u8]]) -> Result<Self, Error> {
        let alpn: Vec<_> = alpn.iter().map(|name| name.to_vec()).collect();
        let set = Set::read(config, &alpn, None, wall_s()).map_err(|why| Error::Tls { listener, why })?;
        let threads = threads().map_err(|source| Error::Thread { listener, source })?;
        Ok(Tls {
            config: config.clone(),
            alpn,
            in_force: Arc::new(InForce::new(listener, set, threads)),
            mistake: Mutex::default(),
        })
    }

    /// As metrics and logs call it: `mqtt`, `http`.
    pub fn listener(&self) -> &'static str {
        self.in_force.listener
    }

    /// What to say of files that need to be replaced soon.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.in_force.set().warnings(wall_s()).into_iter();
        warnings
            .map(|warning| format!("{}.tls.{warning}", self.listener()))
            .collect()
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        let set = self.in_force.set();
        let certificates = set.certificates.0.iter().map(|certificate| {
            let names = certificate.names();
            json!({ "file": certificate.file, "names": names, "valid_until": certificate.valid_until() })
        });
        json!({
            "certificates": certificates.collect::<Vec<_>>(),
            "client_certificates": self.config.client_certificates,
            "mistake": *self.mistake.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// The handshake of a connection, whose bytes are in the clear afterwards. `None`: there was none in time.
    pub async fn accept(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        metrics: &TlsMetrics,
    ) -> Option<Secured> {
        let deadline = Instant::now() + self.config.handshake_timeout;
        let handshake = self.clone().handshake(stream);
        let handshake = tokio::time::timeout_at(deadline.into(), handshake);
        // Whoever does not wait any longer has closed the connection.
        let handshake = AbortOnDropHandle::new(self.in_force.threads.spawn(handshake));
        let (result, secured) = match handshake.await {
            Ok(Ok(Ok(secured))) => (Handshake::Completed, Some(secured)),
            Ok(Ok(Err(error))) => {
                self.note_failed(&error, peer, metrics);
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::Failed, None),
            Ok(Err(_)) => (Handshake::TimedOut, None),
        };
        let handshakes = &metrics.tls_handshakes_total;
        handshakes.with_label_values(&[self.listener(), result.into()]).inc();
        secured
    }

    async fn handshake(self: Arc<Self>, stream: TcpStream) -> std::io::Result<Secured> {
        // Before its certificate is verified: a change meanwhile is noticed then.
        let changes = self.in_force.subscribe();
        let set = self.in_force.set();
        let stream = Box::new(TlsAcceptor::from(set.server.clone()).accept(stream).await?);
        let connection = stream.get_ref().1;
        let certificate = match connection.peer_certificates() {
            None => None,
            Some(chain) => {
                if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
                    self.in_force.accepts(chain).map_err(std::io::Error::other)?;
                }
                Some(ClientCertificate::new(chain, self.in_force.clone(), changes))
            }
        };
        Ok(Secured { stream, certificate })
    }

    fn note_failed(&self, error: &std::io::Error, peer: SocketAddr, metrics: &TlsMetrics) {
        let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let Some(refused) = of_tls.and_then(Refused::of) else {
            return debug!(listener = self.listener(), %peer, %error, "TLS handshake failed");
        };
        let labels = [self.listener(), refused.label()];
        metrics
            .tls_client_certificates_refused_total
            .with_label_values(&labels)
            .inc();
        if self.in_force.may_log(refused.label()) {
            let reason = refused.label();
            warn!(listener = self.listener(), %peer, reason, %error, "a client certificate is refused");
        }
    }

    /// Reads the files again whenever they change, until `stopping`.
    pub async fn keep(self: Arc<Self>, metrics: TlsMetrics, stopping: CancellationToken) {
        let mut watch = Watch::of_files(&self.config.files(), &format!("{}.tls", self.listener()));
        loop {
            // Also at first: what changed between the start's reading and the watch is told by nobody.
            let read = self.clone().read_again().await;
            self.measure(&metrics, read.is_ok());
            let mistake = read.err();
            let said = std::mem::replace(
                &mut *self.mistake.lock().unwrap_or_else(PoisonError::into_inner),
                mistake.clone(),
            );
            // Said once, however often other files change.
            if let Some(why) = mistake.filter(|why| said.as_ref() != Some(why)) {
                let listener = self.listener();
                error!(
                    listener,
                    error = why,
                    "TLS files are not in order; those before stay in force"
                );
            }
            if stopping.run_until_cancelled(watch.changed()).await.is_none() {
                return;
            }
        }
    }

    /// Puts in force what the files hold now.
    async fn read_again(self: Arc<Self>) -> Result<(), String> {
        let read = tokio::task::spawn_blocking(move || {
            let before = self.in_force.set();
            let read = Arc::new(Set::read(&self.config, &self.alpn, Some(&before), wall_s())?);
            self.in_force.replace(read.clone());
            let listener = self.listener();
            let is_shown = read.certificates.is_same(&before.certificates);
            if !is_shown {
                info!(listener, "a new TLS certificate is shown");
            }
            let accepts_as_before = read.accepts_as(&before);
            if !accepts_as_before {
                info!(
                    listener,
                    "authorities or revocation lists of client certificates have changed"
                );
            }
            if !(is_shown && accepts_as_before) {
                self.warnings().iter().for_each(|warning| warn!("{warning}"));
            }
            Ok(())
        });
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn measure(&self, metrics: &TlsMetrics, is_good: bool) {
        let set = self.in_force.set();
        let label = |file: &PathBuf| file.display().to_string();
        for certificate in &set.certificates.0 {
            let labels = [self.listener(), &label(&certificate.file)];
            let expiry = metrics
                .tls_certificate_expiry_timestamp_seconds
                .with_label_values(&labels);
            expiry.set(certificate.not_after_s);
        }
        for (file, at) in set.trust.iter().flat_map(|trust| trust.replaced_by()) {
            let labels = [self.listener(), &label(file)];
            metrics
                .tls_crl_next_update_timestamp_seconds
                .with_label_values(&labels)
                .set(*at);
        }
        let good = &metrics.tls_certificate_last_reload_successful;
        good.with_label_values(&[self.listener()]).set(i64::from(is_good));
    }
}

/// The threads of all handshakes, half as many as there are CPUs: the others carry readings.
fn threads() -> std::io::Result<&'static Handle> {
    static THREADS: OnceLock<Runtime> = OnceLock::new();
    if THREADS.get().is_none() {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(cpus.div_ceil(2))
            .thread_name("tls")
            .enable_time();
        if let Err(second) = THREADS.set(builder.build()?) {
            second.shutdown_background();
        }
    }
    let threads = THREADS.get().map(Runtime::handle);
    threads.ok_or_else(|| std::io::ErrorKind::NotFound.into())
}
