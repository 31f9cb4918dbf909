"""A worker: a process that takes trials of a study one after another and trains them.

Whatever ends it, a trial is finished in the study, or can be gone on with from the checkpoint of its MLflow run.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import torch
from optuna.trial import Trial

from detreg import pipeline, templates
from detreg.data.dataset import Dataset, load_dataset
from detreg.environment import set_mlflow_defaults
from detreg.errors import DiskError, UnreachableError, describe_failure, summarize_error
from detreg.options import RunOptions
from detreg.params import build
from detreg.sweeps import study as studies
from detreg.sweeps.plan import Plan
from detreg.sweeps.study import (
    BEGUN,
    DEFAULTS,
    EXCESS,
    FAILURE,
    JOB,
    PUBLISHED,
    RUNS,
    TakenOverError,
    patiently,
)
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.training import engine

Train = Callable[[Plan, Dataset, Trial], float]

NOT_THE_TRIALS = (UnreachableError, DiskError)
"""Errors that another trial would meet too: the trial is given back, not failed."""


def check(plan: Plan) -> None:
    """Reads the weights that every template and base model of the plan starts from, as its trials will.

    Raises what a training would: UsageError, NotFoundError, UnreachableError or DataError.
    """
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        dataset = load_dataset(plan.options.data)
        for template in plan.templates:
            defaults = plan.get_first_params(template)
            dim = plan.space.templates[template.name].dimensions.get("base_model")
            for base_model in dim.ends if dim else (defaults.base_model,):
                job = pipeline.prepare(
                    template, replace(defaults, base_model=base_model), plan.options, dataset
                )
                engine.check_fit(job.config, template, job.params, dataset.classes, job.start)


def work(
    plan: Plan, study_name: str, wanted: int, train: Train, size: int, gpu: str | None, log: Path
) -> None:
    """Takes trials until none is left for this worker, one of `size`; what it prints goes to `log`."""
    _settle(size, gpu, log)
    store = patiently(lambda: studies.storage(plan.storage, plan.sweep.heartbeat))
    sampler, pruner = studies.tools(plan)
    study = patiently(
        lambda: optuna.load_study(
            study_name=study_name, storage=store, sampler=sampler, pruner=pruner
        )
    )
    dataset = load_dataset(plan.options.data)

    def objective(trial: Trial) -> float:
        if studies.one_too_many(study, trial.number, wanted):
            patiently(lambda: trial.set_user_attr(EXCESS, True))
            raise RuntimeError("one too many")
        patiently(lambda: trial.set_user_attr(BEGUN, trial.number))
        return _told(plan, dataset, trial, train)

    while (
        signal.getsignal(signal.SIGTERM) is _stop
    ):  # which a stop sets aside, should a failure hide it
        patiently(lambda: runs.get_run(plan.parent))
        following = studies.step(study, wanted)
        if following == "end" or studies.too_late(study, plan):
            return
        if following == "wait":
            time.sleep(1)
            continue
        try:
            study.optimize(objective, n_trials=1, catch=(Exception,))
        except (
            KeyboardInterrupt
        ):  # optuna has failed the trial; whoever repairs the study queues it again
            return
        except (
            Exception,
            TakenOverError,
        ) as error:  # or the database went away: the trial's heartbeats say the rest
            print(
                f"the study could not be told: {summarize_error(error)}",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(1)


def _settle(size: int, gpu: str | None, log: Path) -> None:
    """A process of its own: its output, its GPU, its share of the cores (or of OMP_NUM_THREADS), its signals."""
    for stream in (1, 2):
        with log.open("ab") as file:
            os.dup2(file.fileno(), stream)
    set_mlflow_defaults()
    os.environ.pop("MLFLOW_RUN_ID", None)  # the sweep's own
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(max(1, torch.get_num_threads() // size))
    # Loaders' processes are forked, as in any training; by the method of this process they would start without what it has imported.
    multiprocessing.set_start_method("fork", force=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Ends a trial as Ctrl-C does, once: a second signal must not interrupt what it keeps."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(
        "the sweep was stopped; its next start goes on from this trial's checkpoint"
    )


def _follow_parent() -> None:
    """A worker without its sweep's command would go on unseen, and keep the GPU."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _told(plan: Plan, dataset: Dataset, trial: Trial, train: Train) -> float:
    """Trains, and writes down the reason of a failure that another try would meet again."""
    try:
        return train(plan, dataset, trial)
    except optuna.TrialPruned:
        raise
    except Exception as error:
        print(f"trial {trial.number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if not isinstance(error, NOT_THE_TRIALS):
            reason = describe_failure(error)
            patiently(lambda: trial.set_user_attr(FAILURE, reason[:1000]))
        raise
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def search(plan: Plan, dataset: Dataset, trial: Trial) -> float:
    """A trial of the search: its best val mAP. The defaults are not pruned, since all others are compared with them."""
    template, params = patiently(lambda: plan.suggest_params(trial))
    defaults = DEFAULTS in trial.user_attrs
    name = f"trial {trial.number}" + (", defaults" if defaults else "")
    return trained(plan, dataset, trial, template, params, plan.options, name, prune=not defaults)


def conclude(plan: Plan, dataset: Dataset, trial: Trial) -> float:
    """A trial of a sweep's end: registers the best, or trains the best or the defaults with another seed; a val mAP."""
    job: Mapping[str, Any] = trial.user_attrs[JOB]
    template = templates.find_template(job["template"])
    params = build(template.params, job["hyperparameters"])
    if job["does"] == "train":
        name = f"{job['who']}, seed {job['seed']}"
        return trained(
            plan, dataset, trial, template, params, plan.with_seed(job["seed"]), name, prune=False
        )
    result = pipeline.publish_run(job["run_id"], template, params, plan.options, dataset)
    patiently(lambda: trial.set_user_attr(PUBLISHED, asdict(result)))
    return result.mAP


def trained(
    plan: Plan,
    dataset: Dataset,
    trial: Trial,
    template: Template,
    params: CommonParams,
    options: RunOptions,
    name: str,
    *,
    prune: bool,
) -> float:
    """Trains in an MLflow run of the trial's own, going on from the run of the worker that died; the best val mAP of its epochs.

    Raises TrialPruned, and the errors of a training.
    """
    earlier: list[str] = trial.user_attrs.get(RUNS, [])
    before, epochs = _checkpoint(earlier)
    if (
        before and epochs >= params.num_epochs
    ):  # it died between its last epoch and its word to the study
        ended = _fitted(before)
        _report(trial, ended.history)
        _log_best(runs.Run(before, Path()), ended)
        runs.end_run(before)
        return ended.best_mAP
    for eid in earlier:
        runs.end_run(eid, f"its worker died; it goes on as trial {trial.number}")
    if before:
        params = replace(params, continue_from_eid=before, load_from=None)
    job = pipeline.prepare(template, params, options, dataset)
    if job.start.resume:
        _report(trial, job.start.resume.history)
    pruned = False

    def after_epoch(epoch: int, mAP: float) -> bool:
        nonlocal pruned
        patiently(lambda: trial.report(mAP, epoch))
        # The pruner has to see the defaults too, because it compares others with them.
        pruned = patiently(trial.should_prune) and prune and epoch < params.num_epochs
        if studies.overdue(trial.study, plan):
            raise KeyboardInterrupt(
                "the sweep's budget is over; its next start goes on from this trial's checkpoint"
            )
        return pruned

    tags = job.tags | {runs.TRIAL: str(trial.number), runs.STUDY: trial.study.study_name}
    with runs.start_run(name, tags, parent=plan.parent) as active:
        patiently(lambda: trial.set_user_attr(RUNS, [*earlier, active.id]))
        fitted = pipeline.learn(active, job, after_epoch)
        _log_best(active, fitted)
        if pruned:
            active.set_tags(
                {runs.PRUNED: f"after epoch {len(fitted.history)} of {params.num_epochs}"}
            )
    if pruned:
        raise optuna.TrialPruned
    return fitted.best_mAP


def _checkpoint(eids: list[str]) -> tuple[str, int]:
    """The latest of the runs that has a checkpoint, and the epochs that it has done."""
    for eid in reversed(eids):
        checkpoints = runs.find_checkpoints(eid)
        if checkpoints is not None:
            return eid, checkpoints.epoch
    return "", 0


def _fitted(eid: str) -> engine.FitResult:
    with tempfile.TemporaryDirectory() as folder:
        return engine.fitted(eid, Path(folder))


def _log_best(run: runs.Run, fitted: engine.FitResult) -> None:
    run.log_metrics({"val/mAP_best": fitted.best_mAP}, step=len(fitted.history))


def _report(trial: Trial, history: Sequence[Mapping[str, float]]) -> None:
    """Reports the epochs of a checkpoint whose worker died before it had told the study of them."""
    known = studies.trials(trial.study)[trial.number].intermediate_values
    for row in history:
        if int(row["epoch"]) not in known:
            patiently(partial(trial.report, row.get("val/mAP", 0.0), int(row["epoch"])))
