"""Each template learns: val mAP of the start and after a short training by `mlflow run`, which ends in a registered version.

    python benchmarks/learn.py                           all seven and SSD300: two hours and a half on two CPU cores
    python benchmarks/learn.py ssd yolof ssd300          some of them
    python benchmarks/learn.py --data ../shared/data/bccd yolox     a dataset in place of the drawn sample

Six start from random weights and learn the sample; nothing is downloaded. With DETREG_WEIGHTS, yolox starts from COCO weights and learns
the dataset of --data. Sizes and steps are as small as two CPU cores allow. Prints the table of docs/choose-a-template.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

SHORT: dict[str, dict[str, Any]] = {
    "yolox": {
        "base_model": "yolox_nano",
        "image_size": 160,
        "num_epochs": 24,
        "batch_size": 8,
        "per_item_lrate": 0.00125,
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
FROM_NOTHING = {"pretrained_weights": "none", "frozen_stages": 0, "min_samples_per_epoch": 160}
ON_BCCD = {
    "base_model": "yolox_nano",
    "image_size": 416,
    "num_epochs": 8,
    "batch_size": 8,
    "per_item_lrate": 0.0003125,
}


def values_of(row: str, data: str) -> dict[str, Any]:
    """The hyperparameters of a row's short training."""
    if data != "sample":
        return {"data": str(Path(data).resolve()), **ON_BCCD}
    return {
        **SHORT[row],
        **FROM_NOTHING,
        **({"pretrain_base_data": "none"} if row == "msc10" else {}),
    }


def before(template_name: str, values: dict[str, Any]) -> Any:
    """The val scores of the network that the training starts from."""
    import torch

    from detreg import templates
    from detreg.data.dataset import load_dataset
    from detreg.evaluation.ground_truth import GroundTruth
    from detreg.evaluation.scores import score
    from detreg.pipeline import parse_settings
    from detreg.training.compose import compose
    from detreg.training.initial_weights import choose_initial_weights
    from detreg.training.network import build_network, predict
    from detreg.training.transfer import transfer_weights

    template = templates.find_template(template_name)
    params, options = parse_settings(template, values)
    dataset = load_dataset(options.data)
    config = compose(template, template.resolve(params), dataset, options)
    torch.manual_seed(0)
    network = build_network(config.model, None)
    start = choose_initial_weights(template, params, dataset)
    if start.weights is not None:
        transfer_weights(network, start.weights, dataset.classes, template.get_class_layers(params))
    return score(
        GroundTruth.load(dataset.splits["val"].annotations),
        dict(predict(network, config.val_dataloader, dataset.classes)),
    )


def train(template: str, values: dict[str, Any]) -> dict[str, float]:
    """One `mlflow run`; the metrics of its MLflow run, and its minutes."""
    words = [word for name, value in values.items() for word in ("-P", f"{name}={value}")]
    begun = time.monotonic()
    command = [
        "mlflow",
        "run",
        str(ROOT),
        "-e",
        template,
        "--env-manager",
        "local",
        *words,
        "-P",
        f"registered_model_name=learn_{template}",
    ]
    subprocess.run(
        command,
        check=True,
        stdout=sys.stderr,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    minutes = (time.monotonic() - begun) / 60
    import mlflow

    version = max(
        mlflow.MlflowClient().search_model_versions(f"name='learn_{template}'"),
        key=lambda version: int(version.version),
    )
    assert version.run_id is not None
    return dict(mlflow.get_run(version.run_id).data.metrics) | {
        "minutes": minutes,
        "version": float(version.version),
    }


def main() -> None:
    """Prints a row for each template."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", choices=[[], *SHORT], default=[])
    parser.add_argument("--data", default="sample")
    arguments = parser.parse_args()
    print(
        "| template | start | short training | mAP before | mAP after | mAP_50 after | parity | minutes |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row_name in arguments.rows or SHORT:
        template = TEMPLATES.get(row_name, row_name)
        values = values_of(row_name, arguments.data)
        start, end = before(template, values), train(template, values)
        told = ", ".join(
            f"{name}={value}"
            for name, value in values.items()
            if name not in ("data", *FROM_NOTHING, "pretrain_base_data")
        )
        row = f"| `{template}` | {'random' if 'pretrained_weights' in values else 'COCO'} | {told} | {start.mAP or 0:.3f} | {end['mAP']:.3f} "
        print(
            f"{row}| {end['mAP_50']:.3f} | {end['parity/matched']:.2%} | {end['minutes']:.1f} |",
            flush=True,
        )
        print(json.dumps({"template": template, **end}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
