"""Parses and writes the label file of one image of a YOLO dataset.

A label is a line `class x y width height` (center and size), or `class x1 y1 x2 y2 x3 y3 ...` (a
polygon, taken as the box around it), in fractions of the image.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from detreg.data.boxes import Box, Corners, round_corners
from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.yolo_settings import YoloSettings
from detreg.data.formats.yolo_wide_labels import WideLabels, is_upright
from detreg.data.images import AnnotatedImage
from detreg.data.mask_tracing import trace_polygon
from detreg.data.outlines import Outline, Polygon, find_corners, parse_polygon
from detreg.data.raw import ImageRecord
from detreg.documents import read_text
from detreg.errors import quote
from detreg.run_lengths import RunLengthMask, decode_runs, parse_runs

_BOX_COUNT = 5
_MIN_POLYGON_COUNT = 7
_CORNER_COUNT = 8
_MAX_FRACTION = 2
"""A box may reach a little over the edge; values beyond this are pixels."""


def read_label_file(
    image: Path,
    path: Path,
    source: str,
    settings: YoloSettings,
    wide_labels: WideLabels,
    problems: ProblemCollector,
) -> ImageRecord:
    """Return the record of an image with the boxes of its label file, in fractions.

    source: the path of the label file relative to the dataset's folder.
    wide_labels: collects the labels of more columns than a box has, and their findings, which
        matter only if they turn out to be polygons.
    """
    boxes = []
    text = read_text(path)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{source} line {number}"
        with problems.catch_bad_entry(where):
            values = _parse_numbers(line)
            if len(values) == _BOX_COUNT:
                boxes.append(_parse_box(values, line, number, settings))
                continue

            wide_labels.add(values[1:], source)
            of_polygons = ProblemCollector(wide_labels.findings, problems.image)
            with of_polygons.catch_bad_entry(where):
                boxes.append(_parse_box(values, line, number, settings))
                kind, message = _describe_polygon(values[1:])
                of_polygons.add(kind, Severity.NOTE, where, message)
    return ImageRecord(image, source, tuple(boxes))


def read_outlines(
    folder: Path,
    source: str,
    problems: ProblemCollector,  # noqa: ARG001 (as of other formats)
) -> dict[str, Outline]:
    """Return the polygons of a label file that was read without errors, by their places."""
    outlines = {}
    for number, line in enumerate(read_text(folder / source).splitlines(), start=1):
        words = line.split()
        if len(words) < _MIN_POLYGON_COUNT:
            continue
        polygon = parse_polygon([float(word) for word in words[1:]])
        if polygon is not None:
            outlines[f"line {number}"] = Outline((polygon,))
    return outlines


def get_polygon(image: AnnotatedImage, position: int) -> Polygon | None:
    """Return the polygon that may stand for a box, None where it would be read as another box."""
    outline = image.outlines.get(position)
    if outline is not None and outline.mask is not None:
        return _trace_mask(outline.mask, image.boxes[position])
    if outline is None or len(outline.polygons) != 1:
        return None
    (polygon,) = outline.polygons
    corners = round_corners(find_corners(polygon))
    return polygon if corners == image.boxes[position].corners else None


def _trace_mask(mask: RunLengthMask, box: Box) -> Polygon | None:
    """Return the polygon that has the pixels of a mask and the box of its object, None without."""
    runs = parse_runs(mask)
    if runs is None:
        return None
    return trace_polygon(decode_runs(runs, mask.height, mask.width), box.corners)


def format_labels(image: AnnotatedImage, classes: Sequence[str]) -> str:
    """Return the content of an image's label file. Raises BadEntryError for a crowd region."""
    lines = []
    for position, box in enumerate(image.boxes):
        if box.crowd:
            raise BadEntryError(
                FindingKind.INVALID_BOX,
                "YOLO has no crowd regions; write the dataset as COCO or VOC",
            )
        polygon = get_polygon(image, position)
        if polygon is not None:
            sizes = (image.width, image.height) * (len(polygon) // 2)
            fractions = [value / size for value, size in zip(polygon, sizes, strict=True)]
            lines.append(_format_line(classes.index(box.label), fractions))
            continue

        x1, y1, x2, y2 = box.corners
        center_x = (x1 + x2) / 2 / image.width
        center_y = (y1 + y2) / 2 / image.height
        width = (x2 - x1) / image.width
        height = (y2 - y1) / image.height

        lines.append(_format_line(classes.index(box.label), (center_x, center_y, width, height)))
    return "".join(lines)


def _format_line(class_number: int, fractions: Sequence[float]) -> str:
    """Return a label as a line of text."""
    numbers = " ".join(f"{value:.8g}" for value in fractions)
    return f"{class_number} {numbers}\n"


def _parse_numbers(line: str) -> list[float]:
    """Return the numbers of a line. Raises BadEntryError unless they are a box or a polygon."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError as error:
        raise BadEntryError(
            FindingKind.INVALID_BOX,
            f"{quote(line)} is not a row of numbers; write `class x y width height`",
        ) from error

    is_polygon = len(values) >= _MIN_POLYGON_COUNT and len(values) % 2 == 1
    if len(values) != _BOX_COUNT and not is_polygon:
        raise BadEntryError(
            FindingKind.INVALID_BOX,
            f"has {len(values)} numbers{_guess_meaning(len(values))}; write `class x y width "
            "height`, or a class and a polygon of three points or more",
        )
    return values


def _guess_meaning(count: int) -> str:
    """Return what so many numbers in a line often are, for a message."""
    if count == _BOX_COUNT + 1:
        return ", as a box with the score of a prediction has"
    if count > _BOX_COUNT + 1 and (count - _BOX_COUNT) % 3 == 0:
        return ", as a box with keypoints (YOLO pose) has"
    return ""


def _parse_box(values: Sequence[float], line: str, number: int, settings: YoloSettings) -> Box:
    """Return the box of one line, in fractions."""
    class_number, *coordinates = values
    classes = settings.classes
    if class_number not in classes:
        raise BadEntryError(
            FindingKind.UNKNOWN_CLASS,
            f"class {class_number:g} is not among the {len(classes)} names of {settings.source}; "
            "correct it or add the name",
        )
    label = classes[int(class_number)]

    is_box = len(values) == _BOX_COUNT
    # The box around a polygon would hide that one of its points is NaN.
    if not is_box and any(map(math.isnan, coordinates)):
        raise BadEntryError(
            FindingKind.INVALID_BOX,
            f"(class {label}) {quote(line)} has a number that is NaN; correct or remove the label",
        )
    if any(abs(value) > _MAX_FRACTION for value in coordinates):
        raise BadEntryError(
            FindingKind.WRONG_UNIT,
            f"(class {label}) {quote(line)} is not in fractions of the image; "
            "divide x by its width and y by its height",
        )
    corners = _convert_center(coordinates) if is_box else _bound_polygon(coordinates)
    return Box(corners, label, where=f"line {number} (class {label})")


def _describe_polygon(polygon: Sequence[float]) -> tuple[FindingKind, str]:
    """Return how to tell that a polygon has become a box."""
    if len(polygon) == _CORNER_COUNT and not is_upright(polygon):
        return (
            FindingKind.ORIENTED_BOX,
            "oriented box (four corners) made upright: the box around it is larger",
        )
    return FindingKind.POLYGON, "polygon taken as the box around it"


def _convert_center(coordinates: Sequence[float]) -> Corners:
    """Return the corners of a box given by center x, center y, width and height."""
    x, y, width, height = coordinates
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _bound_polygon(coordinates: Sequence[float]) -> Corners:
    """Return the corners of the box around a polygon given by x1, y1, x2, y2, ..."""
    xs = coordinates[::2]
    ys = coordinates[1::2]
    return min(xs), min(ys), max(xs), max(ys)
