//! The catalogue: the kinds of readings that the gateway accepts, which can change while it runs.
//!
//! A kind's schema, compiled program, topic and counters are one entry of an immutable snapshot ([`kinds`]). A message
//! holds the snapshot with which it came in until it is answered for; [`Catalogue::replace`] swaps the whole in one step, for
//! those that come after it. [`schemas`] reads the files that define kinds, [`registry`] asks a schema registry for
//! their ids, and [`decoder`] reads what was written with one of them ([`missing`]: what none has). What a schema means is left to `validate`.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

pub mod decoder;
mod fingerprint;
pub mod kinds;
pub mod missing;
pub mod registry;
pub mod schemas;

pub use kinds::{Kind, Kinds};
pub use schemas::{Config, Definition};

/// The kinds that are accepted now. A clone is the same catalogue.
#[derive(Clone, Debug)]
pub struct Catalogue(Arc<ArcSwap<Kinds>>);

/// The kinds as they were when a message came in. To be held for the time of a call: it is one of few that a thread has.
pub type Snapshot = Guard<Arc<Kinds>>;

// === impl Catalogue ===

impl Catalogue {
    pub fn new(kinds: Kinds) -> Self {
        Catalogue(Arc::new(ArcSwap::from_pointee(kinds)))
    }

    /// The kinds as they are now; costs no allocation and waits for nobody.
    pub fn snapshot(&self) -> Snapshot {
        self.0.load()
    }

    /// From now on these are the kinds. Messages that hold the snapshot before it finish with that one.
    ///
    /// CoAP lists the new ones to whoever asks next; their topics are looked for, and created where that is allowed, when
    /// Kafka is asked next, within seconds.
    pub fn replace(&self, kinds: Kinds) {
        self.0.store(Arc::new(kinds));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::receipt::metrics::Tallies;
    use crate::validate::{self, Scratch, Validator};

    const NOW_MS: i64 = 1_795_262_400_000;

    /// Kinds by name, each a record of one field.
    fn kinds(tallies: &Tallies, kinds: &[(&str, &str)]) -> Kinds {
        let folder = tempfile::tempdir().unwrap();
        for (name, field) in kinds {
            let schema = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"{field}","type":"int"}}]}}"#);
            std::fs::write(folder.path().join(name).with_extension("avsc"), schema).unwrap();
        }
        Kinds::load(folder.path(), "city.", tallies).unwrap()
    }

    /// Whether a reading of one field is accepted.
    fn accepts(kinds: &Kinds, kind: &str, field: &str, scratch: &mut Scratch) -> bool {
        let json = format!(r#"{{"{field}":7}}"#);
        let validator = Validator::new(&validate::Config::default());
        kinds.get(kind).is_some_and(|kind| {
            let checked = validator.reading(&kind.program, "d", NOW_MS, json.as_bytes(), scratch);
            checked.is_ok_and(|()| scratch.value() == [&kind.program.prefix[..], &[14]].concat())
        })
    }

    #[test]
    fn who_holds_a_snapshot_finishes_with_it_and_who_comes_later_has_the_new_one() {
        let (tallies, mut scratch) = (Tallies::default(), Scratch::default());
        let before = [("noise", "db"), ("weather", "celsius")];
        let catalogue = Catalogue::new(kinds(&tallies, &before));
        let held = catalogue.snapshot();
        let old = Arc::downgrade(held.get("noise").unwrap());
        assert!(accepts(&held, "weather", "celsius", &mut scratch));
        // One is gone, one has another schema, one is new.
        let after = [("air", "pm10"), ("weather", "kelvin")];
        catalogue.replace(kinds(&tallies, &after));
        let now = catalogue.snapshot();
        assert_eq!(
            (held.names(), now.names()),
            ("noise, weather".into(), "air, weather".into())
        );
        let mut check = |kinds: &Kinds, kind, field, expected| {
            assert_eq!(accepts(kinds, kind, field, &mut scratch), expected, "{kind} {field}");
        };
        check(&held, "noise", "db", true);
        check(&held, "weather", "celsius", true);
        check(&held, "weather", "kelvin", false);
        check(&held, "air", "pm10", false);
        check(&now, "noise", "db", false);
        check(&now, "weather", "celsius", false);
        check(&now, "weather", "kelvin", true);
        check(&now, "air", "pm10", true);
        drop(held);
        assert!(old.upgrade().is_none(), "what no message holds any more is gone");
    }

    #[test]
    fn counters_are_of_a_kinds_name_and_outlive_its_schema() {
        use crate::message::Protocol::Mqtt;

        let tallies = Tallies::default();
        let catalogue = Catalogue::new(kinds(&tallies, &[("noise", "db")]));
        let received = |kinds: &Kinds| kinds.get("noise").unwrap().tallies.of(Mqtt).received();
        received(&catalogue.snapshot());
        catalogue.replace(Kinds::default());
        assert_eq!(tallies.totals(Mqtt).received, 1);
        catalogue.replace(kinds(&tallies, &[("noise", "level")]));
        received(&catalogue.snapshot());
        assert_eq!(tallies.totals(Mqtt).received, 2);
        assert_eq!(tallies.in_flight_total(), 2);
    }

    #[test]
    fn the_shipped_kinds_are_in_the_order_of_their_names() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let kinds = Kinds::load(&folder, "city.", &Tallies::default()).unwrap();
        assert_eq!(
            kinds.names(),
            "air, energy, noise, parking, streetlight, traffic, water, weather"
        );
    }
}
