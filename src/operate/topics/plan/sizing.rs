//! From devices to partitions, brokers, disks, network, gateways and storage: pure arithmetic over the assumptions.
//!
//! Rates are means unless they are called peak. Everything that must carry the busiest seconds is sized for the peak; what is kept,
//! for the mean. Whatever is more than one is one more than is needed, so that one may be down.

use serde::Serialize;

use super::assumptions::{self as given, LogBytes, between};
use super::demand::{Demand, KindShare};

const DAY_S: f64 = 86_400.0;
const MONTH_DAYS: f64 = 30.0;

/// How large everything must be.
#[derive(Clone, Debug, Serialize)]
pub struct Sizing {
    pub devices: u64,
    pub readings_per_s: f64,
    pub peak_readings_per_s: f64,
    pub topics: Vec<TopicSize>,
    /// Of the topics beside those of the kinds, too.
    pub partitions: u64,
    pub kafka: KafkaSize,
    pub gateways: GatewaySize,
    pub storage: StorageSize,
    /// Of a stream engine, where there is one.
    pub stream_slots: u64,
}

/// A kind's topic.
#[derive(Clone, Debug, Serialize)]
pub struct TopicSize {
    pub kind: String,
    pub devices: f64,
    pub readings_per_s: f64,
    /// Of a reading: as it is sent, and in Avro.
    pub json_bytes: f64,
    pub avro_bytes: f64,
    /// Records of a batch, and what each has in Kafka's log.
    pub log_bytes: LogBytes,
    /// Of a record in Kafka's log, compressed, its share of the batch's header with it.
    pub bytes_per_record: f64,
    pub records_per_batch: f64,
    pub bytes_per_day: f64,
    pub partitions: u64,
    /// What decides that number.
    pub why: String,
    /// How much more than the mean the fullest partition has, as keys are spread by chance.
    pub fullest_partition: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct KafkaSize {
    pub bytes_per_day: f64,
    pub bytes_per_day_replicated: f64,
    pub brokers: u64,
    /// What decides that number.
    pub why: String,
    pub disk_bytes_per_broker: f64,
    /// From gateways, in the busiest seconds.
    pub in_bytes_per_s: f64,
    /// To other brokers and to readers, in the busiest seconds.
    pub out_bytes_per_s: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct GatewaySize {
    pub gateways: u64,
    /// What decides that number.
    pub why: String,
    /// In the busiest seconds, of all gateways.
    pub cores_used: f64,
    pub cpu_us_per_reading: f64,
    pub connections: f64,
    /// From devices, in the busiest seconds.
    pub in_bytes_per_s: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct StorageSize {
    pub store_instances: u64,
    pub postgres_servers: u64,
    pub rows_per_day: f64,
    pub bytes_per_row: f64,
    pub bytes_per_month: f64,
}

/// Sizes all of it.
pub fn size(demand: &Demand) -> Sizing {
    let readings_per_s = demand.devices as f64 / demand.interval_s;
    let gateways = gateways(demand, readings_per_s);
    let topics: Vec<_> = demand
        .kinds
        .iter()
        .map(|kind| topic(demand, kind, gateways.gateways))
        .collect();
    let partitions =
        topics.iter().map(|topic| topic.partitions).sum::<u64>() + given::OTHER_TOPICS * given::OTHER_PARTITIONS;
    let slots = |topic: &TopicSize| up(topic.readings_per_s * given::PEAK / given::SLOT_READINGS_PER_S);
    Sizing {
        devices: demand.devices,
        readings_per_s,
        peak_readings_per_s: readings_per_s * given::PEAK,
        kafka: kafka(demand, &topics, partitions),
        storage: storage(demand, readings_per_s),
        stream_slots: topics.iter().map(slots).sum(),
        partitions,
        gateways,
        topics,
    }
}

/// Of gateways that share all readings, one of which may be down.
fn gateways(demand: &Demand, readings_per_s: f64) -> GatewaySize {
    let peak = readings_per_s * given::PEAK;
    let cost = |gateways: u64| between(&given::GATEWAY_CPU_US, peak / gateways as f64);
    let used = |gateways: u64| peak * cost(gateways) / 1e6;
    let is_enough = |gateways: &u64| used(*gateways) <= *gateways as f64 * given::GATEWAY_CORES * given::GATEWAY_LOAD;
    let by_cpu = (1..=100_000).find(is_enough).unwrap_or(100_000);
    let connections = demand.devices as f64 * demand.connected;
    let by_connections = up(connections / given::GATEWAY_CONNECTIONS);
    let needed = by_cpu.max(by_connections);
    let why = match by_connections > by_cpu {
        _ if demand.gateways.is_some() => format!("given; needed are {needed}, and one may be down"),
        true => format!("{by_connections} for the connections, and one may be down"),
        false => format!("{by_cpu} for the CPU, and one may be down"),
    };
    // One of those that are needed may be down: what they cost is of the others.
    let at_work = demand.gateways.unwrap_or(needed);
    GatewaySize {
        gateways: demand.gateways.unwrap_or(needed + 1),
        why,
        cores_used: used(at_work),
        cpu_us_per_reading: cost(at_work),
        connections,
        in_bytes_per_s: demand
            .kinds
            .iter()
            .map(|kind| kind.share * (kind.json_bytes + given::PROTOCOL_BYTES))
            .sum::<f64>()
            * peak,
    }
}

fn topic(demand: &Demand, kind: &KindShare, gateways: u64) -> TopicSize {
    let devices = demand.devices as f64 * kind.share;
    let rate = devices / demand.interval_s;
    // The smallest number that is enough: more partitions make smaller batches, and so more bytes.
    let of = |partitions: u64| {
        let batch = 1.0 + rate / (gateways * partitions) as f64 * given::LINGER_S;
        (batch, between(&kind.log_bytes, batch))
    };
    let step = |least: u64| given::PARTITION_STEPS.into_iter().find(|step| *step >= least);
    let reasons = |bytes: f64| {
        [
            (given::PARTITION_STEPS[0], "one for each of three brokers"),
            (
                up(rate * given::PEAK * bytes / given::PARTITION_BYTES_PER_S),
                "bytes per second",
            ),
            (
                up(rate * given::PEAK / given::STORE_ROWS_PER_S),
                "instances of the store",
            ),
            (up(rate * given::PEAK / given::SLOT_READINGS_PER_S), "stream slots"),
        ]
    };
    let most = |bytes: f64| {
        reasons(bytes)
            .into_iter()
            .reduce(|most, one| if one.0 > most.0 { one } else { most })
    };
    let (least, reason) = most(of(given::PARTITION_STEPS[0]).1).unwrap_or_default();
    let partitions = step(least).unwrap_or(least);
    let (records_per_batch, bytes_per_record) = of(partitions);
    let per_partition = devices / partitions as f64;
    let fullest_partition = (2.0 * (partitions as f64).ln() / per_partition.max(1.0)).sqrt();
    let skew = match per_partition < given::PARTITION_DEVICES_MIN {
        true => "; so few devices that some partitions are much fuller",
        false => "",
    };
    TopicSize {
        kind: kind.kind.clone(),
        devices,
        readings_per_s: rate,
        json_bytes: kind.json_bytes,
        avro_bytes: kind.avro_bytes,
        log_bytes: kind.log_bytes,
        bytes_per_record,
        records_per_batch,
        bytes_per_day: rate * DAY_S * bytes_per_record,
        partitions,
        why: format!("{least}: {reason}{skew}"),
        fullest_partition,
    }
}

fn kafka(demand: &Demand, topics: &[TopicSize], partitions: u64) -> KafkaSize {
    let bytes_per_day: f64 = topics.iter().map(|topic| topic.bytes_per_day).sum();
    let replication = demand.replication as f64;
    let peak = bytes_per_day / DAY_S * given::PEAK;
    let disk = bytes_per_day * replication * demand.retention_days * given::DISK_MARGIN;
    let reasons = [
        (demand.replication.max(3), "three, so that one may be down"),
        (
            up(peak * replication / given::BROKER_BYTES_PER_S),
            "bytes written per second",
        ),
        (up(disk / given::BROKER_DISK_BYTES), "disk space"),
        (
            up((partitions * demand.replication) as f64 / given::BROKER_PARTITIONS),
            "partitions",
        ),
    ];
    let (brokers, reason) = reasons
        .into_iter()
        .reduce(|most, one| if one.0 > most.0 { one } else { most })
        .unwrap_or_default();
    KafkaSize {
        bytes_per_day,
        bytes_per_day_replicated: bytes_per_day * replication,
        brokers,
        why: reason.to_owned(),
        disk_bytes_per_broker: disk / brokers as f64,
        in_bytes_per_s: peak,
        out_bytes_per_s: peak * (replication - 1.0 + given::CONSUMERS),
    }
}

fn storage(demand: &Demand, readings_per_s: f64) -> StorageSize {
    let rows_per_day = readings_per_s * DAY_S;
    let bytes_per_row = demand.kinds.iter().map(|kind| kind.share * kind.row_bytes).sum();
    let peak = readings_per_s * given::PEAK;
    StorageSize {
        store_instances: up(peak / given::STORE_ROWS_PER_S) + 1,
        postgres_servers: up(peak / given::POSTGRES_ROWS_PER_S),
        rows_per_day,
        bytes_per_row,
        bytes_per_month: rows_per_day * MONTH_DAYS * bytes_per_row,
    }
}

/// The next whole number, at least 1.
fn up(number: f64) -> u64 {
    number.ceil().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::super::demand;
    use super::*;

    fn sized(devices: u64) -> Sizing {
        size(&Demand {
            devices,
            interval_s: 60.0,
            kinds: demand::kinds("traffic=0.2,weather=0.1,energy=0.7").unwrap(),
            replication: 3,
            retention_days: 7.0,
            connected: 1.0,
            gateways: None,
        })
    }

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.001, "{found}, expected {expected}");
    }

    #[test]
    fn a_small_city_needs_the_least_of_everything() {
        let small = sized(1000);
        near(small.readings_per_s, 1000.0 / 60.0);
        assert_eq!(
            small.topics.iter().map(|topic| topic.partitions).collect::<Vec<_>>(),
            [3, 3, 3]
        );
        assert_eq!(small.partitions, 9 + 15);
        assert_eq!((small.kafka.brokers, small.gateways.gateways), (3, 2));
        assert_eq!((small.storage.store_instances, small.storage.postgres_servers), (2, 1));
        near(small.storage.rows_per_day, 1_440_000.0);
        near(small.kafka.bytes_per_day_replicated, 3.0 * small.kafka.bytes_per_day);
    }

    #[test]
    fn each_figure_follows_from_the_ones_above_it() {
        for devices in [1000, 100_000, 10_000_000] {
            let sized = sized(devices);
            for topic in &sized.topics {
                near(
                    topic.bytes_per_day,
                    topic.readings_per_s * 86_400.0 * topic.bytes_per_record,
                );
                assert!(topic.bytes_per_record > 90.0, "{topic:?}");
                let per_partition = topic.readings_per_s * given::PEAK / topic.partitions as f64;
                assert!(per_partition <= given::STORE_ROWS_PER_S, "{topic:?}");
                assert!(
                    per_partition * topic.bytes_per_record <= given::PARTITION_BYTES_PER_S,
                    "{topic:?}"
                );
            }
            let of_topics: f64 = sized.topics.iter().map(|topic| topic.bytes_per_day).sum();
            near(sized.kafka.bytes_per_day, of_topics);
            let kept = sized.kafka.bytes_per_day_replicated * 7.0;
            let disks = sized.kafka.disk_bytes_per_broker * sized.kafka.brokers as f64;
            near(disks, kept * given::DISK_MARGIN);
            assert!(sized.kafka.disk_bytes_per_broker <= given::BROKER_DISK_BYTES);
            let cores = (sized.gateways.gateways - 1) as f64 * given::GATEWAY_CORES * given::GATEWAY_LOAD;
            assert!(sized.gateways.cores_used <= cores, "{:?}", sized.gateways);
        }
    }

    #[test]
    fn the_more_records_share_a_batch_the_less_each_costs() {
        let mut found = [1000, 10_000, 100_000, 10_000_000].map(|devices| {
            let topic = &sized(devices).topics[2];
            (topic.records_per_batch, topic.bytes_per_record)
        });
        found.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let bytes = found.map(|(_, bytes)| bytes);
        assert!(bytes.is_sorted_by(|more, less| more > less), "{found:?}");
    }
}
