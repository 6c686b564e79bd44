//! A record as bytes: what the spool keeps of it.
//!
//! ```text
//! version u8 = 1 | headers u8 | topic length u16 | key length u16 | timestamp i64 | topic | key
//! headers × (name length u16 | value length u32 | name | value) | value (to the end)
//! ```
//! Little endian. The spool checks the bytes (crc32c); this only lays them out, so that a gateway of a later version can
//! replay what an earlier one wrote.

use crate::message::Record;

const VERSION: u8 = 1;

/// Bytes before the topic.
const HEAD_BYTES: usize = 14;

/// A encoded that this version cannot open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Written by a later version.
    #[error("encoded of version {0}, this gateway reads version {VERSION}")]
    Version(u8),
    /// The lengths inside do not fit the encoded: a bug in whoever wrote it, since its checksum was right.
    #[error("encoded of {bytes} bytes is inconsistent")]
    Inconsistent { bytes: usize },
}

/// Appends a record to `encoded`. `None` if a part is longer than its length field; such a record is refused.
pub fn encode(record: &Record<'_>, encoded: &mut Vec<u8>) -> Option<()> {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| 6 + name.len() + value.len())
        .sum();
    encoded.reserve(HEAD_BYTES + record.topic.len() + record.key.len() + headers + record.value.len());
    encoded.push(VERSION);
    encoded.push(u8::try_from(record.headers.len()).ok()?);
    encoded.extend_from_slice(&u16::try_from(record.topic.len()).ok()?.to_le_bytes());
    encoded.extend_from_slice(&u16::try_from(record.key.len()).ok()?.to_le_bytes());
    encoded.extend_from_slice(&record.timestamp_ms.to_le_bytes());
    encoded.extend_from_slice(record.topic.as_bytes());
    encoded.extend_from_slice(record.key.as_bytes());
    for (name, value) in record.headers {
        encoded.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
        encoded.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
        encoded.extend_from_slice(name.as_bytes());
        encoded.extend_from_slice(value.as_bytes());
    }
    encoded.extend_from_slice(record.value);
    Some(())
}

/// Reads a record and passes it to `act`; its parts borrow from the bytes.
pub fn decode<T>(encoded: &[u8], act: impl FnOnce(&Record<'_>) -> T) -> Result<T, Error> {
    match encoded.first() {
        Some(&VERSION) => {}
        Some(&version) => return Err(Error::Version(version)),
        None => return Err(Error::Inconsistent { bytes: 0 }),
    }
    let mut rest = Rest(encoded);
    let opened = rest.record();
    let (topic, key, timestamp_ms, headers) = opened.ok_or(Error::Inconsistent { bytes: encoded.len() })?;
    Ok(act(&Record {
        topic,
        key,
        value: rest.0,
        timestamp_ms,
        headers: &headers,
    }))
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

type Parts<'a> = (&'a str, &'a str, i64, Vec<(&'a str, &'a str)>);

impl<'a> Rest<'a> {
    fn record(&mut self) -> Option<Parts<'a>> {
        let [_, headers] = *self.array::<2>()?;
        let topic_bytes = u16::from_le_bytes(*self.array()?);
        let key_bytes = u16::from_le_bytes(*self.array()?);
        let timestamp_ms = i64::from_le_bytes(*self.array()?);
        let topic = self.text(topic_bytes.into())?;
        let key = self.text(key_bytes.into())?;
        let headers = (0..headers).map(|_| self.header()).collect::<Option<_>>()?;
        Some((topic, key, timestamp_ms, headers))
    }

    fn header(&mut self) -> Option<(&'a str, &'a str)> {
        let name_bytes = u16::from_le_bytes(*self.array()?);
        let value_bytes = u32::from_le_bytes(*self.array()?);
        Some((
            self.text(name_bytes.into())?,
            self.text(usize::try_from(value_bytes).ok()?)?,
        ))
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn text(&mut self, bytes: usize) -> Option<&'a str> {
        let (text, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded_bytes(record: &Record<'_>) -> Vec<u8> {
        let mut encoded = Vec::new();
        encode(record, &mut encoded).unwrap();
        encoded
    }

    fn sample<'a>(headers: &'a [(&'a str, &'a str)]) -> Record<'a> {
        Record {
            topic: "city.weather",
            key: "roof-2",
            value: b"\xC3\x01value",
            timestamp_ms: -5,
            headers,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for headers in [&[][..], &[("reason", "malformed"), ("detail", "")][..]] {
            let encoded = encoded_bytes(&sample(headers));
            decode(&encoded, |record| {
                let is = (
                    record.topic,
                    record.key,
                    record.value,
                    record.timestamp_ms,
                    record.headers,
                );
                assert_eq!(is, ("city.weather", "roof-2", &b"\xC3\x01value"[..], -5, headers));
            })
            .unwrap();
        }
    }

    #[test]
    fn a_parcel_that_cannot_be_opened_is_named() {
        let good = encoded_bytes(&sample(&[("reason", "malformed")]));
        let mut later = good.clone();
        later[0] = 2;
        let check = |encoded: &[u8], expected: Error| assert_eq!(decode(encoded, |_| ()), Err(expected));
        check(&later, Error::Version(2));
        check(&[], Error::Inconsistent { bytes: 0 });
        let without_value = good.len() - 7;
        for cut in 1..without_value {
            check(&good[..cut], Error::Inconsistent { bytes: cut });
        }
    }
}
