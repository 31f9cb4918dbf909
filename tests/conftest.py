"""What the tests share: a cache and a tracking store of their own, and a dataset small enough to train on in seconds."""

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from detreg.environment import set_mlflow_defaults
from detreg.templates import TEMPLATES
from detreg.templates.template import Template

set_mlflow_defaults()
# Set before anything reads it, and inherited by the processes that tests start.
_CACHE = tempfile.TemporaryDirectory(prefix="detreg-tests-")
os.environ["DETREG_CACHE"] = _CACHE.name
os.environ.pop("DETREG_WEIGHTS", None)

_QUICK: dict[str, Any] = {
    "pretrained_weights": "none",
    "frozen_stages": 0,
    "image_size": 64,
    "num_epochs": 2,
    "batch_size": 4,
    "min_samples_per_epoch": 8,
    "num_workers": 0,
}
_LIGHT: dict[str, dict[str, Any]] = {
    "yolox": {"base_model": "yolox_nano"},
    "msc10": {"base_model": "mobilenetv2_100", "pretrain_base_data": "none"},
}
SMALL: dict[str, dict[str, Any]] = {name: _QUICK | _LIGHT.get(name, {}) for name in TEMPLATES}
"""For each template, a training of four steps that runs everything."""
TINY = SMALL["yolox"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO dataset of thirty small pictures."""
    from detreg.data.sample import write_sample

    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    write_sample(folder, images=30, seed=1, size=(96, 80))
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another dataset with the same classes."""
    from detreg.data.sample import write_sample

    folder = tmp_path_factory.mktemp("other") / "other"
    write_sample(folder, images=30, seed=2, size=(96, 80))
    return folder


@pytest.fixture(scope="session")
def dense_checkpoint(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of yolox_nano that finds much, though nothing true, on the tiny dataset."""
    import torch

    from detreg.data.dataset import load_dataset
    from detreg.pipeline import settings
    from detreg.training.checkpoints import Checkpoint, save
    from detreg.training.compose import compose
    from detreg.training.engine import build_network

    dataset = load_dataset(tiny)
    params, options = settings(TEMPLATES["yolox"], TINY)
    config = compose(TEMPLATES["yolox"], TEMPLATES["yolox"].resolve(params), dataset, options)
    state = build_network(config.model, None).state_dict()
    torch.manual_seed(0)
    for key, value in state.items():  # milder than `dense`, so that it can be trained too
        if key.endswith("running_var"):
            value.fill_(0.3)
        elif "multi_level_conv_cls" in key or "multi_level_conv_obj" in key:
            value.copy_(torch.randn_like(value) * 0.1)
    path = tmp_path_factory.mktemp("weights") / "dense.pth"
    save(path, Checkpoint(state, dataset.classes))
    return path


def dense(template: Template, params: Any, network: Any, config: Any) -> Any:
    """The network with random weights that find every class somewhere, with scores that spread instead of all being alike.

    The outputs of its classes, and of objectness, are scaled by what they give for the val pictures.
    """
    import torch

    from detreg.training.engine import predict

    torch.manual_seed(0)
    classes = "|".join(
        [layer.pattern for layer in template.get_class_layers(params) if layer.rows == 1]
        + [OBJECTNESS]
    )
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))
    }
    outputs = {
        layer: re.fullmatch(classes, f"{name}.weight")
        for name, layer in layers.items()
        if re.fullmatch(f"{classes}|{BOXES}", f"{name}.weight")
    }
    with torch.no_grad():
        if hasattr(network, "roi_head"):
            # The proposals of a picture look alike: to spread their scores would blow up the noise of rounding.
            for layer in (layer for layer, is_class in outputs.items() if is_class):
                torch.nn.init.normal_(layer.weight, std=0.1)
            return network
        for layer in layers.values():
            if (
                layer in outputs or template.name == "ssd"
            ):  # whose own start fades to nothing on the way to the last map
                torch.nn.init.kaiming_normal_(layer.weight)
        with scaled(list(outputs)):
            list(predict(network, config.val_dataloader, ("any",) * 100))
        for layer, is_class in outputs.items():
            layer.weight.mul_(2.0 if is_class else 0.5)
            layer.bias.zero_()
    return network


OBJECTNESS = r".*(object_pred|multi_level_conv_obj\.\d+|rpn_cls)\.weight"
BOXES = r".*(reg_convs\.\d+\.[01]|retina_reg|bbox_pred|fc_reg|rpn_reg|multi_level_conv_reg\.\d+)\.weight"


@contextmanager
def scaled(layers: list[Any]) -> Iterator[None]:
    """Scales layers by what they put out inside, so that the largest deviation of their outputs, on any level, is one."""
    deviations = dict.fromkeys(layers, 1e-20)

    def look(layer: Any, inputs: Any, output: Any) -> None:
        deviations[layer] = max(
            deviations[layer], float(output.std()) if output.numel() > 1 else 0.0
        )

    hooks = [layer.register_forward_hook(look) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()
    for layer, deviation in deviations.items():
        layer.weight.data.div_(deviation)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a SQLite tracking store, in use while a module's tests run; artifacts lie beside it."""
    import mlflow

    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment(
        "tests", artifact_location=(folder / "artifacts").as_uri()
    )
    mlflow.set_experiment(experiment_id=experiment)
    yield uri
    mlflow.set_tracking_uri(before)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_under_torchrun(store: str, data: Path, **values: Any) -> "subprocess.Popen[str]":
    """`detreg train yolox` in two processes, in the experiment of the tests."""
    from mlflow import MlflowClient

    words = [
        word
        for name, value in {**TINY, "data": data, **values}.items()
        for word in (f"--{name}", str(value))
    ]
    meeting = ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *meeting]
    experiment = MlflowClient().get_experiment_by_name("tests")
    assert experiment
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_EXPERIMENT_ID": experiment.experiment_id,
    }
    command = [*launcher, "-m", "detreg", "train", "yolox", *words, "--json"]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
