//! What a request is answered: 204, 200 with a result per reading, or problem+json (RFC 9457) that says why not.
//!
//! Pure. Which status an outcome gets is `acknowledge`'s; what is wrong with a request rather than with a reading
//! (its method, its `Idempotency-Key`) is said here.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::acknowledge;
use crate::outcome::Outcome;
use crate::receipt::Answer;

/// A negative answer: RFC 9457.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    reason: &'static str,
    detail: String,
    closes: bool,
}

// === impl Problem ===

impl Problem {
    /// A reading, or a message that was not read, that is not safe.
    pub fn new(outcome: &Outcome) -> Self {
        let status = StatusCode::from_u16(acknowledge::http(outcome)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = acknowledge::text(outcome).unwrap_or_default();
        Self::of(status, reason(outcome), detail)
    }

    pub fn method_not_allowed() -> Self {
        let detail = "readings are sent by POST to /devices/<device>/<kind>";
        Self::of(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// The key is no key; in words.
    pub fn bad_key(detail: String) -> Self {
        Self::of(StatusCode::BAD_REQUEST, "bad_idempotency_key", detail)
    }

    /// The first request with the same key is not answered yet.
    pub fn key_in_flight() -> Self {
        let detail = "a request with this Idempotency-Key is not answered yet; send it again later";
        Self::of(StatusCode::CONFLICT, "idempotency_key_in_flight", detail)
    }

    /// The key stands for another request.
    pub fn key_reused() -> Self {
        let detail = "this Idempotency-Key was used for another body or content type; a new request needs a new key";
        Self::of(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
    }

    fn of(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Problem {
            status,
            reason,
            detail: detail.into(),
            closes: false,
        }
    }

    /// What else of the request comes is not read, so the connection ends with this answer.
    pub fn closing(self) -> Self {
        Problem { closes: true, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "reason": self.reason,
        });
        let problem = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, problem, body.to_string()).into_response();
        let extra = match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => {
                Some((header::RETRY_AFTER, HeaderValue::from(acknowledge::RETRY_AFTER_SECONDS)))
            }
            StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, HeaderValue::from_static("POST"))),
            _ => None,
        };
        response.headers_mut().extend(extra);
        if self.closes {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

/// The response to a message whose readings have all ended.
pub fn respond(answer: &Answer) -> Response {
    match answer {
        Answer::One(outcome) if outcome.is_safe() => StatusCode::NO_CONTENT.into_response(),
        Answer::One(outcome) => Problem::new(outcome).into_response(),
        Answer::Many(outcomes) => results(outcomes),
    }
}

/// 200 with a result per reading; 503 if none was taken and all may be sent again as they are.
fn results(outcomes: &[Outcome]) -> Response {
    if outcomes.iter().all(|outcome| matches!(outcome, Outcome::Busy(_))) {
        return Problem::new(&outcomes[0]).into_response();
    }
    let items: Vec<_> = outcomes.iter().map(result).collect();
    let body = json!({ "results": items }).to_string();
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn result(outcome: &Outcome) -> serde_json::Value {
    let status = acknowledge::http(outcome);
    match acknowledge::text(outcome) {
        None => json!({ "status": status }),
        Some(detail) => json!({ "status": status, "reason": reason(outcome), "detail": detail }),
    }
}

fn reason(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered | Outcome::Spooled => outcome.label(),
        Outcome::Rejected(rejection) => rejection.reason.label(),
        Outcome::Busy(busy) => busy.label(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;
    use crate::outcome::{Busy, Reason, Rejection};

    #[tokio::test]
    async fn a_batch_is_answered_per_item() {
        let rejected = Outcome::from(Rejection::new(Reason::OutOfRange, "x: 9 is above the maximum 5"));
        let response = respond(&Answer::Many(vec![
            Outcome::Delivered,
            rejected,
            Outcome::Busy(Busy::QueueFull),
        ]));
        assert_eq!(response.status(), StatusCode::OK);
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let statuses: Vec<_> = body["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["status"])
            .collect();
        assert_eq!(statuses, [204, 422, 503]);
        assert_eq!(body["results"][1]["detail"], "x: 9 is above the maximum 5");
    }

    #[test]
    fn a_batch_of_which_nothing_was_taken_may_be_sent_again_whole() {
        let response = respond(&Answer::Many(vec![Outcome::Busy(Busy::KafkaAway); 2]));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
