//! Who may write where, and how much: one question of the pipeline, asked once per message.
//!
//! Asked when it is known who sent the message and which device and kind it is for, before its body is read. No sender is
//! identified yet, so [`Anyone`] may write anything; access lists and rates per device come in as other implementations.
//! How a denial is answered is `acknowledge`'s table.

use std::fmt::Debug;

use crate::message::Origin;

/// Whether a message is accepted from its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    Granted,
    /// The sender may not write there: a rejection, in words for the device.
    Forbidden(String),
    /// The sender has sent more than its rate allows: it is told to send again later.
    OverRate,
}

/// A policy of access. Must not block: it is asked on the listener's thread.
pub trait Authorize: Debug + Send + Sync {
    fn authorize(&self, origin: &Origin, device: &str, kind: &str) -> Permission;
}

/// Every sender may write to every address, at any rate.
#[derive(Clone, Copy, Debug)]
pub struct Anyone;

impl Authorize for Anyone {
    fn authorize(&self, _origin: &Origin, _device: &str, _kind: &str) -> Permission {
        Permission::Granted
    }
}
