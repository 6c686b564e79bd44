//! Authorities that have a new key and their old name.
//!
//! Of the revocation lists with an issuer's name rustls takes the first, whichever key has signed it, and refuses all clients if it was
//! the other one. So the keys of a name are verified apart, each with its own lists. Names that are not shared are verified together.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// Authorities, of which no two have the same name and different keys, and the lists that go with them.
type Group<'a> = (
    Vec<&'a CertificateDer<'static>>,
    Vec<&'a CertificateRevocationListDer<'static>>,
);

/// Accepts what one of these does. All ask for certificates alike; there is at least one.
#[derive(Debug)]
pub struct OneOf(pub Vec<Arc<dyn ClientCertVerifier>>);

/// The first group has every name; there are as many as a name has keys.
pub fn by_key<'a>(
    authorities: &'a [CertificateDer<'static>],
    lists: &'a [CertificateRevocationListDer<'static>],
) -> Vec<Group<'a>> {
    let mut groups: Vec<Vec<(&CertificateDer<'static>, X509Certificate<'_>)>> = vec![Vec::new()];
    for der in authorities {
        let Ok((_, authority)) = X509Certificate::from_der(der) else {
            continue;
        };
        let fits = |group: &Vec<(_, X509Certificate<'_>)>| {
            let mut namesakes = group.iter().filter(|(_, other)| other.subject() == authority.subject());
            namesakes.all(|(_, other)| other.public_key() == authority.public_key())
        };
        match groups.iter().position(fits) {
            Some(place) => groups[place].push((der, authority)),
            None => groups.push(vec![(der, authority)]),
        }
    }
    let with_lists = groups.into_iter().map(|group| {
        let lists = lists.iter().filter(|list| is_of(list, &group)).collect();
        (group.into_iter().map(|(der, _)| der).collect(), lists)
    });
    with_lists.collect()
}

/// Whether no authority of the group has the list's name and has not signed it.
fn is_of(list: &CertificateRevocationListDer<'_>, group: &[(&CertificateDer<'_>, X509Certificate<'_>)]) -> bool {
    CertificateRevocationList::from_der(list).is_ok_and(|(_, list)| {
        let mut named = group
            .iter()
            .filter(|(_, authority)| authority.subject() == list.issuer());
        named.all(|(_, authority)| list.verify_signature(authority.public_key()).is_ok())
    })
}

/// Whether the certificate was signed by another key than those that were looked at, as far as that is known.
fn is_of_another_key(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
    )
}

// === impl OneOf ===

impl OneOf {
    fn first(&self) -> Result<&dyn ClientCertVerifier, Error> {
        let first = self.0.first();
        first
            .map(|first| &**first)
            .ok_or_else(|| Error::General("no authorities".to_owned()))
    }
}

impl ClientCertVerifier for OneOf {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.iter().all(|verifier| verifier.client_auth_mandatory())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.first().map_or(&[], |first| first.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let mut refused = None;
        for verifier in &self.0 {
            match verifier.verify_client_cert(own, issuers, now) {
                Ok(verified) => return Ok(verified),
                // Who knows its key says best what is wrong with it.
                Err(error) if refused.as_ref().is_none_or(is_of_another_key) => refused = Some(error),
                Err(_) => {}
            }
        }
        Err(refused.unwrap_or(CertificateError::UnknownIssuer.into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first()?.verify_tls12_signature(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first()?.verify_tls13_signature(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.first()
            .map_or_else(|_| Vec::new(), |first| first.supported_verify_schemes())
    }
}
