"""The journal of a run: an append-only file of what it writes, kept until MLflow has it.

A line is on the disk before `append` returns, and `delivered` counts the lines that MLflow has. A
process that is killed between delivering a record and counting it leaves one that is delivered once
more, which is harmless (records.py). A kill within `append` may leave half a line, of which nobody
was told that it was written: whoever opens the journal next cuts it off.
"""

import contextlib
import os
import threading
from pathlib import Path

from detreg.errors import DataError
from detreg.files import write_atomically
from detreg.tracking.records import Artifact, End, Record, SavedCheckpoints

_JOURNAL = "journal.jsonl"
_DELIVERED = "delivered"
OUTBOX = "outbox"
REFUSED = "refused.jsonl"
"""Records that MLflow refuses for good; their files stay in the outbox."""


class Journal:
    """The journal in a run's folder that this process has claimed.

    One thread may append while another one delivers.
    """

    def __init__(self, folder: Path) -> None:
        """Open the journal, or create an empty one.

        Raises OSError, and DataError for a journal that this version of detreg cannot read.
        """
        self.folder = folder
        self._path = folder / _JOURNAL
        self._delivered_path = folder / _DELIVERED
        self._lock = threading.Lock()

        _cut_half_line(self._path)
        self.records = _read_records(self._path)
        self._delivered = min(_read_count(self._delivered_path), len(self.records))

    @property
    def pending(self) -> int:
        """How many records MLflow does not have yet."""
        with self._lock:
            return len(self.records) - self._delivered

    @property
    def has_pending_files(self) -> bool:
        """Whether one of them is a file."""
        with self._lock:
            return any(isinstance(record, Artifact) for record in self.records[self._delivered :])

    @property
    def is_ended(self) -> bool:
        """Whether the run has written its end, and nothing after it."""
        with self._lock:
            return bool(self.records) and isinstance(self.records[-1], End)

    def append(self, record: Record) -> None:
        """Write a record to the disk. Raises OSError where that fails."""
        line = record.to_json() + "\n"
        with self._lock:
            _append_line(self._path, line)
            self.records.append(record)

    def peek(self) -> Record | None:
        """Return the record to be delivered next, or None where there is none."""
        with self._lock:
            # A run that went on after its end, to be published for instance, is not to be ended
            # before it ends again.
            while self._delivered + 1 < len(self.records):
                if not isinstance(self.records[self._delivered], End):
                    break
                self._delivered += 1
            if self._delivered == len(self.records):
                return None
            return self.records[self._delivered]

    def count_delivered(self, record: Record) -> None:
        """Count the record that `peek` has returned as delivered, and remove its files."""
        self._count()
        record.discard(self.folder)

    def find_saved_checkpoints(self) -> SavedCheckpoints | None:
        """Return which checkpoints the folder holds, or None where it has none."""
        with self._lock:
            saved = [record for record in self.records if isinstance(record, SavedCheckpoints)]
        return saved[-1] if saved else None

    def put_aside(self, record: Record) -> None:
        """Keep the record that `peek` has returned, which MLflow refuses, in a file of its own."""
        with contextlib.suppress(OSError):
            _append_line(self.folder / REFUSED, record.to_json() + "\n")
        self._count()

    def _count(self) -> None:
        with self._lock:
            self._delivered += 1
            count = self._delivered
        # On a full disk the count stays behind, and what was delivered is delivered once more.
        with contextlib.suppress(OSError), write_atomically(self._delivered_path) as file:
            file.write(str(count).encode())


def has_journal(folder: Path) -> bool:
    """Whether a run's folder has a journal."""
    return (folder / _JOURNAL).is_file()


def has_ended(folder: Path) -> bool:
    """Whether the journal in a run's folder says that the run has ended, and how."""
    path = folder / _JOURNAL
    try:
        records = _read_records(path)
    except (OSError, DataError):
        return False
    return bool(records) and isinstance(records[-1], End)


def _append_line(path: Path, line: str) -> None:
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # A full disk may have taken a part of the line, to which the next one would be joined.
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise


def _read_records(path: Path) -> list[Record]:
    records: list[Record] = []
    if not path.is_file():
        return records
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            records.append(Record.from_json(line))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}, line {len(records) + 1}, is not a record that this version of detreg reads: "
            "take the version that wrote it, or remove the folder"
        ) from error
    return records


def _cut_half_line(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))


def _read_count(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
