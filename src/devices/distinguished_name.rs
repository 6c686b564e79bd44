//! Distinguished names as text (RFC 4514), in one spelling: `CN=loop-7,OU=North,O=City`, the most specific part first.
//!
//! What a file says and what a certificate says are both brought into it, and compared as text: values as they are, in upper and
//! lower case. Attributes have the names that OpenSSL prints as well; one without such a name is written by its number, with its value in hexadecimal (`2.5.4.97=#0c…`).

use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Attributes that have a name.
const ATTRIBUTES: [(&str, &str); 16] = [
    ("CN", "2.5.4.3"),
    ("SN", "2.5.4.4"),
    ("serialNumber", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("title", "2.5.4.12"),
    ("name", "2.5.4.41"),
    ("GN", "2.5.4.42"),
    ("dnQualifier", "2.5.4.46"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("DC", "0.9.2342.19200300.100.1.25"),
];

/// What has a meaning of its own in such a text.
const SPECIAL: &[char] = &[',', '+', '"', '\\', '<', '>', ';'];

/// The name in a certificate.
pub fn of(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|part| joined(part.iter().map(attribute).collect()));
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    let known = ATTRIBUTES.iter().find(|(_, known)| *known == number);
    match (known, attribute.as_str()) {
        (Some((name, _)), Ok(value)) => format!("{name}={}", escaped(value)),
        (known, _) => {
            let name = known.map_or(&*number, |(name, _)| name);
            // As it is encoded, with its kind and length.
            let value = attribute.attr_value();
            let bytes = asn1(value.tag().0, value.data);
            format!("{name}=#{bytes}")
        }
    }
}

/// A primitive value of up to 64 KiB in hexadecimal: its tag, its length, itself.
fn asn1(tag: u32, data: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let length = match data.len() {
        short @ ..128 => vec![short as u8],
        medium @ 128..256 => vec![0x81, medium as u8],
        long => vec![0x82, (long >> 8) as u8, long as u8],
    };
    format!("{:02x}{}{}", tag as u8, hex(&length), hex(data))
}

/// Attributes of one part have no order.
fn joined(mut attributes: Vec<String>) -> String {
    attributes.sort();
    attributes.join("+")
}

fn escaped(value: &str) -> String {
    let mut text = String::new();
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        let is_special =
            SPECIAL.contains(&letter) || (letter == '#' && at == 0) || (letter == ' ' && (at == 0 || at == last));
        if letter.is_ascii_control() {
            text.push_str(&format!("\\{:02x}", u32::from(letter)));
        } else {
            if is_special {
                text.push('\\');
            }
            text.push(letter);
        }
    }
    text
}

/// The name in a text, in the spelling of this module. `None`: it is none.
pub fn spelled(text: &str) -> Option<String> {
    let parts = split(text, ',').into_iter().map(|part| {
        let attributes = split(part, '+').into_iter().map(spelled_attribute);
        Some(joined(attributes.collect::<Option<_>>()?))
    });
    Some(parts.collect::<Option<Vec<_>>>()?.join(","))
}

/// At this letter, where it is not escaped.
fn split(text: &str, at: char) -> Vec<&str> {
    let mut is_escaped = false;
    text.split(|letter| {
        let is_end = letter == at && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        is_end
    })
    .collect()
}

fn spelled_attribute(text: &str) -> Option<String> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), trimmed(value));
    let is_it = |(known, number): &&(&str, &str)| known.eq_ignore_ascii_case(name) || *number == name;
    let known = ATTRIBUTES.iter().find(is_it).map(|(known, _)| *known);
    if let Some(digits) = value.strip_prefix('#') {
        let is_number = name.contains('.') && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let is_hex = digits.len() >= 4 && digits.len() % 2 == 0 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = known.or(is_number.then_some(name))?;
        return is_hex.then(|| format!("{name}=#{}", digits.to_ascii_lowercase()));
    }
    let value = unescaped(value).filter(|value| !value.is_empty())?;
    Some(format!("{}={}", known?, escaped(&value)))
}

/// Without spaces around it, unless the last is escaped.
fn trimmed(value: &str) -> &str {
    let value = value.trim_start_matches(' ');
    let end = value.trim_end_matches(' ');
    let backslashes = end.bytes().rev().take_while(|byte| *byte == b'\\').count();
    match value.get(..end.len() + backslashes % 2) {
        Some(with_escaped) => with_escaped,
        None => end,
    }
}

fn unescaped(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        let pair = rest.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let is_hex = |pair: &&str| pair.bytes().all(|digit| digit.is_ascii_hexdigit());
        let pair = pair.filter(is_hex);
        if let Some(byte) = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            bytes.push(byte);
            rest = &rest[2..];
        } else {
            let (&letter, behind) = rest.split_first()?;
            bytes.push(letter);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_spelling() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(spelled(text).as_deref(), expected, "{text}");
        check("CN=loop-7", Some("CN=loop-7"));
        check("cn = loop-7 , O= City", Some("CN=loop-7,O=City"));
        check("CN=Loop 7,o=City\\, North", Some("CN=Loop 7,O=City\\, North"));
        check("CN=a\\2Cb", Some("CN=a\\,b"));
        check("CN=\\ a\\ ", Some("CN=\\ a\\ "));
        check("CN=a\\\\ ", Some("CN=a\\\\"));
        check("CN=\\#a", Some("CN=\\#a"));
        check("CN=a#b", Some("CN=a#b"));
        check("CN=L\\C3\\A4den", Some("CN=Läden"));
        check("CN=Läden", Some("CN=Läden"));
        check("OU=b+CN=a,C=DE", Some("CN=a+OU=b,C=DE"));
        check("2.5.4.3=a", Some("CN=a"));
        check("2.5.4.97=#0C0141", Some("2.5.4.97=#0c0141"));
        check("CN=#0c0141", Some("CN=#0c0141"));
        check("emailaddress=a@b", Some("emailAddress=a@b"));
        for bad in [
            "",
            "loop-7",
            "CN=",
            "CN=a,",
            "CN=a,,O=b",
            "XX=a",
            "2.5.4.97=a",
            "CN=a\\",
            "CN=#0c0",
            "CN=#zz00",
        ] {
            check(bad, None);
        }
    }

    /// Any text is spelled or refused, without a panic; and what is spelled is spelled the same.
    #[test]
    fn any_text_is_spelled_or_refused() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("TEST_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let letters: Vec<char> = "CNO=,+\\# \"aé27".chars().collect();
        let mut good = 0;
        for _ in 0..100_000 {
            let rest = (0..random.random_range(1..12)).map(|_| letters[random.random_range(0..letters.len())]);
            let text: String = "CN=a".chars().chain(rest).collect();
            if let Some(name) = spelled(&text) {
                assert_eq!(spelled(&name), Some(name.clone()), "{text}");
                good += 1;
            }
        }
        assert!(good > 1000, "{good}");
    }
}
