//! The figures that a plan is computed from, each with where it comes from.
//!
//! Measured ones name their measurement, and a test measures those of the records again; the others are assumptions, and called so
//! in what is printed. Whoever knows better for a city measures there: `citygate topics plan` says which figure decides.

/// What is known of a kind's readings.
#[derive(Clone, Copy, Debug)]
pub struct KindSize {
    pub kind: &'static str,
    /// Of the reading as the device sends it, in JSON.
    pub json_bytes: f64,
    /// Of its Avro datum, without the registry's prefix.
    pub avro_bytes: f64,
    pub log_bytes: LogBytes,
    /// Of its row in PostgreSQL, with what indexes have of it: what is nested is JSON there, with the name of every field.
    pub row_bytes: f64,
}

/// Records of a batch, and the bytes of each in Kafka's log: key, registry's prefix and datum, Kafka's own, its share of the batch's
/// header, compressed by lz4.
pub type LogBytes = [(f64, f64); 4];

/// Readings of the fleet, means of 2,000 of each kind; `tests/integration/planned.rs` measures them again. Rows: runs of
/// `tests/streams/measure.sh live` at 200, 500 and 2,000 readings per second, which differ by 4 %; those of traffic are 1,038 to 1,042 bytes
/// where eight fit into a page, and were 905 to 950 in short runs, with nine.
pub const KINDS: [KindSize; 3] = [
    KindSize {
        kind: "traffic",
        json_bytes: 556.0,
        avro_bytes: 254.0,
        log_bytes: [(1.0, 283.0), (10.0, 127.0), (100.0, 102.0), (1000.0, 99.0)],
        row_bytes: 1_040.0,
    },
    KindSize {
        kind: "weather",
        json_bytes: 422.0,
        avro_bytes: 199.0,
        log_bytes: [(1.0, 236.0), (10.0, 109.0), (100.0, 92.0), (1000.0, 91.0)],
        row_bytes: 415.0,
    },
    KindSize {
        kind: "energy",
        json_bytes: 479.0,
        avro_bytes: 234.0,
        log_bytes: [(1.0, 281.0), (10.0, 150.0), (100.0, 124.0), (1000.0, 120.0)],
        row_bytes: 668.0,
    },
];

/// `kafka.linger`: records of one partition that come to one gateway within it share a batch.
pub const LINGER_S: f64 = 0.005;

/// Readings per second in the busiest seconds, of the mean. Assumed: many devices send on the minute.
pub const PEAK: f64 = 2.0;

/// CPU microseconds per reading of a gateway by its rate, with keys and TLS: tests/benches/README.md, the slower figure of each.
pub const GATEWAY_CPU_US: [(f64, f64); 5] = [
    (600.0, 240.0),
    (2_000.0, 127.0),
    (10_000.0, 50.0),
    (20_000.0, 30.0),
    (200_000.0, 10.0),
];
/// Cores of a gateway, and how much of them it may use in the busiest seconds. Chosen.
pub const GATEWAY_CORES: f64 = 2.0;
pub const GATEWAY_LOAD: f64 = 0.5;
/// Connections of a gateway that stay open. Assumed: 715 MiB at the 14.3 KB that each of 4,000 took with TLS and a key.
pub const GATEWAY_CONNECTIONS: f64 = 50_000.0;

/// Bytes on the network beside a reading's JSON: MQTT, TLS, TCP and IP, both ways. Assumed.
pub const PROTOCOL_BYTES: f64 = 200.0;

/// Bytes per second that one partition is to carry. Assumed: well below what one disk and one consumer manage.
pub const PARTITION_BYTES_PER_S: f64 = 5_000_000.0;
/// Devices of a partition below which chance makes some partitions much fuller than others. Chosen.
pub const PARTITION_DEVICES_MIN: f64 = 100.0;
/// Numbers of partitions that many numbers of consumers divide evenly.
pub const PARTITION_STEPS: [u64; 9] = [3, 6, 12, 24, 48, 96, 192, 384, 768];
/// Topics beside those of the kinds: dead letters, devices, aggregates, anomalies, alerts; and partitions of each.
pub const OTHER_TOPICS: u64 = 5;
pub const OTHER_PARTITIONS: u64 = 3;

/// Bytes per second that a broker writes, replicas included. Assumed, for one SSD.
pub const BROKER_BYTES_PER_S: f64 = 100_000_000.0;
/// Replicas of partitions on a broker. Kafka's own advice.
pub const BROKER_PARTITIONS: f64 = 4_000.0;
/// A broker's disk, and how much more than the records it must hold: indices, segments of which a part is too old, free space.
pub const BROKER_DISK_BYTES: f64 = 4e12;
pub const DISK_MARGIN: f64 = 1.3;
/// Who reads every reading: the store, and stream jobs or another consumer.
pub const CONSUMERS: f64 = 2.0;

/// Rows per second of one `citygate store`: half of the 17,500 with which `tests/streams/measure.sh store` stored 10 million, with
/// PostgreSQL and Kafka on the same two cores.
pub const STORE_ROWS_PER_S: f64 = 8_000.0;
/// Rows per second of one PostgreSQL that computes as well. Its jobs run one after the other: at 2,000 readings a second of 6,000 devices
/// they took a third of a core (`tests/streams/measure.sh live`), so that a core carries three times as many, less a margin.
pub const POSTGRES_ROWS_PER_S: f64 = 5_000.0;
/// Readings per second of one slot of a stream engine. Assumed, to be measured.
pub const SLOT_READINGS_PER_S: f64 = 10_000.0;

/// Between the points of a table: linear in the logarithms; beyond them the nearest.
pub fn between(table: &[(f64, f64)], at: f64) -> f64 {
    let Some((first, last)) = table.first().zip(table.last()) else {
        return 0.0;
    };
    if at <= first.0 {
        return first.1;
    }
    let pairs = table.iter().zip(table.iter().skip(1));
    let around = pairs.into_iter().find(|(_, right)| at <= right.0);
    around.map_or(last.1, |(left, right)| {
        let share = (at / left.0).ln() / (right.0 / left.0).ln();
        left.1 * (right.1 / left.1).powf(share)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_points_it_is_linear_in_the_logarithms() {
        let table = [(1.0, 100.0), (100.0, 1.0)];
        let check = |at: f64, expected: f64| assert!((between(&table, at) - expected).abs() < 1e-9, "{at}");
        check(0.1, 100.0);
        check(1.0, 100.0);
        check(10.0, 10.0);
        check(100.0, 1.0);
        check(1000.0, 1.0);
    }
}
