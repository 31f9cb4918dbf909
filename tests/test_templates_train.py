"""Each template through the whole story: trained, exported with parity, registered, continued; on thirty small pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL
from mlflow import MlflowClient

import detreg
from detreg import Detector
from detreg.inference.pictures import read
from detreg.templates import TEMPLATES
from detreg.tracking import runs

QUICK = {"yolof": {"per_item_lrate": 1e-4}, "ssd": {"batch_size": 3, "min_samples_per_epoch": 7}}
"""YOLOF's published rate is for a trained backbone; SSD's epoch ends with a batch of one picture, on a last map of one cell."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "yolox"])  # test_training.py has that one
def test_a_template_is_trained_registered_served_and_continued(
    name: str, store: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = SMALL[name] | QUICK.get(name, {})
    first = detreg.train(name, data=str(tiny), **values)
    assert first["parity_matched"] >= 0.99 and first["alias"] == "champion" and first["model_name"] == name
    metrics = runs.find(first["run_id"]).data.metrics
    assert {"train/loss", "val/mAP", "mAP", "test/mAP", "parity/matched"} <= metrics.keys() and np.isfinite(metrics["train/loss"])
    picture = read(next(tiny.rglob("*.jpg")))
    found = Detector.load(f"models:/{name}@champion")(picture, score_threshold=0.0)
    assert found.class_names == ("balloon", "boat", "house") and len(found) <= 100
    capsys.readouterr()
    second = detreg.train(name, data=str(tiny), **values | {"num_epochs": 3, "continue_from_eid": first["run_id"]})
    assert f"Resumes run {first['run_id']} after epoch 2 of 3" in capsys.readouterr().out
    assert [entry.step for entry in MlflowClient().get_metric_history(second["run_id"], "val/mAP")] == [3]
    assert second["model_version"] == "2"
