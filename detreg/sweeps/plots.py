"""Figures of a sweep: the scores of its trials, their values, and which of them mattered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from detreg.report.figure import (
    WIDTH,
    make_figure,
    save_figure,
    set_title,
    shorten_name,
    tidy_axes,
)
from detreg.report.theme import GRID, INK, MUTED, RIGHT, WRONG
from detreg.sweeps.trial_text import get_best_score

_MAX_NAME = 24
_MAX_CHOICE = 16
"""Characters of a name and of a choice, so that neighbors do not overlap."""


def draw_history(trials: Sequence[FrozenTrial], defaults_mAP: float | None, path: Path) -> Path:
    """Draw the val mAP of each trial by its number, the best so far, and that of the defaults.

    Pruned trials are drawn at the best mAP that they had reached.
    """
    figure = make_figure(4)
    axes = figure.subplots()

    _plot_pruned(axes, trials)
    _plot_complete(axes, trials)
    if defaults_mAP is not None:
        axes.axhline(defaults_mAP, color=WRONG, linewidth=1.2, linestyle="--", label="defaults")

    tidy_axes(axes, "Best val mAP of a trial", "Trial")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower right", frameon=False)
    set_title(axes, "Scores of the trials", "A pruned trial is drawn at the best that it reached")
    return save_figure(figure, path)


def _plot_pruned(axes: Axes, trials: Sequence[FrozenTrial]) -> None:
    numbers, scores = [], []
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
    numbers, scores = [], []
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


@dataclass(frozen=True)
class _ParallelAxis:
    """A vertical axis, from 0 to 1, with a position of each trial; NaN where it has no value."""

    positions: list[float]
    labels: list[str]
    """Written beside the axis at equal distances, the first at 0 and the last at 1."""


def draw_parallel_coordinates(trials: Sequence[FrozenTrial], best_number: int, path: Path) -> Path:
    """Draw a line for each trial through its hyperparameters and its val mAP.

    Lines have the color of their mAP, and the best trial's is thick. A hyperparameter that a
    trial does not have, such as another template's, leaves a gap in its line.
    """
    names = _list_names(trials)
    axes_of_names = [_make_axis(trials, name) for name in names]
    scores = [get_best_score(trial) or 0.0 for trial in trials]
    scale = _make_scale(scores)
    positions = [axis.positions for axis in axes_of_names]
    positions.append([float(scale(score)) for score in scores])

    figure = make_figure(4.6, width=max(WIDTH, 1.6 * len(names) + 3))
    axes = figure.subplots()
    colors = colormaps["viridis_r"]

    # The better a trial, the later its line is drawn, and covers those of worse ones.
    for row in np.argsort(scores):
        is_best = trials[row].number == best_number
        axes.plot(
            range(len(positions)),
            [column[row] for column in positions],
            color=colors(scale(scores[row])),
            marker="o",
            markersize=4,
            clip_on=False,
            linewidth=3.0 if is_best else 1.2,
            alpha=1.0 if is_best else 0.7,
        )

    tidy_axes(axes, "")
    axes.grid(visible=False)
    axes.set(xlim=(-0.2, len(positions) - 0.8), ylim=(-0.03, 1.03), yticks=[])
    columns = [shorten_name(name, _MAX_NAME) for name in [*names, "val mAP"]]
    axes.set_xticks(range(len(columns)), columns)
    for column, axis in enumerate(axes_of_names):
        _draw_axis(axes, column, axis.labels)
    _draw_axis(axes, len(names), [])

    color_bar = figure.colorbar(ScalarMappable(scale, colors), ax=axes, pad=0.02)
    color_bar.outline.set_visible(False)
    color_bar.set_label("val mAP", color=MUTED)
    note = f"Trial {best_number}, the best, is the thick line; darker lines scored higher"
    set_title(axes, "Values of the trials", note)
    return save_figure(figure, path)


def _list_names(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the hyperparameters that any trial has, in the order in which they first occur."""
    names: list[str] = []
    for trial in trials:
        for name in trial.params:
            if name not in names:
                names.append(name)
    return names


def _make_scale(scores: Sequence[float]) -> Normalize:
    """Return the scale from the lowest score to the highest."""
    low, high = min(scores), max(scores)
    # Equal scores would leave the scale without a length.
    return Normalize(low, high if high > low else low + 1e-9)


def _make_axis(trials: Sequence[FrozenTrial], name: str) -> _ParallelAxis:
    distribution = _find_distribution(trials, name)
    if isinstance(distribution, CategoricalDistribution):
        return _make_choice_axis(trials, name, distribution)
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return _make_number_axis(trials, name, distribution)
    raise TypeError(f"{name} must be searched by numbers or choices, got {distribution}")


def _find_distribution(trials: Sequence[FrozenTrial], name: str) -> BaseDistribution:
    """Return what is searched of a hyperparameter: the same in every trial that has it."""
    for trial in trials:
        if name in trial.distributions:
            return trial.distributions[name]
    raise KeyError(name)


def _make_choice_axis(
    trials: Sequence[FrozenTrial], name: str, distribution: CategoricalDistribution
) -> _ParallelAxis:
    choices = list(distribution.choices)
    span = max(1, len(choices) - 1)
    positions = []
    for trial in trials:
        if name in trial.params:
            positions.append(choices.index(trial.params[name]) / span)
        else:
            positions.append(np.nan)
    return _ParallelAxis(positions, [str(choice) for choice in choices])


def _make_number_axis(
    trials: Sequence[FrozenTrial], name: str, distribution: FloatDistribution | IntDistribution
) -> _ParallelAxis:
    ends = np.array([distribution.low, distribution.high], dtype=float)
    values = np.array([trial.params.get(name, np.nan) for trial in trials], dtype=float)
    if distribution.log:
        ends, values = np.log(ends), np.log(values)
    positions = (values - ends[0]) / (ends[1] - ends[0])
    return _ParallelAxis(list(positions), [f"{distribution.low:g}", f"{distribution.high:g}"])


def _draw_axis(axes: Axes, column: int, labels: Sequence[str]) -> None:
    """Draw a vertical line with labels beside it."""
    axes.axvline(column, color=GRID, linewidth=1)
    span = max(1, len(labels) - 1)
    for row, label in enumerate(labels):
        text = shorten_name(label, _MAX_CHOICE)
        axes.text(column + 0.03, row / span, text, color=MUTED, fontsize=9, va="center")


def draw_importances(importances: Mapping[str, float], path: Path) -> Path:
    """Draw the share, from 0 to 1, of each hyperparameter in what makes a trial a good one."""
    # The first bar is the lowest, so the greatest comes last.
    names = sorted(importances, key=lambda name: importances[name])
    shares = [importances[name] for name in names]

    figure = make_figure(1.4 + 0.4 * len(names))
    axes = figure.subplots()
    axes.barh([shorten_name(name) for name in names], shares, height=0.62, color=RIGHT)
    for row, share in enumerate(shares):
        axes.text(share, row, f" {share:.0%}", va="center", color=INK)

    tidy_axes(axes, "", "Share in what makes good trials good (PED-ANOVA)")
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.08)
    note = (
        "From all trials, the pruned ones by the best that they reached; "
        "with few of them a hint, not a measurement"
    )
    set_title(axes, "What mattered", note)
    return save_figure(figure, path)
