"""A worker: a process that takes trials of a study one after another and trains them.

Whatever ends a worker, each of its trials is either finished in the study, or can be resumed from
the checkpoint of its MLflow run. What a trial writes, in this order:

1. its number as the attribute `begun`, so that a silent worker is told from one that never began;
2. its MLflow run, and the run's id as the attribute `runs`;
3. after each epoch the checkpoint in the run, then the val mAP in the study;
4. the end of its MLflow run, then its value in the study.

A kill between two of these writes leaves the earlier ones; the next worker of the lineage completes
them (`train_trial`).
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType

import optuna
import torch
from optuna.study import Study
from optuna.trial import Trial

from detreg import templates
from detreg.data.dataset import Dataset, load_dataset
from detreg.environment import set_mlflow_defaults
from detreg.errors import DiskError, UnreachableError, describe_failure, summarize_error
from detreg.options import RunOptions
from detreg.params import build
from detreg.publish import publish_trained_run
from detreg.sweeps import study as studies
from detreg.sweeps.jobs import PUBLISHED_ATTR, PublishJob, Stage, WorkerTask, read_job
from detreg.sweeps.plan import Plan
from detreg.sweeps.samplers import make_search_pruner, make_search_sampler
from detreg.sweeps.storage import TakenOverError, open_storage, retry_while_unreachable
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.training import engine
from detreg.training.epoch_metrics import EpochMetrics
from detreg.training.job import log_job, prepare_job

RunTrial = Callable[[Plan, Dataset, Trial], float]
"""Does one trial and returns its val mAP."""

ERRORS_OF_THE_MACHINE = (UnreachableError, DiskError)
"""Errors that any other trial would meet too: the trial is given back, not failed."""

MAX_REASON_LENGTH = 1000
"""Characters of a failure's reason that the study keeps."""


def check_initial_weights(plan: Plan) -> None:
    """Read the weights that every template and base model of the plan starts from.

    Raises:
        UsageError, NotFoundError, UnreachableError, DataError: what a training would raise.
    """
    # The trainings of the sweep print the same lines.
    with Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), 1)

    dataset = load_dataset(plan.options.data)
    for template in plan.templates:
        defaults = plan.get_first_params(template)
        dimension = plan.space.templates[template.name].dimensions.get("base_model")
        base_models = dimension.choices if dimension else (defaults.base_model,)
        for base_model in base_models:
            params = replace(defaults, base_model=base_model)
            job = prepare_job(template, params, plan.options, dataset)
            engine.check_initial_weights(job)


def run_worker(task: WorkerTask) -> None:
    """Take trials until none is left for this worker, or until it is stopped by a signal."""
    _configure_process(task)
    plan = task.plan
    study = _load_study(task)
    dataset = load_dataset(plan.options.data)
    run_trial = TRIALS_BY_STAGE[task.stage]

    def objective(trial: Trial) -> float:
        return _begin_trial(task, study, dataset, trial, run_trial)

    while not _is_stopped():
        # Fails early where the tracking server has lost the sweep's run; waits where it is away.
        retry_while_unreachable(lambda: runs.get_run(plan.parent))
        step = studies.decide_next_step(study, task.wanted)
        if step is studies.NextStep.END or studies.is_too_late_to_start(study, plan):
            return
        if step is studies.NextStep.WAIT:
            time.sleep(1)
            continue

        try:
            study.optimize(objective, n_trials=1, catch=(Exception,))
        except KeyboardInterrupt:
            # Optuna has failed the trial; any process that repairs the study queues it again.
            return
        except (Exception, TakenOverError) as error:
            # Or the database went away, and the trial is found dead by its missing heartbeats.
            message = f"the study could not be updated: {summarize_error(error)}"
            print(message, file=sys.stderr, flush=True)
            time.sleep(1)


def _load_study(task: WorkerTask) -> Study:
    plan = task.plan
    storage = retry_while_unreachable(lambda: open_storage(plan.storage, plan.sweep.heartbeat))
    return retry_while_unreachable(
        lambda: optuna.load_study(
            study_name=task.study_name,
            storage=storage,
            sampler=make_search_sampler(plan),
            pruner=make_search_pruner(plan),
        )
    )


def _begin_trial(
    task: WorkerTask, study: Study, dataset: Dataset, trial: Trial, run_trial: RunTrial
) -> float:
    """Drop a trial that is surplus; do any other."""
    if studies.is_surplus(study, trial.number, task.wanted):
        retry_while_unreachable(lambda: trial.set_user_attr(studies.SURPLUS_ATTR, True))
        raise RuntimeError("this trial is surplus: another worker has started the last one")
    retry_while_unreachable(lambda: trial.set_user_attr(studies.BEGUN_ATTR, trial.number))
    return run_and_record_failure(task.plan, dataset, trial, run_trial)


# The process.


def _configure_process(task: WorkerTask) -> None:
    """Give the process its own output, GPU, share of the cores, and handling of signals."""
    with task.log.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)

    set_mlflow_defaults()
    # It names the run of the sweep, which `mlflow run` has made; a trial has a run of its own.
    os.environ.pop("MLFLOW_RUN_ID", None)
    if task.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
    # The cores, or those that OMP_NUM_THREADS allows.
    torch.set_num_threads(max(1, torch.get_num_threads() // task.pool_size))
    # Processes of data loaders are forked, as in any training. Made by the method of this process,
    # they would start without what it has imported.
    multiprocessing.set_start_method("fork", force=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    threading.Thread(target=_stop_with_parent, daemon=True).start()


def _interrupt_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Interrupt the trial as Ctrl-C does, once.

    A second signal must not cut short the upload of the checkpoint.
    """
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(
        "the sweep was stopped; run the same command again to resume this trial from its checkpoint"
    )


def _is_stopped() -> bool:
    """Whether a signal has come, even where its KeyboardInterrupt was replaced by another error."""
    return signal.getsignal(signal.SIGTERM) is not _interrupt_once


def _stop_with_parent() -> None:
    """Wait for the end of the sweep's command, and stop then: this process would keep the GPU."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


# The trials.


def run_and_record_failure(
    plan: Plan, dataset: Dataset, trial: Trial, run_trial: RunTrial
) -> float:
    """Do a trial, and record the reason of a failure that another try would meet again."""
    try:
        return run_trial(plan, dataset, trial)
    except optuna.TrialPruned:
        raise
    except Exception as error:
        print(f"trial {trial.number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if not isinstance(error, ERRORS_OF_THE_MACHINE):
            reason = describe_failure(error)[:MAX_REASON_LENGTH]
            retry_while_unreachable(lambda: trial.set_user_attr(studies.FAILURE_ATTR, reason))
        raise
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def run_search_trial(plan: Plan, dataset: Dataset, trial: Trial) -> float:
    """Train with the values that the sampler chooses; return the best val mAP.

    The defaults are not pruned, because all others are compared with them.
    """
    template, params = retry_while_unreachable(lambda: plan.suggest_params(trial))
    has_defaults = studies.DEFAULTS_ATTR in trial.user_attrs
    training = TrialTraining(
        template=template,
        params=params,
        options=plan.options,
        run_name=f"trial {trial.number}" + (", defaults" if has_defaults else ""),
        is_prunable=not has_defaults,
    )
    return train_trial(plan, dataset, trial, training)


def run_final_trial(plan: Plan, dataset: Dataset, trial: Trial) -> float:
    """Do a final job: register the best, or train a side again with another seed.

    Returns the val mAP, which is the exported model's for the first.
    """
    job = read_job(trial)
    if job is None:
        raise ValueError(f"trial {trial.number} of {trial.study.study_name} has no final job")
    template = templates.find_template(job.template)
    params = build(template.params, job.hyperparameters)

    if isinstance(job, PublishJob):
        result = publish_trained_run(job.run_id, template, params, plan.options, dataset)
        retry_while_unreachable(lambda: trial.set_user_attr(PUBLISHED_ATTR, asdict(result)))
        return result.mAP

    training = TrialTraining(
        template=template,
        params=params,
        options=plan.with_seed(job.seed),
        run_name=f"{job.side}, seed {job.seed}",
        is_prunable=False,
    )
    return train_trial(plan, dataset, trial, training)


TRIALS_BY_STAGE: Mapping[Stage, RunTrial] = {
    Stage.SEARCH: run_search_trial,
    Stage.FINISH: run_final_trial,
}


@dataclass(frozen=True)
class TrialTraining:
    """What a trial trains."""

    template: Template
    params: CommonParams
    options: RunOptions
    run_name: str
    is_prunable: bool


@dataclass(frozen=True)
class LeftCheckpoint:
    """The checkpoint that a dead worker has left in an MLflow run."""

    run_id: str
    epoch: int


def train_trial(plan: Plan, dataset: Dataset, trial: Trial, training: TrialTraining) -> float:
    """Train in an MLflow run of the trial's own; return the best val mAP of its epochs.

    A retry resumes from the latest checkpoint of its lineage's earlier runs. Where the dead worker
    had done all epochs, only the study is updated.

    Raises:
        TrialPruned: the pruner has stopped the trial.
        DetregError: what a training raises.
    """
    earlier_runs: list[str] = trial.user_attrs.get(studies.RUNS_ATTR, [])
    checkpoint = _find_checkpoint(earlier_runs)
    params = training.params
    if checkpoint is not None and checkpoint.epoch >= params.num_epochs:
        return _finish_trained_trial(trial, checkpoint)

    for eid in earlier_runs:
        runs.end_run(eid, f"its worker died; trial {trial.number} resumes it")
    if checkpoint is not None:
        params = replace(params, continue_from_eid=checkpoint.run_id, load_from=None)
    job = prepare_job(training.template, params, training.options, dataset)
    if job.initial_weights.resume:
        _report_missing_epochs(trial, job.initial_weights.resume.history)

    after_epoch = EpochReporter(plan, trial, params.num_epochs, training.is_prunable)
    tags = job.tags | {runs.TRIAL: str(trial.number), runs.STUDY: trial.study.study_name}
    with runs.start_run(training.run_name, tags, parent=plan.parent) as active:
        all_runs = [*earlier_runs, active.id]
        retry_while_unreachable(lambda: trial.set_user_attr(studies.RUNS_ATTR, all_runs))
        log_job(active, job)
        fitted = engine.fit(job, active.folder, active, after_epoch)
        _log_best(active, fitted)
        if after_epoch.is_pruned:
            epochs = f"after epoch {len(fitted.history)} of {params.num_epochs}"
            active.set_tags({runs.PRUNED: epochs})

    if after_epoch.is_pruned:
        raise optuna.TrialPruned
    return fitted.best_mAP


@dataclass
class EpochReporter:
    """Reports each epoch of a trial to the study; training calls it after every epoch."""

    plan: Plan
    trial: Trial
    num_epochs: int
    is_prunable: bool
    is_pruned: bool = False

    def __call__(self, epoch: int, mAP: float) -> bool:
        """Report an epoch's val mAP; whether training has to end with it.

        Raises:
            KeyboardInterrupt: the sweep's budget is over.
            TakenOverError: the trial was taken for dead, and belongs to another worker.
        """
        retry_while_unreachable(lambda: self.trial.report(mAP, epoch))
        # The pruner is asked for the defaults too: it keeps the answer in the study, and compares
        # other trials with it.
        is_poor = retry_while_unreachable(self.trial.should_prune)
        self.is_pruned = is_poor and self.is_prunable and epoch < self.num_epochs
        if studies.is_overdue(self.trial.study, self.plan):
            raise KeyboardInterrupt(
                "the sweep's budget is over; run the same command again to resume this trial from "
                "its checkpoint"
            )
        return self.is_pruned


def _find_checkpoint(eids: Sequence[str]) -> LeftCheckpoint | None:
    """Return the checkpoint of the latest run that has one."""
    for eid in reversed(eids):
        stored = runs.find_checkpoints(eid)
        if stored is not None:
            return LeftCheckpoint(eid, stored.epoch)
    return None


def _finish_trained_trial(trial: Trial, checkpoint: LeftCheckpoint) -> float:
    """Complete the writes of a worker that died between its last epoch and the trial's value."""
    with tempfile.TemporaryDirectory() as folder:
        fitted = engine.load_fit_result(checkpoint.run_id, Path(folder))
    _report_missing_epochs(trial, fitted.history)
    _log_best(runs.Run(checkpoint.run_id, Path()), fitted)
    runs.end_run(checkpoint.run_id)
    return fitted.best_mAP


def _log_best(run: runs.Run, fitted: engine.FitResult) -> None:
    run.log_metrics({"val/mAP_best": fitted.best_mAP}, step=len(fitted.history))


def _report_missing_epochs(trial: Trial, history: Sequence[EpochMetrics]) -> None:
    """Report the epochs of a checkpoint that the dead worker had not reported to the study."""
    reported = studies.get_trials(trial.study)[trial.number].intermediate_values
    for entry in history:
        if entry.epoch not in reported:
            retry_while_unreachable(partial(trial.report, entry.mAP, entry.epoch))
