//! Which resource a request is for: a stream of readings, the list of streams, or nothing.
//!
//! `GET /.well-known/core` lists one URI template per kind in link format (RFC 6690): `</devices/{device}/traffic>`,
//! where a device puts its own id for `{device}`. `?href=`, `?rt=`, `?if=` and `?ct=` filter it (§4.1). The list is
//! longer than its request, so it is given only to an address that was seen to receive: see [`Reachability`].

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use coap_lite::Packet;

use super::blocks::{self, Block, Blocks};
use super::options::{self, Refused};
use super::packet::{self, Response};

/// Bytes of the list of streams; what does not fit into one unfragmented datagram is left out, link by link.
pub const LISTING_BYTES_MAX: usize = 1024;

/// A response may be this many times as long as its request to an address that anyone may have forged (the factor of
/// RFC 9000 §8.1; RFC 7252 §11.3 names no number).
pub const AMPLIFICATION_MAX: usize = 3;

/// How long an Echo value is good for; it may live up to twice as long.
const ECHO_LIFETIME: Duration = Duration::from_secs(60);

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// To accept a reading at this path.
    Reading(String),
    /// Something that is answered on the spot, with a text for people.
    Answer(Response, String),
    /// A critical option that is not understood: 4.02, but Reset if the request is non-confirmable (RFC 7252 §5.4.1).
    BadOption(Response, String),
}

/// The streams, as `/.well-known/core` shows them: those of the kinds that are accepted when it is asked.
pub struct Links {
    kinds: Box<dyn Fn() -> Vec<String> + Send>,
}

struct Link {
    href: String,
    resource_type: String,
}

/// Proof that a peer receives what is sent to its address: an Echo value that only it has seen (RFC 9175 §2.3).
#[derive(Clone, Debug)]
pub struct Reachability {
    key: RandomState,
    started: Instant,
}

const INTERFACE: &str = "citygate.reading";
const CONTENT_TYPE: &str = "50";

/// Reads a request's options and finds what it is for; and which blocks it names.
pub fn find(
    packet: &Packet,
    code: u8,
    oversize: bool,
    listing: impl FnOnce(&Packet, Blocks) -> Response,
) -> (Wanted, Blocks) {
    match options::check(packet).and_then(|()| blocks::of(packet, oversize)) {
        Ok(blocks) => (find_path(packet, code, blocks, listing), blocks),
        Err(refused) => (refusal(refused), Blocks::default()),
    }
}

fn answer(code: u8, text: &str) -> Wanted {
    Wanted::Answer(Response::new(code), text.to_owned())
}

fn refusal(refused: Refused) -> Wanted {
    match refused {
        Refused::Proxy => answer(packet::PROXYING_NOT_SUPPORTED, "this is not a proxy"),
        Refused::Block(why) => answer(packet::BAD_REQUEST, why),
        Refused::Unsupported(why) => Wanted::BadOption(Response::new(packet::BAD_OPTION), why.to_owned()),
        Refused::Option(number) => Wanted::BadOption(Response::new(packet::BAD_OPTION), options::describe(number)),
    }
}

fn find_path(packet: &Packet, code: u8, blocks: Blocks, listing: impl FnOnce(&Packet, Blocks) -> Response) -> Wanted {
    let path = options::path(packet);
    let is_listing = path == ".well-known/core";
    match code {
        packet::GET if is_listing => Wanted::Answer(listing(packet, blocks), String::new()),
        // A later block of a response that is one block: the reading, if it was one, has been accepted with the first.
        _ if blocks.response.is_some_and(|block| block.number > 0) => refusal(blocks::ONE_BLOCK),
        packet::POST | packet::PUT if !is_listing => match options::precondition_fails(packet) {
            true => answer(packet::PRECONDITION_FAILED, "a stream has no ETag and always exists"),
            false => Wanted::Reading(path),
        },
        packet::GET if !is_listing && !path.starts_with("devices/") => answer(packet::NOT_FOUND, ""),
        _ if is_listing => answer(packet::METHOD_NOT_ALLOWED, "only GET"),
        _ => answer(packet::METHOD_NOT_ALLOWED, "only POST and PUT"),
    }
}

// === impl Links ===

impl Links {
    /// `kinds` is called for each list.
    pub fn new(kinds: impl Fn() -> Vec<String> + Send + 'static) -> Self {
        Links { kinds: Box::new(kinds) }
    }

    /// The response to a discovery: 2.05 in link format, empty if nothing matches the filter; of it the block that is
    /// asked for.
    pub fn list(&self, packet: &Packet, asked: Option<Block>) -> Response {
        if !options::accepts(packet, options::LINK_FORMAT) {
            return Response::new(packet::NOT_ACCEPTABLE);
        }
        let filters = options::queries(packet);
        let mut payload = Vec::new();
        let links = (self.kinds)().into_iter().map(|kind| Link::new(&kind));
        let matching = links.filter(|link| filters.iter().all(|filter| link.matches(filter)));
        for text in matching.map(|link| link.text()) {
            let comma = usize::from(!payload.is_empty());
            if payload.len() + comma + text.len() > LISTING_BYTES_MAX {
                break;
            }
            payload.extend_from_slice(&b","[..comma]);
            payload.extend_from_slice(text.as_bytes());
        }
        let mut block2 = None;
        if let Some(asked) = asked {
            let Some((part, block)) = asked.of_body(&payload) else {
                return Response::new(packet::BAD_REQUEST);
            };
            (payload, block2) = (part.to_vec(), Some(block));
        }
        Response {
            content_format: Some(options::LINK_FORMAT),
            block2,
            payload,
            ..Response::new(packet::CONTENT)
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Links").field(&(self.kinds)()).finish()
    }
}

// === impl Link ===

impl Link {
    fn new(kind: &str) -> Self {
        Link {
            href: format!("/devices/{{device}}/{kind}"),
            resource_type: format!("citygate.{kind}"),
        }
    }

    fn text(&self) -> String {
        format!(
            r#"<{}>;rt="{}";if="{INTERFACE}";ct={CONTENT_TYPE}"#,
            self.href, self.resource_type
        )
    }

    /// Whether the link passes `attribute=value`, where a value may end in `*`; a part of the query that is not of this
    /// form is no filter.
    fn matches(&self, filter: &str) -> bool {
        let Some((attribute, wanted)) = filter.split_once('=') else {
            return true;
        };
        let value = match attribute {
            "href" => &self.href,
            "rt" => &self.resource_type,
            "if" => INTERFACE,
            "ct" => CONTENT_TYPE,
            _ => return false,
        };
        match wanted.strip_suffix('*') {
            Some(prefix) => value.starts_with(prefix),
            None => value == wanted,
        }
    }
}

// === impl Reachability ===

impl Reachability {
    pub fn new(now: Instant) -> Self {
        Reachability {
            key: RandomState::new(),
            started: now,
        }
    }

    /// The value that `peer` is to repeat.
    pub fn challenge(&self, now: Instant, peer: SocketAddr) -> [u8; 8] {
        self.value(self.period(now), peer)
    }

    /// Whether `echo` is a value that `peer` was sent lately. This machine's own processes need none: a datagram from
    /// outside cannot have a loopback address as its source.
    pub fn is_proved(&self, now: Instant, peer: SocketAddr, echo: Option<[u8; 8]>) -> bool {
        if peer.ip().to_canonical().is_loopback() {
            return true;
        }
        let Some(echo) = echo else { return false };
        let period = self.period(now);
        echo == self.value(period, peer) || period.checked_sub(1).is_some_and(|last| echo == self.value(last, peer))
    }

    // A keyed SipHash of address and time: nothing to remember per peer, and not to be guessed by anyone else.
    fn value(&self, period: u64, peer: SocketAddr) -> [u8; 8] {
        self.key.hash_one((peer, period)).to_be_bytes()
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / ECHO_LIFETIME.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use coap_lite::CoapOption;

    fn request(path: &str, queries: &[&str]) -> Packet {
        let mut packet = Packet::new();
        for segment in path.split('/').filter(|_| !path.is_empty()) {
            packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
        }
        for query in queries {
            packet.add_option(CoapOption::UriQuery, query.as_bytes().to_vec());
        }
        packet
    }

    fn links(kinds: &[&str]) -> Links {
        let kinds: Vec<_> = kinds.iter().map(|&kind| kind.to_owned()).collect();
        Links::new(move || kinds.clone())
    }

    #[test]
    fn requests_find_their_resource() {
        let check = |code: u8, path: &str, expected: Result<&str, u8>| {
            let links = links(&["traffic"]);
            let found = match find(&request(path, &[]), code, false, |packet, _| links.list(packet, None)).0 {
                Wanted::Reading(path) => Ok(path),
                Wanted::Answer(response, _) | Wanted::BadOption(response, _) => Err(response.code),
            };
            assert_eq!(found, expected.map(str::to_owned), "{code} {path}");
        };
        let (delete, fetch, patch, unheard_of) = (4, 5, 6, 31);
        check(packet::POST, "devices/a/traffic", Ok("devices/a/traffic"));
        check(packet::PUT, "devices/a/traffic/batch", Ok("devices/a/traffic/batch"));
        // A path that is no address is the pipeline's to refuse: what was sent there is kept.
        check(packet::POST, "nowhere", Ok("nowhere"));
        check(packet::POST, "", Ok(""));
        check(packet::GET, ".well-known/core", Err(packet::CONTENT));
        check(packet::GET, "devices/a/traffic", Err(packet::METHOD_NOT_ALLOWED));
        check(packet::GET, "", Err(packet::NOT_FOUND));
        check(packet::GET, ".well-known", Err(packet::NOT_FOUND));
        check(packet::POST, ".well-known/core", Err(packet::METHOD_NOT_ALLOWED));
        for code in [delete, fetch, patch, unheard_of] {
            check(code, "devices/a/traffic", Err(packet::METHOD_NOT_ALLOWED));
            check(code, ".well-known/core", Err(packet::METHOD_NOT_ALLOWED));
        }
    }

    #[test]
    fn options_that_are_not_understood_stop_a_request() {
        let check = |number: u16, value: &[u8], expected: u8| {
            let mut packet = request("devices/a/traffic", &[]);
            packet.add_option(CoapOption::from(number), value.to_vec());
            let code = match find(&packet, packet::POST, false, |_, _| Response::default()).0 {
                Wanted::Reading(_) => 0,
                Wanted::Answer(response, _) | Wanted::BadOption(response, _) => response.code,
            };
            assert_eq!(code, expected, "option {number}");
        };
        check(27, &[0x08], packet::BAD_OPTION);
        check(27, &[0x10], packet::BAD_OPTION);
        check(27, &[0x06], 0);
        check(27, &[0x07], packet::BAD_REQUEST);
        check(23, &[0x06], 0);
        check(23, &[0x16], packet::BAD_OPTION);
        check(23, &[0x07], packet::BAD_REQUEST);
        check(9, &[], packet::BAD_OPTION);
        check(35, b"coap://a/b", packet::PROXYING_NOT_SUPPORTED);
        check(5, &[], packet::PRECONDITION_FAILED);
        check(1, b"tag", packet::PRECONDITION_FAILED);
        check(1, &[], 0);
        check(6, &[0], 0);
        check(17, &[60], 0);
    }

    #[test]
    fn streams_are_listed_and_filtered() {
        let links = links(&["energy", "traffic"]);
        let check = |queries: &[&str], expected: &[&str]| {
            let response = links.list(&request(".well-known/core", queries), None);
            assert_eq!((response.code, response.content_format), (packet::CONTENT, Some(40)));
            let listing = String::from_utf8(response.payload).unwrap();
            let of = |kind: &str| {
                format!(r#"</devices/{{device}}/{kind}>;rt="citygate.{kind}";if="citygate.reading";ct=50"#)
            };
            let expected: Vec<_> = expected.iter().copied().map(of).collect();
            assert_eq!(listing, expected.join(","), "{queries:?}");
        };
        check(&[], &["energy", "traffic"]);
        check(&["rt=citygate.traffic"], &["traffic"]);
        check(&["rt=citygate.*"], &["energy", "traffic"]);
        check(&["rt=*"], &["energy", "traffic"]);
        check(&["rt=citygate"], &[]);
        check(&["rt=nothing*"], &[]);
        check(&["href=/devices/{device}/energy"], &["energy"]);
        check(&["href=/devices/*"], &["energy", "traffic"]);
        check(&["if=citygate.reading"], &["energy", "traffic"]);
        check(&["if=citygate.r*", "rt=citygate.e*"], &["energy"]);
        check(&["ct=50"], &["energy", "traffic"]);
        check(&["ct=60"], &[]);
        check(&["title=x"], &[]);
        check(&["nonsense"], &["energy", "traffic"]);
    }

    #[test]
    fn the_kinds_of_the_moment_are_listed() {
        let kinds = Arc::new(Mutex::new(vec!["energy".to_owned()]));
        let asked = kinds.clone();
        let links = Links::new(move || asked.lock().unwrap().clone());
        let listed = || String::from_utf8(links.list(&request(".well-known/core", &[]), None).payload).unwrap();
        assert!(listed().starts_with("</devices/{device}/energy>;"), "{}", listed());
        *kinds.lock().unwrap() = vec!["noise".to_owned()];
        assert!(listed().starts_with("</devices/{device}/noise>;"), "{}", listed());
    }

    #[test]
    fn the_list_is_bounded_and_cut_between_links() {
        let links = Links::new(|| (0..500).map(|number| format!("kind-{number}")).collect());
        let payload = links.list(&request(".well-known/core", &[]), None).payload;
        assert!((900..=LISTING_BYTES_MAX).contains(&payload.len()), "{}", payload.len());
        assert!(payload.ends_with(b";ct=50"));
    }

    #[test]
    fn the_list_is_given_in_blocks() {
        let links = links(&["energy", "traffic"]);
        let packet = request(".well-known/core", &[]);
        let whole = links.list(&packet, None).payload;
        for exponent in 0..=6 {
            let mut read = Vec::new();
            for number in 0.. {
                let (more, bytes) = (false, 16 << exponent);
                let asked = Block { number, more, exponent };
                let response = links.list(&packet, Some(asked));
                assert_eq!(response.code, packet::CONTENT);
                read.extend_from_slice(&response.payload);
                let more = read.len() < whole.len();
                assert_eq!(response.block2, Some(Block { more, ..asked }));
                assert!(response.payload.len() == bytes || !more);
                if !more {
                    let past = Block {
                        number: number + 1,
                        ..asked
                    };
                    assert_eq!(links.list(&packet, Some(past)).code, packet::BAD_REQUEST);
                    break;
                }
            }
            assert_eq!(read, whole);
        }
    }

    #[test]
    fn another_format_than_links_is_not_to_be_had() {
        let mut packet = request(".well-known/core", &[]);
        packet.add_option(CoapOption::Accept, vec![50]);
        assert_eq!(links(&[]).list(&packet, None).code, packet::NOT_ACCEPTABLE);
    }

    #[test]
    fn an_echo_is_good_for_its_address_and_its_time() {
        let start = Instant::now();
        let reachability = Reachability::new(start);
        let [peer, other] = [1, 2].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let own = SocketAddr::from(([127, 0, 0, 1], 3));
        let echo = reachability.challenge(start, peer);
        let check = |seconds, peer, expected| {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(
                reachability.is_proved(now, peer, Some(echo)),
                expected,
                "{peer} after {seconds} s"
            );
        };
        check(0, peer, true);
        check(119, peer, true);
        check(120, peer, false);
        check(0, other, false);
        check(500, own, true);
        assert!(!reachability.is_proved(start, peer, None));
    }
}
