//! An MQTT reading costs the gateway no allocation of its own, from the socket to its PUBACK, once buffers have grown; and a kind
//! costs little memory.
//!
//! A test by itself, since it counts what the whole process allocates, on all threads. What librdkafka allocates in C
//! is not seen. rdkafka makes one C string per record, of its topic's name: it has no other way to name a topic, and one
//! that we built on topic handles (unsafe) was no faster.
//!
//! `TEST_ALLOCATIONS=FILE` writes where they were made, for dhat's viewer.

// `unwrap` is how a test says what must not fail.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use citygate::catalogue::Kinds;
use citygate::deliver::health::Health;
use citygate::gateway::Gateway;
use citygate::operate::config::Config;
use citygate::receipt::metrics::Tallies;
use rdkafka::mocking::MockCluster;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Readings that are sent at once.
const WINDOW: u16 = 32;
const ROUNDS: u64 = 300;
/// Rounds until buffers have grown, and the mock's topics are known.
const WARM_UP: u64 = 200;

/// Of each kind, bytes: what is held of it while the gateway runs, and what is allocated in all while it is loaded.
const HELD_MAX: u64 = 80_000;
const LOADED_MAX: u64 = 1_700_000;

/// The only test: another one would be counted as well.
#[test]
fn what_is_allocated() {
    let profiler = dhat::Profiler::builder();
    let _profiler = match std::env::var_os("TEST_ALLOCATIONS") {
        Some(file) => profiler.file_name(file).build(),
        None => profiler.testing().build(),
    };
    a_kind_costs_little();
    a_reading_over_mqtt_costs_no_allocation_of_our_own();
}

/// Two hundred kinds are no special case: what one of the city's costs, from few kinds to many.
fn a_kind_costs_little() {
    let cost = |count: usize| {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..count {
            let kind = ["traffic", "weather", "energy"][number % 3];
            let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(kind);
            let copy = folder.path().join(format!("kind-{number}.avsc"));
            std::fs::copy(schema.with_extension("avsc"), copy).unwrap();
        }
        let tallies = Tallies::default();
        let before = dhat::HeapStats::get();
        let kinds = Kinds::load(folder.path(), "city.", &tallies).unwrap();
        let after = dhat::HeapStats::get();
        assert_eq!(kinds.iter().count(), count);
        let held = (after.curr_bytes - before.curr_bytes) as u64;
        (held, after.total_bytes - before.total_bytes)
    };
    // What the first ones cost in passing is counted for none.
    let (first, few, many) = (cost(3), cost(18), cost(200));
    let each = |less: (u64, u64), more: (u64, u64), kinds: u64| ((more.0 - less.0) / kinds, (more.1 - less.1) / kinds);
    let ((held, loaded), of_many) = (each(first, few, 15), each(few, many, 182));
    println!("a kind holds {held} bytes; {loaded} are allocated while it is loaded; of 200 kinds: {of_many:?}");
    assert!(held <= HELD_MAX && loaded <= LOADED_MAX, "{held}, {loaded}");
    // Work or memory that grows with the square of the kinds would cost each of the many several times as much.
    assert!(
        of_many.0 <= held * 5 / 4 && of_many.1 <= loaded * 5 / 4,
        "{of_many:?}, not {held}, {loaded}"
    );
}

fn a_reading_over_mqtt_costs_no_allocation_of_our_own() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["city.traffic", "city.weather", "city.energy", "city.dead-letter"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let spool = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::default();
    config.mqtt.listen = any.into();
    config.coap.listen = any.into();
    config.http.listen = any.into();
    config.admin.listen = any.into();
    config.kafka.create_topics = true;
    config.kafka.linger = Duration::from_millis(1);
    config.schemas.folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    config.kafka.bootstrap_servers = cluster.bootstrap_servers();
    config.kafka.topic_prefix = "city.".into();
    config.kafka.dead_letter_topic = "city.dead-letter".into();
    // Nothing that goes by the clock is counted.
    config.kafka.statistics_interval = Duration::from_secs(3600);
    config.kafka.probe_interval = Duration::from_secs(3600);
    // Nor is the spool's way, should the machine be slow.
    config.kafka.delivery_timeout = Duration::from_secs(60);
    config.kafka.spool_after = Duration::from_secs(30);
    config.spool.enabled = true;
    config.spool.folder = spool.path().join("spool");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let gateway = runtime.block_on(async {
        let gateway = Gateway::start(config).await.unwrap();
        gateway.health().wait_for(Health::is_up).await.unwrap();
        gateway
    });

    let mut device = Device::connect(gateway.addresses().mqtt.unwrap());
    for _ in 0..WARM_UP {
        device.publish();
    }
    let before = dhat::HeapStats::get().total_blocks;
    for _ in 0..ROUNDS {
        device.publish();
    }
    let allocations = dhat::HeapStats::get().total_blocks - before;
    assert!(runtime.block_on(gateway.drain()));

    let readings = ROUNDS * u64::from(WINDOW);
    let each = allocations as f64 / readings as f64;
    println!("{allocations} allocations, {readings} readings: {each:.3} each, of which 1 is rdkafka's");
    assert!(
        allocations >= readings,
        "they are not counted: {allocations} for {readings} readings"
    );
    assert!(
        each - 1.0 <= 0.1,
        "{each:.3} allocations per reading, 1 of them rdkafka's"
    );
}

/// A client that allocates nothing: the same packets again and again.
struct Device {
    stream: TcpStream,
    publishes: Vec<u8>,
    acknowledgements: Vec<u8>,
}

impl Device {
    fn connect(gateway: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(gateway).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // CONNECT, 3.1.1, Clean Session, no keep-alive.
        stream
            .write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x00\x00\x05count")
            .unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
        let topic = "devices/roof-2/weather";
        let reading = r#"{"temperature_c":21.5,"relative_humidity_percent":40.25,"wind_speed_m_s":3.5,"rain_mm":0}"#;
        let remaining = 2 + topic.len() + 2 + reading.len();
        let mut publishes = Vec::new();
        for pkid in 1..=WINDOW {
            // PUBLISH, QoS 1; the remaining length has two bytes.
            publishes.extend([0x32, (remaining & 0x7F) as u8 | 0x80, (remaining >> 7) as u8]);
            publishes.extend((topic.len() as u16).to_be_bytes());
            publishes.extend(topic.as_bytes());
            publishes.extend(pkid.to_be_bytes());
            publishes.extend(reading.as_bytes());
        }
        Device {
            stream,
            publishes,
            acknowledgements: vec![0; 4 * usize::from(WINDOW)],
        }
    }

    /// Sends a window of readings and awaits their PUBACKs.
    fn publish(&mut self) {
        self.stream.write_all(&self.publishes).unwrap();
        self.stream.read_exact(&mut self.acknowledgements).unwrap();
        let is_puback = |packet: &[u8]| packet[..2] == [0x40, 2];
        assert!(self.acknowledgements.chunks(4).all(is_puback));
    }
}
