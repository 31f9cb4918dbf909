"""`detreg sweep` with faults injected at named points: python faulty_sweep.py sweep yolox ...

The faults are read from the folder that DETREG_TEST_FAULTS names, where they leave marks too. A
worker process imports the main script of its command as `__mp_main__` before it runs, so this
file wraps the functions at the named points in every worker, and detreg itself knows nothing of it.

A fault never waits for a time. A process that is killed first makes its heartbeats old, so that the
trial is found dead at once, however long the interval between heartbeats is, and a busy machine
cannot make a living worker look dead.
"""

import enum
import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from detreg.sweeps.jobs import PUBLISHED_ATTR
from detreg.sweeps.storage import StudyStorage
from detreg.sweeps.study import RUNS_ATTR, get_lineages
from detreg.tracking.runs import Run

ENVIRONMENT_VARIABLE = "DETREG_TEST_FAULTS"


class Point(enum.StrEnum):
    """Where a worker is in a trial: what is written, and what is not."""

    TRIAL_TAKEN = "the trial is taken, but has no heartbeat and no values"
    RUN_STARTED = "the MLflow run is started, but the trial does not have its id"
    EPOCH_SAVED = "the checkpoint of an epoch is uploaded, but the epoch is not reported"
    EPOCH_REPORTED = "the epoch is reported, but the next one is not begun"
    TRAINING_FINISHED = "the last epoch is reported, but the MLflow run is not ended"
    RUN_FINISHED = "the MLflow run is ended, but the trial has no value"
    MODEL_REGISTERED = "the best model is registered, but the final job has no result"


class Action(enum.StrEnum):
    """What happens there."""

    KILL_WORKER = "the worker is killed"
    STALL_WORKER = "the worker sends no heartbeat until it is taken for dead, then it goes on"
    CUT_CONNECTIONS = "the database server closes all connections"
    INTERRUPT_COMMAND = "the worker waits, and the command gets Ctrl-C"
    KILL_COMMAND = "the worker waits, and the command is killed"


COMMAND_SIGNALS = {
    Action.INTERRUPT_COMMAND: signal.SIGINT,
    Action.KILL_COMMAND: signal.SIGKILL,
}


@dataclass(frozen=True)
class Fault:
    """An action at a point of a trial.

    Lineages are counted from 0 in the order of their first trials, attempts and epochs from 1.
    """

    point: Point
    action: Action
    lineage: int
    attempt: int = 1
    epoch: int | None = None


def write_faults(folder: Path, faults: Sequence[Fault]) -> None:
    """Write what a command with this folder in its environment reads."""
    content = json.dumps([asdict(fault) for fault in faults])
    (folder / "faults.json").write_text(content)


def read_faults(folder: Path) -> list[Fault]:
    rows = json.loads((folder / "faults.json").read_text())
    return [
        Fault(
            point=Point(row["point"]),
            action=Action(row["action"]),
            lineage=row["lineage"],
            attempt=row["attempt"],
            epoch=row["epoch"],
        )
        for row in rows
    ]


class FaultInjector:
    """Knows the trial that this worker has, and acts at the points of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults = read_faults(folder)
        self.trial: optuna.Trial | None = None
        self.lineage = -1
        self.attempt = 0
        self.is_silent = False
        self.run: Run | None = None
        # Held while a heartbeat is written, so that none comes after they were made old.
        self.heartbeat_lock = threading.Lock()

    def set_trial(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.run = None
        for place, lineage in enumerate(get_lineages(trial.study)):
            numbers = [member.number for member in lineage.trials]
            if trial.number in numbers:
                self.lineage = place
                self.attempt = numbers.index(trial.number) + 1

    def reach(self, point: Point, epoch: int | None = None) -> None:
        for fault in self.faults:
            if fault.point is not point or fault.epoch != epoch:
                continue
            if fault.lineage == self.lineage and fault.attempt == self.attempt:
                # What is written goes to MLflow in the background.
                if self.run is not None:
                    assert self.run.wait_until_delivered()
                print(f"fault: {point}; {fault.action}", flush=True)
                self.act(fault.action)

    def act(self, action: Action) -> None:
        match action:
            case Action.KILL_WORKER:
                self.make_heartbeats_old()
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.STALL_WORKER:
                self.make_heartbeats_old()
                self.wait_until_taken_over()
                self.is_silent = False
            case Action.CUT_CONNECTIONS:
                self.cut_connections()
            case Action.INTERRUPT_COMMAND | Action.KILL_COMMAND:
                (self.folder / action.name).touch()
                # The end of the command, or its signal, ends this.
                while True:
                    time.sleep(0.1)

    @property
    def storage(self) -> RDBStorage:
        assert self.trial is not None
        backend = self.trial.study._storage._backend  # type: ignore[attr-defined]
        assert isinstance(backend, RDBStorage)
        return backend

    def make_heartbeats_old(self) -> None:
        assert self.trial is not None
        statements = (
            "UPDATE trial_heartbeats SET heartbeat = '2020-01-01' WHERE trial_id = :id",
            "UPDATE trials SET datetime_start = '2020-01-01' WHERE trial_id = :id",
        )
        with self.heartbeat_lock, self.storage.engine.begin() as connection:
            self.is_silent = True
            for statement in statements:
                connection.execute(sqlalchemy.text(statement), {"id": self.trial._trial_id})

    def wait_until_taken_over(self) -> None:
        assert self.trial is not None
        study = self.trial.study
        while study.get_trials()[self.trial.number].state is TrialState.RUNNING:
            time.sleep(0.1)

    def cut_connections(self) -> None:
        with self.storage.engine.connect() as connection:
            connection.execute(
                sqlalchemy.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )


def wrap(
    owner: Any,
    function: Callable[..., Any],
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> None:
    """Wrap a function of a module or class.

    `before` gets its arguments, `after` its result and its arguments.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before(*arguments, **options)
        result = function(*arguments, **options)
        if after is not None:
            after(result, *arguments, **options)
        return result

    assert getattr(owner, function.__name__) is function
    setattr(owner, function.__name__, call)


def wrap_worker(injector: FaultInjector) -> None:
    """Wrap the functions at the named points, in a process that has imported the worker."""
    from detreg.sweeps import worker
    from detreg.training import engine

    def take(trial: optuna.Trial, study: optuna.Study) -> None:
        injector.set_trial(trial)
        injector.reach(Point.TRIAL_TAKEN)

    def set_attribute(trial: optuna.Trial, key: str, value: object) -> None:
        if key == RUNS_ATTR:
            injector.reach(Point.RUN_STARTED)
        elif key == PUBLISHED_ATTR:
            injector.reach(Point.MODEL_REGISTERED)

    def begin_training(job: object, folder: Path, run: Run, *_: object) -> None:
        injector.run = run

    def save_epoch(trial: optuna.Trial, value: float, step: int) -> None:
        injector.reach(Point.EPOCH_SAVED, step)

    def report_epoch(result: None, trial: optuna.Trial, value: float, step: int) -> None:
        injector.reach(Point.EPOCH_REPORTED, step)

    record_heartbeat = StudyStorage.record_heartbeat

    def record_unless_silent(storage: StudyStorage, trial_id: int) -> None:
        with injector.heartbeat_lock:
            if not injector.is_silent:
                record_heartbeat(storage, trial_id)

    setattr(StudyStorage, "record_heartbeat", record_unless_silent)  # noqa: B010
    wrap(optuna.Study, optuna.Study.ask, after=take)
    wrap(optuna.Trial, optuna.Trial.set_user_attr, before=set_attribute)
    wrap(optuna.Trial, optuna.Trial.report, before=save_epoch, after=report_epoch)
    wrap(
        engine,
        engine.fit,
        before=begin_training,
        after=lambda *_: injector.reach(Point.TRAINING_FINISHED),
    )
    wrap(
        worker,
        worker.run_and_record_failure,
        after=lambda *_: injector.reach(Point.RUN_FINISHED),
    )


def wrap_command(folder: Path) -> None:
    """Let the command give itself the signal that a waiting worker asks for."""
    from detreg.sweeps.progress import Progress

    def check_marks(progress: Progress) -> None:
        for action, number in COMMAND_SIGNALS.items():
            mark = folder / action.name
            if mark.exists():
                mark.unlink()
                os.kill(os.getpid(), number)

    wrap(Progress, Progress.print_ended_trials, before=check_marks)


if __name__ == "__mp_main__":
    wrap_worker(FaultInjector(Path(os.environ[ENVIRONMENT_VARIABLE])))

if __name__ == "__main__":
    from detreg.__main__ import main

    wrap_command(Path(os.environ[ENVIRONMENT_VARIABLE]))
    main()
