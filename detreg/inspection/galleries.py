"""The images of a page on a dataset: of findings, outlying boxes and copies, and at random."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detreg.data.finding_groups import FindingGroup
from detreg.data.findings import Severity
from detreg.errors import make_printable
from detreg.inspection.measurements import Measurements
from detreg.inspection.pixel_statistics import PixelStatistics
from detreg.inspection.places import Place, PlaceFinder
from detreg.inspection.table import BoxTable
from detreg.inspection.thumbnails import (
    HIGHLIGHT,
    OTHER,
    DrawnBox,
    DrawnMask,
    draw_place,
    draw_thumbnail,
)
from detreg.inspection.wording import count_of
from detreg.report.section import Block, GalleryItem
from detreg.report.theme import MUTED, RIGHT, WRONG, get_class_color

# All together stay under a hundred and fifty images, and the page under 5 MB.
MAX_GROUPS = 12
IMAGES_OF_GROUP = 4
IMAGES_OF_OUTLIERS = 5
MAX_COPIES = 6
IMAGES_OF_COPIES = 3
IMAGES_OF_FLAW = 5
MAX_CLASSES = 8
IMAGES_OF_CLASS = 6
FEW_CLASSES = 4
"""Of as many classes or fewer, twice as many images are shown."""

_SEVERITY_COLORS = {
    Severity.ERROR: WRONG,
    Severity.WARNING: "#9A6700",
    Severity.REPAIR: RIGHT,
    Severity.NOTE: MUTED,
}


class Gallery:
    """Draws thumbnails of the images of a dataset into a folder."""

    def __init__(self, measured: Measurements, folder: Path) -> None:
        self._measured = measured
        self._folder = folder
        self._count = 0

    @property
    def table(self) -> BoxTable:
        """The images and boxes of the dataset."""
        return self._measured.table

    def draw_findings(self, group: FindingGroup, places: PlaceFinder | None) -> Block:
        """Return a group of findings, with the images of the first ones."""
        items: list[GalleryItem] = []
        shown: set[str] = set()
        for finding in group.findings[: 4 * IMAGES_OF_GROUP]:
            found = places.find_all(finding) if places is not None else []
            has_room = len(items) + len(found) <= IMAGES_OF_GROUP
            if finding.where in shown or not has_room:
                continue
            shown.add(finding.where)
            items += self._draw_places(found)

        first = group.first
        more = [] if group.count <= 3 else [f"and {group.count - 3:,} more"]
        return Block(
            title=make_printable(first.text) + (f" ({group.count:,})" if group.count > 1 else ""),
            badge=first.severity.value,
            color=_SEVERITY_COLORS[first.severity],
            lines=[*group.list_places(3), *more],
            items=items,
        )

    def _draw_places(self, places: Sequence[Place]) -> list[GalleryItem]:
        """Return the images of places that can be read."""
        items = []
        for place in places:
            file = draw_place(place, self._make_path())
            if file is not None:
                name = make_printable(place.image.name)
                items.append(GalleryItem(file, name, make_printable(place.name)))
        return items

    def draw_outliers(self) -> list[Block]:
        """Return the boxes that stand out, each kind with the images of the most extreme ones."""
        blocks = []
        for group in self._measured.outliers:
            items: list[GalleryItem] = []
            for box in group.boxes[:IMAGES_OF_OUTLIERS].tolist():
                width, height = self.table.box_sizes[box].tolist()
                name = make_printable(self.table.classes[self.table.labels[box]])
                caption = f"{name}, {width:.4g} x {height:.4g} px"
                items += self._draw(int(self.table.image_of_box[box]), caption, [box])
            title = f"{count_of(len(group.boxes), 'box', 'boxes')}: {group.reason}"
            blocks.append(Block(title, items=items))
        return blocks

    def draw_copies(self, pixels: PixelStatistics) -> list[Block]:
        """Return groups of images that look the same, side by side."""
        blocks = []
        for group in pixels.near_copies[:MAX_COPIES]:
            splits = dict.fromkeys(self.table.splits[place] for place in group)
            is_across = len(splits) > 1
            items: list[GalleryItem] = []
            for place in group[:IMAGES_OF_COPIES]:
                items += self._draw(place, self.table.splits[place])
            badge = "across splits" if is_across else f"within {next(iter(splits))}"
            color = WRONG if is_across else MUTED
            blocks.append(Block(f"{len(group)} images", badge, color, items=items))
        return blocks

    def draw_flaws(self, pixels: PixelStatistics) -> list[Block]:
        """Return the images that show little."""
        blocks = []
        for flaw, places in pixels.flaws.items():
            items: list[GalleryItem] = []
            for place in places[:IMAGES_OF_FLAW]:
                items += self._draw(place, self._count_labels(place))
            blocks.append(Block(count_of(len(places), f"{flaw} image"), items=items))
        return blocks

    def draw_random(self) -> list[Block]:
        """Return random images of each class, always the same ones of the same dataset."""
        table = self.table
        images_of_class: dict[int, list[int]] = {}
        for image, label in zip(table.image_of_box.tolist(), table.labels.tolist(), strict=True):
            images = images_of_class.setdefault(label, [])
            if not images or images[-1] != image:
                images.append(image)

        shown = self._choose_classes(images_of_class)
        per_class = IMAGES_OF_CLASS * (2 if len(shown) <= FEW_CLASSES else 1)
        blocks = []
        for label in shown:
            images = images_of_class[label]
            chosen = random.Random(0).sample(images, min(per_class, len(images)))
            items: list[GalleryItem] = []
            for place in chosen:
                items += self._draw(place, self._count_labels(place), label=label)
            title = make_printable(table.classes[label])
            note = f"in {count_of(len(images), 'image')}"
            blocks.append(Block(note, title, get_class_color(label), items=items))
        return blocks

    def _choose_classes(self, images_of_class: dict[int, list[int]]) -> list[int]:
        """Return the labels that are shown: of many, the most and the least frequent ones."""
        labels = sorted(images_of_class)
        if len(labels) <= MAX_CLASSES:
            return labels
        ranked = sorted(labels, key=lambda label: (-len(images_of_class[label]), label))
        half = MAX_CLASSES // 2
        return [*ranked[:half], *ranked[-half:]]

    def _draw(
        self,
        place: int,
        caption: str,
        highlighted: Sequence[int] = (),
        label: int | None = None,
    ) -> list[GalleryItem]:
        """Return an image with its boxes: those of a class, or some, in color; [] if unreadable."""
        boxes = []
        for box in self._list_boxes(place):
            own_label = int(self.table.labels[box])
            has_class_color = own_label == label or (label is None and not highlighted)
            color = get_class_color(own_label) if has_class_color else OTHER
            if box in highlighted:
                color = HIGHLIGHT
            x1, y1, x2, y2 = self.table.corners[box].tolist()
            boxes.append(DrawnBox((x1, y1, x2, y2), color))

        masks = self._list_masks(place, label)
        file = draw_thumbnail(self.table.images[place].path, boxes, self._make_path(), masks)
        if file is None:
            return []
        name = make_printable(self.table.images[place].path.name)
        return [GalleryItem(file, name, caption)]

    def _list_masks(self, place: int, label: int | None) -> list[DrawnMask]:
        """Return the masks of an image, or of its objects of a class, in the colors of classes."""
        image = self.table.images[place]
        drawn: list[DrawnMask] = []
        # Without masks there are none, whatever the boxes.
        for box, mask in zip(image.boxes, image.masks, strict=False):
            if mask is None or box.crowd or box.label not in self.table.classes:
                continue
            own_label = self.table.classes.index(box.label)
            if label is None or own_label == label:
                drawn.append(DrawnMask(mask, get_class_color(own_label)))
        return drawn

    def _list_boxes(self, place: int) -> range:
        """Return the indices of an image's boxes, which follow each other in the table."""
        first, end = self.table.image_of_box.searchsorted([place, place + 1]).tolist()
        return range(first, end)

    def _count_labels(self, place: int) -> str:
        """Return how many boxes of each class an image has, in words."""
        labels = [int(self.table.labels[box]) for box in self._list_boxes(place)]
        if not labels:
            return "no object"
        counts = sorted(Counter(labels).items())
        words = [f"{count} {self.table.classes[label]}" for label, count in counts]
        shown = words if len(words) <= 4 else [*words[:3], f"{len(words) - 3} more classes"]
        return make_printable(", ".join(shown))

    def _make_path(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}.jpg"
