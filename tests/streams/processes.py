"""CPU time and memory of processes, from /proc: the same on a busy machine. Of PostgreSQL with all its processes, those that have ended too."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


def stat(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["?"] + ["0"] * 30


def cpu(pid):
    """Seconds, user and system."""
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICK


def children(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def tree_cpu(pid):
    """With its children, those that have ended too."""
    fields = stat(pid)
    return cpu(pid) + (int(fields[13]) + int(fields[14])) / TICK + sum(cpu(child) for child in children(pid))


def memory(pid):
    """MiB, of a process and its children; what they share counts once (proportional set size)."""
    total = 0
    for one in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                total += int(line.split()[1]) if line.startswith("Pss:") else 0
    return total / 1024


def load():
    return float(pathlib.Path("/proc/loadavg").read_text().split()[0])


class Meter:
    """CPU of named processes from now on. Of one that has ended, as far as it was last read."""

    def __init__(self, **pids):
        self.pids, self.began, self.load, self.latest = pids, time.monotonic(), load(), {}
        self.first = dict(self.read())

    def read(self):
        self.latest = {name: max(tree_cpu(pid), self.latest.get(name, 0)) for name, pid in self.pids.items()}
        return self.latest

    def seconds(self):
        return {name: now - self.first[name] for name, now in self.read().items()}

    def say(self, what, count):
        used, wall = self.seconds(), time.monotonic() - self.began
        parts = ", ".join(f"{name} {1e6 * seconds / count:.1f}" for name, seconds in used.items())
        print(f"{what}: {count} readings; CPU µs per reading: {parts}, all {1e6 * sum(used.values()) / count:.1f}; "
              f"wall {wall:.0f} s = {count / wall:.0f}/s (load {self.load:.0f}..{load():.0f})", flush=True)
        return used


def end(process):
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
