"""Every hyperparameter changes what is trained, and each value is where it belongs."""

from typing import Any

import pytest
import torch
from compose_helpers import NANO, YOLOX, compose_values, load_drawn_images

from detreg.data.dataset import Dataset
from detreg.data.sample import CLASSES
from detreg.errors import UsageError
from detreg.options import RunOptions
from detreg.params import Param, build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training.compose import compose

SOURCES = ("pretrained_weights", "pretrain_base_data", "load_from", "continue_from_eid")
"""They decide where weights come from, not what the configuration is."""
OF_THE_LOOP = ("num_epochs", "batch_size", "per_item_lrate", "min_samples_per_epoch")
"""They decide how the network is trained, not what it is or sees."""
EACH_TEMPLATE = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))


def list_composed() -> list[tuple[Template, Param]]:
    """Return all hyperparameters of all templates that the configuration depends on."""
    composed = []
    for template in TEMPLATES.values():
        for param in get_params(template.params).values():
            has_one_choice = param.choices is not None and len(param.choices) == 1
            if param.name not in SOURCES and not has_one_choice:
                composed.append((template, param))
    return composed


COMPOSED = list_composed()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_drawn_images(tmp_path_factory.mktemp("data"), images=6)


def choose_another_value(template: Template, param: Param) -> Any:
    """Return a value of the domain that is not the default and means something else."""
    params = template.params()
    if template.name == "msc10" and param.name == "base_model":
        return "resnet50"
    if param.name == "random_resize_lower":
        return tuple(side - 32 for side in params.image_size)
    if param.name == "random_resize_upper":
        return tuple(side + 32 for side in params.image_size)

    default: Any = param.default
    match param.type:
        case "bool":
            return not default
        case "choice":
            return next(choice for choice in param.choices or () if choice != default)
        case "numbers":
            return (*default[1:], 3.0)
        case "size":
            return tuple(side + 32 for side in default)

    if default is None:  # auto
        return 3 if param.type == "int" else 0.0123
    step = param.step or 0.001
    is_at_maximum = default + step > (param.maximum or 0)
    return default - step if is_at_maximum else default + step


@pytest.mark.parametrize(
    ("template", "param"),
    COMPOSED,
    ids=[f"{template.name}-{param.name}" for template, param in COMPOSED],
)
def test_every_hyperparameter_changes_what_is_trained(
    dataset: Dataset, template: Template, param: Param
) -> None:
    values: dict[str, Any] = {}
    if param.name == "max_aspect_ratio":
        values["keep_aspect_ratio"] = True  # otherwise the ratio means nothing

    before = compose_values(dataset, template, **values)
    values[param.name] = choose_another_value(template, param)
    after = compose_values(dataset, template, **values)

    assert after != before
    if param.name not in OF_THE_LOOP:
        is_network_changed = after["model"] != before["model"]
        is_loader_changed = after["train_dataloader"] != before["train_dataloader"]
        assert is_network_changed or is_loader_changed


@EACH_TEMPLATE
def test_every_value_that_all_templates_have_is_where_it_belongs(
    dataset: Dataset, template: Template
) -> None:
    config = compose_values(
        dataset,
        template,
        batch_size=3,
        num_epochs=7,
        per_item_lrate=0.002,
        min_samples_per_epoch=11,
    )
    assert config["train_cfg"]["max_epochs"] == 7
    assert config["train_dataloader"]["batch_size"] == 3
    assert config["train_dataloader"]["sampler"] == {
        "type": "EpochSampler",
        "minimum": 11,
        "batch_size": 3,
        "seed": 0,
    }
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(0.006)


def test_classes_and_frozen_stages_are_where_they_belong(dataset: Dataset) -> None:
    model = compose_values(dataset, frozen_stages=3)["model"]
    assert model["bbox_head"]["num_classes"] == len(CLASSES)
    assert model["backbone"]["frozen_stages"] == 3


def test_processes_share_the_batch_and_need_a_gpu_each(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compose_values(dataset, batch_size=8)["launcher"] == "none"

    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    config = compose_values(dataset, batch_size=8)
    assert config["launcher"] == "pytorch"
    assert config["train_dataloader"]["batch_size"] == 2
    assert config["val_dataloader"]["batch_size"] == 2
    assert config["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(8 * 0.01 / 64)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "each of the 2 processes needs a GPU of its own, but torch sees 1: start at most 1"
    with pytest.raises(UsageError, match=message):
        compose_values(dataset, batch_size=8)


@pytest.mark.parametrize(("num_epochs", "plain"), [(1, 1), (2, 2), (20, 2), (50, 2), (200, 10)])
def test_the_last_epochs_are_plain(dataset: Dataset, num_epochs: int, plain: int) -> None:
    config = compose_values(dataset, num_epochs=num_epochs, **NANO)
    hooks = {hook["type"]: hook for hook in config["custom_hooks"]}
    assert hooks["PlainEpochsHook"]["epochs"] == plain
    assert hooks["PlainEpochsHook"]["skip"] == ["FastMosaic"]
    assert hooks["EMAHook"]["update_buffers"] is True


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do it")
def test_mixed_precision_without_a_gpu_is_refused(dataset: Dataset) -> None:
    params = YOLOX.resolve(build(YOLOX.params, NANO))
    with pytest.raises(UsageError, match="precision=fp16 needs a GPU"):
        compose(YOLOX, params, dataset, RunOptions(precision="fp16"))
