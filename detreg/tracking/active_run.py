"""The beginning and the end of a run that this process writes.

What a crash leaves, in the order of the steps: an MLflow run with the lease of a dead process; the
same with a folder in the cache; the same with a journal. The next command ends the run and removes
the folder (leftovers.py). At the end the run's last record is on the disk before anything is waited
for, and the folder is removed after everything has arrived.
"""

import contextlib
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.tracking import fluent

from detreg.mlflow_errors import translate_mlflow_errors
from detreg.redaction import redact
from detreg.tracking.header import write_header
from detreg.tracking.journal import Journal
from detreg.tracking.leases import LEASE, RENEWAL_SECONDS, take_lease
from detreg.tracking.leftovers import close_dead_runs, settle_left_runs
from detreg.tracking.records import FAILURE, MAX_TAG_LENGTH, End, Target
from detreg.tracking.run import Run, get_time
from detreg.tracking.run_folders import ClaimedFolder, claim_run_folder
from detreg.tracking.sender import Patience, Sender
from detreg.tracking.system_metrics import JournaledSystemMetrics

CLEANING_SECONDS = 60.0
"""How long a run's end waits at most for the delivery of what others have left."""


@dataclass
class ActiveRun:
    """A run that this process writes, with all that works in the background for it."""

    run: Run
    claimed: ClaimedFolder
    sender: Sender
    cleaner: threading.Thread
    monitor: JournaledSystemMetrics | None

    def end(self, status: str, patience: Patience, failure: str = "") -> str:
        """End the run; return what the user must know of what is not delivered, or empty.

        `failure` is why it has not finished. Waits for MLflow as long as `patience` says.
        """
        _leave_active_run(self.run.id)
        if self.monitor is not None:
            self.monitor.finish()
        try:
            if failure:
                self.run.set_tags({FAILURE: failure})
            self.run.write(End(status, get_time()))
        except OSError as error:
            # The disk is full: the run gets its end at once, or stays until its lease ends.
            print(f"detreg: the end of the run is not on the disk: {error}", file=sys.stderr)
            with contextlib.suppress(Exception):
                _end_directly(self.run.id, status, failure)

        is_delivered = self.sender.wait(patience)
        self.sender.stop()
        self.cleaner.join(CLEANING_SECONDS if is_delivered else 0)
        if is_delivered and not self.sender.refusal:
            self.claimed.remove()
            return ""
        self.claimed.release()
        if is_delivered:
            return (
                f"MLflow refuses a part of what run {self.run.id} has written "
                f"({self.sender.refusal}): it is kept in {self.run.folder}"
            )
        store = redact(mlflow.get_tracking_uri())
        return (
            f"MLflow at {store} does not have all of run {self.run.id} yet: "
            f"everything is kept in {self.run.folder}, and `detreg sync {self.run.id}` delivers it"
        )


def begin_run(
    name: str | None, tags: Mapping[str, str], run_id: str | None, parent: str | None
) -> ActiveRun:
    """Start or resume an MLflow run, and everything that works in the background for it.

    See runs.start_run. Raises UnreachableError, NotFoundError, and OSError for a cache that cannot
    be written.
    """
    if run_id is not None:
        # A killed process may have left its folder, with files that are in the way of new ones.
        settle_left_runs(run_id)
    started = _start_in_mlflow(name, tags, run_id, parent)
    try:
        claimed = claim_run_folder(started.info.run_id)
        write_header(claimed.path)
        journal = Journal(claimed.path)
    except BaseException as error:
        _leave_active_run(started.info.run_id)
        with contextlib.suppress(Exception):
            _end_directly(started.info.run_id, "FAILED", str(error))
        raise

    client = MlflowClient()
    target = Target(client, started.info.run_id, claimed.path)
    sender = Sender(
        journal,
        target,
        renew=lambda: client.set_tag(target.run_id, LEASE, take_lease().to_tag()),
        renewal_interval=RENEWAL_SECONDS,
    )
    run = Run(started.info.run_id, claimed.path, sender)
    if journal.is_ended:
        # An earlier process has left the folder. Its end is not delivered where something follows.
        run.set_tags({})
    sender.start()

    # Several machines may work on one run that is resumed, and would mix their figures.
    monitor = None if run_id else JournaledSystemMetrics(run.id, run.log_metrics)
    if monitor is not None:
        monitor.start()

    experiment = None if parent else started.info.experiment_id
    cleaner = threading.Thread(target=_clean_up, args=(experiment,), daemon=True)
    cleaner.start()
    return ActiveRun(run, claimed, sender, cleaner, monitor)


def _start_in_mlflow(
    name: str | None, tags: Mapping[str, str], run_id: str | None, parent: str | None
) -> mlflow.ActiveRun:
    all_tags = {tag: redact(value)[:MAX_TAG_LENGTH] for tag, value in tags.items()}
    # With the run itself: where the answer to its creation is lost, there is a run that nobody
    # writes, which is closed when this process has ended.
    all_tags[LEASE] = take_lease().to_tag()
    with translate_mlflow_errors("MLflow does not find the run, its parent or its experiment"):
        nested = mlflow.active_run() is not None
        experiment = MlflowClient().get_run(parent).info.experiment_id if parent else None
        return mlflow.start_run(
            run_id,
            experiment_id=experiment,
            run_name=name,
            nested=nested,
            parent_run_id=parent,
            tags=all_tags,
            log_system_metrics=False,  # MLflow's thread needs the server: system_metrics.py
        )


def _leave_active_run(run_id: str) -> None:
    """Take a run from MLflow's stack of active runs.

    mlflow.end_run would ask the server for it, and wait, and raise where there is no answer.
    """
    stack = fluent._active_run_stack.get()
    stack[:] = [active for active in stack if active.info.run_id != run_id]


def _end_directly(run_id: str, status: str, failure: str) -> None:
    client = MlflowClient()
    if failure:
        client.log_batch(run_id, tags=[RunTag(FAILURE, redact(failure)[:MAX_TAG_LENGTH])])
    client.set_terminated(run_id, status)


def _clean_up(experiment: str | None) -> None:
    """Settle what dead processes have left in the cache, and close their runs.

    Nobody waits for it, and nothing depends on it: the next command tries again.
    """
    with contextlib.suppress(Exception):
        settle_left_runs()
        if experiment is not None:
            close_dead_runs([experiment])
