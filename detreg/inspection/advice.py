"""Advice: a sentence with a number that was measured, and a flag to copy where one helps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from detreg.inspection.pixel_statistics import PixelStatistics
from detreg.inspection.statistics import ClassStatistics, compute_imbalance
from detreg.inspection.table import Integers
from detreg.inspection.wording import count_of, format_share

FEW_BOXES = 20
"""Of a class in the train split, under which little can be learned."""
IMBALANCE = 20
"""Boxes of the most frequent class over those of the rarest one, from which on it is told."""
MANY_EMPTY = 0.5
"""Share of images without objects, from which on labels may be missing."""


@dataclass(frozen=True)
class Advice:
    """A sentence with a number; `flags` is what to add to the command, empty where none helps."""

    message: str
    flags: str = ""

    def __str__(self) -> str:
        """Return it as the terminal shows it."""
        return f"{self.message}: try {self.flags}" if self.flags else self.message


def advise_on_dataset(
    classes: Sequence[ClassStatistics],
    boxes_per_image: Integers,
) -> Iterator[Advice]:
    """Yield what is worth mending in the dataset itself, the most harmful first."""
    imbalance = compute_imbalance(classes)
    rare = []
    for entry in classes:
        boxes = entry.boxes_per_split.get("train", entry.boxes)
        if boxes < FEW_BOXES:
            rare.append(f"{entry.name} ({boxes})")
    if rare:
        yield Advice(
            f"under {FEW_BOXES} boxes to learn from in {len(rare)} of {len(classes)} classes: "
            f"label more of {_list_some(rare)}"
        )
    elif imbalance is not None and imbalance >= IMBALANCE:
        ranked = sorted(classes, key=lambda entry: entry.boxes)
        yield Advice(
            f"{ranked[-1].name} has {imbalance:.0f} times as many boxes as "
            f"{ranked[0].name} ({ranked[-1].boxes} and {ranked[0].boxes}): label more of the latter"
        )

    num_images = len(boxes_per_image)
    num_empty = int((boxes_per_image == 0).sum())
    if num_images and num_empty / num_images >= MANY_EMPTY:
        share = format_share(num_empty / num_images)
        yield Advice(
            f"{share} of the images show no object ({num_empty} of {num_images}): "
            "see that none of them lacks its labels"
        )


def advise_on_images(pixels: PixelStatistics, name_image: Callable[[int], str]) -> Iterator[Advice]:
    """Yield which images are worth a look; `name_image` names the image of an index."""
    # Copies across splits are warnings of the check.
    if pixels.copies_within_splits:
        counted = count_of(len(pixels.copies_within_splits), "near copy", "near copies")
        yield Advice(
            f"{counted} within a split, such as {name_image(pixels.copies_within_splits[0])}: "
            "leave them out, unless what they show shall count more"
        )
    for flaw, images in pixels.flaws.items():
        counted = count_of(len(images), f"{flaw} image")
        yield Advice(
            f"{counted}, such as {name_image(images[0])}: see whether objects can be made out"
        )


def _list_some(names: Sequence[str]) -> str:
    """Return the first three of some names, and how many there are beside them."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
