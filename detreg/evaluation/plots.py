"""The report's plots. Figures are made without pyplot, which keeps global state, so they can be drawn in any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from detreg.evaluation.colors import CLASS_COLORS, GRID, INK, MUTED, RIGHT, WRONG, class_color

WIDTH = 8.0  # inches; at DPI it fills MLflow's artifact pane without being scaled
DPI = 120
MOST_CURVES = len(CLASS_COLORS)
MOST_BARS = 30
MOST_CONFUSED = 20  # classes that a matrix shows readably


def training(history: Sequence[Mapping[str, float]], path: Path) -> Path:
    """Draw loss, mAP and learning rate by epoch, and mark the epoch with the best mAP."""
    figure = Figure(figsize=(WIDTH, 7.5), layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])
    parts = sorted({name for row in history for name in row if name.startswith("train/loss_")})
    _line(loss, history, "train/loss", "total", INK, width=2)
    for label, part in enumerate(parts[:MOST_CURVES]):
        _line(loss, history, part, part.removeprefix("train/loss_"), class_color(label), width=1.2)
    for label, name in enumerate(("val/mAP", "val/mAP_50", "val/mAP_75")):
        _line(
            accuracy,
            history,
            name,
            name.removeprefix("val/"),
            class_color(label),
            width=2 if name == "val/mAP" else 1.2,
        )
    _line(rate, history, "train/lr", "", INK, width=1.5)
    tidy(loss, "Training loss")
    tidy(accuracy, "Validation mAP")
    tidy(rate, "Learning rate", "Epoch")
    loss.set_ylim(0, loss.get_ylim()[1] * 1.05)
    accuracy.set_ylim(0, 1)
    rate.set_ylim(0, rate.get_ylim()[1] * 1.05)
    rate.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    rate.yaxis.set_major_locator(MaxNLocator(3))
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if parts:
        _legend(loss)
    _legend(accuracy)
    _mark_best((loss, accuracy, rate), history)
    return save(figure, path)


def precision_recall(
    classes: Sequence[str],
    curves: npt.NDArray[np.float64],
    boxes_per_class: Mapping[str, int],
    path: Path,
) -> Path:
    """Draw precision over recall for the classes with most boxes; curves is (101 recalls, classes), -1 where not defined."""
    present = [label for label in range(len(classes)) if curves[0, label] >= 0]
    shown = sorted(present, key=lambda label: -boxes_per_class[classes[label]])[:MOST_CURVES]
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, len(curves))
    few = len(classes) <= MOST_CURVES
    for place, label in enumerate(sorted(shown, key=lambda label: -curves[:, label].mean())):
        curve = curves[:, label]
        reached = curve > 0
        text = f"{curve.mean():.3f}  {short(classes[label])}"
        axes.plot(
            recall[reached],
            curve[reached],
            color=class_color(label if few else place),
            linewidth=2,
            label=text,
            clip_on=False,
        )
    if len(present) > 1:
        mean = curves[:, present].mean(axis=1)
        axes.plot(
            recall[mean > 0],
            mean[mean > 0],
            color=INK,
            linewidth=2,
            linestyle="--",
            label=f"{mean.mean():.3f}  mean of all {len(present)} classes",
        )
    tidy(
        axes,
        "Precision: share of detections that are right",
        "Recall: share of objects that are found",
    )
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
    note = (
        f"The {MOST_CURVES} classes with most boxes of {len(present)}"
        if len(present) > MOST_CURVES
        else ""
    )
    title(axes, "Precision and recall at IoU 0.5", note)
    return save(figure, path)


def per_class(
    average_precision: Mapping[str, float | None], boxes_per_class: Mapping[str, int], path: Path
) -> Path:
    """Draw each class's AP, best first, with its number of boxes; of many classes the best and the poorest."""
    ranked = sorted(
        average_precision.items(),
        key=lambda item: -1.0 if item[1] is None else item[1],
        reverse=True,
    )
    half = MOST_BARS // 2
    shown = ranked if len(ranked) <= MOST_BARS else [*ranked[:half], *ranked[-half:]]
    figure = Figure(figsize=(WIDTH, 1.2 + 0.32 * max(len(shown), 3)), layout="constrained")
    axes = figure.subplots()
    values = [value or 0.0 for _, value in shown]
    few = len(ranked) <= len(CLASS_COLORS)
    colour_of = {
        name: class_color(label if few else 0) for label, name in enumerate(average_precision)
    }
    axes.barh(range(len(shown)), values, height=0.66, color=[colour_of[name] for name, _ in shown])
    for row, (name, value) in enumerate(shown):
        text = (
            "not in this split"
            if value is None
            else f"{value:.3f}   {boxes_per_class[name]:,} boxes"
        )
        axes.text(
            (value or 0.0) + 0.01, row, text, va="center", color=MUTED if value is None else INK
        )
    tidy(axes, "", "Average precision over IoU 0.50 to 0.95")
    axes.set_yticks(range(len(shown)), [short(name) for name, _ in shown])
    axes.set(xlim=(0, 1.18), xticks=np.linspace(0, 1, 6), ylim=(len(shown) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    note = f"The best and the poorest {half} of {len(ranked)}" if len(shown) < len(ranked) else ""
    title(axes, "Average precision of each class", note)
    return save(figure, path)


def confusion(classes: Sequence[str], counts: npt.NDArray[np.int64], note: str, path: Path) -> Path:
    """Draw the confusion matrix (classes + background, twice), or of many classes the errors that are most frequent."""
    if len(classes) > MOST_CONFUSED:
        return _confused_pairs(classes, counts, note, path)
    side = len(counts)
    shares = _shares(counts)
    figure = Figure(figsize=(WIDTH, 1.9 + min(0.75, 5.6 / side) * side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(_matrix_colours(shares), aspect="auto")
    size = 11 if side <= 8 else 8 if side <= 14 else 6.5
    for row, column in np.argwhere(counts).tolist():
        text = f"{counts[row, column]:,}" + (f"\n{shares[row, column]:.0%}" if side <= 8 else "")
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if shares[row, column] > 0.6 else INK,
        )
    names = [short(name, 20) for name in classes]
    axes.set_xticks(range(side), [*names, "missed"], fontsize=max(size, 8))
    if side > 6:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(side), [*names, "nothing there"], fontsize=max(size, 8))
    axes.set_xlabel("Taken for (color: share of the row's objects)", color=MUTED)
    axes.set_ylabel("What it is", color=MUTED)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(side - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(side - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    title(
        axes,
        "Confusion of classes",
        f"{note}.\nBottom row: detections on no object, as a share of the detections of that class.",
    )
    return save(figure, path)


def _shares(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Each cell's share of its class's objects, or in the last row, where there are none, of its class's detections."""
    shares: npt.NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    shares[-1] = counts[-1] / counts.sum(axis=0).clip(min=1)
    return shares


def _matrix_colours(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Blue for what is right, orange for what is wrong, the stronger the larger the share."""
    right, wrong = np.array(to_rgb(RIGHT)), np.array(to_rgb(WRONG))
    full = np.where(np.eye(len(shares), dtype=bool)[..., None], right, wrong)
    floor = 0.03  # cells without a count remain visible as cells
    return 1 - (1 - full) * (floor + (1 - floor) * shares[..., None])


def _confused_pairs(
    classes: Sequence[str], counts: npt.NDArray[np.int64], note: str, path: Path, most: int = 20
) -> Path:
    off_diagonal = counts * ~np.eye(len(counts), dtype=bool)
    ranked = np.argsort(off_diagonal, axis=None, kind="stable")[::-1][:most]
    pairs = [divmod(int(index), len(counts)) for index in ranked if off_diagonal.flat[index]]
    figure = Figure(figsize=(WIDTH, 1.4 + 0.32 * max(len(pairs), 3)), layout="constrained")
    axes = figure.subplots()
    values = [int(counts[pair]) for pair in pairs]
    axes.barh(range(len(pairs)), values, height=0.66, color=class_color(0))
    for row, value in enumerate(values):
        axes.text(value, row, f" {value:,}", va="center", color=INK)
    tidy(axes, "", "Number of objects or detections")
    axes.set_yticks(range(len(pairs)), [_pair_text(classes, *pair) for pair in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="y")
    title(axes, f"The {len(pairs)} most frequent errors", note)
    return save(figure, path)


def _pair_text(classes: Sequence[str], actual: int, predicted: int) -> str:
    if predicted == len(classes):
        return f"{short(classes[actual])}: missed"
    if actual == len(classes):
        return f"{short(classes[predicted])}: false detection"
    return f"{short(classes[actual])} taken for {short(classes[predicted])}"


def _line(
    axes: Axes,
    history: Sequence[Mapping[str, float]],
    name: str,
    label: str,
    color: str,
    width: float,
) -> None:
    points = [(row["epoch"], row[name]) for row in history if name in row]
    if points:
        marker = "o" if len(points) <= 20 else None
        axes.plot(
            *zip(*points, strict=True),
            color=color,
            label=label,
            linewidth=width,
            marker=marker,
            markersize=3,
        )


def _mark_best(panels: Sequence[Axes], history: Sequence[Mapping[str, float]]) -> None:
    scored = [row for row in history if "val/mAP" in row]
    if not scored:
        return
    best = max(scored, key=lambda row: row["val/mAP"])
    for axes in panels:
        axes.axvline(best["epoch"], color=MUTED, linewidth=1, linestyle=":", zorder=0)
    text = f"Best: epoch {best['epoch']:.0f}, mAP {best['val/mAP']:.3f}"
    panels[0].set_title(text, loc="left", color=INK, fontsize=12)
    panels[1].plot(
        best["epoch"],
        best["val/mAP"],
        "o",
        color=class_color(0),
        markersize=8,
        markeredgecolor="white",
        clip_on=False,
    )


def tidy(axes: Axes, ylabel: str, xlabel: str = "") -> None:
    """Label axes, and leave of their frame what is needed."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(GRID)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=GRID, labelcolor=INK, labelsize=10)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def title(axes: Axes, text: str, note: str) -> None:
    """Put a title with a note under it over axes."""
    axes.set_title(text, loc="left", fontsize=12, color=INK, pad=6 + 14 * len(note.splitlines()))
    # Left out of the layout, which would make the axes narrower to fit a long line.
    axes.annotate(
        note,
        (0, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=MUTED,
    ).set_in_layout(False)


def short(name: str, most: int = 28) -> str:
    """Cut a long class name, and keep matplotlib from reading a dollar sign as mathematics."""
    cut = name if len(name) <= most else name[: most - 1] + "…"
    return cut.replace("$", r"\$")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, and return its path."""
    figure.savefig(path, dpi=DPI)
    return path
