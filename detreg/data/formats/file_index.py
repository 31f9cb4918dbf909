"""Finds a file by what annotations of any machine call it."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

from detreg.data.findings import BadEntryError, FindingKind
from detreg.data.formats.tree import get_folder, get_stem, list_ancestors
from detreg.data.splits import parse_split_of_folder
from detreg.errors import shorten

_IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img")
"""Folders that hold images where others hold masks, depth maps and the like of the same name."""

_COMPANION_FOLDER = re.compile(
    "(mask|seg|segmentation(class|object)?|(.*[_ -])?(masks|trimaps|thumbs|thumbnails|depth))s?"
)
"""What those others are called."""

_UPLOAD_PREFIX = re.compile("^[0-9a-f]{8}-(?=.)")

_MANY = 16
_LAST_FOLDERS = 4


@dataclass(frozen=True)
class Hint:
    """What is known of a file besides its name.

    near: the annotation file that asks for it, relative to the dataset's folder.
    split: the split that it belongs to, None where it may be any.
    """

    near: str
    split: str | None = None


@dataclass(frozen=True)
class Match:
    """A file that was found, and the most that its path has in common with the stated one.

    has_path: whether the end of the stated path is the whole path of the file.
    has_folder: whether the folder that the file lies in is the stated one, by its name.
    has_name: whether the name is spelled as it was stated, with its suffix.
    """

    path: str
    has_path: bool
    has_folder: bool
    has_name: bool


class FileIndex:
    """Files of one kind, by their names without regard to case and to the form of Unicode."""

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        self.folder = folder
        self.paths = paths
        self._by_name = _group(paths, _get_name)
        self._by_stem = _group(paths, get_stem)
        self._by_folder = _group(paths, get_folder)
        self._folder_names = {part for folder in self._by_folder for part in folder.split("/")}
        # Folders with a file that another was preferred to, each with what asked for it.
        self._passed_over: set[tuple[str, str, str | None]] = set()
        # Whether the files of a folder lie beside or parallel to files of a suffix.
        self._companions: dict[tuple[str, str], bool] = {}

    def find(self, stated: str, hint: Hint) -> Match | None:
        """Return the file that a stated path of any machine means, None where there is none.

        Of files of the same name, the one is taken that has the most folders in common with the
        stated path, then with `hint`. One in the folder of another split, or without a folder
        that is stated and in the dataset, is not meant.

        Raises BadEntryError where several files are as good.
        """
        parts = split_path(stated)
        if not parts:
            return None

        for name in _list_spellings(parts[-1]):
            candidates = self._by_name.get(fold(name), [])
            if not candidates:
                candidates = self._list_of_stem(get_stem(name), _get_suffix(name))
            match = self._choose(candidates, (*parts[:-1], name), hint)
            if match is not None:
                is_as_stated = match.has_name and name == parts[-1]
                return replace(match, has_name=is_as_stated)
        return None

    def find_stem(self, stem: str, stated_name: str, hint: Hint) -> Match | None:
        """Return the file with this stem, of several the one whose name or suffix is stated.

        Raises BadEntryError where several files are as good.
        """
        candidates = self._by_stem.get(fold(stem), [])
        suffix = _get_suffix(stated_name)
        for wanted in (fold(stated_name), fold(stem) + suffix):
            named = [path for path in candidates if fold(_get_name(path)) == wanted]
            if named:
                match = self._choose(named, (stated_name,), hint)
                if match is not None:
                    self._note_passed_over(candidates, match.path, hint)
                return match

        candidates = self._list_of_stem(stem, suffix)
        return self._choose(candidates, (stated_name,), hint)

    def _list_of_stem(self, stem: str, suffix: str) -> list[str]:
        """Return the files with a stem whose suffix may be another one than is stated."""
        candidates = self._by_stem.get(fold(stem), [])
        return [path for path in candidates if not self._is_companion(path, suffix)]

    def _is_companion(self, path: str, suffix: str) -> bool:
        """Whether a file's folder holds companions of the files with a suffix, such as masks.

        They have the names of the images, and another suffix.
        """
        key = (get_folder(path), suffix)
        if key not in self._companions:
            stems = {fold(get_stem(other)) for other in self._by_folder[fold(key[0])]}
            same_stems = chain.from_iterable(self._by_stem[stem] for stem in stems)
            self._companions[key] = any(_get_suffix(other) == suffix for other in same_stems)
        return self._companions[key] and _get_suffix(path) != suffix

    def _choose(self, candidates: Sequence[str], parts: Sequence[str], hint: Hint) -> Match | None:
        """Return the candidate that fits best, None where none fits."""
        stated_folders = [fold(part) for part in parts[:-1]]
        candidates = self._narrow(candidates, stated_folders or _list_folders(hint.near))
        stated_split = parse_split_of_folder("/".join(stated_folders)) or hint.split
        ranks: dict[tuple[int, ...], list[Match]] = {}
        for path in candidates:
            folders = _list_folders(path)
            split = parse_split_of_folder(get_folder(path))
            if stated_split is not None and split not in (None, stated_split):
                continue

            tail = _count_common_end(folders, stated_folders)
            has_path = tail == len(folders)
            # A stated folder that is here, and does not hold the file: the file is missing.
            other_folders = self._folder_names.intersection(stated_folders).difference(folders)
            if other_folders and not has_path:
                continue
            own_folders = set(folders).difference(stated_folders, _list_folders(hint.near))
            if rank_folders(own_folders) < 0 and not has_path:
                continue

            overlap = len(set(folders) & set(stated_folders))
            closeness = _rank_closeness(path, folders, hint)
            has_name = _get_name(path) == parts[-1]
            rank = (tail, overlap, *closeness, has_name)
            ranks.setdefault(rank, []).append(Match(path, has_path, tail > 0, has_name))

        if not ranks:
            return None
        best = ranks[max(ranks)]
        self._check_unambiguous([match.path for match in best], parts[-1])
        ranked = [match.path for matches in ranks.values() for match in matches]
        self._note_passed_over(ranked, best[0].path, hint)
        return best[0]

    def is_passed_over(self, path: str, hint: Hint) -> bool:
        """Whether a file's folder has others that were passed over for annotations like these.

        Those are masks or small copies, and so is this one: the file of that name is missing
        where it should be. Known when all files have been asked for.
        """
        return (get_folder(path), get_folder(hint.near), hint.split) in self._passed_over

    def note_choice(self, path: str, hint: Hint) -> None:
        """Note that a file was found where it is stated, others of its name being passed over."""
        named = self._by_name.get(fold(_get_name(path)), ())
        self._note_passed_over(named, path, hint)

    def _note_passed_over(self, candidates: Sequence[str], path: str, hint: Hint) -> None:
        """Note the folders of the candidates that were not chosen."""
        if not 1 < len(candidates) <= _MANY:
            return
        chosen = get_folder(path)
        for folder in {get_folder(candidate) for candidate in candidates} - {chosen}:
            split = parse_split_of_folder(folder)
            if hint.split is None or split in (None, hint.split):
                self._passed_over.add((folder, get_folder(hint.near), hint.split))

    def _narrow(self, candidates: Sequence[str], folders: Sequence[str]) -> Sequence[str]:
        """Return those of many candidates that are in folders of the given names, if any are.

        Frames of a thousand videos may have the same thousand names. The last folder counts most.
        """
        if len(candidates) <= _MANY:
            return candidates

        stem = fold(get_stem(candidates[0]))
        narrowed: set[str] = set()
        for folder in reversed(folders):
            inside = self._by_folder_and_stem.get(f"{folder}/{stem}", ())
            if inside:
                wanted = narrowed or set(candidates)
                narrowed = wanted.intersection(inside) or narrowed
        return sorted(narrowed) or candidates

    @cached_property
    def _by_folder_and_stem(self) -> Mapping[str, Sequence[str]]:
        """The paths by the names of the last folders around them, each with the stem."""
        groups: dict[str, list[str]] = {}
        for path in self.paths:
            stem = fold(get_stem(path))
            for folder in dict.fromkeys(_list_folders(path)[-_LAST_FOLDERS:]):
                groups.setdefault(f"{folder}/{stem}", []).append(path)
        return groups

    def _check_unambiguous(self, paths: Sequence[str], name: str) -> None:
        """Raise BadEntryError where the paths are of more than one file."""
        if len(paths) == 1:
            return
        files = {os.path.realpath(self.folder / path) for path in paths}
        if len(files) > 1:
            raise BadEntryError(
                FindingKind.AMBIGUOUS_FILE,
                f"{shorten(name)} may be {shorten(paths[0])} or {shorten(paths[1])}; "
                "state the path with its folder, or remove one of them",
            )


def rank_folders(folders: Iterable[str]) -> int:
    """Return how much the names of folders speak for images: 1, 0, or -1 for their companions."""
    names = set(folders)
    if names.intersection(_IMAGE_FOLDERS):
        return 1
    return -1 if any(map(_COMPANION_FOLDER.fullmatch, names)) else 0


def fold(text: str) -> str:
    """Return a name without the differences that file systems and tools make to it."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def split_path(stated: str) -> tuple[str, ...]:
    """Return the parts of a path of any system, without drive, root, `.` and `..`."""
    parts = stated.strip().replace("\\", "/").split("/")
    if parts[0].endswith(":"):
        parts = parts[1:]
    return tuple(part for part in parts if part not in ("", ".", ".."))


def drop_upload_prefix(name: str) -> str:
    """Return a name without the eight digits that Label Studio puts before that of an upload."""
    return _UPLOAD_PREFIX.sub("", name)


def _list_spellings(name: str) -> list[str]:
    """Return a stated name, and what it may be on the disk of whom has the images."""
    unquoted = unquote(name)
    return list(dict.fromkeys((name, unquoted, drop_upload_prefix(unquoted))))


def _group(paths: Iterable[str], get_name: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the paths by their names without regard to spelling."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(fold(get_name(path)), []).append(path)
    return groups


def _list_folders(path: str) -> list[str]:
    """Return the names of the folders around a file, from the outermost."""
    return [fold(part) for part in path.split("/")[:-1]]


def _get_name(path: str) -> str:
    return path.rpartition("/")[2]


def _get_suffix(name: str) -> str:
    """Return the suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (called for each file)


def _count_common_end(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many parts at the end of two paths are equal."""
    count = 0
    for left, right in zip(reversed(first), reversed(second), strict=False):
        if left != right:
            break
        count += 1
    return count


def _rank_closeness(path: str, folders: Sequence[str], hint: Hint) -> tuple[int, ...]:
    """Return how well the place of a file fits: split, folders shared with `near`, its own name."""
    is_of_split = hint.split is not None and parse_split_of_folder(get_folder(path)) == hint.split
    around = set(list_ancestors(hint.near))
    shared = sum(folder in around for folder in list_ancestors(path))
    same_names = len(set(folders).intersection(_list_folders(hint.near)))
    return is_of_split, shared, same_names, rank_folders(folders)
