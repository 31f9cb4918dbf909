"""Each template through the whole story: trained, exported with parity, registered, continued; on thirty small pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, dense
from mlflow import MlflowClient

import detreg
from detreg import Detector
from detreg.data.dataset import load
from detreg.inference.pictures import read
from detreg.pipeline import settings
from detreg.templates import TEMPLATES
from detreg.tracking import runs
from detreg.training.checkpoints import Checkpoint, save
from detreg.training.compose import compose
from detreg.training.engine import build_network

QUICK = {"yolof": {"per_item_lrate": 1e-4}, "ssd": {"batch_size": 3, "min_samples_per_epoch": 7, "per_item_lrate": 1e-6}}
"""YOLOF's published rate is for a trained backbone; SSD's epoch ends with a batch of one picture, on a last map of one cell."""


def spread(name: str, tiny: Path, path: Path) -> Path:
    """A checkpoint whose scores spread: where all are alike, as SSD's from random weights, rounding decides what is found."""
    template, dataset = TEMPLATES[name], load(str(tiny))
    params, options = settings(template, SMALL[name] | QUICK[name])
    config = compose(template, params, dataset, options)
    save(path, Checkpoint(dense(template, params, build_network(config.model, None), config).state_dict(), dataset.classes))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "yolox"])  # test_training.py has that one
def test_a_template_is_trained_registered_served_and_continued(
    name: str, store: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = SMALL[name] | QUICK.get(name, {})
    start = {"load_from": spread(name, tiny, tmp_path / "spread.pth")} if name == "ssd" else {}
    first = detreg.train(name, data=str(tiny), **values, **start)
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
