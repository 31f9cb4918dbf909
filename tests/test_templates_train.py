"""Each template through the whole story: trained, exported with parity, registered, continued; on thirty small pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from dense_networks import fill_with_dense_weights
from mlflow import MlflowClient

import detreg
from detreg import Detector
from detreg.data.dataset import load_dataset
from detreg.inference.images import read_image
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.tracking import runs
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.compose import compose
from detreg.training.network import build_network

QUICK = {
    "yolof": {"per_item_lrate": 1e-4},
    "ssd": {"batch_size": 3, "min_samples_per_epoch": 7, "per_item_lrate": 1e-6},
}
"""YOLOF's published rate is for a trained backbone; SSD's epoch ends with a batch of one picture, on a last map of one cell."""


def spread_image(name: str, tiny: Path, path: Path) -> Path:
    """A checkpoint whose scores spread: where all are alike, as SSD's from random weights, rounding decides what is found."""
    template, dataset = TEMPLATES[name], load_dataset(str(tiny))
    params, options = parse_settings(template, SMALL[name] | QUICK[name])
    config = compose(template, template.resolve(params), dataset, options)
    save_checkpoint(
        path,
        Checkpoint(
            fill_with_dense_weights(
                template, params, build_network(config.model, None), config
            ).state_dict(),
            dataset.classes,
        ),
    )
    return path


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The rates of all parameter groups in each step that an optimizer really takes."""
    taken: list[list[float]] = []
    step = torch.optim.SGD.step

    def record(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        taken.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", record)
    return taken


def check_rates(
    name: str, values: dict[str, Any], rates: list[list[float]], first: int, total: int
) -> None:
    """Every group has the rate of its step, or the share of it that is its own; `rates` are those of the steps from `first` on."""
    template = TEMPLATES[name]
    params, _ = parse_settings(template, values)
    params = template.resolve(params)
    factor = template.get_base_model(params).recipe.schedule.factor
    assert len(rates) == total - first
    for step, groups in enumerate(rates, start=first):
        rate = params.learning_rate * factor(step / total, total)
        shares = {round(group / rate, 9) for group in groups}
        assert shares == ({1.0, round(1 / 3, 9)} if name == "yolof" else {1.0})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in TEMPLATES if name != "yolox"]
)  # test_training.py has that one
def test_a_template_is_trained_registered_served_and_continued(
    name: str,
    store: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    steps: list[list[float]],
) -> None:
    values: dict[str, Any] = SMALL[name] | QUICK.get(name, {})
    start = (
        {"load_from": spread_image(name, tiny, tmp_path / "spread.pth")} if name == "ssd" else {}
    )
    first = detreg.train(name, data=str(tiny), **values, **start)
    assert first["parity_matched"] >= 0.99 and first["model_name"] == name
    # After so few steps most find nothing, and what finds nothing is no champion.
    assert first["alias"] == ("champion" if round(first["mAP"], 4) else "challenger")
    metrics = runs.get_run(first["run_id"]).data.metrics
    assert {
        "train/loss",
        "val/mAP",
        "mAP",
        "test/mAP",
        "parity/matched",
    } <= metrics.keys() and np.isfinite(metrics["train/loss"])
    picture = read_image(next(tiny.rglob("*.jpg")))
    found = Detector.load(f"models:/{name}@{first['alias']}")(picture, score_threshold=0.0)
    assert found.class_names == ("balloon", "boat", "house") and len(found) <= 100
    length = len(steps) // 2
    check_rates(name, values, steps, 0, 2 * length)
    steps.clear()
    capsys.readouterr()
    second = detreg.train(
        name, data=str(tiny), **values | {"num_epochs": 3, "continue_from_eid": first["run_id"]}
    )
    assert f"Resumes run {first['run_id']} after epoch 2 of 3" in capsys.readouterr().out
    check_rates(name, values, steps, 2 * length, 3 * length)
    assert [
        entry.step for entry in MlflowClient().get_metric_history(second["run_id"], "val/mAP")
    ] == [3]
    assert second["model_version"] == "2"
