//! Who may connect: limits per address prefix, and the address that a balancer names.
//!
//! Connections from several addresses of 127/8, as raw sockets; what is refused is closed before anything is read.

use std::net::SocketAddr;

use citygate::operate::config::Config;
use citygate::operate::start;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::harness::mqtt::{self, Mqtt, Reply, Version};
use crate::harness::program::Program;
use crate::harness::{Broker, TEST_TIMEOUT, TestGateway, eventually, gateway};

const READING: &[u8] = br#"{"temperature_c": 21.5}"#;
const PATH: &str = "devices/roof-1/weather";

async fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the gateway serves it, and answers a CONNECT; else it closes it.
async fn is_served(stream: TcpStream) -> bool {
    is_served_after(&[], stream).await
}

async fn is_served_after(first: &[u8], stream: TcpStream) -> bool {
    let mut mqtt = Mqtt::over(stream, Version::V5);
    mqtt.write(&[first, &mqtt::connect(Version::V5, "a-client")].concat())
        .await;
    matches!(timeout(TEST_TIMEOUT, mqtt.connack()).await.unwrap(), Some((0, _)))
}

async fn ends(mut stream: TcpStream) {
    let read = timeout(TEST_TIMEOUT, stream.read(&mut [0])).await;
    assert_eq!(read.expect("nothing was read, and it is closed").unwrap_or(0), 0);
}

fn limited(config: &mut Config) {
    config.limits.prefix.exempt = Default::default();
    config.limits.prefix.connecting_max = 3;
    config.limits.prefix.connections_max = 6;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_network_does_not_keep_the_others_out() {
    let gateway = TestGateway::start(&Broker::any(), limited).await;
    let (mqtt, http) = (gateway.addresses.mqtt.unwrap(), gateway.addresses.http.unwrap());
    let (loud, calm) = ([127, 0, 3, 1], [127, 0, 3, 2]);
    // Three say nothing, the fourth is closed; of another address it is served.
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(connect_from(loud, mqtt).await);
    }
    ends(connect_from(loud, mqtt).await).await;
    assert!(is_served(connect_from(calm, mqtt).await).await);
    // Who has said CONNECT counts among the connections alone; HTTP and MQTT count together.
    let mut served = Vec::new();
    for stream in silent.drain(..) {
        let mut client = Mqtt::over(stream, Version::V5);
        let name = format!("client-{}", served.len());
        client.write(&mqtt::connect(Version::V5, &name)).await;
        assert!(matches!(client.connack().await, Some((0, _))));
        served.push(client);
    }
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut stream = connect_from(loud, http).await;
        let request = format!(
            "POST /{PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            READING.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(READING).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 204");
        kept.push(stream);
    }
    ends(connect_from(loud, http).await).await;
    ends(connect_from(loud, mqtt).await).await;
    assert!(is_served(connect_from(calm, mqtt).await).await);
    let refused = |reason| {
        gateway
            .scrape()
            .sum("citygate_connections_refused_total", &[("reason", reason)])
    };
    assert_eq!((refused("connecting_max"), refused("connections_max")), (1, 2));
    // Those that were there go on.
    for client in &mut served {
        client.publish(1, PATH, "", READING).await;
        assert!(matches!(client.read().await, Reply::PubAck { reason: 0, .. }));
    }
    gateway.finish().await;
}

/// A connection over HTTP counts as one that has not said who it is until a request and its sender were accepted.
#[tokio::test(flavor = "multi_thread")]
async fn who_connects_over_http_and_says_nothing_is_limited_as_over_mqtt() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        limited(config);
        config.limits.prefix.connections_max = 100;
    })
    .await;
    let (http, loud) = (gateway.addresses.http.unwrap(), [127, 0, 3, 1]);
    let ask = async |stream: &mut TcpStream, request: &str, status: &[u8; 12]| {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answered = [0; 12];
        stream.read_exact(&mut answered).await.unwrap();
        assert_eq!(&answered, status);
    };
    let reading = std::str::from_utf8(READING).unwrap();
    let length = reading.len();
    let post = format!("POST /{PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{reading}");
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(connect_from(loud, http).await);
    }
    ends(connect_from(loud, http).await).await;
    ask(&mut connect_from([127, 0, 3, 2], http).await, &post, b"HTTP/1.1 204").await;
    // To ask whether anybody is there proves nothing.
    let mut greeted = silent.remove(0);
    ask(&mut greeted, "GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200").await;
    ends(connect_from(loud, http).await).await;
    // Who has sent a reading counts among the connections alone, of which there may be more.
    for stream in &mut silent {
        ask(stream, &post, b"HTTP/1.1 204").await;
    }
    for _ in 0..6 {
        let mut another = connect_from(loud, http).await;
        ask(&mut another, &post, b"HTTP/1.1 204").await;
        silent.push(another);
    }
    gateway.finish().await;
}

/// What `check` and a start say of these settings.
async fn warnings(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let broker = Broker::mock();
    let mut config = gateway::config(&broker, change);
    let (_, findings) = start::prepare(&mut config).await;
    let about = |text: &String| text.contains("limits.prefix") || text.contains("proxy_protocol");
    findings.warnings.into_iter().filter(about).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn balancers_that_may_be_anybody_and_limits_that_limit_nothing_are_warned_of() {
    let said = warnings(|config| {
        config.mqtt.proxy_protocol = "10.0.0.0/8, 10.0.0.5, 192.0.2.0/24".parse().unwrap();
        config.http.proxy_protocol = "fd00::/48, fd01::/56".parse().unwrap();
        config.limits.prefix.connections_max = 10_000_000;
    })
    .await;
    let starts = [
        "mqtt.proxy_protocol: whoever is in 10.0.0.0/8 may claim",
        "http.proxy_protocol: whoever is in fd00::/48 may claim",
    ];
    // Nobody else connects to loopback.
    assert_eq!(said.len(), starts.len(), "{said:?}");
    assert!(
        said.iter().zip(starts).all(|(said, start)| said.starts_with(start)),
        "{said:?}"
    );
    let open = |config: &mut Config| {
        config.http.listen = SocketAddr::from(([0, 0, 0, 0], 0)).into();
        (config.http.allow_plaintext, config.http.allow_anonymous) = (true, true);
    };
    let said = warnings(|config| {
        open(config);
        config.limits.prefix.connections_max = 10_000_000;
        config.limits.prefix.connecting_max = 1;
    })
    .await;
    assert_eq!(said.len(), 1, "{said:?}");
    let start = "limits.prefix.connections_max: 10000000 is more than all connections that there can be (";
    assert!(said[0].starts_with(start), "{said:?}");
    let said = warnings(|config| {
        open(config);
        (
            config.limits.prefix.connections_max,
            config.limits.prefix.connecting_max,
        ) = (10, 10);
    })
    .await;
    assert!(said.is_empty(), "{said:?}");
}

/// A PROXY protocol header, version 2, of a connection over IPv4.
fn header(source: [u8; 4]) -> Vec<u8> {
    let addresses = [&source[..], &[127, 0, 0, 1], &[0x12, 0x34, 0x07, 0x5b]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_says_for_whom_it_connects() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        limited(config);
        config.limits.prefix.exempt = "127.0.0.1/32".parse().unwrap();
        config.mqtt.proxy_protocol = "127.0.3.9".parse().unwrap();
        config.http.proxy_protocol = "127.0.3.9".parse().unwrap();
    })
    .await;
    let (mqtt, http) = (gateway.addresses.mqtt.unwrap(), gateway.addresses.http.unwrap());
    let balancer = [127, 0, 3, 9];
    let behind = async |source: [u8; 4], to| {
        let mut stream = connect_from(balancer, to).await;
        stream.write_all(&header(source)).await.unwrap();
        stream
    };
    // Limits are those of the address that it names.
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(behind([192, 0, 2, 7], mqtt).await);
    }
    let refused = |reason| {
        let scrape = gateway.scrape();
        scrape.sum("citygate_connections_refused_total", &[("reason", reason)])
    };
    ends(behind([192, 0, 2, 7], mqtt).await).await;
    assert_eq!(refused("connecting_max"), 1);
    assert!(is_served(behind([192, 0, 2, 8], mqtt).await).await);
    // What it does not say, and what nobody else may say.
    assert!(!is_served(connect_from(balancer, mqtt).await).await);
    let stranger = connect_from([127, 0, 3, 1], mqtt).await;
    assert!(!is_served_after(&header([192, 0, 2, 9]), stranger).await);
    assert!(is_served(connect_from([127, 0, 3, 1], mqtt).await).await);
    assert_eq!(refused("proxy_protocol"), 1);
    // Whoever may write a header may write any address: none is exempt that comes from there.
    let mut local = Vec::new();
    for _ in 0..3 {
        local.push(behind([127, 0, 0, 1], mqtt).await);
    }
    ends(behind([127, 0, 0, 1], mqtt).await).await;
    assert_eq!(refused("connecting_max"), 2, "it is not closed for its silence");
    assert!(
        is_served(TcpStream::connect(mqtt).await.unwrap()).await,
        "this machine itself is"
    );
    // The same over HTTP.
    let mut stream = behind([192, 0, 2, 10], http).await;
    let request = format!("POST /{PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nconnection: close\r\n\r\n[");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(TEST_TIMEOUT, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    gateway.finish().await;
}

/// A balancer whose setting was forgotten shuts out every device: that is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_sends_no_header_is_named_in_the_log() {
    let program = Program::start_changed(&Broker::any(), |config| {
        config.mqtt.proxy_protocol = "127.0.0.1".parse().unwrap();
    });
    eventually("it runs", async || program.try_admin("/livez").await.map(drop)).await;
    let mqtt = program.addresses.mqtt.unwrap();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(mqtt).await.unwrap();
        stream
            .write_all(b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02ab")
            .await
            .unwrap();
        ends(stream).await;
    }
    let said = program.said();
    let lines: Vec<_> = said
        .lines()
        .filter(|line| line.contains("connections of a balancer are closed"))
        .collect();
    assert!(lines.len() == 1 && lines[0].contains("balancer=127.0.0.1:"), "{said}");
}
