"""Runs a model over images, and writes what it finds."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from detreg.data.progress import show_progress
from detreg.data.screen import format_number
from detreg.defaults import MAX_DETECTIONS
from detreg.errors import DetregError, make_printable
from detreg.files import write_atomically
from detreg.inference.detections import CocoRow, Detections
from detreg.inference.detector import Detector, check_limits
from detreg.inference.images import read_image
from detreg.report.drawing import draw_detections
from detreg.tasks.images import find_images
from detreg.tasks.prelabels import COCO, LabeledImage, check_free, write_prelabels

DRAWN_SIDE = 640
"""Pixels of the longer side up to which a small image is enlarged, for its labels to be read."""
JPEG_QUALITY = 92
MAX_STEM_LENGTH = 60
"""Characters of a file's name that its drawn image has, of at most four bytes each."""
LINES_OF_PROGRESS = 10
"""About how many lines a log file gets."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PredictRequest:
    """What to run over what.

    images: files, folders and patterns, as `find_images` takes them.
    score_threshold: None stands for the model's own.
    format: of labels that are written beside `predictions.json`, one of `prelabels.FORMATS`.
    """

    model: str
    images: Sequence[str]
    out: Path
    score_threshold: float | None = None
    max_detections: int = MAX_DETECTIONS
    format: str = COCO


@dataclass
class PredictResult:
    """What was found and written so far.

    file: predictions.json.
    rows: its content.
    images: what else is needed for the labels of another format.
    prelabels: the file or folder of these labels.
    num_boxes: of each class that was found.
    problems: a line for each image that could not be read.
    """

    file: Path
    score_threshold: float
    rows: list[CocoRow] = field(default_factory=list)
    images: list[LabeledImage] = field(default_factory=list)
    prelabels: Path | None = None
    num_images: int = 0
    num_empty: int = 0
    num_boxes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, image: LabeledImage, number: int) -> None:
        """Add the detections of one image."""
        detections = image.detections
        for row in detections.to_coco(number):
            self.rows.append({"file_name": str(image.file), **row})
        self.images.append(image)
        self.num_images += 1
        self.num_empty += len(detections) == 0
        self.num_boxes.update(detections.names)

    def describe(self) -> str:
        """Return lines with the counts, and with where what was found is."""
        total = self.num_boxes.total()
        found = f"{total} {'box' if total == 1 else 'boxes'}"
        if total:
            of_classes = [f"{name} {count}" for name, count in self.num_boxes.most_common()]
            found += f" ({', '.join(of_classes)})"

        counts = f"{found} on {format_number(self.num_images, 'image')}"
        counts += f", from a score of {self.score_threshold:g} on"
        if self.num_empty:
            counts += f"; nothing on {self.num_empty} of them"
        if self.problems:
            counts += f"; {format_number(len(self.problems), 'image')} could not be read"
        lines = [counts, f"{self.file}, and the drawn images beside it"]
        if self.prelabels is not None:
            lines.append(f"{self.prelabels}: labels to correct")
        return "\n".join(lines)


def predict_images(request: PredictRequest) -> PredictResult:
    """Write `predictions.json` and each image with its boxes into a folder.

    There is one row for each detection: image_id, file_name, category_id, category_name, bbox as
    x, y, width, height in pixels, score. An image that cannot be read becomes a problem of the
    result. Where this is interrupted, the rows of the images before are written.

    Raises NotFoundError where there is no image, UsageError for URLs, numbers out of range and
    labels of an earlier run.
    """
    files = find_images(request.images, left_out=request.out)
    check_free(request.format, request.out)
    detector = Detector.load(request.model)
    threshold = request.score_threshold
    if threshold is None:
        threshold = detector.card.score_threshold
    check_limits(threshold, request.max_detections)
    request.out.mkdir(parents=True, exist_ok=True)

    result = PredictResult(request.out / "predictions.json", threshold)
    try:
        with show_progress() as progress:
            progress.begin("predicting", len(files))
            for number, file in enumerate(files, start=1):
                image = _read_or_tell(file, result.problems)
                if image is not None:
                    detections = detector(image, threshold, request.max_detections)
                    _write_drawn(image, detections, request.out, number, file)
                    height, width = image.shape[:2]
                    result.add(LabeledImage(file, (width, height), detections), number)
                progress.add()
                _print_progress(number, len(files))
    finally:
        # Also after Ctrl-C: the images that are drawn have their rows.
        with write_atomically(result.file) as file_of_rows:
            file_of_rows.write(json.dumps(result.rows, indent=1).encode())

    if request.format != COCO:
        result.prelabels = write_prelabels(
            request.format, request.out, detector.classes, result.images
        )
    return result


def _read_or_tell(file: Path, problems: list[str]) -> Pixels | None:
    """Return an image, or None and a problem more."""
    try:
        return read_image(file)
    except DetregError as error:
        problems += error.problems
    except OSError as error:
        problems.append(make_printable(f"{file}: {error.strerror}"))
    return None


def _write_drawn(
    image: Pixels, detections: Detections, folder: Path, number: int, file: Path
) -> None:
    """Write an image with its boxes; its number keeps images of one name apart."""
    # A file system takes names of 255 bytes.
    stem = file.stem[:MAX_STEM_LENGTH]
    drawn = Image.fromarray(draw_enlarged(image, detections))
    drawn.save(folder / f"{number:04d}_{stem}.jpg", quality=JPEG_QUALITY)


def _print_progress(done: int, total: int) -> None:
    """Print a line on stderr after each tenth; a terminal has a bar instead."""
    if total < LINES_OF_PROGRESS or sys.stderr.isatty():
        return
    if done * LINES_OF_PROGRESS // total > (done - 1) * LINES_OF_PROGRESS // total:
        print(f"predicted {done} of {total}", file=sys.stderr, flush=True)


def draw_enlarged(image: Pixels, detections: Detections) -> Pixels:
    """Return an image with its detections, larger where it is too small for legible labels."""
    factor = max(1, DRAWN_SIDE // max(image.shape[:2]))
    if factor == 1:
        return draw_detections(image, detections)

    height, width = image.shape[:2]
    size = (width * factor, height * factor)
    enlarged = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    return draw_detections(enlarged, replace(detections, boxes=detections.boxes * factor))
