//! Content type and body → the readings in it.
//!
//! A body is one JSON reading, or several: at a `/batch` address or over HTTP a JSON array, and NDJSON wherever the
//! content type says so. A UTF-8 byte order mark before a JSON text is ignored (RFC 8259 §8.1): at the start of the body,
//! and at the start of each line of NDJSON, where files that begin with one were put together. Items are slices of the
//! body ([`items`]); nothing is parsed into a tree. Compression and other formats are not decoded yet and are refused by
//! name.

use super::items::{self, Items};
use super::whitespace::{BYTE_ORDER_MARK, is_whitespace};
use crate::message::{Inbound, Protocol};
use crate::outcome::{Reason, Rejection, quoted};

/// The readings of a message.
#[derive(Debug)]
pub enum Envelope<'a> {
    Single(&'a [u8]),
    /// At least one item.
    Several(Items<'a>),
}

/// Finds the readings of a message, at most `items_max`. `batch` is what its address says.
///
/// # Errors
/// The body is empty, its format is not decoded, or the readings in it cannot be told apart.
pub fn open<'a>(inbound: &Inbound<'a>, batch: bool, items_max: usize) -> Result<Envelope<'a>, Rejection> {
    let format = format(inbound.content_type, inbound.origin.protocol)?;
    let text = inbound.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(inbound.body);
    let Some(first) = text.iter().find(|&&byte| !is_whitespace(byte)) else {
        return Err(Rejection::new(Reason::Malformed, "the payload is empty"));
    };
    let items = match format {
        Format::NdJson => items::lines(inbound.body, items_max),
        Format::Json if batch || (inbound.origin.protocol == Protocol::Http && *first == b'[') => {
            items::elements(inbound.body, items_max)?
        }
        Format::Json => return Ok(Envelope::Single(text)),
    };
    match items.found() {
        0 => Err(Rejection::new(Reason::Malformed, "the batch holds no reading")),
        count if count > items_max => {
            let detail = format!("{count} readings in one batch, at most {items_max} are accepted");
            Err(Rejection::new(Reason::TooLarge, detail))
        }
        _ => Ok(Envelope::Several(items)),
    }
}

enum Format {
    Json,
    NdJson,
}

fn format(content_type: &str, protocol: Protocol) -> Result<Format, Rejection> {
    // A list of types is none of them, and no parameter of those below has a comma.
    let essence = match content_type.split_once(';') {
        Some((essence, _)) if !content_type.contains(',') => essence,
        _ => content_type,
    };
    let essence = essence.trim();
    let is = |name: &&str| essence.eq_ignore_ascii_case(name);
    // A device that names no type, or an opaque or form one by default (curl -d), sends JSON until proved otherwise.
    const JSON: [&str; 6] = [
        "",
        "application/json",
        "text/json",
        "text/plain",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ];
    const NDJSON: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
    if JSON.iter().any(&is) {
        Ok(Format::Json)
    } else if NDJSON.iter().any(is) {
        Ok(Format::NdJson)
    } else {
        let shown = quoted(essence);
        let decoded = match protocol {
            // CoAP has no number for NDJSON (IANA's CoAP Content-Formats).
            Protocol::Coap => "application/json (50)",
            _ => "application/json or application/x-ndjson",
        };
        let detail = format!("content type {shown} is not decoded; send {decoded}");
        Err(Rejection::new(Reason::UnsupportedFormat, detail))
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;
    use crate::message::{Origin, Policy};

    fn opened(protocol: Protocol, content_type: &str, body: &[u8], batch: bool) -> Result<Vec<String>, Rejection> {
        let inbound = Inbound {
            origin: Origin::anonymous(protocol, "test", ([127, 0, 0, 1], 1).into()),
            path: "devices/a/weather",
            body,
            content_type,
            policy: Policy::default(),
        };
        let text = |item: &[u8]| item.escape_ascii().to_string();
        match open(&inbound, batch, 3)? {
            Envelope::Single(item) => Ok(vec![format!("single {}", text(item))]),
            Envelope::Several(items) => Ok(items.iter().map(text).collect()),
        }
    }

    #[test]
    fn envelopes() {
        use Protocol::{Coap, Http, Mqtt};
        let check = |protocol, content_type: &str, body: &str, batch, expected: Result<&[&str], Reason>| {
            let expected = expected.map(|items| items.iter().map(|item| item.to_string()).collect::<Vec<_>>());
            let opened = opened(protocol, content_type, body.as_bytes(), batch);
            let opened = opened.map_err(|rejection| rejection.reason);
            assert_eq!(opened, expected, "{protocol:?} {content_type} {body}");
        };
        let single: Result<&[&str], _> = Ok(&["single {}"]);
        check(Mqtt, "", "{}", false, single);
        check(Mqtt, "", "[{}]", false, Ok(&["single [{}]"]));
        check(Mqtt, "", "[1, {} ]", true, Ok(&["1", "{}"]));
        check(Http, "application/json", " [ {} ]", false, Ok(&["{}"]));
        check(Http, "Application/JSON; charset=utf-8", "{}", false, single);
        let lines = "{}\r\n\n [1]\n";
        check(Coap, "application/x-ndjson", lines, false, Ok(&["{}", "[1]"]));
        check(Http, "application/json", "[]", false, Err(Reason::Malformed));
        check(Http, "application/json", "[{},", false, Err(Reason::Malformed));
        check(Http, "application/json", "{}", true, Err(Reason::Malformed));
        check(Http, "application/json", "[1,2,3,4]", false, Err(Reason::TooLarge));
        for other in [
            "application/cbor",
            "application/json, text/csv",
            "application/json; charset=utf-8, text/csv",
            "text/csv, application/json; charset=utf-8",
        ] {
            check(Http, other, "{}", false, Err(Reason::UnsupportedFormat));
        }
        check(Coap, "application/cbor", "{}", false, Err(Reason::UnsupportedFormat));
        // A byte order mark, once; and what is no whitespace in JSON.
        for &protocol in Protocol::VARIANTS {
            check(protocol, "", "\u{feff}{}", false, single);
            check(protocol, "", "\u{feff}[1,2]", true, Ok(&["1", "2"]));
            check(
                protocol,
                "",
                "\u{feff}\u{feff}{}",
                false,
                Ok(&[r"single \xef\xbb\xbf{}"]),
            );
            check(protocol, "", "\u{c}{}", false, Ok(&[r"single \x0c{}"]));
        }
        check(Http, "", "\u{feff} [1]", false, Ok(&["1"]));
        check(Http, "", "\u{c}[1]", false, Ok(&[r"single \x0c[1]"]));
    }

    #[test]
    fn an_empty_payload_is_named_in_every_form() {
        for body in ["", " ", "\r\n\t ", "\n\n", "\u{feff}", "\u{feff} \n"] {
            for (content_type, batch) in [("", false), ("", true), ("application/x-ndjson", false)] {
                for &protocol in Protocol::VARIANTS {
                    let rejection = opened(protocol, content_type, body.as_bytes(), batch).unwrap_err();
                    assert_eq!(rejection.to_string(), "malformed: the payload is empty", "{body:?}");
                }
            }
        }
    }
}
