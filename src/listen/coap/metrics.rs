//! What is counted of CoAP: datagrams, exchanges, and what is remembered of peers.
//!
//! A field's name is the metric's name behind `citygate_`, its doc comment the help text. Labels come from enums only;
//! an address is never one.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use crate::operate::metrics::metrics;

metrics! {
    /// CoAP datagrams and exchanges.
    CoapMetrics {
        /// CoAP datagrams received.
        coap_datagrams_received_total: IntCounter,
        /// CoAP datagrams that the kernel dropped because a socket's receive buffer was full; known when the next datagrams arrive at that socket, so not those before it closes.
        coap_datagrams_dropped_total: IntCounter,
        /// CoAP datagrams not answered with a response code, by reason (malformed, duplicate, reset, not ours …).
        coap_datagrams_ignored_total: IntCounterVec["reason"],
        /// CoAP responses sent, by code.
        coap_responses_total: IntCounterVec["code"],
        /// CoAP separate responses sent again because no ACK had come.
        coap_retransmissions_total: IntCounter,
        /// CoAP peers remembered for de-duplication.
        coap_peers: IntGauge,
        /// CoAP messages remembered for de-duplication.
        coap_messages_remembered: IntGauge,
        /// Bytes charged for them and their peers (at most coap.remembered_bytes_max).
        coap_remembered_bytes: IntGauge,
        /// CoAP messages forgotten within 45 s (MAX_TRANSMIT_SPAN) because coap.remembered_bytes_max was reached: a retransmission is then a new reading.
        coap_messages_forgotten_total: IntCounter,
        /// CoAP sockets open beside that of a wildcard (0.0.0.0, [::]), one for each address of this host that was asked, so that
        /// its answers leave from there.
        coap_own_addresses: IntGauge,
        /// Times no socket could be opened for an address of this host that was asked (see citygate_coap_own_addresses): its
        /// answers may leave from another one.
        coap_own_addresses_failed_total: IntCounter,
        /// CoAP exchanges open now: requests not yet answered, and separate responses not yet acknowledged.
        coap_exchanges: IntGauge,
        /// CoAP datagrams that the socket did not accept (buffer full, no route …).
        coap_send_failures_total: IntCounter,
    }
}
