"""Backbones of other libraries: their maps, frozen stages, and names of weights."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import timm
import torch
from compose_helpers import compose_model
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from pytorchcv import model_provider
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detreg.templates import TEMPLATES
from detreg.templates._retinanet import BASE_MODELS, CHANNELS
from detreg.training.backbones import (
    FreezableSSDVGG,
    ImageNetBackbone,
    load_imagenet_weights,
)
from detreg.training.network_stages import LayersOfStages

pytestmark = pytest.mark.usefixtures("mmdet_scope")
SOURCES = {
    name: model.imagenet for name, model in BASE_MODELS.items() if not name.startswith("resnet")
}
EACH_BACKBONE = pytest.mark.parametrize("name", SOURCES)
EACH_NUMBER_OF_STAGES = pytest.mark.parametrize("frozen", range(5))
VGG: dict[str, Any] = {
    "depth": 16,
    "with_last_pool": False,
    "ceil_mode": True,
    "out_indices": (3, 4),
    "out_feature_indices": (22, 34),
}
VGG_CONVOLUTIONS = ((0, 2, 5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28, 31, 33))
"""Positions of VGG-16's convolutions in each stage; the first three end with a pooling."""


def build_without_memory(build: Callable[[], nn.Module]) -> Any:
    """Build a network that has shapes, but no numbers."""
    with torch.device("meta"):
        return build()


def build_backbone(name: str, frozen_stages: int = 0) -> Any:
    """Build a base model's backbone without numbers."""
    return build_without_memory(lambda: ImageNetBackbone(SOURCES[name], frozen_stages))


def build_vgg(frozen_stages: int) -> Any:
    return build_without_memory(lambda: FreezableSSDVGG(**VGG, frozen_stages=frozen_stages))


def make_pixels(*shape: int) -> Tensor:
    """Return the same random pixels every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def randomize(model: nn.Module) -> Any:
    """Fill batch-norms with random statistics and leave no parameter zero, so that all count."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and scales, of which many start at 0
                parameter.add_(0.01)
    return model


@functools.cache
def make_state(name: str) -> dict[str, Tensor]:
    """Return random weights of a base model's backbone, or of "vgg"."""
    torch.manual_seed(0)
    backbone = FreezableSSDVGG(**VGG) if name == "vgg" else ImageNetBackbone(SOURCES[name])
    state: dict[str, Tensor] = randomize(backbone).state_dict()
    return state


def fill(backbone: nn.Module, name: str) -> None:
    """Give a backbone without numbers a copy of the random weights."""
    backbone.load_state_dict(copy.deepcopy(make_state(name)), assign=True)


def train_a_step(backbone: nn.Module) -> set[str]:
    """Return the parameters and buffers that a step of SGD with weight decay changes."""
    before = copy.deepcopy(backbone.state_dict())
    scale = nn.Parameter(torch.ones(()))  # stands for the layers behind, which always learn
    backbone.train()
    optimizer = torch.optim.SGD(
        [*backbone.parameters(), scale], lr=0.1, momentum=0.9, weight_decay=0.01
    )

    maps = backbone(make_pixels(2, 3, 64, 64))
    loss = scale * torch.stack([features.square().mean() for features in maps]).sum()
    assert bool(loss.isfinite())
    loss.backward()
    optimizer.step()

    state = backbone.state_dict()
    return {key for key, value in state.items() if not torch.equal(value, before[key])}


# maps


@EACH_BACKBONE
def test_maps_are_exact_shares_of_the_image(name: str) -> None:
    backbone = build_backbone(name)
    for height, width in ((64, 96), (320, 320), (512, 512)):
        maps = backbone(torch.empty(1, 3, height, width, device="meta"))
        shapes = [tuple(features.shape) for features in maps]
        first, second, third = CHANNELS[name]
        assert shapes == [
            (1, first, height // 8, width // 8),
            (1, second, height // 16, width // 16),
            (1, third, height // 32, width // 32),
        ]


def test_inception_v4_needs_its_padding() -> None:
    pixels = torch.empty(1, 3, 512, 512, device="meta")
    plain = build_without_memory(lambda: timm.create_model("inception_v4", features_only=True))
    padded = build_without_memory(lambda: ImageNetBackbone("timm:inception_v4"))
    assert [features.shape[-1] for features in plain(pixels)[2:]] == [61, 30, 14]
    assert [features.shape[-1] for features in padded(pixels)] == [64, 32, 16]


def test_inception_v4_sees_the_pixels_under_each_cell() -> None:
    """A cell depends most on the middle of what it sees, which without padding lies beside it."""
    backbone = build_backbone("inception_v4")
    fill(backbone, "inception_v4")
    pixels = make_pixels(1, 3, 256, 256).requires_grad_()

    for features, stride in zip(backbone.eval()(pixels), (8, 16, 32), strict=True):
        cell = 128 // stride
        response = features[0, :, cell, cell].square().sum()
        (gradient,) = torch.autograd.grad(response, pixels, retain_graph=True)
        mass = gradient.square().sum((0, 1))
        for mass_by_pixel in (mass.sum(0), mass.sum(1)):
            positions = torch.arange(256) + 0.5
            center = float((mass_by_pixel * positions).sum() / mass_by_pixel.sum())
            assert abs(center - (cell + 0.5) * stride) < stride


@pytest.mark.parametrize("last_layers", [[0, 1, 2], [0, 2, 1, 3], [0, 1, 1, 3], [0, 1, 2, 4]])
def test_stages_must_be_four_in_order_and_within_the_layers(last_layers: list[int]) -> None:
    layers: list[nn.Module] = [nn.Identity() for _ in range(4)]
    with pytest.raises(ValueError, match="stages"):
        LayersOfStages(layers, last_layers)


def test_layers_behind_the_last_stage_are_left_out() -> None:
    layers: list[nn.Module] = [nn.Identity() for _ in range(7)]
    stages = LayersOfStages(layers, [1, 2, 4, 5]).cut()
    assert [len(stage) for stage in stages] == [2, 1, 2, 1]
    assert [layer for stage in stages for layer in stage] == layers[:6]


# frozen stages


def assert_stages_are_frozen(backbone: Any, frozen: int) -> None:
    """Check that exactly the first stages have neither gradients nor new statistics."""
    for position, stage in enumerate(backbone.stages):
        is_learning = position >= frozen
        assert {parameter.requires_grad for parameter in stage.parameters()} == {is_learning}
        for module in stage.modules():
            if isinstance(module, _BatchNorm):
                assert module.training == is_learning


@EACH_NUMBER_OF_STAGES
@EACH_BACKBONE
def test_frozen_stages_have_no_gradients_and_fixed_statistics(name: str, frozen: int) -> None:
    backbone = build_backbone(name, frozen)
    assert_stages_are_frozen(backbone, frozen)

    backbone.eval()
    assert not any(module.training for module in backbone.modules())
    backbone.train()
    assert_stages_are_frozen(backbone, frozen)


@EACH_BACKBONE
def test_every_stage_but_those_of_convnext_has_batch_norms(name: str) -> None:
    for stage in build_backbone(name).stages:
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in stage.modules())
        assert has_batch_norm == (name != "convnext_tiny")


@EACH_NUMBER_OF_STAGES
@EACH_BACKBONE
def test_a_step_changes_all_but_frozen_stages(name: str, frozen: int) -> None:
    backbone = build_backbone(name, frozen)
    fill(backbone, name)
    expected = {key for key in backbone.state_dict() if int(key.split(".")[1]) >= frozen}
    assert train_a_step(backbone) == expected


@EACH_NUMBER_OF_STAGES
def test_frozen_stages_of_vgg_end_at_its_poolings(frozen: int) -> None:
    backbone = build_vgg(frozen)
    expected = set()
    for stage in VGG_CONVOLUTIONS[:frozen]:
        for position in stage:
            expected |= {f"features.{position}.weight", f"features.{position}.bias"}

    for _ in range(2):  # as built, and after an evaluation
        parameters = dict(backbone.named_parameters())
        assert {key for key, value in parameters.items() if not value.requires_grad} == expected
        backbone.eval()
        backbone.train()

    if frozen < 4:
        fill(backbone, "vgg")
        assert train_a_step(backbone) == set(backbone.state_dict()) - expected


@pytest.mark.parametrize(
    ("frozen", "learning"), [(2, [True, True]), (3, [False, True]), (4, [False, False])]
)
def test_the_third_stage_of_vgg_ends_with_the_first_map(frozen: int, learning: list[bool]) -> None:
    backbone = build_vgg(frozen)
    fill(backbone, "vgg")
    maps = backbone(make_pixels(1, 3, 64, 64))
    assert [features.requires_grad for features in maps] == learning


# the same numbers as the library's own network


def assert_same_maps(maps: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(maps) == len(expected) == 3
    for features, own in zip(maps, expected, strict=True):
        assert own.std() > 0
        torch.testing.assert_close(features, own)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_b0", "convnext_tiny"])
def test_maps_equal_those_of_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    own = randomize(timm.create_model(name)).eval()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: own)
    backbone = ImageNetBackbone(SOURCES[name]).eval()

    pixels = make_pixels(1, 3, 64, 96)
    with torch.no_grad():
        expected = own.forward_intermediates(pixels, intermediates_only=True)[-3:]
        assert_same_maps(backbone(pixels), expected)


def test_maps_equal_those_of_pytorchcv(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    own = randomize(model_provider.get_model("bninception")).eval()
    monkeypatch.setattr(model_provider, "get_model", lambda *_, **__: own)
    backbone = ImageNetBackbone(SOURCES["inception_v2"]).eval()

    outputs: list[Tensor] = []

    def keep_output(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(output)

    for stage in (own.features.stage1, own.features.stage2, own.features.stage3):
        stage.register_forward_hook(keep_output)

    pixels = make_pixels(1, 3, 224, 224)
    with torch.no_grad():
        own(pixels)
        expected = outputs[:3]  # the backbone shares the stages, and adds its own run
        assert_same_maps(backbone(pixels), expected)


# ImageNet weights


@pytest.fixture
def pretrained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give random weights for pretrained ones; returns the networks asked for, by name."""
    networks: dict[str, Any] = {}

    def avoid_download(create: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def create_random(name: str, pretrained: bool = False, **kwargs: object) -> nn.Module:
            network: nn.Module = randomize(create(name, pretrained=False, **kwargs))
            if pretrained:
                networks[name] = network
            return network

        return create_random

    monkeypatch.setattr(timm, "create_model", avoid_download(timm.create_model))
    monkeypatch.setattr(model_provider, "get_model", avoid_download(model_provider.get_model))
    return networks


@pytest.mark.parametrize("name", BASE_MODELS)
def test_imagenet_weights_fill_the_whole_backbone(name: str, pretrained: dict[str, Any]) -> None:
    config = ConfigDict(compose_model(TEMPLATES["msc10"], base_model=name))
    detector = build_without_memory(lambda: MODELS.build(config))
    source = BASE_MODELS[name].imagenet
    with torch.device("meta"):
        weights = load_imagenet_weights(source)
    assert list(pretrained) == [source.partition(":")[2]]

    expected = {}
    for key, value in detector.state_dict().items():
        if key.startswith("backbone."):
            expected[key] = value.shape
    assert {key: value.shape for key, value in weights.items()} == expected
    assert tuple(detector.neck.in_channels)[-3:] == CHANNELS[name]


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet50"])
def test_imagenet_weights_give_the_maps_of_the_published_network(
    name: str, pretrained: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    source = BASE_MODELS[name].imagenet
    weights = load_imagenet_weights(source)
    state = {key.removeprefix("backbone."): value for key, value in weights.items()}

    torch.manual_seed(2)
    config: dict[str, Any] = {"type": "ImageNetBackbone", "source": source}
    if name == "resnet50":
        config = {"type": "ResNet", "depth": 50, "out_indices": (1, 2, 3)}
    backbone = MODELS.build(config)
    backbone.load_state_dict(state)
    backbone.eval()  # MMDetection's ResNet returns nothing here

    own = pretrained[source.partition(":")[2]].eval()
    pixels = make_pixels(1, 3, 64, 64)
    with torch.no_grad():
        expected = own.forward_intermediates(pixels, intermediates_only=True)[-3:]
        assert_same_maps(backbone(pixels), expected)
