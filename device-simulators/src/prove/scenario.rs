//! What can be done to a gateway and its Kafka: each scenario is a list of steps, made before anything starts.
//!
//! A plan is a pure function of the scenario, its length and a seed. It goes through the phases in order, heals whatever
//! it broke before it enters the replay, and ends only after a time in which nothing was wrong any more.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::kafka::{Layout, Part};
use crate::phases::Phase;

/// How long the devices may take to connect.
const START: Duration = Duration::from_secs(3);

/// How long it is calm before the damage and after the replay: as long as the damage, within these bounds.
const CALM_MIN: Duration = Duration::from_secs(3);
const CALM_MAX: Duration = Duration::from_secs(15);

/// How long the gateway stays away after a kill -9, and how long it runs until the next one.
const AWAY_MAX: Duration = Duration::from_millis(200);
const RUNS_MIN: Duration = Duration::from_millis(20);
const RUNS_MAX: Duration = Duration::from_secs(3);

/// How far off the gateway's clock is set. Kafka refuses what is dated more than an hour ahead
/// (message.timestamp.after.max.ms), the gateway what is dated more than 5 min ahead (clock.max_ahead).
pub const CLOCK_AHEAD_S: i64 = 1800;
pub const CLOCK_BEHIND_S: i64 = 240;

/// How long the disk is full at least: what the spool set aside before must be used up, and patience come to its end.
const FULL_MIN: Duration = Duration::from_secs(10);

/// How many kills of the gateway fall on one kill of Kafka.
const KILLS_PER_CYCLE: u32 = 10;

/// How long broker and controller are stopped, one after the other: longer than the broker's session (3 s).
const FENCED_MIN: Duration = Duration::from_secs(4);
const FENCED_MAX: Duration = Duration::from_secs(6);

/// A way to do damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    Calm,
    KafkaStopped,
    KafkaKilled,
    OneOfThreeKilled,
    TwoOfThreeKilled,
    GatewayKilled,
    BothKilled,
    DiskFull,
    Drain,
    ClockStepped,
    KafkaFenced,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// SIGSTOP: connections stay open, nothing is answered.
    StopKafka,
    ContinueKafka,
    /// The same for one of two processes.
    StopPart(Part),
    ContinuePart(Part),
    /// SIGKILL of these nodes, counted from 1.
    KillKafka(Vec<usize>),
    /// Starts the nodes that are down, and waits until they serve.
    StartKafka,
    KillGateway,
    /// Starts it with the same configuration and spool, and waits for nothing.
    StartGateway,
    /// SIGTERM, and waits until it has ended.
    EndGateway,
    /// Leaves no room on the file system of the spool.
    FillDisk,
    FreeDisk,
    /// Sets the gateway's wall clock this many seconds off; its monotonic clock goes on.
    StepClock(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Enter(Phase),
    Wait(Duration),
    Do(Act),
    /// Until the gateway says that it is ready.
    AwaitReady,
    /// Until Kafka confirms records again after the last thing that was done; how long that takes is measured.
    AwaitConfirmed,
    /// Until Kafka holds what was acknowledged.
    AwaitReplayed,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// How long the damage lasts.
    pub damage: Duration,
    /// How often the gateway is killed, in scenarios that kill it.
    pub kills: Option<u32>,
    /// How often Kafka is fenced, in the scenario that fences it.
    pub events: u32,
    pub seed: u64,
}

// === impl Scenario ===

impl Scenario {
    /// Those with more than one process last, so that the others share one Kafka.
    pub const ALL: [Scenario; 11] = [
        Scenario::Calm,
        Scenario::KafkaStopped,
        Scenario::KafkaKilled,
        Scenario::GatewayKilled,
        Scenario::BothKilled,
        Scenario::DiskFull,
        Scenario::Drain,
        Scenario::ClockStepped,
        Scenario::OneOfThreeKilled,
        Scenario::TwoOfThreeKilled,
        Scenario::KafkaFenced,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Calm => "calm",
            Scenario::KafkaStopped => "kafka-stopped",
            Scenario::KafkaKilled => "kafka-killed",
            Scenario::OneOfThreeKilled => "one-of-three-killed",
            Scenario::TwoOfThreeKilled => "two-of-three-killed",
            Scenario::GatewayKilled => "gateway-killed",
            Scenario::BothKilled => "both-killed",
            Scenario::DiskFull => "disk-full",
            Scenario::Drain => "drain",
            Scenario::ClockStepped => "clock-stepped",
            Scenario::KafkaFenced => "kafka-fenced",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Scenario::Calm => "no damage: what the other scenarios are to be compared with",
            Scenario::KafkaStopped => "Kafka is stopped (SIGSTOP: connections stay, nothing answers) and goes on",
            Scenario::KafkaKilled => "Kafka is killed (kill -9) and started again",
            Scenario::OneOfThreeKilled => {
                "of a cluster of three (min.insync.replicas 2) one node is killed and started again"
            }
            Scenario::TwoOfThreeKilled => "two of three nodes are killed, so nothing can be written, and started again",
            Scenario::GatewayKilled => "the gateway is killed (kill -9) at random moments and started again at once",
            Scenario::BothKilled => {
                "Kafka and the gateway are killed together; the gateway is killed again while Kafka is away and while it catches up"
            }
            Scenario::DiskFull => "Kafka is stopped while the disk of the spool has no room left",
            Scenario::Drain => {
                "the gateway is ended (SIGTERM) under load and started again, once with Kafka, once without"
            }
            Scenario::ClockStepped => {
                "the gateway's wall clock steps half an hour ahead, and back while Kafka is stopped (needs libfaketime)"
            }
            Scenario::KafkaFenced => {
                "a broker and then its controller are stopped for longer than the broker's session, so that it is fenced"
            }
        }
    }

    pub fn kafka_layout(self) -> Layout {
        match self {
            Scenario::OneOfThreeKilled | Scenario::TwoOfThreeKilled => Layout::Three,
            Scenario::KafkaFenced => Layout::Split,
            _ => Layout::One,
        }
    }

    /// Whether it touches Kafka, which then must be its own.
    pub fn damages_kafka(self) -> bool {
        !matches!(self, Scenario::Calm | Scenario::GatewayKilled)
    }

    /// Whether gateway and disk stay whole, so that devices must not notice anything.
    pub fn damages_only_kafka(self) -> bool {
        matches!(
            self,
            Scenario::KafkaStopped
                | Scenario::KafkaKilled
                | Scenario::OneOfThreeKilled
                | Scenario::TwoOfThreeKilled
                | Scenario::KafkaFenced
        )
    }

    /// What is done, and when.
    pub fn plan(self, extent: &Extent) -> Vec<Step> {
        let mut dice = StdRng::seed_from_u64(extent.seed);
        let calm = extent.damage.clamp(CALM_MIN, CALM_MAX);
        let mut plan = vec![Step::Enter(Phase::Start), Step::Wait(START), Step::Enter(Phase::Before)];
        if self == Scenario::Calm {
            plan.push(Step::Wait(extent.damage));
            return plan;
        }
        plan.extend([Step::Wait(calm), Step::Enter(Phase::Damage)]);
        plan.extend(self.damage(extent, &mut dice));
        plan.extend([
            Step::AwaitReady,
            Step::Enter(Phase::Replay),
            Step::AwaitReplayed,
            Step::Enter(Phase::After),
            Step::Wait(calm),
        ]);
        plan
    }

    fn damage(self, extent: &Extent, dice: &mut StdRng) -> Vec<Step> {
        use Act::{
            ContinueKafka, EndGateway, FillDisk, FreeDisk, KillKafka, StartGateway, StartKafka, StepClock, StopKafka,
        };
        let length = extent.damage;
        let around = |one: Act, other: Act| vec![Step::Do(one), Step::Wait(length), Step::Do(other)];
        match self {
            Scenario::Calm => Vec::new(),
            Scenario::KafkaStopped => around(StopKafka, ContinueKafka),
            Scenario::KafkaKilled => around(KillKafka(vec![1]), StartKafka),
            Scenario::OneOfThreeKilled => around(KillKafka(vec![dice.random_range(1..=3)]), StartKafka),
            Scenario::TwoOfThreeKilled => {
                let spared = dice.random_range(1..=3);
                let killed = (1..=3).filter(|node| *node != spared).collect();
                around(KillKafka(killed), StartKafka)
            }
            Scenario::GatewayKilled => {
                let kills = extent.kills.unwrap_or(length.as_secs() as u32 / 2).max(1);
                (0..kills).flat_map(|_| kill(dice)).collect()
            }
            Scenario::BothKilled => both_killed(extent, dice),
            Scenario::DiskFull => vec![
                Step::Do(FillDisk),
                Step::Do(StopKafka),
                Step::Wait(length.max(FULL_MIN)),
                // The replay begins without room, and must make its own.
                Step::Do(ContinueKafka),
                Step::Wait(Duration::from_secs(2)),
                Step::Do(FreeDisk),
            ],
            Scenario::Drain => vec![
                Step::Do(EndGateway),
                Step::Do(StartGateway),
                Step::AwaitReady,
                Step::Wait(length / 2),
                Step::Do(StopKafka),
                Step::Wait(length / 4),
                Step::Do(EndGateway),
                Step::Do(StartGateway),
                Step::Wait(length / 4),
                Step::Do(ContinueKafka),
            ],
            Scenario::ClockStepped => vec![
                Step::Do(StepClock(CLOCK_AHEAD_S)),
                Step::Wait(length / 3),
                Step::Do(StopKafka),
                Step::Wait(length / 6),
                Step::Do(StepClock(-CLOCK_BEHIND_S)),
                Step::Wait(length / 6),
                Step::Do(ContinueKafka),
                Step::Wait(length / 3),
                Step::Do(StepClock(0)),
            ],
            Scenario::KafkaFenced => {
                let time = length.clamp(FENCED_MIN, FENCED_MAX);
                (0..extent.events.max(1)).flat_map(|_| fence(time)).collect()
            }
        }
    }
}

/// Broker and controller each miss the other for longer than the broker's session. The controller, when it goes on, fences
/// the broker until its next heartbeat, some milliseconds later: whether the gateway asks for metadata just then, and is
/// named no broker, is a matter of luck, so the more events the better.
fn fence(time: Duration) -> [Step; 7] {
    [
        Step::Do(Act::StopPart(Part::Broker)),
        Step::Wait(time),
        Step::Do(Act::ContinuePart(Part::Broker)),
        Step::Do(Act::StopPart(Part::Controller)),
        Step::Wait(time),
        Step::Do(Act::ContinuePart(Part::Controller)),
        Step::AwaitConfirmed,
    ]
}

/// Killed, started again, and left alone for a while that may be shorter than its start.
fn kill(dice: &mut StdRng) -> [Step; 4] {
    let mut between = |from: Duration, to: Duration| from + (to - from).mul_f64(dice.random::<f64>());
    [
        Step::Do(Act::KillGateway),
        Step::Wait(between(Duration::ZERO, AWAY_MAX)),
        Step::Do(Act::StartGateway),
        Step::Wait(between(RUNS_MIN, RUNS_MAX)),
    ]
}

/// In cycles: both are killed; the gateway is killed again while Kafka is away; Kafka comes back; the gateway is killed
/// again while it catches up.
fn both_killed(extent: &Extent, dice: &mut StdRng) -> Vec<Step> {
    let kills = extent.kills.unwrap_or(extent.damage.as_secs() as u32 / 4).max(2);
    let cycles = kills.div_ceil(KILLS_PER_CYCLE);
    let mut steps = Vec::new();
    for cycle in 0..cycles {
        let of_cycle = (kills * (cycle + 1) / cycles - kills * cycle / cycles).max(1);
        let without_kafka = of_cycle.div_ceil(2);
        steps.push(Step::Do(Act::KillKafka(vec![1])));
        steps.extend((0..without_kafka).flat_map(|_| kill(dice)));
        steps.push(Step::Wait(extent.damage / (2 * cycles)));
        steps.push(Step::Do(Act::StartKafka));
        steps.extend((without_kafka..of_cycle).flat_map(|_| kill(dice)));
    }
    steps
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Scenario, String> {
        let known = Scenario::ALL.into_iter().find(|scenario| scenario.name() == text);
        known.ok_or_else(|| {
            let names = Scenario::ALL.map(Scenario::name).join(", ");
            format!("no such scenario; there are {names}, and all")
        })
    }
}

// === impl Act ===

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::StopKafka => write!(f, "Kafka is stopped (SIGSTOP)"),
            Act::ContinueKafka => write!(f, "Kafka goes on (SIGCONT)"),
            Act::StopPart(part) => write!(f, "the {part} is stopped (SIGSTOP)"),
            Act::ContinuePart(part) => write!(f, "the {part} goes on (SIGCONT)"),
            Act::KillKafka(nodes) => write!(f, "Kafka is killed (kill -9), node {nodes:?}"),
            Act::StartKafka => write!(f, "Kafka is started"),
            Act::KillGateway => write!(f, "the gateway is killed (kill -9)"),
            Act::StartGateway => write!(f, "the gateway is started"),
            Act::EndGateway => write!(f, "the gateway is told to end (SIGTERM)"),
            Act::FillDisk => write!(f, "the disk of the spool is filled up"),
            Act::FreeDisk => write!(f, "the disk of the spool has room again"),
            Act::StepClock(seconds) => write!(f, "the gateway's clock is set {seconds:+} s off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(seconds: u64, kills: Option<u32>, seed: u64) -> Extent {
        Extent {
            damage: Duration::from_secs(seconds),
            kills,
            events: 3,
            seed,
        }
    }

    fn acts(plan: &[Step]) -> Vec<Act> {
        let acts = plan.iter().filter_map(|step| match step {
            Step::Do(act) => Some(act.clone()),
            _ => None,
        });
        acts.collect()
    }

    fn count(plan: &[Step], act: &Act) -> usize {
        acts(plan).iter().filter(|one| *one == act).count()
    }

    /// What is broken after these acts.
    fn broken(acts: &[Act]) -> Vec<&'static str> {
        let (mut stopped, mut killed, mut gateway_away, mut full, mut off) = (false, false, false, false, 0);
        let mut parts = Vec::new();
        for act in acts {
            match act {
                Act::StopKafka => stopped = true,
                Act::ContinueKafka => stopped = false,
                Act::StopPart(part) => parts.push(*part),
                Act::ContinuePart(part) => parts.retain(|stopped| stopped != part),
                Act::KillKafka(_) => killed = true,
                Act::StartKafka => killed = false,
                Act::KillGateway | Act::EndGateway => gateway_away = true,
                Act::StartGateway => gateway_away = false,
                Act::FillDisk => full = true,
                Act::FreeDisk => full = false,
                Act::StepClock(seconds) => off = *seconds,
            }
        }
        let all = [
            (stopped || !parts.is_empty(), "stopped"),
            (killed, "killed"),
            (gateway_away, "gateway"),
            (full, "disk"),
            (off != 0, "clock"),
        ];
        all.into_iter()
            .filter_map(|(is_broken, what)| is_broken.then_some(what))
            .collect()
    }

    #[test]
    fn every_plan_breaks_something_and_heals_it_before_the_replay() {
        for scenario in Scenario::ALL {
            for (seconds, kills, seed) in [
                (0, None, 1),
                (5, None, 2),
                (60, None, 3),
                (20, Some(200), 4),
                (1, Some(1), 5),
            ] {
                let plan = scenario.plan(&extent(seconds, kills, seed));
                let replay = plan.iter().position(|step| *step == Step::Enter(Phase::Replay));
                let Some(replay) = replay else {
                    assert_eq!((scenario, acts(&plan).len()), (Scenario::Calm, 0));
                    continue;
                };
                let (damage, rest) = plan.split_at(replay);
                assert!(!acts(damage).is_empty(), "{scenario} does nothing");
                assert_eq!(broken(&acts(damage)), Vec::<&str>::new(), "{scenario}, {seconds} s");
                assert_eq!(acts(rest), [], "{scenario} goes on breaking");
                let entered = plan.iter().filter_map(|step| match step {
                    Step::Enter(phase) => Some(*phase),
                    _ => None,
                });
                assert_eq!(entered.collect::<Vec<_>>(), Phase::ALL, "{scenario}");
            }
        }
    }

    #[test]
    fn the_gateway_is_killed_as_often_as_asked() {
        let check = |scenario: Scenario, seconds, kills, expected| {
            let plan = scenario.plan(&extent(seconds, kills, 1));
            assert_eq!(count(&plan, &Act::KillGateway), expected, "{scenario}, {kills:?}");
            assert_eq!(count(&plan, &Act::StartGateway), expected, "{scenario}, {kills:?}");
        };
        check(Scenario::GatewayKilled, 20, None, 10);
        check(Scenario::GatewayKilled, 20, Some(200), 200);
        check(Scenario::GatewayKilled, 0, None, 1);
        check(Scenario::BothKilled, 20, None, 5);
        check(Scenario::BothKilled, 20, Some(200), 200);
        check(Scenario::BothKilled, 20, Some(33), 33);
        let plan = Scenario::BothKilled.plan(&extent(20, Some(200), 1));
        assert_eq!(count(&plan, &Act::StartKafka), 20);
    }

    #[test]
    fn kafka_is_fenced_as_often_as_asked_and_measured_each_time() {
        for seconds in [0, 4, 6, 60] {
            let plan = Scenario::KafkaFenced.plan(&extent(seconds, None, 1));
            assert_eq!(count(&plan, &Act::StopPart(Part::Broker)), 3);
            let measured = plan
                .windows(2)
                .filter(|steps| *steps == [Step::Do(Act::ContinuePart(Part::Controller)), Step::AwaitConfirmed]);
            assert_eq!(measured.count(), 3, "each time from the last SIGCONT");
            let stopped = plan.windows(2).filter_map(|steps| match steps {
                [Step::Do(Act::StopPart(_)), Step::Wait(time)] => Some(*time),
                _ => None,
            });
            let longer_than_the_session = |time: Duration| time > Duration::from_secs(3) && time <= FENCED_MAX;
            assert!(stopped.into_iter().all(longer_than_the_session), "{seconds} s");
        }
    }

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        for scenario in [Scenario::GatewayKilled, Scenario::BothKilled] {
            let plan = |seed| scenario.plan(&extent(20, None, seed));
            assert_eq!(plan(1), plan(1));
            assert_ne!(plan(1), plan(2));
        }
        let killed = |seed| acts(&Scenario::TwoOfThreeKilled.plan(&extent(5, None, seed))).swap_remove(0);
        let different: std::collections::HashSet<String> = (0..30).map(|seed| killed(seed).to_string()).collect();
        assert_eq!(different.len(), 3, "{different:?}");
    }

    #[test]
    fn names_are_read_back() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        assert!("earthquake".parse::<Scenario>().unwrap_err().contains("kafka-stopped"));
    }
}
