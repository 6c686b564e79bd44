//! A small file system for the spool: a tmpfs of 48 MiB that can be filled up and freed again. It makes `disk-full` a
//! fault that can be produced anywhere without touching the machine's own disk. Mounting needs root; it is unmounted on
//! drop.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Size of the file system in MiB.
pub const SIZE_MIB: u64 = 48;

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

// === impl SmallDisk ===

impl SmallDisk {
    /// Mounts one at `folder`, which is created.
    pub fn mount(folder: PathBuf) -> anyhow::Result<SmallDisk> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a file system can be mounted by root only"
        );
        fs::create_dir_all(&folder)?;
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE_MIB}m"), "citygate-prove"])
            .arg(&folder)
            .stdin(Stdio::null())
            .output()
            .context("mount")?;
        ensure!(
            mount.status.success(),
            "mount: {}",
            String::from_utf8_lossy(&mount.stderr).trim()
        );
        Ok(SmallDisk { folder })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes until there is no room left, to the last byte; how many bytes that were.
    pub fn fill(&self) -> anyhow::Result<u64> {
        let mut ballast = File::create(self.ballast())?;
        let mut written = 0;
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0x55; size];
            loop {
                match ballast.write(&block) {
                    Ok(0) => break,
                    Ok(length) => written += length as u64,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
        Ok(written)
    }

    pub fn free(&self) -> anyhow::Result<()> {
        fs::remove_file(self.ballast()).context("cannot free the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The gateway may not be quite gone: a lazy unmount waits for it.
        let unmounted = Command::new("umount").arg("-l").arg(&self.folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.folder.display());
        }
    }
}
