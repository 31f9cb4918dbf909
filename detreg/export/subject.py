"""A trained network, and second looks at the same images with it."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.export import decode, graph
from detreg.export.ties import Selection
from detreg.inference.card import Card
from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.inference.detector import Detector
from detreg.templates.input_spec import InputSpec

Found = Mapping[int, Detections]
"""Detections by image id."""


@dataclass(frozen=True)
class Subject:
    """A trained network, and what it takes to look at the same images with it once more.

    `input` and `card` are those of the export; `predict` runs MMDetection's own prediction on the
    images as the network is configured then, and leaves no detection out.
    """

    network: Any
    input: InputSpec
    card: Card
    predict: Callable[[], Found]

    @property
    def selection(self) -> Selection:
        """How the network selects its detections, read from its configuration."""
        config = selection_configs(self.network)[0]
        entrants = None
        if _has_two_stages(self.network):
            entrants = decode.PROPOSAL_CANDIDATES
        elif type(self.network.bbox_head).__name__ == "YOLOXHead":
            entrants = decode.CANDIDATES
        return Selection(
            iou_threshold=float(config.nms.iou_threshold),
            limit=min(int(config.get("max_per_img", MAX_DETECTIONS)), MAX_DETECTIONS),
            threshold=float(config.score_thr),
            entrants=entrants,
        )

    def export_and_predict(self, truth: GroundTruth) -> Found:
        """Export the network as it is configured now to a temporary file, and use that file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "again.onnx"
            detector = Detector.load(graph.export(self.network, self.input, self.card, path))
            return predict_split(detector, truth)

    def predict_candidates(self, above: float) -> Found:
        """Let MMDetection tell every candidate over a score, without NMS and without a limit."""
        nms = selection_configs(self.network)[0].nms.copy()
        nms.iou_threshold = 1.0
        no_limit = int(np.iinfo(np.int32).max)
        with change_selection(self.network, score_thr=above, nms=nms, max_per_img=no_limit):
            return self.predict()


@contextmanager
def change_selection(network: Any, **values: Any) -> Iterator[None]:
    """Change how a detector selects its detections, and change it back at the end.

    `values` are of the keys that its configuration has (`score_thr`, `nms`, `max_per_img`); those
    that it has not are left out. Two stages have them under `rcnn`; proposals stay as they are.
    """
    configs = selection_configs(network)
    before = [{name: config[name] for name in values if name in config} for config in configs]
    try:
        for config, own in zip(configs, before, strict=True):
            config.update({name: values[name] for name in own})
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config.update(own)


def _has_two_stages(network: Any) -> bool:
    return hasattr(network, "roi_head")


def selection_configs(network: Any) -> list[Any]:
    """Find the configurations of the last selection, which may be one and the same.

    The export reads the detector's, MMDetection its head's.
    """
    if _has_two_stages(network):
        return [network.test_cfg.rcnn, network.roi_head.test_cfg]
    return [network.test_cfg, network.bbox_head.test_cfg]
