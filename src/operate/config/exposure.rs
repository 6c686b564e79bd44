//! Nothing is open to a network by accident.
//!
//! A listener beyond loopback without TLS, or where senders prove nothing, is a mistake unless its table says so in words. Behind
//! loopback everything is allowed: whoever is on the machine has other ways.

use std::net::SocketAddr;

use crate::listen::addresses::ListenAddresses;
use crate::operate::mistake::Mistakes;

/// A listener, as far as it matters here.
pub struct Exposed<'a> {
    pub table: &'static str,
    pub enabled: bool,
    pub listen: &'a ListenAddresses,
    /// Its addresses with TLS.
    pub tls_listen: Option<&'a ListenAddresses>,
    /// Whoever sends or asks must prove who it is, or is refused.
    pub authenticates: bool,
    pub allow_plaintext: bool,
    pub allow_anonymous: bool,
}

/// What is open, and not said to be.
pub fn mistakes(listeners: &[Exposed<'_>]) -> Mistakes {
    let mut mistakes = Mistakes::default();
    for listener in listeners.iter().filter(|listener| listener.enabled) {
        listener.check(&mut mistakes);
    }
    mistakes
}

impl Exposed<'_> {
    fn check(&self, mistakes: &mut Mistakes) {
        let table = self.table;
        if let Some(address) = beyond_loopback(self.listen)
            && !self.allow_plaintext
        {
            let text = format!(
                "{address} is beyond loopback, without TLS; {table}.allow_plaintext = true says that this is meant"
            );
            mistakes.push(format!("{table}.listen"), text);
        }
        let with_tls = self.tls_listen.map(|listen| ("tls.listen", listen));
        let mut all = [("listen", self.listen)].into_iter().chain(with_tls);
        let open = all.find_map(|(setting, listen)| Some((setting, beyond_loopback(listen)?)));
        if let Some((setting, address)) = open
            && !self.authenticates
            && !self.allow_anonymous
        {
            let without = match table {
                "admin" => "without admin.token or client certificates whoever reaches it may read everything",
                "store" => "whoever reaches it may read the metrics",
                _ => "without devices.folder whoever reaches it may send readings of any device",
            };
            let text = format!(
                "{address} is beyond loopback, and {without}; {table}.allow_anonymous = true says that this is meant"
            );
            mistakes.push(format!("{table}.{setting}"), text);
        }
    }
}

impl Exposed<'_> {
    /// Whether others than this machine reach it.
    pub fn is_beyond_loopback(&self) -> bool {
        let listen = [Some(self.listen), self.tls_listen].into_iter().flatten();
        self.enabled && listen.into_iter().any(|listen| beyond_loopback(listen).is_some())
    }
}

fn beyond_loopback(listen: &ListenAddresses) -> Option<&SocketAddr> {
    listen.iter().find(|address| !address.ip().to_canonical().is_loopback())
}
