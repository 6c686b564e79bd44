//! What a request is answered: 204, 200 with a result per reading, or problem+json (RFC 9457) that says why not.
//!
//! Pure. Which status an outcome gets is `acknowledge`'s; what is wrong with a request rather than with a reading
//! (its head, its method, its `Idempotency-Key`) is said here. A problem with a whole batch has the batch's numbers, and
//! the results of its readings unless all are busy.

use std::borrow::Cow;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::head::TransferFault;
use super::idempotency::KeyError;
use crate::acknowledge::{self, Counts};
use crate::devices::Denied;
use crate::outcome::{Outcome, Reason};
use crate::receipt::Answer;

/// A negative answer: RFC 9457.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    reason: &'static str,
    detail: Cow<'static, str>,
    closes: bool,
    hint: Option<Hint>,
    /// Members beside those of every problem.
    more: Map<String, Value>,
}

/// A header that says what would do.
#[derive(Clone, Copy, Debug)]
enum Hint {
    RetryAfter(u32),
    Methods(&'static str),
    Schemes,
    MediaTypes,
    Codings,
}

// === impl Problem ===

impl Problem {
    /// A reading, or a message that was not read, that is not safe.
    pub fn new(outcome: &Outcome) -> Self {
        let status = status(acknowledge::http(outcome));
        let detail = acknowledge::text(outcome).unwrap_or_default();
        let problem = Self::of(status, reason(outcome), detail.to_owned());
        match *outcome {
            Outcome::Busy(busy) => Problem {
                hint: Some(Hint::RetryAfter(acknowledge::retry_after_seconds(busy))),
                ..problem
            },
            _ => problem,
        }
    }

    /// It is the content coding that is not decoded (RFC 9110 §15.5.16).
    pub fn coded(self) -> Self {
        Problem {
            hint: Some(Hint::Codings),
            ..self
        }
    }

    /// The sender is not who it says it is, or does not say it.
    pub fn denied(denied: Denied) -> Self {
        let (status, reason) = match denied {
            Denied::BadCredential | Denied::Missing => (StatusCode::UNAUTHORIZED, Reason::Unauthenticated.label()),
            Denied::Disabled => (StatusCode::FORBIDDEN, Reason::Forbidden.label()),
            Denied::Busy => (StatusCode::SERVICE_UNAVAILABLE, "authentication_busy"),
        };
        Self::of(status, reason, denied.text())
    }

    pub fn method_not_allowed(is_root: bool) -> Self {
        let detail = "readings are sent by POST to /devices/<device>/<kind>";
        Problem {
            hint: Some(Hint::Methods(if is_root { "GET, HEAD" } else { "POST" })),
            ..Self::of(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        }
    }

    pub fn bad_host(detail: &'static str) -> Self {
        Self::of(StatusCode::BAD_REQUEST, "bad_host", detail)
    }

    pub fn bad_transfer_encoding(fault: TransferFault) -> Self {
        let (status, detail) = match fault {
            TransferFault::NotOnceChunked => (
                StatusCode::BAD_REQUEST,
                "Transfer-Encoding: chunked is expected once, as the only coding",
            ),
            TransferFault::Unknown => (
                StatusCode::NOT_IMPLEMENTED,
                "Transfer-Encoding: chunked is the only coding that is decoded; send the body without others",
            ),
        };
        Self::of(status, "bad_transfer_encoding", detail)
    }

    pub fn bad_key(error: KeyError) -> Self {
        Self::of(StatusCode::BAD_REQUEST, "bad_idempotency_key", error.to_string())
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

    fn of(status: StatusCode, reason: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Problem {
            status,
            reason,
            detail: detail.into(),
            closes: false,
            hint: Hint::of(status),
            more: Map::new(),
        }
    }

    /// The `reason` member, which is also the label of what it is counted under.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// What else of the request comes is not read, so the connection ends with this answer.
    pub fn closing(self) -> Self {
        Problem { closes: true, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = self.more;
        body.insert("type".to_owned(), "about:blank".into());
        body.insert("title".to_owned(), title(self.status).into());
        body.insert("status".to_owned(), self.status.as_u16().into());
        body.insert("detail".to_owned(), self.detail.into());
        body.insert("reason".to_owned(), self.reason.into());
        let problem = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, problem, Value::from(body).to_string()).into_response();
        response.headers_mut().extend(self.hint.map(Hint::header));
        if self.closes {
            close_behind(&mut response);
        }
        response
    }
}

/// The connection ends with this response.
pub fn close_behind(response: &mut Response) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

// === impl Hint ===

impl Hint {
    /// What an answer of this status has.
    fn of(status: StatusCode) -> Option<Self> {
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT => {
                Some(Hint::RetryAfter(acknowledge::RETRY_AFTER_SECONDS))
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Some(Hint::MediaTypes),
            StatusCode::UNAUTHORIZED => Some(Hint::Schemes),
            _ => None,
        }
    }

    fn header(self) -> (HeaderName, HeaderValue) {
        match self {
            Hint::RetryAfter(seconds) => (header::RETRY_AFTER, HeaderValue::from(seconds)),
            Hint::Methods(methods) => (header::ALLOW, HeaderValue::from_static(methods)),
            // RFC 9110 §15.5.2: one is required.
            Hint::Schemes => {
                let schemes = r#"Basic realm="citygate", charset="UTF-8", Bearer realm="citygate""#;
                (header::WWW_AUTHENTICATE, HeaderValue::from_static(schemes))
            }
            Hint::MediaTypes => {
                let decoded = HeaderValue::from_static("application/json, application/x-ndjson");
                (header::ACCEPT, decoded)
            }
            Hint::Codings => (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        }
    }
}

/// The name of a status in RFC 9110; those that the library has are older ones in two places.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        StatusCode::UNPROCESSABLE_ENTITY => "Unprocessable Content",
        other => other.canonical_reason().unwrap_or_default(),
    }
}

fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The response to a message whose readings have all ended.
pub fn respond(answer: &Answer) -> Response {
    match answer {
        Answer::One(outcome) if outcome.is_safe() => StatusCode::NO_CONTENT.into_response(),
        Answer::One(outcome) => Problem::new(outcome).into_response(),
        Answer::Many(outcomes) => results(outcomes),
    }
}

/// The numbers of a batch, and a result per reading; as a problem, if all were rejected or all are busy.
fn results(outcomes: &[Outcome]) -> Response {
    let counts = Counts::of(outcomes);
    let status = status(acknowledge::http_batch(counts));
    let mut body = Map::from_iter([
        ("accepted".to_owned(), counts.accepted.into()),
        ("rejected".to_owned(), counts.rejected.into()),
        ("busy".to_owned(), counts.busy.into()),
    ]);
    // What is wrong is ours then, and the same with all: a gateway that is short of memory makes no long answer.
    if counts.busy < outcomes.len() {
        let items: Vec<_> = outcomes.iter().map(result).collect();
        body.insert("results".to_owned(), items.into());
    }
    if status == StatusCode::OK {
        let body = Value::from(body).to_string();
        return ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    }
    let summary = acknowledge::summarise(outcomes);
    let detail = acknowledge::text(&summary).unwrap_or_default();
    let problem = Problem {
        more: body,
        ..Problem::of(status, reason(&outcomes[0]), detail.to_owned())
    };
    problem.into_response()
}

fn result(outcome: &Outcome) -> Value {
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
    use crate::outcome::{Busy, Rejection};

    async fn told(outcomes: Vec<Outcome>) -> (Response, Value) {
        let (parts, body) = respond(&Answer::Many(outcomes)).into_parts();
        let bytes = to_bytes(body, 4096).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap();
        (Response::from_parts(parts, axum::body::Body::empty()), json)
    }

    #[tokio::test]
    async fn a_batch_is_answered_in_numbers_and_per_item() {
        let rejected = |index| {
            let detail = format!("[{index}]: x: 9 is above the maximum 5");
            Outcome::from(Rejection {
                item: Some(index),
                ..Rejection::new(Reason::OutOfRange, detail)
            })
        };
        let busy = || Outcome::Busy(Busy::QueueFull);
        let check = async |outcomes: Vec<Outcome>, status: u16, counts: [u64; 3], statuses: &[u64]| {
            let (response, body) = told(outcomes).await;
            assert_eq!(response.status(), status);
            assert_eq!(
                ["accepted", "rejected", "busy"].map(|name| body[name].as_u64().unwrap()),
                counts
            );
            let items = body["results"].as_array().cloned().unwrap_or_default();
            let told: Vec<_> = items.iter().map(|item| item["status"].as_u64().unwrap()).collect();
            assert_eq!(told, statuses);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503);
            if status != 200 {
                assert_eq!(body["status"], status);
                assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            }
            body
        };
        let mixed = vec![Outcome::Delivered, rejected(1), busy()];
        let body = check(mixed, 200, [1, 1, 1], &[204, 422, 503]).await;
        assert_eq!(body["results"][1]["detail"], "[1]: x: 9 is above the maximum 5");
        check(vec![rejected(0), busy()], 200, [0, 1, 1], &[422, 503]).await;
        check(vec![Outcome::Spooled; 2], 200, [2, 0, 0], &[204, 204]).await;
        let body = check(vec![rejected(0), rejected(1)], 422, [0, 2, 0], &[422, 422]).await;
        assert_eq!(
            (&body["title"], &body["reason"]),
            (&json!("Unprocessable Content"), &json!("out_of_range"))
        );
        assert_eq!(
            body["detail"],
            "2 of 2 readings rejected; [0]: x: 9 is above the maximum 5"
        );
        check(vec![Outcome::Busy(Busy::KafkaUnavailable); 2], 503, [0, 0, 2], &[]).await;
    }

    #[test]
    fn a_status_has_the_title_of_rfc_9110() {
        let check = |number: u16, expected: &str| assert_eq!(title(status(number)), expected);
        check(400, "Bad Request");
        check(401, "Unauthorized");
        check(403, "Forbidden");
        check(404, "Not Found");
        check(405, "Method Not Allowed");
        check(408, "Request Timeout");
        check(409, "Conflict");
        check(413, "Content Too Large");
        check(415, "Unsupported Media Type");
        check(422, "Unprocessable Content");
        check(429, "Too Many Requests");
        check(501, "Not Implemented");
        check(503, "Service Unavailable");
    }
}
