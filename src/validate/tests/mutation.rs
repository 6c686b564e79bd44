//! Damaged readings: validation never panics, and what is accepted in spite of the damage is a whole record that
//! apache-avro can read. A reading that is cut short is malformed wherever it is cut. Damage is drawn from a fixed
//! seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::identity::{Order, SEED, Writer, ZOO};
use super::*;

fn writer(kind: &Kind) -> Writer<'_> {
    Writer {
        program: &kind.program,
        random: StdRng::seed_from_u64(SEED),
        order: Order::Random,
        entries_max: 3,
    }
}

/// Bytes that mean something in JSON or in UTF-8, or that are in nobody's interest.
const BYTES: &[u8] = b"\"\\{}[]:,0123456789.-+eEtrufalsn \t\n\x00\x1f\x7f\x80\xc3\xe2\xed\xf0\xff";

pub(super) fn damage(json: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..json.len());
        let byte = BYTES[random.random_range(0..BYTES.len())];
        match random.random_range(0..5) {
            0 => json[at] = byte,
            1 => json.insert(at, byte),
            2 if json.len() > 1 => drop(json.remove(at)),
            3 => {
                let end = (at + random.random_range(0..40)).min(json.len());
                let piece = json[at..end].to_vec();
                let to = random.random_range(0..json.len());
                json.splice(to..to, piece);
            }
            _ => {
                let other = random.random_range(0..json.len());
                json.swap(at, other);
            }
        }
    }
}

#[test]
fn a_damaged_reading_is_refused_in_words_or_is_whole() {
    let mut taken = 0;
    for bench in [Bench::shipped(&Config::default()), Bench::of(ZOO)] {
        for kind in bench.kinds.iter() {
            let mut writer = writer(kind);
            let mut random = StdRng::seed_from_u64(SEED);
            for _ in 0..2000 {
                let mut json = writer.value(writer.program.root, 2).into_bytes();
                damage(&mut json, &mut random);
                // `decoded` asserts that apache-avro reads it to the last byte.
                match bench.decoded(&kind.name, &json) {
                    Ok(_) => taken += 1,
                    Err(rejection) => {
                        assert!(!rejection.detail.is_empty());
                        assert!(rejection.detail.chars().count() < 500, "{}", rejection.detail);
                    }
                }
            }
        }
    }
    assert!(
        taken > 100,
        "damage that does not matter is not always noticed: {taken}"
    );
}

#[test]
fn a_reading_cut_short_is_malformed_wherever_it_is_cut() {
    let bench = Bench::shipped(&Config::default());
    for kind in bench.kinds.iter() {
        let mut writer = writer(kind);
        for _ in 0..20 {
            let json = writer.value(writer.program.root, 0).into_bytes();
            for end in 0..json.len() {
                let rejection = bench.read(&kind.name, &json[..end]).unwrap_err();
                assert_eq!(rejection.reason, Reason::Malformed, "{rejection}");
            }
        }
    }
}
