"""The declared figures of the base models, counted on networks without memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detreg.params import build
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import backbones, heads
from detreg.training.compose import compose_network, load_published_config

assert backbones and heads  # importing them lets MODELS build them

ALL = [(template, name) for template in TEMPLATES.values() for name in template.base_models]
WITH_WEIGHTS = [
    (template, name) for template, name in ALL if template.base_models[name].coco_weights
]


def name_cases(cases: list[tuple[Template, str]]) -> list[str]:
    """Return the ids of the cases."""
    return [f"{template.name}-{name}" for template, name in cases]


@dataclass(frozen=True)
class Published:
    """What a metafile of MMDetection says of a training."""

    coco_ap: float
    url: str


def read_metafile(config: str) -> Mapping[str, Published]:
    """Return what was published of the family of a configuration, by the configuration's path."""
    folder = (Path(mmdet.__file__).parent / ".mim" / "configs" / config).parent
    content = yaml.safe_load((folder / "metafile.yml").read_text())

    published: dict[str, Published] = {}
    for model in content["Models"]:
        path = model["Config"].removeprefix("configs/")
        coco_ap = model["Results"][0]["Metrics"]["box AP"]
        published[path] = Published(coco_ap, model["Weights"])
    return published


def build_detector(template: Template, base_model: str) -> Any:
    """Return the network at 80 classes and default hyperparameters, without memory."""
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")
    params = build(template.params, {"base_model": base_model})
    config = compose_network(template, params, load_published_config(template, params), 80)
    return MODELS.build(ConfigDict(config)).eval()


def run_once(detector: Any, pixels: torch.Tensor) -> None:
    """Run all layers of a network, the second stage on as many proposals as it takes at most."""
    maps = detector.extract_feat(pixels)
    if not hasattr(detector, "roi_head"):
        detector.bbox_head(maps)
        return
    detector.rpn_head(maps)
    proposals = torch.empty(detector.test_cfg.rpn.max_per_img, 256, 7, 7)
    detector.roi_head.bbox_head(proposals)


def count_parameters(network: nn.Module) -> float:
    """Return the number of parameters, in millions."""
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def count_gflops(detector: nn.Module, side: int) -> float:
    """Return the multiply-adds for one square image, in billions."""
    pixels = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run_once(detector, pixels)
    return counter.get_total_flops() / 2e9  # PyTorch counts a multiply-add as two


@pytest.mark.parametrize(("template", "base_model"), WITH_WEIGHTS, ids=name_cases(WITH_WEIGHTS))
def test_published_weights_are_those_of_the_packaged_metafile(
    template: Template, base_model: str
) -> None:
    declaration = template.base_models[base_model]
    published = read_metafile(declaration.config)[declaration.config]
    assert declaration.coco_ap == published.coco_ap

    weights = declaration.coco_weights
    assert weights is not None
    assert weights.url == published.url
    assert weights.url.endswith(f"-{weights.sha256}.pth")


@pytest.mark.parametrize(("template", "base_model"), ALL, ids=name_cases(ALL))
def test_declared_figures_are_the_counted_ones(template: Template, base_model: str) -> None:
    params = build(template.params, {"base_model": base_model})
    declaration = template.base_models[base_model]

    # SSD's norm layer makes its weights in memory, whatever the device of the others is.
    with torch.device("cpu" if base_model.endswith("vgg16") else "meta"):
        detector = build_detector(template, base_model)
        parameters = count_parameters(detector)
        gflops = count_gflops(detector, params.image_size[0])

    assert declaration.parameters == pytest.approx(parameters, rel=0.01)
    assert declaration.gflops == pytest.approx(gflops, rel=0.01)
