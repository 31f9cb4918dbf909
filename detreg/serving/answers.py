"""Detects in the images of one request."""

import base64
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detreg.defaults import MAX_DETECTIONS
from detreg.errors import DataError, UsageError
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector, check_limits
from detreg.inference.images import decode_image, read_claimed_size
from detreg.inference.masks import MaskForm, choose_mask_form
from detreg.inference.outputs import MASKS
from detreg.inference.preprocessing import PreparedImage
from detreg.serving.batching import BATCH_SIZES, BatchRunner
from detreg.serving.content import describe
from detreg.serving.errors import BadRequest

Answer = dict[str, list[object]]
"""The detections of one image, as JSON lists."""

_MEGAPIXEL = 1_000_000
_LARGE_IMAGE = 4 * _MEGAPIXEL
"""An image of so many pixels is decoded while no other large one is, since it takes six bytes for
each pixel and each of the server's threads may have one."""


_MAX_PREFIX = 200
"""Characters of a data: URL within which its data begin."""


@dataclass(frozen=True)
class ImageFile:
    """The bytes of an image file, and the pixels that its header claims."""

    data: bytes
    num_pixels: int


class ImageAnswerer:
    """Detects in images that are still files; many threads may call it at once.

    `max_pixels` limits all images of a request together; None is no limit.
    """

    def __init__(self, detector: Detector, max_pixels: int | None) -> None:
        self._detector = detector
        self._runner = BatchRunner(detector.run, detector.session.input_shape.batch)
        self._max_pixels = max_pixels
        self._large_image_lock = threading.Lock()

    @property
    def has_masks(self) -> bool:
        """Whether answers may have masks."""
        return self._detector.has_masks

    def answer(
        self,
        cells: Sequence[object],
        score_threshold: float | None = None,
        max_detections: int = MAX_DETECTIONS,
        masks: str | None = None,
    ) -> list[Answer]:
        """Return the answer for each cell, the bytes of an image file or their base64 text.

        `masks` is the form of the masks, by default polygons from a model that has some. Raises
        BadRequest, which names every row that is wrong.
        """
        threshold = score_threshold
        if threshold is None:
            threshold = self._detector.card.score_threshold
        try:
            check_limits(threshold, max_detections)
            mask_form = choose_mask_form(masks, self.has_masks)
        except UsageError as error:
            raise BadRequest("; ".join(error.problems)) from error
        files = _read_files(cells)
        self._check_pixels(files)

        # In batches, so that a request never holds more inputs of the network than one batch.
        answers: list[Answer] = []
        problems: list[str] = []
        for first in range(0, len(files), BATCH_SIZES[0]):
            images: list[PreparedImage] = []
            for row, file in enumerate(files[first : first + BATCH_SIZES[0]], first):
                try:
                    images.append(self._prepare(file))
                except DataError as error:
                    problems += [f"row {row}: {problem}" for problem in error.problems]
            if not problems:
                found = self._runner.detect(images)
                for detections in found:
                    kept = detections.filter(threshold, max_detections)
                    answers.append(_to_answer(kept, mask_form))

        if problems:
            raise BadRequest("; ".join(problems))
        return answers

    def _check_pixels(self, files: Sequence[ImageFile]) -> None:
        """Refuse, before anything is decoded, what would take too long. Raises BadRequest."""
        num_pixels = sum(file.num_pixels for file in files)
        if self._max_pixels is not None and num_pixels > self._max_pixels:
            raise BadRequest(
                f"the images have {num_pixels / _MEGAPIXEL:.0f} megapixels together: "
                f"send at most {self._max_pixels // _MEGAPIXEL} in a request"
            )

    def _prepare(self, file: ImageFile) -> PreparedImage:
        """Decode an image and resize it. Raises DataError where it cannot be decoded."""
        if file.num_pixels <= _LARGE_IMAGE:
            return self._detector.prepare(decode_image(file.data))
        with self._large_image_lock:
            return self._detector.prepare(decode_image(file.data))


def _to_answer(detections: Detections, mask_form: MaskForm) -> Answer:
    answer: Answer = {name: array.tolist() for name, array in detections.arrays.items()}
    answer["class_names"] = [*detections.names]
    if mask_form != "none":
        answer[MASKS.name] = [*detections.write_masks(mask_form)]
    return answer


def _read_files(cells: Sequence[object]) -> list[ImageFile]:
    """Read the headers of the images. Raises BadRequest with the problem of every row."""
    files: list[ImageFile] = []
    problems: list[str] = []
    for row, cell in enumerate(cells):
        try:
            data = _read_cell(cell)
            width, height = read_claimed_size(data)
            files.append(ImageFile(data, width * height))
        except DataError as error:
            problems += [f"row {row}: {problem}" for problem in error.problems]

    if problems:
        raise BadRequest("; ".join(problems))
    if not files:
        raise BadRequest("the input has no rows: send at least one image")
    return files


def _read_cell(cell: object) -> bytes:
    """Return the image file in one cell. Raises DataError where there is none.

    The cell holds the file's bytes or their base64 text, which may be bytes too. No image file is
    base64 text by itself: every format has bytes outside its alphabet. Text may be a data: URL; the
    type of image that it states is not believed.
    """
    # MLflow wraps what comes as `inputs` in arrays without dimensions.
    if isinstance(cell, np.ndarray) and cell.ndim == 0:
        cell = cell.item()
    if isinstance(cell, str):
        try:
            # Text is sent with line breaks too.
            return base64.b64decode("".join(_remove_prefix(cell).split()), validate=True)
        except ValueError as error:
            raise DataError(f"the text {cell[:40]!r} is not base64 of an image file") from error
    if not isinstance(cell, bytes):
        raise DataError(
            f"an image must be the bytes of a file or their base64 text, got {describe(cell)}"
        )

    if cell[:5].lower() == b"data:":
        return _read_cell(cell.decode("latin-1"))
    try:
        return base64.b64decode(b"".join(cell.split()), validate=True)
    except ValueError:
        return cell


def _remove_prefix(text: str) -> str:
    """Return the base64 text of a data: URL, and any other text as it is. Raises DataError."""
    if text[:5].lower() != "data:":
        return text
    prefix, comma, encoded = text[:_MAX_PREFIX].partition(",")
    if not comma or not prefix.lower().endswith(";base64"):
        raise DataError(
            f"a data: URL must begin as data:image/jpeg;base64, does, got {text[:40]!r}"
        )
    return encoded + text[_MAX_PREFIX:]
