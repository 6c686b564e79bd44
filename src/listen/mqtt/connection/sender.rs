//! Who a connection's client has proved to be, and whether it still is when the identities change.
//!
//! A client certificate says which device it is; user name and password are not needed then, and must agree. Without one
//! the user name is a device id, the password its key or password; a password alone (MQTT 5) is a key that says which device it
//! is. The client id proves nothing: it tells apart the connections of one identity.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;

use crate::devices::{Authenticator, Claim, Denied, Proven};
use crate::listen::mqtt::packet::Login;
use crate::listen::mqtt::shared::{NAME, Shared};
use crate::listen::tls::ClientCertificate;
use crate::message::{Identity, Origin, Protocol};

/// The sender of all that a connection publishes.
#[derive(Debug)]
pub struct Sender {
    /// None: it is anonymous.
    known: Option<Known>,
    /// What it has shown; taken to look whether it is accepted still.
    certificate: Option<ClientCertificate>,
}

#[derive(Debug)]
struct Known {
    proven: Proven,
    changes: watch::Receiver<u64>,
}

impl Sender {
    /// Verifies what a CONNECT says.
    ///
    /// # Errors
    /// It is not true, or says nothing though it must.
    pub async fn identify(
        shared: &Shared,
        peer: SocketAddr,
        login: &Login,
        certificate: Option<ClientCertificate>,
    ) -> Result<Self, Denied> {
        let known = match &shared.context.authenticator {
            Some(authenticator) => Known::of(authenticator, shared, peer, login, certificate.as_ref()).await?,
            None => None,
        };
        Ok(Sender { known, certificate })
    }

    /// Of a message that is received now.
    pub fn origin(&self, peer: SocketAddr) -> Origin<'_> {
        let known = self.known.as_ref();
        Origin {
            identity: known.map_or(Identity::Anonymous, |known| Identity::Device(&known.proven.device)),
            ..Origin::anonymous(Protocol::Mqtt, NAME, peer)
        }
    }

    /// How long it must wait, if it has sent more than its rate allows.
    pub fn over_rate(&self, shared: &Shared, peer: SocketAddr) -> Option<Duration> {
        self.known.as_ref()?;
        let wait = shared.context.pipeline.access.over_rate(&self.origin(peer));
        (!wait.is_zero()).then_some(wait)
    }

    /// What its session is found by: nobody takes over a session of another identity.
    pub fn session_key(&self, client_id: &str) -> String {
        // Neither has a NUL [MQTT-1.5.4-2].
        let identity = self.known.as_ref().map_or("", |known| known.proven.device.id());
        format!("{identity}\0{client_id}")
    }

    /// When identities change next.
    pub fn changes(&self) -> impl Future<Output = ()> + use<> {
        let changes = self.known.as_ref().map(|known| known.changes.clone());
        async move {
            let changed = match changes {
                Some(mut changes) => changes.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                pending().await
            }
        }
    }

    /// When its certificate is not accepted any more; never, if it has shown none.
    pub fn until_certificate_refused(&mut self) -> impl Future<Output = ()> + use<> {
        let certificate = self.certificate.take();
        async move {
            match certificate {
                Some(certificate) => certificate.until_refused().await,
                None => pending().await,
            }
        }
    }

    /// Looks whether it is who it was, and what it may do now, if identities have changed.
    ///
    /// # Errors
    /// It is not any more.
    pub fn recheck(&mut self, shared: &Shared) -> Result<(), Denied> {
        if let (Some(authenticator), Some(known)) = (&shared.context.authenticator, &mut self.known)
            && known.changes.has_changed().unwrap_or(false)
        {
            known.changes.mark_unchanged();
            known.proven = authenticator.recheck(&known.proven)?;
        }
        Ok(())
    }
}

// === impl Known ===

impl Known {
    /// `None`: it may be anonymous, and is.
    async fn of(
        authenticator: &Authenticator,
        shared: &Shared,
        peer: SocketAddr,
        login: &Login,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Option<Self>, Denied> {
        let from = (Protocol::Mqtt, peer);
        // Before it is verified: a change meanwhile is noticed then.
        let changes = authenticator.devices().subscribe();
        let is_silent = login.user_name.is_none() && login.password.is_none();
        let proven = match (certificate, claim(login)) {
            (Some(certificate), _) => {
                let (id, secret) = (
                    user_name(login),
                    login.password.as_ref().map(|secret| secret.as_slice()),
                );
                authenticator
                    .authenticate_certificate(from, &certificate.names(), id, secret)
                    .await?
            }
            (None, Some(claim)) => authenticator.authenticate(from, claim).await?,
            (None, None) if is_silent && shared.config.allow_anonymous => return Ok(None),
            (None, None) if is_silent => return Err(authenticator.refuse(from, Denied::Missing).await),
            (None, None) => return Err(authenticator.refuse(from, Denied::BadCredential).await),
        };
        Ok(Some(Known { proven, changes }))
    }
}

fn user_name(login: &Login) -> Option<&str> {
    login.user_name.as_deref().filter(|name| !name.is_empty())
}

fn claim(login: &Login) -> Option<Claim<'_>> {
    let secret = login.password.as_ref()?;
    let id = user_name(login);
    Some(Claim { id, secret })
}
