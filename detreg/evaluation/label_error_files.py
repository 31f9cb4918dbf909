"""Probable label errors as files: a list, and two that annotation tools import.

- `label_errors.json`: the list, with what is labeled and what is proposed.
- `label_studio.json`: tasks of Label Studio, with the labels as annotations and the proposals as
  predictions. Its labeling configuration needs a RectangleLabels `label` over an Image `image`.
- `proposed_labels.json`: the labels of these images with all proposals accepted, in COCO's form,
  as CVAT and most other tools read it.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detreg.data.label_studio import make_image_url, make_prediction, make_region
from detreg.evaluation.error_kinds import ImageErrors
from detreg.evaluation.ground_truth import GroundTruth, TruthImage
from detreg.evaluation.label_errors import LabelError, LabelErrorKind
from detreg.evaluation.matching import UNMATCHED
from detreg.files import write_atomically


def write_label_error_files(
    truth: GroundTruth,
    errors: Mapping[int, ImageErrors],
    found: Sequence[LabelError],
    folder: Path,
) -> list[Path]:
    """Write the three files, and return their paths. errors are those of all detections."""
    by_image: dict[int, list[LabelError]] = defaultdict(list)
    for error in found:
        by_image[error.image_id].append(error)

    entries = [_describe(truth, errors[error.image_id], error) for error in found]
    tasks = [
        _make_task(truth, truth.images[image_id], errors[image_id], of_image)
        for image_id, of_image in by_image.items()
    ]
    contents = {
        "label_errors.json": entries,
        "label_studio.json": tasks,
        "proposed_labels.json": _accept_proposals(truth, errors, by_image),
    }
    files = []
    for name, content in contents.items():
        path = folder / name
        with write_atomically(path) as file:
            file.write(json.dumps(content, indent=1).encode())
        files.append(path)
    return files


def _describe(truth: GroundTruth, errors: ImageErrors, error: LabelError) -> dict[str, Any]:
    image = truth.images[error.image_id]
    labeled = None
    if error.target != UNMATCHED:
        name = truth.classes[image.labels[error.target]]
        labeled = {"class": name, "box": image.boxes[error.target].tolist()}
    proposed = None
    if error.detection != UNMATCHED:
        detections = errors.detections
        proposed = {
            "class": truth.classes[detections.labels[error.detection]],
            "box": detections.boxes[error.detection].tolist(),
            "score": float(detections.scores[error.detection]),
        }
    return {
        "kind": str(error.kind),
        "suspicion": round(error.suspicion, 4),
        "file": str(image.file),
        "labeled": labeled,
        "proposed": proposed,
    }


def _make_task(
    truth: GroundTruth, image: TruthImage, errors: ImageErrors, found: Sequence[LabelError]
) -> dict[str, Any]:
    """Return an image as a task of Label Studio."""
    size = (image.width, image.height)
    labeled = []
    for index, box in enumerate(image.boxes.tolist()):
        name = truth.classes[image.labels[index]]
        labeled.append(make_region(f"label-{index}", box, name, size))

    proposed = []
    for error in found:
        if error.detection == UNMATCHED:
            continue
        detections = errors.detections
        name = truth.classes[detections.labels[error.detection]]
        box = detections.boxes[error.detection].tolist()
        region = make_region(f"proposal-{error.detection}", box, name, size)
        proposed.append({**region, "score": round(error.suspicion, 4)})
    most_suspicious = max(error.suspicion for error in found)
    reasons = [f"{error.kind} ({error.suspicion:.2f})" for error in found]
    return {
        "data": {
            "image": make_image_url(image.file),
            "probable_errors": ", ".join(reasons),
        },
        "annotations": [{"result": labeled}],
        "predictions": [make_prediction(most_suspicious, proposed)],
    }


def _accept_proposals(
    truth: GroundTruth,
    errors: Mapping[int, ImageErrors],
    by_image: Mapping[int, Sequence[LabelError]],
) -> dict[str, Any]:
    """Return the images of the list in COCO's form, with every proposal accepted.

    A box that is not found stays: only a person can tell whether there is an object.
    """
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(truth.classes)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, of_image in by_image.items():
        image = truth.images[image_id]
        images.append(
            {
                "id": image_id,
                "file_name": image.file.name,
                "width": image.width,
                "height": image.height,
            }
        )
        detections = errors[image_id].detections
        rows = list(zip(image.boxes.tolist(), image.labels.tolist(), image.crowd, strict=True))
        for error in of_image:
            if error.kind is LabelErrorKind.UNCONFIRMED:
                continue
            box = detections.boxes[error.detection].tolist()
            row = (box, int(detections.labels[error.detection]), False)
            if error.target == UNMATCHED:
                rows.append(row)
            else:
                rows[error.target] = row
        for (x1, y1, x2, y2), label, is_crowd in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(is_crowd),
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}
