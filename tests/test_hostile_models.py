"""ONNX files and cards that a stranger might send are refused before anything in them runs.

`pytest -m soak tests/test_hostile_models.py` gives each of them to `detreg predict` in a process of
its own, and measures its memory.
"""

import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hostile_graphs import GRAPHS, RUNS_CODE, add_chain, constant, node
from toy_detector import CARD, draw_image, encode_image, write_toy_model

from detreg.errors import DataError, RefusedError
from detreg.inference.card import METADATA_KEY
from detreg.inference.detector import Detector
from detreg.inference.model_files import MAX_MODEL_BYTES
from detreg.inference.onnx_graph.arrays import Array
from detreg.inference.onnx_graph.reading import read_graph
from detreg.inference.onnx_graph.size import follow_graph

COMPATIBILITY = Path(__file__).parent / "compatibility"
MAX_PROCESS_BYTES = 1_500_000_000


def write_graph(name: str, path: Path) -> Path:
    """Write the hostile graph of a name."""
    model = onnx.load(write_toy_model(path))
    replaced = GRAPHS[name](model)
    path.write_bytes(model.SerializeToString() if replaced is None else replaced)
    return path


@pytest.mark.parametrize("name", GRAPHS)
def test_a_hostile_graph_is_refused_before_it_is_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *rest, **_: opened.append(rest))
    error = RefusedError if name in RUNS_CODE else DataError
    with pytest.raises(error) as refused:
        Detector.load(write_graph(name, tmp_path / "model.onnx"))

    assert not opened
    (problem,) = refused.value.problems
    assert problem.startswith(f"{tmp_path / 'model.onnx'}: ")
    assert len(problem) < len(str(tmp_path)) + 500


def test_a_graph_that_grows_with_some_sizes_of_images_is_refused_at_these(tmp_path: Path) -> None:
    """A batch of two, or an image of another size, is judged when it comes."""
    grow = add_chain(
        node("Shape", "images", "of_images"),
        constant("zeroth", [0]),
        node("Gather", "of_images zeroth", "batch"),
        constant("unit", [1]),
        node("Sub", "batch unit", "more"),
        constant("million", [10**6]),
        constant("thousand", [1000]),
        node("Mul", "more million", "many"),
        node("Mul", "many thousand", "length"),
        node("ConstantOfShape", "length", "grown"),
    )
    model = onnx.load(write_toy_model(tmp_path / "grows.onnx"))
    grow(model)
    onnx.save(model, tmp_path / "grows.onnx")

    detector = Detector.load(tmp_path / "grows.onnx")
    image = np.zeros((64, 64, 3), np.uint8)
    detector(image)
    with pytest.raises(DataError, match=r"takes up to .* MiB for 2 images of 64 x 64"):
        detector.batch([image, image])


def change_card(**values: object) -> Callable[[dict[str, Any]], str]:
    """Return what writes the toy's card with other values; those of `preprocessing` go there."""

    def write(card: dict[str, Any]) -> str:
        for name, value in values.items():
            place = card["preprocessing"] if name in card["preprocessing"] else card
            place[name] = value
        return json.dumps(card)

    return write


def write_raw(key: str, text: str) -> Callable[[dict[str, Any]], str]:
    """Return what writes the toy's card with `text` as the JSON of one value."""
    return lambda card: json.dumps({**card, key: "@"}).replace('"@"', text)


FIGURES = {"score_threshold": 0.4, "interval": None, "precision": 1, "recall": 0.5, "f1": 0.7}


def change_point(**values: object) -> Callable[[dict[str, Any]], str]:
    """Return what writes the toy's card with an operating point, and these values in it."""
    point = {
        "rule": "f1",
        "is_kept": True,
        "split": "val",
        "num_images": 8,
        "num_objects": 9,
        "overall": FIGURES,
        "per_class": {"boat": FIGURES},
        "description": "",
    }
    return change_card(operating_point=point | values)


CARDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "image_size of 30000": change_card(image_size=[30_000]),
    "image_size of 10**400": change_card(image_size=[10**400]),
    "image_size as text": change_card(image_size="64"),
    "image_size of fractions": change_card(image_size=[64.5]),
    "image_size with a billion numbers": change_card(image_size=[64] * 1000),
    "pad_divisor of 40000": change_card(pad_divisor=40_000),
    "pad_divisor as text": change_card(pad_divisor="32"),
    "smallest_input of 10**9": change_card(smallest_input=10**9),
    "pad_value of texts": change_card(pad_value=["a", "b", "c"]),
    "max_aspect_ratio of 10**308": change_card(max_aspect_ratio=1e308),
    "max_aspect_ratio of NaN": change_card(max_aspect_ratio=float("nan")),
    "max_aspect_ratio as text": change_card(max_aspect_ratio="1.0"),
    "keep_aspect_ratio as text": change_card(keep_aspect_ratio="yes"),
    "preprocessing with a key of its own": change_card(preprocessing={"x": 1}),
    "preprocessing as a list": change_card(preprocessing=[1]),
    "classes of a million": change_card(classes=["boat"] * 1_000_000),
    "classes as text": change_card(classes="boat"),
    "classes of numbers": change_card(classes=[1, 2]),
    "no classes": change_card(classes=[]),
    "a class of a million characters": change_card(classes=["b" * 1_000_000, "buoy"]),
    "half a surrogate pair in a class": write_raw("classes", r'["\ud800", "buoy"]'),
    "score_threshold of NaN": write_raw("score_threshold", "NaN"),
    "score_threshold as text": change_card(score_threshold="0.3"),
    "score_threshold of -1": change_card(score_threshold=-1),
    "operating_point as text": change_card(operating_point="f1"),
    "operating_point of nothing": change_card(operating_point={}),
    "operating_point with NaN": write_raw("operating_point", '{"overall": NaN}'),
    "operating_point of another class": change_point(per_class={"crane": FIGURES}),
    "operating_point of classes in a list": change_point(per_class=[["boat", FIGURES]]),
    "operating_point with a threshold of 2": change_point(
        overall={**FIGURES, "score_threshold": 2}
    ),
    "operating_point with an interval of 3": change_point(
        overall={**FIGURES, "interval": [0.1, 0.2, 0.3]}
    ),
    "operating_point with a precision as text": change_point(
        overall={**FIGURES, "precision": "0.9"}
    ),
    "operating_point with 10**400 images": change_point(num_images=10**400),
    "operating_point of a million characters": change_point(description="a" * 1_000_000),
    "operating_point kept as text": change_point(is_kept="yes"),
    "hyperparameters as text": change_card(hyperparameters="none"),
    "infinite hyperparameter": write_raw("hyperparameters", '{"a": Infinity}'),
    "number of 100,000 digits": write_raw("format", "1" * 100_000),
    "nested 200,000 deep": write_raw("hyperparameters", "[" * 200_000 + "]" * 200_000),
    "nested 900 deep, as the value": write_raw("eid", "[" * 900 + "]" * 900),
    "eid of a number": change_card(eid=7),
    "template of a list": change_card(template=["yolox"]),
    "template of a million characters": change_card(template="y" * 1_000_000),
    "format of text": change_card(format="2"),
    "outputs of numbers": change_card(outputs=[1, 2, 3]),
    "outputs as text": change_card(outputs="boxes scores labels"),
    "output that is not there": change_card(outputs=["boxes", "scores", "labels", "masks"]),
    "ten megabytes": change_card(later="x" * 10_000_000),
    "JSON cut off": lambda card: json.dumps(card)[:-20],
    "not an object": lambda _: "[]",
}


def write_card(name: str, path: Path) -> Path:
    """Write the toy model with the hostile card of a name."""
    model = onnx.load(write_toy_model(path))
    text = CARDS[name](json.loads(CARD.to_json()))
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", CARDS)
def test_a_hostile_card_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        Detector.load(write_card(name, tmp_path / "model.onnx"))
    (problem,) = refused.value.problems
    assert "\n" not in problem
    assert len(problem) < len(str(tmp_path)) + 1500
    problem.encode()


def write_large_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_MODEL_BYTES + 1)


FILES: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "larger than any model": write_large_file,
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_a_model_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    FILES[name](path)
    with pytest.raises(DataError, match=r"not a regular file|the most that is read"):
        Detector.load(path)


@pytest.mark.parametrize("card_format", [1, 2])
def test_sizes_are_followed_as_onnxruntime_makes_them(card_format: int, tmp_path: Path) -> None:
    """Every array of a real model has the size that was predicted for it, or a smaller one."""
    compressed = COMPATIBILITY / f"model_card_format_{card_format}.onnx.xz"
    path = tmp_path / "model.onnx"
    path.write_bytes(lzma.decompress(compressed.read_bytes()))
    check_all_sizes(path, (2, 64, 64, 3))


def check_all_sizes(path: Path, input_shape: tuple[int, ...]) -> None:
    """Compare the predicted size of every array with that of a run on noise."""
    predicted: dict[str, Array] = {}
    for graph_node, _, outputs in follow_graph(read_graph(path.read_bytes()), input_shape):
        predicted.update(zip(graph_node.outputs, outputs, strict=False))

    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in predicted])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    noise = np.random.default_rng(0).integers(0, 256, input_shape, np.uint8)
    for name, actual in zip(
        predicted, session.run(list(predicted), {"images": noise}), strict=True
    ):
        array = predicted[name]
        assert actual.dtype == array.dtype, name
        if array.has_bounds:
            assert actual.size <= array.size, name
        else:
            assert actual.shape == array.shape, name
        if array.exact_values is not None:
            np.testing.assert_array_equal(actual, array.exact_values, err_msg=name)


@pytest.mark.soak
def test_the_command_refuses_every_hostile_model(tmp_path: Path) -> None:
    """No traceback, no hang, exit 65 or 77, and never more than 1.5 GB."""
    image = tmp_path / "image.png"
    image.write_bytes(encode_image(draw_image(64, 64, (8, 8, 16, 16))))
    (tmp_path / ".env").write_text("PASSWORD=canary")

    path = tmp_path / "model.onnx"
    writers: dict[str, Callable[[], object]] = {}
    for name in GRAPHS:
        writers[name] = partial(write_graph, name, path)
    for name in CARDS:
        writers[name] = partial(write_card, name, path)
    for name, write in FILES.items():
        writers[name] = partial(write, path)

    lines = []
    for name, write_model in writers.items():
        path.unlink(missing_ok=True)
        write_model()
        code, peak_bytes, output = run_predict(path, image, tmp_path)
        lines.append(f"{name:45s} exit {code}  {peak_bytes >> 20} MiB")
        assert code == (77 if name in RUNS_CODE else 65), (name, output)
        assert peak_bytes < MAX_PROCESS_BYTES, name
        assert "Traceback" not in output, name
        assert "canary" not in output, name
    print("\n".join(lines))


def run_predict(model: Path, image: Path, folder: Path) -> tuple[int, int, str]:
    """Run `detreg predict`; return its exit code, its largest memory in bytes and its output."""
    command = [sys.executable, "-m", "detreg", "predict", str(model), str(image)]
    command += ["--out", str(folder / "found")]
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    return process.returncode, usage.ru_maxrss * 1024, text
