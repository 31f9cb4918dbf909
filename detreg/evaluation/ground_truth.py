"""The ground truth of one split, read once and used after every epoch."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as rasterizer

from detreg.errors import DataError
from detreg.inference.detections import Detections
from detreg.run_lengths import RunLengthMask

UNKNOWN_CLASS = -1


@dataclass(frozen=True)
class TruthImage:
    """One image of a split and the objects on it.

    boxes is float64 (m, 4), xyxy in pixels; labels int64 (m,) are positions in
    GroundTruth.classes; crowd bool (m,) marks boxes around many objects, in which a detection is
    neither right nor wrong. masks (m,) are the pixels of the objects, each None where it has no
    mask; None where the whole split has none.
    """

    file: Path
    width: int
    height: int
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    masks: tuple[RunLengthMask | None, ...] | None = None


@dataclass(frozen=True)
class GroundTruth:
    """A split's images by id, its classes in the order of labels, and COCO's index of the same."""

    classes: tuple[str, ...]
    images: Mapping[int, TruthImage]
    coco: COCO

    @classmethod
    def load(cls, annotations: Path | Mapping[str, Any]) -> "GroundTruth":
        """Read a canonical COCO file, or its content, which is not changed.

        Labels follow the order of the category ids.
        """
        if isinstance(annotations, Path):
            content = json.loads(annotations.read_bytes())
            is_ours = True
        else:
            content = dict(annotations)
            is_ours = False

        categories = sorted(content["categories"], key=lambda category: category["id"])
        classes = tuple(category["name"] for category in categories)
        label_of = {category["id"]: label for label, category in enumerate(categories)}

        objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            objects[annotation["image_id"]].append(annotation)

        has_masks = any(annotation.get("segmentation") for annotation in content["annotations"])
        images = {}
        for image in content["images"]:
            made = _make_image(image, objects[image["id"]], label_of)
            if has_masks:
                made = replace(made, masks=_fill_masks(image, objects[image["id"]]))
            images[image["id"]] = made

        # COCOeval writes into the annotations, so content that belongs to the caller is copied.
        coco = COCO(content, use_deepcopy=not is_ours)
        return cls(classes, images, coco)

    @property
    def has_masks(self) -> bool:
        """Whether masks can be scored on the split."""
        return any(image.masks is not None for image in self.images.values())

    @cached_property
    def coco_of_masks(self) -> COCO:
        """COCO's index of the same objects with the code of their masks.

        An object without a mask is a region to ignore, of its box. Raises ValueError where the
        split has no masks.
        """
        if not self.has_masks:
            raise ValueError("the split must have masks, and its file has none")
        masks = {image_id: iter(image.masks or ()) for image_id, image in self.images.items()}
        sizes = {image_id: (image.height, image.width) for image_id, image in self.images.items()}
        annotations = []
        for annotation in self.coco.dataset["annotations"]:
            mask = next(masks[annotation["image_id"]])
            if mask is not None:
                annotations.append({**annotation, "segmentation": mask.to_coco()})
                continue
            region = _fill_box(annotation["bbox"], *sizes[annotation["image_id"]])
            annotations.append({**annotation, "segmentation": region.to_coco(), "iscrowd": 1})
        return COCO({**self.coco.dataset, "annotations": annotations}, use_deepcopy=False)

    def count_boxes_per_class(self) -> dict[str, int]:
        """Count the boxes of each class, without crowds, because they are not scored."""
        counts = np.zeros(len(self.classes), dtype=np.int64)
        for image in self.images.values():
            is_scored = ~image.crowd
            labels = image.labels[is_scored]
            counts += np.bincount(labels, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def select(self, classes: Collection[str], image_ids: Collection[int]) -> "GroundTruth":
        """Return these classes and images alone; ids of images stay the same."""
        content = self.coco.dataset
        categories = [entry for entry in content["categories"] if entry["name"] in classes]
        category_ids = {category["id"] for category in categories}
        annotations = []
        for annotation in content["annotations"]:
            is_wanted = annotation["image_id"] in image_ids
            if is_wanted and annotation["category_id"] in category_ids:
                annotations.append(annotation)
        images = [image for image in content["images"] if image["id"] in image_ids]
        return GroundTruth.load(
            {"images": images, "annotations": annotations, "categories": categories}
        )

    def align(self, predictions: Mapping[int, Detections]) -> dict[int, Detections]:
        """Translate the labels of predictions into this split's, by the names of the classes.

        Detections of a class that the split does not have are left out: COCO does not score them.
        Raises DataError where no class is common to both, ValueError where an image id is not of
        this split.
        """
        unknown = sorted(predictions.keys() - self.images.keys())
        if unknown:
            raise ValueError(
                f"predictions are of images that the split does not have: {unknown[:5]}"
            )

        # Predictions of one detector share the tuple of its class names, so there is one table.
        tables: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}
        for detections in predictions.values():
            names = detections.class_names
            if names not in tables:
                tables[names] = self._make_label_table(names)

        aligned = {}
        for image_id, detections in sorted(predictions.items()):
            table = tables[detections.class_names]
            aligned[image_id] = _relabel(detections, table, self.classes)
        return aligned

    def _make_label_table(self, class_names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return this split's label for each label of a detector, or UNKNOWN_CLASS."""
        own = {name: label for label, name in enumerate(self.classes)}
        labels = [own.get(name, UNKNOWN_CLASS) for name in class_names]
        table = np.array(labels, dtype=np.int64)
        if (table == UNKNOWN_CLASS).all():
            raise DataError(
                "the detector and the data have no class in common: the detector knows "
                f"{_join_names(class_names)}, the data {_join_names(self.classes)}; "
                "give the data's classes the names that the detector was trained with"
            )
        return table


def _make_image(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]
) -> TruthImage:
    bboxes = [annotation["bbox"] for annotation in annotations]
    labels = [label_of[annotation["category_id"]] for annotation in annotations]
    crowd = [annotation["iscrowd"] for annotation in annotations]

    boxes = np.array(bboxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # from x, y, width, height to the two corners

    return TruthImage(
        file=Path(image["file_name"]),
        width=image["width"],
        height=image["height"],
        boxes=boxes,
        labels=np.array(labels, dtype=np.int64),
        crowd=np.array(crowd, dtype=bool),
    )


def _fill_masks(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]
) -> tuple[RunLengthMask | None, ...]:
    """Return the masks of an image's objects, which the file has as polygons or as codes."""
    height, width = image["height"], image["width"]
    masks: list[RunLengthMask | None] = []
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if not segmentation:
            masks.append(None)
        elif isinstance(segmentation, Mapping) and isinstance(segmentation["counts"], str):
            masks.append(RunLengthMask(height, width, segmentation["counts"]))
        else:
            masks.append(_fill(segmentation, height, width))
    return tuple(masks)


def _fill_box(box: Sequence[float], height: int, width: int) -> RunLengthMask:
    """Return the pixels of a box x, y, width, height."""
    x1, y1 = box[0], box[1]
    x2, y2 = x1 + box[2], y1 + box[3]
    return _fill([[x1, y1, x2, y1, x2, y2, x1, y2]], height, width)


def _fill(segmentation: object, height: int, width: int) -> RunLengthMask:
    """Return the pixels of polygons, or of a code that is not compressed, as pycocotools does."""
    counts = rasterizer.segmToRle(segmentation, width, height)["counts"]
    return RunLengthMask(height, width, counts if isinstance(counts, str) else counts.decode())


def _relabel(
    detections: Detections, table: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> Detections:
    labels = table[detections.labels]
    is_known = labels != UNKNOWN_CLASS
    known = detections.select(is_known)
    return replace(known, labels=labels[is_known], class_names=classes)


def _join_names(names: Sequence[str], limit: int = 8) -> str:
    text = ", ".join(names[:limit])
    rest = len(names) - limit
    return f"{text} and {rest} more" if rest > 0 else text
