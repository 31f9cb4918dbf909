"""Which runs are dead: their process is gone, and MLflow shows them as RUNNING for ever.

A run's tag `detreg.lease` says which process writes it. On the machine of that process its id and
start time decide at once. On any other machine a lease that was not renewed for a day has expired.
"""

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from detreg.tracking.journal import has_ended
from detreg.tracking.records import DEATH
from detreg.tracking.run_folders import resolve_runs_folder

LEASE = "detreg.lease"

RENEWAL_SECONDS = 600.0
"""Between two renewals."""
EXPIRY_SECONDS = 86400.0
"""After the last renewal, for a process of another machine. A server may be away for hours."""
START_TOLERANCE = 5.0
"""Seconds by which two readings of a process's start time may differ: the clock is adjusted."""


@dataclass(frozen=True)
class Lease:
    """The process that writes a run.

    started: when it started, renewed: when it last said so, in seconds since 1970.
    folder: where the folders of its runs are, in which what is not delivered waits.
    """

    host: str
    pid: int
    started: float
    folder: str
    renewed: float

    def to_tag(self) -> str:
        """Return the value of the tag."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_tag(text: str) -> "Lease | None":
        """Return the lease that a tag holds, or None for one of another form."""
        try:
            content = json.loads(text)
            return Lease(
                host=str(content["host"]),
                pid=int(content["pid"]),
                started=float(content["started"]),
                folder=str(content["folder"]),
                renewed=float(content["renewed"]),
            )
        except (ValueError, TypeError, LookupError):
            return None


def take_lease() -> Lease:
    """Return the lease of this process, as of now."""
    started = psutil.Process().create_time()
    folder = str(resolve_runs_folder())
    return Lease(identify_host(), os.getpid(), started, folder, time.time())


def describe_death(run_id: str, lease: Lease, now: float) -> str:
    """Return why a run that is RUNNING is dead, or an empty text where it may be alive."""
    if lease.host != identify_host():
        if now - lease.renewed < EXPIRY_SECONDS:
            return ""
        hours = (now - lease.renewed) / 3600
        return f"{DEATH}{lease.pid} on {lease.host} was last heard of {hours:.0f} hours ago"

    if _is_running(lease):
        return ""
    # Its results wait there for `detreg sync`, which ends the run with its own status.
    if any(has_ended(folder) for folder in Path(lease.folder).glob(f"{run_id}*")):
        return ""
    return f"{DEATH}{lease.pid} on {lease.host} is gone"


def identify_host() -> str:
    """Return a name for what process ids are unique in: a machine, or a container on it."""
    name = platform.node()
    # Containers share a kernel, may share a host name, and number their processes anew.
    with suppress(OSError):
        return f"{name} {Path('/proc/self/ns/pid').readlink()}"
    return name


def _is_running(lease: Lease) -> bool:
    try:
        process = psutil.Process(lease.pid)
        # The id may have been given to another process meanwhile.
        is_same = abs(process.create_time() - lease.started) < START_TOLERANCE
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
