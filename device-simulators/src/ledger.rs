//! Who was told what about which reading, and whether it is true.
//!
//! Every device keeps its own account: which of its sequence numbers were acknowledged, rejected, or stayed without a
//! positive answer. [`Ledger::reconcile`] compares the accounts with what was [`Found`] in Kafka. The one thing that must
//! never be is *lost*: acknowledged, and not found. More in Kafka than was acknowledged is allowed (an answer can get
//! lost on its way back), so is a duplicate (at least once); both are counted. Gaps and duplicates are named with device,
//! range of sequence numbers, and the time in which those were sent.
//!
//! A kind whose readings do not say their number ([`Kind::is_numbered`]) is compared by the number of its records: a reading
//! that is missing shows, unless another one is there twice.
//!
//! Memory is bounded per device, however many readings there are, because no list of readings is kept:
//!
//! ```text
//! usual      2 to 7 KiB a device: complete stretches cost nothing, a chunk of 1024 with holes 152 bytes (see `runs`)
//! of sets    4 on the account, 3 of what was found, each at most 88 KiB; beyond that the oldest readings stay counted and are
//!            not compared (`not_compared`). MQTT 3.1.1 devices with faults have up to 3 more for each of 13 lines of grades
//! of times   1 KiB
//! of devices 500 000 in Kafka; records of further ones are other_devices
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::devices::Kind;
use crate::devices::faults::Labels;
use crate::grades::{Cause, Due, Table, causes};
use crate::sequence_set::SequenceSet;
use crate::timeline::Timeline;
use crate::uplinks::Protocol;

/// How many ranges of lost readings are named, and as many of duplicates; the counts are of all of them.
const NAMED_MAX: usize = 10;

/// How many different reasons of dead letters are told apart; the gateway has ten.
const REASONS_MAX: usize = 32;

/// How many devices are followed at most; records of others are counted as other_devices.
const FOUND_DEVICES_MAX: usize = 500_000;

/// One device's account of its readings. Every reading that was sent is in one of the four sets; one that a fault made the
/// device send several times may be in several.
#[derive(Clone, Debug)]
pub struct Account {
    pub device: String,
    pub kind: Kind,
    pub protocol: Protocol,
    /// MQTT 3.1.1 has no negative answer: there a positive one may also mean *safe in the dead-letter topic*.
    pub accepts_dead_letter: bool,
    pub acknowledged: SequenceSet,
    pub rejected: SequenceSet,
    /// Told to come back later, until the device gave up.
    pub busy: SequenceSet,
    /// Never answered, until the device gave up.
    pub unanswered: SequenceSet,
    /// When they were sent.
    pub timeline: Timeline,
    /// What MQTT 3.1.1 acknowledged, by what is due: Kafka knows the verdict.
    ungraded: BTreeMap<(Cause, Due), SequenceSet>,
}

/// All accounts of a fleet.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub accounts: Vec<Account>,
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
    /// Dead letters by the reason that the gateway gave them.
    pub dead_letter_reasons: BTreeMap<String, u64>,
    /// Whether the consumer reached the end of every partition.
    pub complete: bool,
}

#[derive(Clone, Debug, Default)]
struct FoundDevice {
    delivered: SequenceSet,
    /// What was delivered more than once.
    duplicated: SequenceSet,
    dead_letters: SequenceSet,
    /// Dead letters that do not say their sequence number: half a message, or none.
    unnumbered: u64,
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
    /// Of these, those found more than once.
    pub in_kafka_more_than_once: u64,
    /// Acknowledged by MQTT 3.1.1, and found in the dead-letter topic instead.
    pub dead_lettered: u64,
    /// Acknowledged, and found nowhere. The promise is that this is 0.
    pub lost: u64,
    /// The first of them.
    pub lost_named: Vec<LostRange>,
    /// Acknowledged so long ago, amid so many gaps, that it is only counted.
    pub not_compared: u64,
    /// Records beyond the first of the same reading.
    pub duplicates: u64,
    /// The first of them.
    pub duplicates_named: Vec<LostRange>,
    /// Found without a positive answer: the answer was lost, or came after the device had stopped waiting.
    pub extra: u64,
    /// Readings found behind a later one of the same device.
    pub out_of_order: u64,
    /// Records of devices that are not in the ledger.
    pub other_devices: u64,
    pub unreadable: u64,
}

/// Sequence numbers `first` to `last` of one device, lost or duplicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostRange {
    pub device: String,
    pub kind: Kind,
    pub protocol: Protocol,
    pub first: u64,
    pub last: u64,
    /// Sent between then and `until_ms`, milliseconds since 1970.
    pub from_ms: Option<i64>,
    pub until_ms: Option<i64>,
}

// === impl Account ===

impl Account {
    pub fn new(device: impl Into<String>, kind: Kind, protocol: Protocol) -> Account {
        Account {
            device: device.into(),
            kind,
            protocol,
            accepts_dead_letter: false,
            acknowledged: SequenceSet::default(),
            rejected: SequenceSet::default(),
            busy: SequenceSet::default(),
            unanswered: SequenceSet::default(),
            timeline: Timeline::default(),
            ungraded: BTreeMap::new(),
        }
    }

    /// A positive answer that says nothing about the verdict.
    pub fn grade_later(&mut self, labels: Labels, due: Due, sequence: u64) {
        for cause in causes(labels) {
            self.ungraded.entry((cause, due)).or_default().insert(sequence);
        }
    }

    /// What it occupies beyond itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let sets = [&self.acknowledged, &self.rejected, &self.busy, &self.unanswered];
        let sets = sets.into_iter().chain(self.ungraded.values());
        sets.map(SequenceSet::heap_bytes).sum::<usize>() + self.device.capacity() + self.timeline.heap_bytes()
    }

    /// Readings handed to an uplink for the first time.
    pub fn sent(&self) -> u64 {
        self.acknowledged.count() + self.rejected.count() + self.busy.count() + self.unanswered.count()
    }
}

// === impl Found ===

impl Found {
    /// A reading in the topic of its kind; whether it is found for the first time.
    pub fn record(&mut self, device: &str, sequence: u64) -> bool {
        self.records += 1;
        let Some(entry) = self.device(device) else { return false };
        entry.records += 1;
        let highest = entry.delivered.largest();
        let is_new = entry.delivered.insert(sequence);
        if !is_new {
            entry.duplicated.insert(sequence);
        }
        if is_new && highest.is_some_and(|highest| sequence < highest) {
            entry.out_of_order += 1;
        }
        is_new
    }

    /// A reading of a kind whose readings do not say their number.
    pub fn unnumbered_record(&mut self, device: &str) {
        self.records += 1;
        if let Some(entry) = self.device(device) {
            entry.records += 1;
        }
    }

    /// What was found of a device. Where readings say no number, so many of those that are due as there are records.
    fn of(&self, account: &Account) -> Cow<'_, FoundDevice> {
        let Some(there) = self.devices.get(&account.device) else {
            return Cow::Owned(FoundDevice::default());
        };
        if account.kind.is_numbered() {
            return Cow::Borrowed(there);
        }
        let due = account.acknowledged.difference(&account.due_dead_letters());
        let numbers = due.iter().flat_map(|(first, last)| first..=last);
        let delivered = numbers.take(there.records as usize).collect();
        Cow::Owned(FoundDevice {
            delivered,
            ..there.clone()
        })
    }

    /// A reading in the dead-letter topic; None where it does not say its sequence number.
    pub fn dead_letter(&mut self, device: &str, sequence: Option<u64>) {
        match (self.device(device), sequence) {
            (Some(entry), Some(sequence)) => drop(entry.dead_letters.insert(sequence)),
            (Some(entry), None) => entry.unnumbered += 1,
            (None, _) => {}
        }
    }

    /// Why a dead letter is one.
    pub fn dead_letter_reason(&mut self, reason: &str) {
        if let Some(times) = self.dead_letter_reasons.get_mut(reason) {
            *times += 1;
        } else if self.dead_letter_reasons.len() < REASONS_MAX {
            self.dead_letter_reasons.insert(reason.to_owned(), 1);
        }
    }

    /// What it occupies beyond itself, in bytes, without the map's own table.
    pub fn heap_bytes(&self) -> usize {
        let bytes = |(name, device): (&String, &FoundDevice)| {
            let sets = [&device.delivered, &device.duplicated, &device.dead_letters];
            name.capacity() + size_of::<FoundDevice>() + sets.into_iter().map(SequenceSet::heap_bytes).sum::<usize>()
        };
        self.devices.iter().map(bytes).sum()
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

    /// As [`Ledger::reconcile`], for the devices of one kind; other_devices belong to no kind.
    pub fn reconcile_kind(&self, found: &Found, kind: Kind) -> Reconciliation {
        let mut result = self.reconcile_if(found, |account| account.kind == kind);
        result.other_devices = 0;
        result
    }

    /// Readings that are acknowledged and not found: cheap enough to ask again and again while reading along.
    pub fn missing(&self, found: &Found) -> u64 {
        let missing = |account: &Account| account.missing(&found.of(account)).count();
        self.accounts.iter().map(missing).sum()
    }

    /// Adds to `table` what only Kafka can tell: whether what MQTT 3.1.1 acknowledged was accepted.
    pub fn grade(&self, found: &Found, table: &mut Table) {
        for account in &self.accounts {
            let there = found.of(account);
            for ((cause, due), sequences) in &account.ungraded {
                let accepted = sequences.intersection(&there.delivered).count();
                let rejected = sequences.difference(&there.delivered).count();
                table.add(*cause, accepted, true, *due != Due::Reject);
                table.add(*cause, rejected, false, *due != Due::Accept);
            }
        }
    }

    fn reconcile_if(&self, found: &Found, wanted: impl Fn(&Account) -> bool) -> Reconciliation {
        let mut result = Reconciliation {
            other_devices: found.records,
            unreadable: found.unreadable,
            ..Reconciliation::default()
        };
        for account in self.accounts.iter().filter(|account| wanted(account)) {
            let there = &*found.of(account);
            let lost = account.missing(there);
            let floor = account.floor(there);
            let compared = account.acknowledged.count_from(floor);
            let delivered = account.acknowledged.intersection(&there.delivered).count_from(floor);
            result.acknowledged += account.acknowledged.count();
            result.not_compared += account.acknowledged.count() - compared;
            result.in_kafka += delivered;
            let repeated = account.acknowledged.intersection(&there.duplicated);
            result.in_kafka_more_than_once += repeated.count_from(floor.max(there.duplicated.floor()));
            result.dead_lettered += compared - delivered - lost.count();
            result.lost += lost.count();
            result.duplicates += there.records - there.delivered.count();
            result.extra += there.delivered.difference(&account.acknowledged).count();
            result.out_of_order += there.out_of_order;
            result.other_devices -= there.records;
            account.name(&lost, &mut result.lost_named);
            account.name(&there.duplicated, &mut result.duplicates_named);
        }
        result
    }
}

impl Account {
    fn missing(&self, there: &FoundDevice) -> SequenceSet {
        let missing = self.acknowledged.difference(&there.delivered);
        if !self.accepts_dead_letter {
            return missing;
        }
        let missing = missing.difference(&there.dead_letters);
        // What is not even JSON has no number to be found by; so as many are expected as were due.
        let due = self.due_dead_letters();
        let nameless = missing.intersection(&due).count();
        if nameless > 0 && nameless <= there.unnumbered {
            return missing.difference(&due);
        }
        missing
    }

    /// What was acknowledged although it must be rejected.
    fn due_dead_letters(&self) -> SequenceSet {
        let due = self.ungraded.iter().filter(|((_, due), _)| *due != Due::Accept);
        let sequences = due.flat_map(|(_, sequences)| sequences.iter());
        sequences.flat_map(|(first, last)| first..=last).collect()
    }

    /// From which number on the sets can be compared.
    fn floor(&self, there: &FoundDevice) -> u64 {
        let dead_letters = if self.accepts_dead_letter {
            there.dead_letters.floor()
        } else {
            0
        };
        self.acknowledged.floor().max(there.delivered.floor()).max(dead_letters)
    }

    /// Adds the first ranges of `sequences` to `named`, up to the maximum.
    fn name(&self, sequences: &SequenceSet, named: &mut Vec<LostRange>) {
        let room = NAMED_MAX.saturating_sub(named.len());
        let range = |(first, last)| {
            let times = self.timeline.between(first, last);
            LostRange {
                device: self.device.clone(),
                kind: self.kind,
                protocol: self.protocol,
                first,
                last,
                from_ms: times.map(|(from, _)| from),
                until_ms: times.map(|(_, until)| until),
            }
        };
        named.extend(sequences.iter().take(room).map(range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::faults::Fault;

    fn account(acknowledged: &[u64]) -> Account {
        let mut account = Account::new("loop-1", Kind::TRAFFIC, Protocol::Coap);
        account.acknowledged = acknowledged.iter().copied().collect();
        account
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
        let accounts = vec![account(acknowledged)];
        Ledger { accounts }.reconcile(&found(&records))
    }

    #[test]
    fn what_was_acknowledged_is_compared_with_what_is_there() {
        // acknowledged, in Kafka → (in Kafka, lost, duplicates, extra, out of order)
        let check = |acknowledged: &[u64], there: &[u64], expected: (u64, u64, u64, u64, u64)| {
            let is = reconciled(acknowledged, there);
            let is_tuple = (is.in_kafka, is.lost, is.duplicates, is.extra, is.out_of_order);
            assert_eq!(is_tuple, expected, "{acknowledged:?} against {there:?}");
            assert_eq!(is.acknowledged, is.in_kafka + is.dead_lettered + is.lost);
            assert!(is.in_kafka_more_than_once <= is.in_kafka.min(is.duplicates));
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
        assert_eq!((result.lost, result.lost_named.len()), (1000, NAMED_MAX));
    }

    #[test]
    fn a_dead_letter_answers_for_an_acknowledgement_only_where_no_other_answer_exists() {
        let check = |accepts_dead_letter: bool, expected: (u64, u64, u64)| {
            let mut account = account(&[1, 2, 3]);
            account.accepts_dead_letter = accepts_dead_letter;
            let mut there = found(&[("loop-1", 1)]);
            there.dead_letter("loop-1", Some(2));
            let accounts = vec![account];
            let result = Ledger { accounts }.reconcile(&there);
            assert_eq!((result.in_kafka, result.dead_lettered, result.lost), expected);
        };
        check(true, (1, 1, 1));
        check(false, (1, 0, 2));
    }

    #[test]
    fn devices_are_not_confused_with_each_other() {
        let mut other = account(&[1, 2]);
        other.device = "meter-2".to_owned();
        other.kind = Kind::ENERGY;
        let ledger = Ledger {
            accounts: vec![account(&[1, 2]), other],
        };
        let there = found(&[("loop-1", 1), ("loop-1", 2), ("meter-2", 1), ("somebody-else", 2)]);
        let result = ledger.reconcile(&there);
        assert_eq!((result.in_kafka, result.lost, result.other_devices), (3, 1, 1));
        assert_eq!(result.lost_named[0].device, "meter-2");
        assert_eq!(ledger.missing(&there), 1);
        assert_eq!(ledger.reconcile_kind(&there, Kind::TRAFFIC).lost, 0);
        assert_eq!(ledger.reconcile_kind(&there, Kind::ENERGY).lost, 1);
    }

    #[test]
    fn readings_without_a_number_are_compared_by_how_many_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let schema = r#"{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}"#;
        std::fs::write(folder.path().join("plain.avsc"), schema).unwrap();
        let kind = crate::devices::Kinds::of_folder(folder.path()).get("plain").unwrap();
        // Acknowledged → records: in Kafka, lost, duplicates.
        let check = |acknowledged: &[u64], records: u64, expected: (u64, u64, u64)| {
            let account = Account {
                kind,
                ..account(acknowledged)
            };
            let mut found = Found::default();
            (0..records).for_each(|_| found.unnumbered_record("loop-1"));
            let ledger = Ledger {
                accounts: vec![account],
            };
            let result = ledger.reconcile(&found);
            assert_eq!(
                (result.in_kafka, result.lost, result.duplicates),
                expected,
                "{records} of {acknowledged:?}"
            );
            assert_eq!((ledger.missing(&found), result.other_devices), (expected.1, 0));
        };
        check(&[1, 2, 4], 3, (3, 0, 0));
        check(&[1, 2, 4], 2, (2, 1, 0));
        check(&[1, 2, 4], 0, (0, 3, 0));
        check(&[1, 2, 4], 5, (3, 0, 2));
        check(&[], 1, (0, 0, 1));
    }

    #[test]
    fn half_a_message_is_found_by_its_device_alone() {
        // MQTT 3.1.1 acknowledged 1 to 4; 2 and 3 were truncated. → dead-lettered, lost
        let check = |unnumbered: u64, expected: (u64, u64)| {
            let mut account = account(&[1, 2, 3, 4]);
            account.accepts_dead_letter = true;
            for sequence in [2, 3] {
                account.grade_later(Labels::default().with(Fault::Truncated), Due::Reject, sequence);
            }
            for sequence in [1, 4] {
                account.grade_later(Labels::default(), Due::Accept, sequence);
            }
            let mut there = found(&[("loop-1", 1), ("loop-1", 4)]);
            (0..unnumbered).for_each(|_| there.dead_letter("loop-1", None));
            let ledger = Ledger {
                accounts: vec![account],
            };
            let result = ledger.reconcile(&there);
            assert_eq!((result.dead_lettered, result.lost), expected);
            let mut table = Table::default();
            ledger.grade(&there, &mut table);
            let line = |cause| {
                let line: crate::grades::Grade = table.lines[&cause];
                (line.accepted, line.rejected, line.as_expected)
            };
            assert_eq!((line(None), line(Some(Fault::Truncated))), ((2, 0, 2), (0, 2, 2)));
        };
        check(2, (2, 0));
        check(3, (2, 0));
        check(1, (0, 2));
        check(0, (0, 2));
    }

    #[test]
    fn gaps_and_duplicates_are_named_with_their_time() {
        let mut account = account(&[1, 2, 3, 4, 5]);
        (1..=5).for_each(|sequence| account.timeline.note(sequence, 1000 * sequence as i64));
        let ledger = Ledger {
            accounts: vec![account],
        };
        let result = ledger.reconcile(&found(&[("loop-1", 1), ("loop-1", 4), ("loop-1", 4), ("loop-1", 5)]));
        let named = |ranges: &[LostRange]| {
            let range = |range: &LostRange| (range.first, range.last, range.from_ms, range.until_ms);
            ranges.iter().map(range).collect::<Vec<_>>()
        };
        assert_eq!(named(&result.lost_named), [(2, 3, Some(2000), Some(3000))]);
        assert_eq!(named(&result.duplicates_named), [(4, 4, Some(4000), Some(4000))]);
    }

    #[test]
    fn ten_million_readings_of_a_thousand_devices_fit_into_a_few_megabytes() {
        const DEVICES: u64 = 1000;
        const READINGS: u64 = 10_000;
        // One in so many is rejected; of ordinary fleets, of bad firmware, of a gateway that rejects every second one.
        let check = |one_in: u64, bytes_max: usize| {
            let (mut ledger, mut there) = (Ledger::default(), Found::default());
            for number in 0..DEVICES {
                let mut account = Account::new(format!("loop-{number:05}"), Kind::TRAFFIC, Protocol::Coap);
                for sequence in 0..READINGS {
                    account.timeline.note(sequence, sequence as i64);
                    if (sequence * 7919 + number).is_multiple_of(one_in) {
                        account.rejected.insert(sequence);
                        continue;
                    }
                    account.acknowledged.insert(sequence);
                    // The reading 5000 of one device is the one that is missing.
                    if (number, sequence) != (7, 5000) {
                        there.record(&account.device, sequence);
                    }
                }
                ledger.accounts.push(account);
            }
            let result = ledger.reconcile(&there);
            assert_eq!((result.lost, result.not_compared, result.duplicates), (1, 0, 0));
            assert_eq!(result.lost_named[0].first, 5000);
            let page_bytes = ledger.accounts.iter().map(Account::heap_bytes).sum::<usize>();
            let bytes = page_bytes / DEVICES as usize + size_of::<Account>() + there.heap_bytes() / DEVICES as usize;
            println!("1 in {one_in}: {bytes} bytes a device");
            assert!(bytes <= bytes_max, "1 in {one_in}: {bytes} bytes a device");
        };
        check(READINGS * 2, 3000);
        check(50, 7000);
        check(2, 10_000);
    }
}
