//! What a listener's files say at one moment: the certificates that it shows, and which of its clients' it accepts.
//!
//! It is replaced as a whole. Sessions that began under other authorities or revocation lists cannot be resumed: their tickets are
//! of another key, so that a full handshake looks at the certificate again, and a refusal has its alert.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, NoClientAuth, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::config::Config;
use super::trust::Trust;

/// See the module's documentation.
#[derive(Debug)]
pub struct Set {
    pub certificates: Arc<Shown>,
    pub trust: Option<Trust>,
    pub server: Arc<ServerConfig>,
    ticketer: Arc<dyn ProducesTickets>,
}

/// The certificates of a listener, at least one.
#[derive(Debug)]
pub struct Shown(pub Vec<Certificate>);

// === impl Set ===

impl Set {
    /// What the files hold now. `alpn`: the protocols that are spoken above it. Tickets of the set `before` go on, if it accepts the
    /// same clients.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn read(config: &Config, alpn: &[Vec<u8>], before: Option<&Set>, now_s: i64) -> Result<Self, String> {
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let pairs = config.certificate.iter().zip(config.key.iter());
        let certificates = pairs.map(|(file, key)| Certificate::read(file, key, now_s));
        let certificates: Result<Vec<_>, _> = certificates.collect();
        let certificates = Arc::new(Shown(certificates.map_err(|error| error.to_string())?));
        let trust = Trust::read(config, &provider, now_s).map_err(|error| error.to_string())?;
        let said = |error: rustls::Error| error.to_string();
        let ticketer = match before.filter(|before| same_trust(before.trust.as_ref(), trust.as_ref())) {
            Some(before) => before.ticketer.clone(),
            None => ring::Ticketer::new().map_err(said)?,
        };
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let verifier = trust
            .as_ref()
            .map_or_else(|| Arc::new(NoClientAuth) as _, Trust::verifier);
        let builder = builder.map_err(said)?.with_client_cert_verifier(verifier);
        let mut server = builder.with_cert_resolver(certificates.clone());
        server.ticketer = ticketer.clone();
        server.alpn_protocols = alpn.to_vec();
        Ok(Set {
            certificates,
            trust,
            server: Arc::new(server),
            ticketer,
        })
    }

    /// Whether it accepts the clients that the other one does.
    pub fn accepts_as(&self, other: &Set) -> bool {
        same_trust(self.trust.as_ref(), other.trust.as_ref())
    }

    /// What to say of files that need to be replaced soon.
    pub fn warnings(&self, now_s: i64) -> Vec<String> {
        let shown = self
            .certificates
            .0
            .iter()
            .filter_map(|certificate| certificate.warning(now_s));
        let shown = shown.map(|warning| format!("certificate: {warning}"));
        let trust = self.trust.iter().flat_map(Trust::warnings).cloned();
        shown.chain(trust).collect()
    }
}

fn same_trust(one: Option<&Trust>, other: Option<&Trust>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

// === impl Shown ===

impl Shown {
    fn for_name(&self, name: Option<&str>, fits: impl Fn(&Certificate) -> bool) -> Option<&Certificate> {
        let named = name.and_then(|name| {
            self.0
                .iter()
                .find(|certificate| certificate.has_name(name) && fits(certificate))
        });
        named.or_else(|| self.0.iter().find(|certificate| fits(certificate)))
    }

    /// Whether both show the same.
    pub fn is_same(&self, other: &Shown) -> bool {
        let chains = |shown: &Shown| {
            shown
                .0
                .iter()
                .map(|certificate| certificate.key.cert.clone())
                .collect::<Vec<_>>()
        };
        chains(self) == chains(other)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // One for RSA and one for ECDSA may have the same name.
        let fits = |certificate: &Certificate| certificate.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let found = self.for_name(hello.server_name(), fits).or(self.0.first());
        found.map(|certificate| certificate.key.clone())
    }
}
