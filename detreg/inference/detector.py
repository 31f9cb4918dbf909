"""The detector that is scored, served and used from Python: a session and the model's card."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detreg.defaults import MAX_DETECTIONS
from detreg.errors import DataError, RefusedError, UsageError, make_printable
from detreg.inference.card import METADATA_KEY, Card
from detreg.inference.detections import Detections
from detreg.inference.images import read_image
from detreg.inference.model_files import read_model
from detreg.inference.onnx_graph.check import read_checked_graph
from detreg.inference.onnx_graph.structure import Graph
from detreg.inference.outputs import BOXES, LABELS, MASKS, OUTPUTS, SCORES, OutputArray
from detreg.inference.preprocessing import PreparedImage, Size
from detreg.inference.runtime import open_session
from detreg.inference.session import Session

Image = NDArray[np.uint8]
"""(height, width, 3) in RGB."""
ImageOrFile = Image | str | os.PathLike[str]

SHOWN_CLASSES = 5
"""Most classes that the short form of a detector names."""


@dataclass(frozen=True, eq=False)
class Detector:
    """Finds objects in images.

    `session` runs a model with the input and outputs that the card describes. Raises DataError
    where the two do not fit.
    """

    session: Session
    card: Card

    def __post_init__(self) -> None:
        declared, actual = self.card.outputs, self.session.output_names
        if not set(declared) <= set(actual):
            raise DataError(
                f"The graph has the outputs {list(actual)}, the card declares {list(declared)}: "
                "export the model again"
            )

        # A graph of one size only fits a card whose images all get that size.
        shape = self.session.input_shape
        size = (shape.width, shape.height)
        canvas = self.card.preprocessing.fixed_canvas
        if size not in ((None, None), canvas):
            raise DataError(
                f"The graph takes images of {size}, the card prepares {canvas} (width, height): "
                "export the model again"
            )

    @classmethod
    def load(
        cls, model: str | os.PathLike[str], *, require_gpu: bool = False, threads: int | None = None
    ) -> "Detector":
        """Load an .onnx file, a run id, `runs:/<run id>/model` or a registered model.

        A registered model is `models:/name@alias` or `models:/name/3`. It runs on CUDA where that
        works, else on the CPU with `threads` threads (default: all cores). Raises NotFoundError,
        UsageError, UnreachableError, DataError for a file that detreg does not export or that takes
        too much, and RefusedError for one that needs another file or foreign operators, and where
        `require_gpu` and there is no usable GPU.
        """
        data = read_model(model)
        graph = _read_graph(data, model)
        try:
            session = open_session(data, graph, require_gpu=require_gpu, threads=threads)
            text = session.metadata.get(METADATA_KEY)
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
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.card.has_masks

    @property
    def device(self) -> str:
        """Where the network runs: "cuda" or "cpu"."""
        return self.session.device

    def __repr__(self) -> str:
        shown = ", ".join(self.classes[:SHOWN_CLASSES])
        more = ", ..." if len(self.classes) > SHOWN_CLASSES else ""
        # Names come from a model that anyone may have made, and this is printed.
        masks = " with masks" if self.has_masks else ""
        return make_printable(
            f"Detector({self.card.template}{masks}, {len(self.classes)} classes: {shown}{more}; "
            f"score_threshold {self.card.score_threshold:g}; {self.device})"
        )

    def __call__(
        self,
        image: ImageOrFile,
        score_threshold: float | None = None,
        max_detections: int = MAX_DETECTIONS,
    ) -> Detections:
        """Detect in one image: an array, uint8 (height, width, 3) in RGB, or the path of a file.

        Boxes are in the image's own pixels, upright, and clipped to it; what is found keeps the
        array or the path, for `Detections.draw`. `score_threshold` is the card's unless given.
        Raises TypeError for anything but such an array or a path, UsageError for a threshold or
        number out of range, and what `read_image` raises for a file.
        """
        found = self.batch([image], score_threshold, max_detections)[0]
        return replace(found, image=image) if isinstance(image, np.ndarray) else found

    def batch(
        self,
        images: Sequence[ImageOrFile],
        score_threshold: float | None = None,
        max_detections: int = MAX_DETECTIONS,
        batch_size: int = 8,
    ) -> list[Detections]:
        """Detect in many images, at most `batch_size` at once; the result has their order.

        Only images whose inputs have the same size run together, so an image is padded alike
        whatever stands beside it. Of files, `batch_size` are in memory at once.
        """
        threshold = self.card.score_threshold if score_threshold is None else score_threshold
        check_limits(threshold, max_detections)
        # Arrays are in memory anyway.
        has_files = any(isinstance(image, str | os.PathLike) for image in images)
        step = max(batch_size if has_files else len(images), 1)
        found: list[Detections] = []
        for first in range(0, len(images), step):
            some = images[first : first + step]
            arrays = [_to_array(image) for image in some]
            in_arrays = self._detect(arrays, threshold, max_detections, batch_size)
            for image, detections in zip(some, in_arrays, strict=True):
                found.append(_note_file(detections, image))
        return found

    def _detect(
        self, images: Sequence[Image], threshold: float, max_detections: int, batch_size: int
    ) -> list[Detections]:
        # Groups come out of order, so results are collected by the position of their image.
        found: dict[int, Detections] = {}
        for positions in self._group_by_input_size(images, batch_size):
            prepared = [self.prepare(images[position]) for position in positions]
            for position, detections in zip(positions, self.run(prepared), strict=True):
                found[position] = detections.filter(threshold, max_detections)
        return [found[position] for position in range(len(images))]

    def prepare(self, image: Image) -> PreparedImage:
        """Return an image, uint8 (height, width, 3) in RGB, as the network takes it.

        Raises TypeError for anything but such an array.
        """
        _check_image(image)
        return self.card.preprocessing.prepare(image)

    def run(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """Return all that the network finds in images whose inputs have the same size.

        They run together, so there may be no more of them than `session.input_shape.batch`.
        """
        outputs = self._run_session(images)
        found = []
        for position, image in enumerate(images):
            rows = {name: array[position] for name, array in outputs.items()}
            found.append(_read_detections(rows, image, self.classes))
        return found

    def _group_by_input_size(self, images: Sequence[Image], batch_size: int) -> list[list[int]]:
        """Return groups of positions whose images run together."""
        positions_by_size: dict[Size, list[int]] = defaultdict(list)
        for position, image in enumerate(images):
            height, width = image.shape[:2]
            size = self.card.preprocessing.compute_input_size(width, height)
            positions_by_size[size].append(position)

        # A graph of a fixed batch takes exactly that many.
        group_size = self.session.input_shape.batch or max(batch_size, 1)
        groups = []
        for positions in positions_by_size.values():
            for start in range(0, len(positions), group_size):
                groups.append(positions[start : start + group_size])
        return groups

    def _run_session(self, images: Sequence[PreparedImage]) -> Mapping[str, OutputArray]:
        """Return the outputs of the graph. Black images fill up a batch of a fixed size.

        Raises DataError where they are not what the card declares.
        """
        pixels = np.stack([image.pixels for image in images])
        num_missing = (self.session.input_shape.batch or 0) - len(images)
        if num_missing > 0:
            padding = np.zeros((num_missing, *pixels.shape[1:]), np.uint8)
            pixels = np.concatenate([pixels, padding])
        outputs = self.session.run(pixels, self.card.outputs)
        _check_outputs(outputs, len(pixels))
        return outputs


def _read_graph(data: bytes, model: str | os.PathLike[str]) -> Graph:
    """Read and check the graph of a file. Raises DataError and RefusedError that name the file."""
    try:
        return read_checked_graph(data)
    except DataError as error:
        raise DataError([f"{model}: {problem}" for problem in error.problems]) from error
    except RefusedError as error:
        raise RefusedError([f"{model}: {problem}" for problem in error.problems]) from error


def _check_outputs(outputs: Mapping[str, OutputArray], num_images: int) -> None:
    """Raise DataError unless every output has its axes, and all have the same number of rows."""
    num_rows = {array.shape[1] for array in outputs.values() if array.ndim > 1}
    for output in OUTPUTS:
        array = outputs.get(output.name)
        if array is None:
            continue
        is_expected = array.ndim == len(output.axes) and array.shape[0] == num_images
        is_expected = is_expected and array.shape[2:] == output.detection_axes
        if not is_expected or len(num_rows) != 1:
            raise DataError(
                f"the model's output {output.name} has the shape {array.shape} for {num_images} "
                f"images, it must be ({', '.join(map(str, output.axes))}): export the model again"
            )


def _read_detections(
    rows: Mapping[str, OutputArray], image: PreparedImage, classes: tuple[str, ...]
) -> Detections:
    """Return the detections of one image from its rows of each output of the graph."""
    labels = rows[LABELS.name].astype(np.int64, copy=False)
    scores = rows[SCORES.name].astype(np.float32, copy=False)
    boxes = rows[BOXES.name].astype(np.float32, copy=False)

    # Rows after the detections are padding. Boxes are in pixels of the resized image, which lies at
    # the top left of the input, so one division leads back to the original.
    is_detection = labels != LABELS.padding
    scale = np.array(image.scale * 2, np.float32)
    boxes = (boxes[is_detection] / scale).astype(np.float32)
    masks = rows[MASKS.name][is_detection] if MASKS.name in rows else None
    return Detections.clip_to_image(
        boxes, scores[is_detection], labels[is_detection], classes, image.original_size, masks
    )


def _to_array(image: ImageOrFile) -> Image:
    """Return an image's pixels, which are read where it is the path of a file."""
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    _check_image(image)
    return image


def _note_file(detections: Detections, image: ImageOrFile) -> Detections:
    """Return detections that know the file that they were found in; an array would be kept."""
    if isinstance(image, str | os.PathLike):
        return replace(detections, image=Path(image))
    return detections


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray):
        raise TypeError(
            "An image must be a uint8 array (height, width, 3) in RGB, "
            f"or the path of a file, got {type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise TypeError(
            "An image must be a uint8 array (height, width, 3) in RGB, "
            f"got {image.dtype} {image.shape}"
        )


def check_limits(threshold: float, max_detections: int) -> None:
    """Raise UsageError for a threshold or a number of detections out of range."""
    problems = []
    if not 0 <= threshold <= 1:
        problems.append(f"score_threshold must be between 0 and 1, got {threshold}")
    if max_detections < 1:
        problems.append(f"max_detections must be at least 1, got {max_detections}")
    if problems:
        raise UsageError(problems)
