"""The report of a sweep: what was tried, what it brought, and what mattered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from optuna.importance import get_param_importances
from optuna.study import Study, create_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from detreg.report.page import Page, write_page
from detreg.sweeps import plots, storage
from detreg.sweeps import study as studies
from detreg.sweeps.duration import format_duration
from detreg.sweeps.plan import Plan
from detreg.sweeps.progress import format_values
from detreg.sweeps.result import SweepResult
from detreg.sweeps.study import Lineage

FEW = 6
"""Trials under which importances would be made up."""


def write_report(folder: Path, plan: Plan, study: Study, swept: SweepResult) -> None:
    """Writes the pictures and index.html, which shows them, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = studies.get_lineages(study)[: plan.sweep.trials]
    trials = [group.last for group in groups]
    drawn = [plots.history(trials, swept.defaults_mAP, folder / "history.png")]
    scored = [
        trial
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.intermediate_values
    ]
    if len(scored) > 1:
        drawn.append(
            plots.parallel_coordinates(
                scored, swept.best_trial, folder / "parallel_coordinates.png"
            )
        )
    if importances := _importances(scored):
        drawn.append(plots.importances(importances, folder / "importances.png"))
    numbers = {"best val mAP": swept.mAP, "val mAP of the defaults": swept.defaults_mAP}
    facts = {
        "best against defaults": swept.comparison,
        "best trial": f"{swept.best_trial}, run (eid) {swept.best_run_id}",
        "its hyperparameters": " ".join(
            f"{name}={value}" for name, value in swept.hyperparameters.items()
        )
        or "the defaults",
        "registered": f"{swept.model_name} version {swept.model_version} as {swept.alias}: {swept.reason}"
        if swept.model_version
        else f"nothing: {swept.reason}",
        "searched": str(plan.space),
        "study": f"{plan.name} in {storage.redact_password(plan.storage)}",
        "trials": f"{swept.complete} complete, {swept.pruned} pruned, {swept.failed} failed",
        "epochs": _epochs(plan, trials),
    }
    title = f"Sweep of {', '.join(plan.space.templates)}"
    rows = [_row(group) for group in groups]
    page = Page(title, plan.name, numbers, facts, plots=drawn, table=rows)
    write_page(page, folder / "index.html")


def _importances(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """The share of each hyperparameter in what makes a trial one of the better ones, where there are enough of them.

    Optuna looks at complete trials alone, of which pruning leaves few: a pruned one counts by what it had reached.
    """
    if len(trials) < FEW or len({plots.get_best_mAP(trial) for trial in trials}) < 2:
        return {}
    scored = create_study(direction="maximize")
    for trial in trials:
        scored.add_trial(
            create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=plots.get_best_mAP(trial),
            )
        )
    found = get_param_importances(scored)
    return (
        {name: share for name, share in found.items() if math.isfinite(share)}
        if len(found) > 1
        else {}
    )


def _epochs(plan: Plan, trials: Sequence[FrozenTrial]) -> str:
    """What pruning saved."""
    done = sum(
        len(trial.intermediate_values)
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    planned = sum(
        plan.suggest_params(trial)[1].num_epochs
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    return f"{done} of {planned} that the same trials take without pruning"


def _row(group: Lineage) -> dict[str, str]:
    trial = group.last
    best = max(trial.intermediate_values.values(), default=None)
    state = (
        trial.state.name.lower()
        if trial.state is not TrialState.FAIL
        else f"failed: {group.failure_reason}"
    )
    return {
        "trial": str(trial.number),
        "val mAP": "" if best is None else f"{best:.4f}",
        "how it ended": state
        + (f", after {len(group.trials) - 1} lost workers" if len(group.trials) > 1 else ""),
        "epochs": str(len(trial.intermediate_values)),
        "time": format_duration(trial.duration.total_seconds()) if trial.duration else "",
        "values": format_values(trial),
        "run (eid)": trial.user_attrs.get(studies.RUNS_ATTR, [""])[-1],
    }
