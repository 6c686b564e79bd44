//! Files that may change while the gateway runs: identities, certificates.
//!
//! The kernel tells of changes in a folder. They are told once nothing more has changed for a moment and files that were written
//! are closed, since an editor writes in several steps; SIGHUP tells at once. Where the kernel does not tell (some network file
//! systems), SIGHUP is left.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::warn;

/// Changes are told once there were no more for so long.
const SETTLED: Duration = Duration::from_millis(200);

/// The same, while a file is being written: until it is closed, or for so long.
const WRITTEN: Duration = Duration::from_secs(2);

/// How often a folder that is gone, or was not watched for another reason, is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Changes are told at the latest after so many.
const CHANGES_MAX: usize = 50;

/// What the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// A file was written to, and is not closed yet.
    Begun,
    Done,
}

/// Tells of changes in some folders.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<Change>,
    hangups: Option<Signal>,
    watcher: Option<RecommendedWatcher>,
    folders: Vec<PathBuf>,
    /// Those of them that could not be watched.
    unwatched: Vec<PathBuf>,
}

impl Watch {
    /// All that changes in them. `setting` names them, should the kernel not tell.
    pub fn new(folders: &[PathBuf], setting: &str) -> Self {
        Self::of(folders, Vec::new(), setting)
    }

    /// These files alone, and links that orchestrators replace for all of a folder (`..data`).
    pub fn of_files(files: &[PathBuf], setting: &str) -> Self {
        let folder = |file: &PathBuf| {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            folder.unwrap_or(Path::new(".")).to_owned()
        };
        let mut folders: Vec<_> = files.iter().map(folder).collect();
        folders.dedup();
        let names = files.iter().filter_map(|file| file.file_name().map(OsStr::to_owned));
        Self::of(&folders, names.collect(), setting)
    }

    fn of(folders: &[PathBuf], names: Vec<OsString>, setting: &str) -> Self {
        let (changed, changes) = mpsc::channel(CHANGES_MAX);
        let watcher = watcher(names, changed);
        if let Err(error) = &watcher {
            warn!(%error, "changes of {setting} are not noticed; send SIGHUP after each");
        }
        let mut watch = Watch {
            changes,
            hangups: signal(SignalKind::hangup()).ok(),
            watcher: watcher.ok(),
            folders: folders.to_vec(),
            unwatched: Vec::new(),
        };
        watch.watch_folders();
        watch
    }

    /// The next change, or SIGHUP.
    pub async fn changed(&mut self) {
        loop {
            let is_incomplete = !self.unwatched.is_empty();
            tokio::select! {
                Some(change) = self.changes.recv() => break settled(change, &mut self.changes).await,
                () = hangup(&mut self.hangups) => break,
                () = tokio::time::sleep(LOOK_AGAIN), if is_incomplete => {
                    if self.find_again() {
                        return;
                    }
                }
            }
        }
        // A folder that was replaced is another one.
        self.watch_folders();
    }

    /// Watches all of them anew; one that cannot be is said.
    fn watch_folders(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let before = std::mem::take(&mut self.unwatched);
        for folder in &self.folders {
            watcher.unwatch(folder).ok();
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                if !before.contains(folder) {
                    let (folder, every) = (folder.display(), LOOK_AGAIN);
                    warn!(%error, "changes in {folder} are not noticed; it is looked for every {every:?}");
                }
                self.unwatched.push(folder.clone());
            }
        }
    }

    /// Whether one that was not watched is: what is in it may be new.
    fn find_again(&mut self) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let before = self.unwatched.len();
        self.unwatched
            .retain(|folder| watcher.watch(folder, RecursiveMode::NonRecursive).is_err());
        self.unwatched.len() < before
    }
}

async fn hangup(hangups: &mut Option<Signal>) {
    let heard = match hangups {
        Some(hangups) => hangups.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}

/// Waits until nothing more changes.
async fn settled(first: Change, changes: &mut mpsc::Receiver<Change>) {
    let mut last = first;
    for _ in 0..CHANGES_MAX {
        let wait = if last == Change::Begun { WRITTEN } else { SETTLED };
        match tokio::time::timeout(wait, changes.recv()).await {
            Ok(Some(change)) => last = change,
            Ok(None) | Err(_) => return,
        }
    }
}

/// Folders are watched, not their files: editors and orchestrators replace those.
fn watcher(names: Vec<OsString>, changed: mpsc::Sender<Change>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let concerns = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            names.iter().any(|wanted| wanted == name) || name.as_encoded_bytes().starts_with(b"..")
        };
        if let Ok(event) = &event
            && !names.is_empty()
            && !event.paths.is_empty()
            && !event.paths.iter().any(concerns)
        {
            return;
        }
        let change = match event.map(|event| event.kind) {
            Ok(EventKind::Access(AccessKind::Close(AccessMode::Write))) => Change::Done,
            // Reading is no change, and would be noticed for ever.
            Ok(EventKind::Access(_)) => return,
            Ok(EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(_)) => Change::Begun,
            _ => Change::Done,
        };
        // With as many as wait, one more says nothing new.
        changed.try_send(change).ok();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change that is told, or nothing for ten seconds.
    async fn told(watch: &mut Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(10), watch.changed())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn a_folder_that_was_gone_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let (folder, moved) = (root.path().join("devices"), root.path().join("moved"));
        std::fs::create_dir(&folder).unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&folder), "devices.folder");
        std::fs::rename(&folder, &moved).unwrap();
        assert!(told(&mut watch).await, "that it is gone");
        assert!(watch.unwatched.contains(&folder));
        std::fs::rename(&moved, &folder).unwrap();
        assert!(told(&mut watch).await, "that it is back");
        std::fs::write(folder.join("a.toml"), "").unwrap();
        assert!(told(&mut watch).await, "what changes in it then");
        assert!(watch.unwatched.is_empty());
    }
}
