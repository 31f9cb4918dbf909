"""The checks and measurements of gpu.py, each of which returns the cells of a row.

A check raises AssertionError where something is not as it must be.
"""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from gpu_sizes import Sizes
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

import detreg
from detreg.data.dataset import Dataset
from detreg.errors import RefusedError
from detreg.inference.detector import Detector
from detreg.pipeline import parse_settings
from detreg.templates import find_template
from detreg.tracking import runs
from detreg.training import engine
from detreg.training.checkpoints import Checkpoint, load_checkpoint
from detreg.training.distributed import SyncedDDP
from detreg.training.job import Job, log_job, prepare_job
from detreg.training.network import build_network

Row = list[str]

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"

WARM_UP_STEPS = 1
"""Steps that are not timed: libraries choose their kernels in them."""
SHARE_OF_GRADIENTS = 1e-3
"""The most that gradients may differ by in a group, as a share of the largest one."""
SHRUNKEN_MEMORY = 0.6
"""Share of a step's memory that check_shrinking leaves."""


@HOOKS.register_module()
class StepTimer(Hook):
    """Notes the seconds of each step, and those that each step waited for its images."""

    priority = "VERY_LOW"
    steps: ClassVar[list[float]] = []
    waits: ClassVar[list[float]] = []

    def before_train_epoch(self, runner: Runner) -> None:  # noqa: ARG002
        """Begin a new list."""
        StepTimer.steps, StepTimer.waits = [], []
        self._ended = time.perf_counter()

    def before_train_iter(self, *_: object, **__: object) -> None:
        """Note what the images took."""
        self._began = time.perf_counter()
        StepTimer.waits.append(self._began - self._ended)

    def after_train_iter(self, *_: object, **__: object) -> None:
        """Note what the step took, when the GPU has done all of it."""
        if HAS_GPU:
            torch.cuda.synchronize()
        self._ended = time.perf_counter()
        StepTimer.steps.append(self._ended - self._began)


def prepare(template_name: str, dataset: Dataset, **values: object) -> Job:
    """Prepare a training whose steps are timed."""
    template = find_template(template_name)
    params, options = parse_settings(template, {"data": dataset.origin, **values})
    job = prepare_job(template, params, options, dataset)
    job.config.custom_hooks.append({"type": "StepTimer"})
    return job


def measure_steps(
    template: str, precision: str, dataset: Dataset, sizes: Sizes, folder: Path
) -> Row:
    """Train one epoch; return images a second, the share of waiting, and the peak of memory."""
    values = sizes.get_values(template, sizes.steps)
    job = prepare(template, dataset, **values, precision=precision)
    if HAS_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    engine.fit(job, folder, None)  # raises where a loss is not finite

    seconds = StepTimer.steps[WARM_UP_STEPS:]
    waits = StepTimer.waits[WARM_UP_STEPS:]
    images = job.params.images_per_step * len(seconds)
    images_a_second = images / (sum(seconds) + sum(waits))
    waiting_share = sum(waits) / (sum(seconds) + sum(waits))
    peak = torch.cuda.max_memory_allocated() / 2**20 if HAS_GPU else 0
    return [f"{images_a_second:.1f}", f"{waiting_share:.0%}", f"{peak:.0f}"]


def measure_model(template: str, dataset: Dataset, sizes: Sizes) -> Row:
    """Train, export, compare and register a model, and time the registered one."""
    values = sizes.get_values(template, sizes.model_steps)
    began = time.perf_counter()
    result = detreg.train(template, data=dataset.origin, precision="fp32", **values)
    seconds = time.perf_counter() - began
    detector = load_on_gpu(f"models:/{result['model_name']}/{result['model_version']}")
    single = time_detector(detector, 1, sizes.latency_runs)
    batched = time_detector(detector, 32, sizes.latency_runs)
    return [
        detector.device,
        f"{result['parity_matched']:.2%}",
        f"{single:.1f}",
        f"{batched:.2f}",
        f"{seconds:.0f}",
    ]


def load_on_gpu(model: str) -> Detector:
    """Load a model with require_gpu, which is refused where there is none."""
    try:
        return Detector.load(model, require_gpu=True)
    except RefusedError:
        if HAS_GPU:
            raise
        return Detector.load(model)


def time_detector(detector: Detector, images: int, runs_: int) -> float:
    """Return the median milliseconds an image, of batches of so many images of 640x480 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    batch = [pixels] * images
    detector.batch(batch)
    seconds = []
    for _ in range(runs_):
        began = time.perf_counter()
        detector.batch(batch)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1000 / images


def check_continuation(dataset: Dataset, sizes: Sizes, precision: str, folder: Path) -> Row:
    """Compare two epochs at once with two epochs in two runs, tensor by tensor."""
    values = sizes.get_values("yolox", sizes.steps)
    values |= {"base_model": "yolox_nano", "num_epochs": 2, "precision": precision}

    whole = train_in_run(prepare("yolox", dataset, **values))
    stopped = train_in_run(prepare("yolox", dataset, **values), lambda epoch, mAP: True)  # noqa: ARG005
    resumed = train_in_run(prepare("yolox", dataset, **values, continue_from_eid=stopped))

    expected = load_last(whole, folder).state_dict
    actual = load_last(resumed, folder).state_dict
    different = [name for name in expected if not torch.equal(expected[name], actual[name])]
    assert not different, f"{len(different)} of {len(expected)} tensors differ: {different[:3]}"
    return [f"{len(expected)} of {len(expected)} tensors equal to the last bit"]


def train_in_run(job: Job, after_epoch: Callable[[int, float], bool] | None = None) -> str:
    """Train in an MLflow run; return its id."""
    with runs.start_run(None, job.tags) as run:
        log_job(run, job)
        engine.fit(job, run.folder, run, after_epoch)
    return run.id


def load_last(run_id: str, folder: Path) -> Checkpoint:
    """Return the last checkpoint of a run."""
    stored = runs.find_checkpoints(run_id)
    assert stored is not None
    return load_checkpoint(runs.download_artifact(run_id, stored.last, folder / run_id))


def check_one_process_group(dataset: Dataset, sizes: Sizes) -> Row:
    """Compare the gradients of a step with those in a group of one process (NCCL on a GPU)."""
    values = {**sizes.get_values("yolox", 1), "base_model": "yolox_nano"}
    job = prepare("yolox", dataset, **values, precision="fp32")
    alone = build_network(job.config.model, None)
    weights = copy.deepcopy(alone.state_dict())
    batch = next(iter(Runner.build_dataloader(job.config.train_dataloader, seed=0)))

    expected = compute_gradients(alone.train(), alone, batch)

    backend = "nccl" if HAS_GPU else "gloo"
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, rank=0, world_size=1, store=store)
    try:
        network = build_network(job.config.model, weights)
        # Its devices are taken on GPUs only.
        grouped = SyncedDDP(network, device_ids=[0])
        actual = compute_gradients(grouped, grouped.module, batch)
    finally:
        dist.destroy_process_group()

    difference = max(float((actual[name] - expected[name]).abs().max()) for name in expected)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert difference <= SHARE_OF_GRADIENTS * largest, (
        f"gradients differ by {difference} of {largest}"
    )
    return [f"{backend}: gradients differ by at most {difference / largest:.1e} of the largest"]


def compute_gradients(model: nn.Module, network: Any, batch: Any) -> dict[str, Tensor]:
    """Return the gradients of a batch's losses, by the parameter's name in the network."""
    prepared = network.data_preprocessor(batch, True)
    total, _ = network.parse_losses(model(**prepared, mode="loss"))
    total.backward()
    return {
        name: parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def check_shrinking(dataset: Dataset, sizes: Sizes) -> Row:
    """Take so much of the GPU's memory away that a step does not fit, and train on."""
    if not HAS_GPU:
        return ["not on a CPU, whose memory has no such limit"]

    values = {**sizes.get_values("yolox", 2), "base_model": "yolox_s", "precision": "fp32"}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train_in_run(prepare("yolox", dataset, **values))
    peak = torch.cuda.max_memory_allocated()

    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(SHRUNKEN_MEMORY * peak / total)
    try:
        torch.cuda.reset_peak_memory_stats()
        run_id = train_in_run(prepare("yolox", dataset, **values))
        reduced = torch.cuda.max_memory_allocated()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    micro_batch = runs.get_run(run_id).data.tags.get(runs.MICRO_BATCH)
    assert micro_batch is not None, "the training was not divided"
    return [
        f"{peak / 2**20:.0f} MiB for a step; with {SHRUNKEN_MEMORY:.0%} of it "
        f"{micro_batch} images at a time, {reduced / 2**20:.0f} MiB"
    ]
