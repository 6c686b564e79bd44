//! stub
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub enabled: bool,
    pub listen: SocketAddr,
    pub packet_bytes_max: bytesize::ByteSize,
}
impl Default for Config {
    fn default() -> Self {
        Config {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            packet_bytes_max: bytesize::ByteSize::kib(256),
        }
    }
}
#[derive(Debug)]
pub struct Bound {}
pub async fn bind(_c: &Config) -> Result<Bound, super::Error> {
    Ok(Bound {})
}
impl Bound {
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }
    pub fn serve(self, _f: super::Front) {}
}
