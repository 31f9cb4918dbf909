"""Checks the mask of each box of a dataset: what is wrong is an error, what is harmless repaired.

Masks are looked at only where they are asked for, and never change what is found of the boxes, or
the boxes themselves. A box without a usable mask stays a box: it is learned, its mask is not.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from detreg.data import formats
from detreg.data.boxes import DECIMALS, Box, Corners
from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.images import DatasetImage, name_inside
from detreg.data.leaving_out import CheckedRecord
from detreg.data.outlines import Outline, Polygon
from detreg.data.polygons import Points, clip_polygon, crosses_itself, has_extent
from detreg.data.raw import RawDataset
from detreg.run_lengths import (
    RunLengthMask,
    bound_runs,
    compress_runs,
    count_ones,
    parse_runs,
)

_MAX_POINTS = 1_000_000
_MAX_PARTS = 10_000
_MAX_COORDINATE = 1e9
_MIN_TOLERANCE = 2.0
_TOLERANCE_SHARE = 0.05
"""How far a mask may reach over its box: in pixels, or as a share of the box's longer side."""


def check_masks(
    raw: RawDataset,
    checked: Mapping[str, Sequence[CheckedRecord]],
    problems: ProblemCollector,
) -> dict[str, list[CheckedRecord]]:
    """Return the checked records with the masks of their images."""
    places = [
        (split, position) for split, pairs in checked.items() for position in range(len(pairs))
    ]
    # In the order of the annotation files, so that each is read once.
    places.sort(key=lambda place: checked[place[0]][place[1]][0].source)
    found = {split: list(pairs) for split, pairs in checked.items()}

    source = ""
    outlines: Mapping[str, Outline] = {}
    for split, position in places:
        record, image = checked[split][position]
        if image is None or not image.boxes:
            continue
        of_image = problems.for_image(name_inside(record.image, raw.folder))
        if record.source != source:
            source = record.source
            outlines = {}
            with of_image.catch_bad_entry(source):
                outlines = formats.read_outlines(raw, source, of_image)
        with_masks = _check_image(image, outlines, source, raw.fractions, of_image)
        found[split][position] = (record, with_masks)
    return found


def check_masks_of_splits(
    splits: Mapping[str, Sequence[DatasetImage]], where: str, problems: ProblemCollector
) -> None:
    """Add an error for train or val without any mask.

    where: the place of the finding: the dataset.
    """
    for name in ("train", "val"):
        images = splits.get(name, ())
        if not any(count_masks([image]) for image in images):
            problems.add_error(
                FindingKind.NOTHING_TO_LEARN,
                where,
                f"the {name} split has no masks; export polygons or masks, or do without them "
                "(masks=false)",
            )


def count_masks(images: Sequence[DatasetImage]) -> int:
    """Return how many boxes have a mask, without crowd regions."""
    count = 0
    for image in images:
        if not image.masks:
            continue
        for box, mask in zip(image.boxes, image.masks, strict=True):
            count += mask is not None and not box.crowd
    return count


def _check_image(
    image: DatasetImage,
    outlines: Mapping[str, Outline],
    source: str,
    fractions: bool,
    problems: ProblemCollector,
) -> DatasetImage:
    """Return an image with a mask, or None, for each of its boxes."""
    size = (image.width, image.height)
    masks: list[Outline | None] = []
    for box in image.boxes:
        outline = outlines.get(box.where.removesuffix(f" (class {box.label})"))
        where = f"{source} {box.where}"
        mask = None
        with problems.catch_bad_entry(where):
            mask = _check_outline(outline, box, size, fractions, where, problems)
        masks.append(mask)
    return replace(image, masks=tuple(masks))


def _check_outline(
    outline: Outline | None,
    box: Box,
    size: tuple[int, int],
    fractions: bool,
    where: str,
    problems: ProblemCollector,
) -> Outline | None:
    """Return the mask of a box, in pixels and inside its image; None where it has none.

    Raises BadEntryError for one that cannot be meant.
    """
    if outline is None and box.crowd:
        problems.add_repair(
            FindingKind.MISSING_MASK, where, "region to ignore without a mask: its box taken as one"
        )
        x1, y1, x2, y2 = box.corners
        return Outline((array("d", (x1, y1, x2, y1, x2, y2, x1, y2)),))
    if outline is None:
        problems.add(
            FindingKind.MISSING_MASK,
            Severity.WARNING,
            where,
            "box without a mask: it is learned as a box only; draw its mask",
        )
        return None

    if outline.defect:
        raise BadEntryError(FindingKind.INVALID_MASK, outline.defect)
    if outline.mask is not None:
        checked, corners = _check_run_lengths(outline.mask, size)
    else:
        checked, corners = _check_polygons(outline.polygons, size, fractions, where, problems)
    if corners is None:
        problems.add(
            FindingKind.EMPTY_MASK,
            Severity.WARNING,
            where,
            "mask without an area: its box is learned as a box only; draw the mask",
        )
        return None
    _compare_with_box(corners, box.corners, where, problems)
    return checked


def _check_run_lengths(
    mask: RunLengthMask, size: tuple[int, int]
) -> tuple[Outline, Corners | None]:
    """Return a mask in compressed form with the corners of the box around it."""
    width, height = size
    if (mask.width, mask.height) != size:
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            f"the mask is of {mask.width}x{mask.height} and the image is {width}x{height}; "
            "restore the image or draw the mask again",
        )
    runs = parse_runs(mask)
    if runs is None:
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            "the run-length code of the mask is broken: its runs are not those of all pixels; "
            "export it again",
        )
    corners = bound_runs(runs, height) if count_ones(runs) else None
    return Outline(mask=RunLengthMask(height, width, compress_runs(runs))), corners


def _check_polygons(
    polygons: Sequence[Polygon],
    size: tuple[int, int],
    fractions: bool,
    where: str,
    problems: ProblemCollector,
) -> tuple[Outline, Corners | None]:
    """Return polygons that have an area, in pixels, with the corners of the box around them."""
    if sum(map(len, polygons)) > 2 * _MAX_POINTS or len(polygons) > _MAX_PARTS:
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            "the mask has more than a million points, or ten thousand parts; simplify it",
        )

    parts: list[Points] = []
    num_outside = num_clipped = 0
    for polygon in polygons:
        points = _parse_points(polygon, size, fractions)
        inside = points
        if points.min(initial=0) < 0 or (points > size).any():
            num_clipped += 1
            inside = clip_polygon(points, *size)
        if has_extent(inside):
            parts.append(inside)
        elif has_extent(points):
            num_outside += 1

    if num_outside and not parts:
        raise BadEntryError(
            FindingKind.MASK_OUTSIDE_IMAGE,
            f"the mask lies wholly outside its image of {size[0]}x{size[1]}; correct or remove it",
        )
    if num_clipped:
        problems.add_repair(FindingKind.MASK_CLIPPED, where, "mask clipped to its image")
    if 0 < len(parts) < len(polygons) - num_outside:
        problems.add_repair(FindingKind.EMPTY_MASK, where, "part of a mask without an area dropped")
    if any(map(crosses_itself, parts)):
        problems.add(
            FindingKind.CROSSING_POLYGON,
            Severity.WARNING,
            where,
            "polygon that crosses itself: what it encloses twice is not in its mask; draw it again",
        )
    outline = Outline(tuple(array("d", part.reshape(-1).tolist()) for part in parts))
    return outline, _bound_parts(parts)


def _bound_parts(parts: Sequence[Points]) -> Corners | None:
    """Return the corners of the box around polygons, None without any."""
    if not parts:
        return None
    points = np.concatenate(parts)
    x1, y1 = points.min(axis=0).tolist()
    x2, y2 = points.max(axis=0).tolist()
    return x1, y1, x2, y2


def _parse_points(polygon: Polygon, size: tuple[int, int], fractions: bool) -> Points:
    """Return the points of a polygon in pixels."""
    if len(polygon) % 2:
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            f"a polygon has {len(polygon)} numbers, and points have two each; "
            "write x1, y1, x2, y2, ...",
        )
    points = np.array(polygon, np.float64).reshape(-1, 2)
    # Not a number is not less than anything.
    if not (np.abs(points) < _MAX_COORDINATE).all():
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            "a polygon has a coordinate that is not a number, or far off; correct or remove it",
        )
    # Points in pixels are kept to the last digit, on which a pixel may hang. What fractions have
    # lost is restored by rounding them as the corners of boxes are.
    return np.round(points * size, DECIMALS) if fractions else points


def _compare_with_box(mask: Corners, box: Corners, where: str, problems: ProblemCollector) -> None:
    """Add a warning for a mask that reaches over its box. Raises BadEntryError outside of it."""
    is_apart = mask[0] >= box[2] or mask[1] >= box[3] or mask[2] <= box[0] or mask[3] <= box[1]
    if is_apart:
        raise BadEntryError(
            FindingKind.MASK_OUTSIDE_BOX,
            "the mask lies wholly outside its box; correct the one that is wrong",
        )
    longer_side = max(box[2] - box[0], box[3] - box[1])
    tolerance = max(_MIN_TOLERANCE, _TOLERANCE_SHARE * longer_side)
    excess = max(box[0] - mask[0], box[1] - mask[1], mask[2] - box[2], mask[3] - box[3])
    if excess > tolerance:
        problems.add(
            FindingKind.MASK_OUTSIDE_BOX,
            Severity.WARNING,
            where,
            "mask that reaches over its box; correct the one that is wrong",
        )
