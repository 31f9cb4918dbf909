"""The report's plot of precision, recall and F1 against the score, with the threshold marked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from detreg.evaluation.score_curve import JudgedDetections, ScoreCurve, compute_score_curve
from detreg.report.figure import (
    add_legend,
    make_figure,
    save_figure,
    set_title,
    shorten_name,
    tidy_axes,
)
from detreg.report.theme import CLASS_COLORS, INK, MUTED, get_class_color

MAX_CURVES = len(CLASS_COLORS)


def plot_score_curves(
    judged: JudgedDetections, classes: Sequence[str], threshold: float, path: Path
) -> Path:
    """Plot what is found and right with each threshold: of all classes, and the F1 of each.

    Of many classes, those with most objects are shown.
    """
    figure = make_figure(height=6.8)
    overall, per_class = figure.subplots(2, 1, sharex=True)
    curve = compute_score_curve(judged)
    _plot_overall(overall, curve, threshold)
    _plot_classes(per_class, judged, classes)

    for axes in (overall, per_class):
        axes.axvline(threshold, color=MUTED, linewidth=1.2, linestyle=":", zorder=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        add_legend(axes)
    return save_figure(figure, path)


def _plot_overall(axes: Axes, curve: ScoreCurve, threshold: float) -> None:
    rows = (
        ("precision", curve.precision, 1.6),
        ("recall", curve.recall, 1.6),
        ("F1", curve.f1, 2.4),
    )
    for place, (name, values, width) in enumerate(rows):
        color = INK if name == "F1" else get_class_color(place)
        axes.step(curve.scores, values, color=color, linewidth=width, label=name, where="pre")

    tidy_axes(axes, "All classes")
    note = f"Dotted: the threshold of {threshold:.3g} at which this model is judged below"
    is_kept = np.flatnonzero(curve.scores >= threshold)
    if len(is_kept):
        last = is_kept[-1]
        figures = f"precision {curve.precision[last]:.3f}, recall {curve.recall[last]:.3f}"
        note += f": {figures}, F1 {curve.f1[last]:.3f}"
        axes.plot(threshold, curve.f1[last], "o", color=INK, markersize=7, markeredgecolor="white")
    set_title(axes, "Precision, recall and F1 with each score threshold", note)


def _plot_classes(axes: Axes, judged: JudgedDetections, classes: Sequence[str]) -> None:
    """Plot the F1 of each class, and mark where it is best."""
    objects = judged.num_objects.sum(axis=0)
    by_objects = np.argsort(-objects, kind="stable")
    shown = [label for label in by_objects.tolist() if objects[label]][:MAX_CURVES]
    has_color_per_class = len(classes) <= MAX_CURVES

    for place, label in enumerate(shown):
        curve = compute_score_curve(judged.select_class(label))
        color = get_class_color(label if has_color_per_class else place)
        name = shorten_name(classes[label])
        if not len(curve.scores):
            axes.plot([], [], color=color, label=f"never   {name}")
            continue
        best = int(curve.f1.argmax())
        text = f"{curve.f1[best]:.3f} at {curve.scores[best]:.2f}   {name}"
        axes.step(curve.scores, curve.f1, color=color, linewidth=1.6, label=text, where="pre")
        axes.plot(curve.scores[best], curve.f1[best], "o", color=color, markersize=5)

    tidy_axes(axes, "F1", "Score threshold")
    set_title(axes, "F1 of each class", "Dots: where it is best")
