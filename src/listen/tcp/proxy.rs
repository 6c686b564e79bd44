//! The PROXY protocol, version 2: a balancer in front says where a connection comes from, before anything else on it.
//!
//! Only addresses that the configuration trusts are asked for it, and they must say it: whoever may write it may be anybody.
//! (HAProxy, "The PROXY protocol", versions 1 & 2, §2.2.) What it says of the connection beyond its source is not read.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use ppp::v2::{Addresses, Command, Header};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The header comes with the first packet.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Signature, version, family, and the length of what follows.
const FIXED_BYTES: usize = 16;

/// Addresses of IPv6 are 36 bytes; the rest is for what balancers add (TLS, unique ids).
const REST_BYTES_MAX: usize = 2048;

/// Reads the header, and no byte beyond it; the source that it names. `None`: the balancer speaks for itself, as its health
/// checks do.
///
/// # Errors
/// There is none, not in time, or it says what is no TCP over IP.
pub async fn source(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let header = async {
        let mut header = vec![0; FIXED_BYTES];
        stream.read_exact(&mut header).await?;
        let rest = rest_bytes(&header)?;
        header.resize(FIXED_BYTES + rest, 0);
        stream.read_exact(&mut header[FIXED_BYTES..]).await?;
        parse(&header)
    };
    let header = tokio::time::timeout(TIMEOUT, header).await;
    header.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// How many bytes follow the fixed ones.
fn rest_bytes(fixed: &[u8]) -> io::Result<usize> {
    let is_one = fixed.starts_with(ppp::v2::PROTOCOL_PREFIX);
    match *fixed {
        [.., high, low] if is_one => {
            let rest = usize::from(u16::from_be_bytes([high, low]));
            (rest <= REST_BYTES_MAX).then_some(rest)
        }
        _ => None,
    }
    .ok_or_else(|| invalid("no PROXY protocol header of version 2"))
}

/// The fixed part's byte of version 2 and the command LOCAL.
const VERSION_AND_LOCAL: u8 = 0x20;

/// The source that a whole header names. A balancer that speaks for itself may give any family; it is not looked at (§2.2).
pub fn parse(header: &[u8]) -> io::Result<Option<SocketAddr>> {
    if header.get(12) == Some(&VERSION_AND_LOCAL) {
        return Ok(None);
    }
    let header = Header::try_from(header).map_err(|error| invalid(&error.to_string()))?;
    match (header.command, header.addresses) {
        (Command::Local, _) => Ok(None),
        (Command::Proxy, Addresses::IPv4(v4)) => Ok(Some((v4.source_address, v4.source_port).into())),
        (Command::Proxy, Addresses::IPv6(v6)) => Ok(Some((v6.source_address, v6.source_port).into())),
        (Command::Proxy, _) => Err(invalid("the PROXY protocol header names no IP address")),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn the_source_is_read_and_no_byte_beyond_it() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let mut v6 = [0; 36];
        (v6[0], v6[15], v6[33]) = (0xfd, 7, 9);
        let with_more = [&v4[..], &[4, 0, 1, 42]].concat();
        let check = async |bytes: Vec<u8>, expected: Result<Option<&str>, &str>| {
            let sent = [&bytes[..], b"next"].concat();
            let mut stream = &sent[..];
            match (source(&mut stream).await, expected) {
                (Ok(source), Ok(expected)) => {
                    assert_eq!(source, expected.map(|address| address.parse().unwrap()));
                    assert_eq!(stream, b"next", "{bytes:?}");
                }
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (got, expected) => panic!("{bytes:?}: {got:?}, not {expected:?}"),
            }
        };
        check(header(1, 0x11, &v4), Ok(Some("192.0.2.7:4660"))).await;
        check(header(1, 0x11, &with_more), Ok(Some("192.0.2.7:4660"))).await;
        check(header(1, 0x21, &v6), Ok(Some("[fd00::7]:9"))).await;
        check(header(0, 0x00, &[]), Ok(None)).await;
        check(header(0, 0x11, &v4), Ok(None)).await;
        check(header(0, 0x55, &[1, 2, 3]), Ok(None)).await;
        check(header(0, 0x21, &v4), Ok(None)).await;
        check(header(1, 0x00, &[]), Err("names no IP address")).await;
        check(header(1, 0x31, &[0; 216]), Err("names no IP address")).await;
        check(header(1, 0x11, &v4[..8]), Err("")).await;
        check(header(7, 0x11, &v4), Err("")).await;
        check(header(1, 0x11, &[0; 3000]), Err("no PROXY protocol header")).await;
        check(
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
            Err("no PROXY protocol header"),
        )
        .await;
        check(
            b"\x10\x12\0\x04MQTT\x05\x02\0\x3c\0\0\0\0\0\0\0".to_vec(),
            Err("no PROXY protocol header"),
        )
        .await;
    }

    #[tokio::test]
    async fn who_says_less_is_cut_off() {
        let mut cut = &SIGNATURE[..8];
        assert_eq!(source(&mut cut).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
