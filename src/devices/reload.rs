//! Reads the identity files again when they change, or at SIGHUP.
//!
//! What has a mistake changes nothing: the log, `/status` and a metric say so until it is mended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::metrics::Metrics;
use super::{Devices, Register, files};
use crate::catalogue::Catalogue;
use crate::operate::clock::wall_s;
use crate::operate::mistake::Mistakes;
use crate::operate::watch::Watch;

/// Keeps [`Devices`] as its folder says.
#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    /// Whose kinds devices may write.
    catalogue: Catalogue,
    devices: Arc<Devices>,
    metrics: Metrics,
}

// === impl Source ===

impl Source {
    /// Of a folder as it was read at the start.
    pub fn new(folder: &Path, catalogue: Catalogue, register: Register, metrics: Metrics) -> Arc<Self> {
        let source = Source {
            folder: folder.to_owned(),
            catalogue,
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
            // As they were: nobody need look again.
            Ok(register) if register.is_same(&self.devices.register()) => self.devices.are_in_order(),
            Ok(register) => {
                let devices = register.len();
                self.devices.replace(register);
                info!(devices, "identities are read again");
                self.look_at_kinds();
            }
            Err(mistakes) => {
                self.metrics.devices_last_reload_successful.set(0);
                let first = first_of(&mistakes);
                // Said once, however often other files change.
                if self.devices.mistakes().as_ref() != Some(&first) {
                    error!("identities are not read again, those before stay in force:\n{mistakes}");
                }
                return self.devices.not_replaced(first);
            }
        }
        self.measure();
    }

    /// Says which devices may write what does not exist.
    fn look_at_kinds(&self) {
        let kinds = self.catalogue.snapshot();
        let known: Vec<_> = kinds.iter().map(|kind| &*kind.name).collect();
        if self.devices.register().kinds().iter().any(|kind| !known.contains(kind)) {
            let unknown = Mistakes(files::unknown_kinds(&self.folder, &known));
            warn!("identities are in force, of which some may write nothing:\n{unknown}");
        }
    }

    fn measure(&self) {
        self.metrics.devices.set(self.devices.register().len() as i64);
        self.metrics.devices_last_reload_successful.set(1);
        self.metrics.devices_last_reload_success_timestamp_seconds.set(wall_s());
    }

    /// Reads the files at every change, until `stopping`.
    pub async fn keep(self: Arc<Self>, stopping: CancellationToken) {
        let mut watch = Watch::new(std::slice::from_ref(&self.folder), "devices.folder");
        // What changed between the start's reading and this is told by nobody.
        self.clone().read_again().await;
        while stopping.run_until_cancelled(watch.changed()).await.is_some() {
            self.clone().read_again().await;
        }
    }

    async fn read_again(self: Arc<Self>) {
        if let Err(error) = tokio::task::spawn_blocking(move || self.reload()).await {
            error!(%error, "identities could not be read again");
        }
    }
}

fn first_of(mistakes: &Mistakes) -> String {
    let first = mistakes.0.first().map(ToString::to_string).unwrap_or_default();
    match mistakes.0.len() {
        0 | 1 => first,
        more => format!("{first} (and {} more)", more - 1),
    }
}
