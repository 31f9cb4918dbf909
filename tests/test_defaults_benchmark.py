"""The tables of the docs are those that benchmarks/defaults.py makes of what was recorded."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "defaults.py"


@pytest.fixture(scope="module")
def tables() -> dict[str, list[str]]:
    """Return the printed rows of each table by its title."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT)])
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(words)))
        runpy.run_path(str(SCRIPT), run_name="__main__")

    rows: dict[str, list[str]] = {}
    title = ""
    for line in "\n".join(printed).splitlines():
        if line.startswith("|"):
            rows.setdefault(title, []).append(line)
        elif line:
            title = line
    return rows


def test_the_tables_are_those_of_the_documentation(tables: dict[str, list[str]]) -> None:
    pages = [ROOT / "docs" / name for name in ("train.md", "sweep.md")]
    text = "".join(page.read_text() for page in pages)
    assert len(tables) == 5
    for title, rows in tables.items():
        assert len(rows) > 3, title
        # A forest of random trees, whose last digits may differ between processors.
        if not title.startswith("Importances"):
            assert "\n".join(rows) in text, title


def test_what_is_frozen_matters_most(tables: dict[str, list[str]]) -> None:
    (title,) = (title for title in tables if title.startswith("Importances"))
    first = tables[title][2]
    assert first.startswith("| frozen_stages | ")
    assert int(first.split("|")[2].strip(" %")) > 30


def test_few_images_win_on_every_dataset_and_length(tables: dict[str, list[str]]) -> None:
    (title,) = (title for title in tables if title.startswith("Recipes"))
    for row in tables[title][2:]:
        gain = row.split("|")[5]
        assert float(gain) > 0, row
