"""Parses the categories of one file of COCO's detection format: the classes."""

from collections.abc import Sequence
from dataclasses import dataclass

from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.coco_entries import CocoEntry
from detreg.data.formats.coco_values import format_id, make_key, parse_whole_number
from detreg.data.formats.lookup import find_duplicates
from detreg.errors import quote


@dataclass(frozen=True)
class _Category:
    """One category; `supercategory` is whatever the file states, None where it states none."""

    id: int
    name: str
    supercategory: object


def parse_categories(
    entries: Sequence[CocoEntry], is_zero_used: bool, source: str, problems: ProblemCollector
) -> dict[str, str]:
    """Return the names of the categories by their ids as text, in the order of the ids.

    is_zero_used: whether an annotation has the category 0.

    Raises BadEntryError for a category without a number or a name.
    """
    categories = []
    for position, entry in enumerate(entries, start=1):
        category_id = entry.get("id")
        name = entry.get("name")
        category_id = parse_whole_number(category_id)
        if not isinstance(name, str) or category_id is None:
            raise BadEntryError(
                FindingKind.INVALID_CLASS,
                f"category at position {position} needs a number as id and a text as name; "
                "correct it",
            )
        categories.append(_Category(category_id, name, entry.get("supercategory")))

    used_categories = _drop_roboflow_dummy(categories, is_zero_used)
    if len(used_categories) < len(categories):
        problems.add(
            FindingKind.UNUSED_CATEGORY,
            Severity.NOTE,
            source,
            "category without annotations that Roboflow adds for the whole project left out",
        )
    categories = used_categories
    categories.sort(key=lambda category: category.id)

    for category_id in find_duplicates(category.id for category in categories):
        problems.add_error(
            FindingKind.DUPLICATE_CLASS,
            source,
            f"category id {format_id(category_id)} is given twice; "
            "give each category an id of its own",
        )
    for name in find_duplicates(category.name for category in categories):
        problems.add_error(
            FindingKind.DUPLICATE_CLASS,
            source,
            f"two categories are named {quote(name)}; merge them or rename one",
        )
    return {make_key(category.id): category.name for category in categories}


def _drop_roboflow_dummy(categories: Sequence[_Category], is_zero_used: bool) -> list[_Category]:
    """Return the categories without the one that Roboflow adds for the project as a whole.

    It has the id 0, no annotation, and the name that all other categories state as supercategory.
    """
    parents = [category.supercategory for category in categories if category.id != 0]
    have_one_parent = len(parents) > 0 and all(parent == parents[0] for parent in parents)
    if is_zero_used or not have_one_parent:
        return list(categories)

    kept = []
    for category in categories:
        is_dummy = category.id == 0 and category.name == parents[0]
        if not is_dummy:
            kept.append(category)
    return kept
