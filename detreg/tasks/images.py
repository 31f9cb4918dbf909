"""The images and videos that a user names: by files, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.errors import NotFoundError, UsageError
from detreg.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_image, is_video

_URL_MARK = "://"


@dataclass(frozen=True)
class _Wanted:
    """What is taken of a folder and of the files that fit a pattern."""

    left_out: Path | None
    with_videos: bool

    def includes(self, file: Path) -> bool:
        """Whether a file that was not named itself is an image, by its name."""
        is_of_kind = is_image(file) or (self.with_videos and is_video(file))
        if not is_of_kind or not file.is_file():
            return False
        return self.left_out is None or not file.absolute().is_relative_to(self.left_out.absolute())

    def describe(self) -> str:
        suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) if self.with_videos else IMAGE_SUFFIXES
        return f"looked for {', '.join(suffixes)}"


def find_images(
    names: Sequence[str], left_out: Path | None = None, *, with_videos: bool = False
) -> list[Path]:
    """Return the images among files, folders and patterns, each once, in the order of the names.

    Folders are searched with all folders in them, for files with the suffix of an image that are
    not hidden; they are sorted by path. A file that is named is taken whatever its suffix.
    A pattern has *, ?, [] or ** (for any folders) as in a shell.

    left_out: a folder whose files are taken only where they are named, such as one for output.
    with_videos: whether folders and patterns stand for videos, too.

    Raises UsageError for URLs, and NotFoundError where a name leads to no image.
    """
    wanted = _Wanted(left_out, with_videos)
    files: dict[Path, None] = {}
    urls, missing = [], []
    for name in names:
        if _URL_MARK in name:
            urls.append(f"{name} is a URL: download it first, and name the file")
            continue
        found = _find(name, wanted)
        if not found:
            missing.append(_describe_missing(name, wanted))
        files.update(dict.fromkeys(found))

    if urls:
        raise UsageError([*urls, *missing])
    if missing:
        raise NotFoundError(missing)
    return list(files)


def _find(name: str, wanted: _Wanted) -> list[Path]:
    """Return the images that one name stands for, none where there are none."""
    # Unlike those of Path, these functions are False where no file can have the name.
    if os.path.isdir(name):  # noqa: PTH112
        return _find_in_folder(Path(name), wanted)
    if os.path.isfile(name):  # noqa: PTH113
        return [Path(name)]

    files: list[Path] = []
    for match in sorted(map(Path, glob.glob(name, recursive=True))):  # noqa: PTH207
        if match.is_dir():
            files += _find_in_folder(match, wanted)
        elif wanted.includes(match):
            files.append(match)
    return files


def _find_in_folder(folder: Path, wanted: _Wanted) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if wanted.includes(file))


def _describe_missing(name: str, wanted: _Wanted) -> str:
    if os.path.isdir(name):  # noqa: PTH112
        return f"no image in {name}: {wanted.describe()}"
    if glob.has_magic(name):
        return f"no image fits the pattern {name}: {wanted.describe()}"
    return f"{name} is neither an image nor a folder"
