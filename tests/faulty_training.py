"""`detreg train` with a fault at a named point: what kills or interrupts it, and where.

detreg knows nothing of this: the functions at the named points are wrapped in the process that
trains. A fault depends on what has been written, never on time.
"""

import functools
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.runner import Runner

from detreg import cli, publish
from detreg.export.trained_model import TrainedModel
from detreg.signals import DeferredSignals
from detreg.tracking import registry
from detreg.tracking.runs import Run
from detreg.training import checkpointing
from detreg.training.checkpointing import LAST, CheckpointingHook
from detreg.training.epoch_hooks import LossMeter, MetricLogHook
from detreg.training.metrics import CocoScores

Act = Callable[[], None]


class Point(StrEnum):
    """Where a training of three epochs of five steps is, in the order in which it gets there."""

    RUN_STARTED = "run started, nothing logged"
    JOB_LOGGED = "parameters logged, no step done"
    FIRST_STEP = "in epoch 1 after step 1, before the first checkpoint"
    WITHIN_EPOCH = "in epoch 2 after step 3"
    LAST_STEP = "in epoch 2 after its last step, before it is scored"
    IN_SCORING = "while epoch 2 is scored"
    METRICS_LOGGED = "metrics of epoch 2 logged, nothing saved"
    IN_SAVE = "last.pth of epoch 2 half written"
    BEFORE_RENAME = "last.pth of epoch 2 written, not renamed"
    AFTER_RENAME = "last.pth of epoch 2 renamed, best.pth not saved"
    BEFORE_UPLOAD = "checkpoints of epoch 2 saved, not uploaded"
    IN_UPLOAD = "last.pth of epoch 2 uploaded, best.pth not"
    BEFORE_TAG = "checkpoints of epoch 2 uploaded, not tagged"
    AFTER_TAG = "checkpoints of epoch 2 tagged"
    TRAINED = "all epochs done, nothing exported"
    EXPORTED = "ONNX file written, not compared"
    COMPARED = "parity measured, nothing logged"
    SCORES_LOGGED = "parity and scores logged, no report"
    REPORTED = "report uploaded, no model logged"
    MODEL_LOGGED = "model logged, not registered"
    VERSION_CREATED = "version created, without an alias"
    REGISTERED = "registered, run not ended"


class IntoStop(StrEnum):
    """Where a training is that a signal has stopped already."""

    STEP_SAVED = "stopped within epoch 2, its checkpoint not uploaded"
    STEP_UPLOADED = "stopped within epoch 2, its checkpoint uploaded, not tagged"


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EPOCH = 2
"""The epoch in which faults happen; before it there is a checkpoint, after it another epoch."""


@dataclass(frozen=True)
class Place:
    """A function whose call, or return, is a point.

    `file` is the name of the file that the call must be about; `step` the number of the step in the
    epoch. Without `in_epoch` the first call counts, else the first one of that epoch.
    """

    owner: Any
    function: str
    is_after: bool = True
    in_epoch: int | None = None
    step: int | None = None
    file: str | None = None


PLACES: dict[Point | IntoStop, Place] = {
    Point.RUN_STARTED: Place(publish, "log_job", is_after=False),
    Point.JOB_LOGGED: Place(publish, "log_job"),
    Point.FIRST_STEP: Place(LossMeter, "after_train_iter", in_epoch=1, step=1),
    Point.WITHIN_EPOCH: Place(LossMeter, "after_train_iter", in_epoch=EPOCH, step=3),
    Point.LAST_STEP: Place(LossMeter, "after_train_iter", in_epoch=EPOCH, step=5),
    Point.IN_SCORING: Place(CocoScores, "process", in_epoch=EPOCH),
    Point.METRICS_LOGGED: Place(MetricLogHook, "after_val_epoch", in_epoch=EPOCH),
    Point.IN_SAVE: Place(torch, "save", in_epoch=EPOCH),
    Point.BEFORE_RENAME: Place(Path, "replace", is_after=False, in_epoch=EPOCH, file=LAST),
    Point.AFTER_RENAME: Place(Path, "replace", in_epoch=EPOCH, file=LAST),
    Point.BEFORE_UPLOAD: Place(Run, "log_file", is_after=False, in_epoch=EPOCH, file=LAST),
    Point.IN_UPLOAD: Place(Run, "log_file", in_epoch=EPOCH, file=LAST),
    Point.BEFORE_TAG: Place(Run, "tag_checkpoints", is_after=False, in_epoch=EPOCH),
    Point.AFTER_TAG: Place(Run, "tag_checkpoints", in_epoch=EPOCH),
    Point.TRAINED: Place(publish, "fit"),
    Point.EXPORTED: Place(TrainedModel, "export"),
    Point.COMPARED: Place(publish, "measure_parity"),
    Point.SCORES_LOGGED: Place(publish, "log_reports", is_after=False),
    Point.REPORTED: Place(Run, "log_file", file="report"),
    Point.MODEL_LOGGED: Place(publish, "log_model"),
    Point.VERSION_CREATED: Place(registry, "create_version"),
    Point.REGISTERED: Place(publish, "register"),
    IntoStop.STEP_SAVED: Place(CheckpointingHook, "save_step"),
    IntoStop.STEP_UPLOADED: Place(Run, "tag_checkpoints", is_after=False, in_epoch=EPOCH),
}


@dataclass
class Fault:
    """An act at a place, done once. It follows how far the training is."""

    place: Place
    act: Act
    epoch: int = 0
    steps: int = 0
    has_happened: bool = False

    def begin_epoch(self, runner: Runner) -> None:
        self.epoch = runner.epoch + 1
        self.steps = 0

    def reach(self, arguments: Sequence[Any]) -> None:
        """Act where a call of the place's function is the one that is meant."""
        place = self.place
        if place.step is not None:
            self.steps += 1

        is_epoch = place.in_epoch in (None, self.epoch)
        is_step = place.step in (None, self.steps)
        is_file = place.file is None or Path(arguments[1]).name == place.file
        if is_epoch and is_step and is_file and not self.has_happened:
            self.has_happened = True
            self.act()


@contextmanager
def inject(point: Point | IntoStop | Place, act: Act) -> Iterator[None]:
    """Act once where a training inside the block reaches the point, or a place of its own."""
    fault = Fault(point if isinstance(point, Place) else PLACES[point], act)
    before_train_epoch = LossMeter.before_train_epoch

    def begin_epoch(self: LossMeter, runner: Runner) -> None:
        fault.begin_epoch(runner)
        before_train_epoch(self, runner)

    place = fault.place
    function = getattr(place.owner, place.function)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if not place.is_after:
            fault.reach(arguments)
        result = function(*arguments, **options)
        if place.is_after:
            fault.reach(arguments)
        return result

    replacement = write_in_halves(fault) if point is Point.IN_SAVE else call
    with (
        mock.patch.object(LossMeter, "before_train_epoch", begin_epoch),
        mock.patch.object(place.owner, place.function, replacement),
    ):
        yield


@contextmanager
def measure_writes() -> Iterator[list[float]]:
    """Return how many seconds the training inside the block spends on its run in each epoch.

    That is where it would wait for the tracking server.
    """
    seconds: list[float] = []
    before_train_epoch = LossMeter.before_train_epoch

    def begin_epoch(self: LossMeter, runner: Runner) -> None:
        seconds.append(0.0)
        before_train_epoch(self, runner)

    def measure(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            started_at = time.monotonic()
            result = function(*arguments, **options)
            # Another thread writes what the machine does; training does not wait for that.
            if seconds and threading.current_thread() is threading.main_thread():
                seconds[-1] += time.monotonic() - started_at
            return result

        return call

    writers = ("log_metrics", "log_file", "tag_checkpoints", "note_saved_checkpoints")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(LossMeter, "before_train_epoch", begin_epoch))
        for name in writers:
            stack.enter_context(mock.patch.object(Run, name, measure(getattr(Run, name))))
        yield seconds


def write_in_halves(fault: Fault) -> Callable[..., None]:
    """Return a `torch.save` that reaches the fault when half of the file is written."""
    save = torch.save

    def save_in_halves(content: object, file: Any) -> None:
        whole = io.BytesIO()
        save(content, whole)
        written = whole.getvalue()
        middle = len(written) // 2

        file.write(written[:middle])
        file.flush()
        fault.reach((content, file))
        file.write(written[middle:])

    return save_in_halves


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(number: int) -> None:
    os.kill(os.getpid(), number)


def wait_for_signal(pause_file: Path) -> None:
    """Create the file, and wait for a signal that the training will find after its step."""
    pause_file.touch()
    note = signal.getsignal(signal.SIGTERM)
    deferred = getattr(note, "__self__", None)
    assert isinstance(deferred, DeferredSignals), note
    while not deferred.is_pending:
        time.sleep(0.01)


def train_with_fault(
    words: Sequence[str],
    point: Point | IntoStop | None,
    number: int | None,
    environment: dict[str, str],
    output: Path,
) -> None:
    """Run a command in a process of its own.

    Kill it at the point; with a signal's number, send that signal there. `IntoStop` points are
    those of a training that SIGTERM has stopped.
    """
    os.environ.update(environment)
    # As in a training that a user starts. Else processes that load images would be made by the
    # method that has made this one.
    multiprocessing.set_start_method("fork", force=True)
    with output.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)

    # Whoever starts the tests may ignore it, with `nohup`.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with ExitStack() as stack:
        # Every epoch is uploaded, however long that takes.
        stack.enter_context(mock.patch.object(checkpointing, "UPLOAD_SHARE", 1e9))
        if isinstance(point, IntoStop):
            stack.enter_context(inject(Point.WITHIN_EPOCH, lambda: interrupt(signal.SIGTERM)))
            stack.enter_context(inject(point, kill))
        elif point is not None:
            act = kill if number is None else functools.partial(interrupt, number)
            stack.enter_context(inject(point, act))
        exit_code = cli.run(words)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
