"""What readers share: locating image files, values that occur twice, a message."""

import os
import posixpath
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.file_index import FileIndex, Hint, Match
from detreg.data.formats.readable_names import restore_name
from detreg.data.formats.tree import FileTree, join_path
from detreg.errors import quote, shorten

MISSING_SIZE_MESSAGE = "missing width or height read from the image"
"""Message of a repair: the annotations state no size, and the image file does."""

_FOUND_BY_PATH = "stated path is not in the dataset's folder: image found by the end of the path"
_FOUND_BY_NAME = "stated path is not in the dataset's folder: image found by its name"
_FOUND_BY_SPELLING = "image found under another spelling of its name"

_T = TypeVar("_T", bound=Hashable)


class ImageIndex:
    """The images of a dataset, and which of them annotations have been given.

    One for all annotation files of a dataset.
    """

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree
        self.files = FileIndex(tree.folder, tree.images)
        self._claims: dict[str, tuple[str, bool]] = {}
        self._doubtful: dict[str, Hint] = {}

    def claim(self, path: str, claimant: str, is_exact: bool) -> None:
        """Give an image to an annotation.

        Raises BadEntryError where another one has it, and one of the two does not state its path:
        two cameras may use the same names, of which one's images are missing.
        """
        holder, is_held_exactly = self._claims.setdefault(path, (claimant, is_exact))
        if holder != claimant and not (is_exact and is_held_exactly):
            raise BadEntryError(
                FindingKind.AMBIGUOUS_FILE,
                f"{shorten(claimant)} and {shorten(holder)} both lead to {shorten(path)}; "
                "state the paths of the images as they are in the dataset's folder",
            )

    def doubt(self, path: str, hint: Hint) -> None:
        """Note that an image was found by its name alone, which a mask may have, too."""
        self._doubtful[path] = hint

    def check_companions(self, problems: ProblemCollector) -> None:
        """Add an error for each image that was taken from among masks or small copies.

        Called when all annotations have their images.
        """
        for path, hint in self._doubtful.items():
            if self.files.is_passed_over(path, hint):
                claimant, _ = self._claims[path]
                problems.for_image(path).add_error(
                    FindingKind.AMBIGUOUS_FILE,
                    hint.near,
                    f"the image of {shorten(claimant)} is missing where the others are, and "
                    f"{shorten(path)} may be its mask or copy; add the image, or state its path",
                )


@dataclass(frozen=True)
class ImageLocator:
    """Locates the images that one annotation file names.

    roots: the folders that names may be relative to, in the order to look; relative to the
        dataset's folder, "" for that itself.
    hint: what is known of all images that the file names.
    """

    index: ImageIndex
    roots: tuple[str, ...]
    hint: Hint
    problems: ProblemCollector = field(repr=False)

    @property
    def folder(self) -> Path:
        """The dataset's folder, in which every image must lie."""
        return self.index.tree.folder

    def locate(self, name: str) -> Path:
        """Return the path of the image called `name`, in which backslashes count as slashes.

        A path of another machine is matched by its end, then by the image's name. Where no image
        fits, the path where it should be is returned: that it is missing shows when it is read.

        Raises BadEntryError where several images fit, and where none does and `name` leads out of
        the dataset's folder.
        """
        stated = restore_name(name.replace("\\", "/"))
        for root in self.roots:
            path = join_path(root, stated)
            if path in self.index.tree.file_set:
                self.index.claim(path, name, is_exact=True)
                self.index.files.note_choice(path, self.hint)
                return self.folder / path

        candidates = [posixpath.normpath(posixpath.join(root, stated)) for root in self.roots]
        inside = [path for path in candidates if not f"{path}/".startswith(("/", "../"))]
        for path in inside:
            # Hidden files are not in the tree. Path.is_file raises on names that are too long.
            if path in self.index.tree.file_set or os.path.isfile(self.folder / path):  # noqa: PTH113
                self.index.claim(path, name, is_exact=True)
                return self.folder / path

        match = self.index.files.find(stated, self.hint)
        if match is not None:
            self.index.claim(match.path, name, is_exact=False)
            if not match.has_folder:
                self.index.doubt(match.path, self.hint)
            self._tell(match, stated)
            return self.folder / match.path
        if not inside:
            raise BadEntryError(
                FindingKind.IMAGE_OUTSIDE_FOLDER,
                f"{quote(name)} leads out of the dataset's folder; "
                "copy the image into the folder and name it relative to that",
            )
        return self.folder / inside[0]

    def locate_stem(self, stem: str, name: str, claimant: str) -> Path | None:
        """Return the path of the image with this stem, None where there is none.

        name: what the annotations call the image, which decides between images of one stem.

        Raises BadEntryError where several images fit.
        """
        match = self.index.files.find_stem(stem, name, self.hint)
        if match is None:
            return None
        self.index.claim(match.path, claimant, is_exact=False)
        self.index.doubt(match.path, self.hint)
        return self.folder / match.path

    def _tell(self, match: Match, stated: str) -> None:
        """Add a note where an image is not what its stated path says."""
        if match.has_path and match.has_name and "/" not in stated:
            return
        if not match.has_name:
            message = _FOUND_BY_SPELLING
        elif match.has_path:
            message = _FOUND_BY_PATH
        elif "/" in stated:
            message = _FOUND_BY_NAME
        else:
            return
        where = f"{self.hint.near} {shorten(stated)}"
        self.problems.add(FindingKind.FILE_ELSEWHERE, Severity.NOTE, where, message)


def note_comment(source: str, problems: ProblemCollector) -> None:
    """Add a note that a line of a list was taken as a comment, as FileTree.is_comment says."""
    message = "line of a list that begins with # passed over as a comment"
    problems.add(FindingKind.UNUSED_FILE, Severity.NOTE, source, message)


def find_duplicates(values: Iterable[_T]) -> list[_T]:
    """Return the values that occur more than once, each once, in the order of their first place."""
    listed = list(values)
    # The usual case, at a third of the time that counting takes.
    if len(set(listed)) == len(listed):
        return []
    counts = Counter(listed)
    return [value for value, count in counts.items() if count > 1]
