//! Ports for servers that are killed and must find their port free when they come back.
//!
//! The kernel hands out ports from 32768 on to the hundreds of connections that devices open while a server is down; a
//! server's port must not be among them, so it is looked for below.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;

use rand::RngExt;

const RANGE: Range<u16> = 20_000..32_000;
const TRIES: usize = 200;

/// The first of `count` consecutive ports of loopback that are free now, neither TCP nor UDP.
pub fn free_block(count: u16) -> anyhow::Result<u16> {
    let mut dice = rand::rng();
    let mut tries = (0..TRIES).map(|_| dice.random_range(RANGE.start..RANGE.end - count));
    let found = tries.find(|&first| (first..first + count).all(is_free));
    found.ok_or_else(|| {
        anyhow::anyhow!(
            "no {count} free ports in a row between {} and {}",
            RANGE.start,
            RANGE.end
        )
    })
}

fn is_free(port: u16) -> bool {
    let at = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_free() {
        let first = free_block(3).unwrap();
        assert!((first..first + 3).all(|port| RANGE.contains(&port)));
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(held.local_addr().unwrap().port()));
    }
}
