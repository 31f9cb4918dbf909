"""The journal of a run: what is on the disk after a kill, a full disk, or half of a delivery."""

import errno
import os
from pathlib import Path

import pytest

from detreg.errors import DataError
from detreg.tracking.journal import Journal, has_ended
from detreg.tracking.records import Artifact, End, Metrics, Params, SavedCheckpoints, Tags

LOSS = Metrics({"loss": 0.5}, step=1, time=1000)
TAGS = Tags({"name": "value\nwith a line"})
END = End("FINISHED", 2000)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [LOSS, TAGS, Params({"seed": "0"}), Artifact("outbox/3/x", None), END]
    journal = Journal(tmp_path)
    for record in written:
        journal.append(record)
    assert Journal(tmp_path).records == written
    assert has_ended(tmp_path)


def test_what_is_delivered_is_counted_across_processes(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(LOSS)
    journal.append(TAGS)
    assert journal.peek() == LOSS
    journal.count_delivered(LOSS)

    again = Journal(tmp_path)
    assert (again.pending, again.peek()) == (1, TAGS)
    again.count_delivered(TAGS)
    assert Journal(tmp_path).peek() is None


def test_a_kill_within_a_line_leaves_the_lines_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(LOSS)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole + whole[:length])
        again = Journal(tmp_path)
        assert again.records == [LOSS], length
        again.append(TAGS)
        assert Journal(tmp_path).records == [LOSS, TAGS]


def test_a_full_disk_leaves_the_lines_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    journal = Journal(tmp_path)
    journal.append(LOSS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            journal.append(TAGS)
        # Not counted, but not lost: it is delivered once more.
        journal.count_delivered(LOSS)
    journal.append(END)
    assert Journal(tmp_path).records == [LOSS, END]
    assert Journal(tmp_path).peek() == LOSS


def test_an_end_is_left_out_where_the_run_went_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(END)
    assert journal.is_ended
    journal.append(LOSS)
    assert not journal.is_ended
    assert not has_ended(tmp_path)
    assert journal.peek() == LOSS


def test_the_files_of_a_delivered_record_are_removed(tmp_path: Path) -> None:
    file = tmp_path / "outbox" / "0" / "x.txt"
    file.parent.mkdir(parents=True)
    file.write_text("x")
    artifact = Artifact("outbox/0/x.txt", None)
    journal = Journal(tmp_path)
    journal.append(artifact)
    assert journal.has_pending_files
    journal.count_delivered(artifact)
    assert not journal.has_pending_files
    assert not file.exists()


def test_a_refused_record_is_kept_aside(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(LOSS)
    journal.put_aside(LOSS)
    assert journal.peek() is None
    assert "loss" in (tmp_path / "refused.jsonl").read_text()


def test_a_record_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"kind": "Later"}\n')
    with pytest.raises(DataError, match=r"journal\.jsonl, line 1, is not a record"):
        Journal(tmp_path)


def test_the_newest_checkpoints_are_known() -> None:
    saved = SavedCheckpoints(3, 0, "last.pth", "best.pth")
    assert saved.is_newer_than({})
    assert saved.is_newer_than({"epoch": 2, "step": 7})
    assert not saved.is_newer_than({"epoch": 3})
    within = SavedCheckpoints(3, 5, "last.pth", "best.pth")
    assert within.is_newer_than({"epoch": 3})
    assert '"step": 5' in within.to_tag("checkpoints/1")
