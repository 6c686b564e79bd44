//! Who may read what on the admin port: an operator everything, a scraper `/metrics`, everybody `/livez` and `/readyz`.
//!
//! An operator has the token, or a client certificate of an authority in `admin.tls.client_ca`; where neither is configured, everybody
//! is one. Why readings are not accepted, or what to look after, `/readyz` tells operators alone. Tokens are compared as digests, in constant time. A refusal says what is needed, and is logged with its peer, once a minute.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

use super::config::Config;
use super::metrics::AdminMetrics;
use crate::listen::tls::ClientCertificate;
use crate::operate::log_limit::LogLimit;
use crate::operate::secret::Secret;

/// See the module's documentation.
#[derive(Debug)]
pub struct Access {
    authenticates: bool,
    token: Option<Token>,
    metrics_token: Option<Token>,
    metrics: AdminMetrics,
    logged: Mutex<LogLimit<Instant>>,
}

/// The digest of a token.
struct Token([u8; 32]);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub certificate: Option<ClientCertificate>,
}

/// Whoever asks has not proved who it is.
#[derive(Clone, Copy, Debug)]
pub struct Unauthorized;

/// Whoever asks may read everything.
pub struct Operator;

/// Whoever asks may read `/metrics`.
pub struct Scraper;

/// Whether whoever asks is an operator. Nobody is refused.
pub struct IsOperator(pub bool);

// === impl Access ===

impl Access {
    pub fn new(config: &Config, metrics: AdminMetrics) -> Self {
        Access {
            authenticates: config.authenticates(),
            token: config.token.as_ref().map(Token::of),
            metrics_token: config.metrics_token.as_ref().map(Token::of),
            metrics,
            logged: Mutex::default(),
        }
    }

    fn admit(&self, parts: &Parts, is_metrics: bool) -> Result<(), Unauthorized> {
        let admitted = self.look(parts, is_metrics);
        admitted.map_err(|reason| self.refuse(peer(parts), reason))
    }

    /// Whether it is admitted, or why not.
    fn look(&self, parts: &Parts, is_metrics: bool) -> Result<(), &'static str> {
        if !self.authenticates {
            return Ok(());
        }
        let peer = peer(parts);
        let certificate = peer.and_then(|peer| peer.certificate.as_ref());
        if certificate.is_some_and(ClientCertificate::is_accepted) {
            return Ok(());
        }
        let given = bearer(&parts.headers);
        let metrics_token = self.metrics_token.as_ref().filter(|_| is_metrics);
        let mut tokens = [self.token.as_ref(), metrics_token].into_iter().flatten();
        match given {
            Some(given) if tokens.any(|token| token.is(given)) => Ok(()),
            given => Err(if given.is_some() { "bad_credential" } else { "missing" }),
        }
    }

    fn refuse(&self, peer: Option<&Peer>, reason: &'static str) -> Unauthorized {
        self.metrics
            .admin_requests_refused_total
            .with_label_values(&[reason])
            .inc();
        if self.may_log(reason) {
            let peer = peer.map(|peer| tracing::field::display(peer.address));
            warn!(peer, reason, "a request to the admin port is refused");
        }
        Unauthorized
    }

    /// Once a minute for each cause. Writing the line is not this lock's business.
    fn may_log(&self, cause: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.allows(Instant::now(), cause)
    }
}

fn peer(parts: &Parts) -> Option<&Peer> {
    let peer = parts.extensions.get::<ConnectInfo<Peer>>();
    peer.map(|ConnectInfo(peer)| peer)
}

impl IntoResponse for Unauthorized {
    fn into_response(self) -> Response {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"citygate\"")];
        let text = "an operator's token (Authorization: Bearer ...) or client certificate is required\n";
        (StatusCode::UNAUTHORIZED, challenge, text).into_response()
    }
}

/// What a request claims as its token; one claim alone.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (line, None) = (lines.next()?.as_bytes(), lines.next()) else {
        return None;
    };
    let (scheme, token) = line.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

// === impl Token ===

impl Token {
    fn of(secret: &Secret) -> Self {
        Token(Sha256::digest(secret.reveal()).into())
    }

    /// In the same time, whatever is given.
    fn is(&self, given: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(given).into();
        self.0.ct_eq(&digest).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

// === impl Operator, Scraper, IsOperator ===

impl<S: Send + Sync> FromRequestParts<S> for Operator
where
    Arc<Access>: FromRef<S>,
{
    type Rejection = Unauthorized;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Unauthorized> {
        Arc::from_ref(state).admit(parts, false).map(|()| Operator)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Scraper
where
    Arc<Access>: FromRef<S>,
{
    type Rejection = Unauthorized;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Unauthorized> {
        Arc::from_ref(state).admit(parts, true).map(|()| Scraper)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IsOperator
where
    Arc<Access>: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(IsOperator(Arc::from_ref(state).look(parts, false).is_ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderValue, Request};

    const TOKEN: &str = "0123456789abcdef";
    const METRICS: &str = "fedcba9876543210";

    #[test]
    fn each_token_opens_what_it_is_for_and_nothing_else() {
        let secret = |text: &str| Some(Secret::from(text));
        let open = Config::default();
        let (token, both) = (
            Config {
                token: secret(TOKEN),
                ..Config::default()
            },
            Config {
                token: secret(TOKEN),
                metrics_token: secret(METRICS),
                ..Config::default()
            },
        );
        // What is sent, and whether everything and `/metrics` may be read.
        let check = |config: &Config, lines: &[&str], expected: [bool; 2]| {
            let registry = crate::operate::metrics::Registry::default();
            let access = Access::new(config, AdminMetrics::register(&registry));
            let mut request = Request::new(());
            for line in lines {
                let value = HeaderValue::from_str(line).unwrap();
                request.headers_mut().append(header::AUTHORIZATION, value);
            }
            let (parts, ()) = request.into_parts();
            for (is_metrics, expected) in [false, true].into_iter().zip(expected) {
                let answer = access.admit(&parts, is_metrics);
                assert_eq!(answer.is_ok(), expected, "{lines:?} metrics: {is_metrics}");
                if let Err(answer) = answer {
                    let answer = answer.into_response();
                    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                    assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"citygate\"");
                }
            }
        };
        let bearer = |token: &str| format!("Bearer {token}");
        check(&open, &[], [true, true]);
        check(&open, &[&bearer("anything")], [true, true]);
        check(&token, &[&bearer(TOKEN)], [true, true]);
        check(&token, &[&format!("bearer  {TOKEN} ")], [true, true]);
        check(&both, &[&bearer(TOKEN)], [true, true]);
        check(&both, &[&bearer(METRICS)], [false, true]);
        for wrong in [
            &*bearer(METRICS),
            &bearer(TOKEN.trim_start_matches('0')),
            &format!("Bearer {TOKEN}0"),
            &bearer(&TOKEN.to_uppercase()),
            "Bearer ",
            "Bearer",
            "Basic MDEyMzQ1Njc4OWFiY2RlZjo=",
            TOKEN,
            "",
        ] {
            check(&token, &[wrong], [false, false]);
        }
        check(&token, &[], [false, false]);
        check(&token, &[&bearer(TOKEN), &bearer(TOKEN)], [false, false]);
        let access = Access::new(&both, AdminMetrics::register(&Default::default()));
        assert!(!format!("{access:?}").contains("[48"), "a digest is not shown");
    }
}
