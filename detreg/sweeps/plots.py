"""Figures of a sweep: the scores of its trials, and which hyperparameters mattered."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from detreg.defaults import BOX_METRIC
from detreg.report.figure import make_figure, save_figure, set_title, shorten_name, tidy_axes
from detreg.report.theme import INK, MUTED, RIGHT, WRONG
from detreg.sweeps.trial_text import get_best_score


def draw_history(
    trials: Sequence[FrozenTrial],
    defaults_score: float | None,
    path: Path,
    metric: str = BOX_METRIC,
) -> Path:
    """Draw the score of each trial by its number, the best so far, and that of the defaults.

    Pruned trials are drawn at the best score that they had reached. `metric` is the scores' name.
    """
    figure = make_figure(4)
    axes = figure.subplots()

    _plot_pruned(axes, trials)
    _plot_complete(axes, trials)
    if defaults_score is not None:
        axes.axhline(defaults_score, color=WRONG, linewidth=1.2, linestyle="--", label="defaults")

    tidy_axes(axes, f"Best val {metric} of a trial", "Trial")
    # Some space above, so that the best points are not cut at the edge.
    _, top = axes.get_ylim()
    axes.set_ylim(0, top * 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower right", frameon=False)
    set_title(axes, "Scores of the trials", "A pruned trial is drawn at the best that it reached")
    return save_figure(figure, path)


def _plot_pruned(axes: Axes, trials: Sequence[FrozenTrial]) -> None:
    """Plot the pruned trials that had ended an epoch, as hollow points."""
    numbers = []
    scores = []
    for trial in trials:
        score = get_best_score(trial)
        if trial.state is TrialState.PRUNED and score is not None:
            numbers.append(trial.number)
            scores.append(score)
    if not numbers:
        return

    label = f"pruned ({len(numbers)})"
    axes.plot(
        numbers, scores, "o", color=MUTED, markerfacecolor="white", label=label, clip_on=False
    )


def _plot_complete(axes: Axes, trials: Sequence[FrozenTrial]) -> None:
    """Plot the complete trials, and the best of them so far as a line of steps."""
    numbers = []
    scores = []
    for trial in trials:
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            numbers.append(trial.number)
            scores.append(trial.value)
    if not numbers:
        return

    label = f"complete ({len(numbers)})"
    axes.plot(numbers, scores, "o", color=RIGHT, label=label, clip_on=False)
    best_so_far = np.maximum.accumulate(scores)
    axes.step(numbers, best_so_far, where="post", color=RIGHT, linewidth=1.5, label="best so far")


def draw_importances(importances: Mapping[str, float], path: Path) -> Path:
    """Draw the share, from 0 to 1, of each hyperparameter in what makes a trial a good one."""
    figure = make_figure(1.4 + 0.4 * len(importances))
    axes = figure.subplots()

    # Rows are counted from the bottom, so the greatest share comes last.
    names = sorted(importances, key=lambda name: importances[name])
    axes.barh(
        [shorten_name(name) for name in names],
        [importances[name] for name in names],
        height=0.62,
        color=RIGHT,
    )
    for row, name in enumerate(names):
        share = importances[name]
        axes.text(share, row, f" {share:.0%}", va="center", color=INK)

    tidy_axes(axes, "", "Share in what makes good trials good (PED-ANOVA)")
    axes.grid(visible=False, axis="y")
    # Space for the text behind a bar of 100 %.
    axes.set_xlim(0, 1.08)
    note = (
        "From all trials, the pruned ones by the best that they reached; "
        "with few of them a hint, not a measurement"
    )
    set_title(axes, "What mattered", note)
    return save_figure(figure, path)
