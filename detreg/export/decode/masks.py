"""Masks of detections, after NMS."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from detreg.export.decode.regions import make_regions, pool_regions
from detreg.export.decode.selection import DecodedBoxes
from detreg.inference.outputs import MASK_SIDE

if TYPE_CHECKING:
    from detreg.training.masks import MaskHead, MaskRoIHead

_CELLS = MASK_SIDE * MASK_SIDE


class DecodedMasks(NamedTuple):
    """What `DecodedBoxes` holds, and `masks` (n, k, 28, 28) of the detections."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


def decode_masks(
    roi_head: "MaskRoIHead", maps: tuple[Tensor, ...], detections: DecodedBoxes
) -> DecodedMasks:
    """Return detections with the masks that MaskRoIHead.predict_mask gives them.

    They are computed for rows with a score only: a graph has as many rows as there may be
    detections, and images show few objects. The others are 0.
    """
    boxes, scores, labels = detections
    # NMS gives every image as many rows, so their number is a constant of the graph.
    num_images, num_rows = maps[0].shape[0], int(scores.shape[1])
    rows = (scores.flatten() > 0).nonzero().squeeze(1)
    regions = make_regions(boxes, num_images, num_rows)[rows]
    features = pool_regions(roi_head.mask_roi_extractor, maps, regions)
    masks = _compute_masks(roi_head.mask_head, features, labels.flatten()[rows])

    nothing = scores.new_zeros(num_images * num_rows, _CELLS)
    all_masks = nothing.index_put((rows,), masks)
    return DecodedMasks(
        boxes, scores, labels, all_masks.reshape(-1, num_rows, MASK_SIDE, MASK_SIDE)
    )


def _compute_masks(head: "MaskHead", features: Tensor, labels: Tensor) -> Tensor:
    """Return the masks (k, 784) of the classes `labels` (k,) from features (k, channels, 14, 14).

    Of the last layer, whose kernel is one cell, each row computes its own class only. So neither
    time nor memory depend on the number of classes.
    """
    for convolution in head.convs:
        features = convolution(features)
    features = head.relu(head.upsample(features)).reshape(-1, head.conv_out_channels, _CELLS)

    weights = head.conv_logits.weight.flatten(1)[labels].unsqueeze(1)
    biases = head.conv_logits.bias[labels].unsqueeze(1)
    logits = (weights @ features).squeeze(1) + biases
    return logits.sigmoid()
