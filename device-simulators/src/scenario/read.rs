//! From TOML tables to a [`Scenario`]: which fields exist, which values they accept, and
//! what contradicts what. All mistakes of a file are reported together, each with its line.
//! `parse` reads single fields; `runner` runs the result.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::parse::{Mistakes, Placed, Reader, Section};
use super::{CLOCK_INTERVAL_MIN, Expect, Group, KafkaOutage, PowerLoss, Scenario, Start};
use crate::devices::faults::{Fault, FaultPlan, FaultRule};
use crate::devices::placement::DISTRICTS;
use crate::devices::traffic::Incident;
use crate::devices::weather::Front;
use crate::devices::{Kind, Kinds};
use crate::fleet::Transport;
use crate::uplinks::Protocol;
use crate::uplinks::mqtt::{Quality, Version};

/// Devices of a scenario.
const DEVICES_MAX: usize = 100_000;

/// City time per clock time: a day in a second.
const SPEED_MAX: u32 = 86_400;

/// So that the city's time, which may be a week behind, stays within the month that a gateway accepts by default.
const DURATION_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

const TIME: &str = r#"a time such as "90s", "15m" or "3h""#;
const SHARE: &str = "a share from 0 to 1";

/// `"15m"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
struct Time(#[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")] Duration);

/// 0 to 1.
#[derive(Clone, Copy, Debug)]
struct Share(f64);

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProtocolName {
    Mqtt,
    Coap,
    Http,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum VersionName {
    #[serde(rename = "3.1.1")]
    V4,
    #[serde(rename = "5")]
    V5,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    PowerLoss,
    KafkaOutage,
}

pub(super) fn scenario(file: &str, text: &str, kinds: &Kinds) -> Result<Scenario, Mistakes> {
    let (mut whole, mut root) = Reader::new(file, text);
    let reader = &mut whole;
    let name = reader.need::<String>(&mut root, "name", "a word, such as the file's own name");
    let shows = reader.need::<String>(&mut root, "shows", "what the scenario shows, in a sentence");
    let seed = reader.take::<u64>(&mut root, "seed", "a whole number from 0");
    let start = reader.need::<Start>(&mut root, "start", r#""now", "06:30" or "tuesday 06:30""#);
    let duration = reader.need::<Time>(&mut root, "duration", TIME);
    let duration = duration.and_then(|duration| long_enough(reader, "duration", duration));
    let speed = speed(reader, &mut root);
    let short = reader.section(&mut root, "short").map(|section| short(reader, section));
    let fronts = reader.sections(&mut root, "front", "front");
    let fronts = fronts.into_iter().map(|section| front(reader, section)).collect();
    let incidents = reader.sections(&mut root, "incident", "incident");
    let incidents = incidents.into_iter().map(|section| incident(reader, section)).collect();
    // Both have the same indices once nothing is wrong.
    let (groups, names) = groups(reader, &mut root, speed.value, kinds);
    let events = reader.sections(&mut root, "event", "event");
    let (mut power_losses, mut kafka_outages) = (Vec::new(), Vec::new());
    for section in events {
        event(
            reader,
            section,
            &names,
            duration,
            (&mut power_losses, &mut kafka_outages),
        );
    }
    let expect = reader.section(&mut root, "expect");
    let expect = expect
        .map(|section| self::expect(reader, section, &groups))
        .unwrap_or_default();
    reader.end(root);
    let scenario = || {
        Some(Scenario {
            name: name?.value,
            shows: shows?.value,
            seed: seed.map_or(1, |seed| seed.value),
            start: start?.value,
            duration: duration?,
            speed: speed.value,
            short: short.flatten(),
            fronts,
            incidents,
            groups,
            power_losses,
            kafka_outages,
            expect,
        })
    };
    whole.finish(scenario())
}

fn long_enough(reader: &mut Reader<'_>, what: &str, duration: Placed<Time>) -> Option<Duration> {
    let Placed { at, value: Time(time) } = duration;
    if time.is_zero() || time > DURATION_MAX {
        reader.mistake(at, format!("{what}: more than nothing, and at most two weeks"));
        return None;
    }
    Some(time)
}

/// 1 if it is missing, or wrong.
fn speed(reader: &mut Reader<'_>, section: &mut Section<'_>) -> Placed<u32> {
    let allowed = format!("a whole number from 1 to {SPEED_MAX}, city time per clock time");
    let Some(speed) = reader.take::<u32>(section, "speed", &allowed) else {
        return Placed {
            at: section.at,
            value: 1,
        };
    };
    if !(1..=SPEED_MAX).contains(&speed.value) {
        reader.mistake(
            speed.at,
            format!("{}speed: {} is not {allowed}", section.prefix(), speed.value),
        );
        return Placed { value: 1, ..speed };
    }
    speed
}

fn short(reader: &mut Reader<'_>, mut section: Section<'_>) -> Option<(Duration, u32)> {
    let duration = reader.need::<Time>(&mut section, "duration", TIME);
    let duration = duration.and_then(|duration| long_enough(reader, "short: duration", duration));
    let speed = speed(reader, &mut section);
    reader.end(section);
    Some((duration?, speed.value))
}

/// A number with bounds, or what it is if left out.
fn number(
    reader: &mut Reader<'_>,
    section: &mut Section<'_>,
    key: &'static str,
    (usually, least, most): (f64, f64, f64),
) -> f64 {
    let allowed = format!("a number from {least} to {most}");
    match reader.take::<f64>(section, key, &allowed) {
        None => usually,
        Some(number) if (least..=most).contains(&number.value) => number.value,
        Some(number) => {
            let what = format!("{}{key}: {} is not {allowed}", section.prefix(), number.value);
            reader.mistake(number.at, what);
            usually
        }
    }
}

fn milliseconds(time: Option<Placed<Time>>) -> i64 {
    let Time(time) = time.map_or(Time(Duration::ZERO), |time| time.value);
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn front(reader: &mut Reader<'_>, mut section: Section<'_>) -> Front {
    let at = reader.need::<Time>(&mut section, "at", TIME);
    let mut number = |key, bounds| number(reader, &mut section, key, bounds);
    let front = Front {
        at_ms: milliseconds(at),
        heading_deg: number("heading_deg", (100.0, 0.0, 360.0)),
        speed_m_s: number("speed_m_s", (12.0, 1.0, 50.0)),
        rain_s: number("rain_s", (2400.0, 60.0, 86_400.0)),
        rain_mm_h: number("rain_mm_h", (12.0, 0.0, 100.0)),
        cooling_c: number("cooling_c", (7.0, 0.0, 20.0)),
        trough_hpa: number("trough_hpa", (6.0, 0.0, 30.0)),
        squall_m_s: number("squall_m_s", (12.0, 0.0, 40.0)),
    };
    reader.end(section);
    front
}

fn incident(reader: &mut Reader<'_>, mut section: Section<'_>) -> Incident {
    let road = reader.take::<u64>(&mut section, "road", "the number of a road, from 0");
    let at = reader.need::<Time>(&mut section, "at", TIME);
    let lasts = reader.need::<Time>(&mut section, "lasts", TIME);
    let incident = Incident {
        road: road.map_or(0, |road| road.value),
        at_ms: milliseconds(at),
        lasts_s: milliseconds(lasts) as f64 / 1000.0,
        position_m: number(reader, &mut section, "position_m", (2500.0, 0.0, 100_000.0)),
        capacity_left: number(reader, &mut section, "capacity_left", (0.3, 0.0, 1.0)),
    };
    reader.end(section);
    incident
}

/// The good ones of the groups, and the names of all.
fn groups(reader: &mut Reader<'_>, root: &mut Section<'_>, speed: u32, kinds: &Kinds) -> (Vec<Group>, Vec<String>) {
    if !root.has("group") {
        reader.mistake(root.at, "there are no devices: write at least one [[group]]");
    }
    let sections = reader.sections(root, "group", "group");
    let (mut groups, mut names) = (Vec::<Group>::new(), Vec::<String>::new());
    for mut section in sections {
        let at = section.at;
        let name = reader.need::<String>(&mut section, "name", "a word that events can use");
        if let Some(name) = &name {
            section.name = format!("group {:?}", name.value);
            if names.contains(&name.value) {
                reader.mistake(
                    name.at,
                    format!("{}there is one of that name already", section.prefix()),
                );
            }
            names.push(name.value.clone());
        }
        let Some(group) = group(reader, section, name, speed, kinds) else {
            continue;
        };
        groups.push(group);
        if groups.iter().map(|group| group.count).sum::<usize>() > DEVICES_MAX {
            reader.mistake(at, format!("there are more than {DEVICES_MAX} devices"));
        }
    }
    (groups, names)
}

fn group(
    reader: &mut Reader<'_>,
    mut section: Section<'_>,
    name: Option<Placed<String>>,
    speed: u32,
    kinds: &Kinds,
) -> Option<Group> {
    let section_ref = &mut section;
    let kind = kind(reader, section_ref, kinds);
    let allowed = format!("how many devices, 1 to {DEVICES_MAX}");
    let count = reader.need::<usize>(section_ref, "count", &allowed);
    if let Some(count) = count.filter(|count| !(1..=DEVICES_MAX).contains(&count.value)) {
        reader.mistake(
            count.at,
            format!("{}count: {} is not {allowed}", section_ref.prefix(), count.value),
        );
    }
    let interval = reader.need::<Time>(section_ref, "interval", TIME);
    if let Some(Placed { at, value: Time(time) }) = interval
        && time / speed.max(1) < CLOCK_INTERVAL_MIN
    {
        let prefix = section_ref.prefix();
        let what = format!("{prefix}interval: at speed {speed} that is below {CLOCK_INTERVAL_MIN:?} by the clock");
        reader.mistake(at, what);
    }
    let faults = faults(reader, section_ref);
    let transport = transport(reader, section_ref, &faults);
    reader.end(section);
    Some(Group {
        name: name?.value,
        kind: kind?,
        count: count?.value,
        transport: transport?,
        interval: interval?.value.0,
        faults,
    })
}

fn kind(reader: &mut Reader<'_>, section: &mut Section<'_>, kinds: &Kinds) -> Option<Kind> {
    let known = kinds.names().unwrap_or_default().join(", ");
    let name = reader.need::<String>(section, "kind", &known)?;
    let found = kinds.get(&name.value);
    let mistake = |error: anyhow::Error| reader.mistake(name.at, format!("{}kind: {error:#}", section.prefix()));
    found.map_err(mistake).ok()
}

/// The protocol, and what belongs to it; what belongs to another one is a contradiction.
fn transport(reader: &mut Reader<'_>, section: &mut Section<'_>, faults: &FaultPlan) -> Option<Transport> {
    let protocol = reader.need::<ProtocolName>(section, "protocol", r#""mqtt", "coap" or "http""#);
    let version = reader.take::<VersionName>(section, "version", r#"of MQTT: "3.1.1" or "5""#);
    let qos = reader.take::<u8>(section, "qos", "of MQTT: 1 or 2");
    let confirmable = reader.take::<bool>(section, "confirmable", "of CoAP: true or false");
    let batch = reader.take::<usize>(section, "batch", "of HTTP: how many readings in a message, 1 to 10000");
    let protocol = protocol?.value;
    let prefix = section.prefix();
    let mut only = |key: &str, at: Option<usize>, whose: &str, is_whose: bool| {
        if let (Some(at), false) = (at, is_whose) {
            reader.mistake(
                at,
                format!("{prefix}{key}: only {whose} has one; leave it out, or change the protocol"),
            );
        }
    };
    let is_mqtt = matches!(protocol, ProtocolName::Mqtt);
    only("version", version.map(|version| version.at), "MQTT", is_mqtt);
    only("qos", qos.map(|qos| qos.at), "MQTT", is_mqtt);
    let is_coap = matches!(protocol, ProtocolName::Coap);
    only(
        "confirmable",
        confirmable.map(|confirmable| confirmable.at),
        "CoAP",
        is_coap,
    );
    let is_http = matches!(protocol, ProtocolName::Http);
    only("batch", batch.map(|batch| batch.at), "HTTP", is_http);
    if let Some(qos) = qos.filter(|qos| !(1..=2).contains(&qos.value)) {
        let why = "1 or 2: QoS 0 has no answer that could be checked";
        reader.mistake(qos.at, format!("{prefix}qos: {} is not {why}", qos.value));
    }
    let readings = batch.map_or(1, |batch| batch.value);
    if let Some(batch) = batch {
        if !(1..=10_000).contains(&readings) {
            reader.mistake(batch.at, format!("{prefix}batch: {readings} is not 1 to 10000"));
        }
        let breaks = |rule: &&FaultRule| matches!(rule.fault, Fault::Truncated | Fault::Malformed);
        if let (true, Some(rule)) = (readings > 1, faults.rules.iter().find(breaks)) {
            let why = "one that is not JSON makes the whole batch unreadable";
            reader.mistake(
                batch.at,
                format!("{prefix}batch: not together with the fault {}: {why}", rule.fault),
            );
        }
    }
    Some(match protocol {
        ProtocolName::Mqtt => Transport::Mqtt {
            version: match version.map(|version| version.value) {
                Some(VersionName::V4) => Version::V4,
                Some(VersionName::V5) | None => Version::V5,
            },
            quality: match qos.map(|qos| qos.value) {
                Some(2) => Quality::ExactlyOnce,
                _ => Quality::AtLeastOnce,
            },
        },
        ProtocolName::Coap => Transport::Coap {
            confirmable: confirmable.is_none_or(|confirmable| confirmable.value),
        },
        ProtocolName::Http => Transport::Http { readings },
    })
}

fn faults(reader: &mut Reader<'_>, group: &mut Section<'_>) -> FaultPlan {
    let sections = reader.sections(group, "faults", "fault");
    let names = Fault::ALL.map(Fault::name).join(", ");
    let mut rules = Vec::new();
    for mut section in sections {
        let fault = reader.need::<Fault>(&mut section, "fault", &names);
        let devices = reader.take::<Share>(&mut section, "devices", SHARE);
        let chance = reader.need::<Share>(&mut section, "chance", SHARE);
        let lasts = reader.take::<Time>(&mut section, "lasts", TIME);
        reader.end(section);
        if let (Some(fault), Some(chance)) = (fault, chance) {
            rules.push(FaultRule {
                fault: fault.value,
                devices: devices.map_or(1.0, |devices| devices.value.0),
                chance: chance.value.0,
                lasts: lasts.map(|lasts| lasts.value.0),
            });
        }
    }
    FaultPlan { rules }
}

fn event(
    reader: &mut Reader<'_>,
    mut section: Section<'_>,
    names: &[String],
    duration: Option<Duration>,
    (power_losses, kafka_outages): (&mut Vec<PowerLoss>, &mut Vec<KafkaOutage>),
) {
    let what = reader.need::<What>(&mut section, "what", r#""power_loss" or "kafka_outage""#);
    let at = reader.need::<Time>(&mut section, "at", TIME);
    if let (Some(Placed { at, value: Time(time) }), Some(duration)) = (at, duration)
        && time >= duration
    {
        reader.mistake(at, format!("{}at: the scenario is over by then", section.prefix()));
    }
    let lasts = reader.need::<Time>(&mut section, "lasts", TIME);
    let groups = reader.take::<Vec<String>>(&mut section, "groups", "a list of names of groups");
    let back_within = reader.take::<Time>(&mut section, "back_within", TIME);
    let district = district(reader, &mut section);
    let prefix = section.prefix();
    reader.end(section);
    let struck: Vec<usize> = match &groups {
        None => (0..names.len()).collect(),
        Some(groups) => {
            let of = |name: &String| names.iter().position(|known| known == name);
            if let Some(unknown) = groups.value.iter().find(|name| of(name).is_none()) {
                let known = names.join(", ");
                reader.mistake(
                    groups.at,
                    format!("{prefix}groups: unknown group {unknown:?}; known groups: {known}"),
                );
            }
            groups.value.iter().filter_map(of).collect()
        }
    };
    let (Some(what), Some(at), Some(lasts)) = (what, at, lasts) else {
        return;
    };
    let (at, lasts) = (at.value.0, lasts.value.0);
    match what.value {
        What::PowerLoss => power_losses.push(PowerLoss {
            at,
            groups: struck,
            district: district.map(|district| district.value),
            lasts,
            back_within: back_within.map_or(Duration::ZERO, |time| time.value.0),
        }),
        What::KafkaOutage => {
            let of_devices = [
                groups.map(|groups| groups.at),
                back_within.map(|time| time.at),
                district.map(|district| district.at),
            ];
            for at in of_devices.into_iter().flatten() {
                reader.mistake(
                    at,
                    format!("{prefix}only a power_loss has groups, district and back_within: Kafka is one"),
                );
            }
            kafka_outages.push(KafkaOutage { at, lasts });
        }
    }
}

/// Where power is lost, if not everywhere.
fn district(reader: &mut Reader<'_>, section: &mut Section<'_>) -> Option<Placed<&'static str>> {
    let known = DISTRICTS.join(", ");
    let Placed { at, value } = reader.take::<String>(section, "district", &known)?;
    let found = DISTRICTS.into_iter().find(|name| *name == value);
    if found.is_none() {
        let prefix = section.prefix();
        reader.mistake(
            at,
            format!("{prefix}district: unknown district {value:?}; known districts: {known}"),
        );
    }
    found.map(|value| Placed { at, value })
}

fn expect(reader: &mut Reader<'_>, mut section: Section<'_>, groups: &[Group]) -> Expect {
    let count = |reader: &mut Reader<'_>, section: &mut Section<'_>, key| {
        let count = reader.take::<u64>(section, key, "at most so many, from 0");
        count.map(|count| count.value)
    };
    let share = |reader: &mut Reader<'_>, section: &mut Section<'_>, key| {
        let share = reader.take::<Share>(section, key, SHARE);
        share.map(|share| share.value.0)
    };
    let mut expect = Expect {
        lost: count(reader, &mut section, "lost").unwrap_or(0),
        out_of_order: count(reader, &mut section, "out_of_order"),
        duplicates_max: count(reader, &mut section, "duplicates_max"),
        acknowledged_min: share(reader, &mut section, "acknowledged_min"),
        as_expected_min: share(reader, &mut section, "as_expected_min"),
        ..Expect::default()
    };
    let reasons = reader.take::<bool>(&mut section, "reasons_as_expected", "true or false");
    expect.reasons_as_expected = reasons.is_some_and(|reasons| reasons.value);
    if let Some(mut detected) = reader.section(&mut section, "detected") {
        expect.detected = self::detected(reader, &mut detected, groups);
        reader.end(detected);
    }
    if let Some(mut p99) = reader.section(&mut section, "p99") {
        let mut bounds = BTreeMap::new();
        for protocol in Protocol::ALL {
            if let Some(bound) = reader.take::<Time>(&mut p99, protocol.name(), TIME) {
                bounds.insert(protocol, bound.value.0);
            }
        }
        expect.p99 = bounds;
        reader.end(p99);
    }
    reader.end(section);
    expect
}

fn detected(reader: &mut Reader<'_>, section: &mut Section<'_>, groups: &[Group]) -> BTreeMap<Fault, f64> {
    let mut bounds = BTreeMap::new();
    for fault in Fault::ALL {
        let Some(share) = reader.take::<Share>(section, fault.name(), SHARE) else {
            continue;
        };
        let mut rules = groups.iter().flat_map(|group| &group.faults.rules);
        if !rules.any(|rule| rule.fault == fault) {
            reader.mistake(share.at, format!("expect: detected: no group has the fault {fault}"));
        }
        bounds.insert(fault, share.value.0);
    }
    bounds
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        let share = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&share) {
            Ok(Share(share))
        } else {
            Err(serde::de::Error::custom(format!("{share} is out of range")))
        }
    }
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Start, D::Error> {
        const DAYS: [&str; 7] = [
            "monday",
            "tuesday",
            "wednesday",
            "thursday",
            "friday",
            "saturday",
            "sunday",
        ];
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("{text:?} is no time of day"));
        if text == "now" {
            return Ok(Start::Now);
        }
        let (day, time) = text
            .rsplit_once(' ')
            .map_or((None, text.as_str()), |(day, time)| (Some(day), time));
        let position = |day: &str| DAYS.iter().position(|name| *name == day).ok_or_else(wrong);
        let weekday = day.map(position).transpose()?.map(|day| day as u8);
        let (hour, minute) = time.split_once(':').ok_or_else(wrong)?;
        let number = |text: &str, below: u16| {
            let number = text.parse::<u16>().ok().filter(|number| *number < below);
            number.filter(|_| text.len() == 2).ok_or_else(wrong)
        };
        let minute = 60 * number(hour, 24)? + number(minute, 60)?;
        Ok(Start::At { weekday, minute })
    }
}
