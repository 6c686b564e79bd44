//! Why a listener could not be started, in words that say what to do.
//!
//! Everything that goes wrong later is one connection's, and is counted and logged by its listener.

/// A listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is in use, or not this machine's.
    #[error("{listener} cannot listen on {address}: {source}{}", advice(source))]
    Bind {
        listener: &'static str,
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    /// Its certificate cannot be shown.
    #[error("{listener}.tls: {why}")]
    Tls { listener: &'static str, why: String },
    /// The system gives no thread, or no poll descriptor.
    #[error("{listener} has no thread of its own: {source}")]
    Thread {
        listener: &'static str,
        source: std::io::Error,
    },
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process listens there, perhaps a gateway that still runs",
        std::io::ErrorKind::AddrNotAvailable => "; it is not an address of this machine",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => "",
    }
}
