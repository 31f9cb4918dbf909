"""Frozen means frozen: parameters and statistics after two real steps, for every base model."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from compose_helpers import load_drawn_images
from conftest import SMALL
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from detreg.data.dataset import Dataset
from detreg.options import RunOptions
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.tracking.runs import Run
from detreg.training.batch_norms import freeze_statistics
from detreg.training.checkpoints import Checkpoint, load_checkpoint
from detreg.training.compose import compose
from detreg.training.engine import fit
from detreg.training.initial_weights import InitialWeights
from detreg.training.job import Job
from detreg.training.network import build_network

State = dict[str, Tensor]
ALL = [
    (template, name)
    for template in TEMPLATES.values()
    if not template.name.startswith("inception")  # msc10 has both
    for name in template.base_models
]
EACH_BASE_MODEL = pytest.mark.parametrize(
    ("template", "base_model"), ALL, ids=[f"{template.name}-{name}" for template, name in ALL]
)

STAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "yolox_nano": (("stem", "stage1"), ("stage2",), ("stage3",), ("stage4",)),
    "resnet50": (("conv1", "bn1", "layer1"), ("layer2",), ("layer3",), ("layer4",)),
    "ssdlite_mobilenetv2": (
        ("conv1", "layer1", "layer2"),
        ("layer3",),
        ("layer4", "layer5"),
        ("layer6", "layer7", "conv2"),
    ),
    "ssd300_vgg16": (
        ("features.0", "features.2", "features.5", "features.7"),
        ("features.10", "features.12", "features.14"),
        ("features.17", "features.19", "features.21"),
        ("features.24", "features.26", "features.28", "features.31", "features.33"),
    ),
    "mobilenetv2_100": (("stages.0",), ("stages.1",), ("stages.2",), ("stages.3",)),
}
"""The modules of each stage, for one base model of each kind of backbone."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_drawn_images(tmp_path_factory.mktemp("data"), images=10)


def choose_values(template: Template, base_model: str, **values: object) -> dict[str, Any]:
    """Return the hyperparameters of two steps of two images; no weights are loaded."""
    names = get_params(template.params)
    chosen = {name: value for name, value in SMALL[template.name].items() if name in names}
    chosen |= {
        "base_model": base_model,
        "image_size": 288 if base_model.endswith("vgg16") else 64,
        "batch_size": 2,
        "min_samples_per_epoch": 4,
        "num_epochs": 1,
        "pretrained_weights": "coco",
        "per_item_lrate": 1e-3,
    }
    return chosen | values


def train_two_steps(
    template: Template, dataset: Dataset, values: dict[str, Any]
) -> tuple[State, State]:
    """Return the network's whole state before and after."""
    params = template.resolve(build(template.params, values))
    config = compose(template, params, dataset, RunOptions(num_workers=0))
    torch.manual_seed(0)
    network: Any = build_network(config.model, None).train()
    if params.learning_rate == 0:
        freeze_statistics(network)
    before = copy_state(network)

    optimizer = build_optim_wrapper(network, config.optim_wrapper)
    batches = Runner.build_dataloader(config.train_dataloader, seed=0)
    for batch in islice(batches, 2):
        network.train_step(batch, optimizer)
    return before, copy_state(network)


def copy_state(network: nn.Module) -> State:
    return {name: value.clone() for name, value in network.state_dict().items()}


def find_changed(before: State, after: State) -> set[str]:
    """Return the names of parameters and buffers that differ, counters of batches too."""
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def select_backbone(names: set[str] | State) -> set[str]:
    return {name for name in names if name.startswith("backbone.")}


def select_stages(names: set[str], stages: tuple[tuple[str, ...], ...]) -> set[str]:
    """Return the names that lie in modules of the stages."""
    prefixes = tuple(f"backbone.{module}." for stage in stages for module in stage)
    return {name for name in names if name.startswith(prefixes)}


@EACH_BASE_MODEL
def test_four_frozen_stages_leave_nothing_of_the_backbone(
    template: Template, base_model: str, dataset: Dataset
) -> None:
    values = choose_values(template, base_model, frozen_stages=4)
    changed = find_changed(*train_two_steps(template, dataset, values))
    assert not select_backbone(changed)
    assert changed  # the head has learned


@pytest.mark.parametrize(
    ("base_model", "frozen"),
    [
        ("yolox_nano", 1),
        ("yolox_nano", 2),
        ("yolox_nano", 3),
        ("ssdlite_mobilenetv2", 1),
        ("ssdlite_mobilenetv2", 2),
        ("ssdlite_mobilenetv2", 3),
        ("mobilenetv2_100", 1),
        ("mobilenetv2_100", 2),
        ("mobilenetv2_100", 3),
        ("resnet50", 2),
        ("ssd300_vgg16", 1),
        ("ssd300_vgg16", 3),
    ],
)
def test_so_many_stages_are_frozen_and_the_next_one_learns(
    base_model: str, frozen: int, dataset: Dataset
) -> None:
    template = next(template for template, name in ALL if name == base_model)
    values = choose_values(template, base_model, frozen_stages=frozen)
    before, after = train_two_steps(template, dataset, values)

    stages = STAGES[base_model]
    of_backbone = select_backbone(before)
    assert select_stages(of_backbone, stages) == of_backbone, "STAGES must name every module"

    changed = find_changed(before, after)
    assert not select_stages(changed, stages[:frozen])
    assert select_stages(changed, stages[frozen : frozen + 1])


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn", "msc10"])
@pytest.mark.parametrize("is_filled", [True, False])
def test_a_resnet_learns_statistics_only_from_random_weights(
    name: str, is_filled: bool, dataset: Dataset
) -> None:
    """Published recipes keep the statistics of the weights (norm_eval), also with none frozen."""
    template = TEMPLATES[name]
    values = choose_values(template, "resnet50", frozen_stages=0)
    if not is_filled:
        values["pretrained_weights"] = "none"
    before, after = train_two_steps(template, dataset, values)

    statistics = {name for name in select_backbone(before) if "running" in name}
    assert statistics
    changed = find_changed(before, after)
    assert changed & statistics == (set() if is_filled else statistics)
    assert "backbone.conv1.weight" in changed  # 0 freezes no parameters


@pytest.mark.parametrize("name", ["yolox", "yolof", "ssd", "faster_rcnn", "msc10"])
def test_a_rate_of_zero_changes_nothing_at_all(name: str, dataset: Dataset) -> None:
    template = TEMPLATES[name]
    base_model = SMALL[name].get("base_model", template.params().base_model)
    values = choose_values(template, base_model, per_item_lrate=0, pretrained_weights="none")
    assert find_changed(*train_two_steps(template, dataset, values)) == set()


class SilentRun(Run):
    """A run that keeps checkpoints on the disk and logs nothing."""

    def log_metrics(self, *args: object, **kwargs: object) -> None: ...

    def set_tags(self, *args: object, **kwargs: object) -> None: ...

    def log_file(self, *args: object, **kwargs: object) -> None: ...


@pytest.mark.parametrize("change", [{"frozen_stages": 4}, {"per_item_lrate": 0}], ids=str)
def test_a_whole_training_with_an_average_keeps_what_is_frozen(
    change: dict[str, Any], dataset: Dataset, tmp_path: Path
) -> None:
    """YOLOX scores and exports a moving average of its weights."""
    template, options = TEMPLATES["yolox"], RunOptions(num_workers=0, precision="fp32")
    values = choose_values(template, "yolox_nano", **change)
    params = template.resolve(build(template.params, values))
    config = compose(template, params, dataset, options)
    torch.manual_seed(0)
    before = copy_state(build_network(config.model, None))

    start = InitialWeights("from these weights", Checkpoint(before, dataset.classes))
    job = Job(template, params, options, dataset, start, config)
    fit(job, tmp_path, SilentRun("none", tmp_path))

    last = load_checkpoint(tmp_path / "last.pth")
    assert last.training is not None
    for state in (last.state_dict, last.training["state_dict"]):
        changed = find_changed(before, state)
        if "frozen_stages" in change:
            assert changed
            assert not select_backbone(changed)
        else:
            assert changed == set()
