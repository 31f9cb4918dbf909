"""The image files that a user names: by files, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from detreg.errors import NotFoundError, UsageError
from detreg.files import IMAGE_SUFFIXES, is_image

_URL_MARK = "://"


def find_images(names: Sequence[str], left_out: Path | None = None) -> list[Path]:
    """Return the images among files, folders and patterns, each once, in the order of the names.

    Folders are searched with all folders in them, for files with the suffix of an image that are
    not hidden; they are sorted by path. A file that is named is taken whatever its suffix.
    A pattern has *, ?, [] or ** (for any folders) as in a shell.

    left_out: a folder whose files are taken only where they are named, such as one for output.

    Raises UsageError for URLs, and NotFoundError where a name leads to no image.
    """
    files: dict[Path, None] = {}
    urls, missing = [], []
    for name in names:
        if _URL_MARK in name:
            urls.append(f"{name} is a URL: download it first, and name the file")
            continue
        found = _find(name, left_out)
        if not found:
            missing.append(_describe_missing(name))
        files.update(dict.fromkeys(found))

    if urls:
        raise UsageError([*urls, *missing])
    if missing:
        raise NotFoundError(missing)
    return list(files)


def _find(name: str, left_out: Path | None) -> list[Path]:
    """Return the images that one name stands for, none where there are none."""
    # Unlike those of Path, these functions are False where no file can have the name.
    if os.path.isdir(name):  # noqa: PTH112
        return _find_in_folder(Path(name), left_out)
    if os.path.isfile(name):  # noqa: PTH113
        return [Path(name)]

    files: list[Path] = []
    for match in sorted(map(Path, glob.glob(name, recursive=True))):  # noqa: PTH207
        if match.is_dir():
            files += _find_in_folder(match, left_out)
        elif _is_wanted(match, left_out):
            files.append(match)
    return files


def _find_in_folder(folder: Path, left_out: Path | None) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if _is_wanted(file, left_out))


def _is_wanted(file: Path, left_out: Path | None) -> bool:
    """Whether a file that was not named itself is an image, by its name."""
    if not is_image(file) or not file.is_file():
        return False
    return left_out is None or not file.absolute().is_relative_to(left_out.absolute())


def _describe_missing(name: str) -> str:
    if os.path.isdir(name):  # noqa: PTH112
        return f"no image in {name}: looked for {', '.join(IMAGE_SUFFIXES)}"
    if glob.has_magic(name):
        return f"no image fits the pattern {name}: looked for {', '.join(IMAGE_SUFFIXES)}"
    return f"{name} is neither an image nor a folder"
