//! TCP on one address or several, as if it were one: what is bound, and what comes to it.
//!
//! Addresses are asked in turn, so that none starves another. IPv6 wildcards leave IPv4 to those that ask for it.

use std::fmt::{self, Display, Formatter};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::listen::addresses::ListenAddresses;
use crate::listen::error::Error;
use crate::listen::tls::{self, Tls};

/// Connections that the kernel completes before they are accepted, per address.
pub const BACKLOG: u32 = 1024;

/// A connection that was accepted, and whose handshake is to come where it has TLS.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub tls: Option<Arc<Tls>>,
}

/// Bound sockets, at least one.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<(TcpListener, Option<Arc<Tls>>)>,
    addresses: Vec<SocketAddr>,
    tls: Option<Arc<Tls>>,
    /// Which is asked first: each in its turn, so that no address starves another.
    turn: AtomicUsize,
}

// === impl Listeners ===

impl Listeners {
    /// Binds all the addresses. The error names the first that cannot be bound, and the `listener` that wants it.
    pub fn bind(listener: &'static str, on: &ListenAddresses) -> Result<Self, Error> {
        let mut listeners = Listeners::none();
        listeners.open(listener, on, None)?;
        Ok(listeners)
    }

    fn none() -> Self {
        Listeners {
            sockets: Vec::new(),
            addresses: Vec::new(),
            tls: None,
            turn: AtomicUsize::new(0),
        }
    }

    /// Binds the addresses of its TLS as well, if it has some. `alpn`: the protocols that are spoken above it.
    pub fn and_tls(mut self, listener: &'static str, config: &tls::Config, alpn: &[&[u8]]) -> Result<Self, Error> {
        if let Some(on) = &config.listen {
            let tls = Arc::new(Tls::new(listener, config, alpn)?);
            self.open(listener, on, Some(&tls))?;
            self.tls = Some(tls);
        }
        Ok(self)
    }

    fn open(&mut self, listener: &'static str, on: &ListenAddresses, tls: Option<&Arc<Tls>>) -> Result<(), Error> {
        for &address in on.iter() {
            let failed = |source| Error::Bind {
                listener,
                address,
                source,
            };
            let socket = open_socket(address, on.only_v6(address)).map_err(failed)?;
            self.addresses.push(socket.local_addr().map_err(failed)?);
            self.sockets.push((socket, tls.cloned()));
        }
        Ok(())
    }

    /// The sockets without TLS and those with it, where there are some, as listeners of their own.
    pub fn by_tls(self) -> Vec<Self> {
        let (mut plain, mut secured) = (Listeners::none(), Listeners::none());
        for (address, (socket, tls)) in self.addresses.into_iter().zip(self.sockets) {
            let part = if tls.is_some() { &mut secured } else { &mut plain };
            part.tls.clone_from(&tls);
            part.addresses.push(address);
            part.sockets.push((socket, tls));
        }
        [plain, secured]
            .into_iter()
            .filter(|part| !part.sockets.is_empty())
            .collect()
    }

    /// Its TLS, if it has one.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// The first address that has TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        let at = self.sockets.iter().position(|(_, tls)| tls.is_some())?;
        Some(self.addresses[at])
    }

    /// The addresses, with the ports that were given for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The next connection, on whichever address it comes. Cancel safe: a dropped future loses none.
    pub async fn accept(&self) -> io::Result<Accepted> {
        poll_fn(|context| {
            let (behind, first) = self
                .sockets
                .split_at(self.turn.load(Ordering::Relaxed) % self.sockets.len());
            for (socket, tls) in first.iter().chain(behind) {
                if let Poll::Ready(accepted) = socket.poll_accept(context) {
                    self.turn.fetch_add(1, Ordering::Relaxed);
                    let tls = tls.clone();
                    return Poll::Ready(accepted.map(|(stream, peer)| Accepted { stream, peer, tls }));
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Display for Listeners {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (address, (_, tls))) in self.addresses.iter().zip(&self.sockets).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let tls = if tls.is_some() { " (TLS)" } else { "" };
            write!(f, "{comma}{address}{tls}")?;
        }
        Ok(())
    }
}

fn open_socket(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart does not wait for connections that linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    if only_v6 {
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_accepted_on_every_address_in_turn() {
        if !crate::listen::has_ipv6() {
            return;
        }
        let on = "127.0.0.1:0, [::1]:0".parse().unwrap();
        let listeners = Listeners::bind("test", &on).unwrap();
        let mut clients = Vec::new();
        for &address in listeners.addresses() {
            assert_ne!(address.port(), 0);
            for _ in 0..3 {
                clients.push(TcpStream::connect(address).await.unwrap());
            }
        }
        let mut families = Vec::new();
        for _ in 0..clients.len() {
            families.push(listeners.accept().await.unwrap().peer.is_ipv4());
        }
        let alternating = families.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(alternating, "one address waits for the other: {families:?}");
    }

    #[tokio::test]
    async fn wildcards_of_both_families_share_a_port() {
        if !crate::listen::has_ipv6() {
            return;
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let on = format!("[::]:{free}, 0.0.0.0:{free}").parse().unwrap();
        let listeners = Listeners::bind("test", &on).unwrap();
        assert_eq!(listeners.addresses().len(), 2);
    }

    #[tokio::test]
    async fn the_address_that_cannot_be_had_is_named() {
        let first = Listeners::bind("test", &"127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.addresses()[0];
        let error = Listeners::bind("test", &format!("127.0.0.1:0, {taken}").parse().unwrap()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("test cannot listen on {taken}: ")),
            "{error}"
        );
    }
}
