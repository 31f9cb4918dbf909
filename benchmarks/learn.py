"""Measure the val mAP of each template before and after a short training.

    python benchmarks/learn.py                           all and SSD300: 4 hours on two cores
    python benchmarks/learn.py ssd yolof ssd300          some of them
    python benchmarks/learn.py faster_rcnn_masks         with instance masks
    python benchmarks/learn.py --data ../shared/data/bccd yolox     another dataset than the sample

Each training is an `mlflow run`, which ends in a registered version. They start from random weights
and learn the drawn sample; nothing is downloaded. With DETREG_WEIGHTS, yolox starts from COCO
weights and learns the dataset of --data. Sizes and steps are as small as two CPU cores allow.
Prints the table of docs/choose-a-template.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import torch

from detreg.data.dataset import load_dataset
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import Scores, score
from detreg.pipeline import parse_settings
from detreg.templates import find_template
from detreg.training.compose import compose
from detreg.training.initial_weights import choose_initial_weights
from detreg.training.network import build_network, predict
from detreg.training.transfer import transfer_weights

Values = dict[str, Any]
"""Hyperparameters and options by name."""

ROOT = Path(__file__).parents[1]

SHORT: dict[str, Values] = {
    "yolox": {
        "base_model": "yolox_nano",
        "image_size": 160,
        "num_epochs": 14,
        "min_samples_per_epoch": 300,
        "batch_size": 8,
    },
    "yolof": {"image_size": 224, "num_epochs": 16, "batch_size": 8, "per_item_lrate": 0.001875},
    "ssd": {"image_size": 192, "num_epochs": 60, "batch_size": 16, "per_item_lrate": 0.002},
    "ssd300": {
        "base_model": "ssd300_vgg16",
        "image_size": 300,
        "num_epochs": 4,
        "batch_size": 4,
        "per_item_lrate": 0.0001,
    },
    "faster_rcnn": {"image_size": 128, "num_epochs": 5, "batch_size": 4, "per_item_lrate": 0.00125},
    "inception_v4": {
        "image_size": 160,
        "num_epochs": 22,
        "batch_size": 8,
        "per_item_lrate": 0.000625,
    },
    "inception_v2": {
        "image_size": 160,
        "num_epochs": 20,
        "batch_size": 8,
        "per_item_lrate": 0.000625,
    },
    "msc10": {
        "base_model": "mobilenetv2_100",
        "image_size": 160,
        "num_epochs": 14,
        "batch_size": 8,
        "per_item_lrate": 0.00125,
    },
}
TEMPLATES = {"ssd300": "ssd"}
"""The template of a row that has another name."""

MASKS = "_masks"
"""At the end of the name of a row that learns instance masks after boxes."""
EPOCHS_OF_BOXES = {"faster_rcnn": 3, "inception_v4": 14, "inception_v2": 12, "msc10": 10}
EPOCHS_OF_MASKS = 3
"""Few: on a CPU an epoch with masks takes several times as long as one without."""
for _name, _epochs in EPOCHS_OF_BOXES.items():
    SHORT[_name + MASKS] = SHORT[_name] | {"num_epochs": _epochs}
    TEMPLATES[_name + MASKS] = _name

FROM_NOTHING = {"pretrained_weights": "none", "frozen_stages": 0, "min_samples_per_epoch": 160}
ON_BCCD = {
    "base_model": "yolox_nano",
    "image_size": 416,
    "num_epochs": 8,
    "batch_size": 8,
    "per_item_lrate": 0.0003125,
}
NOT_SHOWN = {"data", "pretrain_base_data", *FROM_NOTHING}


def get_values(row: str, data: str) -> Values:
    """Return the values of a row's short training."""
    if data != "sample":
        return {"data": str(Path(data).resolve()), **ON_BCCD}
    values = {**FROM_NOTHING, **SHORT[row]}
    if TEMPLATES.get(row, row) == "msc10":
        values["pretrain_base_data"] = "none"
    return values


def score_untrained(template_name: str, values: Values) -> Scores:
    """Return the val scores of the network that the training starts from."""
    template = find_template(template_name)
    params, options = parse_settings(template, values)
    dataset = load_dataset(options.data)
    config = compose(template, template.resolve(params), dataset, options)

    torch.manual_seed(0)
    network = build_network(config.model, None)
    initial = choose_initial_weights(template, params, dataset, options)
    if initial.weights is not None:
        class_layers = template.get_class_layers(params)
        transfer_weights(network, initial.weights, dataset.classes, class_layers)

    truth = GroundTruth.load(dataset.splits["val"].annotations)
    predictions = dict(predict(network, config.val_dataloader, dataset.classes))
    return score(truth, predictions)


def train(template: str, values: Values) -> Values:
    """Run `mlflow run` once, and return its metrics, its minutes, its version and its run id."""
    name = f"learn_{template}"
    command = ["mlflow", "run", str(ROOT), "-e", template, "--env-manager", "local"]
    for key, value in {**values, "registered_model_name": name}.items():
        command += ["-P", f"{key}={value}"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
    minutes = (time.monotonic() - begun) / 60

    versions = mlflow.MlflowClient().search_model_versions(f"name='{name}'")
    newest = max(versions, key=lambda version: int(version.version))
    assert newest.run_id is not None
    metrics = dict(mlflow.get_run(newest.run_id).data.metrics)
    return metrics | {"minutes": minutes, "version": newest.version, "eid": newest.run_id}


def train_masks(template: str, values: Values, boxes: Values) -> Values:
    """Continue a training of boxes with masks, and return the same as `train` of both."""
    with_masks = {"masks": "true", "num_epochs": EPOCHS_OF_MASKS, "continue_from_eid": boxes["eid"]}
    after = train(template, values | with_masks)
    return after | {"minutes": boxes["minutes"] + after["minutes"]}


def format_row(template: str, values: Values, before: Scores, after: Values) -> str:
    start = "random" if "pretrained_weights" in values else "COCO"
    shown = [f"{name}={value}" for name, value in values.items() if name not in NOT_SHOWN]
    if "segm_mAP_50" in after:
        shown.append(f"then masks=true, num_epochs={EPOCHS_OF_MASKS}")
    cells = (
        f"`{template}`",
        start,
        ", ".join(shown),
        f"{before.mAP or 0:.3f}",
        f"{after['mAP']:.3f}",
        f"{after['mAP_50']:.3f}",
        f"{after['segm_mAP_50']:.3f}" if "segm_mAP_50" in after else "",
        f"{after['parity/matched']:.2%}",
        f"{after['minutes']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row for each template."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", choices=[[], *SHORT], default=[])
    parser.add_argument("--data", default="sample")
    arguments = parser.parse_args()

    heads = (
        "template",
        "start",
        "short training",
        "mAP before",
        "mAP after",
        "mAP_50 after",
        "segm mAP_50 after",
        "parity",
        "minutes",
    )
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for row in arguments.rows or SHORT:
        template = TEMPLATES.get(row, row)
        values = get_values(row, arguments.data)
        before = score_untrained(template, values)
        after = train(template, values)
        if row.endswith(MASKS):
            after = train_masks(template, values, after)
        print(format_row(template, values, before, after), flush=True)
        print(json.dumps({"template": template, **after}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
