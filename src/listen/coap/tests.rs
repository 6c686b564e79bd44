//! CoAP's configuration and its listen address: units, mistakes reported together, an address in use named. What is
//! exchanged over the socket is tested with a whole gateway, in `tests/integration`; the message layer without one, in
//! `exchange`.

use super::*;

fn anywhere() -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
        ..Config::default()
    }
}

#[tokio::test]
async fn a_listener_knows_the_port_it_was_given() {
    let bound = bind(&anywhere()).await.unwrap();
    assert!(bound.addresses()[0].ip().is_loopback());
    assert_ne!(bound.addresses()[0].port(), 0);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let first = bind(&anywhere()).await.unwrap();
    let config = Config {
        listen: first.addresses()[0].into(),
        ..Config::default()
    };
    let error = bind(&config).await.unwrap_err().to_string();
    let expected = format!("coap cannot listen on {}: ", first.addresses()[0]);
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn the_section_is_read_with_its_units() {
    let text = r#"
        listen = "[::1]:15683"
        datagram_bytes_max = "1472 B"
        exchange_lifetime = "60s"
        piggyback_timeout = "250ms"
    "#;
    let config: Config = toml::from_str(text).unwrap();
    assert!(config.listen[0].is_ipv6());
    assert_eq!(config.datagram_bytes(), 1472);
    assert_eq!(config.exchange_lifetime, Duration::from_secs(60));
    assert_eq!(config.piggyback_timeout, Duration::from_millis(250));
    assert_eq!(config.max_retransmit, 4);
    let unknown = toml::from_str::<Config>("colour = 1").unwrap_err();
    assert!(unknown.to_string().contains("colour"), "{unknown}");
    let written = toml::to_string(&Config::default()).unwrap();
    assert!(toml::from_str::<Config>(&written).is_ok(), "{written}");
}

#[test]
fn mistakes_are_named_all_at_once() {
    assert_eq!(Config::default().mistakes().to_string(), "");
    let config = Config {
        piggyback_timeout: Duration::from_secs(2),
        ack_random_factor: f64::NAN,
        separate_max: 70_000,
        listen: ["127.0.0.1:0"; 33].join(", ").parse().unwrap(),
        ..Config::default()
    };
    let mistakes = config.mistakes().to_string();
    for field in ["piggyback_timeout", "ack_random_factor", "separate_max", "coap.listen"] {
        assert!(mistakes.contains(field), "{field} is missing in {mistakes}");
    }
}
