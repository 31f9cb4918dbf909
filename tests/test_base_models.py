"""The figures that the templates declare of their base models, counted on networks without memory."""

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
from torch.utils.flop_counter import FlopCounterMode

from detreg.params import build
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import backbones, heads
from detreg.training.compose import compose_network, load_published_config

assert backbones and heads  # importing them lets MODELS build them
ALL = [(template, name) for template in TEMPLATES.values() for name in template.base_models]


def counted(template: Template, base_model: str) -> tuple[float, float]:
    """Millions of parameters at 80 classes, and billions of multiplications with additions for a square of the default image_size."""
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")
    params = build(template.params, {"base_model": base_model})
    config = compose_network(template, params, load_published_config(template, params), 80)
    # SSD's norm layer makes its weights in memory, wherever it is told to.
    with torch.device("cpu" if base_model.endswith("vgg16") else "meta"):
        detector: Any = MODELS.build(ConfigDict(config)).eval()
        pixels = torch.empty(1, 3, params.image_size[0], params.image_size[0])
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            maps = detector.extract_feat(pixels)
            if hasattr(detector, "roi_head"):  # with as many proposals as it has at the most
                detector.rpn_head(maps)
                detector.roi_head.bbox_head(
                    torch.empty(detector.test_cfg.rpn.max_per_img, 256, 7, 7)
                )
            else:
                detector.bbox_head(maps)
    return sum(
        parameter.numel() for parameter in detector.parameters()
    ) / 1e6, flops.get_total_flops() / 2e9


def metafile(config: str) -> dict[str, tuple[float, str]]:
    """Box AP and address of each configuration with published weights in the family of `config`, by the configuration's path."""
    folder = (Path(mmdet.__file__).parent / ".mim" / "configs" / config).parent
    models = yaml.safe_load((folder / "metafile.yml").read_text())["Models"]
    return {
        model["Config"].removeprefix("configs/"): (
            model["Results"][0]["Metrics"]["box AP"],
            model["Weights"],
        )
        for model in models
    }


@pytest.mark.parametrize(
    ("template", "base_model"),
    [case for case in ALL if case[0].base_models[case[1]].coco_weights],
    ids=lambda value: getattr(value, "name", value),
)
def test_published_weights_are_those_of_the_packaged_metafile(
    template: Template, base_model: str
) -> None:
    declared = template.base_models[base_model]
    weights = declared.coco_weights
    assert weights is not None
    assert (declared.coco_ap, weights.url) == metafile(declared.config)[declared.config]
    assert weights.url.endswith(f"-{weights.sha256}.pth")


@pytest.mark.parametrize(
    ("template", "base_model"), ALL, ids=[f"{template.name}-{name}" for template, name in ALL]
)
def test_declared_figures_are_counted(template: Template, base_model: str) -> None:
    parameters, gflops = counted(template, base_model)
    declared = template.base_models[base_model]
    assert declared.parameters == pytest.approx(parameters, rel=0.01)
    assert declared.gflops == pytest.approx(gflops, rel=0.01)
