//! What can be done to a gateway and its Kafka: each fault is a list of steps, made before anything starts.
//!
//! A plan is a pure function of the fault, its length and a seed. It goes through the phases in order, heals whatever
//! it broke before it enters the replay, and ends only after a time in which nothing was wrong any more.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::kafka::{Layout, Role};
use super::{rotation, storm};
use crate::phases::Phase;

/// How long the devices may take to connect.
const START: Duration = Duration::from_secs(3);

/// How long it is calm before the damage and after the replay: as long as the damage, within these bounds.
const CALM_MIN: Duration = Duration::from_secs(3);
const CALM_MAX: Duration = Duration::from_secs(15);

/// How long the gateway stays down after a kill -9, and how long it runs until the next one.
const AWAY_MAX: Duration = Duration::from_millis(200);
const RUNS_MIN: Duration = Duration::from_millis(20);
const RUNS_MAX: Duration = Duration::from_secs(3);

/// How far off the gateway's clock is set. Kafka refuses what is dated more than an hour ahead
/// (message.timestamp.after.max.ms), the gateway what is dated more than 5 min ahead (clock.max_ahead).
pub const CLOCK_AHEAD_S: i64 = 1800;
pub const CLOCK_BEHIND_S: i64 = 240;

/// How long the disk is full at least: the room that the spool reserved must be used up, and `kafka.spool_after` be over.
const FULL_MIN: Duration = Duration::from_secs(10);

/// How many kills of the gateway fall on one kill of Kafka.
const KILLS_PER_CYCLE: u32 = 10;

/// How long broker and controller are stopped, one after the other: longer than the broker's session (3 s).
const FENCED_MIN: Duration = Duration::from_secs(4);
const FENCED_MAX: Duration = Duration::from_secs(6);

/// A way to do damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
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
    FlashReconnect,
    Rotation,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGSTOP: connections stay open, nothing is answered.
    StopKafka,
    ContinueKafka,
    /// The same for one of two processes.
    StopProcess(Role),
    ContinueProcess(Role),
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
    HoldHalfOpen,
    DropHalfOpen,
    BeginJunk,
    EndJunk,
    BeginFlood,
    EndFlood,
    ReplaceCertificate,
    ReplaceAuthority,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Enter(Phase),
    Wait(Duration),
    Do(Action),
    /// Until the gateway says that it is ready.
    AwaitReady,
    /// Until Kafka confirms records again after the last thing that was done; how long that takes is measured.
    AwaitConfirmed,
    /// Until Kafka holds what was acknowledged.
    AwaitReplayed,
    /// Until all devices that lost their power are answered again.
    AwaitBack,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// How long the damage lasts.
    pub damage: Duration,
    /// How often the gateway is killed, in faults that kill it.
    pub kills: Option<u32>,
    /// How often Kafka is fenced, in the fault that fences it.
    pub events: u32,
    pub devices: usize,
    pub seed: u64,
}

// === impl Fault ===

impl Fault {
    /// Those with more than one process last, so that the others share one Kafka.
    pub const ALL: [Fault; 13] = [
        Fault::Calm,
        Fault::KafkaStopped,
        Fault::KafkaKilled,
        Fault::FlashReconnect,
        Fault::Rotation,
        Fault::GatewayKilled,
        Fault::BothKilled,
        Fault::DiskFull,
        Fault::Drain,
        Fault::ClockStepped,
        Fault::OneOfThreeKilled,
        Fault::TwoOfThreeKilled,
        Fault::KafkaFenced,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Calm => "calm",
            Fault::KafkaStopped => "kafka-stopped",
            Fault::KafkaKilled => "kafka-killed",
            Fault::OneOfThreeKilled => "one-of-three-killed",
            Fault::TwoOfThreeKilled => "two-of-three-killed",
            Fault::GatewayKilled => "gateway-killed",
            Fault::BothKilled => "both-killed",
            Fault::DiskFull => "disk-full",
            Fault::Drain => "drain",
            Fault::ClockStepped => "clock-stepped",
            Fault::KafkaFenced => "kafka-fenced",
            Fault::FlashReconnect => "flash-reconnect",
            Fault::Rotation => "rotation",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Fault::Calm => "no damage: what the other faults are to be compared with",
            Fault::KafkaStopped => "Kafka is stopped (SIGSTOP: connections stay, nothing answers) and goes on",
            Fault::KafkaKilled => "Kafka is killed (kill -9) and started again",
            Fault::OneOfThreeKilled => {
                "of a cluster of three (min.insync.replicas 2) one node is killed and started again"
            }
            Fault::TwoOfThreeKilled => "two of three nodes are killed, so nothing can be written, and started again",
            Fault::GatewayKilled => "the gateway is killed (kill -9) at random moments and started again at once",
            Fault::BothKilled => {
                "Kafka and the gateway are killed together; the gateway is killed again while Kafka is down and while it catches up"
            }
            Fault::DiskFull => "Kafka is stopped while the disk of the spool has no room left",
            Fault::Drain => {
                "the gateway is ended (SIGTERM) under load and started again, once with Kafka, once without"
            }
            Fault::ClockStepped => {
                "the gateway's wall clock steps half an hour ahead, and back while Kafka is stopped (needs libfaketime)"
            }
            Fault::KafkaFenced => {
                "a broker and then its controller are stopped for longer than the broker's session, so that it is fenced"
            }
            Fault::FlashReconnect => {
                "most devices lose power and are back at once, beside half-open connections, then junk, then a device that floods"
            }
            Fault::Rotation => {
                "the gateway's certificate and the authorities of its clients are replaced again and again"
            }
        }
    }

    pub fn kafka_layout(self) -> Layout {
        match self {
            Fault::OneOfThreeKilled | Fault::TwoOfThreeKilled => Layout::Three,
            Fault::KafkaFenced => Layout::Split,
            _ => Layout::One,
        }
    }

    /// Whether it touches Kafka, which then must be its own.
    pub fn damages_kafka(self) -> bool {
        !matches!(
            self,
            Fault::Calm | Fault::GatewayKilled | Fault::FlashReconnect | Fault::Rotation
        )
    }

    /// Whether devices always prove who they are, over TLS.
    pub fn needs_identities(self) -> bool {
        matches!(self, Fault::FlashReconnect | Fault::Rotation)
    }

    /// Whether devices must not notice anything.
    pub fn goes_unnoticed(self) -> bool {
        self.damages_only_kafka() || self == Fault::Rotation
    }

    /// What a phase is called.
    pub fn phase_name(self, phase: Phase) -> &'static str {
        match self {
            Fault::FlashReconnect => storm::phase_name(phase),
            _ => phase.name(),
        }
    }

    /// How long it is calm before and after.
    pub fn calm(parameters: &Parameters) -> Duration {
        parameters.damage.clamp(CALM_MIN, CALM_MAX)
    }

    /// Whether gateway and disk stay whole while Kafka does not.
    pub fn damages_only_kafka(self) -> bool {
        matches!(
            self,
            Fault::KafkaStopped
                | Fault::KafkaKilled
                | Fault::OneOfThreeKilled
                | Fault::TwoOfThreeKilled
                | Fault::KafkaFenced
        )
    }

    /// What is done, and when.
    pub fn plan(self, parameters: &Parameters) -> Vec<Step> {
        let mut rng = StdRng::seed_from_u64(parameters.seed);
        let calm = Fault::calm(parameters);
        if self == Fault::FlashReconnect {
            return storm::plan(parameters, calm);
        }
        let mut plan = vec![Step::Enter(Phase::Start), Step::Wait(START), Step::Enter(Phase::Before)];
        if self == Fault::Calm {
            plan.push(Step::Wait(parameters.damage));
            return plan;
        }
        plan.extend([Step::Wait(calm), Step::Enter(Phase::Damage)]);
        plan.extend(self.damage(parameters, &mut rng));
        plan.extend([
            Step::AwaitReady,
            Step::Enter(Phase::Replay),
            Step::AwaitReplayed,
            Step::Enter(Phase::After),
            Step::Wait(calm),
        ]);
        plan
    }

    fn damage(self, parameters: &Parameters, rng: &mut StdRng) -> Vec<Step> {
        use Action::{
            ContinueKafka, EndGateway, FillDisk, FreeDisk, KillKafka, StartGateway, StartKafka, StepClock, StopKafka,
        };
        let length = parameters.damage;
        let around = |one: Action, other: Action| vec![Step::Do(one), Step::Wait(length), Step::Do(other)];
        match self {
            // A storm has a plan of its own.
            Fault::Calm | Fault::FlashReconnect => Vec::new(),
            Fault::Rotation => rotation::plan(length),
            Fault::KafkaStopped => around(StopKafka, ContinueKafka),
            Fault::KafkaKilled => around(KillKafka(vec![1]), StartKafka),
            Fault::OneOfThreeKilled => around(KillKafka(vec![rng.random_range(1..=3)]), StartKafka),
            Fault::TwoOfThreeKilled => {
                let spared = rng.random_range(1..=3);
                let killed = (1..=3).filter(|node| *node != spared).collect();
                around(KillKafka(killed), StartKafka)
            }
            Fault::GatewayKilled => {
                let kills = parameters.kills.unwrap_or(length.as_secs() as u32 / 2).max(1);
                (0..kills).flat_map(|_| kill(rng)).collect()
            }
            Fault::BothKilled => both_killed(parameters, rng),
            Fault::DiskFull => vec![
                Step::Do(FillDisk),
                Step::Do(StopKafka),
                Step::Wait(length.max(FULL_MIN)),
                // The replay begins without room, and must make its own.
                Step::Do(ContinueKafka),
                Step::Wait(Duration::from_secs(2)),
                Step::Do(FreeDisk),
            ],
            Fault::Drain => vec![
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
            Fault::ClockStepped => vec![
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
            Fault::KafkaFenced => {
                let time = length.clamp(FENCED_MIN, FENCED_MAX);
                (0..parameters.events.max(1)).flat_map(|_| fence(time)).collect()
            }
        }
    }
}

/// Broker and controller each miss the other for longer than the broker's session. The controller, when it goes on, fences
/// the broker until its next heartbeat, some milliseconds later: whether the gateway asks for metadata just then, and is
/// named no broker, is a matter of luck, so the more events the better.
fn fence(time: Duration) -> [Step; 7] {
    [
        Step::Do(Action::StopProcess(Role::Broker)),
        Step::Wait(time),
        Step::Do(Action::ContinueProcess(Role::Broker)),
        Step::Do(Action::StopProcess(Role::Controller)),
        Step::Wait(time),
        Step::Do(Action::ContinueProcess(Role::Controller)),
        Step::AwaitConfirmed,
    ]
}

/// Killed, started again, and left alone for a while that may be shorter than its start.
fn kill(rng: &mut StdRng) -> [Step; 4] {
    let mut between = |from: Duration, to: Duration| from + (to - from).mul_f64(rng.random::<f64>());
    [
        Step::Do(Action::KillGateway),
        Step::Wait(between(Duration::ZERO, AWAY_MAX)),
        Step::Do(Action::StartGateway),
        Step::Wait(between(RUNS_MIN, RUNS_MAX)),
    ]
}

/// In cycles: both are killed; the gateway is killed again while Kafka is down; Kafka comes back; the gateway is killed
/// again while it catches up.
fn both_killed(parameters: &Parameters, rng: &mut StdRng) -> Vec<Step> {
    let kills = parameters
        .kills
        .unwrap_or(parameters.damage.as_secs() as u32 / 4)
        .max(2);
    let cycles = kills.div_ceil(KILLS_PER_CYCLE);
    let mut steps = Vec::new();
    for cycle in 0..cycles {
        let of_cycle = (kills * (cycle + 1) / cycles - kills * cycle / cycles).max(1);
        let without_kafka = of_cycle.div_ceil(2);
        steps.push(Step::Do(Action::KillKafka(vec![1])));
        steps.extend((0..without_kafka).flat_map(|_| kill(rng)));
        steps.push(Step::Wait(parameters.damage / (2 * cycles)));
        steps.push(Step::Do(Action::StartKafka));
        steps.extend((without_kafka..of_cycle).flat_map(|_| kill(rng)));
    }
    steps
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let known = Fault::ALL.into_iter().find(|fault| fault.name() == text);
        known.ok_or_else(|| {
            let names = Fault::ALL.map(Fault::name).join(", ");
            format!("unknown fault {text}; known faults: {names}, and all")
        })
    }
}

// === impl Action ===

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::StopKafka => write!(f, "Kafka is stopped (SIGSTOP)"),
            Action::ContinueKafka => write!(f, "Kafka goes on (SIGCONT)"),
            Action::StopProcess(role) => write!(f, "the {role} is stopped (SIGSTOP)"),
            Action::ContinueProcess(role) => write!(f, "the {role} goes on (SIGCONT)"),
            Action::KillKafka(nodes) => write!(f, "Kafka is killed (kill -9), node {nodes:?}"),
            Action::StartKafka => write!(f, "Kafka is started"),
            Action::KillGateway => write!(f, "the gateway is killed (kill -9)"),
            Action::StartGateway => write!(f, "the gateway is started"),
            Action::EndGateway => write!(f, "the gateway is told to end (SIGTERM)"),
            Action::FillDisk => write!(f, "the disk of the spool is filled up"),
            Action::FreeDisk => write!(f, "the disk of the spool has room again"),
            Action::StepClock(seconds) => write!(f, "the gateway's clock is set {seconds:+} s off"),
            Action::HoldHalfOpen => write!(f, "most devices lose power; others connect and say nothing"),
            Action::DropHalfOpen => write!(f, "those that said nothing are gone"),
            Action::BeginJunk => write!(f, "connections bring junk"),
            Action::EndJunk => write!(f, "no more junk comes"),
            Action::BeginFlood => write!(f, "one device sends as fast as it can"),
            Action::EndFlood => write!(f, "that device has ended"),
            Action::ReplaceCertificate => write!(f, "the gateway's certificate is replaced"),
            Action::ReplaceAuthority => write!(f, "an authority of clients is replaced"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(seconds: u64, kills: Option<u32>, seed: u64) -> Parameters {
        Parameters {
            damage: Duration::from_secs(seconds),
            kills,
            events: 3,
            devices: 600,
            seed,
        }
    }

    fn actions(plan: &[Step]) -> Vec<Action> {
        let actions = plan.iter().filter_map(|step| match step {
            Step::Do(action) => Some(action.clone()),
            _ => None,
        });
        actions.collect()
    }

    fn count(plan: &[Step], action: &Action) -> usize {
        actions(plan).iter().filter(|one| *one == action).count()
    }

    /// What is broken after these actions.
    fn broken(actions: &[Action]) -> Vec<&'static str> {
        let (mut stopped, mut killed, mut gateway_away, mut full, mut off) = (false, false, false, false, 0);
        let (mut parts, mut storms) = (Vec::new(), 0);
        for action in actions {
            match action {
                Action::StopKafka => stopped = true,
                Action::ContinueKafka => stopped = false,
                Action::StopProcess(role) => parts.push(*role),
                Action::ContinueProcess(role) => parts.retain(|stopped| stopped != role),
                Action::KillKafka(_) => killed = true,
                Action::StartKafka => killed = false,
                Action::KillGateway | Action::EndGateway => gateway_away = true,
                Action::StartGateway => gateway_away = false,
                Action::FillDisk => full = true,
                Action::FreeDisk => full = false,
                Action::StepClock(seconds) => off = *seconds,
                Action::HoldHalfOpen | Action::BeginJunk | Action::BeginFlood => storms += 1,
                Action::DropHalfOpen | Action::EndJunk | Action::EndFlood => storms -= 1,
                // What is replaced is whole.
                Action::ReplaceCertificate | Action::ReplaceAuthority => {}
            }
        }
        let all = [
            (stopped || !parts.is_empty(), "stopped"),
            (killed, "killed"),
            (gateway_away, "gateway"),
            (full, "disk"),
            (off != 0, "clock"),
            (storms != 0, "storm"),
        ];
        all.into_iter()
            .filter_map(|(is_broken, what)| is_broken.then_some(what))
            .collect()
    }

    #[test]
    fn every_plan_breaks_something_and_heals_it_before_the_replay() {
        // A storm goes on after the devices are back.
        for fault in Fault::ALL.into_iter().filter(|fault| *fault != Fault::FlashReconnect) {
            for (seconds, kills, seed) in [
                (0, None, 1),
                (5, None, 2),
                (60, None, 3),
                (20, Some(200), 4),
                (1, Some(1), 5),
            ] {
                let plan = fault.plan(&parameters(seconds, kills, seed));
                let replay = plan.iter().position(|step| *step == Step::Enter(Phase::Replay));
                let Some(replay) = replay else {
                    assert_eq!((fault, actions(&plan).len()), (Fault::Calm, 0));
                    continue;
                };
                let (damage, rest) = plan.split_at(replay);
                assert!(!actions(damage).is_empty(), "{fault} does nothing");
                assert_eq!(broken(&actions(damage)), Vec::<&str>::new(), "{fault}, {seconds} s");
                assert_eq!(actions(rest), [], "{fault} goes on breaking");
                let entered = plan.iter().filter_map(|step| match step {
                    Step::Enter(phase) => Some(*phase),
                    _ => None,
                });
                assert_eq!(entered.collect::<Vec<_>>(), Phase::ALL, "{fault}");
            }
        }
    }

    #[test]
    fn a_storm_is_over_before_its_plan_is() {
        let plan = Fault::FlashReconnect.plan(&parameters(4, None, 1));
        assert_eq!(broken(&actions(&plan)), Vec::<&str>::new());
        let begins = [Action::HoldHalfOpen, Action::BeginJunk, Action::BeginFlood];
        assert!(begins.iter().all(|action| count(&plan, action) == 1));
        let at = |wanted: &Step| plan.iter().position(|step| step == wanted);
        assert!(at(&Step::AwaitBack) < at(&Step::Do(Action::BeginJunk)), "{plan:?}");
        assert!(at(&Step::AwaitReplayed) < at(&Step::Do(Action::BeginFlood)), "{plan:?}");
    }

    #[test]
    fn the_gateway_is_killed_as_often_as_asked() {
        let check = |fault: Fault, seconds, kills, expected| {
            let plan = fault.plan(&parameters(seconds, kills, 1));
            assert_eq!(count(&plan, &Action::KillGateway), expected, "{fault}, {kills:?}");
            assert_eq!(count(&plan, &Action::StartGateway), expected, "{fault}, {kills:?}");
        };
        check(Fault::GatewayKilled, 20, None, 10);
        check(Fault::GatewayKilled, 20, Some(200), 200);
        check(Fault::GatewayKilled, 0, None, 1);
        check(Fault::BothKilled, 20, None, 5);
        check(Fault::BothKilled, 20, Some(200), 200);
        check(Fault::BothKilled, 20, Some(33), 33);
        let plan = Fault::BothKilled.plan(&parameters(20, Some(200), 1));
        assert_eq!(count(&plan, &Action::StartKafka), 20);
    }

    #[test]
    fn kafka_is_fenced_as_often_as_asked_and_measured_each_time() {
        for seconds in [0, 4, 6, 60] {
            let plan = Fault::KafkaFenced.plan(&parameters(seconds, None, 1));
            assert_eq!(count(&plan, &Action::StopProcess(Role::Broker)), 3);
            let measured = plan.windows(2).filter(|steps| {
                *steps
                    == [
                        Step::Do(Action::ContinueProcess(Role::Controller)),
                        Step::AwaitConfirmed,
                    ]
            });
            assert_eq!(measured.count(), 3, "each time from the last SIGCONT");
            let stopped = plan.windows(2).filter_map(|steps| match steps {
                [Step::Do(Action::StopProcess(_)), Step::Wait(time)] => Some(*time),
                _ => None,
            });
            let longer_than_the_session = |time: Duration| time > Duration::from_secs(3) && time <= FENCED_MAX;
            assert!(stopped.into_iter().all(longer_than_the_session), "{seconds} s");
        }
    }

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        for fault in [Fault::GatewayKilled, Fault::BothKilled] {
            let plan = |seed| fault.plan(&parameters(20, None, seed));
            assert_eq!(plan(1), plan(1));
            assert_ne!(plan(1), plan(2));
        }
        let killed = |seed| actions(&Fault::TwoOfThreeKilled.plan(&parameters(5, None, seed))).swap_remove(0);
        let different: std::collections::HashSet<String> = (0..30).map(|seed| killed(seed).to_string()).collect();
        assert_eq!(different.len(), 3, "{different:?}");
    }

    #[test]
    fn names_are_read_back() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
        }
        assert!("earthquake".parse::<Fault>().unwrap_err().contains("kafka-stopped"));
    }
}
