"""What this process may use of its machine: memory and cores, limits of its container included.

Linux limits a container, a Slurm job or a systemd service by control groups. They lie in each
other, and the smallest limit holds. What is missing, as outside of Linux, limits nothing.
"""

import os
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
"""Names the groups of this process, one line for each hierarchy: number:controllers:path."""
MOUNT = Path("/sys/fs/cgroup")


def get_free_memory() -> int:
    """Return the bytes of memory that this process may still take, what is only cached included."""
    # Help and other light commands import modules that import this one.
    import psutil  # noqa: PLC0415

    free = psutil.virtual_memory().available
    for folder in _list_groups("memory"):
        limit = _read_number(folder, "memory.max", "memory.limit_in_bytes")
        used = _read_number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            free = min(free, limit - used + _count_cached_bytes(folder))
    return max(free, 0)


def count_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        cores = float(os.cpu_count() or 1)

    for folder in _list_groups("cpu"):
        quota = _read_cpu_quota(folder)
        if quota is not None:
            cores = min(cores, quota)
    return max(round(cores), 1)


def _list_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups of this process, from its own to the outermost."""
    for line in _read_lines(MEMBERSHIP):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one hierarchy, which names no controller.
        root = MOUNT / controller if controllers else MOUNT
        folder = root / path.lstrip("/")
        yield folder
        # In a container the path may be that of the host, of which nothing is seen.
        for parent in folder.parents:
            if parent.is_relative_to(root):
                yield parent


def _count_cached_bytes(folder: Path) -> int:
    """Return the bytes of files that a group's memory holds, which the kernel gives up first."""
    counts = {}
    for line in _read_lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        counts[name] = value

    total = 0
    for name in ("inactive_file", "active_file"):
        value = counts.get(f"total_{name}", counts.get(name, "0"))
        total += int(value) if value.isdecimal() else 0
    return total


def _read_cpu_quota(folder: Path) -> float | None:
    """Return the cores that a group may use, None where it may use all."""
    for line in _read_lines(folder / "cpu.max"):
        quota, _, period = line.partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            return int(quota) / int(period)

    quota_v1 = _read_number(folder, "cpu.cfs_quota_us")
    period_v1 = _read_number(folder, "cpu.cfs_period_us")
    if quota_v1 is None or not period_v1:
        return None
    return quota_v1 / period_v1


def _read_number(folder: Path, *names: str) -> int | None:
    """Return the number in the first of the files that there is; None for words such as max."""
    for name in names:
        for line in _read_lines(folder / name):
            return int(line) if line.isdecimal() else None
    return None


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
