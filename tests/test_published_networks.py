"""The networks that detreg trains are the published ones: parameters, outputs and anchors."""

import re
from typing import Any

import pytest
import torch
from compose_helpers import build_random, compose_model
from dense_networks import scale_outputs
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from detreg.params import build
from detreg.templates import TEMPLATES, ssd
from detreg.training.compose import load_published_config

pytestmark = pytest.mark.usefixtures("mmdet_scope")
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
ONE_OF_A_KIND = [
    case for case in PUBLISHED if case[1] not in ("yolox_s", "ssd512_vgg16", "resnet101")
]
PUBLISHED_SIZES = {"ssdlite_mobilenetv2": 320, "ssd300_vgg16": 300, "ssd512_vgg16": 512}
CLASS_LAYERS = re.compile(
    r".*(cls_convs\.\d+\.[01]|multi_level_conv_(cls|obj)\.\d|object_pred|rpn_cls|fc_cls|cls_score"
    r"|retina_cls)"
)
"""Names of the layers whose outputs are scores, in MMDetection's networks."""


def build_both(name: str, base_model: str, device: str, *, masks: bool = False) -> tuple[Any, Any]:
    """Build detreg's network of 80 classes, and MMDetection's own of the same base model."""
    template = TEMPLATES[name]
    values: dict[str, object] = {"base_model": base_model}
    if masks:
        values["masks"] = True
    if base_model.endswith("vgg16"):
        values["image_size"] = PUBLISHED_SIZES[base_model]

    published = load_published_config(template, build(template.params, values))
    their_model = published.model.to_dict()
    their_model["backbone"]["init_cfg"] = None  # otherwise it downloads
    if name == "ssd":
        their_model["bbox_head"]["type"] = "PredictingSSDHead"  # their own cannot predict

    with torch.device(device):
        ours = build_random(compose_model(template, 80, **values))
        theirs = build_random(their_model)
    return ours, theirs


def get_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def get_learning(network: nn.Module) -> set[str]:
    """Return the names of the parameters that learn."""
    return {name for name, value in network.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(("name", "base_model"), PUBLISHED)
def test_parameters_have_the_published_names_and_shapes(name: str, base_model: str) -> None:
    # SSD's VGG makes its weights in memory on any device.
    device = "cpu" if "vgg" in base_model else "meta"
    ours, theirs = build_both(name, base_model, device)
    assert get_shapes(ours) == get_shapes(theirs)

    # Defaults of ssd and msc10 freeze other stages than the published configurations.
    if name not in ("ssd", "msc10"):
        assert get_learning(ours) == get_learning(theirs)


def spread_scores(network: Any, side: int, *, is_ssd: bool) -> None:
    """Scale the layers of classes, so that a network with random weights detects something."""
    if is_ssd:
        # SSD's own initialization fades to nothing on the way to the last map.
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        if hasattr(network.neck, "l2_norm"):  # made of whatever lay in memory
            nn.init.constant_(network.neck.l2_norm.weight, 20.0)

    class_layers = []
    for name, module in network.named_modules():
        has_weight = isinstance(module, (nn.Conv2d, nn.Linear))
        if has_weight and "head" in name and CLASS_LAYERS.fullmatch(name):
            class_layers.append(module)

    sample = DetDataSample(metainfo={"img_shape": (side, side)})
    with torch.no_grad(), scale_outputs(class_layers):
        network(torch.randn(1, 3, side, side), [sample], mode="tensor")
    for layer in class_layers:
        layer.weight.data.mul_(4)


def run_network(network: Any, image: Tensor) -> tuple[Any, Any]:
    """Return the raw outputs and the detections of an image (3, h, w)."""
    size = tuple(image.shape[1:])
    metainfo = {"ori_shape": size, "img_shape": size, "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo=metainfo)
    batch = {"inputs": [image.clone()], "data_samples": [sample]}
    with torch.no_grad():
        pixels = network.data_preprocessor(batch, False)["inputs"]
        outputs = network(pixels, batch["data_samples"], mode="tensor")
        detections = network.test_step(batch)[0].pred_instances
    return outputs, detections


@pytest.mark.parametrize(("name", "base_model"), ONE_OF_A_KIND)
def test_outputs_equal_the_published_networks(name: str, base_model: str) -> None:
    """At the published settings, to the last bit."""
    ours, theirs = build_both(name, base_model, "cpu")
    ours.eval()
    theirs.eval()
    side = {"yolox_nano": 96, **PUBLISHED_SIZES}.get(base_model, 128)

    torch.manual_seed(1)
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    spread_scores(theirs, side, is_ssd=name == "ssd")
    ours.load_state_dict(theirs.state_dict())

    our_outputs, our_detections = run_network(ours, image)
    their_outputs, their_detections = run_network(theirs, image)
    torch.testing.assert_close(our_outputs, their_outputs, rtol=0, atol=0)
    assert len(our_detections) > 10
    for part in ("bboxes", "scores", "labels"):
        assert torch.equal(our_detections[part], their_detections[part])


# Mask R-CNN


@pytest.mark.parametrize("base_model", ["resnet50", "resnet101"])
def test_mask_rcnn_has_the_published_names_and_shapes(base_model: str) -> None:
    """So the published weights load with nothing missing."""
    ours, theirs = build_both("faster_rcnn", base_model, "meta", masks=True)
    assert get_shapes(ours) == get_shapes(theirs)
    assert get_learning(ours) == get_learning(theirs)
    assert "roi_head.mask_head.conv_logits.weight" in get_shapes(ours)


def test_mask_rcnn_finds_what_the_published_network_finds() -> None:
    """Boxes, scores and raw masks to the last bit; MMDetection pastes masks, and we do not."""
    ours, theirs = build_both("faster_rcnn", "resnet50", "cpu", masks=True)
    for network in (ours, theirs):
        network.eval()
        # A mask of each takes as long as the features of the image.
        network.rpn_head.test_cfg.max_per_img = 40

    torch.manual_seed(1)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    spread_scores(theirs, 64, is_ssd=False)
    ours.load_state_dict(theirs.state_dict())

    our_outputs, our_detections = run_network(ours, image)
    their_outputs, their_detections = run_network(theirs, image)
    torch.testing.assert_close(our_outputs, their_outputs, rtol=0, atol=0)
    (_, _, mask_logits), *_ = our_outputs
    assert mask_logits.shape[1:] == (80, 28, 28)

    assert len(our_detections) > 10
    for part in ("bboxes", "scores", "labels"):
        assert torch.equal(our_detections[part], their_detections[part])
    pasted, _ = _do_paste_mask(
        our_detections.masks[:, None], our_detections.bboxes, 64, 96, skip_empty=False
    )
    assert 0.05 < (our_detections.masks > 0.5).float().mean() < 0.95
    assert torch.equal(pasted >= 0.5, their_detections.masks)


# the default boxes of SSD


@pytest.mark.parametrize(("base_model", "side"), PUBLISHED_SIZES.items())
def test_default_boxes_are_the_published_ones_at_the_published_size(
    base_model: str, side: int
) -> None:
    template = TEMPLATES["ssd"]
    params = build(ssd.SsdParams, {"base_model": base_model, "image_size": side})
    published = load_published_config(template, params).model.to_dict()

    ours = TASK_UTILS.build(ssd.make_anchor_generator(published, params))
    theirs = TASK_UTILS.build(published["bbox_head"]["anchor_generator"])
    assert ours.strides == theirs.strides
    for our_boxes, their_boxes in zip(ours.base_anchors, theirs.base_anchors, strict=True):
        torch.testing.assert_close(our_boxes, their_boxes)


@pytest.mark.parametrize("base_model", list(TEMPLATES["ssd"].base_models))
@pytest.mark.parametrize("size", [(288,), (320,), (416,), (800,), (512, 320)], ids=str)
def test_default_boxes_lie_over_their_cells_at_every_size(
    base_model: str, size: tuple[int, ...]
) -> None:
    template = TEMPLATES["ssd"]
    network = build_random(compose_model(template, base_model=base_model, image_size=size)).eval()

    width, height = size[0], size[-1]
    with torch.no_grad():
        maps = network.extract_feat(torch.zeros(1, 3, height, width))
    strides = network.bbox_head.prior_generator.strides
    for features, (stride_x, stride_y) in zip(maps, strides, strict=True):
        rows, columns = features.shape[-2:]
        assert abs(columns * stride_x - width) <= max(stride_x / 2, 32)
        assert abs(rows * stride_y - height) <= max(stride_y / 2, 32)
