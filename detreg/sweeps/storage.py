"""Optuna's database, in which the state of a sweep is kept, and calls that outlast its outages.

The database is shared by all workers on all machines. Each worker writes heartbeats for the trial
that it trains; a trial whose heartbeats stop counts as dead and is queued again by any process.
"""

import contextlib
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from detreg.errors import UnreachableError, UsageError, summarize_error
from detreg.sqlite_files import create_sqlite_file, find_sqlite_file

MAX_TRIES = 6
"""Workers that a trial may cost before it counts as failed."""
GRACE_HEARTBEATS = 4
"""Missing heartbeats after which a worker counts as dead."""
MAX_OUTAGE = 1800.0
"""Seconds for which a database or a tracking server may be unreachable."""
MAX_PAUSE = 30.0
"""Seconds between two tries at most."""
SQLITE_LOCK_TIMEOUT = 120
"""Seconds for which a writer of SQLite waits for the lock of another."""

T = TypeVar("T")

# Heartbeats and retries are experimental in Optuna, which says so at each use.
warnings.filterwarnings("ignore", category=ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)

requeue_trial = RetryHeartbeatStaleTrialCallback(
    max_retry=MAX_TRIES - 1, inherit_intermediate_values=True
)
"""Queues a failed trial again, under a new number, with its parameters, attributes and reports."""


class TakenOverError(BaseException):
    """The trial was taken for dead and belongs to another worker by now.

    It is not an Exception: neither the trial nor its MLflow run has failed, so nothing may record
    a failure for it.
    """


class StudyStorage(RDBStorage):
    """Optuna's RDB storage, whose heartbeats outlast a lost connection."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Write a heartbeat, or skip it where the database does not answer.

        Optuna calls this in a thread, which an exception would end: every later heartbeat would
        be missing, and a living trial would be taken for dead.
        """
        with contextlib.suppress(SQLAlchemyError, StorageInternalError):
            super().record_heartbeat(trial_id)


def open_storage(url: str, heartbeat: int) -> StudyStorage:
    """Open the database at `url`, with `heartbeat` seconds between two heartbeats.

    The tables are created where they are missing.

    Raises:
        UsageError: `url` is not the URL of a database that detreg can use.
        UnreachableError: the database does not answer.
    """
    try:
        sqlite_file = find_sqlite_file(url)
        if sqlite_file is not None:
            create_sqlite_file(sqlite_file, _create_tables)
        return StudyStorage(
            url,
            engine_kwargs=_choose_engine_options(url),
            heartbeat_interval=heartbeat,
            grace_period=GRACE_HEARTBEATS * heartbeat,
            heartbeat_stale_trial_callback=requeue_trial,
        )
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise UsageError(
            "storage must be sqlite:///FILE or postgresql://USER@HOST/DATABASE, "
            f"got {url!r} ({error})"
        ) from error
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        reason = summarize_error(error.__cause__ or error)
        raise UnreachableError(f"storage {url} does not answer: {reason}") from error


def _create_tables(url: str) -> None:
    """Create Optuna's tables in an empty database."""
    storage = RDBStorage(url)
    storage.remove_session()
    storage.engine.dispose()


def _choose_engine_options(url: str) -> dict[str, object]:
    driver = sqlalchemy.make_url(url).drivername
    if driver.startswith("sqlite"):
        return {"connect_args": {"timeout": SQLITE_LOCK_TIMEOUT}}
    # A pooled connection that the server has closed is noticed before its use, and replaced.
    return {"pool_pre_ping": True}


def retry_while_unreachable(call: Callable[[], T], pause: float = 1.0) -> T:
    """Return what `call` returns, and repeat it while a database or tracking server is away.

    The first repetition comes after `pause` seconds; each further pause is twice as long, up to
    MAX_PAUSE. After MAX_OUTAGE seconds the error of the last try is raised.

    Raises:
        TakenOverError: `call` writes to a trial that was taken for dead meanwhile.
    """
    give_up_at = time.monotonic() + MAX_OUTAGE
    while True:
        try:
            return call()
        except UpdateFinishedTrialError as error:
            raise TakenOverError(
                f"its worker sent no heartbeat for {GRACE_HEARTBEATS} intervals, so another worker "
                "resumes this trial from its checkpoint"
            ) from error
        except (SQLAlchemyError, StorageInternalError, UnreachableError):
            if time.monotonic() > give_up_at:
                raise

        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE)
