"""The detector that is scored, served and used from Python: one ONNX file, its card, and onnxruntime."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from detreg.defaults import MAX_DETECTIONS
from detreg.errors import DataError, UsageError
from detreg.inference.card import METADATA_KEY, Card
from detreg.inference.detections import Detections
from detreg.inference.model_files import read_model
from detreg.inference.preprocessing import PreparedImage, Size
from detreg.inference.runtime import CUDA, open_session

Image = NDArray[np.uint8]
_OUTPUTS = ("boxes", "scores", "labels")


class _Rows(NamedTuple):
    """What the graph says of one picture: in pixels of the input, padding rows included."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Detector:
    """Finds objects in pictures.

    `session` runs a graph with the inputs and outputs that the card describes. Raises DataError where the two do not fit.
    """

    session: ort.InferenceSession
    card: Card

    def __post_init__(self) -> None:
        inputs, outputs = (
            [node.name for node in nodes]
            for nodes in (self.session.get_inputs(), self.session.get_outputs())
        )
        if inputs != ["images"] or not set(_OUTPUTS) <= set(outputs):
            raise DataError(
                f"The graph maps {inputs} to {outputs}, not ['images'] to {list(_OUTPUTS)}: export the model again"
            )
        fixed, canvas = self._fixed_sides(), self.card.preprocessing.fixed_canvas
        if fixed != (None, None) and fixed != canvas:
            raise DataError(
                f"The graph takes pictures of {fixed}, the card prepares {canvas} (width, height): export the model again"
            )

    @classmethod
    def load(
        cls, model: str | os.PathLike[str], *, require_gpu: bool = False, threads: int | None = None
    ) -> "Detector":
        """Loads an .onnx file, a run id, `runs:/<run id>/model`, `models:/name@alias` or `models:/name/3`.

        It runs on CUDA where that works, else on the CPU with `threads` threads (all cores by default). Raises NotFoundError,
        UsageError, UnreachableError, DataError for a file without detreg's card, and RefusedError where `require_gpu` and there is
        no usable GPU.
        """
        data = read_model(model)
        try:
            session = open_session(data, require_gpu=require_gpu, threads=threads)
            text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
            if text is None:
                raise DataError(
                    "it is an ONNX file without detreg's card: give one that detreg exported"
                )
            return cls(session, Card.from_json(text))
        except DataError as error:
            raise DataError([f"{model}: {problem}" for problem in error.problems]) from error

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that labels stand for."""
        return self.card.classes

    @property
    def device(self) -> str:
        """Where the network runs: "cuda" or "cpu"."""
        return "cuda" if self.session.get_providers()[0] == CUDA else "cpu"

    def __call__(
        self,
        image: Image,
        score_threshold: float | None = None,
        max_detections: int = MAX_DETECTIONS,
    ) -> Detections:
        """Detects in one picture, uint8 (height, width, 3) in RGB.

        Boxes are in the picture's own pixels, clipped to it. `score_threshold` is the card's unless given. Raises TypeError for what
        is no such array and UsageError for a threshold or number out of range.
        """
        return self.batch([image], score_threshold, max_detections)[0]

    def batch(
        self,
        images: Sequence[Image],
        score_threshold: float | None = None,
        max_detections: int = MAX_DETECTIONS,
        batch_size: int = 8,
    ) -> list[Detections]:
        """Detects in many pictures, at most `batch_size` at once; the result has their order.

        Only pictures whose inputs have the same size run together, so a picture is padded alike whatever stands beside it.
        """
        threshold = self.card.score_threshold if score_threshold is None else score_threshold
        _check_limits(threshold, max_detections)
        for image in images:
            _check_image(image)
        found: dict[int, Detections] = {}
        for positions in self._groups(images, batch_size):
            prepared = [self.card.preprocessing.prepare(images[position]) for position in positions]
            for position, picture, rows in zip(
                positions, prepared, self._run(prepared), strict=True
            ):
                found[position] = _detections(rows, picture, self.classes).filter(
                    threshold, max_detections
                )
        return [found[position] for position in range(len(images))]

    def _groups(self, images: Sequence[Image], batch_size: int) -> Iterator[list[int]]:
        """Positions of pictures that run together."""
        same_size: dict[Size, list[int]] = defaultdict(list)
        for position, image in enumerate(images):
            height, width = image.shape[:2]
            same_size[self.card.preprocessing.compute_input_size(width, height)].append(position)
        size = self._fixed_batch() or max(batch_size, 1)
        for positions in same_size.values():
            yield from (positions[start : start + size] for start in range(0, len(positions), size))

    def _run(self, pictures: list[PreparedImage]) -> list[_Rows]:
        pixels = np.stack([picture.pixels for picture in pictures])
        lacking = (self._fixed_batch() or 0) - len(pictures)
        if lacking > 0:
            pixels = np.concatenate([pixels, np.zeros((lacking, *pixels.shape[1:]), np.uint8)])
        boxes, scores, labels = self.session.run(list(_OUTPUTS), {"images": pixels})
        return [_Rows(boxes[row], scores[row], labels[row]) for row in range(len(pictures))]

    def _fixed_batch(self) -> int | None:
        size = self.session.get_inputs()[0].shape[0]
        return size if isinstance(size, int) else None

    def _fixed_sides(self) -> tuple[int | None, int | None]:
        height, width = (
            side if isinstance(side, int) else None
            for side in self.session.get_inputs()[0].shape[1:3]
        )
        return width, height


def _detections(rows: _Rows, picture: PreparedImage, classes: tuple[str, ...]) -> Detections:
    real = rows.labels >= 0
    boxes = (rows.boxes[real] / np.array(picture.scale * 2, np.float32)).astype(np.float32)
    return Detections.clip_to_image(
        boxes, rows.scores[real], rows.labels[real], classes, picture.original
    )


def _check_image(image: Image) -> None:
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"A picture is a uint8 array (height, width, 3) in RGB, not {type(image).__name__}: read files with detreg.inference.images"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise TypeError(
            f"A picture is a uint8 array (height, width, 3) in RGB, but got {image.dtype} {image.shape}"
        )


def _check_limits(threshold: float, max_detections: int) -> None:
    problems = []
    if not 0 <= threshold <= 1:
        problems.append(f"score_threshold lies between 0 and 1, but got {threshold}")
    if max_detections < 1:
        problems.append(f"max_detections is at least 1, but got {max_detections}")
    if problems:
        raise UsageError(problems)
