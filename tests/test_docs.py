"""The pages name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
SOURCE_FILE = re.compile(r"`((?:detreg|tests|benchmarks)/[\w/]+\.py)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_source_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    # The changelog names files of earlier versions.
    if page.name != "CHANGELOG.md":
        missing += [file for file in SOURCE_FILE.findall(text) if not (ROOT / file).exists()]

    assert missing == []


def test_the_pages_name_every_test_file() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    short_names = re.findall(r"`(\w+)\.py`", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    modules = {path.stem for path in (ROOT / "detreg").rglob("*.py")}

    named = re.findall(r"`(test_\w+\.py)`", contributing)
    assert named
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []
    assert [name for name in short_names if name not in modules] == []
