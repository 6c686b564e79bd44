//! One seed: a life of appends, reads and commits, with crashes and faults of the disk in between, checked against the
//! model after each step. Everything is drawn from the seed, so that a finding can be repeated. The model is in
//! `model`, the disk in `faulty_disk`.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytesize::ByteSize;
use citygate::deliver::spool::writer::{Next, Writer};
use citygate::deliver::spool::{self, Config, Damage, Failure, Recovery, Spool};
use citygate::operate::clock::Clock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::faulty_disk::{Faults, FaultyDisk, Lie, Taken};
use crate::model::Model;

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub bit_flips: bool,
    /// Between two lives, a segment is cut short or overwritten with zeros where it begins.
    pub losses: bool,
    /// The machine is short of descriptors and memory now and then, and nothing else is wrong but kills.
    pub shortages: bool,
    /// Files are taken away under the running process.
    pub taken: Option<Taken>,
    pub lie: Option<Lie>,
}

impl Options {
    /// What was acknowledged may be lost, and must be reported then.
    fn damages(&self) -> bool {
        self.bit_flips || self.losses
    }
}

/// What happened, to know that it did.
#[derive(Debug, Default)]
pub struct Seen {
    durable: u64,
    kills: u64,
    power_losses: u64,
    torn_tails: u64,
    failed: u64,
    full: u64,
    busy: u64,
    damage: u64,
    lost_and_reported: u64,
    segments_made: u64,
    short: u64,
    taken: u64,
    losses: u64,
}

/// A wall clock that is set back and forth.
#[derive(Debug, Default)]
struct SteppingClock(Mutex<i64>);

type Told = Arc<Mutex<Vec<Vec<(u64, Result<u64, Failure>)>>>>;

struct World {
    rng: StdRng,
    options: Options,
    config: Config,
    disk: FaultyDisk,
    clock: Arc<SteppingClock>,
    model: Arc<Mutex<Model>>,
    told: Told,
    life: Option<(Arc<Spool<u64>>, Writer<u64>)>,
    /// Damage that was reported by a start that was cut short.
    reported: Vec<Damage>,
    /// A start was cut short that may have logged damage and not returned it, or cut a tail.
    unheard: bool,
    /// Lost entries that this life knows of.
    damaged_entries: u64,
    seen: Seen,
}

const ACTIONS: u64 = 120;
const ROOMY: u64 = 1 << 20;

/// Runs a seed; `Err` is a finding.
pub fn run(seed: u64, options: Options) -> Result<Seen, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let segment_bytes = [2048, 4096, 9000][rng.random_range(0..3)];
    let config = Config {
        folder: "spool".into(),
        segment_bytes: ByteSize::b(segment_bytes),
        bytes_max: ByteSize::b(segment_bytes * rng.random_range(2..9)),
        free_bytes_min: ByteSize::b(0),
        queue_bytes: ByteSize::b(4000),
        ..Config::default()
    };
    let mut world = World {
        disk: FaultyDisk::new(seed, ROOMY, options.lie),
        rng,
        options,
        config,
        clock: Arc::default(),
        model: Arc::default(),
        told: Told::default(),
        life: None,
        reported: Vec::new(),
        unheard: false,
        damaged_entries: 0,
        seen: Seen::default(),
    };
    world.open()?;
    for step in 0..ACTIONS {
        world.act().map_err(|finding| format!("step {step}: {finding}"))?;
        world
            .check()
            .map_err(|finding| format!("after step {step}: {finding}"))?;
    }
    world.restart(true)?;
    let model = world.model.lock().unwrap();
    world.seen.durable = model.told_durable();
    world.seen.lost_and_reported = model.reported_loss;
    drop(model);
    Ok(world.seen)
}

// === impl World ===

impl World {
    fn act(&mut self) -> Result<(), String> {
        let choice = self.rng.random_range(0..100);
        if std::env::var("TEST_SEED").is_ok() {
            println!(
                "action {choice}: {:?} {:?}",
                self.disk.used(&self.config.folder),
                self.life.as_ref().map(|life| &life.1)
            );
        }
        match choice {
            0..30 => self.append(),
            30..48 => self.turn(),
            48..50 if !self.options.shortages => self.lose_power_while_writing(),
            48..50 => self.turn(),
            50..60 => {
                self.append();
                self.append_during_sync();
                self.turn()
            }
            60..70 => return self.read(),
            70..72 => self.rewind(),
            72..80 => self.commit_oldest(),
            80..84 => self.commit_any(),
            84..87 => self.pass_time(),
            87..89 if self.options.shortages => self.be_short(),
            87..89 if self.options.taken.is_some() => return self.take_away(),
            87..89 => self.break_something(),
            89..91 => {
                let capacity = self.rng.random_range(0..3 * self.config.bytes_max.as_u64() / 2);
                self.disk.set_capacity(if self.rng.random() { ROOMY } else { capacity });
            }
            91..94 => return self.restart(false),
            94..97 => return self.restart(true),
            97..98 => return self.close(),
            _ if self.options.bit_flips => drop(self.disk.flip_bit()),
            _ => self.turn(),
        }
        Ok(())
    }

    // --- what a gateway does

    fn append(&mut self) {
        let Some((spool, _)) = &self.life else { return };
        for _ in 0..self.rng.random_range(1..8) {
            append(spool, &self.model, &mut self.seen);
        }
    }

    /// Appends and commits happen while the disk is busy.
    fn append_during_sync(&mut self) {
        let Some((spool, _)) = &self.life else { return };
        let (spool, model) = (spool.clone(), self.model.clone());
        let (appends, commit) = (self.rng.random_range(0..6), self.rng.random());
        self.disk.during_sync(Box::new(move || {
            for _ in 0..appends {
                append(&spool, &model, &mut Seen::default());
            }
            let mut model = model.lock().unwrap();
            if commit && let Some(sequence) = model.low() {
                spool.commit(sequence);
                model.commit(sequence);
            }
        }));
    }

    fn turn(&mut self) {
        let turns = self.rng.random_range(1..4);
        for _ in 0..turns {
            if let Some((_, writer)) = &mut self.life
                && writer.turn() == Next::Idle
            {
                break;
            }
        }
        self.disk.no_hook();
    }

    fn read(&mut self) -> Result<(), String> {
        let Some((spool, _)) = &self.life else { return Ok(()) };
        let entries_max = self.rng.random_range(1..40);
        let Ok(read) = spool.read(entries_max, self.rng.random_range(0..5000)) else {
            if !self.disk.has_struck() && !self.disk.was_short() {
                return Err("a read failed".into());
            }
            self.model.lock().unwrap().rewind();
            return Ok(());
        };
        let newly_lost = self.newly_lost();
        if newly_lost > 0 && !self.options.bit_flips {
            return Err("damage was reported, and there was none".into());
        }
        if read.len() > entries_max {
            return Err(format!("{} entries instead of {entries_max}", read.len()));
        }
        self.model.lock().unwrap().read(&read, newly_lost)
    }

    fn newly_lost(&mut self) -> u64 {
        let Some((spool, _)) = &self.life else { return 0 };
        let known = spool.status().damaged_entries;
        known - std::mem::replace(&mut self.damaged_entries, known)
    }

    fn rewind(&mut self) {
        let Some((spool, _)) = &self.life else { return };
        spool.rewind();
        self.model.lock().unwrap().rewind();
    }

    fn commit_oldest(&mut self) {
        let Some((spool, _)) = &self.life else { return };
        let mut model = self.model.lock().unwrap();
        let oldest: Vec<u64> = model.uncommitted().map(|(sequence, _)| sequence).collect();
        let count = self.rng.random_range(0..=oldest.len());
        for sequence in &oldest[..count] {
            spool.commit(*sequence);
            model.commit(*sequence);
        }
    }

    fn commit_any(&mut self) {
        let Some((spool, _)) = &self.life else { return };
        let mut model = self.model.lock().unwrap();
        if let Some(sequence) = model.any(self.rng.random()) {
            spool.commit(sequence);
            model.commit(sequence);
        }
        spool.commit(u64::MAX); // never given out
    }

    // --- what happens to it

    fn pass_time(&mut self) {
        self.disk.pass(Duration::from_millis(self.rng.random_range(0..3000)));
        *self.clock.0.lock().unwrap() += self.rng.random_range(-5000..20_000);
    }

    fn break_something(&mut self) {
        let choice = self.rng.random_range(0..5);
        let operations = self.rng.random_range(0..12);
        self.disk.faults(|faults| match choice {
            0 => faults.operations_left = Some(operations),
            1 => faults.fail_next_sync = true,
            2 => faults.no_room_to_overwrite = !faults.no_room_to_overwrite,
            3 => faults.shortage = if faults.shortage == 0 { 5 } else { 0 },
            _ => faults.short_writes = true,
        });
    }

    /// For a while, some or nearly all operations find the machine short of something.
    fn be_short(&mut self) {
        let every = [0, 0, 20, 5, 2][self.rng.random_range(0..5)];
        self.disk.faults(|faults| faults.shortage = every);
    }

    /// The next group, or the next look, finds out; the process ends. What was acknowledged is then found by the next,
    /// even after a power loss.
    fn take_away(&mut self) -> Result<(), String> {
        let Some((spool, _)) = &self.life else { return Ok(()) };
        let spool = spool.clone();
        // One misfortune at a time.
        self.disk.set_capacity(ROOMY);
        self.disk.faults(|faults| *faults = Faults::default());
        let Some(taken) = self
            .options
            .taken
            .filter(|taken| self.disk.take_away(&self.config.folder, *taken))
        else {
            return Ok(());
        };
        self.seen.taken += 1;
        // For a while there is no room for what is to be written anew.
        // (With nothing to be saved it would end at once, and a new folder count from 0.)
        let waits = self.model.lock().unwrap().uncommitted().next().is_some();
        let is_full = waits && taken == Taken::FolderRenamed && self.rng.random();
        if is_full {
            self.disk.set_capacity(0);
        }
        match self.rng.random_range(0..if is_full { 2 } else { 3 }) {
            0 => self.append(),
            1 => self.disk.pass(Duration::from_secs(1)),
            _ => {
                // It is noticed at the end.
                if let Some((_, writer)) = self.life.take() {
                    writer.finish();
                }
            }
        }
        for turn in 0..100 {
            match turn {
                30 if is_full && !spool.rescue().is_running => {
                    return Err("the rescue ended without room".into());
                }
                // What Kafka confirms meanwhile needs no place.
                40 if is_full => {
                    self.commit_oldest();
                    if self.model.lock().unwrap().uncommitted().next().is_none() {
                        self.disk.set_capacity(ROOMY);
                    }
                }
                50 => self.disk.set_capacity(ROOMY),
                _ => {}
            }
            if let Some((_, writer)) = &mut self.life {
                self.disk.pass(Duration::from_millis(100));
                let next = writer.turn();
                if spool.has_failed() && next == Next::Idle {
                    break;
                }
            }
        }
        self.tell()?;
        if !spool.has_failed() {
            return Err(format!("{taken:?} was not noticed"));
        }
        if spool.rescue().is_running {
            return Err(format!("{taken:?}: the rescue does not end"));
        }
        // What is in the spool can be read even now, for Kafka may be there.
        spool.rewind();
        self.model.lock().unwrap().rewind();
        let read = spool.read(usize::MAX, usize::MAX).map_err(|error| error.to_string())?;
        self.model.lock().unwrap().read(&read, 0)?;
        drop(spool);
        self.life = None;
        let power_loss = self.rng.random();
        self.disk.crash(power_loss);
        self.disk.set_capacity(ROOMY);
        if taken == Taken::FolderReplaced {
            self.config.folder = self.disk.newest_folder();
        }
        self.open()
    }

    /// Cuts a group in the middle.
    fn lose_power_while_writing(&mut self) {
        self.append();
        let operations = self.rng.random_range(0..4);
        self.disk.faults(|faults| faults.operations_left = Some(operations));
        self.turn();
    }

    fn close(&mut self) -> Result<(), String> {
        let Some((spool, writer)) = self.life.take() else {
            return Ok(());
        };
        writer.finish();
        self.tell()?;
        // Without a place for the cursor it stays where it was.
        let struck = spool.status().failed.is_some()
            || self.disk.has_struck()
            || self.disk.has_refused()
            || self.disk.was_short();
        let model = self.model.lock().unwrap();
        if model.is_waiting() {
            return Err("closed, and somebody was not told".into());
        }
        let low = model.low();
        drop((model, spool));
        self.disk.crash(false);
        self.open()?;
        // What was committed before a close is not replayed after it.
        let replayed = self.model.lock().unwrap().low();
        if !struck && !self.options.bit_flips && replayed < low {
            return Err(format!("{replayed:?} is replayed after a close at {low:?}"));
        }
        Ok(())
    }

    fn restart(&mut self, power_loss: bool) -> Result<(), String> {
        if power_loss {
            self.seen.power_losses += 1;
        } else {
            self.seen.kills += 1;
        }
        self.life = None;
        self.tell()?;
        self.disk.crash(power_loss);
        if self.options.losses && self.rng.random_ratio(1, 3) && self.disk.cut_or_zero() {
            self.seen.losses += 1;
        }
        // The start itself may be cut short.
        if !self.options.shortages && self.rng.random_ratio(1, 4) {
            let operations = self.rng.random_range(0..40);
            self.disk.faults(|faults| faults.operations_left = Some(operations));
            match self.try_open() {
                // What it reported is reported once.
                Ok((_, _, recovery)) => {
                    self.unheard |= recovery.torn_tail_bytes > 0 || recovery.damage.iter().any(|it| it.more_unknown);
                    self.reported.extend(recovery.damage);
                }
                Err(_) => self.unheard = true,
            }
            let power_loss = self.rng.random();
            self.disk.crash(power_loss);
        }
        self.open()
    }

    fn try_open(&self) -> Result<(Spool<u64>, Writer<u64>, Recovery), spool::Error> {
        let told = self.told.clone();
        let done = move |group| told.lock().unwrap().push(group);
        spool::open_stepwise(&self.config, Arc::new(self.disk.clone()), self.clock.clone(), done)
    }

    /// A new life: everything that is there is read once, and compared.
    fn open(&mut self) -> Result<(), String> {
        let opened = self.try_open().or_else(|error| match error {
            // A damaged cursor is kept aside, which takes room for a new one.
            spool::Error::Io { source, .. } if self.options.damages() && source.kind() == ErrorKind::StorageFull => {
                self.unheard = true;
                self.disk.set_capacity(ROOMY);
                self.try_open()
            }
            error => Err(error),
        });
        let (spool, writer, recovery) = opened.map_err(|error| format!("cannot be opened: {error}"))?;
        if std::env::var("TEST_SEED").is_ok() {
            // One seed is being looked at.
            println!("opened: {recovery:?} {:?}", spool.status());
        }
        self.seen.torn_tails += u64::from(recovery.torn_tail_bytes > 0);
        self.seen.damage += recovery.damage.len() as u64;
        if self.options.lie.is_none()
            && !self.options.damages()
            && !recovery.damage.iter().all(|damage| damage.maybe_unacknowledged)
        {
            return Err(format!("damage without a flipped bit: {:?}", recovery.damage));
        }
        let mut found = Vec::new();
        loop {
            let more = spool.read(7, 2000).map_err(|error| format!("a read failed: {error}"))?;
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        if found.len() as u64 > recovery.entries {
            return Err(format!(
                "{} entries were announced, {} found",
                recovery.entries,
                found.len()
            ));
        }
        spool.rewind();
        let more_unknown = recovery.damage.iter().any(|damage| damage.more_unknown);
        let reported = self
            .reported
            .drain(..)
            .chain(recovery.damage)
            // If the cursor is lost, too, nobody knows how many were in front of the first that was found.
            .map(|damage| match damage.missing.is_empty() && damage.offset > 0 {
                true => 0..damage.missing.end,
                false => damage.missing,
            });
        let reported: Vec<_> = reported.collect();
        // Flipped bits may make a last group look torn, which is reported as such.
        let anything = self.options.damages() && (recovery.torn_tail_bytes > 0 || self.unheard || more_unknown);
        self.unheard = false;
        self.model.lock().unwrap().recovered(&found, &reported, anything)?;
        self.damaged_entries = spool.status().damaged_entries;
        self.life = Some((Arc::new(spool), writer));
        Ok(())
    }

    // --- what must hold

    fn tell(&mut self) -> Result<(), String> {
        let groups = std::mem::take(&mut *self.told.lock().unwrap());
        let mut model = self.model.lock().unwrap();
        for group in groups {
            let refused = |why: &Failure| group.iter().filter(|(_, result)| result.as_ref() == Err(why)).count() as u64;
            self.seen.full += refused(&Failure::Full);
            self.seen.short += refused(&Failure::Short);
            model.told(group)?;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        self.tell()?;
        let (used, budget) = (self.disk.used(&self.config.folder), self.config.bytes_max.as_u64());
        if used > budget {
            return Err(format!("{used} bytes are used, {budget} are allowed"));
        }
        let Some((spool, _)) = &self.life else { return Ok(()) };
        let status = spool.status();
        if let Some(why) = status.failed {
            self.seen.failed += 1;
            if !self.disk.has_struck() {
                return Err(format!("failed without a fault: {why}"));
            }
            if self.model.lock().unwrap().is_waiting() {
                return Err("failed, and somebody was not told".into());
            }
            let power_loss = self.rng.random();
            return self.restart(power_loss);
        }
        if status.disk_bytes < used {
            return Err(format!(
                "{used} bytes are used, the spool knows of {}",
                status.disk_bytes
            ));
        }
        let uncommitted = self.model.lock().unwrap().uncommitted().count() as u64;
        if status.uncommitted_entries != uncommitted && !self.options.damages() {
            return Err(format!(
                "{} entries are said to be uncommitted, {uncommitted} are",
                status.uncommitted_entries
            ));
        }
        self.seen.segments_made = self
            .seen
            .segments_made
            .max(status.disk_bytes / self.config.segment_bytes.as_u64());
        Ok(())
    }
}

fn append(spool: &Spool<u64>, model: &Mutex<Model>, seen: &mut Seen) {
    let mut model = model.lock().unwrap();
    let id = model.offer();
    match spool.append(Model::entry(id), id) {
        Ok(()) => model.take(id),
        Err((_, _, Failure::Full)) => seen.full += 1,
        Err((_, _, Failure::Busy)) => seen.busy += 1,
        Err((_, _, Failure::Short)) => seen.short += 1,
        Err((_, _, Failure::Failed)) => {}
        Err((_, _, failure)) => panic!("{failure}"),
    }
}

// === impl Seen ===

impl Seen {
    pub fn add(&mut self, more: Seen) {
        self.durable += more.durable;
        self.kills += more.kills;
        self.power_losses += more.power_losses;
        self.torn_tails += more.torn_tails;
        self.failed += more.failed;
        self.full += more.full;
        self.busy += more.busy;
        self.damage += more.damage;
        self.lost_and_reported += more.lost_and_reported;
        self.short += more.short;
        self.taken += more.taken;
        self.losses += more.losses;
        self.segments_made = self.segments_made.max(more.segments_made);
    }

    /// A simulation in which nothing happens finds nothing.
    pub fn assert_everything_happened(&self, options: Options) {
        let mut happened = vec![self.durable, self.kills, self.power_losses, self.full, self.busy];
        match (options.shortages, options.taken) {
            (true, _) => happened.push(self.short),
            (_, Some(_)) => happened.push(self.taken),
            _ if options.losses => happened.extend([self.losses, self.lost_and_reported]),
            _ => happened.extend([self.short, self.torn_tails, self.failed]),
        }
        assert!(happened.iter().all(|times| *times > 100), "{self:?}");
        assert!(!options.shortages || self.failed == 0, "{self:?}");
        assert!(self.segments_made >= 4, "{self:?}");
        assert_eq!(options.damages(), self.lost_and_reported > 0, "{self:?}");
    }
}

impl Clock for SteppingClock {
    fn wall_ms(&self) -> i64 {
        *self.0.lock().unwrap()
    }
}
