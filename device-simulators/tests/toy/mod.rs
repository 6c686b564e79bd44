//! A gateway of toy size: three listeners, one notebook, and whatever manners a test asks for.
//!
//! It stores a reading by noting its device and sequence number. It is not a model of the real gateway; it exists to be
//! rude in ways that the real one must never be.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, ResponseType};
use device_simulators::{FleetConfig, Found};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// What the gateway does with one arrival of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    StoreAndAcknowledge,
    /// The answer gets lost: no answer, and the connection is closed.
    StoreAndSayNothing,
    SayBusy,
    Reject,
    /// A positive answer without the reading being safe: what must never happen.
    Lie,
    SayNothing,
}

/// Chooses by device, sequence number and how often this reading has arrived before.
pub type Manners = fn(device: &str, sequence: u64, earlier: u32) -> Behavior;

pub struct Toy {
    pub mqtt: SocketAddr,
    pub coap: SocketAddr,
    pub http: SocketAddr,
    notebook: Arc<Notebook>,
    tasks: JoinSet<()>,
}

struct Notebook {
    manners: Manners,
    found: Mutex<Found>,
    arrivals: Mutex<HashMap<(String, u64), u32>>,
}

// === impl Toy ===

impl Toy {
    pub async fn start(manners: Manners) -> Toy {
        let notebook = Arc::new(Notebook {
            manners,
            found: Mutex::default(),
            arrivals: Mutex::default(),
        });
        let mqtt = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let coap = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut toy = Toy {
            mqtt: mqtt.local_addr().unwrap(),
            coap: coap.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            notebook: Arc::clone(&notebook),
            tasks: JoinSet::new(),
        };
        toy.tasks.spawn(accept(mqtt, Arc::clone(&notebook), serve_mqtt));
        toy.tasks.spawn(accept(http, Arc::clone(&notebook), serve_http));
        toy.tasks.spawn(serve_coap(coap, notebook));
        toy
    }

    pub fn fleet(&self, devices: usize) -> FleetConfig {
        FleetConfig {
            devices,
            mqtt: Some(self.mqtt),
            coap: Some(self.coap),
            http: Some(self.http),
            ..FleetConfig::default()
        }
    }

    pub fn found(&self) -> Found {
        let mut found = self.notebook.found.lock().unwrap().clone();
        found.complete = true;
        found
    }
}

// === impl Notebook ===

impl Notebook {
    fn receive(&self, device: &str, reading: &Value) -> Behavior {
        let sequence = reading["sequence"].as_u64().unwrap();
        let mut arrivals = self.arrivals.lock().unwrap();
        let earlier = arrivals.entry((device.to_owned(), sequence)).or_default();
        let behavior = (self.manners)(device, sequence, *earlier);
        *earlier += 1;
        if matches!(behavior, Behavior::StoreAndAcknowledge | Behavior::StoreAndSayNothing) {
            self.found.lock().unwrap().record(device, sequence);
        }
        behavior
    }
}

async fn accept<F>(listener: TcpListener, notebook: Arc<Notebook>, serve: fn(TcpStream, Arc<Notebook>) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&notebook)));
    }
}

fn device_of(path: &str) -> &str {
    path.trim_start_matches('/').split('/').nth(1).unwrap()
}

async fn serve_mqtt(stream: TcpStream, notebook: Arc<Notebook>) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    let mut is_v5 = false;
    loop {
        stream.flush().await?;
        let first = stream.read_u8().await?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(stream.read_u8().await?);
            length |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        match first >> 4 {
            1 => {
                is_v5 = body[6] == 5;
                let connack: &[u8] = if is_v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
                stream.write_all(connack).await?;
            }
            3 => {
                let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = std::str::from_utf8(&body[2..topic_end]).unwrap();
                let id = [body[topic_end], body[topic_end + 1]];
                let payload = &body[topic_end + 2 + usize::from(is_v5)..];
                let ack = if first & 0b110 == 0b010 { 0x40 } else { 0x50 };
                let code = match notebook.receive(device_of(topic), &serde_json::from_slice(payload).unwrap()) {
                    Behavior::StoreAndAcknowledge | Behavior::Lie => 0,
                    Behavior::SayBusy if is_v5 => 0x97,
                    Behavior::Reject if is_v5 => 0x99,
                    // MQTT 3.1.1 has no other way to say no.
                    _ => return Ok(()),
                };
                if code == 0 {
                    stream.write_all(&[ack, 2, id[0], id[1]]).await?;
                } else {
                    stream.write_all(&[ack, 4, id[0], id[1], code, 0]).await?;
                }
            }
            6 => stream.write_all(&[0x70, 2, body[0], body[1]]).await?,
            12 => stream.write_all(&[0xd0, 0]).await?,
            _ => return Ok(()),
        }
    }
}

async fn serve_http(stream: TcpStream, notebook: Arc<Notebook>) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    loop {
        stream.flush().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await?;
        let path = head.split(' ').nth(1).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let readings = body.as_array().cloned().unwrap_or_else(|| vec![body.clone()]);
        let mut results = Vec::new();
        for reading in &readings {
            results.push(match notebook.receive(device_of(path), reading) {
                Behavior::StoreAndAcknowledge | Behavior::Lie => 204,
                Behavior::SayBusy => 503,
                Behavior::Reject => 422,
                Behavior::StoreAndSayNothing | Behavior::SayNothing => return Ok(()),
            });
        }
        let answer = if body.is_array() {
            let items: Vec<Value> = results.iter().map(|status| json!({"status": status})).collect();
            let text = json!({"results": items}).to_string();
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
        } else if results[0] == 204 {
            "HTTP/1.1 204 No Content\r\n\r\n".to_owned()
        } else {
            format!(
                "HTTP/1.1 {} Word\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
                results[0]
            )
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn serve_coap(socket: UdpSocket, notebook: Arc<Notebook>) {
    let mut buffer = [0; 2048];
    let mut answered: HashMap<(SocketAddr, u16), Option<Vec<u8>>> = HashMap::new();
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let request = Packet::from_bytes(&buffer[..length]).unwrap();
        // De-duplication by message id (RFC 7252 §4.2): the same answer to the same message.
        let answer = answered.entry((peer, request.header.message_id)).or_insert_with(|| {
            let path = request.get_option(CoapOption::UriPath).unwrap();
            let device = String::from_utf8(path.iter().nth(1).unwrap().clone()).unwrap();
            let code = match notebook.receive(&device, &serde_json::from_slice(&request.payload).unwrap()) {
                Behavior::StoreAndAcknowledge | Behavior::Lie => ResponseType::Changed,
                Behavior::SayBusy => ResponseType::ServiceUnavailable,
                Behavior::Reject => ResponseType::UnprocessableEntity,
                Behavior::StoreAndSayNothing | Behavior::SayNothing => return None,
            };
            let mut response = Packet::new();
            response.header.set_type(match request.header.get_type() {
                MessageType::Confirmable => MessageType::Acknowledgement,
                _ => MessageType::NonConfirmable,
            });
            response.header.code = MessageClass::Response(code);
            response.header.message_id = request.header.message_id;
            response.set_token(request.get_token().to_vec());
            Some(response.to_bytes().unwrap())
        });
        if let Some(bytes) = answer {
            socket.send_to(bytes, peer).await.unwrap();
        }
    }
}
