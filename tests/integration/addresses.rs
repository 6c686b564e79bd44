//! Where a gateway listens: on one address or several, and CoAP's answers leave from the one that was asked.
//!
//! A connected socket is the judge: it accepts no datagram from another address. What several interfaces, IPv6 and
//! multicast add is tried in network namespaces, by `tests/interop/addresses.sh`.

use std::net::SocketAddr;

use citygate::gateway::Addresses;
use citygate::operate::config::Config;
use serde_json::Value;

use crate::harness::{Broker, Client, TEST_TIMEOUT, TestGateway, Via, has_ipv6};

const BODY: &[u8] = br#"{"temperature_c": 21.5}"#;

/// Sends a reading and requires that it is accepted.
async fn accepted(via: Via, addresses: &Addresses, device: &str) {
    let mut client = Client::connect(via, addresses).await;
    client.post(&format!("devices/{device}/weather"), "", BODY).await;
    let answer = client.answer(TEST_TIMEOUT).await;
    assert_eq!(answer.expect("an answer").code, via.yes(), "{via:?} {addresses:?}");
}

fn everywhere(address: SocketAddr) -> Addresses {
    let [mqtt, coap, http, admin] = [Some(address); 4];
    Addresses {
        mqtt,
        coap,
        http,
        admin,
        ..Addresses::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coap_answers_from_the_address_that_was_asked() {
    for wildcard in ["0.0.0.0:0", "[::]:0"] {
        if wildcard.starts_with('[') && !has_ipv6() {
            continue;
        }
        let gateway = TestGateway::start(&Broker::any(), |config| config.coap.listen = wildcard.parse().unwrap()).await;
        let port = gateway.addresses.coap.unwrap().port();
        // The first datagram to an address, and those that come when it has its own socket.
        for round in 0..3 {
            for last in [1, 2, 3] {
                let asked = SocketAddr::from(([127, 0, 0, last], port));
                accepted(Via::Coap, &everywhere(asked), &format!("asked-{last}-{round}")).await;
            }
        }
        assert_eq!(gateway.records("weather").len(), 9, "none was sent again");
        let scrape = gateway.scrape();
        assert_eq!(scrape.sum("citygate_coap_own_addresses", &[]), 3);
        assert_eq!(scrape.sum("citygate_coap_own_addresses_failed_total", &[]), 0);
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_addresses_than_there_is_room_for_are_answered_as_well() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.coap.listen = "0.0.0.0:0".parse().unwrap()
    })
    .await;
    let port = gateway.addresses.coap.unwrap().port();
    for round in 0..2 {
        for last in 1..=70 {
            let asked = SocketAddr::from(([127, 0, 0, last], port));
            accepted(Via::Coap, &everywhere(asked), &format!("asked-{last}-{round}")).await;
        }
    }
    assert_eq!(gateway.scrape().sum("citygate_coap_own_addresses", &[]), 64);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_stays_refused() {
    let wildcard = |config: &mut Config| config.coap.listen = "0.0.0.0:0".parse().unwrap();
    let gateway = TestGateway::start(&Broker::any(), wildcard).await;
    let port = gateway.addresses.coap.unwrap().port();
    accepted(Via::Coap, &everywhere(SocketAddr::from(([127, 0, 0, 2], port))), "a").await;
    for address in [[127, 0, 0, 2], [127, 0, 0, 3]] {
        let socket = std::net::UdpSocket::bind(SocketAddr::from((address, port)));
        assert!(socket.is_err(), "nobody else gets {address:?}");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_listens_on_each_of_its_addresses() {
    let both = match has_ipv6() {
        true => "127.0.0.1:0, [::1]:0",
        false => "127.0.0.1:0, 127.0.0.2:0",
    };
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.mqtt.listen = both.parse().unwrap();
        config.coap.listen = "127.0.0.1:0, 127.0.0.2:0".parse().unwrap();
        config.http.listen = both.parse().unwrap();
        config.admin.listen = both.parse().unwrap();
    })
    .await;
    let (_, status) = gateway.admin("/status").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let listeners = |name: &str| -> Vec<SocketAddr> {
        let text = status["listeners"][name].as_str().unwrap();
        text.split(", ").map(|address| address.parse().unwrap()).collect()
    };
    let mut sent = 0;
    for (name, via) in [
        ("mqtt", Via::Mqtt311),
        ("mqtt", Via::Mqtt5),
        ("coap", Via::Coap),
        ("http", Via::Http),
    ] {
        assert_eq!(listeners(name).len(), 2, "{name}: {status}");
        for address in listeners(name) {
            accepted(via, &everywhere(address), "listed").await;
            sent += 1;
        }
    }
    for address in listeners("admin") {
        let answer = reqwest::get(format!("http://{address}/livez")).await.unwrap();
        assert!(answer.status().is_success());
    }
    assert_eq!(gateway.records("weather").len(), sent);
    gateway.finish().await;
}
