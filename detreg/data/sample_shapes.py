"""The shapes of the sample, one for each class: balloon, boat and house.

Each fills the box of its canvas from edge to edge, so that the box is that of the object.
"""

import math
from collections.abc import Sequence

from detreg.data.sample_canvas import SHADE, Canvas, Color, Point, Rng

ENVELOPES = (
    (214, 58, 48),
    (240, 150, 36),
    (128, 62, 150),
    (232, 84, 132),
    (36, 120, 180),
    (250, 206, 60),
    (252, 248, 236),
)
SAILS = ((255, 255, 250), (250, 238, 206), (244, 168, 110), (216, 84, 74))
HULLS = ((150, 44, 40), (34, 50, 92), (70, 48, 38), (28, 92, 84))
WALLS = ((250, 244, 228), (240, 208, 150), (226, 166, 140), (200, 214, 226), (246, 226, 120))
ROOFS = ((176, 68, 50), (120, 58, 48), (84, 88, 104), (150, 96, 60))
WOOD = (110, 74, 44)


def draw_balloon(canvas: Canvas, rng: Rng) -> None:
    """Draw a hot-air balloon with gores of two colors."""
    first, second = _choose_two(rng, ENVELOPES)

    # The ropes run from the envelope to the basket.
    left_rope = [(0.42, 0.76), (0.42 + 0.01, 0.76), (0.47, 0.92), (0.46, 0.92)]
    right_rope = [(0.575, 0.76), (0.575 + 0.01, 0.76), (0.54, 0.92), (0.53, 0.92)]
    canvas.fill_polygon(left_rope, WOOD)
    canvas.fill_polygon(right_rope, WOOD)

    # The gores, each over the middle of the wider one before.
    for width, color in ((1.0, first), (0.72, second), (0.42, first), (0.14, second)):
        canvas.fill_polygon(_outline_envelope(-width, width), color)
    canvas.fill_polygon(_outline_envelope(0.45, 1.0), SHADE)
    canvas.fill_polygon(_outline_envelope(-0.8, -0.55), (255, 255, 255, 60))

    # The basket with its rim.
    canvas.fill_rectangle(0.38, 0.895, 0.62, 1.0, WOOD)
    canvas.fill_rectangle(0.38, 0.895, 0.62, 0.92, (70, 44, 26))


def _choose_two(rng: Rng, colors: Sequence[Color]) -> tuple[Color, Color]:
    """Return two different colors."""
    first, second = rng.choice(len(colors), 2, replace=False)
    return colors[first], colors[second]


def _outline_envelope(left: float, right: float) -> list[Point]:
    """Return the outline of a part of the envelope: a round top that tapers to the burner.

    left, right: where the part begins and ends, in fractions of the half width (-1 to 1).
    """
    left_side = []
    right_side = []
    for step in range(25):
        y = step / 24
        if y < 0.45:
            width = math.sqrt(max(0.0, 1 - (1 - y / 0.45) ** 2))
        else:
            width = 1 - 0.72 * ((y - 0.45) / 0.55) ** 2
        half_width = width / 2
        left_side.append((0.5 + left * half_width, 0.8 * y))
        right_side.append((0.5 + right * half_width, 0.8 * y))
    return left_side + right_side[::-1]


def draw_boat(canvas: Canvas, rng: Rng) -> None:
    """Draw a sailing boat."""
    sail_index, jib_index = rng.choice(len(SAILS), 2)
    sail_color = SAILS[sail_index]
    jib_color = SAILS[jib_index]
    hull_color = HULLS[rng.integers(len(HULLS))]

    canvas.fill_rectangle(0.455, 0.0, 0.485, 0.8, WOOD)  # the mast

    main_sail = [(0.505, 0.03), (0.68, 0.3), (0.9, 0.7), (0.505, 0.7)]
    shaded_part = [(0.505, 0.03), (0.56, 0.12), (0.6, 0.7), (0.505, 0.7)]
    jib = [(0.44, 0.1), (0.44, 0.7), (0.06, 0.7), (0.26, 0.42)]
    canvas.fill_polygon(main_sail, sail_color)
    canvas.fill_polygon(shaded_part, SHADE)
    canvas.fill_polygon(jib, jib_color)

    hull = [(0.0, 0.76), (1.0, 0.76), (0.93, 0.88), (0.82, 1.0), (0.16, 1.0), (0.08, 0.9)]
    board = [(0.0, 0.76), (1.0, 0.76), (0.97, 0.815), (0.03, 0.815)]
    foam = [(0.12, 0.95), (0.87, 0.95), (0.82, 1.0), (0.16, 1.0)]
    canvas.fill_polygon(hull, hull_color)
    canvas.fill_polygon(board, (245, 240, 228))
    canvas.fill_polygon(foam, (230, 240, 245, 120))


def draw_house(canvas: Canvas, rng: Rng) -> None:
    """Draw a house with a gable, a chimney, a door and windows."""
    wall_color = WALLS[rng.integers(len(WALLS))]
    roof_color = ROOFS[rng.integers(len(ROOFS))]

    canvas.fill_rectangle(0.7, 0.06, 0.82, 0.4, (130, 84, 72))  # the chimney

    canvas.fill_rectangle(0.08, 0.42, 0.92, 1.0, wall_color)
    canvas.fill_rectangle(0.62, 0.42, 0.92, 1.0, SHADE)
    canvas.fill_rectangle(0.08, 0.44, 0.92, 0.52, SHADE)

    roof = [(0.5, 0.0), (1.0, 0.46), (0.0, 0.46)]
    shaded_part = [(0.5, 0.0), (1.0, 0.46), (0.66, 0.46)]
    canvas.fill_polygon(roof, roof_color)
    canvas.fill_polygon(shaded_part, SHADE)

    canvas.fill_rectangle(0.42, 0.66, 0.6, 1.0, (96, 62, 46))  # the door
    for x in (0.16, 0.68):
        _draw_window(canvas, x)


def _draw_window(canvas: Canvas, x: float) -> None:
    """Draw a window whose frame begins at `x`: frame, panes, glazing bar."""
    frame_color = (252, 250, 244)
    canvas.fill_rectangle(x, 0.58, x + 0.18, 0.8, frame_color)
    canvas.fill_rectangle(x + 0.025, 0.605, x + 0.155, 0.775, (64, 92, 120))
    canvas.fill_rectangle(x + 0.08, 0.59, x + 0.1, 0.79, frame_color)
