"""Parses one annotation file of COCO's detection format, and says what is wrong with it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from detreg.data.boxes import Box
from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector
from detreg.data.formats.coco_annotations import parse_annotations
from detreg.data.formats.coco_categories import parse_categories
from detreg.data.formats.coco_entries import CocoEntry
from detreg.data.formats.coco_values import format_id, is_number, make_key
from detreg.data.formats.json_keys import describe_repeated_key
from detreg.data.formats.lookup import MISSING_SIZE_MESSAGE, ImageLocator, find_duplicates
from detreg.data.raw import ImageRecord
from detreg.documents import MAX_JSON_BYTES, parse_json
from detreg.errors import quote, shorten
from detreg.files import read_regular

MIN_LARGE_FILE = 1 << 20
"""Bytes from which on it is worth to try coco_regular.py first."""


def read_annotation_file(
    path: Path, source: str, locator: ImageLocator, problems: ProblemCollector
) -> tuple[list[str], list[ImageRecord]]:
    """Return the class names and the image records of one annotation file.

    source: the path of the file relative to the dataset's folder.

    Raises BadEntryError where the file as a whole cannot be used.
    """
    content = read_regular(path, MAX_JSON_BYTES)
    if len(content) >= MIN_LARGE_FILE:
        # Not at the top: it takes longer to import than to do without for a small file.
        from detreg.data.formats.coco_regular import read_regular_file  # noqa: PLC0415

        parsed = read_regular_file(content, source, locator, problems)
        if parsed is not None:
            return parsed

    document = _parse_document(content)
    annotations = _get_entries(document, "annotations", source)
    is_zero_used = any(make_key(entry.get("category_id")) == "0" for entry in annotations)
    category_entries = _get_entries(document, "categories", source)
    categories = parse_categories(category_entries, is_zero_used, source, problems)
    images = _get_entries(document, "images", source)
    _check_duplicates(images, annotations, source, problems)

    # Ids are compared as text, so that 7 and "7" mean the same image.
    image_ids = {make_key(image["id"]) for image in images if "id" in image}
    boxes = parse_annotations(annotations, image_ids, categories, source, problems)

    records = []
    for position, image in enumerate(images, start=1):
        image_id = image.get("id", f"at position {position}")
        where = f"{source} image {format_id(image_id)}"
        image_boxes = boxes.get(make_key(image.get("id")), [])
        try:
            record = _parse_image(image, source, where, image_boxes, locator)
        except BadEntryError as error:
            problems.for_image(where).add_error(error.kind, where, str(error))
            continue

        records.append(record)
        if record.width is None or record.height is None:
            problems.add_repair(FindingKind.MISSING_SIZE, where, MISSING_SIZE_MESSAGE)
    return list(categories.values()), records


def _parse_document(content: bytes) -> CocoEntry:
    """Return the JSON object in a file's content."""
    document = parse_json(content)
    if not isinstance(document, dict):
        raise BadEntryError(
            FindingKind.MALFORMED_FILE,
            "the file is not a JSON object with images, annotations and categories; "
            "export it as COCO detection",
        )
    repeated_key = describe_repeated_key(content, document)
    if repeated_key is not None:
        raise BadEntryError(FindingKind.DUPLICATE_ENTRY, f"{repeated_key}; keep one of the two")
    return document


def _get_entries(document: CocoEntry, key: str, source: str) -> list[CocoEntry]:
    """Return the list of objects under `key`."""
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadEntryError(
            FindingKind.MALFORMED_FILE,
            f"has no list of objects under {key!r}; export {source} as COCO detection",
        )
    return entries


def _check_duplicates(
    images: Sequence[CocoEntry],
    annotations: Sequence[CocoEntry],
    source: str,
    problems: ProblemCollector,
) -> None:
    """Add an error for each image id, file name and annotation id that occurs more than once."""
    # What must be unique: the entries, their key, what to call it, and how to mend it.
    rules = (
        (
            images,
            "id",
            "image id",
            "give each image an id of its own, or boxes end up on the wrong image",
        ),
        (images, "file_name", "file name", "merge the entries into one"),
        (annotations, "id", "annotation id", "give each annotation an id of its own"),
    )
    for entries, key, noun, advice in rules:
        values = [entry[key] for entry in entries if key in entry]
        # File names are other texts where they differ in any way: 1 and 1.0 are two names.
        if key == "id" or not all(isinstance(value, str) for value in values):
            values = [make_key(value) for value in values]
        for value in find_duplicates(values):
            problems.add_error(
                FindingKind.DUPLICATE_ENTRY,
                source,
                f"{noun} {format_id(value)} is given more than once; {advice}",
            )


def _parse_image(
    image: CocoEntry, source: str, where: str, boxes: Sequence[Box], locator: ImageLocator
) -> ImageRecord:
    """Return the record of an entry of "images" at the place `where`."""
    name = image.get("file_name")
    if name is None and "coco_url" in image:
        raise BadEntryError(
            FindingKind.MALFORMED_ENTRY,
            "LVIS states a coco_url and no file_name; "
            "write the end of the URL as file_name, such as train2017/000000000009.jpg",
        )
    if "id" not in image or not isinstance(name, str) or not name:
        raise BadEntryError(
            FindingKind.MALFORMED_ENTRY, "an image needs an id and a file_name; add them"
        )

    # Zero means not known, too.
    width = image.get("width") or None
    height = image.get("height") or None
    if not (_is_valid_size(width) and _is_valid_size(height)):
        raise BadEntryError(
            FindingKind.MALFORMED_ENTRY,
            f"({shorten(name)}) width {quote(width)} and height {quote(height)} "
            "are not numbers; correct or remove them",
        )

    return ImageRecord(
        image=locator.locate(name),
        source=source,
        boxes=tuple(boxes),
        width=None if width is None else round(width),
        height=None if height is None else round(height),
        entry=where,
    )


def _is_valid_size(value: object) -> TypeGuard[float | None]:
    """Whether a stated width or height is a finite number, or not stated."""
    return value is None or (is_number(value) and math.isfinite(value))
