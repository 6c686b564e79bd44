//! Room for one more connection: the one that has been idle longest is closed.
//!
//! For a port that must answer whoever asks next, such as the admin port: peers that connect and stay silent could otherwise
//! hold all its connections, and blind a liveness probe. A connection that is answered is not idle, and an attacker who opens
//! one after the other closes his own silent ones.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The connections of one listener. At most as many as its permits allow, so a list will do.
#[derive(Clone, Debug, Default)]
pub struct LongestIdle(Arc<Mutex<Vec<Weak<Activity>>>>);

/// What is known of a connection from outside its task.
#[derive(Debug)]
struct Activity {
    last_moved: Mutex<Instant>,
    closing: CancellationToken,
}

/// A stream that may be closed to make room: its reads and writes fail from then on.
#[derive(Debug)]
pub struct Closable<S> {
    stream: S,
    activity: Arc<Activity>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

// === impl LongestIdle ===

impl LongestIdle {
    /// Counts a connection in; it is left out when it is dropped.
    pub fn include<S>(&self, stream: S) -> Closable<S> {
        let activity = Arc::new(Activity {
            last_moved: Mutex::new(Instant::now()),
            closing: CancellationToken::new(),
        });
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| connection.strong_count() > 0);
        open.push(Arc::downgrade(&activity));
        Closable {
            stream,
            closing: Box::pin(activity.closing.clone().cancelled_owned()),
            activity,
        }
    }

    /// Closes the connection over which nothing was read or written for longest, if there is one.
    pub fn close(&self) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.iter().filter_map(Weak::upgrade);
        let longest = open
            .filter(|connection| !connection.closing.is_cancelled())
            .min_by_key(|connection| connection.last_moved());
        if let Some(longest) = longest {
            longest.closing.cancel();
        }
    }
}

// === impl Activity ===

impl Activity {
    fn last_moved(&self) -> Instant {
        *self.last_moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Closable ===

impl<S> Closable<S> {
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The same of the stream that `step` makes of it; `None`: it made none, or it was to be closed meanwhile.
    pub async fn and_then<T>(self, step: impl AsyncFnOnce(S) -> Option<T>) -> Option<Closable<T>> {
        let Closable {
            stream,
            activity,
            mut closing,
        } = self;
        let stream = tokio::select! {
            () = &mut closing => None,
            stream = step(stream) => stream,
        }?;
        Some(Closable {
            stream,
            activity,
            closing,
        })
    }

    /// Polls the stream, unless it is to be closed, and notes that bytes moved.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.closing.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let polled = poll(&mut self.stream, context);
        if polled.is_ready() {
            *self.activity.last_moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Closable<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(context, |stream, context| Pin::new(stream).poll_read(context, into))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Closable<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(context, |stream, context| Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, |stream, context| {
            Pin::new(stream).poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn the_one_that_was_silent_longest_is_closed_and_the_others_go_on() {
        let room = LongestIdle::default();
        room.close();
        let (first, mut first_peer) = duplex(16);
        let (second, _second_peer) = duplex(16);
        let (mut first, mut second) = (room.include(first), room.include(second));
        // The first is older, and has moved since.
        first_peer.write_all(b"a").await.unwrap();
        assert_eq!(first.read_u8().await.unwrap(), b'a');
        let (ended, ()) = tokio::join!(second.read_u8(), async { room.close() });
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        first_peer.write_all(b"b").await.unwrap();
        assert_eq!(first.read_u8().await.unwrap(), b'b');
        // One that is closing already is not closed twice; one that is gone is nobody.
        room.close();
        assert_eq!(
            first.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
        drop((first, second));
        room.close();
    }
}
