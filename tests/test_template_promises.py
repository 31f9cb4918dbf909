"""What the documentation of each template promises is in its network."""

from typing import Any

import pytest
import torch
from conftest import SMALL
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.sample import write_sample
from detreg.options import RunOptions
from detreg.params import build, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.training import backbones, heads
from detreg.training.compose import compose, compose_network, load_published_config

assert backbones and heads  # importing them lets MODELS build them by name
YOLOX = TEMPLATES["yolox"]
NANO = {"base_model": "yolox_nano", "pretrained_weights": "none"}


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six drawn pictures."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "drawn", images=6, size=(96, 64))
    return load_dataset(folder / "drawn", folder / "cache")


def composed(dataset: Dataset, template: Template = YOLOX, **values: Any) -> dict[str, Any]:
    """The configuration of these hyperparameters."""
    return compose(
        template, template.resolve(build(template.params, values)), dataset, RunOptions()
    ).to_dict()


def built(model: dict[str, Any]) -> nn.Module:
    """A network of a model's configuration, with random weights."""
    torch.manual_seed(0)
    network: nn.Module = MODELS.build(ConfigDict(model))
    return network


def yolox(num_classes: int = 3, **values: Any) -> nn.Module:
    """The network that detreg trains."""
    params = build(YOLOX.params, NANO | values)
    return built(compose_network(YOLOX, params, load_published_config(YOLOX, params), num_classes))


# what yolox promises -------------------------------------------------------------------------------------------------------------


def test_yolox_is_free_of_anchors() -> None:
    generator = yolox().bbox_head.prior_generator
    assert generator.num_base_priors == [1, 1, 1]
    assert not hasattr(generator, "base_anchors")
    cells = [(8, 8), (4, 4), (2, 2)]
    priors = generator.grid_priors(cells, device="cpu", with_stride=True)
    assert [len(level) for level in priors] == [rows * columns for rows, columns in cells]
    assert priors[0][:2].tolist() == [
        [0, 0, 8, 8],
        [8, 0, 8, 8],
    ]  # x, y and stride: a point has no size


def test_yolox_assigns_with_simota(dataset: Dataset) -> None:
    assert composed(dataset, **NANO)["model"]["train_cfg"]["assigner"]["type"] == "SimOTAAssigner"
    assert type(yolox().bbox_head.assigner).__name__ == "SimOTAAssigner"


def test_the_head_of_yolox_is_decoupled() -> None:
    head = yolox().bbox_head
    branches = [head.multi_level_cls_convs, head.multi_level_reg_convs]
    assert [len(branch) for branch in branches] == [3, 3]
    separate = [{id(parameter) for parameter in branch.parameters()} for branch in branches]
    assert separate[0]
    assert separate[1]
    assert not separate[0] & separate[1]
    features = [torch.rand(1, 64, side, side) for side in (8, 4, 2)]
    before = head(features)
    for parameter in head.multi_level_cls_convs.parameters():
        parameter.data.add_(0.5)
    after = head(features)
    assert not torch.equal(before[0][0], after[0][0])  # classes
    assert torch.equal(before[1][0], after[1][0])  # boxes
    assert torch.equal(before[2][0], after[2][0])  # objectness


@pytest.mark.parametrize("base_model", list(YOLOX.base_models))
def test_mixup_is_in_the_larger_models_only(dataset: Dataset, base_model: str) -> None:
    config = composed(dataset, base_model=base_model, pretrained_weights="none")
    types = [transform["type"] for transform in config["train_dataloader"]["dataset"]["pipeline"]]
    assert types[:2] == ["Mosaic", "RandomAffine"]
    assert ("MixUp" in types) == (base_model not in ("yolox_nano", "yolox_tiny"))
    hooks = {hook["type"]: hook for hook in config["custom_hooks"]}
    assert set(hooks["PlainEpochsHook"]["skip"]) == {"Mosaic", "RandomAffine", "MixUp"} & set(types)


@pytest.mark.parametrize("stages", range(5))
def test_frozen_stages_get_no_updates(stages: int) -> None:
    model = yolox(frozen_stages=stages, pretrained_weights="coco").train()
    frozen = {"stem", *(f"stage{stage}" for stage in range(1, stages + 1))} if stages else set()
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        assert parameter.requires_grad == (
            part != "backbone" or rest.split(".")[0] not in frozen
        ), name
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == (name.split(".")[0] not in frozen), name


def test_a_step_changes_nothing_frozen() -> None:
    model = yolox(frozen_stages=2, pretrained_weights="coco").train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1
    )
    loss = sum(level.mean() for outputs in model(torch.rand(2, 3, 64, 64)) for level in outputs)
    loss.backward()
    optimizer.step()
    changed = {
        name.split(".")[0]
        for name, value in model.backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"stage3", "stage4"}


# what the others promise ---------------------------------------------------------------------------------------------------------


def of(name: str, **values: Any) -> Any:
    """The network that detreg trains, of three classes, without memory."""
    template = TEMPLATES[name]
    given = {key: value for key, value in SMALL[name].items() if key in get_params(template.params)}
    params = build(template.params, given | values)
    with torch.device("meta"):
        return built(
            compose_network(template, params, load_published_config(template, params), 3)
        ).eval()


def test_yolof_has_one_level_and_a_dilated_encoder() -> None:
    detector = of("yolof", image_size=128)
    maps = detector.extract_feat(torch.empty(1, 3, 128, 128, device="meta"))
    assert [tuple(level.shape[-2:]) for level in maps] == [(4, 4)]
    dilations = {
        module.dilation[0] for module in detector.neck.modules() if isinstance(module, nn.Conv2d)
    }
    assert {2, 4, 6, 8} <= dilations
    assert type(detector.bbox_head.assigner).__name__ == "UniformAssigner"
    assert len(detector.bbox_head.prior_generator.base_anchors[0]) == 5
    assert len(of("yolof", anchor_ratios="1,2").bbox_head.prior_generator.base_anchors[0]) == 10


def test_ssd_has_default_boxes_on_several_maps_and_mines_hard_negatives() -> None:
    detector = of("ssd", image_size=320)
    maps = detector.extract_feat(torch.empty(1, 3, 320, 320, device="meta"))
    assert [level.shape[-1] for level in maps] == [20, 10, 5, 3, 2, 1]
    assert detector.bbox_head.prior_generator.num_base_priors == [6] * 6
    assert detector.train_cfg["neg_pos_ratio"] == 3


@pytest.mark.parametrize("positives", [1, 4])
def test_ssd_learns_from_the_three_hardest_negatives_of_each_positive(positives: int) -> None:
    head = built(
        compose_network(
            TEMPLATES["ssd"],
            build(TEMPLATES["ssd"].params, {}),
            load_published_config(TEMPLATES["ssd"], TEMPLATES["ssd"].params()),
            3,
        )
    ).bbox_head
    scores = torch.randn(50, 4, requires_grad=True)
    labels = torch.full((50,), 3)
    labels[:positives] = 1
    ones, boxes = torch.ones(50), torch.zeros(50, 4)
    loss, _ = head.loss_by_feat_single(
        scores, boxes, boxes, labels, ones, boxes, boxes, avg_factor=positives
    )
    loss.sum().backward()
    learning = scores.grad.abs().sum(1) > 0
    assert learning[:positives].all() and int(learning.sum()) == 4 * positives
    losses = torch.nn.functional.cross_entropy(scores.detach(), labels, reduction="none")[
        positives:
    ]
    assert set(losses.topk(3 * positives).indices.tolist()) == set(
        (learning[positives:]).nonzero().flatten().tolist()
    )


def test_faster_rcnn_has_an_rpn_that_shares_its_maps_with_the_second_stage() -> None:
    detector = of("faster_rcnn")
    assert type(detector.rpn_head).__name__ == "RPNHead" and detector.neck.num_outs == 5
    assert not [
        name for name, _ in detector.roi_head.named_parameters() if "conv" in name
    ]  # no convolutions of its own
    assert detector.roi_head.bbox_head.fc_reg.out_features == 4 * 3
    assert (
        of("faster_rcnn", use_perclass_regression=False).roi_head.bbox_head.fc_reg.out_features == 4
    )


@pytest.mark.parametrize("name", ["inception_v4", "inception_v2", "msc10"])
def test_the_retinanets_work_at_several_scales_with_focal_loss_or_ohem(name: str) -> None:
    detector = of(name)
    maps = detector.extract_feat(torch.empty(1, 3, 128, 128, device="meta"))
    assert [level.shape[-1] for level in maps] == [16, 8, 4, 2, 1]
    head = detector.bbox_head
    assert [len(anchors) for anchors in head.prior_generator.base_anchors] == [9] * 5
    assert type(head.loss_cls).__name__ == "FocalLoss" and head.negatives_per_positive is None
    ohem = of(name, use_focal_loss=False).bbox_head
    assert type(ohem.loss_cls).__name__ == "CrossEntropyLoss" and ohem.negatives_per_positive == 3
    assert (
        of(name, use_perclass_regression=True).bbox_head.retina_reg.out_channels
        == 3 * head.retina_reg.out_channels
    )


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn", "inception_v4", "inception_v2", "msc10"])
def test_anchor_ratios_are_width_to_height(name: str) -> None:
    detector = of(name, anchor_ratios="4")
    head = getattr(detector, "rpn_head", None) or detector.bbox_head
    boxes = torch.cat(
        [
            anchors.cpu() if anchors.device.type != "meta" else anchors
            for anchors in head.prior_generator.base_anchors
        ]
    )
    wide = TASK_UTILS.build(composed_anchors(name, "4")).base_anchors
    assert len(boxes) == sum(map(len, wide))
    for level in wide:
        width, height = level[:, 2] - level[:, 0], level[:, 3] - level[:, 1]
        torch.testing.assert_close(width / height, torch.full_like(width, 4.0))


def composed_anchors(name: str, ratios: str) -> dict[str, Any]:
    """The anchor generator that is composed."""
    template = TEMPLATES[name]
    params = build(template.params, {"anchor_ratios": ratios})
    model = compose_network(template, params, load_published_config(template, params), 3)
    return dict((model.get("rpn_head") or model["bbox_head"])["anchor_generator"])


@pytest.mark.parametrize("name", ["yolof", "faster_rcnn", "msc10"])
@pytest.mark.parametrize("stages", range(5))
def test_frozen_stages_of_resnets_get_no_updates(name: str, stages: int) -> None:
    """Batch-norm statistics are kept with the weights that fill the backbone, as published, whatever is frozen."""
    extra = {"base_model": "resnet50", "pretrained_weights": "coco"}
    detector = of(name, frozen_stages=stages, **extra)
    detector.train()
    frozen = (
        {"conv1", "bn1", *(f"layer{stage}" for stage in range(1, stages + 1))} if stages else set()
    )
    for key, parameter in detector.backbone.named_parameters():
        if (
            key.split(".")[0] in frozen or name != "yolof" or not stages
        ):  # YOLOF's batch-norms have no gradients where a stage is frozen
            assert parameter.requires_grad == (key.split(".")[0] not in frozen), key
    for key, module in detector.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.training, key


def test_frozen_stages_of_mobilenet_get_no_updates() -> None:
    detector = of("ssd", frozen_stages=3, pretrained_weights="coco")
    detector.train()
    frozen = {"conv1", *(f"layer{number}" for number in range(1, 6))}
    for key, parameter in detector.backbone.named_parameters():
        assert parameter.requires_grad == (key.split(".")[0] not in frozen), key
    for key, module in detector.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == (key.split(".")[0] not in frozen), key
