//! A reading that is accepted costs no allocation, once the thread's buffers have grown to its size.
//!
//! A test of its own, since it counts with the whole process's allocator.

// `unwrap` is how a test says what must not fail; and there is what only the benches use.
#![allow(clippy::unwrap_used, dead_code)]

mod payloads;

use std::time::Instant;

use citygate::devices::credential::Key;
use citygate::devices::{Register, files};
use citygate::validate::Scratch;

use payloads::{DEVICE, Kinds, Order};

/// Allocations while all payloads of a kind are validated once more.
fn allocations(order: Order) -> Vec<u64> {
    let kinds = Kinds::load();
    let mut counts = Vec::new();
    for (index, kind) in kinds.kinds.iter().enumerate() {
        let payloads = kinds.payloads(index, order);
        let mut scratch = Scratch::default();
        let mut all = || {
            for json in &payloads {
                let taken = kinds
                    .validator
                    .reading(&kind.program, DEVICE, kinds.now_ms, json, &mut scratch);
                taken.unwrap();
            }
        };
        all();
        counts.push(allocation_counter::measure(all).count_total);
    }
    counts
}

#[test]
fn a_reading_is_taken_without_an_allocation_whatever_the_order_of_its_fields() {
    for order in Order::ALL {
        assert_eq!(allocations(order), [0, 0, 0], "{order}");
    }
}

/// A city has hundreds of thousands of devices: one with a key, kinds and a tag as its district's others.
#[test]
fn an_identity_costs_at_most_300_bytes() {
    const DEVICES: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let lines = (0..DEVICES).map(|id| {
        let key = Key::generate().hash();
        let district = id % 40;
        format!(
            r#"{{"id": "loop-{id:06}", "keys": ["{key}"], "kinds": ["traffic"], "tags": {{"district": "{district}"}}}}"#
        )
    });
    let lines = lines.collect::<Vec<_>>().join("\n");
    std::fs::write(folder.path().join("city.ndjson"), lines).unwrap();
    let began = Instant::now();
    let mut register = None;
    let measured =
        allocation_counter::measure(|| register = Some(files::read(folder.path(), &Register::default()).unwrap()));
    let took = began.elapsed();
    let register = register.unwrap();
    let each = measured.bytes_current / DEVICES as i64;
    println!("{DEVICES} identities: {each} bytes each, read in {took:?}");
    assert_eq!(register.len(), DEVICES);
    assert!((100..=300).contains(&each), "{each} bytes");
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 100])));
    assert_eq!(counted.count_total, 1);
}
