"""What the decoders share, and the table of decoders."""

from typing import get_args

import numpy as np
import torch

import detreg.training.mmcv_ops  # noqa: F401  brings the operators of mmcv
from detreg.export.decode.selection import (
    DecodedBoxes,
    select_detections,
    take_best,
    zero_empty_boxes,
)
from detreg.export.decode.table import DECODERS
from detreg.templates import TEMPLATES
from detreg.templates.template import DecoderName

from mmcv.ops import batched_nms  # isort: skip


def test_each_declared_decoder_is_in_the_table() -> None:
    assert set(DECODERS) == set(get_args(DecoderName))
    assert {template.decoder for template in TEMPLATES.values()} == set(DECODERS)


def make_random_candidates() -> DecodedBoxes:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 400, 2, generator=generator) * 60
    size = 5 + torch.rand(2, 400, 2, generator=generator) * 30
    boxes = torch.cat((corner, corner + size), dim=-1)
    scores = torch.rand(2, 400, generator=generator)
    labels = torch.randint(0, 5, (2, 400), generator=generator)
    return DecodedBoxes(boxes, scores, labels)


def test_selection_equals_mmcvs_batched_nms() -> None:
    """Also where a box that scores too little is so large that nothing fits beside it."""
    candidates = make_random_candidates()
    too_low = candidates.scores[0].argmin()
    candidates.boxes[0, too_low, 2:] = torch.tensor([1e9, float("inf")])
    found = select_detections(
        candidates, score_threshold=0.3, iou_threshold=0.5, max_detections=300
    )
    for image in range(2):
        boxes, scores, labels = (values[image] for values in candidates)
        is_valid = scores > 0.3
        nms = {"type": "nms", "iou_threshold": 0.5}
        expected, kept = batched_nms(boxes[is_valid], scores[is_valid], labels[is_valid], nms)

        count = int((found.scores[image] > 0).sum())
        assert count == len(kept)
        assert (found.scores[image, count:] == 0).all()
        np.testing.assert_allclose(found.scores[image, :count], expected[:, 4])
        np.testing.assert_allclose(found.boxes[image, :count], expected[:, :4], atol=1e-4)
        assert torch.equal(found.labels[image, :count], labels[is_valid][kept])


def test_selection_fills_up_with_scores_of_zero() -> None:
    found = select_detections(
        make_random_candidates(), score_threshold=2.0, iou_threshold=0.5, max_detections=7
    )
    assert found.scores.tolist() == [[0.0] * 7] * 2


def test_more_than_there_are_gives_all_or_fills_up_with_zeros() -> None:
    scores = torch.tensor([[0.2, 0.9]])
    best, order = take_best(scores, 3, has_fixed_size=True)
    assert (best.shape, order.tolist()) == ((1, 2), [[1, 0]])

    best, order = take_best(scores, 3)
    np.testing.assert_allclose(best, [[0.9, 0.2, 0]])
    assert order.tolist() == [[1, 0, 1]]


def test_a_box_without_extent_loses_its_score() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [3.0, 3.0, 3.0, 5.0]]])
    assert zero_empty_boxes(boxes, torch.ones(1, 2)).tolist() == [[1.0, 0.0]]
