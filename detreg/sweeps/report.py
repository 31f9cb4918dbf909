"""The report of a sweep: what was tried, how it scored, and which hyperparameters mattered."""

import math
from collections.abc import Sequence
from pathlib import Path

from optuna.importance import get_param_importances
from optuna.study import Study, create_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from detreg.redaction import redact
from detreg.report.page import Page, write_page
from detreg.sweeps import study as studies
from detreg.sweeps.parallel_coordinates import draw_parallel_coordinates
from detreg.sweeps.plan import Plan
from detreg.sweeps.plots import draw_history, draw_importances
from detreg.sweeps.result import SweepResult
from detreg.sweeps.study import Lineage
from detreg.sweeps.trial_text import format_time, format_values, get_best_score

MIN_TRIALS_FOR_IMPORTANCES = 6
"""With fewer trials, importances are chance."""


def write_report(folder: Path, plan: Plan, study: Study, result: SweepResult) -> None:
    """Write a sweep's figures, and index.html which shows them, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lineages = studies.get_lineages(study)[: plan.sweep.trials]
    trials = [lineage.last for lineage in lineages]

    page = Page(
        title=f"Sweep of {', '.join(plan.space.templates)}",
        subtitle=plan.name,
        numbers={
            f"best val {result.metric}": result.score,
            f"val {result.metric} of the defaults": result.defaults_score,
        },
        facts=_list_facts(plan, result, trials),
        plots=_draw_plots(folder, trials, result),
        table=[_make_row(lineage, result.metric) for lineage in lineages],
    )
    write_page(page, folder / "index.html")


def _draw_plots(folder: Path, trials: Sequence[FrozenTrial], result: SweepResult) -> list[Path]:
    """Draw the figures for which there are enough trials, and return their files."""
    metric = result.metric
    plots = [draw_history(trials, result.defaults_score, folder / "history.png", metric)]

    scored = [trial for trial in trials if _has_score(trial)]
    if len(scored) > 1:
        path = folder / "parallel_coordinates.png"
        plots.append(draw_parallel_coordinates(scored, result.best_trial, path, metric))

    importances = _compute_importances(scored)
    if importances:
        plots.append(draw_importances(importances, folder / "importances.png"))
    return plots


def _list_facts(plan: Plan, result: SweepResult, trials: Sequence[FrozenTrial]) -> dict[str, str]:
    """Return the table of facts about the sweep and its best trial."""
    values = [f"{name}={value}" for name, value in result.hyperparameters.items()]
    registered = f"nothing: {result.reason}"
    if result.model_version:
        version = f"{result.model_name} version {result.model_version} as {result.alias}"
        registered = f"{version}: {result.reason}"
    counts = f"{result.complete} complete, {result.pruned} pruned, {result.failed} failed"
    return {
        "best against defaults": result.comparison,
        "best trial": f"{result.best_trial}, run (eid) {result.best_run_id}",
        "its hyperparameters": " ".join(values) or "the defaults",
        "registered": registered,
        "searched": str(plan.space),
        "study": f"{plan.name} in {redact(plan.storage)}",
        "trials": counts,
        "epochs": _describe_epochs(plan, trials),
    }


def _has_ended_well(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _has_score(trial: FrozenTrial) -> bool:
    return _has_ended_well(trial) and bool(trial.intermediate_values)


def _compute_importances(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return the share of each hyperparameter in what makes a trial one of the better ones.

    It is empty if there are too few trials, or only one hyperparameter. Optuna's evaluator uses
    complete trials alone, of which pruning leaves few; so the trials are copied into a study in
    memory, where a pruned one is complete with the best score that it reached.
    """
    # Equal scores make no trial a better one.
    scores = {get_best_score(trial) for trial in trials}
    if len(trials) < MIN_TRIALS_FOR_IMPORTANCES or len(scores) < 2:
        return {}

    study = create_study(direction="maximize")
    for trial in trials:
        score = get_best_score(trial)
        copy = create_trial(params=trial.params, distributions=trial.distributions, value=score)
        study.add_trial(copy)

    importances = get_param_importances(study)
    if len(importances) < 2:
        return {}
    # PED-ANOVA divides densities of values, and is NaN where both are 0.
    return {name: share for name, share in importances.items() if math.isfinite(share)}


def _describe_epochs(plan: Plan, trials: Sequence[FrozenTrial]) -> str:
    """Return how many epochs were trained, of how many without pruning."""
    trained = 0
    unpruned = 0
    for trial in trials:
        if _has_ended_well(trial):
            # The values of a finished trial give the params again, with their num_epochs.
            _, params = plan.suggest_params(trial)
            trained += len(trial.intermediate_values)
            unpruned += params.num_epochs
    return f"{trained} of {unpruned} that the same trials take without pruning"


def _make_row(lineage: Lineage, metric: str) -> dict[str, str]:
    """Return a row of the table of trials."""
    trial = lineage.last
    score = get_best_score(trial)

    outcome = trial.state.name.lower()
    if trial.state is TrialState.FAIL:
        outcome = f"failed: {lineage.failure_reason}"
    num_lost_workers = len(lineage.trials) - 1
    if num_lost_workers:
        outcome += f", after {num_lost_workers} lost workers"

    # The latest run of the lineage has the result; those of lost workers ended as KILLED.
    run_ids = trial.user_attrs.get(studies.RUNS_ATTR, [""])
    return {
        "trial": str(trial.number),
        f"val {metric}": "" if score is None else f"{score:.4f}",
        "outcome": outcome,
        "epochs": str(len(trial.intermediate_values)),
        "time": format_time(trial),
        "values": format_values(trial.params),
        "chosen by": _describe_choice(trial),
        "run (eid)": run_ids[-1],
    }


def _describe_choice(trial: FrozenTrial) -> str:
    """Return where a trial's values come from."""
    if studies.DEFAULTS_ATTR in trial.user_attrs:
        return "the defaults"
    remembered = trial.user_attrs.get(studies.MEMORY_ATTR)
    return f"memory: {remembered}" if remembered else "the sampler"
