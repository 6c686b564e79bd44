//! Identities for the fleet under proof, and certificates for its gateway: made by the tools that an operator has.
//!
//! Devices over MQTT and HTTP send over TLS. Each has a key; or, where certificates are to be replaced, a certificate. CoAP has no
//! credentials: its devices have no identity, and are accepted without one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::uplinks::credentials::Credentials;

/// Where they are.
#[derive(Clone, Debug)]
pub struct Identities {
    /// `devices.folder` of the gateway.
    pub folder: PathBuf,
    /// What the gateway shows.
    pub certificate: PathBuf,
    pub certificate_key: PathBuf,
    /// The authorities of the devices' certificates; `None`: they have keys.
    pub client_authorities: Option<PathBuf>,
    /// Whom devices trust.
    authority: PathBuf,
    keys: Option<PathBuf>,
    certificates: Option<PathBuf>,
}

/// An authority that issues certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Issued {
    pub der: Vec<u8>,
    pub pem: String,
    pub key_pem: String,
}

// === impl Identities ===

impl Identities {
    /// For these devices, each with its kind: keys, made by the program.
    ///
    /// # Errors
    /// The program does not import them, or the folder cannot be written.
    pub fn with_keys(program: &Path, folder: &Path, devices: &[(String, String)]) -> anyhow::Result<Self> {
        let keys = folder.join("keys.ndjson");
        let identities = Identities {
            keys: Some(keys.clone()),
            ..Identities::new(folder)?
        };
        Authority::new("gateways")?.issue_server(&identities)?;
        let list = folder.join("fleet.ndjson");
        let records = devices
            .iter()
            .map(|(id, kind)| json!({"id": id, "kinds": [kind]}).to_string());
        fs::write(&list, records.collect::<Vec<_>>().join("\n"))?;
        let imported = Command::new(program)
            .args(["devices", "--json", "--folder"])
            .arg(&identities.folder)
            .arg("import")
            .arg(&list)
            .stdin(Stdio::null())
            .stdout(File::create(&keys)?)
            .status()
            .with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(imported.success(), "{} devices import: {imported}", program.display());
        Ok(identities)
    }

    /// For these devices, each with its kind: certificates of `authority`. `servers` issues the gateway's.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn with_certificates(
        folder: &Path,
        devices: &[(String, String)],
        authority: &Authority,
        servers: &Authority,
    ) -> anyhow::Result<Self> {
        let certificates = folder.join("clients");
        fs::create_dir_all(&certificates)?;
        let client_authorities = folder.join("client-authorities.pem");
        let identities = Identities {
            client_authorities: Some(client_authorities.clone()),
            certificates: Some(certificates.clone()),
            ..Identities::new(folder)?
        };
        servers.issue_server(&identities)?;
        fs::write(&client_authorities, &authority.pem)?;
        let mut records = String::new();
        for (id, kind) in devices {
            let names = [format!("cn:{id}")];
            records += &format!("{}\n", json!({"id": id, "kinds": [kind], "certificates": names}));
            let issued = authority.issue(id)?;
            fs::write(certificates.join(format!("{id}.pem")), issued.pem)?;
            fs::write(certificates.join(format!("{id}.key")), issued.key_pem)?;
        }
        fs::write(identities.folder.join("fleet.ndjson"), records)?;
        Ok(identities)
    }

    fn new(folder: &Path) -> anyhow::Result<Self> {
        let identities = Identities {
            folder: folder.join("devices"),
            certificate: folder.join("certificate.pem"),
            certificate_key: folder.join("certificate-key.pem"),
            client_authorities: None,
            authority: folder.join("authority.pem"),
            keys: None,
            certificates: None,
        };
        fs::create_dir_all(&identities.folder)?;
        Ok(identities)
    }

    /// What the fleet sends with.
    ///
    /// # Errors
    /// What was made cannot be read.
    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        let credentials = Credentials::read(self.keys.as_deref(), Some(&self.authority))?;
        match &self.certificates {
            Some(folder) => credentials.with_certificates(folder),
            None => Ok(credentials),
        }
    }
}

// === impl Authority ===

impl Authority {
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Authority { issuer, pem })
    }

    /// A client's.
    pub fn issue(&self, name: &str) -> anyhow::Result<Issued> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// Replaces the certificate that the gateway shows by a new one, which devices trust.
    pub fn issue_server(&self, identities: &Identities) -> anyhow::Result<Issued> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issued = self.sign(params)?;
        replace(&identities.authority, &self.pem)?;
        replace(&identities.certificate_key, &issued.key_pem)?;
        replace(&identities.certificate, &issued.pem)?;
        Ok(issued)
    }

    fn sign(&self, params: CertificateParams) -> anyhow::Result<Issued> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// In one step: the gateway may read the file at any time.
pub fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, file).with_context(|| file.display().to_string())
}
