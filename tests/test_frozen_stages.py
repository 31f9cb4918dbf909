"""Frozen means frozen: parameters and statistics after two real steps, for every base model."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import write_sample
from detreg.options import RunOptions
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.tracking.runs import Run
from detreg.training import checkpoints
from detreg.training.batch_norms import freeze_statistics
from detreg.training.checkpoints import Checkpoint
from detreg.training.compose import compose
from detreg.training.engine import fit
from detreg.training.initial_weights import InitialWeights
from detreg.training.job import Job
from detreg.training.network import build_network

ALL = [
    (template, name)
    for template in TEMPLATES.values()
    if not template.name.startswith("inception")  # msc10 has both
    for name in template.base_models
]
EVERY_BASE_MODEL = pytest.mark.parametrize(
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
    """Ten drawn images of 96x64 pixels."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "drawn", images=10, size=(96, 64))
    return load_dataset(folder / "drawn", folder / "cache")


def choose_values(template: Template, base_model: str, **values: Any) -> dict[str, Any]:
    """Two steps of two images; the weights that are named are not loaded."""
    usual = {
        name: value
        for name, value in SMALL[template.name].items()
        if name in get_params(template.params)
    }
    side = 288 if base_model.endswith("vgg16") else 64
    sizes = {"image_size": side, "batch_size": 2, "min_samples_per_epoch": 4, "num_epochs": 1}
    return (
        usual
        | sizes
        | {"base_model": base_model, "pretrained_weights": "coco", "per_item_lrate": 1e-3}
        | values
    )


def train_two_steps(
    template: Template, dataset: Dataset, values: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's whole state before and after."""
    params = build(template.params, values)
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


def copy_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def find_changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of parameters and buffers, counters of batches too."""
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def in_stages(names: set[str], stages: tuple[tuple[str, ...], ...]) -> set[str]:
    """Those of the names that lie in modules of the stages."""
    prefixes = tuple(f"backbone.{module}." for stage in stages for module in stage)
    return {name for name in names if name.startswith(prefixes)}


@EVERY_BASE_MODEL
def test_four_frozen_stages_leave_nothing_of_the_backbone(
    template: Template, base_model: str, dataset: Dataset
) -> None:
    before, after = train_two_steps(
        template, dataset, choose_values(template, base_model, frozen_stages=4)
    )
    changed = find_changed(before, after)
    assert not {name for name in changed if name.startswith("backbone.")}
    assert changed  # the head has learned


@pytest.mark.parametrize(
    ("base_model", "frozen"),
    [
        (name, frozen)
        for name in ("yolox_nano", "ssdlite_mobilenetv2", "mobilenetv2_100")
        for frozen in (1, 2, 3)
    ]
    + [("resnet50", 2), ("ssd300_vgg16", 1), ("ssd300_vgg16", 3)],
)
def test_so_many_stages_are_frozen_and_the_next_one_learns(
    base_model: str, frozen: int, dataset: Dataset
) -> None:
    template = next(template for template, name in ALL if name == base_model)
    values = choose_values(template, base_model, frozen_stages=frozen)
    before, after = train_two_steps(template, dataset, values)

    stages = STAGES[base_model]
    named = {name for name in before if name.startswith("backbone.")}
    assert in_stages(named, stages) == named, "STAGES names every module with a state"
    changed = find_changed(before, after)
    assert not in_stages(changed, stages[:frozen])
    assert in_stages(changed, stages[frozen : frozen + 1])


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn", "msc10"])
@pytest.mark.parametrize("filled", [True, False])
def test_a_resnet_learns_statistics_only_from_random_weights(
    name: str, filled: bool, dataset: Dataset
) -> None:
    """Published recipes keep the statistics that come with the weights (norm_eval), with no stage frozen too."""
    values = choose_values(TEMPLATES[name], "resnet50", frozen_stages=0)
    if not filled:
        values |= {"pretrained_weights": "none"}
    before, after = train_two_steps(TEMPLATES[name], dataset, values)
    changed = find_changed(before, after)
    statistics = {name for name in before if name.startswith("backbone.") and "running" in name}
    assert statistics
    assert changed & statistics == (set() if filled else statistics)
    assert "backbone.conv1.weight" in changed  # 0 freezes no parameters


@pytest.mark.parametrize("name", ["yolox", "yolof", "ssd", "faster_rcnn", "msc10"])
def test_a_rate_of_zero_changes_nothing_at_all(name: str, dataset: Dataset) -> None:
    template = TEMPLATES[name]
    base_model = SMALL[name].get("base_model", template.params().base_model)
    values = choose_values(template, base_model, per_item_lrate=0, pretrained_weights="none")
    before, after = train_two_steps(template, dataset, values)
    assert find_changed(before, after) == set()


class SilentRun(Run):
    """A run that keeps checkpoints on the disk and logs nothing."""

    def log_metrics(self, values: Any, step: int = 0) -> None:
        pass

    def set_tags(self, tags: Any) -> None:
        pass

    def log_file(self, path: Path, folder: str | None = None) -> None:
        pass


@pytest.mark.parametrize("change", [{"frozen_stages": 4}, {"per_item_lrate": 0}], ids=str)
def test_a_whole_training_with_an_average_keeps_what_is_frozen(
    change: dict[str, Any], dataset: Dataset, tmp_path: Path
) -> None:
    """YOLOX scores and exports a moving average of its weights."""
    template = TEMPLATES["yolox"]
    params = build(template.params, choose_values(template, "yolox_nano", **change))
    config = compose(template, params, dataset, RunOptions(num_workers=0))
    torch.manual_seed(0)
    before = copy_state(build_network(config.model, None))
    start = InitialWeights("from these weights", Checkpoint(before, dataset.classes))
    job = Job(template, params, RunOptions(num_workers=0), dataset, start, config)
    fit(job, tmp_path, SilentRun("none", tmp_path))

    last = checkpoints.load_checkpoint(tmp_path / "last.pth")
    assert last.training is not None
    for state in (last.state_dict, last.training["state_dict"]):
        changed = find_changed(before, state)
        if "frozen_stages" in change:
            assert changed and not {name for name in changed if name.startswith("backbone.")}
        else:
            assert changed == set()
