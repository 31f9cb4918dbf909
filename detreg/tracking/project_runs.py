"""Gives a run of `mlflow run` the status back that it has ended with.

`mlflow run` ends the run of a command that fails as FAILED, also where the command has ended it as
KILLED: MLflow 3.17 compares the status, a text, with numbers (`_maybe_set_run_terminated`). It does
so after the command's process has ended, so another process has to wait for that:

    python -m detreg.tracking.project_runs RUN_ID PID CREATE_TIME
"""

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
from mlflow import MlflowClient

from detreg.invocation import find_runner

MAX_SECONDS = 600.0
"""How long the other process waits at most, for a program that goes on after its run."""
_INTERVAL = 0.2


@dataclass(frozen=True)
class Runner:
    """The process that runs an MLflow project: `mlflow run`, or a program that calls MLflow.

    The time tells it from a later process with the same id.
    """

    pid: int
    create_time: float

    @classmethod
    def find(cls) -> "Runner | None":
        """Return the runner of this process; None where it is gone, or there is no project.

        To be called before the run is started, after which nothing tells of the project.
        """
        runner = find_runner()
        return None if runner is None else cls(runner.pid, runner.create_time())

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        try:
            return psutil.Process(self.pid).create_time() == self.create_time
        except psutil.NoSuchProcess:
            return False


def keep_killed(run_id: str, runner: Runner) -> None:
    """Start the process that keeps a run KILLED, which this process has ended so.

    Where it cannot be started, the run will be FAILED.
    """
    if not runner.is_running:
        return
    words = [run_id, str(runner.pid), repr(runner.create_time)]
    with contextlib.suppress(OSError):
        subprocess.Popen(
            [sys.executable, "-m", "detreg.tracking.project_runs", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def restore_killed(run_id: str, runner: Runner) -> None:
    """Make a run KILLED again when its runner has made it FAILED; wait for that."""
    client = MlflowClient()
    give_up_at = time.monotonic() + MAX_SECONDS
    was_running = True
    while was_running and time.monotonic() < give_up_at:
        # In this order: what the runner does last is seen after its end.
        was_running = runner.is_running
        info = client.get_run(run_id).info
        if info.status == "FAILED":
            client.set_terminated(run_id, "KILLED", info.end_time)
            return
        time.sleep(_INTERVAL)


if __name__ == "__main__":
    _run_id, _pid, _create_time = sys.argv[1:]
    restore_killed(_run_id, Runner(int(_pid), float(_create_time)))
