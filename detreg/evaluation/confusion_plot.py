"""The report's plot of confused classes: a matrix, or of many classes the most frequent errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from detreg.report.figure import make_figure, save_figure, set_title, shorten_name, tidy_axes
from detreg.report.theme import INK, MUTED, RIGHT, WRONG, get_class_color

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

MAX_CLASSES = 20
"""Classes that a matrix shows readably."""
MAX_ERRORS = 20
MIN_STRENGTH = 0.03
MAX_SIDE_WITH_SHARES = 8
"""Rows of a matrix whose cells have room for a share under the count."""


def plot_confusion(classes: Sequence[str], counts: Counts, note: str, path: Path) -> Path:
    """Plot a confusion matrix, or of many classes the errors that are most frequent.

    counts is (classes + 1, classes + 1), the background last, as made by count_confusion.
    """
    if len(classes) > MAX_CLASSES:
        return _plot_frequent_errors(classes, counts, note, path)
    return _plot_matrix(classes, counts, note, path)


def _plot_matrix(classes: Sequence[str], counts: Counts, note: str, path: Path) -> Path:
    side = len(counts)
    shares = _compute_shares(counts)
    font_size = _choose_font_size(side)

    figure = make_figure(height=1.9 + min(0.75, 5.6 / side) * side)
    axes = figure.subplots()
    axes.imshow(_color_cells(shares), aspect="auto")
    _write_counts(axes, counts, shares, font_size)
    _label_classes(axes, [shorten_name(name, 20) for name in classes], max(font_size, 8))
    _separate_cells(axes, side)

    rule = "Bottom row: detections on no object, as a share of the detections of that class."
    set_title(axes, "Confusion of classes", f"{note}.\n{rule}")
    return save_figure(figure, path)


def _choose_font_size(side: int) -> float:
    if side <= MAX_SIDE_WITH_SHARES:
        return 11
    return 8 if side <= 14 else 6.5


def _compute_shares(counts: Counts) -> Shares:
    """Compute each cell's share of its class's objects.

    In the last row, where there are no objects, it is the share of its class's detections.
    """
    objects = counts.sum(axis=1, keepdims=True).clip(min=1)
    shares: Shares = counts / objects
    detections = counts.sum(axis=0).clip(min=1)
    shares[-1] = counts[-1] / detections
    return shares


def _color_cells(shares: Shares) -> npt.NDArray[np.float64]:
    """Return RGB (side, side, 3): blue where right, orange where wrong, darker for large shares."""
    right = np.array(to_rgb(RIGHT))
    wrong = np.array(to_rgb(WRONG))
    is_diagonal = np.eye(len(shares), dtype=bool)
    full = np.where(is_diagonal[..., None], right, wrong)

    # Blended with white; a cell without a count keeps a tint, so that it is visible as a cell.
    strength = MIN_STRENGTH + (1 - MIN_STRENGTH) * shares[..., None]
    return 1 - (1 - full) * strength


def _write_counts(axes: Axes, counts: Counts, shares: Shares, font_size: float) -> None:
    for row, column in np.argwhere(counts).tolist():
        share = shares[row, column]
        text = f"{counts[row, column]:,}"
        if len(counts) <= MAX_SIDE_WITH_SHARES:
            text += f"\n{share:.0%}"
        color = "white" if share > 0.6 else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=font_size, color=color)


def _label_classes(axes: Axes, names: Sequence[str], font_size: float) -> None:
    side = len(names) + 1
    axes.set_xticks(range(side), [*names, "missed"], fontsize=font_size)
    axes.set_yticks(range(side), [*names, "nothing there"], fontsize=font_size)
    if side > 6:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")

    axes.set_xlabel("Taken for (color: share of the row's objects)", color=MUTED)
    axes.set_ylabel("What it is", color=MUTED)


def _separate_cells(axes: Axes, side: int) -> None:
    """Draw white lines between the cells in place of a frame and ticks."""
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)

    borders = np.arange(side - 1) + 0.5
    axes.set_xticks(borders, minor=True)
    axes.set_yticks(borders, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)


def _plot_frequent_errors(classes: Sequence[str], counts: Counts, note: str, path: Path) -> Path:
    pairs = _find_frequent_errors(counts)
    values = [int(counts[pair]) for pair in pairs]
    texts = [_describe_error(classes, actual, predicted) for actual, predicted in pairs]

    figure = make_figure(height=1.4 + 0.32 * max(len(pairs), 3))
    axes = figure.subplots()
    axes.barh(range(len(pairs)), values, height=0.66, color=get_class_color(0))
    for row, value in enumerate(values):
        axes.text(value, row, f" {value:,}", va="center", color=INK)

    tidy_axes(axes, "", "Number of objects or detections")
    axes.set_yticks(range(len(pairs)), texts)
    axes.set_ylim(len(pairs) - 0.4, -0.6)  # the first row on top
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="y")
    set_title(axes, f"The {len(pairs)} most frequent errors", note)
    return save_figure(figure, path)


def _find_frequent_errors(counts: Counts) -> list[tuple[int, int]]:
    """Return the row and column of the largest counts off the diagonal, the largest first."""
    side = len(counts)
    is_error = ~np.eye(side, dtype=bool)
    errors = counts * is_error
    # Without an axis, the positions are those in the flattened matrix.
    smallest_first = np.argsort(errors, axis=None, kind="stable")
    largest_first = smallest_first[::-1][:MAX_ERRORS]

    pairs = []
    for position in largest_first.tolist():
        row, column = divmod(position, side)
        if errors[row, column]:
            pairs.append((row, column))
    return pairs


def _describe_error(classes: Sequence[str], actual: int, predicted: int) -> str:
    background = len(classes)
    if predicted == background:
        return f"{shorten_name(classes[actual])}: missed"
    if actual == background:
        return f"{shorten_name(classes[predicted])}: false detection"
    return f"{shorten_name(classes[actual])} taken for {shorten_name(classes[predicted])}"
