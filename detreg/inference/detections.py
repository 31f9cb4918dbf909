"""What a detector finds in one image."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError, UsageError, make_printable
from detreg.inference.images import read_image
from detreg.inference.masks import MaskForm, Masks, Positions
from detreg.inference.outputs import REQUIRED_OUTPUTS, OutputArray
from detreg.report.drawing import draw_detections

if TYPE_CHECKING:
    import supervision

MAX_DETECTIONS = 300
"""Most detections of one image that a model returns, best first: the rows of the exported graph.

COCO scores the first 100 of each class."""

SHOWN_CLASSES = 5
"""Most classes that the short form of detections counts."""

Image = NDArray[np.uint8]
"""(height, width, 3) in RGB."""

CocoRow = dict[str, Any]
"""A row of a COCO result file."""

Segmentation = list[list[float]] | dict[str, object]
"""The mask of an object as COCO's JSON has it: polygons x1, y1, x2, y2, ... or run-length code."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, best first, valid once made.

    `boxes` is float32 (n, 4), x1 y1 x2 y2 in the image's own pixels; `scores` float32 (n,),
    descending; `labels` int64 (n,), positions in `class_names`, which holds every class of the
    model. `masks` are the pixels of the objects, None from a model without masks. `image` is what
    they were found in, for `draw`: the array itself, not a copy, or the path of a file, which is
    read again. Raises DataError for anything else.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    masks: Masks | None = None
    image: Image | Path | None = None

    def __post_init__(self) -> None:
        problems = self._check_arrays() or self._check_values()
        if problems:
            raise DataError(problems)

    @classmethod
    def make_empty(cls, class_names: tuple[str, ...]) -> "Detections":
        """Return those of an image on which nothing is found."""
        boxes = np.zeros((0, 4), dtype=np.float32)
        scores, labels = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
        return cls(boxes, scores, labels, class_names)

    @classmethod
    def clip_to_image(
        cls,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        size: tuple[int, int],
        masks: NDArray[np.floating] | None = None,
    ) -> "Detections":
        """Return detections clipped to an image of `size` (width, height).

        Those that have no extent there are dropped. `masks` (n, 28, 28) are the probabilities of
        grids over the boxes before they are clipped.
        """
        # The padding beside the image is part of the network's input: a box may reach into it.
        clipped = np.clip(boxes, 0, np.array(size * 2, np.float32))
        has_extent = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        kept_masks = None
        if masks is not None:
            kept_masks = Masks(masks[has_extent].astype(np.float16), boxes[has_extent], size)
        return cls(
            clipped[has_extent], scores[has_extent], labels[has_extent], class_names, kept_masks
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        """Return how many there are of which class, such as `Detections(3: boat 2, buoy 1)`."""
        counts = [f"{name} {count}" for name, count in Counter(self.names).most_common()]
        if not counts:
            return "Detections(0)"
        hidden = len(counts) - SHOWN_CLASSES
        more = f" and {hidden} classes more" if hidden > 0 else ""
        # Names come from a model that anyone may have made, and this is printed.
        return make_printable(f"Detections({len(self)}: {', '.join(counts[:SHOWN_CLASSES])}{more})")

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label] for label in self.labels]

    @property
    def arrays(self) -> dict[str, OutputArray]:
        """The arrays that every model has outputs for, by the name of the output."""
        return {output.name: getattr(self, output.name) for output in REQUIRED_OUTPUTS}

    def filter(
        self, score_threshold: float = 0.0, max_detections: int | None = None
    ) -> "Detections":
        """Return the detections with at least this score, at most `max_detections` of them."""
        # Scores descend, so the first are the best.
        return self.select(np.flatnonzero(self.scores >= score_threshold)[:max_detections])

    def select(self, positions: Positions) -> "Detections":
        """Return the detections at these positions."""
        return replace(
            self,
            boxes=self.boxes[positions],
            scores=self.scores[positions],
            labels=self.labels[positions],
            masks=None if self.masks is None else self.masks.select(positions),
        )

    def draw(self, image: Image | str | os.PathLike[str] | None = None) -> Image:
        """Return the image, uint8 (height, width, 3) in RGB, with boxes, class names and scores.

        `image` is an array or a file, by default what these were found in. Those of
        `Detector.batch` know files only. Raises UsageError where none is known, and what
        `read_image` raises for a file.
        """
        source = self.image if image is None else image
        if source is None:
            raise UsageError("these detections do not know their image: give it, draw(image)")
        pixels = source if isinstance(source, np.ndarray) else read_image(source)
        return draw_detections(pixels, self)

    def to_supervision(self) -> "supervision.Detections":
        """Return them as `supervision.Detections`, with the class names as data "class_name".

        Raises UsageError where supervision is not installed.
        """
        try:
            import supervision  # noqa: PLC0415 (only who calls this needs it)
        except ImportError as error:
            raise UsageError(
                "to_supervision() needs supervision: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            mask=None if self.masks is None else self.masks.to_arrays(),
            data={"class_name": np.array(self.names)},
        )

    def to_coco(self, image_id: int, masks: MaskForm = "polygons") -> list[CocoRow]:
        """Return rows of a COCO result file, with the class name added.

        `bbox` is x, y, width, height; `category_id` is the label. `segmentation`, which detections
        with masks have, is in the form `masks`.
        """
        corners = self.boxes.astype(float)
        sizes = corners[:, 2:] - corners[:, :2]
        coco_boxes = np.concatenate([corners[:, :2], sizes], axis=1).tolist()
        scores, labels = self.scores.tolist(), self.labels.tolist()

        rows: list[CocoRow] = []
        for box, score, label, name in zip(coco_boxes, scores, labels, self.names, strict=True):
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": label,
                    "category_name": name,
                    "bbox": box,
                    "score": score,
                }
            )
        for row, segmentation in zip(rows, self.write_masks(masks), strict=False):
            row["segmentation"] = segmentation
        return rows

    def write_masks(self, form: MaskForm) -> list[Segmentation]:
        """Return the `segmentation` of each detection as COCO's JSON has it, [] without masks."""
        if self.masks is None or form == "none":
            return []
        if form == "rle":
            return [mask.to_coco() for mask in self.masks.to_run_lengths()]
        return list(self.masks.to_polygons())

    def _check_arrays(self) -> list[str]:
        """Return what is wrong with types and shapes."""
        count = len(self.scores)
        problems = []
        for output in REQUIRED_OUTPUTS:
            array = np.asarray(self.arrays[output.name])
            shape = (count, *output.detection_axes)
            if array.dtype != output.dtype or array.shape != shape:
                problems.append(
                    f"{output.name} must be {output.dtype} {shape}, "
                    f"but got {array.dtype} {array.shape}"
                )
        if self.masks is not None and len(self.masks) != count:
            problems.append(f"masks must be {count}, one for each score, but got {len(self.masks)}")
        return problems

    def _check_values(self) -> list[str]:
        """Return what is wrong with the numbers, where types and shapes are right."""
        problems = []
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            problems.append("boxes and scores must be finite numbers")
        if (np.diff(self.scores) > 0).any():
            problems.append("scores must descend")
        if len(self):
            lowest, highest = self.labels.min(), self.labels.max()
            if lowest < 0 or highest >= len(self.class_names):
                last = len(self.class_names) - 1
                problems.append(f"labels must lie in 0..{last}, but got {lowest}..{highest}")
        return problems
