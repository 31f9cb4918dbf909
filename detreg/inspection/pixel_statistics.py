"""What the pixels of a dataset's images tell: near copies, and images that show little."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detreg.data.looks import DatasetLooks
from detreg.inspection.pixels import find_flaws
from detreg.inspection.table import BoxTable


@dataclass(frozen=True)
class PixelStatistics:
    """What the pixels of the images tell; images are their indices in the table.

    near_copies: groups of images that look the same, those across splits first.
    across_splits: how many images of other splits look like one of train.
    copies_within_splits: the images that look like an earlier one of their split.
    flaws: the images that are blank, dark or blurred, by that word.
    """

    near_copies: tuple[tuple[int, ...], ...]
    across_splits: int
    copies_within_splits: tuple[int, ...]
    flaws: Mapping[str, tuple[int, ...]]


def measure_pixels(table: BoxTable, looks: DatasetLooks) -> PixelStatistics:
    """Return which images look the same, and which show little."""
    places_of_path: dict[Path, list[int]] = {}
    for place, image in enumerate(table.images):
        places_of_path.setdefault(image.path, []).append(place)

    within: list[tuple[int, ...]] = []
    across: list[tuple[int, ...]] = []
    num_flattering = 0
    copies_within: list[int] = []
    for paths in looks.near_copies:
        group = tuple(sorted(place for path in paths for place in places_of_path.get(path, ())))
        splits = [table.splits[place] for place in group]
        # The first one of each split is the original.
        copies_within += [
            place for rank, place in enumerate(group) if splits[rank] in splits[:rank]
        ]
        if len(set(splits)) < 2:
            within.append(group)
            continue
        across.append(group)
        if "train" in splits:
            num_flattering += sum(split != "train" for split in splits)
    flaws = find_flaws([looks.by_path.get(image.path) for image in table.images])
    groups = (*across, *within)
    return PixelStatistics(groups, num_flattering, tuple(sorted(copies_within)), flaws)
