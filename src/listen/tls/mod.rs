//! TLS 1.2 and 1.3 of a listener, by rustls with the provider `ring`: its certificate, which can be replaced, and its handshakes.
//!
//! Handshakes have threads of their own, so that a storm of them does not keep readings waiting. They are bounded by the permits
//! of connections and in time; a silent one keeps no other waiting. A
//! certificate that changes on disk is shown to new connections; those that are open go on, and sessions are resumed with the same ticket keys. One
//! that is not in order changes nothing.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub mod certificate;

pub mod config;

pub mod metrics;

pub use certificate::Certificate;
pub use config::Config;
pub use metrics::TlsMetrics;

use super::error::Error;
use crate::operate::clock::wall_s;
use crate::operate::watch::Watch;

/// The TLS of one listener.
#[derive(Debug)]
pub struct Tls {
    /// As metrics and logs call it: `mqtt`, `http`.
    listener: &'static str,
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
    files: [PathBuf; 2],
    timeout: Duration,
    threads: &'static Handle,
}

/// The certificate in force.
#[derive(Debug)]
struct Shown(ArcSwap<Certificate>);

/// How a handshake ended; the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
enum Handshake {
    Completed,
    Failed,
    TimedOut,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

// === impl Tls ===

impl Tls {
    /// Reads the certificate and its key. `alpn`: the protocols that are spoken above it, if that is agreed.
    ///
    /// # Errors
    /// They are not in order; why.
    pub fn new(listener: &'static str, config: &Config, alpn: &[&[u8]]) -> Result<Self, Error> {
        let files = [&config.certificate, &config.key].map(|file| file.clone().unwrap_or_default());
        let failed = |why: String| Error::Tls { listener, why };
        let read = Certificate::read(&files[0], &files[1], wall_s()).map_err(|error| failed(error.to_string()))?;
        let shown = Arc::new(Shown(ArcSwap::from_pointee(read)));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| failed(error.to_string()))?;
        let mut server = builder.with_no_client_auth().with_cert_resolver(shown.clone());
        server.ticketer = ring::Ticketer::new().map_err(|error| failed(error.to_string()))?;
        server.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Tls {
            listener,
            config: Arc::new(server),
            shown,
            files,
            timeout: config.handshake_timeout,
            threads: threads().map_err(|source| Error::Thread { listener, source })?,
        })
    }

    /// What to say of its certificate, if that ends soon.
    pub fn warning(&self) -> Option<String> {
        let warning = self.shown.0.load().warning(wall_s())?;
        Some(format!("{}.tls.certificate: {warning}", self.listener))
    }

    /// The handshake of a connection, whose bytes are in the clear afterwards. `None`: there was none in time.
    pub async fn accept(&self, stream: TcpStream, metrics: &TlsMetrics) -> Option<Box<TlsStream<TcpStream>>> {
        let deadline = Instant::now() + self.timeout;
        let handshake = TlsAcceptor::from(self.config.clone()).accept(stream);
        let handshake = self.threads.spawn(tokio::time::timeout_at(deadline.into(), handshake));
        let (result, stream) = match handshake.await {
            Ok(Ok(Ok(stream))) => (Handshake::Completed, Some(Box::new(stream))),
            Ok(Ok(Err(error))) => {
                debug!(listener = self.listener, %error, "TLS handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::Failed, None),
            Ok(Err(_)) => (Handshake::TimedOut, None),
        };
        metrics
            .tls_handshakes_total
            .with_label_values(&[self.listener, result.into()])
            .inc();
        stream
    }

    /// Reads the certificate again whenever its files change, until `stopping`.
    pub async fn keep(self: Arc<Self>, metrics: TlsMetrics, stopping: CancellationToken) {
        let mut watch = Watch::of_files(&self.files, &format!("{}.tls.certificate", self.listener));
        // What the log says last is wrong.
        let mut said = String::new();
        loop {
            // Also at first: what changed between the start's reading and the watch is told by nobody.
            match self.clone().read_again().await {
                Ok(is_new) => {
                    said.clear();
                    self.measure(&metrics, true);
                    if is_new {
                        info!(listener = self.listener, "a new TLS certificate is shown");
                        self.warning().into_iter().for_each(|warning| warn!("{warning}"));
                    }
                }
                Err(why) => {
                    self.measure(&metrics, false);
                    if said != why {
                        error!(
                            listener = self.listener,
                            error = why,
                            "the TLS certificate is not in order; the one before is shown"
                        );
                        said = why;
                    }
                }
            }
            if stopping.run_until_cancelled(watch.changed()).await.is_none() {
                return;
            }
        }
    }

    /// Shows what the files hold now; whether that is another certificate.
    async fn read_again(self: Arc<Self>) -> Result<bool, String> {
        let read = tokio::task::spawn_blocking(move || {
            let [certificate, key] = &self.files;
            let read = Certificate::read(certificate, key, wall_s()).map_err(|error| error.to_string())?;
            let is_new = read.key.cert != self.shown.0.load().key.cert;
            self.shown.0.store(Arc::new(read));
            Ok(is_new)
        });
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn measure(&self, metrics: &TlsMetrics, is_good: bool) {
        let labels = [self.listener];
        let expiry = metrics
            .tls_certificate_expiry_timestamp_seconds
            .with_label_values(&labels);
        expiry.set(self.shown.0.load().not_after_s);
        let good = metrics
            .tls_certificate_last_reload_successful
            .with_label_values(&labels);
        good.set(i64::from(is_good));
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
