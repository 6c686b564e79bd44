//! The opening of a connection: CONNECT, and what it is answered.
//!
//! Everything before an accepted CONNECT is held to `packet_bytes_max` and (by the caller) to `connect_timeout`. What is
//! not MQTT is closed without an answer; what is MQTT but not accepted is told why, as far as its version can say it, except
//! a CONNECT that is late or gives way to others.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::config::Config;
use super::counters::Close;
use super::packet::{self, Connack, Connect, ConnectFault, Encoder, Refusal, TOO_LARGE, Version, Will};
use super::wire::{Moved, Wire};

/// The longest client id; 3.1.1 asks for 23 at least.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// A client whose CONNECT is accepted, and what was agreed.
#[derive(Debug)]
pub struct Client {
    pub encoder: Encoder,
    pub is_3_1: bool,
    pub id: String,
    pub clean: bool,
    /// It is closed when it is silent for longer.
    pub silence_max: Duration,
    /// How long its session is kept after the connection; zero: not at all.
    pub keep: Duration,
    /// Until DISCONNECT.
    pub will: Option<Will>,
}

/// How a connection ended, or why it was not opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub close: Close,
    /// What the client is told, if it is told something.
    pub why: &'static str,
    /// As far as it is known.
    pub client_id: String,
}

/// Reads the CONNECT, of at most `bytes_max`. One that is refused is answered (in `wire.outbound`) before this returns.
pub async fn receive<S>(wire: &mut Wire<S>, bytes_max: usize) -> Result<Connect, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        if let Some(head) = packet::head(&wire.inbound, false).map_err(|_| Close::Refused)? {
            if head.kind() != 1 {
                return Err(Close::Refused.into());
            }
            if head.packet_bytes > bytes_max
                && let Some(ended) = too_large(&head, wire)
            {
                return Err(ended);
            }
            wire.missing = head.packet_bytes.saturating_sub(wire.inbound.len());
            if wire.missing == 0 {
                let connect = packet::decode_connect(&head, &mut wire.inbound);
                return connect
                    .map_err(|fault| broken(fault, wire))
                    .and_then(|connect| acceptable(connect, wire));
            }
        }
        wire.settle();
        match poll_fn(|context| wire.poll(context, true)).await {
            Ok(Moved::Read(0)) => return Err(Close::HungUp.into()),
            Ok(Moved::Evicted(why)) => {
                wire.discard();
                return Err(Close::Evicted(why).into());
            }
            Ok(_) => {}
            Err(_) => return Err(Close::Network.into()),
        }
    }
}

// Said as soon as it is known in which version; nothing more of it is read.
fn too_large<S>(head: &packet::Head, wire: &mut Wire<S>) -> Option<Ended> {
    let start = &wire.inbound[head.header_bytes..];
    let fault = match packet::connect_version(start) {
        Ok(None) => return None,
        Ok(Some(version)) => ConnectFault::Broken {
            version,
            fault: TOO_LARGE,
            hints: packet::connect_hints(start),
        },
        Err(fault) => fault,
    };
    Some(broken(fault, wire))
}

fn broken<S>(fault: ConnectFault, wire: &mut Wire<S>) -> Ended {
    match fault {
        ConnectFault::NotMqtt => Close::Refused.into(),
        // In 3.1.1's form: a Mosquitto bridge falls back by it, and a client of a later version has to ask for less.
        ConnectFault::Level => refused(Refusal::ProtocolVersion, bounded(Version::V3, None), wire),
        ConnectFault::Broken { version, fault, hints } => {
            let encoder = bounded(version, hints.packet_bytes_max);
            Ended {
                client_id: hints.client_id,
                ..refused(Refusal::Fault(fault), encoder, wire)
            }
        }
    }
}

fn acceptable<S>(connect: Connect, wire: &mut Wire<S>) -> Result<Connect, Ended> {
    // [MQTT-3.1.3-8]: without an id there is nothing by which a 3.1.1 session could be found again. MQTT 5 is told its
    // id.
    let nameless = connect.client_id.is_empty() && connect.version == Version::V3 && !connect.clean;
    let refusal = if connect.authentication_method {
        Refusal::AuthenticationMethod
    } else if nameless {
        Refusal::ClientIdEmpty
    } else if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
        Refusal::ClientIdTooLong
    } else {
        return Ok(connect);
    };
    Err(refuse(&connect, refusal, wire))
}

/// Refuses a client whose CONNECT is well formed; the answer is in `wire.outbound`.
pub fn refuse<S>(connect: &Connect, refusal: Refusal, wire: &mut Wire<S>) -> Ended {
    let encoder = bounded(connect.version, connect.packet_bytes_max);
    Ended {
        client_id: packet::shortened(&connect.client_id).to_owned(),
        ..refused(refusal, encoder, wire)
    }
}

fn refused<S>(refusal: Refusal, encoder: Encoder, wire: &mut Wire<S>) -> Ended {
    encoder.refuse(refusal, &mut wire.outbound);
    Ended {
        why: refusal.why(),
        ..Close::Refused.into()
    }
}

// For a client of which no more is known.
fn bounded(version: Version, packet_bytes_max: Option<u32>) -> Encoder {
    Encoder {
        version,
        packet_bytes_max: packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize),
        problem_information: false,
    }
}

/// What is agreed with a client, and what it is told of it.
pub fn agree(connect: Connect, config: &Config) -> (Client, Connack) {
    let assigned = connect
        .client_id
        .is_empty()
        .then(|| format!("citygate-{:032x}", rand::random::<u128>()));
    let (silence_max, keep_alive_s) = silence(&connect, config);
    let (keep, session_expiry_s) = keeping(&connect, config);
    let connack = Connack {
        session_present: false,
        receive_maximum: config.receive_maximum.max(1),
        packet_bytes_max: u32::try_from(config.packet_bytes_max()).unwrap_or(u32::MAX),
        topic_alias_maximum: config.topic_alias_maximum,
        assigned_client_id: assigned.clone(),
        session_expiry_s,
        keep_alive_s,
    };
    let client = Client {
        encoder: Encoder {
            problem_information: connect.problem_information,
            ..bounded(connect.version, connect.packet_bytes_max)
        },
        is_3_1: connect.is_3_1,
        id: assigned.unwrap_or(connect.client_id),
        clean: connect.clean,
        silence_max,
        keep,
        will: connect.will,
    };
    (client, connack)
}

// How long the client may be silent (one and a half times the keep-alive [MQTT-3.1.2-22]), and the keep-alive it is
// told.
fn silence(connect: &Connect, config: &Config) -> (Duration, Option<u16>) {
    let one_and_a_half = |seconds: u16| Duration::from_millis(u64::from(seconds) * 1500);
    match (connect.version, connect.keep_alive_s) {
        (Version::V3, 0) => (config.idle_timeout, None),
        (Version::V3, asked) => (one_and_a_half(asked).min(config.idle_timeout), None),
        (Version::V5, asked) => {
            let most = u16::try_from(config.keep_alive_max.as_secs())
                .unwrap_or(u16::MAX)
                .max(1);
            match asked == 0 || asked > most {
                true => (one_and_a_half(most), Some(most)),
                false => (one_and_a_half(asked), None),
            }
        }
    }
}

// How long the session is kept, and the expiry that the client is told.
fn keeping(connect: &Connect, config: &Config) -> (Duration, Option<u32>) {
    let most = u32::try_from(config.session_expiry_max.as_secs()).unwrap_or(u32::MAX);
    match (connect.version, connect.clean) {
        (Version::V3, true) => (Duration::ZERO, None),
        (Version::V3, false) => (config.session_expiry_max, None),
        (Version::V5, _) => {
            let asked = connect.session_expiry_s.unwrap_or(0);
            let granted = asked.min(most);
            (
                Duration::from_secs(granted.into()),
                (granted != asked).then_some(granted),
            )
        }
    }
}

// === impl Ended ===

impl From<Close> for Ended {
    fn from(close: Close) -> Self {
        let (why, client_id) = ("", String::new());
        Ended { close, why, client_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const NAMED: &[u8] = &[0, 1, b'c'];

    fn connect(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 60];
        if level & 0x7F == 5 {
            body.push(0);
        }
        body.extend_from_slice(rest);
        frame(&body)
    }

    fn mqtt_3_1(level: u8) -> Vec<u8> {
        let name = *b"\x00\x06MQIsdp";
        frame(&[&name[..], &[level, 2, 0, 60], NAMED].concat())
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x10, u8::try_from(body.len()).unwrap()];
        packet.extend_from_slice(body);
        packet
    }

    const BYTES_MAX: usize = 20_000;

    fn reasoned(code: u8, why: &str) -> Vec<u8> {
        assert!(!why.is_empty(), "every refusal of MQTT 5 has a reason string");
        let length = why.len() as u8;
        [&[0x20, length + 6, 0, code, length + 3, 31, 0, length], why.as_bytes()].concat()
    }

    async fn received(bytes: &[u8]) -> (Result<Connect, Ended>, Vec<u8>) {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let mut wire = Wire::for_testing(near);
        let result = receive(&mut wire, BYTES_MAX).await;
        (result, wire.outbound.to_vec())
    }

    #[tokio::test]
    async fn what_is_not_accepted_is_told_so_as_far_as_its_version_can_say_it() {
        let check = async |bytes: &[u8], close: Close, answer: &[u8]| {
            let (result, outbound) = received(bytes).await;
            let ended = result.unwrap_err();
            assert_eq!(ended.close, close, "{bytes:02x?}");
            // Of MQTT 5: the reason code, and why.
            let expected = match answer {
                [code] => reasoned(*code, ended.why),
                plain => plain.to_vec(),
            };
            assert_eq!(outbound, expected, "{bytes:02x?}");
        };
        check(b"GET / HTTP/1.1\r\n\r\n", Close::Refused, &[]).await;
        check(&[0x30, 3, 0, 1, b'a'], Close::Refused, &[]).await;
        check(&[], Close::HungUp, &[]).await;
        check(&[0x10], Close::HungUp, &[]).await;
        let endless = |start: &[u8]| [&[0x10, 0xFF, 0xFF, 0xFF, 0x7F], start].concat();
        check(&endless(b"\0\x04MQ"), Close::HungUp, &[]).await;
        check(&endless(b"\0\x04MQXX\x05\x02\0"), Close::Refused, &[]).await;
        check(&endless(b"\0\x04MQTT\x04\x02\0"), Close::Refused, &[]).await;
        check(&endless(b"\0\x04MQTT\x05\x02\0"), Close::Refused, &[0x95]).await;
        check(&endless(b"\0\x04MQTT\x06\x02\0"), Close::Refused, &[0x20, 2, 0, 1]).await;
        check(&frame(&[0, 3, b'F', b'T', b'P', 4, 2, 0, 0, 0, 0]), Close::Refused, &[]).await;
        // Protocol levels that are not served, with and without the bit of a bridge.
        for level in [0, 3, 6, 0x7F, 0x80, 0x83, 0x86, 0xFF] {
            check(&connect(level, 2, NAMED), Close::Refused, &[0x20, 2, 0, 1]).await;
        }
        for level in [0, 4, 5, 0x84] {
            check(&mqtt_3_1(level), Close::Refused, &[0x20, 2, 0, 1]).await;
        }
        // An empty client id with a session to be kept; a reserved flag; a client id that is too long.
        check(&connect(4, 0, &[0, 0]), Close::Refused, &[0x20, 2, 0, 2]).await;
        check(&connect(4, 3, NAMED), Close::Refused, &[]).await;
        check(&connect(5, 3, NAMED), Close::Refused, &[0x81]).await;
        let mut long = connect(5, 2, &[]);
        long.extend([1, 1]);
        long.extend([b'c'; 257]);
        long.splice(1..2, [0x8E, 2]);
        check(&long, Close::Refused, &[0x85]).await;
        // Receive Maximum 0, and enhanced authentication.
        let zero = frame(&[0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 3, 33, 0, 0, 0, 1, b'c']);
        check(&zero, Close::Refused, &[0x82]).await;
        let auth = frame(&[0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 4, 21, 0, 1, b'x', 0, 1, b'c']);
        check(&auth, Close::Refused, &[0x8C]).await;
    }

    #[tokio::test]
    async fn a_refusal_keeps_to_the_maximum_packet_size_of_its_client_and_names_its_client() {
        let check = async |properties: &[u8], client_id: &str, told: &[u8]| {
            let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, properties.len() as u8];
            body.extend_from_slice(properties);
            body.extend_from_slice(b"\0\x05meter");
            let (result, outbound) = received(&frame(&body)).await;
            let ended = result.unwrap_err();
            let expected = match told {
                [code] => reasoned(*code, ended.why),
                short => short.to_vec(),
            };
            assert_eq!(outbound, expected, "{properties:02x?}");
            assert_eq!(ended.client_id, client_id, "{properties:02x?}");
        };
        const METHOD: &[u8] = &[21, 0, 1, b'x'];
        const TWENTY: &[u8] = &[39, 0, 0, 0, 20];
        const FOUR: &[u8] = &[39, 0, 0, 0, 4];
        check(METHOD, "meter", &[0x8C]).await;
        check(&[METHOD, TWENTY].concat(), "meter", &[0x20, 3, 0, 0x8C, 0]).await;
        check(&[METHOD, FOUR].concat(), "meter", &[]).await;
        // Request Problem Information 0 is for other packets [MQTT-3.1.2-29].
        check(&[METHOD, &[23, 0]].concat(), "meter", &[0x8C]).await;
        // Receive Maximum 0, before and behind it; Authentication Data without a method; what cannot be parsed at all.
        check(&[TWENTY, &[33, 0, 0]].concat(), "meter", &[0x20, 3, 0, 0x82, 0]).await;
        check(&[&[33, 0, 0], TWENTY].concat(), "meter", &[0x20, 3, 0, 0x82, 0]).await;
        check(&[22, 0, 1, b'x'], "meter", &[0x82]).await;
        check(&[&[22, 0, 1, b'x'], FOUR].concat(), "meter", &[]).await;
        check(&[&[0x7F], TWENTY].concat(), "meter", &[0x81]).await;
    }

    #[tokio::test]
    async fn a_connect_that_is_too_large_is_refused_by_what_is_there_of_it() {
        let check = async |rest: &[u8], client_id: &str, told: &[u8]| {
            let start = b"\x10\xFF\xFF\xFF\x7F\0\x04MQTT\x05\x02\0\x3C";
            let (result, outbound) = received(&[start, rest].concat()).await;
            let ended = result.unwrap_err();
            let expected = match told {
                [code] => reasoned(*code, ended.why),
                short => short.to_vec(),
            };
            assert_eq!(
                (outbound, ended.client_id.as_str()),
                (expected, client_id),
                "{rest:02x?}"
            );
        };
        const SHORT: &[u8] = &[0x20, 3, 0, 0x95, 0];
        check(b"", "", &[0x95]).await;
        check(b"\0\0\x05meter", "meter", &[0x95]).await;
        check(b"\x05\x27\0\0\0\x14\0\x05meter\0", "meter", SHORT).await;
        check(b"\x05\x27\0\0\0\x04\0\x05meter\0", "meter", &[]).await;
        // Within the client id; within the properties, behind it and before it.
        check(b"\x05\x27\0\0\0\x14\0\x05met", "", SHORT).await;
        check(b"\x40\x27\0\0\0\x14\x26\0\x01a\0\x01b\x26", "", SHORT).await;
        check(b"\x40\x26\0\x01a\0\x05b", "", &[0x95]).await;
        check(b"\xFF\xFF\xFF\xFF\x7F\0\x05meter", "", &[0x95]).await;
    }

    #[tokio::test]
    async fn a_connect_may_be_as_large_as_any_packet() {
        for level in [4, 5] {
            let will: &[u8] = if level == 5 { b"\0\0\x01t" } else { b"\0\x01t" };
            let payload = [&[0x46, 0x50][..], &[b'w'; 0x4650]].concat();
            let small = connect(level, 6, &[NAMED, will].concat());
            let mut body = small.split_at(2).1.to_vec();
            body.extend(payload);
            let length = body.len();
            let mut large = vec![
                0x10,
                length as u8 | 0x80,
                (length >> 7) as u8 | 0x80,
                (length >> 14) as u8,
            ];
            large.extend(body);
            assert!(large.len() > 16 * 1024 && large.len() <= BYTES_MAX);
            let connect = received(&large).await.0.unwrap();
            assert_eq!(connect.will.map(|will| will.topic).as_deref(), Some("t"));
        }
    }

    #[tokio::test]
    async fn every_version_is_served_to_bridges_too() {
        let check = async |bytes: &[u8], version: Version, is_3_1: bool| {
            let (result, outbound) = received(bytes).await;
            let connect = result.unwrap();
            assert_eq!((connect.version, connect.is_3_1), (version, is_3_1), "{bytes:02x?}");
            assert_eq!((connect.client_id.as_str(), connect.keep_alive_s), ("c", 60));
            assert!(outbound.is_empty(), "the CONNACK comes later");
        };
        for bridge in [0, 0x80] {
            check(&mqtt_3_1(3 | bridge), Version::V3, true).await;
            check(&connect(4 | bridge, 2, NAMED), Version::V3, false).await;
            check(&connect(5 | bridge, 2, NAMED), Version::V5, false).await;
        }
    }

    #[tokio::test]
    async fn a_connect_in_pieces_is_read_and_what_follows_it_is_kept() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::for_testing(near);
        let mut bytes = connect(4, 2, NAMED);
        bytes.extend([0xC0, 0]);
        let (result, ()) = tokio::join!(receive(&mut wire, BYTES_MAX), async {
            for byte in bytes {
                far.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(result.unwrap().client_id, "c");
        if wire.inbound.len() < 2 {
            poll_fn(|context| wire.poll(context, true)).await.unwrap();
        }
        assert_eq!(wire.inbound[..], [0xC0, 0]);
    }

    #[tokio::test]
    async fn what_is_agreed_follows_version_and_configuration() {
        let config = Config {
            keep_alive_max: Duration::from_secs(100),
            idle_timeout: Duration::from_secs(1000),
            session_expiry_max: Duration::from_secs(500),
            ..Config::default()
        };
        let given = |version, keep_alive_s, clean, session_expiry_s| Connect {
            version,
            is_3_1: false,
            client_id: "c".to_owned(),
            clean,
            keep_alive_s,
            session_expiry_s,
            packet_bytes_max: None,
            problem_information: true,
            authentication_method: false,
            will: None,
            login: Default::default(),
        };
        let check = |connect: Connect, silence_s: u64, keep_s: u64, told: (Option<u16>, Option<u32>)| {
            let about = format!("{connect:?}");
            let (client, connack) = agree(connect, &config);
            assert_eq!(client.silence_max, Duration::from_secs(silence_s), "{about}");
            assert_eq!(client.keep, Duration::from_secs(keep_s), "{about}");
            assert_eq!((connack.keep_alive_s, connack.session_expiry_s), told, "{about}");
            assert_eq!(connack.assigned_client_id, None);
        };
        check(given(Version::V3, 60, true, None), 90, 0, (None, None));
        check(given(Version::V3, 60, false, None), 90, 500, (None, None));
        check(given(Version::V3, 0, true, None), 1000, 0, (None, None));
        check(given(Version::V3, 65535, true, None), 1000, 0, (None, None));
        check(given(Version::V5, 60, true, None), 90, 0, (None, None));
        check(given(Version::V5, 60, true, Some(400)), 90, 400, (None, None));
        check(given(Version::V5, 0, true, None), 150, 0, (Some(100), None));
        check(
            given(Version::V5, 101, false, Some(u32::MAX)),
            150,
            500,
            (Some(100), Some(500)),
        );
        let (client, connack) = agree(
            Connect {
                client_id: String::new(),
                ..given(Version::V5, 60, true, None)
            },
            &config,
        );
        assert_eq!(connack.assigned_client_id.as_ref(), Some(&client.id));
        assert_eq!(client.id.len(), "citygate-".len() + 32);
    }
}
