"""What `detreg predict` has found so far, with its counts in words."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from detreg.errors import make_printable
from detreg.inference.detections import CocoRow, Detections
from detreg.inference.masks import MaskForm

MAX_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class LabeledImage:
    """An image, of `size` (width, height) when upright, and what a model finds in it."""

    file: Path
    size: tuple[int, int]
    detections: Detections


@dataclass
class PredictResult:
    """What was found and written so far.

    file: predictions.json.
    masks: how masks are written, "none" also from a model without masks.
    rows: its content.
    images: what else is needed for the labels of another format.
    prelabels: the file or folder of these labels.
    num_empty: images and frames without a box.
    num_boxes: of each class that was found.
    problems: a line for each file that could not be read.
    notes: what else there is to say of what was written.
    """

    file: Path
    score_threshold: float
    masks: MaskForm
    rows: list[CocoRow] = field(default_factory=list)
    images: list[LabeledImage] = field(default_factory=list)
    prelabels: Path | None = None
    num_images: int = 0
    num_videos: int = 0
    num_frames: int = 0
    num_empty: int = 0
    num_boxes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_image(self, image: LabeledImage, number: int) -> None:
        """Add the detections of one image."""
        for row in image.detections.to_coco(number, self.masks):
            self.rows.append({"file_name": str(image.file), **row})
        self.images.append(image)
        self.num_images += 1
        self._count(image.detections)

    def add_frame(self, detections: Detections) -> None:
        """Count the detections of a frame of a video, of which there may be any number."""
        self.num_frames += 1
        self._count(detections)

    def _count(self, detections: Detections) -> None:
        self.num_empty += len(detections) == 0
        self.num_boxes.update(detections.names)

    def describe(self) -> str:
        """Return lines with the counts, and with where what was found is."""
        lines = [f"{self._describe_boxes()} on {self._describe_files()}{self._describe_rest()}"]
        lines.append(f"{self.file}, and what was drawn beside it")
        if self.prelabels is not None:
            lines.append(f"{self.prelabels}: labels to correct")
        # Names of classes come from the model, those of files from whoever made them.
        return "\n".join(make_printable(line) for line in (*lines, *self.notes))

    def _describe_boxes(self) -> str:
        total = self.num_boxes.total()
        boxes = _format_number(total, "box", "boxes")
        if not total:
            return boxes
        of_classes = [f"{name} {count}" for name, count in self.num_boxes.most_common()]
        num_hidden = len(of_classes) - MAX_CLASSES_SHOWN
        if num_hidden > 0:
            of_classes[MAX_CLASSES_SHOWN:] = [f"{num_hidden} classes more"]
        return f"{boxes} ({', '.join(of_classes)})"

    def _describe_files(self) -> str:
        parts = []
        if self.num_images or not self.num_videos:
            parts.append(_format_number(self.num_images, "image", "images"))
        if self.num_videos:
            frames = _format_number(self.num_frames, "frame", "frames")
            parts.append(f"{frames} of {_format_number(self.num_videos, 'video', 'videos')}")
        return " and ".join(parts)

    def _describe_rest(self) -> str:
        rest = f", from a score of {self.score_threshold:g} on"
        if self.num_empty:
            rest += f"; nothing on {self.num_empty} of them"
        if self.problems:
            rest += f"; {_format_number(len(self.problems), 'file', 'files')} could not be read"
        return rest


def _format_number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
