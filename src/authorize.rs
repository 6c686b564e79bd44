//! Who may write where, and how much: one question of the pipeline, asked once per message.
//!
//! Asked when it is known who sent the message and which device and kind it is for, before its body is read. Without identities
//! [`Anyone`] may write anything; with them a device writes what is its own ([`ByIdentity`]). A device that has
//! sent more than its rate allows is told so. How a denial is answered is `acknowledge`'s table.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::devices::rate::Rates;
use crate::devices::{Device, Devices};
use crate::message::{Identity, Origin, Protocol};

/// Whether a message is accepted from its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    Granted,
    /// The sender has not proved who it is, and must: a rejection, in words for it.
    Unauthenticated(String),
    /// The sender may not write there: a rejection, in words for the device.
    Forbidden(String),
    /// The sender has sent more than its rate allows: it is told to send again later.
    OverRate(Duration),
}

/// A policy of access. Must not block: it is asked on the listener's thread.
pub trait Authorize: Debug + Send + Sync {
    /// Whether the sender may write at all; asked before the address is looked at.
    fn sender(&self, _origin: &Origin<'_>) -> Permission {
        Permission::Granted
    }

    /// Whether it may write readings of this kind for this device.
    fn authorize(&self, origin: &Origin<'_>, device: &str, kind: &str) -> Permission;

    /// How long the sender must wait, having sent more than its rate allows; zero: it need not.
    fn over_rate(&self, _origin: &Origin<'_>) -> Duration {
        Duration::ZERO
    }

    /// Charges the sender's rate for what has arrived.
    fn charge(&self, _origin: &Origin<'_>, _readings: usize, _bytes: usize) {}

    /// Whose allowance of dead letters a rejected reading for `device` is charged to; empty: the one that strangers share.
    fn charged<'a>(&self, _origin: &Origin<'a>, device: &'a str) -> &'a str {
        device
    }
}

/// Every sender may write to every address, at any rate.
#[derive(Clone, Copy, Debug)]
pub struct Anyone;

/// A device writes its own readings and those of devices it acts for. A sender that has not proved who it is may write, where
/// its protocol allows that at all, for devices without an identity.
#[derive(Clone, Debug)]
pub struct ByIdentity {
    pub devices: Arc<Devices>,
    /// Protocols in which a sender may be anonymous.
    pub anonymous: Vec<Protocol>,
    /// How much a device may send whose record does not say.
    pub rates: Rates,
}

impl Authorize for Anyone {
    fn authorize(&self, _origin: &Origin<'_>, _device: &str, _kind: &str) -> Permission {
        Permission::Granted
    }
}

impl Authorize for ByIdentity {
    fn sender(&self, origin: &Origin<'_>) -> Permission {
        match origin.identity {
            Identity::Anonymous if !self.anonymous.contains(&origin.protocol) => {
                Permission::Unauthenticated("only devices that prove who they are may write here".into())
            }
            _ => match self.over_rate(origin) {
                Duration::ZERO => Permission::Granted,
                wait => Permission::OverRate(wait),
            },
        }
    }

    fn over_rate(&self, origin: &Origin<'_>) -> Duration {
        match origin.identity {
            Identity::Device(sender) => sender.over_rate(self.rates, origin.received_at),
            Identity::Anonymous => Duration::ZERO,
        }
    }

    fn charge(&self, origin: &Origin<'_>, readings: usize, bytes: usize) {
        if let Identity::Device(sender) = origin.identity {
            sender.charge(self.rates, origin.received_at, readings, bytes);
        }
    }

    fn authorize(&self, origin: &Origin<'_>, device: &str, kind: &str) -> Permission {
        match origin.identity {
            Identity::Device(sender) => self.of_device(sender, device, kind),
            Identity::Anonymous if self.devices.has(device) => {
                Permission::Unauthenticated(format!("device {device} has a key or password, and must send it"))
            }
            Identity::Anonymous => Permission::Granted,
        }
    }

    /// The sender's: an address is whatever it likes.
    fn charged<'a>(&self, origin: &Origin<'a>, _device: &'a str) -> &'a str {
        match origin.identity {
            Identity::Device(sender) => sender.id(),
            Identity::Anonymous => "",
        }
    }
}

impl ByIdentity {
    fn of_device(&self, sender: &Device, device: &str, kind: &str) -> Permission {
        let own = sender.may_write(device, kind);
        // Who acts for a device may do no more than the device itself.
        let acts_for = if own.is_ok() && sender.id() != device {
            self.devices
                .register()
                .find(device)
                .map(|target| target.may_write(device, kind))
        } else {
            None
        };
        match own.and(acts_for.unwrap_or(Ok(()))) {
            Ok(()) => Permission::Granted,
            Err(why) => Permission::Forbidden(why.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Register;

    #[test]
    fn a_device_writes_its_own_and_a_stranger_what_has_no_identity() {
        let record = |json: &str| serde_json::from_str(json).unwrap();
        let records = vec![
            record(r#"{"id": "loop-7", "kinds": ["traffic"]}"#),
            record(r#"{"id": "north", "acts_for": ["mast-*"]}"#),
            record(r#"{"id": "mast-2", "disabled": true}"#),
            record(r#"{"id": "mast-3", "kinds": ["weather"]}"#),
        ];
        let register = Register::new(records, &Register::default()).unwrap();
        let devices = Arc::new(Devices::new(register));
        let policy = ByIdentity {
            devices: devices.clone(),
            anonymous: vec![Protocol::Mqtt],
            rates: Rates::default(),
        };
        let register = devices.register();
        let known = |id: &str| Identity::Device(register.find(id).unwrap());
        let anonymous = Identity::Anonymous;
        let check = |protocol, identity: Identity<'_>, device: &str, kind: &str, expected: &str| {
            let origin = Origin {
                identity,
                ..Origin::anonymous(protocol, "test", ([127, 0, 0, 1], 1).into())
            };
            let admitted = policy.sender(&origin);
            let answer = match admitted {
                Permission::Granted => policy.authorize(&origin, device, kind),
                denied => denied,
            };
            let answer = match answer {
                Permission::Granted => "granted".to_owned(),
                Permission::Unauthenticated(why) => format!("unauthenticated: {why}"),
                Permission::Forbidden(why) => format!("forbidden: {why}"),
                Permission::OverRate(_) => "over rate".to_owned(),
            };
            let who = if let Identity::Device(device) = identity {
                Device::id(device)
            } else {
                "anonymous"
            };
            assert!(
                answer.starts_with(expected),
                "{who} {protocol:?} {device} {kind}: {answer}"
            );
        };
        let strangers = "unauthenticated: only devices that prove";
        check(Protocol::Mqtt, known("loop-7"), "loop-7", "traffic", "granted");
        check(Protocol::Http, known("loop-7"), "loop-7", "traffic", "granted");
        check(
            Protocol::Mqtt,
            known("loop-7"),
            "loop-7",
            "energy",
            "forbidden: device loop-7 may not write energy",
        );
        check(
            Protocol::Mqtt,
            known("loop-7"),
            "loop-8",
            "traffic",
            "forbidden: device loop-7 may not write for loop-8",
        );
        check(Protocol::Coap, known("north"), "mast-1", "weather", "granted");
        check(
            Protocol::Coap,
            known("north"),
            "loop-7",
            "traffic",
            "forbidden: device north may not write for loop-7",
        );
        // No more than the device itself may.
        check(
            Protocol::Http,
            known("north"),
            "mast-2",
            "weather",
            "forbidden: device mast-2 is disabled",
        );
        check(Protocol::Http, known("north"), "mast-3", "weather", "granted");
        check(
            Protocol::Http,
            known("north"),
            "mast-3",
            "traffic",
            "forbidden: device mast-3 may not write traffic",
        );
        check(Protocol::Mqtt, anonymous, "loop-8", "traffic", "granted");
        check(
            Protocol::Mqtt,
            anonymous,
            "loop-7",
            "traffic",
            "unauthenticated: device loop-7 has a key",
        );
        check(Protocol::Http, anonymous, "loop-8", "traffic", strangers);
        check(Protocol::Coap, anonymous, "loop-7", "traffic", strangers);
    }
}
