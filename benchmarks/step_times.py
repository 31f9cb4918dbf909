"""Seconds of processor time per step: stock MMDetection against detreg, for every template.

    OMP_NUM_THREADS=1 python benchmarks/train_vs_mmdet.py --steps [yolox_nano yolox_s ssd ...]

Stock is the packaged configuration's own network, optimizer and average of the weights, in float32,
with MMEngine's train_step. Where MMDetection lacks the backbone (Inception, MobileNet in RetinaNet)
it is that step of the same network. Both sides take the same drawn images, in turns in one process;
loading is left out. Without bf16 in the processor the last column says nothing.
"""

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from detreg.data.dataset import load_dataset
from detreg.pipeline import parse_settings
from detreg.templates import find_template
from detreg.training.compose import compose, load_published_config
from detreg.training.divided_step import compute_gradients, prepare_batch
from detreg.training.network import build_network
from detreg.training.precision import use_precision
from detreg.training.trial_steps import draw_batch

ROUNDS = int(os.environ.get("ROUNDS", "5"))
CLASSES = 3
"""Of the drawn dataset."""
RATE = 1e-5
"""The learning rate: a usual one would make random weights grow without bound."""

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A template and what is trained, at a size that a slow processor can take."""

    template: str
    base_model: str | None = None
    pixels: int = 320
    images: int = 4


CASES = {
    "yolox_nano": Case("yolox", "yolox_nano", pixels=416, images=8),
    "yolox_s": Case("yolox", "yolox_s"),
    "yolof": Case("yolof"),
    "ssd": Case("ssd"),
    "faster_rcnn": Case("faster_rcnn"),
    "inception_v4": Case("inception_v4"),
    "inception_v2": Case("inception_v2"),
    "msc10": Case("msc10", "mobilenetv2_100"),
}


def main(names: list[str]) -> None:
    """Print a table with a row for each case."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    torch.set_flush_denormal(True)
    warnings.simplefilter("ignore")
    print("| case | pixels, images | stock, ms | detreg fp32, ms (times) | bf16, ms (times) |")
    print("|---|---|---|---|---|")
    for name in names or CASES:
        case = CASES[name]
        seconds = measure(case)
        stock = seconds["stock"]
        cells = [name, f"{case.pixels}, {case.images}", f"{stock * 1000:.0f}"]
        for side in ("fp32", "bf16"):
            cells.append(f"{seconds[side] * 1000:.0f} ({seconds[side] / stock:.2f})")
        print(f"| {' | '.join(cells)} |", flush=True)


def measure(case: Case) -> dict[str, float]:
    """Return the median seconds of a step of each side, after one that is not counted."""
    steps = {
        "stock": make_stock_step(case),
        "fp32": make_own_step(case, "fp32"),
        "bf16": make_own_step(case, "bf16"),
    }
    seconds: dict[str, list[float]] = {side: [] for side in steps}
    for _ in range(1 + ROUNDS):
        for side, step in steps.items():
            begun = time.process_time()
            step()
            seconds[side].append(time.process_time() - begun)
    return {side: statistics.median(values[1:]) for side, values in seconds.items()}


def make_stock_step(case: Case) -> Step:
    """Return a step of MMEngine's own loop with the packaged configuration."""
    config = _compose(case, "fp32")
    template = find_template(case.template)
    params, _ = parse_settings(template, _list_values(case, "fp32"))
    published = load_published_config(template, params)
    model = published.model.to_dict()
    if model["backbone"]["type"] != config.model.backbone.type:
        model = config.model.to_dict()  # a backbone that MMDetection lacks
    else:
        _adapt_published(model)

    network = _build(model)
    published.optim_wrapper.optimizer.lr = RATE
    optimizer = build_optim_wrapper(network, published.optim_wrapper)
    average = _build_average(network, published.get("custom_hooks", []))
    data = draw_batch(case.images, case.pixels, case.pixels)

    def step() -> None:
        network.train_step(data, optimizer)
        if average is not None:
            average.update_parameters(network)

    return step


def make_own_step(case: Case, precision: str) -> Step:
    """Return a step as ShrinkingTrainLoop runs it, with the average of the weights."""
    config = _compose(case, precision)
    network = _build(config.model.to_dict())
    use_precision(network, precision)
    optimizer = build_optim_wrapper(network, config.optim_wrapper)
    average = _build_average(network, config.custom_hooks)
    data = draw_batch(case.images, case.pixels, case.pixels)

    def step() -> None:
        compute_gradients(network, optimizer, prepare_batch(network, optimizer, data))
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update_parameters(network)

    return step


def _list_values(case: Case, precision: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "image_size": case.pixels,
        "batch_size": case.images,
        "per_item_lrate": RATE / case.images,
        "precision": precision,
        "recipe": "published",  # as MMDetection trains it
    }
    if case.base_model:
        values["base_model"] = case.base_model
    return values


def _compose(case: Case, precision: str) -> Any:
    template = find_template(case.template)
    params, options = parse_settings(template, _list_values(case, precision))
    resolved_params = template.resolve(params, options.recipe)
    return compose(template, resolved_params, load_dataset("sample"), options, True)


def _adapt_published(model: dict[str, Any]) -> None:
    """Take random weights, the classes of the drawn dataset, and images of one size."""
    model["backbone"].pop("init_cfg", None)
    model["data_preprocessor"].pop("batch_augments", None)
    head = model["roi_head"]["bbox_head"] if "roi_head" in model else model["bbox_head"]
    head["num_classes"] = CLASSES


def _build(model: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return build_network(model, None).train()


def _build_average(network: nn.Module, hooks: list[Any]) -> Any:
    """Return the average that an EMAHook of the configuration keeps, None without one."""
    for hook in hooks:
        if hook["type"] == "EMAHook":
            names = ("momentum", "update_buffers")
            values = {name: hook[name] for name in names if name in hook}
            return MODELS.build(ConfigDict(type=hook["ema_type"], model=network, **values))
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
