"""What the tests share.

A cache and a tracking store of their own, and datasets small enough to train on in seconds.
"""

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detreg.environment import set_mlflow_defaults
from detreg.templates import TEMPLATES

set_mlflow_defaults()
# nohup ignores SIGHUP, a shell SIGINT for what it starts in the background; processes that tests
# start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Set before anything reads it, and inherited by the processes that tests start.
_CACHE = tempfile.TemporaryDirectory(prefix="detreg-tests-")
os.environ["DETREG_CACHE"] = _CACHE.name
os.environ.pop("DETREG_WEIGHTS", None)
# As where an environment is activated: printed commands name programs that are found.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# What precision=auto takes would depend on the processor, and on how busy it is.
os.environ["DETREG_PRECISION"] = "fp32"

_FOUR_STEPS: dict[str, Any] = {
    "pretrained_weights": "none",
    "frozen_stages": 0,
    "image_size": 64,
    "num_epochs": 2,
    "batch_size": 4,
    "min_samples_per_epoch": 8,
    "num_workers": 0,
}
_SMALLEST_BASE_MODEL: dict[str, dict[str, Any]] = {
    "yolox": {"base_model": "yolox_nano"},
    "msc10": {"base_model": "mobilenetv2_100", "pretrain_base_data": "none"},
}
SMALL: dict[str, dict[str, Any]] = {
    name: _FOUR_STEPS | _SMALLEST_BASE_MODEL.get(name, {}) for name in TEMPLATES
}
"""For each template, a training of four steps that runs everything."""
TINY = SMALL["yolox"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first.

    pytest-xdist hands out files in this order (`make test`), and none of its processes should get
    a long one when the others have nothing left to do.
    """
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a COCO dataset of thirty small images."""
    from detreg.data.sample import write_sample

    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    write_sample(folder, images=30, seed=1, size=(96, 80))
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return another dataset with the same classes."""
    from detreg.data.sample import write_sample

    folder = tmp_path_factory.mktemp("other") / "other"
    write_sample(folder, images=30, seed=2, size=(96, 80))
    return folder


@pytest.fixture(scope="session")
def dense_checkpoint(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of yolox_nano that finds much, though nothing true, on `tiny`."""
    import torch

    from detreg.data.dataset import load_dataset
    from detreg.pipeline import parse_settings
    from detreg.training.checkpoints import Checkpoint, save_checkpoint
    from detreg.training.compose import compose
    from detreg.training.network import build_network

    template = TEMPLATES["yolox"]
    dataset = load_dataset(tiny)
    params, options = parse_settings(template, TINY)
    config = compose(template, template.resolve(params), dataset, options)
    state = build_network(config.model, None).state_dict()

    # Milder than dense_networks.py, so that it can be trained too.
    torch.manual_seed(0)
    for key, value in state.items():
        if key.endswith("running_var"):
            value.fill_(0.3)
        elif "multi_level_conv_cls" in key or "multi_level_conv_obj" in key:
            value.copy_(torch.randn_like(value) * 0.1)

    path = tmp_path_factory.mktemp("weights") / "dense.pth"
    save_checkpoint(path, Checkpoint(state, dataset.classes))
    return path


@pytest.fixture(scope="session")
def toy_mask_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the toy detector of toy_detector.py, which finds masks, too."""
    from toy_detector import CARD_WITH_MASKS, write_toy_model

    return write_toy_model(tmp_path_factory.mktemp("masks") / "masks.onnx", CARD_WITH_MASKS)


@pytest.fixture(scope="module")
def mmdet_scope() -> None:
    """Let MMEngine build the parts of MMDetection and detreg by name."""
    from mmdet.utils import register_all_modules
    from mmengine.registry import init_default_scope

    from detreg.training import network

    assert network  # importing it registers detreg's parts
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


def _seed_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def seed_module() -> None:
    """Let the random numbers of a module's fixtures not depend on the tests before it."""
    _seed_random_numbers()


@pytest.fixture(autouse=True)
def seed_test(seed_module: None) -> None:
    """Let a test draw the same numbers whether it runs alone, or which tests ran before it."""
    _seed_random_numbers()


_MLFLOW_STATE = (
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_TRACKING_URI",
)


@pytest.fixture(scope="module", autouse=True)
def restore_mlflow_state() -> Iterator[None]:
    """Take back which store and experiment the tests of a module have chosen.

    MLflow writes them to the environment, where the next module's tests would find the id of an
    experiment that their own store does not have.
    """
    before = {name: os.environ.get(name) for name in _MLFLOW_STATE}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value

    fluent = sys.modules.get("mlflow.tracking.fluent")
    if fluent is not None:
        fluent._active_experiment_id = None  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Use a SQLite tracking store while the tests of a module run; artifacts lie beside it.

    Returns its URI.
    """
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


_PORTS_PER_WORKER = 1000
_next_port = itertools.count()


def free_port() -> int:
    """Return a port that nothing listens on.

    Each worker of pytest-xdist takes ports from a range of its own, below those that the system
    gives to outgoing connections, so that nobody else takes the port before it is used.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + worker * _PORTS_PER_WORKER
    while True:
        port = first + next(_next_port) % _PORTS_PER_WORKER
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def run_under_torchrun(store: str, data: Path, **values: object) -> "subprocess.Popen[str]":
    """Start `detreg train yolox` in two processes, in the experiment of the tests."""
    from mlflow import MlflowClient

    experiment = MlflowClient().get_experiment_by_name("tests")
    assert experiment

    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    command += ["-m", "detreg", "train", "yolox", "--json"]
    for name, value in {**TINY, "data": data, **values}.items():
        command += [f"--{name}", str(value)]

    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_EXPERIMENT_ID": experiment.experiment_id,
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
