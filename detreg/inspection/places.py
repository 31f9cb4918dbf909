"""From a finding to its image and its box, so that both can be shown."""

from dataclasses import dataclass, replace
from pathlib import Path

from detreg.data.boxes import Corners
from detreg.data.findings import Finding
from detreg.data.raw import ImageRecord, RawDataset


@dataclass(frozen=True)
class Place:
    """The image of a finding, with all its boxes as they are labeled.

    boxes: in pixels, or in fractions of the image where `fractions` is true.
    found: the index of the box that the finding is about, None where it is about the image.
    name: of that box, such as "annotation 17 (class cat)"; empty for an image.
    """

    image: Path
    boxes: tuple[Corners, ...]
    found: int | None
    fractions: bool
    name: str


class PlaceFinder:
    """Finds the images and boxes of the findings of one dataset."""

    def __init__(self, raw: RawDataset) -> None:
        self._fractions = raw.fractions
        self._records: dict[str, ImageRecord] = {}
        for records in raw.splits.values():
            for record in records:
                for name in _list_names(record, raw.folder):
                    self._records.setdefault(name, record)

    def find(self, finding: Finding) -> Place | None:
        """Return the place of a finding, None where it is about no single image."""
        record = self._records.get(finding.image)
        if record is None:
            return None
        found, name = None, ""
        for index, box in enumerate(record.boxes):
            # As box_check.py names the place of a box.
            if box.where and finding.where == f"{record.source} {box.where}":
                found, name = index, box.where
        boxes = tuple(box.corners for box in record.boxes)
        return Place(record.image, boxes, found, self._fractions, name)

    def find_all(self, finding: Finding) -> list[Place]:
        """Return the place of a finding, and that of the image that it is a copy of."""
        places = [self.find(finding)]
        if finding.original not in ("", finding.image):
            places.append(self.find(replace(finding, image=finding.original)))
        return [place for place in places if place is not None]


def _list_names(record: ImageRecord, folder: Path) -> list[str]:
    """Return the names by which findings know the image of a record."""
    names = [record.entry or record.source]
    if record.image.is_relative_to(folder):
        names.append(record.image.relative_to(folder).as_posix())
    return names
