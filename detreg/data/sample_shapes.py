"""The pencils of the sample: balloon, boat and house, and the landscape behind them.

Shapes are drawn `SCALE` times as large and averaged down, which smooths their edges. Only integers, square roots and the four basic
operations are used, so that the same numbers give the same pixels on every machine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SCALE = 4
"""Pixels drawn per pixel kept, in each direction."""

Color = tuple[int, int, int]
Point = tuple[float, float]
Rng = np.random.Generator


@dataclass(frozen=True)
class Weather:
    """The colours of a landscape; pairs are those of the upper and lower edge."""

    sky: tuple[Color, Color]
    sea: tuple[Color, Color]
    grass: tuple[Color, Color]
    cloud: Color


WEATHERS = (
    Weather(
        ((92, 158, 222), (206, 230, 244)),
        ((84, 158, 190), (30, 92, 140)),
        ((142, 186, 96), (78, 134, 60)),
        (255, 255, 255),
    ),
    Weather(
        ((88, 96, 160), (250, 192, 150)),
        ((176, 146, 150), (66, 82, 128)),
        ((146, 140, 84), (84, 96, 62)),
        (255, 218, 196),
    ),
    Weather(
        ((138, 152, 168), (212, 218, 222)),
        ((132, 156, 164), (76, 104, 116)),
        ((132, 152, 104), (88, 116, 78)),
        (236, 240, 242),
    ),
    Weather(
        ((110, 188, 206), (250, 240, 206)),
        ((110, 190, 184), (36, 124, 132)),
        ((186, 190, 98), (120, 146, 62)),
        (255, 250, 236),
    ),
)
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
SHADE = (20, 20, 50, 46)
WOOD = (110, 74, 44)


class Canvas:
    """Draws inside one box: points run from (0, 0), its upper left corner, to (1, 1), its lower right one; optionally mirrored."""

    def __init__(self, image: Image.Image, corners: Sequence[int], mirrored: bool = False) -> None:
        # In the mode RGBA, Pillow blends translucent colours into the picture.
        self._draw = ImageDraw.Draw(image, "RGBA")
        self._corners = [SCALE * value for value in corners]
        self._mirrored = mirrored

    def polygon(self, points: Sequence[Point], color: Sequence[int]) -> None:
        """Fills the polygon."""
        self._draw.polygon([self._at(x, y) for x, y in points], fill=tuple(color))

    def rectangle(self, x1: float, y1: float, x2: float, y2: float, color: Sequence[int]) -> None:
        """Fills the rectangle."""
        self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], color)

    def ellipse(self, x1: float, y1: float, x2: float, y2: float, color: Sequence[int]) -> None:
        """Fills the ellipse in a rectangle."""
        (left, top), (right, bottom) = self._at(x1, y1), self._at(x2, y2)
        self._draw.ellipse((min(left, right), top, max(left, right), bottom), fill=tuple(color))

    def _at(self, x: float, y: float) -> tuple[int, int]:
        left, top, right, bottom = self._corners
        across = 1 - x if self._mirrored else x
        return round(left + across * (right - left - 1)), round(top + y * (bottom - top - 1))


def balloon(pen: Canvas, rng: Rng) -> None:
    """A hot-air balloon with gores of two colours."""
    first, second = (ENVELOPES[place] for place in rng.choice(len(ENVELOPES), 2, replace=False))
    for x in (0.42, 0.575):
        pen.polygon(
            [
                (x, 0.76),
                (x + 0.01, 0.76),
                (0.47 if x < 0.5 else 0.54, 0.92),
                (0.46 if x < 0.5 else 0.53, 0.92),
            ],
            WOOD,
        )
    for part, color in ((1.0, first), (0.72, second), (0.42, first), (0.14, second)):
        pen.polygon(_envelope(-part, part), color)
    pen.polygon(_envelope(0.45, 1.0), SHADE)
    pen.polygon(_envelope(-0.8, -0.55), (255, 255, 255, 60))
    pen.rectangle(0.38, 0.895, 0.62, 1.0, WOOD)
    pen.rectangle(0.38, 0.895, 0.62, 0.92, (70, 44, 26))


def _envelope(left: float, right: float) -> list[Point]:
    """The outline of a balloon between two fractions of its half width: a round top that tapers to the burner."""
    outline = []
    for step in range(25):
        y = step / 24
        round_top = (
            math.sqrt(max(0.0, 1 - (1 - y / 0.45) ** 2))
            if y < 0.45
            else 1 - 0.72 * ((y - 0.45) / 0.55) ** 2
        )
        outline.append((round_top / 2, 0.8 * y))
    return [(0.5 + left * half, y) for half, y in outline] + [
        (0.5 + right * half, y) for half, y in reversed(outline)
    ]


def boat(pen: Canvas, rng: Rng) -> None:
    """A sailing boat."""
    sail, jib = (SAILS[place] for place in rng.choice(len(SAILS), 2))
    hull = HULLS[rng.integers(len(HULLS))]
    pen.rectangle(0.455, 0.0, 0.485, 0.8, WOOD)
    pen.polygon([(0.505, 0.03), (0.68, 0.3), (0.9, 0.7), (0.505, 0.7)], sail)
    pen.polygon([(0.505, 0.03), (0.56, 0.12), (0.6, 0.7), (0.505, 0.7)], SHADE)
    pen.polygon([(0.44, 0.1), (0.44, 0.7), (0.06, 0.7), (0.26, 0.42)], jib)
    pen.polygon(
        [(0.0, 0.76), (1.0, 0.76), (0.93, 0.88), (0.82, 1.0), (0.16, 1.0), (0.08, 0.9)], hull
    )
    pen.polygon([(0.0, 0.76), (1.0, 0.76), (0.97, 0.815), (0.03, 0.815)], (245, 240, 228))
    pen.polygon([(0.12, 0.95), (0.87, 0.95), (0.82, 1.0), (0.16, 1.0)], (230, 240, 245, 120))


def house(pen: Canvas, rng: Rng) -> None:
    """A house with a gable, a chimney, a door and windows."""
    wall = WALLS[rng.integers(len(WALLS))]
    roof = ROOFS[rng.integers(len(ROOFS))]
    pen.rectangle(0.7, 0.06, 0.82, 0.4, (130, 84, 72))
    pen.rectangle(0.08, 0.42, 0.92, 1.0, wall)
    pen.rectangle(0.62, 0.42, 0.92, 1.0, SHADE)
    pen.rectangle(0.08, 0.44, 0.92, 0.52, SHADE)
    pen.polygon([(0.5, 0.0), (1.0, 0.46), (0.0, 0.46)], roof)
    pen.polygon([(0.5, 0.0), (1.0, 0.46), (0.66, 0.46)], SHADE)
    pen.rectangle(0.42, 0.66, 0.6, 1.0, (96, 62, 46))
    for x in (0.16, 0.68):
        pen.rectangle(x, 0.58, x + 0.18, 0.8, (252, 250, 244))
        pen.rectangle(x + 0.025, 0.605, x + 0.155, 0.775, (64, 92, 120))
        pen.rectangle(x + 0.08, 0.59, x + 0.1, 0.79, (252, 250, 244))


def backdrop(
    rng: Rng, weather: Weather, kind: str, size: tuple[int, int], horizon: int
) -> Image.Image:
    """Sky above the horizon, and below it what `kind` says: "sea", "meadow", or "bay", which is a strip of land before the sea.

    Returns an RGB picture `SCALE` times the size (width and height in pixels).
    """
    width, height = size
    image = Image.new("RGB", (SCALE * width, SCALE * height))
    _gradient(image, weather.sky, 0, horizon)
    _clouds(Canvas(image, (0, 0, width, horizon)), rng, weather.cloud)
    if kind != "sea":
        _hills(Canvas(image, (0, horizon - height // 6, width, horizon + 1)), rng, weather.grass[0])
    shore = {"sea": horizon, "meadow": height, "bay": horizon + height // 8}[kind]
    _gradient(image, weather.grass, horizon, shore)
    _gradient(image, weather.sea, shore, height)
    if kind != "sea":
        _plants(image, rng, weather, horizon, shore)
    if shore < height:
        _waves(Canvas(image, (0, shore, width, height)), rng)
    return image


def _gradient(image: Image.Image, colors: tuple[Color, Color], top: int, bottom: int) -> None:
    if bottom > top:
        rows = np.linspace(colors[0], colors[1], SCALE * (bottom - top)).round().astype(np.uint8)
        image.paste(
            Image.fromarray(rows[:, None, :]).resize(
                (image.width, len(rows)), Image.Resampling.NEAREST
            ),
            (0, SCALE * top),
        )


def _clouds(pen: Canvas, rng: Rng, color: Color) -> None:
    if rng.random() < 0.4:
        x, y = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.4)
        pen.ellipse(x - 0.05, y - 0.1, x + 0.05, y + 0.1, (255, 236, 170, 230))
    for _ in range(rng.integers(1, 5)):
        x, y, width = rng.uniform(0, 1), rng.uniform(0.1, 0.75), rng.uniform(0.12, 0.3)
        for dx in (-0.35, 0.35, -0.15, 0.15, 0.0):
            part, tall = rng.uniform(0.35, 0.55), (0.5 - abs(dx)) * rng.uniform(0.2, 0.3)
            pen.ellipse(
                x + width * (dx - part / 2),
                y - tall,
                x + width * (dx + part / 2),
                y + 0.03,
                (*color, 215),
            )


def _hills(pen: Canvas, rng: Rng, color: Color) -> None:
    for fade in (50, 25):
        tone = [(value + fade + 40 * (place == 2)) * 7 // 8 for place, value in enumerate(color)]
        for _ in range(3):
            x, width, height = rng.uniform(0, 1), rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.9)
            pen.ellipse(x - width, 1 - height, x + width, 1 + height, tone)


def _plants(image: Image.Image, rng: Rng, weather: Weather, horizon: int, shore: int) -> None:
    """Blades of grass, and round trees: green things of the size of a house that are no house."""
    width = image.width // SCALE
    meadow = Canvas(image, (0, horizon, width, shore))
    for _ in range(3 * (shore - horizon)):
        x, y = rng.uniform(0, 1), rng.uniform(0.05, 0.95)
        light = weather.grass[int(rng.integers(2))]
        meadow.polygon(
            [(x, y), (x + 0.006, y), (x + 0.004, y - 1.5 / (shore - horizon))], (*light, 200)
        )
    for _ in range(rng.integers(1, 5)):
        depth = rng.uniform(0, 0.6)
        tall = round(12 + 26 * depth)
        x, base = (
            int(rng.integers(-8, width - 8)),
            horizon + 2 + round(depth * (shore - horizon - 4)),
        )
        tree = Canvas(image, (x, base - tall, x + tall * 3 // 4, base))
        green = [value * 3 // 5 for value in weather.grass[1]]
        tree.rectangle(0.44, 0.6, 0.56, 1.0, (84, 60, 40))
        tree.ellipse(0.0, 0.0, 1.0, 0.75, green)
        tree.ellipse(0.12, 0.05, 0.7, 0.5, (*weather.grass[1], 150))


def _waves(pen: Canvas, rng: Rng) -> None:
    for _ in range(60):
        x, y = rng.uniform(0, 1), rng.uniform(0, 1)
        length = 0.01 + 0.05 * y * rng.uniform(0.4, 1)
        light = (255, 255, 255, 70) if rng.random() < 0.6 else (10, 40, 80, 60)
        pen.ellipse(x - length, y - 0.006 - 0.006 * y, x + length, y + 0.006, light)
