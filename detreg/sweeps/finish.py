"""The end of a sweep: the best registered, confirmed with other seeds, compared with the defaults, and told."""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from detreg.errors import StoppedError
from detreg.params import to_changed_texts, to_plain
from detreg.sweeps import pool
from detreg.sweeps import study as studies
from detreg.sweeps.plan import Plan
from detreg.sweeps.progress import Progress
from detreg.sweeps.report import write_report
from detreg.tracking import runs
from detreg.tracking.runs import Run


@dataclass(frozen=True)
class SweepResult:
    """The end of a sweep, as `--json` prints it. `mAP` is the best trial's on the val split, of its best epoch."""

    run_id: str
    study: str
    trials: int
    complete: int
    pruned: int
    failed: int
    best_trial: int
    best_run_id: str
    template: str
    mAP: float
    hyperparameters: dict[str, str]
    """Those that are not the template's defaults, as text."""
    defaults_mAP: float | None
    comparison: str
    model_name: str | None
    model_version: str | None
    alias: str | None
    reason: str


def concluded(active: Run, plan: Plan, study: Study, logs: Path) -> SweepResult:
    """Registers the best trial, trains it and the defaults with other seeds where that is wanted, and writes the report.

    Raises StoppedError where no trial is complete.
    """
    groups = studies.lineages(study)[: plan.sweep.trials]
    complete = [group[-1] for group in groups if group[-1].state is TrialState.COMPLETE]
    if not complete:
        reasons = [
            f"trial {group[-1].number}: {studies.failure(group)}"
            for group in groups
            if studies.settled(group)
        ]
        raise StoppedError(["no trial is complete yet: the same command goes on", *reasons[:5]])
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    template, params = plan.suggest_params(best)
    defaults = next(
        (trial for trial in complete if trial.user_attrs.get(studies.DEFAULTS) == template.name),
        None,
    )
    print(f"Best: trial {best.number} with mAP {best.value:.4f}; registers it", flush=True)
    end = _end(plan, study, best, defaults, logs)
    ended = studies.lineages(end)
    results = [group[-1] for group in ended]
    *_, published = (
        group for group in ended if group[-1].user_attrs[studies.JOB]["does"] == "publish"
    )
    outcome = published[-1].user_attrs.get(studies.PUBLISHED, {})
    unpublished = "" if outcome else studies.failure(published)
    swept = SweepResult(
        run_id=active.id,
        study=plan.name,
        trials=len(groups),
        complete=len(complete),
        pruned=sum(group[-1].state is TrialState.PRUNED for group in groups),
        failed=sum(
            group[-1].state is TrialState.FAIL and studies.settled(group) for group in groups
        ),
        best_trial=best.number,
        best_run_id=best.user_attrs[studies.RUNS][-1],
        template=template.name,
        mAP=float(best.value or 0.0),
        hyperparameters=to_changed_texts(params),
        defaults_mAP=None if defaults is None else defaults.value,
        comparison=comparison(best, defaults, results),
        model_name=outcome.get("model_name"),
        model_version=outcome.get("model_version"),
        alias=outcome.get("alias"),
        reason=outcome.get("reason") or unpublished,
    )
    _finish(active, plan, study, swept, outcome)
    return swept


def _end(
    plan: Plan, study: Study, best: FrozenTrial, defaults: FrozenTrial | None, logs: Path
) -> Study:
    """A second study with what is left to do, so that workers share it and go on with it like the first."""
    jobs: list[dict[str, Any]] = []
    sides = {"best": best} | (
        {"defaults": defaults} if defaults is not None and defaults is not best else {}
    )
    for who, trial in sides.items():
        template, params = plan.suggest_params(trial)
        about = {"who": who, "template": template.name, "hyperparameters": to_plain(params)}
        if who == "best":
            jobs.append({"does": "publish", "run_id": trial.user_attrs[studies.RUNS][-1], **about})
        confirm = (
            plan.sweep.confirm if len(sides) > 1 else 0
        )  # one side alone has nothing to be compared with
        seeds = range(plan.options.seed + 1, plan.options.seed + 1 + confirm)
        jobs += [{"does": "train", "seed": seed, **about} for seed in seeds]
    name = f"{plan.name}, best {best.number}, confirm {plan.sweep.confirm}"
    first: studies.First = [({}, {studies.JOB: job}) for job in jobs]
    store = studies.patiently(lambda: studies.storage(plan.storage, plan.sweep.heartbeat))
    end, _ = studies.patiently(
        lambda: studies.opened(name, store, study.sampler, studies.pruner("none", 1), first)
    )
    for group in studies.lineages(end):
        if (
            studies.settled(group) and group[-1].state is TrialState.FAIL
        ):  # in an earlier command: this one tries again
            end.enqueue_trial({}, user_attrs={studies.JOB: group[-1].user_attrs[studies.JOB]})
    wanted, unhurried = len(studies.lineages(end)), replace(plan, deadline=None)
    pool.WorkerPool(unhurried, end, wanted, "conclude", logs).run(Progress(end, unhurried, wanted))
    return end


def comparison(best: FrozenTrial, defaults: FrozenTrial | None, results: list[FrozenTrial]) -> str:
    """The best against the defaults in a sentence, measured on other seeds where there are some."""
    if defaults is None:
        return "the defaults were not trained to their end, so there is nothing to compare with"
    if defaults.number == best.number:
        return f"no trial beats the defaults, whose mAP is {best.value:.4f}"
    ours, theirs = (_retrained(results, who) for who in ("best", "defaults"))
    if not ours or not theirs:
        gain = (best.value or 0) - (defaults.value or 0)
        return f"mAP {best.value:.4f} against {defaults.value:.4f} of the defaults, {gain:+.4f}, from one seed: confirm=3 would measure it"
    gain = statistics.mean(ours) - statistics.mean(theirs)
    seeds = f"{len(ours)} and {len(theirs)} other seeds"
    sides = f"mAP {statistics.mean(ours):.4f} against {statistics.mean(theirs):.4f} of the defaults, trained again with {seeds}"
    if len(ours) < 2 or len(theirs) < 2:
        return f"{sides}: {gain:+.4f}; two seeds at least would say how far that can be trusted"
    error = math.sqrt(
        statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs)
    )
    return f"{sides}: {'better' if gain > 0 else 'worse'} than the defaults by {abs(gain):.4f} ± {error:.4f} (standard error)"


def _retrained(results: list[FrozenTrial], who: str) -> list[float]:
    jobs = ((trial.user_attrs[studies.JOB], trial.value) for trial in results)
    return [
        value
        for job, value in jobs
        if job["does"] == "train" and job["who"] == who and value is not None
    ]


def _finish(
    active: Run, plan: Plan, study: Study, swept: SweepResult, outcome: Mapping[str, Any]
) -> None:
    """The results into the sweep's run, and into this command's where that is another."""
    folder = active.folder / "report"
    write_report(folder, plan, study, swept)
    numbers = {
        name: float(outcome[name]) for name in ("mAP", "mAP_50", "mAP_75") if name in outcome
    }
    numbers |= {
        "val/mAP_best": swept.mAP,
        "trials/complete": swept.complete,
        "trials/pruned": swept.pruned,
        "trials/failed": swept.failed,
    }
    numbers |= {} if swept.defaults_mAP is None else {"val/mAP_defaults": swept.defaults_mAP}
    for run in {active.id, plan.parent}:
        handle = Run(run, active.folder)
        handle.log_metrics(numbers)
        handle.set_tags(
            {"detreg.best_eid": swept.best_run_id, "detreg.comparison": swept.comparison}
        )
        handle.log_text(json.dumps(asdict(swept), indent=2), "sweep.json")
        handle.log_file(folder, "report")
    if plan.parent != active.id:
        runs.end_run(plan.parent)
