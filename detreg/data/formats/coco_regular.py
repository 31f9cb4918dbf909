"""Reads a file of COCO's format of which there is nothing to tell, in a third of the time.

Programs write such files, and nearly all large ones are such: each id is a number of its own, and
each annotation has a box, an area, and an image and a class of the file. Polygons are not even
parsed. Any other file is left to coco_file.py, which knows what may be different and says what is
wrong. What both can read they return equally, with equal findings.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct
from msgspec.json import Decoder

from detreg.data.boxes import Box
from detreg.data.findings import BadEntryError, ProblemCollector, has_errors
from detreg.data.formats.coco_annotations import MAX_COMPARED, are_corners
from detreg.data.formats.coco_categories import parse_categories
from detreg.data.formats.coco_entries import CocoEntry
from detreg.data.formats.json_keys import describe_repeated_key
from detreg.data.formats.lookup import ImageLocator
from detreg.data.formats.rotation import ROTATION_KEY
from detreg.data.raw import ImageRecord
from detreg.documents import decode_json

_Id = Annotated[int, Meta(ge=-(2**53), le=2**53)]
_Name = Annotated[str, Meta(min_length=1)]
_Side = Annotated[int, Meta(ge=1, le=2**31)]
_Coordinate = Annotated[float, Meta(ge=-1e9, le=1e9)]
_Area = Annotated[float, Meta(gt=0, le=1e18)]

_ABSENT = Raw()


# Not searched for garbage, since nothing in them can refer to them.
class _Image(Struct, gc=False):
    id: _Id
    file_name: _Name
    width: _Side
    height: _Side


class _Mask(Struct, gc=False):
    size: Raw
    counts: Raw


class _Annotation(Struct, gc=False):
    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]
    area: _Area
    iscrowd: Literal[0, 1] = 0
    ignore: None = None
    segmentation: list[Raw] | _Mask | None = None


class _Document(Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[dict[str, Any]]
    info: Raw = _ABSENT
    licenses: Raw = _ABSENT


_DECODER = Decoder(_Document)
_KEY_END = b'":'
_ROTATION = f'"{ROTATION_KEY}"'.encode()
_MAX_FIRST_ENTRY = 1 << 20


def read_regular_file(
    content: bytes, source: str, locator: ImageLocator, problems: ProblemCollector
) -> tuple[list[str], list[ImageRecord]] | None:
    """Return the class names and the image records of a file, None where it is not regular.

    Raises DocumentError where the file takes more memory than is free.
    """
    # Turned boxes are told.
    if _ROTATION in content:
        return None
    document = decode_json(content, _DECODER)
    if document is None or not _has_unique_keys(content, document) or _has_corners(document):
        return None

    own_problems = ProblemCollector()
    is_zero_used = any(annotation.category_id == 0 for annotation in document.annotations)
    try:
        categories = parse_categories(document.categories, is_zero_used, source, own_problems)
    except BadEntryError:
        return None
    if has_errors(own_problems.findings) or not _has_unique_entries(document):
        return None

    boxes = _make_boxes(document, {int(key): label for key, label in categories.items()})
    if boxes is None:
        return None
    problems.findings.extend(own_problems.findings)
    records = _make_records(document.images, boxes, source, locator, problems)
    return list(categories.values()), records


def _make_boxes(document: _Document, labels: dict[int, str]) -> dict[int, list[Box]] | None:
    """Return the boxes of each image by its id, None where an image or a class is not known.

    labels: the classes by the ids of their categories.
    """
    boxes: dict[int, list[Box]] = {image.id: [] for image in document.images}
    try:
        for annotation in document.annotations:
            x, y, width, height = annotation.bbox
            label = labels[annotation.category_id]
            box = Box(
                (x, y, x + width, y + height),
                label,
                annotation.iscrowd == 1,
                f"annotation {annotation.id} (class {label})",
                annotation.area,
            )
            boxes[annotation.image_id].append(box)
    except KeyError:
        return None
    return boxes


def _make_records(
    images: Sequence[_Image],
    boxes: dict[int, list[Box]],
    source: str,
    locator: ImageLocator,
    problems: ProblemCollector,
) -> list[ImageRecord]:
    """Return the record of each image whose file can be told."""
    records = []
    for image in images:
        where = f"{source} image {image.id}"
        try:
            path = locator.locate(image.file_name)
        except BadEntryError as error:
            problems.for_image(where).add_error(error.kind, where, str(error))
            continue
        found = tuple(boxes[image.id])
        records.append(ImageRecord(path, source, found, image.width, image.height, where))
    return records


def _has_unique_entries(document: _Document) -> bool:
    """Whether no two images have one id or name, and no two annotations one id."""
    image_ids = {image.id for image in document.images}
    names = {image.file_name for image in document.images}
    annotation_ids = {annotation.id for annotation in document.annotations}
    has_unique_images = len(image_ids) == len(names) == len(document.images)
    return has_unique_images and len(annotation_ids) == len(document.annotations)


def _has_corners(document: _Document) -> bool:
    """Whether bbox seems to hold corners, as in `are_corners`."""
    entries: list[CocoEntry] = []
    for annotation in document.annotations[:MAX_COMPARED]:
        segmentation = _parse_segmentation(annotation.segmentation)
        entries.append({"bbox": list(annotation.bbox), "segmentation": segmentation})
    return are_corners(entries)


def _parse_segmentation(segmentation: list[Raw] | _Mask | None) -> object:
    """Return a segmentation as it is in the document, None where it is nested too deeply."""
    with suppress(RecursionError):
        if isinstance(segmentation, list):
            return [json.loads(bytes(polygon)) for polygon in segmentation]
        if segmentation is not None:
            size, counts = bytes(segmentation.size), bytes(segmentation.counts)
            return {"size": json.loads(size), "counts": json.loads(counts)}
    return None


def _has_unique_keys(content: bytes, document: _Document) -> bool:
    """Whether no object of a document has a key twice, of which a parser takes the last.

    There are as many keys as there would be if each image had those of the first one, and so each
    annotation. That is so by chance only where as many keys are missing as are given twice.
    """
    keys_of_image = _count_keys_of_first(content, b"images")
    keys_of_annotation = _count_keys_of_first(content, b"annotations")
    if keys_of_image is None or keys_of_annotation is None:
        return False

    annotations = document.annotations
    num_masks = sum(isinstance(annotation.segmentation, _Mask) for annotation in annotations)
    if annotations and isinstance(annotations[0].segmentation, _Mask):
        keys_of_annotation -= len(_Mask.__struct_fields__)

    expected = 3 + sum(map(len, document.categories))
    expected += len(document.images) * keys_of_image + len(annotations) * keys_of_annotation
    expected += num_masks * len(_Mask.__struct_fields__)
    for part in (document.info, document.licenses):
        if part is not _ABSENT:
            expected += 1 + bytes(part).count(_KEY_END)
    return content.count(_KEY_END) == expected


def _count_keys_of_first(content: bytes, name: bytes) -> int | None:
    """Return how many keys the first object of a list has, with those of objects in it.

    None where it cannot be told, or where one of them is given twice.
    """
    start = re.search(rb'"%s"\s*:\s*\[\s*' % name, content)
    if start is None:
        return None
    text = content[start.end() : start.end() + _MAX_FIRST_ENTRY]
    if text.startswith(b"]"):
        return 0
    try:
        entry, end = json.JSONDecoder().raw_decode(text.decode())
    except (ValueError, RecursionError):
        return None
    if describe_repeated_key(text[:end], entry) is not None:
        return None
    return text[:end].count(_KEY_END)
