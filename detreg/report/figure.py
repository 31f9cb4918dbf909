"""What all plots have in common: their size, axes, titles, and how they are written.

Figures are made without pyplot, which keeps global state, so that any thread can draw them.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detreg.report.theme import GRID, INK, MUTED

WIDTH = 8.0
"""Inches; at DPI dots per inch a figure fills MLflow's artifact pane without being scaled."""
DPI = 120
NOTE_LINE_HEIGHT = 14
"""Points that a line of the note under a title takes."""


def make_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of a size in inches, whose parts are laid out without overlap."""
    size = (width, height)
    return Figure(figsize=size, layout="constrained")


def tidy_axes(axes: Axes, ylabel: str, xlabel: str = "") -> None:
    """Label axes, remove the upper and right border, and draw a light grid."""
    axes.set(xlabel=xlabel, ylabel=ylabel)

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(GRID)

    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)

    axes.tick_params(color=GRID, labelcolor=INK, labelsize=10)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


def set_title(axes: Axes, text: str, note: str) -> None:
    """Put a title over axes, and between the two a note of any number of lines."""
    pad = 6 + NOTE_LINE_HEIGHT * len(note.splitlines())
    axes.set_title(text, loc="left", fontsize=12, color=INK, pad=pad)

    # 6 points over the upper left corner of the axes, whatever their size.
    annotation = axes.annotate(
        note,
        xy=(0, 1),
        xytext=(0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=MUTED,
    )
    # As a part of the layout, a long line would make the axes narrower.
    annotation.set_in_layout(False)


def add_legend(axes: Axes) -> None:
    """Put a legend to the right of axes, where something in them has a label."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def shorten_name(name: str, max_length: int = 28) -> str:
    """Cut a long name, and escape dollar signs, between which matplotlib reads mathematics."""
    if len(name) > max_length:
        name = name[: max_length - 1] + "…"
    return name.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, and return its path."""
    figure.savefig(path, dpi=DPI)
    return path
