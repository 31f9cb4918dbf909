"""The report's plots: the course of a training, precision and recall, and each class's AP."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from detreg.evaluation.bootstrap import Interval
from detreg.evaluation.scores import MASKS_PREFIX
from detreg.report.figure import (
    add_legend,
    make_figure,
    save_figure,
    set_title,
    shorten_name,
    tidy_axes,
)
from detreg.report.theme import CLASS_COLORS, INK, MUTED, get_class_color

History = Sequence[Mapping[str, float]]
"""The metrics of each epoch under the names that are logged, with `epoch` among them."""

MAX_CURVES = len(CLASS_COLORS)
MAX_BARS = 30
MAX_POINTS_WITH_MARKERS = 20


def plot_training(history: History, path: Path, metric: str = "mAP") -> Path:
    """Plot loss, mAP and learning rate by epoch, and mark the epoch that is best by the metric."""
    figure = make_figure(height=7.5)
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])

    _plot_losses(loss, history)
    _plot_accuracy(accuracy, history)
    _plot_learning_rate(rate, history)
    _mark_best_epoch(loss, accuracy, rate, history, metric)

    rate.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return save_figure(figure, path)


def _plot_losses(axes: Axes, history: History) -> None:
    parts = sorted({name for row in history for name in row if name.startswith("train/loss_")})
    _plot_metric(axes, history, "train/loss", "total", INK, width=2)
    for place, part in enumerate(parts[:MAX_CURVES]):
        label = part.removeprefix("train/loss_")
        _plot_metric(axes, history, part, label, get_class_color(place), width=1.2)

    tidy_axes(axes, "Training loss")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    if parts:
        add_legend(axes)


def _plot_accuracy(axes: Axes, history: History) -> None:
    # Those of masks are dashed, in the color of those of boxes.
    for style, prefix in (("-", ""), ("--", MASKS_PREFIX)):
        for place, name in enumerate(("mAP", "mAP_50", "mAP_75")):
            label = f"{prefix}{name}"
            width = 2 if name == "mAP" else 1.2
            color = get_class_color(place)
            _plot_metric(axes, history, f"val/{label}", label, color, width, style)

    tidy_axes(axes, "Validation mAP")
    axes.set_ylim(0, 1)
    add_legend(axes)


def _plot_learning_rate(axes: Axes, history: History) -> None:
    _plot_metric(axes, history, "train/lr", "", INK, width=1.5)
    tidy_axes(axes, "Learning rate", "Epoch")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(3))


def _plot_metric(
    axes: Axes,
    history: History,
    name: str,
    label: str,
    color: str,
    width: float,
    style: str = "-",
) -> None:
    """Plot one metric by epoch; epochs in which it was not logged are left out."""
    rows = [row for row in history if name in row]
    if not rows:
        return
    axes.plot(
        [row["epoch"] for row in rows],
        [row[name] for row in rows],
        color=color,
        label=label,
        linewidth=width,
        linestyle=style,
        marker="o" if len(rows) <= MAX_POINTS_WITH_MARKERS else None,
        markersize=3,
    )


def _mark_best_epoch(loss: Axes, accuracy: Axes, rate: Axes, history: History, metric: str) -> None:
    name = f"val/{metric}"
    scored = [row for row in history if name in row]
    if not scored:
        return
    best = max(scored, key=lambda row: row[name])
    epoch, value = best["epoch"], best[name]

    for axes in (loss, accuracy, rate):
        axes.axvline(epoch, color=MUTED, linewidth=1, linestyle=":", zorder=0)

    text = f"Best: epoch {epoch:.0f}, {metric} {value:.3f}"
    loss.set_title(text, loc="left", color=INK, fontsize=12)
    # Not clipped, so that the marker of the first or last epoch is whole.
    accuracy.plot(
        epoch,
        value,
        "o",
        color=get_class_color(0),
        markersize=8,
        markeredgecolor="white",
        clip_on=False,
    )


def plot_precision_recall(
    classes: Sequence[str],
    curves: npt.NDArray[np.float64],
    boxes_per_class: Mapping[str, int],
    path: Path,
) -> Path:
    """Plot precision over recall for the classes with most boxes.

    curves is (101 recalls, classes), -1 where a class has no object.
    """
    present = [label for label in range(len(classes)) if curves[0, label] >= 0]
    by_boxes = sorted(present, key=lambda label: -boxes_per_class[classes[label]])
    shown = by_boxes[:MAX_CURVES]

    figure = make_figure(height=5)
    axes = figure.subplots()
    _plot_class_curves(axes, classes, curves, shown)
    if len(present) > 1:
        _plot_mean_curve(axes, curves[:, present])

    precision = "Precision: share of detections that are right"
    recall = "Recall: share of objects that are found"
    tidy_axes(axes, precision, recall)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if present:
        legend = axes.legend(
            title="AP at IoU 0.5",
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            frameon=False,
            alignment="left",
        )
        legend.get_title().set_color(MUTED)

    note = ""
    if len(present) > MAX_CURVES:
        note = f"The {MAX_CURVES} classes with most boxes of {len(present)}"
    set_title(axes, "Precision and recall at IoU 0.5", note)
    return save_figure(figure, path)


def _plot_class_curves(
    axes: Axes, classes: Sequence[str], curves: npt.NDArray[np.float64], labels: Sequence[int]
) -> None:
    """Plot a curve for each label, the one with the highest AP first."""
    recall = np.linspace(0, 1, len(curves))
    # A class keeps its color unless colors would repeat.
    has_color_per_class = len(classes) <= MAX_CURVES

    best_first = sorted(labels, key=lambda label: -curves[:, label].mean())
    for place, label in enumerate(best_first):
        curve = curves[:, label]
        # COCO sets the precision to 0 at a recall that the detector does not reach.
        is_reached = curve > 0
        axes.plot(
            recall[is_reached],
            curve[is_reached],
            color=get_class_color(label if has_color_per_class else place),
            linewidth=2,
            label=f"{curve.mean():.3f}  {shorten_name(classes[label])}",
            clip_on=False,
        )


def _plot_mean_curve(axes: Axes, curves: npt.NDArray[np.float64]) -> None:
    recall = np.linspace(0, 1, len(curves))
    mean = curves.mean(axis=1)
    is_reached = mean > 0
    axes.plot(
        recall[is_reached],
        mean[is_reached],
        color=INK,
        linewidth=2,
        linestyle="--",
        label=f"{mean.mean():.3f}  mean of all {curves.shape[1]} classes",
    )


def plot_per_class(
    average_precision: Mapping[str, float | None],
    boxes_per_class: Mapping[str, int],
    path: Path,
    intervals: Mapping[str, Interval | None] | None = None,
    what: str = "each class",
) -> Path:
    """Plot each class's AP, best first, with its number of boxes, and its interval as a line.

    what: of what it is the AP, for the title.
    Of many classes, the best and the poorest ones are shown.
    """
    ranked = sorted(
        average_precision.items(),
        key=lambda item: -1.0 if item[1] is None else item[1],
        reverse=True,
    )
    shown = ranked
    note = ""
    if len(ranked) > MAX_BARS:
        half = MAX_BARS // 2
        shown = [*ranked[:half], *ranked[-half:]]
        note = f"The best and the poorest {half} of {len(ranked)}"

    figure = make_figure(height=1.2 + 0.32 * max(len(shown), 3))
    axes = figure.subplots()
    colors = _choose_bar_colors(list(average_precision))
    values = [value or 0.0 for _, value in shown]
    axes.barh(range(len(shown)), values, height=0.66, color=[colors[name] for name, _ in shown])
    for row, (name, value) in enumerate(shown):
        if value is None:
            axes.text(0.01, row, "not in this split", va="center", color=MUTED)
        else:
            interval = None if intervals is None else intervals.get(name)
            end = _draw_interval(axes, row, interval, value)
            text = f"{value:.3f}   {boxes_per_class[name]:,} boxes"
            axes.text(end + 0.01, row, text, va="center", color=INK)

    tidy_axes(axes, "", "Average precision over IoU 0.50 to 0.95")
    axes.set_yticks(range(len(shown)), [shorten_name(name) for name, _ in shown])
    # The first class on top, and room for the texts to the right of long bars.
    axes.set(xlim=(0, 1.22), xticks=np.linspace(0, 1, 6), ylim=(len(shown) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    if any((intervals or {}).values()):
        note = f"Lines: 95 % of resamples of the images. {note}"
    set_title(axes, f"Average precision of {what}", note)
    return save_figure(figure, path)


def _draw_interval(axes: Axes, row: int, interval: Interval | None, value: float) -> float:
    """Draw an interval as a line through the end of a bar; return where the drawing ends."""
    if interval is None:
        return value
    ends = (interval.low, interval.high)
    axes.plot(ends, (row, row), color=INK, linewidth=1.4, marker="|", markersize=7)
    return max(value, interval.high)


def _choose_bar_colors(classes: Sequence[str]) -> dict[str, str]:
    """Give each class its color, or all the same one where colors would repeat."""
    if len(classes) > len(CLASS_COLORS):
        return dict.fromkeys(classes, get_class_color(0))
    return {name: get_class_color(label) for label, name in enumerate(classes)}
