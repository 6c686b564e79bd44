//! One scenario, from the first process to the verdict.
//!
//! The gateway is started, the follower reads along, the fleet sends; the plan's steps are done one after the other,
//! each announced with its time, while a line a second says how it goes. Then the fleet stops, Kafka is read to its end,
//! and the [`Proof`] is drawn up.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::disk::SmallDisk;
use super::figures::Figures;
use super::gateway::{Admin, Gateway, Settings, Spool};
use super::kafka::{Kafka, Part};
use super::proof::{ActLine, Course, Proof};
use super::scenario::{Act, Extent, Scenario, Step};
use crate::counters::Counters;
use crate::fleet::{Fleet, FleetConfig};
use crate::follower::{Begin, Follower, FollowerConfig};
use crate::phases::Phase;
use crate::report::{grouped, milliseconds};
use crate::uplinks::Protocol;

/// Longer than the gateway's delivery time-out, so that it is the gateway which gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Devices come back soon, so that a gateway that is killed again and again is killed under load.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What is added to the rate: a device that had to wait for an answer does not catch up on what it missed.
const RESERVE: f64 = 1.03;

/// How long outstanding answers and the last records are waited for at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the replay may take besides five times the damage.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long Kafka must keep up until the replay counts as over, and how often it is looked at.
const STEADY: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// So that what the spool set aside before the disk was full does not last for the whole scenario.
const SMALL_SEGMENTS: &str = "segment_bytes = \"1 MiB\"\nentry_bytes_max = \"900 KiB\"\nfree_bytes_min = \"1 MiB\"\n";

/// How long the first record may take that Kafka confirms after it was repaired; longer, it counts as never.
const CONFIRMED_TIMEOUT: Duration = Duration::from_secs(60);

/// How long Kafka must confirm without a break, so that it counts.
const CONFIRMS_FOR: Duration = Duration::from_secs(2);

/// How often the gateway is asked for it.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How long the gateway's counters may take to balance after the fleet has stopped.
const BALANCE_TIMEOUT: Duration = Duration::from_secs(15);

/// What a scenario needs to know.
#[derive(Clone, Debug)]
pub struct Setting {
    pub scenario: Scenario,
    pub extent: Extent,
    /// Readings a second of the whole fleet.
    pub rate: u64,
    pub devices: usize,
    pub program: PathBuf,
    pub schemas: PathBuf,
    /// For everything that the scenario writes.
    pub folder: PathBuf,
    pub topic_prefix: String,
}

/// A scenario that is running.
struct Stage<'a> {
    kafka: &'a Kafka,
    gateway: Gateway,
    disk: Option<SmallDisk>,
    audience: &'a Audience,
    course: Course,
    /// What was acknowledged when the gateway was last killed.
    acknowledged_at_kill: u64,
    /// When the last thing was done, and how many records Kafka had confirmed by then.
    last_act: (Instant, f64),
}

/// What can be watched while the steps are done.
struct Audience {
    started: Instant,
    counters: Arc<Counters>,
    follower: Follower,
    admin: Admin,
    figures: Mutex<Figures>,
    rate: u64,
    devices: usize,
    behind_max: AtomicU64,
}

/// Runs the scenario against `kafka`; an error means that it could not be run, not that the promise was broken.
pub async fn run(setting: &Setting, kafka: &Kafka) -> anyhow::Result<Proof> {
    let admin = Admin::new()?;
    let mut course = Course::default();
    let disk = small_disk(setting, &mut course);
    let gateway = Gateway::start(gateway_settings(setting, kafka, disk.as_ref()), &admin).await?;
    // Ready it is with its spool alone; the follower needs the topics that it makes.
    admin.await_kafka().await?;
    let follower = follow(setting, kafka).await?;
    let fleet = Fleet::start(fleet_config(setting, &gateway)?)?;
    let audience = Audience {
        started: Instant::now(),
        counters: fleet.live(),
        follower,
        admin,
        figures: Mutex::default(),
        rate: setting.rate,
        devices: setting.devices,
        behind_max: AtomicU64::new(0),
    };
    let mut stage = Stage {
        kafka,
        gateway,
        disk,
        audience: &audience,
        course,
        acknowledged_at_kill: 0,
        last_act: (Instant::now(), 0.0),
    };
    let plan = setting.scenario.plan(&setting.extent);
    tokio::select! {
        done = stage.perform(&plan, 5 * setting.extent.damage + REPLAY_TIMEOUT) => done?,
        never = audience.watch() => match never {},
    }
    let Stage {
        mut gateway,
        mut course,
        disk,
        ..
    } = stage;
    course.ended = audience.started.elapsed();
    course.behind_max = audience.behind_max.load(Ordering::Relaxed);
    say(
        course.ended,
        "the fleet stops: waiting for the answers that are still due",
    );
    let outcome = fleet.stop().await;
    course.failures.extend(audience.imbalance().await);
    course.failures.extend_from_slice(gateway.deaths());
    let Audience { follower, figures, .. } = audience;
    course.record_ages = follower.ages();
    let found = follower.finish(&outcome.ledger, READ_TIMEOUT).await?;
    drop((gateway, disk));
    let figures = figures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let what = (setting.scenario, setting.extent.seed, setting.rate);
    Ok(Proof::new(what, course, &outcome, &found, &figures))
}

/// The file system of the spool in `disk-full`; without the right to mount one, the spool's own limit is what is small.
fn small_disk(setting: &Setting, course: &mut Course) -> Option<SmallDisk> {
    if setting.scenario != Scenario::DiskFull {
        return None;
    }
    let mounted = SmallDisk::mount(setting.folder.join("disk"));
    mounted
        .inspect_err(|error| {
            course.notes.push(format!(
                "no disk of its own ({error:#}): the spool has a limit of 2 MiB instead"
            ));
        })
        .ok()
}

fn gateway_settings(setting: &Setting, kafka: &Kafka, disk: Option<&SmallDisk>) -> Settings {
    let folder = setting.folder.join("gateway");
    let spool = match (setting.scenario, disk) {
        (Scenario::DiskFull, Some(disk)) => Spool {
            folder: disk.folder().join("spool"),
            bytes_max: "32 MiB",
            more: SMALL_SEGMENTS,
        },
        (Scenario::DiskFull, None) => Spool {
            folder: folder.join("spool"),
            bytes_max: "2 MiB",
            more: SMALL_SEGMENTS,
        },
        _ => Spool {
            folder: folder.join("spool"),
            bytes_max: "1 GiB",
            more: "",
        },
    };
    Settings {
        program: setting.program.clone(),
        folder,
        schemas: setting.schemas.clone(),
        bootstrap: kafka.bootstrap().to_owned(),
        topic_prefix: setting.topic_prefix.clone(),
        spool,
        with_own_clock: setting.scenario == Scenario::ClockStepped,
        never_asks_again: setting.scenario == Scenario::KafkaFenced,
    }
}

async fn follow(setting: &Setting, kafka: &Kafka) -> anyhow::Result<Follower> {
    let mut config = FollowerConfig::new(kafka.bootstrap(), &setting.topic_prefix);
    config.schemas = Some(setting.schemas.clone());
    config.begin = Begin::Earliest;
    tokio::task::spawn_blocking(move || Follower::start(&config)).await?
}

/// Devices that give nothing up and have one reading outstanding, so that their order means something.
fn fleet_config(setting: &Setting, gateway: &Gateway) -> anyhow::Result<FleetConfig> {
    let interval = Duration::from_secs(1)
        .checked_mul(setting.devices as u32)
        .context("too many devices")?
        .div_f64(setting.rate.max(1) as f64 * RESERVE);
    Ok(FleetConfig {
        devices: setting.devices,
        seed: setting.extent.seed,
        interval,
        start_spread: interval.max(Duration::from_secs(1)),
        mqtt: Some(gateway.mqtt()),
        coap: Some(gateway.coap()),
        http: Some(gateway.http()),
        answer_timeout: ANSWER_TIMEOUT,
        tries_max: u32::MAX,
        pause_max: PAUSE_MAX,
        batch_readings: 1,
        stop_timeout: STOP_TIMEOUT,
        ..FleetConfig::default()
    })
}

// === impl Stage ===

impl Stage<'_> {
    async fn perform(&mut self, plan: &[Step], replay_timeout: Duration) -> anyhow::Result<()> {
        let audience = self.audience;
        for step in plan {
            match step {
                Step::Enter(phase) => self.enter(*phase),
                Step::Wait(time) => tokio::time::sleep(*time).await,
                Step::Do(act) => self.act(act).await.with_context(|| act.to_string())?,
                Step::AwaitReady => self.gateway.await_ready(&audience.admin).await?,
                Step::AwaitConfirmed => self.await_confirmed().await,
                Step::AwaitReplayed => self.await_replayed(replay_timeout).await,
            }
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase) {
        self.audience.counters.phases.enter(phase);
        let at = self.audience.started.elapsed();
        self.course.phases.push((phase, at));
        say(at, &format!("== {phase}"));
    }

    async fn act(&mut self, act: &Act) -> anyhow::Result<()> {
        let at = self.audience.started.elapsed();
        let mut what = act.to_string();
        say(at, &what);
        match act {
            Act::StopKafka => self.kafka.stop()?,
            Act::ContinueKafka => self.kafka.go_on()?,
            Act::StopPart(part) => self.kafka.stop_part(*part)?,
            Act::ContinuePart(part) => self.let_go_on(*part).await?,
            Act::KillKafka(nodes) => self.kafka.kill(nodes)?,
            Act::StartKafka => {
                self.kafka.restart().await?;
                say(self.audience.started.elapsed(), "Kafka serves again");
            }
            Act::KillGateway => {
                self.gateway.kill()?;
                self.count_kill();
            }
            Act::StartGateway => {
                self.audience.figures().restarted();
                self.gateway.spawn()?;
            }
            Act::EndGateway => {
                self.audience.scrape().await;
                let status = self.gateway.end().await?;
                let took = (self.audience.started.elapsed() - at).as_secs_f64();
                what += &format!("; it ended after {took:.1} s, {status}");
                say(
                    self.audience.started.elapsed(),
                    &format!("the gateway has ended, {status}"),
                );
                if !status.success() {
                    self.course
                        .failures
                        .push(format!("after SIGTERM the gateway ended with {status}"));
                }
            }
            Act::FillDisk => {
                if let Some(disk) = &self.disk {
                    disk.fill()?;
                }
            }
            Act::FreeDisk => {
                if let Some(disk) = &self.disk {
                    disk.free()?;
                }
            }
            Act::StepClock(seconds) => self.gateway.step_clock(*seconds)?,
        }
        let at_s = (at.as_secs_f64() * 1000.0).round() / 1000.0;
        self.course.acts.push(ActLine { at_s, what });
        Ok(())
    }

    async fn let_go_on(&mut self, part: Part) -> anyhow::Result<()> {
        self.audience.scrape().await;
        let confirmed = self.audience.figures().confirmed_now();
        self.kafka.let_part_go_on(part)?;
        self.last_act = (Instant::now(), confirmed);
        Ok(())
    }

    /// Until Kafka confirms records and goes on to do so: a fence may be met only after some were confirmed.
    async fn await_confirmed(&mut self) {
        let (began, confirmed_before) = self.last_act;
        let mut steady_since = None;
        while began.elapsed() < CONFIRMED_TIMEOUT {
            self.audience.scrape().await;
            let confirms = {
                let figures = self.audience.figures();
                figures.sum_now("citygate_kafka_up") > 0.0 && figures.confirmed_now() > confirmed_before
            };
            if !confirms {
                steady_since = None;
            } else if steady_since.get_or_insert_with(Instant::now).elapsed() >= CONFIRMS_FOR {
                break;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        let took = steady_since.map_or(CONFIRMED_TIMEOUT, |since| since.duration_since(began));
        say(
            self.audience.started.elapsed(),
            &format!("records were confirmed again after {:.1} s", took.as_secs_f64()),
        );
        self.course.confirmed_after.push(took);
    }

    fn count_kill(&mut self) {
        let acknowledged = self.audience.acknowledged();
        self.course.kills += 1;
        if acknowledged > self.acknowledged_at_kill {
            self.course.kills_under_load += 1;
        }
        self.acknowledged_at_kill = acknowledged;
    }

    /// Until Kafka keeps up with what is acknowledged, and most devices have their answer, for a while.
    async fn await_replayed(&mut self, timeout: Duration) {
        let audience = self.audience;
        let began = Instant::now();
        let mut steady_since = Instant::now();
        while began.elapsed() < timeout {
            let keeps_up = audience.behind() <= audience.rate / 4 && audience.waiting() <= audience.devices as u64 / 2;
            if !keeps_up {
                steady_since = Instant::now();
            } else if steady_since.elapsed() >= STEADY {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.course
            .notes
            .push(format!("Kafka did not catch up within {} s", timeout.as_secs()));
    }
}

// === impl Audience ===

impl Audience {
    /// A line a second, and the gateway's figures.
    async fn watch(&self) -> std::convert::Infallible {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        second.tick().await;
        let mut before = (self.started.elapsed(), 0, 0);
        loop {
            second.tick().await;
            self.scrape().await;
            let (at, total) = (self.started.elapsed(), self.counters.snapshot().total());
            let seconds = at.saturating_sub(before.0).as_secs_f64().max(0.001);
            let per_second = |now: u64, before: u64| grouped(((now - before) as f64 / seconds).round() as u64);
            let phase = self.counters.phases.now();
            let p99 = self.counters.phases.felt(phase, Protocol::Mqtt).latency.p99_ms;
            say(
                at,
                &format!(
                    "{phase:<7} sent {}/s  acknowledged {}/s  in Kafka {}  behind {}  waiting {}  sent again {}  mqtt p99 {}",
                    per_second(total.sent, before.1),
                    per_second(total.acknowledged, before.2),
                    grouped(self.follower.distinct()),
                    grouped(self.behind()),
                    grouped(self.waiting()),
                    grouped(total.sent_again),
                    milliseconds(p99),
                ),
            );
            before = (at, total.sent, total.acknowledged);
        }
    }

    async fn scrape(&self) {
        if let Some(text) = self.admin.metrics().await {
            self.figures().observe(&text);
        }
    }

    /// What contradicts `received = delivered + spooled + rejected + busy` now that nobody sends any more.
    async fn imbalance(&self) -> Option<String> {
        let deadline = Instant::now() + BALANCE_TIMEOUT;
        loop {
            self.scrape().await;
            let (received, ended) = {
                let figures = self.figures();
                let now = |name| figures.sum_now(name);
                (now("citygate_readings_received_total"), now("citygate_readings_total"))
            };
            if received == ended {
                return None;
            }
            if Instant::now() >= deadline {
                return Some(format!(
                    "the gateway counts {received} readings received and {ended} ended, with nobody sending"
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn acknowledged(&self) -> u64 {
        self.counters.snapshot().total().acknowledged
    }

    /// Readings that are acknowledged and not yet seen in Kafka.
    fn behind(&self) -> u64 {
        let behind = self.acknowledged().saturating_sub(self.follower.distinct());
        self.behind_max.fetch_max(behind, Ordering::Relaxed);
        behind
    }

    /// Readings that devices still have in hand.
    fn waiting(&self) -> u64 {
        let total = self.counters.snapshot().total();
        let ended = total.acknowledged + total.rejected + total.busy + total.unanswered;
        total.sent.saturating_sub(ended)
    }

    fn figures(&self) -> std::sync::MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To the people who watch; the result goes to standard output.
fn say(at: Duration, what: &str) {
    eprintln!("{:>8.2} s  {what}", at.as_secs_f64());
}
