//! `citygate devices`: adds, shows and changes device identities.
//!
//! It writes `*.ndjson` files alone, each as a whole and only if every file of the folder is in order afterwards; what stands in a
//! `*.toml` file is changed by hand. A key is shown once, when it is made. A running gateway notices the change by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::{Args, Subcommand};
use rustix::fs::{FlockOperation, Gid, Uid, fchown, flock};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::catalogue::schemas;
use crate::devices::authenticate::SECRET_BYTES_MAX;
use crate::devices::certificate::CertificateName;
use crate::devices::credential::{Key, PasswordHash};
use crate::devices::files::{self, Format, Found};
use crate::devices::record::Record;
use crate::devices::register::{Clash, Register};
use crate::operate::config::Config;

mod places;

mod print;

mod publish;

use print::Printer;

/// Where devices are added.
const FILE: &str = "devices.ndjson";

/// Which identities, and what is done with them.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The folder of identity files; default: devices.folder of the configuration.
    #[arg(long, value_name = "DIR", global = true)]
    folder: Option<PathBuf>,
    /// Print JSON, a line for each device.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Add a device and print its new key, which is shown only now.
    Add {
        /// Its device id, as in devices/<ID>/<kind>, and its user name.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        rights: Rights,
        #[command(flatten)]
        credentials: Credentials,
    },
    /// Add the devices of a file, an object per line as `show --json` prints them; those without keys, passwords and certificates get a new
    /// key, which is printed.
    Import {
        /// `-`: standard input.
        file: PathBuf,
        /// Leave out the devices that exist, whatever the file says of them, instead of importing none.
        #[arg(long)]
        skip_existing: bool,
    },
    /// List all devices.
    List,
    /// Show a device.
    Show {
        /// The device id.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Refuse a device from now on; its connections are closed.
    Disable {
        /// The device id.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Accept a device again.
    Enable {
        /// The device id.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Replace all keys, passwords and certificates of a device and print the new key; connections with old ones are closed.
    Rotate {
        /// The device id.
        #[arg(value_name = "ID")]
        id: String,
        /// Keep the newest key, password and certificate until the next rotation, so that the device can be told the new one
        /// meanwhile.
        #[arg(long)]
        keep_old: bool,
        #[command(flatten)]
        credentials: Credentials,
    },
    /// Add client certificates to a device, beside what it has. (A further key is made by `rotate --keep-old`.)
    AddCertificate {
        /// The device id.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        certificates: Certificates,
    },
    /// Remove a device.
    Remove {
        /// The device id.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Publish where devices stand, and what they belong to, to the topic of devices (<kafka.topic_prefix>devices).
    ///
    /// Out of the identities' tags (district, segment, upstream, feeder, …), or of a file. What is published again replaces what was.
    Publish(publish::Options),
}

/// What a device proves itself with, if not with a new key.
#[derive(Args, Clone, Debug)]
struct Credentials {
    /// Read a password from standard input instead of making a key.
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    certificates: Certificates,
}

#[derive(Args, Clone, Debug)]
struct Certificates {
    /// A name of its client certificate, instead of a key: sha256:…, cn:…, subject:CN=…,O=…, dns:…, uri:… or email:…; may be
    /// repeated.
    #[arg(long = "certificate", value_name = "NAME")]
    names: Vec<CertificateName>,
    /// A PEM file with its client certificate, instead of a key: the device is known by its fingerprint; may be repeated.
    #[arg(long = "certificate-file", value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Args, Clone, Debug)]
struct Rights {
    /// A kind that it may write; may be repeated. Default: every kind.
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// A device for which it may write as well, or the start of such ids with * behind it; may be repeated.
    #[arg(long, value_name = "ID")]
    acts_for: Vec<String>,
    /// How many readings it may send per second on average. Default: devices.readings_per_second.
    #[arg(long, value_name = "READINGS")]
    readings_per_second: Option<u32>,
    /// How many bytes of messages, such as 1MiB. Default: devices.bytes_per_second.
    #[arg(long, value_name = "BYTES")]
    bytes_per_second: Option<ByteSize>,
    /// For people, such as district=north; may be repeated.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a tag is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The folder, as it was read and may be changed. Locked against others who change it.
struct Folder {
    path: PathBuf,
    found: Vec<Found>,
    /// Locked.
    directory: std::fs::File,
}

/// Does it; what is printed goes to `output`.
///
/// # Errors
/// It cannot be done; why. Nothing was changed then.
pub fn run(options: &Options, config: &Config, output: &mut impl Write) -> anyhow::Result<()> {
    let path = options.folder.as_deref().or(config.devices.folder.as_deref());
    if let Action::Publish(publish) = &options.action {
        return publish::run(publish, path, &config.kafka, output);
    }
    let path = path.context("no folder of identities: set devices.folder, or give --folder DIR")?;
    // Before the lock: a person may take long.
    let given = options.action.credentials().map_or(Ok(Given::default()), Given::read)?;
    let imported = match &options.action {
        Action::Import { file, .. } => Some(import(file)?),
        _ => None,
    };
    let kinds = known_kinds(config);
    let mut folder = Folder::open(path)?;
    let mut print = Printer {
        json: options.json,
        output,
    };
    match &options.action {
        Action::Add { id, rights, .. } => {
            let mut record = rights.record(id);
            let key = given.add_to(&mut record);
            folder.add(vec![record], &kinds)?;
            print.key(id, key.as_ref())
        }
        Action::Import { skip_existing, .. } => {
            let (mut records, mut keys) = imported.unwrap_or_default();
            if *skip_existing {
                let exist: BTreeSet<_> = folder.found.iter().map(|found| found.record.id.clone()).collect();
                records.retain(|record| !exist.contains(&record.id));
                keys.retain(|(id, _)| !exist.contains(id));
            }
            folder.add(records, &kinds)?;
            keys.iter().try_for_each(|(id, key)| print.key(id, Some(key)))
        }
        Action::List => print.list(folder.found.iter().map(|found| &found.record).collect()),
        Action::Show { id } => print.device(folder.find(id)?),
        Action::Disable { id } => folder.change(id, |record| record.disabled = true),
        Action::Enable { id } => folder.change(id, |record| record.disabled = false),
        Action::Rotate { id, keep_old, .. } => {
            let mut key = None;
            folder.change(id, |record| {
                record.keys.truncate(usize::from(*keep_old));
                record.passwords.truncate(usize::from(*keep_old));
                record.certificates.truncate(usize::from(*keep_old));
                key = given.add_to(record);
            })?;
            print.key(id, key.as_ref())
        }
        Action::AddCertificate { id, certificates } => {
            let names = certificates.read()?;
            if names.is_empty() {
                bail!("give --certificate NAME or --certificate-file FILE");
            }
            folder.change(id, |record| record.certificates.extend(names))
        }
        Action::Remove { id } => folder.remove(id),
        // It changes nothing here.
        Action::Publish(_) => Ok(()),
    }
}

/// The kinds that there are schemas of, whether or not this configuration lists them; none: they cannot be known here.
fn known_kinds(config: &Config) -> Vec<String> {
    let found = schemas::read(&config.schemas, "");
    if !found.errors.is_empty() {
        return Vec::new();
    }
    let listed = found.definitions.into_iter().map(|kind| kind.name);
    let mut kinds: Vec<_> = listed.chain(found.unlisted).collect();
    kinds.sort();
    kinds
}

/// What somebody gave for a device.
#[derive(Default)]
struct Given {
    password: Option<PasswordHash>,
    certificates: Vec<CertificateName>,
}

// === impl Certificates ===

impl Certificates {
    fn read(&self) -> anyhow::Result<Vec<CertificateName>> {
        let mut names = self.names.clone();
        for file in &self.files {
            let certificate = CertificateDer::from_pem_file(file);
            let certificate = certificate.with_context(|| format!("{}: no certificate in PEM form", file.display()))?;
            names.push(CertificateName::fingerprint(&certificate));
        }
        Ok(names)
    }
}

// === impl Given ===

impl Given {
    fn read(credentials: &Credentials) -> anyhow::Result<Self> {
        let certificates = credentials.certificates.read()?;
        let password = credentials.password_stdin.then(read_password).transpose()?;
        Ok(Given { password, certificates })
    }

    /// Gives it to a device, or else a new key.
    fn add_to(self, record: &mut Record) -> Option<Key> {
        let is_something = self.password.is_some() || !self.certificates.is_empty();
        record.passwords.splice(0..0, self.password);
        record.certificates.splice(0..0, self.certificates);
        (!is_something).then(|| new_key(record))
    }
}

fn new_key(record: &mut Record) -> Key {
    let key = Key::generate();
    record.keys.insert(0, key.hash());
    key
}

fn read_password() -> anyhow::Result<PasswordHash> {
    if io::stdin().is_terminal() {
        eprintln!("password:");
    }
    let mut password = Zeroizing::new(String::new());
    io::stdin().read_line(&mut password).context("the password")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if !(8..=SECRET_BYTES_MAX).contains(&password.len()) {
        bail!("a password has 8 to {SECRET_BYTES_MAX} bytes");
    }
    PasswordHash::of(password.as_bytes()).map_err(|error| anyhow::anyhow!("the password: {error}"))
}

/// Of devices that had none.
type NewKeys = Vec<(String, Key)>;

/// The records of a file, and the keys that were made for those without.
fn import(file: &Path) -> anyhow::Result<(Vec<Record>, NewKeys)> {
    let mut text = String::new();
    match file == Path::new("-") {
        true => io::stdin().read_to_string(&mut text).context("standard input")?,
        false => std::fs::File::open(file)
            .and_then(|mut file| file.read_to_string(&mut text))
            .with_context(|| file.display().to_string())?,
    };
    let (mut records, mut keys) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).with_context(|| format!("line {}", index + 1))?;
        let record = Record::from_value(value).map_err(anyhow::Error::msg);
        let mut record = record.with_context(|| format!("line {}", index + 1))?;
        if record.keys.is_empty() && record.passwords.is_empty() && record.certificates.is_empty() {
            keys.push((record.id.clone(), new_key(&mut record)));
        }
        records.push(record);
    }
    Ok((records, keys))
}

// === impl Action ===

impl Action {
    fn credentials(&self) -> Option<&Credentials> {
        match self {
            Action::Add { credentials, .. } | Action::Rotate { credentials, .. } => Some(credentials),
            _ => None,
        }
    }
}

// === impl Rights ===

impl Rights {
    fn record(&self, id: &str) -> Record {
        Record {
            id: id.to_owned(),
            kinds: self.kinds.clone(),
            acts_for: self.acts_for.clone(),
            readings_per_second: self.readings_per_second,
            bytes_per_second: self.bytes_per_second,
            tags: self.tags.iter().cloned().collect::<BTreeMap<_, _>>(),
            ..Record::default()
        }
    }
}

// === impl Folder ===

impl Folder {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let opened = std::fs::File::open(path).with_context(|| path.display().to_string());
        let directory = opened.context("the folder of identities must exist")?;
        flock(&directory, FlockOperation::LockExclusive).with_context(|| path.display().to_string())?;
        Ok(Folder {
            path: path.to_owned(),
            found: files::records(path)?,
            directory,
        })
    }

    fn find(&self, id: &str) -> anyhow::Result<&Found> {
        let found = self.found.iter().find(|found| found.record.id == id);
        found.with_context(|| format!("there is no device {id} in {}", self.path.display()))
    }

    /// `kinds`: those that exist; none: any.
    fn add(&mut self, records: Vec<Record>, kinds: &[String]) -> anyhow::Result<()> {
        let known: Vec<_> = kinds.iter().map(String::as_str).collect();
        for record in &records {
            let unknown = record.kinds.iter().find(|kind| !known.contains(&kind.as_str()));
            if let Some(kind) = unknown.filter(|_| !known.is_empty()) {
                bail!("device {}: {}", record.id, files::unknown_kind(kind, &known));
            }
        }
        let file = self.path.join(FILE);
        let last = self
            .found
            .iter()
            .filter(|found| found.file == file)
            .map(|found| found.line)
            .max();
        let first = last.unwrap_or_default() + 1;
        let new = records.into_iter().enumerate().map(|(index, record)| Found {
            file: file.clone(),
            line: first + index,
            record,
        });
        self.found.extend(new);
        self.write(&file)
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Record)) -> anyhow::Result<()> {
        let file = self.writable(id)?;
        let mut found = self.found.iter_mut();
        if let Some(found) = found.find(|found| found.record.id == id) {
            change(&mut found.record);
        }
        self.write(&file)
    }

    fn remove(&mut self, id: &str) -> anyhow::Result<()> {
        let file = self.writable(id)?;
        self.found.retain(|found| found.record.id != id);
        self.write(&file)
    }

    /// The file of a device, if this program writes such files.
    fn writable(&self, id: &str) -> anyhow::Result<PathBuf> {
        let Found { file, line, .. } = self.find(id)?;
        match Format::of(file) {
            Some(Format::Ndjson) => Ok(file.clone()),
            _ => bail!("device {id} is in {}:{line}; change it there", file.display()),
        }
    }

    /// Writes a file anew, if all records are in order.
    fn write(&self, file: &Path) -> anyhow::Result<()> {
        for found in self.found.iter().filter(|found| found.file == file) {
            if let Some(mistake) = found.record.mistakes().first() {
                bail!("{mistake}");
            }
        }
        let records = self.found.iter().map(|found| found.record.clone()).collect();
        if let Err(clashes) = Register::new(records, &Register::default()) {
            bail!("{}", self.said(clashes[0]));
        }
        // What a link points at is replaced, not the link.
        let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let folder = target.parent().unwrap_or(&self.path);
        let mut new = tempfile::Builder::new().prefix(".devices").tempfile_in(folder)?;
        // A gateway that runs as another user must be able to read it on.
        let old = std::fs::metadata(&target);
        let owner = old
            .as_ref()
            .ok()
            .map_or_else(|| self.directory.metadata(), |old| Ok(old.clone()))?;
        fchown(&new, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))
            .with_context(|| format!("{}: its owner", target.display()))?;
        if let Ok(old) = old {
            new.as_file().set_permissions(old.permissions())?;
        }
        let mut text = String::new();
        for found in self.found.iter().filter(|found| found.file == file) {
            text += &serde_json::to_string(&found.record)?;
            text.push('\n');
        }
        new.write_all(text.as_bytes())?;
        new.as_file().sync_all()?;
        new.persist(&target).with_context(|| target.display().to_string())?;
        self.directory.sync_all().with_context(|| folder.display().to_string())
    }

    fn said(&self, clash: Clash) -> String {
        match clash {
            Clash::Id { first, .. } => {
                let Found { file, line, record } = &self.found[first];
                format!("device {} exists, in {}:{line}", record.id, file.display())
            }
            Clash::Key { first, second } => {
                let [first, second] = [first, second].map(|at| &self.found[at].record.id);
                format!("devices {first} and {second} have the same key")
            }
            Clash::Certificate { first, second } => {
                let [first, second] = [first, second].map(|at| &self.found[at].record.id);
                format!("devices {first} and {second} have the same certificate")
            }
        }
    }
}

#[cfg(test)]
mod tests;
