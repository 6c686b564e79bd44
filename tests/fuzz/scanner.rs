//! The scanner against the serde_json driver: the same verdict, words and bytes for any input.
//!
//! The first byte of an input chooses a kind: one of the repository's, or `schemas/every_node.avsc` here. All else is the
//! reading. The program that the scanner drives is not chosen by an attacker, so a few schemas with every node do.
//!
//! ```text
//! cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz -s none scanner -- -dict=tests/fuzz/json.dict
//! ```

#![no_main]

use std::cell::RefCell;
use std::path::Path;

use citygate::catalogue::Schemas;
use citygate::validate::{Config, Scratch, Validator};
use libfuzzer_sys::fuzz_target;

const DEVICE: &str = "device-1";
/// 2026-11-21T12:00:00Z.
const NOW_MS: i64 = 1_795_262_400_000;

/// What one thread has: the kinds of both folders, and a scratch for each driver.
struct Court {
    kinds: Vec<(Schemas, Validator)>,
    scanner: Scratch,
    judge: Scratch,
}

impl Court {
    fn new() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let load = |folder: &Path| {
            let schemas = Schemas::load(folder, "city.").expect("the schemas can be read");
            let validator = Validator::new(&schemas, &Config::default()).expect("the schemas compile");
            (schemas, validator)
        };
        Court {
            kinds: vec![load(&here.join("schemas")), load(&here.join("../../schemas"))],
            scanner: Scratch::default(),
            judge: Scratch::default(),
        }
    }

    fn hear(&mut self, choice: u8, json: &[u8]) {
        let all = self.kinds.iter().flat_map(|(schemas, validator)| {
            let of_validator = move |kind| (kind, validator);
            schemas.kinds().iter().map(of_validator)
        });
        let all: Vec<_> = all.collect();
        let (kind, validator) = all[usize::from(choice) % all.len()];
        let scanned = validator.reading(kind, DEVICE, NOW_MS, json, &mut self.scanner);
        let judged = validator.judgement(kind, DEVICE, NOW_MS, json, &mut self.judge);
        match (scanned, judged) {
            (Ok(()), Ok(())) => assert_eq!(self.scanner.value(), self.judge.value()),
            (Err(scanned), Err(judged)) => {
                assert_eq!((scanned.reason, scanned.to_string()), (judged.reason, judged.to_string()));
            }
            (scanned, judged) => panic!("scanned {scanned:?}, judged {judged:?}"),
        }
    }
}

thread_local! {
    static COURT: RefCell<Court> = RefCell::new(Court::new());
}

fuzz_target!(|input: &[u8]| {
    if let Some((&choice, json)) = input.split_first() {
        COURT.with_borrow_mut(|court| court.hear(choice, json));
    }
});
