"""What the pixels of a dataset's images tell: near duplicates, and images that show little."""

from collections.abc import Mapping
from dataclasses import dataclass

from detreg.data.progress import Progress
from detreg.inspection.pixels import find_flaws, look_at_images
from detreg.inspection.similarity import find_near_duplicates
from detreg.inspection.table import BoxTable


@dataclass(frozen=True)
class PixelStatistics:
    """What the pixels of the images tell; images are their indices in the table.

    near_duplicates: groups of images that look the same, those across splits first.
    across_splits: how many images of other splits look like one of train.
    flaws: the images that are blank, dark or blurred, by that word.
    """

    near_duplicates: tuple[tuple[int, ...], ...]
    across_splits: int
    flaws: Mapping[str, tuple[int, ...]]


def measure_pixels(table: BoxTable, progress: Progress) -> PixelStatistics:
    """Decode every image, and return which look the same, and which show little."""
    looks = look_at_images(table.images, progress)
    within: list[tuple[int, ...]] = []
    across: list[tuple[int, ...]] = []
    flattering = 0
    for group in find_near_duplicates(looks):
        splits = [table.splits[place] for place in group]
        if len(set(splits)) == 1:
            within.append(group)
            continue
        across.append(group)
        if "train" in splits:
            flattering += sum(split != "train" for split in splits)
    return PixelStatistics((*across, *within), flattering, find_flaws(looks))
