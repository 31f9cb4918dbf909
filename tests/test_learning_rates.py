"""The real rate of every parameter group at the optimizer, against the packaged configuration as MMEngine builds it."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from torch import nn

from detreg.options import RunOptions
from detreg.params import build
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import backbones, heads
from detreg.training.compose import compose_network, compose_optimizer, load_published_config
from detreg.training.hooks import LearningRateHook

assert backbones and heads  # importing them lets MODELS build from them

PACKAGED = [
    (template, name)
    for template in TEMPLATES.values()
    for name in template.base_models
    # The Inceptions, MobileNet, EfficientNet and ConvNeXt have no recipe of their own in MMDetection.
    if template.name in ("yolox", "yolof", "ssd", "faster_rcnn") or name.startswith("resnet")
]
EACH_PACKAGED = pytest.mark.parametrize(
    ("template", "base_model"),
    PACKAGED,
    ids=[f"{template.name}-{name}" for template, name in PACKAGED],
)
EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))

STEPS = 6000
"""Of the whole schedule: enough for the longest published warm-up, 1500 steps, to end within a third of it."""


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


@dataclass
class Runner:
    """As much of MMEngine's runner as the hook looks at."""

    optim_wrapper: Any
    max_iters: int
    iter: int = 0


def build_model(template: Template, base_model: str) -> nn.Module:
    """The network that detreg trains, without memory, with nothing frozen."""
    values = {"base_model": base_model, "pretrained_weights": "none", "frozen_stages": 0}
    values |= {"pretrain_base_data": "none"} if template.name == "msc10" else {}
    values |= {"image_size": 320} if base_model.endswith("vgg16") else {}
    params = build(template.params, values)
    config = compose_network(template, params, load_published_config(template, params), 3)

    # SSD's norm layer makes its weights in memory, wherever it is told to.
    with torch.device("cpu" if base_model.endswith("vgg16") else "meta"):
        model: nn.Module = MODELS.build(ConfigDict(config))
    return model


def describe_groups(optimizer: Any, model: nn.Module) -> dict[str, dict[str, Any]]:
    """What the optimizer does with each parameter, by the parameter's name; the rate as a share of the largest."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    largest = max(group["lr"] for group in optimizer.param_groups)
    found = {}
    for group in optimizer.param_groups:
        told = {key: group[key] for key in ("weight_decay", "momentum", "nesterov")}
        told["ratio"] = pytest.approx(group["lr"] / largest, rel=1e-9)
        for parameter in group["params"]:
            found[names[parameter]] = told
    return found


def keep_one_group_of_a_kind(optimizer: Any) -> None:
    """Groups with equal values have equal rates for ever; hundreds of them only cost time."""
    kinds = {}
    for group in optimizer.param_groups:
        kinds.setdefault((group["lr"], group["weight_decay"]), group)
    optimizer.param_groups = list(kinds.values())


def step_published(published: Any, wrapper: Any, epochs: int) -> Iterator[list[float]]:
    """The rates of each step as MMEngine's own schedulers set them."""
    epoch_length = STEPS // epochs
    schedulers = []
    for config in published.param_scheduler:
        config = dict(copy.deepcopy(config))
        config.setdefault("end", epochs if config.get("by_epoch", True) else STEPS)
        arguments = {"optimizer": wrapper, "epoch_length": epoch_length}
        schedulers.append(PARAM_SCHEDULERS.build(config, default_args=arguments))

    for step in range(STEPS):
        yield [group["lr"] for group in wrapper.param_groups]
        wrapper.optimizer._step_count = (
            1  # PyTorch warns of schedulers that run ahead of their optimizer
        )
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % epoch_length == 0:
                scheduler.step()


def step_ours(hook: LearningRateHook, wrapper: Any) -> Iterator[list[float]]:
    """The rates of each step as detreg sets them."""
    runner: Any = Runner(wrapper, STEPS)
    hook.before_train(runner)
    for step in range(STEPS):
        runner.iter = step
        hook.before_train_iter(runner, 0)
        yield [group["lr"] for group in wrapper.param_groups]


def last_step_of_warmup(published: Any, epochs: int) -> int:
    """The step after which no packaged scheduler warms up."""
    warmup = published.param_scheduler[0]
    assert warmup["type"] in ("LinearLR", "mmdet.QuadraticWarmupLR")
    return int(warmup["end"] * (STEPS // epochs if warmup["by_epoch"] else 1))


@EACH_PACKAGED
def test_every_group_has_the_packaged_rate_over_the_whole_schedule(
    template: Template, base_model: str
) -> None:
    values = {"base_model": base_model, "image_size": 320}
    params = template.resolve(build(template.params, values))
    published = load_published_config(template, params)
    recipe = template.get_base_model(params).recipe
    epochs = recipe.schedule.epochs
    assert epochs == published.train_cfg.max_epochs

    model = build_model(template, base_model)
    ours = build_optim_wrapper(model, compose_optimizer(template, params, RunOptions()))
    theirs = build_optim_wrapper(model, copy.deepcopy(published.optim_wrapper))
    assert describe_groups(ours.optimizer, model) == describe_groups(theirs.optimizer, model)

    batch_size = published.auto_scale_lr.base_batch_size
    assert params.per_item_lrate == pytest.approx(published.optim_wrapper.optimizer.lr / batch_size)
    assert max(group["lr"] for group in ours.param_groups) == pytest.approx(params.learning_rate)

    keep_one_group_of_a_kind(ours.optimizer)
    keep_one_group_of_a_kind(theirs.optimizer)
    our_rate, their_rate = params.learning_rate, published.optim_wrapper.optimizer.lr
    hook = LearningRateHook(our_rate, recipe.schedule.factor)
    warmup = last_step_of_warmup(published, epochs)
    steps = zip(step_ours(hook, ours), step_published(published, theirs, epochs), strict=True)
    for step, (own, packaged) in enumerate(steps):
        if step > warmup:
            factors = [rate / our_rate for rate in own]
            assert factors == pytest.approx([rate / their_rate for rate in packaged], rel=1e-6), (
                step
            )


@EACH
def test_base_models_without_a_packaged_recipe_have_the_declared_one(template: Template) -> None:
    own = [name for name in template.base_models if (template, name) not in PACKAGED]
    for base_model in own:
        params = template.resolve(build(template.params, {"base_model": base_model}))
        recipe = template.get_base_model(params).recipe
        wrapper = build_optim_wrapper(
            build_model(template, base_model), compose_optimizer(template, params, RunOptions())
        )
        declared = recipe.optimizer["optimizer"]
        for group in wrapper.param_groups:
            assert group["lr"] == pytest.approx(
                recipe.learning_rate / recipe.batch_size * params.batch_size
            )
            assert (group["momentum"], group["weight_decay"]) == (
                declared["momentum"],
                declared["weight_decay"],
            )

        hook = LearningRateHook(params.learning_rate, recipe.schedule.factor)
        keep_one_group_of_a_kind(wrapper.optimizer)
        rates = [rates[0] for rates in step_ours(hook, wrapper)]
        warmup = STEPS // 10
        for step in range(warmup, STEPS):
            drops = sum(step / STEPS >= epoch / 12 for epoch in (8, 11))
            assert rates[step] == pytest.approx(params.learning_rate * 0.1**drops)


def test_a_resumed_optimizer_does_not_bring_its_last_rates_as_ratios() -> None:
    """RestoreHook loads the optimizer's state after LearningRateHook has read the ratios."""
    parameter, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD(
        [{"params": [parameter], "lr": 0.3}, {"params": [other], "lr": 0.1}], lr=0.3
    )
    hook = LearningRateHook(0.3, lambda progress, _: 1.0 - progress)
    runner: Any = SimpleNamespace(optim_wrapper=optimizer, iter=5, max_iters=10)
    hook.before_train(runner)
    for group in optimizer.param_groups:
        group["lr"] = 0.001
    hook.before_train_iter(runner, 0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.15, 0.05])


def test_a_rate_of_zero_stays_zero_in_every_group() -> None:
    template = TEMPLATES["yolof"]
    params = build(template.params, {"per_item_lrate": 0})
    wrapper = build_optim_wrapper(
        build_model(template, "resnet50"), compose_optimizer(template, params, RunOptions())
    )
    keep_one_group_of_a_kind(wrapper.optimizer)
    hook = LearningRateHook(0.0, template.get_base_model(params).recipe.schedule.factor)
    assert set(next(step_ours(hook, wrapper))) == {0.0}
