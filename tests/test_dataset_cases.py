"""Datasets as people have them: each is read exactly, or refused with words that help."""

from pathlib import Path

import pytest
from case_lists import CASES
from dataset_cases import Case, find_fault


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_dataset_is_read_as_wanted(tmp_path: Path, case: Case) -> None:
    assert find_fault(case, tmp_path) == ""


def test_cases_have_names_of_their_own() -> None:
    names = {case.id for case in CASES}
    assert len(names) == len(CASES)
