"""What dead processes have left: undelivered journals in this cache, runs that stay RUNNING.

A folder in the cache that no process holds was left by a process that died, or that ended while
MLflow was away. To settle it is to deliver its journal, with the checkpoints that were saved after
the last upload, to end the run, and to remove the folder.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.entities import RunTag

from detreg.errors import DetregError, NotFoundError, summarize_error
from detreg.mlflow_errors import is_refusal, translate_mlflow_errors
from detreg.tracking.header import is_of_store_in_use, read_tracking_uri
from detreg.tracking.journal import REFUSED, Journal, has_journal
from detreg.tracking.leases import LEASE, Lease, describe_death
from detreg.tracking.records import (
    CHECKPOINT,
    FAILURE,
    Artifact,
    End,
    Register,
    Tags,
    Target,
)
from detreg.tracking.run_folders import ClaimedFolder, claim_left_folders

MAX_RUNS_PER_REQUEST = 1000


@dataclass(frozen=True)
class Settlement:
    """What became of a left folder: delivered, or the problem that keeps it."""

    run_id: str
    folder: Path
    problem: str = ""


def settle_left_runs(
    run_id: str | None = None, register: Register | None = None, of_any_store: bool = False
) -> list[Settlement]:
    """Deliver what dead processes have left in this cache, of all runs or of one.

    Runs of another tracking store than the one in use are left alone unless `of_any_store`.
    `register` registers a model that could not be registered in its time; where it is missing,
    such a folder is kept for `detreg sync`.
    """
    settlements = []
    for claimed in claim_left_folders(run_id):
        if not of_any_store and not is_of_store_in_use(claimed.path):
            claimed.release()
            continue
        try:
            _settle(claimed, register)
        except Exception as error:
            claimed.release()
            problem = summarize_error(error)
            settlements.append(Settlement(claimed.run_id, claimed.path, problem))
        else:
            settlements.append(Settlement(claimed.run_id, claimed.path))
    return settlements


def close_dead_runs(experiment_ids: Sequence[str]) -> list[str]:
    """End the runs whose process is gone as KILLED, with the reason in a tag; return their ids.

    Raises the errors of MLflow.
    """
    client = MlflowClient()
    condition = "attributes.status = 'RUNNING'"
    closed = []
    token: str | None = None
    while True:
        page = client.search_runs(
            list(experiment_ids), condition, max_results=MAX_RUNS_PER_REQUEST, page_token=token
        )
        closed += [run.info.run_id for run in page if close_if_dead(run)]
        token = page.token
        if not token:
            return closed


def close_if_dead(run: MlflowRun) -> bool:
    """End a run whose process is gone as KILLED, with the reason in a tag; return whether it was.

    Raises the errors of MLflow.
    """
    reason = _describe_death(run)
    if not reason:
        return False
    client = MlflowClient()
    client.log_batch(run.info.run_id, tags=[RunTag(FAILURE, reason)])
    client.set_terminated(run.info.run_id, "KILLED")
    return True


def _describe_death(run: MlflowRun) -> str:
    """Return why a run is dead; an empty text where it is not, has ended, or nobody can know."""
    lease = Lease.from_tag(run.data.tags.get(LEASE, ""))
    if lease is None or run.info.status != "RUNNING":
        return ""
    return describe_death(run.info.run_id, lease, time.time())


def _settle(claimed: ClaimedFolder, register: Register | None) -> None:
    """Deliver what a folder holds and remove it. Raises the errors of MLflow and of the disk."""
    if not has_journal(claimed.path):
        # Its process died, or ended, before it wrote anything.
        claimed.remove()
        return

    client = MlflowClient(read_tracking_uri(claimed.path))
    _check_run_exists(client, claimed.run_id)
    target = Target(client, claimed.run_id, claimed.path, register)
    journal = Journal(claimed.path)
    _deliver_all(journal, target)
    if not journal.is_ended:
        _write_end_of_dead_run(journal, target)
        _deliver_all(journal, target)

    refused = claimed.path / REFUSED
    if refused.is_file():
        raise DetregError(f"MLflow refuses what is in {refused}: nothing else is left to deliver")
    claimed.remove()


def _check_run_exists(client: MlflowClient, run_id: str) -> None:
    """Raise NotFoundError where MLflow would refuse every write: the run is deleted, or gone."""
    with translate_mlflow_errors("MLflow has no such run any more: remove its folder"):
        run = client.get_run(run_id)
    if run.info.lifecycle_stage == "deleted":
        raise NotFoundError(
            f"it is deleted in MLflow: restore it (mlflow runs restore --run-id {run_id}) "
            "or remove its folder"
        )


def _deliver_all(journal: Journal, target: Target) -> None:
    record = journal.peek()
    while record is not None:
        try:
            record.deliver(target)
        except Exception as error:
            if not is_refusal(error):
                raise
            journal.put_aside(record)
        else:
            journal.count_delivered(record)
        record = journal.peek()


def _write_end_of_dead_run(journal: Journal, target: Target) -> None:
    """Write what the dead process would have written: its last checkpoints, and its end."""
    run = target.client.get_run(target.run_id)
    stored = json.loads(run.data.tags.get(CHECKPOINT, "{}"))
    saved = journal.find_saved_checkpoints()
    if saved is not None and saved.is_newer_than(stored):
        print(
            f"uploads the checkpoint of epoch {saved.epoch} of run {target.run_id}, which is newer "
            "than the one in MLflow",
            file=sys.stderr,
            flush=True,
        )
        # Not over the files that the tag names until the new ones are there.
        slot = "checkpoints/1" if "checkpoints/0" in stored.get("last", "") else "checkpoints/0"
        for name in (saved.last, saved.best):
            journal.append(Artifact(str(target.folder / name), slot))
        journal.append(Tags({CHECKPOINT: saved.to_tag(slot)}))

    # Another process may have ended the run, or may have resumed it.
    reason = _describe_death(run)
    if reason:
        journal.append(Tags({FAILURE: reason}))
        journal.append(End("KILLED", int(time.time() * 1000)))
