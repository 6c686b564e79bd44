//! HTTP/1.1 as a load of POSTs over kept-alive connections writes and reads it (RFC 9112).
//!
//! The head of a request is written by hand into a reused buffer. Of a response only what matters here is read: the
//! status, whether the connection stays, and where the response ends. Whatever bytes have come may be cut anywhere.

use super::Credentials;
use super::mqtt::Malformed;

/// Longest response that is read, head and content.
pub const RESPONSE_BYTES_MAX: usize = 48 * 1024;

/// A final response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub status: u16,
    /// The server closes the connection after it.
    pub closes: bool,
}

/// The part of a request's head that is the same for all.
#[derive(Clone, Debug)]
pub struct Head(Vec<u8>);

// === impl Head ===

impl Head {
    pub fn new(host: &str) -> Head {
        let text = format!(" HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n");
        Head(text.into_bytes())
    }

    /// The head of a POST to `/devices/<device>/<kind>` with a line of [`authorization`]; a body of `body_bytes` follows.
    pub fn post(&self, out: &mut Vec<u8>, (device, kind): (&str, &str), authorization: &str, body_bytes: usize) {
        out.extend_from_slice(b"POST /devices/");
        out.extend_from_slice(device.as_bytes());
        out.push(b'/');
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(&self.0);
        out.extend_from_slice(authorization.as_bytes());
        out.extend_from_slice(b"content-length: ");
        decimal(out, body_bytes);
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// The line of a head that says who sends; empty if nobody does.
pub fn authorization(credentials: &Credentials) -> String {
    let Some(username) = &credentials.username else {
        return String::new();
    };
    let password = credentials.password.as_deref().unwrap_or_default();
    let basic = base64(format!("{username}:{password}").as_bytes());
    format!("authorization: Basic {basic}\r\n")
}

fn decimal(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = (at(0) << 16) | (at(1) << 8) | at(2);
        for digit in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * digit)) as usize & 63];
            text.push(if digit <= chunk.len() { letter as char } else { '=' });
        }
    }
    text
}

// === reading ===

/// The first final response of `bytes` and where it ends; `None` if it is not complete.
pub fn parse(bytes: &[u8]) -> Result<Option<(Received, usize)>, Malformed> {
    let mut start = 0;
    loop {
        let rest = &bytes[start..];
        let Some(head_bytes) = end_of_head(rest)? else {
            return Ok(None);
        };
        let (head, content) = rest.split_at(head_bytes);
        let (status, fields) = status(head)?;
        // Informational responses precede the final one (RFC 9110 §15.2).
        if (100..200).contains(&status) {
            start += head_bytes;
            continue;
        }
        let framing = Framing::of(status, fields)?;
        let Some(content_bytes) = framing.content_bytes(content)? else {
            return if rest.len() > RESPONSE_BYTES_MAX {
                Err(Malformed)
            } else {
                Ok(None)
            };
        };
        let closes = framing.closes;
        return Ok(Some((Received { status, closes }, start + head_bytes + content_bytes)));
    }
}

fn end_of_head(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    if !b"HTTP/1.".starts_with(&bytes[..bytes.len().min(7)]) {
        return Err(Malformed);
    }
    match bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(position) => Ok(Some(position + 4)),
        None if bytes.len() > RESPONSE_BYTES_MAX => Err(Malformed),
        None => Ok(None),
    }
}

/// The status code, and the lines behind the status line.
fn status(head: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let end = head.windows(2).position(|two| two == b"\r\n").ok_or(Malformed)?;
    let digits = head.get(9..12).ok_or(Malformed)?;
    let status = number(digits, 10).ok_or(Malformed)?;
    if !(100..1000).contains(&status) || head.get(8) != Some(&b' ') {
        return Err(Malformed);
    }
    Ok((status as u16, &head[end + 2..]))
}

/// Where the content ends (RFC 9112 §6).
#[derive(Debug, Default)]
struct Framing {
    length: Option<usize>,
    chunked: bool,
    closes: bool,
}

// === impl Framing ===

impl Framing {
    fn of(status: u16, fields: &[u8]) -> Result<Framing, Malformed> {
        let mut framing = Framing::default();
        for line in fields.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                framing.length = Some(number(value, 10).ok_or(Malformed)?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                framing.chunked = true;
            } else if name.eq_ignore_ascii_case(b"connection") {
                framing.closes |= value.eq_ignore_ascii_case(b"close");
            }
        }
        if matches!(status, 204 | 304) {
            framing.length = Some(0);
        } else if framing.length.is_none() && !framing.chunked {
            // It would last until the connection closes; a server that keeps it alive does not do that.
            return Err(Malformed);
        }
        Ok(framing)
    }

    fn content_bytes(&self, content: &[u8]) -> Result<Option<usize>, Malformed> {
        if self.chunked {
            return chunks(content);
        }
        let length = self.length.unwrap_or(0);
        if length > RESPONSE_BYTES_MAX {
            return Err(Malformed);
        }
        Ok((content.len() >= length).then_some(length))
    }
}

/// How long a chunked content is (RFC 9112 §7.1); without trailers, which no one asked for.
fn chunks(content: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut at = 0;
    loop {
        let rest = content.get(at..).unwrap_or_default();
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let digits = rest[..line].split(|byte| *byte == b';').next().unwrap_or_default();
        let size = number(digits.trim_ascii(), 16).ok_or(Malformed)?;
        if size > RESPONSE_BYTES_MAX {
            return Err(Malformed);
        }
        at += line + 2 + size + 2;
        if size == 0 {
            return Ok((content.len() >= at).then_some(at));
        }
    }
}

fn number(digits: &[u8], radix: u32) -> Option<usize> {
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().try_fold(0, |value: usize, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        Some(value * radix as usize + digit as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_understood_however_they_are_cut() {
        let check = |text: &str, status: u16, closes: bool| {
            let bytes = text.as_bytes();
            let expected = Ok(Some((Received { status, closes }, bytes.len())));
            assert_eq!(parse(bytes), expected, "{text:?}");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{text:?} cut at {cut}");
            }
            let followed = [bytes, b"HTTP/1.1 204 No Content\r\n\r\n"].concat();
            assert_eq!(parse(&followed), expected, "{text:?} with another behind it");
        };
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, false);
        check("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", 204, true);
        check("HTTP/1.1 422 \r\nContent-Length: 2\r\n\r\n{}", 422, false);
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n",
            200,
            false,
        );
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\na;x=y\r\n0123456789\r\n0\r\n\r\n",
            200,
            false,
        );
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 2x4 No\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Malformed), "{text:?}");
        }
        assert_eq!(
            parse(&[b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; 60_000]].concat()),
            Err(Malformed)
        );
    }

    #[test]
    fn a_request_is_its_head_with_the_length_of_what_follows() {
        let credentials = Credentials {
            username: Some("city".to_owned()),
            password: Some("pass".to_owned()),
        };
        let mut out = Vec::new();
        let line = authorization(&credentials);
        Head::new("127.0.0.1:8080").post(&mut out, ("loop-1", "traffic"), &line, 1234);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "POST /devices/loop-1/traffic HTTP/1.1\r\nhost: 127.0.0.1:8080\r\ncontent-type: application/json\r\n\
             authorization: Basic Y2l0eTpwYXNz\r\ncontent-length: 1234\r\n\r\n"
        );
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
