"""What a trial of a sweep does: train in an MLflow run of its own, or do a final job.

A worker may die at any moment. What a trial writes, in this order:

1. its number as the attribute `begun`, so that a silent worker is told from one that never began;
2. its MLflow run, and the run's id as the attribute `runs`;
3. after each epoch the checkpoint in the run, then the score on val in the study;
4. the end of its MLflow run, then its value in the study.

A kill between two of these writes leaves the earlier ones. The next worker of the lineage resumes
from them (`train_trial`), so that no epoch with a checkpoint is trained twice.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import Trial

from detreg import templates
from detreg.data.dataset import Dataset
from detreg.defaults import BOX_METRIC
from detreg.options import RunOptions
from detreg.params import build
from detreg.sweeps import study as studies
from detreg.sweeps.jobs import PUBLISHED_ATTR, PublishJob, Stage, read_job
from detreg.sweeps.plan import Plan
from detreg.sweeps.storage import retry_while_unreachable
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.training import engine
from detreg.training.epoch_metrics import EpochMetrics
from detreg.training.job import log_job, prepare_job

RunTrial = Callable[[Plan, Dataset, Trial], float]
"""Does one trial and returns its score on val."""


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


def run_search_trial(plan: Plan, dataset: Dataset, trial: Trial) -> float:
    """Train with the values that the sampler chooses; return the best score on val.

    The defaults are not pruned, because all others are compared with them.
    """
    template, params = retry_while_unreachable(lambda: plan.suggest_params(trial))
    has_defaults = studies.DEFAULTS_ATTR in trial.user_attrs
    training = TrialTraining(
        template=template,
        params=params,
        options=plan.get_options(template.name),
        run_name=f"trial {trial.number}" + (", defaults" if has_defaults else ""),
        is_prunable=not has_defaults,
    )
    return train_trial(plan, dataset, trial, training)


def run_final_trial(plan: Plan, dataset: Dataset, trial: Trial) -> float:
    """Do a final job: register the best, or train a side again with another seed.

    Returns the score on val, which is the exported model's for the first.
    """
    job = read_job(trial)
    if job is None:
        raise ValueError(f"trial {trial.number} of {trial.study.study_name} has no final job")
    template = templates.find_template(job.template)
    params = build(template.params, job.hyperparameters)

    if isinstance(job, PublishJob):
        # One worker of a sweep publishes; the others do without matplotlib and onnx.
        from detreg.publish import publish_trained_run  # noqa: PLC0415

        options = plan.get_options(template.name)
        result = publish_trained_run(job.run_id, template, params, options, dataset)
        retry_while_unreachable(lambda: trial.set_user_attr(PUBLISHED_ATTR, result.to_json()))
        return result.get_score(plan.metric)

    training = TrialTraining(
        template=template,
        params=params,
        options=plan.get_options(template.name, job.seed),
        run_name=f"{job.side}, seed {job.seed}",
        is_prunable=False,
    )
    return train_trial(plan, dataset, trial, training)


TRIALS_BY_STAGE: Mapping[Stage, RunTrial] = {
    Stage.SEARCH: run_search_trial,
    Stage.FINISH: run_final_trial,
}


def train_trial(plan: Plan, dataset: Dataset, trial: Trial, training: TrialTraining) -> float:
    """Train in an MLflow run of the trial's own; return the best score of its epochs.

    A retry resumes from the latest checkpoint of its lineage's earlier runs. Where the dead worker
    had done all epochs, only the study is updated.

    Raises:
        TrialPruned: the pruner has stopped the trial.
        DetregError: what a training raises.
    """
    # A retry inherits the runs of the trials before it in its lineage.
    earlier_runs: list[str] = trial.user_attrs.get(studies.RUNS_ATTR, [])
    checkpoint = _find_checkpoint(earlier_runs)
    params = training.params
    if checkpoint is not None and checkpoint.epoch >= params.num_epochs:
        return _finish_trained_trial(trial, checkpoint, plan.metric)

    # Ended before the new run starts, so that a lineage never has two that are RUNNING.
    for eid in earlier_runs:
        runs.end_run(eid, f"its worker died; trial {trial.number} resumes it")
    if checkpoint is not None:
        params = replace(params, continue_from_eid=checkpoint.run_id, load_from=None)
    job = prepare_job(training.template, params, training.options, dataset)
    if job.initial_weights.resume:
        _report_missing_epochs(trial, job.initial_weights.resume.history, plan.metric)

    after_epoch = EpochReporter(plan, trial, params.num_epochs, training.is_prunable)
    tags = job.tags | {runs.TRIAL: str(trial.number), runs.STUDY: trial.study.study_name}
    with runs.start_run(
        training.run_name, tags, parent=plan.parent, must_be_delivered=False
    ) as active:
        # A kill before this write leaves a run that no trial knows of: the command ends it after
        # the search (sweep.py).
        all_runs = [*earlier_runs, active.id]
        retry_while_unreachable(lambda: trial.set_user_attr(studies.RUNS_ATTR, all_runs))
        log_job(active, job)
        fitted = engine.fit(job, active.folder, active, after_epoch)
        _log_best(active, fitted, plan.metric)
        if after_epoch.is_pruned:
            epochs = f"after epoch {len(fitted.history)} of {params.num_epochs}"
            active.set_tags({runs.PRUNED: epochs})

    # Only here, because the MLflow run of a pruned trial ends as FINISHED, not as FAILED.
    if after_epoch.is_pruned:
        raise optuna.TrialPruned
    return fitted.best_score


@dataclass
class EpochReporter:
    """Reports each epoch of a trial to the study; training calls it after every epoch."""

    plan: Plan
    trial: Trial
    num_epochs: int
    is_prunable: bool
    is_pruned: bool = False

    def __call__(self, epoch: int, score: float) -> bool:
        """Report an epoch's score on val; whether training has to end with it.

        Raises:
            KeyboardInterrupt: the sweep's budget is over.
            TakenOverError: the trial was taken for dead, and belongs to another worker.
        """
        retry_while_unreachable(lambda: self.trial.report(score, epoch))
        # The defaults ask too, and ignore the answer: ASHA records each trial that asks, and
        # compares others with it.
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
        runs.settle_run(eid)
        stored = runs.find_checkpoints(eid)
        if stored is not None:
            return LeftCheckpoint(eid, stored.epoch)
    return None


def _finish_trained_trial(trial: Trial, checkpoint: LeftCheckpoint, metric: str) -> float:
    """Complete the writes of a worker that died between its last epoch and the trial's value."""
    # The checkpoint holds the history of all its epochs, whether or not they were reported.
    with tempfile.TemporaryDirectory() as folder:
        fitted = engine.load_fit_result(checkpoint.run_id, Path(folder))
    _report_missing_epochs(trial, fitted.history, metric)
    _log_best(runs.Run(checkpoint.run_id, Path()), fitted, metric)
    runs.end_run(checkpoint.run_id)
    return fitted.best_score


def _log_best(run: runs.Run, fitted: engine.FitResult, metric: str) -> None:
    # Sweeps that remember the run compare it by boxes, whatever its own metric is.
    best_by_boxes = max((entry.mAP for entry in fitted.history), default=0.0)
    scores = {f"val/{BOX_METRIC}_best": best_by_boxes, f"val/{metric}_best": fitted.best_score}
    run.log_metrics(scores, step=len(fitted.history))


def _report_missing_epochs(trial: Trial, history: Sequence[EpochMetrics], metric: str) -> None:
    """Report the epochs of a checkpoint that the dead worker had not reported to the study."""
    reported = studies.get_trials(trial.study)[trial.number].intermediate_values
    for entry in history:
        if entry.epoch not in reported:
            retry_while_unreachable(partial(trial.report, entry.get_score(metric), entry.epoch))
