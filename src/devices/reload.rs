//! Reads the identity files again when they change, or at SIGHUP.
//!
//! The kernel tells of changes; they are read once nothing more has changed for a moment, since an editor writes in several
//! steps. What has a mistake changes nothing: the log, `/status` and a metric say so until it is mended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::authenticate::now_s;
use super::metrics::Metrics;
use super::{Devices, Register, files};
use crate::operate::mistake::Mistakes;

/// Files are read once they have not changed for so long, but at the latest after ten times as long.
const SETTLED: Duration = Duration::from_millis(200);

/// Keeps [`Devices`] as its folder says.
#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    devices: Arc<Devices>,
    metrics: Metrics,
}

// === impl Source ===

impl Source {
    /// Of a folder as it was read at the start.
    pub fn new(folder: &Path, register: Register, metrics: Metrics) -> Arc<Self> {
        let source = Source {
            folder: folder.to_owned(),
            devices: Arc::new(Devices::new(register)),
            metrics,
        };
        source.measure();
        Arc::new(source)
    }

    pub fn devices(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// Reads the files, and puts them in force if they have no mistake. Blocks.
    pub fn reload(&self) {
        let read = files::read(&self.folder, &self.devices.register());
        match read {
            Ok(register) => {
                let devices = register.len();
                self.devices.replace(register);
                self.measure();
                info!(devices, "identities are read again");
            }
            Err(mistakes) => {
                self.metrics.devices_last_reload_successful.set(0);
                error!("identities are not read again, those before stay in force:\n{mistakes}");
                self.devices.not_replaced(first_of(&mistakes));
            }
        }
    }

    fn measure(&self) {
        self.metrics.devices.set(self.devices.register().len() as i64);
        self.metrics.devices_last_reload_successful.set(1);
        self.metrics.devices_last_reload_success_timestamp_seconds.set(now_s());
    }

    /// Reads the files at every change, until `stopping`.
    pub async fn keep(self: Arc<Self>, stopping: CancellationToken) {
        let (changed, mut changes) = mpsc::channel(1);
        // Kept until the end: dropped, it watches nothing.
        let _watcher = match watch(&self.folder, changed.clone()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(%error, "changes of devices.folder are not noticed; send SIGHUP after each");
                None
            }
        };
        let mut hangups = signal(SignalKind::hangup()).ok();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = changes.recv() => settled(&mut changes).await,
                () = hangup(&mut hangups) => {}
            }
            let source = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || source.reload()).await {
                error!(%error, "identities could not be read again");
            }
        }
    }
}

async fn hangup(hangups: &mut Option<tokio::signal::unix::Signal>) {
    let heard = match hangups {
        Some(hangups) => hangups.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}

/// Waits until nothing more changes.
async fn settled(changes: &mut mpsc::Receiver<()>) {
    for _ in 0..10 {
        if tokio::time::timeout(SETTLED, changes.recv()).await.is_err() {
            return;
        }
        // One at a time is queued: wait, rather than count them.
        tokio::time::sleep(SETTLED).await;
    }
}

/// The folder itself is watched, not its files: editors and orchestrators replace them.
fn watch(folder: &Path, changed: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change, and would be noticed for ever.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // One that waits says all.
            changed.try_send(()).ok();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn first_of(mistakes: &Mistakes) -> String {
    let first = mistakes.0.first().map(ToString::to_string).unwrap_or_default();
    match mistakes.0.len() {
        0 | 1 => first,
        more => format!("{first} (and {} more)", more - 1),
    }
}
