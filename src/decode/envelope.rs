//! Content type and body → the readings in it.
//!
//! A body is one JSON reading, or several: at a `/batch` address or over HTTP a JSON array, and NDJSON wherever the
//! content type says so. Items are slices of the body; nothing is parsed into a tree. Compression and other formats are
//! not decoded yet and are refused by name.

use serde_json::value::RawValue;

use crate::message::{Inbound, Protocol};
use crate::outcome::{Reason, Rejection};

/// The readings of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Envelope<'a> {
    Single(&'a [u8]),
    /// At least one item.
    Several(Vec<&'a [u8]>),
}

/// Finds the readings of a message, at most `items_max`. `batch` is what its address says.
pub fn open<'a>(inbound: &Inbound<'a>, batch: bool, items_max: usize) -> Result<Envelope<'a>, Rejection> {
    let items = match format(inbound.content_type)? {
        Format::NdJson => lines(inbound.body),
        Format::Json if batch || (inbound.protocol == Protocol::Http && is_array(inbound.body)) => {
            elements(inbound.body)?
        }
        Format::Json => return Ok(Envelope::Single(inbound.body)),
    };
    match items.len() {
        0 => Err(Rejection::new(Reason::Malformed, "the batch holds no reading")),
        count if count > items_max => {
            let detail = format!("{count} readings in one batch, at most {items_max} are taken");
            Err(Rejection::new(Reason::TooLarge, detail))
        }
        _ => Ok(Envelope::Several(items)),
    }
}

enum Format {
    Json,
    NdJson,
}

fn format(content_type: &str) -> Result<Format, Rejection> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
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
        let shown: String = essence.chars().take(64).flat_map(char::escape_default).collect();
        let detail = format!("content type {shown} is not decoded; send application/json or application/x-ndjson");
        Err(Rejection::new(Reason::UnsupportedFormat, detail))
    }
}

fn is_array(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

fn lines(body: &[u8]) -> Vec<&[u8]> {
    body.split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .collect()
}

fn elements(body: &[u8]) -> Result<Vec<&[u8]>, Rejection> {
    let items: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|error| Rejection::new(Reason::Malformed, format!("not a JSON array of readings: {error}")))?;
    Ok(items.into_iter().map(|item| item.get().as_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(protocol: Protocol, content_type: &str, body: &str, batch: bool) -> Result<Vec<String>, Reason> {
        let inbound = Inbound {
            protocol,
            path: "devices/a/weather",
            body: body.as_bytes(),
            content_type,
            must_keep: false,
        };
        let text = |item: &[u8]| String::from_utf8(item.to_vec()).unwrap();
        match open(&inbound, batch, 3) {
            Ok(Envelope::Single(item)) => Ok(vec![format!("single {}", text(item))]),
            Ok(Envelope::Several(items)) => Ok(items.into_iter().map(text).collect()),
            Err(rejection) => Err(rejection.reason),
        }
    }

    #[test]
    fn envelopes() {
        use Protocol::{Coap, Http, Mqtt};
        let check = |protocol, content_type: &str, body: &str, batch, expected: Result<&[&str], Reason>| {
            let expected = expected.map(|items| items.iter().map(|item| item.to_string()).collect::<Vec<_>>());
            assert_eq!(
                opened(protocol, content_type, body, batch),
                expected,
                "{protocol:?} {content_type} {body}"
            );
        };
        check(Mqtt, "", "{}", false, Ok(&["single {}"]));
        check(Mqtt, "", "[{}]", false, Ok(&["single [{}]"]));
        check(
            Mqtt,
            "",
            r#"[{"a":1}, {"a":2} ]"#,
            true,
            Ok(&[r#"{"a":1}"#, r#"{"a":2}"#]),
        );
        check(Http, "application/json", " [ {} ]", false, Ok(&["{}"]));
        check(Http, "Application/JSON; charset=utf-8", "{}", false, Ok(&["single {}"]));
        check(
            Coap,
            "application/x-ndjson",
            "{}\r\n\n [1]\n",
            false,
            Ok(&["{}", "[1]"]),
        );
        check(Http, "application/x-ndjson", "\n\n", false, Err(Reason::Malformed));
        check(Http, "application/json", "[]", false, Err(Reason::Malformed));
        check(Http, "application/json", "[{},", false, Err(Reason::Malformed));
        check(Http, "application/json", "{}", true, Err(Reason::Malformed));
        check(Http, "application/json", "[1,2,3,4]", false, Err(Reason::TooLarge));
        check(Coap, "application/cbor", "{}", false, Err(Reason::UnsupportedFormat));
    }
}
