//! What every test stands on: gateways, Kafkas, clients of the three protocols, and a reader of what arrived.
//!
//! Nothing here shares code with the gateway's own listeners: the clients write and read their bytes themselves, so
//! that a mistake made twice in the same way is not taken for agreement.

pub mod avro;
pub mod broker;
pub mod certificates;
pub mod chaos;
pub mod clients;
pub mod fence;
pub mod gateway;
pub mod mqtt;
pub mod panics;
pub mod postgres;
pub mod program;
pub mod registry;
pub mod scrape;
pub mod senders;
pub mod store;

pub use broker::Broker;
pub use clients::{Client, Via};
pub use gateway::{GIVE_UP_SOON, TestGateway};

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a test waits for what must happen; only a test that fails waits so long.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The root of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Calls `probe` until it gives a value; panics with `what` after [`TEST_TIMEOUT`].
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {TEST_TIMEOUT:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Free TCP ports on loopback, for servers that cannot bind port 0. Each is given out once, and below those that the system
/// gives to connections: nothing else binds it before its server does.
pub fn free_ports<const N: usize>() -> [u16; N] {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Another process with tests begins elsewhere.
    let first = std::process::id().wrapping_mul(331);
    let port = || PORTS.start + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
    let free = || loop {
        let port = port() as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    };
    [(); N].map(|()| free())
}

/// Tells whoever runs the tests that this one checks less than it could, or nothing.
pub fn say_skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not `eprintln!`: the test runner would keep it to itself.
    let line = format!("SKIPPED {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Whether this machine has IPv6; if not, what needs it is left out, and this says so.
pub fn has_ipv6() -> bool {
    let bound = std::net::UdpSocket::bind("[::1]:0");
    if let Err(error) = &bound {
        say_skipped(&format!("IPv6: {error}"));
    }
    bound.is_ok()
}
