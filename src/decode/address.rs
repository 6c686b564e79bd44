//! Topic or path → device and kind, the same in every protocol: `devices/<device>/<kind>[/batch]`.
//!
//! A device id and a kind are short and plain, so that they can be a key, a label and part of a topic's name as they are. What
//! is no address is said in words for the device; whether the kind exists is for the catalogue.

use crate::message::{Address, is_device_id};
use crate::outcome::{Reason, Rejection, quoted};

/// Reads an address; the kind is not looked up here.
pub fn parse(path: &str) -> Result<Address<'_>, Rejection> {
    let mut parts = path.split('/');
    let (Some("devices"), Some(device), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(bad(path, "expected devices/<device>/<kind>"));
    };
    let batch = match (parts.next(), parts.next()) {
        (None, _) => false,
        (Some("batch"), None) => true,
        _ => {
            return Err(bad(
                path,
                "expected devices/<device>/<kind> or devices/<device>/<kind>/batch",
            ));
        }
    };
    if !is_device_id(device) {
        let expected = "the device id must be 1-128 of A-Z a-z 0-9 . _ : - and start with a letter or digit";
        return Err(bad(path, expected));
    }
    if kind.is_empty() {
        return Err(bad(path, "the kind is empty"));
    }
    Ok(Address { device, kind, batch })
}

fn bad(path: &str, why: &str) -> Rejection {
    // Bounded and printable: a path is the sender's text, and ends up in answers, headers and logs.
    let shown = quoted(path);
    Rejection::new(Reason::BadAddress, format!("{shown}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::DEVICE_BYTES_MAX;

    #[test]
    fn addresses() {
        let check = |path: &str, expected: Option<(&str, &str, bool)>| {
            let parsed = parse(path)
                .ok()
                .map(|address| (address.device, address.kind, address.batch));
            assert_eq!(parsed, expected, "{path}");
        };
        check("devices/loop-0417/traffic", Some(("loop-0417", "traffic", false)));
        check("devices/A.b_c:d-9/weather/batch", Some(("A.b_c:d-9", "weather", true)));
        check("devices/9/unheard-of", Some(("9", "unheard-of", false)));
        let longest = "d".repeat(DEVICE_BYTES_MAX);
        check(&format!("devices/{longest}/energy"), Some((&longest, "energy", false)));
        for bad in [
            "",
            "devices",
            "devices/a",
            "devices//traffic",
            "devices/a/",
            "devices/a/traffic/",
            "devices/a/traffic/batch/",
            "devices/a/traffic/more",
            "/devices/a/traffic",
            "Devices/a/traffic",
            "devices/-a/traffic",
            "devices/a b/traffic",
            "devices/ä/traffic",
            "devices/a\u{0}/traffic",
        ] {
            check(bad, None);
        }
        check(&format!("devices/{longest}d/energy"), None);
    }

    #[test]
    fn a_bad_address_is_quoted_bounded_and_printable() {
        let rejection = parse(&format!("x\n{}", "y".repeat(500))).unwrap_err();
        assert!(rejection.detail.len() < 200, "{}", rejection.detail);
        assert!(rejection.detail.starts_with(r"x\n"), "{}", rejection.detail);
    }
}
