//! Topic aliases of one MQTT 5 connection [§3.3.2.3.4]: a number that stands for a topic sent before.
//!
//! Bounded in number by the configuration and in bytes by [`TOPIC_BYTES_MAX`]; no alias outlives its connection.

use super::packet::{self, DisconnectReason, Fault, Publish, protocol_error};

/// Longest topic that gets an alias; no address is as long.
const TOPIC_BYTES_MAX: usize = 512;

#[derive(Debug)]
pub struct Aliases {
    // The topic of alias n is at n - 1.
    topics: Vec<Option<Box<str>>>,
    maximum: u16,
}

// === impl Aliases ===

impl Aliases {
    pub fn new(maximum: u16) -> Self {
        let topics = Vec::new();
        Aliases { topics, maximum }
    }

    /// The topic of a publish: its own, checked, or the one its alias stands for.
    pub fn topic<'a>(&'a mut self, publish: &'a Publish) -> Result<&'a str, Fault> {
        let Some(alias) = publish.alias else {
            if publish.topic.is_empty() {
                return Err(protocol_error("a publish without a topic"));
            }
            return packet::topic(&publish.topic);
        };
        if alias == 0 || alias > self.maximum {
            return Err(invalid("an alias above the Topic Alias Maximum"));
        }
        let index = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            let known = self.topics.get(index).and_then(Option::as_deref);
            return known.ok_or(protocol_error("an alias that stands for no topic"));
        }
        let topic = packet::topic(&publish.topic)?;
        if topic.len() > TOPIC_BYTES_MAX {
            return Err(invalid("an alias for a topic of more than 512 bytes"));
        }
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        // A client that names topic and alias each time changes nothing.
        if self.topics[index].as_deref() != Some(topic) {
            self.topics[index] = Some(topic.into());
        }
        Ok(topic)
    }
}

fn invalid(why: &'static str) -> Fault {
    let reason = DisconnectReason::TopicAliasInvalid;
    Fault { reason, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn publish(topic: &str, alias: Option<u16>) -> Publish {
        Publish {
            qos: 0,
            pkid: 0,
            dup: false,
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            alias,
            content_type: None,
            properties: 0,
            payload: Bytes::new(),
        }
    }

    #[test]
    fn an_alias_stands_for_the_topic_it_was_last_given() {
        let mut aliases = Aliases::new(2);
        let mut check = |topic: &str, alias: Option<u16>, expected: Result<&str, DisconnectReason>| {
            let publish = publish(topic, alias);
            let found = aliases.topic(&publish).map_err(|fault| fault.reason);
            assert_eq!(found, expected, "{topic} {alias:?}");
        };
        check("a", None, Ok("a"));
        check("", None, Err(DisconnectReason::ProtocolError));
        check("", Some(2), Err(DisconnectReason::ProtocolError));
        check("b", Some(2), Ok("b"));
        check("", Some(2), Ok("b"));
        check("", Some(1), Err(DisconnectReason::ProtocolError));
        check("c", Some(2), Ok("c"));
        check("", Some(2), Ok("c"));
        check("d", Some(3), Err(DisconnectReason::TopicAliasInvalid));
        check("d", Some(0), Err(DisconnectReason::TopicAliasInvalid));
        check("d/#", Some(1), Err(DisconnectReason::TopicNameInvalid));
        check(&"e".repeat(513), Some(1), Err(DisconnectReason::TopicAliasInvalid));
        check("", Some(1), Err(DisconnectReason::ProtocolError));
        check(&"e".repeat(513), None, Ok(&"e".repeat(513)));
    }

    #[test]
    fn without_a_maximum_no_alias_is_taken() {
        assert_eq!(
            Aliases::new(0)
                .topic(&publish("a", Some(1)))
                .map_err(|fault| fault.reason),
            Err(DisconnectReason::TopicAliasInvalid)
        );
    }
}
