//! One table: what each [`Outcome`] is called in each protocol.
//!
//! Pure; the listeners frame and send what is named here. Sources: MQTT 5.0 §2.4 (reason codes), RFC 7252 §5.9 and
//! RFC 8132 §2.3 (CoAP codes), RFC 9110 §15 (HTTP status). MQTT 3.1.1 has no negative acknowledgement: a rejected
//! reading is acknowledged once it is safe in the dead-letter topic (else the device would resend it for ever), a busy
//! one is not acknowledged at all.

use crate::outcome::{Busy, Outcome, Reason, Rejection};

/// MQTT 5 reason codes that answer a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MqttReason {
    Success = 0x00,
    NotAuthorized = 0x87,
    TopicNameInvalid = 0x90,
    QuotaExceeded = 0x97,
    PayloadFormatInvalid = 0x99,
}

/// How an MQTT 5 publish is answered.
pub fn mqtt(outcome: &Outcome) -> MqttReason {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => MqttReason::Success,
        Outcome::Busy(_) => MqttReason::QuotaExceeded,
        Outcome::Rejected(rejection) => match rejection.reason {
            Reason::Malformed
            | Reason::SchemaMismatch
            | Reason::OutOfRange
            | Reason::BadClock
            | Reason::UnsupportedFormat
            // 0x95 would answer it, but by DISCONNECT only (§3.14.2.1); 0x97 would have it sent again.
            | Reason::TooLarge
            | Reason::TooLargeForKafka
            | Reason::TooSlow
            | Reason::CutOff => MqttReason::PayloadFormatInvalid,
            Reason::UnknownKind | Reason::BadAddress => MqttReason::TopicNameInvalid,
            Reason::Unauthenticated | Reason::Forbidden => MqttReason::NotAuthorized,
        },
    }
}

/// Whether an MQTT 3.1.1 publish is acknowledged.
pub fn mqtt_v3_acknowledges(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => true,
        // These are kept nowhere.
        Outcome::Rejected(rejection) => {
            !rejection.is_unkept && !matches!(rejection.reason, Reason::TooLargeForKafka | Reason::Unauthenticated)
        }
        Outcome::Busy(_) => false,
    }
}

/// A CoAP response code as class and detail: `(4, 22)` is 4.22.
pub fn coap(outcome: &Outcome) -> (u8, u8) {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => (2, 4),
        // RFC 8516.
        Outcome::Busy(Busy::OverRate(_)) => (4, 29),
        Outcome::Busy(_) => (5, 3),
        Outcome::Rejected(rejection) => match rejection.reason {
            Reason::Malformed => (4, 0),
            Reason::SchemaMismatch | Reason::OutOfRange | Reason::BadClock => (4, 22),
            Reason::UnknownKind | Reason::BadAddress => (4, 4),
            Reason::UnsupportedFormat => (4, 15),
            Reason::Unauthenticated => (4, 1),
            Reason::Forbidden => (4, 3),
            Reason::TooLarge | Reason::TooLargeForKafka => (4, 13),
            Reason::TooSlow | Reason::CutOff => (4, 8),
        },
    }
}

/// The HTTP status of a single reading.
pub fn http(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => 204,
        // RFC 6585 §4.
        Outcome::Busy(Busy::OverRate(_)) => 429,
        Outcome::Busy(_) => 503,
        Outcome::Rejected(rejection) => match rejection.reason {
            Reason::Malformed => 400,
            Reason::SchemaMismatch | Reason::OutOfRange | Reason::BadClock => 422,
            Reason::UnknownKind | Reason::BadAddress => 404,
            Reason::UnsupportedFormat => 415,
            Reason::Unauthenticated => 401,
            Reason::Forbidden => 403,
            Reason::TooLarge | Reason::TooLargeForKafka => 413,
            Reason::TooSlow | Reason::CutOff => 408,
        },
    }
}

/// What a person or device is told beside the code; `None` for a positive answer.
pub fn text(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => None,
        Outcome::Rejected(rejection) => Some(&rejection.detail),
        Outcome::Busy(busy) => Some(busy.text()),
    }
}

/// Seconds after which a device that was told *busy* should try again (`Max-Age`, `Retry-After`).
pub const RETRY_AFTER_SECONDS: u32 = 2;

/// The same for this reason. Who has sent more than its rate allows is told when it may send again, and some seconds more, which
/// differ from sender to sender: those who were refused together do not come back together.
pub fn retry_after_seconds(busy: Busy) -> u32 {
    let Busy::OverRate(wait) = busy else {
        return RETRY_AFTER_SECONDS;
    };
    let earliest = wait.as_secs().clamp(4, 3600) as u32 + 1;
    // To the nanosecond it is another time for each.
    earliest + wait.subsec_nanos() % 11
}

/// The outcomes of a batch in numbers; the sum is the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub accepted: usize,
    pub rejected: usize,
    pub busy: usize,
}

impl Counts {
    pub fn of(outcomes: &[Outcome]) -> Self {
        let mut counts = Counts::default();
        for outcome in outcomes {
            *match outcome {
                Outcome::Delivered | Outcome::Spooled => &mut counts.accepted,
                Outcome::Rejected(_) => &mut counts.rejected,
                Outcome::Busy(_) => &mut counts.busy,
            } += 1;
        }
        counts
    }
}

/// The HTTP status of a batch, whose answer has a result per reading: one that says what to do with the whole body, if
/// the same is to be done with all of it.
pub fn http_batch(counts: Counts) -> u16 {
    match counts {
        Counts {
            accepted: 0, busy: 0, ..
        } => 422,
        Counts {
            accepted: 0,
            rejected: 0,
            ..
        } => 503,
        _ => 200,
    }
}

/// The one outcome that speaks for a batch where a protocol has one answer only: busy if any reading must be
/// sent again, otherwise the first rejection with a count of them, otherwise safe.
///
/// A rejected one is coded as HTTP's 422 whatever the readings' own reasons are: the message was understood, and
/// readings in it are not acceptable. But if one of them is too large for Kafka it is kept nowhere, so MQTT 3.1.1 must not
/// acknowledge the batch, and CoAP says 4.13.
pub fn summarise(outcomes: &[Outcome]) -> Outcome {
    if let Some(busy) = outcomes.iter().find(|outcome| matches!(outcome, Outcome::Busy(_))) {
        return busy.clone();
    }
    let rejections = outcomes
        .iter()
        .enumerate()
        .filter_map(|(index, outcome)| match outcome {
            Outcome::Rejected(rejection) => Some((index, &**rejection)),
            _ => None,
        });
    let Some((index, first)) = rejections.clone().next() else {
        let spooled = outcomes.contains(&Outcome::Spooled);
        return if spooled { Outcome::Spooled } else { Outcome::Delivered };
    };
    let of_all = rejections
        .clone()
        .any(|(_, rejection)| rejection.reason == Reason::TooLargeForKafka);
    let reason = if of_all {
        Reason::TooLargeForKafka
    } else {
        Reason::SchemaMismatch
    };
    let (rejected, all) = (rejections.count(), outcomes.len());
    // What was rejected when it was looked at says itself which item it is, and where; what Kafka rejected does not.
    let detail = match first.item {
        Some(_) => format!("{rejected} of {all} readings rejected; {}", first.detail),
        None => format!("{rejected} of {all} readings rejected; [{index}]: {}", first.detail),
    };
    Rejection::new(reason, detail).into()
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;
    use crate::outcome::BusyKind;
    use std::time::Duration;

    #[test]
    fn only_a_safe_reading_gets_a_positive_answer() {
        let check = |outcome: Outcome, mqtt_code: u8, v3: bool, coap_code: (u8, u8), status: u16| {
            assert_eq!(mqtt(&outcome) as u8, mqtt_code, "MQTT 5 of {outcome:?}");
            assert_eq!(mqtt_v3_acknowledges(&outcome), v3, "MQTT 3.1.1 of {outcome:?}");
            assert_eq!(coap(&outcome), coap_code, "CoAP of {outcome:?}");
            assert_eq!(http(&outcome), status, "HTTP of {outcome:?}");
        };
        let rejected = |reason| Outcome::from(Rejection::new(reason, "why"));
        check(Outcome::Delivered, 0x00, true, (2, 4), 204);
        check(Outcome::Spooled, 0x00, true, (2, 4), 204);
        check(rejected(Reason::Malformed), 0x99, true, (4, 0), 400);
        check(rejected(Reason::SchemaMismatch), 0x99, true, (4, 22), 422);
        check(rejected(Reason::OutOfRange), 0x99, true, (4, 22), 422);
        check(rejected(Reason::BadClock), 0x99, true, (4, 22), 422);
        check(rejected(Reason::UnsupportedFormat), 0x99, true, (4, 15), 415);
        check(rejected(Reason::UnknownKind), 0x90, true, (4, 4), 404);
        check(rejected(Reason::BadAddress), 0x90, true, (4, 4), 404);
        check(rejected(Reason::Unauthenticated), 0x87, false, (4, 1), 401);
        check(rejected(Reason::Forbidden), 0x87, true, (4, 3), 403);
        let unkept = Rejection {
            is_unkept: true,
            ..Rejection::new(Reason::Forbidden, "why")
        };
        check(unkept.into(), 0x87, false, (4, 3), 403);
        check(rejected(Reason::TooLarge), 0x99, true, (4, 13), 413);
        check(rejected(Reason::TooLargeForKafka), 0x99, false, (4, 13), 413);
        check(rejected(Reason::TooSlow), 0x99, true, (4, 8), 408);
        check(rejected(Reason::CutOff), 0x99, true, (4, 8), 408);
        check(Outcome::Busy(Busy::OverRate(Duration::ZERO)), 0x97, false, (4, 29), 429);
        for busy in Busy::iter().filter(|busy| busy.kind() != BusyKind::OverRate) {
            check(Outcome::Busy(busy), 0x97, false, (5, 3), 503);
        }
    }

    #[test]
    fn a_batch_is_summarised_by_what_the_device_must_do() {
        let rejected = |reason, index: usize| {
            let detail = format!("[{index}]: x: 9 is above the maximum 5");
            Outcome::from(Rejection {
                item: Some(index),
                ..Rejection::new(reason, detail)
            })
        };
        let busy = || Outcome::Busy(Busy::QueueFull);
        let check = |outcomes: &[Outcome], expected: Outcome, status: u16| {
            assert_eq!(summarise(outcomes), expected);
            assert_eq!(http_batch(Counts::of(outcomes)), status, "{outcomes:?}");
        };
        let (delivered, spooled) = (Outcome::Delivered, Outcome::Spooled);
        check(&[delivered.clone(), delivered.clone()], delivered.clone(), 200);
        check(&[delivered.clone(), spooled.clone()], spooled, 200);
        let out_of_range = |index| rejected(Reason::OutOfRange, index);
        check(&[delivered.clone(), out_of_range(1), busy()], busy(), 200);
        check(&[out_of_range(0), busy()], busy(), 200);
        check(&[busy(), busy()], busy(), 503);
        let summary = |reason, detail: &str| Outcome::from(Rejection::new(reason, detail));
        let partly = "2 of 3 readings rejected; [1]: x: 9 is above the maximum 5";
        let partly = summary(Reason::SchemaMismatch, partly);
        check(&[delivered.clone(), out_of_range(1), out_of_range(2)], partly, 200);
        let all = summary(
            Reason::SchemaMismatch,
            "1 of 1 readings rejected; [0]: x: 9 is above the maximum 5",
        );
        check(&[rejected(Reason::Malformed, 0)], all, 422);
        // What Kafka does not accept is kept nowhere, and its item is named all the same.
        let too_large = || Outcome::from(Rejection::too_large_for_kafka());
        let unkept = |detail| summary(Reason::TooLargeForKafka, detail);
        let second = unkept("2 of 2 readings rejected; [0]: x: 9 is above the maximum 5");
        assert!(!mqtt_v3_acknowledges(&second));
        assert_eq!(coap(&second), (4, 13));
        check(&[out_of_range(0), too_large()], second, 422);
        let first = "1 of 2 readings rejected; [1]: larger than the message.max.bytes of Kafka or of its topic";
        check(&[delivered, too_large()], unkept(first), 200);
        // A path in a reading may look like an item of the batch.
        let path = Outcome::from(Rejection::new(Reason::OutOfRange, "[0]: 9 is above the maximum 5"));
        let named = summary(
            Reason::SchemaMismatch,
            "1 of 1 readings rejected; [0]: [0]: 9 is above the maximum 5",
        );
        check(&[path], named, 422);
    }

    #[test]
    fn a_batch_has_the_same_code_as_a_reading_of_its_summary() {
        let batch = summarise(&[Rejection::new(Reason::Malformed, "[0]: not JSON").into()]);
        assert_eq!(
            (mqtt(&batch), coap(&batch), http(&batch)),
            (MqttReason::PayloadFormatInvalid, (4, 22), 422)
        );
    }

    #[test]
    fn who_is_over_its_rate_is_told_when_it_may_send_again() {
        let check = |wait: Duration, expected: std::ops::RangeInclusive<u32>| {
            let seconds = retry_after_seconds(Busy::OverRate(wait));
            assert!(expected.contains(&seconds), "{wait:?}: {seconds}");
        };
        check(Duration::ZERO, 5..=5);
        check(Duration::from_nanos(7_000_000_010), 8..=18);
        check(Duration::from_millis(995_300), 996..=1006);
        check(Duration::MAX, 3601..=3611);
        assert_eq!(retry_after_seconds(Busy::QueueFull), RETRY_AFTER_SECONDS);
        let spread = (0..11).map(|nanos| retry_after_seconds(Busy::OverRate(Duration::new(60, nanos))));
        assert_eq!(spread.collect::<std::collections::BTreeSet<_>>().len(), 11);
    }
}
