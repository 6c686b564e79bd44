//! One request: head, method, key, sender, body, permit, pipeline, answer.
//!
//! What cannot be read whole ([`body`]) is refused and counted; what is wrong with the request itself (head, method,
//! `Idempotency-Key`) is no reading and counts as none, nor does one whose connection was reset. A request with a key is
//! awaited by a task of its own: the outcome is remembered also when its connection has ended before the answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as _, Incoming};
use tracing::error;

use super::authorization::{Credentials, Malformed};
use super::body::{self, Unread};
use super::head;
use super::idempotency::{self, Claim, Seen};
use super::response::{self, Problem, respond};
use super::shared::{Connection, Shared};
use crate::devices::{Denied, Proven};
use crate::message::{Inbound, Origin, Policy, Protocol};
use crate::outcome::{Busy, Outcome, Reason, Rejection, quoted};
use crate::receipt::{Answer, InFlightPermit, Mailbox, Reply};

/// A body of a few readings, most of which has come with its head.
const SMALL_BODY_BYTES: u64 = 4 * 1024;

/// Why a request is not answered: its connection was reset while its body came.
#[derive(Debug, thiserror::Error)]
#[error("the connection was reset in the middle of a body")]
pub struct Reset;

/// What keeps a request from its readings.
enum Failure {
    Problem(Problem),
    Reset,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure::Problem(problem)
    }
}

/// Answers a request, and counts the response.
pub async fn post(shared: &Shared, connection: &Connection, request: Request<Incoming>) -> Result<Response, Reset> {
    let metrics = &shared.context.metrics.http;
    let response = match answer(shared, connection, request).await {
        Ok(response) => response,
        Err(Failure::Problem(problem)) => problem.into_response(),
        Err(Failure::Reset) => {
            metrics.http_requests_reset_total.inc();
            return Err(Reset);
        }
    };
    let status = response.status();
    if status == StatusCode::NO_CONTENT {
        shared.no_content.inc();
    } else {
        if response.headers().contains_key(header::CONNECTION) {
            connection.unread.store(true, Ordering::Relaxed);
        }
        metrics.http_responses_total.with_label_values(&[status.as_str()]).inc();
    }
    Ok(response)
}

/// The order of a request.
async fn answer(shared: &Shared, connection: &Connection, request: Request<Incoming>) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let path = decoded_path(&head.uri);
    let is_greeting = path.is_empty() && matches!(head.method, Method::GET | Method::HEAD);
    let key = match wrong_head(&head, is_greeting).map_or_else(|| key(shared, &head.headers), Err) {
        Ok(key) => key,
        Err(problem) => return Err(refuse_request(shared, problem, body.is_end_stream()).into()),
    };
    if is_greeting {
        // It proves nothing: who asks for no more than this is still connecting.
        return Ok(greeting(shared, body.is_end_stream()));
    }
    let sender = match identify(shared, connection, &head.headers).await {
        Ok(sender) => sender,
        Err(problem) => return Err(refuse_request(shared, problem, body.is_end_stream()).into()),
    };
    // Every request says it anew; one that was accepted is enough.
    connection.has_said_who_it_is();
    let sender = sender.as_ref();
    let refuse = |outcome| refuse(shared, &connection.origin(sender), &path, outcome);
    if let Some(wait) = over_rate(shared, &connection.origin(sender)) {
        let refused = refuse(Outcome::Busy(Busy::OverRate(wait)));
        // A large body is not read: that would be what its rate is to save. A small one costs less than the connection.
        let is_small = body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BODY_BYTES);
        let is_read = is_small
            && body::read(&shared.config, connection, &head.headers, body)
                .await
                .is_ok();
        return Err(if is_read { refused } else { refused.closing() }.into());
    }
    if let Some(codings) = head::content_codings(&head.headers) {
        return Err(refuse_coded(shared, &connection.origin(sender), &path, &codings).into());
    }
    let body = body::read(&shared.config, connection, &head.headers, body).await;
    let (body, charge) = body.map_err(|unread| match unread {
        Unread::Refused(outcome) => refuse(outcome).closing().into(),
        Unread::Reset => Failure::Reset,
    })?;
    let sender = recheck(shared, sender).map_err(|problem| refuse_request(shared, problem, true))?;
    let sender = sender.as_ref();
    let permit = shared.context.in_flight_bytes.try_bytes(body.len());
    let permit = permit.ok_or_else(|| refuse(Outcome::Busy(Busy::MemoryFull)))?;
    // It is charged so until it has its permit.
    drop(charge);
    let content_type = head::content_type(&head.headers);
    let mut inbound = Inbound {
        origin: connection.origin(sender),
        path: &path,
        body: &body,
        content_type: &content_type,
        policy: Policy::default(),
    };
    let Some(key) = key else {
        let mailbox = pass_on(shared, &inbound, permit);
        return Ok(respond(&receive(&mailbox).await));
    };
    match shared.keys.enter(&key, &inbound, Instant::now()) {
        Seen::New(claim) | Seen::Unfinished(claim) => {
            inbound.policy.settled = claim.before();
            let mailbox = pass_on(shared, &inbound, permit);
            Ok(respond(&*settled(shared, mailbox, claim).await))
        }
        Seen::Answered(answer) => Ok(respond(&answer)),
        Seen::InFlight => Err(Problem::key_in_flight().into()),
        Seen::Reused => Err(Problem::key_reused().into()),
        Seen::Full => Err(refuse(Outcome::Busy(Busy::KeysFull)).into()),
    }
}

/// Who sends, verified before the body is read; `None`: a sender that may be anonymous.
async fn identify(shared: &Shared, connection: &Connection, headers: &HeaderMap) -> Result<Option<Proven>, Problem> {
    let Some(authenticator) = &shared.context.authenticator else {
        return Ok(None);
    };
    let from = (Protocol::Http, connection.peer);
    let credentials = Credentials::of(headers);
    if let (Some(certificate), Ok(credentials)) = (&connection.certificate, &credentials) {
        let claim = credentials.as_ref().map(Credentials::claim);
        let (id, secret) = (claim.and_then(|claim| claim.id), claim.map(|claim| claim.secret));
        let proven = authenticator
            .authenticate_certificate(from, certificate, id, secret)
            .await;
        return proven.map(Some).map_err(Problem::denied);
    }
    let denied = match credentials {
        Ok(None) if shared.config.allow_anonymous => return Ok(None),
        Ok(None) => authenticator.refuse(from, Denied::Missing).await,
        Err(Malformed) => authenticator.refuse(from, Denied::BadCredential).await,
        Ok(Some(credentials)) => match authenticator.authenticate(from, credentials.claim()).await {
            Ok(sender) => return Ok(Some(sender)),
            Err(denied) => denied,
        },
    };
    Err(Problem::denied(denied))
}

/// How long a sender must wait that has sent more than its rate allows, which is noted.
fn over_rate(shared: &Shared, origin: &Origin<'_>) -> Option<Duration> {
    let pipeline = &shared.context.pipeline;
    let wait = pipeline.access.over_rate(origin);
    if wait.is_zero() {
        return None;
    }
    pipeline.note_over_rate(origin, wait);
    Some(wait)
}

/// Who sends, now that its body has come: the identities may have changed meanwhile.
fn recheck(shared: &Shared, sender: Option<&Proven>) -> Result<Option<Proven>, Problem> {
    let known = shared.context.authenticator.as_ref().zip(sender);
    let rechecked = known
        .map(|(authenticator, sender)| authenticator.recheck(sender))
        .transpose();
    rechecked.map_err(Problem::denied)
}

/// What is wrong with the head of a request, whatever its body is.
fn wrong_head(head: &Parts, is_greeting: bool) -> Option<Problem> {
    if let Some(detail) = head::host_fault(head.version, &head.headers) {
        return Some(Problem::bad_host(detail));
    }
    if let Some(fault) = head::transfer_fault(&head.headers) {
        return Some(Problem::bad_transfer_encoding(fault));
    }
    let is_root = head.uri.path() == "/";
    (head.method != Method::POST && !is_greeting).then(|| Problem::method_not_allowed(is_root))
}

/// A request that is no reading: counted by reason. The rest of it is not read.
fn refuse_request(shared: &Shared, problem: Problem, is_whole: bool) -> Problem {
    let refused = &shared.context.metrics.http.http_requests_refused_total;
    refused.with_label_values(&[problem.reason()]).inc();
    if is_whole { problem } else { problem.closing() }
}

/// A message in a content coding that is not decoded.
fn refuse_coded(shared: &Shared, origin: &Origin<'_>, path: &str, codings: &str) -> Problem {
    let shown = quoted(codings);
    let detail = format!("content encoding {shown} is not decoded; send the body as it is");
    let rejection = Rejection::new(Reason::UnsupportedFormat, detail);
    refuse(shared, origin, path, rejection.into()).coded().closing()
}

/// The `Idempotency-Key`, where keys are remembered.
fn key(shared: &Shared, headers: &HeaderMap) -> Result<Option<String>, Problem> {
    if shared.config.idempotency_keys_max == 0 {
        return Ok(None);
    }
    idempotency::key(headers).map_err(|error| {
        let requests = &shared.context.metrics.http.http_idempotent_requests_total;
        requests.with_label_values(&["bad_key"]).inc();
        Problem::bad_key(error)
    })
}

/// A message that is not accepted: counted, and answered so.
fn refuse(shared: &Shared, origin: &Origin<'_>, path: &str, outcome: Outcome) -> Problem {
    let problem = Problem::new(&outcome);
    let pipeline = &shared.context.pipeline;
    pipeline.refuse(origin, path, outcome, Reply::Nobody);
    problem
}

/// Gives a message to the pipeline.
fn pass_on(shared: &Shared, inbound: &Inbound<'_>, permit: InFlightPermit) -> Arc<Mailbox> {
    let mailbox = Mailbox::new();
    let reply = Reply::To {
        mailbox: mailbox.clone(),
        ticket: 0,
    };
    shared.context.pipeline.accept(inbound, Some(permit), reply);
    mailbox
}

/// The answer, which is remembered before it is given. Dropped, it is remembered all the same.
async fn settled(shared: &Shared, mailbox: Arc<Mailbox>, claim: Claim) -> Arc<Answer> {
    let settling = shared.context.tasks.spawn(async move {
        let answer = Arc::new(receive(&mailbox).await);
        claim.settle(&answer, Instant::now());
        answer
    });
    settling.await.unwrap_or_else(|error| {
        error!(%error, "the answer to a request with an idempotency key was lost");
        Arc::new(Answer::One(Outcome::Busy(Busy::Dropped)))
    })
}

async fn receive(mailbox: &Mailbox) -> Answer {
    let mut answers = Vec::with_capacity(1);
    loop {
        mailbox.take(&mut answers);
        if let Some((_, answer)) = answers.pop() {
            return answer;
        }
        mailbox.wait().await;
    }
}

/// `GET /`: a person with a browser or curl learns where readings go. A body of it is not read.
fn greeting(shared: &Shared, is_whole: bool) -> Response {
    let kinds = shared.context.pipeline.catalogue.snapshot().names();
    let text = format!("citygate: POST a JSON reading to /devices/<device>/<kind>; kinds: {kinds}\n");
    let mut response = text.into_response();
    if !is_whole {
        response::close_behind(&mut response);
    }
    response
}

/// The path without its leading slash, percent-decoded per segment; a segment that decodes to a slash or to bad UTF-8
/// stays as it came, and is then refused as an address.
fn decoded_path(uri: &Uri) -> Cow<'_, str> {
    let path = uri.path().strip_prefix('/').unwrap_or_default();
    if !path.contains('%') {
        return path.into();
    }
    path.split('/')
        .map(decoded_segment)
        .collect::<Vec<_>>()
        .join("/")
        .into()
}

fn decoded_segment(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%').then(|| after.get(..2)).flatten();
        let decoded = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('/') => text,
        _ => segment.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_per_segment() {
        let check = |path: &'static str, expected: &str| {
            assert_eq!(decoded_path(&Uri::from_static(path)), expected, "{path}");
        };
        check("/devices/a/weather", "devices/a/weather");
        check("/devices/a%3Ab/weather?x=1", "devices/a:b/weather");
        check("/devices/a%2Fb/weather", "devices/a%2Fb/weather");
        check("/devices/%ff/weather", "devices/%ff/weather");
        check("/devices/a%3/weather", "devices/a%3/weather");
        check("/devices/%25/weather/", "devices/%/weather/");
        check("/", "");
    }
}
