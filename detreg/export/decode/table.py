"""The decoder of each kind of head, by the name that a template declares (`Template.decoder`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from detreg.export.decode import one_stage, two_stage, yolox
from detreg.export.decode.selection import DecodedBoxes
from detreg.templates.template import DecoderName

if TYPE_CHECKING:
    from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
    from mmengine.config import ConfigDict


DecodeFunction = Callable[[nn.Module, tuple[Tensor, ...], Tensor, bool], DecodedBoxes]
"""From a network, its feature maps, the (height, width) of the input and whether all inputs have
that size to the detections, best first."""

SelectionConfigs = Callable[[nn.Module], "list[ConfigDict]"]
"""From a network to the configurations of its last selection, which may be the same object.

The export reads the first, which is the network's own; MMDetection reads the head's."""


@dataclass(frozen=True)
class HeadDecoder:
    """What the export has to know about a kind of head.

    `max_nms_candidates` is the most boxes that enter NMS in the exported graph; None lets all of
    them enter, as MMDetection does.
    """

    decode: DecodeFunction
    get_selection_configs: SelectionConfigs
    max_nms_candidates: int | None = None


def _get_one_stage_configs(network: "SingleStageDetector") -> "list[ConfigDict]":
    return [network.test_cfg, network.bbox_head.test_cfg]


def _get_two_stage_configs(network: "TwoStageDetector") -> "list[ConfigDict]":
    return [network.test_cfg.rcnn, network.roi_head.test_cfg]


DECODERS: Mapping[DecoderName, HeadDecoder] = {
    "yolox": HeadDecoder(yolox.decode_yolox, _get_one_stage_configs, yolox.NMS_CANDIDATES),
    "one_stage": HeadDecoder(one_stage.decode_one_stage, _get_one_stage_configs),
    "two_stage": HeadDecoder(
        two_stage.decode_two_stage, _get_two_stage_configs, two_stage.NMS_CANDIDATES
    ),
}
