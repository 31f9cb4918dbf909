"""Checkpoints: whole or absent, tensors and plain values only."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from detreg.errors import DataError, DiskError
from detreg.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from detreg.training.epoch_metrics import EpochMetrics


def example(classes: tuple[str, ...] = ("boat", "car")) -> Checkpoint:
    weights = {"backbone.conv.weight": torch.arange(6.0).view(2, 3)}
    return Checkpoint(
        weights,
        classes,
        3,
        2,
        0.25,
        (EpochMetrics(1, {"loss": 2.0, "lr": 0.1}, {"mAP": 0.25}),),
        {"optimizer": {"state": {}}, "ema_steps": 7},
    )


def test_round_trip_with_weights_only(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pth", example())
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    assert content["meta"]["dataset_meta"]["CLASSES"] == ["boat", "car"]
    read = load_checkpoint(tmp_path / "last.pth")
    assert (read.classes, read.epoch, read.best_epoch, read.best_mAP, read.history, read.training) == (
        ("boat", "car"), 3, 2, 0.25, example().history, example().training,
    )  # fmt: skip
    assert torch.equal(read.state_dict["backbone.conv.weight"], torch.arange(6.0).view(2, 3))


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, ("touch /tmp/detreg-was-here",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(DataError, match="more than tensors and plain values"):
        load_checkpoint(tmp_path / "bad.pth")
    assert not Path("/tmp/detreg-was-here").exists()


def test_the_stock_checkpoints_of_mmengine_load(tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    meta = {
        "dataset_meta": {"CLASSES": ("boat",), "PALETTE": [(1, 2, 3)]},
        "epoch": 12,
        "seed": np.float64(3.0),
    }
    logs = {"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}
    torch.save(
        {
            "state_dict": {"backbone.w": torch.ones(2)},
            "meta": meta,
            "message_hub": {"log_scalars": logs},
        },
        tmp_path / "stock.pth",
    )
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "stock.pth", weights_only=True)
    read = load_checkpoint(tmp_path / "stock.pth")
    assert (
        read.classes == ("boat",)
        and read.training is None
        and list(read.state_dict) == ["backbone.w"]
    )


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
    save_checkpoint(tmp_path / "whole.pth", example())
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut off"):
        load_checkpoint(tmp_path / "cut.pth")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    path = tmp_path / "last.pth"
    save_checkpoint(path, example())
    before = path.read_bytes()
    temporary = tmp_path / f".last.pth.{os.getpid()}.part"
    temporary.symlink_to("/dev/full")
    with pytest.raises(DiskError, match="resume with continue_from_eid"):
        save_checkpoint(path, example(("other",)))
    assert path.read_bytes() == before and not temporary.is_symlink()


def test_kill_9_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    code = (
        "import sys, torch; from pathlib import Path; from detreg.training.checkpoints import Checkpoint, save_checkpoint\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1; save_checkpoint(Path(sys.argv[1]), Checkpoint({'w': torch.full((500_000,), float(n))}, epoch=n)); print(n, flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for delay in (0.001, 0.003, 0.007):
        process.stdout.readline()
        time.sleep(delay)
        seen = load_checkpoint(path)  # also while it is being written
        assert torch.equal(seen.state_dict["w"], torch.full((500_000,), float(seen.epoch)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = load_checkpoint(path)
    assert torch.equal(last.state_dict["w"], torch.full((500_000,), float(last.epoch)))
