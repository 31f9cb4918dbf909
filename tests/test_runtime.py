"""onnxruntime as a session: devices, and files that it cannot run."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from toy_detector import write_toy_model

from detreg.errors import DataError, RefusedError
from detreg.inference import runtime
from detreg.inference.onnx_graph.check import read_checked_graph
from detreg.inference.session import InputShape


def test_a_session_gives_the_outputs_by_name(tmp_path: Path) -> None:
    path = write_toy_model(tmp_path / "toy.onnx", shape=("n", "32", "64"))
    model = path.read_bytes()
    session = runtime.open_session(model, read_checked_graph(model))
    assert session.input_shape == InputShape(batch=None, height=32, width=64)
    assert session.output_names == ("boxes", "scores", "labels")

    images = np.full((2, 32, 64, 3), 255, np.uint8)
    outputs = session.run(images, ["labels", "scores"])
    assert outputs["labels"].tolist() == [[0, 1, -1]] * 2
    np.testing.assert_allclose(outputs["scores"], [[1, 0.5, 0]] * 2, atol=1e-6)


def test_bytes_that_onnxruntime_does_not_take_are_refused(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy.onnx").read_bytes()
    with pytest.raises(DataError, match="onnxruntime cannot open it"):
        runtime.open_session(b"not a network", read_checked_graph(model))


def test_the_cpu_never_replaces_a_required_gpu_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_toy_model(tmp_path / "toy.onnx").read_bytes()
    graph = read_checked_graph(model)
    monkeypatch.setattr(runtime, "count_cuda_devices", lambda: 0)
    assert runtime.open_session(model, graph, threads=1).device == "cpu"
    with pytest.raises(RefusedError, match="shows no GPU"):
        runtime.open_session(model, graph, require_gpu=True)


def test_a_gpu_that_onnxruntime_cannot_use_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_toy_model(tmp_path / "toy.onnx").read_bytes()
    graph = read_checked_graph(model)
    monkeypatch.setattr(runtime, "count_cuda_devices", lambda: 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [runtime.CPU])
    with pytest.warns(RuntimeWarning, match="built without CUDA"):
        runtime.open_session(model, graph)
    with pytest.raises(RefusedError, match="built without CUDA"):
        runtime.open_session(model, graph, require_gpu=True)
