"""The colors of plots, pages and drawn boxes, each with one meaning everywhere.

People with any kind of color vision can tell the colors apart.
"""

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
"""The palette of Okabe and Ito (https://jfly.uni-koeln.de/color/) with gray instead of black.

The order keeps neighbors apart.
"""

RIGHT = "#0B4F8A"
WRONG = "#D55E00"

INK = "#22272E"
"""Text and lines that matter."""
MUTED = "#6B7480"
"""Labels and notes of a figure."""
MUTED_TEXT = "#57606A"
"""Paragraphs and captions of a page, which are smaller than a figure's labels."""
GRID = "#DDE1E6"

DARKEST_LIGHT_BACKGROUND = 140
"""The luma, of 255, over which black text is easier to read than white text."""


def get_class_color(label: int) -> str:
    """Return the color of a class as #rrggbb; colors repeat after eight classes."""
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def parse_color(color: str) -> tuple[int, int, int]:
    """Return the red, green and blue of a color #rrggbb, each from 0 to 255."""
    red = int(color[1:3], 16)
    green = int(color[3:5], 16)
    blue = int(color[5:7], 16)
    return red, green, blue


def choose_text_color(background: str) -> str:
    """Return black or white, as #rrggbb, whichever is easier to read on a background #rrggbb."""
    red, green, blue = parse_color(background)
    # ITU-R BT.601: the eye sees green as brighter than red, and red as brighter than blue.
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return "#000000" if luma > DARKEST_LIGHT_BACKGROUND else "#FFFFFF"
