"""Parses the annotations of one file of COCO's detection format: the boxes of its images."""

import math
from collections.abc import Mapping, Sequence

from detreg.data.boxes import Box, Corners
from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.coco_entries import CocoEntry
from detreg.data.formats.coco_segmentation import bound_segmentation
from detreg.data.formats.coco_values import format_id, is_number, make_key
from detreg.data.formats.flags import UNSPECIFIED_MESSAGE, parse_flag
from detreg.data.formats.rotation import ROTATION_KEY, warn_of_rotation
from detreg.errors import MAX_VALUE_LENGTH, quote, shorten

_MAX_CATEGORIES_SHOWN = 10

MAX_COMPARED = 100
_MIN_COMPARED = 2
_CORNERS_SHARE = 0.8
"""How many of the first annotations are compared with their segmentations; how many must fit."""


def parse_annotations(
    annotations: Sequence[CocoEntry],
    image_ids: set[str],
    categories: Mapping[str, str],
    source: str,
    problems: ProblemCollector,
) -> dict[str, list[Box]]:
    """Return the usable boxes by the id of their image as text.

    Raises BadEntryError where the form of all boxes is another than COCO's.
    """
    if are_corners(annotations):
        raise BadEntryError(
            FindingKind.WRONG_UNIT,
            "bbox has the corners of the segmentations, x1, y1, x2, y2; "
            "write [x, y, width, height] in pixels",
        )

    boxes: dict[str, list[Box]] = {}
    for position, annotation in enumerate(annotations, start=1):
        name = name_annotation(annotation, position)
        where = f"{source} {name}"
        try:
            label = _find_label(annotation, image_ids, categories)
            box = Box(
                corners=_parse_corners(annotation, label, where, problems),
                label=label,
                crowd=_is_ignored(annotation, label, where, problems),
                where=f"{name} (class {label})",
                area=_parse_area(annotation.get("area")),
            )
        except BadEntryError as error:
            image = f"{source} image {format_id(annotation.get('image_id'))}"
            problems.for_image(image).add_error(error.kind, where, str(error))
            continue

        attributes = annotation.get("attributes")
        if isinstance(attributes, dict):
            warn_of_rotation(attributes.get(ROTATION_KEY), f"{source} {box.where}", problems)
        boxes.setdefault(make_key(annotation["image_id"]), []).append(box)
        if box.area is None:
            problems.add_repair(
                FindingKind.MISSING_AREA, where, "missing or zero area computed from the box"
            )
    return boxes


def are_corners(annotations: Sequence[CocoEntry]) -> bool:
    """Whether bbox holds corners where width and height belong, by the first segmentations.

    Where there are none, the check still sees that many boxes reach over their images.
    """
    num_compared = num_corners = 0
    for annotation in annotations[:MAX_COMPARED]:
        bbox = annotation.get("bbox")
        outline = bound_segmentation(annotation.get("segmentation"))
        if outline is None or not isinstance(bbox, list) or not all(map(is_number, bbox)):
            continue

        x1, y1, x2, y2 = outline
        is_corners = _are_near(bbox, outline)
        is_size = _are_near(bbox, (x1, y1, x2 - x1, y2 - y1))
        # Near the upper left corner of an image, a small box is both.
        if not (is_corners and is_size):
            num_compared += 1
            num_corners += is_corners
    return num_compared >= _MIN_COMPARED and num_corners >= _CORNERS_SHARE * num_compared


def _are_near(bbox: Sequence[float], numbers: Corners) -> bool:
    """Whether four numbers are equal up to the pixel that ways to count differ by."""
    if len(bbox) != len(numbers):
        return False
    return all(abs(one - other) <= 2 for one, other in zip(bbox, numbers, strict=True))


def name_annotation(annotation: CocoEntry, position: int) -> str:
    """Return what findings call the annotation at a position in its file, from 1."""
    annotation_id = annotation.get("id", f"at position {position}")
    return f"annotation {format_id(annotation_id)}"


def _find_label(annotation: CocoEntry, image_ids: set[str], categories: Mapping[str, str]) -> str:
    """Return the class of an annotation. Raises BadEntryError for an unknown image or class."""
    image_id = annotation.get("image_id")
    if make_key(image_id) not in image_ids:
        raise BadEntryError(
            FindingKind.UNKNOWN_IMAGE,
            f"image_id {format_id(image_id)} is no image of this file; "
            "add the image or remove the annotation",
        )

    category_id = annotation.get("category_id")
    label = categories.get(make_key(category_id))
    if label is None:
        raise BadEntryError(
            FindingKind.UNKNOWN_CLASS,
            f"category_id {format_id(category_id)} is no category of this file "
            f"(there are {_format_categories(categories)}); correct it or add the category",
        )

    return label


def _is_ignored(annotation: CocoEntry, label: str, where: str, problems: ProblemCollector) -> bool:
    """Whether an annotation is a region to ignore, by COCO's iscrowd or by ignore."""
    # Most annotations, of which there may be a million.
    if annotation.get("iscrowd") == 0 and annotation.get("ignore") is None:
        return False

    flags = {}
    for key in ("iscrowd", "ignore"):
        flags[key] = parse_flag(annotation.get(key), f"(class {label}) {key}")

    if None in flags.values():
        problems.add_repair(FindingKind.UNSPECIFIED_FLAG, where, UNSPECIFIED_MESSAGE)
    if flags["ignore"] and not flags["iscrowd"]:
        problems.add(
            FindingKind.IGNORED_REGION,
            Severity.NOTE,
            where,
            "ignore set: taken as a region to ignore, as iscrowd is",
        )
    return any(flags.values())


def _parse_corners(
    annotation: CocoEntry, label: str, where: str, problems: ProblemCollector
) -> Corners:
    """Return the corners of an annotation's box: of its bbox, else around its segmentation."""
    bbox = annotation.get("bbox")
    if not bbox:
        corners = bound_segmentation(annotation.get("segmentation"))
        if corners is not None:
            problems.add_repair(
                FindingKind.MISSING_BOX, where, "missing bbox computed from the segmentation"
            )
            return corners

    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise BadEntryError(
            FindingKind.INVALID_BOX,
            f"(class {label}) bbox {quote(bbox)} is not four numbers; "
            "write [x, y, width, height] in pixels",
        )
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def _parse_area(value: object) -> float | None:
    """Return a stated area in square pixels, None where none is stated that can be meant."""
    if is_number(value) and 0 < value < math.inf:
        return float(value)
    return None


def _format_categories(categories: Mapping[str, str]) -> str:
    """Return the first categories with their ids, for a message."""
    names = [f"{category_id} {name}" for category_id, name in categories.items()]
    shown = ", ".join(names[:_MAX_CATEGORIES_SHOWN])
    shown = shorten(shown, 2 * MAX_VALUE_LENGTH)
    return f"{shown} and more" if len(names) > _MAX_CATEGORIES_SHOWN else shown
