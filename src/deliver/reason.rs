//! Why Kafka is unavailable: one word for a metric, a sentence for people.
//!
//! librdkafka tells of each connection that fails in its own words, with numbers that change from one failure to the next.
//! Here they become a [`Cause`] and a text that stays the same for as long as the fault does, so that it can be logged
//! once. No I/O.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

/// Brokers whose last failure is remembered; a city's cluster has fewer.
const BROKERS_MAX: usize = 16;

/// A connection that is ended sooner did not survive its first request.
const FIRST_REQUEST_MS: u64 = 2000;

/// For so long an earlier failure may be the one that librdkafka keeps to itself: it does for 30 s.
const UNTOLD_FOR: Duration = Duration::from_secs(60);

/// The kinds of reasons, each a label of `citygate_kafka_unavailable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Kafka was not asked yet, or makes the topics.
    Starting,
    /// A broker's name cannot be resolved.
    Dns,
    /// A broker's host refuses the connection: nothing listens there.
    Refused,
    /// A broker does not answer.
    Timeout,
    /// A connection fails or ends for another reason.
    Connection,
    /// The TLS handshake fails, or only one side speaks TLS.
    Tls,
    /// The login fails, or only one side wants one.
    Sasl,
    /// Kafka answers, but names no broker: its only one is fenced, or its controller is not there.
    NoBroker,
    /// A partition of a topic has no leader.
    NoLeader,
    /// A topic does not exist.
    TopicMissing,
    /// A topic does not exist and cannot be created.
    TopicRefused,
    /// Kafka answers, but does not confirm readings.
    Unconfirmed,
    /// The producer failed fatally.
    Producer,
}

/// Why Kafka is unavailable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub cause: Cause,
    /// For the operator; the same words for the same fault.
    pub text: String,
}

/// Why the connection to a broker cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `host:port`
    pub broker: String,
    pub reason: Reason,
    /// librdkafka's words.
    pub detail: String,
}

/// The last failure of each broker's connection since Kafka last answered.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    by_broker: BTreeMap<String, (Reason, Instant)>,
    /// Those of the time before Kafka last answered.
    earlier: BTreeMap<String, (Reason, Instant)>,
}

// === impl Cause ===

impl Cause {
    pub const ALL: [Cause; 13] = [
        Cause::Starting,
        Cause::Dns,
        Cause::Refused,
        Cause::Timeout,
        Cause::Connection,
        Cause::Tls,
        Cause::Sasl,
        Cause::NoBroker,
        Cause::NoLeader,
        Cause::TopicMissing,
        Cause::TopicRefused,
        Cause::Unconfirmed,
        Cause::Producer,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Cause::Starting => "starting",
            Cause::Dns => "dns",
            Cause::Refused => "refused",
            Cause::Timeout => "timeout",
            Cause::Connection => "connection",
            Cause::Tls => "tls",
            Cause::Sasl => "sasl",
            Cause::NoBroker => "no_broker",
            Cause::NoLeader => "no_leader",
            Cause::TopicMissing => "topic_missing",
            Cause::TopicRefused => "topic_refused",
            Cause::Unconfirmed => "unconfirmed",
            Cause::Producer => "producer",
        }
    }
}

// === impl Reason ===

impl Reason {
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        let text = text.into();
        Reason { cause, text }
    }

    /// What librdkafka tells of a connection, as an error or (that it was ended, as transport failure) in its log. `None`
    /// if it is not about a connection.
    pub fn of_connection(code: RDKafkaErrorCode, told: &str) -> Option<Failure> {
        // "sasl_plaintext://host:9092/bootstrap: Connect to ipv4#… failed: Connection refused (after 1ms in state CONNECT)"
        let (name, detail) = told.split_once(": ")?;
        let address = name.split_once("://").map_or(name, |(_, address)| address);
        let address = address.rsplit_once('/').map_or(address, |(address, _)| address);
        let (detail, state) = detail.rsplit_once(" (after ").unwrap_or((detail, ""));
        let last = detail.rsplit(": ").next().unwrap_or(detail);
        let has = |words: &str| detail.contains(words);
        let cause = match code {
            RDKafkaErrorCode::Resolve => Cause::Dns,
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => Cause::Sasl,
            RDKafkaErrorCode::SSL => Cause::Tls,
            RDKafkaErrorCode::OperationTimedOut => Cause::Timeout,
            RDKafkaErrorCode::BrokerTransportFailure if has("Failed to resolve") => Cause::Dns,
            RDKafkaErrorCode::BrokerTransportFailure if has("refused") => Cause::Refused,
            RDKafkaErrorCode::BrokerTransportFailure if has("timed out") || has("Timed out") => Cause::Timeout,
            RDKafkaErrorCode::BrokerTransportFailure if has("SSL") => Cause::Tls,
            RDKafkaErrorCode::BrokerTransportFailure if has("SASL") => Cause::Sasl,
            RDKafkaErrorCode::BrokerTransportFailure => Cause::Connection,
            _ => return None,
        };
        let text = match cause {
            Cause::Dns => format!("kafka at {address}: the name cannot be resolved ({last})"),
            Cause::Refused => format!("kafka at {address} refuses the connection"),
            Cause::Timeout => format!("kafka at {address} does not answer"),
            Cause::Tls => format!("kafka at {address}: TLS fails ({detail})"),
            Cause::Sasl => format!("kafka at {address}: the login fails ({detail})"),
            _ if has("Disconnected") => format!("kafka at {address} ends the connection{}", presumably(state)),
            _ => format!("kafka at {address}: the connection fails ({last})"),
        };
        Some(Failure {
            broker: address.to_owned(),
            reason: Reason { cause, text },
            detail: detail.to_owned(),
        })
    }
}

/// Why a connection is ended in this state, such as "3ms in state UP)": what a client without TLS or login meets at a
/// listener that wants one, since Kafka does not say it.
fn presumably(state: &str) -> &'static str {
    let age_ms = state.split_once("ms").and_then(|(age, _)| age.parse::<u64>().ok());
    if state.contains("APIVERSION_QUERY") {
        " before it answers; perhaps it wants TLS (security.protocol), or is a proxy without kafka behind it"
    } else if state.contains("in state UP") && age_ms.is_some_and(|age| age < FIRST_REQUEST_MS) {
        " at the first request; perhaps it wants a login (security.protocol)"
    } else {
        ""
    }
}

// === impl Failures ===

impl Failures {
    pub fn note(&mut self, failure: Failure, now: Instant) {
        let Failure { broker, reason, detail } = failure;
        let is_full = self.by_broker.len() >= BROKERS_MAX;
        match self.by_broker.get_mut(&broker) {
            // The first failure is told at length, its repetition may be in fewer words.
            Some((known, at)) if known.cause == reason.cause && known.text.contains(&detail) => *at = now,
            None if is_full => {}
            _ => drop(self.by_broker.insert(broker, (reason, now))),
        }
    }

    /// Kafka answers.
    pub fn are_over(&mut self) {
        if !self.by_broker.is_empty() {
            self.earlier = std::mem::take(&mut self.by_broker);
        }
    }

    /// Every connection failed. If none of them was told, it is the same failure as the last time: librdkafka keeps the
    /// repetition of one to itself for 30 s, even if the broker was there in between.
    pub fn are_total(&mut self, now: Instant) {
        self.earlier
            .retain(|_, (_, at)| now.saturating_duration_since(*at) < UNTOLD_FOR);
        if self.by_broker.is_empty() {
            self.by_broker.clone_from(&self.earlier);
        }
    }

    /// By cause, then by broker.
    pub fn reasons(&self) -> Vec<Reason> {
        let mut reasons: Vec<_> = self.by_broker.values().map(|(reason, _)| reason.clone()).collect();
        reasons.sort_by_key(|reason| reason.cause);
        reasons
    }
}

/// All of them in one line.
pub fn line(reasons: &[Reason]) -> String {
    let texts: Vec<_> = reasons.iter().map(|reason| reason.text.as_str()).collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_librdkafka_tells_becomes_a_cause_and_words_that_stay() {
        use RDKafkaErrorCode::{
            AllBrokersDown, Authentication, BrokerTransportFailure, OperationTimedOut, Resolve, SSL,
        };
        let check = |code, told: &str, expected: Option<(Cause, &str)>| {
            let found = Reason::of_connection(code, told);
            let found = found.map(|failure| (failure.broker, failure.reason.cause, failure.reason.text));
            let expected = expected.map(|(cause, text)| ("a.example:9092".to_owned(), cause, text.to_owned()));
            assert_eq!(found, expected, "{told}");
        };
        check(
            Resolve,
            "a.example:9092/bootstrap: Failed to resolve 'a.example:9092': Name or service not known (after 3ms in state CONNECT)",
            Some((
                Cause::Dns,
                "kafka at a.example:9092: the name cannot be resolved (Name or service not known)",
            )),
        );
        for told in [
            "a.example:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)",
            "a.example:9092/1: Connect to ipv6#[::1]:9092 failed: Connection refused (after 9ms in state CONNECT, 7 identical error(s) suppressed)",
        ] {
            let expected = "kafka at a.example:9092 refuses the connection";
            check(BrokerTransportFailure, told, Some((Cause::Refused, expected)));
        }
        check(
            OperationTimedOut,
            "a.example:9092/1: 3 request(s) timed out: disconnect (after 60012ms in state UP)",
            Some((Cause::Timeout, "kafka at a.example:9092 does not answer")),
        );
        check(
            BrokerTransportFailure,
            "a.example:9092/1: Connection setup timed out in state CONNECT (after 30028ms in state CONNECT)",
            Some((Cause::Timeout, "kafka at a.example:9092 does not answer")),
        );
        check(
            BrokerTransportFailure,
            "a.example:9092/bootstrap: ApiVersionRequest failed: Local: Timed out: probably due to broker version < 0.10 \
             (see api.version.request configuration) (after 10016ms in state APIVERSION_QUERY)",
            Some((Cause::Timeout, "kafka at a.example:9092 does not answer")),
        );
        check(
            SSL,
            "ssl://a.example:9092/bootstrap: SSL handshake failed: certificate verify failed (after 5ms in state SSL_HANDSHAKE)",
            Some((
                Cause::Tls,
                "kafka at a.example:9092: TLS fails (SSL handshake failed: certificate verify failed)",
            )),
        );
        check(
            Authentication,
            "sasl_ssl://a.example:9092/bootstrap: SASL authentication error: Invalid username (after 5ms in state AUTH_REQ)",
            Some((
                Cause::Sasl,
                "kafka at a.example:9092: the login fails (SASL authentication error: Invalid username)",
            )),
        );
        check(
            BrokerTransportFailure,
            "a.example:9092/1: Receive failed: Connection reset by peer (after 17ms in state UP)",
            Some((
                Cause::Connection,
                "kafka at a.example:9092: the connection fails (Connection reset by peer)",
            )),
        );
        for (state, expected) in [
            (
                "2ms in state APIVERSION_QUERY",
                "kafka at a.example:9092 ends the connection before it answers; perhaps it wants TLS (security.protocol), \
                 or is a proxy without kafka behind it",
            ),
            (
                "4ms in state UP",
                "kafka at a.example:9092 ends the connection at the first request; perhaps it wants a login (security.protocol)",
            ),
            ("600000ms in state UP", "kafka at a.example:9092 ends the connection"),
        ] {
            for words in ["connection closed by peer: POLLHUP", "connection reset by peer"] {
                let told = format!("a.example:9092/bootstrap: Disconnected: {words} (after {state})");
                check(BrokerTransportFailure, &told, Some((Cause::Connection, expected)));
            }
        }
        check(AllBrokersDown, "1/1 brokers are down", None);
    }

    #[test]
    fn labels_are_distinct_and_in_order() {
        let mut labels = Cause::ALL.map(Cause::label).to_vec();
        assert!(Cause::ALL.is_sorted());
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Cause::ALL.len());
    }

    #[test]
    fn the_same_failure_is_known_again_though_librdkafka_does_not_repeat_it() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let failed = |told: &str| {
            let told = format!("ssl://a:1/1: {told} (after 3ms in state CONNECT)");
            Reason::of_connection(RDKafkaErrorCode::BrokerTransportFailure, &told).unwrap()
        };
        let tls = failed("SSL handshake failed: SSL connection closed by peer: PLAINTEXT?");
        failures.note(tls.clone(), now);
        failures.note(failed("SSL connection closed by peer"), now);
        assert_eq!(failures.reasons(), [tls.reason], "in fewer words it is the same");
        let refused = failed("Connect to ipv4#127.0.0.1:1 failed: Connection refused");
        failures.note(refused.clone(), now);
        let refused = refused.reason;
        assert_eq!(
            failures.reasons(),
            std::slice::from_ref(&refused),
            "the last of each broker"
        );
        failures.are_over();
        assert_eq!(failures.reasons(), []);
        failures.are_total(now);
        assert_eq!(failures.reasons(), [refused]);
        failures.are_over();
        failures.are_total(now + UNTOLD_FOR);
        assert_eq!(failures.reasons(), [], "it is of another outage");
    }
}
