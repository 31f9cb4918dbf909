"""Reads the outlines of objects from an annotation file of COCO's format."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.json import Decoder

from detreg.data.formats.coco_annotations import name_annotation
from detreg.data.formats.coco_segmentation import parse_segmentation
from detreg.data.outlines import Outline
from detreg.documents import MAX_JSON_BYTES, decode_json, parse_json
from detreg.files import read_regular


class _Annotation(Struct, gc=False):
    id: Any = UNSET
    segmentation: Raw | UnsetType = UNSET


class _Document(Struct):
    annotations: list[_Annotation]


_DECODER = Decoder(_Document)
_POLYGONS = Decoder(list[list[float]])


def read_outlines(path: Path) -> dict[str, Outline]:
    """Return the outlines in a file that was read without errors, by the places of their boxes."""
    content = read_regular(path, MAX_JSON_BYTES)
    # Segmentations are parsed one by one: as Python's lists, all of them fill gigabytes.
    document = decode_json(content, _DECODER)
    if document is None:
        return _collect_outlines(_list_segmentations(parse_json(content)))

    segmentations: list[tuple[str, object]] = []
    for position, annotation in enumerate(document.annotations, start=1):
        entry = {} if annotation.id is UNSET else {"id": annotation.id}
        segmentation = None if annotation.segmentation is UNSET else annotation.segmentation
        segmentations.append((name_annotation(entry, position), segmentation))
    return _collect_outlines(segmentations)


def _list_segmentations(document: object) -> list[tuple[str, object]]:
    """Return the name of each annotation of a parsed document with its segmentation."""
    annotations = document["annotations"] if isinstance(document, dict) else []
    return [
        (name_annotation(annotation, position), annotation.get("segmentation"))
        for position, annotation in enumerate(annotations, start=1)
    ]


def _collect_outlines(segmentations: list[tuple[str, object]]) -> dict[str, Outline]:
    """Return the outlines by the names of their annotations, without names that occur twice."""
    counts = Counter(name for name, _ in segmentations)
    outlines = {}
    for name, segmentation in segmentations:
        value = _parse(segmentation) if isinstance(segmentation, Raw) else segmentation
        outline = parse_segmentation(value)
        if outline is not None and counts[name] == 1:
            outlines[name] = outline
    return outlines


def _parse(segmentation: Raw) -> object:
    """Return a segmentation as JSON has it."""
    # As parse_json, but nearly all are such lists, which this parses in a third of the time.
    with suppress(ValueError, RecursionError):
        return _POLYGONS.decode(segmentation)
    return parse_json(bytes(segmentation))
