"""What the tests share: a cache and a tracking store of their own, and a dataset small enough to train on in seconds."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detreg.environment import set_defaults

set_defaults()
# Set before anything reads it, and inherited by the processes that tests start.
_CACHE = tempfile.TemporaryDirectory(prefix="detreg-tests-")
os.environ["DETREG_CACHE"] = _CACHE.name
os.environ.pop("DETREG_WEIGHTS", None)

TINY: dict[str, Any] = {
    "base_model": "yolox_nano",
    "pretrained_weights": "none",
    "image_size": 64,
    "num_epochs": 2,
    "batch_size": 4,
    "min_samples_per_epoch": 8,
    "num_workers": 0,
}
"""A training of four steps that runs everything."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO dataset of thirty small pictures."""
    from detreg.data.sample import draw

    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    draw(folder, pictures=30, seed=1, size=(96, 80))
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another dataset with the same classes."""
    from detreg.data.sample import draw

    folder = tmp_path_factory.mktemp("other") / "other"
    draw(folder, pictures=30, seed=2, size=(96, 80))
    return folder


@pytest.fixture(scope="session")
def dense_checkpoint(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of yolox_nano that finds much, though nothing true, on the tiny dataset."""
    from detreg.data.dataset import load
    from detreg.pipeline import settings
    from detreg.templates import find
    from detreg.training.checkpoints import Checkpoint, save
    from detreg.training.compose import compose
    from detreg.training.engine import build_network

    template, dataset = find("yolox"), load(tiny)
    params, options = settings(template, TINY)
    network = build_network(compose(template, params, dataset, options).model, None)
    path = tmp_path_factory.mktemp("weights") / "dense.pth"
    save(path, Checkpoint(dense(network.state_dict()), dataset.classes))
    return path


def dense(state: dict[str, Any]) -> dict[str, Any]:
    """Random weights that score every class somewhere, none so sure that two classes both round to 1."""
    import torch

    torch.manual_seed(0)
    for key, value in state.items():
        if key.endswith("running_var"):
            value.fill_(0.3)
        elif "multi_level_conv_cls" in key or "multi_level_conv_obj" in key:
            value.copy_(torch.randn_like(value) * 0.1)
    return state


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a SQLite tracking store, in use while a module's tests run; artifacts lie beside it."""
    import mlflow

    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    yield uri
    mlflow.set_tracking_uri(before)
