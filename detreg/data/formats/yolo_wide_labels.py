"""Judges what the labels of a YOLO dataset mean that have more columns than a box.

They may be polygons (`class x1 y1 x2 y2 ...`), but also a box with keypoints behind it
(`class x y width height x1 y1 ...`, each point perhaps with a third number for its visibility), or
a box with a score and the number of a track. One line can look like any of these. So all lines of
the dataset decide together: keypoints and tracks have the same number of columns everywhere, the
first four are a box in the image, and what follows lies inside it; and points in the order of a
skeleton, read as a polygon, cross themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from detreg.data.findings import Finding

_BOX_COLUMNS = 4
_TRACK_COLUMNS = 6
_TRIANGLE_COLUMNS = 6
_MIN_TRIANGLES = 5
_MIN_SHARE = 0.9
"""How many of the labels must fit: a keypoint may lie a little outside its box."""

_MIN_CROSSING_SHARE = 0.1
_MAX_EXAMINED = 50
"""Labels whose polygons are searched for crossings, which is slow."""

_MAX_POINTS = 60
_TOLERANCE = 0.02
"""How far a box may reach over the image, and a point over its box, in fractions of the image."""

_VISIBILITIES = (0, 1, 2)

Point = tuple[float, float]


@dataclass
class WideLabels:
    """Counts what the wide labels of a dataset have in common.

    source: the file of the first one.
    findings: what is wrong with single labels, or worth telling, if they are polygons.
    boxed, in_triples, whole_ended: labels that begin with a box that holds pairs, or triples with
        a visibility, or that end with a whole number.
    examined, crossing: polygons that were searched for crossings, and those that have some.
    """

    source: str = ""
    findings: list[Finding] = field(default_factory=list)
    columns: set[int] = field(default_factory=set)
    count: int = 0
    boxed: int = 0
    in_triples: int = 0
    whole_ended: int = 0
    examined: int = 0
    crossing: int = 0

    def add(self, numbers: Sequence[float], source: str) -> None:
        """Count a label, given without its class."""
        self.source = self.source or source
        self.count += 1
        self.columns.add(len(numbers))
        # Polygons differ in their number of points, and then nothing else matters.
        if len(self.columns) > 1 or not _begins_with_box(numbers):
            return

        rest = numbers[_BOX_COLUMNS:]
        self.whole_ended += rest[0] <= 1 and rest[-1] > 0 and rest[-1].is_integer()
        if len(rest) % 3 == 0 and set(rest[2::3]) <= set(_VISIBILITIES):
            self.in_triples += _holds(numbers, list(zip(rest[::3], rest[1::3], strict=True)))
        if not _holds(numbers, _pair(rest)):
            return

        self.boxed += 1
        if self.examined < _MAX_EXAMINED:
            self.examined += 1
            self.crossing += _crosses_itself(_pair(numbers[: 2 * _MAX_POINTS]))

    def find_other_meaning(self) -> str:
        """Return what the labels are if they are no polygons, as an error with its remedy.

        Empty for polygons.
        """
        if len(self.columns) != 1:
            return ""

        (columns,) = self.columns
        enough = max(_MIN_SHARE * self.count, 1)
        keep_box = "export boxes without them, or keep the first five columns"
        if columns == _TRACK_COLUMNS and self.whole_ended >= enough:
            return (
                "each label has 7 columns: a box, a score and the number of a track, as saved with "
                f"predictions, and no polygon; {keep_box}"
            )

        # A triangle cannot cross itself, but nobody draws nothing but triangles.
        has_crossings = self.crossing > _MIN_CROSSING_SHARE * self.examined
        are_all_triangles = columns == _TRIANGLE_COLUMNS and self.count >= _MIN_TRIANGLES
        has_pairs = self.boxed >= enough and (has_crossings or are_all_triangles)
        if has_pairs or self.in_triples >= enough:
            return (
                f"each label has {columns + 1} columns: a box and keypoints inside it (YOLO pose), "
                f"and no polygon; {keep_box}"
            )
        return ""


def is_upright(polygon: Sequence[float]) -> bool:
    """Whether four points x1, y1, x2, y2, ... are the corners of an upright box."""
    return len(set(polygon[::2])) <= 2 and len(set(polygon[1::2])) <= 2


def _begins_with_box(numbers: Sequence[float]) -> bool:
    """Whether the first four numbers are center, width and height of a box inside the image."""
    x, y, width, height = numbers[:_BOX_COLUMNS]
    if width <= 0 or height <= 0:
        return False
    edges = (x - width / 2, y - height / 2, 1 - x - width / 2, 1 - y - height / 2)
    return min(edges) >= -_TOLERANCE


def _holds(numbers: Sequence[float], points: Sequence[Point]) -> bool:
    """Whether the points lie in the box of the first four numbers; (0, 0) is one not labeled."""
    center_x, center_y, width, height = numbers[:_BOX_COLUMNS]
    labeled = [point for point in points if point != (0, 0)]
    return all(
        abs(x - center_x) <= width / 2 + _TOLERANCE and abs(y - center_y) <= height / 2 + _TOLERANCE
        for x, y in labeled
    )


def _pair(numbers: Sequence[float]) -> list[Point]:
    """Return the points of x1, y1, x2, y2, ...; a last number without a partner is left out."""
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def _crosses_itself(points: Sequence[Point]) -> bool:
    """Whether two edges of a closed polygon cross, other than in a common corner."""
    edges = list(zip(points, [*points[1:], points[0]], strict=True))
    return any(_cross(first, second) for first, second in combinations(edges, 2))


def _cross(first: tuple[Point, Point], second: tuple[Point, Point]) -> bool:
    """Whether two lines cross between their ends."""
    (a, b), (c, d) = first, second
    c_and_d_apart = _turn(a, b, c) * _turn(a, b, d) < 0
    a_and_b_apart = _turn(c, d, a) * _turn(c, d, b) < 0
    return c_and_d_apart and a_and_b_apart


def _turn(a: Point, b: Point, c: Point) -> float:
    """Return a number above 0 where the way from a over b to c turns left, below 0 for right."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
