//! A CoAP device: one UDP socket, one exchange at a time (NSTART = 1).
//!
//! Confirmable requests are retransmitted as RFC 7252 §4.2 says; the response may ride on the acknowledgement or come
//! separately (§5.2), and a separate confirmable one is acknowledged. A response counts only if its token is that of the
//! request (§5.3.2), so a late answer to an earlier reading never counts for this one. Non-confirmable requests are
//! sent once. Payloads are sent whole; block-wise transfer is not spoken here.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use coap_lite::{CoapOption, ContentFormat, MessageClass, MessageType, Packet, RequestType};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Reading, excerpt};

/// Largest message that is sent or read, in bytes.
const MESSAGE_BYTES_MAX: usize = 1472;

/// The transmission parameters of RFC 7252 §4.8.
#[derive(Clone, Copy, Debug)]
pub struct Transmission {
    pub ack_timeout: Duration,
    pub ack_random_factor: f64,
    pub max_retransmit: u32,
}

/// A device's CoAP client.
#[derive(Debug)]
pub struct Uplink {
    socket: UdpSocket,
    path: Vec<String>,
    confirmable: bool,
    transmission: Transmission,
    answer_timeout: Duration,
    next_message_id: u16,
    next_token: u32,
    /// The last separate response that was acknowledged: its sender may not have heard so.
    last_separate: Option<u16>,
    retransmissions: u64,
}

/// What a datagram means to the exchange that is going on.
#[derive(Debug, PartialEq)]
enum Received {
    /// The response; to be acknowledged if it is confirmable.
    Response { acknowledge: Option<u16> },
    /// The request has arrived, the response follows.
    Acknowledged,
    /// The server does not understand the request, or has forgotten it.
    Reset,
    /// A confirmable message that belongs to no exchange; its sender repeats it until it is told.
    Stray { message_id: u16 },
    /// Nothing of interest.
    Noise,
}

// === impl Transmission ===

impl Default for Transmission {
    fn default() -> Self {
        Transmission {
            ack_timeout: Duration::from_secs(2),
            ack_random_factor: 1.5,
            max_retransmit: 4,
        }
    }
}

impl Transmission {
    /// A first timeout between ACK_TIMEOUT and ACK_TIMEOUT × ACK_RANDOM_FACTOR (§4.2).
    fn first_timeout(&self) -> Duration {
        let spread = (self.ack_random_factor - 1.0) * rand::random::<f64>();
        self.ack_timeout.mul_f64(1.0 + spread)
    }
}

// === impl Uplink ===

impl Uplink {
    /// A client that posts to `path` at `server`.
    pub fn new(server: SocketAddr, path: &str, confirmable: bool, answer_timeout: Duration) -> io::Result<Uplink> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(Uplink {
            socket: UdpSocket::from_std(socket)?,
            path: path.split('/').map(str::to_owned).collect(),
            confirmable,
            transmission: Transmission::default(),
            answer_timeout,
            // Both begin anywhere: a server may remember the last user of this port for 247 s (§4.4, §4.8.2).
            next_message_id: rand::random(),
            next_token: rand::random(),
            last_separate: None,
            retransmissions: 0,
        })
    }

    /// With other transmission parameters than RFC 7252's.
    pub fn with_transmission(mut self, transmission: Transmission) -> Uplink {
        self.transmission = transmission;
        self
    }

    pub async fn send(&mut self, reading: &Reading) -> Answer {
        self.next_message_id = self.next_message_id.wrapping_add(1);
        self.next_token = self.next_token.wrapping_add(1);
        let request = self.request(reading);
        let exchanged = match request.to_bytes_with_limit(MESSAGE_BYTES_MAX) {
            Ok(bytes) => self.exchange(&bytes).await,
            Err(error) => return unanswered(format!("the reading does not fit a datagram: {error}")),
        };
        match exchanged {
            Ok(answer) => answer,
            // Nobody listens (ICMP port unreachable): no use in repeating it for a minute and a half.
            Err(error) => unanswered(error.to_string()),
        }
    }

    /// How many requests were repeated since it was last asked.
    pub fn take_retransmissions(&mut self) -> u64 {
        std::mem::take(&mut self.retransmissions)
    }

    fn request(&self, reading: &Reading) -> Packet {
        let mut packet = Packet::new();
        packet.header.set_type(if self.confirmable {
            MessageType::Confirmable
        } else {
            MessageType::NonConfirmable
        });
        packet.header.code = MessageClass::Request(RequestType::Post);
        packet.header.message_id = self.next_message_id;
        packet.set_token(self.next_token.to_be_bytes().to_vec());
        for segment in &self.path {
            packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
        }
        packet.set_content_format(ContentFormat::ApplicationJSON);
        packet.payload = reading.json.clone();
        packet
    }

    /// Sends the request, again if need be, until a response, a reset or the answer time-out.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let deadline = Instant::now() + self.answer_timeout;
        let mut timeout = self.transmission.first_timeout();
        let mut retransmit_at = Instant::now() + timeout;
        let mut retransmits_left = self.transmission.max_retransmit;
        let mut arrived = !self.confirmable;
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        self.socket.send(request).await?;
        loop {
            let wake = if arrived { deadline } else { deadline.min(retransmit_at) };
            let Ok(received) = timeout_at(wake, self.socket.recv(&mut buffer)).await else {
                if wake == deadline || retransmits_left == 0 {
                    return Ok(unanswered("no response".to_owned()));
                }
                retransmits_left -= 1;
                self.retransmissions += 1;
                timeout *= 2;
                retransmit_at = Instant::now() + timeout;
                self.socket.send(request).await?;
                continue;
            };
            let Some(packet) = buffer.get(..received?).and_then(|bytes| Packet::from_bytes(bytes).ok()) else {
                continue;
            };
            match self.classify(&packet) {
                Received::Response { acknowledge } => {
                    if let Some(message_id) = acknowledge {
                        self.last_separate = Some(message_id);
                        self.reply(MessageType::Acknowledgement, message_id).await?;
                    }
                    return Ok(answer(&packet));
                }
                Received::Acknowledged => arrived = true,
                Received::Reset => return Ok(unanswered("the server reset the exchange".to_owned())),
                Received::Stray { message_id } if self.last_separate == Some(message_id) => {
                    self.reply(MessageType::Acknowledgement, message_id).await?;
                }
                Received::Stray { message_id } => self.reply(MessageType::Reset, message_id).await?,
                Received::Noise => {}
            }
        }
    }

    fn classify(&self, packet: &Packet) -> Received {
        let message_id = packet.header.message_id;
        let is_mine = message_id == self.next_message_id;
        // Response codes are the classes 2, 4 and 5 (§5.2), also those that the library has no name for.
        let class = u8::from(packet.header.code) >> 5;
        let is_response = matches!(class, 2 | 4 | 5) && packet.get_token() == self.next_token.to_be_bytes();
        let is_empty = packet.header.code == MessageClass::Empty;
        match packet.header.get_type() {
            MessageType::Acknowledgement if is_mine && is_response => Received::Response { acknowledge: None },
            MessageType::Acknowledgement if is_mine && is_empty => Received::Acknowledged,
            MessageType::Reset if is_mine => Received::Reset,
            MessageType::Confirmable if is_response => Received::Response {
                acknowledge: Some(message_id),
            },
            MessageType::NonConfirmable if is_response => Received::Response { acknowledge: None },
            MessageType::Confirmable => Received::Stray { message_id },
            _ => Received::Noise,
        }
    }

    /// An empty message: an acknowledgement or a reset (§4.1).
    async fn reply(&self, message_type: MessageType, message_id: u16) -> io::Result<()> {
        let mut packet = Packet::new();
        packet.header.set_type(message_type);
        packet.header.code = MessageClass::Empty;
        packet.header.message_id = message_id;
        let bytes = packet.to_bytes().map_err(io::Error::other)?;
        self.socket.send(&bytes).await.map(drop)
    }
}

/// Whether a CoAP server answers: an empty confirmable message is answered by a reset (§4.3, "CoAP ping").
pub async fn ping(server: SocketAddr, timeout: Duration) -> io::Result<()> {
    let uplink = Uplink::new(server, "", true, timeout)?;
    uplink.reply(MessageType::Confirmable, uplink.next_message_id).await?;
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    match timeout_at(Instant::now() + timeout, uplink.socket.recv(&mut buffer)).await {
        Ok(received) => received.map(drop),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to a CoAP ping")),
    }
}

fn unanswered(because: String) -> Answer {
    Answer::Unanswered { because }
}

/// What a response code means for the reading (RFC 7252 §5.9; 4.29: RFC 8516).
fn answer(packet: &Packet) -> Answer {
    let code = u8::from(packet.header.code);
    let (class, detail) = (code >> 5, code & 0b1_1111);
    let name = format!("{class}.{detail:02}");
    match (class, detail) {
        (2, _) => Answer::Acknowledged,
        (5, _) | (4, 29) => Answer::Busy {
            code: name,
            retry_after: max_age(packet),
        },
        _ => Answer::Rejected {
            code: name,
            text: excerpt(&String::from_utf8_lossy(&packet.payload), 200),
        },
    }
}

/// The Max-Age option: seconds, big endian, without leading zeros (§3.2, §5.10.5).
fn max_age(packet: &Packet) -> Option<Duration> {
    let bytes = packet.get_first_option(CoapOption::MaxAge)?;
    if bytes.len() > 4 {
        return None;
    }
    let seconds = bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte));
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Transmission = Transmission {
        ack_timeout: Duration::from_millis(30),
        ack_random_factor: 1.5,
        max_retransmit: 4,
    };

    /// A server under the test's control, and a client that talks to it.
    async fn pair(confirmable: bool) -> (UdpSocket, Uplink) {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let timeout = Duration::from_secs(5);
        let uplink = Uplink::new(address, "devices/loop-1/traffic", confirmable, timeout).unwrap();
        (server, uplink.with_transmission(QUICK))
    }

    fn reading() -> Reading {
        Reading {
            sequence: 1,
            json: br#"{"sequence":1}"#.to_vec(),
        }
    }

    async fn receive(server: &UdpSocket) -> (Packet, SocketAddr) {
        let mut buffer = [0; 2048];
        let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
        (Packet::from_bytes(&buffer[..length]).unwrap(), peer)
    }

    fn packet(message_type: MessageType, code: &str, message_id: u16, token: &[u8]) -> Packet {
        let mut packet = Packet::new();
        packet.header.set_type(message_type);
        packet.header.set_code(code);
        packet.header.message_id = message_id;
        packet.set_token(token.to_vec());
        packet
    }

    async fn send(server: &UdpSocket, peer: SocketAddr, packet: &Packet) {
        server.send_to(&packet.to_bytes().unwrap(), peer).await.unwrap();
    }

    fn ack(code: &str, request: &Packet) -> Packet {
        let id = request.header.message_id;
        packet(MessageType::Acknowledgement, code, id, request.get_token())
    }

    #[tokio::test]
    async fn a_piggybacked_response_is_the_answer() {
        let (server, mut uplink) = pair(true).await;
        let serve = async {
            let (request, peer) = receive(&server).await;
            assert_eq!(request.header.get_type(), MessageType::Confirmable);
            assert_eq!(request.header.code, MessageClass::Request(RequestType::Post));
            let path: Vec<_> = request
                .get_option(CoapOption::UriPath)
                .unwrap()
                .iter()
                .cloned()
                .collect();
            assert_eq!(path, [b"devices".to_vec(), b"loop-1".to_vec(), b"traffic".to_vec()]);
            assert_eq!(request.get_content_format(), Some(ContentFormat::ApplicationJSON));
            assert_eq!(request.payload, reading().json);
            send(&server, peer, &ack("2.04", &request)).await;
        };
        let (answer, ()) = tokio::join!(async { uplink.send(&reading()).await }, serve);
        assert_eq!(answer, Answer::Acknowledged);
    }

    #[tokio::test]
    async fn a_separate_response_is_acknowledged_and_again_if_repeated() {
        let (server, mut uplink) = pair(true).await;
        let serve = async {
            let (request, peer) = receive(&server).await;
            send(
                &server,
                peer,
                &packet(MessageType::Acknowledgement, "0.00", request.header.message_id, &[]),
            )
            .await;
            let separate = packet(MessageType::Confirmable, "2.04", 77, request.get_token());
            send(&server, peer, &separate).await;
            let (reply, _) = receive(&server).await;
            assert_eq!(reply.header.get_type(), MessageType::Acknowledgement);
            assert_eq!((reply.header.message_id, reply.header.code), (77, MessageClass::Empty));
            // As if that acknowledgement had been lost: the repeated response is acknowledged during the next exchange.
            send(&server, peer, &separate).await;
            let (request, _) = receive(&server).await;
            let (reply, _) = receive(&server).await;
            assert_eq!(reply.header.get_type(), MessageType::Acknowledgement);
            assert_eq!(reply.header.message_id, 77);
            send(&server, peer, &ack("2.04", &request)).await;
        };
        let talk = async {
            let first = uplink.send(&reading()).await;
            (first, uplink.send(&reading()).await)
        };
        let (answers, ()) = tokio::join!(talk, serve);
        assert_eq!(answers, (Answer::Acknowledged, Answer::Acknowledged));
    }

    #[tokio::test]
    async fn a_lost_request_is_sent_again_with_the_same_message_id() {
        let (server, mut uplink) = pair(true).await;
        let serve = async {
            let (lost, _) = receive(&server).await;
            let (request, peer) = receive(&server).await;
            assert_eq!(request.header.message_id, lost.header.message_id);
            assert_eq!(request.get_token(), lost.get_token());
            send(&server, peer, &ack("2.04", &request)).await;
        };
        let (answer, ()) = tokio::join!(async { uplink.send(&reading()).await }, serve);
        assert_eq!(answer, Answer::Acknowledged);
    }

    #[tokio::test]
    async fn retransmission_ends_and_says_so() {
        let (server, mut uplink) = pair(true).await;
        let answer = uplink.send(&reading()).await;
        assert!(matches!(answer, Answer::Unanswered { .. }), "{answer:?}");
        let mut count = 0;
        let mut buffer = [0; 2048];
        while server.try_recv(&mut buffer).is_ok() {
            count += 1;
        }
        assert_eq!(count, 1 + QUICK.max_retransmit);
    }

    #[tokio::test]
    async fn an_answer_to_something_else_is_no_answer() {
        let (server, mut uplink) = pair(true).await;
        let serve = async {
            let (request, peer) = receive(&server).await;
            let id = request.header.message_id;
            send(
                &server,
                peer,
                &packet(MessageType::Acknowledgement, "2.04", id, b"else"),
            )
            .await;
            send(
                &server,
                peer,
                &packet(
                    MessageType::Acknowledgement,
                    "2.04",
                    id.wrapping_add(1),
                    request.get_token(),
                ),
            )
            .await;
            send(&server, peer, &packet(MessageType::NonConfirmable, "2.04", 9, b"else")).await;
            server.send_to(b"\xff\xff", peer).await.unwrap();
            // A confirmable response to nothing is reset, so that its sender stops.
            send(&server, peer, &packet(MessageType::Confirmable, "2.04", 10, b"else")).await;
            let (reply, _) = receive(&server).await;
            assert_eq!(
                (reply.header.get_type(), reply.header.message_id),
                (MessageType::Reset, 10)
            );
            send(&server, peer, &ack("4.22", &request)).await;
        };
        let (answer, ()) = tokio::join!(async { uplink.send(&reading()).await }, serve);
        assert!(matches!(answer, Answer::Rejected { .. }), "{answer:?}");
    }

    #[tokio::test]
    async fn a_non_confirmable_request_is_sent_once_and_answered_by_token() {
        let (server, mut uplink) = pair(false).await;
        let serve = async {
            let (request, peer) = receive(&server).await;
            assert_eq!(request.header.get_type(), MessageType::NonConfirmable);
            send(
                &server,
                peer,
                &packet(MessageType::NonConfirmable, "2.04", 4711, request.get_token()),
            )
            .await;
        };
        let (answer, ()) = tokio::join!(async { uplink.send(&reading()).await }, serve);
        assert_eq!(answer, Answer::Acknowledged);
    }

    #[test]
    fn codes_mean() {
        let check = |code: &str, max_age: Option<&[u8]>, payload: &str, expected: Answer| {
            let mut packet = packet(MessageType::Acknowledgement, code, 1, &[]);
            packet.payload = payload.as_bytes().to_vec();
            if let Some(max_age) = max_age {
                packet.add_option(CoapOption::MaxAge, max_age.to_vec());
            }
            assert_eq!(answer(&packet), expected);
        };
        let rejected = |code: &str, text: &str| Answer::Rejected {
            code: code.to_owned(),
            text: text.to_owned(),
        };
        let busy = |code: &str, seconds: Option<u64>| Answer::Busy {
            code: code.to_owned(),
            retry_after: seconds.map(Duration::from_secs),
        };
        check("2.04", None, "", Answer::Acknowledged);
        check("2.01", None, "", Answer::Acknowledged);
        check("4.00", None, "not JSON\n", rejected("4.00", "not JSON "));
        check("4.22", None, "x: 9 is above", rejected("4.22", "x: 9 is above"));
        check("4.13", None, "", rejected("4.13", ""));
        check("4.29", Some(&[2]), "", busy("4.29", Some(2)));
        check("5.03", Some(&[1, 0]), "", busy("5.03", Some(256)));
        check("5.03", Some(&[]), "", busy("5.03", Some(0)));
        check("5.00", None, "", busy("5.00", None));
    }

    #[tokio::test]
    async fn a_closed_port_is_noticed_at_once() {
        let (server, mut uplink) = pair(true).await;
        let address = server.local_addr().unwrap();
        drop(server);
        uplink.answer_timeout = Duration::from_secs(60);
        uplink.transmission = Transmission::default();
        let started = Instant::now();
        assert!(matches!(uplink.send(&reading()).await, Answer::Unanswered { .. }));
        assert!(ping(address, Duration::from_secs(60)).await.is_err());
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_ping_is_answered_by_a_reset() {
        let (server, _) = pair(true).await;
        let address = server.local_addr().unwrap();
        let serve = async {
            let (ping, peer) = receive(&server).await;
            assert_eq!(ping.header.get_type(), MessageType::Confirmable);
            let reset = packet(MessageType::Reset, "0.00", ping.header.message_id, &[]);
            send(&server, peer, &reset).await;
        };
        let (pinged, ()) = tokio::join!(ping(address, Duration::from_secs(5)), serve);
        pinged.unwrap();
    }
}
