"""The end of a sweep: register the best trial, train it again with other seeds, report.

What is left to do at the end is a second Optuna study, whose trials are *final jobs* (jobs.py). So
workers share the jobs, and a killed one is retried, by the same rules as in the search.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from detreg.errors import StoppedError, UnreachableError
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.params import to_changed_texts, to_plain
from detreg.sweeps import study as studies
from detreg.sweeps.comparison import compare_with_defaults
from detreg.sweeps.jobs import (
    JOB_ATTR,
    PUBLISHED_ATTR,
    FinalJob,
    PublishJob,
    RetrainJob,
    Side,
    Stage,
    read_job,
)
from detreg.sweeps.plan import Plan
from detreg.sweeps.pool import WorkerPool
from detreg.sweeps.progress import Progress
from detreg.sweeps.report import write_report
from detreg.sweeps.result import SweepResult
from detreg.sweeps.samplers import make_pruner
from detreg.sweeps.storage import open_storage, retry_while_unreachable
from detreg.sweeps.study import FirstTrial, Lineage
from detreg.tracking import runs
from detreg.tracking.leftovers import settle_left_runs
from detreg.tracking.runs import Run

PUBLISHED_METRICS = ("mAP", "mAP_50", "mAP_75", "segm_mAP", "segm_mAP_50", "segm_mAP_75")
"""Metrics of the exported best that the sweep's run has too."""
MAX_REASONS = 5
"""Failed trials whose reasons are shown where none is complete."""


@dataclass(frozen=True)
class Publication:
    """What came of registering the best trial's model; names are None where nothing did."""

    reason: str
    model_name: str | None = None
    model_version: str | None = None
    alias: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the exported model on the val split."""


def finish_sweep(active: Run, plan: Plan, study: Study, logs: Path) -> SweepResult:
    """Register the best trial, confirm it with other seeds where wanted, and write the report.

    `active` is the MLflow run of this command; the logs of its workers go to the folder `logs`.

    Raises:
        StoppedError: no trial of the search is complete.
    """
    # A lineage is a trial with its retries. Workers that looked at the study at the same moment may
    # have started more than are wanted: only the first ones count.
    lineages = studies.get_lineages(study)[: plan.sweep.trials]
    best = _find_best(lineages)
    template, params = plan.suggest_params(best)
    defaults = _find_defaults(lineages, template.name)
    score = f"{plan.metric} {best.value:.4f}"
    print(f"Best: trial {best.number} with {score}; registers it", flush=True)

    final_study = _create_final_study(plan, study, best, defaults)
    _run_final_jobs(plan, final_study, logs)
    final_lineages = studies.get_lineages(final_study)
    final_trials = [lineage.last for lineage in final_lineages]
    publication = _read_publication(final_lineages)

    states = [lineage.last.state for lineage in lineages]
    result = SweepResult(
        run_id=active.id,
        study=plan.name,
        trials=len(lineages),
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        failed=sum(lineage.has_failed for lineage in lineages),
        best_trial=best.number,
        best_run_id=best.user_attrs[studies.RUNS_ATTR][-1],
        template=template.name,
        metric=plan.metric,
        score=float(best.value or 0.0),
        hyperparameters=to_changed_texts(params),
        defaults_score=None if defaults is None else defaults.value,
        comparison=compare_with_defaults(best, defaults, final_trials, plan.metric),
        model_name=publication.model_name,
        model_version=publication.model_version,
        alias=publication.alias,
        reason=publication.reason,
    )
    _log_result(active, plan, study, result, publication)
    _report_undelivered_runs()
    return result


def _find_best(lineages: Sequence[Lineage]) -> FrozenTrial:
    """Return the complete trial with the highest score; of equal ones the first."""
    complete = _get_complete_trials(lineages)
    if not complete:
        reasons = [
            f"trial {lineage.last.number}: {lineage.failure_reason}"
            for lineage in lineages
            if lineage.is_settled
        ]
        advice = "no trial is complete yet: run the same command again to resume"
        raise StoppedError([advice, *reasons[:MAX_REASONS]])
    return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))


def _find_defaults(lineages: Sequence[Lineage], template: str) -> FrozenTrial | None:
    """Return the complete trial with the defaults of a template; None where there is none."""
    for trial in _get_complete_trials(lineages):
        if trial.user_attrs.get(studies.DEFAULTS_ATTR) == template:
            return trial
    return None


def _get_complete_trials(lineages: Sequence[Lineage]) -> list[FrozenTrial]:
    trials = [lineage.last for lineage in lineages]
    return [trial for trial in trials if trial.state is TrialState.COMPLETE]


def _create_final_study(
    plan: Plan, study: Study, best: FrozenTrial, defaults: FrozenTrial | None
) -> Study:
    """Create the study of the final jobs, or load that of an earlier command.

    Its name holds what its jobs depend on, so that the same command resumes it, and another best
    trial or another `confirm` gets a study of its own. Each command queues what failed before it
    once more.
    """
    name = f"{plan.name}, best {best.number}, confirm {plan.sweep.confirm}"
    jobs = _list_final_jobs(plan, best, defaults)
    first_trials = [FirstTrial(user_attrs={JOB_ATTR: job.to_json()}) for job in jobs]
    storage = retry_while_unreachable(lambda: open_storage(plan.storage, plan.sweep.heartbeat))
    final_study, _ = retry_while_unreachable(
        lambda: studies.open_study(
            name, storage, study.sampler, make_pruner("none", 1), first_trials
        )
    )

    # As a new trial and not as a retry, whose number of tries would be used up.
    for lineage in studies.get_lineages(final_study):
        if lineage.has_failed:
            job = lineage.last.user_attrs[JOB_ATTR]
            final_study.enqueue_trial({}, user_attrs={JOB_ATTR: job})
    return final_study


def _list_final_jobs(plan: Plan, best: FrozenTrial, defaults: FrozenTrial | None) -> list[FinalJob]:
    """Return the job that registers the best, and those that train both sides again.

    The order is part of the stored study: a study that was left half made is filled up by it.
    """
    template, params = plan.suggest_params(best)
    run_id = best.user_attrs[studies.RUNS_ATTR][-1]
    jobs: list[FinalJob] = [PublishJob(run_id, template.name, to_plain(params))]

    # The best alone has nothing to be compared with.
    if defaults is None or defaults.number == best.number:
        return jobs
    first_seed = plan.options.seed + 1
    for side, trial in ((Side.BEST, best), (Side.DEFAULTS, defaults)):
        template, params = plan.suggest_params(trial)
        for seed in range(first_seed, first_seed + plan.sweep.confirm):
            jobs.append(RetrainJob(seed, side, template.name, to_plain(params)))
    return jobs


def _run_final_jobs(plan: Plan, final_study: Study, logs: Path) -> None:
    """Do all final jobs, however long they take: the budget has ended the search before them."""
    without_deadline = replace(plan, deadline=None)
    wanted = len(studies.get_lineages(final_study))
    pool = WorkerPool(without_deadline, final_study, wanted, Stage.FINISH, logs)
    progress = Progress(final_study, without_deadline, wanted)
    pool.run(progress.print_ended_trials)


def _read_publication(final_lineages: Sequence[Lineage]) -> Publication:
    """Return what came of the latest try to register the best."""
    publishing = [
        lineage for lineage in final_lineages if isinstance(read_job(lineage.last), PublishJob)
    ]
    latest = publishing[-1]
    stored = latest.last.user_attrs.get(PUBLISHED_ATTR)
    if not stored:
        return Publication(latest.failure_reason)
    return Publication(
        reason=stored["reason"],
        model_name=stored["model_name"],
        model_version=stored["model_version"],
        alias=stored["alias"],
        metrics={name: float(stored[name]) for name in PUBLISHED_METRICS if name in stored},
    )


def _report_undelivered_runs() -> None:
    """Deliver what workers of this machine could not, and name the runs that still wait."""
    for settlement in settle_left_runs():
        if settlement.problem:
            message = f"run {settlement.run_id} is not delivered yet ({settlement.problem})"
            print(f"{message}: detreg sync delivers it", file=sys.stderr, flush=True)


def _log_result(
    active: Run, plan: Plan, study: Study, result: SweepResult, publication: Publication
) -> None:
    """Log the result to the sweep's run, and to this command's where that is another one."""
    report = active.folder / "report"
    write_report(report, plan, study, result)
    metrics = publication.metrics | {
        f"val/{result.metric}_best": result.score,
        "trials/complete": result.complete,
        "trials/pruned": result.pruned,
        "trials/failed": result.failed,
    }
    if result.defaults_score is not None:
        metrics[f"val/{result.metric}_defaults"] = result.defaults_score

    def log_to(run: Run) -> None:
        run.log_metrics(metrics)
        run.set_tags(
            {"detreg.best_eid": result.best_run_id, "detreg.comparison": result.comparison}
        )
        run.log_text(json.dumps(result.to_json(), indent=2), "sweep.json")
        run.log_file(report, "report")

    log_to(active)
    if plan.parent == active.id:
        return
    # The sweep's run belongs to an earlier command, which may have left it running.
    try:
        with translate_mlflow_errors(f"run {plan.parent} is gone"):
            log_to(Run(plan.parent, active.folder))
            runs.end_run(plan.parent)
    except UnreachableError as error:
        # The run of this command has it all, and keeps it until MLflow has it.
        print(f"the sweep's run {plan.parent} lacks the result: {error}", file=sys.stderr)
