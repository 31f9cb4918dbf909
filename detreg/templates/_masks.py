"""The mask branch of the templates that have `masks`: a small FCN on each box (arXiv:1703.06870).

Each box is pooled from the map of the feature pyramid that fits its size, and four convolutions
and a doubling of the grid give each class a mask of 28 x 28 cells over the box. Two stages train it
on their proposals; single-stage templates on their own detections of a training image beside its
labeled boxes, and run it on what survives NMS (RetinaMask, arXiv:1901.03353).
"""

from detreg.templates.config import Config
from detreg.templates.template import ClassLayer

MASK_LAYER = ClassLayer(r"roi_head\.mask_head\.conv_logits\.(weight|bias)")

_POSITIVES = 16
"""The most boxes of a training image that a single-stage template learns masks from.

More would mostly lie on the same objects, and each costs as much as 3,000 pixels of the smallest
network."""


def add_to_two_stages(roi_head: Config, num_classes: int) -> Config:
    """Return the RoI head of the packaged Mask R-CNN with masks of `num_classes` classes."""
    return roi_head | {
        "type": "MaskRoIHead",
        "mask_head": _build_head(roi_head["mask_head"], num_classes),
    }


def add_to_one_stage(model: Config, num_classes: int) -> Config:
    """Return a RetinaNet with a mask branch on its maps of a stride of 8, 16 and 32."""
    channels = model["neck"]["out_channels"]
    mask_head = {"num_convs": 4, "in_channels": channels, "conv_out_channels": 256}
    # Boxes up to 224 pixels go to the first map, as in the published pyramid from a stride of 4 on.
    roi_extractor = {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": 14, "sampling_ratio": 0},
        "out_channels": channels,
        "featmap_strides": [8, 16, 32],
        "finest_scale": 112,
    }
    assigner = {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.5,
        "match_low_quality": False,
        "ignore_iof_thr": -1,
    }
    sampler = {
        "type": "RandomSampler",
        "num": _POSITIVES,
        "pos_fraction": 1.0,
        "neg_pos_ub": 0,
        "add_gt_as_proposals": True,
    }
    roi_head = {
        "type": "MaskOnlyRoIHead",
        "mask_roi_extractor": roi_extractor,
        "mask_head": _build_head(mask_head, num_classes),
        "train_cfg": {"assigner": assigner, "sampler": sampler},
        "test_cfg": {},
    }
    return model | {"type": "MaskRetinaNet", "roi_head": roi_head}


def _build_head(published: Config, num_classes: int) -> Config:
    loss = {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0}
    return published | {"type": "MaskHead", "num_classes": num_classes, "loss_mask": loss}
