"""How many cores this process may use: its affinity, and the quota of its container."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def allowed_cores() -> int:
    """Return how many threads may compute at once; at least 1.

    A quota of 1.5 cores counts as 1: a process that uses it up stands still as a whole until the
    next period, its event loop included.
    """
    quota = cgroup_quota()
    cores = _affinity()
    return max(1, cores if quota is None else min(cores, int(quota)))


def cgroup_quota(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> float | None:
    """Return the smallest CPU quota of the process's control groups in cores; None is no limit."""
    quotas = [q for folder in _folders(root, own) if (q := _quota(folder)) is not None]
    return min(quotas, default=None)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folders(root: Path, own: Path) -> list[Path]:
    """Return the process's groups and those around them, of either version of cgroups."""
    folders = [root, root / "cpu", root / "cpu,cpuacct"]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        inside = PurePosixPath(path.lstrip("/"))
        if ".." in inside.parts or (controllers and "cpu" not in controllers.split(",")):
            continue
        base = root / controllers if controllers else root
        folders += [base / part for part in (inside, *inside.parents)]
    return folders


def _quota(folder: Path) -> float | None:
    """Return a group's quota: cpu.max of version 2, or the two files of version 1."""
    words = _words(folder / "cpu.max")
    if not words:
        words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):  # "max", or no file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
