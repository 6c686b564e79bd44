//! One connection's bytes: a stream, what was read and not yet decoded, what is written and not yet sent.
//!
//! A connection that has nothing to say holds no buffer: reading borrows the thread's spare one, which goes back as
//! soon as its packets are decoded. What is left (part of a packet) is kept in a buffer of at most twice its size, and
//! charged to the budget of incomplete messages when it is larger than is free of charge.

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::listen::incomplete::arrival::Arrival;
use crate::listen::incomplete::rate::Rate;
use crate::listen::incomplete::{Evicted, FREE_BYTES, PeerBudget};
use crate::listen::tcp::linger;

/// Bytes asked for at once, unless a large packet is under way: a window of 20 usual readings.
const READ_BYTES: usize = 16 * 1024;

/// Bytes asked for at once of a large packet.
const READ_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<BytesMut> = Cell::default();
}

#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    pub inbound: BytesMut,
    pub outbound: BytesMut,
    /// Bytes that the packet at the front lacks, if that is known: of a large one, no more than these is read.
    pub missing: usize,
    // Bytes allocated behind `inbound`, however little of them it shows.
    kept: usize,
    budget: PeerBudget,
    rate: Rate,
    /// Of the packet at the front.
    pub arrival: Arrival,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Bytes were read; zero: the peer has closed its side.
    Read(usize),
    /// Bytes were sent.
    Sent,
    /// The packet that arrives is evicted: others wait for memory.
    Evicted(Evicted),
}

// === impl Wire ===

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S, budget: PeerBudget, rate: Rate) -> Self {
        Wire {
            stream,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            missing: 0,
            kept: 0,
            budget,
            rate,
            arrival: Arrival::new(rate),
        }
    }

    /// Sends what there is to send; then, if `reading`, reads. Loses nothing when it is not polled again.
    pub fn poll(&mut self, context: &mut Context<'_>, reading: bool) -> Poll<io::Result<Moved>> {
        let before = self.outbound.len();
        let sent = self.poll_send(context)?;
        if reading {
            if let Poll::Ready(moved) = self.poll_read(context)? {
                return Poll::Ready(Ok(moved));
            }
        } else {
            self.arrival.pause();
        }
        match sent.is_ready() && before > 0 || self.outbound.len() < before {
            true => Poll::Ready(Ok(Moved::Sent)),
            false => Poll::Pending,
        }
    }

    /// Sends what can be sent without waiting.
    pub async fn send_now(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| match self.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        })
        .await
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbound.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.outbound) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.outbound.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        // Memory for the acknowledgements of a usual window is kept; what a reason string or a burst needed is not.
        if self.outbound.capacity() > 1024 {
            self.outbound = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Moved>> {
        let most = match ready!(self.arrival.poll_turn(context)) {
            Ok(Some(bytes)) => bytes,
            // One byte more shows that the packet is to be charged.
            Ok(None) if self.budget.is_full() => (FREE_BYTES + 1).saturating_sub(self.inbound.len()).max(1),
            Ok(None) => READ_BYTES_MAX,
            Err(why) => return Poll::Ready(Ok(Moved::Evicted(why))),
        };
        let count = ready!(self.poll_read_some(context, most))?;
        Poll::Ready(Ok(Moved::Read(count)))
    }

    fn poll_read_some(&mut self, context: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let part = self.inbound.len();
        if part >= READ_BYTES {
            let more = self.missing.clamp(READ_BYTES, READ_BYTES_MAX).min(part).min(most);
            self.inbound.reserve(more);
            self.kept = self.kept.max(self.inbound.capacity());
            let mut rest = (&mut self.inbound).limit(more);
            return pin!(self.stream.read_buf(&mut rest)).poll(context);
        }
        // Behind part of a packet, too: who has sent one byte of it and then nothing must not occupy memory for the rest.
        let mut buffer = SPARE.take();
        buffer.clear();
        buffer.reserve(part + READ_BYTES);
        buffer.extend_from_slice(&self.inbound);
        let mut start = (&mut buffer).limit(READ_BYTES.min(most));
        let polled = pin!(self.stream.read_buf(&mut start)).poll(context);
        if buffer.len() == part {
            SPARE.set(buffer);
        } else {
            self.kept = buffer.capacity();
            self.inbound = buffer;
        }
        polled
    }

    /// Drops what was read and not decoded, and returns what it was charged: it will not be.
    pub fn discard(&mut self) {
        self.arrival = Arrival::new(self.rate);
        (self.inbound, self.kept, self.missing) = (BytesMut::new(), 0, 0);
    }

    /// Call when nothing more can be decoded: charges the rest, and gives memory back that it does not need.
    pub fn settle(&mut self) {
        let rest = self.inbound.len();
        // Whole packets that wait for their turn are not charged: there are no more of them than one read brings.
        if self.missing > 0 || self.arrival.is_charged() {
            self.arrival.charge(rest, &self.budget);
        }
        if self.kept <= 2 * rest + 512 {
            return;
        }
        let buffer = match rest {
            0 => std::mem::take(&mut self.inbound),
            _ => {
                let kept = BytesMut::from(&self.inbound[..]);
                std::mem::replace(&mut self.inbound, kept)
            }
        };
        if self.kept <= 2 * READ_BYTES {
            SPARE.set(buffer);
        }
        self.kept = self.inbound.capacity();
    }

    /// Sends what is left, then closes so that the peer hears it, for which it has `wait`.
    pub async fn close(mut self, wait: Duration) {
        linger::close(&mut self.stream, &self.outbound, wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::Metrics;
    use crate::listen::incomplete::Budget;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
        /// With a budget of its own.
        pub fn for_testing(stream: S) -> Self {
            let metrics = Metrics::default();
            let budget = Budget::new(1 << 20, &metrics.admission);
            let rate = Rate::new(512, Duration::from_secs(30));
            Wire::new(stream, budget.for_peer([127, 0, 0, 1].into()), rate)
        }
    }

    async fn read(wire: &mut Wire<DuplexStream>) -> Moved {
        std::future::poll_fn(|context| wire.poll(context, true)).await.unwrap()
    }

    #[tokio::test]
    async fn a_silent_connection_holds_no_buffer() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::for_testing(near);
        far.write_all(&[7; 5000]).await.unwrap();
        assert_eq!(read(&mut wire).await, Moved::Read(5000));
        drop(wire.inbound.split_to(5000));
        wire.settle();
        assert_eq!((wire.inbound.capacity(), wire.kept), (0, 0));
    }

    #[tokio::test]
    async fn the_start_of_a_packet_is_kept_at_its_size() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::for_testing(near);
        far.write_all(&[7; 5000]).await.unwrap();
        read(&mut wire).await;
        drop(wire.inbound.split_to(4990));
        wire.settle();
        assert_eq!(wire.inbound[..], [7; 10]);
        assert!(wire.kept < 600, "{}", wire.kept);
        let waits = std::future::poll_fn(|context| Poll::Ready(wire.poll(context, true).is_pending())).await;
        assert!(
            waits && wire.inbound.capacity() < 600,
            "nor while the rest is waited for"
        );
        far.write_all(&[8; 5000]).await.unwrap();
        assert_eq!(read(&mut wire).await, Moved::Read(5000));
        assert_eq!(wire.inbound.len(), 5010);
        assert_eq!(wire.inbound[9..11], [7, 8]);
    }

    #[tokio::test]
    async fn a_large_packet_leaves_no_memory_behind() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::for_testing(near);
        far.write_all(&[7; 300_000]).await.unwrap();
        while wire.inbound.len() < 300_000 {
            read(&mut wire).await;
            wire.settle();
        }
        drop(wire.inbound.split_to(299_990));
        wire.settle();
        assert_eq!(wire.inbound[..], [7; 10]);
        assert!(wire.kept < 600, "{}", wire.kept);
    }

    #[tokio::test]
    async fn of_a_large_packet_no_more_is_read_than_it_lacks() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::for_testing(near);
        far.write_all(&[7; 200_000]).await.unwrap();
        assert_eq!(read(&mut wire).await, Moved::Read(READ_BYTES));
        while wire.inbound.len() < 100_000 {
            wire.missing = 100_000 - wire.inbound.len();
            read(&mut wire).await;
        }
        // The last read may take what one read of a small packet would have.
        assert!(wire.inbound.len() < 100_000 + READ_BYTES, "{}", wire.inbound.len());
    }

    #[tokio::test]
    async fn while_the_budget_is_used_up_a_connection_is_read_no_further_than_is_free() {
        let budget = Budget::new(100_000, &Metrics::default().admission).for_peer([127, 0, 0, 1].into());
        let _others = budget.charge(100_000);
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(near, budget, Rate::new(512, Duration::from_secs(30)));
        for sent in [4000, 20_000] {
            far.write_all(&vec![7; sent]).await.unwrap();
            read(&mut wire).await;
            wire.missing = 100_000 - wire.inbound.len();
            wire.settle();
        }
        assert_eq!((wire.inbound.len(), wire.arrival.is_charged()), (FREE_BYTES + 1, true));
    }

    #[tokio::test]
    async fn what_does_not_fit_is_sent_later() {
        let (near, mut far) = tokio::io::duplex(100);
        let mut wire = Wire::for_testing(near);
        wire.outbound.extend_from_slice(&[9; 250]);
        wire.send_now().await.unwrap();
        assert_eq!(wire.outbound.len(), 150);
        let mut received = [0; 250];
        let (moved, _) = tokio::join!(
            async {
                while !wire.outbound.is_empty() {
                    let moved = std::future::poll_fn(|context| wire.poll(context, false)).await;
                    assert_eq!(moved.unwrap(), Moved::Sent);
                }
            },
            far.read_exact(&mut received)
        );
        let () = moved;
        assert_eq!(received, [9; 250]);
    }
}
