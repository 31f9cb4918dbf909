"""What a model finds, as labels to correct in an annotation tool.

`voc` and `yolo` are datasets that tools open, and that `detreg check` reads; `labelstudio` is a
file of tasks with predictions. Masks become polygons in `yolo` and `labelstudio`, one for each
object; `voc` has boxes alone.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detreg.data import formats
from detreg.data.boxes import Box, round_corners
from detreg.data.copied_images import check_space, name_files
from detreg.data.images import AnnotatedImage, DatasetImage
from detreg.data.label_studio import (
    make_image_url,
    make_polygon_region,
    make_prediction,
    make_region,
    render_labeling_config,
)
from detreg.data.outlines import Outline, find_corners
from detreg.files import write_atomically
from detreg.inference.detections import Detections
from detreg.report.theme import get_class_color
from detreg.tasks.predict_result import LabeledImage

LABEL_STUDIO = "labelstudio"
YOLO = "yolo"
SPLIT = "train"
"""The split of the dataset: to correct it is to make a training set."""


def write_prelabels(
    format: str, out: Path, classes: tuple[str, ...], images: Sequence[LabeledImage]
) -> Path:
    """Write the labels of all images into a folder, and return what was written.

    format: "voc", "yolo" or "labelstudio".

    Raises DiskError where there is no room for copies of the images.
    """
    if format == LABEL_STUDIO:
        return _write_label_studio(out, classes, images)

    folder = out / format
    folder.mkdir(parents=True, exist_ok=True)
    splits = {SPLIT: _make_dataset_images(images, has_polygons=format == YOLO)}
    check_space(splits, folder)
    formats.write(format, folder, classes, splits)
    return folder


def _make_dataset_images(
    images: Sequence[LabeledImage], has_polygons: bool
) -> list[AnnotatedImage]:
    """Return what a format's `write` takes, where it has polygons, with those of the masks."""
    listed = []
    for image in images:
        width, height = image.size
        boxes, masks = _make_labels(image.detections, has_polygons)
        listed.append(DatasetImage(image.file.absolute(), width, height, "", boxes, masks))
    if not listed:
        return []

    # What tells images of one name apart are the folders below the one that holds all.
    common = Path(os.path.commonpath([image.path.parent for image in listed]))
    named = []
    for name, labeled in zip(name_files(listed, common), listed, strict=True):
        outlines = {place: mask for place, mask in enumerate(labeled.masks) if mask is not None}
        size = (labeled.width, labeled.height)
        named.append(AnnotatedImage(name, labeled.path, *size, labeled.boxes, outlines))
    return named


def _make_labels(
    detections: Detections, has_polygons: bool
) -> tuple[tuple[Box, ...], tuple[Outline | None, ...]]:
    """Return the boxes of detections, and the outline of each that has a mask with a pixel.

    The box of such a detection is the one around its polygon, as whoever reads polygons finds it.
    """
    no_polygons: list[list[float]] = [[]] * len(detections)
    polygons = _trace_masks(detections) if has_polygons else no_polygons
    boxes: list[Box] = []
    outlines: list[Outline | None] = []
    for corners, name, polygon in zip(
        detections.boxes.tolist(), detections.names, polygons, strict=True
    ):
        around = find_corners(polygon) if polygon else corners
        x1, y1, x2, y2 = round_corners(around)
        # Under a thousandth of a pixel, which no label can be.
        if x2 > x1 and y2 > y1:
            boxes.append(Box((x1, y1, x2, y2), name))
            outlines.append(Outline((polygon,)) if polygon else None)
    return tuple(boxes), tuple(outlines)


def _trace_masks(detections: Detections) -> list[list[float]]:
    """Return one polygon for each detection, [] without a mask."""
    if detections.masks is None:
        return [[]] * len(detections)
    return detections.masks.to_single_polygons()


def _write_label_studio(
    out: Path, classes: tuple[str, ...], images: Sequence[LabeledImage]
) -> Path:
    """Write tasks with predictions, and the labeling configuration of a project for them."""
    path = out / "label_studio.json"
    with write_atomically(path) as file:
        file.write(json.dumps([_make_task(image) for image in images], indent=1).encode())

    colors = [get_class_color(label) for label in range(len(classes))]
    has_masks = any(image.detections.masks is not None for image in images)
    config = render_labeling_config(classes, colors, has_polygons=has_masks)
    (out / "label_studio.xml").write_text(config, encoding="utf-8")
    return path


def _make_task(image: LabeledImage) -> dict[str, Any]:
    detections = image.detections
    scores = detections.scores.tolist()
    polygons = _trace_masks(detections)
    regions = []
    for index, corners in enumerate(detections.boxes.tolist()):
        name = detections.names[index]
        if polygons[index]:
            region = make_polygon_region(f"mask-{index}", polygons[index], name, image.size)
        else:
            region = make_region(f"box-{index}", corners, name, image.size)
        regions.append({**region, "score": round(scores[index], 4)})
    # The least sure box says how much there is to correct; without a box there is no doubt.
    least_sure = min(scores, default=0.0)
    return {
        "data": {"image": make_image_url(image.file.absolute())},
        "predictions": [make_prediction(least_sure, regions)],
    }
