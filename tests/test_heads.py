"""The one-stage head: MMDetection's by default, and what it adds where one regressor per class or OHEM is wanted; SSD's that predicts."""

from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from detreg.training import heads

assert heads  # importing it lets MODELS build them
CLASSES, ANCHORS = 3, 9
MAPS = ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1))
"""Of a picture of 128x96 px."""
METAS = [
    {"img_shape": (96, 128), "pad_shape": (96, 128), "scale_factor": (2.0, 2.0)},
    {
        "img_shape": (60, 60),
        "pad_shape": (64, 64),
        "scale_factor": (0.5, 0.5),
    },  # most of the batch's anchors lie beside it
]
CROSS_ENTROPY = {"loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True}}
OHEM = CROSS_ENTROPY | {"negatives_per_positive": 3}
TEST = {
    "nms_pre": 1000,
    "min_bbox_size": 0,
    "score_thr": 0.3,
    "nms": {"type": "nms", "iou_threshold": 0.5},
    "max_per_img": 100,
}


@pytest.fixture(scope="module", autouse=True)
def _scope() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


def made(head: str = "OneStageHead", classes: int = CLASSES, **values: Any) -> Any:
    """A small RetinaNet head, otherwise as published, whose outputs differ between anchors."""
    config = {
        "type": head,
        "num_classes": classes,
        "in_channels": 4,
        "stacked_convs": 1,
        "feat_channels": 8,
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder",
            "target_means": [0.0] * 4,
            "target_stds": [1.0] * 4,
        },
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "L1Loss"},
        "train_cfg": {
            "assigner": {
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.5,
                "neg_iou_thr": 0.4,
                "min_pos_iou": 0,
                "ignore_iof_thr": -1,
            },
            "sampler": {"type": "PseudoSampler"},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "test_cfg": TEST,
    }
    torch.manual_seed(0)
    built = MODELS.build(ConfigDict(config | values))
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return built


def features() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 4, *size, generator=generator) for size in MAPS)


def random_outputs(
    classes: int = CLASSES, regressors: int = 1
) -> tuple[list[Tensor], list[Tensor]]:
    """Scores and deltas of every anchor, all different."""
    generator = torch.Generator().manual_seed(2)
    scores = [
        torch.randn(2, ANCHORS * classes, *size, generator=generator).requires_grad_()
        for size in MAPS
    ]
    deltas = [
        (
            torch.randn(2, ANCHORS * regressors * 4, *size, generator=generator) * 0.3
        ).requires_grad_()
        for size in MAPS
    ]
    return scores, deltas


def objects(*classes: list[int]) -> list[InstanceData]:
    """Boxes of these classes in each of the two pictures."""
    boxes = torch.tensor(
        [[5.0, 8.0, 37.0, 40.0], [20.0, 6.0, 58.0, 30.0], [12.0, 18.0, 50.0, 58.0]]
    )
    return [
        InstanceData(bboxes=boxes[: len(own)], labels=torch.tensor(own, dtype=torch.long))
        for own in classes
    ]


def rows(levels: list[Tensor], width: int) -> Tensor:
    """(pictures, anchors of all levels, width)."""
    return torch.cat(
        [level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in levels], dim=1
    )


def gradients(loss: list[Tensor], levels: list[Tensor], width: int) -> Tensor:
    found = torch.autograd.grad(
        torch.stack([own.sum() for own in loss]).sum(), levels, retain_graph=True
    )
    assert all(bool(own.isfinite().all()) for own in found)
    return rows(list(found), width)


def targets(head: Any, found: list[InstanceData]) -> tuple[Tensor, Tensor, int]:
    """Labels and weights (pictures, anchors) that MMDetection assigns, and what losses are divided by."""
    anchors, valid = head.get_anchors(list(MAPS), METAS, device="cpu")
    labels, weights, _, _, factor = head.get_targets(anchors, valid, found, METAS)
    return torch.cat(labels, 1), torch.cat(weights, 1), factor


def losses_of(head: Any, found: list[InstanceData]) -> dict[str, list[Tensor]]:
    return head.loss_by_feat(*head(features()), found, METAS)


def assert_same_losses(one: dict[str, list[Tensor]], other: dict[str, list[Tensor]]) -> None:
    assert one.keys() == other.keys() == {"loss_cls", "loss_bbox"}
    for key, values in one.items():
        assert len(values) == len(MAPS)
        assert sum(values) > 0
        torch.testing.assert_close(torch.stack(values), torch.stack(other[key]))


def assert_same_detections(one: list[InstanceData], other: list[InstanceData]) -> None:
    assert len(one) == len(other) == 2
    for own, expected in zip(one, other, strict=True):
        assert len(own) > 0
        assert torch.equal(own.labels, expected.labels)
        torch.testing.assert_close(own.scores, expected.scores)
        torch.testing.assert_close(own.bboxes, expected.bboxes)


# as MMDetection's ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, CROSS_ENTROPY], ids=["focal", "cross-entropy"])
def test_it_is_mmdetections_head_by_default(values: dict[str, Any]) -> None:
    one, other = made(**values), made("RetinaHead", **values)
    other.load_state_dict(one.state_dict())
    found = objects([0, 2, 1], [1])
    assert_same_losses(losses_of(one, found), losses_of(other, found))
    for rescale in (False, True):
        detections = [
            head.predict_by_feat(*head(features()), batch_img_metas=METAS, rescale=rescale)
            for head in (one, other)
        ]
        assert_same_detections(*detections)


def test_one_class_has_one_regressor_either_way() -> None:
    one, other = made(classes=1, per_class_regression=True), made("RetinaHead", classes=1)
    other.load_state_dict(one.state_dict())
    found = objects([0, 0, 0], [0])
    assert_same_losses(losses_of(one, found), losses_of(other, found))
    detections = [
        head.predict_by_feat(*head(features()), batch_img_metas=METAS, rescale=True)
        for head in (one, other)
    ]
    assert_same_detections(*detections)


# one regressor per class ---------------------------------------------------------------------------------------------------------


def test_every_class_has_a_regressor() -> None:
    scores, deltas = made(per_class_regression=True)(features())
    assert [tuple(level.shape) for level in deltas] == [
        (2, ANCHORS * CLASSES * 4, *size) for size in MAPS
    ]
    assert [tuple(level.shape) for level in scores] == [
        (2, ANCHORS * CLASSES, *size) for size in MAPS
    ]


def test_equal_regressors_are_one_shared_by_all_classes() -> None:
    one, other = made(per_class_regression=True), made("RetinaHead")
    state = other.state_dict()
    for key in ("retina_reg.weight", "retina_reg.bias"):
        shared = state[key].unflatten(0, (ANCHORS, 1, 4))
        state[key] = shared.expand(-1, CLASSES, *shared.shape[2:]).flatten(0, 2)
    one.load_state_dict(state)
    found = objects([0, 2, 1], [1])
    assert_same_losses(losses_of(one, found), losses_of(other, found))
    detections = [
        head.predict_by_feat(*head(features()), batch_img_metas=METAS) for head in (one, other)
    ]
    assert_same_detections(*detections)


def test_only_the_regressor_of_the_target_class_learns() -> None:
    head = made(per_class_regression=True)
    torch.stack(losses_of(head, objects([1, 1], [1]))["loss_bbox"]).sum().backward()
    for gradient in (head.retina_reg.weight.grad, head.retina_reg.bias.grad):
        by_class = (
            gradient.unflatten(0, (ANCHORS, CLASSES, 4)).abs().transpose(0, 1).flatten(1).sum(1)
        )
        assert (by_class > 0).tolist() == [False, True, False]


def test_each_anchor_learns_by_its_own_class() -> None:
    head = made(per_class_regression=True)
    scores, deltas = random_outputs(regressors=CLASSES)
    found = objects([0, 2, 1], [1])
    labels, weights, _ = targets(head, found)
    losses = head.loss_by_feat(scores, deltas, found, METAS)
    learns = (
        gradients(losses["loss_bbox"], deltas, CLASSES * 4).unflatten(2, (CLASSES, 4)).ne(0).any(-1)
    )
    assert {int(label) for label in labels[weights > 0]} == {0, 1, 2, CLASSES}
    assert torch.equal(learns, one_hot(labels, CLASSES + 1)[..., :CLASSES].bool())


@pytest.mark.parametrize("nms_pre", [1000, 20])
def test_predictions_take_the_box_of_their_class(nms_pre: int) -> None:
    head = made(per_class_regression=True)
    scores, deltas = random_outputs(regressors=CLASSES)
    cfg = ConfigDict(TEST | {"nms_pre": nms_pre, "score_thr": 0.8})
    found = head.predict_by_feat(scores, deltas, batch_img_metas=METAS, cfg=cfg, with_nms=False)
    priors = head.prior_generator.grid_priors(list(MAPS), device="cpu")
    for picture, detections in enumerate(found):
        expected = []
        for level, anchors in enumerate(priors):
            chances = (
                scores[level][picture].detach().permute(1, 2, 0).reshape(-1, CLASSES).sigmoid()
            )
            own = deltas[level][picture].detach().permute(1, 2, 0).reshape(-1, CLASSES, 4)
            candidates = [
                (float(chances[at, label]), int(at), int(label))
                for at, label in (chances > 0.8).nonzero()
            ]
            for score, at, label in sorted(candidates, reverse=True)[:nms_pre]:
                box = head.bbox_coder.decode(
                    anchors[at : at + 1],
                    own[at, label][None],
                    max_shape=METAS[picture]["img_shape"],
                )
                if bool((box[0, 2:] > box[0, :2]).all()):  # not beside the picture
                    expected.append((score, label, *box[0].tolist()))
        assert {label for _, label, *_ in expected} == {0, 1, 2}
        table = torch.cat(
            [detections.scores[:, None], detections.labels[:, None], detections.bboxes], 1
        ).detach()
        torch.testing.assert_close(table, torch.tensor(expected))


# OHEM ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class", [False, True])
def test_only_positives_and_the_hardest_negatives_of_the_batch_learn(per_class: bool) -> None:
    head = made(**OHEM, per_class_regression=per_class)
    scores, deltas = random_outputs(regressors=CLASSES if per_class else 1)
    with torch.no_grad():
        scores[0][1, :, 8:] += 9  # hard as they look, these lie beside the second picture
        scores[3][0] += 2  # and these are hard indeed
    found = objects([0, 2, 1], [1])
    labels, weights, factor = targets(head, found)
    positive, negative = labels < CLASSES, (labels == CLASSES) & (weights > 0)
    beside = weights == 0
    wanted = 3 * (int(positive.sum()) + 2)
    assert 0 < wanted < negative.sum()
    assert beside.any()

    losses = head.loss_by_feat(scores, deltas, found, METAS)
    learns = gradients(losses["loss_cls"], scores, CLASSES).ne(0).any(-1)
    assert bool(learns[positive].all())
    assert not bool(learns[beside].any())
    assert int(learns[negative].sum()) == wanted

    goal = one_hot(labels, CLASSES + 1)[..., :CLASSES].float()
    each = binary_cross_entropy_with_logits(rows(scores, CLASSES), goal, reduction="none").sum(-1)
    assert each[negative & learns].min() >= each[negative & ~learns].max()
    expected = (each[positive].sum() + each[negative].topk(wanted).values.sum()) / factor
    torch.testing.assert_close(sum(losses["loss_cls"]), expected)
    # which is no ranking of each level, nor of each picture
    chosen = learns & negative
    for parts in (
        lambda anchors: anchors.split([ANCHORS * height * width for height, width in MAPS], dim=1),
        list,
    ):
        counts = [
            (int(own.sum()), 3 * int(true.sum()))
            for own, true in zip(parts(chosen), parts(positive), strict=True)
        ]
        assert sum(count > 0 for count, _ in counts) > 1
        assert any(count > share + 6 for count, share in counts)


def test_the_boxes_learn_as_without_ohem() -> None:
    outputs, found = random_outputs(), objects([0, 2, 1], [1])
    with_ohem = made(**OHEM).loss_by_feat(*outputs, found, METAS)["loss_bbox"]
    without = made(**CROSS_ENTROPY).loss_by_feat(*outputs, found, METAS)["loss_bbox"]
    assert sum(without) > 0
    torch.testing.assert_close(torch.stack(with_ohem), torch.stack(without))


def test_more_negatives_than_there_are_is_all_of_them() -> None:
    outputs, found = random_outputs(), objects([0, 2, 1], [1])
    every = made(**OHEM | {"negatives_per_positive": 10_000}).loss_by_feat(*outputs, found, METAS)
    assert_same_losses(every, made(**CROSS_ENTROPY).loss_by_feat(*outputs, found, METAS))


# nothing to find -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, OHEM], ids=["focal", "ohem"])
@pytest.mark.parametrize("per_class", [False, True])
def test_a_batch_without_objects_has_finite_losses(values: dict[str, Any], per_class: bool) -> None:
    head = made(**values, per_class_regression=per_class)
    width = 4 * (CLASSES if per_class else 1)
    scores, deltas = random_outputs(regressors=width // 4)
    found = [
        InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        for _ in METAS
    ]
    losses = head.loss_by_feat(scores, deltas, found, METAS)
    assert sum(losses["loss_cls"]).isfinite()
    assert sum(losses["loss_cls"]) > 0
    assert sum(losses["loss_bbox"]) == 0
    assert not gradients(losses["loss_bbox"], deltas, width).any()
    learns = gradients(losses["loss_cls"], scores, CLASSES).ne(0).any(-1)
    _, weights, _ = targets(head, found)
    assert int(learns.sum()) == (3 * len(METAS) if values else int((weights > 0).sum()))


# SSD -----------------------------------------------------------------------------------------------------------------------------


def ssd(head: str) -> Any:
    """A head over two maps with four boxes in a cell."""
    config = {
        "type": head,
        "num_classes": CLASSES,
        "in_channels": (4, 4),
        "anchor_generator": {
            "type": "SSDAnchorGenerator",
            "scale_major": False,
            "strides": [16, 32],
            "ratios": [[2], [2]],
            "min_sizes": [20, 40],
            "max_sizes": [40, 80],
        },
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder",
            "target_means": [0.0] * 4,
            "target_stds": [0.1, 0.1, 0.2, 0.2],
        },
        "test_cfg": TEST,
    }
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(config))


def test_ssd_predicts_where_mmdetections_raises() -> None:
    head, broken = ssd("PredictingSSDHead"), ssd("SSDHead")
    generator = torch.Generator().manual_seed(3)
    scores = [
        torch.randn(2, 4 * (CLASSES + 1), *size, generator=generator) * 2 for size in MAPS[1:3]
    ]
    deltas = [torch.randn(2, 16, *size, generator=generator) for size in MAPS[1:3]]
    with pytest.raises(AttributeError, match="loss_cls"):
        broken.predict_by_feat(scores, deltas, batch_img_metas=METAS)
    found = head.predict_by_feat(scores, deltas, batch_img_metas=METAS, with_nms=False)
    anchors = torch.cat(head.prior_generator.grid_priors(list(MAPS[1:3]), device="cpu"))
    for picture, detections in enumerate(found):
        chances = rows(scores, CLASSES + 1)[picture].softmax(-1)[
            :, :CLASSES
        ]  # the last is the background
        at, labels = (chances > TEST["score_thr"]).nonzero(as_tuple=True)
        assert len(labels.unique()) == CLASSES
        boxes = head.bbox_coder.decode(
            anchors[at], rows(deltas, 4)[picture][at], max_shape=METAS[picture]["img_shape"]
        )
        expected = torch.cat([chances[at, labels][:, None], labels[:, None], boxes], 1)
        expected = expected[(boxes[:, 2:] > boxes[:, :2]).all(1)]  # not beside the picture
        table = torch.cat(
            [detections.scores[:, None], detections.labels[:, None], detections.bboxes], 1
        )
        torch.testing.assert_close(table[table[:, 0].argsort()], expected[expected[:, 0].argsort()])
    assert 0 < len(head.predict_by_feat(scores, deltas, batch_img_metas=METAS)[0]) < len(found[0])
