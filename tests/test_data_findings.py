"""Findings: valid once made, collected with their place, and turned into what users read."""

from pathlib import Path

import pytest
from small_datasets import Document, edit_json, write_pets

from detreg.data.check import check_dataset
from detreg.data.findings import (
    BadEntryError,
    Finding,
    FindingKind,
    ProblemCollector,
    Severity,
    count_repairs,
    has_errors,
    list_problems,
)
from detreg.data.formats import read


@pytest.mark.parametrize(("where", "message"), [("", "is wrong"), (" ", "is wrong"), ("here", "")])
def test_finding_must_say_where_and_what(where: str, message: str) -> None:
    with pytest.raises(ValueError, match="must"):
        Finding(FindingKind.INVALID_BOX, Severity.ERROR, where, message)


def test_bad_entry_becomes_an_error_at_its_place() -> None:
    problems = ProblemCollector()
    with problems.catch_bad_entry("line 3"):
        raise BadEntryError(FindingKind.INVALID_BOX, "has 4 numbers; write 5")

    (found,) = problems.findings
    assert found == Finding(
        FindingKind.INVALID_BOX, Severity.ERROR, "line 3", "has 4 numbers", remedy="write 5"
    )
    assert list_problems(problems.findings) == ("line 3: has 4 numbers; write 5",)


def test_findings_of_an_image_stand_among_the_others() -> None:
    problems = ProblemCollector()
    problems.for_image("images/1.jpg").add_error(FindingKind.INVALID_BOX, "line 3", "is wrong")
    problems.add_error(FindingKind.INVALID_CLASS, "classes", "is wrong")
    assert [finding.image for finding in problems.findings] == ["images/1.jpg", ""]


def test_other_exceptions_are_not_caught() -> None:
    problems = ProblemCollector()
    with pytest.raises(KeyError), problems.catch_bad_entry("line 3"):
        raise KeyError
    assert problems.findings == []


def test_repairs_are_counted_in_one_order() -> None:
    problems = ProblemCollector()
    problems.add_repair(FindingKind.THIN_BOX, "a", "thin")
    problems.add_repair(FindingKind.BOX_CLIPPED, "b", "clipped")
    problems.add_repair(FindingKind.THIN_BOX, "c", "thin")
    assert not has_errors(problems.findings)

    problems.add_error(FindingKind.INVALID_BOX, "d", "wrong")
    assert has_errors(problems.findings)
    assert list(count_repairs(problems.findings).items()) == [("clipped", 1), ("thin", 2)]


def test_check_says_kind_severity_and_place(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")

    def damage(document: Document) -> None:
        document["annotations"][0]["bbox"] = [30, 20, 11, 9]
        document["annotations"][1]["bbox"] = [20, 5, -10, 5]
        document["images"][1]["width"] = 80

    edit_json(folder / "annotations" / "train.json", damage)
    findings = check_dataset(read(folder)).findings
    assert [(finding.kind, finding.severity, finding.where) for finding in findings] == [
        (
            FindingKind.BOX_CLIPPED,
            Severity.REPAIR,
            "annotations/train.json annotation 1 (class cat)",
        ),
        (
            FindingKind.INVALID_BOX,
            Severity.ERROR,
            "annotations/train.json annotation 2 (class dog)",
        ),
        (
            FindingKind.SIZE_MISMATCH,
            Severity.ERROR,
            "images/train/002.png (in annotations/train.json)",
        ),
    ]
