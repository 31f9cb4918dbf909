"""Makes the entries of a COCO document, for datasets that are written and the canonical copy."""

from collections.abc import Sequence

from detreg.data.boxes import DECIMALS, Box
from detreg.data.outlines import Outline

CocoEntry = dict[str, object]


def make_image_entry(image_id: int, file_name: str, width: int, height: int) -> CocoEntry:
    """Return the entry of an image; width and height in pixels."""
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def make_annotation(annotation_id: int, image_id: int, category_id: int, box: Box) -> CocoEntry:
    """Return the annotation of a box in pixels; COCO's bbox is x, y, width, height."""
    x1, y1, x2, y2 = box.corners
    width = round(x2 - x1, DECIMALS)
    height = round(y2 - y1, DECIMALS)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, width, height],
        "area": box.area or round(width * height, DECIMALS),
        "iscrowd": int(box.crowd),
    }


def make_segmentation(outline: Outline) -> object:
    """Return an outline as the segmentation of an annotation."""
    if outline.mask is not None:
        return outline.mask.to_coco()
    return [list(polygon) for polygon in outline.polygons]


def make_categories(classes: Sequence[str]) -> list[CocoEntry]:
    """Return the categories of the classes, with ids 1, 2, ... in their order."""
    return [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
