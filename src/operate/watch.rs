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
        let watcher = match watch(folders, names, changed) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(%error, "changes of {setting} are not noticed; send SIGHUP after each");
                None
            }
        };
        Watch {
            changes,
            hangups: signal(SignalKind::hangup()).ok(),
            watcher,
            folders: folders.to_vec(),
        }
    }

    /// The next change, or SIGHUP.
    pub async fn changed(&mut self) {
        let Watch {
            changes,
            hangups,
            watcher,
            folders,
        } = self;
        tokio::select! {
            Some(change) = changes.recv() => settled(change, changes).await,
            () = hangup(hangups) => {}
        }
        // A folder that was replaced is another one.
        if let Some(watcher) = watcher {
            for folder in folders {
                watcher.unwatch(folder).ok();
                if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                    warn!(%error, "changes in {} are not noticed; send SIGHUP after each", folder.display());
                }
            }
        }
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
fn watch(
    folders: &[PathBuf],
    names: Vec<OsString>,
    changed: mpsc::Sender<Change>,
) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
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
    })?;
    for folder in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}
