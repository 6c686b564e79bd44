//! Who was told what about which reading, and whether it is true.
//!
//! Every device keeps its own page: which of its sequence numbers were acknowledged, rejected, or stayed without a
//! positive answer. [`Ledger::reconcile`] compares the pages with what was [`Found`] in Kafka. The one thing that must
//! never be is *lost*: acknowledged, and not found. More in Kafka than was acknowledged is allowed (an answer can get
//! lost on its way back), so is a duplicate (at least once); both are counted.

use std::collections::HashMap;

use serde::Serialize;

use crate::devices::Kind;
use crate::runs::Runs;
use crate::uplinks::Protocol;

/// How many ranges of lost readings are named; the count is of all of them.
const LOST_NAMED_MAX: usize = 10;

/// How many devices are followed at most; records of others are counted as strangers.
const FOUND_DEVICES_MAX: usize = 500_000;

/// One device's account of its readings. Every reading that was sent is in exactly one of the four sets.
#[derive(Clone, Debug)]
pub struct Page {
    pub device: String,
    pub kind: Kind,
    pub protocol: Protocol,
    /// MQTT 3.1.1 has no negative answer: there a positive one may also mean *safe in the dead-letter topic*.
    pub accepts_dead_letter: bool,
    pub acknowledged: Runs,
    pub rejected: Runs,
    /// Told to come back later, until the device gave up.
    pub busy: Runs,
    /// Never answered, until the device gave up.
    pub unanswered: Runs,
}

/// All pages of a fleet.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub pages: Vec<Page>,
}

/// What a consumer found in Kafka.
#[derive(Clone, Debug, Default)]
pub struct Found {
    devices: HashMap<String, FoundDevice>,
    /// Records of the kinds' topics, in all.
    pub records: u64,
    /// Records that are not readable as what their topic promises: no key, no schema, no sequence.
    pub unreadable: u64,
    /// Why the first unreadable record was so.
    pub unreadable_because: Option<String>,
    /// Whether the consumer reached the end of every partition.
    pub complete: bool,
}

#[derive(Clone, Debug, Default)]
struct FoundDevice {
    delivered: Runs,
    dead_letters: Runs,
    records: u64,
    out_of_order: u64,
}

/// The comparison of a ledger with what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reconciliation {
    /// Distinct readings that got a positive answer.
    pub acknowledged: u64,
    /// Acknowledged and found in their topic.
    pub in_kafka: u64,
    /// Acknowledged by MQTT 3.1.1, and found in the dead-letter topic instead.
    pub dead_lettered: u64,
    /// Acknowledged, and found nowhere. The promise is that this is 0.
    pub lost: u64,
    /// The first of them.
    pub lost_named: Vec<LostRange>,
    /// Records beyond the first of the same reading.
    pub duplicates: u64,
    /// Found without a positive answer: the answer was lost, or came after the device had given up.
    pub extra: u64,
    /// Readings found behind a later one of the same device.
    pub out_of_order: u64,
    /// Records of devices that are not in the ledger.
    pub strangers: u64,
    pub unreadable: u64,
}

/// Sequence numbers `first` to `last` of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostRange {
    pub device: String,
    pub kind: Kind,
    pub protocol: Protocol,
    pub first: u64,
    pub last: u64,
}

// === impl Page ===

impl Page {
    pub fn new(device: impl Into<String>, kind: Kind, protocol: Protocol) -> Page {
        Page {
            device: device.into(),
            kind,
            protocol,
            accepts_dead_letter: false,
            acknowledged: Runs::default(),
            rejected: Runs::default(),
            busy: Runs::default(),
            unanswered: Runs::default(),
        }
    }

    /// Readings handed to an uplink for the first time.
    pub fn sent(&self) -> u64 {
        self.acknowledged.count() + self.rejected.count() + self.busy.count() + self.unanswered.count()
    }
}

// === impl Found ===

impl Found {
    /// A reading in the topic of its kind; whether it is there for the first time.
    pub fn record(&mut self, device: &str, sequence: u64) -> bool {
        self.records += 1;
        let Some(entry) = self.device(device) else { return false };
        entry.records += 1;
        let highest = entry.delivered.largest();
        let is_new = entry.delivered.insert(sequence);
        if is_new && highest.is_some_and(|highest| sequence < highest) {
            entry.out_of_order += 1;
        }
        is_new
    }

    /// A reading in the dead-letter topic.
    pub fn dead_letter(&mut self, device: &str, sequence: u64) {
        if let Some(entry) = self.device(device) {
            entry.dead_letters.insert(sequence);
        }
    }

    pub fn unreadable(&mut self, because: impl FnOnce() -> String) {
        self.unreadable += 1;
        self.unreadable_because.get_or_insert_with(because);
    }

    fn device(&mut self, device: &str) -> Option<&mut FoundDevice> {
        if !self.devices.contains_key(device) {
            if self.devices.len() >= FOUND_DEVICES_MAX {
                return None;
            }
            self.devices.insert(device.to_owned(), FoundDevice::default());
        }
        self.devices.get_mut(device)
    }
}

// === impl Ledger ===

impl Ledger {
    pub fn reconcile(&self, found: &Found) -> Reconciliation {
        self.reconcile_if(found, |_| true)
    }

    /// As [`Ledger::reconcile`], for the devices of one kind; strangers belong to no kind.
    pub fn reconcile_kind(&self, found: &Found, kind: Kind) -> Reconciliation {
        let mut result = self.reconcile_if(found, |page| page.kind == kind);
        result.strangers = 0;
        result
    }

    /// Readings that are acknowledged and not found: cheap enough to ask again and again while reading along.
    pub fn missing(&self, found: &Found) -> u64 {
        let nothing = FoundDevice::default();
        let missing = |page: &Page| {
            page.missing(found.devices.get(&page.device).unwrap_or(&nothing))
                .count()
        };
        self.pages.iter().map(missing).sum()
    }

    fn reconcile_if(&self, found: &Found, wanted: impl Fn(&Page) -> bool) -> Reconciliation {
        let nothing = FoundDevice::default();
        let mut result = Reconciliation {
            strangers: found.records,
            unreadable: found.unreadable,
            ..Reconciliation::default()
        };
        for page in self.pages.iter().filter(|page| wanted(page)) {
            let there = found.devices.get(&page.device).unwrap_or(&nothing);
            let delivered = page.acknowledged.intersection(&there.delivered).count();
            let lost = page.missing(there);
            result.acknowledged += page.acknowledged.count();
            result.in_kafka += delivered;
            result.dead_lettered += page.acknowledged.count() - delivered - lost.count();
            result.lost += lost.count();
            result.duplicates += there.records - there.delivered.count();
            result.extra += there.delivered.difference(&page.acknowledged).count();
            result.out_of_order += there.out_of_order;
            result.strangers -= there.records;
            let room = LOST_NAMED_MAX - result.lost_named.len();
            let named = lost.iter().take(room).map(|range| page.lost(range));
            result.lost_named.extend(named);
        }
        result
    }
}

impl Page {
    fn missing(&self, there: &FoundDevice) -> Runs {
        let missing = self.acknowledged.difference(&there.delivered);
        if self.accepts_dead_letter {
            missing.difference(&there.dead_letters)
        } else {
            missing
        }
    }

    fn lost(&self, (first, last): (u64, u64)) -> LostRange {
        LostRange {
            device: self.device.clone(),
            kind: self.kind,
            protocol: self.protocol,
            first,
            last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(acknowledged: &[u64]) -> Page {
        let mut page = Page::new("loop-1", Kind::Traffic, Protocol::Coap);
        page.acknowledged = acknowledged.iter().copied().collect();
        page
    }

    fn found(records: &[(&str, u64)]) -> Found {
        let mut found = Found::default();
        for (device, sequence) in records {
            found.record(device, *sequence);
        }
        found
    }

    fn reconciled(acknowledged: &[u64], sequences: &[u64]) -> Reconciliation {
        let records: Vec<_> = sequences.iter().map(|&sequence| ("loop-1", sequence)).collect();
        let pages = vec![page(acknowledged)];
        Ledger { pages }.reconcile(&found(&records))
    }

    #[test]
    fn what_was_acknowledged_is_compared_with_what_is_there() {
        // acknowledged, in Kafka → (in Kafka, lost, duplicates, extra, out of order)
        let check = |acknowledged: &[u64], there: &[u64], expected: (u64, u64, u64, u64, u64)| {
            let is = reconciled(acknowledged, there);
            let is_tuple = (is.in_kafka, is.lost, is.duplicates, is.extra, is.out_of_order);
            assert_eq!(is_tuple, expected, "{acknowledged:?} against {there:?}");
            assert_eq!(is.acknowledged, is.in_kafka + is.dead_lettered + is.lost);
        };
        check(&[], &[], (0, 0, 0, 0, 0));
        check(&[1, 2, 3], &[1, 2, 3], (3, 0, 0, 0, 0));
        check(&[1, 2, 3], &[1, 3], (2, 1, 0, 0, 0));
        check(&[1, 2, 3], &[], (0, 3, 0, 0, 0));
        check(&[1, 2, 3], &[1, 2, 2, 3, 1], (3, 0, 2, 0, 0));
        check(&[1, 2, 3], &[1, 3, 2], (3, 0, 0, 0, 1));
        check(&[1, 2, 3], &[3, 2, 1], (3, 0, 0, 0, 2));
        // A late duplicate is a duplicate, not disorder.
        check(&[1, 2, 3], &[1, 2, 3, 1], (3, 0, 1, 0, 0));
        check(&[1, 3], &[1, 2, 3], (2, 0, 0, 1, 0));
        check(&[], &[7, 8], (0, 0, 0, 2, 0));
        check(&[1, 2, 3, 4], &[2, 2, 1, 9], (2, 2, 1, 1, 1));
    }

    #[test]
    fn lost_readings_are_named_by_range_and_not_endlessly() {
        let result = reconciled(&[1, 2, 3, 4, 9], &[1, 4]);
        let named: Vec<_> = result
            .lost_named
            .iter()
            .map(|range| (range.first, range.last))
            .collect();
        assert_eq!(named, [(2, 3), (9, 9)]);
        let odd: Vec<u64> = (0..1000).map(|value| 2 * value).collect();
        let result = reconciled(&odd, &[]);
        assert_eq!((result.lost, result.lost_named.len()), (1000, LOST_NAMED_MAX));
    }

    #[test]
    fn a_dead_letter_answers_for_an_acknowledgement_only_where_no_other_answer_exists() {
        let check = |accepts_dead_letter: bool, expected: (u64, u64, u64)| {
            let mut page = page(&[1, 2, 3]);
            page.accepts_dead_letter = accepts_dead_letter;
            let mut there = found(&[("loop-1", 1)]);
            there.dead_letter("loop-1", 2);
            let pages = vec![page];
            let result = Ledger { pages }.reconcile(&there);
            assert_eq!((result.in_kafka, result.dead_lettered, result.lost), expected);
        };
        check(true, (1, 1, 1));
        check(false, (1, 0, 2));
    }

    #[test]
    fn devices_are_not_confused_with_each_other() {
        let mut other = page(&[1, 2]);
        other.device = "meter-2".to_owned();
        other.kind = Kind::Energy;
        let ledger = Ledger {
            pages: vec![page(&[1, 2]), other],
        };
        let there = found(&[("loop-1", 1), ("loop-1", 2), ("meter-2", 1), ("somebody-else", 2)]);
        let result = ledger.reconcile(&there);
        assert_eq!((result.in_kafka, result.lost, result.strangers), (3, 1, 1));
        assert_eq!(result.lost_named[0].device, "meter-2");
        assert_eq!(ledger.missing(&there), 1);
        assert_eq!(ledger.reconcile_kind(&there, Kind::Traffic).lost, 0);
        assert_eq!(ledger.reconcile_kind(&there, Kind::Energy).lost, 1);
    }
}
