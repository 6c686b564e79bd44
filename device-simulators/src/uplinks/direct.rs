//! An MQTT 5 connection from a source address of one's choice, which rumqttc does not offer; the packets are rumqttc's.
//!
//! One publish of QoS 1 is outstanding. Whoever waits for the next packet may stop at any time: no byte is lost by it, unless
//! the connection was still being made.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use native_tls::TlsConnector;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Login, Packet, PingReq, Publish,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep_until};

/// Longest packet that is read; no answer to a publisher is so long.
const PACKET_BYTES_MAX: u32 = 16 * 1024;

/// The only packet id, as one publish is outstanding.
const PACKET_ID: u16 = 1;

/// A connection, up or down.
pub struct Connection {
    server: SocketAddr,
    source: IpAddr,
    tls: Option<TlsConnector>,
    /// CONNECT.
    hello: BytesMut,
    keep_alive: Duration,
    open: Option<Open>,
    /// What the server has shown last, in DER.
    shown: Option<Vec<u8>>,
}

/// What is up.
struct Open {
    stream: Box<dyn Stream>,
    input: BytesMut,
    output: BytesMut,
    ping_at: Instant,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

// === impl Connection ===

impl Connection {
    /// It connects when it is first polled.
    pub fn new(
        (server, source): (SocketAddr, IpAddr),
        device: &str,
        keep_alive: Duration,
        secret: Option<&str>,
        tls: Option<TlsConnector>,
    ) -> Connection {
        let connect = Connect {
            keep_alive: keep_alive.as_secs() as u16,
            client_id: device.to_owned(),
            clean_start: true,
            properties: None,
        };
        let login = secret.map(|secret| Login::new(device, secret));
        let mut hello = BytesMut::new();
        // Nothing of it is longer than MQTT allows.
        connect.write(&None, &login, &mut hello).ok();
        Connection {
            server,
            source,
            tls,
            hello,
            keep_alive,
            open: None,
            shown: None,
        }
    }

    /// The certificate that the server showed.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.shown.as_deref()
    }

    /// The next packet; connects if there is no connection.
    pub async fn poll(&mut self) -> Result<Packet, String> {
        if self.open.is_none() {
            self.open = Some(self.connect().await?);
        }
        let open = self.open.as_mut().ok_or("not connected")?;
        match open.packet(self.keep_alive).await? {
            Packet::ConnAck(ack) if ack.code != ConnectReturnCode::Success => Err(format!("CONNACK {:?}", ack.code)),
            packet => Ok(packet),
        }
    }

    async fn connect(&mut self) -> Result<Open, String> {
        let text = |error: std::io::Error| error.to_string();
        let socket = match self.server {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.map_err(text)?;
        socket.bind((self.source, 0).into()).map_err(text)?;
        let stream = socket.connect(self.server).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let tls = tokio_native_tls::TlsConnector::from(tls.clone());
                let stream = tls
                    .connect("localhost", stream)
                    .await
                    .map_err(|error| error.to_string())?;
                let shown = stream.get_ref().peer_certificate().ok().flatten();
                self.shown = shown.and_then(|shown| shown.to_der().ok());
                Box::new(stream)
            }
        };
        Ok(Open {
            stream,
            input: BytesMut::new(),
            output: self.hello.clone(),
            ping_at: Instant::now() + self.keep_alive,
        })
    }

    /// Leaves with the next poll.
    pub fn publish(&mut self, topic: &str, json: &[u8]) -> Result<(), String> {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, json.to_vec(), None);
        publish.pkid = PACKET_ID;
        let open = self.open.as_mut().ok_or("not connected")?;
        publish.write(&mut open.output).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Leaves with the next poll.
    pub fn disconnect(&mut self) -> Result<(), String> {
        let open = self.open.as_mut().ok_or("not connected")?;
        let disconnect = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        disconnect.write(&mut open.output).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Drops the connection.
    pub fn forget(&mut self) {
        self.open = None;
    }
}

// === impl Open ===

impl Open {
    async fn packet(&mut self, keep_alive: Duration) -> Result<Packet, String> {
        let text = |error: std::io::Error| error.to_string();
        loop {
            match Packet::read(&mut self.input, Some(PACKET_BYTES_MAX)) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
            if !self.output.is_empty() {
                self.stream.write_all_buf(&mut self.output).await.map_err(text)?;
                self.stream.flush().await.map_err(text)?;
                self.ping_at = Instant::now() + keep_alive.mul_f64(0.75);
            }
            tokio::select! {
                count = self.stream.read_buf(&mut self.input) => {
                    if count.map_err(text)? == 0 {
                        return Err("closed by the gateway".to_owned());
                    }
                }
                () = sleep_until(self.ping_at) => {
                    PingReq::write(&mut self.output).map_err(|error| error.to_string())?;
                }
            }
        }
    }
}
