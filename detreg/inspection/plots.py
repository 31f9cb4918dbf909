"""The plots of a dataset's page: classes, images and boxes."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from detreg.errors import make_printable
from detreg.inspection.anchors import cluster_shapes
from detreg.inspection.statistics import MAP_CELLS, NUM_ANCHORS, ClassStatistics
from detreg.inspection.table import BoxTable, Floats
from detreg.report.figure import (
    add_legend,
    make_figure,
    save_figure,
    set_title,
    shorten_name,
    tidy_axes,
)
from detreg.report.theme import INK, MUTED, WRONG, get_class_color

MAX_BARS = 30
MAX_POINTS = 5000
BINS = 40
SPLIT_COLORS = {"train": get_class_color(0), "val": get_class_color(1), "test": get_class_color(2)}
OTHER_SPLIT = get_class_color(7)


def plot_classes(classes: tuple[ClassStatistics, ...], path: Path) -> Path:
    """Plot the boxes of each class in each split, the most frequent class on top."""
    ranked = sorted(classes, key=lambda entry: -entry.boxes)
    note = "colors: splits"
    shown = ranked
    if len(ranked) > MAX_BARS:
        half = MAX_BARS // 2
        shown = [*ranked[:half], *ranked[-half:]]
        note = f"{note}; the {half} most and the {half} least frequent of {len(ranked)} classes"

    figure = make_figure(height=1.3 + 0.3 * max(len(shown), 3))
    axes = figure.subplots()
    left = np.zeros(len(shown))
    for split in classes[0].boxes_per_split:
        counts = np.array([entry.boxes_per_split[split] for entry in shown], np.float64)
        color = SPLIT_COLORS.get(split, OTHER_SPLIT)
        axes.barh(range(len(shown)), counts, left=left, height=0.66, color=color, label=split)
        left += counts

    margin = 0.01 * max(float(left.max()), 1)
    for row, entry in enumerate(shown):
        images = "image" if entry.images == 1 else "images"
        text = f"{entry.boxes:,} in {entry.images:,} {images}"
        axes.text(left[row] + margin, row, text, va="center", color=INK, fontsize=9)
    tidy_axes(axes, "", "Boxes")
    axes.set_yticks(
        range(len(shown)), [shorten_name(make_printable(entry.name)) for entry in shown]
    )
    axes.set(xlim=(0, 1.3 * max(float(left.max()), 1)), ylim=(len(shown) - 0.4, -0.6))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(visible=False, axis="y")
    add_legend(axes)
    set_title(axes, "Boxes of each class", note)
    return save_figure(figure, path)


def plot_images(table: BoxTable, path: Path) -> Path:
    """Plot the sizes of the images, and how many boxes they have."""
    figure = make_figure(height=3.6)
    sizes, counts = figure.subplots(1, 2)

    unique, num_images = np.unique(table.sizes, axis=0, return_counts=True)
    # The area of a dot grows with the number of images.
    areas = 12 + 300 * num_images / num_images.max()
    sizes.scatter(unique[:, 0], unique[:, 1], s=areas, color=get_class_color(0), alpha=0.45)
    longest = float(table.sizes.max())
    sizes.plot((0, longest), (0, longest), color=MUTED, linewidth=1, linestyle=":")
    tidy_axes(sizes, "Height, px", "Width, px")
    sizes.set(xlim=(0, 1.1 * longest), ylim=(0, 1.1 * float(table.sizes[:, 1].max())))
    sizes.xaxis.set_major_locator(MaxNLocator(5))
    different = f"{len(unique):,} sizes" if len(unique) > 1 else "one size"
    set_title(sizes, "Sizes of images", f"{different}; larger dots are more images")

    per_image = table.boxes_per_image
    most = int(per_image.max())
    edges = np.arange(-0.5, most + 1.5, max(1, round(most / BINS)))
    if edges[-1] < most:
        edges = np.append(edges, edges[-1] + edges[1] - edges[0])
    counts.hist(per_image, bins=edges.tolist(), color=get_class_color(0), rwidth=0.9)
    tidy_axes(counts, "Images", "Boxes")
    counts.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    counts.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    set_title(counts, "Boxes per image", f"{per_image.mean():.1f} on average, {most:,} at most")
    return save_figure(figure, path)


def plot_box_sizes(
    shapes: Floats, limit: float, note: str, anchor_ratios: tuple[float, ...], path: Path
) -> Path:
    """Plot the shorter sides and the aspect ratios of boxes.

    shapes: (boxes, 2), width and height in pixels. limit: the size under which they are small.
    """
    figure = make_figure(height=3.6)
    sizes, ratios = figure.subplots(1, 2)

    shorter = shapes.min(axis=1)
    _plot_log_histogram(sizes, shorter, (1, 3, 10, 30, 100, 300, 1000))
    sizes.axvline(limit, color=WRONG, linewidth=1.5, linestyle="--")
    tidy_axes(sizes, "Boxes", "Shorter side, px")
    set_title(sizes, "Sizes of boxes", note)

    _plot_log_histogram(ratios, shapes[:, 0] / shapes[:, 1], (0.2, 0.5, 1, 2, 5))
    for ratio in anchor_ratios:
        ratios.axvline(ratio, color=WRONG, linewidth=1.5, linestyle="--")
    tidy_axes(ratios, "Boxes", "Width over height")
    text = "dashed: anchor_ratios" if anchor_ratios else "tall on the left, wide on the right"
    set_title(ratios, "Aspect ratios", text)
    return save_figure(figure, path)


def plot_positions(table: BoxTable, shapes: Floats, note: str, path: Path) -> Path:
    """Plot where the centers of boxes lie, and the anchors that k-means finds."""
    figure = make_figure(height=3.9)
    positions, anchors = figure.subplots(1, 2)

    centers = (table.corners[:, :2] + table.corners[:, 2:]) / 2 / table.sizes[table.image_of_box]
    edges = np.linspace(0, 1, MAP_CELLS + 1)
    counts, _, _ = np.histogram2d(centers[:, 1], centers[:, 0], bins=(edges, edges))
    mesh = positions.pcolormesh(edges, edges, counts, cmap="Blues", vmin=0)
    bar = figure.colorbar(mesh, ax=positions, pad=0.02)
    bar.locator = MaxNLocator(4, integer=True)
    bar.update_ticks()
    bar.outline.set_visible(False)
    tidy_axes(positions, "Height of the image", "Width of the image")
    positions.grid(visible=False)
    positions.set(xlim=(0, 1), ylim=(1, 0), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    set_title(positions, "Positions", "centers of boxes in each part of the image")

    _plot_anchors(anchors, shapes)
    set_title(anchors, "Shapes", note)
    return save_figure(figure, path)


def _plot_anchors(axes: Axes, shapes: Floats) -> None:
    """Plot the width and height of boxes as dots, and k-means' anchors as boxes of their size."""
    spread = np.linspace(0, len(shapes) - 1, min(len(shapes), MAX_POINTS)).astype(int)
    shown = shapes[spread]
    axes.scatter(shown[:, 0], shown[:, 1], s=6, color=get_class_color(0), alpha=0.25, linewidths=0)
    for width, height in cluster_shapes(shapes, NUM_ANCHORS).tolist():
        corner = Rectangle((0, 0), width, height, fill=False, edgecolor=WRONG, linewidth=1.2)
        axes.add_patch(corner)
    # A few giants must not squeeze all others into a corner.
    width, height = np.quantile(shapes, 0.995, axis=0) * 1.1
    tidy_axes(axes, "Height, px", "Width, px")
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _plot_log_histogram(axes: Axes, values: Floats, ticks: tuple[float, ...]) -> None:
    """Plot how often values occur, on a logarithmic scale that covers the ticks at least."""
    low = min(ticks[0], float(values.min()))
    high = max(ticks[-1], float(values.max()))
    bins = np.geomspace(low, high, BINS + 1)
    axes.hist(values, bins=bins.tolist(), color=get_class_color(0))
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
