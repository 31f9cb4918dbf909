"""The landscapes of the sample: sky, clouds and hills, and below the horizon sea or meadow."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from detreg.data.sample_canvas import SCALE, Canvas, Color, Rng

TREE_TRUNK = (84, 60, 40)


@dataclass(frozen=True)
class Weather:
    """The colors of a landscape; pairs are those of the upper and the lower edge."""

    sky: tuple[Color, Color]
    sea: tuple[Color, Color]
    grass: tuple[Color, Color]
    cloud: Color


WEATHERS = (
    Weather(
        sky=((92, 158, 222), (206, 230, 244)),
        sea=((84, 158, 190), (30, 92, 140)),
        grass=((142, 186, 96), (78, 134, 60)),
        cloud=(255, 255, 255),
    ),
    Weather(
        sky=((88, 96, 160), (250, 192, 150)),
        sea=((176, 146, 150), (66, 82, 128)),
        grass=((146, 140, 84), (84, 96, 62)),
        cloud=(255, 218, 196),
    ),
    Weather(
        sky=((138, 152, 168), (212, 218, 222)),
        sea=((132, 156, 164), (76, 104, 116)),
        grass=((132, 152, 104), (88, 116, 78)),
        cloud=(236, 240, 242),
    ),
    Weather(
        sky=((110, 188, 206), (250, 240, 206)),
        sea=((110, 190, 184), (36, 124, 132)),
        grass=((186, 190, 98), (120, 146, 62)),
        cloud=(255, 250, 236),
    ),
)


def draw_landscape(
    rng: Rng, weather: Weather, kind: str, size: tuple[int, int], horizon: int
) -> Image.Image:
    """Return a landscape: sky above the horizon, and below it what `kind` says.

    kind: "sea", "meadow", or "bay", which is a strip of land before the sea.
    size: width and height in pixels of the finished image.
    horizon: the row of the horizon, in pixels from the upper edge.

    Returns an RGB image that is `SCALE` times as large.
    """
    width, height = size
    has_land = kind != "sea"
    shore = {"sea": horizon, "meadow": height, "bay": horizon + height // 8}[kind]
    has_sea = shore < height

    image = Image.new("RGB", (SCALE * width, SCALE * height))
    _fill_gradient(image, weather.sky, 0, horizon)
    _draw_clouds(Canvas(image, (0, 0, width, horizon)), rng, weather.cloud)
    if has_land:
        hills = Canvas(image, (0, horizon - height // 6, width, horizon + 1))
        _draw_hills(hills, rng, weather.grass[0])

    _fill_gradient(image, weather.grass, horizon, shore)
    _fill_gradient(image, weather.sea, shore, height)
    if has_land:
        _draw_grass(Canvas(image, (0, horizon, width, shore)), rng, weather, shore - horizon)
        _draw_trees(image, rng, weather, horizon, shore)
    if has_sea:
        _draw_waves(Canvas(image, (0, shore, width, height)), rng)
    return image


def _fill_gradient(image: Image.Image, colors: tuple[Color, Color], top: int, bottom: int) -> None:
    """Fill the rows from `top` to `bottom`, in pixels of the finished image."""
    if bottom <= top:
        return

    row_count = SCALE * (bottom - top)
    rows = np.linspace(colors[0], colors[1], row_count).round().astype(np.uint8)
    column = Image.fromarray(rows[:, None, :])
    band = column.resize((image.width, row_count), Image.Resampling.NEAREST)
    image.paste(band, (0, SCALE * top))


def _draw_clouds(canvas: Canvas, rng: Rng, color: Color) -> None:
    """Draw one to four clouds, sometimes with the sun behind them."""
    if rng.random() < 0.4:
        x = rng.uniform(0.1, 0.9)
        y = rng.uniform(0.1, 0.4)
        canvas.fill_ellipse(x - 0.05, y - 0.1, x + 0.05, y + 0.1, (255, 236, 170, 230))

    for _ in range(rng.integers(1, 5)):
        x = rng.uniform(0, 1)
        y = rng.uniform(0.1, 0.75)
        width = rng.uniform(0.12, 0.3)
        # A cloud is five balls, the outer ones first and the middle one on top.
        for offset in (-0.35, 0.35, -0.15, 0.15, 0.0):
            ball_width = rng.uniform(0.35, 0.55)
            ball_height = (0.5 - abs(offset)) * rng.uniform(0.2, 0.3)
            left = x + width * (offset - ball_width / 2)
            right = x + width * (offset + ball_width / 2)
            canvas.fill_ellipse(left, y - ball_height, right, y + 0.03, (*color, 215))


def _draw_hills(canvas: Canvas, rng: Rng, color: Color) -> None:
    """Draw two rows of hills, the farther one paler; both are a little blue."""
    red, green, blue = color
    for fade in (50, 25):
        tone = [
            (red + fade) * 7 // 8,
            (green + fade) * 7 // 8,
            (blue + fade + 40) * 7 // 8,
        ]
        for _ in range(3):
            x = rng.uniform(0, 1)
            width = rng.uniform(0.3, 0.6)
            height = rng.uniform(0.3, 0.9)
            canvas.fill_ellipse(x - width, 1 - height, x + width, 1 + height, tone)


def _draw_grass(canvas: Canvas, rng: Rng, weather: Weather, rows: int) -> None:
    """Draw three blades of grass for each of the meadow's rows."""
    for _ in range(3 * rows):
        x = rng.uniform(0, 1)
        y = rng.uniform(0.05, 0.95)
        light = weather.grass[int(rng.integers(2))]
        blade = [(x, y), (x + 0.006, y), (x + 0.004, y - 1.5 / rows)]
        canvas.fill_polygon(blade, (*light, 200))


def _draw_trees(image: Image.Image, rng: Rng, weather: Weather, horizon: int, shore: int) -> None:
    """Draw one to four round trees: green things of the size of a house that are no house."""
    width = image.width // SCALE
    dark_green = [value * 3 // 5 for value in weather.grass[1]]
    light_green = (*weather.grass[1], 150)

    for _ in range(rng.integers(1, 5)):
        nearness = rng.uniform(0, 0.6)
        tree_height = round(12 + 26 * nearness)
        tree_width = tree_height * 3 // 4
        x = int(rng.integers(-8, width - 8))
        base = horizon + 2 + round(nearness * (shore - horizon - 4))

        tree = Canvas(image, (x, base - tree_height, x + tree_width, base))
        tree.fill_rectangle(0.44, 0.6, 0.56, 1.0, TREE_TRUNK)
        tree.fill_ellipse(0.0, 0.0, 1.0, 0.75, dark_green)
        tree.fill_ellipse(0.12, 0.05, 0.7, 0.5, light_green)


def _draw_waves(canvas: Canvas, rng: Rng) -> None:
    """Draw sixty light or dark streaks, longer the nearer they are."""
    for _ in range(60):
        x = rng.uniform(0, 1)
        y = rng.uniform(0, 1)
        length = 0.01 + 0.05 * y * rng.uniform(0.4, 1)
        is_light = rng.random() < 0.6
        color = (255, 255, 255, 70) if is_light else (10, 40, 80, 60)
        top = y - 0.006 - 0.006 * y
        canvas.fill_ellipse(x - length, top, x + length, y + 0.006, color)
