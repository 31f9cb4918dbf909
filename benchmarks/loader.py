"""Compare detreg's training loader with MMDetection's and Ultralytics' in one run.

    python benchmarks/loader.py                              every template, 640 px, one process
    python benchmarks/loader.py --sizes 416 640 --processes 1 2
    python benchmarks/loader.py --sizes 160 --drawn 160 120 --counts 200 2000 20000
                                 cost against the number of images; the caches take 3 GB
    python benchmarks/loader.py --ultralytics ultra/bin/python --templates yolox_s yolox_nano

Prints for each loader CPU milliseconds an image (of all its processes: the figure that other load
on the machine changes least), images a second, and MiB of the processes that load. detreg is
measured with its cache filled, and with cache=off. The loaders take turns, epoch by epoch, of 2,000
images at most; each figure is the median of the epochs. MMDetection runs its packaged pipeline of
the template's base model, at the same size.

Ultralytics needs an environment of its own:

    uv venv ultra && uv pip install --python ultra/bin/python ultralytics==8.4.190 psutil

It runs with cache=disk (decoded images as files) and with mosaic, HSV and flips of the same
strength; and with MixUp for yolox_s, which mixes every image. yolox_nano has no MixUp.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import psutil
import torch
from mmdet.utils import register_all_modules
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import write_sample
from detreg.options import RunOptions
from detreg.params import build
from detreg.templates import find_template
from detreg.training import image_cache, network
from detreg.training.compose import load_published_config
from detreg.training.loader_processes import end_processes, prepare_processes
from detreg.training.loaders import compose_train_loader

BATCH_SIZE = 8
MAX_IMAGES = 2000
"""Images of an epoch that are measured, at most."""
TEMPLATES: dict[str, tuple[str, dict[str, Any]]] = {
    "yolox_nano": ("yolox", {"base_model": "yolox_nano"}),
    "yolox_s": ("yolox", {"base_model": "yolox_s"}),
    "yolof": ("yolof", {}),
    "ssd": ("ssd", {}),
    "faster_rcnn": ("faster_rcnn", {}),
    "inception_v4": ("inception_v4", {}),
    "inception_v2": ("inception_v2", {}),
    "msc10": ("msc10", {}),
}
Config = dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """What an epoch took: images, CPU seconds, seconds, and MiB of the loader's processes."""

    images: int
    cpu: float
    wall: float
    memory: float


@dataclass(frozen=True)
class Case:
    """What is loaded how."""

    template: str
    image_size: int
    processes: int
    data: Path


Load = Callable[[int, int], Usage]
"""Loads an epoch with this number, until this many images are loaded."""


def main() -> None:
    """Measure all cases and print a table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # Also on a busy machine the first epoch fills the cache, whatever that costs.
    image_cache._SHARE_OF_TIME = math.inf
    assert network  # importing it registers detreg's parts
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")

    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETREG_CACHE"] = str(Path(folder) / "cache")
        os.environ["YOLO_CONFIG_DIR"] = folder
        print("template size processes images | loader | CPU ms an image | images/s | MiB")
        for count in arguments.counts:
            data = write_images(Path(folder), count, tuple(arguments.drawn))
            for template in arguments.templates:
                for image_size in arguments.sizes:
                    for processes in arguments.processes:
                        case = Case(template, image_size, processes, data)
                        measure(case, arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--templates", nargs="+", default=list(TEMPLATES), choices=TEMPLATES)
    parser.add_argument("--sizes", nargs="+", type=int, default=[640])
    parser.add_argument("--processes", nargs="+", type=int, default=[1])
    parser.add_argument("--counts", nargs="+", type=int, default=[200])
    parser.add_argument("--drawn", nargs=2, type=int, default=[640, 480], help="width and height")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--without_peers", action="store_true")
    parser.add_argument("--ultralytics", help="Python of the environment that has it")
    return parser.parse_args()


def write_images(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> Path:
    """Draw images, and link those of train until there are `count`."""
    data = folder / f"images-{count}"
    write_sample(data, format="yolo", images=150, size=size)
    images = sorted((data / "images" / "train").iterdir())
    for number in range(len(images), count):
        image = images[number % len(images)]
        name = f"link-{number}"
        os.link(image, image.with_name(name + image.suffix))
        labels = data / "labels" / "train" / f"{image.stem}.txt"
        os.link(labels, labels.with_name(f"{name}.txt"))

    # An image that was just written is not kept.
    time.sleep(2.5)
    return data


def measure(case: Case, arguments: argparse.Namespace) -> None:
    """Let the loaders take turns, and print the median of each."""
    dataset = load_dataset(case.data)
    with ExitStack() as stack:
        loaders = {}
        configs = {
            "detreg": compose_own(case, dataset, "disk"),
            "detreg, cache=off": compose_own(case, dataset, "off"),
        }
        if not arguments.without_peers:
            configs["MMDetection"] = compose_stock(case, dataset)
        for name, config in configs.items():
            loaders[name] = open_loader(config, stack)
        if arguments.ultralytics and case.template.startswith("yolox"):
            loaders["Ultralytics"] = open_ultralytics(case, arguments, stack)

        # The first epoch fills the cache, of all images, and starts processes.
        first = {
            name: load(0, sys.maxsize if name == "detreg" else MAX_IMAGES)
            for name, load in loaders.items()
        }
        later: dict[str, list[Usage]] = {name: [] for name in loaders}
        for epoch in range(1, arguments.epochs + 1):
            for name, load in loaders.items():
                later[name].append(load(epoch, MAX_IMAGES))

    title = f"{case.template} {case.image_size} {case.processes} {dataset.splits['train'].images}"
    print_usage(title, "detreg, first epoch", [first["detreg"]])
    for name, usages in later.items():
        print_usage(title, name, usages)


def print_usage(title: str, name: str, usages: list[Usage]) -> None:
    cpu = statistics.median(1000 * usage.cpu / usage.images for usage in usages)
    speed = statistics.median(usage.images / usage.wall for usage in usages)
    memory = max(usage.memory for usage in usages)
    print(f"{title} | {name} | {cpu:.2f} | {speed:.1f} | {memory:.0f}", flush=True)


def compose_own(case: Case, dataset: Dataset, cache: str) -> Config:
    """Compose detreg's loader with default hyperparameters."""
    name, values = TEMPLATES[case.template]
    template = find_template(name)
    sizes = {"image_size": case.image_size, "batch_size": BATCH_SIZE, "min_samples_per_epoch": 1}
    params = template.resolve(build(template.params, values | sizes))
    options = RunOptions(num_workers=case.processes, cache=cache)
    published = load_published_config(template, params)
    return compose_train_loader(template, params, dataset, options, published)


def compose_stock(case: Case, dataset: Dataset) -> Config:
    """Compose the loader that MMDetection packages, at detreg's size."""
    name, values = TEMPLATES[case.template]
    template = find_template(name)
    params = build(template.params, values | {"image_size": case.image_size})
    loader = load_published_config(template, params).train_dataloader.to_dict()

    outer = loader["dataset"]
    while "dataset" in outer and "pipeline" not in outer:  # SSD's repeats the images
        outer = outer["dataset"]
    inner = outer.get("dataset", outer)
    inner |= {
        "ann_file": str(dataset.splits["train"].annotations),
        "data_root": "",
        "data_prefix": {"img": ""},
        "metainfo": {"classes": dataset.classes},
    }
    outer["pipeline"] = [resize_step(step, params, case.image_size) for step in outer["pipeline"]]
    return {
        "batch_size": BATCH_SIZE,
        "num_workers": case.processes,
        "persistent_workers": case.processes > 0,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "dataset": outer,
    }


def resize_step(step: Config, params: Any, size: int) -> Config:
    """Return a transform with detreg's size in place of the published one."""
    changed = dict(step)
    if "img_scale" in step:
        changed["img_scale"] = (size, size)
    if "border" in step:
        changed["border"] = (-size // 2, -size // 2)
    if "scale" in step:
        longest = int(size * params.max_aspect_ratio) if params.keep_aspect_ratio else size
        changed["scale"] = (longest, size)
    return changed


def open_loader(config: Config, stack: ExitStack) -> Load:
    """Return a function that loads an epoch in this process and the loader's own."""
    loader = Runner.build_dataloader(config, seed=0)
    prepare_processes(loader)
    stack.callback(end_processes, loader)
    own = psutil.Process()
    others: list[psutil.Process] = []

    def load(epoch: int, limit: int) -> Usage:
        loader.sampler.set_epoch(epoch)
        iterator = iter(loader)
        if not others:
            workers = getattr(iterator, "_workers", [])
            others.extend(psutil.Process(worker.pid) for worker in workers)
        cpu = get_cpu_seconds([own, *others])
        begun = time.perf_counter()
        images = 0
        for batch in iterator:
            images += len(batch["inputs"])
            if images >= limit:
                break
        wall = time.perf_counter() - begun
        memory = sum(process.memory_full_info().pss for process in others or [own])
        return Usage(images, get_cpu_seconds([own, *others]) - cpu, wall, memory / 2**20)

    return load


def get_cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def open_ultralytics(case: Case, arguments: argparse.Namespace, stack: ExitStack) -> Load:
    """Return a function that lets Ultralytics load an epoch in a process of its own."""
    script = Path(__file__).with_name("loader_ultralytics.py")
    process = subprocess.Popen(
        [arguments.ultralytics, str(script)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    questions, answers = process.stdin, process.stdout
    assert questions is not None
    assert answers is not None
    stack.callback(process.wait)
    # The processes of other loaders were forked with its pipes, whose end it would not see.
    stack.callback(process.terminate)
    settings = {
        "data": str(next(case.data.glob("*.yaml"))),
        "image_size": case.image_size,
        "batch_size": BATCH_SIZE,
        "processes": case.processes,
        "cache": "disk",
        "mixup": 1.0 if case.template == "yolox_s" else 0.0,
    }

    def ask(line: str) -> None:
        questions.write(line + "\n")
        questions.flush()

    def load(epoch: int, limit: int) -> Usage:  # noqa: ARG001 (it shuffles by itself)
        ask(str(limit))
        # The library prints lines of its own.
        for line in answers:
            if line.startswith('{"images"'):
                return Usage(**json.loads(line))
        raise RuntimeError(f"Ultralytics' loader has ended with {process.wait()}")

    ask(json.dumps(settings))
    return load


if __name__ == "__main__":
    main()
