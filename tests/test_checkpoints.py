"""Checkpoints are whole or absent, and hold tensors and plain values only."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from detreg.errors import DataError, DiskError, RefusedError
from detreg.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from detreg.training.epoch_metrics import EpochMetrics

WEIGHT = torch.arange(6.0).view(2, 3)


def make_checkpoint(classes: tuple[str, ...] = ("boat", "car")) -> Checkpoint:
    return Checkpoint(
        state_dict={"backbone.conv.weight": WEIGHT},
        classes=classes,
        epoch=3,
        best_epoch=2,
        best_score=0.25,
        history=(EpochMetrics(1, {"loss": 2.0, "lr": 0.1}, {"mAP": 0.25}),),
        training={"optimizer": {"state": {}}, "ema_steps": 7},
    )


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    written = make_checkpoint()
    save_checkpoint(path, written)

    content = torch.load(path, weights_only=True)
    assert content["meta"]["dataset_meta"]["CLASSES"] == ["boat", "car"]
    assert content["meta"]["history"] == [
        {"epoch": 1.0, "train/loss": 2.0, "train/lr": 0.1, "val/mAP": 0.25}
    ]

    read = load_checkpoint(path)
    assert torch.equal(read.state_dict["backbone.conv.weight"], WEIGHT)
    assert read.classes == written.classes
    assert (read.epoch, read.best_epoch, read.best_score) == (3, 2, 0.25)
    assert read.history == written.history
    assert read.training == written.training


class Malicious:
    """Runs a command where it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, (f"touch {self.marker}",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "code-was-run"
    content = {"state_dict": {"w": torch.zeros(1)}, "meta": Malicious(marker)}
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(RefusedError, match="more than tensors and plain values"):
        load_checkpoint(tmp_path / "bad.pth")
    assert not marker.exists()


def test_stock_checkpoints_of_mmengine_load(tmp_path: Path) -> None:
    path = tmp_path / "stock.pth"
    meta = {
        "dataset_meta": {"CLASSES": ("boat",), "PALETTE": [(1, 2, 3)]},
        "epoch": 12,
        "seed": np.float64(3.0),
    }
    logs = {"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}
    content = {
        "state_dict": {"backbone.w": torch.ones(2)},
        "meta": meta,
        "message_hub": {"log_scalars": logs},
    }
    torch.save(content, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)

    read = load_checkpoint(path)
    assert read.classes == ("boat",)
    assert read.training is None
    assert list(read.state_dict) == ["backbone.w"]


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_weights_are_found_in_every_layout(key: str | None, tmp_path: Path) -> None:
    weights = {"backbone.w": torch.ones(2)}
    torch.save({key: weights} if key else weights, tmp_path / "file.pth")
    assert list(load_checkpoint(tmp_path / "file.pth").state_dict) == ["backbone.w"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "broken or cut off"),
        (b"not a checkpoint", "broken"),
        ({"state_dict": {}}, "has no weights"),
        ([1], "must hold a checkpoint, got a list"),
    ],
)
def test_other_files_are_refused(content: object, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(DataError, match=words):
        load_checkpoint(path)


def test_a_checkpoint_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "whole.pth", make_checkpoint())
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cut off"):
        load_checkpoint(tmp_path / "cut.pth")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(path, make_checkpoint())
    before = path.read_bytes()

    # What write_atomically opens for writing, in place of which there is a full disk.
    temporary = tmp_path / f".last.pth.{os.getpid()}.part"
    temporary.symlink_to("/dev/full")
    with pytest.raises(DiskError, match="resume with continue_from_eid"):
        save_checkpoint(path, make_checkpoint(("other",)))
    assert path.read_bytes() == before
    assert not temporary.is_symlink()


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
import torch
from detreg.training.checkpoints import Checkpoint, save_checkpoint

for epoch in itertools.count(1):
    weights = {"w": torch.full((500_000,), float(epoch))}
    save_checkpoint(Path(sys.argv[1]), Checkpoint(weights, epoch=epoch))
    print(epoch, flush=True)
"""


def check_whole(path: Path) -> None:
    read = load_checkpoint(path)
    assert torch.equal(read.state_dict["w"], torch.full((500_000,), float(read.epoch)))


def test_a_reader_and_kill_9_find_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
        check_whole(path)  # while the next one is being written

    process.send_signal(signal.SIGKILL)
    process.wait()
    check_whole(path)
