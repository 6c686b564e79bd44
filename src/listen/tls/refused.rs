//! Why a client certificate is refused: the words of logs and metrics for what rustls finds.
//!
//! The client is told by the alert that rustls sends.

use rustls::CertificateError;

/// Why a client certificate is refused; the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Refused {
    Missing,
    Expired,
    NotYetValid,
    UnknownIssuer,
    Revoked,
    /// There is no revocation list of its issuer, or none that can be used.
    RevocationUnknown,
    /// It was not signed by the authority that it names, or the client does not have its key.
    BadSignature,
    /// It is not one for clients.
    WrongPurpose,
    Invalid,
}

// === impl Refused ===

impl Refused {
    /// Why a handshake failed, if it did because of the client's certificate.
    pub fn of(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(Refused::Missing),
            rustls::Error::InvalidCertRevocationList(_) => Some(Refused::RevocationUnknown),
            rustls::Error::InvalidCertificate(why) => Some(Refused::of_certificate(why)),
            _ => None,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refused::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Refused::NotYetValid,
            CertificateError::UnknownIssuer => Refused::UnknownIssuer,
            CertificateError::Revoked => Refused::Revoked,
            CertificateError::UnknownRevocationStatus => Refused::RevocationUnknown,
            CertificateError::BadSignature => Refused::BadSignature,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Refused::WrongPurpose,
            _ => Refused::Invalid,
        }
    }

    pub fn label(self) -> &'static str {
        self.into()
    }
}
