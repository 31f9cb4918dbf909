"""From declarations to what is trained: every hyperparameter counts, and the network is the published one."""

from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import CLASSES, write_sample
from detreg.errors import UsageError
from detreg.options import RunOptions
from detreg.params import Param, build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import backbones, heads
from detreg.training.compose import compose, compose_network, load_published_config

assert backbones and heads  # importing them lets MODELS build them by name
YOLOX = TEMPLATES["yolox"]
NANO = {"base_model": "yolox_nano", "pretrained_weights": "none"}
SOURCES = ("pretrained_weights", "pretrain_base_data", "load_from", "continue_from_eid")
"""What decides where weights come from, not what the configuration is."""
EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
COMPOSED = [
    (template, param)
    for template in TEMPLATES.values()
    for param in get_params(template.params).values()
    if param.name not in SOURCES and len(param.choices or ("more", "than one")) > 1
]


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six drawn pictures."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "drawn", images=6, size=(96, 64))
    return load_dataset(folder / "drawn", folder / "cache")


def composed(dataset: Dataset, template: Template = YOLOX, **values: Any) -> dict[str, Any]:
    """The configuration of these hyperparameters."""
    return compose(
        template, template.resolve(build(template.params, values)), dataset, RunOptions()
    ).to_dict()


def built(model: dict[str, Any]) -> nn.Module:
    """A network of a model's configuration, with random weights."""
    torch.manual_seed(0)
    network: nn.Module = MODELS.build(ConfigDict(model))
    return network


def yolox(num_classes: int = 3, **values: Any) -> nn.Module:
    """The network that detreg trains."""
    params = build(YOLOX.params, NANO | values)
    return built(compose_network(YOLOX, params, load_published_config(YOLOX, params), num_classes))


def another(template: Template, param: Param) -> Any:
    """A value of the domain that is not the default and means something else."""
    params = template.params()
    if template.name == "msc10" and param.name == "base_model":
        return "resnet50"
    if param.name == "random_resize_lower":
        return tuple(side - 32 for side in params.image_size)
    if param.name == "random_resize_upper":
        return tuple(side + 32 for side in params.image_size)
    if param.type == "bool":
        return not param.default
    if param.type == "choice":
        return next(choice for choice in param.choices or () if choice != param.default)
    if param.type == "numbers":
        return (*param.default[1:], 3.0)
    if param.type == "size":
        return tuple(side + 32 for side in param.default)
    if param.default is None:  # auto
        return 0.0123
    step = param.step or 0.001
    return (
        param.default + step
        if param.default + step <= (param.maximum or 0)
        else param.default - step
    )


# every hyperparameter counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "param"),
    COMPOSED,
    ids=[f"{template.name}-{param.name}" for template, param in COMPOSED],
)
def test_every_hyperparameter_changes_what_is_trained(
    dataset: Dataset, template: Template, param: Param
) -> None:
    # keep_aspect_ratio decides whether max_aspect_ratio means anything
    given: dict[str, Any] = {"keep_aspect_ratio": True} if param.name == "max_aspect_ratio" else {}
    changed = composed(dataset, template, **given, **{param.name: another(template, param)})
    before = composed(dataset, template, **given)
    assert changed != before
    if param.name not in (
        "num_epochs",
        "batch_size",
        "per_item_lrate",
        "min_samples_per_epoch",
    ):  # these are the loop's, not the network's
        parts = ("model", "train_dataloader")
        assert any(changed[part] != before[part] for part in parts)


def test_the_values_are_where_they_belong(dataset: Dataset) -> None:
    values = NANO | {
        "batch_size": 3,
        "num_epochs": 7,
        "per_item_lrate": 0.002,
        "min_samples_per_epoch": 11,
        "image_size": 128,
    }
    config = composed(dataset, **values)
    assert config["train_cfg"]["max_epochs"] == 7
    assert config["train_dataloader"]["batch_size"] == 3
    assert config["train_dataloader"]["sampler"] == {
        "type": "EpochSampler",
        "minimum": 11,
        "batch_size": 3,
        "seed": 0,
    }
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(0.006)
    assert config["model"]["bbox_head"]["num_classes"] == len(CLASSES)
    assert composed(dataset, frozen_stages=3)["model"]["backbone"]["frozen_stages"] == 3


@EACH
def test_every_value_that_all_templates_have_is_where_it_belongs(
    dataset: Dataset, template: Template
) -> None:
    values = {
        "batch_size": 3,
        "num_epochs": 7,
        "per_item_lrate": 0.002,
        "min_samples_per_epoch": 11,
    }
    config = composed(dataset, template, **values)
    assert config["train_cfg"]["max_epochs"] == 7
    assert config["train_dataloader"]["batch_size"] == 3
    assert config["train_dataloader"]["sampler"] == {
        "type": "EpochSampler",
        "minimum": 11,
        "batch_size": 3,
        "seed": 0,
    }
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(0.006)


def test_processes_share_the_batch_and_want_a_gpu_each(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert composed(dataset, batch_size=8)["launcher"] == "none"
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    config = composed(dataset, batch_size=8)
    assert (
        config["launcher"] == "pytorch"
        and config["train_dataloader"]["batch_size"] == config["val_dataloader"]["batch_size"] == 2
    )
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(8 * 0.01 / 64)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        UsageError,
        match="each of the 2 processes needs a GPU of its own, but torch sees 1: start at most 1",
    ):
        composed(dataset, batch_size=8)


@pytest.mark.parametrize(("num_epochs", "plain"), [(1, 1), (2, 2), (20, 2), (50, 2), (200, 10)])
def test_the_last_epochs_are_plain(dataset: Dataset, num_epochs: int, plain: int) -> None:
    hooks = {
        hook["type"]: hook
        for hook in composed(dataset, num_epochs=num_epochs, **NANO)["custom_hooks"]
    }
    assert hooks["PlainEpochsHook"]["epochs"] == plain
    assert hooks["PlainEpochsHook"]["skip"] == ["Mosaic", "RandomAffine"]
    assert hooks["EMAHook"]["update_buffers"] is True


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do it")
def test_mixed_precision_without_a_gpu_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="amp=true needs a GPU"):
        compose(YOLOX, YOLOX.resolve(build(YOLOX.params, NANO)), dataset, RunOptions(amp=True))
