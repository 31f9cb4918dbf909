"""Everything that is measured of a dataset, as values for the page and as plain ones for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detreg.data.images import DatasetImage
from detreg.data.looks import DatasetLooks
from detreg.data.summary import InspectedDataset
from detreg.inspection.advice import Advice, advise_on_dataset, advise_on_images
from detreg.inspection.outliers import OutlyingBoxes, find_outlying_boxes
from detreg.inspection.pixel_statistics import PixelStatistics, measure_pixels
from detreg.inspection.plan import TrainingPlan
from detreg.inspection.statistics import (
    DatasetStatistics,
    measure_classes,
    measure_statistics,
)
from detreg.inspection.table import BoxTable, make_table

if TYPE_CHECKING:
    from detreg.inspection.training_size import TrainingStatistics

MAX_EXAMPLES = 20
"""Of each group in JSON; the count is that of all."""


@dataclass(frozen=True)
class Measurements:
    """What was measured of a dataset.

    folder: what the names of images are relative to.
    plan, training: None without a template. pixels: None where no image was decoded.
    """

    table: BoxTable
    folder: Path | None
    advice: tuple[Advice, ...]
    plan: TrainingPlan | None = None
    training: "TrainingStatistics | None" = None
    pixels: PixelStatistics | None = None

    @cached_property
    def statistics(self) -> DatasetStatistics:
        """The numbers of classes, images and boxes."""
        return measure_statistics(self.table)

    @cached_property
    def outliers(self) -> tuple[OutlyingBoxes, ...]:
        """The boxes that stand out."""
        return find_outlying_boxes(self.table)

    def name_image(self, place: int) -> str:
        """Return the name of an image of the table, or its path where it lies elsewhere."""
        path = self.table.images[place].path
        if self.folder is not None and path.is_relative_to(self.folder):
            return path.relative_to(self.folder).as_posix()
        return str(path)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers and the advice as plain values, with examples by name."""
        statistics = asdict(self.statistics) | {
            "outlying_boxes": [self._describe_outliers(group) for group in self.outliers],
            "training": asdict(self.training) if self.training else None,
            "pixels": self._describe_pixels(self.pixels) if self.pixels else None,
        }
        return {
            "statistics": statistics,
            "advice": [asdict(advice) for advice in self.advice],
        }

    def format_lines(self, max_advice: int) -> list[str]:
        """Return what a terminal shows: boxes at the training size, and the first advice."""
        lines = [] if self.training is None else [str(self.training)]
        return lines + [f"advice: {advice}" for advice in self.advice[:max_advice]]

    def _describe_outliers(self, group: OutlyingBoxes) -> dict[str, Any]:
        examples = []
        for box in group.boxes[:MAX_EXAMPLES].tolist():
            examples.append(
                {
                    "image": self.name_image(int(self.table.image_of_box[box])),
                    "class": self.table.classes[self.table.labels[box]],
                    "box": self.table.corners[box].tolist(),
                }
            )
        return {"reason": group.reason, "count": len(group.boxes), "examples": examples}

    def _describe_pixels(self, pixels: PixelStatistics) -> dict[str, Any]:
        groups = []
        for group in pixels.near_copies[:MAX_EXAMPLES]:
            groups.append([self.name_image(place) for place in group])
        flaws = {}
        for word, places in pixels.flaws.items():
            examples = [self.name_image(place) for place in places[:MAX_EXAMPLES]]
            flaws[word] = {"count": len(places), "examples": examples}
        return {
            "near_duplicates": {
                "groups": len(pixels.near_copies),
                "across_splits": pixels.across_splits,
                "within_splits": len(pixels.copies_within_splits),
                "examples": groups,
            },
            "flaws": flaws,
        }


def measure_dataset(inspected: InspectedDataset, plan: TrainingPlan | None = None) -> Measurements:
    """Measure a dataset, also a broken one, as far as it could be read.

    plan: the training whose image size and anchors the boxes are measured for.
    """
    if inspected.raw is None or inspected.result is None:
        return measure_splits({}, (), None, plan)
    raw, result = inspected.raw, inspected.result
    return measure_splits(result.splits, raw.classes, raw.folder, plan, result.looks)


def measure_splits(
    splits: Mapping[str, Sequence[DatasetImage]],
    classes: Sequence[str],
    folder: Path | None,
    plan: TrainingPlan | None = None,
    looks: DatasetLooks | None = None,
) -> Measurements:
    """Measure the images of splits; their names are relative to `folder`.

    looks: how the images look, None where they were not compared.
    """
    table = make_table(splits, classes)
    pixels = measure_pixels(table, looks) if looks is not None else None

    training = None
    advice: list[Advice] = []
    if plan is not None:
        # OpenCV, which these need, takes as long to import as a small dataset to check.
        from detreg.inspection.training_advice import advise_on_training  # noqa: PLC0415
        from detreg.inspection.training_size import measure_at_training_size  # noqa: PLC0415

        training = measure_at_training_size(table, plan)
        advice += advise_on_training(table, plan)
    advice += advise_on_dataset(measure_classes(table), table.boxes_per_image)

    measured = Measurements(table, folder, tuple(advice), plan, training, pixels)
    if pixels is None:
        return measured
    on_images = advise_on_images(pixels, measured.name_image)
    return replace(measured, advice=(*on_images, *advice))
