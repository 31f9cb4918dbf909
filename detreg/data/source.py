"""Finds the folder that a user means by `data`.

That is a folder, an archive that is unpacked into the cache, or the built-in sample dataset.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detreg.data.archives import choose_unpacker
from detreg.data.cached_folders import create_once
from detreg.data.raw import RawDataset
from detreg.data.sample import VERSION, write_sample
from detreg.data.splits import is_split_name
from detreg.errors import DataError, NotFoundError, quote, shorten
from detreg.files import open_regular

SAMPLE = "sample"

_MAX_WRAPPERS = 20
_README_WORDS = {"readme", "license", "licence", "copying", "citation", "about", "changelog"}
_PARTS = ("images", "jpegimages", "labels", "annotations", "imagesets", "data")
"""Folders, in lower case, that formats have beside others."""


@dataclass(frozen=True)
class Source:
    """The folder of a dataset.

    name: what to call the dataset.
    origin: what the user has: the absolute path of a folder or an archive, or "sample".
    is_sample: whether it is the built-in dataset.
    """

    name: str
    folder: Path
    origin: str
    is_sample: bool = False


def open_source(data: str | Path, cache: Path, *, masks: bool = False) -> Source:
    """Return the folder of the dataset that `data` names; write the sample or unpack an archive.

    masks: whether the sample is the one with masks.

    Raises NotFoundError where there is nothing, DataError for an archive that cannot be read or
    that would write outside its folder.
    """
    if data == SAMPLE:
        name = f"v{VERSION}-masks" if masks else f"v{VERSION}"
        fill = partial(write_sample, masks=True) if masks else write_sample
        folder = create_once(cache / "samples" / name, fill)
        return Source(SAMPLE, folder, SAMPLE, is_sample=True)

    path = _resolve_path(data)
    if not path.exists():
        raise NotFoundError(
            f"{data}: there is no such folder or archive; give a dataset's path, or {SAMPLE} for "
            "the built-in one"
        )
    if path.is_dir():
        return Source(path.name, _find_dataset_root(path), str(path))

    with open_regular(path) as file:
        unpack = choose_unpacker(file)
        if unpack is None:
            raise DataError(f"{data}: neither a folder nor a zip or tar archive; give one of these")

        # Unpacked once per content: a renamed or copied archive is not unpacked again.
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        target = cache / "archives" / digest[:16]
        folder = create_once(target, lambda part: unpack(path, file, part))
    name = path.name.split(".")[0]
    return Source(name, _find_dataset_root(folder), str(path))


def _resolve_path(data: str | Path) -> Path:
    """Return the absolute path. Raises DataError for a name that cannot be stored or followed."""
    try:
        path = Path(data).expanduser().resolve()
        path.exists()
        # Paths are written to JSON and to MLflow.
        str(path).encode()
    # A null character, bytes that are not UTF-8, an unknown user, links that lead in circles.
    except (ValueError, RuntimeError, OSError) as error:
        raise DataError(
            f"{quote(str(data))}: the path cannot be followed ({shorten(str(error))}); rename it"
        ) from error
    return path


def name_format(source: Source, raw: RawDataset) -> str:
    """Return the format as users read it: that of the built-in dataset is "sample"."""
    return SAMPLE if source.is_sample else raw.format


def _find_dataset_root(folder: Path) -> Path:
    """Return the folder that holds the dataset's files: `folder`, or an only subfolder of it.

    Archives often have such a folder around everything, as VOCdevkit/VOC2007, and a readme beside
    it. Where no dataset is found, the innermost folder is returned.
    """
    # Bounded, because links may lead in circles.
    for _ in range(_MAX_WRAPPERS):
        folders = []
        for child in folder.iterdir():
            if child.name.startswith((".", "__MACOSX")):
                continue
            if child.is_dir():
                folders.append(child)
            elif not _is_readme(child.name):
                return folder
        if len(folders) != 1 or _is_part_of_dataset(folders[0].name):
            return folder
        folder = folders[0]
    return folder


def _is_readme(name: str) -> bool:
    """Whether a file says something about a dataset and is no part of it, by its name."""
    stem, dot, suffix = name.lower().rpartition(".")
    if suffix in ("md", "pdf", "html", "rst", "docx"):
        return True
    words = re.findall("[a-z]+", stem if dot else name.lower())
    return suffix in ("txt", name.lower()) and not _README_WORDS.isdisjoint(words)


def _is_part_of_dataset(name: str) -> bool:
    """Whether a folder's name means something to a reader, by which splits are told apart."""
    return is_split_name(name) or name.lower() in _PARTS
