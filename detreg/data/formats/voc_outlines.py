"""Reads the outlines of the objects of a VOC image: of SegmentationObject, else their polygons.

SegmentationObject holds a PNG for each image that has masks. Its pixels are the numbers of the
objects in the order of the XML file, from 1 on, as indices of a palette; 255 is the border around
an object, which belongs to none. Tools also write the colors of that palette, and count otherwise:
a mask belongs to the object of its number, unless its box says that it is another one's.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from detreg.data.boxes import Corners, compute_area
from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.tree import get_stem, join_path, list_ancestors
from detreg.data.formats.voc_file import parse_box, parse_document, parse_points, parse_size
from detreg.data.images import AnnotatedImage
from detreg.data.numbered_masks import encode_labels
from detreg.data.outlines import Outline, parse_polygon
from detreg.defaults import MAX_IMAGE_BYTES
from detreg.errors import shorten
from detreg.files import UnusableFileError, read_regular
from detreg.image_decoding import DECODING_ERRORS, ImageFileError, open_header
from detreg.run_lengths import (
    RunLengthMask,
    bound_runs,
    decode_runs,
    parse_runs,
)

FOLDER = "SegmentationObject"

_INDEXED_MODES = ("P", "L", "I", "I;16")
_MAX_OBJECTS = 254
_BORDER = 255
_BORDER_COLOR = 0xE0E0C0
_MIN_IOU = 0.2
"""How well the box of a mask has to fit that of an object; a border may be missing around it."""

_MAX_PAIRS = 1_000_000
"""More masks and boxes than these are not compared with each other."""


def read_outlines(folder: Path, source: str, problems: ProblemCollector) -> dict[str, Outline]:
    """Return the outlines of the objects of an XML file, by the places of their boxes.

    problems: takes what is wrong with the image of the masks.
    """
    root = parse_document(folder / source)
    objects = list(root.iter("object"))
    outlines = {}
    for number, element in enumerate(objects, start=1):
        polygon = parse_polygon(parse_points(element))
        if polygon is not None:
            outlines[f"object {number}"] = Outline((polygon,))

    mask_file = _find_mask_file(folder, source)
    if mask_file:
        with problems.catch_bad_entry(mask_file):
            stated_size = (parse_size(root, "width"), parse_size(root, "height"))
            masks = encode_labels(_read_labels(folder / mask_file, stated_size))
            outlines |= _match_objects(objects, masks, mask_file, problems)
    return outlines


def find_kept_masks(image: AnnotatedImage) -> dict[int, RunLengthMask]:
    """Return the masks of an image that its file can hold, by the positions of their boxes.

    Those are pixels, and not polygons, of at most `_MAX_OBJECTS` objects.
    """
    if len(image.boxes) > _MAX_OBJECTS:
        return {}
    outlines = image.outlines.items()
    return {place: outline.mask for place, outline in outlines if outline.mask is not None}


def write_masks(folder: Path, name: str, image: AnnotatedImage) -> None:
    """Write the image of the masks of an image, by the numbers of the objects, if it has any.

    folder: of the dataset.
    """
    masks = find_kept_masks(image)
    if not masks:
        return
    labels = np.zeros((image.height, image.width), np.uint8)
    for place, mask in masks.items():
        runs = parse_runs(mask)
        if runs is not None:
            labels[decode_runs(runs, mask.height, mask.width)] = place + 1

    mask_image = Image.fromarray(labels)
    mask_image.putpalette(_make_palette())
    mask_folder = folder / FOLDER
    mask_folder.mkdir(exist_ok=True)
    mask_image.save(mask_folder / f"{name}.png")


def _make_palette() -> list[int]:
    """Return the colors of VOC's palette, three values each: bits of the number, mirrored."""
    palette = []
    for number in range(256):
        for channel in range(3):
            bits = [(number >> (3 * place + channel)) & 1 for place in range(3)]
            palette.append(bits[0] << 7 | bits[1] << 6 | bits[2] << 5)
    return palette


def _find_mask_file(folder: Path, source: str) -> str | None:
    """Return the PNG of an XML file, in the dataset's folder; None where there is none."""
    for ancestor in list_ancestors(source):
        path = join_path(ancestor, f"{FOLDER}/{get_stem(source)}.png")
        if (folder / path).is_file():
            return path
    return None


def _read_labels(path: Path, stated_size: tuple[int | None, int | None]) -> npt.NDArray[np.integer]:
    """Return the numbers (height, width) of the pixels of a PNG, 0 where there is no object.

    stated_size: width and height of the image that it belongs to, as far as they are stated.

    Raises BadEntryError where it cannot be read, or is of another size.
    """
    try:
        image = open_header(read_regular(path, MAX_IMAGE_BYTES))
        # Before anything is decoded.
        _check_size(image.size, stated_size)
        is_indexed = image.mode in _INDEXED_MODES
        pixels = np.array(image if is_indexed else image.convert("RGB"))
    except BadEntryError:
        raise
    except UnusableFileError as error:
        raise BadEntryError(FindingKind.INVALID_MASK, error.reason) from error
    except ImageFileError as error:
        raise BadEntryError(FindingKind.INVALID_MASK, str(error)) from error
    except DECODING_ERRORS as error:
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            f"the image of the masks cannot be read ({shorten(str(error))}); write it again",
        ) from error

    if is_indexed:
        pixels[pixels == _BORDER] = 0
        return pixels
    colors: npt.NDArray[np.int32] = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        colors <<= 8
        colors |= pixels[..., channel]
    colors[colors == _BORDER_COLOR] = 0
    return colors


def _check_size(size: tuple[int, int], stated_size: tuple[int | None, int | None]) -> None:
    """Raise BadEntryError for an image of masks of another size than its image is stated to be."""
    width, height = size
    stated_width, stated_height = stated_size
    if (stated_width or width, stated_height or height) != size:
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            f"the image of the masks is {width}x{height} and {stated_width}x{stated_height} is "
            "stated; draw the masks again",
        )


def _match_objects(
    objects: Sequence[ET.Element],
    masks: Mapping[int, RunLengthMask],
    where: str,
    problems: ProblemCollector,
) -> dict[str, Outline]:
    """Return the mask of each object that has one; a mask without an object is a warning."""
    boxes = {number: _bound_object(element) for number, element in enumerate(objects, start=1)}
    boxes_of_masks = {number: _bound_mask(mask) for number, mask in masks.items()}

    object_of_mask = {}
    for number, corners in boxes_of_masks.items():
        if number in boxes and _compute_iou(corners, boxes[number]) >= _MIN_IOU:
            object_of_mask[number] = number

    # Masks of other numbers go by their boxes, the ones that fit best first.
    others = masks.keys() - object_of_mask.keys()
    free = boxes.keys() - object_of_mask.keys()
    pairs = []
    if len(others) * len(free) <= _MAX_PAIRS:
        for mask, number in product(others, free):
            iou = _compute_iou(boxes_of_masks[mask], boxes[number])
            if iou >= _MIN_IOU:
                pairs.append((-iou, mask, number))
    for _, mask, number in sorted(pairs):
        if mask in others and number in free:
            object_of_mask[mask] = number
            others.remove(mask)
            free.remove(number)

    for mask in sorted(others):
        problems.add(
            FindingKind.UNMATCHED_MASK,
            Severity.WARNING,
            f"{where} number {mask}",
            "mask without a box left out; add its object to the XML file",
        )
    return {
        f"object {number}": Outline(mask=masks[mask]) for mask, number in object_of_mask.items()
    }


def _bound_object(element: ET.Element) -> Corners:
    """Return the corners of an object's box; of no extent where it cannot be used."""
    try:
        return parse_box(element, "", "", ProblemCollector()).corners
    except BadEntryError:
        return 0.0, 0.0, 0.0, 0.0


def _bound_mask(mask: RunLengthMask) -> Corners:
    """Return the corners of the box around a mask that has a pixel."""
    runs = parse_runs(mask)
    corners = None if runs is None else bound_runs(runs, mask.height)
    return corners or (0.0, 0.0, 0.0, 0.0)


def _compute_iou(one: Corners, other: Corners) -> float:
    """Return the intersection over union of two boxes, 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if not (width > 0 and height > 0):
        return 0.0
    shared = width * height
    return shared / (compute_area(one) + compute_area(other) - shared)
