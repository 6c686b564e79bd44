//! Runs one fault, from the first process to the verdict.
//!
//! The gateway is started, a reader of the topics reads along, the fleet sends; the plan's steps are done one after the other,
//! each announced with its time, while a line a second says how it goes. Then the fleet stops, Kafka is read to its end,
//! and the [`Proof`] is drawn up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::answer_times::AnswerTimes;
use super::cores::Cores;
use super::disk::SmallDisk;
use super::fault::{Action, Fault, Parameters, Step};
use super::gateway::{Admin, Gateway, Settings, Spool};
use super::gateway_metrics::GatewayMetrics;
use super::identities::Identities;
use super::kafka::{Kafka, Role};
use super::proof::{ActionLine, Proof, RunLog};
use super::rotation::{self, Authorities, Rotation};
use super::storm::{self, Storm};
use crate::counters::Counters;
use crate::devices::{Kind, Kinds};
use crate::fleet::{Fleet, FleetConfig};
use crate::load::settings::make_room;
use crate::phases::Phase;
use crate::report::{grouped, milliseconds};
use crate::topic_reader::{Begin, TopicReader, TopicReaderConfig};
use crate::uplinks::Protocol;
use crate::uplinks::credentials::Credentials;

/// Longer than the gateway's delivery time-out, so that the gateway's own comes first.
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
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

/// So that what the spool reserved before the disk was full does not last for the whole run.
const SMALL_SEGMENTS: &str = "segment_bytes = \"1 MiB\"\nentry_bytes_max = \"900 KiB\"\nfree_bytes_min = \"1 MiB\"\n";

/// How long the first record may take that Kafka confirms after it was repaired; longer, it counts as never.
const CONFIRMED_TIMEOUT: Duration = Duration::from_secs(60);

/// How long Kafka must confirm without a break, so that it counts.
const CONFIRMS_FOR: Duration = Duration::from_secs(2);

/// How often the gateway is asked for it.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(50);

/// How often the admin port is asked, a second each.
const METRICS_TRIES: usize = 5;

/// How long the gateway's counters may take to balance after the fleet has stopped.
const BALANCE_TIMEOUT: Duration = Duration::from_secs(15);

/// What a run needs to know.
#[derive(Clone, Debug)]
pub struct Setup {
    pub fault: Fault,
    pub parameters: Parameters,
    /// Readings per second of the whole fleet.
    pub rate: u64,
    pub devices: usize,
    /// Devices prove who they are, over TLS.
    pub with_identities: bool,
    pub program: PathBuf,
    pub schemas: PathBuf,
    /// For everything that the run writes.
    pub folder: PathBuf,
    pub topic_prefix: String,
}

/// A run that goes on.
struct Runner<'a> {
    kafka: &'a Kafka,
    gateway: Gateway,
    disk: Option<SmallDisk>,
    monitor: &'a Monitor,
    log: RunLog,
    /// What was acknowledged when the gateway was last killed.
    acknowledged_at_kill: u64,
    /// When the last thing was done, and how many records Kafka had confirmed by then.
    last_action: (Instant, f64),
    storm: Option<Storm>,
    rotation: Option<Rotation>,
    /// The gateway's memory when the damage began.
    memory_before_kib: u64,
    /// Of HTTP, when each phase began.
    answer_times: Vec<(Phase, AnswerTimes)>,
    /// How long a device floods.
    flood: Duration,
}

/// What can be watched while the steps are done.
struct Monitor {
    started: Instant,
    counters: Arc<Counters>,
    topic_reader: TopicReader,
    admin: Admin,
    metrics: Mutex<GatewayMetrics>,
    rate: u64,
    devices: usize,
    behind_max: AtomicU64,
}

/// Makes the fault against `kafka`; an error means that it could not be run, not that the promise was broken.
pub async fn run(setup: &Setup, kafka: &Kafka) -> anyhow::Result<Proof> {
    let admin = Admin::new()?;
    let mut log = RunLog::default();
    let disk = small_disk(setup, &mut log);
    let authorities = Arc::new(Authorities::new()?);
    let settings = gateway_settings(setup, kafka, disk.as_ref(), &authorities)?;
    let gateway = Gateway::start(settings, &admin).await?;
    // Ready it is with its spool alone; the reader needs the topics that it makes.
    admin.await_kafka().await?;
    let topic_reader = follow(setup, kafka).await?;
    let (storm, rotation) = special(setup, &gateway, &authorities)?;
    let cores = gateway.process().filter(|_| storm.is_some()).and_then(Cores::split);
    let fleet = start_fleet(setup, &gateway)?;
    let monitor = Monitor {
        started: Instant::now(),
        counters: fleet.live(),
        topic_reader,
        admin,
        metrics: Mutex::default(),
        rate: setup.rate,
        devices: setup.devices,
        behind_max: AtomicU64::new(0),
    };
    let mut runner = Runner {
        kafka,
        gateway,
        disk,
        monitor: &monitor,
        log,
        acknowledged_at_kill: 0,
        last_action: (Instant::now(), 0.0),
        storm,
        rotation,
        memory_before_kib: 0,
        answer_times: Vec::new(),
        flood: Fault::calm(&setup.parameters),
    };
    let plan = setup.fault.plan(&setup.parameters);
    tokio::select! {
        done = runner.run_steps(&plan, 5 * setup.parameters.damage + REPLAY_TIMEOUT) => done?,
        never = monitor.watch() => match never {},
    }
    runner.note_special(cores.is_some()).await;
    let Runner {
        mut gateway,
        mut log,
        disk,
        ..
    } = runner;
    log.ended = monitor.started.elapsed();
    log.behind_max = monitor.behind_max.load(Ordering::Relaxed);
    say(log.ended, "the fleet stops: waiting for the answers that are still due");
    let outcome = fleet.stop().await;
    log.failures.extend(monitor.imbalance().await);
    log.failures.extend_from_slice(gateway.deaths());
    let Monitor {
        topic_reader, metrics, ..
    } = monitor;
    log.record_ages = topic_reader.ages();
    let found = topic_reader.finish(&outcome.ledger, READ_TIMEOUT).await?;
    drop((gateway, disk, cores));
    let metrics = metrics.into_inner().unwrap_or_else(PoisonError::into_inner);
    // In a storm the table is of those that do not lose their power.
    let shown = match setup.fault {
        Fault::FlashReconnect => storm::Strength::of(setup.devices).devices_that_do_not,
        _ => setup.devices,
    };
    let rate = setup.rate * shown as u64 / setup.devices.max(1) as u64;
    let what = (setup.fault, setup.parameters.seed, rate);
    Ok(Proof::new(what, log, &outcome, &found, &metrics))
}

/// The file system of the spool in `disk-full`; without the right to mount one, the spool's own limit is what is small.
fn small_disk(setup: &Setup, log: &mut RunLog) -> Option<SmallDisk> {
    if setup.fault != Fault::DiskFull {
        return None;
    }
    let mounted = SmallDisk::mount(setup.folder.join("disk"));
    mounted
        .inspect_err(|error| {
            log.notes.push(format!(
                "no disk of its own ({error:#}): the spool has a limit of 2 MiB instead"
            ));
        })
        .ok()
}

/// What some faults need besides.
fn special(
    setup: &Setup,
    gateway: &Gateway,
    authorities: &Arc<Authorities>,
) -> anyhow::Result<(Option<Storm>, Option<Rotation>)> {
    let identities = || gateway.identities().context("there are no identities");
    Ok(match setup.fault {
        Fault::FlashReconnect => {
            let credentials = Arc::new(identities()?.credentials()?);
            (Some(Storm::new(gateway.mqtt(), setup.devices, credentials)), None)
        }
        Fault::Rotation => {
            let rotation = Rotation::new(gateway.mqtt(), identities()?.clone(), Arc::clone(authorities));
            (None, Some(rotation))
        }
        _ => (None, None),
    })
}

fn start_fleet(setup: &Setup, gateway: &Gateway) -> anyhow::Result<Fleet> {
    let config = fleet_config(setup, gateway)?;
    if setup.fault != Fault::FlashReconnect {
        return Fleet::start(config);
    }
    let strength = storm::Strength::of(setup.devices);
    make_room(setup.devices + strength.half_open + storm::JUNK_AT_A_TIME)?;
    let roster = storm::roster(&config, Fault::calm(&setup.parameters));
    Fleet::start_roster(&config, roster)
}

fn gateway_settings(
    setup: &Setup,
    kafka: &Kafka,
    disk: Option<&SmallDisk>,
    authorities: &Authorities,
) -> anyhow::Result<Settings> {
    let folder = setup.folder.join("gateway");
    let spool = match (setup.fault, disk) {
        (Fault::DiskFull, Some(disk)) => Spool {
            folder: disk.folder().join("spool"),
            bytes_max: "32 MiB",
            more: SMALL_SEGMENTS,
        },
        (Fault::DiskFull, None) => Spool {
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
    Ok(Settings {
        program: setup.program.clone(),
        folder,
        schemas: setup.schemas.clone(),
        bootstrap: kafka.bootstrap().to_owned(),
        topic_prefix: setup.topic_prefix.clone(),
        spool,
        with_own_clock: setup.fault == Fault::ClockStepped,
        never_asks_again: setup.fault == Fault::KafkaFenced,
        identities: identities(setup, authorities)?,
        exempts_nobody: setup.fault == Fault::FlashReconnect,
    })
}

/// Of the devices over protocols that have credentials.
fn identities(setup: &Setup, authorities: &Authorities) -> anyhow::Result<Option<Identities>> {
    if !setup.with_identities {
        return Ok(None);
    }
    let somewhere = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let fleet = FleetConfig {
        devices: setup.devices,
        seed: setup.parameters.seed,
        mqtt: somewhere,
        coap: somewhere.filter(|_| speaks_coap(setup.fault)),
        http: somewhere,
        ..FleetConfig::default()
    };
    let mut devices = fleet.device_names(&[Protocol::Mqtt, Protocol::Http]);
    let identities = match setup.fault {
        Fault::Rotation => {
            devices.extend(rotation::clients());
            Identities::with_certificates(&setup.folder, &devices, &authorities.devices, &authorities.servers)
        }
        _ => {
            devices.extend((setup.fault == Fault::FlashReconnect).then(storm::flooding_device));
            Identities::with_keys(&setup.program, &setup.folder, &devices)
        }
    };
    identities.map(Some)
}

async fn follow(setup: &Setup, kafka: &Kafka) -> anyhow::Result<TopicReader> {
    let mut config = TopicReaderConfig::new(kafka.bootstrap(), &setup.topic_prefix);
    config.kinds = Kinds::of_folder(&setup.schemas).select(&Kind::PHYSICAL.map(Kind::name))?;
    config.begin = Begin::Earliest;
    tokio::task::spawn_blocking(move || TopicReader::start(&config)).await?
}

/// Storms are of connections, and in a rotation everybody has a certificate.
fn speaks_coap(fault: Fault) -> bool {
    !fault.needs_identities()
}

/// Devices that give nothing up and have one reading outstanding, so that their order means something.
fn fleet_config(setup: &Setup, gateway: &Gateway) -> anyhow::Result<FleetConfig> {
    let interval = Duration::from_secs(1)
        .checked_mul(setup.devices as u32)
        .context("too many devices")?
        .div_f64(setup.rate.max(1) as f64 * RESERVE);
    Ok(FleetConfig {
        devices: setup.devices,
        seed: setup.parameters.seed,
        interval,
        start_spread: match setup.fault {
            Fault::FlashReconnect => storm::start_spread(setup.devices),
            _ => interval.max(Duration::from_secs(1)),
        },
        mqtt: Some(gateway.mqtt()),
        coap: Some(gateway.coap()).filter(|_| speaks_coap(setup.fault)),
        http: Some(gateway.http()),
        credentials: Arc::new(
            gateway
                .identities()
                .map_or_else(|| Ok(Credentials::default()), Identities::credentials)?,
        ),
        answer_timeout: ANSWER_TIMEOUT,
        tries_max: u32::MAX,
        pause_max: match setup.fault {
            // Those behind one address must come back no faster than it may connect.
            Fault::FlashReconnect => storm::PAUSE_MAX,
            _ => PAUSE_MAX,
        },
        batch_readings: 1,
        stop_timeout: STOP_TIMEOUT,
        ..FleetConfig::default()
    })
}

// === impl Runner ===

impl Runner<'_> {
    async fn run_steps(&mut self, plan: &[Step], replay_timeout: Duration) -> anyhow::Result<()> {
        let monitor = self.monitor;
        for step in plan {
            match step {
                Step::Enter(phase) => self.enter(*phase).await,
                Step::Wait(time) => tokio::time::sleep(*time).await,
                Step::Do(action) => self.action(action).await.with_context(|| action.to_string())?,
                Step::AwaitReady => self.gateway.await_ready(&monitor.admin).await?,
                Step::AwaitConfirmed => self.await_confirmed().await,
                Step::AwaitReplayed => self.await_replayed(replay_timeout).await,
                Step::AwaitBack => self.await_back().await,
            }
        }
        Ok(())
    }

    async fn enter(&mut self, phase: Phase) {
        let counters = &self.monitor.counters;
        counters.phases.enter(phase);
        counters.powerless.enter(phase);
        let at = self.monitor.started.elapsed();
        self.log.phases.push((phase, at));
        if self.storm.is_some() {
            say(at, &format!("== {}", storm::phase_name(phase)));
            self.note_answer_times(phase).await;
        } else {
            say(at, &format!("== {phase}"));
        }
        if phase == Phase::Damage {
            self.memory_before_kib = self.gateway.memory_kib("VmRSS").unwrap_or(0);
        }
        if let (Some(rotation), Phase::Replay) = (&mut self.rotation, phase) {
            rotation.end().await;
            let metrics = self.monitor.admin.metrics().await;
            rotation.note(&metrics.unwrap_or_default());
        }
    }

    async fn note_answer_times(&mut self, phase: Phase) {
        // A gateway that is busy may not answer at once.
        for _ in 0..METRICS_TRIES {
            if let Some(metrics) = self.monitor.admin.metrics().await {
                let times = AnswerTimes::read(&metrics, Protocol::Http);
                self.answer_times.push((phase, times));
                return;
            }
        }
    }

    /// Writes down what a storm or a rotation came to.
    async fn note_special(&mut self, own_cores: bool) {
        self.log.rotation = self.rotation.as_ref().map(Rotation::figures);
        let Some(storm) = &self.storm else { return };
        let mut figures = storm.figures(self.monitor.counters.returns());
        figures.own_cores = own_cores;
        figures.memory_before_kib = self.memory_before_kib;
        figures.memory_most_kib = self.gateway.memory_kib("VmHWM").unwrap_or(0);
        // The last phase ends now.
        self.note_answer_times(Phase::After).await;
        let between = self.answer_times.windows(2).filter_map(|two| match two {
            [(phase, from), (_, to)] => Some((*phase, to.since(from))),
            _ => None,
        });
        figures.http_in_the_gateway = between.filter(|(phase, _)| *phase != Phase::Start).collect();
        self.log.storm = Some(figures);
    }

    /// Those that do not come back in time are found in the figures.
    async fn await_back(&mut self) {
        let Some(storm) = &self.storm else { return };
        let devices = storm.strength().devices_that_lose_power as u64;
        let began = Instant::now();
        while self.monitor.counters.returns().0 < devices && began.elapsed() < storm::BACK_TIMEOUT {
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
        let (back, [_, _, last]) = self.monitor.counters.returns();
        say(
            self.monitor.started.elapsed(),
            &format!(
                "{} devices are back, the last after {:.1} s",
                grouped(back),
                last.as_secs_f64()
            ),
        );
    }

    async fn action(&mut self, action: &Action) -> anyhow::Result<()> {
        let at = self.monitor.started.elapsed();
        let mut what = action.to_string();
        say(at, &what);
        match action {
            Action::StopKafka => self.kafka.stop()?,
            Action::ContinueKafka => self.kafka.resume()?,
            Action::StopProcess(role) => self.kafka.stop_process(*role)?,
            Action::ContinueProcess(role) => self.continue_process(*role).await?,
            Action::KillKafka(nodes) => self.kafka.kill(nodes)?,
            Action::StartKafka => {
                self.kafka.restart().await?;
                say(self.monitor.started.elapsed(), "Kafka serves again");
            }
            Action::KillGateway => {
                self.gateway.kill()?;
                self.count_kill();
            }
            Action::StartGateway => {
                self.monitor.metrics().restarted();
                self.gateway.spawn()?;
            }
            Action::EndGateway => {
                self.monitor.scrape().await;
                let status = self.gateway.end().await?;
                let took = (self.monitor.started.elapsed() - at).as_secs_f64();
                what += &format!("; it ended after {took:.1} s, {status}");
                say(
                    self.monitor.started.elapsed(),
                    &format!("the gateway has ended, {status}"),
                );
                if !status.success() {
                    self.log
                        .failures
                        .push(format!("after SIGTERM the gateway ended with {status}"));
                }
            }
            Action::FillDisk => {
                if let Some(disk) = &self.disk {
                    disk.fill()?;
                }
            }
            Action::FreeDisk => {
                if let Some(disk) = &self.disk {
                    disk.free()?;
                }
            }
            Action::StepClock(seconds) => self.gateway.step_clock(*seconds)?,
            _ => self.special_action(action).await?,
        }
        let at_s = (at.as_secs_f64() * 1000.0).round() / 1000.0;
        self.log.actions.push(ActionLine { at_s, what });
        Ok(())
    }

    /// Of a storm or a rotation.
    async fn special_action(&mut self, action: &Action) -> anyhow::Result<()> {
        if let Some(storm) = &mut self.storm {
            match action {
                Action::HoldHalfOpen => storm.hold_half_open(),
                Action::DropHalfOpen => storm.drop_half_open().await,
                Action::BeginJunk => storm.begin_junk(),
                Action::EndJunk => storm.end_junk().await,
                Action::BeginFlood => storm.begin_flood(self.flood),
                Action::EndFlood => storm.end_flood().await?,
                _ => {}
            }
        }
        if let Some(rotation) = &mut self.rotation {
            rotation.begin(&self.monitor.admin.metrics().await.unwrap_or_default())?;
            match action {
                Action::ReplaceCertificate => rotation.replace_certificate().await?,
                Action::ReplaceAuthority => rotation.replace_authority().await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn continue_process(&mut self, role: Role) -> anyhow::Result<()> {
        self.monitor.scrape().await;
        let confirmed = self.monitor.metrics().confirmed_now();
        self.kafka.continue_process(role)?;
        self.last_action = (Instant::now(), confirmed);
        Ok(())
    }

    /// Until Kafka confirms records and goes on to do so: a fence may be met only after some were confirmed.
    async fn await_confirmed(&mut self) {
        let (began, confirmed_before) = self.last_action;
        let mut steady_since = None;
        while began.elapsed() < CONFIRMED_TIMEOUT {
            self.monitor.scrape().await;
            let confirms = {
                let metrics = self.monitor.metrics();
                metrics.sum_now("citygate_kafka_up") > 0.0 && metrics.confirmed_now() > confirmed_before
            };
            if !confirms {
                steady_since = None;
            } else if steady_since.get_or_insert_with(Instant::now).elapsed() >= CONFIRMS_FOR {
                break;
            }
            tokio::time::sleep(SCRAPE_INTERVAL).await;
        }
        let took = steady_since.map_or(CONFIRMED_TIMEOUT, |since| since.duration_since(began));
        say(
            self.monitor.started.elapsed(),
            &format!("records were confirmed again after {:.1} s", took.as_secs_f64()),
        );
        self.log.confirmed_after.push(took);
    }

    fn count_kill(&mut self) {
        let acknowledged = self.monitor.acknowledged();
        self.log.kills += 1;
        if acknowledged > self.acknowledged_at_kill {
            self.log.kills_under_load += 1;
        }
        self.acknowledged_at_kill = acknowledged;
    }

    /// Until Kafka keeps up with what is acknowledged, and most devices have their answer, for a while.
    async fn await_replayed(&mut self, timeout: Duration) {
        let monitor = self.monitor;
        let began = Instant::now();
        let mut steady_since = Instant::now();
        while began.elapsed() < timeout {
            let keeps_up = monitor.behind() <= monitor.rate / 4 && monitor.waiting() <= monitor.devices as u64 / 2;
            if !keeps_up {
                steady_since = Instant::now();
            } else if steady_since.elapsed() >= STEADY {
                return;
            }
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
        self.log
            .notes
            .push(format!("Kafka did not catch up within {} s", timeout.as_secs()));
    }
}

// === impl Monitor ===

impl Monitor {
    /// A line a second, and the gateway's metrics.
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
            let p99 = self.counters.phases.summary(phase, Protocol::Mqtt).latency.p99_ms;
            say(
                at,
                &format!(
                    "{phase:<7} sent {}/s  acknowledged {}/s  in Kafka {}  behind {}  waiting {}  sent again {}  mqtt p99 {}",
                    per_second(total.sent, before.1),
                    per_second(total.acknowledged, before.2),
                    grouped(self.topic_reader.distinct()),
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
            self.metrics().observe(&text);
        }
    }

    /// What contradicts `received = delivered + spooled + rejected + busy` now that the fleet has stopped.
    async fn imbalance(&self) -> Option<String> {
        let deadline = Instant::now() + BALANCE_TIMEOUT;
        loop {
            self.scrape().await;
            let (received, ended) = {
                let metrics = self.metrics();
                let now = |name| metrics.sum_now(name);
                (now("citygate_readings_received_total"), now("citygate_readings_total"))
            };
            if received == ended {
                return None;
            }
            if Instant::now() >= deadline {
                return Some(format!(
                    "the gateway counts {received} readings received and {ended} ended, after the fleet has stopped"
                ));
            }
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
    }

    fn acknowledged(&self) -> u64 {
        self.counters.snapshot().total().acknowledged
    }

    /// Readings that are acknowledged and not yet seen in Kafka.
    fn behind(&self) -> u64 {
        let behind = self.acknowledged().saturating_sub(self.topic_reader.distinct());
        self.behind_max.fetch_max(behind, Ordering::Relaxed);
        behind
    }

    /// Readings that devices still have in hand.
    fn waiting(&self) -> u64 {
        let total = self.counters.snapshot().total();
        let ended = total.acknowledged + total.rejected + total.busy + total.unanswered;
        total.sent.saturating_sub(ended)
    }

    fn metrics(&self) -> std::sync::MutexGuard<'_, GatewayMetrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To the people who watch; the result goes to standard output.
fn say(at: Duration, what: &str) {
    eprintln!("{:>8.2} s  {what}", at.as_secs_f64());
}
