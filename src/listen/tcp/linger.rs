//! Closing a connection so that its peer hears what was sent last.
//!
//! A socket that is closed with unread bytes in it is reset, and an answer that its peer has not read yet is lost with it
//! (RFC 9112 §9.6). So the sending side is closed first, and what still comes is discarded for a bounded time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long a peer may take to read what it was sent last, and to close; and while the gateway ends.
const LINGER: Duration = Duration::from_secs(1);
const LAST_LINGER: Duration = Duration::from_millis(150);

/// Bytes discarded meanwhile: more than a message of the largest size has.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// How long a connection that ends may take for it.
pub fn wait_max(gateway_ends: bool) -> Duration {
    if gateway_ends { LAST_LINGER } else { LINGER }
}

/// Sends `last`, closes the sending side, and waits for the peer to close its own, all within `wait`.
pub async fn close(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), last: &[u8], wait: Duration) {
    let closing = async {
        stream.write_all(last).await?;
        stream.shutdown().await?;
        let mut left = LINGER_BYTES_MAX;
        let mut discarded = [0; 4096];
        while left > 0 {
            match stream.read(&mut discarded).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        io::Result::Ok(())
    };
    // Whether the peer heard it is the peer's business. On the heap: a connection that lives needs no memory for its end.
    drop(tokio::time::timeout(wait, Box::pin(closing)).await);
}
