"""What the documentation of each template promises is in its network."""

from typing import Any

import pytest
import torch
from compose_helpers import (
    NANO,
    YOLOX,
    build_random,
    build_without_memory,
    compose_model,
    compose_values,
    load_drawn_images,
)
from mmdet.registry import TASK_UTILS
from torch import Tensor, nn

from detreg.data.dataset import Dataset
from detreg.templates import TEMPLATES

pytestmark = pytest.mark.usefixtures("mmdet_scope")
EACH_NUMBER_OF_STAGES = pytest.mark.parametrize("stages", range(5))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_drawn_images(tmp_path_factory.mktemp("data"), images=6)


def build_nano(**values: object) -> Any:
    """Build YOLOX-Nano with random weights."""
    return build_random(compose_model(YOLOX, **{**NANO, **values}))


def list_levels(side: int, name: str, **values: object) -> list[int]:
    """Return the width of each map for a square image."""
    network = build_without_memory(name, **values)
    maps = network.extract_feat(torch.empty(1, 3, side, side, device="meta"))
    return [features.shape[-1] for features in maps]


def assert_frozen(backbone: nn.Module, frozen_parts: set[str]) -> None:
    """Check that these children, and no others, have neither gradients nor new statistics."""
    for name, parameter in backbone.named_parameters():
        is_frozen = name.split(".")[0] in frozen_parts
        assert parameter.requires_grad != is_frozen, name
    for name, module in backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            is_frozen = name.split(".")[0] in frozen_parts
            assert module.training != is_frozen, name


# YOLOX


def test_yolox_is_free_of_anchors() -> None:
    generator = build_nano().bbox_head.prior_generator
    assert generator.num_base_priors == [1, 1, 1]
    assert not hasattr(generator, "base_anchors")

    map_sizes = [(8, 8), (4, 4), (2, 2)]
    priors = generator.grid_priors(map_sizes, device="cpu", with_stride=True)
    assert [len(level) for level in priors] == [64, 16, 4]
    # x, y and twice the stride: a point has no size.
    assert priors[0][:2].tolist() == [[0, 0, 8, 8], [8, 0, 8, 8]]


def test_yolox_assigns_with_simota(dataset: Dataset) -> None:
    model = compose_values(dataset, **NANO)["model"]
    assert model["train_cfg"]["assigner"]["type"] == "SimOTAAssigner"
    assert type(build_nano().bbox_head.assigner).__name__ == "SimOTAAssigner"


def test_the_head_of_yolox_is_decoupled() -> None:
    head = build_nano().bbox_head
    of_classes = {id(parameter) for parameter in head.multi_level_cls_convs.parameters()}
    of_boxes = {id(parameter) for parameter in head.multi_level_reg_convs.parameters()}
    assert len(head.multi_level_cls_convs) == len(head.multi_level_reg_convs) == 3
    assert of_classes
    assert of_boxes
    assert not of_classes & of_boxes

    features = [torch.rand(1, 64, side, side) for side in (8, 4, 2)]
    classes, boxes, objectness = head(features)
    for parameter in head.multi_level_cls_convs.parameters():
        parameter.data.add_(0.5)
    new_classes, new_boxes, new_objectness = head(features)
    assert not torch.equal(classes[0], new_classes[0])
    assert torch.equal(boxes[0], new_boxes[0])
    assert torch.equal(objectness[0], new_objectness[0])


@pytest.mark.parametrize("base_model", list(YOLOX.base_models))
def test_mixup_is_in_the_larger_models_only(dataset: Dataset, base_model: str) -> None:
    config = compose_values(dataset, base_model=base_model, pretrained_weights="none")
    types = [step["type"] for step in config["train_dataloader"]["dataset"]["pipeline"]]
    assert types[0] == "FastMosaic"
    assert ("FastMixUp" in types) == (base_model not in ("yolox_nano", "yolox_tiny"))

    (skip,) = [hook["skip"] for hook in config["custom_hooks"] if hook["type"] == "PlainEpochsHook"]
    assert set(skip) == {"FastMosaic", "FastMixUp"} & set(types)


@EACH_NUMBER_OF_STAGES
def test_frozen_stages_of_yolox_get_no_updates(stages: int) -> None:
    network = build_nano(frozen_stages=stages, pretrained_weights="coco").train()
    frozen_parts = {f"stage{stage}" for stage in range(1, stages + 1)}
    if stages:
        frozen_parts.add("stem")
    assert_frozen(network.backbone, frozen_parts)

    behind = [*network.neck.parameters(), *network.bbox_head.parameters()]
    assert all(parameter.requires_grad for parameter in behind)


def test_a_step_changes_nothing_frozen() -> None:
    network = build_nano(frozen_stages=2, pretrained_weights="coco").train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}

    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    outputs = network(torch.rand(2, 3, 64, 64))
    loss = sum(level.mean() for levels in outputs for level in levels)
    loss.backward()
    optimizer.step()

    changed_parts = set()
    for name, value in network.backbone.state_dict().items():
        if not torch.equal(value, before[name]):
            changed_parts.add(name.split(".")[0])
    assert changed_parts == {"stage3", "stage4"}


# YOLOF


def test_yolof_has_one_level_and_a_dilated_encoder() -> None:
    assert list_levels(128, "yolof", image_size=128) == [4]

    network = build_without_memory("yolof", image_size=128)
    convolutions = [module for module in network.neck.modules() if isinstance(module, nn.Conv2d)]
    assert {2, 4, 6, 8} <= {convolution.dilation[0] for convolution in convolutions}
    assert type(network.bbox_head.assigner).__name__ == "UniformAssigner"
    assert len(network.bbox_head.prior_generator.base_anchors[0]) == 5

    two_ratios = build_without_memory("yolof", anchor_ratios="1,2")
    assert len(two_ratios.bbox_head.prior_generator.base_anchors[0]) == 10


# SSD


def test_ssd_has_default_boxes_on_several_maps_and_mines_hard_negatives() -> None:
    assert list_levels(320, "ssd", image_size=320) == [20, 10, 5, 3, 2, 1]
    network = build_without_memory("ssd", image_size=320)
    assert network.bbox_head.prior_generator.num_base_priors == [6] * 6
    assert network.train_cfg["neg_pos_ratio"] == 3


@pytest.mark.parametrize("positives", [1, 4])
def test_ssd_learns_from_the_three_hardest_negatives_of_each_positive(positives: int) -> None:
    head = build_random(compose_model(TEMPLATES["ssd"])).bbox_head
    anchors, background = 50, 3
    scores = torch.randn(anchors, 4, requires_grad=True)
    labels = torch.full((anchors,), background)
    labels[:positives] = 1

    weights, boxes = torch.ones(anchors), torch.zeros(anchors, 4)
    loss, _ = head.loss_by_feat_single(
        scores, boxes, boxes, labels, weights, boxes, boxes, avg_factor=positives
    )
    loss.sum().backward()
    assert scores.grad is not None
    is_learning = scores.grad.abs().sum(1) > 0
    assert is_learning[:positives].all()
    assert int(is_learning.sum()) == 4 * positives

    losses = torch.nn.functional.cross_entropy(scores.detach(), labels, reduction="none")
    hardest = losses[positives:].topk(3 * positives).indices
    learning_negatives = is_learning[positives:].nonzero().flatten()
    assert set(hardest.tolist()) == set(learning_negatives.tolist())


def test_frozen_stages_of_mobilenet_get_no_updates() -> None:
    network = build_without_memory("ssd", frozen_stages=3, pretrained_weights="coco")
    network.train()
    assert_frozen(network.backbone, {"conv1", *(f"layer{number}" for number in range(1, 6))})


# Faster R-CNN


def test_faster_rcnn_has_an_rpn_that_shares_its_maps_with_the_second_stage() -> None:
    network = build_without_memory("faster_rcnn")
    assert type(network.rpn_head).__name__ == "RPNHead"
    assert network.neck.num_outs == 5

    own_parameters = [name for name, _ in network.roi_head.named_parameters()]
    assert not any("conv" in name for name in own_parameters)
    assert network.roi_head.bbox_head.fc_reg.out_features == 4 * 3

    one_regressor = build_without_memory("faster_rcnn", use_perclass_regression=False)
    assert one_regressor.roi_head.bbox_head.fc_reg.out_features == 4


# the RetinaNets


@pytest.mark.parametrize("name", ["inception_v4", "inception_v2", "msc10"])
def test_the_retinanets_work_at_several_scales_with_focal_loss_or_ohem(name: str) -> None:
    assert list_levels(128, name) == [16, 8, 4, 2, 1]
    head = build_without_memory(name).bbox_head
    assert [len(anchors) for anchors in head.prior_generator.base_anchors] == [9] * 5
    assert type(head.loss_cls).__name__ == "FocalLoss"
    assert head.negatives_per_positive is None

    ohem_head = build_without_memory(name, use_focal_loss=False).bbox_head
    assert type(ohem_head.loss_cls).__name__ == "CrossEntropyLoss"
    assert ohem_head.negatives_per_positive == 3

    per_class_head = build_without_memory(name, use_perclass_regression=True).bbox_head
    assert per_class_head.retina_reg.out_channels == 3 * head.retina_reg.out_channels


# several templates


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn", "inception_v4", "inception_v2", "msc10"])
def test_anchor_ratios_are_width_to_height(name: str) -> None:
    network = build_without_memory(name, anchor_ratios="4")
    head = network.rpn_head if name == "faster_rcnn" else network.bbox_head
    built = head.prior_generator.base_anchors

    composed: list[Tensor] = TASK_UTILS.build(compose_anchors(name, "4")).base_anchors
    assert sum(map(len, built)) == sum(map(len, composed))
    for anchors in composed:
        x1, y1, x2, y2 = anchors.unbind(1)
        ratio = (x2 - x1) / (y2 - y1)
        torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0))


def compose_anchors(name: str, ratios: str) -> dict[str, Any]:
    """Return the configuration of the anchor generator."""
    model = compose_model(TEMPLATES[name], anchor_ratios=ratios)
    head = model["rpn_head"] if name == "faster_rcnn" else model["bbox_head"]
    return dict(head["anchor_generator"])


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn", "msc10"])
@EACH_NUMBER_OF_STAGES
def test_frozen_stages_of_resnets_get_no_updates(name: str, stages: int) -> None:
    """Batch-norms keep the statistics of the weights that fill them, whatever is frozen."""
    network = build_without_memory(
        name, frozen_stages=stages, base_model="resnet50", pretrained_weights="coco"
    )
    network.train()

    frozen_parts = {f"layer{stage}" for stage in range(1, stages + 1)}
    if stages:
        frozen_parts |= {"conv1", "bn1"}
    for key, parameter in network.backbone.named_parameters():
        is_frozen = key.split(".")[0] in frozen_parts
        # As published, YOLOF's batch-norms have no gradients where any stage is frozen.
        if is_frozen or name != "yolof" or not stages:
            assert parameter.requires_grad != is_frozen, key

    for key, module in network.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.training, key
