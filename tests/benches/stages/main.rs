//! What it costs to validate a reading: JSON → validated Avro, by kind, by order of fields, by driver.
//!
//! `cargo bench --bench stages`, about a minute (`-- ratios` for the second half alone, `-- scanner` for some rows of the
//! first); BENCH_SCHEMAS names a folder of other schemas. First divan's table: time per reading of the scanner
//! in service, of the serde_json driver and of apache-avro's naive path (what a program does that knows no better), and
//! of readings that are refused. Then the ratios, from rounds in which the drivers take turns, by the CPU time of the
//! thread, so that they stand whatever else the machine does. Nothing here is asserted: a bench is not a test.

// `unwrap` is how a bench says what must not fail.
#![allow(clippy::unwrap_used)]

mod drivers;
mod payloads;
mod rounds;

use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;

use drivers::{Bench, Driver, Flaw};
use payloads::{Kinds, Order};

/// A kind of which the readings' fields come in some order.
#[derive(Clone, Copy)]
struct Set {
    kind: usize,
    order: Order,
}

static KINDS: LazyLock<Kinds> = LazyLock::new(Kinds::load);

impl std::fmt::Display for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = &KINDS.kind(self.kind).name;
        f.pad(&format!("{name}, {}", self.order))
    }
}

fn sets() -> Vec<Set> {
    let of_kind = |kind| Order::ALL.map(|order| Set { kind, order });
    (0..KINDS.kinds.len()).flat_map(of_kind).collect()
}

fn measure(bencher: Bencher<'_, '_>, driver: Driver, set: Set) {
    let payloads = KINDS.payloads(set.kind, set.order);
    let mut bench = Bench::new(&KINDS, set.kind);
    bencher
        .counter(ItemsCount::new(payloads.len()))
        .bench_local(|| bench.all(driver, &payloads));
}

#[divan::bench(args = sets(), sample_count = 20)]
fn scanner(bencher: Bencher<'_, '_>, set: &Set) {
    measure(bencher, Driver::Scanner, *set);
}

#[divan::bench(args = sets(), sample_count = 20)]
fn serde_json(bencher: Bencher<'_, '_>, set: &Set) {
    measure(bencher, Driver::SerdeJson, *set);
}

#[divan::bench(args = sets(), sample_count = 5)]
fn apache_avro(bencher: Bencher<'_, '_>, set: &Set) {
    measure(bencher, Driver::ApacheAvro, *set);
}

/// The scanner, with something wrong in every reading.
#[divan::bench(args = Flaw::ALL, sample_count = 20)]
fn refused(bencher: Bencher<'_, '_>, flaw: &Flaw) {
    let payloads = flaw.put_into(&KINDS.payloads(0, Order::Schema));
    let mut bench = Bench::new(&KINDS, 0);
    bencher
        .counter(ItemsCount::new(payloads.len()))
        .bench_local(|| bench.all_refused(&payloads));
}

fn main() {
    // Cargo adds `--bench`; what else there is chooses rows of divan's.
    let chosen = std::env::args().skip(1).find(|argument| argument != "--bench");
    let ratios_alone = chosen.as_deref() == Some("ratios");
    if !ratios_alone {
        println!(
            "one run takes {} readings: time per reading is the time over that\n",
            payloads::COUNT
        );
        divan::main();
    }
    if ratios_alone || chosen.is_none() {
        rounds::print(&KINDS);
    }
}
