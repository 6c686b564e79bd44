//! Where the devices of a fleet stand: road and neighbours, district, feeder, cabinet.
//!
//! What a city keeps in its register of assets, and no device says of itself. It follows from the devices alone: the same fleet
//! has the same register. Neighbours are those of this fleet, so that a road with every second detector has neighbours too.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::traffic::Detector;
use super::{Device, Kind, rounded};

/// How many neighbouring detectors share a cabinet.
const DETECTORS_OF_CABINET: usize = 4;

/// Feeders of one district.
const FEEDERS: f64 = 3.0;

/// Edge of the city's cells, degrees: some 1.1 km by 0.7 km.
const CELL_DEG: f64 = 0.01;

/// How far the middle third of the city reaches from its centre, degrees of latitude and of longitude.
const MIDDLE_DEG: (f64, f64) = (0.015, 0.024);

/// What the city's register says of one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placement {
    pub device: String,
    pub kind: &'static str,
    /// Degrees, WGS 84.
    pub latitude: f64,
    pub longitude: f64,
    /// The road that it observes, in the direction of its traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Metres from the road's beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_m: Option<f64>,
    /// The next detectors against the traffic, and with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub downstream: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane_count: Option<u32>,
    pub district: String,
    /// What a meter hangs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feeder: Option<String>,
    pub cell: String,
    /// Devices of one cabinet share its power and its modem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cabinet: Option<String>,
    /// How often a reading is expected, seconds.
    pub interval_s: f64,
}

/// The city's districts: one of nine, by the compass.
pub const DISTRICTS: [&str; 9] = [
    "south-west",
    "south",
    "south-east",
    "west",
    "centre",
    "east",
    "north-west",
    "north",
    "north-east",
];

/// Of every device of a fleet, in its order; each with how often it measures.
pub fn placements<'d>(devices: impl Iterator<Item = (&'d Device, Duration)>) -> Vec<Placement> {
    let devices: Vec<_> = devices.collect();
    let mut placements: Vec<_> = devices
        .iter()
        .map(|(device, interval)| alone(device, *interval))
        .collect();
    for (_, mut road) in roads(&devices) {
        road.sort_by(|one, other| one.1.total_cmp(&other.1));
        for (order, &(at, _)) in road.iter().enumerate() {
            let neighbour = |order: Option<usize>| order.and_then(|order| road.get(order)).map(|&(at, _)| at);
            let names = [neighbour(order.checked_sub(1)), neighbour(Some(order + 1))]
                .map(|at| at.map(|at| placements[at].device.clone()).into_iter().collect());
            let placement = &mut placements[at];
            [placement.upstream, placement.downstream] = names;
            let segment = placement.segment.clone().unwrap_or_default();
            placement.cabinet = Some(format!("cabinet-{segment}-{}", order / DETECTORS_OF_CABINET));
        }
    }
    placements
}

/// The detectors of each road: their number in the fleet, and their position.
fn roads(devices: &[(&Device, Duration)]) -> BTreeMap<u64, Vec<(usize, f64)>> {
    let mut roads: BTreeMap<u64, Vec<(usize, f64)>> = BTreeMap::new();
    for (at, (device, _)) in devices.iter().enumerate() {
        if let Some(Detector { road, position_m }) = device.sensor.detector() {
            roads.entry(road).or_default().push((at, position_m));
        }
    }
    roads
}

/// What is known of a device without the others.
fn alone(device: &Device, interval: Duration) -> Placement {
    let (latitude, longitude) = (device.location.latitude, device.location.longitude);
    let detector = device.sensor.detector();
    let district = district(device).to_owned();
    let feeder = (1.0 + FEEDERS * device.noise.fixed("feeder")).floor();
    Placement {
        device: device.name.clone(),
        kind: device.kind.name(),
        latitude,
        longitude,
        segment: detector.map(|detector| segment(detector.road)),
        position_m: detector.map(|detector| detector.position_m),
        upstream: Vec::new(),
        downstream: Vec::new(),
        lane_count: detector.map(|detector| detector.lanes(&device.city)),
        feeder: (device.kind == Kind::ENERGY).then(|| format!("feeder-{district}-{feeder}")),
        district,
        cell: format!(
            "{:.0}-{:.0}",
            (latitude / CELL_DEG).floor(),
            (longitude / CELL_DEG).floor()
        ),
        cabinet: None,
        interval_s: rounded(interval.as_secs_f64(), 3),
    }
}

/// What a road is called.
pub fn segment(road: u64) -> String {
    format!("road-{road}")
}

/// In which of [`DISTRICTS`] a device stands.
pub fn district(device: &Device) -> &'static str {
    let (middle_latitude, middle_longitude) = device.city.coordinates(super::Spot::CENTRE);
    let third = |value: f64, middle: f64| usize::from(value > -middle) + usize::from(value > middle);
    let south_north = third(device.location.latitude - middle_latitude, MIDDLE_DEG.0);
    let west_east = third(device.location.longitude - middle_longitude, MIDDLE_DEG.1);
    DISTRICTS[3 * south_north + west_east]
}

// === impl Placement ===

impl Placement {
    /// As tags of an identity: texts by name, lists with spaces between.
    pub fn tags(&self) -> BTreeMap<&'static str, String> {
        let mut tags = BTreeMap::from([
            ("latitude", self.latitude.to_string()),
            ("longitude", self.longitude.to_string()),
            ("district", self.district.clone()),
            ("cell", self.cell.clone()),
            ("interval_s", self.interval_s.to_string()),
        ]);
        let known = [
            ("segment", self.segment.clone()),
            ("position_m", self.position_m.map(|metres| metres.to_string())),
            ("upstream", Some(self.upstream.join(" "))),
            ("downstream", Some(self.downstream.join(" "))),
            ("lane_count", self.lane_count.map(|lanes| lanes.to_string())),
            ("feeder", self.feeder.clone()),
            ("cabinet", self.cabinet.clone()),
        ];
        let known = known.into_iter().filter_map(|(name, text)| Some((name, text?)));
        tags.extend(known.filter(|(_, text)| !text.is_empty()));
        tags
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::super::City;
    use super::*;

    fn placed(kinds: &[(Kind, std::ops::Range<u64>)]) -> Vec<Placement> {
        let city = Arc::new(City::new(7));
        let device = |(kind, range): &(Kind, std::ops::Range<u64>)| {
            let (kind, city) = (*kind, city.clone());
            range
                .clone()
                .map(move |index| Device::in_city(&city, kind, index))
                .collect::<Vec<_>>()
        };
        let devices: Vec<_> = kinds.iter().flat_map(device).collect();
        placements(devices.iter().map(|device| (device, Duration::from_secs(60))))
    }

    #[test]
    fn detectors_of_a_road_know_their_neighbours_against_and_with_the_traffic() {
        let placed = placed(&[(Kind::TRAFFIC, 22..27), (Kind::WEATHER, 30..31)]);
        let check = |at: usize, upstream: &[&str], downstream: &[&str]| {
            assert_eq!(placed[at].upstream, upstream, "{:?}", placed[at]);
            assert_eq!(placed[at].downstream, downstream, "{:?}", placed[at]);
        };
        // The first road has 24 detectors.
        check(0, &[], &["loop-00023"]);
        check(1, &["loop-00022"], &[]);
        check(2, &[], &["loop-00025"]);
        check(3, &["loop-00024"], &["loop-00026"]);
        check(5, &[], &[]);
        assert_eq!(placed[1].segment.as_deref(), Some("road-0"));
        assert_eq!(placed[2].segment.as_deref(), Some("road-1"));
        assert_eq!(placed[5].cabinet, None);
    }

    #[test]
    fn a_fleet_has_districts_feeders_and_cabinets() {
        let placed = placed(&[(Kind::TRAFFIC, 0..120), (Kind::ENERGY, 120..320)]);
        let districts: BTreeSet<&str> = placed.iter().map(|one| one.district.as_str()).collect();
        assert!((7..=9).contains(&districts.len()), "{districts:?}");
        let feeders: BTreeSet<&str> = placed.iter().filter_map(|one| one.feeder.as_deref()).collect();
        assert!((15..=27).contains(&feeders.len()), "{feeders:?}");
        let of_cabinet = |name: &str| placed.iter().filter(|one| one.cabinet.as_deref() == Some(name)).count();
        assert_eq!(of_cabinet("cabinet-road-0-0"), 4);
        assert!(
            placed[..120]
                .iter()
                .all(|one| one.feeder.is_none() && one.cabinet.is_some())
        );
    }

    #[test]
    fn tags_are_texts() {
        let tags = placed(&[(Kind::TRAFFIC, 0..3)])[1].tags();
        assert_eq!(
            (tags["upstream"].as_str(), tags["downstream"].as_str()),
            ("loop-00000", "loop-00002")
        );
        assert_eq!(
            (tags["position_m"].as_str(), tags["interval_s"].as_str()),
            ("300", "60")
        );
        assert!(!tags.contains_key("feeder"));
    }
}
