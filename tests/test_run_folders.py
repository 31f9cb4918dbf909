"""The folders of runs in the cache."""

from pathlib import Path

import pytest

from detreg.tracking.run_folders import claim_run_folder, list_run_folders


def test_what_is_no_runs_folder_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path))
    claimed = claim_run_folder("0123456789abcdef" * 2)
    claimed.release()
    for name in (".Trash-1000", "backup", "0123456789abcdef"):
        (claimed.path.parent / name).mkdir()

    # Whatever is listed is settled, and removed.
    assert list_run_folders() == [claimed.path]
