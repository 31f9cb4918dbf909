"""Checks the names of classes: those that are empty, cannot be stored, or are nearly equal."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations

from detreg.data.findings import FindingKind, ProblemCollector, Severity
from detreg.data.images import DatasetImage
from detreg.errors import MAX_VALUE_LENGTH, is_storable, quote

_RARE = 20
"""How many times as many boxes a class has beside a rare one."""

_MIN_NAME = 3
"""Characters of a name from which on a letter is likelier a typo than another name."""


def check_class_names(classes: Iterable[str], problems: ProblemCollector) -> None:
    """Add an error for each empty name, and for names that differ only by case or space."""
    similar_names: dict[str, list[str]] = {}
    for name in dict.fromkeys(classes):
        key = "".join(name.split()).casefold()
        similar_names.setdefault(key, []).append(name)
        if not is_storable(name):
            problems.add_error(
                FindingKind.INVALID_CLASS,
                "classes",
                f"the class name {quote(name)} has control characters, halves of characters or "
                f"more than {MAX_VALUE_LENGTH} characters, which reports and MLflow cannot hold; "
                "rename it",
            )

    for key, names in similar_names.items():
        if not key:
            problems.add_error(
                FindingKind.INVALID_CLASS,
                "classes",
                "a class has an empty name; give it one in the annotations",
            )
        elif len(names) > 1:
            quoted = " and ".join(map(quote, names))
            problems.add_error(
                FindingKind.SIMILAR_CLASSES,
                "classes",
                f"{quoted} differ only by case or space; write them in one way in all annotations",
            )


def warn_of_typos(splits: Mapping[str, Sequence[DatasetImage]], problems: ProblemCollector) -> None:
    """Add a warning for each rare class whose name is that of a frequent one but for a letter."""
    boxes = [box for images in splits.values() for image in images for box in image.boxes]
    counts = Counter(box.label for box in boxes)
    for rare, frequent in permutations(sorted(counts), 2):
        is_rare = counts[rare] * _RARE <= counts[frequent]
        if is_rare and _differ_by_a_letter(rare, frequent):
            problems.add(
                FindingKind.SIMILAR_CLASSES,
                Severity.WARNING,
                f"class {quote(rare)} ({counts[rare]} boxes) beside {quote(frequent)} "
                f"({counts[frequent]} boxes)",
                "rare class that differs from a frequent one by a letter: left as it is, but it "
                "may be a typo",
            )


def _differ_by_a_letter(first: str, second: str) -> bool:
    """Whether two names differ by one letter, missing, added or another, or by two in turn."""
    if abs(len(first) - len(second)) > 1 or min(len(first), len(second)) < _MIN_NAME:
        return False

    start = _count_equal(first, second)
    rest_of_first, rest_of_second = first[start:], second[start:]
    end = _count_equal(rest_of_first[::-1], rest_of_second[::-1])
    only_first = rest_of_first[: len(rest_of_first) - end]
    only_second = rest_of_second[: len(rest_of_second) - end]

    # Names that end with numbers are meant to differ.
    if not (only_first + only_second).isalpha():
        return False
    is_one_letter = max(len(only_first), len(only_second)) == 1
    is_swapped = len(only_first) == 2 and only_first == only_second[::-1]
    return is_one_letter or is_swapped


def _count_equal(first: str, second: str) -> int:
    """Return how many characters are the same from the start on."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
