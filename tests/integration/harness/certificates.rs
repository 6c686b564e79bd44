//! An authority of the test's own: it issues certificates for servers and clients, and revokes them.
//!
//! Its clients are rustls. Files are replaced as a whole, as certificate tools do it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use citygate::operate::config::Config;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority, and the folder in which it puts what it issues.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a client shows, and proves that it has the key of.
#[derive(Clone, Debug)]
pub struct Client {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
    serial: u64,
    /// It shows the certificate with a key that is another's.
    other_key: bool,
}

/// Shows it whether or not the server knows its authority: a device has one, and does not choose.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

// === impl Authority ===

impl Authority {
    pub fn new() -> Self {
        Self::named("test authority")
    }

    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Authority {
            folder: tempfile::tempdir().unwrap(),
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes a new certificate and its key, valid until this many days from now.
    pub fn issue(&self, days: i64) {
        self.issue_for(&["localhost"], "", days);
    }

    /// The same for these names, in files of which the names begin so.
    pub fn issue_for(&self, names: &[&str], start: &str, days: i64) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = (SystemTime::now() - 100 * DAY).into();
        params.not_after = in_days(days).into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // The key first: between the two they do not match, and nothing changes.
        replace(&self.file(&format!("{start}key.pem")), &key.serialize_pem());
        let chain = certificate.pem() + &self.issuer.pem();
        replace(&self.file(&format!("{start}certificate.pem")), &chain);
    }

    /// MQTT and HTTP with TLS, by the files that [`Authority::issue`] writes.
    pub fn use_in(&self, config: &mut Config) {
        for tls in [&mut config.mqtt.tls, &mut config.http.tls] {
            tls.listen = Some("127.0.0.1:0".parse().unwrap());
            tls.certificate = self.file("certificate.pem").into();
            tls.key = self.file("key.pem").into();
        }
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A client's certificate with this common name.
    pub fn client(&self, name: &str) -> Client {
        self.client_with(name, |_| ())
    }

    pub fn client_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Client {
        let serial = u64::from(rand::random::<u32>());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = in_days(-100).into();
        params.not_after = in_days(90).into();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Client {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            serial,
            other_key: false,
        }
    }

    /// Writes the list of what is revoked, to be replaced in this many days.
    pub fn revoke(&self, clients: &[&Client], days: i64) {
        let now = SystemTime::now();
        let revoked = clients.iter().map(|client| RevokedCertParams {
            serial_number: SerialNumber::from(client.serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: in_days(-50).into(),
            next_update: in_days(days).into(),
            crl_number: SerialNumber::from(u64::from(rand::random::<u32>())),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        replace(
            &self.file("crl.pem"),
            &list.signed_by(&self.issuer).unwrap().pem().unwrap(),
        );
    }

    /// A client's TLS: of this authority's servers, with this certificate.
    pub fn client_config(
        &self,
        client: Option<&Client>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap();
        let config = config.with_root_certificates(self.roots());
        Arc::new(match client {
            None => config.with_no_client_auth(),
            Some(client) => config.with_client_cert_resolver(Arc::new(Always(client.certified()))),
        })
    }

    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        connect(address, self.client_config(None, rustls::DEFAULT_VERSIONS), "localhost").await
    }

    pub fn http(&self) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(self.issuer.pem().as_bytes()).unwrap();
        reqwest::Client::builder().add_root_certificate(root).build().unwrap()
    }
}

// === impl Client ===

impl Client {
    /// A thief's, who has its certificate and not its key.
    pub fn without_key(self) -> Self {
        Client {
            other_key: true,
            ..self
        }
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        use rustls::pki_types::pem::PemObject;
        let other = KeyPair::generate().unwrap().serialize_pem();
        let pem = if self.other_key { &other } else { &self.key_pem };
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        Arc::new(CertifiedKey::new(vec![self.certificate.clone()], key))
    }

    /// An HTTP client that shows it.
    pub fn http(&self, authority: &Authority) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let identity = reqwest::Identity::from_pkcs8_pem(self.pem.as_bytes(), self.key_pem.as_bytes()).unwrap();
        let builder = reqwest::Client::builder().add_root_certificate(root).identity(identity);
        builder.build().unwrap()
    }
}

fn in_days(days: i64) -> SystemTime {
    let length = DAY * u32::try_from(days.unsigned_abs()).unwrap();
    if days >= 0 {
        SystemTime::now() + length
    } else {
        SystemTime::now() - length
    }
}

/// A TLS connection to a server that is asked for by this name.
pub async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

/// As a whole, as certificate tools do it.
pub fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}
