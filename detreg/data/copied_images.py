"""The image files of a copy of a dataset: their names, and the room that they need."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from detreg.data.images import AnnotatedImage, DatasetImage, name_inside
from detreg.disk_space import check_folders
from detreg.files import IMAGE_SUFFIXES

_MAX_STEM = 100  # characters, of which each may take four of the 255 bytes of a name
_BYTES_PER_IMAGE = 500
_BYTES_PER_BOX = 400
_BYTES_PER_NUMBER = 20

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif"}


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
