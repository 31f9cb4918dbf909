"""onnxruntime as a session: devices, and files that it cannot run."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from toy_detector import write_toy_model

from detreg.errors import DataError, RefusedError
from detreg.inference import runtime
from detreg.inference.session import InputShape


def test_a_session_gives_the_outputs_by_name(tmp_path: Path) -> None:
    path = write_toy_model(tmp_path / "toy.onnx", shape=("n", "32", "64"))
    session = runtime.open_session(path.read_bytes())
    assert session.input_shape == InputShape(batch=None, height=32, width=64)
    assert session.output_names == ("boxes", "scores", "labels")

    images = np.full((2, 32, 64, 3), 255, np.uint8)
    outputs = session.run(images, ["labels", "scores"])
    assert outputs["labels"].tolist() == [[0, 1, -1]] * 2
    np.testing.assert_allclose(outputs["scores"], [[1, 0.5, 0]] * 2, atol=1e-6)


def test_bytes_that_are_not_a_model_are_refused() -> None:
    with pytest.raises(DataError, match="onnxruntime cannot open it"):
        runtime.open_session(b"not a network")


def test_a_graph_with_another_input_is_refused(tmp_path: Path) -> None:
    model = onnx.load(write_toy_model(tmp_path / "toy.onnx"))
    model.graph.input[0].name = "pixels"
    model.graph.node[0].input[0] = "pixels"
    # The toy computes `pixels` itself: rename what it computes.
    for node in model.graph.node:
        node.output[:] = ["cast" if name == "pixels" else name for name in node.output]
        if node.op_type != "Cast":
            node.input[:] = ["cast" if name == "pixels" else name for name in node.input]
    with pytest.raises(DataError, match=r"inputs \['pixels'\] instead of \['images'\]"):
        runtime.open_session(model.SerializeToString())


def test_the_cpu_never_replaces_a_required_gpu_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_toy_model(tmp_path / "toy.onnx").read_bytes()
    monkeypatch.setattr(runtime, "count_cuda_devices", lambda: 0)
    assert runtime.open_session(model, threads=1).device == "cpu"
    with pytest.raises(RefusedError, match="shows no GPU"):
        runtime.open_session(model, require_gpu=True)


def test_a_gpu_that_onnxruntime_cannot_use_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_toy_model(tmp_path / "toy.onnx").read_bytes()
    monkeypatch.setattr(runtime, "count_cuda_devices", lambda: 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [runtime.CPU])
    with pytest.warns(RuntimeWarning, match="built without CUDA"):
        runtime.open_session(model)
    with pytest.raises(RefusedError, match="built without CUDA"):
        runtime.open_session(model, require_gpu=True)
