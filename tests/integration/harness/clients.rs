//! One device, four ways to speak: MQTT 3.1.1, MQTT 5, CoAP and HTTP behind one `send`, so that tests are tables.
//!
//! An [`Answer`]'s code is written as the protocol's people write it: `PUBACK`, `0x99`, `4.22`, `422`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use citygate::gateway::Addresses;
use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::TEST_TIMEOUT;
use super::mqtt::{self, Mqtt, Reply, Version};

/// How a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Mqtt311,
    Mqtt5,
    Coap,
    Http,
}

/// What the device is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: String,
    /// Reason string, diagnostic payload or body.
    pub text: String,
    /// Seconds after which to try again (`Max-Age`, `Retry-After`).
    pub retry_after: Option<u64>,
    /// Of the text, where the protocol names one.
    pub content_type: String,
}

/// A device's connection.
pub enum Client {
    Mqtt(Mqtt),
    Coap(Coap),
    Http(Http),
}

/// A CoAP endpoint that retransmits, and acknowledges separate responses (RFC 7252 §4.2, §5.2.2).
pub struct Coap {
    socket: UdpSocket,
    next_id: u16,
    /// The request awaiting its response, as bytes to retransmit, and its token.
    asked: VecDeque<(Vec<u8>, Vec<u8>)>,
}

pub struct Http {
    client: reqwest::Client,
    base: String,
    asked: VecDeque<JoinHandle<Answer>>,
}

// === impl Via ===

impl Via {
    pub const ALL: [Via; 4] = [Via::Mqtt311, Via::Mqtt5, Via::Coap, Via::Http];

    /// The `protocol` label of metrics and dead letters.
    pub fn protocol(self) -> &'static str {
        match self {
            Via::Mqtt311 | Via::Mqtt5 => "mqtt",
            Via::Coap => "coap",
            Via::Http => "http",
        }
    }

    /// The code that says: it is safe.
    pub fn yes(self) -> &'static str {
        match self {
            Via::Mqtt311 => "PUBACK",
            Via::Mqtt5 => "0x00",
            Via::Coap => "2.04",
            Via::Http => "204",
        }
    }
}

// === impl Answer ===

impl Answer {
    fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Answer {
            code: code.into(),
            text: text.into(),
            retry_after: None,
            content_type: String::new(),
        }
    }

    /// Whether it says that a single reading is safe.
    pub fn is_yes(&self, via: Via) -> bool {
        self.code == via.yes()
    }
}

// === impl Client ===

impl Client {
    pub async fn connect(via: Via, addresses: &Addresses) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        match via {
            Via::Mqtt311 => Client::Mqtt(Mqtt::connect(addresses.mqtt.unwrap(), Version::V311, &id).await),
            Via::Mqtt5 => Client::Mqtt(Mqtt::connect(addresses.mqtt.unwrap(), Version::V5, &id).await),
            Via::Coap => Client::Coap(Coap::open(addresses.coap.unwrap()).await),
            Via::Http => Client::Http(Http::new(addresses.http.unwrap())),
        }
    }

    /// Sends at QoS 1, or confirmable, and leaves the answer to [`Client::answer`].
    pub async fn post(&mut self, path: &str, content_type: &str, body: &[u8]) {
        match self {
            Client::Mqtt(mqtt) => {
                mqtt.publish(1, path, content_type, body).await;
            }
            Client::Coap(coap) => coap.post(MessageType::Confirmable, path, content_type, body).await,
            Client::Http(http) => http.post(path, content_type, body),
        }
    }

    /// The answer to the oldest message not answered yet; `None` if there is none within this time, and then it may be
    /// asked for again.
    pub async fn answer(&mut self, within: Duration) -> Option<Answer> {
        match self {
            Client::Mqtt(mqtt) => timeout(within, mqtt_answer(mqtt)).await.ok(),
            Client::Coap(coap) => timeout(within, coap.answer()).await.ok(),
            Client::Http(http) => {
                let asked = http.asked.front_mut().expect("something was asked");
                let answer = timeout(within, asked).await.ok()?.unwrap();
                http.asked.pop_front();
                Some(answer)
            }
        }
    }

    /// Sends and waits for the answer.
    pub async fn send(&mut self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        self.post(path, content_type, body).await;
        let answer = self.answer(TEST_TIMEOUT).await;
        answer.unwrap_or_else(|| panic!("no answer about {path}"))
    }
}

async fn mqtt_answer(mqtt: &mut Mqtt) -> Answer {
    match (mqtt.read().await, mqtt.version) {
        (Reply::PubAck { .. }, Version::V311) => Answer::new("PUBACK", ""),
        (Reply::PubAck { reason, text, .. }, Version::V5) => Answer::new(format!("{reason:#04x}"), text),
        (Reply::Disconnect { reason, text }, _) => Answer::new(format!("DISCONNECT {reason:#04x}"), text),
        (Reply::Closed, _) => Answer::new("closed", ""),
        (other, _) => panic!("not an answer to a QoS 1 publish: {other:?}"),
    }
}

/// Publishes at QoS 2 and walks the handshake to its end; the answer is the PUBREC's.
pub async fn send_exactly_once(mqtt: &mut Mqtt, topic: &str, payload: &[u8]) -> Answer {
    let id = mqtt.publish(2, topic, "", payload).await;
    let Reply::PubRec {
        id: received,
        reason,
        text,
    } = mqtt.read().await
    else {
        panic!("no PUBREC")
    };
    assert_eq!(received, id);
    if reason < 0x80 {
        mqtt.write(&mqtt::pubrel(id)).await;
        assert_eq!(mqtt.read().await, Reply::PubComp { id, reason: 0 });
    }
    Answer::new(format!("{reason:#04x}"), text)
}

// === impl Coap ===

impl Coap {
    pub async fn open(server: SocketAddr) -> Self {
        let own = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(own).await.unwrap();
        socket.connect(server).await.unwrap();
        Coap {
            socket,
            next_id: rand::random(),
            asked: VecDeque::new(),
        }
    }

    pub async fn post(&mut self, kind: MessageType, path: &str, content_type: &str, body: &[u8]) {
        self.next_id = self.next_id.wrapping_add(1);
        let token = self.next_id.to_be_bytes().to_vec();
        let bytes = post(kind, self.next_id, &token, path, content_type, body);
        self.socket.send(&bytes).await.unwrap();
        self.asked.push_back((bytes, token));
    }

    /// Asks for a resource.
    pub async fn get(&mut self, path: &str) {
        self.next_id = self.next_id.wrapping_add(1);
        let token = self.next_id.to_be_bytes().to_vec();
        let bytes = request(RequestType::Get, MessageType::Confirmable, self.next_id, &token, path);
        let bytes = bytes.to_bytes().unwrap();
        self.socket.send(&bytes).await.unwrap();
        self.asked.push_back((bytes, token));
    }

    /// Sends these bytes; whatever comes back is passed over.
    pub async fn throw(&self, datagram: &[u8]) {
        self.socket.send(datagram).await.unwrap();
    }

    /// The response to the oldest request, which is sent again every two seconds until something is heard of it.
    pub async fn answer(&mut self) -> Answer {
        let (bytes, token) = self.asked.front().expect("something was asked").clone();
        let id = u16::from_be_bytes([bytes[2], bytes[3]]);
        let mut heard = false;
        loop {
            let mut datagram = vec![0; 2048];
            match timeout(Duration::from_secs(2), self.socket.recv(&mut datagram)).await {
                Ok(length) => datagram.truncate(length.unwrap()),
                Err(_) if heard => continue,
                Err(_) => {
                    self.socket.send(&bytes).await.unwrap();
                    continue;
                }
            }
            let packet = Packet::from_bytes(&datagram).unwrap();
            if packet.header.get_type() == MessageType::Confirmable {
                self.acknowledge(packet.header.message_id).await;
            }
            if packet.get_token() == token && matches!(packet.header.code, MessageClass::Response(_)) {
                self.asked.pop_front();
                return response(&packet);
            }
            // Acknowledged: the response comes separately.
            heard |= packet.header.message_id == id && packet.header.get_type() == MessageType::Acknowledgement;
        }
    }

    async fn acknowledge(&self, id: u16) {
        let mut ack = Packet::new();
        ack.header.set_type(MessageType::Acknowledgement);
        ack.header.code = MessageClass::Empty;
        ack.header.message_id = id;
        self.socket.send(&ack.to_bytes().unwrap()).await.unwrap();
    }
}

/// A request without a payload.
fn request(method: RequestType, kind: MessageType, id: u16, token: &[u8], path: &str) -> Packet {
    let mut packet = Packet::new();
    packet.header.set_type(kind);
    packet.header.code = MessageClass::Request(method);
    packet.header.message_id = id;
    packet.set_token(token.to_vec());
    let (path, query) = path
        .split_once('?')
        .map_or((path, None), |(path, query)| (path, Some(query)));
    for segment in path.split('/') {
        packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
    }
    for part in query.into_iter().flat_map(|query| query.split('&')) {
        packet.add_option(CoapOption::UriQuery, part.as_bytes().to_vec());
    }
    packet
}

/// A POST request's datagram.
pub fn post(kind: MessageType, id: u16, token: &[u8], path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut packet = request(RequestType::Post, kind, id, token, path);
    if let Some(number) = content_format(content_type) {
        packet.add_option(CoapOption::ContentFormat, number);
    }
    packet.payload = body.to_vec();
    packet.to_bytes_unlimited().unwrap()
}

fn response(packet: &Packet) -> Answer {
    let number = |option| {
        let bytes = packet.get_first_option(option)?;
        Some(bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    };
    let code = u8::from(packet.header.code);
    Answer {
        code: format!("{}.{:02}", code >> 5, code & 0x1F),
        text: String::from_utf8(packet.payload.clone()).unwrap(),
        retry_after: number(CoapOption::MaxAge),
        content_type: number(CoapOption::ContentFormat)
            .map(|number| number.to_string())
            .unwrap_or_default(),
    }
}

/// RFC 7252 §12.3: the numbers of media types, shortest form.
fn content_format(content_type: &str) -> Option<Vec<u8>> {
    match content_type {
        "" => None,
        "text/plain" => Some(vec![]),
        "application/json" => Some(vec![50]),
        "application/cbor" => Some(vec![60]),
        other => panic!("{other} has no CoAP content format"),
    }
}

// === impl Http ===

impl Http {
    fn new(server: SocketAddr) -> Self {
        Http {
            client: reqwest::Client::new(),
            base: format!("http://{server}/"),
            asked: VecDeque::new(),
        }
    }

    fn post(&mut self, path: &str, content_type: &str, body: &[u8]) {
        let mut request = self.client.post(format!("{}{path}", self.base)).body(body.to_vec());
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        self.asked.push_back(tokio::spawn(async move {
            match request.send().await {
                Ok(response) => http_answer(response).await,
                Err(error) => Answer::new("closed", error.to_string()),
            }
        }));
    }
}

async fn http_answer(response: reqwest::Response) -> Answer {
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    Answer {
        code: response.status().as_u16().to_string(),
        retry_after: header("retry-after").map(|seconds| seconds.parse().unwrap()),
        content_type: header("content-type").unwrap_or_default(),
        text: response.text().await.unwrap_or_default(),
    }
}
