"""Anchors of a feature map, and boxes from anchors and the head's deltas."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmdet.models.dense_heads import AnchorHead
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

_MAX_RATIO = abs(math.log(16 / 1000))
"""The most that the logarithm of a side changes: `wh_ratio_clip` of DeltaXYWHBBoxCoder."""


def make_cell_corners(feature_map: Tensor, stride: tuple[int, int], has_fixed_size: bool) -> Tensor:
    """Return the top left corners (height * width, 2) of a map's cells, row by row.

    They are x and y in pixels of the input. With `has_fixed_size` they become constants of the
    graph, else the graph computes them from the size of the map.
    """
    height, width = feature_map.shape[-2:]
    if has_fixed_size:
        height, width = int(height), int(width)

    device = feature_map.device
    y, x = torch.meshgrid(
        torch.arange(height, device=device) * float(stride[1]),
        torch.arange(width, device=device) * float(stride[0]),
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1).reshape(-1, 2).float()


def make_anchors(
    head: "AnchorHead", feature_map: Tensor, level: int, has_fixed_size: bool
) -> Tensor:
    """Return all anchors (height * width * anchors, 4) of a level, x1 y1 x2 y2."""
    generator = head.prior_generator
    corners = make_cell_corners(feature_map, generator.strides[level], has_fixed_size)
    shifts = corners.repeat(1, 2)
    base_anchors = generator.base_anchors[level].to(shifts)
    return (shifts.unsqueeze(1) + base_anchors.unsqueeze(0)).reshape(-1, 4)


def decode_boxes(
    coder: "DeltaXYWHBBoxCoder", priors: Tensor, deltas: Tensor, input_size: Tensor
) -> Tensor:
    """Return boxes (n, p, 4), as DeltaXYWHBBoxCoder.decode does, clipped to the input.

    `priors` are anchors or proposals (n, p, 4), `deltas` the head's corrections of that shape,
    `input_size` the (height, width) of the input.
    """
    # The head predicts normalized deltas.
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    center = (priors[..., :2] + priors[..., 2:]) * 0.5
    extent = priors[..., 2:] - priors[..., :2]

    shift = extent * deltas[..., :2]
    growth = deltas[..., 2:]
    # YOLOF alone limits how far a center moves, and then not how small a box may become.
    if coder.add_ctr_clamp:
        shift = shift.clamp(-coder.ctr_clamp, coder.ctr_clamp)
        growth = growth.clamp(max=_MAX_RATIO)
    else:
        growth = growth.clamp(-_MAX_RATIO, _MAX_RATIO)

    center = center + shift
    half = extent * growth.exp() * 0.5
    boxes = torch.cat((center - half, center + half), dim=-1)

    # The input's size is a tensor: where sizes vary the graph reads it from each input.
    bottom_right = input_size.flip(0).to(priors).repeat(2)
    return torch.minimum(boxes.clamp(min=0), bottom_right)
