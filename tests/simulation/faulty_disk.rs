//! A disk in memory that keeps only what POSIX makes it keep, and has every fault the spool must live with.
//!
//! A write goes to what processes see and to a list of dirty writes; `sync` makes it durable. A power loss keeps a random
//! part of what was not synced, sector by sector, and a random prefix of the names that were not; a kill keeps all but
//! what was lost already when a sync failed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use citygate::deliver::spool::disk::{Disk, DiskFile, Identity, Listed, Lock, Mode};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// The unit in which a write is torn.
const SECTOR: usize = 512;

/// A promise that the disk breaks without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// `sync` does nothing.
    Sync,
    /// `sync_folder` does nothing.
    SyncFolder,
    /// A `sync` that failed says that it did not.
    FailedSync,
}

/// What is taken away under the running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// `rm -r` of the folder.
    Folder,
    /// `rm -r` of the folder, and `mkdir`, and something else in it.
    FolderReplaced,
    /// `mv` of the folder to another name.
    FolderRenamed,
    /// `rm` of one of the segments or the cursor.
    File,
    /// Another file under the name of one of them.
    FileReplaced,
}

/// Runs while a sync is under way, as other threads do.
pub type DuringSync = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
    during_sync: Arc<Mutex<Option<DuringSync>>>,
}

struct State {
    rng: StdRng,
    lie: Option<Lie>,
    files: Vec<File>,
    /// Folders, by what they are; one that is made is durable at once.
    folders: BTreeMap<PathBuf, u64>,
    folders_made: u64,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_changes: Vec<Change>,
    /// Handles of an earlier life are dead.
    life: u64,
    /// Folders whose lock is held.
    locked: BTreeSet<u64>,
    uptime: Duration,
    capacity: u64,
    faults: Faults,
}

#[derive(Debug, Default)]
pub struct Faults {
    /// The power goes after so many operations.
    pub operations_left: Option<u64>,
    pub fail_next_sync: bool,
    /// Even a write over existing bytes finds no room, perhaps after a part of it.
    pub no_room_to_overwrite: bool,
    /// It did so since the last crash.
    pub refused: bool,
    pub short_writes: bool,
    /// Every so many operations, one finds the machine short of something; 0: none.
    pub shortage: u32,
    /// One did since the last crash.
    pub was_short: bool,
    /// Something went wrong since the last crash that no working disk does.
    pub struck: bool,
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    now: Vec<u8>,
    dirty: Vec<(usize, Vec<u8>)>,
    /// What processes see may be better than what is stored: a sync failed.
    doubtful: bool,
}

#[derive(Clone)]
enum Change {
    Set(PathBuf, usize),
    Remove(PathBuf),
}

struct Handle {
    disk: FaultyDisk,
    file: usize,
    life: u64,
}

/// A folder that is held open: nothing is read from it or written to it.
struct HeldFolder {
    disk: FaultyDisk,
    inode: u64,
    life: u64,
}

struct Held {
    disk: FaultyDisk,
    folder: u64,
    life: u64,
}

// === impl FaultyDisk ===

impl FaultyDisk {
    pub fn new(seed: u64, capacity: u64, lie: Option<Lie>) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed ^ 0xD15C),
            lie,
            files: Vec::new(),
            folders: BTreeMap::new(),
            folders_made: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            life: 0,
            locked: BTreeSet::new(),
            uptime: Duration::ZERO,
            capacity,
            faults: Faults::default(),
        };
        FaultyDisk {
            state: Arc::new(Mutex::new(state)),
            during_sync: Arc::default(),
        }
    }

    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().unwrap().faults);
    }

    pub fn has_refused(&self) -> bool {
        self.state.lock().unwrap().faults.refused
    }

    pub fn was_short(&self) -> bool {
        self.state.lock().unwrap().faults.was_short
    }

    pub fn has_struck(&self) -> bool {
        self.state.lock().unwrap().faults.struck
    }

    pub fn set_capacity(&self, capacity: u64) {
        self.state.lock().unwrap().capacity = capacity;
    }

    pub fn pass(&self, time: Duration) {
        self.state.lock().unwrap().uptime += time;
    }

    pub fn during_sync(&self, hook: DuringSync) {
        *self.during_sync.lock().unwrap() = Some(hook);
    }

    pub fn no_hook(&self) {
        *self.during_sync.lock().unwrap() = None;
    }

    /// What operators and cleaners of temporary files do under a running gateway.
    pub fn take_away(&self, folder: &Path, taken: Taken) -> bool {
        self.state.lock().unwrap().take_away(folder, taken)
    }

    /// The folder that was made last.
    pub fn newest_folder(&self) -> PathBuf {
        let state = self.state.lock().unwrap();
        let newest = state.folders.iter().max_by_key(|(_, inode)| **inode);
        newest.unwrap().0.clone()
    }

    /// The process ends, and with a power loss the machine does, too. Faults end with it.
    pub fn crash(&self, power_loss: bool) {
        let mut state = self.state.lock().unwrap();
        state.life += 1;
        state.locked.clear();
        state.faults = Faults::default();
        if power_loss {
            state.lose_power();
        } else if state.rng.random() {
            state.forget_doubtful_pages();
        }
    }

    /// Bytes of all files of a folder but the cursor (and its copies).
    pub fn used(&self, folder: &Path) -> u64 {
        let state = self.state.lock().unwrap();
        let counted = state
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(folder))
            .filter(|(name, _)| name.file_stem().is_some_and(|stem| stem != "cursor"));
        counted.map(|(_, file)| state.files[*file].now.len() as u64).sum()
    }

    /// Flips a bit of what is stored, behind the header of a segment or in the cursor. Returns where.
    pub fn flip_bit(&self) -> Option<(PathBuf, usize)> {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let flippable = |name: &Path| name.ends_with("cursor") || name.extension().is_some_and(|end| end == "segment");
        let names: Vec<_> = state.names.iter().filter(|(name, _)| flippable(name)).collect();
        if names.is_empty() {
            return None;
        }
        let (name, file) = names[state.rng.random_range(0..names.len())];
        let start = if name.ends_with("cursor") { 0 } else { 64 };
        let content = &mut state.files[*file];
        let end = content.now.iter().rposition(|byte| *byte != 0)? + 1;
        if end <= start {
            return None;
        }
        let at = state.rng.random_range(start..end);
        let bit = 1 << state.rng.random_range(0..8);
        // Whichever copy of it counts in the end.
        let dirty = content.dirty.iter_mut();
        let dirty = dirty.filter_map(|(offset, bytes)| bytes.get_mut(at.checked_sub(*offset)?));
        let copies = [content.now.get_mut(at), content.durable.get_mut(at)];
        copies.into_iter().flatten().chain(dirty).for_each(|byte| *byte ^= bit);
        Some((name.clone(), at))
    }

    /// Cuts a segment short, or overwrites its beginning with zeros, of what is stored. Returns whether there was one.
    pub fn cut_or_zero(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let is_segment = |name: &Path| name.extension().is_some_and(|end| end == "segment");
        let segments: Vec<_> = state.names.iter().filter(|(name, _)| is_segment(name)).collect();
        if segments.is_empty() {
            return false;
        }
        let (_, file) = segments[state.rng.random_range(0..segments.len())];
        let content = &mut state.files[*file];
        let at = state.rng.random_range(0..content.now.len());
        let cut = state.rng.random();
        for copy in [&mut content.now, &mut content.durable] {
            match cut {
                true => copy.truncate(at),
                false => copy.iter_mut().take(at).for_each(|byte| *byte = 0),
            }
        }
        content.dirty.clear();
        true
    }

    fn operate<R>(&self, life: u64, operation: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        self.operate_at_all(life, |state| {
            state.shortage()?;
            operation(state)
        })
    }

    fn operate_at_all<R>(&self, life: u64, operation: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.state.lock().unwrap();
        if state.life != life {
            return Err(io::Error::other("a handle of an earlier life"));
        }
        state.uptime += Duration::from_micros(50);
        match &mut state.faults.operations_left {
            Some(0) => {
                state.faults.struck = true;
                return Err(io::Error::other("the power is out"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        operation(&mut state)
    }

    fn life(&self) -> u64 {
        self.state.lock().unwrap().life
    }
}

// === impl State ===

impl State {
    fn lose_power(&mut self) {
        let kept = self.rng.random_range(0..=self.name_changes.len());
        for change in self.name_changes.drain(..).take(kept) {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        for file in &mut self.files {
            file.keep_some(&mut self.rng);
            file.now = file.durable.clone();
            file.doubtful = false;
        }
    }

    fn forget_doubtful_pages(&mut self) {
        for file in self.files.iter_mut().filter(|file| file.doubtful) {
            file.forget_some(&mut self.rng);
        }
    }

    /// Now and then the machine is short of something. Nothing was done then.
    fn shortage(&mut self) -> io::Result<()> {
        let every = self.faults.shortage;
        if every == 0 || !self.rng.random_ratio(1, every) {
            return Ok(());
        }
        self.faults.was_short = true;
        // ENFILE, EMFILE, ENOMEM, EINTR, EAGAIN.
        let errno = [23, 24, 12, 4, 11][self.rng.random_range(0..5)];
        Err(io::Error::from_raw_os_error(errno))
    }

    fn free(&self) -> u64 {
        let used: u64 = self.names.values().map(|file| self.files[*file].now.len() as u64).sum();
        self.capacity.saturating_sub(used)
    }

    fn take_away(&mut self, folder: &Path, taken: Taken) -> bool {
        let wanted = |path: &PathBuf| path.ends_with("cursor") || path.extension().is_some_and(|end| end == "segment");
        let inside: Vec<_> = self
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(folder))
            .collect();
        let inside: Vec<(PathBuf, usize)> = inside.into_iter().map(|(path, file)| (path.clone(), *file)).collect();
        let files: Vec<_> = inside.iter().filter(|(path, _)| wanted(path)).collect();
        if files.is_empty() {
            return false;
        }
        let (one, _) = files[self.rng.random_range(0..files.len())];
        match taken {
            Taken::File => self.rename(Change::Remove(one.clone())),
            Taken::FileReplaced => self.put(one.clone()),
            Taken::Folder | Taken::FolderReplaced => {
                self.folders.remove(folder);
                inside
                    .iter()
                    .for_each(|(path, _)| self.rename(Change::Remove(path.clone())));
            }
            Taken::FolderRenamed => {
                let moved = PathBuf::from(format!("moved-{}", self.folders.len()));
                let inode = self.folders.remove(folder).unwrap();
                self.folders.insert(moved.clone(), inode);
                for (path, file) in &inside {
                    self.rename(Change::Set(moved.join(path.file_name().unwrap()), *file));
                }
            }
        }
        if taken == Taken::FolderReplaced {
            self.folders_made += 1;
            self.folders.insert(folder.to_owned(), self.folders_made);
            self.put(folder.join("notes.txt"));
        }
        true
    }

    /// A file that is not the spool's; empty, so that it does not count against the spool's budget.
    fn put(&mut self, path: PathBuf) {
        self.files.push(File::default());
        self.rename(Change::Remove(path.clone()));
        self.rename(Change::Set(path, self.files.len() - 1));
    }

    fn rename(&mut self, change: Change) {
        change.clone().apply(&mut self.names);
        self.name_changes.push(change);
    }
}

// === impl File ===

impl File {
    /// Some sectors of some writes reach the disk; the rest is gone.
    fn keep_some(&mut self, rng: &mut impl Rng) {
        let share = [0.0, 0.3, 0.9, 1.0][rng.random_range(0..4)];
        for (offset, bytes) in std::mem::take(&mut self.dirty) {
            let mut at = 0;
            while at < bytes.len() {
                let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
                if rng.random_bool(share) {
                    write(&mut self.durable, offset + at, &bytes[at..end]);
                }
                at = end;
            }
        }
    }

    /// Some pages are read from the disk again.
    fn forget_some(&mut self, rng: &mut impl Rng) {
        let mut stored = self.durable.clone();
        for (offset, bytes) in &self.dirty {
            write(&mut stored, *offset, bytes);
        }
        stored.resize(self.now.len(), 0);
        for (now, stored) in self.now.chunks_mut(SECTOR).zip(stored.chunks(SECTOR)) {
            if rng.random() {
                now.copy_from_slice(stored);
            }
        }
    }

    fn sync(&mut self) {
        for (offset, bytes) in self.dirty.drain(..) {
            write(&mut self.durable, offset, &bytes);
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Change {
    fn apply(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Change::Set(path, file) => {
                // A rename: the file has one name.
                names.retain(|_, other| *other != file);
                names.insert(path, file);
            }
            Change::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.operate(self.life(), |state| {
            if !state.folders.contains_key(folder) {
                state.folders_made += 1;
                state.folders.insert(folder.to_owned(), state.folders_made);
            }
            Ok(())
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Listed>> {
        self.operate(self.life(), |state| {
            let inside = state.names.iter().filter(|(path, _)| path.parent() == Some(folder));
            let listed = inside.map(|(path, file)| Listed {
                name: path.file_name().unwrap().to_string_lossy().into_owned(),
                bytes: state.files[*file].now.len() as u64,
                is_folder: false,
            });
            Ok(listed.collect())
        })
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let life = self.life();
        let file = self.operate(life, |state| match state.names.get(path) {
            Some(file) => Ok(*file),
            None if mode == Mode::Create && state.folders.contains_key(path.parent().unwrap()) => {
                let file = state.files.len();
                state.files.push(File::default());
                state.rename(Change::Set(path.to_owned(), file));
                Ok(file)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        })?;
        let disk = self.clone();
        Ok(Box::new(Handle { disk, file, life }))
    }

    fn open_folder(&self, folder: &Path) -> io::Result<Box<dyn DiskFile>> {
        let (disk, life) = (self.clone(), self.life());
        let inode = self.operate(life, |state| {
            Ok(*state.folders.get(folder).ok_or(io::ErrorKind::NotFound)?)
        })?;
        Ok(Box::new(HeldFolder { disk, inode, life }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(self.life(), |state| {
            let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            assert!(state.folders.contains_key(to.parent().unwrap()));
            state.rename(Change::Set(to.to_owned(), file));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(self.life(), |state| {
            state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
            state.rename(Change::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.operate(self.life(), |state| {
            state.folders.get(folder).ok_or(io::ErrorKind::NotFound)?;
            if !matches!(state.lie, Some(Lie::SyncFolder | Lie::Sync)) {
                state.name_changes.clear();
                state.durable_names = state.names.clone();
            }
            Ok(())
        })
    }

    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        self.operate(self.life(), |state| {
            let folder = state.folders.get(path).map(|inode| Identity {
                device: 1,
                inode: *inode,
            });
            Ok(folder.or_else(|| state.names.get(path).map(|file| identity(*file))))
        })
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        self.operate(self.life(), |state| Ok(state.free()))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let life = self.life();
        let (free, folder) = self.operate(life, |state| {
            let folder = state.folders.get(path.parent().unwrap());
            let folder = *folder.ok_or(io::ErrorKind::NotFound)?;
            Ok((state.locked.insert(folder), folder))
        })?;
        let disk = self.clone();
        Ok(free.then(|| Box::new(Held { disk, folder, life }) as Box<dyn Lock>))
    }

    fn uptime(&self) -> Duration {
        self.state.lock().unwrap().uptime
    }
}

impl DiskFile for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.operate(self.life, |state| {
            let content = &state.files[self.file].now;
            let rest = content.get(offset as usize..).unwrap_or_default();
            let bytes = rest.len().min(buffer.len());
            buffer[..bytes].copy_from_slice(&rest[..bytes]);
            Ok(bytes)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.disk.operate(self.life, |state| {
            let offset = offset as usize;
            let growth = (offset + bytes.len()).saturating_sub(state.files[self.file].now.len()) as u64;
            let refused = state.faults.no_room_to_overwrite;
            state.faults.refused |= refused;
            if growth > state.free() || (refused && (bytes.len() == 1 || state.rng.random())) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            // The last one before the power goes may be cut anywhere.
            let cut = state.faults.operations_left == Some(0) || (state.faults.short_writes && state.rng.random());
            let length = match (refused, cut) {
                (true, _) => state.rng.random_range(1..bytes.len()),
                (false, true) => state.rng.random_range(1..=bytes.len()),
                (false, false) => bytes.len(),
            };
            let file = &mut state.files[self.file];
            write(&mut file.now, offset, &bytes[..length]);
            file.dirty.push((offset, bytes[..length].to_vec()));
            Ok(length)
        })
    }

    fn identity(&self) -> io::Result<Identity> {
        self.disk.operate(self.life, |_| Ok(identity(self.file)))
    }

    fn sync(&self) -> io::Result<()> {
        // Taken out first: what it does may sync in its turn.
        let hook = self.disk.during_sync.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        self.disk.operate_at_all(self.life, |state| {
            let slow = state.rng.random_range(100..20_000);
            state.uptime += Duration::from_micros(slow);
            // What was written since the last sync may or may not be stored then.
            let short = state.shortage().err();
            let file = &mut state.files[self.file];
            if short.is_some() || std::mem::take(&mut state.faults.fail_next_sync) {
                // As Linux does: the pages are clean now, and what they held is still shown to whoever reads, until
                // they are needed for something else.
                file.keep_some(&mut state.rng);
                file.doubtful = true;
                if let Some(short) = short {
                    return Err(short);
                }
                if state.lie == Some(Lie::FailedSync) {
                    return Ok(());
                }
                state.faults.struck = true;
                return Err(io::Error::other("fsync failed"));
            }
            if state.lie != Some(Lie::Sync) {
                file.sync();
            }
            Ok(())
        })
    }
}

impl DiskFile for HeldFolder {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::IsADirectory.into())
    }

    fn identity(&self) -> io::Result<Identity> {
        let inode = self.inode;
        self.disk.operate(self.life, |_| Ok(Identity { device: 1, inode }))
    }

    fn path(&self) -> Option<PathBuf> {
        let state = self.disk.state.lock().unwrap();
        let named = state.folders.iter().find(|(_, inode)| **inode == self.inode);
        named.map(|(path, _)| path.clone())
    }
}

fn identity(file: usize) -> Identity {
    let inode = file as u64;
    Identity { device: 2, inode }
}

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock().unwrap();
        if state.life == self.life {
            state.locked.remove(&self.folder);
        }
    }
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyDisk")
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.file)
    }
}

impl fmt::Debug for HeldFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldFolder({})", self.inode)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}
