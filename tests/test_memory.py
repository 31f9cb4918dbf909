"""Every library's way to say that no memory is left ends in exit code 71, with what to lower."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import mlflow
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import TINY
from mlflow.entities import Run as MlflowRun
from onnx import TensorProto, helper
from torch.utils.data import get_worker_info

from detreg import cli
from detreg.errors import DataError, MemoryExhaustedError
from detreg.inference.detector import Detector
from detreg.memory import Shortage, find_memory_error, find_shortage, translate_memory_errors
from detreg.tasks import export_checkpoint
from detreg.training import checkpoints
from detreg.training.epoch_hooks import LossMeter
from detreg.training.seeding import SeededIndex, SeedImage

Capture = pytest.CaptureFixture[str]
IMPOSSIBLE = 2**50
"""Bytes that no machine has: they are refused at once."""


def allocate_too_much(*arguments: object, **named: object) -> None:
    torch.empty(IMPOSSIBLE, dtype=torch.uint8)


def allocate_in_onnxruntime() -> None:
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [2])
    zeros = helper.make_tensor_value_info("zeros", TensorProto.FLOAT, [None, None])
    node = helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    graph = helper.make_graph([node], "graph", [shape], [zeros])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {"shape": np.array([2**24, 2**24])})


def allocate_in_opencv() -> None:
    side = 2**30 - 1
    cv2.resize(np.zeros((4, 4, 3), np.uint8), (side, side))


@pytest.mark.parametrize(
    "allocate",
    [
        allocate_too_much,
        allocate_in_onnxruntime,
        allocate_in_opencv,
        lambda: np.empty(IMPOSSIBLE * 16),
        lambda: bytearray(IMPOSSIBLE * 16),
    ],
)
def test_every_library_that_refuses_an_allocation_is_understood(
    allocate: Callable[[], object],
) -> None:
    words = "the machine has no memory left: lower batch_size"
    with pytest.raises(MemoryExhaustedError, match=words), translate_memory_errors():
        allocate()


@pytest.mark.parametrize(
    ("error", "shortage"),
    [
        (RuntimeError("std::bad_alloc"), Shortage.MACHINE),
        (OSError(12, "Cannot allocate memory"), Shortage.MACHINE),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Shortage.GPU),
        (torch.OutOfMemoryError("worded differently"), Shortage.GPU),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), Shortage.GPU),
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "),
            Shortage.LOADER,
        ),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), Shortage.LOADER),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Aborted. "), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ],
)
def test_what_an_error_says_of_missing_memory(error: Exception, shortage: Shortage | None) -> None:
    assert find_shortage(error) is shortage
    # The same as the cause of another error, as libraries chain them.
    outer = ValueError("loading failed")
    outer.__cause__ = error
    assert find_shortage(outer) is shortage


def test_a_crash_in_a_loader_is_no_want_of_memory() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")
    error.__cause__ = RuntimeError(
        "DataLoader worker (pid 12) is killed by signal: Segmentation fault. "
    )
    assert find_shortage(error) is None


def test_our_own_errors_stay_what_they_are() -> None:
    error = DataError("the image is too large")
    error.__cause__ = MemoryError()
    assert find_memory_error(error) is None


def test_a_checkpoint_that_does_not_fit_into_memory_is_not_called_broken(
    dense_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", allocate_too_much)
    monkeypatch.setattr(checkpoints, "_has_room_for", lambda path: False)  # noqa: ARG005
    with pytest.raises(MemoryExhaustedError):
        checkpoints.load_checkpoint(dense_checkpoint)


# The commands.


def run_without_memory(capsys: Capture, argv: list[str]) -> str:
    """Run a command that must end with 71 and one line, which is returned."""
    assert cli.run(argv) == 71
    lines = capsys.readouterr().err.splitlines()
    problems = [line for line in lines if line.startswith("detreg: ")]
    assert len(problems) == 1
    assert "Traceback" not in "\n".join(lines)
    return problems[0]


def train_arguments(data: Path, **values: object) -> list[str]:
    argv = ["train", "yolox", "--data", str(data)]
    for name, value in {**TINY, **values}.items():
        argv += [f"--{name}", str(value)]
    return argv


def get_last_run() -> MlflowRun:
    found = mlflow.search_runs(
        order_by=["attributes.start_time DESC"], max_results=1, output_format="list"
    )
    assert isinstance(found, list)
    return found[0]


def test_predict_and_evaluate_end_with_71(
    store: str, tiny: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "load", allocate_too_much)
    # What is refused before a model is loaded is another matter.
    model = tmp_path / "model.onnx"
    model.touch()
    run_without_memory(capsys, ["evaluate", str(model), "--data", str(tiny)])
    out = str(tmp_path / "out")
    run_without_memory(capsys, ["predict", str(model), str(tiny), "--out", out])


def test_export_ends_with_71(
    dense_checkpoint: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_checkpoint, "build_network", allocate_too_much)
    argv = ["export", "yolox", "--load_from", str(dense_checkpoint)]
    argv += ["--base_model", "yolox_nano", "--out", str(tmp_path / "model.onnx")]
    run_without_memory(capsys, argv)


def test_train_ends_with_71_and_names_its_values(
    store: str, tiny: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LossMeter, "after_train_iter", allocate_too_much)
    problem = run_without_memory(capsys, train_arguments(tiny))
    assert "no memory left: lower batch_size=4, image_size=64 or num_workers=0" in problem
    run = get_last_run()
    assert run.info.status == "FAILED"
    assert "lower batch_size=4" in run.data.tags["detreg.failure"]


def test_a_killed_data_worker_ends_with_71(
    store: str, tiny: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_image = SeedImage.__call__

    def die_in_loader(self: SeedImage, results: dict[str, object]) -> dict[str, object]:
        is_in_loader = get_worker_info() is not None
        if is_in_loader and isinstance(results["sample_idx"], SeededIndex):
            os.kill(os.getpid(), signal.SIGKILL)
        return seed_image(self, results)

    monkeypatch.setattr(SeedImage, "__call__", die_in_loader)
    problem = run_without_memory(capsys, train_arguments(tiny, num_workers=1))
    assert "a process that loads images was killed" in problem
    assert "num_workers=1" in problem
    assert "was killed" in get_last_run().data.tags["detreg.failure"]
