"""A step that the GPU has too little memory for is divided, and trains what the whole one does."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import MemoryExhaustedError
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES
from detreg.tracking import runs
from detreg.training import engine
from detreg.training.checkpoints import Checkpoint, load_checkpoint
from detreg.training.divided_step import count_parts
from detreg.training.job import Job, log_job, prepare_job

Weights = dict[str, Tensor]

_SMALL_TWO_STAGES = {
    "backbone": {"depth": 18},
    "neck": {"in_channels": [64, 128, 256, 512]},
    "roi_head": {"bbox_head": {"fc_out_channels": 64}},
    "train_cfg": {"rpn_proposal": {"max_per_img": 40}, "rcnn": {"sampler": {"num": 32}}},
}
"""A Faster R-CNN that trains in seconds; both stages still draw at random from more."""


@dataclass
class FullGpu:
    """A GPU whose memory takes `capacity` images at a time in training.

    `failures` are the numbers of images that it did not take. `left` says of each failed attempt
    whether its tensors were still in memory at the next one.
    """

    capacity: int
    fails_in_backward: bool = False
    failures: list[int] = field(default_factory=list)
    left: list[bool] = field(default_factory=list)
    _last_tensor: weakref.ref[Tensor] | None = None

    def install(self, network: Any) -> None:
        """Fail after the backbone's forward pass, or in its backward pass."""
        network.backbone.register_forward_hook(self._look)

    def _look(
        self, backbone: nn.Module, inputs: tuple[Tensor], features: tuple[Tensor, ...]
    ) -> None:
        if self._last_tensor is not None:
            self.left.append(self._last_tensor() is not None)
            self._last_tensor = None

        images = len(inputs[0])
        if images <= self.capacity or not backbone.training:
            return
        self._last_tensor = weakref.ref(features[0])
        if self.fails_in_backward:
            features[0].register_hook(lambda gradient: self._fail(len(gradient)))
        else:
            self._fail(images)

    def _fail(self, images: int) -> None:
        self.failures.append(images)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(scope="module")
def dataset(tiny: Path) -> Dataset:
    return load_dataset(str(tiny))


def prepare(name: str, dataset: Dataset, **values: object) -> Job:
    """Prepare a training with steps of four images at 64 px."""
    template = TEMPLATES[name]
    given = SMALL[name] | {"num_epochs": 1, "per_item_lrate": 1e-3, "data": dataset.folder}
    params, options = parse_settings(template, given | values)
    job = prepare_job(template, params, options, dataset)
    if name == "faster_rcnn":
        job.config.merge_from_dict({"model": _SMALL_TWO_STAGES})
    return job


@dataclass
class StartHook(Hook):
    """Keeps the weights that a training starts from."""

    weights: Weights = field(default_factory=dict)

    def before_train(self, runner: Runner) -> None:
        """Copy them."""
        self.weights = copy_weights(runner)


class EndedError(Exception):
    """Ends a training after its second step."""


class TwoStepsHook(Hook):
    """Raises EndedError after the second step: rounding grows with each one."""

    priority = "VERY_LOW"

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,  # noqa: ARG002
        data_batch: object = None,  # noqa: ARG002
        outputs: object = None,  # noqa: ARG002
    ) -> None:
        """Count the step."""
        if runner.iter + 1 == 2:
            raise EndedError


def copy_weights(runner: Runner) -> Weights:
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


@dataclass(frozen=True)
class Trained:
    """The weights under training at the start and at the end."""

    start: Weights
    end: Weights


def train(
    job: Job,
    folder: Path,
    *,
    gpu: FullGpu | None = None,
    micro_batch: int | None = None,
    change: Callable[[Any], None] | None = None,
) -> Trained:
    """Train two steps as engine.fit does, without a run."""
    runner = engine._build_runner(job, folder)
    engine._prepare_batch_norms(runner.model, job.params)
    start = StartHook()
    for hook in [*engine._make_step_hooks(job), start, TwoStepsHook()]:
        runner.register_hook(hook)

    runner.train_loop.micro_batch = micro_batch
    if change:
        change(runner.model)
    if gpu:
        gpu.install(runner.model)
    with pytest.raises(EndedError):
        runner.train()
    return Trained(start.weights, copy_weights(runner))


def freeze_statistics(network: Any) -> None:
    """Keep the batch norms in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.eval()
        # In place of the method by which the network's own `train` reaches it.
        norm.train = partial(_stay, norm)  # type: ignore[method-assign]


def _stay(norm: _BatchNorm, mode: bool = True) -> _BatchNorm:
    return norm


def use_doubles(network: Any) -> None:
    """Make rounding tiny, and keep the batch norms in evaluation mode."""
    freeze_statistics(network)
    network.double()
    network.data_preprocessor.register_forward_hook(_turn_images_into_doubles)
    if type(network).__name__ == "YOLOF":
        # It compares predicted boxes, which are doubles now, with true ones and with anchors.
        network.data_preprocessor.register_forward_hook(_turn_boxes_into_doubles)
        generator = network.bbox_head.prior_generator
        make_priors = generator.grid_priors
        generator.grid_priors = lambda *sizes, **named: [
            priors.double() for priors in make_priors(*sizes, **named)
        ]
    if type(network).__name__ == "YOLOX":
        # SimOTA stores into single precision what it compares.
        assigner = network.bbox_head.assigner
        assign = assigner.assign
        assigner.assign = lambda pred_instances, **others: assign(
            pred_instances.to(torch.float32), **others
        )


def _turn_images_into_doubles(module: object, inputs: object, batch: dict[str, Any]) -> None:
    batch["inputs"] = batch["inputs"].double()


def _turn_boxes_into_doubles(module: object, inputs: object, batch: dict[str, Any]) -> None:
    for sample in batch["data_samples"]:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()


def measure_difference(actual: Trained, expected: Trained) -> float:
    """Return the largest difference of any tensor, as a share of how far it was trained."""
    shares = []
    for name, value in expected.end.items():
        distance = (value - expected.start[name]).double().norm()
        if distance > 0:
            shares.append(float((actual.end[name] - value).double().norm() / distance))
    assert shares
    return max(shares)


def assert_equal(actual: Weights, expected: Weights) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


CASES: list[Any] = [
    ("yolox", {}),
    ("ssd", {}),
    ("faster_rcnn", {"batch_size": 2, "min_samples_per_epoch": 4}),
    *(
        pytest.param(name, values, marks=pytest.mark.soak)
        for name, values in (
            ("faster_rcnn", {}),
            ("yolof", {}),
            ("inception_v4", {}),
            ("inception_v2", {}),
            ("inception_v2", {"use_focal_loss": False, "use_perclass_regression": True}),
            ("msc10", {}),
        )
    ),
]


@pytest.mark.parametrize(("name", "values"), CASES)
def test_a_divided_step_trains_what_the_whole_one_does(
    name: str, values: Mapping[str, object], dataset: Dataset, tmp_path: Path
) -> None:
    """One for each kind of head; losses over the whole batch and random samples included."""
    whole = train(prepare(name, dataset, **values), tmp_path, change=use_doubles)
    gpu = FullGpu(capacity=1)
    divided = train(prepare(name, dataset, **values), tmp_path, gpu=gpu, change=use_doubles)

    assert gpu.failures == ([2] if "batch_size" in values else [4, 2])
    assert not any(gpu.left)
    assert measure_difference(divided, whole) < 1e-9


@pytest.mark.parametrize("fails_in_backward", [False, True])
def test_a_failed_attempt_leaves_nothing_behind(
    fails_in_backward: bool, dataset: Dataset, tmp_path: Path
) -> None:
    """Batch norms are trained here: the result is that of a training that begins with two."""
    gpu = FullGpu(capacity=2, fails_in_backward=fails_in_backward)
    shrunken = train(prepare("yolox", dataset), tmp_path, gpu=gpu)
    assert gpu.failures == [4]
    assert gpu.left == [False]

    # Two parts in each of two steps; a part counts once, though it passes the layers twice.
    counts = {
        int(value) for name, value in shrunken.end.items() if name.endswith("num_batches_tracked")
    }
    assert counts == {4}
    begun_with_two = train(prepare("yolox", dataset), tmp_path, micro_batch=2)
    assert_equal(shrunken.end, begun_with_two.end)


def fit(
    job: Job,
    gpu: FullGpu,
    monkeypatch: pytest.MonkeyPatch,
    after_epoch: Callable[[int, float], bool] | None = None,
) -> str:
    """Train in an MLflow run on a GPU of little memory; return the run's id."""
    build_runner = engine._build_runner

    def build_on_gpu(job: Job, folder: Path) -> Runner:
        runner = build_runner(job, folder)
        gpu.install(runner.model)
        return runner

    with monkeypatch.context() as patch, runs.start_run(None, job.tags) as run:
        patch.setattr(engine, "_build_runner", build_on_gpu)
        log_job(run, job)
        engine.fit(job, run.folder, run, after_epoch)
    return run.id


def load_last(eid: str, folder: Path) -> Checkpoint:
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    return load_checkpoint(runs.download_artifact(eid, stored.last, folder / eid))


def test_a_shrunken_training_says_so_and_is_continued_as_it_was(
    store: str,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu = FullGpu(capacity=2)
    whole = fit(prepare("yolox", dataset, num_epochs=2), gpu, monkeypatch)
    assert gpu.failures == [4]
    line = "trains 2 images at a time from here on, still 4 a step"
    printed = capsys.readouterr().err
    assert printed.count(line) == 1
    assert "trains batch norms, which see 2 images then: the result differs" in printed
    assert runs.get_run(whole).data.tags["detreg.micro_batch"] == "2"

    job = prepare("yolox", dataset, num_epochs=2)
    stopped = fit(job, FullGpu(capacity=2), monkeypatch, lambda epoch, mAP: True)  # noqa: ARG005
    capsys.readouterr()
    roomy = FullGpu(capacity=4)
    job = prepare("yolox", dataset, num_epochs=2, continue_from_eid=stopped)
    resumed = fit(job, roomy, monkeypatch)
    assert line in capsys.readouterr().err
    assert runs.get_run(resumed).data.tags["detreg.micro_batch"] == "2"

    expected = load_last(whole, tmp_path)
    actual = load_last(resumed, tmp_path)
    assert [entry.epoch for entry in actual.history] == [1, 2]
    assert [entry.train for entry in actual.history] == [entry.train for entry in expected.history]
    assert_equal(actual.state_dict, expected.state_dict)


@pytest.mark.parametrize(
    ("on_oom", "capacity", "failures"), [("fail", 2, [4]), ("shrink", 0, [4, 2, 1])]
)
def test_a_gpu_that_is_too_small_for_it_ends_the_training_with_advice(
    on_oom: str,
    capacity: int,
    failures: list[int],
    store: str,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FullGpu(capacity)
    job = prepare("yolox", dataset, on_oom=on_oom)
    with pytest.raises(MemoryExhaustedError, match="lower batch_size=4 or image_size=64"):
        fit(job, gpu, monkeypatch)
    assert gpu.failures == failures


@pytest.mark.parametrize(
    ("images", "micro_batch", "parts"), [(4, 4, 1), (4, 2, 2), (5, 2, 3), (1, 2, 1), (3, 1, 3)]
)
def test_a_batch_has_as_many_parts_as_it_needs(images: int, micro_batch: int, parts: int) -> None:
    assert count_parts(images, micro_batch) == parts
