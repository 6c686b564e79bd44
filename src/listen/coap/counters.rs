//! The listener's metrics, looked up once per label instead of once per datagram.
//!
//! A label that does not exist yet is looked up when it first occurs. Names and help are in [`metrics`](super::metrics).
//! Nothing here waits or allocates once every label has been seen.

use prometheus::IntCounter;

use super::packet::Unanswered;
use crate::listen::coap::metrics::CoapMetrics;

#[derive(Clone, Debug)]
pub struct Counters {
    pub received: IntCounter,
    pub retransmissions: IntCounter,
    /// Messages forgotten while their clients may still repeat them.
    pub forgotten: IntCounter,
    unanswered: Vec<IntCounter>,
    responses: Vec<Option<IntCounter>>,
    metrics: CoapMetrics,
}

impl Counters {
    pub fn new(metrics: &CoapMetrics) -> Self {
        let ignored = &metrics.coap_datagrams_ignored_total;
        Counters {
            received: metrics.coap_datagrams_received_total.clone(),
            retransmissions: metrics.coap_retransmissions_total.clone(),
            forgotten: metrics.coap_messages_forgotten_total.clone(),
            unanswered: Unanswered::ALL
                .map(|why| ignored.with_label_values(&[why.label()]))
                .into(),
            responses: vec![None; 256],
            metrics: metrics.clone(),
        }
    }

    pub fn unanswered(&self, why: Unanswered) {
        self.unanswered[why as usize].inc();
    }

    /// Counts a response under its code, as people write it: `4.04`.
    pub fn response(&mut self, code: u8) {
        let by_code = &self.metrics.coap_responses_total;
        let counter = || by_code.with_label_values(&[&format!("{}.{:02}", code >> 5, code & 0x1F)]);
        self.responses[usize::from(code)].get_or_insert_with(counter).inc();
    }
}
