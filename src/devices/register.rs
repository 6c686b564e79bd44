//! All devices at one moment, found by id, by the digest of a key, or by that of a name of their certificate. It does not change; another one takes its place.
//!
//! What records may not have in common, an id or such a digest, is found when it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use super::credential::{Credential, Digest};
use super::device::Device;
use super::record::Record;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Register {
    devices: Vec<Arc<Device>>,
    // Positions, where a map would repeat every id and every digest.
    by_id: HashTable<u32>,
    by_credential: HashTable<CredentialAt>,
    hasher: RandomState,
}

/// The position of a device, and of one of its credentials.
#[derive(Clone, Copy, Debug)]
struct CredentialAt {
    device: u32,
    credential: u32,
}

/// Two records that may not stand side by side, by their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash {
    /// They have the same id.
    Id { first: usize, second: usize },
    /// They have the same key, so that it would not say which device it is.
    Key { first: usize, second: usize },
    /// The same of a name of a certificate.
    Certificate { first: usize, second: usize },
}

/// What a device is found by: a key, or a name of a certificate. Who sends the text of such a name as a key finds nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Wanted<'a> {
    Key(&'a Digest),
    Certificate(&'a Digest),
}

// === impl Register ===

impl Register {
    /// Of records without mistakes. A device of `before` that has not changed goes on as it is.
    ///
    /// # Errors
    /// Every pair that clashes.
    pub fn new(records: Vec<Record>, before: &Register) -> Result<Self, Vec<Clash>> {
        let (mut shared, mut clashes) = (BTreeMap::new(), Vec::new());
        let devices = records.into_iter().map(|record| {
            let device = Device::new(record, &mut shared);
            match before.find(device.id()) {
                Some(known) if **known == device => known.clone(),
                Some(known) => Arc::new(device.after(known)),
                None => Arc::new(device),
            }
        });
        // Into a vector of its own: collected, they would keep the memory of the records.
        let mut known = Vec::with_capacity(devices.len());
        known.extend(devices);
        let devices: Vec<Arc<Device>> = known;
        let mut register = Register {
            by_id: HashTable::with_capacity(devices.len()),
            by_credential: HashTable::with_capacity(devices.len()),
            hasher: RandomState::new(),
            devices,
        };
        for position in 0..register.devices.len() {
            register.index(position, &mut clashes);
        }
        if clashes.is_empty() { Ok(register) } else { Err(clashes) }
    }

    /// Makes the device at this position one that can be found.
    fn index(&mut self, position: usize, clashes: &mut Vec<Clash>) {
        let second = position;
        let device = self.devices[position].clone();
        match self.position_of_id(device.id()) {
            Some(first) => clashes.push(Clash::Id { first, second }),
            None => {
                let Register {
                    devices, by_id, hasher, ..
                } = self;
                let rehash = |position: &u32| hasher.hash_one(devices[*position as usize].id());
                by_id.insert_unique(hasher.hash_one(device.id()), position as u32, rehash);
            }
        }
        for (credential, wanted) in found_by(&device) {
            match (self.credential_at(wanted), wanted) {
                (Some(at), Wanted::Key(_)) => clashes.push(Clash::Key {
                    first: at.device as usize,
                    second,
                }),
                // Twice with the same device does no harm.
                (Some(at), Wanted::Certificate(_)) if at.device as usize == second => {}
                (Some(at), Wanted::Certificate(_)) => clashes.push(Clash::Certificate {
                    first: at.device as usize,
                    second,
                }),
                (None, _) => {
                    let Register {
                        devices,
                        by_credential,
                        hasher,
                        ..
                    } = self;
                    let rehash = |at: &CredentialAt| hasher.hash_one(wanted_at(devices, *at));
                    let at = CredentialAt {
                        device: position as u32,
                        credential: credential as u32,
                    };
                    by_credential.insert_unique(hasher.hash_one(Some(wanted)), at, rehash);
                }
            }
        }
    }

    fn position_of_id(&self, id: &str) -> Option<usize> {
        let is_it = |position: &u32| self.devices[*position as usize].id() == id;
        let found = self.by_id.find(self.hasher.hash_one(id), is_it);
        found.map(|position| *position as usize)
    }

    fn credential_at(&self, wanted: Wanted<'_>) -> Option<CredentialAt> {
        // What differs in time is where a hash with a secret seed leads: nothing that helps to guess 192 random bits.
        let is_it = |at: &CredentialAt| wanted_at(&self.devices, *at) == Some(wanted);
        let hash = self.hasher.hash_one(Some(wanted));
        self.by_credential.find(hash, is_it).copied()
    }

    /// The device with this id.
    pub fn find(&self, id: &str) -> Option<&Arc<Device>> {
        self.position_of_id(id).map(|position| &self.devices[position])
    }

    /// The device with a key of this digest.
    pub fn find_by_key(&self, digest: &Digest) -> Option<(&Arc<Device>, &Credential)> {
        self.find_by(Wanted::Key(digest))
    }

    /// The device with a certificate of which a name has this digest.
    pub fn find_by_certificate(&self, digest: &Digest) -> Option<(&Arc<Device>, &Credential)> {
        self.find_by(Wanted::Certificate(digest))
    }

    fn find_by(&self, wanted: Wanted<'_>) -> Option<(&Arc<Device>, &Credential)> {
        let at = self.credential_at(wanted)?;
        let device = &self.devices[at.device as usize];
        Some((device, &device.credentials()[at.credential as usize]))
    }

    /// The kinds that some devices are restricted to, by name.
    pub fn kinds(&self) -> BTreeSet<&str> {
        self.devices
            .iter()
            .flat_map(|device| device.kinds())
            .map(String::as_str)
            .collect()
    }

    /// Whether it was made of the other with no device added, changed or removed.
    pub fn is_same(&self, other: &Register) -> bool {
        let is_same = |device: &Arc<Device>| other.find(device.id()).is_some_and(|known| Arc::ptr_eq(known, device));
        self.len() == other.len() && self.devices.iter().all(is_same)
    }

    pub fn len(&self) -> usize {
        self.devices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

fn found_by(device: &Device) -> impl Iterator<Item = (usize, Wanted<'_>)> {
    let credentials = device.credentials().iter().enumerate();
    credentials.filter_map(|(position, credential)| Some((position, wanted(credential)?)))
}

fn wanted_at(devices: &[Arc<Device>], at: CredentialAt) -> Option<Wanted<'_>> {
    let credentials = devices[at.device as usize].credentials();
    wanted(credentials.get(at.credential as usize)?)
}

fn wanted(credential: &Credential) -> Option<Wanted<'_>> {
    match credential {
        Credential::Key(key) => Some(Wanted::Key(key.digest())),
        Credential::Certificate(name) => Some(Wanted::Certificate(name)),
        Credential::Password(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::credential::Key;

    fn record(id: &str, keys: &[&Key]) -> Record {
        Record {
            id: id.to_owned(),
            keys: keys.iter().map(|key| key.hash()).collect(),
            ..Record::default()
        }
    }

    #[test]
    fn devices_are_found_by_id_and_by_each_of_their_keys() {
        let keys: Vec<_> = (0..3000).map(|_| Key::generate()).collect();
        let records = (0..1000).map(|at| record(&format!("d{at}"), &[&keys[at], &keys[at + 1000], &keys[at + 2000]]));
        let register = Register::new(records.collect(), &Register::default()).unwrap();
        assert_eq!(register.len(), 1000);
        for (at, key) in keys.iter().enumerate() {
            let id = format!("d{}", at % 1000);
            assert_eq!(register.find(&id).unwrap().id(), id);
            let (device, credential) = register.find_by_key(key.hash().digest()).unwrap();
            assert_eq!((device.id(), credential), (&*id, &Credential::Key(key.hash())));
        }
        assert!(register.find("d1000").is_none());
        assert!(register.find_by_key(Key::generate().hash().digest()).is_none());
    }

    #[test]
    fn an_id_or_a_key_that_two_have_is_a_mistake_of_both() {
        let (a, b) = (Key::generate(), Key::generate());
        let records = vec![
            record("x", &[&a]),
            record("y", &[&b, &a]),
            record("x", &[]),
            record("z", &[&b]),
        ];
        let clashes = Register::new(records, &Register::default()).unwrap_err();
        assert_eq!(
            clashes,
            [
                Clash::Key { first: 0, second: 1 },
                Clash::Id { first: 0, second: 2 },
                Clash::Key { first: 1, second: 3 },
            ]
        );
    }

    #[test]
    fn devices_are_found_by_names_of_certificates_which_no_two_have_and_no_key_is() {
        use crate::devices::certificate::CertificateName;
        let name = |text: &str| text.parse::<CertificateName>().unwrap();
        let with = |id: &str, names: &[&str]| Record {
            certificates: names.iter().map(|text| name(text)).collect(),
            ..record(id, &[])
        };
        let records = vec![with("x", &["cn:x", "dns:x.example", "cn:x"]), with("y", &["cn:y"])];
        let register = Register::new(records, &Register::default()).unwrap();
        for (text, id) in [("cn:x", "x"), ("dns:X.example", "x"), ("cn:y", "y")] {
            let digest = name(text).digest();
            assert_eq!(register.find_by_certificate(&digest).unwrap().0.id(), id);
            assert!(register.find_by_key(&digest).is_none(), "{text}");
        }
        assert!(register.find_by_certificate(&name("cn:x.example").digest()).is_none());
        let records = vec![with("x", &["cn:x"]), with("y", &["cn:y", "CN:x"])];
        let clashes = Register::new(records, &Register::default()).unwrap_err();
        assert_eq!(clashes, [Clash::Certificate { first: 0, second: 1 }]);
    }

    #[test]
    fn a_device_that_has_not_changed_goes_on() {
        let (a, b) = (Key::generate(), Key::generate());
        let before = Register::new(vec![record("x", &[&a]), record("y", &[&b])], &Register::default()).unwrap();
        let after = Register::new(vec![record("y", &[]), record("x", &[&a])], &before).unwrap();
        assert!(Arc::ptr_eq(before.find("x").unwrap(), after.find("x").unwrap()));
        assert!(!Arc::ptr_eq(before.find("y").unwrap(), after.find("y").unwrap()));
        assert!(after.find_by_key(b.hash().digest()).is_none());
    }
}
