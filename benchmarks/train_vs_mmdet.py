"""Compare the seconds per step of detreg with those of MMDetection's own Runner.

    python benchmarks/train_vs_mmdet.py ../shared/data/bccd ../shared/weights/yolox_nano_coco.pth

The same training by both, in turns, twice each: yolox_nano, 416 px, 8 images a step, 2 loading
processes, 8 epochs, 6 of them with mixed images, a validation after each. Both times are of the
whole training: steps, validation, checkpoints, logging; detreg's also has the uploads to MLflow and
the report. Export, parity and registration, which MMDetection does not do, are printed apart. A
quarter of an hour on two CPU cores.

    OMP_NUM_THREADS=1 python benchmarks/train_vs_mmdet.py --steps [yolox_nano ...]

compares single steps of every template, in each precision (step_times.py).
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import step_times
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner

from detreg import pipeline, publish, training_run
from detreg.data.dataset import Dataset, load_dataset
from detreg.pipeline import parse_settings
from detreg.templates import find_template
from detreg.training.compose import load_published_config

VALUES: dict[str, Any] = {
    "base_model": "yolox_nano",
    "image_size": 416,
    "batch_size": 8,
    "num_epochs": 8,
    "per_item_lrate": 0.0003125,
    "num_workers": 2,
    "recipe": "published",  # as MMDetection trains it
}
PLAIN_EPOCHS = 2
"""The last epochs, without mixed images, as detreg has them here."""
ROUNDS = 2


@dataclass(frozen=True)
class Measurement:
    """What one training took, in seconds."""

    per_step: float
    steps: int
    export_and_registration: float


def main(data: str, weights: str) -> None:
    """Print both figures and their ratio."""
    stock: list[float] = []
    own: list[float] = []
    for _ in range(ROUNDS):
        for side, seconds in (("stock", stock), ("detreg", own)):
            measurement = measure_in_process(side, data, weights)
            seconds.append(measurement.per_step)
            print(side, asdict(measurement), flush=True)

    stock_median = statistics.median(stock)
    own_median = statistics.median(own)
    pairs = [ours / theirs for theirs, ours in zip(stock, own, strict=True)]
    print(
        f"MMDetection {stock_median:.3f} s a step, detreg {own_median:.3f} s a step: "
        f"{own_median / stock_median:.3f} times; pairs {pairs}"
    )


def measure_in_process(side: str, data: str, weights: str) -> Measurement:
    """Measure one training in a process and a folder of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", side]
    command += [str(Path(data).resolve()), str(Path(weights).resolve())]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    last_line = done.stdout.splitlines()[-1]
    return Measurement(**json.loads(last_line))


def measure(side: str, data: str, weights: str) -> None:
    """Train in this process, and print the measurement as the last line."""
    # Both sides are timed with everything imported, which takes ten seconds.
    register_all_modules()
    dataset = load_dataset(data)
    images = dataset.splits["train"].images
    steps = math.ceil(images / VALUES["batch_size"]) * VALUES["num_epochs"]

    if side == "stock":
        seconds, rest = train_with_mmdetection(dataset, weights), 0.0
    else:
        seconds, rest = train_with_detreg(data, weights, images)
    print(json.dumps(asdict(Measurement(seconds / steps, steps, rest))))


def train_with_detreg(data: str, weights: str, images: int) -> tuple[float, float]:
    """Return the seconds of training, logging and reporting, and those of all the rest."""
    counted = 0.0

    def count(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            nonlocal counted
            begun = time.perf_counter()
            result = function(*args)
            counted += time.perf_counter() - begun
            return result

        return call

    counted_steps = {"log_job": training_run, "fit": training_run, "log_report": publish}
    for name, module in counted_steps.items():
        setattr(module, name, count(getattr(module, name)))

    begun = time.perf_counter()
    pipeline.train("yolox", data=data, load_from=weights, min_samples_per_epoch=images, **VALUES)
    total = time.perf_counter() - begun
    return counted, total - counted


def train_with_mmdetection(dataset: Dataset, weights: str) -> float:
    """Return the seconds of a training with the packaged configuration and its own hooks."""
    config = compose_stock_config(dataset, weights)
    begun = time.perf_counter()
    runner = Runner.from_cfg(config)
    runner.train()
    return time.perf_counter() - begun


def compose_stock_config(dataset: Dataset, weights: str) -> Config:
    """Compose the packaged configuration with detreg's images, sizes and learning rate."""
    template = find_template("yolox")
    params, _ = parse_settings(template, VALUES)
    published = load_published_config(template, params)
    config = Config.fromstring(published.pretty_text.replace("640", "416"), ".py")

    config.model.data_preprocessor.batch_augments = None
    config.model.bbox_head.num_classes = len(dataset.classes)
    config.optim_wrapper.optimizer.lr = params.learning_rate
    config.custom_hooks[0].num_last_epochs = PLAIN_EPOCHS
    config.default_hooks.checkpoint.interval = 1
    config.work_dir = "work"
    config.load_from = weights
    config.train_cfg = {
        "type": "EpochBasedTrainLoop",
        "max_epochs": params.num_epochs,
        "val_interval": 1,
    }
    cosine = {
        "type": "CosineAnnealingLR",
        "T_max": params.num_epochs,
        "by_epoch": True,
        "convert_to_iter_based": True,
    }
    config.param_scheduler = [cosine]

    _set_data(config, dataset, params.images_per_step)
    return config


def _set_data(config: Config, dataset: Dataset, batch_size: int) -> None:
    train = str(dataset.splits["train"].annotations)
    val = str(dataset.splits["val"].annotations)
    loading = {
        "batch_size": batch_size,
        "num_workers": VALUES["num_workers"],
        "persistent_workers": False,
    }
    meta = {"metainfo": {"classes": dataset.classes}, "data_root": "", "data_prefix": {"img": ""}}

    config.train_dataloader.update(loading)
    # The dataset is wrapped in the one that mixes images.
    config.train_dataloader.dataset.dataset.update(meta, ann_file=train)
    for name in ("val_dataloader", "test_dataloader"):
        config[name].update(loading)
        config[name].dataset.update(meta, ann_file=val)
    for name in ("val_evaluator", "test_evaluator"):
        config[name].ann_file = val


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        measure(*sys.argv[2:])
    elif sys.argv[1] == "--steps":
        step_times.main(sys.argv[2:])
    else:
        main(*sys.argv[1:])
