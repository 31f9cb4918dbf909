"""Files of earlier versions are read as before.

tests/compatibility/ holds files that detreg 0.1.0 wrote in November 2026: the ONNX files of two
models (cards of formats 1 and 2), the checkpoints of a run, its params.json and its MLmodel. Their
tensors were then filled with repeating numbers, so that they compress well; names, shapes and
metadata are as they were written. detections.json is what that version detected.
"""

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from mlflow import MlflowClient

import detreg
from detreg import Detector, cli
from detreg.inference.detections import Detections

FILES = Path(__file__).parent / "compatibility"
CLASSES = ("balloon", "boat", "house")

RUN_TAGS = {
    "detreg.version": "0.1.0",
    "detreg.template": "yolox",
    "detreg.dataset_digest": "8cae07b9bad75c4d",
    "detreg.start": "Starts from random weights",
    "detreg.checkpoint": json.dumps(
        {"epoch": 1, "last": "checkpoints/0/last.pth", "best": "checkpoints/0/best.pth"}
    ),
}


def decompress(name: str, path: Path) -> Path:
    """Write tests/compatibility/<name>.xz to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.decompress((FILES / f"{name}.xz").read_bytes()))
    return path


def draw_image() -> np.ndarray:
    """Return the image, 96 by 80 pixels, that detections.json belongs to."""
    ramp = np.arange(96, dtype=np.uint8) * 2
    image = np.tile(ramp, (80, 1))[..., None].repeat(3, axis=2)
    image[20:60, 30:50] = (200, 30, 30)
    return image


def assert_detects_as_before(detector: Detector, card_format: int) -> None:
    found: Detections = detector(draw_image(), score_threshold=0.0, max_detections=5)
    expected = json.loads((FILES / "detections.json").read_text())[str(card_format)]

    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.01)
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-4)
    assert found.labels.tolist() == expected["labels"]
    assert found.class_names == CLASSES


@pytest.mark.parametrize("card_format", [1, 2])
def test_models_with_cards_of_both_formats_detect_as_before(
    card_format: int, tmp_path: Path
) -> None:
    path = decompress(f"model_card_format_{card_format}.onnx", tmp_path / "model.onnx")
    assert_detects_as_before(Detector.load(path), card_format)


def test_a_registered_model_detects_as_before(store: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    decompress("model_card_format_2.onnx", model / "artifacts" / "yolox.onnx")
    shutil.copy(FILES / "MLmodel", model / "MLmodel")
    client = MlflowClient()
    client.create_registered_model("registered-before")
    client.create_model_version("registered-before", source=model.as_uri())

    assert_detects_as_before(Detector.load("models:/registered-before/1"), card_format=2)


def test_a_run_is_resumed_from_its_checkpoint(
    store: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tests")
    assert experiment
    run = client.create_run(experiment.experiment_id, tags=RUN_TAGS)
    eid = run.info.run_id
    for name in ("last.pth", "best.pth"):
        client.log_artifact(eid, str(decompress(name, tmp_path / name)), "checkpoints/0")
    client.log_artifact(eid, str(FILES / "params.json"))
    client.set_terminated(eid)

    # `amp` was an option of every run of that time.
    result = detreg.train("yolox", data=str(tiny), continue_from_eid=eid, amp="false", **TINY)

    assert f"Resumes run {eid} after epoch 1 of 2" in capsys.readouterr().out
    history = client.get_metric_history(result["run_id"], "train/loss")
    assert [entry.step for entry in history] == [2]
    assert np.isfinite(history[0].value)


def test_flags_are_accepted_under_their_former_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "drawn"
    assert cli.run(["sample", str(folder), "--pictures", "3"]) == 0
    assert len(list(folder.rglob("*.jpg"))) == 3

    with pytest.raises(SystemExit):
        cli.run(["export", "yolox", "--help"])
    assert "--pictures" not in capsys.readouterr().out
