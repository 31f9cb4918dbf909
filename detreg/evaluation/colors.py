"""Colours that people with any kind of color vision tell apart, and that mean the same in every plot and picture."""

# Okabe and Ito, https://jfly.uni-koeln.de/color/, without black and in an order that keeps neighbours apart.
CLASS_COLORS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#8C8C8C",
)
RIGHT, WRONG = "#0B4F8A", "#D55E00"
INK = "#22272E"
MUTED = "#6B7480"
GRID = "#DDE1E6"


def class_color(label: int) -> str:
    """The color of a class as #rrggbb; it recurs every eighth class."""
    return CLASS_COLORS[label % len(CLASS_COLORS)]
