//! Time-outs for a connection whose peer does not move: it reads nothing of what it is sent, or sends nothing.
//!
//! hyper has a time-out for heads, not for what it writes: a client that sends batches and never reads would keep their
//! answers in memory for as long as it likes. Behind axum it has none at all.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream of which a write fails when the peer accepts no byte for so long, and a read when it sends none.
#[derive(Debug)]
pub struct StallTimeout<S> {
    stream: S,
    writes: Wait,
    reads: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    timeout: Duration,
    // While nothing moves.
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Wait ===

impl Wait {
    fn new(timeout: Duration) -> Self {
        Wait { timeout, timer: None }
    }

    fn poll<T>(&mut self, context: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.timer = None;
            return moved;
        }
        let timeout = self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        timer
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

// === impl StallTimeout ===

impl<S> StallTimeout<S> {
    /// Writes wait for `timeout`, reads without end.
    pub fn with_writes(stream: S, timeout: Duration) -> Self {
        StallTimeout {
            stream,
            writes: Wait::new(timeout),
            reads: None,
        }
    }

    /// Both wait for `timeout`.
    pub fn with_both(stream: S, timeout: Duration) -> Self {
        StallTimeout {
            reads: Some(Wait::new(timeout)),
            ..Self::with_writes(stream, timeout)
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        match &mut self.reads {
            None => read,
            Some(wait) => wait.poll(context, read),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.writes.poll(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.writes.poll(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.writes.poll(context, closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_peer_that_does_not_move_loses_the_connection() {
        let (near, _far) = duplex(16);
        let mut stream = StallTimeout::with_both(near, SHORT);
        let silent = stream.read_u8().await.unwrap_err();
        let unread = stream.write_all(&[0; 17]).await.unwrap_err();
        assert_eq!([silent.kind(), unread.kind()], [io::ErrorKind::TimedOut; 2]);
    }

    #[tokio::test]
    async fn one_that_moves_keeps_it_for_as_long_as_it_takes() {
        let (near, mut far) = duplex(16);
        let mut stream = StallTimeout::with_both(near, SHORT);
        let write = async { stream.write_all(&[0; 16 * 6]).await };
        let read = async {
            let mut byte = [0; 16];
            for _ in 0..6 {
                tokio::time::sleep(SHORT / 2).await;
                far.read_exact(&mut byte).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(write, read);
        written.unwrap();
    }
}
