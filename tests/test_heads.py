"""The one-stage head with its two options, and SSD's head that can predict."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

pytestmark = pytest.mark.usefixtures("mmdet_scope")
CLASSES, ANCHORS = 3, 9
MAP_SIZES = ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1))
"""Height and width of each map of an image of 128x96 px."""
WHOLE_IMAGE = {"img_shape": (96, 128), "pad_shape": (96, 128), "scale_factor": (2.0, 2.0)}
SMALL_IMAGE = {"img_shape": (60, 60), "pad_shape": (64, 64), "scale_factor": (0.5, 0.5)}
"""Most of the batch's anchors lie beside it."""
METAS: list[dict[str, Any]] = [WHOLE_IMAGE, SMALL_IMAGE]
CROSS_ENTROPY: dict[str, Any] = {"loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True}}
OHEM: dict[str, Any] = CROSS_ENTROPY | {"negatives_per_positive": 3}
TEST_CONFIG: dict[str, Any] = {
    "nms_pre": 1000,
    "min_bbox_size": 0,
    "score_thr": 0.3,
    "nms": {"type": "nms", "iou_threshold": 0.5},
    "max_per_img": 100,
}


def build_head(head: str = "OneStageHead", classes: int = CLASSES, **options: object) -> Any:
    """Build a small RetinaNet head, otherwise as published, whose outputs differ by anchor."""
    config: dict[str, Any] = {
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
        "test_cfg": TEST_CONFIG,
    }
    torch.manual_seed(0)
    built = MODELS.build(ConfigDict(config | options))
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.2)
    return built


def make_features() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 4, *size, generator=generator) for size in MAP_SIZES)


def make_outputs(regressors: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """Return scores and deltas of every anchor, all different."""
    generator = torch.Generator().manual_seed(2)
    scores = []
    for size in MAP_SIZES:
        level = torch.randn(2, ANCHORS * CLASSES, *size, generator=generator)
        scores.append(level.requires_grad_())

    deltas = []
    for size in MAP_SIZES:
        level = torch.randn(2, ANCHORS * regressors * 4, *size, generator=generator) * 0.3
        deltas.append(level.requires_grad_())
    return scores, deltas


def make_objects(first: list[int], second: list[int]) -> list[InstanceData]:
    """Return boxes of these classes in each of the two images."""
    boxes = torch.tensor(
        [[5.0, 8.0, 37.0, 40.0], [20.0, 6.0, 58.0, 30.0], [12.0, 18.0, 50.0, 58.0]]
    )
    objects = []
    for classes in (first, second):
        labels = torch.tensor(classes, dtype=torch.long)
        objects.append(InstanceData(bboxes=boxes[: len(classes)], labels=labels))
    return objects


def flatten_levels(levels: Iterable[Tensor], width: int) -> Tensor:
    """Return (images, anchors of all levels, width)."""
    flat = [level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in levels]
    return torch.cat(flat, dim=1)


def compute_gradients(losses: list[Tensor], outputs: list[Tensor], width: int) -> Tensor:
    """Return the gradients (images, anchors of all levels, width) of the sum of losses."""
    total = torch.stack([loss.sum() for loss in losses]).sum()
    gradients = torch.autograd.grad(total, outputs, retain_graph=True)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    return flatten_levels(gradients, width)


def assign_targets(head: Any, objects: list[InstanceData]) -> tuple[Tensor, Tensor, int]:
    """Return labels and weights (images, anchors), and what losses are divided by."""
    anchors, valid = head.get_anchors(list(MAP_SIZES), METAS, device="cpu")
    labels, weights, _, _, avg_factor = head.get_targets(anchors, valid, objects, METAS)
    return torch.cat(labels, 1), torch.cat(weights, 1), avg_factor


def compute_losses(head: Any, objects: list[InstanceData]) -> dict[str, list[Tensor]]:
    losses: dict[str, list[Tensor]] = head.loss_by_feat(*head(make_features()), objects, METAS)
    return losses


def assert_same_losses(one: dict[str, list[Tensor]], other: dict[str, list[Tensor]]) -> None:
    assert one.keys() == other.keys() == {"loss_cls", "loss_bbox"}
    for key, losses in one.items():
        assert len(losses) == len(MAP_SIZES)
        assert sum(losses) > 0
        torch.testing.assert_close(torch.stack(losses), torch.stack(other[key]))


def assert_same_detections(one: Any, other: Any, *, rescale: bool = False) -> None:
    """Check that two heads detect the same in both images."""
    detections = one.predict_by_feat(*one(make_features()), batch_img_metas=METAS, rescale=rescale)
    expected = other.predict_by_feat(
        *other(make_features()), batch_img_metas=METAS, rescale=rescale
    )
    assert len(detections) == len(expected) == 2
    for of_image, expected_of_image in zip(detections, expected, strict=True):
        assert len(of_image) > 0
        assert torch.equal(of_image.labels, expected_of_image.labels)
        torch.testing.assert_close(of_image.scores, expected_of_image.scores)
        torch.testing.assert_close(of_image.bboxes, expected_of_image.bboxes)


def make_table(detections: Any) -> Tensor:
    """Return (n, 6): score, label and box."""
    scores = detections.scores[:, None]
    labels = detections.labels[:, None]
    return torch.cat([scores, labels, detections.bboxes], 1).detach()


# as MMDetection's


@pytest.mark.parametrize("options", [{}, CROSS_ENTROPY], ids=["focal", "cross-entropy"])
def test_it_is_mmdetections_head_by_default(options: dict[str, Any]) -> None:
    ours, theirs = build_head(**options), build_head("RetinaHead", **options)
    theirs.load_state_dict(ours.state_dict())
    objects = make_objects([0, 2, 1], [1])
    assert_same_losses(compute_losses(ours, objects), compute_losses(theirs, objects))
    assert_same_detections(ours, theirs)
    assert_same_detections(ours, theirs, rescale=True)


def test_one_class_has_one_regressor_either_way() -> None:
    ours = build_head(classes=1, per_class_regression=True)
    theirs = build_head("RetinaHead", classes=1)
    theirs.load_state_dict(ours.state_dict())
    objects = make_objects([0, 0, 0], [0])
    assert_same_losses(compute_losses(ours, objects), compute_losses(theirs, objects))
    assert_same_detections(ours, theirs, rescale=True)


# one regressor per class


def test_every_class_has_a_regressor() -> None:
    scores, deltas = build_head(per_class_regression=True)(make_features())
    for size, level_scores, level_deltas in zip(MAP_SIZES, scores, deltas, strict=True):
        assert level_scores.shape == (2, ANCHORS * CLASSES, *size)
        assert level_deltas.shape == (2, ANCHORS * CLASSES * 4, *size)


def test_equal_regressors_are_one_shared_by_all_classes() -> None:
    ours, theirs = build_head(per_class_regression=True), build_head("RetinaHead")
    state = theirs.state_dict()
    for key in ("retina_reg.weight", "retina_reg.bias"):
        shared = state[key].unflatten(0, (ANCHORS, 1, 4))
        state[key] = shared.expand(-1, CLASSES, *shared.shape[2:]).flatten(0, 2)
    ours.load_state_dict(state)

    objects = make_objects([0, 2, 1], [1])
    assert_same_losses(compute_losses(ours, objects), compute_losses(theirs, objects))
    assert_same_detections(ours, theirs)


def test_only_the_regressor_of_the_target_class_learns() -> None:
    head = build_head(per_class_regression=True)
    losses = compute_losses(head, make_objects([1, 1], [1]))
    torch.stack(losses["loss_bbox"]).sum().backward()
    for gradient in (head.retina_reg.weight.grad, head.retina_reg.bias.grad):
        by_class = gradient.unflatten(0, (ANCHORS, CLASSES, 4)).abs().transpose(0, 1)
        is_learning = by_class.flatten(1).sum(1) > 0
        assert is_learning.tolist() == [False, True, False]


def test_each_anchor_learns_by_its_own_class() -> None:
    head = build_head(per_class_regression=True)
    scores, deltas = make_outputs(regressors=CLASSES)
    objects = make_objects([0, 2, 1], [1])
    labels, weights, _ = assign_targets(head, objects)
    assert set(labels[weights > 0].tolist()) == {0, 1, 2, CLASSES}

    losses = head.loss_by_feat(scores, deltas, objects, METAS)
    gradients = compute_gradients(losses["loss_bbox"], deltas, CLASSES * 4)
    is_learning = gradients.unflatten(2, (CLASSES, 4)).ne(0).any(-1)
    is_own_class = one_hot(labels, CLASSES + 1)[..., :CLASSES].bool()
    assert torch.equal(is_learning, is_own_class)


Row = tuple[float, ...]
"""Score, label and box of a detection."""


def list_candidates(
    head: Any, scores: Tensor, deltas: Tensor, anchors: Tensor, shape: tuple[int, int], most: int
) -> list[Row]:
    """Return one level's candidates over a score of 0.8, the best first, by plain loops."""
    probabilities = scores.detach().permute(1, 2, 0).reshape(-1, CLASSES).sigmoid()
    deltas = deltas.detach().permute(1, 2, 0).reshape(-1, CLASSES, 4)
    candidates = []
    for anchor, label in (probabilities > 0.8).nonzero().tolist():
        candidates.append((float(probabilities[anchor, label]), anchor, label))

    rows: list[Row] = []
    for score, anchor, label in sorted(candidates, reverse=True)[:most]:
        own_deltas = deltas[anchor, label][None]
        box = head.bbox_coder.decode(anchors[anchor][None], own_deltas, max_shape=shape)[0]
        if bool((box[2:] > box[:2]).all()):  # otherwise it lies beside the image
            rows.append((score, label, *box.tolist()))
    return rows


@pytest.mark.parametrize("nms_pre", [1000, 20])
def test_predictions_take_the_box_of_their_class(nms_pre: int) -> None:
    head = build_head(per_class_regression=True)
    scores, deltas = make_outputs(regressors=CLASSES)
    config = ConfigDict(TEST_CONFIG | {"nms_pre": nms_pre, "score_thr": 0.8})
    detections = head.predict_by_feat(
        scores, deltas, batch_img_metas=METAS, cfg=config, with_nms=False
    )

    priors = head.prior_generator.grid_priors(list(MAP_SIZES), device="cpu")
    for image in range(2):
        expected: list[Row] = []
        for level, anchors in enumerate(priors):
            expected += list_candidates(
                head,
                scores[level][image],
                deltas[level][image],
                anchors,
                METAS[image]["img_shape"],
                nms_pre,
            )
        assert {row[1] for row in expected} == {0, 1, 2}
        torch.testing.assert_close(make_table(detections[image]), torch.tensor(expected))


# OHEM


def split_levels(anchors: Tensor) -> list[Tensor]:
    """Split (images, anchors of all levels) by level."""
    return list(anchors.split([ANCHORS * height * width for height, width in MAP_SIZES], dim=1))


def assert_not_ranked_within(
    split: Callable[[Tensor], list[Tensor]], chosen: Tensor, positive: Tensor
) -> None:
    """Check that the chosen negatives are not three for each positive of every part."""
    parts = zip(split(chosen), split(positive), strict=True)
    counts = [(int(own.sum()), 3 * int(true.sum())) for own, true in parts]
    assert sum(count > 0 for count, _ in counts) > 1
    assert any(count > share + 6 for count, share in counts)


@pytest.mark.parametrize("per_class", [False, True])
def test_only_positives_and_the_hardest_negatives_of_the_batch_learn(per_class: bool) -> None:
    head = build_head(**OHEM, per_class_regression=per_class)
    scores, deltas = make_outputs(regressors=CLASSES if per_class else 1)
    with torch.no_grad():
        scores[0][1, :, 8:] += 9  # hard as they look, these lie beside the second image
        scores[3][0] += 2  # and these are hard indeed
    objects = make_objects([0, 2, 1], [1])
    labels, weights, avg_factor = assign_targets(head, objects)
    positive = labels < CLASSES
    negative = (labels == CLASSES) & (weights > 0)
    beside = weights == 0
    assert beside.any()
    wanted = 3 * (int(positive.sum()) + 2)  # as many for each of the two images
    assert 0 < wanted < negative.sum()

    losses = head.loss_by_feat(scores, deltas, objects, METAS)
    is_learning = compute_gradients(losses["loss_cls"], scores, CLASSES).ne(0).any(-1)
    assert bool(is_learning[positive].all())
    assert not bool(is_learning[beside].any())
    chosen = is_learning & negative
    assert int(chosen.sum()) == wanted

    target = one_hot(labels, CLASSES + 1)[..., :CLASSES].float()
    flat_scores = flatten_levels(scores, CLASSES)
    loss = binary_cross_entropy_with_logits(flat_scores, target, reduction="none").sum(-1)
    assert loss[chosen].min() >= loss[negative & ~is_learning].max()
    hardest = loss[negative].topk(wanted).values
    expected = (loss[positive].sum() + hardest.sum()) / avg_factor
    torch.testing.assert_close(sum(losses["loss_cls"]), expected)

    assert_not_ranked_within(split_levels, chosen, positive)
    assert_not_ranked_within(list, chosen, positive)  # by image


def test_the_boxes_learn_as_without_ohem() -> None:
    outputs, objects = make_outputs(), make_objects([0, 2, 1], [1])
    with_ohem = build_head(**OHEM).loss_by_feat(*outputs, objects, METAS)["loss_bbox"]
    without = build_head(**CROSS_ENTROPY).loss_by_feat(*outputs, objects, METAS)["loss_bbox"]
    assert sum(without) > 0
    torch.testing.assert_close(torch.stack(with_ohem), torch.stack(without))


def test_more_negatives_than_there_are_means_all_of_them() -> None:
    outputs, objects = make_outputs(), make_objects([0, 2, 1], [1])
    greedy = build_head(**OHEM | {"negatives_per_positive": 10_000})
    all_learn = build_head(**CROSS_ENTROPY)
    assert_same_losses(
        greedy.loss_by_feat(*outputs, objects, METAS),
        all_learn.loss_by_feat(*outputs, objects, METAS),
    )


# nothing to find


@pytest.mark.parametrize("options", [{}, OHEM], ids=["focal", "ohem"])
@pytest.mark.parametrize("per_class", [False, True])
def test_a_batch_without_objects_has_finite_losses(
    options: dict[str, Any], per_class: bool
) -> None:
    head = build_head(**options, per_class_regression=per_class)
    regressors = CLASSES if per_class else 1
    scores, deltas = make_outputs(regressors)
    nothing = make_objects([], [])

    losses = head.loss_by_feat(scores, deltas, nothing, METAS)
    assert sum(losses["loss_cls"]).isfinite()
    assert sum(losses["loss_cls"]) > 0
    assert sum(losses["loss_bbox"]) == 0
    assert not compute_gradients(losses["loss_bbox"], deltas, regressors * 4).any()

    is_learning = compute_gradients(losses["loss_cls"], scores, CLASSES).ne(0).any(-1)
    _, weights, _ = assign_targets(head, nothing)
    negatives = int((weights > 0).sum())
    expected = 3 * len(METAS) if options else negatives
    assert int(is_learning.sum()) == expected


# SSD


def build_ssd_head(head: str) -> Any:
    """Build a head over two maps with four boxes in a cell."""
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
        "test_cfg": TEST_CONFIG,
    }
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(config))


def make_ssd_outputs() -> tuple[list[Tensor], list[Tensor]]:
    """Return scores, of the background too, and deltas."""
    generator = torch.Generator().manual_seed(3)
    sizes = MAP_SIZES[1:3]
    channels = 4 * (CLASSES + 1)
    scores = [torch.randn(2, channels, *size, generator=generator) * 2 for size in sizes]
    deltas = [torch.randn(2, 16, *size, generator=generator) for size in sizes]
    return scores, deltas


def sort_rows(table: Tensor) -> Tensor:
    return table[table[:, 0].argsort()]


def test_mmdetections_ssd_head_cannot_predict() -> None:
    with pytest.raises(AttributeError, match="loss_cls"):
        build_ssd_head("SSDHead").predict_by_feat(*make_ssd_outputs(), batch_img_metas=METAS)


def test_ssd_predicts_what_its_scores_and_deltas_say() -> None:
    head = build_ssd_head("PredictingSSDHead")
    scores, deltas = make_ssd_outputs()
    candidates = head.predict_by_feat(scores, deltas, batch_img_metas=METAS, with_nms=False)
    flat_deltas = flatten_levels(deltas, 4)
    # The last column is the background.
    probabilities = flatten_levels(scores, CLASSES + 1).softmax(-1)[..., :CLASSES]

    anchors = torch.cat(head.prior_generator.grid_priors(list(MAP_SIZES[1:3]), device="cpu"))
    for image, found in enumerate(candidates):
        of_image = probabilities[image]
        indices, labels = (of_image > TEST_CONFIG["score_thr"]).nonzero(as_tuple=True)
        assert len(labels.unique()) == CLASSES
        boxes = head.bbox_coder.decode(
            anchors[indices], flat_deltas[image][indices], max_shape=METAS[image]["img_shape"]
        )
        table = torch.cat([of_image[indices, labels][:, None], labels[:, None], boxes], 1)
        is_inside = (boxes[:, 2:] > boxes[:, :2]).all(1)  # others lie beside the image
        torch.testing.assert_close(sort_rows(make_table(found)), sort_rows(table[is_inside]))

    detections = head.predict_by_feat(scores, deltas, batch_img_metas=METAS)
    assert 0 < len(detections[0]) < len(candidates[0])
