//! Whether a sender is the device that it says it is.
//!
//! A key costs one SHA-256 and a look-up. A password costs tens of milliseconds ([`password_checks`](super::password_checks)), so
//! what a device was verified with is remembered with it. Every refusal leaves after the same delay and in the same words, whether
//! the device is unknown, has no password, or sent a wrong one. A client certificate that TLS has accepted is looked up by its names;
//! what else its sender says of itself must agree with it.

use std::fmt::{self, Debug, Formatter};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use strum::IntoStaticStr;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::config::Config;
use super::credential::{Credential, Digest, digest};
use super::metrics::Metrics;
use super::password_checks::PasswordChecks;
use super::{CertificateNames, Device, Devices, Register};
use crate::message::Protocol;
use crate::operate::clock::wall_s;
use crate::operate::log_limit::LogLimit;
use crate::operate::rate_limit::{ClaimLimits, PrefixLimits};
use crate::outcome::quoted;
use crate::recent_refusals::{RecentRefusals, Refusal};

/// The longest key or password, in bytes.
pub const SECRET_BYTES_MAX: usize = 1024;

/// Verifies credentials against the devices in force.
#[derive(Debug)]
pub struct Authenticator {
    devices: Arc<Devices>,
    refusal_delay: Duration,
    checks: PasswordChecks,
    /// Remembered passwords are worth nothing outside this process.
    salt: Salt,
    metrics: Metrics,
    logged: Mutex<LogLimit<Instant>>,
    /// By the address of the sender.
    refused: PrefixLimits,
    /// By the device that it says it is, known or not.
    refused_by_id: ClaimLimits,
    refusals: Arc<RecentRefusals>,
}

/// Of this process alone.
struct Salt(Digest);

/// What a sender says of itself.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// The device id; none: the key alone says which device it is.
    pub id: Option<&'a str>,
    pub secret: &'a [u8],
}

/// A device that has proved who it is, and by which credential.
#[derive(Clone, Debug)]
pub struct Proven {
    pub device: Arc<Device>,
    credential: Credential,
}

/// Why a sender is refused; the `reason` label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Denied {
    /// The device is unknown, or its key or password is another one: which of them is not said.
    BadCredential,
    /// The credential is right.
    Disabled,
    /// The sender says nothing of itself.
    Missing,
    /// Too many passwords are being verified.
    Busy,
}

// === impl Authenticator ===

impl Authenticator {
    pub fn new(
        devices: Arc<Devices>,
        config: &Config,
        metrics: Metrics,
        refused: PrefixLimits,
        refusals: Arc<RecentRefusals>,
    ) -> Self {
        Authenticator {
            devices,
            refusal_delay: config.refusal_delay,
            checks: PasswordChecks::new(config.password_checks_max),
            salt: Salt(rand::random()),
            metrics,
            logged: Mutex::default(),
            refused,
            refused_by_id: ClaimLimits::new(config.refused_credentials_per_minute),
            refusals,
        }
    }

    pub fn devices(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// Whether the claim is true. A refusal is counted and logged, and takes `devices.refusal_delay`.
    ///
    /// # Errors
    /// It is not, or cannot be verified in that time.
    pub async fn authenticate(&self, origin: (Protocol, SocketAddr), claim: Claim<'_>) -> Result<Proven, Denied> {
        let due = Instant::now() + self.refusal_delay;
        let verified = self.verify(claim, origin.1, due).await;
        if let Err(denied) = verified {
            self.note(origin, claim.id.unwrap_or_default(), None, denied);
            sleep_until(due).await;
        }
        verified
    }

    /// Which device has this certificate; and whether it is the one that it says, and its key or password is right, where it sends
    /// them as well. A refusal is as any other.
    ///
    /// # Errors
    /// None has it, or another one than is said.
    pub async fn authenticate_certificate(
        &self,
        origin: (Protocol, SocketAddr),
        certificate: &CertificateNames,
        id: Option<&str>,
        secret: Option<&[u8]>,
    ) -> Result<Proven, Denied> {
        let due = Instant::now() + self.refusal_delay;
        let verified = self.verify_certificate((certificate, origin.1), id, secret, due).await;
        if let Err(denied) = verified {
            self.note(origin, id.unwrap_or_default(), Some(certificate), denied);
            sleep_until(due).await;
        }
        verified
    }

    /// Which device has this key. A refusal is counted and logged; its sender is to be told so [`Authenticator::refusal_delay`] later.
    ///
    /// # Errors
    /// None has it.
    pub fn authenticate_key(&self, origin: (Protocol, SocketAddr), key: &[u8]) -> Result<Proven, Denied> {
        let known = self.with_key(key);
        known.inspect_err(|denied| self.note(origin, "", None, *denied))
    }

    fn with_key(&self, key: &[u8]) -> Result<Proven, Denied> {
        if key.is_empty() || key.len() > SECRET_BYTES_MAX {
            return Err(Denied::BadCredential);
        }
        let register = self.devices.register();
        let (device, credential) = register.find_by_key(&digest(key)).ok_or(Denied::BadCredential)?;
        proven(device, credential)
    }

    /// How long after a credential arrived it is refused.
    pub fn refusal_delay(&self) -> Duration {
        self.refusal_delay
    }

    async fn verify_certificate(
        &self,
        (certificate, peer): (&CertificateNames, SocketAddr),
        id: Option<&str>,
        secret: Option<&[u8]>,
        due: Instant,
    ) -> Result<Proven, Denied> {
        let by_certificate = with_certificate(&self.devices.register(), certificate)?;
        let shown = by_certificate.device.id();
        if id.is_some_and(|id| id != shown) {
            return Err(Denied::BadCredential);
        }
        if let Some(secret) = secret {
            let by_secret = self.verify(Claim { id, secret }, peer, due).await?;
            if by_secret.device.id() != shown {
                return Err(Denied::BadCredential);
            }
        }
        Ok(by_certificate)
    }

    /// The same delay for a sender that says nothing of itself, or nothing that can be understood.
    pub async fn refuse(&self, origin: (Protocol, SocketAddr), denied: Denied) -> Denied {
        let due = Instant::now() + self.refusal_delay;
        self.note(origin, "", None, denied);
        sleep_until(due).await;
        denied
    }

    async fn verify(&self, claim: Claim<'_>, peer: SocketAddr, due: Instant) -> Result<Proven, Denied> {
        if claim.secret.is_empty() || claim.secret.len() > SECRET_BYTES_MAX {
            return Err(Denied::BadCredential);
        }
        let digest = digest(claim.secret);
        let register = self.devices.register();
        let known = match claim.id {
            Some(id) => register.find(id),
            None => {
                let (device, credential) = register.find_by_key(&digest).ok_or(Denied::BadCredential)?;
                return proven(device, credential);
            }
        };
        let credentials = known.map_or(&[][..], |device| device.credentials());
        let is_key = |credential: &&Credential| matches!(credential, Credential::Key(key) if key.matches(&digest));
        if let (Some(device), Some(key)) = (known, credentials.iter().find(is_key)) {
            return proven(device, key);
        }
        let salted = self.salted(&digest);
        if let Some(device) = known
            && let Some(password) = device.verified(&salted)
        {
            return proven(device, password);
        }
        if self.is_refused_often(claim.id, peer) {
            return Err(Denied::Busy);
        }
        let checked = self.checks.verify(known, claim.secret, salted, due).await;
        let password = checked.map_err(|_| Denied::Busy)?;
        let (Some(device), Some(credential)) = (known.cloned(), password) else {
            return Err(Denied::BadCredential);
        };
        // The identities may have changed meanwhile.
        self.recheck(&Proven { device, credential })
    }

    /// Whether so much was refused to whoever is there, or to whoever says that it is this device, that no more passwords are verified
    /// for it. It is asked of devices that are not known as well: nobody learns which are.
    fn is_refused_often(&self, id: Option<&str>, peer: SocketAddr) -> bool {
        let now = Instant::now().into_std();
        self.refused.is_exceeded(peer.ip(), now) || id.is_some_and(|id| self.refused_by_id.is_exceeded(id, now))
    }

    fn salted(&self, digest: &Digest) -> Digest {
        let Salt(salt) = self.salt;
        Sha256::new().chain_update(salt).chain_update(digest).finalize().into()
    }

    fn note(
        &self,
        (protocol, peer): (Protocol, SocketAddr),
        id: &str,
        certificate: Option<&CertificateNames>,
        denied: Denied,
    ) {
        let reason: &'static str = denied.into();
        let refused = &self.metrics.authentications_refused_total;
        refused.with_label_values(&[protocol.label(), reason]).inc();
        // An id that is known is worth a line of its own; the others share one, and may be anything, a key for instance.
        let device = if self.devices.has(id) {
            quoted(id)
        } else {
            "(unknown)".to_owned()
        };
        if denied == Denied::BadCredential {
            let now = Instant::now().into_std();
            // A source of UDP may be forged, and nobody is to be locked out by that.
            if protocol != Protocol::Coap {
                self.refused.charge(peer.ip(), now);
            }
            if !id.is_empty() {
                self.refused_by_id.charge(id, now);
            }
        }
        let is_known = self.devices.has(id);
        self.refusals.note(
            if is_known { id } else { "" },
            is_known,
            Refusal {
                protocol,
                peer,
                reason,
                detail: denied.text(),
                at_ms: wall_s() * 1000,
            },
        );
        let shown = certificate.map(|names| quoted(names.subject()));
        let cause = format!("{device}{}", shown.as_ref().map_or("", |_| " (certificate)"));
        let is_due = self
            .logged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .allows(Instant::now(), &cause);
        if is_due {
            let protocol = protocol.label();
            warn!(protocol, %peer, device, certificate = shown, reason, "a sender's credential is refused");
        }
    }

    /// Whether a device that proved itself before is one still, as the files are now.
    ///
    /// # Errors
    /// It is disabled, or its credential is no longer one of it.
    pub fn recheck(&self, before: &Proven) -> Result<Proven, Denied> {
        let register = self.devices.register();
        let device = register.find(before.device.id()).ok_or(Denied::BadCredential)?;
        match device.still_has(&before.credential) {
            true => proven(device, &before.credential),
            false => Err(Denied::BadCredential),
        }
    }
}

/// The device of a certificate. Names of two devices in one are refused: which of them it is cannot be known.
fn with_certificate(register: &Register, certificate: &CertificateNames) -> Result<Proven, Denied> {
    let digests = certificate.digests().iter();
    let mut found = digests.filter_map(|digest| register.find_by_certificate(digest));
    let (device, credential) = found.next().ok_or(Denied::BadCredential)?;
    match found.all(|(other, _)| other.id() == device.id()) {
        true => proven(device, credential),
        false => Err(Denied::BadCredential),
    }
}

fn proven(device: &Arc<Device>, credential: &Credential) -> Result<Proven, Denied> {
    match device.is_disabled() {
        true => Err(Denied::Disabled),
        false => Ok(Proven {
            device: device.clone(),
            credential: credential.clone(),
        }),
    }
}

// === impl Denied ===

impl Denied {
    /// In words for the sender.
    pub fn text(self) -> &'static str {
        match self {
            Denied::BadCredential => "unknown device, or wrong key, password or certificate",
            Denied::Disabled => "the device is disabled",
            Denied::Missing => "a device id with its key or password, or a client certificate, is required",
            Denied::Busy => "too many passwords to verify; try again later",
        }
    }
}

impl Debug for Salt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Debug for Claim<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // Not even the id: somebody may have sent the key in its place.
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Register;
    use crate::devices::credential::{Key, PasswordHash};
    use crate::devices::record::Record;
    use crate::operate::networks::Networks;

    const REFUSED_PER_MINUTE: u32 = 60;

    const FROM: (Protocol, SocketAddr) = (
        Protocol::Http,
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1),
    );

    struct Setup {
        devices: Arc<Devices>,
        authenticator: Authenticator,
        metrics: Metrics,
    }

    fn quick() -> Config {
        Config {
            refusal_delay: Duration::from_millis(100),
            ..Config::default()
        }
    }

    fn setup(records: Vec<Record>, config: &Config) -> Setup {
        let devices = Arc::new(Devices::new(Register::new(records, &Register::default()).unwrap()));
        let metrics = Metrics::default();
        let authenticator = Authenticator::new(
            devices.clone(),
            config,
            metrics.clone(),
            PrefixLimits::new(REFUSED_PER_MINUTE, 32, 64, Networks::loopback()),
            Arc::default(),
        );
        Setup {
            devices,
            authenticator,
            metrics,
        }
    }

    fn with_key(id: &str, key: &Key) -> Record {
        let keys = vec![key.hash()];
        Record {
            id: id.to_owned(),
            keys,
            ..Record::default()
        }
    }

    fn with_password(id: &str, password: &str) -> Record {
        let passwords = vec![PasswordHash::of(password.as_bytes()).unwrap()];
        Record {
            id: id.to_owned(),
            passwords,
            ..Record::default()
        }
    }

    #[tokio::test]
    async fn who_is_who() {
        let (key, other, off) = (Key::generate(), Key::generate(), Key::generate());
        let records = vec![
            with_key("loop-7", &key),
            with_key("loop-8", &other),
            with_password("mast", "correct horse"),
            Record {
                disabled: true,
                ..with_key("off", &off)
            },
        ];
        let setup = setup(records, &quick());
        let check = async |id: Option<&str>, secret: &str, expected: Result<&str, Denied>| {
            let began = Instant::now();
            let claim = Claim {
                id,
                secret: secret.as_bytes(),
            };
            let found = setup.authenticator.authenticate(FROM, claim).await;
            let found = found.as_ref().map(|proven| proven.device.id());
            assert_eq!(found.map_err(|denied| *denied), expected, "{id:?}");
            // Every refusal is as late.
            let is_late = began.elapsed() >= quick().refusal_delay;
            assert!(is_late || expected.is_ok(), "{id:?}");
        };
        check(Some("loop-7"), key.reveal(), Ok("loop-7")).await;
        check(None, key.reveal(), Ok("loop-7")).await;
        check(None, other.reveal(), Ok("loop-8")).await;
        let denied = Err(Denied::BadCredential);
        check(Some("loop-7"), other.reveal(), denied).await;
        check(Some("loop-7"), &key.hash().to_string(), denied).await;
        check(Some("loop-9"), key.reveal(), denied).await;
        check(Some("LOOP-7"), key.reveal(), denied).await;
        check(Some(""), key.reveal(), denied).await;
        check(Some("loop-7"), "", denied).await;
        check(Some("loop-7"), &"a".repeat(SECRET_BYTES_MAX + 1), denied).await;
        check(None, "correct horse", denied).await;
        check(None, "cgk_", denied).await;
        check(Some("off"), off.reveal(), Err(Denied::Disabled)).await;
        check(Some("off"), key.reveal(), denied).await;
        let refused = &setup.metrics.authentications_refused_total;
        assert_eq!(refused.with_label_values(&["http", "bad_credential"]).get(), 10);
        assert_eq!(refused.with_label_values(&["http", "disabled"]).get(), 1);
    }

    /// A network that guesses uses no more of the pool that verifies passwords; its keys, and passwords verified before, are as before.
    #[tokio::test]
    async fn after_many_refusals_a_network_has_no_more_passwords_verified() {
        let key = Key::generate();
        let records = vec![with_key("loop-7", &key), with_password("mast", "correct horse")];
        // Of one id there may be as many as there are.
        let config = Config {
            refused_credentials_per_minute: 10_000,
            ..quick()
        };
        let setup = setup(records, &config);
        let far: SocketAddr = ([192, 0, 2, 7], 1).into();
        let check = async |peer: SocketAddr, id: &str, secret: &str, expected: Result<&str, Denied>| {
            let claim = Claim {
                id: Some(id),
                secret: secret.as_bytes(),
            };
            let found = setup.authenticator.authenticate((Protocol::Mqtt, peer), claim).await;
            let found = found.as_ref().map(|proven| proven.device.id());
            assert_eq!(found.map_err(|denied| *denied), expected, "{peer} {id}");
        };
        for _ in 0..=REFUSED_PER_MINUTE {
            setup
                .authenticator
                .note((Protocol::Mqtt, far), "mast", None, Denied::BadCredential);
        }
        check(far, "mast", "correct horse", Err(Denied::Busy)).await;
        check(far, "nobody", "correct horse", Err(Denied::Busy)).await;
        check(far, "loop-7", key.reveal(), Ok("loop-7")).await;
        let listed = setup.authenticator.refusals.list();
        let of_mast = listed.iter().filter(|(sender, _)| sender == "mast");
        let of_mast: Vec<_> = of_mast.map(|(_, refused)| (refused.reason, refused.peer)).collect();
        assert_eq!(of_mast, [("busy", far), ("bad_credential", far)]);
    }

    /// A certificate says who its sender is, and nothing that it says besides may differ.
    #[tokio::test]
    async fn who_shows_a_certificate_is_its_device_and_may_not_say_that_it_is_another() {
        let key = Key::generate();
        let with = |record: Record, names: &[&str]| Record {
            certificates: names.iter().map(|name| name.parse().unwrap()).collect(),
            ..record
        };
        let named = |names: &[&str]| CertificateNames::for_testing(names);
        let device = |id: &str| Record {
            id: id.to_owned(),
            ..Record::default()
        };
        let disabled = Record {
            disabled: true,
            ..device("off")
        };
        let records = vec![
            with(with_key("loop-7", &key), &["cn:loop-7", "dns:loop-7.example"]),
            with(device("loop-8"), &["cn:loop-8"]),
            with(disabled, &["cn:off"]),
        ];
        let setup = setup(records, &quick());
        let check = async |names: &[&str], id: Option<&str>, secret: Option<&str>, expected: Result<&str, Denied>| {
            let began = Instant::now();
            let secret = secret.map(str::as_bytes);
            let found = setup
                .authenticator
                .authenticate_certificate(FROM, &named(names), id, secret)
                .await;
            let found = found.as_ref().map(|proven| proven.device.id());
            assert_eq!(found.map_err(|denied| *denied), expected, "{names:?} {id:?}");
            assert!(
                began.elapsed() >= quick().refusal_delay || expected.is_ok(),
                "{names:?} {id:?}"
            );
        };
        let denied = Err(Denied::BadCredential);
        let key = key.reveal();
        check(&["cn:loop-7"], None, None, Ok("loop-7")).await;
        check(&["cn:x", "dns:loop-7.example"], Some("loop-7"), None, Ok("loop-7")).await;
        check(&["cn:loop-7"], Some("loop-7"), Some(key), Ok("loop-7")).await;
        check(&["cn:loop-7"], None, Some(key), Ok("loop-7")).await;
        check(&["cn:loop-7"], Some("loop-7"), Some("wrong"), denied).await;
        check(&["cn:loop-7"], Some("loop-8"), None, denied).await;
        check(&["cn:loop-8"], Some("loop-7"), Some(key), denied).await;
        check(&["cn:loop-8"], None, Some(key), denied).await;
        check(&["cn:nobody"], None, None, denied).await;
        check(&["cn:nobody"], Some("loop-7"), Some(key), denied).await;
        check(&["cn:loop-7", "cn:loop-8"], None, None, denied).await;
        check(&["cn:off"], None, None, Err(Denied::Disabled)).await;
        // Nor is the text of a name a key.
        let claim = Claim {
            id: None,
            secret: b"cn:loop-7",
        };
        assert_eq!(
            setup.authenticator.authenticate(FROM, claim).await.unwrap_err(),
            Denied::BadCredential
        );
        // It loses its certificate.
        let proven = setup
            .authenticator
            .authenticate_certificate(FROM, &named(&["cn:loop-8"]), None, None)
            .await;
        let proven = proven.unwrap();
        assert!(setup.authenticator.recheck(&proven).is_ok());
        let other = with(device("loop-8"), &["cn:loop-9"]);
        setup
            .devices
            .replace(Register::new(vec![other], &Register::default()).unwrap());
        assert_eq!(setup.authenticator.recheck(&proven).unwrap_err(), Denied::BadCredential);
    }

    #[tokio::test]
    async fn a_password_is_verified_slowly_once_and_refused_as_late_as_everything() {
        let config = Config {
            refusal_delay: Duration::from_secs(5),
            ..Config::default()
        };
        let setup = setup(vec![with_password("mast", "correct horse")], &config);
        let claim = |secret| Claim {
            id: Some("mast"),
            secret,
        };
        let proven = setup
            .authenticator
            .authenticate(FROM, claim(b"correct horse"))
            .await
            .unwrap();
        assert_eq!(proven.device.id(), "mast");
        // The next time needs no permit: there is none.
        let permits = setup
            .authenticator
            .checks
            .permits()
            .acquire_many_owned(2)
            .await
            .unwrap();
        setup
            .authenticator
            .authenticate(FROM, claim(b"correct horse"))
            .await
            .unwrap();
        drop(permits);
        let began = Instant::now();
        let denied = setup
            .authenticator
            .authenticate(FROM, claim(b"correct horse "))
            .await
            .unwrap_err();
        assert_eq!(denied, Denied::BadCredential);
        assert!(began.elapsed() >= config.refusal_delay);
    }

    #[tokio::test]
    async fn while_passwords_wait_nothing_tells_who_has_one() {
        let key = Key::generate();
        let records = vec![with_password("mast", "correct horse"), with_key("loop-7", &key)];
        let setup = setup(records, &quick());
        let _permits = setup
            .authenticator
            .checks
            .permits()
            .acquire_many_owned(2)
            .await
            .unwrap();
        for id in ["mast", "loop-7", "unknown"] {
            let began = Instant::now();
            let claim = Claim {
                id: Some(id),
                secret: b"wrong",
            };
            let denied = setup.authenticator.authenticate(FROM, claim).await.unwrap_err();
            assert_eq!(denied, Denied::Busy, "{id}");
            assert!(began.elapsed() >= quick().refusal_delay, "{id}");
        }
        // Keys need none.
        let claim = Claim {
            id: Some("loop-7"),
            secret: key.reveal().as_bytes(),
        };
        setup.authenticator.authenticate(FROM, claim).await.unwrap();
    }

    /// More attempts at once than can be checked: as many are refused as busy, whether the device has a password or not.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_storm_tells_nothing_of_who_has_a_password() {
        const ATTEMPTS: usize = 200;
        let key = Key::generate();
        let records = vec![with_password("mast", "correct horse"), with_key("loop-7", &key)];
        let setup = Arc::new(setup(records, &quick()));
        // How long a check takes here.
        let claim = Claim {
            id: Some("mast"),
            secret: b"wrong",
        };
        drop(
            setup
                .authenticator
                .checks
                .verify(
                    setup.devices.register().find("mast"),
                    claim.secret,
                    [0; 32],
                    Instant::now() + Duration::from_secs(60),
                )
                .await,
        );
        let mut busy = Vec::new();
        for id in ["mast", "loop-7", "unknown"] {
            let mut attempts = tokio::task::JoinSet::new();
            for _ in 0..ATTEMPTS {
                let setup = setup.clone();
                attempts.spawn(async move {
                    let claim = Claim {
                        id: Some(id),
                        secret: b"wrong",
                    };
                    setup.authenticator.authenticate(FROM, claim).await.unwrap_err()
                });
            }
            let denied = attempts.join_all().await;
            busy.push(denied.into_iter().filter(|denied| *denied == Denied::Busy).count());
        }
        assert!(busy.iter().all(|busy| *busy > ATTEMPTS / 2), "{busy:?}");
    }

    #[tokio::test]
    async fn a_change_is_looked_at_again() {
        let (old, new) = (Key::generate(), Key::generate());
        let setup = setup(vec![with_key("loop-7", &old)], &Config::default());
        let claim = Claim {
            id: Some("loop-7"),
            secret: old.reveal().as_bytes(),
        };
        let proven = setup.authenticator.authenticate(FROM, claim).await.unwrap();
        let check = |record: Option<Record>, expected: Result<(), Denied>| {
            let register = Register::new(record.into_iter().collect(), &setup.devices.register()).unwrap();
            setup.devices.replace(register);
            let now = setup.authenticator.recheck(&proven);
            assert_eq!(now.map(drop), expected);
        };
        let both = Record {
            keys: vec![new.hash(), old.hash()],
            ..with_key("loop-7", &old)
        };
        check(Some(both.clone()), Ok(()));
        check(
            Some(Record {
                kinds: vec!["traffic".into()],
                ..both.clone()
            }),
            Ok(()),
        );
        check(
            Some(Record {
                disabled: true,
                ..both.clone()
            }),
            Err(Denied::Disabled),
        );
        check(Some(with_key("loop-7", &new)), Err(Denied::BadCredential));
        check(Some(with_key("loop-8", &old)), Err(Denied::BadCredential));
        check(None, Err(Denied::BadCredential));
    }
}
