"""Findings as people and machines read them: grouped, the most harmful first, on one screen."""

import json
from pathlib import Path

import pytest
from small_datasets import Document, edit_json, make_labeled_image, write_pets

from detreg.cli import run
from detreg.data.finding_groups import group_findings
from detreg.data.findings import FindingKind, ProblemCollector
from detreg.data.formats import write
from detreg.data.screen import MAX_ROWS, format_findings
from detreg.data.summary import format_inspection, inspect_dataset

SCREEN_ROWS = 24


def collect_many() -> ProblemCollector:
    """Return findings of twelve kinds, with up to 3000 of a kind."""
    problems = ProblemCollector()
    kinds = list(FindingKind)[:12]
    for position, kind in enumerate(kinds):
        for number in range(3000 if position == 5 else 7):
            where = f"a/long/folder/annotations_{position}.json annotation {number} (class cat)"
            if position == 11:
                problems.add_repair(kind, where, "box clipped to its image")
            else:
                problems.add_error(kind, where, f"value {number} is 'wrong'; write {position}")
    return problems


def test_equal_findings_are_one_group_the_most_harmful_first() -> None:
    problems = ProblemCollector()
    problems.add_repair(FindingKind.BOX_CLIPPED, "a", "box clipped to its image")
    problems.add_error(FindingKind.INVALID_CLASS, "b", "the name 'x' is empty; rename it")
    for number in range(5):
        problems.add_error(FindingKind.INVALID_BOX, f"c {number}", f"has {number} values; write 4")
    problems.add_error(FindingKind.INVALID_BOX, "d", "is not finite; correct it")
    for number in range(9):
        of_image = problems.for_image(f"{number}.jpg")
        of_image.add_error(FindingKind.MISSING_IMAGE, "e", "the image is missing; add it")

    groups = group_findings(problems.findings)
    assert [(group.severity, group.count) for group in groups] == [
        ("error", 5),
        ("error", 1),
        ("error", 1),
        # More, but the rest of the dataset is right without these images.
        ("error", 9),
        ("repair", 1),
    ]
    assert groups[0].list_places() == ["c 0", "c 1", "c 2", "c 3", "c 4"]
    assert groups[0].list_examples() == [
        "c 0: has 0 values; write 4",
        "c 1: has 1 values; write 4",
        "c 2: has 2 values; write 4",
    ]


@pytest.mark.parametrize("width", [None, 60, 80, 200])
def test_findings_fit_a_screen_and_the_rest_is_counted(width: int | None) -> None:
    groups = group_findings(collect_many().findings)
    rows = format_findings(groups, width)
    assert len(rows) <= MAX_ROWS
    assert width is None or max(map(len, rows)) <= width
    assert "annotations_5.json annotation 0" in rows[0]
    assert any("2999 more like it" in row for row in rows)
    assert rows[-1].startswith("... and ")
    assert "7 repairs of " in rows[-1]


def test_few_findings_are_shown_in_full() -> None:
    problems = ProblemCollector()
    problems.add_error(FindingKind.INVALID_BOX, "a 1", "has 3 values; write 4")
    problems.add_error(FindingKind.INVALID_BOX, "a 2", "has 2 values; write 4")
    for place in ("x", "y", "z", "w"):
        problems.add_repair(FindingKind.THIN_BOX, place, "thin box dropped")
    assert format_findings(group_findings(problems.findings), None) == [
        "problem: a 1: has 3 values; write 4",
        "problem: a 2: has 2 values; write 4",
        "repaired: thin box dropped (4): x, y, z, ...",
    ]


def write_flood(folder: Path) -> Path:
    """Write a COCO dataset with 2000 boxes outside their image and as many of unknown classes."""
    write_pets(folder)

    def damage(document: Document) -> None:
        first = document["annotations"][0]
        for number in range(4000):
            flaw = {"category_id": 50} if number % 2 else {"bbox": [500, 500, number, 9]}
            document["annotations"].append({**first, **flaw, "id": 100 + number})

    edit_json(folder / "annotations" / "train.json", damage)
    return folder


def test_json_has_all_of_what_the_screen_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_flood(tmp_path / "flood")
    inspected = inspect_dataset(folder, tmp_path / "cache")
    lines = format_inspection(str(folder), inspected, width=80)
    assert len(lines) < SCREEN_ROWS
    assert any("--json" in line for line in lines)

    assert run(["check", str(folder), "--json"]) == 65
    report = json.loads(capsys.readouterr().out)
    assert len(report["problems"]) == 3999
    assert {group["count"]: group["kind"] for group in report["findings"]} == {
        2000: "unknown_class",
        1999: "box_outside_image",
        1: "empty_box",
    }
    for group in report["findings"]:
        assert len(group["places"]) == group["count"]
        assert len(group["examples"]) == min(3, group["count"])
        assert group["severity"] == ("repair" if group["kind"] == "empty_box" else "error")
        assert group["message"]
        assert bool(group["remedy"]) == (group["severity"] == "error")


def test_strict_refuses_warnings_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_pets(tmp_path / "good")
    assert run(["check", str(folder), "--strict"]) == 0

    splits = {
        "train": [make_labeled_image(1, "cat"), make_labeled_image(2, "cat")],
        "val": [make_labeled_image(2, "cat")],
    }
    shared = tmp_path / "shared"
    write("coco", shared, ("cat",), splits)
    assert run(["check", str(shared)]) == 0
    shown = capsys.readouterr().out
    assert "warning: image of another split found in train too" in shown
    assert "is good, with 1 warning: coco" in shown
    assert run(["check", str(shared), "--strict"]) == 65
