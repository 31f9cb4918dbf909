"""The pictures of a sweep. Figures are made without pyplot, which keeps global state, so they can be drawn in any thread."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from detreg.report.figure import WIDTH, save_figure, set_title, shorten_name, tidy_axes
from detreg.report.theme import GRID, INK, MUTED, RIGHT, WRONG


def history(trials: Sequence[FrozenTrial], defaults: float | None, path: Path) -> Path:
    """Draw each trial's best val mAP by number, the best so far, and the defaults' as a line."""
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    complete = [
        (trial.number, trial.value)
        for trial in trials
        if trial.state is TrialState.COMPLETE and trial.value is not None
    ]
    pruned = [
        (trial.number, get_best_mAP(trial))
        for trial in trials
        if trial.state is TrialState.PRUNED and trial.intermediate_values
    ]
    if pruned:
        axes.plot(
            *zip(*pruned, strict=True),
            "o",
            color=MUTED,
            markerfacecolor="white",
            label=f"pruned ({len(pruned)})",
            clip_on=False,
        )
    if complete:
        numbers, values = zip(*complete, strict=True)
        axes.plot(
            numbers, values, "o", color=RIGHT, label=f"complete ({len(complete)})", clip_on=False
        )
        axes.step(
            numbers,
            np.maximum.accumulate(values),
            where="post",
            color=RIGHT,
            linewidth=1.5,
            label="best so far",
        )
    if defaults is not None:
        axes.axhline(defaults, color=WRONG, linewidth=1.2, linestyle="--", label="defaults")
    tidy_axes(axes, "Best val mAP of a trial", "Trial")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower right", frameon=False)
    set_title(axes, "What the trials brought", "A pruned trial is drawn at what it had reached")
    return save_figure(figure, path)


def parallel_coordinates(trials: Sequence[FrozenTrial], best: int, path: Path) -> Path:
    """Draw one line for each trial through its values, coloured by its mAP, the best one thick; a value that a trial lacks is a gap."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    scores = [get_best_mAP(trial) for trial in trials]
    scale = Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1e-9)
    colors = colormaps["viridis_r"]
    figure = Figure(figsize=(max(WIDTH, 1.6 * len(names) + 3), 4.6), layout="constrained")
    axes = figure.subplots()
    columns = [*names, "val mAP"]
    places = [_places(trials, name) for name in names] + [[float(scale(score)) for score in scores]]
    for row in np.argsort(scores):
        trial = trials[row]
        line = [column[row] for column in places]
        chosen = trial.number == best
        (drawn,) = axes.plot(
            range(len(columns)),
            line,
            color=colors(scale(scores[row])),
            marker="o",
            markersize=4,
            clip_on=False,
        )
        drawn.set(linewidth=3.0 if chosen else 1.2, alpha=1.0 if chosen else 0.7)
    tidy_axes(axes, "")
    axes.grid(visible=False)
    axes.set(xlim=(-0.2, len(columns) - 0.8), ylim=(-0.03, 1.03), yticks=[])
    axes.set_xticks(range(len(columns)), [shorten_name(name, 24) for name in columns])
    for place, name in enumerate(names):
        _ticks(axes, place, trials, name)
    axes.axvline(len(names), color=GRID, linewidth=1)
    bar = figure.colorbar(ScalarMappable(scale, colors), ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("val mAP", color=MUTED)
    set_title(
        axes,
        "Values of the trials",
        f"Trial {best}, the best, is the thick line; darker lines scored higher",
    )
    return save_figure(figure, path)


def importances(shares: Mapping[str, float], path: Path) -> Path:
    """Draw the share that each hyperparameter has in the spread of the scores."""
    names = sorted(shares, key=lambda name: shares[name])
    figure = Figure(figsize=(WIDTH, 1.4 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        [shorten_name(name) for name in names],
        [shares[name] for name in names],
        height=0.62,
        color=RIGHT,
    )
    for row, name in enumerate(names):
        axes.text(shares[name], row, f" {shares[name]:.0%}", va="center", color=INK)
    tidy_axes(axes, "", "Share in what makes good trials good (PED-ANOVA)")
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.08)
    set_title(
        axes,
        "What mattered",
        "From all trials, the pruned ones by what they had reached; with few of them a hint, not a measurement",
    )
    return save_figure(figure, path)


def get_best_mAP(trial: FrozenTrial) -> float:
    """The best val mAP that a trial has reported."""
    return max(trial.intermediate_values.values(), default=0.0)


def _places(trials: Sequence[FrozenTrial], name: str) -> list[float]:
    """Where each trial's value lies on its axis, from 0 to 1; NaN where the trial has none."""
    distribution = next(
        trial.distributions[name] for trial in trials if name in trial.distributions
    )
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        span = max(1, len(choices) - 1)
        return [
            choices.index(trial.params[name]) / span if name in trial.params else np.nan
            for trial in trials
        ]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    ends = np.array([low, high], dtype=float)
    values = np.array([trial.params.get(name, np.nan) for trial in trials], dtype=float)
    if distribution.log:  # type: ignore[attr-defined]
        ends, values = np.log(ends), np.log(values)
    return list((values - ends[0]) / (ends[1] - ends[0]))


def _ticks(axes: Axes, place: int, trials: Sequence[FrozenTrial], name: str) -> None:
    """An axis of the picture, with its ends or its choices written beside it."""
    axes.axvline(place, color=GRID, linewidth=1)
    distribution = next(
        trial.distributions[name] for trial in trials if name in trial.distributions
    )
    if isinstance(distribution, CategoricalDistribution):
        labels = [str(choice) for choice in distribution.choices]
    else:
        labels = [f"{distribution.low:g}", f"{distribution.high:g}"]  # type: ignore[attr-defined]
    for row, label in enumerate(labels):
        axes.text(
            place + 0.03,
            row / max(1, len(labels) - 1),
            shorten_name(label, 16),
            color=MUTED,
            fontsize=9,
            va="center",
        )
