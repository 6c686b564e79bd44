//! A connection whose client reads its answers, or loses it.
//!
//! hyper has a time-out for heads, not for what it writes: a client that sends batches and never reads would keep their
//! answers in memory for as long as it likes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream of which a write fails when the peer accepts no byte for `patience`.
#[derive(Debug)]
pub struct Patience<S> {
    stream: S,
    patience: Duration,
    // While a write waits.
    gives_up: Option<Pin<Box<Sleep>>>,
}

// === impl Patience ===

impl<S: AsyncWrite + Unpin> Patience<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Patience {
            stream,
            patience,
            gives_up: None,
        }
    }

    fn poll_with<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream), context);
        if written.is_ready() {
            self.gives_up = None;
            return written;
        }
        let patience = self.patience;
        let gives_up = self
            .gives_up
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        gives_up
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patience<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patience<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_with(context, AsyncWrite::poll_shutdown)
    }
}
