"""The folders of runs in the cache, where all that a run writes lies until MLflow has it.

    $DETREG_CACHE/runs/<run id>/
        lock             held by the process that writes the run, and gone with that process
        run.json         where the run is (header.py)
        journal.jsonl    what the run has written, in order (journal.py)
        delivered        how many lines of it MLflow has
        outbox/<line>/   the files that a line of the journal names
        ...              the run's own files: checkpoints, the exported model, the report

A folder is removed when everything has arrived. So one that is there and that no process holds was
left by a process that died, or that could not reach MLflow at its end.
"""

import contextlib
import fcntl
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from detreg.environment import resolve_cache_folder

_LOCK = "lock"
_FOLDER_NAME = re.compile(r"[0-9a-f]{32}(\.\d+)?")

# A POSIX lock belongs to the process, which would get it a second time: these are the folders that
# this process holds.
_held: set[Path] = set()
_held_lock = threading.Lock()


@dataclass
class ClaimedFolder:
    """A run's folder that this process alone writes to, until it is released or removed."""

    run_id: str
    path: Path
    _lock: BinaryIO

    def release(self) -> None:
        """Let other processes have the folder, for what is not delivered yet."""
        with _held_lock:
            self._lock.close()
            _held.discard(self.path)

    def remove(self) -> None:
        """Remove the folder: everything has arrived."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()


def resolve_runs_folder() -> Path:
    """Return the folder in which the folders of runs are."""
    return resolve_cache_folder() / "runs"


def claim_run_folder(run_id: str) -> ClaimedFolder:
    """Create the folder of a run, or take up the one that an earlier process has left.

    Where another process writes to the same run now, as several commands of one sweep may, this one
    gets a folder of its own, `<run id>.2` and so on. Raises OSError.
    """
    number = 1
    while True:
        name = run_id if number == 1 else f"{run_id}.{number}"
        folder = resolve_runs_folder() / name
        # Others must not read what a run has written: a journal holds whatever MLflow gets.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        claimed = claim_folder(folder)
        if claimed is not None:
            return claimed
        # One that is gone was removed by another process just now, and can be had again.
        if folder.is_dir():
            number += 1


def claim_folder(folder: Path) -> ClaimedFolder | None:
    """Take the lock of a run's folder; None where another process or thread has it, or it is gone.

    Raises OSError for a folder that cannot be written.
    """
    with _held_lock:
        if folder in _held:
            return None
        try:
            lock = (folder / _LOCK).open("ab")
        except FileNotFoundError:
            return None

        if not _try_lock(lock) or not _is_same_file(lock, folder / _LOCK):
            # Of another process, or removed by one while this one waited.
            lock.close()
            return None
        _held.add(folder)
    return ClaimedFolder(_get_run_id(folder), folder, lock)


def list_run_folders(run_id: str | None = None) -> list[Path]:
    """Return the folders of all runs, or those of one run.

    What has another name is not detreg's, and is never removed.
    """
    folders: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(resolve_runs_folder().iterdir()):
            if _FOLDER_NAME.fullmatch(path.name) and path.is_dir():
                folders.append(path)
    return [folder for folder in folders if run_id in (None, _get_run_id(folder))]


def claim_left_folders(run_id: str | None = None) -> Iterator[ClaimedFolder]:
    """Claim one after the other the folders that no process holds; the caller releases each."""
    for folder in list_run_folders(run_id):
        with contextlib.suppress(OSError):
            claimed = claim_folder(folder)
            if claimed is not None:
                yield claimed


def _get_run_id(folder: Path) -> str:
    return folder.name.partition(".")[0]


def _try_lock(file: BinaryIO) -> bool:
    # A POSIX lock and not flock(), whose locks the forked workers of data loaders would inherit:
    # they outlive a killed training by seconds.
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_same_file(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
