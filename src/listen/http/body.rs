//! A request's body: whether it is read, what it is charged meanwhile, and how slowly it may come.
//!
//! Its bytes are charged as they arrive ([`incomplete`](crate::listen::incomplete)): what is announced and never sent
//! costs nothing, and a small body is not charged. Beyond the budget the body is not read on, up to
//! `body_timeout`; then the answer is 503. A body that falls behind its rate, that stands still while others wait, or
//! that its sender cuts off, is answered 408: it may be sent again. When the gateway drains, a body that has not arrived
//! whole is answered 503. Of a connection that was reset nothing was received, and there is no client to be answered.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use hyper::body::{Body as _, Frame, Incoming};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::config::Config;
use super::head::text;
use super::shared::Connection;
use crate::listen::incomplete::arrival::{Arrival, Late};
use crate::listen::incomplete::{Charge, PeerBudget};
use crate::outcome::{Busy, Outcome, Reason, Rejection};

/// Why a body is not read to its end.
#[derive(Debug)]
pub enum Unread {
    /// What the request is answered instead.
    Refused(Outcome),
    /// The connection broke.
    Reset,
}

/// A body that arrives.
struct Arriving<'a> {
    body: Incoming,
    config: &'a Config,
    budget: &'a PeerBudget,
    arrival: Arrival,
}

/// The body, and what it is charged.
///
/// # Errors
/// It is not read to the end.
pub async fn read(
    config: &Config,
    connection: &Connection,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<(Bytes, Option<Charge>), Unread> {
    if connection.stopping.is_cancelled() {
        return Err(Busy::Draining.into());
    }
    let bytes_max = config.body_bytes_max.as_u64();
    let declared = text(headers, header::CONTENT_LENGTH).parse::<u64>().ok();
    if declared.is_some_and(|length| length > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let mut arriving = Arriving {
        body,
        config,
        budget: &connection.budget,
        arrival: Arrival::new(config.rate()),
    };
    arriving.arrival.start();
    let declared = declared.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    whole(arriving, &connection.stopping, declared, bytes_max).await
}

/// A body's bytes, and what they are charged.
async fn whole(
    mut arriving: Arriving<'_>,
    stopping: &CancellationToken,
    declared: usize,
    bytes_max: u64,
) -> Result<(Bytes, Option<Charge>), Unread> {
    let mut whole = Bytes::new();
    let mut timer = pin!(sleep(arriving.config.body_timeout));
    let mut stopped = pin!(stopping.cancelled());
    while let Some(frame) = poll_fn(|context| arriving.poll_frame(context, stopped.as_mut(), timer.as_mut())).await? {
        // What is not data are trailers.
        let Ok(data) = frame.into_data() else { continue };
        if (whole.len() + data.len()) as u64 > bytes_max {
            return Err(too_large(bytes_max));
        }
        let arrived = data.len();
        whole = joined(whole, data, declared);
        arriving.arrived(arrived, whole.len());
    }
    Ok((whole, arriving.arrival.into_charge()))
}

/// One that came in one piece stays where it is; others get memory for twice what has arrived, but no more than is declared.
fn joined(whole: Bytes, data: Bytes, declared: usize) -> Bytes {
    if whole.is_empty() {
        return data;
    }
    let mut joined = BytesMut::from(whole);
    let missing = declared.saturating_sub(joined.len());
    joined.reserve(data.len().max(missing.min(joined.len())));
    joined.extend_from_slice(&data);
    joined.freeze()
}

// === impl Arriving ===

impl Arriving<'_> {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
        stopped: Pin<&mut WaitForCancellationFuture<'_>>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Result<Option<Frame<Bytes>>, Unread>> {
        match self.arrival.poll_turn(context) {
            Poll::Ready(Ok(_)) => {
                if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
                    return Poll::Ready(frame.transpose().map_err(|error| broken(&error)));
                }
            }
            Poll::Ready(Err(why)) => return Poll::Ready(Err(Unread::Refused(why.outcome()))),
            Poll::Pending => {}
        }
        if stopped.poll(context).is_ready() {
            return Poll::Ready(Err(Busy::Draining.into()));
        }
        let Some((due, late)) = self.arrival.due() else {
            return Poll::Pending;
        };
        ready!(poll_timer(timer, due, context));
        Poll::Ready(Err(self.late(late)))
    }

    /// Notes `bytes` more, `so_far` in all.
    fn arrived(&mut self, bytes: usize, so_far: usize) {
        if self.body.is_end_stream() {
            return;
        }
        self.arrival.received(bytes, Instant::now());
        self.arrival.charge(so_far, self.budget);
    }

    fn late(&self, late: Late) -> Unread {
        if late == Late::NoMemory {
            return Busy::IncompleteFull.into();
        }
        let detail = format!(
            "the body came more slowly than {} a second (http.body_bytes_per_second_min), or nothing of it came for {:?} \
             (http.body_timeout)",
            self.config.body_bytes_per_second_min, self.config.body_timeout
        );
        Rejection::new(Reason::TooSlow, detail).into()
    }
}

/// Ready at `at`. The timer is moved forward at once, backward when it goes off: most pieces leave it alone.
fn poll_timer(mut timer: Pin<&mut Sleep>, at: Instant, context: &mut Context<'_>) -> Poll<()> {
    if at < timer.deadline() {
        timer.as_mut().reset(at);
    }
    loop {
        ready!(timer.as_mut().poll(context));
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        timer.as_mut().reset(at);
    }
}

/// Why hyper reads no more of a body.
fn broken(error: &hyper::Error) -> Unread {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::UnexpectedEof) => {
            let detail = "the connection was closed before the body was whole; send it again";
            Rejection::new(Reason::CutOff, detail).into()
        }
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            let what = cause.map(ToString::to_string).unwrap_or_default();
            Rejection::new(Reason::Malformed, format!("invalid chunked encoding: {what}")).into()
        }
        _ => Unread::Reset,
    }
}

fn too_large(bytes_max: u64) -> Unread {
    Rejection::new(Reason::TooLarge, format!("the body is larger than {bytes_max} bytes")).into()
}

impl From<Rejection> for Unread {
    fn from(rejection: Rejection) -> Self {
        Unread::Refused(rejection.into())
    }
}

impl From<Busy> for Unread {
    fn from(busy: Busy) -> Self {
        Unread::Refused(Outcome::Busy(busy))
    }
}
