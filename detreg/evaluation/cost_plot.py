"""The report's plot of what mending each kind of error would bring."""

from collections.abc import Sequence
from pathlib import Path

from detreg.evaluation.error_costs import ErrorCost
from detreg.evaluation.error_kinds import EXPLANATIONS
from detreg.report.figure import make_figure, save_figure, set_title, tidy_axes
from detreg.report.theme import INK, MUTED, WRONG

MIN_RANGE = 0.05
"""Of the axis, so that gains of nearly nothing look like it."""


def plot_error_costs(costs: Sequence[ErrorCost], map_50: float, path: Path) -> Path:
    """Plot the gain of each kind of error as a bar, the largest on top, with its meaning."""
    figure = make_figure(height=1.2 + 0.62 * len(costs))
    axes = figure.subplots()
    gains = [cost.gain for cost in costs]
    axes.barh(range(len(costs)), gains, height=0.4, color=WRONG)

    for row, cost in enumerate(costs):
        errors = "error" if cost.count == 1 else "errors"
        text = f" +{cost.gain:.3f}   {cost.count:,} {errors}"
        axes.text(cost.gain, row, text, va="center", color=INK)
        axes.text(0, row - 0.26, EXPLANATIONS[cost.kind], va="bottom", fontsize=8.5, color=MUTED)

    tidy_axes(axes, "", "mAP at IoU 0.5 that mending all errors of the kind would bring")
    axes.set_yticks(range(len(costs)), [str(cost.kind) for cost in costs])
    # The first kind on top, and room for the texts to the right of long bars.
    right = max(MIN_RANGE, *gains) * 1.35
    axes.set(xlim=(0, right), ylim=(len(costs) - 0.6, -0.75))
    axes.grid(visible=False, axis="y")
    note = f"Today {map_50:.3f}. Each kind is mended alone (TIDE), over all scores."
    set_title(axes, "Where the mAP is lost", note)
    return save_figure(figure, path)
