"""Findings: what a reader or the check discovers about a dataset, one value per place.

Everything that is wrong, repaired or worth knowing travels as a `Finding`, so that it can be
grouped by kind, counted, and linked to its place. The strings that users see are made from
findings at the end: `list_problems` for the errors, `count_repairs` for the rest.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum, auto

from detreg.documents import DocumentError
from detreg.errors import make_printable
from detreg.files import UnusableFileError

_BEFORE_REMEDY = "; "


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = auto()
    """It would change what is learned: the dataset is refused."""

    WARNING = auto()
    """It is left as it is, but scores or training may suffer."""

    REPAIR = auto()
    """It is harmless and mended in the canonical copy, never in the user's files."""

    NOTE = auto()
    """It is worth knowing, and changes nothing."""


class FindingKind(StrEnum):
    """What was found. The order is that in which `count_repairs` lists repairs."""

    # Files and folders.
    UNRECOGNIZED_DATASET = auto()
    MALFORMED_FILE = auto()
    MISSING_PATH = auto()
    MISSING_ANNOTATIONS = auto()
    UNUSED_FILE = auto()

    # Entries of annotation files.
    MALFORMED_ENTRY = auto()
    DUPLICATE_ENTRY = auto()
    UNKNOWN_IMAGE = auto()
    MISSING_AREA = auto()
    MISSING_SIZE = auto()
    MISSING_BOX = auto()
    UNSPECIFIED_FLAG = auto()
    IGNORED_REGION = auto()

    # Classes.
    INVALID_CLASS = auto()
    DUPLICATE_CLASS = auto()
    SIMILAR_CLASSES = auto()
    UNKNOWN_CLASS = auto()
    CLASS_COUNT_MISMATCH = auto()
    UNUSED_CATEGORY = auto()

    # Images.
    MISSING_IMAGE = auto()
    UNREADABLE_IMAGE = auto()
    TRUNCATED_IMAGE = auto()
    """A JPEG that lacks its last bytes; other decoders than OpenCV show nearly all of it."""
    IMAGE_REDUCED = auto()
    IMAGE_OUTSIDE_FOLDER = auto()
    AMBIGUOUS_FILE = auto()
    FILE_ELSEWHERE = auto()
    SIZE_MISMATCH = auto()
    EXIF_ROTATION = auto()
    IMAGE_LEFT_OUT = auto()

    # Boxes.
    INVALID_BOX = auto()
    WRONG_UNIT = auto()
    BOX_OUTSIDE_IMAGE = auto()
    BOX_CLIPPED = auto()
    BOX_CUT = auto()
    """A box that reaches over its image by more than a quarter of itself."""
    DUPLICATE_BOX = auto()
    POLYGON = auto()
    ORIENTED_BOX = auto()
    KEYPOINTS = auto()
    EMPTY_BOX = auto()
    THIN_BOX = auto()

    # Masks, where they are asked for.
    INVALID_MASK = auto()
    MISSING_MASK = auto()
    UNMATCHED_MASK = auto()
    EMPTY_MASK = auto()
    MASK_OUTSIDE_IMAGE = auto()
    MASK_OUTSIDE_BOX = auto()
    MASK_CLIPPED = auto()
    CROSSING_POLYGON = auto()

    # Splits.
    MISSING_SPLIT = auto()
    AMBIGUOUS_SPLIT = auto()
    TOO_FEW_IMAGES = auto()
    NOTHING_TO_LEARN = auto()
    IMAGE_IN_SEVERAL_SPLITS = auto()
    NEAR_COPY = auto()
    """An image that looks like one of another split, such as a copy that was saved again."""
    COPIES_THAT_DIFFER = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found at one place of a dataset.

    where: file, annotation and class, such as "annotations/train.json annotation 17 (class cat)".
    message: what was found, without the place. For other severities than error it is the same for
        all findings of a kind, because they are counted by it.
    remedy: how to put it right; empty where nothing needs to be done.
    image: the image that alone it concerns, so that the rest of the dataset is right without
        that image: its path or that of its own annotation file, in the dataset's folder, or the
        place of an entry whose image is not known. Empty where more may be wrong.
    original: the image that it is a copy of, by its path in the dataset's folder; mostly empty.

    Raises ValueError where place or message is empty.
    """

    kind: FindingKind
    severity: Severity
    where: str
    message: str
    remedy: str = ""
    image: str = ""
    original: str = ""

    @property
    def text(self) -> str:
        """What users read at the place: the message, and the remedy where there is one."""
        return f"{self.message}; {self.remedy}" if self.remedy else self.message

    def __post_init__(self) -> None:
        """Refuse findings that say nothing."""
        if not self.where.strip():
            raise ValueError(f"where must name a place, got {self.where!r}")
        if not self.message.strip():
            raise ValueError(f"message must say what was found, got {self.message!r}")


class BadEntryError(ValueError):
    """An entry of a dataset that cannot be used; whoever catches it knows the place.

    Code that looks at one entry raises it with the kind and the message of the finding;
    `ProblemCollector.catch_bad_entry` adds the place.
    """

    def __init__(self, kind: FindingKind, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@dataclass(frozen=True)
class ProblemCollector:
    """Collects findings while a dataset is read and checked, so that all are reported at once.

    image: the image that alone all further findings concern, as in `Finding`.
    """

    findings: list[Finding] = field(default_factory=list)
    image: str = ""

    def for_image(self, image: str) -> "ProblemCollector":
        """Return a collector for findings of one image, which adds them to the same list."""
        return ProblemCollector(self.findings, image)

    def add(self, kind: FindingKind, severity: Severity, where: str, message: str) -> None:
        """Add a finding; behind the last "; " of an error or a warning stands its remedy."""
        remedy = ""
        if severity in (Severity.ERROR, Severity.WARNING) and _BEFORE_REMEDY in message:
            message, _, remedy = message.rpartition(_BEFORE_REMEDY)
        self.findings.append(Finding(kind, severity, where, message, remedy, self.image))

    def add_error(self, kind: FindingKind, where: str, message: str) -> None:
        """Add an error: the dataset will be refused."""
        self.add(kind, Severity.ERROR, where, message)

    def add_repair(self, kind: FindingKind, where: str, message: str) -> None:
        """Add a repair; `message` must be the same for all repairs of this kind."""
        self.add(kind, Severity.REPAIR, where, message)

    @contextmanager
    def catch_bad_entry(self, where: str) -> Iterator[None]:
        """Record what is wrong with an entry as an error at `where`, then continue after the block.

        That is a BadEntryError, a file that cannot be parsed, or one that must not be read.
        """
        try:
            yield
        except BadEntryError as error:
            self.add_error(error.kind, where, str(error))
        except DocumentError as error:
            self.add_error(FindingKind.MALFORMED_FILE, where, str(error))
        except UnusableFileError as error:
            self.add_error(FindingKind.MALFORMED_FILE, where, error.reason)
        except (FileNotFoundError, PermissionError):
            self.add_error(
                FindingKind.MALFORMED_FILE,
                where,
                "the file cannot be opened: it is a link that leads nowhere, or may not be read; "
                "put the file itself there",
            )
        except IsADirectoryError:
            self.add_error(
                FindingKind.MALFORMED_FILE, where, "this is a folder; put the file itself there"
            )


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether a dataset with these findings must be refused."""
    return any(finding.severity is Severity.ERROR for finding in findings)


def list_problems(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return each error as the line that users read, in the order in which they were found."""
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    return tuple(make_printable(f"{error.where}: {error.text}") for error in errors)


def count_repairs(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how often each repair, warning and note was found, by its text.

    Sorted by kind and not by place, so that two datasets list the same repairs in one order.
    """
    order = {kind: position for position, kind in enumerate(FindingKind)}
    harmless = [finding for finding in findings if finding.severity is not Severity.ERROR]
    # The sort is stable: within a kind, findings stay in the order in which they were found.
    harmless.sort(key=lambda finding: order[finding.kind])

    counts: dict[str, int] = {}
    for finding in harmless:
        counts[finding.text] = counts.get(finding.text, 0) + 1
    return counts
