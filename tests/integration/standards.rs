//! What MQTT 3.1.1, MQTT 5 and CoAP say about a packet is what a client hears over the socket.
//!
//! The tables of what may not be sent are beside the codecs; here is what only a whole gateway shows: what a CONNACK
//! promises is kept, wills are counted when the standard says that they are due, and datagrams that the kernel dropped are
//! not lost unseen.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::mqtt::{self, Mqtt, Reply, Version};
use crate::harness::{Broker, TEST_TIMEOUT, TestGateway, eventually, has_ipv6};

const GOOD: &[u8] = br#"{"temperature_c": 21.5}"#;
const TOPIC: &str = "devices/roof/weather";

/// A packet that is not longer than 127 bytes, as it comes.
async fn short_packet(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let (first, length) = (stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap());
        assert!(length < 0x80);
        let mut packet = vec![0; usize::from(length)];
        stream.read_exact(&mut packet).await.unwrap();
        [&[first, length], &packet[..]].concat()
    };
    timeout(TEST_TIMEOUT, read).await.expect("the server answers")
}

/// A will on topic `t`; `properties` (MQTT 5) are those of the will, as they are written after their length.
fn connect_with_will(version: Version, client: &str, session_s: u8, properties: &[u8], retain: bool) -> Vec<u8> {
    let flags = if retain { 0b10_0100 } else { 0b100 };
    let of_connect: &[u8] = match version {
        Version::V311 => &[],
        Version::V5 if session_s == 0 => &[0],
        Version::V5 => &[5, 0x11, 0, 0, 0, session_s],
    };
    let clean = u8::from(version == Version::V311) << 1;
    let mut bytes = mqtt::connect_as("MQTT", version as u8, flags | clean, 60, of_connect, client);
    let before = bytes.len();
    if version == Version::V5 {
        bytes.push(properties.len() as u8);
        bytes.extend_from_slice(properties);
    }
    bytes.extend_from_slice(b"\0\x01t\0\x04gone");
    bytes[1] += (bytes.len() - before) as u8;
    assert!(bytes[1] < 0x80);
    bytes
}

/// [MQTT-3.2.2-14]: a server that says Retain Available 0 must not accept what it accepts here.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_connack_does_not_offer_is_not_accepted_and_what_is_accepted_is_not_denied() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let address = gateway.addresses.mqtt.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let connect = connect_with_will(Version::V5, "retained", 0, &[], true);
    stream.write_all(&connect).await.unwrap();
    let connack = short_packet(&mut stream).await;
    assert_eq!(
        (connack[0], connack[3]),
        (0x20, 0),
        "accepted with a retained will: {connack:02x?}"
    );
    // Receive Maximum, Maximum Packet Size and Topic Alias Maximum, and nothing that is not available.
    assert_eq!(
        connack[4..],
        *b"\x0b\x21\0\x40\x27\0\x04\0\0\x22\0\x10",
        "{connack:02x?}"
    );
    let mut mqtt = Mqtt::over(stream, Version::V5);
    for version in [Version::V5, Version::V311] {
        if version == Version::V311 {
            mqtt = Mqtt::connect(address, version, "retained-3.1.1").await;
        }
        let mut retained = mqtt::publish(version, 1, 7, TOPIC, "", GOOD);
        retained[0] |= 1;
        mqtt.write(&retained).await;
        let text = String::new();
        assert_eq!(mqtt.read().await, Reply::PubAck { id: 7, reason: 0, text });
    }
    // A subscription with a wildcard is refused in SUBACK, and the readings go on.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(&mqtt::connect(Version::V5, "subscriber"))
        .await
        .unwrap();
    short_packet(&mut stream).await;
    stream.write_all(b"\x82\x0a\0\x09\x02\x0b\x05\0\x02/#\0").await.unwrap();
    let suback = short_packet(&mut stream).await;
    assert_eq!((suback[0], suback.last()), (0x90, Some(&0x83)), "{suback:02x?}");
    let mut mqtt = Mqtt::over(stream, Version::V5);
    mqtt.publish(1, TOPIC, "", GOOD).await;
    assert!(matches!(mqtt.read().await, Reply::PubAck { reason: 0, .. }));
    assert_eq!(gateway.records("weather").len(), 3);
    gateway.finish().await;
}

/// What ends a connection with a will, and whether the will is then due.
#[derive(Clone, Copy, Debug)]
enum End {
    Disconnect,
    /// DISCONNECT with reason 0x04 and with 0x80, of MQTT 5.
    WithWill,
    WithError,
    /// A reason code that is reserved.
    Reserved,
    HungUp,
    SecondConnect,
    TakenOver,
}

/// Wills that were due so far.
fn due(gateway: &TestGateway) -> u64 {
    gateway.scrape().sum("citygate_mqtt_wills_discarded_total", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_counted_when_it_is_due() {
    let gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let address = gateway.addresses.mqtt.unwrap();
    let mut expected = 0;
    for (version, end, is_due) in [
        (Version::V311, End::Disconnect, false),
        (Version::V311, End::HungUp, true),
        (Version::V311, End::SecondConnect, true),
        (Version::V311, End::TakenOver, true),
        (Version::V5, End::Disconnect, false),
        (Version::V5, End::WithWill, true),
        (Version::V5, End::WithError, true),
        (Version::V5, End::Reserved, true),
        (Version::V5, End::HungUp, true),
        (Version::V5, End::SecondConnect, true),
        (Version::V5, End::TakenOver, true),
    ] {
        let client = format!("{version:?}-{end:?}");
        let mut mqtt = Mqtt::unconnected(address, version).await;
        mqtt.write(&connect_with_will(version, &client, 0, &[], false)).await;
        assert_eq!(mqtt.read().await, Reply::ConnAck { reason: 0 });
        match end {
            End::Disconnect => mqtt.write(&mqtt::DISCONNECT).await,
            End::WithWill => mqtt.write(&[0xE0, 1, 0x04]).await,
            End::WithError => mqtt.write(&[0xE0, 2, 0x80, 0]).await,
            End::Reserved => mqtt.write(&[0xE0, 1, 0x03]).await,
            End::HungUp => mqtt.end_stream().await,
            End::SecondConnect => mqtt.write(&mqtt::connect(version, "again")).await,
            End::TakenOver => drop(Mqtt::connect(address, version, &client).await),
        }
        let mut last = mqtt.read().await;
        if matches!(end, End::Reserved) {
            assert!(matches!(last, Reply::Disconnect { reason: 0x82, .. }), "{last:?}");
        }
        while last != Reply::Closed {
            last = mqtt.read().await;
        }
        expected += u64::from(is_due);
        // Counted before the connection is closed.
        assert_eq!(due(&gateway), expected, "{client}");
    }
    gateway.finish().await;
}

/// Will Delay Interval: deleted if the session is resumed in time, due if it ends before.
#[tokio::test(flavor = "multi_thread")]
async fn a_will_with_a_delay_is_counted_unless_its_client_is_back_in_time() {
    let mut gateway = TestGateway::start(&Broker::any(), |_| {}).await;
    let address = gateway.addresses.mqtt.unwrap();
    let mut expected = 0;
    const AN_HOUR: &[u8] = &[24, 0, 0, 0x0E, 0x10];
    for (clean, is_due) in [(false, false), (true, true)] {
        let client = format!("delayed-{clean}");
        let mut mqtt = Mqtt::unconnected(address, Version::V5).await;
        mqtt.write(&connect_with_will(Version::V5, &client, 100, AN_HOUR, false))
            .await;
        assert_eq!(mqtt.read().await, Reply::ConnAck { reason: 0 });
        mqtt.end_stream().await;
        assert_eq!(mqtt.read().await, Reply::Closed);
        assert_eq!(due(&gateway), expected, "it waits");
        match clean {
            true => drop(Mqtt::connect(address, Version::V5, &client).await),
            false => assert!(Mqtt::resume(address, Version::V5, &client).await.1),
        }
        expected += u64::from(is_due);
        eventually("the will is due", async || (due(&gateway) >= expected).then_some(())).await;
        assert_eq!(due(&gateway), expected, "{client}");
    }
    // One that still waited would be due with the gateway.
    gateway.drain().await;
    assert_eq!(due(&gateway), expected, "after the drain");
    gateway.finish().await;
}

/// Above 16 KiB, and below the Maximum Packet Size that CONNACK names.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_may_be_as_large_as_the_maximum_packet_size() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.mqtt.packet_bytes_max = bytesize::ByteSize::kib(64);
    })
    .await;
    let address = gateway.addresses.mqtt.unwrap();
    for version in [Version::V311, Version::V5] {
        let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let filters = |count: usize, options: &[u8]| -> Vec<u8> {
            let one = [b"\0\x03a/b", options].concat();
            [&[0, 9], properties, &one.repeat(count)].concat()
        };
        for (first, options, answer) in [(0x82, &[0][..], 0x90), (0xA2, &[], 0xB0)] {
            let count = 4000;
            let mut stream = TcpStream::connect(address).await.unwrap();
            let client = format!("{version:?}-{first:x}");
            stream.write_all(&mqtt::connect(version, &client)).await.unwrap();
            short_packet(&mut stream).await;
            let packet = mqtt::packet(first, &filters(count, options));
            assert!(packet.len() > 16 * 1024 && packet.len() < 64 * 1024);
            stream.write_all(&packet).await.unwrap();
            let acknowledged = timeout(TEST_TIMEOUT, mqtt::frame(&mut stream)).await.unwrap().unwrap();
            assert_eq!(acknowledged.0, answer, "{version:?}");
            if (version, answer) != (Version::V311, 0xB0) {
                assert!(acknowledged.1.len() > count, "one reason code for each filter");
            }
            // Beyond it.
            stream
                .write_all(&mqtt::packet(first, &filters(20_000, options)))
                .await
                .ok();
            let mut mqtt = Mqtt::over(stream, version);
            match version {
                Version::V5 => assert!(matches!(mqtt.read().await, Reply::Disconnect { reason: 0x95, .. })),
                Version::V311 => assert_eq!(mqtt.read().await, Reply::Closed),
            }
        }
    }
    gateway.finish().await;
}

/// With a will of 20,000 bytes, and one beyond the maximum.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_may_be_as_large_as_the_maximum_packet_size() {
    let gateway = TestGateway::start(&Broker::any(), |config| {
        config.mqtt.packet_bytes_max = bytesize::ByteSize::kib(64);
    })
    .await;
    let address = gateway.addresses.mqtt.unwrap();
    for version in [Version::V311, Version::V5] {
        for (will_bytes, accepted) in [(20_000_u16, true), (65_000, false)] {
            let small = connect_with_will(version, "large", 0, &[], false);
            let (start, _) = small.split_at(small.len() - "\0\x04gone".len());
            let mut body = start.split_at(2).1.to_vec();
            body.extend(will_bytes.to_be_bytes());
            body.resize(body.len() + usize::from(will_bytes), b'w');
            if !accepted {
                body.extend([0; 1000]);
            }
            let mut mqtt = Mqtt::unconnected(address, version).await;
            mqtt.write(&mqtt::packet(0x10, &body)).await;
            let expected = match (accepted, version) {
                (true, _) => Reply::ConnAck { reason: 0 },
                (false, Version::V5) => Reply::ConnAck { reason: 0x95 },
                (false, Version::V311) => Reply::Closed,
            };
            assert_eq!(
                timeout(TEST_TIMEOUT, mqtt.read()).await,
                Ok(expected),
                "{version:?} {will_bytes}"
            );
        }
    }
    gateway.finish().await;
}

/// POST to `devices/<device>/weather` with these options, confirmable, without a token.
fn coap_post(mid: u16, device: &str, options: &[(u16, &[u8])], payload: &[u8]) -> Vec<u8> {
    let mut packet = coap_lite::Packet::new();
    packet.header.set_type(coap_lite::MessageType::Confirmable);
    packet.header.code = coap_lite::MessageClass::Request(coap_lite::RequestType::Post);
    packet.header.message_id = mid;
    for segment in ["devices", device, "weather"] {
        packet.add_option(coap_lite::CoapOption::UriPath, segment.as_bytes().to_vec());
    }
    for (number, value) in options {
        packet.add_option((*number).into(), value.to_vec());
    }
    packet.payload = payload.to_vec();
    packet.to_bytes_unlimited().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn coap_says_sizes_as_the_standard_has_them() {
    // As long as may be: a slow machine is not to answer by an empty acknowledgement first.
    let slow =
        |config: &mut citygate::operate::config::Config| config.coap.piggyback_timeout = Duration::from_millis(1900);
    let gateway = TestGateway::start(&Broker::any(), slow).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(gateway.addresses.coap.unwrap()).await.unwrap();
    let mut mid = 0;
    let mut check = async |options: &[(u16, &[u8])], payload: &[u8], code: &str, block1: Option<&[u8]>, size1: bool| {
        mid += 1;
        let request = coap_post(mid, &format!("sized-{mid}"), options, payload);
        socket.send(&request).await.unwrap();
        let mut buffer = [0; 2048];
        let bytes = timeout(TEST_TIMEOUT, socket.recv(&mut buffer)).await.unwrap().unwrap();
        let response = coap_lite::Packet::from_bytes(&buffer[..bytes]).unwrap();
        assert_eq!(response.header.get_code(), code, "{options:02x?}");
        let option = |number: u16| response.get_first_option(number.into());
        assert_eq!(option(27).map(Vec::as_slice), block1, "{options:02x?}");
        assert_eq!(option(60).is_some(), size1, "{options:02x?}");
    };
    check(&[(27, &[6])], GOOD, "2.04", Some(&[6]), false).await;
    check(&[(23, &[2])], GOOD, "2.04", None, false).await;
    check(&[(23, &[6]), (27, &[2])], GOOD, "2.04", Some(&[2]), false).await;
    check(&[(27, &[0x0E])], GOOD, "4.02", None, false).await;
    check(&[], &[b' '; 3000], "4.13", None, true).await;
    assert_eq!(gateway.records("weather").len(), 3);
    gateway.finish().await;
}

/// On one address, and on wildcards, where the kernel also says which address was asked.
#[tokio::test(flavor = "multi_thread")]
async fn datagrams_that_the_kernel_drops_are_counted() {
    for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        if listen.starts_with('[') && !has_ipv6() {
            continue;
        }
        let gateway = TestGateway::start(&Broker::any(), |config| {
            config.coap.listen = listen.parse().unwrap();
            config.coap.receive_buffer_bytes = bytesize::ByteSize::kib(4);
        })
        .await;
        let port = gateway.addresses.coap.unwrap().port();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        let counts = || {
            let scrape = gateway.scrape();
            let sum = |name: &str| scrape.sum(&format!("citygate_coap_datagrams_{name}_total"), &[]);
            (sum("received"), sum("dropped"))
        };
        let mut sent = 0;
        let mut send = |count: u64| {
            for _ in 0..count {
                socket.send(b"?").unwrap(); // not CoAP: ignored
            }
            sent += count;
            sent
        };
        // The first opens the socket of its address; none is dropped.
        let first = send(1);
        eventually("the first is received", async || (counts() == (first, 0)).then_some(())).await;
        eventually("some are dropped", async || {
            send(5000);
            (counts().1 > 0).then_some(())
        })
        .await;
        // What was dropped last is told with the next datagrams.
        eventually("all are accounted for", async || {
            let (received, dropped) = counts();
            let (accounted, sent) = (received + dropped, send(0));
            assert!(
                accounted <= sent,
                "{listen}: {received} received and {dropped} dropped of {sent}"
            );
            if accounted < sent {
                send(1);
            }
            (accounted == sent).then_some(())
        })
        .await;
        // A reading is still accepted, and answered from the address that was asked.
        let mut client = gateway.client(crate::harness::clients::Via::Coap).await;
        let answer = client.send(TOPIC, "", GOOD).await;
        assert_eq!(answer.code, "2.04", "{listen}");
        gateway.finish().await;
    }
}
