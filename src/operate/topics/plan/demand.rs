//! What is to be planned for: how many devices, how often they send, of which kinds, and how safe and how long it is kept.
//!
//! Kinds are shares of the devices; each device sends readings of one kind.

use super::assumptions::{KINDS, KindSize, LogBytes};

/// A city's devices, and what is wanted of Kafka.
#[derive(Clone, Debug)]
pub struct Demand {
    pub devices: u64,
    /// Seconds between two readings of a device.
    pub interval_s: f64,
    pub kinds: Vec<KindShare>,
    pub replication: u64,
    /// Days that records are kept in Kafka.
    pub retention_days: f64,
    /// Share of the devices that keep a connection open.
    pub connected: f64,
    /// None: as many as are needed, and one more.
    pub gateways: Option<u64>,
}

/// A kind's devices, and the size of a reading.
#[derive(Clone, Debug, PartialEq)]
pub struct KindShare {
    pub kind: String,
    /// Of all devices; the shares add up to 1.
    pub share: f64,
    pub json_bytes: f64,
    pub avro_bytes: f64,
    pub log_bytes: LogBytes,
    pub row_bytes: f64,
}

/// `traffic=0.2,weather=0.1,energy=0.7`, with the bytes of a reading in Avro where they are not known: `parking=0.1:120`. Shares count
/// relative to their sum.
///
/// # Errors
/// What is wrong, in words.
pub fn kinds(text: &str) -> Result<Vec<KindShare>, String> {
    let mut kinds = text.split(',').map(kind).collect::<Result<Vec<_>, _>>()?;
    let all: f64 = kinds.iter().map(|kind| kind.share).sum();
    kinds.iter_mut().for_each(|kind| kind.share /= all);
    Ok(kinds)
}

fn kind(text: &str) -> Result<KindShare, String> {
    let wrong = || {
        format!(
            "{text:?} is no share of a kind; write traffic=0.2, or parking=0.1:120 with the bytes of a reading in Avro"
        )
    };
    let (kind, rest) = text.trim().split_once('=').ok_or_else(wrong)?;
    let (share, bytes) = rest
        .split_once(':')
        .map_or((rest, None), |(share, bytes)| (share, Some(bytes)));
    let positive = |text: &str| {
        text.parse::<f64>()
            .ok()
            .filter(|number| number.is_finite() && *number > 0.0)
    };
    let share = positive(share).ok_or_else(wrong)?;
    let known = KINDS.iter().find(|known| known.kind == kind).copied();
    let size = match (bytes, known) {
        (Some(bytes), known) => positive(bytes)
            .map(|bytes| scaled(known.unwrap_or(KINDS[0]), bytes))
            .ok_or_else(wrong)?,
        (None, Some(known)) => known,
        (None, None) => {
            let names = KINDS.map(|known| known.kind).join(", ");
            return Err(format!(
                "the size of a reading is known of {names}; write {kind}={share}:BYTES, with its bytes in Avro"
            ));
        }
    };
    Ok(KindShare {
        kind: kind.to_owned(),
        share,
        json_bytes: size.json_bytes,
        avro_bytes: size.avro_bytes,
        log_bytes: size.log_bytes,
        row_bytes: size.row_bytes,
    })
}

/// A reading of so many bytes in Avro, all else in proportion to one that is known.
fn scaled(known: KindSize, avro_bytes: f64) -> KindSize {
    let factor = avro_bytes / known.avro_bytes;
    KindSize {
        json_bytes: known.json_bytes * factor,
        avro_bytes,
        log_bytes: known.log_bytes.map(|(batch, bytes)| (batch, bytes * factor)),
        row_bytes: known.row_bytes * factor,
        ..known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_one_and_unknown_kinds_need_their_size() {
        let check = |text: &str, expected: Result<&[(&str, f64, f64)], &str>| {
            let found = kinds(text);
            let found = found.as_ref().map(|kinds| {
                let kinds = kinds
                    .iter()
                    .map(|kind| (kind.kind.as_str(), kind.share, kind.avro_bytes));
                kinds.collect::<Vec<_>>()
            });
            match expected {
                Ok(expected) => assert_eq!(found.as_deref(), Ok(expected), "{text}"),
                Err(words) => assert!(
                    found.clone().is_err_and(|error| error.contains(words)),
                    "{text}: {found:?}"
                ),
            }
        };
        let energy = KINDS[2].avro_bytes;
        check("energy=1", Ok(&[("energy", 1.0, energy)]));
        check(
            "energy=3, parking=1:120",
            Ok(&[("energy", 0.75, energy), ("parking", 0.25, 120.0)]),
        );
        check(
            "parking=1",
            Err("the size of a reading is known of traffic, weather, energy; write parking=1:BYTES"),
        );
        for wrong in [
            "",
            "energy",
            "energy=",
            "energy=0",
            "energy=-1",
            "energy=1:x",
            "energy=inf",
            "energy=1,",
        ] {
            check(wrong, Err("is no share of a kind"));
        }
    }
}
