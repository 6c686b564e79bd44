//! A request's body: whether it is read, how much room it takes meanwhile, and how slowly it may come.
//!
//! Its bytes are charged as they arrive ([`incomplete`](crate::listen::incomplete)): what is announced and never sent
//! takes nothing from anybody, and a small body needs no room. Without room the body is not read on, up to
//! `body_timeout`; then the answer is 503. A body that falls behind its rate, or that stands still while others wait, is
//! answered 408. The bytes in flight are permitted when it is there whole.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use hyper::body::{Body as _, Frame, Incoming};
use tokio::time::{Instant, Sleep, sleep_until};

use super::request::text;
use super::{Config, House};
use crate::listen::incomplete::{Evicted, FREE_BYTES, Part, Room};
use crate::listen::pace::Pace;
use crate::outcome::{Busy, Outcome, Reason, Rejection};
use crate::receipt::Permit;

/// A body that arrives.
struct Arriving<'a> {
    body: Incoming,
    config: &'a Config,
    room: &'a Room,
    peer: IpAddr,
    part: Option<Part>,
    pace: Pace,
    // Set while there is no room for more of it.
    waits_until: Option<Instant>,
}

/// The body, and what it was lent of the budget of bytes in flight.
///
/// # Errors
/// What the request is answered instead.
pub async fn read(
    house: &House,
    peer: IpAddr,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<(Bytes, Permit), Outcome> {
    if house.front.stopping.is_cancelled() {
        return Err(Outcome::Busy(Busy::Draining));
    }
    if let Some(encoding) = headers
        .get(header::CONTENT_ENCODING)
        .filter(|value| *value != "identity")
    {
        let detail = format!("content encoding {encoding:?} is not decoded; send the body as it is");
        return Err(Rejection::new(Reason::UnsupportedFormat, detail).into());
    }
    let bytes_max = house.config.body_bytes_max.as_u64();
    let declared = text(headers, header::CONTENT_LENGTH).parse::<u64>().ok();
    if declared.is_some_and(|length| length > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let arriving = Arriving {
        body,
        config: &house.config,
        room: house.front.admit.incomplete(),
        peer,
        part: None,
        pace: house.config.rate().start(Instant::now()),
        waits_until: None,
    };
    let declared = declared.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    // Its room is given back when it has its permit.
    let (body, _part) = whole(arriving, declared, bytes_max).await?;
    let permit = house.front.admit.try_bytes(body.len());
    permit
        .map(|permit| (body, permit))
        .ok_or(Outcome::Busy(Busy::MemoryFull))
}

/// A body's bytes, and the room that they have.
async fn whole(mut arriving: Arriving<'_>, declared: usize, bytes_max: u64) -> Result<(Bytes, Option<Part>), Outcome> {
    let mut whole = Bytes::new();
    let mut alarm = pin!(sleep_until(arriving.pace.due()));
    while let Some(frame) = poll_fn(|context| arriving.poll_frame(context, alarm.as_mut())).await? {
        // What is not data are trailers.
        let Ok(data) = frame.into_data() else { continue };
        if (whole.len() + data.len()) as u64 > bytes_max {
            return Err(too_large(bytes_max));
        }
        let arrived = data.len();
        whole = joined(whole, data, declared);
        arriving.arrived(arrived, whole.len());
    }
    Ok((whole, arriving.part))
}

/// One that came in one piece stays where it is; others get room for twice what has arrived, but no more than is declared.
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
        alarm: Pin<&mut Sleep>,
    ) -> Poll<Result<Option<Frame<Bytes>>, Outcome>> {
        if let Some(part) = &mut self.part {
            match part.poll_turn(context) {
                Poll::Ready(Ok(_)) if self.waits_until.take().is_none() => {}
                // It was not read meanwhile.
                Poll::Ready(Ok(_)) => self.pace = self.config.rate().start(Instant::now()),
                Poll::Ready(Err(why)) => return Poll::Ready(Err(given_up(why))),
                Poll::Pending => {
                    let wait = self.config.body_timeout;
                    let until = *self.waits_until.get_or_insert_with(|| Instant::now() + wait);
                    ready!(poll_alarm(alarm, until, context));
                    return Poll::Ready(Err(Outcome::Busy(Busy::IncompleteFull)));
                }
            }
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let cut_off = |_| Rejection::new(Reason::Malformed, "the body was cut off").into();
            return Poll::Ready(frame.transpose().map_err(cut_off));
        }
        ready!(poll_alarm(alarm, self.pace.due(), context));
        Poll::Ready(Err(self.too_slow()))
    }

    /// Notes `bytes` more, `so_far` in all.
    fn arrived(&mut self, bytes: usize, so_far: usize) {
        if self.body.is_end_stream() {
            return;
        }
        self.pace.arrived(bytes, Instant::now());
        match &mut self.part {
            Some(part) => part.arrived(so_far),
            None if so_far > FREE_BYTES => self.part = Some(self.room.for_peer(self.peer).enter(so_far)),
            None => {}
        }
    }

    fn too_slow(&self) -> Outcome {
        let detail = format!(
            "the body came more slowly than {} a second (http.body_bytes_per_second_min), or nothing of it came for {:?} \
             (http.body_timeout)",
            self.config.body_bytes_per_second_min, self.config.body_timeout
        );
        Rejection::new(Reason::TooSlow, detail).into()
    }
}

/// Ready at `at`. The alarm is moved forward at once, backward when it goes off: most pieces leave it alone.
fn poll_alarm(mut alarm: Pin<&mut Sleep>, at: Instant, context: &mut Context<'_>) -> Poll<()> {
    if at < alarm.deadline() {
        alarm.as_mut().reset(at);
    }
    loop {
        ready!(alarm.as_mut().poll(context));
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        alarm.as_mut().reset(at);
    }
}

fn given_up(why: Evicted) -> Outcome {
    match why {
        Evicted::Stalled | Evicted::Slow => Rejection::new(Reason::TooSlow, why.text()).into(),
        Evicted::OverShare => Outcome::Busy(Busy::IncompleteFull),
    }
}

fn too_large(bytes_max: u64) -> Outcome {
    Rejection::new(Reason::TooLarge, format!("the body is larger than {bytes_max} bytes")).into()
}
