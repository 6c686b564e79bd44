//! A proxy before Kafka that can fence it: while it does, the answers to Metadata name topics and no broker, as those of a
//! broker that its controller has fenced do.
//!
//! It makes itself the only address that Metadata names, so that every connection goes through it. It understands
//! Metadata up to version 8, where lengths are fixed, and lets ApiVersions offer no later one.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const METADATA: i16 = 3;
const METADATA_VERSION_MAX: i16 = 8;
const API_VERSIONS: i16 = 18;

/// See the module's documentation.
pub struct Fence {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_up: AtomicBool,
    /// Answers from which the brokers were taken.
    emptied: AtomicUsize,
    stopped: AtomicBool,
}

/// API key and version of each request under way, by correlation id.
type Asked = Mutex<HashMap<i32, (i16, i16)>>;

// === impl Fence ===

impl Fence {
    /// Before the Kafka at this address.
    pub fn before(servers: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fence = Fence {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        let (state, port, servers) = (fence.state.clone(), fence.address.port(), servers.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(&servers) {
                    connect(client, server, &state, port).unwrap();
                }
            }
        });
        fence
    }

    pub fn raise(&self) {
        self.state.is_up.store(true, Ordering::SeqCst);
    }

    pub fn lower(&self) {
        self.state.is_up.store(false, Ordering::SeqCst);
    }

    /// Answers that named no broker so far.
    pub fn emptied(&self) -> usize {
        self.state.emptied.load(Ordering::SeqCst)
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok(); // so that the thread looks
    }
}

/// Passes frames on between the two, from a thread for each direction.
fn connect(client: TcpStream, server: TcpStream, state: &Arc<State>, port: u16) -> io::Result<()> {
    let asked: Arc<Asked> = Arc::default();
    let (mut from, mut to, noted) = (client.try_clone()?, server.try_clone()?, asked.clone());
    std::thread::spawn(move || {
        pass(&mut from, &mut to, |frame| {
            let kind = (number_16(frame, 0), number_16(frame, 2));
            noted.lock().unwrap().insert(number_32(frame, 4), kind);
        });
    });
    let (mut from, mut to, state) = (server, client, state.clone());
    std::thread::spawn(move || {
        pass(&mut from, &mut to, |frame| {
            match asked.lock().unwrap().remove(&number_32(frame, 0)) {
                Some((API_VERSIONS, version)) => limit_metadata(frame, version),
                Some((METADATA, version)) => state.change(frame, version, port),
                _ => {}
            }
        });
    });
    Ok(())
}

/// Until one side ends; then the other ends as well.
fn pass(from: &mut TcpStream, to: &mut TcpStream, mut change: impl FnMut(&mut Vec<u8>)) {
    let mut next = || -> io::Result<()> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        from.read_exact(&mut frame)?;
        change(&mut frame);
        to.write_all(&[&(frame.len() as u32).to_be_bytes(), frame.as_slice()].concat())
    };
    while next().is_ok() {}
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}

/// Correlation id, error, then entries of key, least and greatest version: in a compact array since version 3.
fn limit_metadata(frame: &mut [u8], version: i16) {
    if number_16(frame, 4) != 0 {
        return; // asked in a version that this Kafka does not know; it will be asked again
    }
    let is_compact = version >= 3;
    let (mut at, size) = if is_compact { (7, 7) } else { (10, 6) };
    while at + 6 <= frame.len() && number_16(frame, at) != METADATA {
        at += size;
    }
    assert_eq!(number_16(frame, at), METADATA, "ApiVersions offers Metadata");
    let greatest = number_16(frame, at + 4).min(METADATA_VERSION_MAX);
    frame[at + 4..at + 6].copy_from_slice(&greatest.to_be_bytes());
}

// === impl State ===

impl State {
    /// Correlation id, the time to wait (since version 3), then brokers of id, host, port and rack (since version 1).
    fn change(&self, frame: &mut Vec<u8>, version: i16, port: u16) {
        assert!(version <= METADATA_VERSION_MAX, "Metadata version {version}");
        let brokers = if version >= 3 { 8 } else { 4 };
        let mut at = brokers + 4;
        for _ in 0..number_32(frame, brokers) {
            at += 4;
            at += 2 + number_16(frame, at) as usize;
            frame[at..at + 4].copy_from_slice(&u32::from(port).to_be_bytes());
            at += 4;
            if version >= 1 {
                at += 2 + number_16(frame, at).max(0) as usize;
            }
        }
        if self.is_up.load(Ordering::SeqCst) {
            frame[brokers..brokers + 4].fill(0);
            frame.drain(brokers + 4..at);
            self.emptied.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn number_16(frame: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(frame[at..at + 2].try_into().unwrap())
}

fn number_32(frame: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}
