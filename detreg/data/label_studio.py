"""Tasks of Label Studio: an image by its path on the machine of Label Studio, and boxes on it.

Its labeling configuration needs a RectangleLabels `label` over an Image `image`, and for polygons
PolygonLabels `polygon`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

LOCAL_FILES = "/data/local-files/?d="
"""Under which Label Studio serves files of its own machine, by paths without the first slash."""

_BOX_CONTROL = "label"
_POLYGON_CONTROL = "polygon"


def make_image_url(path: Path) -> str:
    """Return under which URL Label Studio serves an image of its own machine."""
    # Surrogates stand for bytes of a name that is not UTF-8.
    return LOCAL_FILES + quote(str(path).lstrip("/"), errors="surrogateescape")


def make_region(
    region_id: str, corners: Sequence[float], class_name: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Return a box as a region of Label Studio, which counts in percent of the image.

    corners: x1, y1, x2, y2 in pixels of an image of `size` (width, height).
    """
    x1, y1, x2, y2 = corners
    width, height = size
    value = {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
        "rotation": 0,
        "rectanglelabels": [class_name],
    }
    return _make_region(region_id, "rectanglelabels", _BOX_CONTROL, value, size)


def make_polygon_region(
    region_id: str, polygon: Sequence[float], class_name: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Return a polygon x1, y1, x2, y2, ... in pixels as a region of Label Studio."""
    width, height = size
    points = []
    for x, y in zip(polygon[::2], polygon[1::2], strict=True):
        points.append([100 * x / width, 100 * y / height])
    value = {"points": points, "closed": True, "polygonlabels": [class_name]}
    return _make_region(region_id, "polygonlabels", _POLYGON_CONTROL, value, size)


def _make_region(
    region_id: str, kind: str, control: str, value: dict[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    width, height = size
    return {
        "id": region_id,
        "type": kind,
        "from_name": control,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    }


def make_prediction(score: float, regions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a model proposes for a task; tasks can be sorted by the score."""
    return {"model_version": "detreg", "score": round(score, 4), "result": list(regions)}


def render_labeling_config(
    classes: Sequence[str], colors: Sequence[str], has_polygons: bool = False
) -> str:
    """Return the labeling configuration of a project with these classes, each with a color.

    has_polygons: whether objects may be polygons beside boxes.
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    controls = {"RectangleLabels": _BOX_CONTROL}
    if has_polygons:
        controls["PolygonLabels"] = _POLYGON_CONTROL
    for tag, name in controls.items():
        labels = ElementTree.SubElement(view, tag, name=name, toName="image")
        for class_name, color in zip(classes, colors, strict=True):
            ElementTree.SubElement(labels, "Label", value=class_name, background=color)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")
