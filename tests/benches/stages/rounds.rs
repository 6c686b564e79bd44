//! The ratios between drivers: rounds in which they alternate, each timed by the CPU
//! time of this thread. A ratio of one round is free of what slows the whole machine;
//! the median of all rounds is printed with its spread.

use std::io::Write as _;

use rustix::time::{ClockId, clock_gettime};

use super::drivers::{Bench, Driver, Flaw};
use super::payloads::{COUNT, Kinds, Order};

const ROUNDS: usize = 9;
const DRIVERS: [Driver; 4] = [Driver::Scanner, Driver::SerdeJson, Driver::ApacheAvro, Driver::Skip];

/// Nanoseconds of CPU that this thread took so far.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds per reading of one turn, of at least a few milliseconds.
fn turn(mut all: impl FnMut()) -> f64 {
    const TURN_NS: f64 = 4e6;
    let start = cpu_ns();
    let mut passes = 0.0;
    loop {
        all();
        passes += 1.0;
        let taken = cpu_ns() - start;
        if taken > TURN_NS {
            return taken / passes / COUNT as f64;
        }
    }
}

pub fn print(kinds: &Kinds) {
    println!("\nnanoseconds of CPU per reading, medians of {ROUNDS} rounds; times as fast: median (least to most)\n");
    println!(
        "{:<10} {:<13} {:>5} {:>8} {:>11} {:>12} {:>6}  {:<20} over serde_json",
        "kind", "fields in", "bytes", "scanner", "serde_json", "apache-avro", "skip", "over apache-avro"
    );
    let mut overall: Vec<(Order, Vec<f64>)> = Order::ALL.map(|order| (order, Vec::new())).into();
    for (index, kind) in kinds.kinds.iter().enumerate() {
        for (order, ratios) in &mut overall {
            let payloads = kinds.payloads(index, *order);
            let rounds = compare(kinds, index, &payloads);
            let column = |driver: usize| median(rounds.iter().map(|times| times[driver]));
            let over = |driver: usize| rounds.iter().map(move |times| times[driver] / times[0]);
            let bytes = payloads.iter().map(Vec::len).sum::<usize>() / payloads.len();
            println!(
                "{:<10} {:<13} {bytes:>5} {:>8.0} {:>11.0} {:>12.0} {:>6.0}  {:<20} {}",
                kind.name,
                order.to_string(),
                column(0),
                column(1),
                column(2),
                column(3),
                spread(over(2)),
                spread(over(1)),
            );
            ratios.push(median(over(2)));
            std::io::stdout().flush().unwrap();
        }
    }
    for (order, ratios) in overall {
        let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        println!("all kinds, {order}: {mean:.1} times apache-avro's naive path (geometric mean)");
    }
    refusals(kinds);
}

/// Each round's times, in the order of [`DRIVERS`].
fn compare(kinds: &Kinds, kind: usize, payloads: &[Vec<u8>]) -> Vec<[f64; DRIVERS.len()]> {
    let mut bench = Bench::new(kinds, kind);
    let round = |_| DRIVERS.map(|driver| turn(|| bench.all(driver, payloads)));
    // The first round warms up.
    (0..=ROUNDS).map(round).skip(1).collect()
}

fn refusals(kinds: &Kinds) {
    println!("\nreadings that are refused, over ones that are accepted (schema order)\n");
    for (index, kind) in kinds.kinds.iter().enumerate() {
        let payloads = kinds.payloads(index, Order::Schema);
        let flawed = Flaw::ALL.map(|flaw| flaw.put_into(&payloads));
        let mut bench = Bench::new(kinds, index);
        let round = |_| flawed.each_ref().map(|payloads| turn(|| bench.all_refused(payloads)));
        let rounds: Vec<[f64; Flaw::ALL.len()]> = (0..=ROUNDS).map(round).skip(1).collect();
        for (flaw, place) in Flaw::ALL.into_iter().zip(0..).skip(1) {
            println!(
                "{:<10} {flaw:<28} {:>6.0} ns  {}",
                kind.name,
                median(rounds.iter().map(|times| times[place])),
                spread(rounds.iter().map(|times| times[place] / times[0])),
            );
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn spread(values: impl Iterator<Item = f64> + Clone) -> String {
    let (least, most) = values.clone().fold((f64::MAX, 0.0_f64), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    format!("{:.2} ({least:.2} to {most:.2})", median(values))
}
