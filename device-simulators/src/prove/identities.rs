//! Identities for the fleet under proof, and a certificate for its gateway: made by the tools that an operator has.
//!
//! Devices over MQTT and HTTP have a key each and send over TLS. CoAP has no credentials: its devices have no identity, and are
//! accepted without one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::uplinks::credentials::Credentials;

/// Where they are.
#[derive(Clone, Debug)]
pub struct Identities {
    /// `devices.folder` of the gateway.
    pub folder: PathBuf,
    /// Its own authority.
    pub certificate: PathBuf,
    pub certificate_key: PathBuf,
    keys: PathBuf,
}

impl Identities {
    /// For these devices, each with its kind, in a folder of their own.
    ///
    /// # Errors
    /// The program does not import them, or the folder cannot be written.
    pub fn create(program: &Path, folder: &Path, devices: &[(String, String)]) -> anyhow::Result<Self> {
        let identities = Identities {
            folder: folder.join("devices"),
            certificate: folder.join("certificate.pem"),
            certificate_key: folder.join("certificate-key.pem"),
            keys: folder.join("keys.ndjson"),
        };
        fs::create_dir_all(&identities.folder)?;
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        fs::write(&identities.certificate, made.cert.pem())?;
        fs::write(&identities.certificate_key, made.signing_key.serialize_pem())?;
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
            .stdout(File::create(&identities.keys)?)
            .status()
            .with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(imported.success(), "{} devices import: {imported}", program.display());
        Ok(identities)
    }

    /// What the fleet sends with.
    ///
    /// # Errors
    /// What was made cannot be read.
    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        Credentials::read(Some(&self.keys), Some(&self.certificate))
    }
}
