//! Cores of their own for the gateway and for its clients, so that what is measured of the one is not the work of the others.
//!
//! The gateway has one core, this process has the others; whatever else runs, Kafka too, may run on all of them.

use std::fs;

use rustix::process::{Pid, getpid};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of this process, in two parts; on drop its threads have all of them again.
#[derive(Debug)]
pub struct Cores {
    all: CpuSet,
    gateway: CpuSet,
    clients: CpuSet,
}

// === impl Cores ===

impl Cores {
    /// One core is the gateway's, the others are for this process. `None`: there are not two.
    pub fn split(gateway: Pid) -> Option<Cores> {
        let all = sched_getaffinity(None).ok()?;
        let mut numbers = (0..CpuSet::MAX_CPU).filter(|number| all.is_set(*number));
        let mut cores = Cores {
            all,
            gateway: CpuSet::new(),
            clients: CpuSet::new(),
        };
        cores.gateway.set(numbers.next()?);
        cores.clients.set(numbers.next()?);
        numbers.for_each(|number| cores.clients.set(number));
        pin(gateway, &cores.gateway).ok()?;
        pin(getpid(), &cores.clients).ok()?;
        Some(cores)
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        if let Err(error) = pin(getpid(), &self.all) {
            eprintln!("this process keeps to some of its cores: {error}");
        }
    }
}

/// All threads that the process has now; those that they start are pinned with them.
fn pin(process: Pid, cores: &CpuSet) -> std::io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{}/task", process.as_raw_pid()))? {
        let thread = thread?.file_name().to_str().and_then(|number| number.parse().ok());
        if let Some(thread) = thread.and_then(Pid::from_raw) {
            // One that has ended meanwhile needs no core.
            sched_setaffinity(Some(thread), cores).ok();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_process_has_its_core_and_this_one_all_of_them_again() {
        let before = sched_getaffinity(None).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let cores = Cores::split(Pid::from_child(&child));
        if let Some(cores) = cores {
            let of_child = sched_getaffinity(Some(Pid::from_child(&child))).unwrap();
            assert_eq!((of_child, of_child.count()), (cores.gateway, 1));
            assert_eq!(sched_getaffinity(None).unwrap(), cores.clients);
        } else {
            assert!(before.count() < 2, "{before:?}");
        }
        assert_eq!(sched_getaffinity(None).unwrap(), before);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
