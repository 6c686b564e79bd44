//! The `Authorization` header: what a sender says of itself.
//!
//! `Basic` is a device id and its key or password (RFC 7617), `Bearer` a key alone, which says which device it is (RFC 6750
//! §2.1). Nothing is verified here. Pure.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::devices::Claim;

/// Longer ones are not decoded.
const HEADER_BYTES_MAX: usize = 4096;

/// What a header claims.
pub struct Credentials {
    /// None: the secret says it.
    id: Option<Zeroizing<String>>,
    secret: Zeroizing<Vec<u8>>,
}

/// The header is none of a scheme that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

// === impl Credentials ===

impl Credentials {
    /// `None`: the sender says nothing of itself.
    ///
    /// # Errors
    /// The header comes more than once, or is not `Basic` or `Bearer` as they are defined.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Malformed> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() || line.len() > HEADER_BYTES_MAX {
            return Err(Malformed);
        }
        let text = line.to_str().map_err(|_| Malformed)?;
        let (scheme, value) = text.split_once(' ').ok_or(Malformed)?;
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            Self::basic(value).map(Some)
        } else if scheme.eq_ignore_ascii_case("bearer") && !value.is_empty() {
            let secret = Zeroizing::new(value.as_bytes().to_vec());
            Ok(Some(Credentials { id: None, secret }))
        } else {
            Err(Malformed)
        }
    }

    fn basic(value: &str) -> Result<Self, Malformed> {
        let decoded = Zeroizing::new(BASE64_STANDARD.decode(value).map_err(|_| Malformed)?);
        let colon = decoded.iter().position(|&byte| byte == b':').ok_or(Malformed)?;
        let id = std::str::from_utf8(&decoded[..colon]).map_err(|_| Malformed)?;
        Ok(Credentials {
            id: Some(Zeroizing::new(id.to_owned())),
            secret: Zeroizing::new(decoded[colon + 1..].to_vec()),
        })
    }

    pub fn claim(&self) -> Claim<'_> {
        Claim {
            id: self.id.as_ref().map(|id| id.as_str()),
            secret: &self.secret,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn what_a_header_claims() {
        let check = |lines: &[&str], expected: Result<Option<(Option<&str>, &str)>, Malformed>| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(line).unwrap());
            }
            let found = Credentials::of(&headers);
            let found = found.as_ref().map(|found| {
                let claim = found.as_ref().map(Credentials::claim);
                claim.map(|claim| (claim.id, std::str::from_utf8(claim.secret).unwrap()))
            });
            assert_eq!(found.map_err(|error| *error), expected, "{lines:?}");
        };
        check(&[], Ok(None));
        check(&["Basic bG9vcC03OmtleQ=="], Ok(Some((Some("loop-7"), "key"))));
        check(&["basic bG9vcC03OmE6Yg=="], Ok(Some((Some("loop-7"), "a:b"))));
        check(&["Basic Og=="], Ok(Some((Some(""), ""))));
        check(&["Bearer cgk_abc"], Ok(Some((None, "cgk_abc"))));
        check(&["BEARER  cgk_abc "], Ok(Some((None, "cgk_abc"))));
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Basic %%%",
            "Basic bG9vcA==",
            "Basic /zo=",
            "Bearer",
            "Bearer ",
            "Digest a=b",
            "cgk_abc",
        ] {
            check(&[bad], Err(Malformed));
        }
        check(&["Bearer a", "Bearer a"], Err(Malformed));
        check(&[&format!("Bearer {}", "a".repeat(HEADER_BYTES_MAX))], Err(Malformed));
    }

    /// Any header is claimed or malformed, without a panic.
    #[test]
    fn any_header_is_read_or_refused() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for start in ["Basic bG9vcC03OmtleQ==", "Bearer cgk_abc", "Basic "] {
            for _ in 0..20_000 {
                let mut bytes = start.as_bytes().to_vec();
                for _ in 0..random.random_range(1..6) {
                    let at = random.random_range(0..bytes.len());
                    match random.random_range(0..3) {
                        0 => bytes[at] = random.random(),
                        1 if bytes.len() > 1 => drop(bytes.remove(at)),
                        _ => bytes.insert(at, random.random()),
                    }
                }
                let Ok(value) = HeaderValue::from_bytes(&bytes) else {
                    continue;
                };
                let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
                if let Ok(Some(credentials)) = Credentials::of(&headers) {
                    let claim = credentials.claim();
                    assert!(claim.secret.len() <= bytes.len() && claim.id.is_none_or(|id| id.len() <= bytes.len()));
                }
            }
        }
    }
}
