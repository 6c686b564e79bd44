//! The bundled scenarios, and files with mistakes. A scenario is a function of its
//! seed and start, its city time never runs ahead of the clock, and every mistake
//! is named with its place, all of them at once.

use super::*;
use crate::devices::faults::ClockLimits;

/// Saturday 2026-11-21 15:00 UTC.
const NOW_MS: i64 = 1_795_273_200_000;

fn shipped() -> Vec<Scenario> {
    let scenarios = bundled::names().map(|name| {
        let scenario = bundled::load(name, &Kinds::bundled()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(name, scenario.name);
        scenario
    });
    scenarios.collect()
}

fn named(name: &str) -> Scenario {
    let mut shipped = shipped().into_iter();
    shipped.find(|scenario| scenario.name == name).unwrap()
}

#[test]
fn the_shipped_scenarios_are_accepted() {
    let is: Vec<(String, usize, u64)> = shipped()
        .into_iter()
        .map(|scenario| (scenario.name.clone(), scenario.devices(), scenario.length().as_secs()))
        .collect();
    let expected = [
        ("all_kinds", 276, 60),
        ("bad_firmware", 220, 120),
        ("calm_day", 144, 360),
        ("city_week", 144, 75),
        ("flash_reconnect", 600, 60),
        ("kafka_outage", 300, 60),
        ("night_batch", 1120, 60),
        ("rush_hour", 320, 180),
        ("storm_front", 250, 180),
    ]
    .map(|(name, devices, seconds)| (name.to_owned(), devices, seconds));
    assert_eq!(is, expected);
}

#[test]
fn short_forms_are_short_and_their_events_are_in_them() {
    for scenario in shipped() {
        assert!(scenario.short.is_some(), "{}", scenario.name);
        let (name, short) = (scenario.name.clone(), scenario.shortened());
        assert!(
            short.length() <= Duration::from_secs(25),
            "{name}: {:?}",
            short.length()
        );
        short.check_speed().unwrap();
        for loss in &short.power_losses {
            let back = short.clock(loss.at) + loss.lasts + loss.back_within;
            assert!(back < short.length(), "{name}: back at {back:?}");
        }
        for outage in &short.kafka_outages {
            assert!(short.clock(outage.at) + outage.lasts < short.length(), "{name}");
        }
    }
}

/// What the devices of a scenario say in their first slots, faults and all.
fn said(scenario: &Scenario, start_ms: i64, slots: u64) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    for mut entry in roster::entries(scenario, start_ms) {
        for slot in 0..slots {
            let moment = entry.moment_of_slot(slot as u32);
            let emissions = entry.device.measure(slot + 1, moment, NOW_MS);
            said.extend(emissions.into_iter().map(|emission| emission.payload));
        }
    }
    said
}

#[test]
fn a_scenario_is_a_function_of_its_seed_and_start() {
    for mut scenario in shipped() {
        let start_ms = roster::start_ms(&scenario, NOW_MS);
        let first = said(&scenario, start_ms, 4);
        assert!(first.len() > scenario.devices());
        assert_eq!(first, said(&scenario, start_ms, 4), "{}", scenario.name);
        scenario.speed *= 2;
        assert_eq!(
            first,
            said(&scenario, start_ms, 4),
            "{}: at another speed",
            scenario.name
        );
        scenario.seed += 1;
        assert_ne!(
            first,
            said(&scenario, start_ms, 4),
            "{}: of another seed",
            scenario.name
        );
    }
}

#[test]
fn the_citys_time_is_never_ahead_of_the_clock_nor_too_far_behind() {
    let limits = ClockLimits::default();
    for scenario in shipped() {
        for hours in 0..(8 * 24) {
            let now_ms = NOW_MS + hours * 3_600_000;
            let start_ms = roster::start_ms(&scenario, now_ms);
            let clock_end = now_ms + scenario.length().as_millis() as i64;
            let city_end = start_ms + scenario.duration.as_millis() as i64;
            assert!(city_end <= clock_end, "{}", scenario.name);
            let behind = Duration::from_millis((clock_end - start_ms) as u64);
            assert!(behind < limits.max_age.unwrap(), "{}: {behind:?}", scenario.name);
        }
    }
}

#[test]
fn the_start_is_the_last_one_that_is_over_by_the_end() {
    let check = |start: &str, duration: &str, expected: &str| {
        let text =
            format!("name = 'x'\nshows = 'x'\nspeed = 3600\nstart = '{start}'\nduration = '{duration}'\n{GROUP}");
        let scenario = Scenario::parse("x", &text, &Kinds::bundled()).unwrap();
        let start_ms = roster::start_ms(&scenario, NOW_MS);
        let is = jiff::Timestamp::from_millisecond(start_ms).unwrap().to_string();
        assert_eq!(is, expected, "{start} for {duration}");
    };
    // An hour takes a second; the city is an hour ahead of UTC.
    check("now", "1h", "2026-11-21T14:00:01Z");
    check("14:00", "1h", "2026-11-21T13:00:00Z");
    check("15:00", "1h", "2026-11-21T14:00:00Z");
    check("15:01", "1h", "2026-11-20T14:01:00Z");
    check("00:30", "1h", "2026-11-20T23:30:00Z");
    check("saturday 06:30", "3h", "2026-11-21T05:30:00Z");
    check("saturday 14:30", "3h", "2026-11-14T13:30:00Z");
    check("sunday 06:30", "3h", "2026-11-15T05:30:00Z");
    check("tuesday 06:30", "3h", "2026-11-17T05:30:00Z");
}

const GROUP: &str = "[[group]]\nname = 'a'\nkind = 'traffic'\ncount = 3\nprotocol = 'mqtt'\ninterval = '1m'\n";

#[test]
fn five_mistakes_are_five_lines() {
    let text = r#"name = "wrong"
shows = "what a file with five mistakes is told"
start = "someday 06:30"
duration = "1h"
sped = 60

[[group]]
name = "loops"
kind = "traffic"
count = "many"
protocol = "mqqt"
interval = "60s"

[[group]]
name = "meters"
kind = "energy"
count = 10
protocol = "http"
  qos = 1
interval = "60s"
"#;
    let mistakes = Scenario::parse("wrong.toml", text, &Kinds::bundled()).unwrap_err();
    let expected = [
        r#"wrong.toml:3:9: start: "someday 06:30" is no time of day; "now", "06:30" or "tuesday 06:30""#,
        "wrong.toml:5:1: sped: unknown field; known fields: name, shows, seed, start, duration, speed, short, front, incident, \
         group, event, expect",
        r#"wrong.toml:10:9: group "loops": count: invalid type: string "many", expected usize; how many devices, 1 to 100000"#,
        "wrong.toml:11:12: group \"loops\": protocol: unknown variant `mqqt`, expected one of `mqtt`, `coap`, `http`; \
         \"mqtt\", \"coap\" or \"http\"",
        "wrong.toml:19:9: group \"meters\": qos: only MQTT has one; leave it out, or change the protocol",
    ];
    assert_eq!(mistakes.lines(), expected, "{mistakes}");
    assert!(
        mistakes
            .to_string()
            .starts_with("5 mistakes in the scenario\n  wrong.toml:3:9: ")
    );
}

#[test]
fn mistakes_are_named() {
    let head = "name = 'x'\nshows = 'x'\nstart = 'now'\nduration = '1h'\n";
    let check = |text: &str, expected: &[&str]| {
        let text = format!("{head}{text}");
        let mistakes = Scenario::parse("x", &text, &Kinds::bundled()).unwrap_err();
        assert_eq!(mistakes.lines().len(), expected.len(), "{mistakes}");
        for (line, part) in mistakes.lines().iter().zip(expected) {
            assert!(line.contains(part), "{line} does not contain {part}");
        }
    };
    let group = |lines: &str| format!("{GROUP}{lines}");
    check("", &["1:1: there are no devices"]);
    check(
        "speed = 0\n[[group]]",
        &[
            "5:9: speed: 0 is not",
            "6:1: group 1: name is missing",
            "6:1: group 1: kind is missing",
            "6:1: group 1: count is missing",
            "6:1: group 1: interval is missing",
            "6:1: group 1: protocol is missing",
        ],
    );
    check(&group("qos = 0"), &["11:7: group \"a\": qos: 0 is not 1 or 2"]);
    check(&group("qos = 300"), &["11:7: group \"a\": qos:"]);
    check(
        &group("version = '4'"),
        &["11:11: group \"a\": version: unknown variant `4`"],
    );
    check(&group("confirmable = true"), &["only CoAP has one"]);
    check(&group("batch = 5"), &["only HTTP has one"]);
    check(
        &format!("speed = 10000\n{GROUP}"),
        &["11:12: group \"a\": interval: at speed 10000"],
    );
    check(&group(GROUP), &["12:8: group \"a\": there is one of that name already"]);
    let http = GROUP.replace("mqtt", "http");
    check(
        &format!("{http}batch = 5\n[[group.faults]]\nfault = 'truncated'\nchance = 0.1"),
        &["11:9: group \"a\": batch: not together with the fault truncated"],
    );
    check(
        &group("[[group.faults]]\nfault = 'gremlins'\nchance = 2\nlasts = '1 parsec'"),
        &[
            "12:9: group \"a\": fault 1: fault: unknown variant `gremlins`",
            "13:10:",
            "14:9:",
        ],
    );
    check(
        &group("[[event]]\nwhat = 'power_loss'\nat = '1h'\nlasts = '1s'\ngroups = ['b']"),
        &[
            "13:6: event 1: at: the scenario is over by then",
            "15:10: event 1: groups: unknown group \"b\"; known groups: a",
        ],
    );
    check(
        &group("[[event]]\nwhat = 'kafka_outage'\nat = '1m'\nlasts = '1s'\ngroups = ['a']"),
        &["only a power_loss has groups"],
    );
    check(
        &group("[[event]]\nwhat = 'power_loss'\nat = '1m'\nlasts = '1s'\ndistrict = 'harbour'"),
        &["15:12: event 1: district: unknown district \"harbour\"; known districts: south-west, south,"],
    );
    check(
        &group(
            "[expect]\nlost = -1\nacknowledged_min = 98\n[expect.detected]\nspike = 1.0\n[expect.p99]\nmqttt = '1s'",
        ),
        &[
            "12:8: expect: lost",
            "13:20: expect: acknowledged_min: 98",
            "no group has the fault spike",
            "17:1: p99: mqttt",
        ],
    );
    check("group = 5", &["5:1: group is a list of tables: write [[group]]"]);
}

#[test]
fn what_is_not_toml_is_named_with_its_place() {
    let mistakes = Scenario::parse("x", "name = 'x'\nshows = \n", &Kinds::bundled()).unwrap_err();
    let expected = "x:2:9: string values must be quoted, expected literal string";
    assert!(mistakes.lines().iter().any(|line| line == expected), "{mistakes}");
}

#[test]
fn everybody_is_back_in_time_and_not_at_once() {
    let scenario = named("flash_reconnect");
    let loss = &scenario.power_losses[0];
    let roster = roster::entries(&scenario, 0);
    let back: Vec<Duration> = roster.iter().map(|entry| entry.power_cuts[0].1).collect();
    let from = scenario.clock(loss.at) + loss.lasts;
    assert!(back.iter().all(|back| (from..=from + loss.back_within).contains(back)));
    let early = back.iter().filter(|back| **back < from + loss.back_within / 2).count();
    assert!((250..350).contains(&early), "{early} of 600 in the first half");
}

#[test]
fn a_district_loses_power_as_a_whole_and_nobody_else_does() {
    let scenario = named("city_week");
    let loss = scenario
        .power_losses
        .iter()
        .find(|loss| loss.district.is_some())
        .unwrap();
    let roster = roster::entries(&scenario, 0);
    let placements = crate::fleet::placements(&roster);
    let from = scenario.clock(loss.at);
    for (entry, placement) in roster.iter().zip(&placements) {
        let is_struck = entry.power_cuts.contains(&(from, from + loss.lasts));
        assert_eq!(is_struck, placement.district == "east", "{placement:?}");
    }
    let kinds = |kind: &str| {
        placements
            .iter()
            .filter(|one| one.district == "east" && one.kind == kind)
            .count()
    };
    assert!(kinds("traffic") > 30 && kinds("weather") >= 3 && kinds("energy") >= 3);
}
