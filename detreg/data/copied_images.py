"""The images of a copy of a dataset: their names and outlines, and the room that they need."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from detreg.data import formats
from detreg.data.check import CheckResult
from detreg.data.findings import ProblemCollector
from detreg.data.images import AnnotatedImage, DatasetImage, name_inside
from detreg.data.outlines import Outline, fit_outline
from detreg.data.raw import ImageRecord, RawDataset
from detreg.disk_space import check_folders
from detreg.files import IMAGE_SUFFIXES

_MAX_STEM = 100  # characters, of which each may take four of the 255 bytes of a name
_BYTES_PER_IMAGE = 500
_BYTES_PER_BOX = 400
_BYTES_PER_NUMBER = 20

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif"}


def make_images(raw: RawDataset, result: CheckResult) -> dict[str, list[AnnotatedImage]]:
    """Return the images of each split as they are written."""
    records: dict[Path, ImageRecord] = {}
    records_of_splits: dict[tuple[str, Path], ImageRecord] = {}
    for split, listed in raw.splits.items():
        for record in listed:
            records[record.image] = records_of_splits[split, record.image] = record

    pairs = []
    for split, images in result.splits.items():
        for image in images:
            # Of an image in two splits each has annotations of its own, unless splits were cut.
            record = records_of_splits.get((split, image.path), records[image.path])
            pairs.append((record, image))

    names = iter(name_files([image for _, image in pairs], raw.folder))
    outlines = iter(_find_outlines(raw, pairs))
    splits: dict[str, list[AnnotatedImage]] = {}
    for split, images in result.splits.items():
        splits[split] = [
            AnnotatedImage(
                file_name=next(names),
                content=image.path,
                width=image.width,
                height=image.height,
                boxes=image.boxes,
                outlines=next(outlines),
            )
            for image in images
        ]
    return splits


def _find_outlines(
    raw: RawDataset, pairs: Sequence[tuple[ImageRecord, DatasetImage]]
) -> list[dict[int, Outline]]:
    """Return for each image its outlines in pixels, by the positions of their boxes."""
    found: list[dict[int, Outline]] = [{} for _ in pairs]
    source = ""
    outlines: Mapping[str, Outline] = {}
    # In the order of the annotation files, so that each is read once.
    for position in sorted(range(len(pairs)), key=lambda number: pairs[number][0].source):
        record, image = pairs[position]
        if image.masks:
            masks = enumerate(image.masks)
            found[position] = {number: mask for number, mask in masks if mask is not None}
            continue
        if record.boxes and record.source != source:
            source = record.source
            outlines = formats.read_outlines(raw, source, ProblemCollector())

        for number, box in enumerate(image.boxes):
            outline = outlines.get(box.where.removesuffix(f" (class {box.label})"))
            if outline is None:
                continue
            fitted = fit_outline(outline, (image.width, image.height), raw.fractions)
            if fitted is not None:
                found[position][number] = fitted
    return found


def name_files(images: Iterable[DatasetImage], folder: Path) -> list[str]:
    """Return a file name for each image of the dataset in `folder`.

    It is the image's own name wherever that can be: it must differ from all others, also without
    its suffix and in capitals only, because formats name annotations after it.
    """
    names = []
    taken: set[str] = set()
    for image in images:
        inside = name_inside(image.path, folder)
        suffix = _choose_suffix(image.path)
        own = _clean(Path(inside).stem)
        # What tells images of one name apart are their folders.
        with_folders = _clean("_".join(Path(inside).with_suffix("").parts))
        stem = own if _fold(own) not in taken else with_folders
        number = 2
        while _fold(stem) in taken:
            stem = f"{with_folders}_{number}"
            number += 1
        taken.add(_fold(stem))
        names.append(f"{stem}{suffix}")
    return names


def check_space(splits: Mapping[str, Sequence[AnnotatedImage]], folder: Path) -> None:
    """Raise DiskError unless `folder` has room for annotations, and images that are not linked."""
    needed = 0
    is_linkable: dict[int, bool] = {}
    for image in (image for images in splits.values() for image in images):
        needed += _BYTES_PER_IMAGE + _BYTES_PER_BOX * len(image.boxes)
        for outline in image.outlines.values():
            needed += _BYTES_PER_NUMBER * sum(map(len, outline.polygons))
        if isinstance(image.content, bytes):
            continue
        status = image.content.stat()
        if status.st_dev not in is_linkable:
            is_linkable[status.st_dev] = _can_link(image.content, folder)
        if not is_linkable[status.st_dev]:
            needed += status.st_size
    check_folders({folder: needed})


def _can_link(path: Path, folder: Path) -> bool:
    """Whether a file can have a hard link in `folder`."""
    trial = folder / "trial"
    try:
        os.link(os.path.realpath(path), trial)
    except OSError:
        return False
    trial.unlink()
    return True


def _choose_suffix(path: Path) -> str:
    """Return the suffix of an image file, or the one of its content where it has none of ours."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.suffix
    with Image.open(path) as image:
        return _SUFFIXES.get(image.format or "", ".webp")


def _clean(stem: str) -> str:
    """Return a name without what programs or formats take for something else."""
    kept = [
        letter if letter.isprintable() and letter not in '\\/:"<>|?*' else "_" for letter in stem
    ]
    return "".join(kept).strip(" .")[:_MAX_STEM] or "image"


def _fold(stem: str) -> str:
    """Return what is equal for names that some file systems take for the same."""
    return unicodedata.normalize("NFC", stem).casefold()
