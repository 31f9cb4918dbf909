"""Backbones of other libraries: maps over exactly their pixels, frozen stages that stay as they are, and weights under the right names."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from pytorchcv import model_provider
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detreg.params import build
from detreg.templates import TEMPLATES
from detreg.templates._retinanet import BASE_MODELS, CHANNELS
from detreg.training import heads
from detreg.training.backbones import FreezableSSDVGG, ImageNetBackbone, load_imagenet_weights
from detreg.training.compose import compose_network, load_published_config

assert heads  # importing it lets MODELS build them
SOURCES = {
    name: model.imagenet for name, model in BASE_MODELS.items() if not name.startswith("resnet")
}
EACH = pytest.mark.parametrize("name", SOURCES)
FROZEN = pytest.mark.parametrize("frozen", range(5))
VGG = {
    "depth": 16,
    "with_last_pool": False,
    "ceil_mode": True,
    "out_indices": (3, 4),
    "out_feature_indices": (22, 34),
}
VGG_CONVOLUTIONS = ((0, 2, 5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28, 31, 33))
"""Positions of VGG-16's convolutions in each stage: to the second, third and fourth pooling, and the rest."""


def without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    """A network that has shapes, but no numbers."""
    with torch.device("meta"):
        return make()


def pixels_of(*shape: int) -> Tensor:
    """The same random pixels every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def lively(model: nn.Module) -> nn.Module:
    """Random statistics in batch norms, and nothing that is zero, so that every number counts."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and scales, of which many start at nothing
                parameter.add_(0.01)
    return model


@functools.cache
def some_weights(name: str) -> dict[str, Tensor]:
    """Of a base model's backbone, or of `vgg`."""
    torch.manual_seed(0)
    return lively(
        FreezableSSDVGG(**VGG) if name == "vgg" else ImageNetBackbone(SOURCES[name])
    ).state_dict()


def filled(backbone: nn.Module, name: str) -> nn.Module:
    """The backbone without memory, with a copy of some weights."""
    backbone.load_state_dict(copy.deepcopy(some_weights(name)), assign=True)
    return backbone


def changed_by_a_step(model: nn.Module) -> set[str]:
    """The parameters and buffers that one step of SGD with weight decay changes, in training."""
    before = copy.deepcopy(model.state_dict())
    scale = nn.Parameter(torch.ones(()))  # the layers behind the backbone, which always learn
    model.train()
    optimizer = torch.optim.SGD(
        [*model.parameters(), scale], lr=0.1, momentum=0.9, weight_decay=0.01
    )
    loss = (
        scale
        * torch.stack([output.square().mean() for output in model(pixels_of(2, 3, 64, 64))]).sum()
    )
    assert bool(loss.isfinite())
    loss.backward()
    optimizer.step()
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


# maps ----------------------------------------------------------------------------------------------------------------------------


@EACH
def test_maps_are_exact_shares_of_the_picture(name: str) -> None:
    backbone = without_memory(lambda: ImageNetBackbone(SOURCES[name]))
    for height, width in ((64, 96), (320, 320), (512, 512)):
        maps = backbone(torch.empty(1, 3, height, width, device="meta"))
        expected = [
            (1, CHANNELS[name][level], height // stride, width // stride)
            for level, stride in enumerate((8, 16, 32))
        ]
        assert [tuple(level.shape) for level in maps] == expected


def test_inception_v4_needs_its_padding() -> None:
    pixels = torch.empty(1, 3, 512, 512, device="meta")
    plain = without_memory(lambda: timm.create_model("inception_v4", features_only=True))
    padded = without_memory(lambda: ImageNetBackbone("timm:inception_v4"))
    assert [level.shape[-1] for level in plain(pixels)[2:]] == [61, 30, 14]
    assert [level.shape[-1] for level in padded(pixels)] == [64, 32, 16]


def test_inception_v4_sees_the_pixels_under_each_cell() -> None:
    """A cell answers most to the pixels in the middle of what it sees: without padding, beside where it lies in the picture."""
    backbone = filled(
        without_memory(lambda: ImageNetBackbone(SOURCES["inception_v4"])), "inception_v4"
    ).eval()
    pixels = pixels_of(1, 3, 256, 256).requires_grad_()
    for level, stride in zip(backbone(pixels), (8, 16, 32), strict=True):
        cell = 128 // stride
        (gradient,) = torch.autograd.grad(
            level[0, :, cell, cell].square().sum(), pixels, retain_graph=True
        )
        mass = gradient.square().sum((0, 1))
        for sums in (mass.sum(0), mass.sum(1)):
            centre = float((sums * (torch.arange(256) + 0.5)).sum() / sums.sum())
            assert abs(centre - (cell + 0.5) * stride) < stride


# frozen stages -------------------------------------------------------------------------------------------------------------------


@FROZEN
@EACH
def test_frozen_stages_have_no_gradients_and_fixed_statistics(name: str, frozen: int) -> None:
    backbone = without_memory(lambda: ImageNetBackbone(SOURCES[name], frozen_stages=frozen))
    for _ in range(2):  # as built, and after an evaluation
        for position, stage in enumerate(backbone.stages):
            norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
            assert {parameter.requires_grad for parameter in stage.parameters()} == {
                position >= frozen
            }
            assert {norm.training for norm in norms} == (
                set() if name == "convnext_tiny" else {position >= frozen}
            )
        assert not any(module.training for module in backbone.eval().modules())
        backbone.train()


@FROZEN
@EACH
def test_a_step_changes_all_but_frozen_stages(name: str, frozen: int) -> None:
    backbone = without_memory(lambda: ImageNetBackbone(SOURCES[name], frozen_stages=frozen))
    filled(backbone, name)
    assert changed_by_a_step(backbone) == {
        key for key in backbone.state_dict() if int(key.split(".")[1]) >= frozen
    }


@FROZEN
def test_frozen_stages_of_vgg_end_at_its_poolings(frozen: int) -> None:
    backbone = without_memory(lambda: FreezableSSDVGG(**VGG, frozen_stages=frozen))
    expected = {
        f"features.{position}.{kind}"
        for stage in VGG_CONVOLUTIONS[:frozen]
        for position in stage
        for kind in ("weight", "bias")
    }
    for _ in range(2):  # as built, and after an evaluation
        assert {
            key for key, parameter in backbone.named_parameters() if not parameter.requires_grad
        } == expected
        backbone.eval()
        backbone.train()
    if frozen < 4:
        filled(backbone, "vgg")
        assert changed_by_a_step(backbone) == set(backbone.state_dict()) - expected


@pytest.mark.parametrize(
    ("frozen", "learn"), [(2, [True, True]), (3, [False, True]), (4, [False, False])]
)
def test_the_third_stage_of_vgg_ends_with_the_first_map(frozen: int, learn: list[bool]) -> None:
    backbone = without_memory(lambda: FreezableSSDVGG(**VGG, frozen_stages=frozen))
    filled(backbone, "vgg")
    assert [level.requires_grad for level in backbone(pixels_of(1, 3, 64, 64))] == learn


# the same numbers as the library's own network -----------------------------------------------------------------------------------


def assert_same_maps(found: Any, expected: Any) -> None:
    assert len(found) == len(expected) == 3
    for level, own in zip(found, expected, strict=True):
        assert own.std() > 0
        torch.testing.assert_close(level, own)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_b0", "convnext_tiny"])
def test_maps_equal_those_of_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    own = lively(timm.create_model(name)).eval()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: own)
    backbone = ImageNetBackbone(SOURCES[name]).eval()
    pixels = pixels_of(1, 3, 64, 96)
    with torch.no_grad():
        assert_same_maps(
            backbone(pixels), own.forward_intermediates(pixels, intermediates_only=True)[-3:]
        )


def test_maps_equal_those_of_pytorchcv(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    own = lively(model_provider.get_model("bninception")).eval()
    monkeypatch.setattr(model_provider, "get_model", lambda *_, **__: own)
    backbone = ImageNetBackbone(SOURCES["inception_v2"]).eval()
    maps: list[Tensor] = []
    for stage in (own.features.stage1, own.features.stage2, own.features.stage3):
        stage.register_forward_hook(lambda *of: maps.append(of[-1]))
    pixels = pixels_of(1, 3, 224, 224)
    with torch.no_grad():
        own(pixels)
        expected = list(maps)
        assert_same_maps(backbone(pixels), expected)


# ImageNet weights ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, nn.Module]:
    """What the libraries were asked to give with pretrained weights, by name; the weights are random instead."""
    given: dict[str, nn.Module] = {}

    def offline(real: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
            model = lively(real(name, pretrained=False, **kwargs))
            if pretrained:
                given[name] = model
            return model

        return create

    monkeypatch.setattr(timm, "create_model", offline(timm.create_model))
    monkeypatch.setattr(model_provider, "get_model", offline(model_provider.get_model))
    return given


@pytest.mark.parametrize("name", BASE_MODELS)
def test_imagenet_weights_fill_the_whole_backbone(
    name: str, published: dict[str, nn.Module]
) -> None:
    template = TEMPLATES["msc10"]
    params = build(template.params, {"base_model": name})
    config = ConfigDict(
        compose_network(template, params, load_published_config(template, params), 3)
    )
    detector: Any = without_memory(lambda: MODELS.build(config))
    with torch.device("meta"):
        weights = load_imagenet_weights(BASE_MODELS[name].imagenet)
    assert list(published) == [BASE_MODELS[name].imagenet.partition(":")[2]]
    expected = {
        key: value.shape
        for key, value in detector.state_dict().items()
        if key.startswith("backbone.")
    }
    assert {key: value.shape for key, value in weights.items()} == expected
    assert tuple(detector.neck.in_channels)[-3:] == CHANNELS[name]


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet50"])
def test_imagenet_weights_give_the_maps_of_the_published_network(
    name: str, published: dict[str, nn.Module]
) -> None:
    torch.manual_seed(0)
    source = BASE_MODELS[name].imagenet
    weights = load_imagenet_weights(source)
    torch.manual_seed(2)
    backbones = {"resnet50": {"type": "ResNet", "depth": 50, "out_indices": (1, 2, 3)}}
    backbone = MODELS.build(backbones.get(name, {"type": "ImageNetBackbone", "source": source}))
    backbone.load_state_dict(
        {key.removeprefix("backbone."): value for key, value in weights.items()}
    )
    own: Any = published[source.partition(":")[2]]
    pixels = pixels_of(1, 3, 64, 64)
    backbone.eval()
    with torch.no_grad():
        assert_same_maps(
            backbone(pixels), own.eval().forward_intermediates(pixels, intermediates_only=True)[-3:]
        )
