"""Reads the outlines of objects from an annotation file of COCO's format."""

from collections import Counter
from pathlib import Path

from detreg.data.formats.coco_annotations import name_annotation
from detreg.data.outlines import Outline, parse_polygon
from detreg.documents import MAX_JSON_BYTES, parse_json
from detreg.files import read_regular


def read_outlines(path: Path) -> dict[str, Outline]:
    """Return the outlines in a file that was read without errors, by the places of their boxes."""
    document = parse_json(read_regular(path, MAX_JSON_BYTES))
    annotations = document["annotations"] if isinstance(document, dict) else []
    names = [
        name_annotation(annotation, position)
        for position, annotation in enumerate(annotations, start=1)
    ]
    counts = Counter(names)

    outlines = {}
    for name, annotation in zip(names, annotations, strict=True):
        outline = _parse_segmentation(annotation.get("segmentation"))
        if outline is not None and counts[name] == 1:
            outlines[name] = outline
    return outlines


def _parse_segmentation(value: object) -> Outline | None:
    """Return a segmentation as an outline, None where it is none that other programs can read."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        is_size = isinstance(size, list) and len(size) == 2
        is_mask = is_size and isinstance(counts, str | list)
        return Outline(mask={"size": size, "counts": counts}) if is_mask else None

    if not isinstance(value, list) or not value:
        return None
    polygons = [parse_polygon(part) for part in value]
    known = tuple(polygon for polygon in polygons if polygon is not None)
    return Outline(known) if len(known) == len(polygons) else None
