"""Each template from end to end: trained, exported with parity, registered, served and resumed.

On ten small images, with a few steps.
"""

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
from detreg.data.sample import write_sample
from detreg.inference.images import read_image
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.tracking import runs
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.compose import compose
from detreg.training.network import build_network

TRAIN_IMAGES = 7

QUICK: dict[str, dict[str, Any]] = {
    # The published rate is for a trained backbone.
    "yolof": {"per_item_lrate": 1e-4},
    # The epoch ends with a batch of one image, on a last map of one cell. The losses of its spread
    # weights are so large that at a higher rate they grow until rounding decides what is found.
    "ssd": {"batch_size": 3, "min_samples_per_epoch": TRAIN_IMAGES, "per_item_lrate": 1e-9},
}

OTHER_TEMPLATES = [name for name in TEMPLATES if name != "yolox"]
"""tests/test_training.py trains yolox."""

Rates = list[list[float]]
"""The learning rates of all parameter groups, in each step."""


def write_ssd_checkpoint(data: Path, path: Path) -> Path:
    """Write a checkpoint whose scores spread.

    SSD's scores from random weights are all alike: rounding would decide what is found.
    """
    template = TEMPLATES["ssd"]
    dataset = load_dataset(str(data))
    params, options = parse_settings(template, SMALL["ssd"] | QUICK["ssd"])
    config = compose(template, template.resolve(params), dataset, options)

    network = build_network(config.model, None)
    network = fill_with_dense_weights(template, params, network, config)
    save_checkpoint(path, Checkpoint(network.state_dict(), dataset.classes))
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a COCO dataset of seven training images, two to score and one to test."""
    folder = tmp_path_factory.mktemp("few") / "few"
    write_sample(folder, images=10, seed=1, size=(96, 80))
    return folder


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> Rates:
    """Return a list to which every step of an optimizer appends its rates."""
    recorded: Rates = []
    step = torch.optim.SGD.step

    def record_and_step(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        recorded.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", record_and_step)
    return recorded


def assert_rates_follow_the_schedule(
    name: str, values: dict[str, Any], rates: Rates, first_step: int, total_steps: int
) -> None:
    """Assert that every group has the rate of its step, or its own share of it."""
    template = TEMPLATES[name]
    params, _ = parse_settings(template, values)
    params = template.resolve(params)
    schedule = template.get_base_model(params).recipe.schedule
    expected_shares = {1.0, round(1 / 3, 9)} if name == "yolof" else {1.0}

    assert len(rates) == total_steps - first_step
    for step, group_rates in enumerate(rates, start=first_step):
        rate = params.learning_rate * schedule.factor(step / total_steps, total_steps)
        shares = {round(group_rate / rate, 9) for group_rate in group_rates}
        assert shares == expected_shares


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_TEMPLATES)
def test_a_template_is_trained_registered_served_and_resumed(
    name: str,
    store: str,
    few: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rates: Rates,
) -> None:
    values = SMALL[name] | QUICK.get(name, {})
    start: dict[str, Any] = {}
    if name == "ssd":
        start["load_from"] = write_ssd_checkpoint(few, tmp_path / "spread.pth")

    first = detreg.train(name, data=str(few), **values, **start)
    assert first["parity_matched"] >= 0.99
    assert first["model_name"] == f"{name}-few"
    # After so few steps most find nothing, and what finds nothing does not become champion.
    finds_something = round(first["mAP"], 4) > 0
    assert first["alias"] == ("champion" if finds_something else "challenger")

    metrics = runs.get_run(first["run_id"]).data.metrics
    assert metrics.keys() >= {"train/loss", "val/mAP", "mAP", "test/mAP", "parity/matched"}
    assert np.isfinite(metrics["train/loss"])

    detector = Detector.load(f"models:/{name}-few@{first['alias']}")
    image = read_image(next(few.rglob("*.jpg")))
    detections = detector(image, score_threshold=0.0)
    assert detections.class_names == ("balloon", "boat", "house")
    assert len(detections) <= 100

    steps_per_epoch = len(rates) // 2
    assert_rates_follow_the_schedule(name, values, rates, 0, 2 * steps_per_epoch)

    rates.clear()
    capsys.readouterr()
    longer = values | {"num_epochs": 3, "continue_from_eid": first["run_id"]}
    second = detreg.train(name, data=str(few), **longer)
    assert f"Resumes run {first['run_id']} after epoch 2 of 3" in capsys.readouterr().out
    assert_rates_follow_the_schedule(name, values, rates, 2 * steps_per_epoch, 3 * steps_per_epoch)

    history = MlflowClient().get_metric_history(second["run_id"], "val/mAP")
    assert [entry.step for entry in history] == [3]
    assert second["model_version"] == "2"
