"""The workers of one command: started, watched, replaced when they die, stopped.

The command itself imports neither torch nor MMDetection, which takes ten seconds. Workers come from
a fork server that has imported both once, so that one that died is replaced at once, and all of
them share the memory of what was imported.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pynvml
from optuna.study import Study

from detreg.errors import DetregError, MemoryExhaustedError, StoppedError
from detreg.memory import count_oom_kills
from detreg.sweeps import study as studies
from detreg.sweeps.jobs import Stage, WorkerTask
from detreg.sweeps.plan import Plan
from detreg.sweeps.storage import retry_while_unreachable

MAX_WORKER_FAILURES = 10
"""Deaths of each worker, with no epoch finished between them, after which the pool gives up."""
POLL_SECONDS = 1.0
"""Seconds between two looks at the workers."""
STOP_SECONDS = 60.0
"""Seconds in which a stopped worker has to upload its checkpoint before it is killed."""
_WITHOUT_MEMORY = (
    "was killed by the kernel, because the machine has no memory left: lower workers, batch_size, "
    "image_size or num_workers"
)


def make_context() -> ForkServerContext:
    """Return the context of processes in which torch and MMDetection are imported already."""
    # MMEngine asks at its import whether there is a GPU. The usual way to find out begins CUDA,
    # which a process forked afterwards cannot use.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detreg.sweeps.worker"])
    return context


def list_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = visible.split(",")
        return [name for name in names if name.strip() and name.strip() != "-1"]

    # NVML, because torch takes ten seconds to import.
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return []
    return [str(index) for index in range(count)]


@dataclass
class WorkerPool:
    """Worker processes on one study, whose logs are in `folder`."""

    plan: Plan
    study: Study
    wanted: int
    """Lineages after which no trial is started."""
    stage: Stage
    folder: Path
    context: ForkServerContext = field(default_factory=make_context)
    _workers: dict[int, BaseProcess] = field(default_factory=dict)
    _failures: int = 0
    """Workers that died since the last progress."""
    _progress: int = 0
    """Settled lineages and finished epochs."""
    _oom_kills: int = field(default_factory=count_oom_kills)
    """Processes killed for want of memory that were there before, or were workers."""

    def run(self, show_progress: Callable[[], None]) -> None:
        """Keep workers on the study until every wanted lineage is settled, or the budget is over.

        `show_progress` is called about once a second. However this ends, no worker is left.

        Raises:
            StoppedError: workers die again and again, with no epoch finished between.
        """
        gpus = list_gpus()
        size = min(self.plan.sweep.workers or max(1, len(gpus)), self.wanted)
        with self._stop_workers_on_exit():
            while True:
                has_ended = self._requeue_and_check_end()
                # After that check, so that the trial that settled last is shown too.
                show_progress()
                self._remove_ended_workers()

                if not has_ended:
                    self._start_missing_workers(size, gpus)
                elif not self._workers:
                    return
                time.sleep(POLL_SECONDS)

    def _requeue_and_check_end(self) -> bool:
        """Queue lost trials again; whether no further trial is to be started."""
        heartbeat = self.plan.sweep.heartbeat
        retry_while_unreachable(lambda: studies.requeue_lost_trials(self.study, heartbeat))
        if studies.decide_next_step(self.study, self.wanted) is studies.NextStep.END:
            return True
        return studies.is_too_late_to_start(self.study, self.plan)

    def _start_missing_workers(self, size: int, gpus: list[str]) -> None:
        for index in range(size):
            if index not in self._workers:
                gpu = gpus[index % len(gpus)] if gpus else None
                self._workers[index] = self._start_worker(index, size, gpu)

    def _start_worker(self, index: int, size: int, gpu: str | None) -> BaseProcess:
        task = WorkerTask(
            plan=self.plan,
            study_name=self.study.study_name,
            wanted=self.wanted,
            stage=self.stage,
            pool_size=size,
            gpu=gpu,
            log=self._log_of(index),
        )
        process = self.context.Process(target=_run_worker, args=(task,), name=f"worker {index}")
        process.start()
        return process

    def _remove_ended_workers(self) -> None:
        """Forget the workers that have ended, and count those that died."""
        lineages = studies.get_lineages(self.study)
        settled = sum(lineage.is_settled for lineage in lineages)
        epochs = sum(len(lineage.last.intermediate_values) for lineage in lineages)
        if settled + epochs > self._progress:
            self._progress = settled + epochs
            self._failures = 0

        limit = MAX_WORKER_FAILURES * (self.plan.sweep.workers or 1)
        for index, process in list(self._workers.items()):
            if process.is_alive():
                continue
            # Its place is free now: the next round starts another worker there.
            del self._workers[index]
            if process.exitcode != 0:
                self._failures += 1
            without_memory = self._is_killed_for_memory(process)
            if without_memory:
                message = f"worker {index} {_WITHOUT_MEMORY}; its trial goes on in a new worker"
                print(message, file=sys.stderr, flush=True)
            if self._failures > limit:
                raise self._make_error(index, without_memory)

    def _is_killed_for_memory(self, process: BaseProcess) -> bool:
        """Whether the kernel has ended a worker for want of memory, as far as can be known.

        Each process that the kernel counts stands for one worker.
        """
        if process.exitcode != -signal.SIGKILL or count_oom_kills() <= self._oom_kills:
            return False
        self._oom_kills += 1
        return True

    def _make_error(self, index: int, without_memory: bool) -> DetregError:
        """Return the error of a pool whose workers die; worker `index` was the last."""
        died = f"{self._failures} workers died without finishing an epoch; the "
        if without_memory:
            return MemoryExhaustedError(f"{died}latest one {_WITHOUT_MEMORY}")
        return StoppedError(
            f"{died}last line of the latest one's log: {self._read_last_log_line(index)}"
        )

    def _log_of(self, index: int) -> Path:
        return self.folder / f"worker-{index}.txt"

    def _read_last_log_line(self, index: int) -> str:
        path = self._log_of(index)
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        for line in reversed(lines):
            if line.strip():
                return line[:500]
        return "(the log is empty)"

    @contextlib.contextmanager
    def _stop_workers_on_exit(self) -> Iterator[None]:
        """Stop all workers however the block ends; each gives its trial back with a checkpoint."""
        try:
            yield
        finally:
            # All are signaled before the first is waited for, so that they upload side by side.
            for process in self._workers.values():
                process.terminate()
            for process in self._workers.values():
                process.join(STOP_SECONDS)
                if process.is_alive():
                    process.kill()


def check_initial_weights(context: ForkServerContext, plan: Plan) -> None:
    """Check in another process that the plan's initial weights fit; raise here what it raises."""
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        executor.submit(_check_initial_weights, plan).result()


def choose_precisions(context: ForkServerContext, plan: Plan) -> dict[str, str]:
    """Choose in another process what precision=auto is for each template, by its name."""
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(_choose_precisions, plan).result()


# The following three run in other processes, which alone import the worker and with it torch.


def _run_worker(task: WorkerTask) -> None:
    from detreg.sweeps import worker  # noqa: PLC0415

    worker.run_worker(task)


def _check_initial_weights(plan: Plan) -> None:
    from detreg.sweeps import worker  # noqa: PLC0415

    worker.check_initial_weights(plan)


def _choose_precisions(plan: Plan) -> dict[str, str]:
    from detreg.sweeps import worker  # noqa: PLC0415

    return worker.choose_precisions(plan)
