"""Features of regions, pooled from the maps of a pyramid."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.ops import roi_align

if TYPE_CHECKING:
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor


def make_regions(boxes: Tensor, num_images: int, num_boxes: int) -> Tensor:
    """Return boxes (n, k, 4) as regions (n * k, 5): the position of the image, then the box.

    n and k are given, and not read from the boxes: in a graph, sizes of what depends on the content
    of images are known as bounds only (`detreg.inference.onnx_graph`).
    """
    image_index = torch.arange(num_images, device=boxes.device).view(-1, 1, 1)
    image_index = image_index.expand(-1, num_boxes, 1).to(boxes.dtype)
    # roi_align takes the batch index as the first of five numbers.
    return torch.cat((image_index, boxes), dim=2).reshape(-1, 5)


def pool_regions(
    extractor: "SingleRoIExtractor", maps: tuple[Tensor, ...], regions: Tensor
) -> Tensor:
    """Return features (k, channels, side, side) of regions (k, 5), as SingleRoIExtractor does.

    Each region is pooled from the level that fits its size.
    """
    num_levels = len(extractor.roi_layers)
    levels = extractor.map_roi_levels(regions, num_levels)
    positions = [(levels == level).nonzero().squeeze(1) for level in range(num_levels)]
    pooled = []
    # The last maps may have no layer of their own: boxes alone use them.
    for feature_map, layer, own in zip(maps, extractor.roi_layers, positions, strict=False):
        own_features = roi_align(
            feature_map,
            regions[own],
            layer.output_size,
            layer.spatial_scale,
            layer.sampling_ratio,
            layer.aligned,
        )
        pooled.append(own_features)

    # The features are grouped by level: put them back in the order of the regions.
    order = torch.cat(positions)
    features = torch.cat(pooled)
    return torch.zeros_like(features).index_put((order,), features)
