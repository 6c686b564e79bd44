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
use std::sync::Arc;

use citygate::catalogue::{Kind, Kinds};
use citygate::receipt::metrics::Tallies;
use citygate::validate::{Config, Scratch, Validator};
use libfuzzer_sys::fuzz_target;

const DEVICE: &str = "device-1";
/// 2026-11-21T12:00:00Z.
const NOW_MS: i64 = 1_795_262_400_000;

/// What one thread has: the kinds of both folders, and a scratch for each driver.
struct Court {
    kinds: Vec<Arc<Kind>>,
    validator: Validator,
    scanner: Scratch,
    judge: Scratch,
}

impl Court {
    fn new() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let load = |folder: &Path| {
            let kinds = Kinds::load(folder, "city.", &Tallies::default()).expect("the schemas compile");
            kinds.iter().cloned().collect::<Vec<_>>()
        };
        Court {
            kinds: [load(&here.join("schemas")), load(&here.join("../../schemas"))].concat(),
            validator: Validator::new(&Config::default()),
            scanner: Scratch::default(),
            judge: Scratch::default(),
        }
    }

    fn hear(&mut self, choice: u8, json: &[u8]) {
        let program = &self.kinds[usize::from(choice) % self.kinds.len()].program;
        let scanned = self.validator.reading(program, DEVICE, NOW_MS, json, &mut self.scanner);
        let judged = self.validator.judgement(program, DEVICE, NOW_MS, json, &mut self.judge);
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
