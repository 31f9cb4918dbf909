"""Runs a model over a video: an annotated video, and a line of JSON for each frame."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.masks import MaskForm
from detreg.inference.outputs import MASKS
from detreg.tasks.drawn_images import draw_enlarged
from detreg.tasks.video_files import Frame, VideoReader, VideoWriter

DECIMALS = 2
"""Of boxes, in pixels."""
SCORE_DECIMALS = 4


@dataclass(frozen=True)
class VideoRequest:
    """A video to predict on, and the files to write."""

    file: Path
    lines: Path
    drawn: Path
    score_threshold: float
    max_detections: int
    masks: MaskForm


def predict_video(
    detector: Detector,
    request: VideoRequest,
    begin: Callable[[int], None],
    count: Callable[[Detections], None],
) -> str:
    """Write what is found in each frame, and return what there is to say of the annotated video.

    A few frames are in memory at once. Where this is interrupted, both files end with the last
    frame before.

    begin: is told how many frames there are, 0 where that is not known.
    count: is given what was found in each frame, in their order.

    Raises DataError for a video that is damaged, and OSError where nothing can be written. The
    frames that could be read are written by then.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(request.file))
        begin(reader.num_frames)
        lines = None
        writer = None
        for batch in reader.read_batches():
            found = detector.batch(
                [frame.image for frame in batch], request.score_threshold, request.max_detections
            )
            for frame, whole in zip(batch, found, strict=True):
                detections = whole if request.masks != "none" else replace(whole, masks=None)
                drawn = draw_enlarged(frame.image, detections)
                # A file that has no frame leaves no output.
                if lines is None or writer is None:
                    lines = stack.enter_context(request.lines.open("w", encoding="utf-8"))
                    height, width = drawn.shape[:2]
                    writer = VideoWriter(request.drawn, reader.rate, (width, height))
                    stack.callback(writer.close)
                writer.write(drawn)
                lines.write(f"{json.dumps(_describe_frame(frame, detections, request.masks))}\n")
                count(detections)
            if lines is not None:
                lines.flush()

    if writer is None or writer.is_played_by_browsers:
        return ""
    return (
        f"{request.drawn}: browsers may not play it, because OpenCV has no encoder for H.264 or "
        "VP9 here (it is MPEG-4 Part 2; VLC and ffmpeg read it)"
    )


def _describe_frame(frame: Frame, detections: Detections, masks: MaskForm) -> dict[str, object]:
    """Return the detections of a frame as a served model answers them, with the frame's place."""
    boxes = [[round(x, DECIMALS) for x in box] for box in detections.boxes.tolist()]
    described: dict[str, object] = {
        "frame": frame.index,
        "seconds": round(frame.seconds, 3),
        "boxes": boxes,
        "scores": [round(score, SCORE_DECIMALS) for score in detections.scores.tolist()],
        "labels": detections.labels.tolist(),
        "class_names": detections.names,
    }
    if detections.masks is not None:
        described[MASKS.name] = detections.write_masks(masks)
    return described
