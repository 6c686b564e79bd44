//! One table: what each [`Outcome`] is called in each protocol.
//!
//! Pure; the listeners frame and send what is named here. Sources: MQTT 5.0 §2.4 (reason codes), RFC 7252 §5.9 and
//! RFC 8132 §2.3 (CoAP codes), RFC 9110 §15 (HTTP status). MQTT 3.1.1 has no negative acknowledgement: a rejected
//! reading is acknowledged once it is safe in the dead-letter topic (else the device would resend it for ever), a busy
//! one is not acknowledged at all.

use crate::outcome::{Outcome, Reason};

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
            | Reason::TooSlow => MqttReason::PayloadFormatInvalid,
            Reason::UnknownKind | Reason::BadAddress => MqttReason::TopicNameInvalid,
            Reason::Forbidden => MqttReason::NotAuthorized,
        },
    }
}

/// Whether an MQTT 3.1.1 publish is acknowledged.
pub fn mqtt_v3_acknowledges(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => true,
        Outcome::Rejected(rejection) => rejection.reason != Reason::TooLargeForKafka,
        Outcome::Busy(_) => false,
    }
}

/// A CoAP response code as class and detail: `(4, 22)` is 4.22.
pub fn coap(outcome: &Outcome) -> (u8, u8) {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => (2, 4),
        Outcome::Busy(_) => (5, 3),
        Outcome::Rejected(rejection) => match rejection.reason {
            Reason::Malformed => (4, 0),
            Reason::SchemaMismatch | Reason::OutOfRange | Reason::BadClock => (4, 22),
            Reason::UnknownKind | Reason::BadAddress => (4, 4),
            Reason::UnsupportedFormat => (4, 15),
            Reason::Forbidden => (4, 3),
            Reason::TooLarge | Reason::TooLargeForKafka => (4, 13),
            Reason::TooSlow => (4, 8),
        },
    }
}

/// The HTTP status of a single reading.
pub fn http(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => 204,
        Outcome::Busy(_) => 503,
        Outcome::Rejected(rejection) => match rejection.reason {
            Reason::Malformed => 400,
            Reason::SchemaMismatch | Reason::OutOfRange | Reason::BadClock => 422,
            Reason::UnknownKind | Reason::BadAddress => 404,
            Reason::UnsupportedFormat => 415,
            Reason::Forbidden => 403,
            Reason::TooLarge | Reason::TooLargeForKafka => 413,
            Reason::TooSlow => 408,
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

/// The one outcome that speaks for a batch where a protocol has room for one answer only: busy if any reading must be
/// sent again, otherwise the first rejection with a count of them, otherwise safe.
pub fn summarise(outcomes: &[Outcome]) -> Outcome {
    if let Some(busy) = outcomes.iter().find(|outcome| matches!(outcome, Outcome::Busy(_))) {
        return busy.clone();
    }
    let mut rejections = outcomes
        .iter()
        .enumerate()
        .filter_map(|(index, outcome)| match outcome {
            Outcome::Rejected(rejection) => Some((index, rejection)),
            _ => None,
        });
    let Some((index, first)) = rejections.next() else {
        let spooled = outcomes.contains(&Outcome::Spooled);
        return if spooled { Outcome::Spooled } else { Outcome::Delivered };
    };
    let rejected = 1 + rejections.count();
    let detail = format!(
        "{rejected} of {} readings rejected; [{index}]: {}",
        outcomes.len(),
        first.detail
    );
    crate::outcome::Rejection::new(first.reason, detail).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Busy, Rejection};

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
        check(rejected(Reason::Forbidden), 0x87, true, (4, 3), 403);
        check(rejected(Reason::TooLarge), 0x99, true, (4, 13), 413);
        check(rejected(Reason::TooLargeForKafka), 0x99, false, (4, 13), 413);
        check(rejected(Reason::TooSlow), 0x99, true, (4, 8), 408);
        for busy in Busy::ALL {
            check(Outcome::Busy(busy), 0x97, false, (5, 3), 503);
        }
    }

    #[test]
    fn a_batch_is_summarised_by_what_the_device_must_do() {
        let rejected = || Outcome::from(Rejection::new(Reason::OutOfRange, "x: 9 is above the maximum 5"));
        let check = |outcomes: &[Outcome], expected: Outcome| assert_eq!(summarise(outcomes), expected);
        check(&[Outcome::Delivered, Outcome::Delivered], Outcome::Delivered);
        check(&[Outcome::Delivered, Outcome::Spooled], Outcome::Spooled);
        check(
            &[Outcome::Delivered, rejected(), Outcome::Busy(Busy::QueueFull)],
            Outcome::Busy(Busy::QueueFull),
        );
        let detail = "2 of 3 readings rejected; [1]: x: 9 is above the maximum 5";
        check(
            &[Outcome::Delivered, rejected(), rejected()],
            Rejection::new(Reason::OutOfRange, detail).into(),
        );
    }
}
