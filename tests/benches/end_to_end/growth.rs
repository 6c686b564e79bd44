//! How cost grows: CPU a reading over connections, kinds, partitions and bytes, each at an equal total rate, and latency
//! over the rate.
//!
//! At a fixed rate batches are as small as the rate makes them, so a reading costs more here than at full speed; what
//! matters is the shape. Kinds are copies of the three under further names, a longer reading has a text in a field more.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use device_simulators::devices::Kind;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cases::{Case, Measured, drive};
use crate::gateway::{Gateway, Place};
use crate::load::{Load, RAMP, mean, reading_bytes};
use crate::series::{median, short, spread};
use crate::stage::Stage;
use crate::verdict::complaints;
use crate::{Part, machine};

/// Readings a second of all connections together.
const RATE: u32 = 10_000;
/// Connections unless they are what grows.
const CONNECTIONS: u32 = 1000;
/// Opening many takes its time.
const LONG_RAMP: Duration = Duration::from_secs(3);

/// How long every kind is sent before anything is measured.
const WARM_UP_S: u64 = 8;

/// Names of each kind where kinds grow: 3, 33 and 99 kinds.
const KIND_NAMES: [u32; 3] = [1, 11, 33];

/// Partitions of each topic where they grow.
const PARTITIONS: [i32; 4] = [1, 3, 6, 12];

/// The longest bar of the chart, in characters.
const BAR: f64 = 40.0;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What grows.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "connections,kinds,partitions,bytes,rate"
    )]
    only: Vec<Grows>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Grows {
    Connections,
    Kinds,
    Partitions,
    Bytes,
    Rate,
}

/// What grows, and what came of it.
#[derive(Debug, Serialize)]
struct Curve {
    name: String,
    points: Vec<Point>,
}

/// One place on a curve.
#[derive(Debug, Serialize)]
struct Point {
    label: String,
    /// Bytes of a reading, where they grow.
    bytes: Option<f64>,
    /// Flags of the load generator besides the address.
    flags: String,
    #[serde(skip)]
    gateway: usize,
    #[serde(skip)]
    ramp: Duration,
    /// One a round.
    measured: Vec<Measured>,
}

/// The gateways: with three kinds, with ninety-nine, and with three again for each number of partitions.
const THREE: usize = 0;
const MANY: usize = 1;
const BY_PARTITIONS: usize = 2;

pub fn run(options: &crate::Options, growth: &Options) -> anyhow::Result<()> {
    println!("{}\n", machine::describe());
    let stage = Stage::build(options)?;
    stage.warm_up()?;
    let [three, many] = [TempDir::new()?, TempDir::new()?];
    let names_max = KIND_NAMES.into_iter().max().unwrap_or(1);
    write_schemas(&stage.schemas, three.path(), 1)?;
    write_schemas(&stage.schemas, many.path(), names_max)?;
    let usual = stage.place().partitions;
    let mut houses = vec![(&three, 1, usual), (&many, names_max, usual)];
    if growth.only.contains(&Grows::Partitions) {
        houses.extend(PARTITIONS.map(|partitions| (&three, 1, partitions)));
    }
    let mut gateways = Vec::new();
    for (number, (folder, names, partitions)) in houses.into_iter().enumerate() {
        let place = Place {
            schemas: folder.path(),
            topic_prefix: &format!("growth-{number}."),
            partitions,
            ..stage.place()
        };
        let mut gateway = Gateway::start(stage.program(), place)?;
        // Kafka makes each partition's files with the first reading, and is slow meanwhile.
        let all = open_loop(
            &gateway,
            &format!("--connections {CONNECTIONS} --rate 2000 --kind-names {names}"),
        );
        Load::start(&stage.simulators, &all, RAMP, WARM_UP_S)?.report()?;
        gateway.settle()?;
        gateways.push(gateway);
    }
    let mut curves = Vec::new();
    for grows in &growth.only {
        curves.push(curve(*grows, &stage, &gateways)?);
    }
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for point in curves.iter_mut().flat_map(|curve| &mut curve.points) {
            let gateway = &mut gateways[point.gateway];
            gateway.settle()?;
            let arguments = open_loop(gateway, &point.flags);
            point.measured.push(drive(&stage, gateway, &arguments, point.ramp)?);
        }
    }
    println!("{} rounds of {} s; median (least-most)", options.rounds, stage.seconds);
    curves.iter().for_each(Curve::print);
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&curves)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn open_loop(gateway: &Gateway, flags: &str) -> Vec<String> {
    let flags = format!("--mqtt {} {flags}", gateway.mqtt());
    flags.split(' ').map(str::to_owned).collect()
}

fn curve(grows: Grows, stage: &Stage, gateways: &[Gateway]) -> anyhow::Result<Curve> {
    let connections = format!("--connections {CONNECTIONS}");
    let steady = format!("{connections} --rate {RATE}");
    let (name, points) = match grows {
        Grows::Connections => {
            let point = |count: u32| {
                let flags = format!("--connections {count} --rate {RATE}");
                Point::new(count.to_string(), flags, THREE, LONG_RAMP)
            };
            (
                "connections, at 10,000 readings a second",
                [10, 100, 1000, 10_000].map(point).into(),
            )
        }
        Grows::Kinds => {
            let used = |names: u32| {
                let flags = format!("{steady} --kind-names {names}");
                Point::new(format!("{} used of 99", 3 * names), flags, MANY, RAMP)
            };
            let mut points = vec![Point::new("3 used of 3".to_owned(), steady.clone(), THREE, RAMP)];
            points.extend(KIND_NAMES.map(used));
            ("kinds, at 10,000 readings a second", points)
        }
        Grows::Partitions => {
            let point = |(number, partitions)| {
                let label = format!("{partitions} of each topic");
                Point::new(label, steady.clone(), BY_PARTITIONS + number, RAMP)
            };
            (
                "partitions, 3 topics, at 10,000 readings a second",
                PARTITIONS.into_iter().enumerate().map(point).collect(),
            )
        }
        Grows::Bytes => {
            let point = |padding: u32| {
                let flags = format!("{steady} --padding {padding}");
                let mut point = Point::new(String::new(), flags, THREE, RAMP);
                let bytes = mean(reading_bytes(padding as usize)?);
                (point.label, point.bytes) = (format!("{bytes:.0} B"), Some(bytes));
                Ok(point)
            };
            let points: anyhow::Result<_> = [0, 300, 800, 1700].into_iter().map(point).collect();
            ("bytes of a reading, at 10,000 readings a second", points?)
        }
        Grows::Rate => {
            let arguments = Case::of(Part::Mqtt).arguments(&gateways[THREE].mqtt());
            let most = drive(stage, &gateways[THREE], &arguments, RAMP)?.per_second;
            let point = |percent: u32| {
                let rate = most * f64::from(percent) / 100.0;
                let flags = format!("{connections} --rate {rate:.0}");
                Point::new(format!("{percent} %: {rate:.0}/s"), flags, THREE, RAMP)
            };
            ("rate, of the most in the closed loop", [10, 50, 80].map(point).into())
        }
    };
    Ok(Curve {
        name: name.to_owned(),
        points,
    })
}

/// The folder's three schemas under so many names each, with room for a text.
fn write_schemas(from: &Path, to: &Path, names: u32) -> anyhow::Result<()> {
    for kind in Kind::PHYSICAL {
        let text = fs::read_to_string(from.join(format!("{}.avsc", kind.name())))?;
        let mut schema: Value = serde_json::from_str(&text)?;
        let fields = schema["fields"].as_array_mut().context("a schema without fields")?;
        fields.push(json!({"name": "padding", "type": ["null", "string"], "default": null}));
        for name in 1..=names {
            let name = if name == 1 {
                kind.name().to_owned()
            } else {
                format!("{}-{name}", kind.name())
            };
            fs::write(to.join(format!("{name}.avsc")), schema.to_string())?;
        }
    }
    Ok(())
}

// === impl Curve ===

impl Curve {
    fn print(&self) {
        println!("\n{}", self.name);
        println!(
            "  {:<20} {:<40} CPU us a reading; to the first; p50, p99, p99.9 ms; Kafka's CPU us",
            "", ""
        );
        let cpu = |point: &Point| median(point.measured.iter().map(|measured| measured.cpu_us));
        let most = self.points.iter().map(cpu).fold(0.0, f64::max);
        let first = self.points.first().map_or(f64::NAN, cpu);
        for point in &self.points {
            let here = cpu(point);
            let bar = "#".repeat((here / most * BAR).round() as usize);
            let middle = |of: fn(&Measured) -> Option<f64>| short(median(point.measured.iter().filter_map(of)));
            println!(
                "  {:<20} {bar:<40} {}; x{:.2}; {}, {}, {}; {}",
                point.label,
                spread(point.measured.iter().map(|measured| measured.cpu_us)),
                here / first,
                middle(|measured| measured.p50_ms),
                middle(|measured| measured.p99_ms),
                middle(|measured| measured.p999_ms),
                middle(|measured| measured.kafka_us),
            );
            complaints(&point.label, &point.measured.iter().collect::<Vec<_>>());
        }
        if let [Point { bytes: Some(few), .. }, .., Point { bytes: Some(many), .. }] = self.points[..] {
            let last = self.points.last().map_or(f64::NAN, cpu);
            let each = (last - first) * 1000.0 / (many - few);
            println!(
                "  a byte more costs {} ns; {few:.0} B cost {} ns each",
                short(each),
                short(first * 1000.0 / few)
            );
        }
    }
}

// === impl Point ===

impl Point {
    fn new(label: String, flags: String, gateway: usize, ramp: Duration) -> Point {
        Point {
            label,
            bytes: None,
            flags,
            gateway,
            ramp,
            measured: Vec::new(),
        }
    }
}
