//! Which client certificates are accepted: those of the authorities in `client_ca` that no list in `crl` has revoked.
//!
//! Both are read and checked as a whole. A list must be signed by its authority, and where there is one list there must be one of
//! each authority, since certificates of the others would all be refused. A list that should have been replaced is used on, and
//! warned of: no list at all would accept what it revokes, and to refuse everybody would stop a city.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{self, WARN_DAYS, days_until, read_chain, read_file, time};
use super::config::{ClientCertificates, Config};
use super::keys::{self, OneOf};

/// See the module's documentation.
#[derive(Debug)]
pub struct Trust {
    verifier: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    lists: Vec<CertificateRevocationListDer<'static>>,
    /// When each file of lists should be replaced, in seconds since 1970.
    replaced_by: Vec<(PathBuf, i64)>,
    warnings: Vec<String>,
}

/// It cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] certificate::Error),
    #[error("{}: certificate {place} of the file is not that of an authority (CA)", path.display())]
    NoAuthority { path: PathBuf, place: usize },
    #[error("{}: the authority of certificate {place} may not sign revocation lists (key usage)", path.display())]
    NoSigner { path: PathBuf, place: usize },
    #[error("{} has no certificate revocation list, in PEM form (-----BEGIN X509 CRL-----) or DER", .0.display())]
    NoList(PathBuf),
    #[error("{}: the revocation list is not signed by the authority that it names, {issuer}", path.display())]
    Signature { path: PathBuf, issuer: String },
    #[error("crl: no file has a revocation list of {0}, and without one every certificate of it would be refused")]
    Unlisted(String),
    #[error("{path}: {why}", path = .path.display())]
    Rustls { path: PathBuf, why: String },
}

/// A revocation list of a file.
struct List {
    path: PathBuf,
    der: CertificateRevocationListDer<'static>,
    issued_s: i64,
    replaced_by_s: Option<i64>,
}

// === impl Trust ===

impl Trust {
    /// What the files hold, at this time in seconds since 1970. `None`: clients are not asked for certificates.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(config: &Config, provider: &Arc<CryptoProvider>, now_s: i64) -> Result<Option<Self>, Error> {
        let Some(path) = config.client_ca.as_deref() else {
            return Ok(None);
        };
        let authorities = read_chain(path)?;
        let mut lists = Vec::new();
        for file in config.crl.iter() {
            lists.extend(read_lists(file)?);
        }
        let mut warnings = Vec::new();
        check(path, &authorities, &lists, now_s, &mut warnings)?;
        // Of two lists of an authority the first is asked: the newer one.
        lists.sort_by_key(|list| std::cmp::Reverse(list.issued_s));
        let ders: Vec<_> = lists.iter().map(|list| list.der.clone()).collect();
        let mut verifiers = Vec::new();
        for (authorities, of_them) in keys::by_key(&authorities, &ders) {
            let verifier = verifier(config.client_certificates, &authorities, &of_them, provider);
            verifiers.push(verifier.map_err(|wrong| {
                let list = lists.iter().find(|list| of_them.contains(&&list.der));
                let (path, why) = match wrong {
                    Wrong::Authority(why) => (path, why),
                    Wrong::List(why) => (list.map_or(path, |list| &list.path), why),
                };
                let path = path.to_owned();
                Error::Rustls { path, why }
            })?);
        }
        let replaced_by = lists
            .iter()
            .filter_map(|list| Some((list.path.clone(), list.replaced_by_s?)));
        Ok(Some(Trust {
            replaced_by: replaced_by.collect(),
            verifier: Arc::new(OneOf(verifiers)),
            lists: ders,
            authorities,
            warnings,
        }))
    }

    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    /// Whether a chain, the client's own certificate first, is accepted now.
    ///
    /// # Errors
    /// It is not; why.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let (own, issuers) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.verifier
            .verify_client_cert(own, issuers, UnixTime::now())
            .map(drop)
    }

    /// Whether it accepts what the other one does.
    pub fn is_same(&self, other: &Trust) -> bool {
        self.authorities == other.authorities && self.lists == other.lists
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub fn replaced_by(&self) -> &[(PathBuf, i64)] {
        &self.replaced_by
    }
}

/// Which file rustls does not accept, and why.
enum Wrong {
    Authority(String),
    List(String),
}

/// What asks for a client's certificate and accepts those of these authorities.
fn verifier(
    how: ClientCertificates,
    authorities: &[&CertificateDer<'static>],
    lists: &[&CertificateRevocationListDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Wrong> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let added = roots.add((*authority).clone());
        added.map_err(|error| Wrong::Authority(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .with_crls(lists.iter().copied().cloned());
    let builder = match how {
        ClientCertificates::Required => builder,
        ClientCertificates::Optional | ClientCertificates::None => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| Wrong::List(error.to_string()))
}

/// All lists of a file.
fn read_lists(path: &Path) -> Result<Vec<List>, Error> {
    let none = || Error::NoList(path.to_owned());
    let bytes = read_file(path)?;
    let lists = if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        lists.map_err(|_| none())?
    } else {
        vec![CertificateRevocationListDer::from(bytes)]
    };
    if lists.is_empty() {
        return Err(none());
    }
    let lists = lists.into_iter().map(|der| {
        let (_, parsed) = CertificateRevocationList::from_der(&der).map_err(|_| none())?;
        let (issued_s, next) = (parsed.last_update().timestamp(), parsed.next_update());
        Ok(List {
            path: path.to_owned(),
            issued_s,
            replaced_by_s: next.map(|next| next.timestamp()),
            der,
        })
    });
    lists.collect()
}

/// Whether authorities are such, and whether each has a list where there are lists.
fn check(
    path: &Path,
    authorities: &[CertificateDer<'_>],
    lists: &[List],
    now_s: i64,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mut parsed = Vec::new();
    for list in lists {
        let unreadable = |_| Error::NoList(list.path.clone());
        parsed.push(CertificateRevocationList::from_der(&list.der).map_err(unreadable)?.1);
        if let Some(replaced_by_s) = list.replaced_by_s.filter(|at| *at < now_s) {
            let (file, at) = (list.path.display(), time(replaced_by_s));
            warnings.push(format!("crl: {file} should have been replaced by {at}; it is used on"));
        }
    }
    for (index, der) in authorities.iter().enumerate() {
        let (path, place) = (path.to_owned(), index + 1);
        let Ok((_, authority)) = X509Certificate::from_der(der) else {
            return Err(certificate::Error::Parse { path, place }.into());
        };
        if !authority.is_ca() {
            return Err(Error::NoAuthority { path, place });
        }
        let ends_s = authority.validity().not_after.timestamp();
        if days_until(ends_s, now_s) < WARN_DAYS {
            let (subject, ends) = (authority.subject().to_string(), time(ends_s));
            warnings.push(format!("client_ca: the authority {subject} is valid until {ends}"));
        }
        let usage = authority.key_usage().ok().flatten();
        if !lists.is_empty() && usage.is_some_and(|usage| !usage.value.crl_sign()) {
            return Err(Error::NoSigner { path, place });
        }
        check_lists(&authority, authorities, lists, &parsed)?;
    }
    Ok(())
}

/// The lists that name this authority are of it, or of another one of the same name; and there is one.
fn check_lists(
    authority: &X509Certificate<'_>,
    authorities: &[CertificateDer<'_>],
    lists: &[List],
    parsed: &[CertificateRevocationList<'_>],
) -> Result<(), Error> {
    let issuer = authority.subject().to_string();
    let mut has_list = lists.is_empty();
    for (list, parsed) in lists
        .iter()
        .zip(parsed)
        .filter(|(_, parsed)| parsed.issuer() == authority.subject())
    {
        if parsed.verify_signature(authority.public_key()).is_ok() {
            has_list = true;
            continue;
        }
        // An authority that has a new key has its old name.
        let signed_by_another = authorities.iter().any(|der| {
            X509Certificate::from_der(der).is_ok_and(|(_, other)| {
                other.subject() == parsed.issuer() && parsed.verify_signature(other.public_key()).is_ok()
            })
        });
        if !signed_by_another {
            let path = list.path.clone();
            return Err(Error::Signature { path, issuer });
        }
    }
    match has_list {
        true => Ok(()),
        false => Err(Error::Unlisted(issuer)),
    }
}
