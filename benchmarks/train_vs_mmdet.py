"""The same training by detreg and by MMDetection's own Runner, turn about in one run: seconds per step.

    python benchmarks/train_vs_mmdet.py ../shared/data/bccd ../shared/weights/yolox_nano_coco.pth

yolox_nano, 416 px, 8 images a step, 2 loading processes, 8 epochs, 6 of them with mixed pictures, a validation after each; twice each.
Both times are of the whole training: steps, validation, checkpoints, logging; detreg's also has the uploads to MLflow and the report.
Prints detreg's export, parity and registration apart, which MMDetection does not do. A quarter of an hour on two CPU cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VALUES: dict[str, Any] = {
    "base_model": "yolox_nano",
    "image_size": 416,
    "batch_size": 8,
    "num_epochs": 8,
    "per_item_lrate": 0.0003125,
    "num_workers": 2,
}
ROUNDS = 2


def main(data: str, weights: str) -> None:
    """Prints both figures and their ratio."""
    times: dict[str, list[dict[str, float]]] = {"stock": [], "detreg": []}
    for _ in range(ROUNDS):
        for side in times:
            with tempfile.TemporaryDirectory() as folder:
                environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
                command = [
                    sys.executable,
                    str(Path(__file__).resolve()),
                    "--one",
                    side,
                    str(Path(data).resolve()),
                    str(Path(weights).resolve()),
                ]
                done = subprocess.run(
                    command,
                    cwd=folder,
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
            times[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(side, times[side][-1], flush=True)
    stock, ours = (
        statistics.median(entry["per_step"] for entry in times[side])
        for side in ("stock", "detreg")
    )
    pairs = [
        mine["per_step"] / theirs["per_step"]
        for theirs, mine in zip(times["stock"], times["detreg"], strict=True)
    ]
    print(
        f"MMDetection {stock:.3f} s a step, detreg {ours:.3f} s a step: {ours / stock:.3f} times; pairs {pairs}"
    )


def one(side: str, data: str, weights: str) -> None:
    """One training, in a process of its own; its last line is the measurement."""
    import detreg.training  # brings mmcv's operators before mmdet asks for them

    assert detreg.training
    # Both sides are timed with everything imported: it takes ten seconds, and each would import at another moment.
    from mmdet.utils import register_all_modules

    from detreg.data.dataset import load_dataset

    register_all_modules()
    dataset = load_dataset(data)
    images = dataset.splits["train"].images
    steps = -(-images // VALUES["batch_size"]) * VALUES["num_epochs"]
    seconds, after = stock(dataset, weights) if side == "stock" else ours(data, weights, images)
    print(
        json.dumps({"per_step": seconds / steps, "steps": steps, "export_and_registration": after})
    )


def ours(data: str, weights: str, images: int) -> tuple[float, float]:
    """detreg: seconds of training, logging and reporting, and of what else it does."""
    from detreg import pipeline, publish

    spent = 0.0

    def timed(function: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal spent
            begun = time.perf_counter()
            result = function(*args)
            spent += time.perf_counter() - begun
            return result

        return call

    for name in ("log_job", "fit", "log_report"):
        setattr(publish, name, timed(getattr(publish, name)))
    begun = time.perf_counter()
    pipeline.train("yolox", data=data, load_from=weights, min_samples_per_epoch=images, **VALUES)
    return spent, time.perf_counter() - begun - spent


def stock(dataset: Any, weights: str) -> tuple[float, float]:
    """MMDetection's packaged configuration with its own hooks, on the same pictures, sizes and rate."""
    from mmengine.runner import Runner

    from detreg.pipeline import parse_settings
    from detreg.templates import find_template
    from detreg.training.compose import load_published_config

    template = find_template("yolox")
    params, _ = parse_settings(template, VALUES)
    config = load_published_config(template, params)
    text = config.pretty_text.replace("640", "416")
    config = type(config).fromstring(text, ".py")
    config.model.data_preprocessor.batch_augments = None
    config.model.bbox_head.num_classes = len(dataset.classes)
    workers = {
        "batch_size": params.batch_size,
        "num_workers": VALUES["num_workers"],
        "persistent_workers": False,
    }
    meta = {"metainfo": {"classes": dataset.classes}, "data_root": "", "data_prefix": {"img": ""}}
    config.train_dataloader.update(workers)
    config.train_dataloader.dataset.dataset.update(
        meta, ann_file=str(dataset.splits["train"].annotations)
    )
    for name in ("val_dataloader", "test_dataloader"):
        config[name].update(workers)
        config[name].dataset.update(meta, ann_file=str(dataset.splits["val"].annotations))
    for name in ("val_evaluator", "test_evaluator"):
        config[name].ann_file = str(dataset.splits["val"].annotations)
    config.train_cfg = {
        "type": "EpochBasedTrainLoop",
        "max_epochs": params.num_epochs,
        "val_interval": 1,
    }
    config.param_scheduler = [
        {
            "type": "CosineAnnealingLR",
            "T_max": params.num_epochs,
            "by_epoch": True,
            "convert_to_iter_based": True,
        }
    ]
    config.optim_wrapper.optimizer.lr = params.learning_rate
    config.custom_hooks[0].num_last_epochs = 2  # as detreg has it here
    config.default_hooks.checkpoint.interval = 1
    config.work_dir = "work"
    config.load_from = weights
    begun = time.perf_counter()
    runner = Runner.from_cfg(config)
    runner.train()
    return time.perf_counter() - begun, 0.0


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
