"""The workers of one command: started, watched, replaced when they die, stopped."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from optuna.study import Study

from detreg.errors import StoppedError
from detreg.sweeps import study as studies
from detreg.sweeps.plan import Plan
from detreg.sweeps.study import patiently

MAX_WORKER_FAILURES = 10
"""Deaths of each worker, with no epoch finished between them, after which the crew gives up."""


def server() -> ForkServerContext:
    """Makes processes in which torch and MMDetection are imported already, so that a worker that died is replaced at once."""
    # MMEngine asks at its import whether there is a GPU. In the usual way that begins CUDA, which a forked process cannot use then.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detreg.sweeps.worker"])
    return context


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; read without torch, which takes ten seconds to import."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


@dataclass
class WorkerPool:
    """Worker processes on one study, and their logs in `folder`."""

    plan: Plan
    study: Study
    wanted: int
    train: str
    folder: Path
    context: ForkServerContext = field(default_factory=server)
    _workers: dict[int, BaseProcess] = field(default_factory=dict)
    _deaths: int = 0
    _done: int = 0

    def run(self, progress: Callable[[], None]) -> None:
        """Until every wanted trial is settled, or none can be begun in time. Calls `progress` about once a second.

        Raises StoppedError where workers die again and again with nothing done between.
        """
        devices = gpus()
        size = min(self.plan.sweep.workers or max(1, len(devices)), self.wanted)
        with self._stopped_at_the_end():
            while True:
                patiently(lambda: studies.repair(self.study, self.plan.sweep.heartbeat))
                over = studies.step(self.study, self.wanted) == "end"
                late = not over and studies.too_late(self.study, self.plan)
                progress()  # after that question, so that the last trial is told, too
                if not self._watch() and (over or late):
                    return
                if not (over or late):
                    for index in range(size):
                        if index not in self._workers:
                            self._workers[index] = self._hire(
                                index, size, devices[index % len(devices)] if devices else None
                            )
                time.sleep(1)

    def _hire(self, index: int, size: int, gpu: str | None) -> BaseProcess:
        log = self.folder / f"worker-{index}.txt"
        arguments = (self.plan, self.study.study_name, self.wanted, self.train, size, gpu, log)
        process = self.context.Process(target=_work, args=arguments, name=f"worker {index}")
        process.start()
        return process

    def _watch(self) -> bool:
        """Takes those that have ended off the list; whether any is left. Counts deaths."""
        groups = studies.lineages(self.study)
        done = sum(studies.settled(group) + len(group[-1].intermediate_values) for group in groups)
        if done > self._done:
            self._done, self._deaths = done, 0
        for index, process in list(self._workers.items()):
            if not process.is_alive():
                self._deaths += process.exitcode != 0
                del self._workers[index]
                if self._deaths > MAX_WORKER_FAILURES * (self.plan.sweep.workers or 1):
                    raise StoppedError(
                        f"the workers die again and again: {self._last_words(index)}"
                    )
        return bool(self._workers)

    def _last_words(self, index: int) -> str:
        log = self.folder / f"worker-{index}.txt"
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        return next((line for line in reversed(lines) if line.strip()), "no word of why")[:500]

    @contextlib.contextmanager
    def _stopped_at_the_end(self) -> Iterator[None]:
        """However it ends, no worker is left: each gives its trial back, with a checkpoint."""
        try:
            yield
        finally:
            for process in self._workers.values():
                process.terminate()
            for process in self._workers.values():
                process.join(60)
                if process.is_alive():
                    process.kill()


def checked(context: ForkServerContext, plan: Plan) -> None:
    """Runs worker.check in a process, and raises here what it raised there."""
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(_check, plan).result()


# What runs in another process, which alone imports the worker and with it torch.


def _work(
    plan: Plan, study_name: str, wanted: int, train: str, size: int, gpu: str | None, log: Path
) -> None:
    from detreg.sweeps import worker

    worker.work(plan, study_name, wanted, getattr(worker, train), size, gpu, log)


def _check(plan: Plan) -> None:
    from detreg.sweeps import worker

    worker.check(plan)
