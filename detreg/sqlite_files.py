"""SQLite databases that several processes may create at once: whole, and by one of them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import sqlalchemy
from filelock import FileLock


def find_sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLAlchemy URL; None where it is no file of SQLite.

    Raises sqlalchemy.exc.ArgumentError for what is not a URL.
    """
    parsed = sqlalchemy.make_url(url)
    if not parsed.drivername.startswith("sqlite") or not parsed.database:
        return None
    # A database in memory, or one that is opened with SQLite's own options.
    if parsed.database.startswith((":memory:", "file:")):
        return None
    return Path(parsed.database)


def create_sqlite_file(path: Path, create_tables: Callable[[str], None]) -> None:
    """Create a SQLite database unless it is there.

    `create_tables` is called with the URL of an empty database. It works on a temporary file in the
    same folder, which is then renamed: a process that is killed meanwhile leaves no half-made
    database, which could never be migrated again. Others that want the same one wait at a lock.
    Raises OSError and what `create_tables` raises.
    """
    if _has_content(path):
        return
    # The lock would make the folder, so that a misspelled path became a new, empty database.
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))

    lock_file = path.with_name(f".{path.name}.lock")
    with FileLock(lock_file):
        # Whoever had the lock before has made the database.
        if not _has_content(path):
            _create_whole(path, create_tables)

        # Nobody needs the lock any more: a process that still waits for it finds the database.
        lock_file.unlink(missing_ok=True)


def _create_whole(path: Path, create_tables: Callable[[str], None]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        create_tables(f"sqlite:///{temporary}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _has_content(path: Path) -> bool:
    """Whether the file is more than the empty one that opening a database leaves."""
    return path.is_file() and path.stat().st_size > 0
