//! What a fault makes of a reading's bytes.
//!
//! Edits are made in the text, as `printf` in a firmware makes them: whatever is not touched stays as it was, in its order.
//! Each says which answer it deserves by the gateway's documented rules (`validate`: what is accepted).

use super::super::rounded;
use super::fields::{Field, Range};
use super::text::{number, replaced, swapped, token, value};
use super::{ActiveFault, Device, Fault, Reason};

/// A reading after a fault.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Altered {
    pub(super) payload: Vec<u8>,
    /// Why it must be rejected, its clock aside.
    pub(super) reason: Option<Reason>,
    /// What it says about its time.
    pub(super) observed_ms: i64,
}

/// Where the count of weeks of the first GPS receivers begins anew.
const GPS_ERA_MS: i64 = 1024 * 7 * 86_400_000;

/// 2036-02-07 06:28:16, when the seconds of NTP's first era end.
const NTP_ERA_ENDS_MS: i64 = 2_085_978_496_000;

const YEAR_2000_MS: i64 = 946_684_800_000;

/// Off by: time zones and summer time, dropped or doubled; crystals; a date that was never right.
const SKEWS_MS: [i64; 9] = [
    3_600_000,
    7_200_000,
    -3_600_000,
    -18_000_000,
    90_000,
    -90_000,
    86_400_000,
    -86_400_000,
    -40 * 86_400_000,
];

/// What firmware gets wrong about JSON, or about the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::devices) enum FirmwareBug {
    NotANumber,
    DecimalComma,
    LeadingZero,
    TrailingComma,
    SingleQuotes,
    BadUtf8,
    ByteOrderMark,
    NulAtTheEnd,
    TwoInOne,
    ModemNoise,
    NumberAsText,
    FractionForInteger,
    UnknownField,
    FieldTwice,
    ReceiptClaimed,
    OtherDevice,
    ShoutedSymbol,
    NoFix,
}

// === impl FirmwareBug ===

impl FirmwareBug {
    pub(in crate::devices) const ALL: [FirmwareBug; 18] = [
        FirmwareBug::NotANumber,
        FirmwareBug::DecimalComma,
        FirmwareBug::LeadingZero,
        FirmwareBug::TrailingComma,
        FirmwareBug::SingleQuotes,
        FirmwareBug::BadUtf8,
        FirmwareBug::ByteOrderMark,
        FirmwareBug::NulAtTheEnd,
        FirmwareBug::TwoInOne,
        FirmwareBug::ModemNoise,
        FirmwareBug::NumberAsText,
        FirmwareBug::FractionForInteger,
        FirmwareBug::UnknownField,
        FirmwareBug::FieldTwice,
        FirmwareBug::ReceiptClaimed,
        FirmwareBug::OtherDevice,
        FirmwareBug::ShoutedSymbol,
        FirmwareBug::NoFix,
    ];

    pub(super) fn reason(self) -> Reason {
        match self {
            FirmwareBug::NotANumber
            | FirmwareBug::DecimalComma
            | FirmwareBug::LeadingZero
            | FirmwareBug::TrailingComma
            | FirmwareBug::SingleQuotes
            | FirmwareBug::BadUtf8
            | FirmwareBug::ByteOrderMark
            | FirmwareBug::NulAtTheEnd
            | FirmwareBug::TwoInOne
            | FirmwareBug::ModemNoise => Reason::Malformed,
            FirmwareBug::NumberAsText
            | FirmwareBug::FractionForInteger
            | FirmwareBug::UnknownField
            | FirmwareBug::FieldTwice
            | FirmwareBug::ReceiptClaimed
            | FirmwareBug::OtherDevice
            | FirmwareBug::ShoutedSymbol => Reason::SchemaMismatch,
            FirmwareBug::NoFix => Reason::OutOfRange,
        }
    }

    /// The reading as this firmware sends it; None where there is nothing to get wrong.
    pub(super) fn apply(self, reading: &[u8], field: &Field) -> Option<Vec<u8>> {
        let number = |change: &dyn Fn(&str) -> String| {
            let bytes = number(reading, field)?;
            let digits = std::str::from_utf8(reading.get(bytes.clone())?).ok()?;
            Some(replaced(reading, bytes, change(digits).as_bytes()))
        };
        let at_the_end = |more: &str| {
            let (_, start) = reading.split_last()?;
            Some([start, more.as_bytes()].concat())
        };
        match self {
            FirmwareBug::NotANumber => number(&|_| "NaN".to_owned()),
            FirmwareBug::DecimalComma => number(&|digits| match digits.split_once('.') {
                Some((whole, fraction)) => format!("{whole},{fraction}"),
                None => format!("{digits},0"),
            }),
            FirmwareBug::LeadingZero => number(&|digits| match digits.strip_prefix('-') {
                Some(digits) => format!("-00{digits}"),
                None => format!("00{digits}"),
            }),
            FirmwareBug::NumberAsText => number(&|digits| format!("\"{digits}\"")),
            FirmwareBug::TrailingComma => at_the_end(",}"),
            FirmwareBug::UnknownField => at_the_end(r#","fw":"2.1.7-rc3"}"#),
            FirmwareBug::FieldTwice => at_the_end(r#","sequence":0}"#),
            FirmwareBug::ReceiptClaimed => at_the_end(r#","received_at":1795262400000}"#),
            FirmwareBug::OtherDevice => at_the_end(r#","device":"factory-default"}"#),
            FirmwareBug::NulAtTheEnd => at_the_end("}\0"),
            FirmwareBug::SingleQuotes => Some(swapped(reading, b'"', b'\'')),
            FirmwareBug::TwoInOne => Some([reading, reading].concat()),
            FirmwareBug::ModemNoise => Some([b"+CME ERROR: 30\r\n", reading].concat()),
            // That of UTF-16, before UTF-8.
            FirmwareBug::ByteOrderMark => Some([b"\xff\xfe", reading].concat()),
            FirmwareBug::FractionForInteger => {
                let end = token(reading, "", "sequence")?.end;
                Some(replaced(reading, end..end, b".5"))
            }
            FirmwareBug::BadUtf8 => {
                let start = token(reading, "", "status")?.start + 1;
                Some(replaced(reading, start..start, b"\xb0"))
            }
            FirmwareBug::ShoutedSymbol => Some(replaced(reading, token(reading, "", "status")?, br#""OK""#)),
            // Of a receiver that sees no satellites. A place without a latitude is none, so nothing can be null instead.
            FirmwareBug::NoFix => Some(replaced(reading, token(reading, "", "latitude")?, b"999.0")),
        }
    }
}

/// The reading of a device under an active fault; None where the fault finds nothing to change.
pub(super) fn altered(device: &Device, reading: &[u8], observed_ms: i64, active: &ActiveFault) -> Option<Altered> {
    let faultable = device.kind().faultable();
    let unchanged = |payload: Vec<u8>| Altered {
        payload,
        reason: None,
        observed_ms,
    };
    match active.fault {
        Fault::Stuck => stuck(reading, active.frozen.as_deref()?, faultable.header_end).map(unchanged),
        Fault::Truncated => {
            // At least one byte is sent, and at least one is missing: an object without its end is no JSON.
            let length = 1 + active.random % (reading.len() as u64).saturating_sub(1).max(1);
            let payload = reading.get(..length as usize)?.to_vec();
            Some(Altered {
                reason: Some(Reason::Malformed),
                ..unchanged(payload)
            })
        }
        Fault::Malformed => {
            let bug = faultable
                .bugs
                .get(active.random as usize % faultable.bugs.len().max(1))?;
            let (field, _) = chosen(faultable.fields, reading, active)?;
            Some(Altered {
                reason: Some(bug.reason()),
                ..unchanged(bug.apply(reading, field)?)
            })
        }
        Fault::DeadClock | Fault::ClockSkew => {
            let said_ms = said(observed_ms, active);
            let (name, time) = device.clock(said_ms)?;
            let bytes = token(reading, "", name)?;
            Some(Altered {
                payload: replaced(reading, bytes, time.as_bytes()),
                reason: None,
                observed_ms: said_ms,
            })
        }
        Fault::Spike | Fault::Drift | Fault::Sentinel | Fault::UnitMixUp => {
            let (field, value) = chosen(faultable.fields, reading, active)?;
            let (payload, reason) = revalued(reading, field, value_under(field, value, observed_ms, active))?;
            Some(Altered {
                reason,
                ..unchanged(payload)
            })
        }
        Fault::Duplicate | Fault::LateBurst | Fault::Resend => None,
    }
}

/// The header of now with the values of then.
fn stuck(reading: &[u8], frozen: &[u8], header_end: &str) -> Option<Vec<u8>> {
    if header_end.is_empty() {
        return Some(frozen.to_vec());
    }
    let now = token(reading, "", header_end)?.end;
    let then = token(frozen, "", header_end)?.end;
    Some([reading.get(..now)?, frozen.get(then..)?].concat())
}

/// What a clock that is dead or off says.
fn said(observed_ms: i64, active: &ActiveFault) -> i64 {
    let uptime_ms = observed_ms.saturating_sub(active.from_ms);
    if active.fault == Fault::ClockSkew {
        let skew = SKEWS_MS.get(active.random as usize % SKEWS_MS.len());
        return observed_ms.saturating_add(skew.copied().unwrap_or_default());
    }
    match active.random % 5 {
        0 => uptime_ms,
        1 => YEAR_2000_MS + uptime_ms,
        // Seconds for milliseconds.
        2 => observed_ms / 1000,
        3 => observed_ms - GPS_ERA_MS,
        _ => NTP_ERA_ENDS_MS + uptime_ms,
    }
}

/// The field that an active fault chose, or the next one that has a value, and that value.
fn chosen<'f>(fields: &'f [Field], reading: &[u8], active: &ActiveFault) -> Option<(&'f Field, f64)> {
    let first = (active.random >> 8) as usize % fields.len().max(1);
    let rotated = fields.iter().cycle().skip(first).take(fields.len());
    let mut found = rotated.filter_map(|field| Some((field, value(reading, field)?)));
    found.next()
}

fn value_under(field: &Field, value: f64, observed_ms: i64, active: &ActiveFault) -> f64 {
    let pick = |values: &[f64]| {
        values
            .get((active.random >> 16) as usize % values.len().max(1))
            .copied()
    };
    let sign = if active.random & 0x10 == 0 { 1.0 } else { -1.0 };
    let jumped = match active.fault {
        Fault::Spike if active.random & 0x20 == 0 => field.wild,
        Fault::Spike => value + sign * field.jump,
        Fault::Drift => {
            let lasts_ms = active.until_ms.saturating_sub(active.from_ms).max(1) as f64;
            let progress = observed_ms.saturating_sub(active.from_ms) as f64 / lasts_ms;
            value + sign * field.jump * progress.clamp(0.0, 1.0)
        }
        Fault::Sentinel => return pick(field.said).unwrap_or(value),
        Fault::UnitMixUp => {
            let unit = field
                .units
                .get((active.random >> 16) as usize % field.units.len().max(1));
            let (factor, offset) = unit.copied().unwrap_or((1.0, 0.0));
            value * factor + offset
        }
        _ => value,
    };
    if field.whole {
        // As far as 32 bits: what is beyond the type is another mistake.
        return rounded(jumped, 0).clamp(i32::MIN.into(), i32::MAX.into());
    }
    rounded(jumped, 3)
}

/// The reading with another value in a field, and whether that is a reason to reject it.
fn revalued(reading: &[u8], field: &Field, value: f64) -> Option<(Vec<u8>, Option<Reason>)> {
    let reason = match field.judge(value) {
        Range::Inside | Range::Sentinel | Range::Nulled => None,
        Range::Outside => Some(Reason::OutOfRange),
    };
    let bytes = number(reading, field)?;
    Some((replaced(reading, bytes, value.to_string().as_bytes()), reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Kind;

    const WEATHER: &str = r#"{"observed_at":1781654400000,"sequence":7,"location":{"latitude":51.5,"longitude":7.5},"status":"ok","temperature_c":-2.5,"rain_mm":0.0}"#;
    const TRAFFIC: &str = r#"{"observed_at":1781654400000,"sequence":7,"status":"ok","flow_veh_h":120.0,"speed_kmh":null,"lanes":[{"lane":1,"flow_veh_h":60.0,"speed_kmh":50.5}]}"#;

    fn active(fault: Fault, random: u64) -> ActiveFault {
        ActiveFault {
            fault,
            from_ms: 1_781_654_400_000 - 60_000,
            until_ms: 1_781_654_400_000 + 60_000,
            random,
            frozen: None,
        }
    }

    #[test]
    fn slips_are_made_in_the_text() {
        use Reason::{Malformed, OutOfRange, SchemaMismatch};
        let temperature = Kind::WEATHER.faultable().fields[0];
        let check = |bug: FirmwareBug, part: &[u8], reason: Reason| {
            let sent = bug.apply(WEATHER.as_bytes(), &temperature).unwrap();
            let shown = String::from_utf8_lossy(&sent);
            assert!(
                sent.windows(part.len()).any(|window| window == part),
                "{bug:?}: {shown}"
            );
            assert_eq!(bug.reason(), reason, "{bug:?}");
        };
        check(FirmwareBug::NotANumber, br#""temperature_c":NaN,"#, Malformed);
        check(FirmwareBug::DecimalComma, br#""temperature_c":-2,5,"#, Malformed);
        check(FirmwareBug::LeadingZero, br#""temperature_c":-002.5,"#, Malformed);
        check(FirmwareBug::TrailingComma, br#"0.0,}"#, Malformed);
        check(FirmwareBug::SingleQuotes, b"'status':'ok'", Malformed);
        check(FirmwareBug::BadUtf8, b"\"\xb0ok\"", Malformed);
        check(FirmwareBug::ByteOrderMark, b"\xff\xfe{", Malformed);
        check(FirmwareBug::NulAtTheEnd, b"}\0", Malformed);
        check(FirmwareBug::TwoInOne, b"}{", Malformed);
        check(FirmwareBug::ModemNoise, b"30\r\n{", Malformed);
        check(FirmwareBug::NumberAsText, br#":"-2.5","#, SchemaMismatch);
        check(FirmwareBug::FractionForInteger, br#""sequence":7.5,"#, SchemaMismatch);
        check(FirmwareBug::UnknownField, br#"0.0,"fw":"#, SchemaMismatch);
        check(FirmwareBug::FieldTwice, br#"0.0,"sequence":0}"#, SchemaMismatch);
        check(FirmwareBug::ReceiptClaimed, br#","received_at":1"#, SchemaMismatch);
        check(
            FirmwareBug::OtherDevice,
            br#","device":"factory-default"}"#,
            SchemaMismatch,
        );
        check(FirmwareBug::ShoutedSymbol, br#""status":"OK","#, SchemaMismatch);
        check(FirmwareBug::NoFix, br#"{"latitude":999.0,"#, OutOfRange);
    }

    #[test]
    fn values_change_as_their_fault_says() {
        let temperature = 0;
        let check = |fault: Fault, random: u64, expected: &str| {
            let random = random | temperature << 8;
            let altered = altered(
                &Device::new(Kind::WEATHER, 1, 1),
                WEATHER.as_bytes(),
                1_781_654_400_000,
                &active(fault, random),
            )
            .unwrap();
            let text = String::from_utf8(altered.payload).unwrap();
            let part = format!("\"temperature_c\":{expected},");
            assert!(text.contains(&part), "{fault} {random:#x}: {text}, not {part}");
            assert_eq!(altered.reason, None, "{fault} {random:#x}");
        };
        // The 6th bit: wild or plausible; the 5th: up or down. From the 17th bit on: which of the values.
        // What a counter of 16 bits says when it ran over is read as no value.
        check(Fault::Spike, 0x00, "3276.7");
        check(Fault::Spike, 0x20, "12.5");
        check(Fault::Spike, 0x30, "-17.5");
        check(Fault::Drift, 0x00, "5");
        check(Fault::Drift, 0x10, "-10");
        // Of the last choice, six fields further: the same again.
        check(Fault::Sentinel, 6 << 8, "-9999.9");
        check(Fault::Sentinel, 0x1_0000 * 6, "-999.9");
        check(Fault::UnitMixUp, 0, "27.5");
        // Out of range, and therefore stored as null.
        check(Fault::UnitMixUp, 0x3_0000, "270.65");
    }

    #[test]
    fn a_null_is_passed_over_for_the_next_value() {
        // Speed is null, occupancy not there at all: flow is next.
        let altered = altered(
            &Device::new(Kind::TRAFFIC, 1, 1),
            TRAFFIC.as_bytes(),
            0,
            &active(Fault::Sentinel, 0),
        )
        .unwrap();
        let text = String::from_utf8(altered.payload).unwrap();
        assert!(
            text.contains(r#""ok","flow_veh_h":15300,"speed_kmh":null,"lanes":[{"lane":1,"flow_veh_h":60.0,"#),
            "{text}"
        );
        let of_a_lane = active(Fault::Sentinel, 3 << 8);
        let altered = super::altered(&Device::new(Kind::TRAFFIC, 1, 1), TRAFFIC.as_bytes(), 0, &of_a_lane).unwrap();
        let text = String::from_utf8(altered.payload).unwrap();
        assert!(text.contains(r#""lanes":[{"lane":1,"flow_veh_h":15300,"#), "{text}");
        let nothing_measured = br#"{"observed_at":1,"sequence":7,"status":"ok"}"#;
        assert_eq!(
            super::altered(
                &Device::new(Kind::ENERGY, 1, 1),
                nothing_measured,
                0,
                &active(Fault::Drift, 0)
            ),
            None
        );
    }

    #[test]
    fn clocks_say_what_dead_clocks_say() {
        let check = |fault: Fault, random: u64, expected: i64| {
            let altered = altered(
                &Device::new(Kind::WEATHER, 1, 1),
                WEATHER.as_bytes(),
                1_781_654_400_000,
                &active(fault, random),
            )
            .unwrap();
            let text = String::from_utf8(altered.payload).unwrap();
            assert!(
                text.starts_with(&format!("{{\"observed_at\":{expected},\"sequence\":7,")),
                "{text}"
            );
            assert_eq!((altered.observed_ms, altered.reason), (expected, None));
        };
        check(Fault::DeadClock, 0, 60_000);
        check(Fault::DeadClock, 1, 946_684_860_000);
        check(Fault::DeadClock, 2, 1_781_654_400);
        check(Fault::DeadClock, 3, 1_162_339_200_000);
        check(Fault::DeadClock, 4, 2_085_978_556_000);
        check(Fault::ClockSkew, 0, 1_781_658_000_000);
        check(Fault::ClockSkew, 8, 1_778_198_400_000);
    }

    #[test]
    fn stuck_values_travel_under_a_new_header() {
        let mut active = active(Fault::Stuck, 0);
        active.frozen = Some(
            br#"{"observed_at":1,"sequence":6,"status":"ok","temperature_c":9.9}"#
                .as_slice()
                .into(),
        );
        let altered = altered(&Device::new(Kind::WEATHER, 1, 1), WEATHER.as_bytes(), 5, &active).unwrap();
        let text = String::from_utf8(altered.payload).unwrap();
        assert_eq!(
            text,
            r#"{"observed_at":1781654400000,"sequence":7,"location":{"latitude":51.5,"longitude":7.5},"status":"ok","temperature_c":9.9}"#
        );
    }

    #[test]
    fn what_is_cut_is_never_whole_and_never_nothing() {
        for random in 0..500 {
            let altered = altered(
                &Device::new(Kind::WEATHER, 1, 1),
                WEATHER.as_bytes(),
                5,
                &active(Fault::Truncated, random),
            )
            .unwrap();
            assert!((1..WEATHER.len()).contains(&altered.payload.len()));
            assert!(serde_json::from_slice::<serde_json::Value>(&altered.payload).is_err());
        }
    }
}
