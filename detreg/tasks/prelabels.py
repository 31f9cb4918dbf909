"""What a model finds, as labels to correct in an annotation tool.

`voc` and `yolo` are datasets that tools open, and that `detreg check` reads; `labelstudio` is a
file of tasks with predictions.
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
    make_prediction,
    make_region,
    render_labeling_config,
)
from detreg.files import write_atomically
from detreg.inference.detections import Detections
from detreg.report.theme import get_class_color
from detreg.tasks.predict_result import LabeledImage

LABEL_STUDIO = "labelstudio"
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
    splits = {SPLIT: _make_dataset_images(images)}
    check_space(splits, folder)
    formats.write(format, folder, classes, splits)
    return folder


def _make_dataset_images(images: Sequence[LabeledImage]) -> list[AnnotatedImage]:
    listed = []
    for image in images:
        width, height = image.size
        boxes = _make_boxes(image.detections)
        listed.append(DatasetImage(image.file.absolute(), width, height, "", boxes))
    if not listed:
        return []

    # What tells images of one name apart are the folders below the one that holds all.
    common = Path(os.path.commonpath([image.path.parent for image in listed]))
    names = name_files(listed, common)
    return [
        AnnotatedImage(name, image.path, image.width, image.height, image.boxes)
        for name, image in zip(names, listed, strict=True)
    ]


def _make_boxes(detections: Detections) -> tuple[Box, ...]:
    boxes = []
    for corners, name in zip(detections.boxes.tolist(), detections.names, strict=True):
        x1, y1, x2, y2 = round_corners(corners)
        # Under a thousandth of a pixel, which no label can be.
        if x2 > x1 and y2 > y1:
            boxes.append(Box((x1, y1, x2, y2), name))
    return tuple(boxes)


def _write_label_studio(
    out: Path, classes: tuple[str, ...], images: Sequence[LabeledImage]
) -> Path:
    """Write tasks with predictions, and the labeling configuration of a project for them."""
    path = out / "label_studio.json"
    with write_atomically(path) as file:
        file.write(json.dumps([_make_task(image) for image in images], indent=1).encode())

    colors = [get_class_color(label) for label in range(len(classes))]
    config = render_labeling_config(classes, colors)
    (out / "label_studio.xml").write_text(config, encoding="utf-8")
    return path


def _make_task(image: LabeledImage) -> dict[str, Any]:
    detections = image.detections
    scores = detections.scores.tolist()
    regions = []
    for index, corners in enumerate(detections.boxes.tolist()):
        region = make_region(f"box-{index}", corners, detections.names[index], image.size)
        regions.append({**region, "score": round(scores[index], 4)})
    # The least sure box says how much there is to correct; without a box there is no doubt.
    least_sure = min(scores, default=0.0)
    return {
        "data": {"image": make_image_url(image.file.absolute())},
        "predictions": [make_prediction(least_sure, regions)],
    }
