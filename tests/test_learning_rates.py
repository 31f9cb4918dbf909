"""The rate of every parameter group at the optimizer, against the packaged configuration.

MMEngine builds the packaged optimizer and its schedulers.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from torch import nn

from detreg.defaults import PUBLISHED
from detreg.options import RunOptions
from detreg.params import build
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import backbones, heads
from detreg.training.compose import compose_network, compose_optimizer, load_published_config
from detreg.training.hooks import LearningRateHook

assert backbones and heads  # importing them lets MODELS build from them

ALL = [(template, name) for template in TEMPLATES.values() for name in template.base_models]
# The Inceptions, MobileNet, EfficientNet and ConvNeXt have no recipe of their own in MMDetection.
PACKAGED = [
    (template, name)
    for template, name in ALL
    if template.name in ("yolox", "yolof", "ssd", "faster_rcnn") or name.startswith("resnet")
]
UNPACKAGED = [case for case in ALL if case not in PACKAGED]
EACH_PACKAGED = pytest.mark.parametrize(
    ("template", "base_model"),
    PACKAGED,
    ids=[f"{template.name}-{name}" for template, name in PACKAGED],
)
EACH_UNPACKAGED = pytest.mark.parametrize(
    ("template", "base_model"),
    UNPACKAGED,
    ids=[f"{template.name}-{name}" for template, name in UNPACKAGED],
)

STEPS = 6000
"""Length of the schedule: the longest published warm-up, 1500 steps, ends within a third of it."""


@pytest.fixture(scope="module", autouse=True)
def _use_mmdet_registries() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


@dataclass
class FakeRunner:
    """As much of MMEngine's runner as the hook uses."""

    optim_wrapper: Any
    max_iters: int
    iter: int = 0


@dataclass(frozen=True)
class GroupSettings:
    """What an optimizer does with a parameter."""

    weight_decay: float
    momentum: float
    nesterov: bool
    rate_share: float
    """The rate as a share of the largest one, to nine digits."""


def build_model(template: Template, base_model: str) -> nn.Module:
    """Return the network that detreg trains, without memory, with nothing frozen."""
    values: dict[str, object] = {
        "base_model": base_model,
        "pretrained_weights": "none",
        "frozen_stages": 0,
    }
    if template.name == "msc10":
        values["pretrain_base_data"] = "none"
    if base_model.endswith("vgg16"):
        values["image_size"] = 320
    params = build(template.params, values)
    config = compose_network(template, params, load_published_config(template, params), 3)

    # SSD's norm layer makes its weights in memory, whatever the device of the others is.
    with torch.device("cpu" if base_model.endswith("vgg16") else "meta"):
        model: nn.Module = MODELS.build(ConfigDict(config))
    return model


def get_rates(optimizer: Any) -> list[float]:
    """Return the present rate of each parameter group."""
    return [group["lr"] for group in optimizer.param_groups]


def describe_groups(optimizer: Any, model: nn.Module) -> dict[str, GroupSettings]:
    """Return what the optimizer does with each parameter, by the parameter's name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    largest_rate = max(get_rates(optimizer))

    settings_of: dict[str, GroupSettings] = {}
    for group in optimizer.param_groups:
        settings = GroupSettings(
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            rate_share=round(group["lr"] / largest_rate, 9),
        )
        for parameter in group["params"]:
            settings_of[names[parameter]] = settings
    return settings_of


def drop_equal_groups(optimizer: Any) -> None:
    """Keep one group of each kind: equal groups keep equal rates, and hundreds only cost time."""
    kinds: dict[tuple[float, float], Any] = {}
    for group in optimizer.param_groups:
        kinds.setdefault((group["lr"], group["weight_decay"]), group)
    optimizer.param_groups = list(kinds.values())


def step_published(published: Any, wrapper: Any, epochs: int) -> Iterator[list[float]]:
    """Yield the rates of each step as MMEngine's own schedulers set them."""
    epoch_length = STEPS // epochs
    schedulers = []
    for packaged in published.param_scheduler:
        config = dict(copy.deepcopy(packaged))
        config.setdefault("end", epochs if config.get("by_epoch", True) else STEPS)
        arguments = {"optimizer": wrapper, "epoch_length": epoch_length}
        schedulers.append(PARAM_SCHEDULERS.build(config, default_args=arguments))

    for step in range(STEPS):
        yield get_rates(wrapper)

        # PyTorch warns of schedulers that run ahead of their optimizer.
        wrapper.optimizer._step_count = 1
        ends_epoch = (step + 1) % epoch_length == 0
        for scheduler in schedulers:
            if ends_epoch or not scheduler.by_epoch:
                scheduler.step()


def step_ours(hook: LearningRateHook, wrapper: Any) -> Iterator[list[float]]:
    """Yield the rates of each step as detreg sets them."""
    runner: Any = FakeRunner(wrapper, STEPS)
    hook.before_train(runner)
    for step in range(STEPS):
        runner.iter = step
        hook.before_train_iter(runner, 0)
        yield get_rates(wrapper)


def find_last_warmup_step(published: Any, epochs: int) -> int:
    """Return the step after which no packaged scheduler warms up."""
    warmup = published.param_scheduler[0]
    assert warmup["type"] in ("LinearLR", "mmdet.QuadraticWarmupLR")
    unit = STEPS // epochs if warmup["by_epoch"] else 1
    return int(warmup["end"] * unit)


@EACH_PACKAGED
def test_every_group_has_the_packaged_rate_over_the_whole_schedule(
    template: Template, base_model: str
) -> None:
    values = {"base_model": base_model, "image_size": 320}
    params = template.resolve(build(template.params, values), PUBLISHED)
    recipe = template.choose_recipe(params, PUBLISHED)
    epochs = recipe.schedule.epochs

    published = load_published_config(template, params)
    published_rate = published.optim_wrapper.optimizer.lr
    assert epochs == published.train_cfg.max_epochs
    assert params.per_item_lrate is not None
    published_batch_size = published.auto_scale_lr.base_batch_size
    assert params.per_item_lrate == pytest.approx(published_rate / published_batch_size)

    # The same groups, weight decays and shares of the rate.
    model = build_model(template, base_model)
    ours = build_optim_wrapper(model, compose_optimizer(recipe, params, RunOptions()))
    theirs = build_optim_wrapper(model, copy.deepcopy(published.optim_wrapper))
    assert describe_groups(ours.optimizer, model) == describe_groups(theirs.optimizer, model)
    assert max(get_rates(ours)) == pytest.approx(params.learning_rate)

    # The same factors of the rate in every step after the warm-up.
    drop_equal_groups(ours.optimizer)
    drop_equal_groups(theirs.optimizer)
    hook = LearningRateHook(params.learning_rate, recipe.schedule.factor)
    last_warmup_step = find_last_warmup_step(published, epochs)
    steps = zip(step_ours(hook, ours), step_published(published, theirs, epochs), strict=True)
    for step, (our_rates, their_rates) in enumerate(steps):
        if step <= last_warmup_step:
            continue
        our_factors = [rate / params.learning_rate for rate in our_rates]
        their_factors = [rate / published_rate for rate in their_rates]
        assert our_factors == pytest.approx(their_factors, rel=1e-6), step


@EACH_UNPACKAGED
def test_a_base_model_without_a_packaged_recipe_has_the_declared_one(
    template: Template, base_model: str
) -> None:
    params = template.resolve(build(template.params, {"base_model": base_model}), PUBLISHED)
    recipe = template.choose_recipe(params, PUBLISHED)
    model = build_model(template, base_model)
    wrapper = build_optim_wrapper(model, compose_optimizer(recipe, params, RunOptions()))

    rate = recipe.learning_rate / recipe.batch_size * params.images_per_step
    declared = recipe.optimizer["optimizer"]
    for group in wrapper.param_groups:
        assert group["lr"] == pytest.approx(rate)
        assert group["momentum"] == declared["momentum"]
        assert group["weight_decay"] == declared["weight_decay"]

    hook = LearningRateHook(params.learning_rate, recipe.schedule.factor)
    drop_equal_groups(wrapper.optimizer)
    last_warmup_step = STEPS // 10
    for step, rates in enumerate(step_ours(hook, wrapper)):
        if step < last_warmup_step:
            continue
        drops = sum(step / STEPS >= epoch / 12 for epoch in (8, 11))
        assert rates[0] == pytest.approx(params.learning_rate * 0.1**drops)


def test_a_resumed_optimizer_does_not_bring_its_last_rates_as_ratios() -> None:
    """RestoreHook loads the optimizer's state after LearningRateHook has read the ratios."""
    first = nn.Parameter(torch.zeros(1))
    second = nn.Parameter(torch.zeros(1))
    groups = [{"params": [first], "lr": 0.3}, {"params": [second], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=0.3)

    hook = LearningRateHook(0.3, lambda progress, _: 1.0 - progress)
    runner: Any = FakeRunner(optimizer, max_iters=10, iter=5)
    hook.before_train(runner)
    for group in optimizer.param_groups:
        group["lr"] = 0.001

    hook.before_train_iter(runner, 0)
    assert get_rates(optimizer) == pytest.approx([0.15, 0.05])


def test_a_rate_of_zero_stays_zero_in_every_group() -> None:
    template = TEMPLATES["yolof"]
    params = build(template.params, {"per_item_lrate": 0})
    recipe = template.choose_recipe(params, PUBLISHED)
    model = build_model(template, "resnet50")
    wrapper = build_optim_wrapper(model, compose_optimizer(recipe, params, RunOptions()))

    drop_equal_groups(wrapper.optimizer)
    hook = LearningRateHook(0.0, recipe.schedule.factor)
    assert set(next(step_ours(hook, wrapper))) == {0.0}
