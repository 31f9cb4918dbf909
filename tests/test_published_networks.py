"""The networks that detreg trains are the published ones."""

import re
from typing import Any

import pytest
import torch
from dense_networks import scale_outputs
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from detreg.params import build
from detreg.templates import TEMPLATES, ssd
from detreg.training import backbones, heads
from detreg.training.compose import compose_network, load_published_config

assert backbones and heads  # importing them lets MODELS build them by name


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


def built(model: dict[str, Any]) -> nn.Module:
    """A network of a model's configuration, with random weights."""
    torch.manual_seed(0)
    network: nn.Module = MODELS.build(ConfigDict(model))
    return network


# the network is the published one ------------------------------------------------------------------------------------------------

PUBLISHED = [
    ("yolox", "yolox_nano"),
    ("yolox", "yolox_s"),
    ("yolof", "resnet50"),
    ("ssd", "ssdlite_mobilenetv2"),
    ("ssd", "ssd300_vgg16"),
    ("ssd", "ssd512_vgg16"),
    ("faster_rcnn", "resnet50"),
    ("faster_rcnn", "resnet101"),
    ("msc10", "resnet50"),
    ("msc10", "resnet101"),
]
EACH_PUBLISHED = pytest.mark.parametrize(
    ("name", "base_model"),
    PUBLISHED,
    ids=[f"{name}-{base_model}" for name, base_model in PUBLISHED],
)


def pair(name: str, base_model: str, device: str) -> tuple[nn.Module, nn.Module]:
    """detreg's network of 80 classes, and MMDetection's own of the same base model."""
    template = TEMPLATES[name]
    published_size = {"ssd300_vgg16": {"image_size": 300}, "ssd512_vgg16": {"image_size": 512}}
    params = build(template.params, {"base_model": base_model} | published_size.get(base_model, {}))
    config = load_published_config(template, params)
    theirs = config.model.to_dict()
    if name == "ssd":
        theirs["bbox_head"]["type"] = "PredictingSSDHead"  # theirs cannot predict
    theirs["backbone"]["init_cfg"] = None  # downloads
    with torch.device(device):
        return built(compose_network(template, params, config, 80)), built(theirs)


@EACH_PUBLISHED
def test_parameters_have_the_published_names_and_shapes(name: str, base_model: str) -> None:
    # SSD's VGG makes its weights in memory, wherever it is told to.
    ours, theirs = pair(name, base_model, "cpu" if "vgg" in base_model else "meta")
    shapes, published = (
        {key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)
    )
    assert shapes == published
    learning, published = (
        {key for key, value in model.named_parameters() if value.requires_grad}
        for model in (ours, theirs)
    )
    assert learning == published or name in (
        "ssd",
        "msc10",
    )  # whose default freezes other stages than the published one


@pytest.mark.parametrize(
    ("name", "base_model"),
    [case for case in PUBLISHED if case[1] not in ("yolox_s", "ssd512_vgg16", "resnet101")],
)
def test_outputs_equal_the_published_networks(name: str, base_model: str) -> None:
    """At the published settings."""
    ours, theirs = pair(name, base_model, "cpu")
    ours.eval()
    theirs.eval()
    side = {"yolox_nano": 96, "ssdlite_mobilenetv2": 320, "ssd300_vgg16": 300}.get(base_model, 128)
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    classes = re.compile(
        r".*(cls_convs\.\d+\.[01]|multi_level_conv_(cls|obj)\.\d|object_pred|rpn_cls|fc_cls|cls_score|retina_cls)"
    )
    outputs: list[Any] = [
        layer
        for name, layer in theirs.named_modules()
        if "head" in name and classes.fullmatch(name)
    ]
    outputs = [layer for layer in outputs if isinstance(layer, (nn.Conv2d, nn.Linear))]
    if name == "ssd":  # whose own start fades to nothing on the way to the last map
        for layer in (layer for layer in theirs.modules() if isinstance(layer, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)
        if hasattr(theirs.neck, "l2_norm"):  # made of whatever lay in memory
            nn.init.constant_(theirs.neck.l2_norm.weight, 20.0)
    with torch.no_grad(), scale_outputs(outputs):  # a fresh network finds nothing
        theirs(
            torch.randn(1, 3, side, side),
            [DetDataSample(metainfo={"img_shape": (side, side)})],
            mode="tensor",
        )
    for layer in outputs:
        layer.weight.data.mul_(4)
    ours.load_state_dict(theirs.state_dict())
    found, maps = [], []
    for model in (ours, theirs):
        sample = DetDataSample(
            metainfo={
                "ori_shape": (side, side),
                "img_shape": (side, side),
                "scale_factor": (1.0, 1.0),
            }
        )
        batch = {"inputs": [pixels.clone()], "data_samples": [sample]}
        with torch.no_grad():
            maps.append(
                model(
                    model.data_preprocessor(batch, False)["inputs"],
                    batch["data_samples"],
                    mode="tensor",
                )
            )
            found.append(model.test_step(batch)[0].pred_instances)
    torch.testing.assert_close(*maps, rtol=0, atol=0)
    assert len(found[0]) > 10
    for part in ("bboxes", "scores", "labels"):
        assert torch.equal(found[0][part], found[1][part])


@pytest.mark.parametrize(
    ("base_model", "side"),
    [("ssdlite_mobilenetv2", 320), ("ssd300_vgg16", 300), ("ssd512_vgg16", 512)],
)
def test_the_default_boxes_are_the_published_ones_at_the_published_size(
    base_model: str, side: int
) -> None:
    params = build(TEMPLATES["ssd"].params, {"base_model": base_model, "image_size": side})
    config = load_published_config(TEMPLATES["ssd"], params).model.to_dict()
    ours = TASK_UTILS.build(ssd.make_anchor_generator(config, params))
    theirs = TASK_UTILS.build(config["bbox_head"]["anchor_generator"])
    assert ours.strides == theirs.strides
    for one, other in zip(ours.base_anchors, theirs.base_anchors, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("base_model", list(TEMPLATES["ssd"].base_models))
@pytest.mark.parametrize("size", ["288", "320", "416", "800", "512,320"])
def test_default_boxes_lie_over_their_cells_at_every_size(base_model: str, size: str) -> None:
    params = build(TEMPLATES["ssd"].params, {"base_model": base_model, "image_size": size})
    width, height = params.image_size * (3 - len(params.image_size))
    detector = built(
        compose_network(
            TEMPLATES["ssd"], params, load_published_config(TEMPLATES["ssd"], params), 3
        )
    ).eval()
    with torch.no_grad():
        maps = detector.extract_feat(torch.zeros(1, 3, height, width))
    for level, (columns, rows) in enumerate((level.shape[-1], level.shape[-2]) for level in maps):
        stride_x, stride_y = detector.bbox_head.prior_generator.strides[level]
        assert abs(columns * stride_x - width) <= max(stride_x / 2, 32) and abs(
            rows * stride_y - height
        ) <= max(stride_y / 2, 32)
