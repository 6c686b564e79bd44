//! What the head of a request must be, beyond what hyper asks of it.
//!
//! Exactly one valid `Host` (RFC 9112 §3.2); the only transfer coding is `chunked`, once (§6.1); no content coding
//! but `identity` (RFC 9110 §8.4). A header that comes in several lines is their list (§5.3), and the names of codings
//! have no case. Pure.
//!
//! Of `Content-Length` beside `Transfer-Encoding` nothing can be said here: hyper goes by the latter alone, closes the
//! connection behind the answer, and hands on the head without the length (§6.3 of RFC 9112 allows it).

use std::borrow::Cow;
use std::net::Ipv6Addr;

use axum::http::{HeaderMap, HeaderName, Version, header};

/// What is wrong with `Host`, in words for the device.
pub fn host_fault(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_10 => None,
        (None, _) => Some("the Host header is missing; HTTP/1.1 requires one"),
        (Some(_), Some(_)) => Some("Host: one is expected, several came"),
        (Some(host), None) if is_host(host.as_bytes()) => None,
        (Some(_), None) => Some("Host: a name or an address is expected, and a port behind a colon if there is one"),
    }
}

/// `uri-host [ ":" port ]` of RFC 3986 §3.2. An empty one is good: it says that the target names no host. Of the literals
/// in brackets only IPv6 addresses are: no later version is defined.
fn is_host(value: &[u8]) -> bool {
    let Some(literal) = value.strip_prefix(b"[") else {
        let (name, port) = split_at_first(value, b':');
        return is_name(name) && port.iter().all(u8::is_ascii_digit);
    };
    let (address, rest) = split_at_first(literal, b']');
    let address = std::str::from_utf8(address).unwrap_or_default();
    let port = rest.strip_prefix(b":");
    let closed = literal.contains(&b']') && (rest.is_empty() || port.is_some());
    closed && address.parse::<Ipv6Addr>().is_ok() && port.is_none_or(|port| port.iter().all(u8::is_ascii_digit))
}

/// Before the separator, and behind it.
fn split_at_first(value: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match value.iter().position(|&byte| byte == separator) {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &[]),
    }
}

/// `reg-name`, of which an IPv4 address is one: unreserved, percent-encoded, and `sub-delims`.
fn is_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        let good = match byte {
            b'%' => bytes.next().is_some_and(u8::is_ascii_hexdigit) && bytes.next().is_some_and(u8::is_ascii_hexdigit),
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !good {
            return false;
        }
    }
    true
}

/// What is wrong with the transfer coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferFault {
    /// `chunked` more than once, or not at the end.
    NotOnceChunked,
    /// A coding that is not decoded here.
    Unknown,
}

pub fn transfer_fault(headers: &HeaderMap) -> Option<TransferFault> {
    let codings = list(headers, header::TRANSFER_ENCODING)?;
    let is_chunked = |coding: &str| coding.eq_ignore_ascii_case("chunked");
    let mut codings = elements(&codings);
    match (codings.next(), codings.next()) {
        (Some(only), None) if is_chunked(only) => None,
        (Some(first), Some(second)) if is_chunked(first) || (is_chunked(second) && codings.any(is_chunked)) => {
            Some(TransferFault::NotOnceChunked)
        }
        _ => Some(TransferFault::Unknown),
    }
}

/// The content codings, if there are others than `identity`.
pub fn content_codings(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let codings = list(headers, header::CONTENT_ENCODING)?;
    let coded = elements(&codings).any(|coding| !coding.eq_ignore_ascii_case("identity"));
    coded.then_some(codings)
}

/// The media type; empty if there is none. Several lines with the same one are one, others are a list, which is decoded
/// as none.
pub fn content_type(headers: &HeaderMap) -> Cow<'_, str> {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(first) = lines.next() else { return "".into() };
    if lines.all(|line| line == first) {
        return String::from_utf8_lossy(first.as_bytes());
    }
    list(headers, header::CONTENT_TYPE).unwrap_or_default()
}

/// A header's lines as one list; none if it is missing.
fn list(headers: &HeaderMap, name: HeaderName) -> Option<Cow<'_, str>> {
    let mut lines = headers
        .get_all(name)
        .iter()
        .map(|line| String::from_utf8_lossy(line.as_bytes()));
    let mut list = lines.next()?;
    for line in lines {
        let list = list.to_mut();
        list.push_str(", ");
        list.push_str(&line);
    }
    Some(list)
}

/// A list's elements; empty ones do not count (RFC 9110 §5.6.1.2).
fn elements(list: &str) -> impl Iterator<Item = &str> {
    let elements = list.split(',').map(|element| element.trim_matches([' ', '\t']));
    elements.filter(|element| !element.is_empty())
}

/// A header that is text; empty if it is missing or something else.
pub fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, lines: &[&str]) -> HeaderMap {
        let lines = lines
            .iter()
            .map(|line| (name.clone(), HeaderValue::from_bytes(line.as_bytes()).unwrap()));
        let mut headers = HeaderMap::new();
        lines.for_each(|(name, line)| {
            headers.append(name, line);
        });
        headers
    }

    #[test]
    fn exactly_one_valid_host_is_expected() {
        let fault = |version, lines: &[&str]| host_fault(version, &headers(header::HOST, lines)).is_some();
        for good in [
            "",
            "x",
            "gateway.example",
            "gateway.example:8080",
            "gateway_1.local",
            "192.0.2.7",
            "192.0.2.7:80",
            "x:",
            "[::1]",
            "[2001:db8::1]:8080",
            "[::1]:",
            "a%20b",
            "a,b",
        ] {
            assert!(!fault(Version::HTTP_11, &[good]), "{good}");
            assert!(!fault(Version::HTTP_10, &[good]), "{good}");
        }
        for bad in [
            "x y", "x:http", "x:80:80", "user@x", "http://x", "x/", "x?y", "x#y", "a%2", "a%zz", "[::1", "[::1]80",
            "[::g]", "[]", "::1", "<x>", "ä", "a\\b", "\"x\"", "x:-1",
        ] {
            assert!(fault(Version::HTTP_11, &[bad]), "{bad}");
            assert!(fault(Version::HTTP_10, &[bad]), "{bad}");
        }
        assert!(fault(Version::HTTP_11, &[]));
        assert!(!fault(Version::HTTP_10, &[]));
        assert!(fault(Version::HTTP_11, &["x", "x"]));
        assert!(fault(Version::HTTP_10, &["x", "y"]));
    }

    #[test]
    fn the_transfer_coding_is_chunked_once() {
        use TransferFault::{NotOnceChunked, Unknown};
        let check = |lines: &[&str], expected| {
            assert_eq!(
                transfer_fault(&headers(header::TRANSFER_ENCODING, lines)),
                expected,
                "{lines:?}"
            );
        };
        check(&[], None);
        check(&["chunked"], None);
        check(&["CHUNKED "], None);
        check(&[", chunked,"], None);
        check(&["chunked, chunked"], Some(NotOnceChunked));
        check(&["chunked", "chunked"], Some(NotOnceChunked));
        check(&["chunked, gzip, chunked"], Some(NotOnceChunked));
        check(&["gzip, chunked, chunked"], Some(NotOnceChunked));
        check(&["gzip, chunked"], Some(Unknown));
        check(&["gzip", "chunked"], Some(Unknown));
        check(&["identity, chunked"], Some(Unknown));
        check(&["chunked;q=1"], Some(Unknown));
        check(&[""], Some(Unknown));
    }

    #[test]
    fn a_header_counts_whole() {
        let codings = |lines: &[&str]| content_codings(&headers(header::CONTENT_ENCODING, lines)).map(Cow::into_owned);
        for plain in [
            &[][..],
            &[""],
            &["identity"],
            &["Identity", "IDENTITY"],
            &["identity, identity,"],
        ] {
            assert_eq!(codings(plain), None, "{plain:?}");
        }
        assert_eq!(codings(&["GZip"]).as_deref(), Some("GZip"));
        assert_eq!(codings(&["identity", "gzip"]).as_deref(), Some("identity, gzip"));
        assert_eq!(codings(&["identity, br"]).as_deref(), Some("identity, br"));
        let of = |lines: &[&str]| content_type(&headers(header::CONTENT_TYPE, lines)).into_owned();
        assert_eq!(of(&[]), "");
        assert_eq!(of(&["application/json", "application/json"]), "application/json");
        assert_eq!(of(&["application/json", "text/csv"]), "application/json, text/csv");
    }
}
