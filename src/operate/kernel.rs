//! Limits of the kernel that are lower than what the listeners ask for; the kernel says nothing, it gives less.
//!
//! Read from `/proc/sys`. Where they cannot be seen (a container has no `rmem_max`, another system no `/proc`), nothing is
//! said. Only of listeners beyond loopback: a laptop has no storm of devices.

use std::net::SocketAddr;

use bytesize::ByteSize;

use crate::listen::tcp::BACKLOG;
use crate::operate::config::Config;

/// What is lower than asked for, and how it is raised.
pub fn warnings(config: &Config) -> Vec<String> {
    found(config, |name| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?;
        text.trim().parse().ok()
    })
}

fn found(config: &Config, limit: impl Fn(&str) -> Option<u64>) -> Vec<String> {
    let mut found = Vec::new();
    let asked = config.coap.receive_buffer_bytes;
    if config.coap.enabled
        && is_beyond_loopback(&config.coap.listen)
        && let Some(granted) = limit("rmem_max").map(ByteSize::b).filter(|&granted| granted < asked)
    {
        found.push(format!(
            "coap: the kernel grants receive buffers of {granted} only, not {asked} (coap.receive_buffer_bytes), so bursts of \
             datagrams are dropped; set net.core.rmem_max = {} (sysctl)",
            asked.as_u64()
        ));
    }
    let with_tls = |enabled: bool, listen: &[SocketAddr], tls: Option<&[SocketAddr]>| {
        enabled && (is_beyond_loopback(listen) || tls.is_some_and(is_beyond_loopback))
    };
    let (mqtt, http) = (&config.mqtt, &config.http);
    let accepts = with_tls(mqtt.enabled, &mqtt.listen, mqtt.tls.listen.as_deref())
        || with_tls(http.enabled, &http.listen, http.tls.listen.as_deref());
    if accepts && let Some(granted) = limit("somaxconn").filter(|&granted| granted < u64::from(BACKLOG)) {
        found.push(format!(
            "mqtt, http: the kernel queues {granted} new connections only, not {BACKLOG}, so some are refused when all devices \
             come back at once; set net.core.somaxconn = 4096 (sysctl)"
        ));
    }
    found
}

fn is_beyond_loopback(listen: &[SocketAddr]) -> bool {
    listen.iter().any(|address| !address.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_cut_is_said_of_listeners_beyond_loopback() {
        let check = |coap: &str, http: &str, rmem_max: Option<u64>, somaxconn: u64, expected: &[&str]| {
            let mut config = Config::default();
            config.coap.listen = coap.parse().unwrap();
            config.http.listen = http.parse().unwrap();
            let limit = |name: &str| match name {
                "rmem_max" => rmem_max,
                _ => Some(somaxconn),
            };
            let said = found(&config, limit);
            assert_eq!(said.len(), expected.len(), "{said:?}");
            for (said, expected) in said.iter().zip(expected) {
                assert!(said.contains(expected), "{said}");
            }
        };
        let (coap, http) = ("0.0.0.0:5683", "127.0.0.1:80, 10.0.0.1:80");
        check("127.0.0.1:5683", "[::1]:80", Some(212_992), 128, &[]);
        check(coap, http, Some(4 << 20), 1024, &[]);
        check(coap, http, None, 4096, &[]);
        check(coap, "[::1]:80", Some(212_992), 128, &["net.core.rmem_max = 4194304"]);
        let both = [
            "208.0 KiB only, not 4.0 MiB",
            "queues 128 new connections only, not 1024",
        ];
        check(coap, http, Some(212_992), 128, &both);
    }
}
