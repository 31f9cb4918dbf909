"""Runs a model over images."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from detreg.defaults import MAX_DETECTIONS
from detreg.inference.detector import Detector
from detreg.inference.images import read_image
from detreg.report.drawing import draw_detections
from detreg.tasks.images import find_images


def predict_images(
    model: str,
    images: Sequence[str],
    out: str,
    score_threshold: float | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> Path:
    """Write `predictions.json` and each image with its boxes into `out`; return the JSON's path.

    `images` are files and folders. There is one row for each detection: image_id, file_name,
    category_id, category_name, bbox as x, y, width, height in pixels, score. Raises NotFoundError
    where there is no image.
    """
    files = find_images(images)
    detector = Detector.load(model)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)

    rows: list[dict[str, object]] = []
    for number, file in enumerate(files, start=1):
        pixels = read_image(file)
        detections = detector(pixels, score_threshold, max_detections)
        for row in detections.to_coco(number):
            rows.append({"file_name": str(file), **row})
        drawn = Image.fromarray(draw_detections(pixels, detections))
        drawn.save(folder / f"{number:04d}_{file.stem}.jpg", quality=92)

    path = folder / "predictions.json"
    path.write_text(json.dumps(rows, indent=1))
    return path
