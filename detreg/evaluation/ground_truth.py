"""The ground truth of one split, read once and used after every epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO

from detreg.errors import DataError

if TYPE_CHECKING:
    from detreg.inference.detections import Detections


@dataclass(frozen=True)
class TruthImage:
    """One picture of a split and what is on it.

    boxes is float64 (m, 4), xyxy in pixels; labels int64 (m,) counts GroundTruth.classes; crowd bool (m,) marks boxes around many
    objects, in which a detection is neither right nor wrong.
    """

    file: Path
    width: int
    height: int
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class GroundTruth:
    """A split's pictures by image id, its classes in the order of labels, and COCO's index over the same annotations."""

    classes: tuple[str, ...]
    pictures: Mapping[int, TruthImage]
    coco: COCO

    @classmethod
    def load(cls, annotations: Path | Mapping[str, Any]) -> GroundTruth:
        """Read a canonical COCO file, or its content, which stays as it is; labels follow the order of the category ids."""
        content = (
            json.loads(annotations.read_bytes())
            if isinstance(annotations, Path)
            else dict(annotations)
        )
        categories = sorted(content["categories"], key=lambda category: category["id"])
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        boxes_of: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            boxes_of[annotation["image_id"]].append(annotation)
        pictures = {
            image["id"]: _picture(image, boxes_of[image["id"]], label_of)
            for image in content["images"]
        }
        # COCOeval writes into the annotations, so content that belongs to the caller is copied.
        coco = COCO(content, use_deepcopy=not isinstance(annotations, Path))
        return cls(tuple(category["name"] for category in categories), pictures, coco)

    def boxes_per_class(self) -> dict[str, int]:
        """Number of boxes of each class, crowds left out because they are not scored."""
        labels = [picture.labels[~picture.crowd] for picture in self.pictures.values()]
        counts = np.bincount(
            np.concatenate([*labels, np.zeros(0, dtype=np.int64)]), minlength=len(self.classes)
        )
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def align(self, predictions: Mapping[int, Detections]) -> dict[int, Detections]:
        """Let the labels of predictions count this split's classes, which are matched by name.

        Detections of a class that the split does not know are left out: COCO does not score them.
        Raises DataError where no class is common to both, ValueError where an image id is not of this split.
        """
        unknown = sorted(predictions.keys() - self.pictures.keys())
        if unknown:
            raise ValueError(
                f"predictions are of images that the split does not have: {unknown[:5]}"
            )
        tables = {
            names: self._labels_by_name(names)
            for names in {detections.class_names for detections in predictions.values()}
        }
        return {
            image: _relabel(found, tables[found.class_names], self.classes)
            for image, found in sorted(predictions.items())
        }

    def _labels_by_name(self, class_names: Sequence[str]) -> npt.NDArray[np.int64]:
        own = {name: label for label, name in enumerate(self.classes)}
        table = np.array([own.get(name, -1) for name in class_names], dtype=np.int64)
        if (table < 0).all():
            raise DataError(
                f"the detector and the data have no class in common: the detector knows {_listed(class_names)}, "
                f"the data {_listed(self.classes)}; give the data's classes the names that the detector was trained with"
            )
        return table


def _picture(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]
) -> TruthImage:
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(
        -1, 4
    )
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array(
        [label_of[annotation["category_id"]] for annotation in annotations], dtype=np.int64
    )
    crowd = np.array([annotation["iscrowd"] for annotation in annotations], dtype=bool)
    return TruthImage(
        Path(image["file_name"]), image["width"], image["height"], boxes, labels, crowd
    )


def _relabel(
    detections: Detections, table: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> Detections:
    labels = table[detections.labels]
    kept = labels >= 0
    return replace(
        detections,
        boxes=detections.boxes[kept],
        scores=detections.scores[kept],
        labels=labels[kept],
        class_names=classes,
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
