"""The files of a dataset's folder, listed once; every reader looks for its files here."""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from detreg.errors import DataError
from detreg.files import IMAGE_SUFFIXES, open_regular

ANNOTATION_SUFFIXES = (".json", ".xml", ".txt", ".yaml", ".yml")
"""Suffixes, in lower case, of the files that may hold annotations."""

_NAMED_AS_FILES = (*IMAGE_SUFFIXES, *ANNOTATION_SUFFIXES)
_IGNORED_FOLDERS = ("__MACOSX", "__pycache__", "@eaDir")
_MAX_DEPTH = 200
_MAX_FILES = 10_000_000


@dataclass(frozen=True)
class FileTree:
    """The files anywhere under a folder, without hidden ones.

    files: their paths relative to the folder, with slashes, sorted.
    folders: the folders among them, also empty ones; "" is the folder itself.
    unlisted: folders that could not be listed.
    """

    folder: Path
    files: tuple[str, ...]
    folders: frozenset[str]
    unlisted: tuple[str, ...] = ()

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The image files."""
        return self.select(*IMAGE_SUFFIXES)

    @cached_property
    def file_set(self) -> frozenset[str]:
        """All files, to look one up."""
        return frozenset(self.files)

    @cached_property
    def _has_marked_names(self) -> bool:
        """Whether the name of a file or folder begins as comments do."""
        return any("/#" in f"/{path}" for path in self.files)

    def is_comment(self, line: str) -> bool:
        """Whether a line of a list begins with #, which no name here does."""
        return line.startswith("#") and not self._has_marked_names

    def select(self, *suffixes: str) -> tuple[str, ...]:
        """Return the files with one of the suffixes, which are in lower case."""
        return tuple(path for path in self.files if path.lower().endswith(suffixes))

    def read_head(self, path: str, count: int) -> bytes:
        """Return the first bytes of a file, none where it cannot be read."""
        try:
            with open_regular(self.folder / path) as file:
                return file.read(count)
        # What is wrong with the file shows when a reader reads it.
        except (OSError, DataError):
            return b""


def list_files(folder: Path) -> FileTree:
    """Return the files anywhere under `folder`; each folder is listed once.

    Links to folders are followed, but not to one that holds the link or was followed before. A
    folder whose name ends as a file's is listed as a file, too: whoever opens it says so.

    Raises DataError where folders lie too deeply, or there are too many files.
    """
    root = str(folder)
    files: list[str] = []
    unlisted: list[str] = []
    followed: set[str] = set()
    folders: list[str] = []
    pending = [""]
    while pending:
        parent = pending.pop()
        if parent.count("/") > _MAX_DEPTH:
            raise DataError(f"{folder}: folders lie too deeply in each other; move them up")
        try:
            entries = list(os.scandir(f"{root}/{parent}"))
        except OSError:
            unlisted.append(parent)
            continue
        folders.append(parent)
        for entry in entries:
            path = f"{parent}/{entry.name}" if parent else entry.name
            if entry.name.startswith(".") or entry.name in _IGNORED_FOLDERS:
                continue
            is_folder = _is_folder(entry)
            if not is_folder or path.lower().endswith(_NAMED_AS_FILES):
                files.append(path)
            if is_folder and (not entry.is_symlink() or _should_follow(entry.path, followed)):
                pending.append(path)
        if len(files) > _MAX_FILES:
            raise DataError(
                f"{folder}: the folder holds more than {_MAX_FILES} files; give the dataset's own"
            )
    return FileTree(folder, tuple(sorted(files)), frozenset(folders), tuple(sorted(unlisted)))


def list_under(paths: Sequence[str], folder: str) -> Sequence[str]:
    """Return those of sorted paths that lie in a folder, in itself or further down."""
    if not folder:
        return paths
    # "0" follows "/" in the order of characters.
    return paths[bisect_left(paths, f"{folder}/") : bisect_left(paths, f"{folder}0")]


def get_folder(path: str) -> str:
    """Return the folder that a relative path lies in, "" for the root."""
    return path.rpartition("/")[0]


def split_name(path: str) -> tuple[str, str]:
    """Return the folder and the name of a relative path."""
    folder, _, name = path.rpartition("/")
    return folder, name


def get_stem(path: str) -> str:
    """Return the name of a file without its folder and its suffix."""
    name = path.rpartition("/")[2]
    stem, dot, _ = name.rpartition(".")
    return stem if dot and stem else name


def join_path(folder: str, name: str) -> str:
    """Return the path of a name in a relative folder."""
    return f"{folder}/{name}" if folder else name


def list_ancestors(path: str) -> Iterator[str]:
    """Yield the folders that a path lies in, from the innermost to the root, which is ""."""
    while path:
        path = get_folder(path)
        yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _should_follow(path: str, followed: set[str]) -> bool:
    """Whether a link to a folder leads to one that was not seen yet; it is then marked as seen."""
    target = os.path.realpath(path)
    holder = os.path.realpath(os.path.dirname(path))  # noqa: PTH120 (links are rare, no Path here)
    if target in followed or f"{holder}/".startswith(f"{target}/".replace("//", "/")):
        return False
    followed.add(target)
    return True
