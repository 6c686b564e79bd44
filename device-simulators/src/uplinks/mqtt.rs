//! An MQTT device on rumqttc: 3.1.1 or 5, QoS 1 or 2, one reading outstanding.
//!
//! PUBACK (QoS 1) or PUBREC (QoS 2) is the answer; MQTT 5 carries a reason code in it, 3.1.1 can only stay silent. The
//! device polls the connection itself, while it waits for an answer and between readings, so there is no second task and
//! nothing can be attributed to the wrong reading. Sessions are clean: after a lost connection rumqttc's own memory of
//! unanswered publishes is emptied, and the device sends the reading again as a new publish.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use native_tls::TlsConnector;
use rumqttc::v5;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use tokio::time::{Instant, timeout_at};

use super::credentials::Secret;
use super::direct;
use super::{Answer, Reading, excerpt};

/// One: the next reading waits for the answer to this one. Also keeps rumqttc's tables small (its default for MQTT 5 is
/// 65,535 places, 13 MiB a client).
const IN_FLIGHT: u16 = 1;

/// Publishes that wait in rumqttc's channel: the reading and, at the end, the DISCONNECT.
const REQUESTS: usize = 2;

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a connection attempt may take; rumqttc's unit is seconds.
const CONNECT_TIMEOUT_S: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4,
    V5,
}

/// Delivery asked for; QoS 0 has no answer, and so no place in a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    AtLeastOnce,
    ExactlyOnce,
}

/// A device's MQTT client.
pub struct Uplink {
    link: Link,
    topic: String,
    quality: Quality,
    answer_timeout: Duration,
    connected: bool,
}

/// rumqttc has two of everything, and no choice of the source address.
enum Link {
    V4(AsyncClient, Box<EventLoop>),
    V5(v5::AsyncClient, Box<v5::EventLoop>),
    /// MQTT 5, QoS 1.
    Direct(Box<direct::Connection>),
}

/// What an event of the connection means to the device.
#[derive(Debug, PartialEq)]
enum Signal {
    Connected,
    Answered(Answer),
    /// An answer after which this rumqttc cannot publish any more: see [`signal_v5`].
    AnsweredAndStuck(Answer),
    Other,
}

// === impl Uplink ===

impl Uplink {
    /// A client named `device` that publishes to `topic`; it connects when it first has something to send. With a `secret` it says
    /// by it that it is the device.
    pub fn new(
        server: SocketAddr,
        device: &str,
        topic: &str,
        (version, quality): (Version, Quality),
        answer_timeout: Duration,
        (secret, tls): (Option<&Secret>, Option<TlsConnector>),
    ) -> Uplink {
        Uplink {
            link: Link::new(version, server, device, secret, tls),
            topic: topic.to_owned(),
            quality,
            answer_timeout,
            connected: false,
        }
    }

    /// The same in MQTT 5 and with QoS 1, from an address of this machine.
    pub fn from_address(
        ends: (SocketAddr, IpAddr),
        device: &str,
        topic: &str,
        answer_timeout: Duration,
        (secret, tls): (Option<&Secret>, Option<TlsConnector>),
    ) -> Uplink {
        let connection = direct::Connection::new(ends, device, KEEP_ALIVE, secret.map(Secret::text), tls);
        Uplink {
            link: Link::Direct(Box::new(connection)),
            topic: topic.to_owned(),
            quality: Quality::AtLeastOnce,
            answer_timeout,
            connected: false,
        }
    }

    pub fn version(&self) -> Version {
        match self.link {
            Link::V4(..) => Version::V4,
            Link::V5(..) | Link::Direct(_) => Version::V5,
        }
    }

    pub async fn send(&mut self, reading: &Reading) -> Answer {
        let deadline = Instant::now() + self.answer_timeout;
        let answered = match timeout_at(deadline, self.publish(reading)).await {
            Ok(answered) => answered,
            Err(_) => Err("no acknowledgement".to_owned()),
        };
        answered.unwrap_or_else(|because| {
            // Whatever happens next, this publish must not be sent again behind the device's back, nor its
            // acknowledgement count as that of the next.
            self.disconnected();
            Answer::Unanswered { because }
        })
    }

    /// Connects if need be, publishes, and polls until the answer has come.
    async fn publish(&mut self, reading: &Reading) -> Result<Answer, String> {
        while !self.connected {
            self.connected = self.link.poll().await? == Signal::Connected;
        }
        self.link.publish(&self.topic, self.quality, &reading.json)?;
        loop {
            match self.link.poll().await? {
                Signal::Answered(answer) => return Ok(answer),
                Signal::AnsweredAndStuck(answer) => {
                    self.disconnected();
                    return Ok(answer);
                }
                Signal::Connected | Signal::Other => {}
            }
        }
    }

    /// Keeps the connection alive until then; a lost one is made anew when there is something to send.
    pub async fn idle(&mut self, until: Instant) {
        while self.connected {
            match timeout_at(until, self.link.poll()).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => self.disconnected(),
                Err(_) => return,
            }
        }
        tokio::time::sleep_until(until).await;
    }

    /// DISCONNECT, so that the server does not see a failure.
    pub async fn close(&mut self) {
        if !self.connected || self.link.disconnect().is_err() {
            return;
        }
        let deadline = Instant::now() + Duration::from_millis(500);
        // The server closes the connection in answer, which ends the polling.
        while let Ok(Ok(_)) = timeout_at(deadline, self.link.poll()).await {}
        self.disconnected();
    }

    fn disconnected(&mut self) {
        self.connected = false;
        self.link.forget();
    }
}

// === impl Link ===

impl Link {
    fn new(
        version: Version,
        server: SocketAddr,
        device: &str,
        secret: Option<&Secret>,
        tls: Option<TlsConnector>,
    ) -> Link {
        let tls = tls
            .map(TlsConfiguration::NativeConnector)
            .map(Transport::tls_with_config);
        let (host, port) = (server.ip().to_string(), server.port());
        // rumqttc resolves "host:port": a bare IPv6 address would be read as a host with a port.
        let host = if server.is_ipv6() { format!("[{host}]") } else { host };
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_TIMEOUT_S);
        match version {
            Version::V4 => {
                let mut options = MqttOptions::new(device, host, port);
                options.set_keep_alive(KEEP_ALIVE).set_clean_session(true);
                options.set_inflight(IN_FLIGHT);
                secret.map(|secret| options.set_credentials(device, secret.text()));
                tls.map(|tls| options.set_transport(tls));
                let (client, mut connection) = AsyncClient::new(options, REQUESTS);
                connection.set_network_options(network);
                Link::V4(client, Box::new(connection))
            }
            Version::V5 => {
                let mut options = v5::MqttOptions::new(device, host, port);
                options.set_keep_alive(KEEP_ALIVE).set_clean_start(true);
                options.set_connection_timeout(CONNECT_TIMEOUT_S);
                options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
                secret.map(|secret| options.set_credentials(device, secret.text()));
                tls.map(|tls| options.set_transport(tls));
                options.set_network_options(network);
                let (client, connection) = v5::AsyncClient::new(options, REQUESTS);
                Link::V5(client, Box::new(connection))
            }
        }
    }

    fn publish(&mut self, topic: &str, quality: Quality, json: &[u8]) -> Result<(), String> {
        match self {
            Link::V4(client, _) => {
                let qos = match quality {
                    Quality::AtLeastOnce => QoS::AtLeastOnce,
                    Quality::ExactlyOnce => QoS::ExactlyOnce,
                };
                let sent = client.try_publish(topic, qos, false, json);
                sent.map_err(|error| error.to_string())
            }
            Link::V5(client, _) => {
                let qos = match quality {
                    Quality::AtLeastOnce => v5::mqttbytes::QoS::AtLeastOnce,
                    Quality::ExactlyOnce => v5::mqttbytes::QoS::ExactlyOnce,
                };
                let sent = client.try_publish(topic, qos, false, json.to_vec());
                sent.map_err(|error| error.to_string())
            }
            Link::Direct(connection) => connection.publish(topic, json),
        }
    }

    fn disconnect(&mut self) -> Result<(), String> {
        match self {
            Link::V4(client, _) => client.try_disconnect().map_err(|error| error.to_string()),
            Link::V5(client, _) => client.try_disconnect().map_err(|error| error.to_string()),
            Link::Direct(connection) => connection.disconnect(),
        }
    }

    /// The next event. When the connection breaks, an answer that came before the break still counts: a server that
    /// drains acknowledges and disconnects in one write.
    async fn poll(&mut self) -> Result<Signal, String> {
        let (mut signals, error) = match self {
            Link::V4(_, connection) => match connection.poll().await {
                Ok(event) => return Ok(signal_v4(event)),
                Err(error) => {
                    let events = std::mem::take(&mut connection.state.events);
                    (events.into_iter().map(signal_v4).collect::<Vec<_>>(), error.to_string())
                }
            },
            Link::V5(_, connection) => match connection.poll().await {
                Ok(event) => return Ok(signal_v5(event)),
                Err(error) => {
                    let events = std::mem::take(&mut connection.state.events);
                    (events.into_iter().map(signal_v5).collect(), error.to_string())
                }
            },
            Link::Direct(connection) => {
                let packet = connection.poll().await.map_err(|error| excerpt(&error, 200))?;
                return Ok(signal_v5(v5::Event::Incoming(packet)));
            }
        };
        let answered = |signal: &Signal| matches!(signal, Signal::Answered(_) | Signal::AnsweredAndStuck(_));
        match signals.iter().position(answered) {
            Some(index) => match signals.swap_remove(index) {
                Signal::Answered(answer) => Ok(Signal::AnsweredAndStuck(answer)),
                signal => Ok(signal),
            },
            None => Err(excerpt(&error, 200)),
        }
    }

    /// Drops the connection and everything rumqttc remembers of it: what it would send again, and events not yet read.
    fn forget(&mut self) {
        match self {
            Link::V4(_, connection) => {
                connection.clean();
                connection.pending.clear();
                connection.state.events.clear();
            }
            Link::V5(_, connection) => {
                connection.clean();
                connection.pending.clear();
                connection.state.events.clear();
            }
            Link::Direct(connection) => connection.forget(),
        }
    }
}

fn signal_v4(event: Event) -> Signal {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Signal::Connected,
        Event::Incoming(Packet::PubAck(_) | Packet::PubRec(_)) => Signal::Answered(Answer::Acknowledged),
        _ => Signal::Other,
    }
}

fn signal_v5(event: v5::Event) -> Signal {
    use v5::mqttbytes::v5::Packet;
    match event {
        v5::Event::Incoming(Packet::ConnAck(_)) => Signal::Connected,
        v5::Event::Incoming(Packet::PubAck(ack)) => {
            let text = ack.properties.and_then(|properties| properties.reason_string);
            Signal::Answered(answer(puback_code(ack.reason), text))
        }
        v5::Event::Incoming(Packet::PubRec(record)) => {
            let text = record.properties.and_then(|properties| properties.reason_string);
            match answer(pubrec_code(record.reason), text) {
                Answer::Acknowledged => Signal::Answered(Answer::Acknowledged),
                // A PUBREC with an error ends the exchange (MQTT 5 §4.3.3), but rumqttc 0.25 waits for a PUBCOMP before
                // it gives the place in flight back: only a new connection frees it.
                refused => Signal::AnsweredAndStuck(refused),
            }
        }
        _ => Signal::Other,
    }
}

/// What a reason code means for the reading (MQTT 5 §2.4): below 0x80 is success.
fn answer(code: u8, text: Option<String>) -> Answer {
    match code {
        0x00..=0x7f => Answer::Acknowledged,
        // Unspecified, implementation specific, packet id in use, quota exceeded: not the reading's fault.
        0x80 | 0x83 | 0x91 | 0x97 => Answer::Busy {
            code: format!("{code:#04x}"),
            retry_after: None,
        },
        _ => Answer::Rejected {
            code: format!("{code:#04x}"),
            text: excerpt(&text.unwrap_or_default(), 200),
        },
    }
}

fn puback_code(reason: v5::mqttbytes::v5::PubAckReason) -> u8 {
    use v5::mqttbytes::v5::PubAckReason as Reason;
    match reason {
        Reason::Success => 0x00,
        Reason::NoMatchingSubscribers => 0x10,
        Reason::UnspecifiedError => 0x80,
        Reason::ImplementationSpecificError => 0x83,
        Reason::NotAuthorized => 0x87,
        Reason::TopicNameInvalid => 0x90,
        Reason::PacketIdentifierInUse => 0x91,
        Reason::QuotaExceeded => 0x97,
        Reason::PayloadFormatInvalid => 0x99,
    }
}

fn pubrec_code(reason: v5::mqttbytes::v5::PubRecReason) -> u8 {
    use v5::mqttbytes::v5::PubRecReason as Reason;
    match reason {
        Reason::Success => 0x00,
        Reason::NoMatchingSubscribers => 0x10,
        Reason::UnspecifiedError => 0x80,
        Reason::ImplementationSpecificError => 0x83,
        Reason::NotAuthorized => 0x87,
        Reason::TopicNameInvalid => 0x90,
        Reason::PacketIdentifierInUse => 0x91,
        Reason::QuotaExceeded => 0x97,
        Reason::PayloadFormatInvalid => 0x99,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const CONNACK_V4: &[u8] = &[0x20, 2, 0, 0];
    const CONNACK_V5: &[u8] = &[0x20, 3, 0, 0, 0];

    async fn pair(version: Version, quality: Quality) -> (TcpListener, Uplink) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let topic = "devices/loop-1/traffic";
        let uplink = Uplink::new(
            address,
            "loop-1",
            topic,
            (version, quality),
            Duration::from_secs(5),
            (None, None),
        );
        (server, uplink)
    }

    fn reading(sequence: u64) -> Reading {
        Reading {
            sequence,
            json: format!(r#"{{"sequence":{sequence}}}"#).into_bytes(),
        }
    }

    /// First byte and body of the next packet; bodies here are shorter than 128 bytes.
    async fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
        let mut header = [0; 2];
        stream.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; usize::from(header[1])];
        stream.read_exact(&mut body).await.unwrap();
        (header[0], body)
    }

    async fn accept(server: &TcpListener, connack: &[u8]) -> TcpStream {
        let (mut stream, _) = server.accept().await.unwrap();
        assert_eq!(packet(&mut stream).await.0, 0x10, "CONNECT");
        stream.write_all(connack).await.unwrap();
        stream
    }

    /// The packet id of the next packet, which must be a PUBLISH that carries `sequence`.
    async fn publish(stream: &mut TcpStream, sequence: u64) -> [u8; 2] {
        let (first, body) = packet(stream).await;
        assert!(first == 0x32 || first == 0x34, "PUBLISH is {first:#x}");
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        assert!(
            body.ends_with(&reading(sequence).json),
            "{}",
            String::from_utf8_lossy(&body)
        );
        [body[2 + topic], body[3 + topic]]
    }

    fn busy(code: &str) -> Answer {
        Answer::Busy {
            code: code.to_owned(),
            retry_after: None,
        }
    }

    #[tokio::test]
    async fn puback_is_the_answer_to_the_reading_that_was_sent() {
        let (server, mut uplink) = pair(Version::V4, Quality::AtLeastOnce).await;
        let serve = async {
            let mut stream = accept(&server, CONNACK_V4).await;
            for sequence in 1..=3 {
                let [high, low] = publish(&mut stream, sequence).await;
                stream.write_all(&[0x40, 2, high, low]).await.unwrap();
            }
            assert_eq!(packet(&mut stream).await.0, 0xe0, "DISCONNECT");
        };
        let talk = async {
            for sequence in 1..=3 {
                assert_eq!(uplink.send(&reading(sequence)).await, Answer::Acknowledged);
            }
            uplink.close().await;
        };
        tokio::join!(talk, serve);
    }

    #[tokio::test]
    async fn reason_codes_tell_busy_from_rejected() {
        let (server, mut uplink) = pair(Version::V5, Quality::AtLeastOnce).await;
        let serve = async {
            let mut stream = accept(&server, CONNACK_V5).await;
            let [high, low] = publish(&mut stream, 1).await;
            stream.write_all(&[0x40, 4, high, low, 0x97, 0]).await.unwrap();
            let [high, low] = publish(&mut stream, 1).await;
            let reason = [0x40, 9, high, low, 0x99, 5, 0x1f, 0, 2, b'n', b'o'];
            stream.write_all(&reason).await.unwrap();
            let [high, low] = publish(&mut stream, 2).await;
            stream.write_all(&[0x40, 2, high, low]).await.unwrap();
        };
        let talk = async {
            assert_eq!(uplink.send(&reading(1)).await, busy("0x97"));
            let rejected = Answer::Rejected {
                code: "0x99".to_owned(),
                text: "no".to_owned(),
            };
            assert_eq!(uplink.send(&reading(1)).await, rejected);
            assert_eq!(uplink.send(&reading(2)).await, Answer::Acknowledged);
        };
        tokio::join!(talk, serve);
    }

    #[tokio::test]
    async fn qos_2_is_answered_by_pubrec_and_ended_by_pubcomp() {
        for (version, connack) in [(Version::V4, CONNACK_V4), (Version::V5, CONNACK_V5)] {
            let (server, mut uplink) = pair(version, Quality::ExactlyOnce).await;
            let serve = async {
                let mut stream = accept(&server, connack).await;
                for sequence in 1..=2 {
                    let [high, low] = publish(&mut stream, sequence).await;
                    stream.write_all(&[0x50, 2, high, low]).await.unwrap();
                    let (first, body) = packet(&mut stream).await;
                    assert_eq!((first, &body[..2]), (0x62, &[high, low][..]), "PUBREL");
                    stream.write_all(&[0x70, 2, high, low]).await.unwrap();
                }
            };
            let talk = async {
                assert_eq!(uplink.send(&reading(1)).await, Answer::Acknowledged);
                assert_eq!(uplink.send(&reading(2)).await, Answer::Acknowledged);
            };
            tokio::join!(talk, serve);
        }
    }

    #[tokio::test]
    async fn a_refused_qos_2_publish_does_not_block_the_next() {
        let (server, mut uplink) = pair(Version::V5, Quality::ExactlyOnce).await;
        let serve = async {
            let mut stream = accept(&server, CONNACK_V5).await;
            let [high, low] = publish(&mut stream, 1).await;
            stream.write_all(&[0x50, 4, high, low, 0x97, 0]).await.unwrap();
            let mut stream = accept(&server, CONNACK_V5).await;
            let [high, low] = publish(&mut stream, 1).await;
            stream.write_all(&[0x50, 2, high, low]).await.unwrap();
        };
        let talk = async {
            assert_eq!(uplink.send(&reading(1)).await, busy("0x97"));
            assert_eq!(uplink.send(&reading(1)).await, Answer::Acknowledged);
        };
        tokio::join!(talk, serve);
    }

    #[tokio::test]
    async fn a_cut_connection_leaves_the_reading_unanswered_and_nothing_is_sent_behind_its_back() {
        for (version, connack) in [(Version::V4, CONNACK_V4), (Version::V5, CONNACK_V5)] {
            let (server, mut uplink) = pair(version, Quality::AtLeastOnce).await;
            let serve = async {
                let mut stream = accept(&server, connack).await;
                publish(&mut stream, 1).await;
                drop(stream);
                // The device has given reading 1 up: the next thing it publishes is reading 2.
                let mut stream = accept(&server, connack).await;
                let [high, low] = publish(&mut stream, 2).await;
                stream.write_all(&[0x40, 2, high, low]).await.unwrap();
            };
            let talk = async {
                let answer = uplink.send(&reading(1)).await;
                assert!(matches!(answer, Answer::Unanswered { .. }), "{answer:?}");
                assert_eq!(uplink.send(&reading(2)).await, Answer::Acknowledged);
            };
            tokio::join!(talk, serve);
        }
    }

    #[tokio::test]
    async fn an_acknowledgement_right_before_the_end_of_the_connection_counts_once() {
        let (server, mut uplink) = pair(Version::V5, Quality::AtLeastOnce).await;
        let serve = async {
            let mut stream = accept(&server, CONNACK_V5).await;
            let [high, low] = publish(&mut stream, 1).await;
            // PUBACK, then DISCONNECT 0x8B (server shutting down), in one write.
            let both = [0x40, 2, high, low, 0xe0, 2, 0x8b, 0];
            stream.write_all(&both).await.unwrap();
            drop(stream);
            let mut stream = accept(&server, CONNACK_V5).await;
            publish(&mut stream, 2).await;
        };
        let talk = async {
            assert_eq!(uplink.send(&reading(1)).await, Answer::Acknowledged);
            let answer = uplink.send(&reading(2)).await;
            assert!(matches!(answer, Answer::Unanswered { .. }), "{answer:?}");
        };
        tokio::join!(talk, serve);
    }

    #[tokio::test]
    async fn silence_is_given_up_on_a_new_connection() {
        let (server, mut uplink) = pair(Version::V4, Quality::AtLeastOnce).await;
        uplink.answer_timeout = Duration::from_millis(200);
        let serve = async {
            let mut silent = accept(&server, CONNACK_V4).await;
            publish(&mut silent, 1).await;
            let mut stream = accept(&server, CONNACK_V4).await;
            let [high, low] = publish(&mut stream, 1).await;
            stream.write_all(&[0x40, 2, high, low]).await.unwrap();
        };
        let talk = async {
            let answer = uplink.send(&reading(1)).await;
            assert!(matches!(answer, Answer::Unanswered { .. }), "{answer:?}");
            uplink.answer_timeout = Duration::from_secs(5);
            assert_eq!(uplink.send(&reading(1)).await, Answer::Acknowledged);
        };
        tokio::join!(talk, serve);
    }
}
