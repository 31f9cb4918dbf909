"""Runs a model over images and videos, and writes what it finds."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detreg.defaults import MAX_DETECTIONS
from detreg.errors import DataError, DetregError, UsageError, is_storable, make_printable, quote
from detreg.files import is_video, write_atomically
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector, check_limits
from detreg.inference.images import read_image
from detreg.inference.masks import MaskForm, choose_mask_form
from detreg.progress import Progress, can_redraw, show_progress
from detreg.tasks.drawn_images import name_output, write_drawn
from detreg.tasks.images import find_images
from detreg.tasks.predict_result import LabeledImage, PredictResult
from detreg.tasks.predict_video import VideoRequest, predict_video

COCO = "coco"
DATASET_FORMATS = ("voc", "yolo")
LINES_OF_PROGRESS = 10
"""About how many lines a log file gets."""


@dataclass(frozen=True)
class PredictRequest:
    """What to run over what.

    images: files, folders and patterns, as `find_images` takes them, with videos.
    score_threshold: None stands for the model's own.
    format: of labels that are written beside `predictions.json`: "voc", "yolo" or "labelstudio";
        "coco" is that file alone.
    masks: how masks are written; None is polygons if the model has masks. With "none" they are not
        drawn either.
    """

    model: str
    images: Sequence[str]
    out: Path
    score_threshold: float | None = None
    max_detections: int = MAX_DETECTIONS
    format: str = COCO
    masks: MaskForm | None = None


def predict_images(request: PredictRequest) -> PredictResult:
    """Write `predictions.json`, and each image and video with its boxes, into a folder.

    There is one row for each detection in an image: image_id, file_name, category_id,
    category_name, bbox as x, y, width, height in pixels, score, and from a model with masks
    segmentation. A file that cannot be read becomes a problem of the result. Where this is
    interrupted, the rows of the images before are written.

    Raises NotFoundError where there is no image, UsageError for URLs, numbers out of range and
    labels of an earlier run, DataError for names of classes that a format cannot hold.
    """
    files = find_images(request.images, left_out=request.out, with_videos=True)
    _check_format(request, files)
    detector = Detector.load(request.model)
    _check_classes(request, detector.classes)
    threshold = request.score_threshold
    if threshold is None:
        threshold = detector.card.score_threshold
    check_limits(threshold, request.max_detections)
    masks = choose_mask_form(request.masks, detector.has_masks)
    request.out.mkdir(parents=True, exist_ok=True)

    result = PredictResult(request.out / "predictions.json", threshold, masks)
    try:
        with show_progress() as progress:
            progress.begin("predicting", len(files))
            for number, file in enumerate(files, start=1):
                if is_video(file):
                    _predict_video(detector, request, number, file, result, progress)
                    # Its frames had a bar of their own.
                    progress.begin("predicting", len(files))
                    progress.add(number)
                else:
                    _predict_image(detector, request, number, file, result)
                    progress.add()
                _print_progress(number, len(files), "files")
    finally:
        # Also after Ctrl-C: the images that are drawn have their rows.
        with write_atomically(result.file) as file_of_rows:
            file_of_rows.write(json.dumps(result.rows, indent=1).encode())

    if request.format != COCO:
        # What writes datasets takes longer to import than a prediction.
        from detreg.tasks.prelabels import write_prelabels  # noqa: PLC0415

        result.prelabels = write_prelabels(
            request.format, request.out, detector.classes, result.images
        )
    return result


def _check_format(request: PredictRequest, files: Sequence[Path]) -> None:
    """Raise UsageError where the labels of a format cannot be written."""
    folder = request.out / request.format
    if request.format in DATASET_FORMATS and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: remove it, or name another folder with --out")
    videos = [file for file in files if is_video(file)]
    if videos and request.format != COCO:
        raise UsageError(
            f"format={request.format} labels images, and {videos[0]} is a video: leave it out, or "
            "cut it into images"
        )


def _check_classes(request: PredictRequest, classes: Sequence[str]) -> None:
    """Raise DataError where a name of a class cannot be written into the labels of a format."""
    if request.format == COCO:
        return
    wrong = [name for name in classes if not is_storable(name)]
    if wrong:
        raise DataError(
            f"{request.model}: format={request.format} cannot hold the class {quote(wrong[0])}, "
            "which is too long or has control characters; use format=coco"
        )


def _predict_image(
    detector: Detector, request: PredictRequest, number: int, file: Path, result: PredictResult
) -> None:
    try:
        image = read_image(file)
    except DetregError as error:
        result.problems += error.problems
        return
    except OSError as error:
        result.problems.append(make_printable(f"{file}: {error.strerror}"))
        return

    # Unlike a call of the detector, a batch leaves no pixels with what is found.
    (detections,) = detector.batch([image], result.score_threshold, request.max_detections)
    if result.masks == "none":
        detections = replace(detections, masks=None)
    write_drawn(image, detections, name_output(request.out, number, file, ".jpg"))
    height, width = image.shape[:2]
    result.add_image(LabeledImage(file, (width, height), detections), number)


def _predict_video(
    detector: Detector,
    request: PredictRequest,
    number: int,
    file: Path,
    result: PredictResult,
    progress: Progress,
) -> None:
    video = VideoRequest(
        file,
        lines=name_output(request.out, number, file, ".jsonl"),
        drawn=name_output(request.out, number, file, ".mp4"),
        score_threshold=result.score_threshold,
        max_detections=request.max_detections,
        masks=result.masks,
    )
    total = 0
    done = 0

    def begin(num_frames: int) -> None:
        nonlocal total
        total = num_frames
        result.num_videos += 1
        progress.begin(f"predicting {file.name}", num_frames)

    def count(detections: Detections) -> None:
        nonlocal done
        done += 1
        result.add_frame(detections)
        progress.add()
        _print_progress(done, total, f"frames of {file.name}")

    try:
        note = predict_video(detector, video, begin, count)
    except DataError as error:
        result.problems += error.problems
        return
    if note:
        result.notes.append(note)


def _print_progress(done: int, total: int, what: str) -> None:
    """Print a line on stderr after each tenth; a terminal has a bar instead."""
    if total < LINES_OF_PROGRESS or can_redraw(sys.stderr):
        return
    if done * LINES_OF_PROGRESS // total > (done - 1) * LINES_OF_PROGRESS // total:
        print(f"predicted {done} of {total} {what}", file=sys.stderr, flush=True)
