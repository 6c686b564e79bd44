//! The faults one by one, and together. They are a function of the seed, strike the share
//! of devices that the plan asks for, and change what they are meant to change; without a
//! plan a device sends exactly what a healthy one sends.

use std::time::Duration;

use super::super::City;
use super::super::tests::{CITY_SEED, at};
use super::*;
use crate::devices::Kind;
use serde_json::Value;

const MINUTE_MS: i64 = 60_000;

fn device(kind: Kind) -> Device {
    Device::in_city(&Arc::new(City::new(CITY_SEED)), kind, 5)
}

fn rule(fault: Fault, chance: f64, minutes: u64) -> FaultRule {
    FaultRule {
        lasts: Some(Duration::from_secs(60 * minutes)),
        ..FaultRule::new(fault, chance)
    }
}

fn faulty(kind: Kind, rules: &[FaultRule]) -> Faulty {
    let plan = FaultPlan { rules: rules.to_vec() };
    Faulty::new(1, device(kind), &plan, ClockLimits::default())
}

/// What is sent at each minute after ten, at the speed of real time.
fn minutes(faulty: &mut Faulty, count: u64) -> Vec<Vec<Emission>> {
    let measure = |minute| {
        let moment = Moment {
            observed_at_ms: at(10.0).observed_at_ms + minute as i64 * MINUTE_MS,
            interval: Duration::from_secs(60),
        };
        faulty.measure(minute, moment, moment.observed_at_ms)
    };
    (0..count).map(measure).collect()
}

fn parsed(emission: &Emission) -> Value {
    serde_json::from_slice(&emission.payload).unwrap()
}

#[test]
fn without_a_plan_a_device_is_as_it_was() {
    for kind in Kind::PHYSICAL {
        for (minute, sent) in minutes(&mut faulty(kind, &[]), 100).into_iter().enumerate() {
            let [emission] = sent.as_slice() else {
                panic!("one message: {sent:?}")
            };
            let moment = Moment {
                observed_at_ms: at(10.0).observed_at_ms + minute as i64 * MINUTE_MS,
                interval: Duration::from_secs(60),
            };
            assert_eq!(emission.payload, device(kind).reading(minute as u64, moment));
            assert_eq!(
                (emission.sequence, emission.expected),
                (minute as u64, Expected::Accepted)
            );
            assert!(emission.labels.is_empty());
        }
    }
}

#[test]
fn faults_are_a_function_of_the_seed() {
    let rules: Vec<FaultRule> = Fault::ALL.iter().map(|fault| rule(*fault, 0.02, 3)).collect();
    let run = |seed: u64, kind: Kind| {
        let plan = FaultPlan { rules: rules.clone() };
        let mut faulty = Faulty::new(seed, device(kind), &plan, ClockLimits::default());
        minutes(&mut faulty, 2000).concat()
    };
    for kind in Kind::PHYSICAL {
        let sent = run(1, kind);
        assert_eq!(sent, run(1, kind));
        assert_ne!(sent, run(2, kind));
        for fault in Fault::ALL {
            assert!(
                sent.iter().any(|emission| emission.labels.contains(fault)),
                "{kind}: no {fault}"
            );
        }
    }
}

#[test]
fn a_share_of_the_devices_is_struck() {
    let plan = FaultPlan {
        rules: vec![FaultRule {
            devices: 0.2,
            ..rule(Fault::Truncated, 1.0, 0)
        }],
    };
    let city = Arc::new(City::new(CITY_SEED));
    let struck = |index: &u64| {
        let device = Device::in_city(&city, Kind::WEATHER, *index);
        let mut faulty = Faulty::new(1, device, &plan, ClockLimits::default());
        let sent = minutes(&mut faulty, 2).concat();
        assert_eq!(sent[0].labels, sent[1].labels);
        !sent[0].labels.is_empty()
    };
    let count = (0..500).filter(struck).count();
    assert!((70..130).contains(&count), "{count} of 500");
}

#[test]
fn stuck_values_stay_while_the_clock_goes_on() {
    let sent = minutes(&mut faulty(Kind::WEATHER, &[rule(Fault::Stuck, 1.0, 10)]), 22).concat();
    let first = parsed(&sent[0]);
    assert!(sent[0].labels.is_empty(), "the first is the truth");
    for (minute, emission) in sent.iter().enumerate().take(11).skip(1) {
        let reading = parsed(emission);
        assert_eq!(reading["temperature_c"], first["temperature_c"]);
        assert_eq!(reading["wind_speed_m_s"], first["wind_speed_m_s"]);
        assert_eq!(reading["sequence"], minute);
        assert_ne!(reading["observed_at"], first["observed_at"]);
        assert_eq!(
            (emission.labels.to_string().as_str(), emission.expected),
            ("stuck", Expected::Accepted)
        );
    }
    // It ends, and begins anew at once, the plan being what it is.
    assert!(sent[11].labels.is_empty());
    assert_ne!(parsed(&sent[11])["wind_speed_m_s"], first["wind_speed_m_s"]);
}

#[test]
fn a_drift_grows() {
    let sent = minutes(&mut faulty(Kind::ENERGY, &[rule(Fault::Drift, 1.0, 60)]), 60).concat();
    let true_ones = minutes(&mut faulty(Kind::ENERGY, &[]), 60).concat();
    let differs = |name: &str| parsed(&sent[59])[name] != parsed(&true_ones[59])[name];
    let fields = ["energy_import_kwh", "power_w", "frequency_hz", "phases"];
    let drifting: Vec<&str> = fields.into_iter().filter(|name| differs(name)).collect();
    assert_eq!(drifting.len(), 1, "{drifting:?}");
    let value = |emission: &Emission| match drifting[0] {
        "phases" => ["voltage_v", "current_a"]
            .map(|name| parsed(emission)["phases"][0][name].as_f64().unwrap())
            .iter()
            .sum(),
        name => parsed(emission)[name].as_f64().unwrap(),
    };
    let off = |minute: usize| (value(&sent[minute]) - value(&true_ones[minute])).abs();
    assert!(
        off(0) < 0.1 && off(20) > off(5) && off(59) > 2.5 * off(20),
        "{} {} {}",
        off(5),
        off(20),
        off(59)
    );
    assert!(sent.iter().all(|emission| emission.labels.contains(Fault::Drift)));
}

#[test]
fn an_offline_hour_ends_in_a_burst_oldest_first() {
    let mut device = faulty(Kind::TRAFFIC, &[rule(Fault::LateBurst, 0.02, 60)]);
    let sent = minutes(&mut device, 2000);
    let from = sent.iter().position(Vec::is_empty).unwrap();
    let silent = sent.iter().skip(from).take_while(|sent| sent.is_empty()).count();
    assert_eq!(silent, 60);
    let burst = &sent[from + 60];
    let sequences: Vec<u64> = burst.iter().map(|emission| emission.sequence).collect();
    assert_eq!(sequences, (from as u64..=from as u64 + 60).collect::<Vec<u64>>());
    let (last, late) = burst.split_last().unwrap();
    assert!(last.labels.is_empty());
    for emission in late {
        assert_eq!(
            (emission.labels.to_string().as_str(), emission.expected),
            ("late_burst", Expected::Accepted)
        );
        assert_eq!(parsed(emission)["sequence"], emission.sequence);
    }
}

#[test]
fn a_device_that_is_away_for_long_forgets_the_oldest() {
    let mut device = faulty(Kind::WEATHER, &[rule(Fault::LateBurst, 1.0, 8000)]);
    let sent = minutes(&mut device, 8001);
    assert!(sent.iter().take(8000).all(Vec::is_empty));
    let burst = &sent[8000];
    assert_eq!(burst.len(), UNSENT_READINGS_MAX + 1);
    assert_eq!(burst[0].sequence, 800);
}

#[test]
fn a_duplicate_is_the_same_message_twice() {
    let sent = minutes(&mut faulty(Kind::ENERGY, &[rule(Fault::Duplicate, 1.0, 0)]), 3);
    for pair in sent {
        let [first, second] = pair.as_slice() else {
            panic!("a pair: {pair:?}")
        };
        assert_eq!((&first.payload, first.sequence), (&second.payload, second.sequence));
        assert_eq!(
            (first.labels.to_string(), second.labels.to_string()),
            (String::new(), "duplicate".to_owned())
        );
        assert_eq!(second.expected, Expected::Accepted);
    }
}

#[test]
fn who_resends_says_nothing_else() {
    let rules = [rule(Fault::Truncated, 1.0, 0), rule(Fault::Resend, 1.0, 5)];
    let sent = minutes(&mut faulty(Kind::ENERGY, &rules), 8);
    let first = &sent[0][0];
    for repeated in &sent[1..=5] {
        let [repeated] = repeated.as_slice() else {
            panic!("one: {repeated:?}")
        };
        assert_eq!((&repeated.payload, repeated.sequence), (&first.payload, 0));
        // The poison loop: rejected each time, sent each time.
        assert_eq!(repeated.labels.to_string(), "truncated+resend");
        assert_eq!(repeated.expected, Expected::Rejected(Some(Reason::Malformed)));
    }
    assert_eq!(sent[6][0].sequence, 6, "it has come to its senses");
}

#[test]
fn what_is_expected_follows_from_the_limits() {
    use Expected::{Accepted, Either, Rejected};
    use Reason::{BadClock, Malformed, OutOfRange};
    let now = 1_781_654_400_000;
    let day = 86_400_000;
    let check = |reason: Option<Reason>, ahead_ms: i64, expected: Expected| {
        let found = Expected::of(reason, now + ahead_ms, now, &ClockLimits::default());
        assert_eq!(found, expected, "{reason:?} {ahead_ms}");
    };
    check(None, 0, Accepted);
    check(None, 3 * MINUTE_MS, Accepted);
    check(None, 5 * MINUTE_MS, Either);
    check(None, 7 * MINUTE_MS, Rejected(Some(BadClock)));
    check(None, -29 * day, Accepted);
    check(None, -30 * day, Either);
    check(None, -31 * day, Rejected(Some(BadClock)));
    check(None, -now, Rejected(Some(BadClock)));
    check(Some(OutOfRange), 0, Rejected(Some(OutOfRange)));
    check(Some(OutOfRange), 2 * day, Rejected(None));
    check(Some(Malformed), 2 * day, Rejected(Some(Malformed)));
    let ageless = ClockLimits {
        max_age: None,
        ..ClockLimits::default()
    };
    assert_eq!(Expected::of(None, now - 9000 * day, now, &ageless), Accepted);
    assert_eq!(Expected::of(None, 0, now, &ageless), Rejected(Some(BadClock)));
    assert_eq!(Expected::of(None, i64::MIN, now, &ageless), Rejected(Some(BadClock)));
    assert_eq!(Expected::of(None, i64::MAX, now, &ageless), Rejected(Some(BadClock)));
}

#[test]
fn answers_are_graded() {
    use Expected::{Accepted, Either, Rejected};
    use Reason::{BadClock, OutOfRange};
    let check = |expected: Expected, answer: Option<Reason>, right: bool| {
        assert_eq!(expected.allows(answer), right, "{expected:?} {answer:?}");
    };
    check(Accepted, None, true);
    check(Accepted, Some(OutOfRange), false);
    check(Rejected(Some(OutOfRange)), Some(OutOfRange), true);
    check(Rejected(Some(OutOfRange)), Some(BadClock), false);
    check(Rejected(Some(OutOfRange)), None, false);
    check(Rejected(None), Some(BadClock), true);
    check(Rejected(None), None, false);
    check(Either, None, true);
    check(Either, Some(BadClock), true);
    check(Either, Some(OutOfRange), false);
}

#[test]
fn labels_are_a_set() {
    let labels = Labels::default()
        .with(Fault::Resend)
        .with(Fault::Stuck)
        .with(Fault::Stuck);
    assert_eq!(labels.to_string(), "stuck+resend");
    assert_eq!(labels.iter().collect::<Vec<_>>(), [Fault::Stuck, Fault::Resend]);
    assert!(labels.contains(Fault::Stuck) && !labels.contains(Fault::Drift) && !labels.is_empty());
}
