"""The figure that draws each trial of a sweep as a line through its values and its score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from detreg.defaults import BOX_METRIC
from detreg.report.figure import (
    WIDTH,
    make_figure,
    save_figure,
    set_title,
    shorten_name,
    tidy_axes,
)
from detreg.report.theme import GRID, MUTED
from detreg.sweeps.trial_text import get_best_score

COLORS = colormaps["viridis_r"]

_MAX_NAME = 24
_MAX_CHOICE = 16
"""Characters of a name and of a choice, so that neighbors do not overlap."""


@dataclass(frozen=True)
class _Column:
    """A vertical axis of the figure, from 0 to 1."""

    name: str
    heights: Sequence[float]
    """Where the line of each trial crosses the axis; NaN if the trial has no value."""
    labels: Sequence[str]
    """Texts beside the axis at equal distances, the first at 0 and the last at 1."""


def draw_parallel_coordinates(
    trials: Sequence[FrozenTrial], best_number: int, path: Path, metric: str = BOX_METRIC
) -> Path:
    """Draw a line for each trial through its hyperparameters and its score, named `metric`.

    Lines have the color of their score, and the best trial's is thick. A hyperparameter that a
    trial does not have, such as another template's, leaves a gap in its line.
    """
    scores = [get_best_score(trial) or 0.0 for trial in trials]
    scale = _make_scale(scores)
    columns = [_make_column(trials, name) for name in _list_names(trials)]
    columns.append(_Column(f"val {metric}", [float(scale(score)) for score in scores], labels=[]))

    figure = make_figure(4.6, width=max(WIDTH, 1.4 + 1.6 * len(columns)))
    axes = figure.subplots()

    # The better a trial, the later its line is drawn, over those of worse ones.
    for row in np.argsort(scores):
        is_best = trials[row].number == best_number
        axes.plot(
            range(len(columns)),
            [column.heights[row] for column in columns],
            color=COLORS(scale(scores[row])),
            linewidth=3.0 if is_best else 1.2,
            alpha=1.0 if is_best else 0.7,
            marker="o",
            markersize=4,
            clip_on=False,
        )
    _draw_columns(axes, columns)

    color_bar = figure.colorbar(ScalarMappable(scale, COLORS), ax=axes, pad=0.02)
    color_bar.outline.set_visible(False)
    color_bar.set_label(f"val {metric}", color=MUTED)
    note = f"Trial {best_number}, the best, is the thick line; darker lines scored higher"
    set_title(axes, "Values of the trials", note)
    return save_figure(figure, path)


def _make_scale(scores: Sequence[float]) -> Normalize:
    """Return the scale from the lowest score at 0 to the highest at 1."""
    low = min(scores)
    high = max(scores)
    if high == low:
        # A scale needs a length, even if there is only one score.
        high = low + 1e-9
    return Normalize(low, high)


def _list_names(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the hyperparameters that any trial has, in the order in which they first occur."""
    names: list[str] = []
    for trial in trials:
        for name in trial.params:
            if name not in names:
                names.append(name)
    return names


def _make_column(trials: Sequence[FrozenTrial], name: str) -> _Column:
    distribution = _find_distribution(trials, name)
    if isinstance(distribution, CategoricalDistribution):
        return _make_choice_column(trials, name, distribution)
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return _make_number_column(trials, name, distribution)
    raise TypeError(f"{name} must be searched by numbers or choices, got {distribution}")


def _find_distribution(trials: Sequence[FrozenTrial], name: str) -> BaseDistribution:
    """Return what is searched of a hyperparameter: the same in every trial that has it."""
    for trial in trials:
        if name in trial.distributions:
            return trial.distributions[name]
    raise KeyError(name)


def _make_choice_column(
    trials: Sequence[FrozenTrial], name: str, distribution: CategoricalDistribution
) -> _Column:
    choices = list(distribution.choices)
    span = max(1, len(choices) - 1)
    heights = []
    for trial in trials:
        height = np.nan
        if name in trial.params:
            height = choices.index(trial.params[name]) / span
        heights.append(height)
    return _Column(name, heights, labels=[str(choice) for choice in choices])


def _make_number_column(
    trials: Sequence[FrozenTrial], name: str, distribution: FloatDistribution | IntDistribution
) -> _Column:
    values = np.array([trial.params.get(name, np.nan) for trial in trials], dtype=float)
    ends = np.array([distribution.low, distribution.high], dtype=float)
    if distribution.log:
        values = np.log(values)
        ends = np.log(ends)

    heights = (values - ends[0]) / (ends[1] - ends[0])
    labels = [f"{distribution.low:g}", f"{distribution.high:g}"]
    return _Column(name, list(heights), labels)


def _draw_columns(axes: Axes, columns: Sequence[_Column]) -> None:
    """Draw a vertical line for each column, with its name under it and its labels beside it."""
    tidy_axes(axes, "")
    axes.grid(visible=False)
    axes.set(xlim=(-0.2, len(columns) - 0.8), ylim=(-0.03, 1.03), yticks=[])
    names = [shorten_name(column.name, _MAX_NAME) for column in columns]
    axes.set_xticks(range(len(columns)), names)

    for place, column in enumerate(columns):
        axes.axvline(place, color=GRID, linewidth=1)
        span = max(1, len(column.labels) - 1)
        for row, label in enumerate(column.labels):
            text = shorten_name(label, _MAX_CHOICE)
            axes.text(place + 0.03, row / span, text, color=MUTED, fontsize=9, va="center")
